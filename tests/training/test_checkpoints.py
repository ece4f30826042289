"""Checkpoints: bit-exact, asynchronous, and safe against crashes, damage and a full disk."""

import contextlib
import dataclasses
import errno
import json
import pathlib
import re
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from slm_jax.training import checkpoints
from slm_jax.training.checkpoints import (
    Checkpoint,
    CheckpointMismatchError,
    CheckpointReadError,
    Checkpoints,
    CheckpointWriteError,
    KeepBest,
)

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def make_checkpoint(step: int) -> Checkpoint:
    rng = np.random.default_rng(step)
    trainable = {
        "adapter": {
            "kernel": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=(4,)), jnp.bfloat16),
        }
    }
    optimizer = OPTIMIZER.update(trainable, OPTIMIZER.init(trainable), trainable)[1]
    position = {"batches": step, "epoch": 0}
    return Checkpoint(step, trainable, optimizer, seed=7, data_position=position, manifest={"lm": "sha256:0"})


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    writer = Checkpoints(directory)
    for step in (1, 2, 3):
        writer.save(make_checkpoint(step))
    writer.close()
    return directory


@pytest.fixture
def directory(three_steps, tmp_path) -> pathlib.Path:
    return shutil.copytree(three_steps, tmp_path / "checkpoints")


def templates(checkpoint: Checkpoint) -> dict:
    return {"trainable": checkpoint.trainable, "optimizer": checkpoint.optimizer}


def assert_same(restored: Checkpoint, expected: Checkpoint) -> None:
    assert jax.tree.structure(restored.optimizer) == jax.tree.structure(expected.optimizer)
    for got, want in zip(
        jax.tree.leaves((restored.trainable, restored.optimizer)),
        jax.tree.leaves((expected.trainable, expected.optimizer)),
        strict=True,
    ):
        assert got.dtype == want.dtype and np.asarray(got).tobytes() == np.asarray(want).tobytes()
    scalars = "step", "seed", "data_position", "manifest"
    assert [getattr(restored, n) for n in scalars] == [getattr(expected, n) for n in scalars]


def test_the_latest_is_restored_bit_for_bit(directory):
    assert_same(Checkpoints(directory).restore(**templates(make_checkpoint(0))), make_checkpoint(3))


def test_a_step_can_be_asked_for(directory):
    assert_same(Checkpoints(directory).restore(**templates(make_checkpoint(0)), step=1), make_checkpoint(1))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 9 .*found steps \[1, 2, 3\]"):
        Checkpoints(directory).restore(**templates(make_checkpoint(0)), step=9)


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        Checkpoints(tmp_path).restore(**templates(make_checkpoint(0)))


def test_the_arrays_may_be_donated_while_they_are_being_written(tmp_path):
    writer, checkpoint = Checkpoints(tmp_path), make_checkpoint(1)
    writer.save(checkpoint)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 7, tree), donate_argnums=0)
    jax.block_until_ready(overwrite(checkpoint.trainable))
    writer.wait()
    assert_same(writer.restore(**templates(make_checkpoint(0))), make_checkpoint(1))


def test_only_the_latest_and_the_best_are_kept(tmp_path):
    writer = Checkpoints(tmp_path, keep=2, best=KeepBest("wer", "min"))
    for step, wer in enumerate([30.0, 10.0, 20.0, 25.0, 40.0], start=1):
        writer.save(make_checkpoint(step), metrics={"wer": wer})
    writer.close()
    assert Checkpoints(tmp_path).steps() == [2, 4, 5]


def test_a_high_metric_can_be_the_best_one(tmp_path):
    writer = Checkpoints(tmp_path, keep=1, best=KeepBest("bleu", "max"))
    for step, bleu in enumerate([30.0, 10.0, 20.0], start=1):
        writer.save(make_checkpoint(step), metrics={"bleu": bleu})
    writer.wait()
    assert writer.steps() == [1, 3]
    with pytest.raises(ValueError, match=r"chosen by 'bleu'; got only \['wer'\]"):
        writer.save(make_checkpoint(4), metrics={"wer": 1.0})


def test_a_checkpoint_that_was_being_written_when_the_process_died_is_ignored_and_removed(directory):
    half = directory / "4.orbax-checkpoint-tmp" / "trainable.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    reopened = Checkpoints(directory)
    assert reopened.restore(**templates(make_checkpoint(0))).step == 3
    assert not half.exists()
    reopened.save(make_checkpoint(4))
    reopened.close()
    assert Checkpoints(directory).restore(**templates(make_checkpoint(0))).step == 4


