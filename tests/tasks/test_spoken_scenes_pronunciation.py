"""Invented names sound as they are spelled."""

import numpy as np
import pytest

from slm_jax.tasks.spoken_scenes import grammar, names, utterances, voices
from slm_jax.tasks.spoken_scenes.corpus import Split, sentences
from slm_jax.tasks.spoken_scenes.pronunciation import name_markup, syllables
from slm_jax.tasks.spoken_scenes.voices import Engine


@pytest.mark.parametrize(
    ("name", "parts", "pico", "hibari"),
    [
        ("tubifa", ["tu", "bi", "fa"], "<phoneme ph='tu:.\"bi:.fA:'/>", "[Tubifa](/tubˈifɑ/)"),
        ("devepor", ["de", "ve", "por"], "<phoneme ph='dE.\"vE.pO:r'/>", "[Devepor](/dɛvˈɛpɔɹ/)"),
        ("ratilen", ["ra", "ti", "len"], "<phoneme ph='rA:.\"ti:.lEn'/>", "[Ratilen](/ɹɑtˈilɛn/)"),
        ("gus", ["gus"], "<phoneme ph='\"gu:s'/>", "[Gus](/ɡˈus/)"),
    ],
)
def test_a_letter_is_a_sound(name: str, parts: list[str], pico: str, hibari: str):
    assert syllables(name) == parts
    assert name_markup(name, engine=Engine.PICO) == pico
    assert name_markup(name, engine=Engine.HIBARI) == hibari


@pytest.mark.parametrize("name", ["", "anna", "mirelja", "x"])
def test_another_kind_of_name_has_no_known_sound(name: str):
    with pytest.raises(ValueError, match="is not made of syllables"):
        syllables(name)


@pytest.mark.parametrize("engine", list(Engine))
def test_every_name_has_a_sound_of_its_own(engine: Engine):
    everyone = names.TRAIN_NAMES + names.HELD_OUT_NAMES
    sounds = {name_markup(name, engine=engine).split("](")[-1] for name in everyone}
    assert len(sounds) == len(everyone)


@pytest.mark.parametrize("voice", [*voices.TRAIN_VOICES, voices.HELD_OUT_VOICE], ids=lambda voice: voice.name)
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
