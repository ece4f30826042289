"""The command line, from gin files to a bundle, with a kill in the middle."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from slm_jax import trees
from slm_jax.training import bundle

KILLED_AT_STEP_3 = """
import os, signal, sys
from slm_jax import gin_utils, train
from slm_jax.training.loop import Loop
report = Loop.report
def report_or_die(self, step, pending, throughput):
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    report(self, step, pending, throughput)
Loop.report = report_or_die
sys.argv[0] = "train"
gin_utils.run(train.main)
"""


def command(*program: str, model_dir: pathlib.Path, data_dir: pathlib.Path) -> subprocess.CompletedProcess[str]:
    arguments = ["--gin_file=test/tiny.gin", f"--gin.MODEL_DIR='{model_dir}'", f"--tfds_data_dir={data_dir}"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, *program, *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_bit_for_bit(tmp_path):
    """N steps, kill -9, resume, N steps equals 2N steps, data included."""
    places = {name: dict(model_dir=tmp_path / name, data_dir=tmp_path / "data") for name in ("whole", "killed")}
    whole = command("-m", "slm_jax.train", **places["whole"])
    assert whole.returncode == 0, whole.stderr
    killed = command("-c", KILLED_AT_STEP_3, **places["killed"])
    assert killed.returncode == -9, killed.stderr
    resumed = command("-m", "slm_jax.train", **places["killed"])
    assert resumed.returncode == 0, resumed.stderr

    expected = trees.flatten(bundle.load_bundle(tmp_path / "whole").trainable)
    for path, leaf in trees.flatten(bundle.load_bundle(tmp_path / "killed").trainable).items():
        np.testing.assert_array_equal(leaf, expected[path])
    losses = [
        {row["step"]: row["loss"] for row in map(json.loads, (place["model_dir"] / "metrics.jsonl").open())}
        for place in places.values()
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_mistakes_on_the_command_line_end_with_one_line():
    wrong = subprocess.run(
        [sys.executable, "-m", "slm_jax.train", "--gin_file=experiments/none.gin"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 1
    assert "experiments/none.gin" in wrong.stderr
    assert "Traceback" not in wrong.stderr
