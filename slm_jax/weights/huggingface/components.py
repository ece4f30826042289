"""Components out of Hugging Face folders: the model that config.json describes, and its parameters."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from slm_jax.models.decoder_only import DecoderOnly
from slm_jax.models.t5 import T5
from slm_jax.weights.huggingface import decoders, encoder_decoders
from slm_jax.weights.huggingface.fields import UnsupportedConfigError
from slm_jax.weights.huggingface.folder import CONFIG, Folder
from slm_jax.weights.huggingface.tables import read_parameters

LANGUAGE_MODELS = {kind: room for room in (decoders, encoder_decoders) for kind in room.FAMILIES}
"""The module that knows a model, by the model_type of its config.json."""


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


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The source of a component: `run.Training.sources = {'lm': @components.Checkpoint()}`.

    Attributes:
      folder: with config.json and safetensors.
    """

    folder: str

    def __fspath__(self) -> str:
        return self.folder

    def read(self, component: str, *, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
        """The parameters of a component, by path, in the dtypes of `shapes`.

        Args:
          component: 'lm'.
          shapes: what the component needs, scanned or unrolled, by path.

        Raises:
          FileNotFoundError: the folder is no checkpoint.
          UnsupportedConfigError: it holds another kind of model.
          slm_jax.weights.safetensors_io.WeightFileError: tensors are missing, unexpected or of another shape.
        """
        folder = Folder(self.folder)
        if component != "lm":
            raise UnsupportedConfigError(f"{self.folder} holds a language model, not the component {component!r}")
        model, room = _language_model(folder), LANGUAGE_MODELS[folder.config["model_type"]]
        return dict(read_parameters(folder, room.rows(model), shapes=shapes, unused=room.unused(model)))


def _language_model(folder: Folder, **settings: Any) -> DecoderOnly | T5:
    kind = folder.config.get("model_type")
    if kind not in LANGUAGE_MODELS:
        known = ", ".join(sorted(LANGUAGE_MODELS))
        raise UnsupportedConfigError(f"{folder.path / CONFIG}: model_type is {kind!r}; slm_jax knows {known}")
    return LANGUAGE_MODELS[kind].model_of(folder.config, where=str(folder.path / CONFIG), **settings)
