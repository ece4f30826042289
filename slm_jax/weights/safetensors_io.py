"""Flat dictionaries of parameters in safetensors files: no code, no pickle, memory-mapped."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from slm_jax.typing import Array

DTYPES: Mapping[str, np.dtype] = {"BF16": np.dtype(ml_dtypes.bfloat16), "F32": np.dtype(np.float32)}
"""What a parameter may be stored as, by the name the file format gives it."""


class WeightFileError(ValueError):
    """A file of weights is damaged, is of another format, or does not hold what was asked for."""


def to_host(name: str, value: Any) -> np.ndarray:
    """`value` as a contiguous numpy array of the same dtype and shape.

    Raises:
      ValueError: parts of the array lie on devices of other processes.
    """
    if isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated):
        raise ValueError(
            f"{name!r} is split over several processes, so this one cannot read it whole: replicate it first"
            " (jax.experimental.multihost_utils.process_allgather)"
        )
    return np.asarray(value, order="C")


def save_tensors(
    tensors: Mapping[str, Array | np.ndarray],
    *,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes parameters bit for bit; a crash or a full disk leaves the file that was there before.

    Args:
      tensors: bfloat16 or float32 arrays by name, such as 'adapter/layers/mlp/kernel'.
      path: the file; its folder must exist.
      metadata: strings for the file's header.

    Raises:
      WeightFileError: an array is of another dtype.
      OSError: the file cannot be written.
    """
    path = pathlib.Path(path)
    host = {name: to_host(name, value) for name, value in tensors.items()}
    wrong = [f"{name} ({value.dtype})" for name, value in host.items() if value.dtype not in DTYPES.values()]
    if wrong:
        raise WeightFileError(f"parameters are stored as bfloat16 or float32; cast these first: {', '.join(wrong)}")
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors replaces the file by one that only its owner can read
        safetensors.numpy.save_file(host, temporary, metadata=dict(metadata or {}))
        temporary.chmod(mode)
        temporary.replace(path)
    except safetensors.SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[Any]:
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights at {path}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise WeightFileError(
            f"{path} is not a safetensors file, or was not written or copied to its end: {error}"
        ) from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings of the file's header.

    Raises:
      FileNotFoundError: there is no such file.
      WeightFileError: it is not a whole safetensors file.
    """
    with _open(path) as file:
        return dict(file.metadata() or {})


def read_layout(
    path: str | os.PathLike[str], *, dtypes: Mapping[str, np.dtype] = DTYPES
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes by name, from the header alone.

    Args:
      path: the file.
      dtypes: what tensors may be stored as.

    Raises:
      FileNotFoundError: there is no such file.
      WeightFileError: it is not a whole safetensors file, or holds a tensor of another dtype.
    """
    with _open(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        stored = {name: tensor.get_dtype() for name, tensor in slices.items()}
        wrong = [f"{name} ({dtype})" for name, dtype in stored.items() if dtype not in dtypes]
        if wrong:
            raise WeightFileError(f"{path} holds tensors that are not {' or '.join(dtypes)}: {', '.join(wrong)}")
        return {
            name: jax.ShapeDtypeStruct(tuple(tensor.get_shape()), dtypes[stored[name]])
            for name, tensor in slices.items()
        }


def iterate_tensors(path: str | os.PathLike[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays one by one, in the order of the file, so that only one need be in memory at a time.

    Raises:
      FileNotFoundError: there is no such file.
      WeightFileError: as for `read_layout`.
    """
    read_layout(path)
    with _open(path) as file:
        for name in file.offset_keys():
            yield name, file.get_tensor(name)


def read_tensor(path: str | os.PathLike[str], name: str) -> np.ndarray:
    """One array, as stored.

    Raises:
      FileNotFoundError: there is no such file.
      WeightFileError: it is not a whole safetensors file, or has no such array.
    """
    with _open(path) as file:
        return file.get_tensor(name)


def load_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays by name, as stored.

    Raises:
      FileNotFoundError: there is no such file.
      WeightFileError: as for `read_layout`.
    """
    return dict(iterate_tensors(path))
