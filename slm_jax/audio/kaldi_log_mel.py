"""Kaldi's log-mel filter banks as SeamlessM4T and w2v-BERT 2.0 hear them."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from slm_jax.audio.frames import channel_moments, mel_energies, overlapping_frames
from slm_jax.audio.log_mel import MelScale, mel_filters
from slm_jax.typing import Array, Float, Int

SAMPLE_RATE, FRAME_SAMPLES, HOP_SAMPLES, FFT_LENGTH = 16000, 400, 160, 512
LOW_HZ, PREEMPHASIS = 20.0, 0.97
FLOOR = float(np.finfo(np.float32).eps) / 2.0**30
"""Kaldi has 2^-23 and reads 16-bit integers, 2^15 times what we have. All else of that factor goes with the mean, and
without it logarithms are nearer to zero, where float32 is finer."""
EPSILON = 1e-7


@dataclasses.dataclass(frozen=True)
class KaldiLogMel:
    """Kaldi's log-mel filter banks, normalised a channel at a time over the utterance, frames stacked.

    Frames of 25 ms every 10 ms lie within the utterance, so that n samples give 1 + floor((n - 400) / 160) of them.
    Each loses its mean, then gets pre-emphasis, in which its first sample stands for the one before, and the Povey
    window, Hann^0.85. Filters are triangles on the mel scale, from 20 to 8000 Hz. From every channel its mean over
    the real frames is subtracted, and it is divided by its unbiased standard deviation over them. Then `stacked`
    frames become one; what is left over at the end of an utterance is dropped.
    Source: SeamlessM4TFeatureExtractor of transformers, compute-fbank-feats of Kaldi (without dither).

    Attributes:
      num_mels: channels of a frame.
      stacked: frames that become one.
    """

    num_mels: int = 80
    stacked: int = 2

    @property
    def num_features(self) -> int:
        """Width of what comes out."""
        return self.num_mels * self.stacked

    def output_length(self, num_samples: int) -> int:
        """Stacked frames of `num_samples` samples."""
        return max(num_samples - FRAME_SAMPLES + HOP_SAMPLES, 0) // HOP_SAMPLES // self.stacked

    def __call__(
        self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"]
    ) -> tuple[Float[Array, "B T X"], Int[Array, "B"]]:
        """Normalised log-mel channels, stacked, and the number of real frames; samples beyond the length count for
        nothing.

        Frames beyond the real ones hold zeros.
        """
        num_frames = self.output_length(speech.shape[1]) * self.stacked
        log_mel = jnp.log(jnp.maximum(mel_energies(self._frames(speech), self._filters()), FLOOR))
        counted = jnp.maximum(speech_length - FRAME_SAMPLES + HOP_SAMPLES, 0) // HOP_SAMPLES
        mean, variance = channel_moments(log_mel, (jnp.arange(log_mel.shape[1]) < counted[:, None])[..., None])
        normalized = ((log_mel - mean) / jnp.sqrt(variance + EPSILON))[:, :num_frames]
        features = normalized.reshape(speech.shape[0], -1, self.num_features)
        frame_length = counted // self.stacked
        return jnp.where((jnp.arange(features.shape[1]) < frame_length[:, None])[..., None], features, 0), frame_length

    def _frames(self, speech: Float[Array, "B N"]) -> Float[Array, "B T W"]:
        num_frames = max(speech.shape[1] - FRAME_SAMPLES + HOP_SAMPLES, 0) // HOP_SAMPLES
        frames = overlapping_frames(
            speech.astype(jnp.float32),
            num_frames=num_frames,
            frame_samples=FRAME_SAMPLES,
            hop_samples=HOP_SAMPLES,
        )
        frames -= frames.mean(axis=-1, keepdims=True)
        before = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
        return (frames - PREEMPHASIS * before) * np.hanning(FRAME_SAMPLES) ** 0.85

    def _filters(self) -> np.ndarray:
        return mel_filters(
            num_mels=self.num_mels,
            fft_length=FFT_LENGTH,
            sample_rate=SAMPLE_RATE,
            low_hz=LOW_HZ,
            high_hz=SAMPLE_RATE / 2,
            scale=MelScale.KALDI,
        )
