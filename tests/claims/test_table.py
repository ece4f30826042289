"""The list of claims: every kind is asked of the study, bounds are those of the study's table, names are unique."""

import dataclasses

import numpy as np
import pytest

from slm_jax.claims.measures import as_table
from slm_jax.claims.study import Study
from slm_jax.claims.table import SIZES, all_claims
from slm_jax.evaluation import Prediction
from slm_jax.tasks.spoken_scenes.families import FAMILIES
from slm_jax.tasks.spoken_scenes.names import HELD_OUT_NAMES

NAMES = HELD_OUT_NAMES[:4]
RIGHT = tuple(Prediction("", f"{name} ran to the market", f"{name} ran to the market") for name in NAMES)


def wrong(answers: tuple[Prediction, ...], *numbers: int, word: int = 0) -> tuple[Prediction, ...]:
    """With one word changed in some answers."""

    def change(answer: Prediction) -> Prediction:
        words = answer.prediction.split()
        words[word] = "x"
        return dataclasses.replace(answer, prediction=" ".join(words))

    return tuple(change(answer) if number in numbers else answer for number, answer in enumerate(answers))


class Canned(Study):
    """Answers that no model has given."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def spoken(self, family):
        self.asked.add(family)
        return (
            wrong(RIGHT, 0, 1)
            if family == "transcribe"
            else wrong(RIGHT, 0)
            if family in ("reply", "question")
            else RIGHT
        )

    def written(self, family):
        return RIGHT

    def in_silence(self):
        return wrong(RIGHT, 0, 1, 2, 3)

    def ctc(self):
        return wrong(RIGHT, 0, 1, 2)

    def cascade(self, family):
        return wrong(RIGHT, 0, word=1)

    def listed(self, size, *, with_name):
        return wrong(RIGHT, 0) if with_name else wrong(wrong(RIGHT, 0, 1), 2, word=1)

    def retrieved(self, limit):
        return wrong(RIGHT, 0)

    def worded(self, family, prompt):
        return RIGHT

    def text_scores(self):
        return [(np.ones((2, 3)), np.array([[1.0, 1, 1], [1, 2, 1]]))]

    def listening_losses(self):
        return {"true": 0.5, "shuffled": 5.0, "no": 4.0}

    def counts(self):
        return {"trainable": 1, "frozen": 3}

    @property
    def size(self):
        return len(RIGHT)


@pytest.fixture(scope="module")
def study() -> Canned:
    return Canned()


@pytest.fixture(scope="module")
def claims(study):
    return list(all_claims(study))


@pytest.fixture(scope="module")
def found(claims):
    return {claim.name: claim for claim in claims}


def test_every_family_is_asked_and_every_claim_has_its_own_name(study, claims, found):
    assert study.asked == {family.name for family in FAMILIES} - {"bias"}
    assert len(found) == len(claims)


@pytest.mark.parametrize(
    ("name", "score", "holds"),
    [
        ("wer", 10.0, False),
        ("wer_names", 50.0, None),
        ("wer_silence", 20.0, None),
        ("wer_ctc", 15.0, None),
        ("wer_cascade_others", 100 / 16, None),
        ("translate_de_ratio", 1.0, True),
        ("question_ratio", 0.75, False),
        ("reply_exact_speech", 75.0, None),
        ("bias_0_names", 50.0, None),
        ("bias_gain", 0.5, True),
        ("bias_100_without_cost", 5.0, False),
        ("retrieval_ratio", 1.0, True),
        ("wording_reply", 0.0, True),
        ("text_changed", 1.0, False),
        ("loss_shuffled_ratio", 10.0, None),
        ("trained_share", 25.0, None),
    ],
)
def test_scores_and_what_holds(found, name, score, holds):
    assert found[name].score == pytest.approx(score)
    assert found[name].holds is holds


def test_the_bounds_are_those_of_the_study(found):
    bounds = {name: claim.bound_text for name, claim in found.items() if claim.bound_text}
    expected = {"wer": "<= 3", "translate_de_ratio": ">= 0.95", "bias_gain": "<= 0.5", "retrieval_ratio": "<= 1.2"}
    expected |= {f"{family.name}_ratio": ">= 0.9" for family in FAMILIES} | expected
    expected |= {f"bias_{size}_without_cost": "<= 0.5" for size in SIZES} | {"text_changed": "<= 0"}
    expected |= {f"wording_{name}": "<= 0.1" for name in ("transcribe", "translate_de", "translate_es", "reply")}
    for name in ("transcribe_ratio", "bias_ratio"):
        del expected[name]
    assert bounds == expected


def test_a_person_sees_every_claim(claims):
    shown = as_table(claims)
    assert shown.row_count == len(claims)
    assert list(shown.columns[-1].cells).count("NO") == sum(claim.holds is False for claim in claims)
