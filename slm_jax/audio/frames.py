"""Overlapping frames of a waveform, their mel energies, and the moments of channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from slm_jax.typing import Array, Bool, Float


def overlapping_frames(
    speech: Float[Array, "B N"], *, num_frames: int, frame_samples: int, hop_samples: int
) -> Float[Array, "B T W"]:
    """Frame t is what begins at sample t * hop_samples; beyond the end are zeros.

    Made out of shifted blocks of a hop: reshapes and slices only, no gather.

        speech [1 2 3 4 5], 2 frames of 3 samples, hop 2 -> [1 2 3]
                                                            [3 4 5]
    """
    batch, blocks = speech.shape[0], -(-frame_samples // hop_samples)
    total = (num_frames + blocks - 1) * hop_samples
    speech = jnp.pad(speech[:, :total], ((0, 0), (0, max(total - speech.shape[1], 0))))
    speech = speech.reshape(batch, -1, hop_samples)
    shifted = [speech[:, i : i + num_frames] for i in range(blocks)]
    shifted[-1] = shifted[-1][..., : frame_samples - (blocks - 1) * hop_samples]
    return jnp.concatenate(shifted, axis=-1)


@functools.cache
def _half_fourier(frame_samples: int, fft_length: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine matrices, [frame_samples / 2, last - first], of the second half of a frame.

    Time is counted from the middle of the frame, between two samples. That turns the phase only.
    """
    time = np.arange(frame_samples // 2)[:, None] + 0.5
    angle = 2 * np.pi * time * np.arange(first, last) / fft_length
    return np.cos(angle), np.sin(angle)


def mel_energies(frames: Float[Array, "B T W"], filters: np.ndarray) -> Float[Array, "B T F"]:
    """Mel channels of the power spectrum of each frame, by matrix products.

    Every sample has a mirror image about the middle of its frame, with the same cosine and the opposite sine, so that
    matrices of half the frame suffice. Bins outside all filters are never computed.

    Args:
      frames: an even number of samples each, with a window in them.
      filters: [fft_length / 2 + 1, F], see `log_mel.mel_filters`; the spectrum has fft_length points.
    """
    used, half = np.flatnonzero(filters.sum(1)), frames.shape[-1] // 2
    first, last = int(used[0]), int(used[-1]) + 1
    after, before = frames[..., half:], frames[..., half - 1 :: -1]
    cosine, sine = _half_fourier(frames.shape[-1], 2 * (len(filters) - 1), first, last)
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    real = product(after + before, jnp.asarray(cosine, jnp.float32))
    imaginary = product(after - before, jnp.asarray(sine, jnp.float32))
    return product(jnp.square(real) + jnp.square(imaginary), jnp.asarray(filters[first:last], jnp.float32))


def channel_moments(
    log_mel: Float[Array, "B T F"], real: Bool[Array, "B T 1"]
) -> tuple[Float[Array, "B 1 F"], Float[Array, "B 1 F"]]:
    """Mean and unbiased variance of every channel over the real frames; the variance of one frame is 0.

    channel [1 3 9], real [1 1 0] -> 2, 2
    """
    count = real.sum(axis=1, keepdims=True)
    mean = jnp.where(real, log_mel, 0).sum(axis=1, keepdims=True) / jnp.maximum(count, 1)
    squares = jnp.where(real, jnp.square(log_mel - mean), 0).sum(axis=1, keepdims=True)
    return mean, squares / jnp.maximum(count - 1, 1)
