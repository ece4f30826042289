"""How utterances of one voice differ: pace, pitch, formants, loudness, spectrum, room, silence around, noise."""

import dataclasses
import enum
import functools
import math

import numpy as np
import scipy.signal
from jaxtyping import Float, Shaped
from numpy.random import Generator

from slm_jax.tasks.spoken_scenes import voices
from slm_jax.tasks.spoken_scenes.voices import SAMPLE_RATE, Engine, Voice

_FRAME = 160
_SILENCE_DB = -40.0


class Noise(enum.Enum):
    """Background noise: white, pink (3 dB less an octave), or shaped and modulated like many distant talkers."""

    NONE = "none"
    WHITE = "white"
    PINK = "pink"
    BABBLE = "babble"


@dataclasses.dataclass(frozen=True)
class Variation:
    """How one utterance differs from the plain voice.

    Attributes:
      speed: pace, 1 is the voice's own.
      pitch: factor on the pitch alone (Pico only; the others have none and take 1).
      formant: factor on formants and pitch together.
      peak: largest absolute sample of the speech, 0 to 1.
      noise, snr_db: background noise and its level.
      tilt_db: gains of a smooth equalizer, spread evenly in octaves over 100 Hz to 8 kHz.
      lead, trail: seconds of silence before and after the speech.
      reverberation: seconds until the echo of the room has died down by 60 dB; 0 for no room.
    """

    speed: float = 1.0
    pitch: float = 1.0
    formant: float = 1.0
    peak: float = 0.5
    noise: Noise = Noise.NONE
    snr_db: float = 40.0
    tilt_db: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    lead: float = 0.1
    trail: float = 0.1
    reverberation: float = 0.0


def draw_variation(rng: Generator, *, voice: Voice) -> Variation:
    """The wide variation of training utterances."""
    noise = (Noise.NONE, Noise.WHITE, Noise.PINK, Noise.BABBLE)[rng.integers(4)]
    return Variation(
        speed=float(rng.uniform(0.8, 1.25)),
        pitch=float(rng.uniform(0.85, 1.2)) if voice.engine is Engine.PICO else 1.0,
        formant=float(rng.uniform(0.85, 1.18)),
        peak=float(10 ** rng.uniform(-0.9, -0.05)),
        noise=noise,
        snr_db=float(rng.uniform(15.0, 40.0)),
        tilt_db=tuple(float(gain) for gain in rng.uniform(-4.0, 4.0, size=5)),
        lead=float(rng.uniform(0.05, 0.25)),
        trail=float(rng.uniform(0.05, 0.25)),
    )


def draw_light_variation(rng: Generator) -> Variation:
    """The modest variation of test utterances: no change of formants or spectrum, little noise."""
    return Variation(
        speed=float(rng.uniform(0.9, 1.1)),
        peak=float(rng.uniform(0.3, 0.7)),
        noise=(Noise.NONE, Noise.WHITE, Noise.PINK)[rng.integers(3)],
        snr_db=float(rng.uniform(30.0, 40.0)),
        lead=float(rng.uniform(0.05, 0.25)),
        trail=float(rng.uniform(0.05, 0.25)),
    )


def trim_silence(speech: Float[np.ndarray, "N"]) -> Float[np.ndarray, "M"]:
    """Cuts 10 ms frames quieter than the loudest by 40 dB off both ends.

    Raises:
      ValueError: if there is nothing but silence.
    """
    frames = speech[: len(speech) // _FRAME * _FRAME].reshape(-1, _FRAME)
    energy = np.mean(np.square(frames), axis=1)
    if not len(energy) or energy.max() <= 0:
        raise ValueError("the speech is silent from end to end")
    loud = np.flatnonzero(energy > energy.max() * 10 ** (_SILENCE_DB / 10))
    return speech[loud[0] * _FRAME : (loud[-1] + 1) * _FRAME]


@functools.cache
def _frequencies(size: int) -> Float[np.ndarray, "K"]:
    return np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 20.0).astype(np.float32)


@functools.cache
def _noise_shape(noise: Noise, size: int) -> Float[np.ndarray, "K"]:
    if noise is Noise.PINK:
        return _frequencies(size) ** -0.5
    return (1 + (_frequencies(size) / 500.0) ** 2) ** -0.75  # speech: flat to 500 Hz, then 9 dB less an octave


