"""How invented names sound: as they are spelled, one sound a letter.

Read by English rules they could not be written down again: "tanoga" and "tonoga" come out the same, the e of "bamepa"
is silent. So the synthesizers get phonemes, with the stress on the last syllable but one.
"""

import re

from slm_jax.tasks.spoken_scenes.voices import Engine

_SYLLABLE = re.compile(r"[bdfgklmnprstvz][aeiou](?:[lnrs](?![aeiou]))?")
_SOUNDS = {
    # X-SAMPA as Pico reads it: a backslash is written twice, "_" ties the halves of a diphthong, and what it does not
    # know, such as "r" or "o", is left out in silence.
    Engine.PICO: {"a": "A:", "e": "E", "i": "i:", "o": "@_U", "or": r"O:r\\", "u": "u:", "r": r"r\\"},
    # The alphabet of hibari's text front end.
    Engine.HIBARI: {"a": "ɑ", "e": "ɛ", "i": "i", "o": "O", "or": "ɔɹ", "u": "u", "g": "ɡ", "r": "ɹ"},
    # Of the CMU dictionary.
    Engine.FLITE: {"a": "aa", "e": "eh", "i": "iy", "o": "ow", "or": "ao r", "u": "uw"},
}


def syllables(name: str) -> list[str]:
    """Cuts a name into syllables: a consonant, a vowel, and the consonant that closes it if no vowel follows.

    Raises:
      ValueError: if the name is not made of such syllables.
    """
    found = _SYLLABLE.findall(name)
    if not found or "".join(found) != name:
        raise ValueError(f"{name!r} is not made of syllables like 'ta' and 'tan', so its sound is not known")
    return found


def _sounds(syllable: str, engine: Engine) -> list[str]:
    """The onset, the vowel, and what closes the syllable."""
    rhyme = ["or"] if syllable[1:] == "or" else list(syllable[1:])
    return [_SOUNDS[engine].get(sound, sound) for sound in (syllable[0], *rhyme)]


def name_markup(name: str, *, engine: Engine) -> str:
    """A name with its sounds, as it is put into a text that the engine speaks.

    >>> name_markup("tubifa", engine=Engine.PICO)
    '<phoneme ph=\\'tu:."bi:.fA:\\'/>'
    >>> name_markup("tubifa", engine=Engine.HIBARI)
    '[Tubifa](/tubˈifɑ/)'
    >>> name_markup("tubifa", engine=Engine.FLITE)
    '<phoneme ph="t uw0 b iy1 f aa0">tubifa</phoneme>'

    Raises:
      ValueError: as `syllables`.
    """
    sounds = [_sounds(syllable, engine) for syllable in syllables(name)]
    stressed = max(len(sounds) - 2, 0)
    if engine is Engine.PICO:
        marked = ['"' * (index == stressed) + "".join(parts) for index, parts in enumerate(sounds)]
        return f"<phoneme ph='{'.'.join(marked)}'/>"
    if engine is Engine.FLITE:  # the stress is a digit behind each vowel
        phones = [" ".join(parts).split() for parts in sounds]
        marked = [" ".join([o, f"{v}{int(index == stressed)}", *coda]) for index, (o, v, *coda) in enumerate(phones)]
        return f'<phoneme ph="{" ".join(marked)}">{name}</phoneme>'
    marked = [onset + "ˈ" * (index == stressed) + "".join(rhyme) for index, (onset, *rhyme) in enumerate(sounds)]
    return f"[{name.capitalize()}](/{''.join(marked)}/)"
