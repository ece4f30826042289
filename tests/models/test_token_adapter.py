"""The adapter that writes the language model's tokens: its scores, what it passes on, padding, bad parts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.models.adapter import CTCPosteriorAdapter, TransformerAdapter
from slm_jax.models.frame_adapters import LinearAdapter, StackedMLPAdapter
from slm_jax.models.interfaces import EncoderOutput, HearingAdapter
from slm_jax.models.merges import Merges
from slm_jax.models.reducers import CTCRunMean
from slm_jax.models.token_adapter import CTCTokenAdapter, MergedTokenReading

WIDTH = 8
TABLE = np.random.default_rng(0).normal(size=(20, WIDTH)).astype(np.float32)


def embed(tokens):
    return jnp.asarray(TABLE)[tokens]


def build(**changes):
    parts = dict(
        hearing=TransformerAdapter(features=WIDTH, num_heads=2, head_dim=4, ff_width=8),
        reading=CTCPosteriorAdapter(adapter=LinearAdapter(features=WIDTH, output_scale=0.1), num_tokens=3),
        reducer=CTCRunMean(max_fraction=0.5),
        num_tokens=6,
    )
    return CTCTokenAdapter(**parts | changes)


@pytest.fixture(scope="module")
def frames():
    mask = jnp.array([[True] * 8, [True] * 5 + [False] * 3])
    embeddings = jax.random.normal(jax.random.key(0), (2, 8, 5)) * mask[..., None]
    return EncoderOutput(embeddings, mask, dropped=jnp.array([0, 2]))


@pytest.fixture(scope="module")
def variables(frames):
    return nn.unbox(build().init(jax.random.key(1), frames, embed))


def hear(variables, frames, **changes):
    return build(**changes).apply(variables, frames, embed, method="hear")


def test_a_score_is_the_product_with_the_tokens_vector_made_as_long_as_the_others(variables, frames):
    heard = hear(variables, frames)
    assert heard.ctc_logits.shape == (2, 8, 7)
    rows = TABLE[:6] / np.sqrt((TABLE[:6] ** 2).mean(axis=1, keepdims=True))
    expected = heard.embeddings @ rows.T / np.sqrt(WIDTH)
    np.testing.assert_allclose(heard.ctc_logits[..., :6], expected, atol=1e-4)
    blank = variables["params"]["blank"]
    np.testing.assert_allclose(heard.ctc_logits[..., 6:], heard.embeddings @ blank["kernel"] + blank["bias"], atol=1e-5)


def test_it_passes_on_what_reading_makes_of_what_is_left(variables, frames):
    kept = CTCRunMean(max_fraction=0.5)(hear(variables, frames))
    reading = {"params": variables["params"]["reading"]}
    expected = build().reading.apply(reading, kept, embed)
    output = build().apply(variables, frames, embed)
    np.testing.assert_allclose(output.embeddings, expected.embeddings, atol=1e-5)
    np.testing.assert_array_equal(output.mask, kept.mask)
    assert output.ctc_logits is None
    assert output.dropped.tolist() == kept.dropped.tolist()
    assert output.embeddings.shape[1] == build().output_length(8) == 4


def test_without_a_reducer_all_frames_are_passed_on(variables, frames):
    output = build(reducer=None).apply(variables, frames, embed)
    np.testing.assert_array_equal(output.mask, frames.mask)
    assert build(reducer=None).output_length(7) == 7


def test_lengths_follow_hearing_that_gives_fewer_vectors():
    hearing = StackedMLPAdapter(features=WIDTH, stack=2, hidden=4)
    assert build(hearing=hearing).output_length(9) == 3
    assert build(hearing=hearing, reducer=None).output_length(9) == 5


def test_padding_changes_nothing(variables, frames):
    whole = build().apply(variables, frames, embed)
    alone = EncoderOutput(frames.embeddings[1:, :5], frames.mask[1:, :5], dropped=frames.dropped[1:])
    short = build().apply(variables, alone, embed)
    length = int(short.mask.sum())
    np.testing.assert_allclose(whole.embeddings[1, :length], short.embeddings[0, :length], atol=1e-5)
    assert whole.mask[1].sum() == length


@pytest.mark.parametrize("change", [{"num_tokens": 5}, {"num_tokens": 20}])
def test_the_number_of_tokens_matters(variables, frames, change):
    scores = hear(variables, frames, **change).ctc_logits
    assert scores.shape[-1] == change["num_tokens"] + 1
    common = min(6, change["num_tokens"])
    np.testing.assert_allclose(scores[..., :common], hear(variables, frames).ctc_logits[..., :common], atol=1e-5)


def test_it_obeys_the_protocol_and_refuses_no_tokens():
    assert isinstance(build(), HearingAdapter)
    assert not isinstance(build().hearing, HearingAdapter)
    with pytest.raises(ValueError, match=r"CTCTokenAdapter.num_tokens must be at least 1, got 0"):
        build(num_tokens=0)


RULES = Merges(((0, 1, 6), (6, 2, 7), (3, 3, 8)))


def certain(tokens, mask=None, blank=0.0):
    """Frames in which these of six tokens are sure to be heard, but for the blank's share."""
    posterior = (1 - blank) * jax.nn.one_hot(jnp.array(tokens), 7) + blank * jax.nn.one_hot(6, 7)
    shape = posterior.shape[:2]
    embeddings = jax.random.normal(jax.random.key(2), (*shape, WIDTH))
    mask = jnp.ones(shape, bool) if mask is None else jnp.array(mask)
    return EncoderOutput(embeddings, mask, ctc_logits=jnp.log(posterior + 1e-12), dropped=jnp.array([3]))


