"""Jobs of several processes on this machine: the same run as one process, checkpoints, and what a death does."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from slm_jax import trees
from slm_jax.training import bundle, watchdog

EXPERIMENT = """
from __gin__ import dynamic_registration
from slm_jax import evaluation
from slm_jax.data import pipeline
from slm_jax.models import conformer
from slm_jax.training import run
include 'test/tiny.gin'
conformer.Conformer.ctc_vocab_size = None  # 2049 outputs could not be split over the model axis
run.Training.evaluations = {'test': @evaluation.DecodedEvaluation()}
run.Training.listening_batches = @pipeline.eval_batches
evaluation.DecodedEvaluation.task = 'scenes_tiny_transcribe'
evaluation.DecodedEvaluation.split = 'test'
evaluation.DecodedEvaluation.task_feature_lengths = %TASK_FEATURE_LENGTHS
evaluation.DecodedEvaluation.batch_size = 6
evaluation.DecodedEvaluation.max_decode_length = 8
pipeline.eval_batches.mixture_or_task = 'scenes_tiny'
pipeline.eval_batches.task_feature_lengths = %TASK_FEATURE_LENGTHS
pipeline.eval_batches.split = 'test'
pipeline.eval_batches.batch_size = 8
"""
SHARDS = "--gin.run.Training.data_shards=4"
MESH = "--gin.partitioning.make_mesh."
FAST_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """EXPERIMENT and its data on disk."""

    folder: pathlib.Path

    def start(self, name: str, *flags: str, processes: int = 1, devices: int = 1) -> list[subprocess.Popen[str]]:
        """The processes of a training, whose MODEL_DIR is the folder `name`."""
        places = [f"--gin.MODEL_DIR='{self.folder / name}'", f"--tfds_data_dir={self.folder / 'data'}"]
        return start(
            "train", f"--gin_file={self.folder}/job.gin", *places, *flags, processes=processes, devices=devices
        )

    def run(self, name: str, *flags: str, processes: int = 1, devices: int = 1) -> pathlib.Path:
        """A job from its start to its end; gives its MODEL_DIR."""
        for code, output in finish(self.start(name, *flags, processes=processes, devices=devices)):
            assert code == 0, output
        return self.folder / name


def start(main: str, *flags: str, processes: int, devices: int = 1) -> list[subprocess.Popen[str]]:
    """The processes of a job."""
    program = [sys.executable, "-m", f"slm_jax.{main}", *flags]
    place = [f"--coordinator_address=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    places = [[*place, f"--process_id={number}"] if processes > 1 else [] for number in range(processes)]
    environment = os.environ | {"XLA_FLAGS": f"{FAST_COMPILATION} --xla_force_host_platform_device_count={devices}"}
    settings = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    return [subprocess.Popen([*program, *arguments], **settings) for arguments in places]


def free_port() -> int:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return connection.getsockname()[1]


def finish(job: list[subprocess.Popen[str]], *, timeout: float = 400) -> list[tuple[int, str]]:
    """Exit code and output of all processes; those that hang are killed, and the test fails."""
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in job]
    finally:
        for process in job:
            process.kill()
    return [(process.returncode, output) for process, output in zip(job, outputs, strict=True)]


def losses(model_dir: pathlib.Path) -> dict[tuple[str, int], list[float]]:
    """The losses of all rows of metrics.jsonl, by kind and step; the last of them where a step was done again."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in map(json.loads, (model_dir / "metrics.jsonl").open()):
        values = [value for name, value in sorted(row.items()) if name.startswith("loss")]
        found[row["kind"], row["step"]] = values or found.get((row["kind"], row["step"]), [])
    return found


def assert_same_run(actual: pathlib.Path, expected: pathlib.Path) -> None:
    found, wanted = losses(actual), losses(expected)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, err_msg=str(key))
    trained = trees.flatten(bundle.load_bundle(actual).trainable)
    for path, leaf in trees.flatten(bundle.load_bundle(expected).trainable).items():
        np.testing.assert_allclose(trained[path], leaf, atol=1e-5, err_msg=path)


def wait_for_step(model_dir: pathlib.Path, step: int, job: list[subprocess.Popen[str]]) -> None:
    """Until metrics.jsonl has the step."""
    path = model_dir / "metrics.jsonl"
    while not path.exists() or f'"step": {step},' not in path.read_text():
        assert all(process.poll() is None for process in job), finish(job)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "job.gin").write_text(EXPERIMENT)
    return Experiment(folder)


@pytest.fixture(scope="module")
def whole(experiment) -> pathlib.Path:
    """MODEL_DIR of a run in one process."""
    return experiment.run("whole")


@pytest.fixture(scope="module")
def split(experiment, whole) -> pathlib.Path:
    """The same in four processes, whose parameters and batches are both split between them."""
    return experiment.run("split", f"{MESH}model=2", f"{MESH}fsdp=2", processes=4)


@pytest.fixture(scope="module")
def dealt(experiment) -> pathlib.Path:
    """MODEL_DIR of a run in one process, whose data are dealt to four shards."""
    return experiment.run("dealt", SHARDS)


@pytest.mark.slow
def test_four_processes_train_as_one(split, whole):
    assert_same_run(split, whole)


@pytest.mark.slow
def test_two_processes_of_two_devices_train_as_one(experiment, whole):
    assert_same_run(experiment.run("two", f"{MESH}model=2", processes=2, devices=2), whole)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "flags"), [(4, (f"{MESH}model=2",)), (2, ())])
