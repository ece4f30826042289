"""Short names for contents: which weights, which vocabulary, which front end a model was trained on."""

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from slm_jax import trees
from slm_jax.typing import PyTree
from slm_jax.weights.safetensors_io import to_host

PREFIX = "sha256:"
_CHUNK = 1 << 24  # elements cast at a time: 32 MiB of bfloat16


def fingerprint(params: Mapping[str, PyTree]) -> str:
    """A hash of names, shapes and values, the same on every machine.

    Values are hashed as bfloat16, so weights that were shipped in bfloat16 have one fingerprint whether they are held
    in bfloat16 or float32, and a difference below bfloat16's precision does not show. Scanned and unrolled layers are
    different names and shapes, hence different fingerprints.

    Args:
      params: nested parameters of floating-point type, without boxes; numpy arrays or jax arrays.

    Returns:
      'sha256:' and 64 hexadecimal digits.

    Raises:
      ValueError: an array is not floating-point, or is split over several processes.
    """
    flat = dict(sorted(trees.flatten(params).items()))
    # hashlib gives up the interpreter's lock on large buffers, so threads hash in parallel.
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_tensor_digest, flat, flat.values()))
    total = hashlib.sha256()
    for name, value, digest in zip(flat, flat.values(), digests, strict=True):
        total.update(f"{name} {tuple(value.shape)} {digest}\n".encode())
    return PREFIX + total.hexdigest()


def _tensor_digest(name: str, value: PyTree) -> str:
    flat = to_host(name, value).reshape(-1)
    if flat.dtype.kind != "f" and flat.dtype != ml_dtypes.bfloat16:
        raise ValueError(f"only floating-point parameters have a fingerprint; {name!r} is {flat.dtype}")
    digest = hashlib.sha256()
    for start in range(0, flat.size, _CHUNK):
        rounded = flat[start : start + _CHUNK].astype(ml_dtypes.bfloat16)
        digest.update(rounded.view(np.uint16).astype("<u2").data)
    return digest.hexdigest()


def fingerprint_file(path: str | os.PathLike[str]) -> str:
    """A hash of a file's bytes: for vocabularies.

    Raises:
      FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file at {path}")
    with path.open("rb") as file:
        return PREFIX + hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_config(text: str) -> str:
    """A hash of a configuration written as text (a front end's fields); blank lines and outer spaces do not count."""
    lines = [line.strip() for line in text.splitlines()]
    return PREFIX + hashlib.sha256("\n".join(line for line in lines if line).encode()).hexdigest()


def shorten(value: str) -> str:
    """A fingerprint that fits into a line: 'sha256:' and the first 12 digits."""
    return value[: len(PREFIX) + 12]
