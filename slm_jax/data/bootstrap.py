"""Confidence intervals of scores over a test set, by drawing its examples anew (percentile bootstrap)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

Score = Callable[[np.ndarray], float]
"""From the numbers of some examples, repeats included, to a score over them."""


class Interval(NamedTuple):
    """A score with the bounds within which it lies for most test sets of the same kind."""

    score: float
    low: float
    high: float


def bootstrap(score: Score, *, size: int, resamples: int = 200, level: float = 0.95, seed: int = 0) -> Interval:
    """The score of all examples, and an interval.

    A ratio of two scores over the same examples has a paired interval if `score` computes both from its numbers.

    Args:
      score: computes the score of examples 0 .. size - 1, any of them, any number of times.
      size: examples of the test set.
      resamples: test sets that are drawn.
      level: part of the test sets whose score lies between the bounds.
      seed: of what is drawn.

    Raises:
      ValueError: if there are fewer than two examples.
    """
    if size < 2:
        raise ValueError(f"an interval needs at least 2 examples, got {size}")
    numbers = np.arange(size)
    drawn = stats.bootstrap(
        (numbers,),
        score,
        n_resamples=resamples,
        vectorized=False,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(score(numbers), float(drawn.low), float(drawn.high))
