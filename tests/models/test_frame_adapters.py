"""Adapters that may make fewer vectors than frames: what each vector hears, lengths, invariance, every field."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.models.frame_adapters import LinearAdapter, StackedMLPAdapter, StridedConvAdapter, strided_windows
from slm_jax.models.interfaces import Adapter, EncoderOutput
from slm_jax.models.window_qformer import WindowQFormerAdapter
from slm_jax.training.partitioning import RULES

SIZE, LENGTHS = 7, (7, 4, 1, 0, 7, 6, 3, 2)
CONFIGS = {
    LinearAdapter: dict(features=12),
    StackedMLPAdapter: dict(features=12, stack=3, hidden=16),
    StridedConvAdapter: dict(features=12, channels=16),
    WindowQFormerAdapter: dict(
        features=12, window=3, num_queries=2, num_layers=2, num_heads=2, head_dim=4, ff_width=16
    ),
}
CHANGES = {
    LinearAdapter: dict(features=8, output_scale=2.0, dtype=jnp.bfloat16),
    StackedMLPAdapter: dict(features=8, stack=2, hidden=8, activation="gelu", output_scale=2.0, dtype=jnp.bfloat16),
    StridedConvAdapter: dict(
        features=8,
        num_layers=1,
        stride=3,
        kernel_size=4,
        channels=8,
        activation="relu",
        output_scale=2.0,
        dtype=jnp.bfloat16,
    ),
    WindowQFormerAdapter: dict(
        features=8,
        window=4,
        num_queries=1,
        num_layers=1,
        num_heads=4,
        head_dim=8,
        ff_width=8,
        output_scale=2.0,
        scan_layers=False,
        dtype=jnp.bfloat16,
    ),
}
# A row a vector that comes out, a column a frame.
HEARS = {
    LinearAdapter: "1000000 0100000 0010000 0001000 0000100 0000010 0000001",
    StackedMLPAdapter: "1110000 0001110 0000001",
    StridedConvAdapter: "1111111 0000111",
    WindowQFormerAdapter: "1110000 1110000 0001110 0001110 0000001 0000001",
}


@jax.tree_util.Partial
def no_tokens(tokens):
    """The `embed` of an adapter that does not use it."""
    raise AssertionError("not called")


@dataclasses.dataclass(frozen=True)
class Case:
    """An adapter, its variables at random, and the adapter compiled."""

    adapter: Adapter
    variables: dict[str, Any]
    run: Callable[[EncoderOutput], EncoderOutput]

    @property
    def kind(self) -> type:
        return type(self.adapter)


@pytest.fixture(scope="module")
def frames():
    embeddings = jax.random.normal(jax.random.key(0), (len(LENGTHS), SIZE, 8))
    mask = jnp.arange(SIZE) < jnp.array(LENGTHS)[:, None]
    return EncoderOutput(jnp.where(mask[..., None], embeddings, 0), mask, dropped=jnp.arange(len(LENGTHS)))


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda kind: kind.__name__)
def case(request, frames, random_variables):
    adapter = request.param(**CONFIGS[request.param])
    variables = random_variables(adapter, (frames, no_tokens))
    apply = jax.jit(adapter.apply)
    return Case(adapter, variables, lambda frames: apply(variables, frames, no_tokens))


@pytest.fixture(scope="module")
def output(case, frames):
    return case.run(frames)


def test_strided_windows_drawing():
    frames = jnp.arange(1.0, 6.0)[None, :, None]
    drawn = [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 0, 0]]
    assert strided_windows(frames, size=4, stride=2)[0, ..., 0].tolist() == drawn
    assert strided_windows(frames, size=3, stride=2)[0, ..., 0].tolist() == [[1, 2, 3], [3, 4, 5], [5, 0, 0]]
    assert strided_windows(frames, size=2, stride=2)[0, ..., 0].tolist() == [[1, 2], [3, 4], [5, 0]]
    assert strided_windows(frames[:, :4], size=4, stride=2)[0, ..., 0].tolist() == [[0, 1, 2, 3], [2, 3, 4, 0]]


def test_every_vector_hears_its_frames(case, frames):
    """Row 0 of the batch is an utterance, row 1 + s the same with another frame s."""
    utterance = jnp.broadcast_to(frames.embeddings[:1], frames.embeddings.shape)
    other = utterance.at[1 + jnp.arange(SIZE), jnp.arange(SIZE)].add(1.0)
    output = case.run(frames._replace(embeddings=other, mask=jnp.ones_like(frames.mask))).embeddings
    hears = np.abs(output[1:] - output[:1]).max(axis=-1).T > 1e-4
    assert " ".join("".join(str(int(heard)) for heard in row) for row in hears) == HEARS[case.kind]


def test_lengths_masks_and_zeros(case, frames, output):
    lengths = [case.adapter.output_length(length) for length in LENGTHS]
    assert output.embeddings.shape == (len(LENGTHS), case.adapter.output_length(SIZE), 12)
    np.testing.assert_array_equal(output.mask, np.arange(output.mask.shape[1]) < np.array(lengths)[:, None])
    assert not np.any(np.where(output.mask[..., None], 0, output.embeddings))
    assert np.all(np.any(output.embeddings, axis=-1) == output.mask)
    np.testing.assert_array_equal(output.dropped, frames.dropped)
    assert output.ctc_logits is None


@pytest.mark.parametrize(
    ("adapter", "lengths"),
    [
        (LinearAdapter(features=1), {0: 0, 1: 1, 9: 9}),
        (StackedMLPAdapter(features=1, stack=4), {0: 0, 1: 1, 4: 1, 5: 2, 9: 3}),
        (StridedConvAdapter(features=1, num_layers=1, stride=3), {0: 0, 1: 1, 3: 1, 4: 2, 9: 3, 10: 4}),
        (StridedConvAdapter(features=1, num_layers=2, stride=3), {1: 1, 9: 1, 10: 2, 28: 4}),
        (WindowQFormerAdapter(features=1, window=17), {0: 0, 17: 1, 18: 2, 1500: 89}),
        (WindowQFormerAdapter(features=1, window=4, num_queries=3), {0: 0, 1: 3, 4: 3, 5: 6}),
    ],
    ids=str,
)
def test_output_length(adapter, lengths):
    assert {length: adapter.output_length(length) for length in lengths} == lengths


def test_padding_garbage_changes_nothing(case, frames, output):
    garbage = jnp.where(frames.mask[..., None], frames.embeddings, 1e3)
    other = case.run(frames._replace(embeddings=garbage))
    np.testing.assert_allclose(other.embeddings, output.embeddings, atol=1e-5)


@pytest.mark.parametrize("row", [1, 5])
def test_alone_equals_in_a_batch_whatever_the_padding(case, frames, output, row):
    length = LENGTHS[row]
    alone = case.run(EncoderOutput(frames.embeddings[row : row + 1, :length], frames.mask[row : row + 1, :length]))
    count = case.adapter.output_length(length)
    assert alone.embeddings.shape[1] == count and alone.mask.all()
    np.testing.assert_allclose(alone.embeddings[0], output.embeddings[row, :count], atol=1e-5)


def test_gradients_are_finite_with_padding(case, frames):
    def loss(variables):
        return jnp.sum(case.adapter.apply(variables, frames, no_tokens).embeddings[..., 0])

    gradients = jax.jit(jax.grad(loss))(case.variables)
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_every_axis_of_a_parameter_has_a_name(case, frames):
    boxed = jax.eval_shape(case.adapter.init, jax.random.key(0), frames, no_tokens)["params"]
    shapes = trees.flatten(nn.unbox(boxed))
    for path, spec in trees.flatten(nn.get_partition_spec(boxed)).items():
        assert len(spec) == len(set(spec)) == shapes[path].ndim, path
        assert set(spec) <= set(dict(RULES)), path


def changed(case, frames, shapes_of, field):
    """Whether the output, its shape or a parameter's is another when the field is."""
    adapter = case.kind(**(CONFIGS[case.kind] | {field: CHANGES[case.kind][field]}))
    shapes = {path: leaf.shape for path, leaf in trees.flatten(case.variables["params"]).items()}
    if shapes_of(adapter, (frames, no_tokens)) != shapes:
        return True
    before, after = case.run(frames), adapter.apply(case.variables, frames, no_tokens)
    if before.embeddings.shape != after.embeddings.shape or before.embeddings.dtype != after.embeddings.dtype:
        return True
    return np.abs(before.embeddings - after.embeddings).max() > 1e-3


