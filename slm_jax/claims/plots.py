"""The pictures of the ledger, drawn from what is recorded."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot, ticker
from matplotlib.axes import Axes

from slm_jax.claims.records import Record, Summary, by_seeds
from slm_jax.claims.table import SIZES

COLORS = matplotlib.colormaps["tab10"].colors


def plot_biasing(summaries: Sequence[Summary], path: pathlib.Path) -> None:
    """Word errors of names over the length of the list, with the right name on it and without; a line a seed."""
    figure, (left, right) = _axes(2)
    for summary in summaries:
        claims = summary["claims"]
        ends = {"with": "names", "without": "without_names"}
        for kind, color in (("with", "tab:green"), ("without", "tab:red")):
            scores = [claims[f"bias_{size}_{ends[kind]}"]["score"] for size in SIZES]
            left.plot(range(1, len(SIZES) + 1), scores, "o-", color=color, alpha=0.7)
        left.plot([0], [claims["bias_0_names"]["score"]], "o", color="black")
        costs = [claims[f"bias_{size}_without_cost"]["score"] for size in SIZES]
        right.plot(range(1, len(SIZES) + 1), costs, "o-", color="tab:red", alpha=0.7)
    left.plot([], [], "o-", color="tab:green", label="the name is on the list")
    left.plot([], [], "o-", color="tab:red", label="it is not")
    left.legend()
    right.axhline(0.5, color="black", linestyle=":", label="claimed: less than 0.5")
    right.legend()
    for axes in (left, right):
        axes.set_xticks(range(len(SIZES) + 1), ["no list", *map(str, SIZES)])
    left.set(xlabel="names on the list", ylabel="names wrong, %", ylim=(0, None))
    right.set(
        xlabel="names on the list, without the right one", ylabel="points of word error rate lost", ylim=(0, None)
    )
    _save(path)


def plot_families(summaries: Sequence[Summary], path: pathlib.Path) -> None:
    """Of each instruction: the score from speech over the score from the true transcript."""
    _, (axes,) = _axes(1)
    keys = [key for key in summaries[0]["claims"] if key.endswith("_ratio") and "bound" in summaries[0]["claims"][key]]
    keys = [key for key in keys if key.removesuffix("_ratio") + "_text" in summaries[0]["claims"]]
    means = {key: float(np.mean([summary["claims"][key]["score"] for summary in summaries])) for key in keys}
    keys = sorted(keys, key=means.__getitem__)
    labels = [key.removesuffix("_ratio") for key in keys]
    colors = ["tab:blue" if label == "translate_de" else "tab:green" for label in labels]
    axes.barh(labels, [means[key] for key in keys], color=colors)
    for summary in summaries:
        axes.plot([summary["claims"][key]["score"] for key in keys], labels, "k.", markersize=4)
    axes.axvline(0.9, color="black", linestyle=":")
    axes.set(xlabel="score from speech / score from the transcript", xlim=(0, 1.1))
    axes.set_title("blue: trained with speech; dots: seeds", fontsize="medium")
    _save(path)


def plot_reducers(records: Sequence[Record], path: pathlib.Path) -> None:
    """Word error rate of runs, with intervals, over what the language model has to read; a point a seed."""
    _, (axes,) = _axes(1)
    below = False  # names of neighbours take turns, so that they do not lie upon each other
    experiments = by_seeds(sorted(records, key=lambda record: record.speeds["vectors_per_second"]))
    for seeds, color in zip(experiments, itertools.cycle(COLORS), strict=False):
        for record in seeds:
            number = record.scores["transcribe/wer"]
            spread = [[number.score - number.low], [number.high - number.score]]
            position = (record.speeds["vectors_per_second"], number.score)
            axes.errorbar(*position, yerr=spread, fmt="o", capsize=3, color=color, alpha=0.8)
        offset = (6, -12 if below else 4)
        axes.annotate(_name(seeds[0]), position, xytext=offset, textcoords="offset points")
        below = not below
    axes.set(xlabel="vectors for a second of speech", ylabel="word error rate, %", yscale="log")
    axes.margins(x=0.12)
    _label_log_scale(axes)
    _save(path)


def plot_curves(records: Sequence[Record], path: pathlib.Path) -> None:
    """Losses of runs over their steps: in training (a line a seed), and held out with the true speech (points)."""
    _, (axes,) = _axes(1)
    for seeds, color in zip(by_seeds(records), itertools.cycle(COLORS), strict=False):
        for record in seeds:
            label = _name(record) if record is seeds[0] else None
            axes.plot(*zip(*record.curve, strict=True), color=color, alpha=0.8, label=label)
            if held_out := record.held_out.get("true"):
                axes.plot(*zip(*held_out, strict=True), "o", color=color)
    axes.set(xlabel="step", ylabel="cross-entropy a token (nats)", yscale="log")
    _label_log_scale(axes)
    axes.set_title("training; points: held out", fontsize="medium")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    _save(path)


def plot_score_curves(records: Sequence[Record], path: pathlib.Path, *, score: str = "test/wer") -> None:
    """Scores of runs over their steps; a dotted line for what was measured without training."""
    _, (axes,) = _axes(1)
    for record in records:
        if curve := record.score_curves.get(score):
            axes.plot(*zip(*curve, strict=True), "o-", label=record.name)
        else:
            axes.axhline(record.scores[score].score, color="black", linestyle=":", label=record.name)
    axes.set(xlabel="step", ylabel="word error rate, %", yscale="log")
    _label_log_scale(axes)
    axes.legend()
    _save(path)


def _name(record: Record) -> str:
    return pathlib.PurePath(record.gin_file).stem


def _axes(number: int) -> tuple[Any, Sequence[Axes]]:
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(1, number, figsize=(3.8 * number + 2.4 * (number == 1), 4.2), layout="constrained")
    found: Sequence[Axes] = np.atleast_1d(axes).tolist()
    for each in found:
        each.grid(alpha=0.3)
    return figure, found


def _label_log_scale(axes: Axes) -> None:
    axes.yaxis.set_minor_locator(ticker.LogLocator(subs=(1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")


def _save(path: pathlib.Path) -> None:
    pyplot.savefig(path, dpi=110)
    pyplot.close()
