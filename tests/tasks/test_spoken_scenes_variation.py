"""Varied utterances: silence, noise, loudness, ranges."""

import dataclasses

import numpy as np
import pytest

from slm_jax.tasks.spoken_scenes import variation
from slm_jax.tasks.spoken_scenes.variation import Noise, Variation
from slm_jax.tasks.spoken_scenes.voices import FLITE_SLT, HIBARI, PICO_US, SAMPLE_RATE


def test_silence_is_trimmed_and_pure_silence_refused():
    tone = np.sin(np.arange(1600) * 0.3).astype(np.float32)
    trimmed = variation.trim_silence(np.concatenate([np.zeros(3200, np.float32), tone, np.zeros(800, np.float32)]))
    assert len(trimmed) == 1600
    with pytest.raises(ValueError, match="silent from end to end"):
        variation.trim_silence(np.zeros(1600, np.float32))


@pytest.mark.parametrize("noise", [Noise.WHITE, Noise.PINK, Noise.BABBLE])
def test_noise_has_unit_power_and_its_color(noise: Noise):
    samples = variation.make_noise(noise, 32_000, rng=np.random.default_rng(0))
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
        {"reverberation": 0.3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_part_of_a_variation_changes_the_sound(change: dict):
    plain = variation.vary(TONE, variation=PLAIN, rng=np.random.default_rng(0))
    varied = variation.vary(TONE, variation=dataclasses.replace(PLAIN, **change), rng=np.random.default_rng(0))
    assert varied.shape != plain.shape or np.max(np.abs(varied - plain)) > 1e-3


def test_padding_peak_and_noise_level_are_as_asked():
    wanted = Variation(peak=0.4, lead=0.1, trail=0.05, noise=Noise.WHITE, snr_db=20.0)
    heard = variation.vary(TONE, variation=wanted, rng=np.random.default_rng(0))
    clean = variation.vary(TONE, variation=dataclasses.replace(wanted, noise=Noise.NONE), rng=np.random.default_rng(0))
    assert len(heard) == len(TONE) + 1600 + 800
    np.testing.assert_allclose(np.max(np.abs(clean)), 0.4, rtol=1e-5)
    assert not clean[:1600].any()
    ratio = np.mean(np.square(clean[1600:-800])) / np.mean(np.square(heard - clean))
    np.testing.assert_allclose(10 * np.log10(ratio), 20.0, atol=0.2)


def test_variations_are_drawn_within_their_ranges_and_test_is_modest():
    rng = np.random.default_rng(0)
    wide = [variation.draw_variation(rng, voice=PICO_US) for _ in range(200)]
    assert all(0.8 <= v.speed <= 1.25 and 0.85 <= v.formant <= 1.18 and 15 <= v.snr_db <= 40 for v in wide)
    assert {v.noise for v in wide} == set(Noise)
    assert all(variation.draw_variation(rng, voice=voice).pitch == 1.0 for voice in (HIBARI, FLITE_SLT) * 20)
    light = [variation.draw_light_variation(rng) for _ in range(200)]
    assert all(0.9 <= v.speed <= 1.1 and v.formant == v.pitch == 1.0 and v.snr_db >= 30 for v in light)


def test_16_bit_samples():
    np.testing.assert_array_equal(variation.to_int16(np.array([-2.0, -1.0, 0.0, 1.0])), [-32767, -32767, 0, 32767])


def test_a_room_adds_an_echo_that_dies_down():
    speech = np.zeros(8000, np.float32)
    speech[1000] = 1.0
    room = variation.reverberate(speech, seconds=0.4, rng=np.random.default_rng(0))
    assert len(room) == len(speech) + 0.4 * SAMPLE_RATE - 1
    echo = np.square(room[1001:7400])
    early, late = echo[:800].sum(), echo[-800:].sum()
    assert late < 1e-4 * early
    np.testing.assert_allclose(echo.sum(), 0.4 / 0.5, rtol=0.05)
    np.testing.assert_array_equal(variation.reverberate(speech, seconds=0.0, rng=np.random.default_rng(0)), speech)