def _filter(samples: Float[np.ndarray, "N"], response: Float[np.ndarray, "K"]) -> Float[np.ndarray, "N"]:
    size = 2 * (len(response) - 1)
    return np.fft.irfft(np.fft.rfft(samples, size) * response, size)[: len(samples)].astype(np.float32)


def _fft_size(length: int) -> int:
    return 1 << math.ceil(math.log2(length))


def equalize(speech: Float[np.ndarray, "N"], tilt_db: tuple[float, ...]) -> Float[np.ndarray, "N"]:
    """Applies a smooth equalizer: gains in dB at frequencies spread evenly in octaves over 100 Hz to 8 kHz."""
    if not any(tilt_db):
        return speech
    frequencies = _frequencies(_fft_size(len(speech)))
    knots = np.geomspace(100.0, 8000.0, len(tilt_db))
    gains = 10 ** (np.interp(frequencies, knots, tilt_db) / 20)
    return _filter(speech, gains.astype(np.float32))


def _syllables(length: int, rng: Generator) -> Float[np.ndarray, "N"]:
    """A slow modulation around 1, as loud as many talkers make it, in steps of 10 ms."""
    seconds = np.arange(length // _FRAME + 1) * (_FRAME / SAMPLE_RATE)
    phases, rates = rng.uniform(0, 2 * np.pi, size=(4, 1)), rng.uniform(2.0, 6.0, size=(4, 1))
    waves = np.sin(2 * np.pi * rates * seconds + phases).sum(axis=0)
    return np.repeat(1 + 0.2 * waves, _FRAME)[:length].astype(np.float32)


def make_noise(noise: Noise, length: int, *, rng: Generator) -> Float[np.ndarray, "N"]:
    """Noise of unit power (zeros for `Noise.NONE`)."""
    if noise is Noise.NONE:
        return np.zeros(length, np.float32)
    samples = rng.standard_normal(length, dtype=np.float32)
    if noise is not Noise.WHITE:
        samples = _filter(samples, _noise_shape(noise, _fft_size(length)))
    if noise is Noise.BABBLE:
        samples *= _syllables(length, rng)
    return samples / np.sqrt(np.mean(np.square(samples)))


def reverberate(speech: Float[np.ndarray, "N"], *, seconds: float, rng: Generator) -> Float[np.ndarray, "M"]:
    """Speech in a room: its echo is noise that dies down evenly, as loud as the direct sound at half a second.

    Args:
      speech: the direct sound.
      seconds: until the echo has died down by 60 dB; 0 gives the speech back.
      rng: decides which room.
    """
    if seconds <= 0:
        return speech
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    echo = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    echo *= np.sqrt(min(seconds / 0.5, 1.0) / np.sum(np.square(echo)))
    echo[0] += 1.0
    return scipy.signal.fftconvolve(speech, echo).astype(np.float32)


def vary(speech: Float[np.ndarray, "N"], *, variation: Variation, rng: Generator) -> Float[np.ndarray, "M"]:
    """Trims, equalizes, puts into a room, scales, pads and adds noise to plain speech."""
    speech = equalize(trim_silence(speech), variation.tilt_db)
    speech = reverberate(speech, seconds=variation.reverberation, rng=rng)
    speech = speech * (variation.peak / np.max(np.abs(speech)))
    power = np.mean(np.square(speech))
    lead, trail = (round(seconds * SAMPLE_RATE) for seconds in (variation.lead, variation.trail))
    padded = np.pad(speech, (lead, trail)).astype(np.float32)
    scale = np.sqrt(power) * 10 ** (-variation.snr_db / 20)
    return np.clip(padded + scale * make_noise(variation.noise, len(padded), rng=rng), -1.0, 1.0)


def render(text: str, *, voice: Voice, variation: Variation, seed: int) -> Float[np.ndarray, "N"]:
    """One utterance: speaks the text in a voice under a variation; the same for the same arguments."""
    plain = voices.speak(
        text, voice=voice, speed=variation.speed, pitch=variation.pitch, formant=variation.formant, seed=seed
    )
    return vary(plain, variation=variation, rng=np.random.default_rng(seed))


def to_int16(speech: Float[np.ndarray, "N"]) -> Shaped[np.ndarray, "N"]:
    """16-bit samples of a waveform in [-1, 1]."""
    return np.round(np.clip(speech, -1.0, 1.0) * 32767.0).astype(np.int16)
