"""Phrases of a catalogue that an utterance may hold, found by what was heard of it."""

import itertools
from collections.abc import Sequence

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein


def retrieve(heard: str, catalogue: Sequence[str], *, limit: int) -> list[str]:
    """The phrases that are spelled most like some part of a transcript, best first.

    A part is a word, or neighbouring words as many as the longest phrase has and one more, since a listener often cuts
    a name in two. How alike two spellings are is 1 - edits / letters of the longer one.

    Args:
      heard: the transcript, such as what CTC writes; it may be empty.
      catalogue: the phrases.
      limit: how many are given, if the catalogue has so many.

    Raises:
      ValueError: if limit is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}, must be 1 or more")
    if not catalogue:
        return []
    words = heard.split()
    longest = 1 + max(len(phrase.split()) for phrase in catalogue)
    starts = itertools.product(range(len(words)), range(1, longest + 1))
    parts = ["".join(words[start : start + size]) for start, size in starts]
    joined = [phrase.replace(" ", "") for phrase in catalogue]
    alike = process.cdist(parts or [""], joined, scorer=Levenshtein.normalized_similarity).max(axis=0)
    return [catalogue[index] for index in np.argsort(-alike, kind="stable")[:limit]]
