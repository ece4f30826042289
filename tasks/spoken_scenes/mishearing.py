"""Transcripts as a listener mishears them: letters of names and whole words give way to similar ones."""

import functools
import itertools
import random

import numpy as np
from rapidfuzz import fuzz, process

from slm_jax.tasks.spoken_scenes import names as names_lib
from slm_jax.tasks.spoken_scenes.corpus import Split, sentences
from slm_jax.tasks.spoken_scenes.pronunciation import syllables

_ALIKE = {
    # What an encoder confuses most in a voice it does not know are m and n, k and p, z and s, b, d and v.
    "b": "dvpgm",
    "d": "btgvz",
    "f": "pvs",
    "g": "bdkv",
    "k": "ptg",
    "l": "rnd",
    "m": "nbv",
    "n": "mld",
    "p": "ktfb",
    "r": "lvm",
    "s": "zf",
    "t": "dkpl",
    "v": "bfdz",
    "z": "svd",
    "a": "oe",
    "e": "aio",
    "i": "eu",
    "o": "aue",
    "u": "oi",
}
_CLOSING = {"l": "rn", "n": "lr", "r": "ls", "s": "nl"}
_CHANGES = (1, 1, 1, 1, 2, 2)
_LOST_SHARE = 0.05

_SAMPLED_SENTENCES = 6000
_NEIGHBOURS = 6
_REPLACED_SHARE = 0.8
_ARTICLES = frozenset({"a", "an", "the"})
"""Nothing in a sentence tells which one was said, so nothing could be learned from a wrong one."""
_UNSTRESSED = frozenset({"a", "an", "are", "at", "in", "is", "on", "to", "was", "were"})
"""What an encoder loses most. A sentence without one is no sentence, and mostly tells which one it was."""
_UNSTRESSED_LOST_SHARE = 0.5


def mishear(name: str, *, rng: random.Random) -> str:
    """The name with one to three letters changed to similar ones; now and then a syllable is lost as well.

    >>> mishear("nemus", rng=random.Random(3))
    'nemun'

    Raises:
      ValueError: if the name is not made of syllables that `pronunciation` knows.
    """
    parts = syllables(name)
    if len(parts) > 2 and rng.random() < _LOST_SHARE:
        parts.pop(rng.randrange(len(parts)))
    places = [(part, place) for part, syllable in enumerate(parts) for place in range(len(syllable))]
    for part, place in rng.sample(places, min(rng.choice(_CHANGES), len(places))):
        alike = _ALIKE if place < 2 else _CLOSING
        syllable = parts[part]
        parts[part] = syllable[:place] + rng.choice(alike[syllable[place]]) + syllable[place + 1 :]
    return "".join(parts)


@functools.cache
def neighbours() -> dict[str, tuple[str, ...]]:
    """English words of the scenes, each with those that are spelled most like it, the likest first."""
    names = {*names_lib.TRAIN_NAMES, *names_lib.HELD_OUT_NAMES}
    scenes = itertools.islice(sentences(Split.TRAIN), _SAMPLED_SENTENCES)
    words = sorted({word for text, _ in scenes for word in text.split()} - names - _ARTICLES)
    alike = process.cdist(words, words, scorer=fuzz.ratio)
    np.fill_diagonal(alike, -1)
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, :_NEIGHBOURS]
    return {word: tuple(words[i] for i in row) for word, row in zip(words, nearest, strict=True)}


def mishear_words(transcript: str, *, rng: random.Random) -> str:
    """The transcript with one or two words taken for similar ones, with a syllable behind them, or lost.

    Names stay as they are. Only small words are lost: of others a language model would learn to make words up.

    >>> mishear_words("they help a dancer in the city", rng=random.Random(4))
    'they help dancer in the city'
    """
    words = transcript.split()
    changeable = [place for place, word in enumerate(words) if word in neighbours() or word in _UNSTRESSED]
    for place in rng.sample(changeable, min(rng.choice((1, 1, 2)), len(changeable))):
        words[place] = _mishear_word(words[place], rng=rng)
    return " ".join(word for word in words if word)


def _mishear_word(word: str, *, rng: random.Random) -> str:
    """The word that is heard, '' if none is."""
    if word not in neighbours() or (word in _UNSTRESSED and rng.random() < _UNSTRESSED_LOST_SHARE):
        return ""
    if rng.random() < _REPLACED_SHARE:
        return rng.choice(neighbours()[word])
    return word + rng.choice(syllables(rng.choice(names_lib.TRAIN_NAMES)))
