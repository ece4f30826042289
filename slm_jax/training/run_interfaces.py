"""What a training run is given, and what it has to tell."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax

from slm_jax.training.loop import HostBatch
from slm_jax.typing import PyTree


@runtime_checkable
class Batches(Protocol):
    """An iterator of host batches that knows how many it has given."""

    position: int

    def __iter__(self) -> Iterator[HostBatch]: ...

    def __next__(self) -> HostBatch: ...


@runtime_checkable
class Evaluation(Protocol):
    """A decoded evaluation: `predict` gives a jitted function, `run` scores a split with it."""

    def predict(self, model: nn.Module) -> Callable[..., jax.Array]: ...

    def run(self, predict: Callable[..., jax.Array], params: PyTree, *, shard: Callable) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Where a run's settings came from, kept with what it leaves, and what holds for this process.

    Attributes:
      text: gives the operative configuration, for config.gin.
      gin_files: of the command line.
      gin_bindings: of the command line.
      step_timeout: seconds of a step after which the process ends, see `slm_jax.training.watchdog`; 0 for no end.
    """

    text: Callable[[], str] = str
    gin_files: Sequence[str] = ()
    gin_bindings: Sequence[str] = ()
    step_timeout: float = 0.0


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished run has to tell.

    Attributes:
      model_dir: the folder of this machine where everything but checkpoints was written.
      place: MODEL_DIR; another one if that is in a bucket, to which the former is copied.
      counts: parameters by component, see `freezing.count_parameters`.
      before: scores before training, by evaluation and metric (only those asked for, and on the first process).
      after: evaluated after training, by name.
      listening: loss a token with true, shuffled and no speech, after training.
      seconds: wall time of the run in this process.
    """

    model_dir: pathlib.Path
    place: str
    counts: Mapping[str, Any]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    listening: Mapping[str, float]
    seconds: float
