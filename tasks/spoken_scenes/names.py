"""Invented names: a closed inventory for training and a disjoint one for validation and test.

A name that ends in 'a' takes "she", any other one takes "he". No two names share their consonants, so that a name is
recognisable even where a voice blurs unstressed vowels.
"""

import itertools
import random
from collections.abc import Sequence

from slm_jax.tasks.spoken_scenes import lexicon

NUM_TRAIN_NAMES = 8000
NUM_HELD_OUT_NAMES = 400
NUM_OTHER_NAMES = 600
"""Names that no sentence has; they stand in catalogues beside those held out."""

_ONSETS = "bdfgklmnprstvz"
_VOWELS = "aeiou"
_ENDINGS = ("a", "a", "a", "a", "a", "a", "o", "an", "in", "en", "or", "il", "us")
_SEED = 20231001


def _syllable(rng: random.Random, onset: str) -> str:
    return onset + rng.choice("aou" if onset == "g" else _VOWELS)  # 'g' before e and i has two English readings


def _words() -> frozenset[str]:
    words = {form for noun in lexicon.NOUNS for form in (noun.english, noun.german_plural, noun.spanish_plural)}
    words |= {form for noun in lexicon.NOUNS for form in (noun.german, noun.spanish)}
    words |= {form for verb in lexicon.VERBS for form in itertools.chain(verb.english, *verb.german, *verb.spanish)}
    for adjective in lexicon.ADJECTIVES:
        words |= {adjective.english, *adjective.spanish, adjective.german}
        words |= {adjective.german_stem + ending for ending in ("e", "en", "er", "es")}
    return frozenset(words)


def _invent() -> tuple[str, ...]:
    rng = random.Random(_SEED)
    known = _words()
    seen: set[str] = set()
    names: list[str] = []
    while len(names) < NUM_TRAIN_NAMES + NUM_HELD_OUT_NAMES + NUM_OTHER_NAMES:
        onsets = [rng.choice(_ONSETS) for _ in range(rng.choice((2, 3, 3)))]
        ending = rng.choice(_ENDINGS)
        name = "".join(_syllable(rng, onset) for onset in onsets[:-1]) + onsets[-1] + ending
        skeleton = "".join(onsets) + ending.lstrip(_VOWELS) + ("a" if ending == "a" else "")
        doubled = any(a == b for a, b in itertools.pairwise(onsets))
        soft = onsets[-1] == "g" and ending[0] in "ei"
        if doubled or soft or name in known or skeleton in seen:
            continue
        seen.add(skeleton)
        names.append(name)
    return tuple(names)


# The shipped language model was trained when there were 2000 names for training: the next ones stay held out.
_HELD_OUT = slice(2000, 2000 + NUM_HELD_OUT_NAMES)
_ALL = _invent()
HELD_OUT_NAMES: tuple[str, ...] = _ALL[_HELD_OUT]
TRAIN_NAMES: tuple[str, ...] = _ALL[: _HELD_OUT.start] + _ALL[_HELD_OUT.stop : -NUM_OTHER_NAMES]
CATALOGUE: tuple[str, ...] = HELD_OUT_NAMES + _ALL[-NUM_OTHER_NAMES:]
"""Names that are not in training."""


def pronoun(name: str) -> str:
    """The English pronoun a name takes: "she" if it ends in 'a', else "he"."""
    return "she" if name.endswith("a") else "he"


def name_list(name: str, *, inventory: Sequence[str], size: int, seed: int, with_name: bool = True) -> tuple[str, ...]:
    """A list of `size` names in random order, among them `name` once (if it is not empty), or surely not.

    Raises:
      ValueError: if the inventory is too small for the list.
    """
    others = [other for other in inventory if other != name]
    if size < 1 or size > len(others):
        raise ValueError(f"a list of {size} names cannot be drawn from an inventory of {len(others)} others")
    rng = random.Random(seed)
    names = rng.sample(others, size)
    if name and with_name:
        names[rng.randrange(size)] = name
    return tuple(names)
