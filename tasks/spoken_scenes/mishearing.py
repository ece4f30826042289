"""Names as a listener mishears them: letters of similar sounds take each other's places."""

import random

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
_CHANGES = (1, 1, 1, 2, 2, 3)
_LOST_SHARE = 0.05


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
