"""NeMo's log-mel: parity with numpy's FFT, padding, every field."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.audio.log_mel import MelScale, mel_filters
from slm_jax.audio.nemo_log_mel import NemoLogMel

SMALL = NemoLogMel(num_mels=8)


def waveform(num_samples, seed=0):
    """A tone in noise, both of a loudness that changes as in speech."""
    time = np.arange(num_samples) / 16000
    tone = 0.3 * np.sin(2 * np.pi * 700 * time) + 0.05 * np.random.default_rng(seed).normal(size=num_samples)
    return (tone * 10 ** (np.cos(2 * np.pi * 20 * time) - 1)).astype(np.float32)


def textbook(front_end, speech):
    """One utterance, a frame at a time, in float64."""
    speech = speech.astype(np.float64)
    emphasized = speech - front_end.preemphasis * np.concatenate([[0], speech[:-1]])
    padded = np.pad(emphasized, front_end.frame_samples)
    filters = mel_filters(
        num_mels=front_end.num_mels,
        fft_length=front_end.fft_length,
        sample_rate=16000,
        low_hz=0.0,
        high_hz=8000.0,
        scale=MelScale.SLANEY,
    )
    frames = []
    for t in range(len(speech) // front_end.hop_samples):
        start = t * front_end.hop_samples + front_end.frame_samples // 2
        frame = padded[start : start + front_end.frame_samples] * np.hanning(front_end.frame_samples)
        frames.append(np.log(np.abs(np.fft.rfft(frame, front_end.fft_length)) ** 2 @ filters + 2.0**-24))
    return (frames - np.mean(frames, 0)) / (np.std(frames, 0, ddof=1) + 1e-5)


@pytest.mark.parametrize("front_end", [NemoLogMel(), SMALL, NemoLogMel(8, 320, 200, 1024, 0.5)])
def test_equals_the_textbook(front_end):
    speech = waveform(3950)
    log_mel, frames = jax.jit(front_end.__call__)(jnp.asarray(speech)[None], jnp.array([3950]))
    expected = textbook(front_end, speech)
    assert frames[0] == front_end.output_length(3950) == len(expected)
    np.testing.assert_allclose(log_mel[0], expected, atol=1e-4)


def test_frames_depend_on_the_real_samples_only():
    lengths = jnp.array([0, 159, 160, 481, 2000])
    speech = jnp.stack([jnp.asarray(waveform(2000, seed)) for seed in range(5)])
    log_mel, frames = SMALL(jnp.where(jnp.arange(2000) < lengths[:, None], speech, 1e3), lengths)
    assert frames.tolist() == [SMALL.output_length(n) for n in lengths.tolist()] == [0, 0, 1, 3, 12]
    assert np.all(np.isfinite(log_mel))
    for row, (length, count) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
        assert not np.any(log_mel[row, count:])
        if count:
            alone, _ = SMALL(speech[row : row + 1, :length], jnp.array([length]))
            np.testing.assert_allclose(log_mel[row, :count], alone[0], atol=1e-5)


def test_silence_is_finite():
    assert not np.any(SMALL(jnp.zeros((1, 800)), jnp.array([800]))[0])


@pytest.mark.parametrize(
    "change",
    [
        dict(num_mels=9),
        dict(frame_samples=320),
        dict(hop_samples=100),
        dict(fft_length=1024),
        dict(preemphasis=0.5),
    ],
)
def test_every_field_matters(change):
    speech, length = jnp.asarray(waveform(1600))[None], jnp.array([1600])
    before, after = SMALL(speech, length)[0], dataclasses.replace(SMALL, **change)(speech, length)[0]
    assert before.shape != after.shape or np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(frame_samples=401), "even frame_samples"),
        (dict(hop_samples=500), "hop_samples 500"),
        (dict(fft_length=256), "fft_length 256"),
        (dict(num_mels=400), "raise fft_length"),
    ],
)
def test_bad_fields_give_one_clear_error(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)(jnp.zeros((1, 400)), jnp.array([400]))
