"""How invented names sound: as they are spelled, one sound a letter.

Read by English rules they could not be written down again: "tanoga" and "tonoga" come out the same, the e of "bamepa"
is silent. So the synthesizers get phonemes, with the stress on the last syllable but one.
"""

import re

from slm_jax.tasks.spoken_scenes.voices import Engine, Voice

_SYLLABLE = re.compile(r"[bdfgklmnprstvz][aeiou](?:[lnrs](?![aeiou]))?")
_ENGLISH_PICO = {"a": "A:", "e": "E", "i": "i:", "o": "@_U", "or": r"O:r\\", "u": "u:", "r": r"r\\"}
_PICO = {
    # X-SAMPA as Pico reads it: a backslash is written twice, "_" ties the halves of a diphthong. What a voice does not
    # know, as an English one "r" or "o", is left out in silence.
    "en-US": _ENGLISH_PICO,
    "en-GB": _ENGLISH_PICO,
    "de-DE": {"a": "a:", "e": "e:", "i": "i:", "o": "o:", "u": "u:", "r": "R"},
    "it-IT": {},
    "fr-FR": {"r": "R"},
}
_SOUNDS = {
    # The alphabet of hibari's text front end, which kokoro has too.
    Engine.HIBARI: {"a": "ɑ", "e": "ɛ", "i": "i", "o": "O", "or": "ɔɹ", "u": "u", "g": "ɡ", "r": "ɹ"},
    # Of the CMU dictionary.
    Engine.FLITE: {"a": "aa", "e": "eh", "i": "iy", "o": "ow", "or": "ao r", "u": "uw"},
    # The alphabet of the IPA, as espeak-ng writes what Piper speaks.
    Engine.PIPER: {"a": "ɑː", "e": "ɛ", "i": "iː", "o": "oʊ", "or": "oːɹ", "u": "uː", "g": "ɡ", "r": "ɹ"},
    # espeak-ng's own mnemonics.
    Engine.ESPEAK: {"a": "A:", "e": "E", "i": "i:", "o": "oU", "or": "O@", "u": "u:"},
    # RHVoice takes no phonemes (before 1.18): spellings that English rules read so.
    Engine.RHVOICE: {"a": "ah", "e": "eh", "i": "ee", "o": "oh", "or": "ore", "u": "oo"},
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


def sounds(voice: Voice) -> dict[str, str]:
    """What letters of a name are to a voice, where it is not the letter itself; "or" counts as one."""
    if voice.engine is Engine.PICO:
        return _PICO[voice.model]
    return _SOUNDS[Engine.HIBARI if voice.engine is Engine.KOKORO else voice.engine]


def _split(syllable: str, voice: Voice) -> list[str]:
    """The onset, the vowel, and what closes the syllable."""
    known = sounds(voice)
    rhyme = ["or"] if "or" in known and syllable[1:] == "or" else list(syllable[1:])
    return [known.get(sound, sound) for sound in (syllable[0], *rhyme)]


def name_markup(name: str, *, voice: Voice) -> str:
    """A name with its sounds, as it is put into a text that the voice speaks.

    >>> name_markup("tubifa", voice=voices.PICO_US)
    '<phoneme ph=\\'tu:."bi:.fA:\\'/>'
    >>> name_markup("tubifa", voice=voices.HIBARI)
    '[Tubifa](/tubˈifɑ/)'
    >>> name_markup("tubifa", voice=voices.ESPEAKS[0])
    "[[tu:b'i:fA:]]"
    >>> name_markup("tubifa", voice=voices.FLITE_SLT)
    '<phoneme ph="t uw0 b iy1 f aa0">tubifa</phoneme>'
    >>> name_markup("tubifa", voice=voices.RHVOICES[0])
    'too-bee-fah'

    Raises:
      ValueError: as `syllables`.
    """
    parts_of = [_split(syllable, voice) for syllable in syllables(name)]
    stressed = max(len(parts_of) - 2, 0)
    if voice.engine is Engine.PICO:
        marked = ['"' * (index == stressed) + "".join(parts) for index, parts in enumerate(parts_of)]
        return f"<phoneme ph='{'.'.join(marked)}'/>"
    if voice.engine is Engine.RHVOICE:  # every syllable a word, so none has a stress of its own
        return "-".join("".join(parts) for parts in parts_of)
    if voice.engine is Engine.FLITE:  # the stress is a digit behind each vowel
        phones = [" ".join(parts).split() for parts in parts_of]
        marked = [" ".join([o, f"{v}{int(index == stressed)}", *coda]) for index, (o, v, *coda) in enumerate(phones)]
        return f'<phoneme ph="{" ".join(marked)}">{name}</phoneme>'
    # Here the stress stands before the vowel.
    stress = "'" if voice.engine is Engine.ESPEAK else "ˈ"
    marked = [onset + stress * (index == stressed) + "".join(rhyme) for index, (onset, *rhyme) in enumerate(parts_of)]
    if voice.engine in (Engine.ESPEAK, Engine.PIPER):
        return f"[[{''.join(marked)}]]"
    return f"[{name.capitalize()}](/{''.join(marked)}/)"
