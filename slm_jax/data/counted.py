"""Metrics from what each example adds to them, so that test sets can be drawn anew in no time."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int
from sacrebleu.metrics import BLEU

from slm_jax.data.metrics import basic_normalizer
from slm_jax.data.word_errors import error_rate, word_errors


@dataclasses.dataclass(frozen=True)
class Counted:
    """A metric over some of the examples, by their numbers; any may come more than once.

    Attributes:
      counts: what each example adds.
      score: of what is left of `counts`.
    """

    counts: Int[np.ndarray, "N K"]
    score: Callable[[Int[np.ndarray, "M K"]], float]

    def __call__(self, numbers: np.ndarray) -> float:
        return self.score(self.counts[numbers])


def word_error_rate(targets: Sequence[str], predictions: Sequence[str]) -> Counted:
    """`metrics.word_error_rate` of lower case words without punctuation."""
    sides = (list(map(basic_normalizer, side)) for side in (targets, predictions))
    _, every = word_errors(*sides, chosen=())
    return Counted(every, error_rate)


def bleu(targets: Sequence[str], predictions: Sequence[str]) -> Counted:
    """`metrics.bleu`: n-grams that are right, n-grams, and both lengths of each sentence."""
    metric = BLEU(effective_order=True)
    found = [
        metric.sentence_score(prediction, [target]) for target, prediction in zip(targets, predictions, strict=True)
    ]
    rows = [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in found]
    orders = metric.max_ngram_order

    def score(counts: Int[np.ndarray, "M K"]) -> float:
        *ngrams, written, reference = counts.sum(axis=0).tolist()
        right, total = ngrams[:orders], ngrams[orders:]
        return float(BLEU.compute_bleu(right, total, written, reference, smooth_method="exp").score)

    return Counted(np.array(rows, np.int64).reshape(len(rows), 2 * orders + 2), score)


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> Counted:
    """`metrics.exact_match`."""
    equal = [[int(t.strip() == p.strip())] for t, p in zip(targets, predictions, strict=True)]

    def score(counts: Int[np.ndarray, "M K"]) -> float:
        return 100.0 * float(counts.sum()) / max(len(counts), 1)

    return Counted(np.array(equal, np.int64).reshape(-1, 1), score)


COUNTED: Mapping[str, Callable[[Sequence[str], Sequence[str]], Counted]] = {
    "wer": word_error_rate,
    "bleu": bleu,
    "exact_match": exact_match,
}
"""By the name that the metric gives its score."""
