"""T5X beside the native loop: the same losses, parameters, answers and scores, whichever wrote the weights."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.resources import gin_folder
from slm_jax.training import bundle, optimizers

STEPS = 20
TASK = "scenes_tiny_transcribe"
EXPERIMENT = """
from __gin__ import dynamic_registration
from slm_jax.models import adapter
from slm_jax.models import conformer
from slm_jax.models import reducers
from slm_jax.training import optimizers
from slm_jax.training import run
include 'test/tiny.gin'
TRAIN_STEPS = 20
conformer.Conformer.ctc_vocab_size = None  # 2049 outputs could not be split over the model axis
REDUCER = @reducers.RandomDiscard()
reducers.RandomDiscard.ratio = 2
adapter.TransformerAdapter.dropout_rate = 0.1
optimizers.adamw.weight_decay = 0.1
optimizers.adamw.clip_norm = 0.5
run.Training.checkpoint_period = 10
"""
SHIPPED = """
from __gin__ import dynamic_registration
from slm_jax import evaluation
from slm_jax.training import run
include 'test/tiny.gin'
include 'models/scenes_slm.gin'
TRAIN_STEPS = 20
run.Training.allow_random = ()
run.Training.checkpoint_period = 10
run.Training.evaluations = {'test': @evaluation.DecodedEvaluation()}
evaluation.DecodedEvaluation.task = 'scenes_tiny_transcribe'
evaluation.DecodedEvaluation.split = 'test'
evaluation.DecodedEvaluation.task_feature_lengths = %TASK_FEATURE_LENGTHS
evaluation.DecodedEvaluation.batch_size = 4
"""
pytestmark = pytest.mark.t5x


class Bench:
    """An experiment, its data, and both engines."""

    def __init__(self, folder: pathlib.Path, experiment: str) -> None:
        self.folder = folder
        (folder / "job.gin").write_text(experiment)

    def run(self, module: str, *flags: str, devices: int = 1, fails: bool = False) -> str:
        """What a main prints that ends well, or one that fails."""
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        arguments = [f"--gin_search_paths={gin_folder()}", f"--gin_file={self.folder}/job.gin", *flags]
        command = [sys.executable, "-m", module, *arguments, f"--tfds_data_dir={self.folder / 'data'}"]
        done = subprocess.run(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1200
        )
        assert (done.returncode != 0) is fails, done.stdout[-4000:]
        return done.stdout

    def train_natively(self) -> pathlib.Path:
        """MODEL_DIR of the native loop."""
        self.run("slm_jax.train", f"--gin.MODEL_DIR='{self.folder / 'native'}'")
        return self.folder / "native"

    def train(self, name: str, *flags: str, devices: int = 1) -> dict[int, float]:
        """T5X's loss at each step; MODEL_DIR is the folder `name`."""
        settings = ("STATS_PERIOD=1", "CHECKPOINT_PERIOD=10", "TRAIN_EVAL=None", "INFER_EVAL=None")
        told = self.run(
            "t5x.train",
            "--gin_file=runs/t5x/train.gin",
            f"--gin.MODEL_DIR='{self.folder / name}'",
            *(f"--gin.{setting}" for setting in settings),
            *flags,
            devices=devices,
        )
        rows = re.findall(r"\[(\d+)\] collection=train .*?\bloss=([\d.]+)", told)
        return {int(step): float(loss) for step, loss in rows}

    def evaluate(self, name: str, checkpoint: pathlib.Path) -> tuple[list[str], dict[str, float]]:
        """The answers and the scores of t5x.eval."""
        self.run(
            "t5x.eval",
            "--gin_file=runs/t5x/eval.gin",
            f"--gin.CHECKPOINT_PATH='{checkpoint}'",
            f"--gin.EVAL_OUTPUT_DIR='{self.folder / name}'",
            f"--gin.MIXTURE_OR_TASK_NAME='{TASK}'",
            "--gin.BATCH_SIZE=4",
        )
        written = self.folder / name / "inference_eval"
        rows = (written / f"{TASK}-{STEPS:06}.jsonl").read_text().splitlines()
        (scores,) = (written / f"{TASK}-metrics.jsonl").read_text().splitlines()
        return [json.loads(row)["prediction"] for row in rows], json.loads(scores)

    def infer(self, name: str, checkpoint: pathlib.Path, mode: str) -> list[dict]:
        """The rows of t5x.infer."""
        self.run(
            "t5x.infer",
            "--gin_file=runs/t5x/infer.gin",
            f"--gin.CHECKPOINT_PATH='{checkpoint}'",
            f"--gin.INFER_OUTPUT_DIR='{self.folder / name}'",
            f"--gin.INFER_MODE='{mode}'",
            f"--gin.MIXTURE_OR_TASK_NAME='{TASK}'",
            "--gin.BATCH_SIZE=4",
        )
        return [json.loads(row) for row in (self.folder / name / f"{TASK}-{mode}.jsonl-00000-of-00001").open()]


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("t5x"), EXPERIMENT)


