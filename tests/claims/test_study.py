"""The study's questions: which task and instruction, how much room, asked once; text scores, losses, sizes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.cascade import CascadeEvaluation, RetrievalEvaluation
from slm_jax.claims import study as study_lib
from slm_jax.claims.study import NAME_TOKENS, Study
from slm_jax.evaluation import CTCEvaluation, DecodedEvaluation, Evaluated, Prediction, WordedEvaluation
from slm_jax.tasks.spoken_scenes.names import CATALOGUE
from slm_jax.training.distillation import Distillation


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[DecodedEvaluation]:
    """Evaluations that were run, none of which decodes anything."""
    found: list[DecodedEvaluation] = []

    def run(self, predict, params, **others):
        found.append(self)
        return Evaluated({}, [Prediction("", "a", "b")])

    for kind in (DecodedEvaluation, CTCEvaluation, CascadeEvaluation, RetrievalEvaluation, WordedEvaluation):
        monkeypatch.setattr(kind, "predict", lambda self, model: lambda params, batch, rng: None)
    monkeypatch.setattr(DecodedEvaluation, "run", run)
    monkeypatch.setattr(DecodedEvaluation, "examples", lambda self: iter(()))
    return found


@pytest.fixture
def study(tiny_model, tmp_path) -> Study:
    return Study(tiny_model, config="tiny", batch_size=4, output=tmp_path / "answers")


def test_each_question_has_its_task_and_is_asked_once(study, asked):
    for _ in range(2):
        study.spoken("reply")
        study.written("reply")
        study.in_silence()
        study.ctc()
        study.cascade("transcribe")
        study.listed(50, with_name=False)
        study.listed(10, with_name=True)
        study.retrieved(7)
        study.worded("translate_es", "en espanol")
    assert [(type(each), each.task) for each in asked] == [
        (DecodedEvaluation, "scenes_tiny_reply"),
        (DecodedEvaluation, "scenes_tiny_text_reply"),
        (DecodedEvaluation, "scenes_tiny_transcribe_silence"),
        (CTCEvaluation, "scenes_tiny_transcribe"),
        (CascadeEvaluation, "scenes_tiny_transcribe"),
        (DecodedEvaluation, "scenes_tiny_bias_50_without"),
        (DecodedEvaluation, "scenes_tiny_bias"),
        (RetrievalEvaluation, "scenes_tiny_bias"),
        (WordedEvaluation, "scenes_tiny_translate_es"),
    ]
    assert {(each.split, each.batch_size) for each in asked} == {("test", 4)}
    lengths = study.model.task_feature_lengths
    assert asked[0].task_feature_lengths == asked[2].task_feature_lengths == asked[4].task_feature_lengths == lengths
    assert asked[1].task_feature_lengths == dict(lengths) | {"inputs": lengths["inputs"] + lengths["targets"]}
    assert asked[5].task_feature_lengths["inputs"] == lengths["inputs"] + 50 * NAME_TOKENS
    retrieval, worded = asked[-2:]
    assert retrieval.catalogue == CATALOGUE and retrieval.limit == 7 and "{names}" in retrieval.prompt
    assert worded.prompt == "en espanol"


def test_answers_are_kept_for_a_reader(study, asked, tmp_path):
    study.listed(50, with_name=False)
    (path,) = (tmp_path / "answers").iterdir()
    assert path.name == "bias-50_names_without_the_right_one.jsonl"
    assert json.loads(path.read_text()) == {"inputs": "", "target": "a", "prediction": "b"}


@pytest.fixture
def batches(study, monkeypatch: pytest.MonkeyPatch):
    """One batch in the place of the test split, with speech or without."""

    def made(task, *, task_feature_lengths, split, batch_size):
        tokens = jnp.array([[5, 6, 1, 0], [7, 1, 0, 0]])
        batch = {
            "encoder_input_tokens": tokens,
            "decoder_input_tokens": jnp.array([[0, 5, 6], [0, 8, 0]]),
            "decoder_target_tokens": jnp.array([[5, 6, 1], [8, 1, 0]]),
            "decoder_loss_weights": jnp.array([[1.0, 1, 1], [1, 1, 0]]),
        }
        speech = 0.1 * jax.random.normal(jax.random.key(0), (2, 4000))
        spoken = {"speech": speech, "speech_length": jnp.array([4000, 2500])}
        return iter([batch if "_text_" in task else batch | spoken])

    monkeypatch.setattr(study_lib, "eval_batches", made)


def test_scores_of_text_are_those_of_the_language_model_alone(study, batches):
    ((within, alone),) = study.text_scores()
    assert within.shape == (2, 3, study.model.training.objective.model.lm.vocab_size)
    np.testing.assert_array_equal(within, alone)


def test_a_language_model_that_was_changed_scores_text_differently(study, batches):
    params = study.model.params
    changed = {**params, "lm": jax.tree.map(lambda x: 1.01 * x, params["lm"])}
    study.model = dataclasses.replace(study.model, params=changed)
    ((within, alone),) = study.text_scores()
    assert (within != alone).any()


def test_losses_with_and_without_the_speech(study, batches):
    losses = study.listening_losses()
    assert set(losses) == {"true", "shuffled", "no"}
    assert len({round(loss, 5) for loss in losses.values()}) == 3
    training = study.model.training
    distilled = dataclasses.replace(
        training, objective=Distillation(model=training.objective.model), listening_objective=training.objective
    )
    study.model = dataclasses.replace(study.model, training=distilled)
    assert study.listening_losses() == losses


def test_sizes(study):
    counts = study.counts()
    assert counts["trainable"] == counts["components"]["adapter"]["parameters"] > 0
    assert counts["frozen"] > 0
