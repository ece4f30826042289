"""Claims about numbers: the arithmetic of measures, intervals, what holds."""

import numpy as np
import pytest

from slm_jax.claims import measures
from slm_jax.claims.measures import Claim
from slm_jax.evaluation import Prediction

NAMES = ("mirela", "tubifa")
ALL = np.arange(4)


def answers(*pairs: tuple[str, str]) -> list[Prediction]:
    return [Prediction("transcribe", target, prediction) for target, prediction in pairs]


HEARD = answers(
    ("mirela slept", "mila slept"), ("we ran", "we ran"), ("tubifa ate bread", "tubifa ate bed"), ("he ran", "he ran")
)
KNOWN = answers(
    ("mirela slept", "mirela slept"), ("we ran", "we can"), ("tubifa ate bread", "tubifa ate bread"), ("he ran", "a")
)


def test_error_rates_by_kind_of_word():
    names, others, every = measures.error_rates(HEARD, chosen=NAMES)
    assert names(ALL) == 50.0
    assert others(ALL) == pytest.approx(100 / 7)
    assert every(ALL) == pytest.approx(200 / 9)
    assert names(np.array([0, 0, 2])) == pytest.approx(200 / 3), "examples may be drawn more than once"
    assert every(np.array([1, 3])) == 0


def test_the_first_metric_of_a_kind():
    name, score = measures.metric(HEARD, "question")
    assert name == "exact_match" and score(ALL) == 50.0 and score(ALL[1:2]) == 100.0
    assert measures.exact(HEARD)(ALL) == 50.0
    assert measures.metric(HEARD, "reply")[0] == "bleu"
    assert measures.metric(HEARD, "transcribe")[0] == "wer"
    assert measures.metric(HEARD, "translate_de")[0] == "bleu"


def test_ratio_difference_and_spread():
    heard, known = (measures.error_rates(each)[2] for each in (HEARD, KNOWN))
    assert measures.ratio(heard, known)(ALL) == pytest.approx(2 / 3)
    assert measures.difference(heard, known)(ALL) == pytest.approx(-100 / 9)
    assert measures.spread([heard, known])(ALL) == pytest.approx(1 / 2.5)
    none = ALL[:0]
    assert measures.ratio(heard, known)(none) == 1.0
    assert measures.ratio(heard, lambda numbers: 0.0)(ALL) == float("inf")
    assert measures.spread([lambda numbers: 0.0])(ALL) == 0.0


def test_a_measured_claim_has_an_interval_around_its_score():
    score = measures.error_rates(HEARD)[2]
    claim = measures.measured("wer", "recognition", score, n=4, at_most=30.0)
    assert claim.score == pytest.approx(200 / 9) and claim.n == 4 and claim.holds
    assert claim.low is not None and claim.high is not None and claim.low < claim.score < claim.high
    assert claim.as_json() == {
        "label": "recognition",
        "score": 22.2222,
        "interval": [round(claim.low, 4), round(claim.high, 4)],
        "n": 4,
        "bound": "<= 30",
        "holds": True,
    }


@pytest.mark.parametrize(
    ("bounds", "holds", "text"),
    [
        ({"at_most": 3.0}, True, "<= 3"),
        ({"at_most": 2.9}, False, "<= 2.9"),
        ({"at_least": 3.0}, True, ">= 3"),
        ({"at_least": 3.1}, False, ">= 3.1"),
        ({}, None, ""),
    ],
)
def test_what_holds(bounds, holds, text):
    claim = Claim("name", "label", 3.0, **bounds)
    assert claim.holds is holds and claim.bound_text == text
    assert claim.as_json()["interval"] is None
