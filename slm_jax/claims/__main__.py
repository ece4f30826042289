"""Measures the claims about one bundle: `python -m slm_jax.claims [--bundle=DIR] [--output=runs/claims]`.

Sentences that training never had, spoken by a voice that it never had. Numbers have intervals: the examples of the
test set are drawn anew (95%, percentile bootstrap), for a ratio those of both sides together.
"""

import json
import pathlib
import time
from collections.abc import Sequence

from absl import flags
from rich.console import Console

from slm_jax import gin_utils
from slm_jax.claims.measures import as_table
from slm_jax.claims.records import seed_of
from slm_jax.claims.study import Study
from slm_jax.claims.table import all_claims
from slm_jax.tasks.spoken_scenes.prepare import prepare
from slm_jax.training.bundle import SHIPPED, load_bundle

FLAGS = flags.FLAGS

flags.DEFINE_string("bundle", SHIPPED, "A bundle, or the MODEL_DIR of a run; by default the one of slm_jax.")
flags.DEFINE_string("output", "runs/claims", "A folder for summary.json and the answers.")
flags.DEFINE_string("config", "claims", "Whose test split: a configuration of the dataset spoken_scenes.")
flags.DEFINE_integer("batch_size", 50, "Examples decoded at once.")


def main(arguments: Sequence[str]) -> None:
    """Evaluates, prints the table and writes --output."""
    if arguments:
        raise ValueError(f"{' '.join(arguments)!r} is no flag")
    start = time.time()
    gin_utils.set_up_jax()
    prepare(config=FLAGS.config)
    manifest = load_bundle(FLAGS.bundle).manifest
    folder = pathlib.Path(FLAGS.output).expanduser()
    model = gin_utils.load_model(FLAGS.bundle)
    study = Study(model, config=FLAGS.config, batch_size=FLAGS.batch_size, output=folder / "answers")
    claims = [*all_claims(study)]
    Console().print(as_table(claims))
    summary = {
        "parameters_fingerprint": manifest.parameters_fingerprint,
        "seed": seed_of(manifest),
        "seconds": round(time.time() - start, 1),
        "claims": {claim.name: claim.as_json() for claim in claims},
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"written to {folder}: summary.json, answers/")


if __name__ == "__main__":
    gin_utils.run(main, join=gin_utils.stay_alone)
