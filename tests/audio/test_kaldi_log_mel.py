"""Kaldi's filter banks: parity with numpy's FFT, padding, both fields."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.audio.kaldi_log_mel import KaldiLogMel
from slm_jax.audio.log_mel import MelScale, mel_filters

SMALL = KaldiLogMel(num_mels=8)


def waveform(num_samples, seed=0):
    """A tone in noise, both of a loudness that changes as in speech."""
    time = np.arange(num_samples) / 16000
    tone = 0.3 * np.sin(2 * np.pi * 700 * time) + 0.05 * np.random.default_rng(seed).normal(size=num_samples)
    return (0.02 + tone * 10 ** (np.cos(2 * np.pi * 20 * time) - 1)).astype(np.float32)


def textbook(front_end, speech):
    """One utterance, a frame at a time, in float64."""
    filters = mel_filters(
        num_mels=front_end.num_mels,
        fft_length=512,
        sample_rate=16000,
        low_hz=20.0,
        high_hz=8000.0,
        scale=MelScale.KALDI,
    )
    frames = []
    for start in range(0, len(speech) - 399, 160):
        frame = speech[start : start + 400].astype(np.float64) * 32768
        frame -= frame.mean()
        frame = (frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])) * np.hanning(400) ** 0.85
        frames.append(np.log(np.maximum(np.abs(np.fft.rfft(frame, 512)) ** 2 @ filters, 1.1920929e-07)))
    frames = (frames - np.mean(frames, 0)) / np.sqrt(np.var(frames, 0, ddof=1) + 1e-7)
    whole = len(frames) // front_end.stacked
    return frames[: whole * front_end.stacked].reshape(whole, -1)


@pytest.mark.parametrize("front_end", [KaldiLogMel(), SMALL, KaldiLogMel(num_mels=10, stacked=3)])
@pytest.mark.parametrize("num_samples", [4399, 4560])
def test_equals_the_textbook(front_end, num_samples):
    speech = waveform(num_samples)
    features, frames = jax.jit(front_end.__call__)(jnp.asarray(speech)[None], jnp.array([num_samples]))
    expected = textbook(front_end, speech)
    assert frames[0] == front_end.output_length(num_samples) == len(expected)
    assert features.shape == (1, len(expected), front_end.num_features)
    np.testing.assert_allclose(features[0], expected, atol=1e-4)


def test_frames_depend_on_the_real_samples_only():
    lengths = jnp.array([0, 399, 559, 560, 879, 880, 2000])
    speech = jnp.stack([jnp.asarray(waveform(2000, seed)) for seed in range(7)])
    features, frames = SMALL(jnp.where(jnp.arange(2000) < lengths[:, None], speech, 1e3), lengths)
    assert frames.tolist() == [SMALL.output_length(n) for n in lengths.tolist()] == [0, 0, 0, 1, 1, 2, 5]
    assert np.all(np.isfinite(features))
    for row, (length, count) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
        assert not np.any(features[row, count:])
        if count:
            alone, _ = SMALL(speech[row : row + 1, :length], jnp.array([length]))
            np.testing.assert_allclose(features[row, :count], alone[0], atol=1e-5)


def test_a_constant_is_not_heard():
    speech, length = jnp.asarray(waveform(2000))[None], jnp.array([2000])
    np.testing.assert_allclose(SMALL(speech + 0.25, length)[0], SMALL(speech, length)[0], atol=1e-3)


def test_silence_is_finite():
    assert np.all(np.isfinite(SMALL(jnp.zeros((1, 1600)), jnp.array([1600]))[0]))


@pytest.mark.parametrize("change", [dict(num_mels=9), dict(stacked=1)])
def test_every_field_matters(change):
    shape = SMALL(jnp.ones((1, 1600)), jnp.array([1600]))[0].shape
    assert dataclasses.replace(SMALL, **change)(jnp.ones((1, 1600)), jnp.array([1600]))[0].shape != shape
