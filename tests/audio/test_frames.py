"""Frames, mel energies and moments against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.audio.frames import channel_moments, mel_energies, overlapping_frames
from slm_jax.audio.log_mel import MelScale, hz_to_mel, mel_filters


def test_frames_drawing():
    found = overlapping_frames(jnp.array([[1.0, 2, 3, 4, 5]]), num_frames=2, frame_samples=3, hop_samples=2)
    assert found[0].tolist() == [[1, 2, 3], [3, 4, 5]]


@pytest.mark.parametrize("num_frames", [0, 1, 3, 6])
def test_frames_beyond_the_end_are_zeros_and_what_is_behind_the_last_is_left_out(num_frames):
    speech = np.arange(1.0, 18.0, dtype=np.float32)
    found = overlapping_frames(jnp.asarray(speech)[None], num_frames=num_frames, frame_samples=7, hop_samples=3)
    padded = np.concatenate([speech, np.zeros(20)])
    assert found.shape == (1, num_frames, 7)
    for t in range(num_frames):
        np.testing.assert_array_equal(found[0, t], padded[3 * t : 3 * t + 7])


def test_mel_energies_equal_the_fast_fourier_transform():
    filters = mel_filters(
        num_mels=6, fft_length=128, sample_rate=16000, low_hz=500.0, high_hz=7000.0, scale=MelScale.HTK
    )
    frames = np.random.default_rng(0).normal(size=(2, 3, 100)).astype(np.float32)
    expected = np.abs(np.fft.rfft(frames, 128)) ** 2 @ filters
    np.testing.assert_allclose(mel_energies(jnp.asarray(frames), filters), expected, rtol=1e-5)


def test_moments_count_real_frames_without_bias():
    channel, real = jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[[True], [True], [False]]])
    mean, variance = channel_moments(channel, real)
    assert (mean.item(), variance.item()) == (2, 2)
    for count in (0, 1):
        assert channel_moments(channel, jnp.arange(3)[None, :, None] < count)[1].item() == 0


def test_kaldi_filters_are_triangles_on_the_mel_scale():
    filters = mel_filters(
        num_mels=4, fft_length=512, sample_rate=16000, low_hz=100.0, high_hz=8000.0, scale=MelScale.KALDI
    )
    mel = hz_to_mel(np.arange(257) * 31.25, MelScale.KALDI)
    edges = np.linspace(mel[0] + hz_to_mel(100.0, MelScale.KALDI), mel[-1], 6)
    expected = np.stack([np.interp(mel, edges[i : i + 3], [0, 1, 0], left=0, right=0) for i in range(4)], axis=1)
    np.testing.assert_allclose(filters, expected, atol=1e-9)
