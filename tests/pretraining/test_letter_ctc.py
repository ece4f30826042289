"""CTC on letters beside CTC on tokens: spelling, the sum of the two losses, what it shares with `CTCObjective`."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.audio.log_mel import LogMel
from slm_jax.models.conformer import Conformer
from slm_jax.models.interfaces import Objective
from slm_jax.pretraining.ctc import CTCObjective, ctc_sums
from slm_jax.pretraining.letter_ctc import LetterCTCObjective, letter_table, spell

ENCODER = Conformer(
    num_layers=1,
    width=8,
    num_heads=2,
    subsampling_channels=(3, 3),
    ctc_vocab_size=6,
    dropout_rate=0.5,
    front_end=LogMel(num_mels=8, fft_length=512),
)
FRAME = 640
SPELLINGS = ("", "", "", "▁a", "bab", "c")
TOKENS = [[3, 4, 1, 0], [4, 4, 5, 1], [1, 0, 0, 0]]
FRAMES = [4, 3, 1]
LETTERS = {"a": 0, "b": 1, "c": 2, "▁": 3}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def batch():
    return {
        "speech": 0.1 * jax.random.normal(jax.random.key(0), (3, 4 * FRAME)),
        "speech_length": jnp.array(FRAMES) * FRAME,
        "decoder_target_tokens": jnp.array(TOKENS),
    }


@pytest.fixture(scope="module")
def objective():
    return LetterCTCObjective(ctc=CTCObjective(speech_encoder=ENCODER), spellings=SPELLINGS)


@pytest.fixture(scope="module")
def params(objective, batch):
    return nn.unbox(jax.jit(objective.init)(jax.random.key(1), batch))


@pytest.fixture(scope="module")
def loss(objective):
    return jax.jit(lambda params, batch: objective.loss(params, batch, rng=KEY))


def test_letter_table_drawing():
    assert letter_table(("ab", "", "b")).tolist() == [[0, 1], [-1, -1], [1, -1]]


def test_spelling_packs_the_letters_of_real_tokens():
    table = letter_table(SPELLINGS)
    letters, lengths = spell(jnp.array(TOKENS), jnp.array([2, 3, 0]), table, size=8)
    words = ["▁abab", "babbabc", ""]
    assert lengths.tolist() == [len(word) for word in words]
    for row, word in zip(letters.tolist(), words, strict=True):
        assert row[: len(word)] == [LETTERS[letter] for letter in word]
    cut, still = spell(jnp.array(TOKENS), jnp.array([2, 3, 0]), table, size=3)
    assert cut.tolist() == letters[:, :3].tolist() and still.tolist() == lengths.tolist()


def test_the_loss_is_that_of_tokens_and_a_part_of_that_of_letters(objective, params, batch, loss):
    output = loss(params, batch)
    frames = objective.ctc.hear(params, batch, rng=KEY)
    tokens = objective.ctc.sums(frames, batch)
    scores, mask = objective.letter_logits(params["letter_head"], frames)
    assert scores.shape == (3, 12, 5) and mask.sum(axis=1).tolist() == [12, 9, 3]
    spelled = [[3, 0, 1, 0, 1, 0, 0], [1, 0, 1, 1, 0, 1, 2], [0] * 7]
    letters = ctc_sums(scores, mask, jnp.array(spelled), jnp.array([5, 7, 0]))
    np.testing.assert_allclose(output.loss, tokens.loss + 0.3 * letters.loss, rtol=1e-5)
    assert output.weight == tokens.weight
    for name, (total, count) in (
        ("token_loss", (tokens.loss, tokens.weight)),
        ("letter_loss", (letters.loss, 12.0)),
        ("letters_infeasible", (0, 3)),
        ("ctc_blank_frames", tokens.metrics["ctc_blank_frames"]),
    ):
        np.testing.assert_allclose(output.metrics[name], (total, count), rtol=1e-5)


def test_an_utterance_with_too_few_frames_for_its_letters_still_has_a_loss_of_tokens(objective, params, batch):
    one = dataclasses.replace(objective, letters_per_frame=1)
    scores = jax.eval_shape(one.init, KEY, batch)["letter_head"]["bias"].value
    assert scores.shape == (5,)
    head = jax.tree.map(lambda x: x[..., :5], params["letter_head"])
    output = one.loss(params | {"letter_head": head}, batch, rng=KEY)
    assert output.metrics["letters_infeasible"] == (2, 3)
    assert output.metrics["letter_loss"][1] == 0
    np.testing.assert_allclose(output.metrics["token_loss"][0], output.loss - 0.3 * output.metrics["letter_loss"][0])


def test_both_parts_are_trained_and_filler_counts_for_nothing(objective, params, batch, loss):
    filler = {name: jnp.concatenate([value, jnp.zeros_like(value)]) for name, value in batch.items()}
    for one, other in zip(jax.tree.leaves(loss(params, filler)), jax.tree.leaves(loss(params, batch)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    gradients = jax.jit(jax.grad(lambda params: objective.loss(params, filler, rng=KEY).loss))(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    assert np.any(gradients["letter_head"]["kernel"]) and np.any(gradients["speech_encoder"]["ctc_head"]["kernel"])


@pytest.mark.parametrize("change", [{"letter_weight": 0.5}, {"letters_per_frame": 2}, {"spellings": ("", "a") * 3}])
def test_every_field_matters(objective, batch, change):
    other = dataclasses.replace(objective, **change)
    values = [x.loss(nn.unbox(x.init(KEY, batch)), batch, rng=KEY).loss for x in (objective, other)]
    assert abs(values[0] - values[1]) > 1e-3


def test_it_obeys_the_protocol_and_refuses_nonsense(objective, params):
    assert isinstance(objective, Objective)
    assert objective.model is ENCODER and set(params) == {"speech_encoder", "letter_head"}
    with pytest.raises(ValueError, match="spellings has no letter"):
        dataclasses.replace(objective, spellings=("", ""))
    with pytest.raises(ValueError, match=r"letters_per_frame of at least 1, got 0.3 and 0"):
        dataclasses.replace(objective, letters_per_frame=0)
