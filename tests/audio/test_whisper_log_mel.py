"""Whisper's front end against its definition written out, and its padding."""

import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.audio.log_mel import MelScale, mel_filters
from slm_jax.audio.whisper_log_mel import WhisperLogMel

WAVE = np.random.default_rng(0).normal(size=3200).astype(np.float32) * np.linspace(0, 1, 3200, dtype=np.float32)


def reference(wave, *, num_mels):
    """Mirrored ends, a Hann window every 160 samples, 400 points, mel, logarithm, 80 dB."""
    padded = np.pad(wave.astype(np.float64), (200, 400), mode="reflect")
    padded[200 + len(wave) :] = 0
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[160 * t : 160 * t + 400] * window for t in range(-(-len(wave) // 160))])
    power = np.abs(np.fft.rfft(frames)) ** 2
    filters = mel_filters(
        num_mels=num_mels, fft_length=400, sample_rate=16000, low_hz=0.0, high_hz=8000.0, scale=MelScale.SLANEY
    )
    log_mel = np.log10(np.maximum(power @ filters, 1e-10))
    return (np.maximum(log_mel, log_mel.max() - 8) + 4) / 4


@pytest.mark.parametrize("num_mels", [40, 80, 128])
def test_it_is_what_its_definition_says(num_mels):
    front_end = WhisperLogMel(num_mels=num_mels, seconds=None)
    log_mel, length = front_end(jnp.asarray(WAVE)[None], jnp.array([3200]))
    assert length.tolist() == [20]
    np.testing.assert_allclose(log_mel[0], reference(WAVE, num_mels=num_mels), atol=1e-3)


def test_what_is_behind_the_speech_changes_nothing():
    front_end = WhisperLogMel(seconds=None)
    junk = jnp.concatenate([jnp.asarray(WAVE), jnp.full((1700,), 9.0)])[None]
    alone, _ = front_end(jnp.asarray(WAVE)[None], jnp.array([3200]))
    longer, length = front_end(junk, jnp.array([3200]))
    np.testing.assert_allclose(longer[:, :20], alone, atol=1e-5)
    assert length.tolist() == [20]
    assert not longer[:, 20:].any()


def test_padding_counts_as_silence():
    front_end = WhisperLogMel(seconds=0.5)
    log_mel, length = front_end(jnp.asarray(WAVE)[None], jnp.array([3200]))
    assert log_mel.shape == (1, 50, 80)
    assert length.tolist() == [50]
    loudest = float(log_mel.max())
    np.testing.assert_allclose(log_mel[0, 25:], loudest - 2.0, atol=1e-5)  # 80 dB below: 8 / 4


def test_lengths():
    assert [WhisperLogMel(seconds=None).output_length(n) for n in (1, 160, 161, 480_000)] == [1, 1, 2, 3000]
    assert WhisperLogMel().output_length(5) == 3000
    with pytest.raises(ValueError, match="480001 samples of speech are more than the 480000"):
        WhisperLogMel().output_length(480_001)
