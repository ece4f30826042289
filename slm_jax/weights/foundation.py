"""Foundation models as folders: one safetensors file a component, and a manifest that says what each file is.

The package ships such a folder, slm_jax/foundation: `speech_encoder.safetensors`, `lm.safetensors`, their vocabulary
and `manifest.json`. A folder of one's own is written the same way by `export_component` and `record_file`.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import ml_dtypes
import numpy as np

from slm_jax import trees
from slm_jax.typing import PyTree
from slm_jax.weights import fingerprints, layouts, safetensors_io
from slm_jax.weights.safetensors_io import WeightFileError

SHIPPED = "shipped"
SHIPPED_FOLDER = pathlib.Path(__file__).resolve().parents[1] / "foundation"
MANIFEST = "manifest.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Provenance:
    """How a file came to be: what somebody needs to judge it or to make it again.

    Attributes:
      licence: an SPDX name, such as 'Apache-2.0'.
      gin_file: the configuration that made it, relative to gin/; '' if none did.
      command: the command line that made it.
      vocabulary: fingerprint of the vocabulary it was trained with; '' if it has none.
      metrics: what it reached, by name.
    """

    licence: str
    gin_file: str = ""
    command: str = ""
    vocabulary: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


@runtime_checkable
class ForeignCheckpoint(Protocol):
    """A checkpoint in another program's form; gin gives it in the place of a folder."""

    def __fspath__(self) -> str:
        """Where it is."""

    def read(self, component: str, *, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Iterator[tuple[str, np.ndarray]]:
        """The parameters of a component one by one, with their paths, as `shapes` has them."""


@dataclasses.dataclass(frozen=True)
class Component:
    """The parameters of one component and where they came from.

    Attributes:
      parameters: nested, in the dtypes that were asked for.
      fingerprint: of all parameters in the file.
      path: the file, or another program's folder.
    """

    parameters: PyTree
    fingerprint: str
    path: pathlib.Path


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a folder's manifest.json says: {'format_version', 'components': {name: entry}, 'files': {name: entry}}.

    Raises:
      FileNotFoundError: the folder has no manifest.
      WeightFileError: the manifest is not valid, or of a newer format.
    """
    path = pathlib.Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {MANIFEST} in {folder}. Name a folder written by slm_jax, a .safetensors file or {SHIPPED!r}."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightFileError(f"{path} is not a manifest of weights: {error!r}") from error
    if version != FORMAT_VERSION:
        raise WeightFileError(f"{path} has format {version}; this version of slm_jax reads {FORMAT_VERSION}")
    return manifest


def component_path(source: str | os.PathLike[str], component: str) -> pathlib.Path:
    """The file of a component: `source` itself if it names a file, else what the folder's manifest says.

    Raises:
      FileNotFoundError: the file, the folder or its manifest is not there.
      WeightFileError: the manifest does not know the component.
    """
    path = _resolve(source)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise FileNotFoundError(f"there are no weights for {component!r} at {path}")
        return path
    return _recorded_path(path, "components", component)


def shipped_file(name: str) -> pathlib.Path:
    """A file that is not weights, such as the vocabulary, from the folder that ships with slm_jax.

    Raises:
      FileNotFoundError: it is not there.
      WeightFileError: it is not the file that the manifest describes.
    """
    path = _recorded_path(SHIPPED_FOLDER, "files", name)
    expected = read_manifest(SHIPPED_FOLDER)["files"][name]["fingerprint"]
    _check_fingerprint(path, expected, fingerprints.fingerprint_file(path))
    return path


def check_vocabulary(source: str | os.PathLike[str], *, component: str, vocabulary: str) -> None:
    """Refuses a vocabulary other than the one a component was trained with, where its folder's manifest names one.

    Args:
      source: as for `load_component`.
      component: the component's name, such as 'lm'.
      vocabulary: fingerprint of the vocabulary at hand.

    Raises:
      ValueError: the manifest names another one.
    """
    folder = _resolve(source)
    if not (folder / MANIFEST).is_file():
        return
    expected = read_manifest(folder)["components"].get(component, {}).get("vocabulary", "")
    if expected and expected != vocabulary:
        raise ValueError(
            f"{component} of {source} was trained with the vocabulary {fingerprints.shorten(expected)}, but the task's"
            f" is {fingerprints.shorten(vocabulary)}: give the vocabulary that belongs to it, or another {component}"
        )


Place = Callable[[str, np.ndarray], Any]
"""Puts a parameter of this path where it will stay, such as on the devices of a mesh, and gives what is there."""


def leave_on_host(path: str, value: np.ndarray) -> np.ndarray:
    """The `Place` of parameters that stay where they are."""
    return value


def load_component(
    source: str | os.PathLike[str],
    *,
    component: str,
    shapes: PyTree,
    optional: Collection[str] = (),
    place: Place = leave_on_host,
) -> Component:
    """The parameters of one component, checked to be complete and unchanged; scanned or unrolled, as `shapes` is.

    Args:
      source: a .safetensors file, a folder with a manifest, 'shipped', or a `ForeignCheckpoint`.
      component: the component's name, such as 'lm'.
      shapes: nested jax.ShapeDtypeStruct of the component; its dtypes are what the parameters are cast to.
      optional: paths within the component that the file need not hold (parts that are trained anew).
      place: called with each parameter of a `ForeignCheckpoint` as soon as it is read, and its path within the
        component: the host then holds one parameter at a time.

    Raises:
      FileNotFoundError: the file, the folder or its manifest is not there.
      WeightFileError: tensors are missing, unexpected or of another shape (all are listed), or the file is damaged or
        is not the one that the manifest describes.
    """
    if isinstance(source, ForeignCheckpoint):
        placed = {}
        for name, value in source.read(component, shapes=trees.flatten(shapes)):
            placed[name] = place(name, value)
            del value  # before the next one is read
        nested = trees.unflatten(placed)
        return Component(nested, fingerprints.fingerprint(nested), pathlib.Path(source))
    path = component_path(source, component)
    expected = trees.flatten(shapes)
    layout = layouts.arrange_shapes(trees.unflatten(safetensors_io.read_layout(path)), like=expected)
    problems = layouts.layout_problems(expected, trees.flatten(layout), optional=optional)
    if problems:
        raise WeightFileError(f"{path} does not fit the component {component!r}:\n  " + "\n  ".join(problems))
    nested = trees.unflatten(safetensors_io.load_tensors(path))
    found = fingerprints.fingerprint(nested)
    for promised in _promised_fingerprints(path, component):
        _check_fingerprint(path, promised, found)
    stored = trees.flatten(layouts.arrange_layers(nested, like=expected))
    cast = {name: stored.pop(name).astype(expected[name].dtype, copy=False) for name in list(stored)}
    return Component(parameters=trees.unflatten(cast), fingerprint=found, path=path)


def export_component(params: PyTree, *, path: str | os.PathLike[str], component: str, provenance: Provenance) -> str:
    """Writes a component in bfloat16 (float32 parameters are rounded) and its entry in the folder's manifest.

    Args:
      params: nested, without boxes, relative to the component.
      path: the .safetensors file; its folder must exist.
      component: the component's name, such as 'lm'.
      provenance: how it was made.

    Returns:
      The fingerprint.

    Raises:
      ValueError: a parameter is not floating-point, or the path does not end in .safetensors.
      OSError: the file cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are written to a .safetensors file, not to {path}")
    found = fingerprints.fingerprint(params)
    flat = {name: safetensors_io.to_host(name, value) for name, value in trees.flatten(params).items()}
    metadata = {"component": component, "fingerprint": found, "licence": provenance.licence}
    rounded = {name: value.astype(ml_dtypes.bfloat16) for name, value in flat.items()}
    safetensors_io.save_tensors(rounded, path=path, metadata=metadata)
    parameters = sum(int(np.prod(value.shape)) for value in flat.values())
    _record(path, "components", component, {"fingerprint": found, "parameters": parameters}, provenance)
    return found


def record_file(path: str | os.PathLike[str], *, provenance: Provenance) -> str:
    """Enters a file that is not weights (a vocabulary) into the manifest of its folder; gives its fingerprint.

    Raises:
      FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path)
    found = fingerprints.fingerprint_file(path)
    _record(path, "files", path.name, {"fingerprint": found}, provenance)
    return found


def abstract(params: PyTree, dtype: Any = None) -> PyTree:
    """The shapes of parameters, in their own dtypes or all in `dtype`: what `load_component` is given."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype), params)


def _resolve(source: str | os.PathLike[str]) -> pathlib.Path:
    return SHIPPED_FOLDER if source == SHIPPED else pathlib.Path(source).expanduser()


def _recorded_path(folder: pathlib.Path, kind: str, name: str) -> pathlib.Path:
    entries = read_manifest(folder).get(kind, {})
    if name not in entries:
        raise WeightFileError(f"{folder} has no {name!r}; its {kind} are: {', '.join(sorted(entries)) or 'none'}")
    file = str(entries[name].get("file", name))
    if pathlib.PurePath(file).name != file:
        raise WeightFileError(f"{folder / MANIFEST} names {file!r} for {name!r}, which is not a file of that folder")
    if not (folder / file).is_file():
        raise FileNotFoundError(f"{folder / MANIFEST} names {file!r} for {name!r}, but the file is not there")
    return folder / file


def _promised_fingerprints(path: pathlib.Path, component: str) -> list[str]:
    """What the file's own header and the manifest beside it promise; other programs' files promise nothing."""
    promised = [safetensors_io.read_metadata(path).get("fingerprint")]
    if (path.parent / MANIFEST).is_file():
        entry = read_manifest(path.parent).get("components", {}).get(component, {})
        promised += [entry.get("fingerprint")] if entry.get("file") == path.name else []
    return [value for value in promised if value is not None]


def _check_fingerprint(path: pathlib.Path, promised: str, found: str) -> None:
    if promised != found:
        raise WeightFileError(
            f"the contents of {path} are not what they are said to be: expected {fingerprints.shorten(promised)}, found"
            f" {fingerprints.shorten(found)}. The file was changed or damaged, or is of another version than its"
            f" manifest; copy both again."
        )


def _record(path: pathlib.Path, kind: str, name: str, facts: Mapping[str, Any], provenance: Provenance) -> None:
    folder = path.parent
    fresh: dict[str, Any] = {"format_version": FORMAT_VERSION}
    manifest = read_manifest(folder) if (folder / MANIFEST).exists() else fresh
    entry = {"file": path.name, **facts, **dataclasses.asdict(provenance)}
    manifest = manifest | {kind: manifest.get(kind, {}) | {name: entry}}
    temporary = folder / (MANIFEST + ".tmp")
    temporary.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)