DAMAGES = {
    "empty folder": lambda step: [shutil.rmtree(item) for item in step.iterdir() if item.is_dir()],
    "record lost": lambda step: (step / "record" / "metadata").unlink(),
    "record torn": lambda step: (step / "record" / "metadata").write_text('{"format_version": 1, "st'),
    "arrays lost": lambda step: shutil.rmtree(step / "trainable"),
    "optimizer's data lost": lambda step: shutil.rmtree(step / "optimizer" / "d"),
    "arrays' index torn": lambda step: (step / "trainable" / "manifest.ocdbt").write_bytes(b"\0" * 20),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_a_warning_and_its_step_can_be_written_again(damage, directory, caplog):
    DAMAGES[damage](directory / "3")
    reopened = Checkpoints(directory)
    with caplog.at_level("WARNING"):
        assert_same(reopened.restore(**templates(make_checkpoint(0))), make_checkpoint(2))
    assert "skipped the checkpoint of step 3" in caplog.text and "restored step 2" in caplog.text
    assert (directory / "unusable" / "3").is_dir() and reopened.steps() == [1, 2]
    reopened.save(make_checkpoint(3))
    reopened.close()
    assert_same(Checkpoints(directory).restore(**templates(make_checkpoint(0))), make_checkpoint(3))
    assert checkpoints.saved_steps(directory) == [1, 2, 3]


def test_if_every_checkpoint_is_damaged_the_error_says_why_and_nothing_is_moved(directory):
    for step in (1, 2, 3):
        (directory / str(step) / "record" / "metadata").unlink()
    with pytest.raises(CheckpointReadError, match=r"(?s)step 3: .*step 2: .*step 1: "):
        Checkpoints(directory).restore(**templates(make_checkpoint(0)))
    assert Checkpoints(directory).steps() == [1, 2, 3]


def test_a_step_that_was_asked_for_is_never_replaced_by_another(directory):
    (directory / "3" / "record" / "metadata").unlink()
    with pytest.raises(CheckpointReadError, match="step 3"):
        Checkpoints(directory).restore(**templates(make_checkpoint(0)), step=3)
    assert (directory / "3").is_dir()


def no_space_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write = ocp.JsonCheckpointHandler._save_fn

    async def failing(self, item, folder):
        if item.get("step") == step:
            raise OSError(errno.ENOSPC, "No space left on device")
        await write(self, item, folder)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", failing)


@pytest.mark.parametrize("notice", ["wait", "next save", "close"])
def test_a_full_disk_is_an_error_that_leaves_state_and_earlier_checkpoints_whole(notice, directory, monkeypatch):
    writer, checkpoint = Checkpoints(directory), make_checkpoint(4)
    no_space_at(4, monkeypatch)
    writer.save(checkpoint)
    with pytest.raises(
        CheckpointWriteError, match=r"step 4 was not written .*No space left.* whole checkpoint is step 3"
    ):
        {"wait": writer.wait, "next save": lambda: writer.save(make_checkpoint(5)), "close": writer.close}[notice]()
    assert_same(checkpoint, make_checkpoint(4))
    assert_same(Checkpoints(directory).restore(**templates(make_checkpoint(0))), make_checkpoint(3))


def large_checkpoint(step: int) -> Checkpoint:
    """Larger than the limit of `no_room`, also when compressed."""
    kernel = jnp.asarray(np.random.default_rng(step).normal(size=(512, 512)), jnp.float32)
    return dataclasses.replace(make_checkpoint(step), trainable={"adapter": {"kernel": kernel}})


@contextlib.contextmanager
def no_room():
    """The operating system refuses to write more than 256 KiB to a file: a real failure, from within TensorStore."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_arrays_that_find_no_room_leave_state_and_the_only_earlier_checkpoint_whole(tmp_path):
    writer, checkpoint = Checkpoints(tmp_path, keep=1), large_checkpoint(4)
    writer.save(large_checkpoint(3))
    writer.wait()
    told = rf"step 4 was not written to {re.escape(str(tmp_path))}: .*File too large.* whole checkpoint is step 3\."
    with no_room():
        writer.save(checkpoint)
        with pytest.raises(CheckpointWriteError, match=told):
            writer.wait()
    assert_same(checkpoint, large_checkpoint(4))
    assert_same(writer.restore(**templates(large_checkpoint(0))), large_checkpoint(3))
    writer.save(checkpoint)
    writer.close()
    assert Checkpoints(tmp_path).steps() == [4], "the one that was kept for want of a newer one goes in the end"


def arrays_fail(error: Exception, monkeypatch: pytest.MonkeyPatch, *, at_once: bool) -> None:
    """Arrays are not written: known before `save` returns, or in the background."""

    class Failed:
        def result(self, timeout=None):
            raise error

    async def failing(self, *args, **kwargs):
        if at_once:
            raise error
        return [Failed()]

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "async_save", failing)


FULL = OSError(errno.ENOSPC, "No space left on device"), ValueError("RESOURCE_EXHAUSTED: No space left on device")


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in the background"])
@pytest.mark.parametrize("error", FULL, ids=["OSError", "ValueError"])
def test_every_failure_to_write_arrays_is_the_same_error(error, at_once, directory, monkeypatch):
    writer, checkpoint = Checkpoints(directory), make_checkpoint(4)
    told = rf"step 4 was not written to {re.escape(str(directory))}: .*No space left.* whole checkpoint is step 3\."
    with monkeypatch.context() as patch:
        arrays_fail(error, patch, at_once=at_once)
        with pytest.raises(CheckpointWriteError, match=told):
            writer.save(checkpoint)
            assert not at_once
            writer.wait()
    assert_same(checkpoint, make_checkpoint(4))
    assert_same(writer.restore(**templates(make_checkpoint(0))), make_checkpoint(3))
    writer.save(checkpoint)
    writer.close()
    assert_same(Checkpoints(directory).restore(**templates(make_checkpoint(0))), make_checkpoint(4))


def test_after_a_failed_write_the_same_step_can_be_saved_again(directory, monkeypatch):
    writer = Checkpoints(directory)
    with monkeypatch.context() as patch:
        no_space_at(4, patch)
        writer.save(make_checkpoint(4))
        with pytest.raises(CheckpointWriteError):
            writer.wait()
    writer.save(make_checkpoint(4))
    writer.close()
    assert Checkpoints(directory).restore(**templates(make_checkpoint(0))).step == 4


def test_a_step_is_never_written_twice(directory):
    with pytest.raises(ValueError, match="already has a checkpoint of step 2"):
        Checkpoints(directory).save(make_checkpoint(2))


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    writer = Checkpoints(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        writer.save(dataclasses.replace(make_checkpoint(1), data_position={"cursor": object()}))
    assert writer.steps() == []


@pytest.mark.parametrize("devices", [8, 2, 1])
def test_a_run_goes_on_with_another_number_of_devices(devices, tmp_path):
    def sharding(count: int) -> NamedSharding:
        return NamedSharding(Mesh(np.array(jax.devices()[:count]), ("data",)), PartitionSpec("data"))

    kernel = jax.device_put(jnp.arange(32.0).reshape(8, 4), sharding(4))
    writer = Checkpoints(tmp_path)
    writer.save(dataclasses.replace(make_checkpoint(1), trainable={"adapter": {"kernel": kernel}}, optimizer={}))
    writer.wait()
    template = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=sharding(devices))
    restored = writer.restore(trainable={"adapter": {"kernel": template}}, optimizer={})
    assert restored.trainable["adapter"]["kernel"].sharding == sharding(devices)
    np.testing.assert_array_equal(restored.trainable["adapter"]["kernel"], kernel)


@pytest.mark.parametrize(
    "part, change, message",
    [
        ("trainable", lambda t: {"adapter": {**t["adapter"], "new": jnp.ones(2)}}, r"missing \(1\): adapter/new"),
        ("trainable", lambda t: {"adapter": {"bias": t["adapter"]["bias"]}}, r"unexpected \(1\): adapter/kernel"),
        (
            "trainable",
            lambda t: {"adapter": {**t["adapter"], "kernel": jnp.ones((8, 5))}},
            r"adapter/kernel is \(8, 4\), needs \(8, 5\)",
        ),
        (
            "trainable",
            lambda t: {"adapter": {**t["adapter"], "bias": jnp.ones(4)}},
            "adapter/bias is bfloat16, needs float32",
        ),
        ("optimizer", lambda unused: optax.sgd(0.1, momentum=0.9).init({"a": jnp.ones(2)}), "optimizer state"),
    ],
)
def test_another_model_is_an_error_that_lists_the_differences_not_a_reason_to_go_back(part, change, message, directory):
    given = templates(make_checkpoint(0))
    given[part] = change(given[part])
    with pytest.raises(CheckpointMismatchError, match=message):
        Checkpoints(directory).restore(**given)
    assert checkpoints.saved_steps(directory) == [1, 2, 3]


def test_another_runs_parameters_are_read_without_knowing_its_optimizer_or_touching_its_folder(directory):
    (directory / "4.orbax-checkpoint-tmp").mkdir()
    before = sorted(path.name for path in directory.iterdir())
    read = checkpoints.read_trainable(directory)
    assert (read.step, read.optimizer, read.manifest) == (3, None, {"lm": "sha256:0"})
    jax.tree.map(np.testing.assert_array_equal, read.trainable, make_checkpoint(3).trainable)
    assert checkpoints.read_trainable(directory, step=1).step == 1
    assert sorted(path.name for path in directory.iterdir()) == before
    (directory / "3" / "record" / "metadata").unlink()
    with pytest.raises(CheckpointReadError, match="checkpoints/3 could not be read"):
        checkpoints.read_trainable(directory)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        checkpoints.read_trainable(directory / "nowhere")


def test_the_record_is_plain_json(directory):
    record = json.loads((directory / "3" / "record" / "metadata").read_text())
    assert record["arrays"]["trainable"] == {"adapter/bias": [[4], "bfloat16"], "adapter/kernel": [[8, 4], "float32"]}


def test_at_least_one_is_kept(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)
