"""Invented names sound as they are spelled."""

import re

import numpy as np
import pytest

from slm_jax.tasks.spoken_scenes import grammar, names, pronunciation, utterances, voices
from slm_jax.tasks.spoken_scenes.corpus import Split, sentences
from slm_jax.tasks.spoken_scenes.pronunciation import name_markup, syllables
from slm_jax.tasks.spoken_scenes.voices import Engine

EVERYBODY = [
    pytest.param(voice, marks=[pytest.mark.flite] if voice.engine is Engine.FLITE else [], id=voice.name)
    for voice in (voices.HELD_OUT_VOICE, *(voice for voice, _ in voices.FULL_CAST))
]


@pytest.mark.parametrize(
    ("name", "parts", "pico", "hibari", "flite"),
    [
        ("tubifa", ["tu", "bi", "fa"], 'tu:."bi:.fA:', "tubˈifɑ", "t uw0 b iy1 f aa0"),
        ("devepor", ["de", "ve", "por"], r'dE."vE.pO:r\\', "dɛvˈɛpɔɹ", "d eh0 v eh1 p ao0 r"),
        ("ratilen", ["ra", "ti", "len"], r'r\\A:."ti:.lEn', "ɹɑtˈilɛn", "r aa0 t iy1 l eh0 n"),
        ("gus", ["gus"], '"gu:s', "ɡˈus", "g uw1 s"),
    ],
)
def test_a_letter_is_a_sound(name: str, parts: list[str], pico: str, hibari: str, flite: str):
    assert syllables(name) == parts
    assert name_markup(name, engine=Engine.PICO) == f"<phoneme ph='{pico}'/>"
    assert name_markup(name, engine=Engine.HIBARI) == f"[{name.capitalize()}](/{hibari}/)"
    assert name_markup(name, engine=Engine.FLITE) == f'<phoneme ph="{flite}">{name}</phoneme>'


def spell(letters: str) -> str:
    """What Pico is told to say for some letters."""
    return "".join(pronunciation._SOUNDS[Engine.PICO].get(letter, letter) for letter in letters)


def say(sounds: str, voice: voices.Voice) -> bytes:
    return voices.speak(f"We see <phoneme ph='\"{sounds}'/> here.", voice=voice).tobytes()


@pytest.mark.parametrize(
    ("letters", "word"), [("red", "red"), ("tod", "toad"), ("tim", "team"), ("tul", "tool"), ("tap", "top")]
)
def test_picos_sounds_are_those_of_its_own_words(letters: str, word: str):
    assert say(spell(letters), voices.PICO_US) == voices.speak(f"We see {word} here.", voice=voices.PICO_US).tobytes()


@pytest.mark.parametrize("voice", [voices.PICO_US, voices.PICO_GB], ids=lambda voice: voice.name)
def test_pico_leaves_no_sound_out(voice: voices.Voice):
    """As it does, without a word, with what it does not know."""
    unknown = say(spell("t") + "r", voice)
    assert unknown == say(spell("t"), voice)
    for letter in "bdfgklmnprstvzaeiou":
        assert say(spell("t") + spell(letter) + spell("a"), voice) != say(spell("ta"), voice), letter


@pytest.mark.parametrize("name", ["", "anna", "mirelja", "x"])
def test_another_kind_of_name_has_no_known_sound(name: str):
    with pytest.raises(ValueError, match="is not made of syllables"):
        syllables(name)


@pytest.mark.parametrize("engine", list(Engine))
def test_every_name_has_a_sound_of_its_own(engine: Engine):
    everyone = names.TRAIN_NAMES + names.HELD_OUT_NAMES
    # Pico's and flite's sounds stand in quotes, hibari's behind the name.
    sounds = {re.sub(r"\[.*\]|>.*<", "", name_markup(name, engine=engine)) for name in everyone}
    assert len(sounds) == len(everyone)


@pytest.mark.parametrize("voice", EVERYBODY)
def test_names_that_english_rules_read_alike_are_heard_apart(voice: voices.Voice):
    pairs = [("tanoga", "tonoga"), ("varapen", "varupen"), ("kadezor", "kadazor")]
    for pair in pairs:
        heard = [voices.speak(f"We see {name_markup(n, engine=voice.engine)} here.", voice=voice) for n in pair]
        assert not np.array_equal(*heard)


def _named_scene() -> grammar.Scene:
    return next(scene for text, scene in sentences(Split.TEST) if scene.name and not text.startswith(scene.name))


def test_the_spoken_form_holds_the_sounds_of_the_name():
    scene = _named_scene()
    for engine in Engine:
        spoken = utterances.spoken_form(scene, engine=engine)
        assert name_markup(scene.name, engine=engine) in spoken
        assert spoken[0].isupper()
        assert spoken.endswith(".")
