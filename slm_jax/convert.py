"""Checkpoints to frozen components.

python -m slm_jax.convert --source=runs/scenes_lm --component=lm --out=slm_jax/foundation --licence=Apache-2.0

takes a component that slm_jax trained out of a run and writes it as a frozen component: bfloat16, layers stacked for
scanning, with an entry in the folder's manifest.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from slm_jax import gin_utils, trees
from slm_jax.training import bundle
from slm_jax.weights import foundation

FLAGS = flags.FLAGS

flags.DEFINE_string("source", None, "A bundle, or the MODEL_DIR of a run.", required=True)
flags.DEFINE_string("component", None, "speech_encoder or lm.", required=True)
flags.DEFINE_string("out", None, "The folder to write to.", required=True)
flags.DEFINE_string("licence", None, "SPDX name of the weights' licence.", required=True)


def main(unused: Sequence[str]) -> None:
    """Writes one component.

    Raises:
      ValueError: the component was not trained, or not all of it.
    """
    source = bundle.load_bundle(FLAGS.source)
    manifest = source.manifest
    if FLAGS.component not in source.trainable:
        raise ValueError(f"{FLAGS.source} has trained {sorted(source.trainable)}, not {FLAGS.component!r}")
    if FLAGS.component in manifest.fingerprints:  # it names what was frozen, if only a part of a component
        raise ValueError(
            f"{FLAGS.source} has trained a part of {FLAGS.component!r} ({', '.join(manifest.trainable_patterns)}) and"
            " does not hold the rest: convert a run that trained the whole component"
        )
    provenance = foundation.Provenance(
        licence=FLAGS.licence,
        gin_file=", ".join(manifest.gin_files),
        command=f"python -m slm_jax.train {' '.join(f'--gin_file={file}' for file in manifest.gin_files)}",
        vocabulary=manifest.fingerprints.get("vocabulary", ""),
        metrics={"step": float(manifest.step), **manifest.metrics},
    )
    folder = pathlib.Path(FLAGS.out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{FLAGS.component}.safetensors"
    params = trees.stack_layers(source.trainable[FLAGS.component])
    fingerprint = foundation.export_component(params, path=path, component=FLAGS.component, provenance=provenance)
    print(f"{path}: {sum(trees.count({'': params}).values()):,} parameters, {fingerprint}")


if __name__ == "__main__":
    gin_utils.run(main)
