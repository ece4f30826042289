"""Adapters: padding and batch invariance, scanned against unrolled, every field; what CTC has heard."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.models.adapter import CTCPosteriorAdapter, TransformerAdapter
from slm_jax.models.frame_adapters import StackedMLPAdapter
from slm_jax.models.interfaces import EncoderOutput

TABLE = jax.random.normal(jax.random.key(7), (5, 4))
"""Vectors of five tokens."""
CONFIG = dict(features=12, num_layers=2, num_heads=2, head_dim=4, ff_width=16)


def embed(tokens):
    return TABLE[tokens]


@pytest.fixture(scope="module")
def inputs():
    frames = jax.random.normal(jax.random.key(0), (3, 6, 8))
    return EncoderOutput(frames, jnp.arange(6) < jnp.array([[6], [4], [1]]), dropped=jnp.array([0, 2, 1])), embed


@pytest.fixture(scope="module")
def variables(inputs):
    return nn.unbox(TransformerAdapter(**CONFIG).init(jax.random.key(1), *inputs))


def test_padding_and_batch_change_nothing(inputs, variables):
    (frames, mask, *_), _ = inputs
    adapter = TransformerAdapter(**CONFIG)
    output = adapter.apply(variables, *inputs).embeddings
    garbage = EncoderOutput(jnp.where(mask[..., None], frames, 1e3), mask)
    np.testing.assert_allclose(adapter.apply(variables, garbage, embed).embeddings, output, atol=1e-5)
    part = EncoderOutput(frames[1:2, :4], mask[1:2, :4])
    np.testing.assert_allclose(adapter.apply(variables, part, embed).embeddings[0], output[1, :4], atol=1e-5)
    assert not np.any(output[1, 4:])


def test_every_frame_becomes_one_vector(inputs, variables):
    frames, adapter = inputs[0], TransformerAdapter(**CONFIG)
    scored = frames._replace(ctc_logits=jnp.zeros((3, 6, 5)))
    output = adapter.apply(variables, scored, embed)
    np.testing.assert_array_equal(output.mask, frames.mask)
    assert output.embeddings.shape == (3, adapter.output_length(6), 12)
    assert output.dropped.tolist() == [0, 2, 1]
    assert output.ctc_logits is None


def test_scanned_equals_unrolled(inputs, variables):
    unrolled = TransformerAdapter(**CONFIG, scan_layers=False)
    params = {"params": trees.unstack_layers(variables["params"])}
    expected = TransformerAdapter(**CONFIG).apply(variables, *inputs).embeddings
    np.testing.assert_allclose(unrolled.apply(params, *inputs).embeddings, expected, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        dict(features=8),
        dict(num_layers=1),
        dict(num_heads=4),
        dict(head_dim=8),
        dict(ff_width=8),
        dict(output_scale=2.0),
    ],
)
def test_every_field_matters(inputs, variables, change):
    adapter = TransformerAdapter(**(CONFIG | change))
    output = adapter.apply(nn.unbox(adapter.init(jax.random.key(1), *inputs)), *inputs).embeddings
    before = TransformerAdapter(**CONFIG).apply(variables, *inputs).embeddings
    assert output.shape != before.shape or np.abs(output - before).max() > 1e-3


def test_dropout_acts_in_training_only(inputs, variables):
    adapter = TransformerAdapter(**CONFIG, dropout_rate=0.5)
    quiet = adapter.apply(variables, *inputs).embeddings
    noisy = adapter.apply(variables, *inputs, deterministic=False, rngs={"dropout": jax.random.key(2)}).embeddings
    np.testing.assert_allclose(quiet, TransformerAdapter(**CONFIG).apply(variables, *inputs).embeddings, atol=1e-6)
    assert np.abs(noisy - quiet).max() > 1e-2


class Echo(nn.Module):
    """An adapter that gives what it hears."""

    def output_length(self, num_frames):
        return num_frames

    def __call__(self, frames, embed, *, deterministic=True):
        return frames


def heard(posterior, mask=None, **fields):
    """What a CTCPosteriorAdapter hears; `posterior` has a last column for the blank."""
    logits = jnp.log(jnp.asarray(posterior, jnp.float32))
    mask = jnp.ones(logits.shape[:2], bool) if mask is None else mask
    frames = EncoderOutput(jnp.full((*logits.shape[:2], 3), jnp.nan), mask, ctc_logits=logits)
    return CTCPosteriorAdapter(adapter=Echo(), **fields).apply({}, frames, embed, method="heard")


def test_a_frame_becomes_the_vectors_of_what_ctc_heard():
    sure, torn, blank = [0, 1, 0, 0, 0, 0], [0.5, 0, 0.25, 0, 0, 0.25], [0.0, 0, 0, 0, 0.1, 0.9]
    expected = [TABLE[1], 0.5 * TABLE[0] + 0.25 * TABLE[2], 0.1 * TABLE[4]]
    np.testing.assert_allclose(heard([[sure, torn, blank]], num_tokens=2)[0], expected, atol=1e-6)
    only_the_best = [TABLE[1], 0.5 * TABLE[0], 0.1 * TABLE[4]]
    np.testing.assert_allclose(heard([[sure, torn, blank]], num_tokens=1)[0], only_the_best, atol=1e-6)


def test_a_low_temperature_leaves_more_to_the_likeliest_and_a_frame_as_long_as_it_is():
    torn, blank = [0.3, 0, 0.1, 0, 0, 0.6], [0.0, 0, 0, 0, 0.1, 0.9]
    expected = [0.4 * (0.9 * TABLE[0] + 0.1 * TABLE[2]), 0.1 * TABLE[4]]
    np.testing.assert_allclose(heard([[torn, blank]], num_tokens=2, temperature=0.5)[0], expected, atol=1e-6)


def test_a_temperature_is_above_zero():
    with pytest.raises(ValueError, match=r"temperature has to be above 0, not 0\.0"):
        CTCPosteriorAdapter(adapter=Echo(), temperature=0.0)


def test_padding_is_not_heard():
    posterior = jnp.full((1, 2, 6), 1 / 6)
    assert not np.any(heard(posterior, jnp.array([[True, False]]), num_tokens=5)[0, 1])


def test_to_what_is_heard_its_context_is_added():
    posterior = jax.nn.softmax(jax.random.normal(jax.random.key(1), (2, 3, 6)))
    mask = jnp.array([[True, True, True], [True, False, False]])
    frames = EncoderOutput(jnp.zeros((2, 3, 3)), mask, ctc_logits=jnp.log(posterior), dropped=jnp.array([0, 2]))
    adapter = CTCPosteriorAdapter(adapter=Echo(), num_tokens=5)
    output = adapter.apply({}, frames, embed)
    np.testing.assert_allclose(output.embeddings, 2 * heard(posterior, mask, num_tokens=5), atol=1e-5)
    assert output.mask is mask and output.dropped.tolist() == [0, 2] and output.ctc_logits is None
    assert adapter.output_length(7) == 7


def test_the_context_needs_a_vector_for_each_frame():
    frames = EncoderOutput(jnp.zeros((1, 6, 3)), jnp.ones((1, 6), bool), ctc_logits=jnp.zeros((1, 6, 6)))
    fewer = CTCPosteriorAdapter(adapter=StackedMLPAdapter(features=4, stack=3), num_tokens=2)
    with pytest.raises(ValueError, match="a vector of the language model's width for each frame"):
        fewer.init(jax.random.key(0), frames, embed)


def test_a_posterior_is_needed(inputs):
    with pytest.raises(ValueError, match="CTCPosteriorAdapter needs CTC scores"):
        CTCPosteriorAdapter(adapter=TransformerAdapter(**CONFIG)).init(jax.random.key(0), *inputs)
