"""Checkpoints to frozen components.

python -m slm_jax.convert --source=runs/scenes_lm --component=lm --out=slm_jax/foundation --licence=Apache-2.0

takes a component that slm_jax trained out of a run and writes it as a frozen component: bfloat16, layers stacked for
scanning, with an entry in the folder's manifest. Of several runs, each of which went on from the one before, it writes
the mean of their parameters ("Model soups", arXiv 2203.05482); the manifest names the last.
"""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from slm_jax import gin_utils, trees
from slm_jax.training import bundle
from slm_jax.typing import PyTree
from slm_jax.weights import foundation

FLAGS = flags.FLAGS

flags.DEFINE_multi_string("source", None, "A bundle, or the MODEL_DIR of a run; again for the mean.", required=True)
flags.DEFINE_string("component", None, "speech_encoder or lm.", required=True)
flags.DEFINE_string("out", None, "The folder to write to.", required=True)
flags.DEFINE_string("licence", None, "SPDX name of the weights' licence.", required=True)


def read_component(source: str, *, component: str) -> tuple[bundle.BundleManifest, PyTree]:
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


def main(unused: Sequence[str]) -> None:
    """Writes one component.

    Raises:
      ValueError: the component was not trained, or not all of it.
    """
    found = [read_component(source, component=FLAGS.component) for source in FLAGS.source]
    manifest, trained = found[-1][0], [params for _, params in found]
    provenance = foundation.Provenance(
        licence=FLAGS.licence,
        gin_file=", ".join(manifest.gin_files),
        command=f"python -m slm_jax.train {' '.join(f'--gin_file={file}' for file in manifest.gin_files)}",
        vocabulary=manifest.fingerprints.get("vocabulary", ""),
        metrics={"step": float(manifest.step), **manifest.metrics} if len(trained) == 1 else {},
    )
    folder = pathlib.Path(FLAGS.out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{FLAGS.component}.safetensors"
    params = trees.stack_layers(mean(trained))
    fingerprint = foundation.export_component(params, path=path, component=FLAGS.component, provenance=provenance)
    print(f"{path}: {sum(trees.count({'': params}).values()):,} parameters, {fingerprint}")


if __name__ == "__main__":
    gin_utils.run(main)
