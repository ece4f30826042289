"""Log-mel: parity with numpy's FFT, padding, every field."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.audio import log_mel as log_mel_lib
from slm_jax.audio.log_mel import LogMel, MelScale, Normalization, hz_to_mel, mel_filters, mel_to_hz

SMALL = LogMel(num_mels=8, fft_length=512)


def waveform(num_samples: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    time = np.arange(num_samples) / 16000
    return (0.3 * np.sin(2 * np.pi * 700 * time) + 0.1 * generator.normal(size=num_samples)).astype(np.float32)


def textbook(front_end: LogMel, speech: np.ndarray) -> np.ndarray:
    """One utterance, a frame at a time, by the fast Fourier transform in float64."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(front_end.frame_samples) / front_end.frame_samples)
    filters = mel_filters(
        num_mels=front_end.num_mels,
        fft_length=front_end.fft_length,
        sample_rate=front_end.sample_rate,
        low_hz=front_end.low_hz,
        high_hz=front_end.high_hz,
        scale=front_end.scale,
    )
    padded = np.concatenate([speech.astype(np.float64), np.zeros(front_end.frame_samples)])
    frames = []
    for start in range(0, len(speech), front_end.hop_samples):
        spectrum = np.fft.rfft(padded[start : start + front_end.frame_samples] * window, front_end.fft_length)
        frames.append(np.log(np.abs(spectrum) ** 2 @ filters + front_end.floor))
    return np.stack(frames)


@pytest.mark.parametrize(
    "front_end",
    [
        SMALL,
        LogMel(),
        LogMel(num_mels=10, fft_length=512, scale=MelScale.SLANEY, low_hz=0.0, high_hz=8000.0),
        LogMel(num_mels=6, frame_samples=320, hop_samples=320, fft_length=320, floor=1e-3),
        LogMel(num_mels=6, frame_samples=250, hop_samples=100, fft_length=256),
    ],
)
def test_equals_the_fast_fourier_transform(front_end):
    speech = waveform(1700)
    log_mel, frames = jax.jit(front_end.__call__)(speech[None], jnp.array([1700]))
    expected = textbook(front_end, speech)
    assert frames[0] == front_end.output_length(1700) == len(expected)
    np.testing.assert_allclose(log_mel[0], expected, rtol=1e-5, atol=1e-4)


def test_a_tone_is_loudest_in_its_own_channel():
    time = np.arange(16000) / 16000
    log_mel, _ = LogMel(num_mels=20)(jnp.sin(2 * jnp.pi * 1000 * time)[None], jnp.array([16000]))
    centers = mel_to_hz(np.linspace(*hz_to_mel(np.array([125.0, 7600.0]), MelScale.HTK), 22), MelScale.HTK)[1:-1]
    assert np.argmax(log_mel[0, 50]) == np.argmin(np.abs(centers - 1000))


def test_frames_depend_on_the_real_samples_only():
    lengths = jnp.array([0, 1, 161, 1000])
    speech = jnp.stack([waveform(1000, seed) for seed in range(4)])
    garbage = jnp.where(jnp.arange(1000) < lengths[:, None], speech, 1e3)
    log_mel, frames = SMALL(garbage, lengths)
    assert frames.tolist() == [0, 1, 2, 7]
    for row, (length, count) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
        assert not np.any(log_mel[row, count:])
        if length:
            alone, _ = SMALL(speech[row : row + 1, :length], jnp.array([length]))
            np.testing.assert_allclose(log_mel[row, :count], alone[0], atol=1e-5)


