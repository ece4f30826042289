"""What every language model promises, whatever is inside: decoding equals teacher forcing, padding leaves no trace."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.decoding.beam_search import BeamSearch
from slm_jax.decoding.decode import decode
from slm_jax.decoding.scoring import score_targets
from slm_jax.layers.attention import HeadNorm, ProjectionBias
from slm_jax.layers.dense import OutputHead
from slm_jax.layers.feed_forward import Activation, FeedForward
from slm_jax.layers.stack import Remat
from slm_jax.models.decoder_blocks import Norm, NormKind, ParallelBlock, SandwichBlock
from slm_jax.models.decoder_only import DecoderOnly, EmbeddingScale
from slm_jax.models.t5 import T5
from slm_jax.models.t5_blocks import PositionTables

SIZES = dict(vocab_size=29, width=16, ff_width=24, head_dim=4)
DECODER = SIZES | dict(num_layers=2, num_heads=4, embedding_stddev=1.0)
ENCODER_DECODER = SIZES | dict(num_encoder_layers=2, num_decoder_layers=2, num_heads=2, relative_buckets=8)
MODELS = {
    "t5": T5(**ENCODER_DECODER),
    "tables": T5(
        **ENCODER_DECODER,
        feed_forward=FeedForward,
        activation=Activation.RELU,
        position_tables=PositionTables.PER_LAYER,
        output_head=OutputHead.TIED,
    ),
    "parallel": DecoderOnly(
        **DECODER, num_kv_heads=1, block=ParallelBlock, norm=Norm(kind=NormKind.LAYER_WITHOUT_BIAS)
    ),
    "sandwich": DecoderOnly(
        **DECODER,
        num_kv_heads=2,
        block=SandwichBlock,
        norm=Norm(scale_offset=1.0),
        embedding_scale=EmbeddingScale.SQRT_WIDTH,
        head_norm=HeadNorm.RMS,
        projection_bias=ProjectionBias.QUERY_KEY_VALUE,
        logit_softcap=3.0,
    ),
}
LENGTHS = (6, 3, 0)
TARGETS = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """A model with random parameters, a batch, and its teacher-forced logits."""

    model: nn.Module
    variables: dict
    prefix: jax.Array
    mask: jax.Array
    targets: jax.Array
    logits: jax.Array


@functools.partial(jax.jit, static_argnums=0)
def forward(model, variables, prefix, mask, targets):
    return nn.apply(lambda module: module.logits(module(prefix, mask, targets)), model)(variables)


@functools.partial(jax.jit, static_argnums=0)
def prefill(model, variables, prefix, mask):
    return model.apply(variables, prefix, mask, max_decode_length=TARGETS, method="prefill")


@functools.partial(jax.jit, static_argnums=0)
def step(model, variables, tokens, cache, index):
    return model.apply(variables, tokens, cache, index, method="step")


@pytest.fixture(scope="module", params=MODELS)
def case(request, random_variables):
    model = MODELS[request.param]
    prefix = jax.random.normal(jax.random.key(0), (len(LENGTHS), 6, 16))
    mask = jnp.arange(6) < jnp.array(LENGTHS)[:, None]
    targets = jax.random.randint(jax.random.key(1), (len(LENGTHS), TARGETS), 0, 29)
    variables = random_variables(model, (prefix, mask, targets))
    return Case(model, variables, prefix, mask, targets, forward(model, variables, prefix, mask, targets))


def test_logits_are_finite_and_depend_on_the_prefix(case):
    assert np.all(np.isfinite(case.logits))
    other = forward(case.model, case.variables, case.prefix.at[:, 0, 0].add(1.0), case.mask, case.targets)
    changed = np.abs(other - case.logits).max(axis=(1, 2)) > 1e-3
    np.testing.assert_array_equal(changed, np.array(LENGTHS) > 0)


def test_targets_see_only_their_past(case):
    other = forward(case.model, case.variables, case.prefix, case.mask, case.targets.at[:, 2].add(1) % 29)
    np.testing.assert_allclose(other[:, :2], case.logits[:, :2], atol=1e-5)
    assert np.all(np.abs(other - case.logits)[:, 2:].max(axis=-1) > 1e-3)


def test_steps_equal_teacher_forcing(case):
    cache = prefill(case.model, case.variables, case.prefix, case.mask)
    for index in range(TARGETS):
        logits, cache = step(case.model, case.variables, case.targets[:, index], cache, jnp.asarray(index))
        np.testing.assert_allclose(logits, case.logits[:, index], atol=1e-4)


def test_a_reordered_cache_continues_the_other_example(case):
    order = jnp.array([1, 1, 0])
    cache = prefill(case.model, case.variables, case.prefix, case.mask)
    _, cache = step(case.model, case.variables, case.targets[:, 0], cache, jnp.asarray(0))
    logits, _ = step(case.model, case.variables, case.targets[order, 1], cache.take(order), jnp.asarray(1))
    np.testing.assert_allclose(logits, case.logits[order, 1], atol=1e-4)


def test_garbage_in_padding_changes_nothing(case):
    garbage = jnp.where(case.mask[..., None], case.prefix, jnp.nan)
    wider = jnp.pad(garbage, ((0, 0), (0, 3), (0, 0)), constant_values=1e3)
    wider_mask = jnp.pad(case.mask, ((0, 0), (0, 3)))
    output = forward(case.model, case.variables, wider, wider_mask, case.targets)
    np.testing.assert_allclose(output, case.logits, atol=1e-4)


def test_beam_search_ignores_padding_and_batch_and_scores_like_teacher_forcing(case):
    @jax.jit
    def search(prefix, mask):
        cache = prefill(case.model, case.variables, prefix, mask)
        feed = functools.partial(case.model.apply, case.variables, method="step")
        method = BeamSearch(num_beams=2)
        return decode(feed, cache, batch_size=len(prefix), method=method, max_length=TARGETS)

    decoded = search(case.prefix, case.mask)
    wider = jnp.pad(case.prefix, ((0, 0), (0, 2), (0, 0)), constant_values=9.0)
    padded = search(wider, jnp.pad(case.mask, ((0, 0), (0, 2))))
    np.testing.assert_array_equal(padded.tokens, decoded.tokens)
    np.testing.assert_allclose(padded.scores, decoded.scores, atol=1e-4)
    for example in range(len(LENGTHS)):
        alone = search(case.prefix[example : example + 1], case.mask[example : example + 1])
        np.testing.assert_array_equal(alone.tokens[0], decoded.tokens[example])
        np.testing.assert_allclose(alone.scores[0], decoded.scores[example], atol=1e-4)

    inputs = jnp.pad(decoded.tokens, ((0, 0), (1, 0)))[:, :-1]
    hidden = case.model.apply(case.variables, case.prefix, case.mask, inputs)
    weights = (jnp.arange(TARGETS) < decoded.lengths[:, None]).astype(jnp.float32)
    head = functools.partial(case.model.apply, case.variables, method="logits")
    scores = score_targets(head, hidden, decoded.tokens, weights=weights)
    np.testing.assert_allclose(scores, decoded.scores, atol=1e-4)


def test_batch_composition_changes_nothing(case):
    for example in range(len(LENGTHS)):
        one = slice(example, example + 1)
        alone = forward(case.model, case.variables, case.prefix[one], case.mask[one], case.targets[one])
        np.testing.assert_allclose(alone[0], case.logits[example], atol=1e-4)


def test_scanned_equals_unrolled(case):
    model = case.model.clone(scan_layers=False)
    variables = {"params": trees.unstack_layers(case.variables["params"])}
    expected = jax.eval_shape(model.init, jax.random.key(0), case.prefix, case.mask, case.targets)
    assert jax.tree.structure(nn.unbox(expected)) == jax.tree.structure(variables)
    output = forward(model, variables, case.prefix, case.mask, case.targets)
    np.testing.assert_allclose(output, case.logits, atol=1e-4)
    cache = prefill(model, variables, case.prefix, case.mask)
    logits, _ = step(model, variables, case.targets[:, 0], cache, jnp.asarray(0))
    np.testing.assert_allclose(logits, case.logits[:, 0], atol=1e-4)


def test_remat_reaches_the_layers_and_changes_no_output(case):
    inputs = (case.prefix, case.mask, case.targets)
    model = case.model.clone(remat=Remat.FULL)
    np.testing.assert_allclose(forward(model, case.variables, *inputs), case.logits, atol=1e-5)
    for module, expected in ((case.model, False), (model, True)):
        assert ("remat" in str(jax.make_jaxpr(forward, static_argnums=0)(module, case.variables, *inputs))) is expected


def test_dropout_is_on_only_in_training(case):
    model = case.model.clone(dropout_rate=0.5)
    inputs = (case.prefix, case.mask, case.targets)
    np.testing.assert_allclose(forward(model, case.variables, *inputs), case.logits, atol=1e-5)

    @jax.jit
    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(case.variables, *inputs, deterministic=False, rngs=rngs)

    assert np.abs(train(0) - train(1)).max() > 1e-3


def test_dtype_is_that_of_the_computation_and_logits_stay_float32(case):
    # Halved parameters: at full size attention is so sharp that rounding the weights alone moves logits by 0.2.
    variables = jax.tree.map(lambda x: x / 2, case.variables)
    model = case.model.clone(dtype=jnp.bfloat16)
    cache = prefill(model, variables, case.prefix, case.mask)
    assert {leaf.dtype for leaf in jax.tree.leaves(cache.layers)} == {jnp.dtype(jnp.bfloat16)}
    logits, _ = step(model, variables, case.targets[:, 0], cache, jnp.asarray(0))
    assert logits.dtype == jnp.float32
    expected = forward(case.model, variables, case.prefix, case.mask, case.targets)[:, 0]
    np.testing.assert_allclose(logits, expected, atol=0.1)
