"""Makes the dataset: `python -m slm_jax.tasks.spoken_scenes.prepare --config=quickstart [--data_dir=DIR]`.

Nothing is downloaded. A configuration that is there already is left as it is.
"""

import argparse
import subprocess
import sys


def prepare(*, config: str) -> None:
    """Makes a configuration in a process of its own, whose memory is free again afterwards.

    It is made where TensorFlow Datasets are read from: the folder of the flag --tfds_data_dir, or their usual one.

    Args:
      config: of `spoken_scenes`.

    Raises:
      RuntimeError: the dataset could not be made; what went wrong was printed by the other process.
    """
    # Here, not above: the processes that speak import this file anew and need no tensorflow.
    from slm_jax.data import sources

    command = [sys.executable, "-m", "slm_jax.tasks.spoken_scenes.prepare", f"--config={config}"]
    command += [f"--data_dir={folder}"] if (folder := sources.tfds_folder()) else []
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise RuntimeError(
            f"spoken_scenes/{config} could not be made: {' '.join(command)} ended with {done.returncode}"
        )


def main() -> None:
    """Makes the configuration that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="such as quickstart; a name that does not exist lists all")
    parser.add_argument("--data_dir", help="where TensorFlow Datasets lie")
    arguments = parser.parse_args()
    import tensorflow_datasets as tfds

    from slm_jax.tasks.spoken_scenes import builder

    known = [config.name for config in builder.SpokenScenes.BUILDER_CONFIGS]
    if arguments.config not in known:
        parser.error(f"there is no configuration {arguments.config!r}; there are {', '.join(known)}")
    tfds.builder(f"spoken_scenes/{arguments.config}", data_dir=arguments.data_dir).download_and_prepare()


if __name__ == "__main__":
    main()
