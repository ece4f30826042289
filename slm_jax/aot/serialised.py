"""Compiled steps in files, without pickle: a safetensors file with XLA's bytes, and what they take and give as JSON.

A file is a program for its chips: load only what you trust, on the versions of jax and libtpu that wrote it.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec
from jaxlib import xla_client

from slm_jax.typing import PyTree

EXECUTABLE = "executable"
FORMAT = "slm_jax compiled step 1"


def save(compiled: jax.stages.Compiled, *, results: PyTree, path: str | os.PathLike[str], about: dict[str, Any]) -> int:
    """Writes a compiled step and gives the size of its executable.

    Args:
      compiled: for real devices or for a topology.
      results: shapes of what it gives: `out_info` of what it was lowered to.
      path: a file, which is replaced.
      about: what else its reader should know, such as the topology.

    Raises:
      ValueError: an argument or a result is not laid out by a mesh.
    """
    executable: Any = compiled.runtime_executable()
    # What is compiled for a topology knows how to write itself, what is loaded on devices leaves that to its client.
    if hasattr(executable, "serialize"):
        payload = executable.serialize()
    else:
        payload = executable.client.serialize_executable(executable)
    kept = sorted(getattr(compiled, "_executable")._kept_var_idx)  # noqa: B009  # no public name
    arguments = _described(compiled.in_avals, compiled.input_shardings)
    metadata = {
        "format": FORMAT,
        "jax": jax.__version__,
        "about": json.dumps(about),
        "arguments": json.dumps([arguments[number] for number in kept]),
        "kept": json.dumps(kept),
        "results": json.dumps(_described(results, compiled.output_shardings)),
        **{name: importlib.metadata.version(name) for name in ("jaxlib", "libtpu") if _is_installed(name)},
    }
    array = np.frombuffer(bytes(payload), np.uint8)
    safetensors.numpy.save_file({EXECUTABLE: array}, path, metadata=metadata)
    return len(array)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _described(avals: PyTree, shardings: PyTree) -> list[dict[str, Any]]:
    layouts = jax.tree.leaves(shardings, is_leaf=lambda leaf: leaf is None)  # None where an argument is not used
    flat = zip(jax.tree.leaves(avals), layouts, strict=True)
    return [{"shape": aval.shape, "dtype": str(aval.dtype), "spec": _axes(sharding)} for aval, sharding in flat]


def _axes(sharding: Any) -> list[Any]:
    if not isinstance(sharding, NamedSharding):
        if sharding is None or getattr(sharding, "is_fully_replicated", False):
            return []
        raise ValueError(f"{sharding} is not laid out by a mesh: give the step shapes with a NamedSharding")
    return list(sharding.spec)


@dataclasses.dataclass(frozen=True)
class LoadedStep:
    """A compiled step that was read from a file.

    Attributes:
      executable: XLA's.
      kept: which of the arguments of the step it takes; the others do nothing.
      results: shapes and layouts of what it gives, in the order of the step's leaves.
    """

    executable: Any
    kept: Sequence[int]
    results: Sequence[jax.ShapeDtypeStruct]

    def __call__(self, *arguments: PyTree) -> list[jax.Array]:
        """The leaves of the step's results. Arrays have to lie as the step was compiled for."""
        leaves = jax.tree.leaves(arguments)
        found = self.executable.execute_sharded([_plain(leaves[number]) for number in self.kept])
        return [
            jax.make_array_from_single_device_arrays(result.shape, result.sharding, list(pieces))
            for result, pieces in zip(self.results, found.disassemble_into_single_device_arrays(), strict=True)
        ]


def _plain(leaf: jax.Array) -> jax.Array:
    """Keys of random numbers as the numbers they are."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: jax.Array) -> bool:
    """Whether an array is one of keys of random numbers."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def load(path: str | os.PathLike[str], *, mesh: jax.sharding.Mesh) -> LoadedStep:
    """Reads what `save` wrote onto the devices of a mesh like the one it was compiled for.

    Raises:
      ValueError: the file is none of these, or was written by other versions of jax or libtpu.
    """
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        payload = file.get_tensor(EXECUTABLE).tobytes() if EXECUTABLE in file.keys() else b""  # noqa: SIM118
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{pathlib.Path(path)} holds no compiled step: slm_jax.precompile --serialize writes one")
    for name in ("jaxlib", "libtpu"):
        here = importlib.metadata.version(name) if _is_installed(name) else "none"
        if name in metadata and metadata[name] != here:
            raise ValueError(f"{pathlib.Path(path)} was compiled by {name} {metadata[name]}, here is {here}")
    devices = tuple(mesh.devices.flat)
    executable = devices[0].client.deserialize_executable(payload, executable_devices=xla_client.DeviceList(devices))
    return LoadedStep(
        executable=executable,
        kept=json.loads(metadata["kept"]),
        results=[_shape(told, mesh) for told in json.loads(metadata["results"])],
    )


def _shape(told: dict[str, Any], mesh: jax.sharding.Mesh) -> jax.ShapeDtypeStruct:
    spec = PartitionSpec(*(tuple(axes) if isinstance(axes, list) else axes for axes in told["spec"]))
    return jax.ShapeDtypeStruct(tuple(told["shape"]), told["dtype"], sharding=NamedSharding(mesh, spec))