def test_processes_that_read_their_own_shards_train_as_one_that_reads_all(experiment, dealt, processes, flags):
    name = f"dealt_to_{processes}{''.join(flags)[len(MESH) :]}"
    assert_same_run(experiment.run(name, SHARDS, *flags, processes=processes), dealt)


@pytest.mark.slow
def test_predictions_are_those_of_one_process_in_the_order_of_the_split(split, whole):
    written = [(folder / "predictions" / "test-4.jsonl").read_text().splitlines() for folder in (split, whole)]
    assert written[0] == written[1]
    assert len(written[0]) == 8, "a whole batch and one that is filled up"


@pytest.mark.slow
def test_the_run_as_a_whole_is_written_once(split, whole):
    names = [sorted(path.name.split(".")[0] for path in folder.iterdir()) for folder in (split, whole)]
    assert names[0] == names[1]
    assert len(list(split.glob("events.out.tfevents*"))) == 1
    assert len((split / "metrics.jsonl").read_text().splitlines()) == len(
        (whole / "metrics.jsonl").read_text().splitlines()
    )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_checkpoints_of_four_processes_go_on_in_fewer(experiment, split, whole, processes):
    name = f"resumed_in_{processes}"
    (experiment.folder / name).mkdir()
    shutil.copytree(split / "checkpoints" / "2", experiment.folder / name / "checkpoints" / "2")
    resumed = experiment.run(name, processes=processes)
    found, wanted = losses(resumed), losses(whole)
    assert min(step for _, step in found) == 3
    for key, value in found.items():
        np.testing.assert_allclose(value, wanted[key], rtol=1e-5, err_msg=str(key))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_a_process_ends_the_job_which_then_goes_on(experiment, victim):
    flags = ("--gin.TRAIN_STEPS=60", "--gin.run.Training.checkpoint_period=5", "--step_timeout=60")
    whole = experiment.run(f"undisturbed_{victim}", *flags)
    job = experiment.start(f"killed_{victim}", *flags, processes=2)
    wait_for_step(experiment.folder / f"killed_{victim}", 12, job)
    job[victim].send_signal(signal.SIGKILL)
    codes = [code for code, _ in finish(job, timeout=150)]
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] not in (0, -signal.SIGKILL)
    resumed = experiment.run(f"killed_{victim}", *flags, processes=2)
    assert len(losses(resumed)) == len(losses(whole))
    assert_same_run(resumed, whole)


@pytest.mark.slow
def test_a_process_that_waits_too_long_shows_where_and_ends(experiment):
    flags = ("--gin.TRAIN_STEPS=100000", "--gin.run.Training.checkpoint_period=0", "--step_timeout=30")
    job = experiment.start("stopped", *flags, processes=2)
    wait_for_step(experiment.folder / "stopped", 12, job)
    job[1].send_signal(signal.SIGSTOP)
    code, output = finish(job[:1], timeout=90)[0]
    job[1].kill()
    assert code == watchdog.EXIT_CODE, output
    assert "no step was done in 30 s" in output
    assert "loop.py" in output


@pytest.mark.slow
def test_sigterm_to_one_process_saves_in_all(experiment):
    job = experiment.start("asked", "--gin.TRAIN_STEPS=100000", processes=2)
    wait_for_step(experiment.folder / "asked", 6, job)
    job[1].send_signal(signal.SIGTERM)
    for code, output in finish(job):
        assert code == 143, output


@pytest.mark.slow
def test_a_coordinator_that_is_not_there_is_named(experiment):
    address = f"127.0.0.1:{free_port()}"
    flags = (f"--coordinator_address={address}", "--num_processes=2", "--process_id=1", "--join_timeout=3")
    ((code, output),) = finish(experiment.start("alone", *flags))
    assert code == 1
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and address in errors[0], output


@pytest.mark.slow
def test_a_bundle_is_scored_by_several_processes_as_by_one(experiment, whole, tmp_path):
    flags = ("--task=scenes_tiny_transcribe", "--batch_size=6", f"--tfds_data_dir={experiment.folder / 'data'}")
    for processes in (1, 2):
        for code, output in finish(start("eval", *flags, f"--output={tmp_path}/{processes}", processes=processes)):
            assert code == 0, output
    for name in ("scenes_tiny_transcribe.jsonl", "scores.json"):
        assert (tmp_path / "1" / name).read_text() == (tmp_path / "2" / name).read_text()


@pytest.mark.slow
def test_tasks_are_answered_by_several_processes_from_where_they_were_stopped(experiment, whole, tmp_path):
    flags = ("--task=scenes_tiny_transcribe", "--batch_size=4", f"--tfds_data_dir={experiment.folder / 'data'}")
    output = tmp_path / "answers.jsonl"
    for _ in range(2):
        for code, told in finish(start("infer", *flags, f"--output={output}", processes=2)):
            assert code == 0, told
        rows = output.read_text().splitlines(keepends=True)
        assert [json.loads(row)["number"] for row in rows] == list(range(8))
        output.write_text("".join(rows[:3]))


@pytest.mark.slow
def test_what_runs_in_one_process_says_so():
    flags = ("--output_cache_dir=none", "--gin_file=test/tiny.gin", "--multihost")
    ((code, output),) = finish(start("cache_features", *flags, processes=1))
    assert code == 1
    assert "error: this program runs in one process: leave out --multihost" in output
