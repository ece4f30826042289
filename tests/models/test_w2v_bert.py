"""w2v-BERT: attention against plain loops, invariance to padding and batch, lengths, every field."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.audio.kaldi_log_mel import KaldiLogMel
from slm_jax.layers.stack import Remat
from slm_jax.models.interfaces import SpeechEncoder
from slm_jax.models.w2v_bert import ClippedDistanceAttention, LengthAdapter, W2vBert

ADAPTER = dict(num_layers=2, width=6, num_heads=2, ff_width=10)
CONFIG = dict(
    num_layers=2,
    width=8,
    num_heads=2,
    ff_width=12,
    conv_kernel=5,
    max_left=3,
    max_right=2,
    ctc_vocab_size=6,
    ctc_blank=2,
    front_end=KaldiLogMel(num_mels=8),
)
WITH_ADAPTER = CONFIG | dict(length_adapter=LengthAdapter(**ADAPTER))
LENGTHS = (4800, 3290, 880, 0)


def run(encoder, variables, samples, lengths):
    return jax.jit(encoder.apply)(variables, samples, lengths)


@pytest.fixture(scope="module")
def speech():
    return 0.1 * jax.random.normal(jax.random.key(0), (4, 4800)), jnp.array(LENGTHS)


@pytest.fixture(scope="module")
def variables(speech, random_variables):
    return random_variables(W2vBert(**WITH_ADAPTER), speech)


@pytest.fixture(scope="module")
def output(speech, variables):
    return run(W2vBert(**WITH_ADAPTER), variables, *speech)


def naive_attention(params, x, mask, *, max_left, max_right):
    """Scores by content and by clipped distance, one pair of frames and one head at a time."""
    query, key, value = (
        np.einsum("sd,dhk->shk", x, params[name]["kernel"]) + params[name]["bias"] for name in ("query", "key", "value")
    )
    mixed, (size, heads, head_dim) = np.zeros_like(query), query.shape
    for h in range(heads):
        for i in range(size):
            scores = np.full(size, -np.inf)
            for j in np.flatnonzero(mask):
                vector = params["distance"][min(max(j - i, -max_left), max_right) + max_left]
                scores[j] = query[i, h] @ (key[j, h] + vector) / np.sqrt(head_dim)
            weights = np.exp(scores - scores.max())
            mixed[i, h] = weights @ value[:, h] / weights.sum()
    return np.einsum("shk,hkd->sd", mixed, params["out"]["kernel"]) + params["out"]["bias"]


@pytest.mark.parametrize("limits", [dict(max_left=3, max_right=1), dict(max_left=9, max_right=7)])
def test_attention_equals_the_loops(limits, random_variables):
    attention = ClippedDistanceAttention(num_heads=2, **limits)
    x, mask = jax.random.normal(jax.random.key(1), (2, 6, 8)), jnp.arange(6) < jnp.array([[6], [4]])
    variables = random_variables(attention, (x, mask, None))
    attended = jax.jit(attention.apply)(variables, x, mask, None)
    params = jax.tree.map(np.asarray, variables["params"])
    for row in range(2):
        expected = naive_attention(params, np.asarray(x[row]), np.asarray(mask[row]), **limits)
        np.testing.assert_allclose(attended[row], expected, atol=1e-5)


def test_it_is_a_speech_encoder(speech, output):
    encoder = W2vBert(**WITH_ADAPTER)
    assert isinstance(encoder, SpeechEncoder)
    size = encoder.output_length(4800)
    assert output.embeddings.shape == (4, size, 6) and output.ctc_logits.shape == (4, size, 7)
    assert not np.any(output.embeddings[~output.mask])
    assert output.mask.sum(1).tolist() == [encoder.output_length(n) for n in LENGTHS] == [4, 3, 1, 0]


def test_garbage_in_the_padding_changes_nothing(speech, variables, output):
    samples, lengths = speech
    real = jnp.arange(6400) < lengths[:, None]
    garbage = jnp.where(real, jnp.pad(samples, ((0, 0), (0, 1600))), 1e3)
    longer = run(W2vBert(**WITH_ADAPTER), variables, garbage, lengths)
    size = output.mask.shape[1]
    np.testing.assert_allclose(longer.embeddings[:, :size], output.embeddings, atol=1e-5)
    np.testing.assert_allclose(longer.ctc_logits[:, :size][output.mask], output.ctc_logits[output.mask], atol=1e-5)
    assert not np.any(longer.embeddings[:, size:]) and not np.any(longer.mask[:, size:])


@pytest.mark.parametrize("row", range(3))
def test_a_batch_of_one_gives_the_same(row, speech, variables, output):
    length = LENGTHS[row]
    alone = run(W2vBert(**WITH_ADAPTER), variables, speech[0][row : row + 1, :length], jnp.array([length]))
    size = alone.mask.shape[1]
    assert alone.mask.all() and size == output.mask[row].sum()
    np.testing.assert_allclose(alone.embeddings[0], output.embeddings[row, :size], atol=1e-4)
    np.testing.assert_allclose(alone.ctc_logits[0], output.ctc_logits[row, :size], atol=1e-4)


@pytest.mark.parametrize("adapter", [None, {}, dict(num_layers=1, kernel_size=8, stride=8)])
def test_output_length_counts_the_real_frames(adapter):
    lengths = jnp.array([0, 100, 399, 400, 559, 560, 720, 879, 880, 1199, 1200, 1520, 1840, 2160, 3000, 4000])
    length_adapter = None if adapter is None else LengthAdapter(**(ADAPTER | adapter))
    encoder = W2vBert(**(CONFIG | dict(num_layers=1, length_adapter=length_adapter)))
    samples = jnp.zeros((len(lengths), 4000))
    shapes = nn.unbox(jax.eval_shape(encoder.init, jax.random.key(0), samples, lengths))
    mask = run(encoder, jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes), samples, lengths).mask
    assert mask.sum(1).tolist() == [encoder.output_length(n) for n in lengths.tolist()]
    assert mask.shape[1] == encoder.output_length(4000)


def test_the_last_frame_of_a_stride_never_sees_the_padding(random_variables):
    adapter, lengths = LengthAdapter(**(ADAPTER | dict(width=8))), (7, 6, 5, 1)
    x, mask = jax.random.normal(jax.random.key(0), (4, 7, 8)), jnp.arange(7) < jnp.array(lengths)[:, None]
    variables = random_variables(adapter, (x, mask))
    together, kept = adapter.apply(variables, x, mask)
    for row, length in enumerate(lengths):
        alone, real = adapter.apply(variables, x[row : row + 1, :length], jnp.ones((1, length), bool))
        assert real.all() and kept[row].sum() == real.shape[1] == adapter.output_length(length)
        np.testing.assert_allclose(together[row][kept[row]], alone[0], atol=1e-5)


def test_scanned_equals_unrolled(speech, variables, output):
    unrolled = W2vBert(**WITH_ADAPTER, scan_layers=False)
    params = {"params": trees.unstack_layers(variables["params"])}
    assert {"layers_0", "layers_1"} <= params["params"].keys()
    np.testing.assert_allclose(run(unrolled, params, *speech).embeddings, output.embeddings, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, trees.stack_layers(params["params"]), variables["params"])


def test_gradients_are_finite(speech, variables):
    def loss(variables):
        return jnp.sum(W2vBert(**WITH_ADAPTER, remat=Remat.FULL).apply(variables, *speech).embeddings ** 2)

    gradients = jax.jit(jax.grad(loss))(variables)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    "change",
    [
        dict(num_layers=1),
        dict(width=16),
        dict(num_heads=4),
        dict(ff_width=10),
        dict(conv_kernel=3),
        dict(max_left=4),
        dict(max_right=1),
        dict(max_left=2, max_right=3),
        dict(length_adapter=None),
        dict(front_end=KaldiLogMel(num_mels=9)),
        dict(dtype=jnp.bfloat16),
        *[
            dict(length_adapter=LengthAdapter(**(ADAPTER | change)))
            for change in (
                dict(num_layers=1),
                dict(width=8),
                dict(num_heads=3),
                dict(ff_width=9),
                dict(kernel_size=2),
                dict(stride=3),
            )
        ],
    ],
)
def test_every_field_matters(change, speech, variables, output, shapes_of):
    encoder = W2vBert(**(WITH_ADAPTER | change))
    before = {path: leaf.shape for path, leaf in trees.flatten(variables["params"]).items()}
    if shapes_of(encoder, speech) == before:
        after = run(encoder, variables, *speech).embeddings
        assert after.shape != output.embeddings.shape or np.abs(after - output.embeddings).max() > 1e-4


def test_the_blank_is_moved_behind_the_others(speech, variables, output):
    last = run(W2vBert(**(WITH_ADAPTER | dict(ctc_blank=None))), variables, *speech).ctc_logits
    np.testing.assert_allclose(output.ctc_logits, last[..., [0, 1, 3, 4, 5, 6, 2]], atol=1e-5)


def test_no_ctc_head(speech, variables, output):
    without = W2vBert(**(WITH_ADAPTER | dict(ctc_vocab_size=None)))
    params = {key: value for key, value in variables["params"].items() if key != "ctc_head"}
    frames = run(without, {"params": params}, *speech)
    assert frames.ctc_logits is None
    np.testing.assert_allclose(frames.embeddings, output.embeddings, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_heads=3), "W2vBert.width 8 is not a multiple of num_heads 3"),
        (dict(length_adapter=LengthAdapter(**(ADAPTER | dict(width=7)))), "LengthAdapter.width 7 is not a multiple"),
    ],
)
def test_bad_fields_give_one_clear_error(change, message, speech):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(W2vBert(**(WITH_ADAPTER | change)).init, jax.random.key(0), *speech)


def test_too_short_a_batch_is_an_error():
    with pytest.raises(ValueError, match="makes no frame of 559 samples"):
        jax.eval_shape(W2vBert(**CONFIG).init, jax.random.key(0), jnp.zeros((1, 559)), jnp.array([559]))
