"""Numbers with intervals over answers, and what is claimed about them."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from slm_jax.data.bootstrap import Interval, bootstrap
from slm_jax.data.counted import COUNTED
from slm_jax.data.word_errors import error_rate, word_errors
from slm_jax.evaluation import Prediction
from slm_jax.tasks.registration import metrics_for

Answers = Sequence[Prediction]
Score = Callable[[np.ndarray], float]
"""The score of the examples with these numbers."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """One number, and what is claimed about it.

    Attributes:
      name: its key in summary.json.
      label: what a person calls it.
      score: the number.
      n: examples it was measured on; 0 where it depends on none.
      low, high: its interval, if it has one.
      at_most, at_least: the claim; with neither, the number is only reported.
    """

    name: str
    label: str
    score: float
    n: int = 0
    low: float | None = None
    high: float | None = None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the number is as claimed; None if nothing is claimed."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.score <= self.at_most) and (
            self.at_least is None or self.score >= self.at_least
        )

    @property
    def bound_text(self) -> str:
        """The claim as a person writes it."""
        bounds = (("<=", self.at_most), (">=", self.at_least))
        return " ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

    def as_json(self) -> dict[str, Any]:
        """What summary.json says."""
        interval = None if self.low is None or self.high is None else [round(self.low, 4), round(self.high, 4)]
        return {
            "label": self.label,
            "score": round(self.score, 4),
            "interval": interval,
            "n": self.n,
            "bound": self.bound_text,
            "holds": self.holds,
        }


def measured(name: str, label: str, score: Score, *, n: int, **bounds: float) -> Claim:
    """A claim about a score over examples 0 .. n - 1, with its interval."""
    interval: Interval = bootstrap(score, size=n)
    return Claim(name, label, interval.score, n, interval.low, interval.high, **bounds)


def metric(answers: Answers, kind: str) -> tuple[str, Score]:
    """The first metric of a kind of instruction, by name, as a score over examples."""
    targets, predictions = _sides(answers)
    (name,) = metrics_for(kind)[0](targets[:1], predictions[:1])
    return name, COUNTED[name](targets, predictions)


def exact(answers: Answers) -> Score:
    """Percentage of answers that are right to the letter."""
    return COUNTED["exact_match"](*_sides(answers))


def error_rates(answers: Answers, *, chosen: Collection[str] = ()) -> tuple[Score, Score, Score]:
    """Word error rates over examples: of the chosen words, of all others, of all."""
    kinds = word_errors(*_sides(answers), chosen=chosen)

    def rate(counts: np.ndarray) -> Score:
        return lambda numbers: error_rate(counts[numbers])

    return rate(kinds[0]), rate(kinds[1]), rate(kinds[0] + kinds[1])


def _sides(answers: Answers) -> tuple[list[str], list[str]]:
    return [answer.target for answer in answers], [answer.prediction for answer in answers]


def ratio(score: Score, other: Score) -> Score:
    """One score over another of the same examples; 0 over 0 is 1."""

    def divided(numbers: np.ndarray) -> float:
        above, below = score(numbers), other(numbers)
        return above / below if below else float(above == below) or float("inf")

    return divided


def difference(score: Score, other: Score) -> Score:
    """One score less another of the same examples."""
    return lambda numbers: score(numbers) - other(numbers)


def spread(scores: Sequence[Score]) -> Score:
    """Largest less smallest of several scores, over their mean."""

    def relative(numbers: np.ndarray) -> float:
        values = [score(numbers) for score in scores]
        mean = float(np.mean(values))
        return (max(values) - min(values)) / mean if mean else 0.0

    return relative


def as_table(claims: Sequence[Claim]) -> Table:
    """What a person sees."""
    shown = Table(title="Unseen sentences, unseen voice")
    for column in ("claim", "measured", "95% interval", "n", "must be", "holds"):
        shown.add_column(column, justify="left" if column == "claim" else "right")
    for claim in claims:
        interval = f"{claim.low:.3g} to {claim.high:.3g}" if claim.low is not None else ""
        holds = {True: "yes", False: "NO", None: ""}[claim.holds]
        shown.add_row(claim.label, f"{claim.score:.4g}", interval, str(claim.n), claim.bound_text, holds)
    return shown
