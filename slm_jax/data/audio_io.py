"""Audio files to waveforms: one function, any format libsndfile reads, any rate, any number of channels."""

import io
import os

import numpy as np
import soundfile
import soxr

from slm_jax.typing import Float

SAMPLE_RATE = 16000
"""Hz: the rate of every waveform in this package."""

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
FULL_SCALE_LIMIT = 8.0

AudioSource = str | os.PathLike[str] | bytes


class AudioError(ValueError):
    """Audio that cannot be used; the message says which and why."""


def read_audio(source: AudioSource, *, sample_rate: int = SAMPLE_RATE) -> Float[np.ndarray, "N"]:
    """One channel of samples in [-1, 1], float32, at `sample_rate` Hz.

    Channels are averaged, then the rate is converted (soxr, high quality). Samples a little beyond full scale, as
    float files and rate conversion produce them, are clipped to [-1, 1].

    Args:
      source: a path, or the bytes of a file.
      sample_rate: in Hz.

    Raises:
      FileNotFoundError: there is no such file.
      AudioError: the file cannot be decoded, ends too early, holds no samples, holds NaN or infinite samples, is not
        scaled to [-1, 1], or one of the rates makes no sense for speech.
    """
    name = "audio bytes" if isinstance(source, bytes) else os.fspath(source)
    _check_rate(sample_rate, "the sample rate asked for")
    if not isinstance(source, bytes) and not os.path.isfile(source):
        raise FileNotFoundError(f"No audio file at {name}")
    samples, rate = _decode(source, name)
    _check_rate(rate, f"the sample rate of {name}")
    return resample(_check_samples(samples, name).mean(axis=1), from_rate=rate, to_rate=sample_rate)


def resample(samples: Float[np.ndarray, "N"], *, from_rate: int, to_rate: int) -> Float[np.ndarray, "M"]:
    """The same sound at another rate (Hz), clipped to [-1, 1]."""
    if from_rate != to_rate:
        samples = soxr.resample(samples, from_rate, to_rate)
    return np.clip(samples, -1.0, 1.0).astype(np.float32)


def _decode(source: AudioSource, name: str) -> tuple[np.ndarray, int]:
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)) as file:
            samples = file.read(dtype="float32", always_2d=True)
            expected, rate = file.frames, file.samplerate
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise AudioError(f"Cannot decode {name}: {error} Is it a sound file, and complete?") from error
    if len(samples) < expected:
        raise AudioError(f"{name} ends too early: {len(samples)} of {expected} samples. Copy it again.")
    return samples, rate


def _check_samples(samples: np.ndarray, name: str) -> np.ndarray:
    if samples.size == 0:
        raise AudioError(f"{name} holds no samples")
    if not np.isfinite(samples).all():
        first = int(np.flatnonzero(~np.isfinite(samples).all(axis=1))[0])
        raise AudioError(f"{name} holds NaN or infinite samples, the first at index {first}")
    peak = float(np.abs(samples).max())
    if peak > FULL_SCALE_LIMIT:
        raise AudioError(f"{name} has samples up to {peak:g}; samples must be scaled to [-1, 1]")
    return samples


def _check_rate(rate: int, what: str) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(f"{what} is {rate} Hz; expected {LOWEST_RATE} to {HIGHEST_RATE} Hz")
