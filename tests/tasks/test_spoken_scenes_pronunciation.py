"""Invented names sound as they are spelled."""

import re

import numpy as np
import pytest

from slm_jax.tasks.spoken_scenes import english, grammar, names, utterances, voices
from slm_jax.tasks.spoken_scenes.corpus import Split, sentences
from slm_jax.tasks.spoken_scenes.pronunciation import name_markup, sounds, syllables
from slm_jax.tasks.spoken_scenes.voices import Engine

MARKS = {
    Engine.FLITE: [pytest.mark.flite],
    Engine.ESPEAK: [pytest.mark.espeak],
    Engine.KOKORO: [pytest.mark.kokoro],
    Engine.PIPER: [pytest.mark.piper],
    Engine.RHVOICE: [pytest.mark.rhvoice],
}
EVERYBODY = [
    pytest.param(voice, marks=MARKS.get(voice.engine, []), id=voice.name)
    for voice in dict.fromkeys(
        voice
        for cast in (
            voices.FULL_CAST,
            voices.DRILL_CAST,
            voices.CHORUS_CAST[::6],
            voices.NEURAL_CAST,
            voices.CLEAR_CAST,
        )
        for voice in (*dict(cast), voices.HELD_OUT_VOICE)
    )
]
PICOS = [voices.PICO_US, voices.PICO_GB, voices.PICO_DE, voices.PICO_IT, voices.PICO_FR]


@pytest.mark.parametrize(
    ("name", "parts", "pico", "hibari", "flite", "espeak", "piper", "rhvoice"),
    [
        (
            "tubifa",
            ["tu", "bi", "fa"],
            'tu:."bi:.fA:',
            "tubˈifɑ",
            "t uw0 b iy1 f aa0",
            "tu:b'i:fA:",
            "tuːbˈiːfɑː",
            "too-bee-fah",
        ),
        (
            "devepor",
            ["de", "ve", "por"],
            r'dE."vE.pO:r\\',
            "dɛvˈɛpɔɹ",
            "d eh0 v eh1 p ao0 r",
            "dEv'EpO@",
            "dɛvˈɛpoːɹ",
            "deh-veh-pore",
        ),
        (
            "ratilen",
            ["ra", "ti", "len"],
            r'r\\A:."ti:.lEn',
            "ɹɑtˈilɛn",
            "r aa0 t iy1 l eh0 n",
            "rA:t'i:lEn",
            "ɹɑːtˈiːlɛn",
            "rah-tee-lehn",
        ),
        ("gus", ["gus"], '"gu:s', "ɡˈus", "g uw1 s", "g'u:s", "ɡˈuːs", "goos"),
    ],
)
def test_a_letter_is_a_sound(
    name: str, parts: list[str], pico: str, hibari: str, flite: str, espeak: str, piper: str, rhvoice: str
):
    assert syllables(name) == parts
    assert name_markup(name, voice=voices.PICO_US) == f"<phoneme ph='{pico}'/>"
    assert name_markup(name, voice=voices.HIBARI) == f"[{name.capitalize()}](/{hibari}/)"
    assert name_markup(name, voice=voices.KOKORO) == name_markup(name, voice=voices.HIBARI)
    assert name_markup(name, voice=voices.FLITE_SLT) == f'<phoneme ph="{flite}">{name}</phoneme>'
    assert name_markup(name, voice=voices.ESPEAKS[0]) == f"[[{espeak}]]"
    assert name_markup(name, voice=voices.PIPER_JOE) == f"[[{piper}]]"
    assert name_markup(name, voice=voices.RHVOICES[0]) == rhvoice


def say(letters: str, voice: voices.Voice, *, more: str = "") -> bytes:
    """What Pico says for some letters, and for a sound after them."""
    phonemes = "".join(sounds(voice).get(letter, letter) for letter in letters) + more
    return voices.speak(f"We see <phoneme ph='\"{phonemes}'/> here.", voice=voice).tobytes()


@pytest.mark.parametrize(
    ("letters", "word"), [("red", "red"), ("tod", "toad"), ("tim", "team"), ("tul", "tool"), ("tap", "top")]
)
def test_picos_sounds_are_those_of_its_own_words(letters: str, word: str):
    assert say(letters, voices.PICO_US) == voices.speak(f"We see {word} here.", voice=voices.PICO_US).tobytes()


@pytest.mark.parametrize("voice", PICOS, ids=lambda voice: voice.name)
def test_pico_leaves_no_sound_out(voice: voices.Voice):
    """As it does, without a word, with what it does not know."""
    assert say("t", voice, more="B") == say("t", voice)
    for letter in "bdfgklmnprstvzaeiou":
        assert say(f"t{letter}a", voice) != say("ta", voice), letter


@pytest.mark.parametrize("name", ["", "anna", "mirelja", "x"])
def test_another_kind_of_name_has_no_known_sound(name: str):
    with pytest.raises(ValueError, match="is not made of syllables"):
        syllables(name)


@pytest.mark.parametrize(
    "voice",
    [*PICOS, voices.HIBARI, voices.FLITE_SLT, voices.ESPEAKS[0], voices.RHVOICES[0]],
    ids=lambda voice: voice.name,
)
def test_every_name_has_a_sound_of_its_own(voice: voices.Voice):
    everyone = names.TRAIN_NAMES + names.HELD_OUT_NAMES
    # Pico's and flite's sounds stand in quotes, hibari's behind the name.
    marked = {re.sub(r"\[[A-Z].*\]|>.*<", "", name_markup(name, voice=voice)) for name in everyone}
    assert len(marked) == len(everyone)


@pytest.mark.parametrize("voice", EVERYBODY)
def test_names_that_english_rules_read_alike_are_heard_apart(voice: voices.Voice):
    pairs = [("tanoga", "tonoga"), ("varapen", "varupen"), ("kadezor", "kadazor")]
    for pair in pairs:
        heard = [voices.speak(f"We see {name_markup(n, voice=voice)} here.", voice=voice) for n in pair]
        assert not np.array_equal(*heard)


def _named_scene() -> grammar.Scene:
    return next(scene for text, scene in sentences(Split.TEST) if scene.name and not text.startswith(scene.name))


def test_the_spoken_form_holds_the_sounds_of_the_name():
    scene = _named_scene()
    words = english.realise(scene).split()
    for voice in (voices.PICO_US, voices.HIBARI, voices.FLITE_SLT):
        spoken = utterances.spoken_form(words, names=(scene.name,), voice=voice)
        assert name_markup(scene.name, voice=voice) in spoken
        assert spoken[0].isupper()
        assert spoken.endswith(".")


def test_a_voice_without_english_drills_names_alone():
    scene = _named_scene()
    known = set(english.realise(scene).split()) | set(names.TRAIN_NAMES)
    rng = np.random.default_rng(0)
    for voice, share in ((voices.PICO_IT, 1.0), (voices.PICO_GB, 0.5)):
        drills = [utterances.drill_words(scene, names=names.TRAIN_NAMES, voice=voice, rng=rng) for _ in range(200)]
        words = [word for drill in drills for word in drill]
        assert {len(drill) for drill in drills} == {3, 4, 5}
        assert set(words) <= known
        assert abs(np.mean([word in names.TRAIN_NAMES for word in words]) - share) < 0.06