def test_utterance_normalization_uses_the_real_frames():
    front_end = dataclasses.replace(SMALL, normalization=Normalization.UTTERANCE)
    log_mel, frames = front_end(jnp.asarray(waveform(4000))[None], jnp.array([3000]))
    real = log_mel[0, : frames[0]]
    np.testing.assert_allclose(real.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(real.std(0), 1, atol=1e-3)
    assert not np.any(log_mel[0, frames[0] :])


def test_silence_around_the_speech_matters_little_when_loud_frames_are_counted():
    """What it still changes are the frames that reach into the speech from outside."""
    syllables = 10 ** (np.sin(2 * np.pi * 4 * np.arange(9600) / 16000) - 1)
    speech = waveform(9600) * syllables.astype(np.float32)
    surrounded = jnp.asarray(np.pad(speech, 4800))[None]
    changes = []
    for normalization in (Normalization.LOUD, Normalization.UTTERANCE):
        front_end = dataclasses.replace(SMALL, normalization=normalization)
        alone, _ = front_end(jnp.asarray(speech)[None], jnp.array([9600]))
        inside = front_end(surrounded, jnp.array([19200]))[0][:, 30:88]
        changes.append(np.abs(inside - alone[:, :58]).max())
    assert changes[0] < 0.2 < 1 < changes[1]


def test_how_loud_is_loud():
    """Quiet frames take part in nothing: what is loud becomes what it would be alone."""
    loud = jnp.asarray(np.random.default_rng(0).normal(size=(1, 20, 8)), jnp.float32)
    decibel = np.log(10) / 10
    whole = jnp.concatenate([loud - 30 * decibel, loud, loud - 60 * decibel], axis=1)
    real = jnp.ones((1, 60, 1), bool)
    for range_db, counted in ((20.0, slice(20, 40)), (45.0, slice(0, 40)), (75.0, slice(0, 60))):
        found = log_mel_lib.loud_frames(whole, real, range_db=range_db)
        assert np.flatnonzero(found[0, :, 0]).tolist() == list(range(60))[counted]
        alone = log_mel_lib.normalize(whole[:, counted], real[:, counted])
        np.testing.assert_allclose(log_mel_lib.normalize(whole, found)[:, counted], alone, atol=1e-5)


def test_normalize_divides_by_the_deviation_of_what_is_counted():
    channel = log_mel_lib.normalize(jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[[True], [True], [False]]]))
    np.testing.assert_allclose(channel[0, :, 0], [-1, 1, 7], atol=1e-4)


@pytest.mark.parametrize("normalization", [Normalization.UTTERANCE, Normalization.LOUD])
def test_normalization_of_silence_and_of_nothing_is_finite(normalization):
    front_end = dataclasses.replace(SMALL, normalization=normalization)
    log_mel, _ = front_end(jnp.zeros((2, 800)), jnp.array([800, 0]))
    assert np.all(np.isfinite(log_mel))


def test_fixed_normalization():
    speech, length = jnp.asarray(waveform(800))[None], jnp.array([800])
    mean, stddev = tuple(map(float, range(8))), (2.0,)
    fixed = dataclasses.replace(SMALL, normalization=Normalization.FIXED, mean=mean, stddev=stddev)
    plain, _ = SMALL(speech, length)
    np.testing.assert_allclose(fixed(speech, length)[0], (plain - np.arange(8)) / 2, atol=1e-5)


@pytest.mark.parametrize("scale", MelScale)
def test_mel_scales_are_inverted(scale):
    hz = np.array([0.0, 60.0, 999.0, 1000.0, 3000.0, 8000.0])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz, scale), scale), hz, atol=1e-9)


def test_mel_scales_have_their_known_values():
    np.testing.assert_allclose(hz_to_mel(1000.0, MelScale.HTK), 999.9855, atol=1e-3)
    np.testing.assert_allclose(hz_to_mel(1000.0, MelScale.SLANEY), 15.0, atol=1e-9)
    np.testing.assert_allclose(hz_to_mel(6400.0, MelScale.SLANEY), 42.0, atol=1e-9)


def test_enums_may_be_given_by_value():
    by_value = dataclasses.replace(SMALL, scale="slaney", normalization="fixed")
    assert (by_value.scale, by_value.normalization) == (MelScale.SLANEY, Normalization.FIXED)


@pytest.mark.parametrize(
    "change",
    [
        dict(sample_rate=15400),
        dict(num_mels=9),
        dict(frame_samples=320),
        dict(hop_samples=100),
        dict(fft_length=1024),
        dict(low_hz=300.0),
        dict(high_hz=4000.0),
        dict(floor=1e-2),
        dict(scale=MelScale.SLANEY),
        dict(normalization=Normalization.UTTERANCE),
        dict(normalization=Normalization.LOUD),
        dict(normalization=Normalization.FIXED, mean=(1.0,)),
        dict(normalization=Normalization.FIXED, stddev=(2.0,)),
    ],
)
def test_every_field_matters(change):
    speech, length = jnp.asarray(waveform(800))[None], jnp.array([800])
    before, after = SMALL(speech, length)[0], dataclasses.replace(SMALL, **change)(speech, length)[0]
    assert before.shape != after.shape or np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(frame_samples=401), "even frame_samples"),
        (dict(hop_samples=500), "hop_samples 500"),
        (dict(fft_length=256), "fft_length 256"),
        (dict(mean=(0.0, 1.0)), "LogMel.mean has 2 values"),
        (dict(stddev=(1.0,) * 9), "LogMel.stddev has 9 values"),
        (dict(num_mels=128), "raise fft_length"),
        (dict(high_hz=9000.0), "not within"),
        (dict(normalization="whole"), "not a valid Normalization"),
    ],
)
def test_bad_fields_give_one_clear_error(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)(jnp.zeros((1, 400)), jnp.array([400]))
