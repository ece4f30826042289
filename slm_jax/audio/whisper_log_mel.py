"""The front end of Whisper (arXiv 2212.04356, section 2.2)."""

import dataclasses
import functools

import jax.numpy as jnp

from slm_jax.audio.log_mel import LogMel, MelScale
from slm_jax.typing import Array, Float, Int

_FRAME, _HOP = 400, 160
_FLOOR = 1e-10
_RANGE = 8.0  # in log10: 80 dB


@dataclasses.dataclass(frozen=True)
class WhisperLogMel:
    """Log-mel of 16 kHz speech as Whisper was trained on, one vector every 10 ms.

    Frame t is centred on sample 160 t, with the first 200 samples mirrored in front; n samples give ceil(n / 160)
    frames. What is quieter than the loudest channel and frame by more than 80 dB is raised to that; the logarithm to
    base 10 is then shifted and scaled to about [-1, 1]. Follows
    `transformers/models/whisper/feature_extraction_whisper.py` (Apache-2.0) in behaviour.

    Attributes:
      num_mels: channels; 80, and 128 in large-v3.
      seconds: zeros are appended to speech up to this length, as in Whisper's training; None for none. Whisper counts
        the zeros as speech, but hears it without them as well.
    """

    num_mels: int = 80
    seconds: float | None = 30.0

    @functools.cached_property
    def _mel(self) -> LogMel:
        return LogMel(
            num_mels=self.num_mels,
            frame_samples=_FRAME,
            hop_samples=_HOP,
            fft_length=_FRAME,
            low_hz=0.0,
            high_hz=8000.0,
            scale=MelScale.SLANEY,
        )

    @property
    def window(self) -> int | None:
        """Samples that speech is padded to, if it is."""
        return None if self.seconds is None else round(self.seconds * self._mel.sample_rate)

    def output_length(self, num_samples: int) -> int:
        """Frames of `num_samples` samples, padded.

        Raises:
          ValueError: they are more than `seconds` hold.
        """
        if self.window is None:
            return self._mel.output_length(num_samples)
        if num_samples > self.window:
            raise ValueError(
                f"{num_samples} samples of speech are more than the {self.window} that WhisperLogMel.seconds ="
                f" {self.seconds} hold: cut the recording, or set a shorter TASK_FEATURE_LENGTHS['speech']"
            )
        return self._mel.output_length(self.window)

    def __call__(
        self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"]
    ) -> tuple[Float[Array, "B T F"], Int[Array, "B"]]:
        """Log-mel and the number of frames that count; frames beyond hold zeros."""
        num_frames = self.output_length(speech.shape[1])
        size = num_frames * _HOP
        speech = jnp.where(jnp.arange(speech.shape[1]) < speech_length[:, None], speech, 0).astype(jnp.float32)
        speech = jnp.pad(speech, ((0, 0), (0, size - speech.shape[1])))
        half = _FRAME // 2
        mirrored = jnp.pad(speech, ((0, 0), (half, 0)), mode="reflect")
        energies = self._mel.mel_energies(self._mel.frames(mirrored))[:, :num_frames]
        frame_length = -(-speech_length // _HOP) if self.window is None else jnp.full_like(speech_length, num_frames)
        real = (jnp.arange(num_frames) < frame_length[:, None])[..., None]
        log_mel = jnp.where(real, jnp.log10(jnp.maximum(energies, _FLOOR)), -jnp.inf)
        log_mel = jnp.maximum(log_mel, log_mel.max(axis=(1, 2), keepdims=True) - _RANGE)
        return jnp.where(real, (log_mel + 4.0) / 4.0, 0), frame_length
