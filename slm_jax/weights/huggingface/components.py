"""Components out of Hugging Face folders: the model that config.json describes, and its parameters."""

import dataclasses
import functools
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slm_jax.models.decoder_only import DecoderOnly
from slm_jax.models.interfaces import SpeechEncoder
from slm_jax.models.t5 import T5
from slm_jax.typing import PyTree
from slm_jax.weights.huggingface import decoders, encoder_decoders, fast_conformer, w2v_bert, wav2vec2, whisper
from slm_jax.weights.huggingface.fields import UnsupportedConfigError
from slm_jax.weights.huggingface.folder import CONFIG, Folder
from slm_jax.weights.tables import read_parameters

LANGUAGE_MODELS = {kind: room for room in (decoders, encoder_decoders) for kind in room.FAMILIES}
"""The module that knows a language model, by the model_type of its config.json."""
SPEECH_ENCODERS = {kind: room for room in (fast_conformer, w2v_bert, wav2vec2, whisper) for kind in room.FAMILIES}
"""The module that knows a speech encoder, by the model_type of its config.json."""
TABLES = {"token_embedder/embedding": 0, "logits_dense/kernel": 1}
"""Parameters of language models with a row or column a token, and which axis that is."""


def language_model(folder: str | os.PathLike[str], **settings: Any) -> DecoderOnly | T5:
    """The language model of a folder, without its parameters, which `Checkpoint` reads.

    Args:
      folder: with config.json.
      **settings: what is no property of the weights, such as dtype, remat and scan_layers of DecoderOnly and T5.

    Raises:
      FileNotFoundError: the folder is no checkpoint.
      UnsupportedConfigError: config.json asks for something that slm_jax does not compute.
    """
    return _language_model(Folder(folder), **settings)


def speech_encoder(folder: str | os.PathLike[str], **settings: Any) -> SpeechEncoder:
    """The speech encoder of a folder with its front end, without its parameters, which `Checkpoint` reads.

    Args:
      folder: with config.json and preprocessor_config.json.
      **settings: what is no property of the weights, such as dtype, remat and scan_layers, and for Whisper `pad`.

    Raises:
      FileNotFoundError: the folder is no checkpoint, or does not say how its encoder hears.
      UnsupportedConfigError: it asks for something that slm_jax does not compute.
    """
    return _speech_encoder(Folder(folder), **settings)


def parameter_shapes(model: nn.Module) -> PyTree:
    """Shapes of all parameters of a model of this module, nested, without allocating any."""
    one = functools.partial(jax.ShapeDtypeStruct, (1, 1))
    arrays: tuple[jax.ShapeDtypeStruct, ...]
    if isinstance(model, SpeechEncoder):
        arrays = jax.ShapeDtypeStruct((1, 16_000), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    else:
        arrays = jax.ShapeDtypeStruct((1, 1, model.width), jnp.float32), one(jnp.bool_), one(jnp.int32)
    return nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *arrays))["params"]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The source of a component: `run.Training.sources = {'lm': @components.Checkpoint()}`.

    Attributes:
      folder: with config.json and safetensors.
      padding_id: the token that changes places with 0 in a language model's tables, as in its vocabulary
        (`TokenizerVocabulary.padding_id`); 0 for none.
    """

    folder: str
    padding_id: int = 0

    def __fspath__(self) -> str:
        return self.folder

    def read(self, component: str, *, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Iterator[tuple[str, np.ndarray]]:
        """The parameters of a component, each with its path, in the dtypes of `shapes`; no more than one is held.

        Args:
          component: 'lm' or 'speech_encoder'.
          shapes: what the component needs, scanned or unrolled, by path.

        Raises:
          FileNotFoundError: the folder is no checkpoint.
          UnsupportedConfigError: it holds another kind of model.
          slm_jax.weights.safetensors_io.WeightFileError: tensors are missing, unexpected or of another shape.
        """
        folder = Folder(self.folder)
        if component == "lm":
            model, room = _language_model(folder), LANGUAGE_MODELS[folder.config["model_type"]]
            rows, unused = room.rows(model), room.unused(model)
        elif component == "speech_encoder":
            encoder, room = _speech_encoder(folder), SPEECH_ENCODERS[folder.config["model_type"]]
            rows, unused = room.rows(encoder), room.unused(encoder)
        else:
            raise ValueError(f"{self.folder} may hold the components 'lm' and 'speech_encoder', not {component!r}")
        for path, value in read_parameters(folder, rows, shapes=shapes, unused=unused):
            yield path, self._exchange(path, value) if self.padding_id and path in TABLES else value
            del value  # before the next one is read

    def _exchange(self, path: str, table: np.ndarray) -> np.ndarray:
        """The table with rows (of logits, columns) 0 and padding_id in each other's place."""
        axis = TABLES[path]
        if self.padding_id >= table.shape[axis]:
            raise ValueError(
                f"{self.folder}: padding_id is {self.padding_id}, but {path} has {table.shape[axis]} tokens"
            )
        order = np.arange(table.shape[axis])
        order[[0, self.padding_id]] = order[[self.padding_id, 0]]
        return np.take(table, order, axis)


def _language_model(folder: Folder, **settings: Any) -> DecoderOnly | T5:
    _check_kind(folder, LANGUAGE_MODELS, "language models")
    room = LANGUAGE_MODELS[folder.config["model_type"]]
    return room.model_of(folder.config, where=str(folder.path / CONFIG), **settings)


def _speech_encoder(folder: Folder, **settings: Any) -> SpeechEncoder:
    _check_kind(folder, SPEECH_ENCODERS, "speech encoders")
    room = SPEECH_ENCODERS[folder.config["model_type"]]
    return room.model_of(folder.config, folder.preprocessor, where=str(folder.path / CONFIG), **settings)


def _check_kind(folder: Folder, known: Collection[str], what: str) -> None:
    kind = folder.config.get("model_type")
    if kind not in known:
        names = ", ".join(sorted(known))
        raise UnsupportedConfigError(f"{folder.path / CONFIG}: model_type is {kind!r}; slm_jax knows {what} {names}")
