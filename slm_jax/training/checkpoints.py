"""Checkpoints of a run: what a killed run needs to go on as if nothing had happened.

One Orbax step folder holds the trainable parameters, the optimizer's state and a JSON record (step, seed, data
position, manifest, names and shapes). Frozen parameters are not saved: the manifest holds their fingerprints.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers

from slm_jax import trees
from slm_jax.typing import PyTree
from slm_jax.weights import layouts

FORMAT_VERSION = 1
FOLDER = "checkpoints"
"""Where a run's checkpoints lie in its MODEL_DIR."""
UNUSABLE = "unusable"
"""Folder, beside the steps, to which checkpoints that could not be read are moved when an older one was restored."""


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; the state in memory and the earlier checkpoints are as they were."""


class CheckpointReadError(ValueError):
    """No checkpoint could be read, or the one asked for could not."""


class CheckpointMismatchError(ValueError):
    """A checkpoint is whole but belongs to another model or optimizer."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` updates.

    Attributes:
      step: updates done.
      trainable: nested trainable parameters, without boxes.
      optimizer: the optimizer's state, any tree of arrays.
      seed: of the run; every random choice follows from seed and step.
      data_position: where the data go on, as JSON values; the same on every process.
      manifest: what the frozen parts were, as JSON values.
    """

    step: int
    trainable: PyTree
    optimizer: PyTree
    seed: int
    data_position: Mapping[str, Any]
    manifest: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class KeepBest:
    """Which checkpoints are kept for their quality, beside the latest ones.

    Attributes:
      metric: a name in the metrics that `save` is given.
      mode: whether a good value is a large or a small one.
      count: how many are kept.
    """

    metric: str
    mode: Literal["max", "min"]
    count: int = 1

    def policy(self) -> checkpoint_managers.BestN:
        return checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics[self.metric],
            reverse=self.mode == "min",
            n=self.count,
            keep_checkpoints_without_metrics=False,
        )


class Checkpoints:
    """The checkpoints of one run, written in the background; only one process may write to a folder.

    Attributes:
      directory: holds one folder a step; a local path or one that etils.epath knows, such as gs://bucket/run.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 3, best: KeepBest | None = None) -> None:
        """Opens the folder, makes it if needed, and removes what an earlier process did not finish writing.

        Args:
          directory: where the steps lie.
          keep: how many of the latest checkpoints stay.
          best: which others stay.

        Raises:
          ValueError: keep is less than 1.
        """
        if keep < 1:
            raise ValueError(f"at least one checkpoint must be kept, got keep={keep}")
        self.directory = epath.Path(_absolute(directory))
        self._best = best
        self._pending: int | None = None
        latest = checkpoint_managers.LatestN(keep)
        policies = [latest, best.policy()] if best else [latest]
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies), cleanup_tmp_directories=True
            ),
        )

    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first: those written to their end, and the one that is being written."""
        return sorted(self._manager.all_steps())

    def save(self, checkpoint: Checkpoint, *, metrics: Mapping[str, float] | None = None) -> None:
        """Begins to write a checkpoint and returns as soon as the arrays may be changed or donated.

        Waits for the checkpoint before it, so the error of that one is raised here, before this one is begun.

        Args:
          checkpoint: what to save.
          metrics: for KeepBest.

        Raises:
          CheckpointWriteError: this checkpoint or the one before it could not be written.
          ValueError: there is a checkpoint of this step, or the metric of KeepBest is missing.
        """
        self.wait()
        step = checkpoint.step
        if step in self.steps():
            raise ValueError(
                f"{self.directory} already has a checkpoint of step {step}. To train again from an earlier step, use"
                " another MODEL_DIR with that step as INITIAL_CHECKPOINT, or move the later checkpoints away."
            )
        if self._best and metrics is not None and self._best.metric not in metrics:
            raise ValueError(f"the best checkpoints are chosen by {self._best.metric!r}; got only {sorted(metrics)}")
        arguments, scores = _save_arguments(checkpoint), _as_floats(metrics)
        try:
            self._manager.save(step, args=arguments, metrics=scores, force=True)
        except Exception as error:  # as in wait
            raise self._write_error(step, error) from error
        self._pending = step

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk.

        Raises:
          CheckpointWriteError: it could not be written.
        """
        step, self._pending = self._pending, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # the writers raise OSError, ValueError or Exception, by library and file system
            raise self._write_error(step, error) from error
        if step not in self.steps():
            raise self._write_error(step, OSError("the folder was not committed"))

    def close(self) -> None:
        """Waits, then releases the threads.

        Raises:
          CheckpointWriteError: the last checkpoint could not be written.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def restore(self, *, trainable: PyTree, optimizer: PyTree, step: int | None = None) -> Checkpoint:
        """The latest checkpoint that can be read, or the one of `step`, on the devices that the templates name.

        A newest checkpoint that is damaged is skipped with a warning and moved to the folder 'unusable', so that its
        step can be written again.

        Args:
          trainable: template of the trainable parameters: jax.ShapeDtypeStruct with a sharding, or arrays.
          optimizer: template of the optimizer's state.
          step: restore this step or fail.

        Raises:
          FileNotFoundError: there is no checkpoint, or none of that step.
          CheckpointMismatchError: names, shapes or dtypes are not those of the templates (all are listed).
          CheckpointReadError: none could be read; says why for each.
        """
        steps = self.steps()
        _check_step(step, steps, self.directory)
        failures: dict[int, Exception] = {}
        for candidate in steps[::-1] if step is None else [step]:
            try:
                checkpoint = _read(self.directory / str(candidate), trainable=trainable, optimizer=optimizer)
            except (CheckpointMismatchError, MemoryError, jax.errors.JaxRuntimeError):
                raise
            except Exception as error:  # readers of damaged files raise whatever comes: JSON, Unicode, value errors
                logging.warning("skipped the checkpoint of step %d: %s", candidate, _first_line(error))
                failures[candidate] = error
            else:
                self._set_aside(list(failures), used=candidate)
                return checkpoint
        reasons = "\n  ".join(f"step {failed}: {_first_line(error)}" for failed, error in failures.items())
        raise CheckpointReadError(f"no checkpoint in {self.directory} could be read:\n  {reasons}")

    def _set_aside(self, steps: list[int], *, used: int) -> None:
        for step in steps:
            target = self.directory / UNUSABLE / str(step)
            number = 1
            while target.exists():
                number += 1
                target = self.directory / UNUSABLE / f"{step}-{number}"
            if jax.process_index() == 0:
                target.parent.mkdir(parents=True, exist_ok=True)
                (self.directory / str(step)).rename(target)
            logging.warning("restored step %d; the damaged checkpoint of step %d is now %s", used, step, target)
        if steps:
            self._manager.reload()

    def _write_error(self, step: int, error: Exception) -> CheckpointWriteError:
        self._manager.reload()  # it has already forgotten the checkpoints that this one was to replace
        steps = self.steps()
        kept = f"The latest whole checkpoint is step {steps[-1]}" if steps else "There is no earlier checkpoint"
        return CheckpointWriteError(
            f"the checkpoint of step {step} was not written to {self.directory}: {_first_line(error)}. {kept}. The"
            " training state in memory is unchanged: make room (or keep fewer checkpoints) and save again."
        )


def read_trainable(directory: str | os.PathLike[str], *, step: int | None = None) -> Checkpoint:
    """The parameters, on the host, of another run's checkpoint, which is only read; the optimizer's state is None.

    Args:
      directory: holds one folder a step.
      step: the latest whole one if None.

    Raises:
      FileNotFoundError: there is no checkpoint, or none of that step.
      CheckpointReadError: it could not be read.
    """
    steps = saved_steps(directory)
    _check_step(step, steps, directory)
    path = epath.Path(_absolute(directory)) / str(steps[-1] if step is None else step)
    try:
        return _read(path, trainable=None, optimizer=None)
    except Exception as error:  # as in Checkpoints.restore
        raise CheckpointReadError(f"the checkpoint {path} could not be read: {_first_line(error)}") from error


def saved_steps(directory: str | os.PathLike[str]) -> list[int]:
    """Steps of the whole checkpoints in a folder, oldest first; [] if it holds none or is not there."""
    folder = epath.Path(_absolute(directory))
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.exists() else []


def _check_step(step: int | None, steps: list[int], directory: str | os.PathLike[str]) -> None:
    if not steps or step not in {None, *steps}:
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise FileNotFoundError(f"there is {wanted} in {directory}; found steps {steps}")


def _absolute(directory: str | os.PathLike[str]) -> str:
    text = os.fspath(directory)
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 400 else f"{line[:150]} ... {line[-250:]}"  # TensorStore: long paths, then the reason


def _as_floats(metrics: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if metrics is None else {name: float(value) for name, value in metrics.items()}


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _save_arguments(checkpoint: Checkpoint) -> ocp.args.Composite:
    arrays = {"trainable": trees.flatten(checkpoint.trainable), "optimizer": _named_leaves(checkpoint.optimizer)}
    record = {
        "format_version": FORMAT_VERSION,
        "step": checkpoint.step,
        "seed": checkpoint.seed,
        "data_position": dict(checkpoint.data_position),
        "manifest": dict(checkpoint.manifest),
        "arrays": {
            item: {name: [list(x.shape), jnp.dtype(x.dtype).name] for name, x in flat.items()}
            for item, flat in arrays.items()
        },
    }
    json.dumps(record)  # a value that JSON cannot hold is the caller's error here, not the writer's in the background
    items = {item: ocp.args.StandardSave(flat) for item, flat in arrays.items() if flat}
    return ocp.args.Composite(record=ocp.args.JsonSave(record), **items)


def _read(path: epath.Path, *, trainable: PyTree, optimizer: PyTree) -> Checkpoint:
    """Reads one step; with templates of None, the trainable parameters as stored and no optimizer."""
    record = json.loads((path / "record" / "metadata").read_text())
    if record["format_version"] != FORMAT_VERSION:
        raise CheckpointMismatchError(f"{path} has format {record['format_version']}, not {FORMAT_VERSION}")
    stored = {
        item: {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in flat.items()}
        for item, flat in record["arrays"].items()
    }
    if trainable is None:
        flat, opt_state = _read_arrays(path / "trainable", stored["trainable"]), None
    else:
        flat_optimizer = _named_leaves(optimizer)
        _check_layout(path, trees.flatten(trainable), stored["trainable"], kind="trainable parameters")
        _check_layout(path, flat_optimizer, stored["optimizer"], kind="optimizer state")
        flat = _read_arrays(path / "trainable", trees.flatten(trainable))
        read = _read_arrays(path / "optimizer", flat_optimizer)
        opt_state = jax.tree.unflatten(jax.tree.structure(optimizer), [read[name] for name in flat_optimizer])
    return Checkpoint(
        step=record["step"],
        trainable=trees.unflatten(flat),
        optimizer=opt_state,
        seed=record["seed"],
        data_position=record["data_position"],
        manifest=record["manifest"],
    )


def _read_arrays(path: epath.Path, templates: Mapping[str, Any]) -> dict[str, jax.Array]:
    if not templates:
        return {}
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or default)
        for name, x in templates.items()
    }
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, abstract)


def _check_layout(path: epath.Path, expected: Mapping[str, Any], found: Mapping[str, Any], *, kind: str) -> None:
    problems = layouts.layout_problems(expected, found)
    retyped = [
        f"{name} is {found[name].dtype}, needs {expected[name].dtype}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].dtype != expected[name].dtype
    ]
    problems += [f"wrong dtype ({len(retyped)}): {layouts.enumerate_names(retyped)}"] if retyped else []
    if problems:
        raise CheckpointMismatchError(
            f"the {kind} in {path} are not those of this run. Set the configuration back, or start in another MODEL_DIR"
            " (with INITIAL_CHECKPOINT to keep the parameters):\n  " + "\n  ".join(problems)
        )