class Nothing(nn.Module):
    """An adapter that adds nothing, or as much of what it hears."""

    share: float = 0.0

    def output_length(self, num_frames):
        return num_frames

    def __call__(self, frames, embed, *, deterministic=True):
        return frames._replace(embeddings=self.share * frames.embeddings, dropped=None)


def read(frames, share=0.0):
    return MergedTokenReading(context=Nothing(share), merges=RULES).apply({}, frames, embed)


def test_frames_become_the_vectors_of_merged_tokens():
    output = read(certain([[0, 1, 2, 3, 4, 0, 1]]))
    np.testing.assert_allclose(output.embeddings[0, :4], TABLE[[7, 3, 4, 6]], atol=1e-5)
    assert output.mask.tolist() == [[True] * 4 + [False] * 3]
    assert not np.any(output.embeddings[0, 4:])
    assert output.dropped.tolist() == [3] and output.ctc_logits is None


def test_doubtful_frames_are_short():
    output = read(certain([[0, 1, 4]], blank=0.25))
    np.testing.assert_allclose(output.embeddings[0, :2], 0.75 * TABLE[[6, 4]], atol=1e-5)


def test_context_hears_the_means_of_the_frames_that_were_merged():
    frames = certain([[0, 1, 4]])
    added = read(frames, share=0.5).embeddings - read(frames).embeddings
    x = frames.embeddings[0]
    np.testing.assert_allclose(added[0], [(x[0] + x[1]) / 4, x[2] / 2, jnp.zeros(WIDTH)], atol=1e-5)


def test_padding_is_not_merged():
    frames = certain([[0, 1, 2, 3, 3]], mask=[[True, True, False, False, False]])
    output = read(frames, share=1.0)
    assert output.mask.tolist() == [[True] + [False] * 4]
    short = read(jax.tree.map(lambda x: x[:, :2] if x.ndim > 1 else x, frames), share=1.0)
    np.testing.assert_allclose(output.embeddings[:, :2], short.embeddings, atol=1e-5)


def test_the_loss_reaches_what_hears(variables, frames):
    reading = MergedTokenReading(context=LinearAdapter(features=WIDTH), merges=RULES)
    adapter = build(reading=reading)
    params = nn.unbox(adapter.init(jax.random.key(1), frames, embed))["params"]
    gradients = jax.grad(lambda p: jnp.sum(adapter.apply({"params": p}, frames, embed).embeddings[..., 0]))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["reading"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["hearing"]))


def test_reading_needs_scores_and_a_context_of_the_right_width():
    with pytest.raises(ValueError, match="MergedTokenReading needs CTC scores"):
        read(certain([[0]])._replace(ctc_logits=None))
    narrow = MergedTokenReading(context=StackedMLPAdapter(features=WIDTH, stack=2), merges=RULES)
    with pytest.raises(ValueError, match="a vector of the language model's width for each"):
        narrow.init(jax.random.key(0), certain([[0, 1, 2, 4]]), embed)


def test_merged_tokens_for_which_there_is_no_room_are_counted():
    frames = certain([[0, 4, 3, 5, 0, 1, 2]])
    whole = read(frames)
    reading = MergedTokenReading(context=Nothing(), merges=RULES, max_fraction=0.5)
    output = reading.apply({}, frames, embed)
    assert reading.output_length(7) == 4
    np.testing.assert_allclose(output.embeddings, whole.embeddings[:, :4], atol=1e-6)
    assert output.dropped.tolist() == [3 + 1]
    padded = frames._replace(mask=jnp.array([[True] * 4 + [False] * 3]))
    assert reading.apply({}, padded, embed).mask.sum() == 2  # half of what is real
    with pytest.raises(ValueError, match=r"MergedTokenReading.max_fraction must be in \(0, 1\], got 0\.0"):
        MergedTokenReading(context=Nothing(), merges=RULES, max_fraction=0.0)
