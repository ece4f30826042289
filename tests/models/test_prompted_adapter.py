"""Texts around speech whose vectors are trained: where they stand, what they say at first, padding, bad texts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.models.frame_adapters import LinearAdapter
from slm_jax.models.interfaces import Adapter, EncoderOutput
from slm_jax.models.prompted_adapter import PromptedAdapter

WIDTH = 6
TABLE = np.random.default_rng(0).normal(size=(9, WIDTH)).astype(np.float32)
INNER = LinearAdapter(features=WIDTH)


def embed(tokens):
    return jnp.asarray(TABLE)[tokens]


@pytest.fixture(scope="module")
def frames():
    mask = jnp.array([[True] * 4, [True] * 2 + [False] * 2, [False] * 4])
    embeddings = jax.random.normal(jax.random.key(0), (3, 4, 5)) * mask[..., None]
    return EncoderOutput(embeddings, mask, dropped=jnp.array([0, 2, 1]))


@pytest.fixture(scope="module")
def variables(frames):
    return nn.unbox(PromptedAdapter(INNER, before=(3, 4), behind=(5,)).init(jax.random.key(1), frames, embed))


def apply(variables, frames, before=(3, 4), behind=(5,)):
    return PromptedAdapter(INNER, before=before, behind=behind).apply(variables, frames, embed)


def trained(variables, vectors):
    return {"params": variables["params"] | {"vectors": jnp.asarray(vectors)}}


def test_before_training_the_texts_are_what_they_say(variables, frames):
    output = apply(variables, frames)
    spoken = INNER.apply({"params": variables["params"]["adapter"]}, frames, embed).embeddings
    np.testing.assert_allclose(output.embeddings[0], [*TABLE[[3, 4]], *spoken[0], TABLE[5]], atol=1e-6)
    np.testing.assert_allclose(output.embeddings[1, :5], [*TABLE[[3, 4]], *spoken[1, :2], TABLE[5]], atol=1e-6)


def test_training_moves_each_token_of_the_texts(variables, frames):
    moved = np.arange(3 * WIDTH, dtype=np.float32).reshape(3, WIDTH)
    difference = apply(trained(variables, moved), frames).embeddings - apply(variables, frames).embeddings
    np.testing.assert_allclose(difference[0], [*moved[:2], *np.zeros((4, WIDTH)), moved[2]], atol=1e-5)
    np.testing.assert_allclose(difference[1, :5], [*moved[:2], *np.zeros((2, WIDTH)), moved[2]], atol=1e-5)


def test_the_vectors_have_a_gradient_where_the_texts_stand(variables, frames):
    def first(variables):
        return apply(variables, frames).embeddings[:, 0].sum()

    gradient = jax.grad(first)(variables)["params"]["vectors"]
    np.testing.assert_allclose(gradient, [[2.0] * WIDTH, [0.0] * WIDTH, [0.0] * WIDTH])  # of the two rows with speech


def test_a_row_without_speech_gets_no_text(variables, frames):
    output = apply(variables, frames)
    assert output.mask.sum(axis=1).tolist() == [7, 5, 0]
    assert not output.embeddings[2].any()
    assert not output.embeddings[1, 5:].any()


def test_padding_changes_nothing(variables, frames):
    short = EncoderOutput(frames.embeddings[1:, :2], frames.mask[1:, :2], dropped=frames.dropped[1:])
    whole, cut = apply(variables, frames), apply(variables, short)
    np.testing.assert_allclose(whole.embeddings[1:, :5], cut.embeddings, atol=1e-6)
    assert cut.mask.shape == (2, 5)


@pytest.mark.parametrize(("before", "behind"), [((3, 4, 5), ()), ((), (3, 4, 5))])
def test_one_text_may_be_empty(variables, frames, before, behind):
    output = apply(variables, frames, before=before, behind=behind)
    start = 0 if before else 4
    np.testing.assert_allclose(output.embeddings[0, start : start + 3], TABLE[[3, 4, 5]], atol=1e-6)


def test_lengths_and_what_was_dropped_are_told(variables, frames):
    adapter = PromptedAdapter(INNER, before=(3, 4), behind=(5,))
    assert adapter.output_length(4) == 7
    assert apply(variables, frames).dropped.tolist() == [0, 2, 1]
    assert isinstance(adapter, Adapter)


@pytest.mark.parametrize(("before", "behind"), [((), ()), ((3, 0), (4,)), ((), (-1,))])
def test_texts_that_say_nothing_are_refused(before, behind):
    with pytest.raises(ValueError, match=r"PromptedAdapter needs a text before or behind speech, with ids above 0"):
        PromptedAdapter(INNER, before=before, behind=behind)
