"""Word errors of each example by itself, split by kind of word, so that test sets can be drawn anew in no time."""

from collections.abc import Collection, Sequence

import jiwer
import numpy as np
from jaxtyping import Int

ERRORS, WORDS = 0, 1


def word_errors(
    targets: Sequence[str], predictions: Sequence[str], *, chosen: Collection[str]
) -> tuple[Int[np.ndarray, "N 2"], Int[np.ndarray, "N 2"]]:
    """Errors and words of each example: first those of the chosen words of the references, then all others.

    A word too many has no reference; it counts among the others, so that both together are the word error rate's.

    chosen {"mirela"}, "mirela slept well" heard as "mila slept so well" -> [[1 1]], [[1 2]]

    Args:
      targets: the references.
      predictions: what was written, in the same order.
      chosen: for instance names.
    """
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} references but {len(predictions)} predictions")
    counts = np.zeros((2, len(targets), 2), np.int64)
    for number, (target, prediction) in enumerate(zip(targets, predictions, strict=True)):
        words = target.split()
        kinds = [int(word not in chosen) for word in words]
        for kind in kinds:
            counts[kind, number, WORDS] += 1
        if not words:
            counts[1, number, ERRORS] += len(prediction.split())
            continue
        for chunk in jiwer.process_words(target, prediction).alignments[0]:
            if chunk.type == "insert":
                counts[1, number, ERRORS] += chunk.hyp_end_idx - chunk.hyp_start_idx
            elif chunk.type != "equal":
                for kind in kinds[chunk.ref_start_idx : chunk.ref_end_idx]:
                    counts[kind, number, ERRORS] += 1
    return counts[0], counts[1]


def error_rate(counts: Int[np.ndarray, "N 2"]) -> float:
    """100 x errors / words of all examples; 0 if there are no words."""
    errors, words = counts.sum(axis=0)
    return 100.0 * float(errors) / max(float(words), 1.0)
