"""What CTC has heard, in the place of the speech and as a key to a catalogue; other wordings of an instruction."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import cascade, evaluation
from slm_jax.cascade import CascadeEvaluation, RetrievalEvaluation
from slm_jax.evaluation import WordedEvaluation
from slm_jax.tasks.scenes import VOCABULARY

LENGTHS = {"speech": 1600, "inputs": 24, "targets": 16}
TASK = {"task": "scenes_tiny_transcribe", "split": "test", "task_feature_lengths": LENGTHS}
HEARD = ["the cat slept", "memus slept"]


class Model(nn.Module):
    """Has the field that an evaluation asks for."""

    speech_encoder: None = None


def tokens(texts: list[str], *, length: int, eos: bool = True) -> np.ndarray:
    rows = [VOCABULARY.encode(text) + [VOCABULARY.eos_id] * eos for text in texts]
    return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)


@pytest.fixture
def batch() -> dict[str, jax.Array]:
    arrays = {
        "speech": np.zeros((2, 1600), np.float32),
        "speech_length": np.array([1600, 800]),
        "encoder_input_tokens": tokens(["transcribe the speech", "say it in german"], length=24),
        "decoder_loss_weights": np.ones((2, 16), np.float32),
    }
    return jax.tree.map(jnp.asarray, arrays)


def test_a_cascade_reads_the_transcript_and_hears_nothing(batch):
    rewritten = CascadeEvaluation(**TASK).rewrite(batch, HEARD)
    assert set(rewritten) == {"encoder_input_tokens", "decoder_loss_weights"}
    texts = [VOCABULARY.decode([int(i) for i in row if i > 1]) for row in rewritten["encoder_input_tokens"]]
    assert texts == ["the cat slept transcribe the speech", "memus slept say it in german"]
    assert rewritten["encoder_input_tokens"].shape == (2, 24 + 16)


def test_retrieval_lists_the_likeliest_names_and_keeps_the_speech(batch):
    names = ("nemus", "tubifa", "devepor")
    evaluated = RetrievalEvaluation(**TASK, catalogue=names, prompt="names are {names}", limit=2)
    rewritten = evaluated.rewrite(batch, HEARD)
    assert rewritten["speech"] is batch["speech"]
    listed = [VOCABULARY.decode([int(i) for i in row if i > 1]).split() for row in rewritten["encoder_input_tokens"]]
    assert listed[1][:3] == ["names", "are", "nemus"]
    assert {len(words) for words in listed} == {4}


def test_a_list_too_long_for_the_instruction_is_refused(batch):
    names = ("tubifa", "nemus", "devepor", "kato", "ruma", "bola", "dufa", "gilo", "zodiril")
    evaluated = RetrievalEvaluation(**TASK, catalogue=names, prompt="names are {names}", limit=9)
    with pytest.raises(ValueError, match="tokens, more than the 24 of task_feature_lengths"):
        evaluated.rewrite(batch, HEARD)


def test_what_is_heard_reaches_the_language_model(batch, monkeypatch: pytest.MonkeyPatch):
    heard = jnp.asarray(tokens(HEARD, length=16, eos=False))

    def echo(params, batch, rng):
        return batch["encoder_input_tokens"]

    monkeypatch.setattr(cascade, "make_ctc_predict", lambda encoder: lambda params, batch, rng: heard)
    monkeypatch.setattr(evaluation, "make_predict", lambda *args, **kw: echo)
    evaluated = CascadeEvaluation(**TASK)
    found = evaluated.predict(Model())({}, batch, jax.random.key(0))
    np.testing.assert_array_equal(found, evaluated.rewrite(batch, HEARD)["encoder_input_tokens"])


def test_another_wording_stands_in_the_place_of_the_instruction(batch, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def answer(params, batch, rng):
        seen.append(batch)
        return batch["encoder_input_tokens"]

    monkeypatch.setattr(evaluation, "make_predict", lambda *args, **kw: answer)
    evaluated = WordedEvaluation(**TASK, prompt="type every word")
    rows = evaluated.predict(Model())({}, batch, jax.random.key(0))
    assert rows.shape == (2, 24)
    assert {VOCABULARY.decode([int(i) for i in row if i > 1]) for row in rows} == {"type every word"}
    assert seen[0]["speech"] is batch["speech"]
    with pytest.raises(ValueError, match="tokens, more than the 24"):
        WordedEvaluation(**TASK, prompt="type " * 30).predict(Model())({}, batch, jax.random.key(0))
