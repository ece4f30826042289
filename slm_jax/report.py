"""What a person sees at the end of a run: a table, a plot of the loss, examples, and summary.json."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib import pyplot, ticker
from rich.console import Console
from rich.table import Table

from slm_jax.training.run_interfaces import RunResult
from slm_jax.training.run_log import format_seconds, read_metrics

SUMMARY = "summary.json"
LOSS_PLOT = "loss.png"


@dataclasses.dataclass(frozen=True)
class Score:
    """One number of the report.

    Attributes:
      label: what a person calls it.
      evaluation: name of the decoded evaluation it is from.
      metric: name of the metric.
      key: its key in summary.json; a dot makes it an entry of an inner object.
      unit: written behind the number.
    """

    label: str
    evaluation: str
    metric: str
    key: str
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """Prints the result of a run and writes summary.json and loss.png next to the bundle.

    Attributes:
      scores: numbers from evaluations after training.
      scores_before: numbers from evaluations before it.
      examples: evaluations of which a few answers are shown.
      try_it: a command to go on with; {model_dir} is filled in.
    """

    scores: Sequence[Score]
    scores_before: Sequence[Score] = ()
    examples: Sequence[str] = ()
    try_it: str = ""

    def __call__(self, result: RunResult) -> None:
        summary = self.summary(result)
        plot_loss(result.model_dir)
        (result.model_dir / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
        console = Console(highlight=False)
        console.print(self.table(result))
        for line in self.example_lines(result):
            console.print(line, markup=False, soft_wrap=True)
        closing = [f"\nWritten to {result.place}: bundle/, {SUMMARY}, {LOSS_PLOT}, predictions/"]
        if self.try_it:
            closing += ["Try your own recording:", f"  {self.try_it.format(model_dir=result.place)}"]
        for line in closing:
            console.print(line, markup=False, soft_wrap=True)  # a command that is wrapped cannot be copied

    def summary(self, result: RunResult) -> dict[str, Any]:
        """All numbers of the run, by key."""
        summary: dict[str, Any] = {}
        after = {name: evaluated.scores for name, evaluated in result.after.items()}
        for scores, values in ((self.scores_before, result.before), (self.scores, after)):
            for score in scores:
                if score.evaluation in values:
                    put(summary, score.key, values[score.evaluation][score.metric])
        return summary | {
            **result.listening,
            "trained_parameters": result.counts["trainable"],
            "frozen_parameters": result.counts["frozen"],
            "seconds": round(result.seconds, 1),
        }

    def table(self, result: RunResult) -> Table:
        """Scores before and after, the listening losses, sizes and time."""
        table = Table(title="On sentences and a voice that training never had")
        for column in ("", "before training", "after"):
            table.add_column(column, justify="left" if not column else "right")
        after = {name: evaluated.scores for name, evaluated in result.after.items()}
        before = {(s.evaluation, s.metric): value_of(result.before, s) for s in self.scores_before}
        for score in self.scores:
            shown = before.get((score.evaluation, score.metric), "")
            table.add_row(score.label, shown, value_of(after, score))
        table.add_section()
        for name, label in (("true", "its own speech"), ("shuffled", "another's speech"), ("no", "no speech")):
            if f"loss_{name}_audio" in result.listening:
                table.add_row(f"loss a token with {label}", "", f"{result.listening[f'loss_{name}_audio']:.3f}")
        table.add_section()
        trained, frozen = result.counts["trainable"], result.counts["frozen"]
        table.add_row("parameters trained", "", f"{trained:,} ({trained / (trained + frozen):.1%})")
        table.add_row("parameters frozen", "", f"{frozen:,}")
        table.add_row("time", "", format_seconds(result.seconds))
        return table

    def example_lines(self, result: RunResult) -> list[str]:
        """The first answer of each evaluation in `examples`, as prompt, answer and reference."""
        lines = []
        for name in self.examples:
            shown = result.after[name].predictions[0]
            lines += [f"\n  {shown.inputs!r}", f"    answer     {shown.prediction}", f"    reference  {shown.target}"]
        return lines


def put(summary: dict[str, Any], key: str, value: float) -> None:
    """summary['a']['b'] = value for the key 'a.b'."""
    *outer, last = key.split(".")
    for name in outer:
        summary = summary.setdefault(name, {})
    summary[last] = round(value, 4)


def value_of(values: Mapping[str, Mapping[str, float]], score: Score) -> str:
    """The score as the table shows it; empty if it was not evaluated."""
    if score.evaluation not in values:
        return ""
    return f"{values[score.evaluation][score.metric]:.1f}{score.unit}"


def plot_loss(model_dir: pathlib.Path) -> None:
    """MODEL_DIR/loss.png: the training loss, and held-out losses with true, shuffled and no speech."""
    matplotlib.use("Agg")
    train, held_out = read_metrics(model_dir, "train"), read_metrics(model_dir, "eval")
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    axes.plot([row["step"] for row in train], [row["loss"] for row in train], color="black", label="training")
    for name, color in (("true", "tab:green"), ("shuffled", "tab:orange"), ("no", "tab:red")):
        key = f"loss_{name}_audio"
        rows = [row for row in held_out if key in row]
        label = {"true": "held out", "shuffled": "held out, another's speech", "no": "held out, no speech"}[name]
        axes.plot([row["step"] for row in rows], [row[key] for row in rows], "o--", color=color, label=label)
    axes.set(xlabel="step", ylabel="cross-entropy a token (nats)", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))  # labels of all nine would run into each other
    axes.yaxis.set_minor_formatter("{x:.2g}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(model_dir / LOSS_PLOT, dpi=120)
    pyplot.close(figure)
