"""Bundles: what a user ships. The trained parameters, and which frozen parts they were trained on.

A bundle is a folder of three files: `manifest.json`, `trainable.safetensors` and `config.gin` (the operative
configuration, for people). Loading one reads JSON and arrays; it never runs code and reads no other file.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from slm_jax import __version__, trees
from slm_jax.typing import PyTree
from slm_jax.weights import fingerprints, foundation, safetensors_io

FORMAT_VERSION = 1
FOLDER = "bundle"
"""Where a run's bundle lies in its MODEL_DIR."""
SHIPPED = foundation.SHIPPED
"""Names the bundle that comes with slm_jax, wherever a bundle is read."""
SHIPPED_FOLDER = foundation.SHIPPED_FOLDER / FOLDER
"""It was trained on the foundation models of the same folder, by experiments/claims/study.gin."""
SHIPPED_BUNDLES: Mapping[str, pathlib.Path] = {
    SHIPPED: SHIPPED_FOLDER,
    f"{SHIPPED}/whisper_base_smollm2": foundation.SHIPPED_FOLDER.parent / "bundles" / "whisper_base_smollm2",
}
"""All bundles that come with slm_jax; the frozen parts of the others do not."""
MANIFEST, PARAMETERS, CONFIG = "manifest.json", "trainable.safetensors", "config.gin"

ADVICE: Mapping[str, str] = {
    "speech_encoder": "load the speech encoder that the bundle names, or train a new adapter for this one",
    "lm": "load the language model that the bundle names, or train a new adapter for this one",
    "vocabulary": "use the vocabulary file that the bundle was trained with",
    "front_end": "set the front end's fields back to those in the bundle's config.gin",
}


class BundleError(ValueError):
    """A folder is not a whole bundle that this version can read."""


class IncompatibleBundleError(ValueError):
    """A bundle was trained on other frozen parts than the ones at hand."""


@dataclasses.dataclass(frozen=True)
class BundleManifest:
    """What a bundle says of itself.

    Attributes:
      fingerprints: of what stays as it is: frozen components by name, 'vocabulary', 'front_end'.
      trainable_patterns: the regular expressions that decided what was trained.
      step: updates done.
      prompt_templates: by name; used for inference as they were for training.
      metrics: what the bundle reached, by name.
      gin_files: the files of the command line that trained it; `slm_jax.infer` reads those that ship with slm_jax.
      gin_bindings: the bindings of that command line.
      slm_jax_version: the version that wrote it.
      parameters_fingerprint: of the file of parameters; filled in by `save_bundle`.
    """

    fingerprints: Mapping[str, str]
    trainable_patterns: tuple[str, ...]
    step: int = 0
    prompt_templates: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    gin_files: tuple[str, ...] = ()
    gin_bindings: tuple[str, ...] = ()
    slm_jax_version: str = __version__
    parameters_fingerprint: str = ""

    def to_json(self) -> dict[str, Any]:
        """Values for JSON, such as a checkpoint's manifest."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "BundleManifest":
        """The inverse of `to_json`.

        Raises:
          BundleError: the format is another one, a field is missing or not known, or is of a wrong type.
        """
        values = dict(values)
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise BundleError(f"the manifest has format {version}; this version of slm_jax reads {FORMAT_VERSION}")
        names = {field.name for field in dataclasses.fields(cls)}
        if values.keys() != names:
            missing, unknown = sorted(names - values.keys()), sorted(values.keys() - names)
            raise BundleError(f"the manifest lacks {missing} and has fields that are not known: {unknown}")
        wrong = [name for name, kind in _JSON_TYPES.items() if not isinstance(values[name], kind)]
        if wrong:
            raise BundleError(f"the manifest has fields of a wrong type: {', '.join(wrong)}")
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)


_JSON_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "fingerprints": dict,
    "trainable_patterns": (list, tuple),
    "step": int,
    "prompt_templates": dict,
    "metrics": dict,
    "gin_files": (list, tuple),
    "gin_bindings": (list, tuple),
    "slm_jax_version": str,
    "parameters_fingerprint": str,
}


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle in memory.

    Attributes:
      trainable: nested trained parameters, as numpy arrays in the dtypes they were trained in.
      manifest: what they belong to.
      config: the operative gin configuration, as text; never executed by loading.
    """

    trainable: PyTree
    manifest: BundleManifest
    config: str = ""


