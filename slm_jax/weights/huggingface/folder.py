"""A Hugging Face folder: config.json, and tensors in one or several safetensors files."""

import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from slm_jax.weights import safetensors_io
from slm_jax.weights.safetensors_io import WeightFileError
from slm_jax.weights.tables import Tensors

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PROCESSOR = "processor_config.json"
DTYPES: Mapping[str, np.dtype] = {
    **safetensors_io.DTYPES,
    "F16": np.dtype(np.float16),
    "I64": np.dtype(np.int64),
}
"""What a tensor may be stored as; integers are positions and counters of training, which tables leave behind."""


class Folder(Tensors):
    """The tensors and the configuration of a checkpoint.

    Args:
      path: the folder.

    Tensors are looked for when they are needed: to describe a model, config.json is enough.

    Raises:
      FileNotFoundError: there is no such folder, or it has no config.json; later, it has no safetensors.
      WeightFileError: config.json is damaged; later, the index is, or a shard is missing, damaged or without its
        tensors.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path).expanduser()
        if not (self.path / CONFIG).is_file():
            raise FileNotFoundError(f"{path} is not a Hugging Face checkpoint: it has no {CONFIG}")
        self.config: dict[str, Any] = self._read_json(CONFIG)

    @functools.cached_property
    def _files(self) -> dict[str, pathlib.Path]:
        return self._find_tensors()

    @functools.cached_property
    def layout(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of all tensors, from the headers alone."""
        shards = {file: safetensors_io.read_layout(file, dtypes=DTYPES) for file in set(self._files.values())}
        lost = sorted(name for name, file in self._files.items() if name not in shards[file])
        if lost:
            raise WeightFileError(f"{self.path / INDEX} promises tensors that the files do not have: {', '.join(lost)}")
        return {name: shards[file][name] for name, file in self._files.items()}

    @functools.cached_property
    def preprocessor(self) -> dict[str, Any]:
        """The settings of a speech encoder's front end; a processor that has a tokenizer too keeps them within its own.

        Raises:
          FileNotFoundError: the folder has none.
        """
        if (self.path / PREPROCESSOR).is_file():
            return self._read_json(PREPROCESSOR)
        processor = self._read_json(PROCESSOR) if (self.path / PROCESSOR).is_file() else {}
        if not isinstance(processor.get("feature_extractor"), dict):
            raise FileNotFoundError(
                f"{self.path} has neither {PREPROCESSOR} nor a feature_extractor in {PROCESSOR}, which tell how the"
                " encoder hears"
            )
        return processor["feature_extractor"]

    def read(self, name: str) -> np.ndarray:
        """One tensor as it is stored; the file is mapped into memory, so nothing else is read."""
        return safetensors_io.read_tensor(self._files[name], name)

    def _find_tensors(self) -> dict[str, pathlib.Path]:
        if (self.path / INDEX).is_file():
            weights = self._read_json(INDEX).get("weight_map")
            if not isinstance(weights, dict):
                raise WeightFileError(f"{self.path / INDEX} has no weight_map")
            return {name: self._shard(file) for name, file in weights.items()}
        single = self.path / SINGLE
        if single.is_file():
            return dict.fromkeys(safetensors_io.read_layout(single, dtypes=DTYPES), single)
        pickled = sorted(path.name for path in self.path.glob("*.bin"))
        hint = (
            f" It has {', '.join(pickled)}, which may run code when it is opened: load it with transformers where you"
            " trust it, and save_pretrained writes safetensors."
            if pickled
            else ""
        )
        raise FileNotFoundError(f"{self.path} has neither {SINGLE} nor {INDEX}.{hint}")

    def _shard(self, file: Any) -> pathlib.Path:
        if pathlib.PurePath(str(file)).name != file:
            raise WeightFileError(f"{self.path / INDEX} names {file!r}, which is not a file of that folder")
        if not (self.path / file).is_file():
            raise FileNotFoundError(f"{self.path / INDEX} names {file!r}, but the file is not there")
        return self.path / file

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise WeightFileError(f"{self.path / name} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise WeightFileError(f"{self.path / name} is not a JSON object")
        return content