@pytest.fixture(scope="module")
def native(bench) -> pathlib.Path:
    return bench.train_natively()


@pytest.fixture(scope="module")
def native_losses(native) -> dict[int, float]:
    rows = map(json.loads, (native / "metrics.jsonl").open())
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


@pytest.fixture(scope="module")
def t5x_losses(bench) -> dict[int, float]:
    return bench.train("t5x")


@pytest.fixture(scope="module")
def t5x(bench, t5x_losses) -> pathlib.Path:
    """MODEL_DIR of T5X."""
    return bench.folder / "t5x"


def assert_same_losses(actual: dict[int, float], expected: dict[int, float]) -> None:
    assert list(actual) == [step for step in sorted(expected) if step in actual]
    for step, loss in actual.items():
        assert loss == pytest.approx(expected[step], abs=1e-4), f"step {step}"


def trained(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return trees.flatten(bundle.load_bundle(folder).trainable)


@pytest.mark.slow
def test_both_engines_have_the_same_losses(t5x_losses, native_losses):
    assert len(native_losses) == STEPS
    assert len(t5x_losses) == STEPS
    assert_same_losses(t5x_losses, native_losses)
    assert native_losses[STEPS] < native_losses[1] - 0.3, "nothing was learned"


@pytest.mark.slow
def test_both_engines_leave_the_same_bundle(t5x, native):
    found, wanted = trained(t5x), trained(native)
    assert found.keys() == wanted.keys()
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, atol=2e-4, err_msg=path)
    manifests = [bundle.load_bundle(folder).manifest for folder in (t5x, native)]
    assert manifests[0].fingerprints == manifests[1].fingerprints
    assert manifests[0].step == manifests[1].step == STEPS
    assert not any("runs/t5x" in file for file in manifests[0].gin_files)


@pytest.mark.slow
def test_checkpoints_hold_what_is_trained_and_no_more(t5x):
    size = sum(path.stat().st_size for path in (t5x / f"checkpoint_{STEPS}").rglob("*") if path.is_file())
    assert size < 4 * 237_309, "bytes of the whole model, optimizer and place in the data included"


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint(bench, t5x, t5x_losses):
    (bench.folder / "resumed").mkdir()
    shutil.copytree(t5x / "checkpoint_10", bench.folder / "resumed" / "checkpoint_10")
    losses = bench.train("resumed")
    assert sorted(losses) == list(range(11, STEPS + 1))
    assert_same_losses(losses, t5x_losses)


@pytest.mark.slow
def test_training_does_not_go_on_with_other_frozen_parts(bench, t5x):
    shutil.copytree(t5x, bench.folder / "exchanged", ignore=shutil.ignore_patterns("checkpoint_20", "bundle"))
    flags = ("--gin_file=runs/t5x/train.gin", f"--gin.MODEL_DIR='{bench.folder / 'exchanged'}'", "--gin.SEED=1")
    told = bench.run("t5x.train", *flags, fails=True)
    assert re.search(r"belong to other frozen parts(.|\n)*lm: trained with", told), told[-4000:]


@pytest.mark.slow
def test_a_checkpoint_is_not_asked_with_other_frozen_parts(bench, t5x):
    told = bench.run(
        "t5x.eval",
        "--gin_file=runs/t5x/eval.gin",
        f"--gin.CHECKPOINT_PATH='{t5x / 'checkpoint_10'}'",
        f"--gin.EVAL_OUTPUT_DIR='{bench.folder / 'exchanged_eval'}'",
        f"--gin.MIXTURE_OR_TASK_NAME='{TASK}'",
        "--gin.SEED=1",
        fails=True,
    )
    assert re.search(r"belong to other frozen parts(.|\n)*lm: trained with", told), told[-4000:]


@pytest.mark.slow
def test_two_partitions_train_as_one(bench, t5x_losses):
    assert_same_losses(bench.train("partitions", "--gin.NUM_PARTITIONS=2", devices=2), t5x_losses)


@pytest.mark.slow
def test_microbatches_sum_to_the_batch(bench):
    flags = ("--gin.adapter.TransformerAdapter.dropout_rate=0.0", "--gin.REDUCER=None", "--gin.TRAIN_STEPS=5")
    whole = bench.train("whole", *flags)
    pieces = bench.train("pieces", *flags, "--gin.t5x_bridge.Trainer.num_microbatches=4")
    assert len(pieces) == 5
    assert_same_losses(pieces, whole)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("shipped"), SHIPPED)


@pytest.fixture(scope="module")
def native_shipped(shipped) -> pathlib.Path:
    return shipped.train_natively()


@pytest.fixture(scope="module")
def native_answers(native_shipped) -> list[str]:
    rows = (native_shipped / "predictions" / f"test-{STEPS}.jsonl").read_text().splitlines()
    return [json.loads(row)["prediction"] for row in rows]


