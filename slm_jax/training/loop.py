"""The training loop: steps, logs, checkpoints, evaluations, and stopping well."""

import dataclasses
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import jax
import numpy as np

from slm_jax.training import hosts
from slm_jax.training.run_log import RunLog, Throughput
from slm_jax.training.state import TrainState
from slm_jax.training.watchdog import Watchdog
from slm_jax.typing import PRNGKey, PyTree

HostBatch = dict[str, np.ndarray]


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; the state is not saved."""


class StopRequest:
    """Becomes true when the process is asked to end (SIGTERM, as on preemption); the loop then saves and stops."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self.previous = signal.signal(signal.SIGTERM, self.handle)
        return self

    def __exit__(self, *unused: Any) -> None:
        signal.signal(signal.SIGTERM, self.previous)

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


@dataclasses.dataclass(frozen=True)
class Periodic:
    """Something done every `period` steps on the way, and after the last one unless somebody else does it then.

    Attributes:
      period: in steps; 0 never.
      action: called with the state.
      at_end: whether the last step counts.
    """

    period: int
    action: Callable[[TrainState], object]
    at_end: bool = True

    def due(self, step: int, last: bool) -> bool:
        return self.at_end if last else self.period > 0 and step % self.period == 0


@dataclasses.dataclass(frozen=True)
class Loop:
    """Runs a compiled step over batches until `train_steps`.

    Attributes:
      step: (state, frozen, batch, rng) -> (state, scalars); compiled, donates the state.
      shard: puts a host batch onto the devices.
      log: where scalars go.
      train_steps: the step to end at, counted from the beginning of the run.
      log_period: steps between two logged rows; each is the mean over its steps.
      periodic: checkpoints and evaluations.
      save: called when stopping early; saves at once and waits.
      watchdog: watches steps, but not what is periodic.
      share: of all rows of a batch, those that this process has.
    """

    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    shard: Callable[[HostBatch], Mapping[str, jax.Array]]
    log: RunLog
    train_steps: int
    log_period: int = 50
    periodic: Sequence[Periodic] = ()
    save: Callable[[TrainState], None] | None = None
    watchdog: Watchdog = dataclasses.field(default_factory=Watchdog)
    share: float = 1.0

    def run(self, state: TrainState, frozen: PyTree, batches: Iterator[HostBatch], rng: PRNGKey) -> TrainState:
        """The state after the last step.

        Raises:
          NonFiniteLossError: the loss of some step was NaN or infinite.
          SystemExit: SIGTERM came to any process, during the last step or before it; the state is saved and the exit
            code is 143, as the shell expects.
        """
        throughput, pending = Throughput(self.share), []
        with StopRequest() as stop, self.watchdog:
            for step in range(int(state.step) + 1, self.train_steps + 1):
                self.watchdog.restart()
                batch = next(batches)
                state, scalars = self.step(state, frozen, self.shard(batch), rng)
                throughput.add(batch)
                pending.append(scalars)
                last = step == self.train_steps
                due = [periodic for periodic in self.periodic if periodic.due(step, last)]
                if step % self.log_period == 0 or due:
                    self.report(step, pending, throughput)
                    pending = []
                stopping = self.agree_to_stop(step, stop)
                self.watchdog.pause()
                for periodic in due:
                    periodic.action(state)
                    throughput.reset()
                if stopping:  # after the last step too: what is left to do then may take long
                    if pending:
                        self.report(step, pending, throughput)
                    self.stop_early(step, state)
        return state

    def agree_to_stop(self, step: int, stop: StopRequest) -> bool:
        """Whether all processes stop now. Several ask each other only where a row is logged, and they wait anyway."""
        if jax.process_count() == 1:
            return stop.requested
        return (step % self.log_period == 0 or step == self.train_steps) and hosts.any_process(stop.requested)

    def report(self, step: int, pending: list[dict[str, jax.Array]], throughput: Throughput) -> None:
        rows = jax.device_get(pending)
        for back, row in enumerate(reversed(rows)):
            check_finite(step - back, float(row["loss"]))
        scalars = average(rows) | throughput.read()
        self.log.write(step, scalars, kind="train")
        self.log.progress(step, scalars)

    def stop_early(self, step: int, state: TrainState) -> None:
        if self.save is not None:
            self.save(state)
        self.log.say(f"Asked to stop: saved step {step}. The same command goes on from here.")
        raise SystemExit(128 + signal.SIGTERM)


def check_finite(step: int, loss: float) -> None:
    """Raises NonFiniteLossError with advice if the loss of a step is NaN or infinite."""
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"The loss is {loss} at step {step}. Nothing was saved since the last checkpoint. Lower the learning rate, "
            "or set a clip_norm; if it happens at step 1, look at the data."
        )


def average(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Token-weighted means of what is a mean over tokens; plain means of the rest."""
    weights = np.array([row["tokens"] for row in rows], np.float64)
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    per_token = [name for name in ("loss", "nll", "accuracy") if name in rows[0]]
    total = max(weights.sum(), 1.0)
    return mean | {name: float(np.sum([r[name] for r in rows] * weights) / total) for name in per_token}