def test_every_field_matters(case, frames, shapes_of):
    """`dropout_rate` and `remat` have tests of their own."""
    fields = {field.name for field in dataclasses.fields(case.kind)} - {"parent", "name", "dropout_rate", "remat"}
    assert fields == set(CHANGES[case.kind])
    unused = [field for field in sorted(fields) if not changed(case, frames, shapes_of, field)]
    assert not unused


@pytest.mark.parametrize("case", [WindowQFormerAdapter], indirect=True)
def test_scanned_equals_unrolled(case, frames, output):
    unrolled = WindowQFormerAdapter(**CONFIGS[WindowQFormerAdapter], scan_layers=False, remat="full")
    params = {"params": trees.unstack_layers(case.variables["params"])}
    np.testing.assert_allclose(unrolled.apply(params, frames, no_tokens).embeddings, output.embeddings, atol=1e-5)


@pytest.mark.parametrize("case", [WindowQFormerAdapter], indirect=True)
def test_dropout_acts_in_training_only(case, frames, output):
    adapter = WindowQFormerAdapter(**CONFIGS[WindowQFormerAdapter], dropout_rate=0.5)
    quiet = adapter.apply(case.variables, frames, no_tokens).embeddings
    rngs = {"dropout": jax.random.key(2)}
    noisy = adapter.apply(case.variables, frames, no_tokens, deterministic=False, rngs=rngs).embeddings
    np.testing.assert_allclose(quiet, output.embeddings, atol=1e-5)
    assert np.abs(noisy - quiet).max() > 1e-2


