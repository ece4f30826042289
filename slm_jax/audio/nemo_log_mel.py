"""The log-mel front end of NeMo's speech encoders: FastConformer, Parakeet, Canary."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from slm_jax.audio.frames import channel_moments, mel_energies, overlapping_frames
from slm_jax.audio.log_mel import MelScale, mel_filters
from slm_jax.typing import Array, Float, Int

SAMPLE_RATE = 16000
FLOOR = 2.0**-24
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class NemoLogMel:
    """log(mel filters of the power spectrum + 2^-24), normalised a channel at a time over the utterance.

    Pre-emphasis comes before the frames; frame t is centred on sample t * hop_samples, with zeros beyond the ends of
    the utterance, under a symmetric Hann window. Filters are Slaney's, from 0 to 8000 Hz. n samples give
    floor(n / hop_samples) frames: 16 kHz and 160 samples are 100 a second. From every channel its mean over the real
    frames is subtracted, and it is divided by its unbiased standard deviation over them, plus 1e-5.
    Source: ParakeetFeatureExtractor of transformers, AudioToMelSpectrogramPreprocessor of NeMo (without dither).

    Attributes:
      num_mels: channels.
      frame_samples: length of the window; even.
      hop_samples: samples between frames.
      fft_length: points of the spectrum; frames are padded with zeros up to it.
      preemphasis: how much of the sample before is subtracted from a sample.

    Raises:
      ValueError: if the fields do not fit together; the filters are checked in the first call.
    """

    num_mels: int = 80
    frame_samples: int = 400
    hop_samples: int = 160
    fft_length: int = 512
    preemphasis: float = 0.97

    def __post_init__(self) -> None:
        if self.frame_samples % 2 or not self.hop_samples <= self.frame_samples <= self.fft_length:
            raise ValueError(
                "NemoLogMel needs an even frame_samples with hop_samples <= frame_samples <= fft_length; got "
                f"frame_samples {self.frame_samples}, hop_samples {self.hop_samples}, fft_length {self.fft_length}"
            )

    def output_length(self, num_samples: int) -> int:
        """Frames of `num_samples` samples."""
        return num_samples // self.hop_samples

    def __call__(
        self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"]
    ) -> tuple[Float[Array, "B T F"], Int[Array, "B"]]:
        """Normalised log-mel channels and the number of real frames; samples beyond the length count as zeros.

        Frames beyond the real ones hold zeros.
        """
        speech = speech.astype(jnp.float32)
        speech -= self.preemphasis * jnp.pad(speech, ((0, 0), (1, 0)))[:, :-1]
        speech = jnp.where(jnp.arange(speech.shape[1]) < speech_length[:, None], speech, 0)
        frames = overlapping_frames(
            jnp.pad(speech, ((0, 0), (self.frame_samples // 2, 0))),
            num_frames=self.output_length(speech.shape[1]),
            frame_samples=self.frame_samples,
            hop_samples=self.hop_samples,
        )
        log_mel = jnp.log(mel_energies(frames * np.hanning(self.frame_samples), self._filters()) + FLOOR)
        frame_length = speech_length // self.hop_samples
        real = (jnp.arange(log_mel.shape[1]) < frame_length[:, None])[..., None]
        mean, variance = channel_moments(log_mel, real)
        return jnp.where(real, (log_mel - mean) / (jnp.sqrt(variance) + EPSILON), 0), frame_length

    def _filters(self) -> np.ndarray:
        return mel_filters(
            num_mels=self.num_mels,
            fft_length=self.fft_length,
            sample_rate=SAMPLE_RATE,
            low_hz=0.0,
            high_hz=SAMPLE_RATE / 2,
            scale=MelScale.SLANEY,
        )
