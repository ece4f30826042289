"""What a run tells while it trains: TensorBoard events, metrics.jsonl, and one line of progress."""

import json
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from clu import metric_writers
from rich.console import Console

SAMPLE_RATE = 16_000


class Throughput:
    """Counts what went through since the last time it was asked.

    Args:
      share: of all rows of a batch, those that this process has; rates are those of all.
    """

    def __init__(self, share: float = 1.0) -> None:
        self.share = share
        self.reset()

    def reset(self) -> None:
        self.start = time.monotonic()
        self.steps = self.examples = self.samples = self.real = self.slots = 0

    def add(self, batch: Mapping[str, np.ndarray]) -> None:
        self.steps += 1
        if "speech" in batch:
            self.samples += int(np.sum(batch["speech_length"]))
            self._add_rows(batch["speech"].shape, batch["speech_length"])
        elif "speech_mask" in batch:
            self._add_rows(batch["speech_mask"].shape, batch["speech_mask"])

    def _add_rows(self, shape: tuple[int, ...], real: np.ndarray) -> None:
        self.examples += shape[0]
        self.real += int(np.sum(real))
        self.slots += math.prod(shape)

    def read(self) -> dict[str, float]:
        """Rates since the last reset; `padding` is the share of speech samples, or cached frames, that are padding."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        rates = {"steps_per_second": self.steps / seconds}
        if self.slots:
            rates["examples_per_second"] = self.examples / self.share / seconds
            rates["padding"] = 1 - self.real / self.slots
        if self.samples:
            rates["audio_seconds_per_second"] = self.samples / self.share / SAMPLE_RATE / seconds
        self.reset()
        return rates


class RunLog:
    """Writes scalars to MODEL_DIR and a progress line to the terminal.

    Args:
      model_dir: where `metrics.jsonl` goes.
      events: where TensorBoard events go, which may be a bucket; None for the same folder.
      total_steps: for the time left.
      primary: only the primary host writes and prints.
    """

    def __init__(
        self, model_dir: pathlib.Path, *, total_steps: int, events: str | None = None, primary: bool = True
    ) -> None:
        self.console = Console(stderr=True, quiet=not primary, highlight=False)
        self.total_steps = total_steps
        self.path = model_dir / "metrics.jsonl"
        self.primary = primary
        self.writer = metric_writers.SummaryWriter(events or str(model_dir)) if primary else None

    def write(self, step: int, scalars: Mapping[str, Any], *, kind: str) -> None:
        """One row in metrics.jsonl, one scalar each in TensorBoard, named kind/name."""
        values = {name: float(value) for name, value in scalars.items()}
        if self.writer is None:
            return
        self.writer.write_scalars(step, {f"{kind}/{name}": value for name, value in values.items()})
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")

    def progress(self, step: int, scalars: Mapping[str, float]) -> None:
        """The line a person watches: loss, norms, speed, padding, time left."""
        rate = scalars.get("steps_per_second", math.nan)
        parts = [f"step {step:>6}/{self.total_steps}", f"loss {scalars['loss']:.4f}"]
        if "accuracy" in scalars:
            parts.append(f"accuracy {scalars['accuracy']:.3f}")
        parts.append(f"gradient {scalars['gradient_norm']:.2f}")
        parts.append(f"{rate:.2f} steps/s")
        if "audio_seconds_per_second" in scalars:
            parts.append(f"{scalars['audio_seconds_per_second']:.0f} s audio/s")
        if "padding" in scalars:
            parts.append(f"padding {scalars['padding']:.0%}")
        # What was cut off is heard by nobody: it is to be seen before anyone wonders about the loss.
        cut = [name for name in ("dropped_frames", "dropped_vectors") if scalars.get(name, 0.0) > 0]
        parts += [f"{name.replace('_', ' ')} {scalars[name]:.1%}" for name in cut]
        if rate > 0:
            parts.append(f"{format_seconds((self.total_steps - step) / rate)} left")
        self.say("  ".join(parts))

    def say(self, message: str) -> None:
        """A line for the person at the terminal."""
        self.console.print(message, soft_wrap=True, markup=False)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def format_seconds(seconds: float) -> str:
    """75 -> 1:15, 3700 -> 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def read_metrics(model_dir: pathlib.Path, kind: str) -> list[dict[str, Any]]:
    """One row a step, of one kind, from metrics.jsonl; of a value written twice (after a resume) the later counts."""
    by_step: dict[int, dict[str, Any]] = {}
    for line in (model_dir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == kind:
            by_step.setdefault(row["step"], {}).update(row)
    return [by_step[step] for step in sorted(by_step)]


def scores_before(model_dir: pathlib.Path, evaluations: Sequence[str]) -> dict[str, dict[str, float]]:
    """Scores at step 0, by evaluation and metric; read back, since a process may have begun at a later step."""
    scores: dict[str, dict[str, float]] = {}
    for row in read_metrics(model_dir, "eval") if evaluations else ():
        for name in evaluations if row["step"] == 0 else ():
            scores[name] = {key.removeprefix(f"{name}/"): v for key, v in row.items() if key.startswith(f"{name}/")}
    return scores
