"""Which sentences belong to which split.

A hash of the English sentence decides, so no sentence is in two splits, of any size. Validation and test draw from
their own inventory of names: no name of theirs occurs in training.
"""

import enum
import hashlib
from collections.abc import Iterator

from slm_jax.tasks.spoken_scenes import english, grammar
from slm_jax.tasks.spoken_scenes import names as names_lib

MIN_WORDS = 4
MAX_WORDS = 14
_BUCKETS = 40


class Split(enum.Enum):
    """The splits of the dataset; train and validation share voices, the voice of test occurs nowhere else."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"

    @property
    def names(self) -> tuple[str, ...]:
        """The inventory of names its sentences draw from."""
        return names_lib.TRAIN_NAMES if self is Split.TRAIN else names_lib.HELD_OUT_NAMES


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def split_of(text: str) -> Split:
    """The split an English sentence belongs to: one sentence in 40 to validation, one to test, the others to train."""
    return {0: Split.VALIDATION, 1: Split.TEST}.get(_hash(text) % _BUCKETS, Split.TRAIN)


def sentences(split: Split, *, seed: int = 0) -> Iterator[tuple[str, grammar.Scene]]:
    """An endless, reproducible stream of distinct sentences of a split, of 4 to 14 words, with their scenes."""
    seen = set()
    for scene in grammar.draw_scenes(f"{split.value}/{seed}", names=split.names):
        text = english.realise(scene)
        if split_of(text) is not split or not MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            continue
        key = _hash(text)
        if key not in seen:
            seen.add(key)
            yield text, scene
