"""Synthetic speech: rate, duration, loudness, variation, determinism."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from slm_jax.tasks.spoken_scenes import voices
from slm_jax.tasks.spoken_scenes.voices import HIBARI, PICO_GB, PICO_US, SAMPLE_RATE, Noise, Variation

TEXT = "Mirela bought a red coat at the market."


def dominant_period(speech: np.ndarray) -> float:
    """Samples of the strongest repetition between 60 and 400 Hz: the pitch of voiced speech."""
    correlation = np.fft.irfft(np.abs(np.fft.rfft(speech, 2 * len(speech))) ** 2)
    low, high = SAMPLE_RATE // 400, SAMPLE_RATE // 60
    return low + int(np.argmax(correlation[low:high]))


@pytest.mark.parametrize("voice", [PICO_US, PICO_GB, HIBARI], ids=lambda voice: voice.name)
def test_a_voice_speaks_at_16_khz_and_the_same_each_time(voice: voices.Voice):
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


def test_speed_shortens_pitch_and_formant_raise():
    plain = voices.speak(TEXT, voice=PICO_US)
    fast = voices.speak(TEXT, voice=PICO_US, speed=1.25)
    assert len(fast) < 0.9 * len(plain)
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
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        voices.speak(arguments.pop("text"), **arguments)


def test_silence_is_trimmed_and_pure_silence_refused():
    tone = np.sin(np.arange(1600) * 0.3).astype(np.float32)
    trimmed = voices.trim_silence(np.concatenate([np.zeros(3200, np.float32), tone, np.zeros(800, np.float32)]))
    assert len(trimmed) == 1600
    with pytest.raises(ValueError, match="silent from end to end"):
        voices.trim_silence(np.zeros(1600, np.float32))


@pytest.mark.parametrize("noise", [Noise.WHITE, Noise.PINK, Noise.BABBLE])
def test_noise_has_unit_power_and_its_color(noise: Noise):
    samples = voices.make_noise(noise, 32_000, rng=np.random.default_rng(0))
    assert abs(np.mean(np.square(samples)) - 1) < 0.01
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    low, high = spectrum[1000:4000].mean(), spectrum[8000:14_000].mean()  # 0.5-2 kHz and 4-7 kHz
    assert (low > 2 * high) == (noise is not Noise.WHITE)


TONE = np.sin(np.arange(16_000) * 0.3).astype(np.float32)
PLAIN = Variation()


@pytest.mark.parametrize(
    "change",
    [
        {"peak": 0.2},
        {"noise": Noise.WHITE, "snr_db": 20.0},
        {"tilt_db": (4.0, 0.0, 0.0, 0.0, -4.0)},
        {"lead": 0.2},
        {"trail": 0.2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_part_of_a_variation_changes_the_sound(change: dict):
    plain = voices.vary(TONE, variation=PLAIN, rng=np.random.default_rng(0))
    varied = voices.vary(TONE, variation=dataclasses.replace(PLAIN, **change), rng=np.random.default_rng(0))
    assert varied.shape != plain.shape or np.max(np.abs(varied - plain)) > 1e-3


def test_padding_peak_and_noise_level_are_as_asked():
    variation = Variation(peak=0.4, lead=0.1, trail=0.05, noise=Noise.WHITE, snr_db=20.0)
    heard = voices.vary(TONE, variation=variation, rng=np.random.default_rng(0))
    clean = voices.vary(TONE, variation=dataclasses.replace(variation, noise=Noise.NONE), rng=np.random.default_rng(0))
    assert len(heard) == len(TONE) + 1600 + 800
    np.testing.assert_allclose(np.max(np.abs(clean)), 0.4, rtol=1e-5)
    assert not clean[:1600].any()
    ratio = np.mean(np.square(clean[1600:-800])) / np.mean(np.square(heard - clean))
    np.testing.assert_allclose(10 * np.log10(ratio), 20.0, atol=0.2)


def test_variations_are_drawn_within_their_ranges_and_test_is_modest():
    rng = np.random.default_rng(0)
    wide = [voices.draw_variation(rng, voice=PICO_US) for _ in range(200)]
    assert all(0.8 <= v.speed <= 1.25 and 0.85 <= v.formant <= 1.18 and 15 <= v.snr_db <= 40 for v in wide)
    assert {v.noise for v in wide} == set(Noise)
    assert all(voices.draw_variation(rng, voice=HIBARI).pitch == 1.0 for _ in range(20))
    light = [voices.draw_light_variation(rng) for _ in range(200)]
    assert all(0.9 <= v.speed <= 1.1 and v.formant == v.pitch == 1.0 and v.snr_db >= 30 for v in light)


def test_16_bit_samples():
    np.testing.assert_array_equal(voices.to_int16(np.array([-2.0, -1.0, 0.0, 1.0])), [-32767, -32767, 0, 32767])
