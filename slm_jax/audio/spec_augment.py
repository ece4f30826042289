"""SpecAugment: random stripes of a log-mel spectrogram are hidden in training."""

import dataclasses

import jax
import jax.numpy as jnp

from slm_jax.typing import Array, Bool, Float, Int, PRNGKey


def random_stripes(
    key: PRNGKey, *, num_masks: int, max_width: Int[Array, "B"], extent: Int[Array, "B"], size: int
) -> Bool[Array, "B X"]:
    """True within `num_masks` random stripes, each within the first `extent` of `size` positions.

    Widths are uniform over 0 .. max_width, starts over 0 .. extent - width, both ends included.

        extent 6, size 8, stripes 1..2 and 4..4 -> [0 1 1 0 1 0 0 0]
    """
    width_key, start_key = jax.random.split(key)
    shape = (extent.shape[0], num_masks)
    max_width = jnp.minimum(max_width, extent)[:, None]
    width = jnp.floor(jax.random.uniform(width_key, shape) * (max_width + 1)).astype(jnp.int32)
    width = jnp.minimum(width, max_width)  # uniform * n may round up to n
    room = extent[:, None] - width
    start = jnp.minimum(jnp.floor(jax.random.uniform(start_key, shape) * (room + 1)).astype(jnp.int32), room)
    position = jnp.arange(size)
    inside = (position >= start[..., None]) & (position < (start + width)[..., None])
    return inside.any(axis=1)


def stretch_channels(
    log_mel: Float[Array, "B T F"], low_shift: Float[Array, "B"], high_shift: Float[Array, "B"]
) -> Float[Array, "B T F"]:
    """Takes channel i from i plus a shift that goes from `low_shift` at the first to `high_shift` at the last channel.

    Between channels it interpolates, beyond the ends it repeats.

        [0 10 20 30], shifts 1 and 1   -> [10 20 30 30]
        [0 10 20 30], shifts 0 and -3  -> [0 0 0 0]
        [0 10 20 30], shifts .5 and .5 -> [5 15 25 30]
    """
    channels = jnp.arange(log_mel.shape[2])
    fraction = channels / max(log_mel.shape[2] - 1, 1)
    source = channels + low_shift[:, None] * (1 - fraction) + high_shift[:, None] * fraction
    source = jnp.clip(source, 0, log_mel.shape[2] - 1)
    # As a product with the weights of all channels: a gather of every frame would be slower.
    weights = jnp.maximum(1 - jnp.abs(source[:, None, :] - channels[:, None]), 0)
    return jnp.einsum("btf,bfg->btg", log_mel, weights, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class SpecAugment:
    """Frequency and time masking (arXiv 1904.08779), time masks growing with the utterance (arXiv 1912.05533).

    On request, channels are moved before that, as another vocal tract would move them (Jaitly and Hinton, 2013): the
    lowest and the highest by two random distances, those between by what lies between.

    Hidden values become the channel's mean over the real frames of the utterance, which is the 0 of the paper when
    features are normalised.

    Attributes:
      num_frequency_masks: stripes of channels hidden over all frames.
      frequency_mask_size: most channels in one of them.
      num_time_masks: stripes of frames hidden over all channels.
      time_mask_size: most frames in one of them.
      time_mask_fraction: most frames in one of them as a fraction of the real frames (adaptive size); the smaller of
        the two limits counts.
      channel_shift: farthest that an end of the spectrum is moved, in channels; 0 to leave it.
    """

    num_frequency_masks: int = 2
    frequency_mask_size: int = 27
    num_time_masks: int = 10
    time_mask_size: int = 100
    time_mask_fraction: float = 0.05
    channel_shift: float = 0.0

    def __call__(
        self, log_mel: Float[Array, "B T F"], frame_length: Int[Array, "B"], key: PRNGKey
    ) -> Float[Array, "B T F"]:
        """The same spectrogram with stripes hidden; frames beyond the real ones stay as they are."""
        batch, num_frames, num_mels = log_mel.shape
        frequency_key, time_key, shift_key = jax.random.split(key, 3)
        if self.channel_shift:
            limit = self.channel_shift
            shifts = jax.random.uniform(shift_key, (2, batch), minval=-limit, maxval=limit)
            log_mel = stretch_channels(log_mel, *shifts)
        channels = random_stripes(
            frequency_key,
            num_masks=self.num_frequency_masks,
            max_width=jnp.full((batch,), self.frequency_mask_size),
            extent=jnp.full((batch,), num_mels),
            size=num_mels,
        )
        adaptive = jnp.floor(frame_length * self.time_mask_fraction).astype(jnp.int32)
        frames = random_stripes(
            time_key,
            num_masks=self.num_time_masks,
            max_width=jnp.minimum(adaptive, self.time_mask_size),
            extent=frame_length,
            size=num_frames,
        )
        real = (jnp.arange(num_frames) < frame_length[:, None])[..., None]
        mean = jnp.where(real, log_mel, 0).sum(axis=1, keepdims=True) / jnp.maximum(frame_length, 1)[:, None, None]
        return jnp.where(real & (channels[:, None] | frames[..., None]), mean, log_mel)
