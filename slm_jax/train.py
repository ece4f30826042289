"""Trains. `python -m slm_jax.train --gin_file=experiments/quickstart.gin --gin.MODEL_DIR="'runs/quickstart'"`.

The configuration must bind the fields of `slm_jax.training.run.Training`; gin/runs/train.gin does it by T5X's macros.
"""

from collections.abc import Sequence

import gin

from slm_jax import gin_utils
from slm_jax.training.run import Training


def main(unused: Sequence[str]) -> None:
    """Parses the configuration and trains, or with --dry_run prints the parameter table."""
    gin_utils.parse_configuration()
    training = gin.get_configurable(Training)()
    if gin_utils.FLAGS.dry_run:
        print(training.describe())
        return
    gin_utils.set_up_jax()
    gin_utils.checked_vocabulary(training)
    training.run(gin_utils.command_line())


if __name__ == "__main__":
    gin_utils.run(main)