@pytest.mark.parametrize("case", [WindowQFormerAdapter], indirect=True)
def test_a_query_knows_the_order_of_its_frames(case, frames, output):
    swapped = case.run(frames._replace(embeddings=frames.embeddings[:, jnp.array([1, 0, 2, 3, 4, 5, 6])]))
    assert np.abs(swapped.embeddings - output.embeddings)[0, :2].max() > 1e-3


COUNTS = {
    LinearAdapter: ("features",),
    StackedMLPAdapter: ("features", "stack", "hidden"),
    StridedConvAdapter: ("features", "num_layers", "stride", "kernel_size", "channels"),
    WindowQFormerAdapter: (
        "features",
        "window",
        "num_queries",
        "num_layers",
        "num_heads",
        "head_dim",
        "ff_width",
    ),
}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        *((kind, {name: 0}, f"{name} must be at least 1, got 0") for kind in COUNTS for name in COUNTS[kind]),
        (StridedConvAdapter, dict(kernel_size=1), "kernel_size must be at least the stride 2, got 1"),
        (StridedConvAdapter, dict(activation="tanh"), "activation is 'tanh', choose one of 'gelu'"),
        (StackedMLPAdapter, dict(activation="tanh"), "activation is 'tanh', choose one of 'gelu'"),
        (WindowQFormerAdapter, dict(remat="all"), "remat is 'all', choose one of 'none'"),
    ],
)
def test_bad_fields_give_one_clear_error(kind, change, message):
    with pytest.raises(ValueError, match=f"{kind.__name__}.{message}"):
        kind(**(dict(features=4) | change))
