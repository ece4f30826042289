"""Checkpoints to frozen components, and several bundles to their mean.

python -m slm_jax.convert --source=runs/scenes_lm --component=lm --out=slm_jax/foundation --licence=Apache-2.0

takes a component that slm_jax trained out of a run and writes it as a frozen component: bfloat16, layers stacked for
scanning, with an entry in the folder's manifest. Of several runs, each of which went on from the one before, it writes
the mean of their parameters ("Model soups", arXiv 2203.05482); the manifest names the last. What a run began with may
be one of them: 'shipped', or a folder that this program wrote.

python -m slm_jax.convert --source=SmolLM2-135M-Instruct --component=lm --out=weights --licence=Apache-2.0

does the same with a component of a Hugging Face folder, and copies what describes it: config.json, its front end, its
tokenizer. `models/lms/hugging_face.gin` then reads LM_FOLDER = 'weights' with LM_SOURCE = 'weights'.

python -m slm_jax.convert --source=runs/first --source=runs/second --out=runs/mean

without a component writes OUT/bundle, the mean of whole bundles with the same frozen parts, which the experiment of the
last evaluates, answers with, or begins with (INITIAL_CHECKPOINT = 'runs/mean').
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from slm_jax import gin_utils, trees
from slm_jax.training import bundle
from slm_jax.typing import PyTree
from slm_jax.weights import foundation, safetensors_io
from slm_jax.weights.huggingface import components
from slm_jax.weights.huggingface.folder import CONFIG, PREPROCESSOR

FLAGS = flags.FLAGS
DESCRIBED: Mapping[str, Callable[..., Any]] = {
    "lm": components.language_model,
    "speech_encoder": components.speech_encoder,
}
"""What a Hugging Face folder may hold."""
DESCRIPTIONS = (CONFIG, PREPROCESSOR, "tokenizer.json", "tokenizer_config.json")
"""What a Hugging Face folder says of its models besides their weights."""

flags.DEFINE_multi_string(
    "source",
    None,
    "A bundle, the MODEL_DIR of a run or a folder of components, again for the mean; or a Hugging Face folder.",
    required=True,
)
flags.DEFINE_string("component", None, "speech_encoder or lm; by default all that was trained, as a bundle.")
flags.DEFINE_string("out", None, "The folder to write to.", required=True)
flags.DEFINE_integer("padding_id", 0, "Of a language model's tokenizer, see tasks/tokenizer.gin.")
flags.DEFINE_string("licence", None, "SPDX name of the weights' licence; of a component.")


def read_component(source: str, *, component: str) -> tuple[foundation.Provenance, PyTree]:
    """Where a component comes from and its parameters, layers stacked: of a run, or of a folder of components.

    Raises:
      FileNotFoundError: there is neither.
      ValueError: the run did not train the component, or not all of it.
      WeightFileError: the folder's file is damaged.
    """
    if source == foundation.SHIPPED or (pathlib.Path(source).expanduser() / f"{component}.safetensors").is_file():
        path = foundation.component_path(source, component)
        entry = foundation.read_manifest(path.parent)["components"][component]
        fields = {field.name: entry[field.name] for field in dataclasses.fields(foundation.Provenance)}
        shapes = trees.unflatten(safetensors_io.read_layout(path))
        loaded = foundation.load_component(source, component=component, shapes=shapes)
        return foundation.Provenance(**fields | {"licence": FLAGS.licence}), loaded.parameters
    manifest, trained = read_trained_component(source, component=component)
    provenance = foundation.Provenance(
        licence=FLAGS.licence,
        gin_file=", ".join(manifest.gin_files),
        command=f"python -m slm_jax.train {' '.join(f'--gin_file={file}' for file in manifest.gin_files)}",
        vocabulary=manifest.fingerprints.get("vocabulary", ""),
        metrics={"step": float(manifest.step), **manifest.metrics},
    )
    return provenance, trees.stack_layers(trained)


def read_trained_component(source: str, *, component: str) -> tuple[bundle.BundleManifest, PyTree]:
    """What a run says of itself, and a component that it has trained.

    Raises:
      ValueError: the component was not trained, or not all of it.
    """
    found = bundle.load_bundle(source)
    if component not in found.trainable:
        raise ValueError(f"{source} has trained {sorted(found.trainable)}, not {component!r}")
    if component in found.manifest.fingerprints:  # it names what was frozen, if only a part of a component
        raise ValueError(
            f"{source} has trained a part of {component!r} ({', '.join(found.manifest.trainable_patterns)}) and does"
            " not hold the rest: convert a run that trained the whole component"
        )
    return found.manifest, found.trainable[component]


def mean(trained: Sequence[PyTree]) -> PyTree:
    """The mean of parameters of one model.

    Raises:
      ValueError: they are of different models.
    """
    if len(trained) == 1:
        return trained[0]
    if len({str(jax.tree.map(np.shape, params)) for params in trained}) > 1:
        raise ValueError("the sources have parameters of different names or shapes: only runs of one model have a mean")
    return jax.tree.map(lambda *leaves: np.mean(np.stack(leaves).astype(np.float32), axis=0), *trained)


def read_components() -> tuple[foundation.Provenance, PyTree]:
    """The component of all that --source names, and where it comes from: of several their mean, which nobody measured.

    Raises:
      FileNotFoundError, ValueError: a source does not have it, or not all of it, or they are of different models.
    """
    found = [read_component(source, component=FLAGS.component) for source in FLAGS.source]
    provenance = found[-1][0] if len(found) == 1 else dataclasses.replace(found[-1][0], metrics={})
    return provenance, mean([params for _, params in found])


def read_foreign_component(source: str) -> tuple[foundation.Provenance, PyTree]:
    """The component of a Hugging Face folder, in bfloat16.

    Raises:
      FileNotFoundError, ValueError: the folder has no such component, or one that slm_jax does not compute.
    """
    if FLAGS.component not in DESCRIBED:
        raise ValueError(f"{source} may hold the components {' and '.join(DESCRIBED)}, not {FLAGS.component!r}")
    shapes = components.parameter_shapes(DESCRIBED[FLAGS.component](source))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), shapes)
    checkpoint = components.Checkpoint(source, padding_id=FLAGS.padding_id)
    loaded = foundation.load_component(checkpoint, component=FLAGS.component, shapes=shapes)
    command = f"python -m slm_jax.convert --source={source} --component={FLAGS.component}"
    return foundation.Provenance(licence=FLAGS.licence, command=command), loaded.parameters


def write_component(folder: pathlib.Path) -> None:
    """Writes one component into a folder that may hold others.

    Raises:
      FileNotFoundError, ValueError: a source does not have it, or not all of it, or its licence is not given.
    """
    if not FLAGS.licence:
        raise ValueError("--licence is missing: a component says under which its weights may be used")
    source = pathlib.Path(FLAGS.source[0]).expanduser()
    is_foreign = len(FLAGS.source) == 1 and (source / CONFIG).is_file()
    provenance, params = read_foreign_component(FLAGS.source[0]) if is_foreign else read_components()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{FLAGS.component}.safetensors"
    fingerprint = foundation.export_component(params, path=path, component=FLAGS.component, provenance=provenance)
    for name in DESCRIPTIONS if is_foreign else ():
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    print(f"{path}: {sum(trees.count({'': params}).values()):,} parameters, {fingerprint}")


def write_mean(folder: pathlib.Path) -> None:
    """Writes the mean of bundles into folder/bundle; nobody has measured it, so it has no metrics.

    Raises:
      FileNotFoundError: a source is no bundle.
      ValueError: they are of different models, or have other frozen parts.
    """
    *others, last = map(bundle.load_bundle, FLAGS.source)
    for source, other in zip(FLAGS.source, others, strict=False):
        try:
            bundle.check_compatible(other.manifest, last.manifest.fingerprints)
        except bundle.IncompatibleBundleError as error:
            raise ValueError(f"{source} and {FLAGS.source[-1]} have no mean. {error}") from error
    trained = mean([found.trainable for found in (*others, last)])
    manifest = dataclasses.replace(last.manifest, metrics={})
    bundle.save_bundle(bundle.Bundle(trained, manifest, last.config), directory=folder / bundle.FOLDER)
    print(
        f"{folder / bundle.FOLDER}: the mean of {len(FLAGS.source)}, {sum(trees.count(trained).values()):,} parameters"
    )


def main(unused: Sequence[str]) -> None:
    """Writes one component, or the mean of bundles.

    Raises:
      FileNotFoundError, ValueError: the sources do not have it.
    """
    write = write_component if FLAGS.component else write_mean
    write(pathlib.Path(FLAGS.out).expanduser())


if __name__ == "__main__":
    gin_utils.run(main, join=gin_utils.stay_alone)