def save_bundle(bundle: Bundle, *, directory: str | os.PathLike[str]) -> None:
    """Writes a bundle; at every moment the folder holds the old one or the new one, whole.

    The new bundle is written beside the folder and then takes its place. If the process dies between the two
    renames that this takes, the old bundle is in `directory`.previous, where `load_bundle` finds it.

    Args:
      bundle: what to write; call this on one process only.
      directory: the bundle's own local folder, such as MODEL_DIR/bundle; nothing else may lie in it.

    Raises:
      OSError: it cannot be written; the bundle that was there stays.
      ValueError: `directory` holds something else, or is not a local path.
    """
    target = _local(directory)
    others = sorted(path.name for path in target.iterdir()) if target.is_dir() else [target.name] * target.exists()
    if foreign := [name for name in others if name not in (MANIFEST, PARAMETERS, CONFIG)]:
        raise ValueError(f"{target} holds {foreign}, so it is not replaced by a bundle: choose a folder of its own")
    temporary, previous = _sibling(target, "new"), _sibling(target, "previous")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write(bundle, temporary)
        if target.exists():
            shutil.rmtree(previous, ignore_errors=True)
            target.rename(previous)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)


def _write(bundle: Bundle, folder: pathlib.Path) -> None:
    safetensors_io.save_tensors(trees.flatten(bundle.trainable), path=folder / PARAMETERS)
    found = fingerprints.fingerprint_file(folder / PARAMETERS)
    manifest = dataclasses.replace(bundle.manifest, parameters_fingerprint=found)
    (folder / CONFIG).write_text(bundle.config, encoding="utf-8")
    text = json.dumps(manifest.to_json(), indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def load_bundle(directory: str | os.PathLike[str]) -> Bundle:
    """Reads a bundle from its own folder, from MODEL_DIR/bundle if `directory` is a MODEL_DIR, or one that ships.

    Raises:
      FileNotFoundError: there is no bundle.
      BundleError: one of the files is missing, the manifest cannot be read, or the file of parameters is not the one
        it describes.
    """
    folder = find_bundle(directory)
    if folder is None:
        raise FileNotFoundError(f"there is no bundle ({MANIFEST} and {PARAMETERS}) in {directory} nor in its {FOLDER}/")
    try:
        manifest = BundleManifest.from_json(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (ValueError, AttributeError, TypeError) as error:
        raise BundleError(f"{folder / MANIFEST} cannot be read: {error}") from error
    found = fingerprints.fingerprint_file(folder / PARAMETERS)
    if found != manifest.parameters_fingerprint:
        raise BundleError(
            f"{folder / PARAMETERS} is not the file that {MANIFEST} describes: expected"
            f" {fingerprints.shorten(manifest.parameters_fingerprint)}, found {fingerprints.shorten(found)}"
        )
    trainable = trees.unflatten(safetensors_io.load_tensors(folder / PARAMETERS))
    config = folder / CONFIG
    return Bundle(trainable, manifest, config.read_text(encoding="utf-8") if config.is_file() else "")


def find_bundle(directory: str | os.PathLike[str]) -> pathlib.Path | None:
    """The folder of the bundle that `directory` is or holds, also one that an interrupted save left aside.

    Raises:
      BundleError: a folder has one of the two files of a bundle and not the other.
    """
    directory = SHIPPED_BUNDLES.get(os.fspath(directory)) or _local(directory)
    for folder in (directory, directory / FOLDER):
        place = folder if folder.exists() else _sibling(folder, "previous")
        there = [name for name in (MANIFEST, PARAMETERS) if (place / name).is_file()]
        if len(there) == 1:
            (missing,) = {MANIFEST, PARAMETERS} - set(there)
            raise BundleError(f"{place} has {there[0]} but no {missing}: copy the whole folder again, or train again")
        if there:
            return place
    return None


def check_compatible(manifest: BundleManifest, current: Mapping[str, str]) -> None:
    """Refuses frozen parts that the parameters were not trained on; they would give silent nonsense.

    Args:
      manifest: of a bundle or a checkpoint.
      current: fingerprints of what is loaded now, under the same names.

    Raises:
      IncompatibleBundleError: any part differs or stands on one side only; all are listed, with what to do.
    """
    lines = []
    for part in sorted(manifest.fingerprints.keys() | current.keys()):
        expected, actual = manifest.fingerprints.get(part), current.get(part)
        if expected != actual:
            advice = ADVICE.get(part, "load the part that the bundle names")
            lines.append(f"{part}: trained with {_show(expected)}, loaded {_show(actual)}: {advice}")
    if lines:
        raise IncompatibleBundleError(
            "the trained parameters belong to other frozen parts than the ones loaded:\n  " + "\n  ".join(lines)
        )


def _show(value: str | None) -> str:
    return "nothing of this name" if value is None else fingerprints.shorten(value)


def _sibling(folder: pathlib.Path, suffix: str) -> pathlib.Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def _local(directory: str | os.PathLike[str]) -> pathlib.Path:
    if "://" in os.fspath(directory):
        raise ValueError(f"bundles are read from and written to local folders; copy {directory} with your cloud's tool")
    return pathlib.Path(directory).expanduser().absolute()