@pytest.mark.slow
def test_t5x_evaluates_what_the_native_loop_has_trained(shipped, native_shipped, native_answers):
    answers, scores = shipped.evaluate("native_in_t5x", native_shipped)
    assert answers == native_answers
    assert scores["step"] == STEPS
    logged = [json.loads(row) for row in (native_shipped / "metrics.jsonl").open()]
    assert scores["wer"] == pytest.approx(next(row["test/wer"] for row in logged if "test/wer" in row))


@pytest.mark.slow
def test_the_native_loop_evaluates_what_t5x_has_trained(shipped):
    shipped.train("t5x")
    answers, _ = shipped.evaluate("t5x_in_t5x", shipped.folder / "t5x" / f"checkpoint_{STEPS}")
    output = shipped.folder / "t5x_in_native"
    flags = (f"--bundle={shipped.folder / 't5x'}", f"--task={TASK}", "--batch_size=4", f"--output={output}")
    shipped.run("slm_jax.eval", *flags)
    rows = (output / f"{TASK}.jsonl").read_text().splitlines()
    assert [json.loads(row)["prediction"] for row in rows] == answers


@pytest.mark.slow
def test_inference_writes_what_evaluation_scores(shipped, native_shipped, native_answers):
    rows = shipped.infer("predictions", native_shipped, "predict")
    assert [row["prediction"] for row in rows] == native_answers


@pytest.mark.slow
def test_scores_are_log_probabilities_of_the_targets(shipped, native_shipped):
    scores = np.asarray([row["score"] for row in shipped.infer("scores", native_shipped, "score")])
    assert scores.shape == (8,)
    assert (scores < 0).all() and (scores > -200).all()


@pytest.fixture
def boxed():
    box = nn.LogicallyPartitioned
    return {
        "adapter": {
            "up": {"kernel": box(jnp.ones((256, 512)), ("embed", "mlp")), "bias": jnp.ones((512,))},
        }
    }


def test_axes_are_named_as_t5x_wants_them(boxed):
    from slm_jax.t5x_bridge.model import axes_of

    names = {path: axes.names for path, axes in trees.flatten(axes_of(boxed)).items()}
    assert names == {"adapter/up/kernel_axes": ("embed", "mlp"), "adapter/up/bias_axes": (None,)}


@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.adamw(learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0),
        optimizers.adafactor(learning_rate=1e-3, momentum=0.9),
        optimizers.per_component(
            optimizers={
                "adapter/.*bias": optimizers.adamw(learning_rate=0.1),
                ".*": optimizers.adamw(learning_rate=0.2),
            }
        ),
    ],
    ids=["adamw", "adafactor", "per_component"],
)
def test_every_optimizer_has_layouts_and_survives_a_checkpoint(boxed, optimizer):
    from jax.sharding import PartitionSpec

    from slm_jax.t5x_bridge import Optimizer

    params = flax.core.freeze(nn.unbox(boxed))
    state = Optimizer(optimizer).create(params)
    specs = jax.tree.map(lambda leaf: PartitionSpec(*(["embed", "mlp"] if leaf.ndim == 2 else [None])), params)
    axes = state.optimizer_def.derive_logical_axes(state, flax.core.freeze(specs))
    flat = dict(
        jax.tree.leaves_with_path(axes.state.param_states, is_leaf=lambda x: x is None or isinstance(x, PartitionSpec))
    )
    for path, leaf in jax.tree.leaves_with_path(state.state.param_states):
        assert flat[path] == (PartitionSpec("embed", "mlp") if leaf.shape == (256, 512) else flat[path])
    gradients = jax.tree.map(lambda leaf: 0.5 * jnp.ones_like(leaf), params)
    once = state.apply_gradient(gradients, learning_rate=None)
    restored = state.restore_state(once.state_dict())
    twice, again = (each.apply_gradient(gradients, learning_rate=None) for each in (once, restored))
    jax.tree.map(np.testing.assert_array_equal, twice.target, again.target)
    assert not np.allclose(twice.target["adapter"]["up"]["kernel"], 1)


def test_paths_get_a_step_where_t5x_wants_one(tmp_path):
    from slm_jax.t5x_bridge import checkpoint_path, native_checkpoint

    manifest = bundle.BundleManifest({}, ("adapter/.*",), step=7)
    trained = {"adapter": {"a": np.ones(2, np.float32)}}
    bundle.save_bundle(bundle.Bundle(trained, manifest), directory=tmp_path / "bundle")
    assert native_checkpoint(str(tmp_path)) == str(tmp_path)
    assert checkpoint_path(str(tmp_path)) == f"{tmp_path}/checkpoint_7"
    (tmp_path / "other" / "checkpoint_3").mkdir(parents=True)
    assert native_checkpoint(f"{tmp_path}/other/checkpoint_3") is None
    assert checkpoint_path(f"{tmp_path}/other/checkpoint_3") == f"{tmp_path}/other/checkpoint_3"


def test_rules_name_the_axes_of_t5x_only():
    from slm_jax.t5x_bridge import logical_axis_rules

    rules = dict(logical_axis_rules())
    assert set(rules.values()) == {"data", "model", None}
    assert (rules["batch"], rules["mlp"], rules["embed"]) == ("data", "model", None)
