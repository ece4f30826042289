"""Which mesh, layout of frozen parameters and recomputation let a training step take the least time, and fit."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from slm_jax.aot import steps
from slm_jax.aot.network import Network
from slm_jax.aot.report import MILLI, Report, compile_step, size_text
from slm_jax.aot.topology import Topology
from slm_jax.training import partitioning
from slm_jax.training.partitioning import FrozenLayout
from slm_jax.training.run import Training

REMAT = ("none", "dots", "full")
"""From nothing computed again to everything: the first that fits is the best of a mesh."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to lay out a step.

    Attributes:
      data, fsdp, model: sizes of the mesh.
      frozen: where frozen parameters are.
    """

    data: int
    fsdp: int
    model: int
    frozen: FrozenLayout

    def mesh(self, devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
        """The mesh of these devices."""
        return partitioning.make_mesh(data=self.data, fsdp=self.fsdp, model=self.model, devices=devices)

    def __str__(self) -> str:
        return f"data={self.data} fsdp={self.fsdp} model={self.model} frozen={self.frozen.value}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a candidate.

    Attributes:
      candidate: it.
      remat: what its layers keep; '' where it was not compiled.
      report: of the compiled step; None where there is none.
      refused: why not.
    """

    candidate: Candidate
    remat: str = ""
    report: Report | None = None
    refused: str = ""

    @property
    def fits(self) -> bool:
        """Whether it was compiled, and a chip holds it."""
        return self.report is not None and self.report.fits

    def to_json(self) -> dict[str, Any]:
        """Its numbers."""
        told = {"mesh": str(self.candidate), "remat": self.remat, "fits": self.fits, "refused": self.refused}
        if self.report is None:
            return told
        keys = ("step_seconds_bound", "step_seconds_without_overlap", "limit", "utilisation_bound")
        numbers = self.report.to_json()
        return told | {"memory_bytes": self.report.memory.total} | {key: numbers[key] for key in keys}


def candidates(num_chips: int, *, num_slices: int = 1, most_model: int = 16) -> Iterator[Candidate]:
    """Meshes with powers of two along the model axis; the other chips either copy the frozen parameters or split them.

    Args:
      num_chips: of all slices.
      num_slices: they share out the data axis.
      most_model: the longest model axis.
    """
    model = 1
    while model <= most_model and num_chips // num_slices % model == 0:
        rest = num_chips // model
        yield Candidate(rest, 1, model, FrozenLayout.COPIED)
        if rest > num_slices:
            yield Candidate(num_slices, rest // num_slices, model, FrozenLayout.SPLIT)
        model *= 2


def search(training: Training, topology: Topology, devices: Sequence[jax.Device]) -> Iterator[Outcome]:
    """Tries all candidates, those first that hold the least for arguments; each comes as soon as it is known.

    What is held by arguments alone is known without compiling, so that most of what has no room costs nothing. Of a
    mesh, policies are tried until one fits: the others only compute more.
    """
    room = topology.chip.hbm_bytes
    for candidate in candidates(topology.num_chips, num_slices=topology.num_slices):
        mesh = candidate.mesh(devices)
        laid_out = dataclasses.replace(training, mesh=mesh, frozen_layout=candidate.frozen)
        try:
            held = sum(steps.Steps(laid_out, mesh).train_held().values())
        except ValueError as error:
            yield Outcome(candidate, refused=str(error))
            continue
        if held > room:
            yield Outcome(candidate, refused=f"the arguments alone are {size_text(held)}")
            continue
        yield from _policies(laid_out, candidate, Network(mesh, topology.chip, topology.shape))


def _policies(training: Training, candidate: Candidate, network: Network) -> Iterator[Outcome]:
    for remat in REMAT:
        changed = steps.with_remat(training, remat)
        step = steps.Steps(changed, changed.partitioner().mesh).train()
        try:
            outcome = Outcome(candidate, remat, compile_step(step, network))
        except ValueError as error:
            outcome = Outcome(candidate, remat, refused=str(error))
        yield outcome
        if outcome.fits:
            return


def best(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Of those that fit, the one with the lowest bound; of equal ones, the one that depends least on overlap."""
    fitting = [outcome for outcome in outcomes if outcome.fits]
    return min(fitting, key=_time, default=None)


def _time(outcome: Outcome) -> tuple[float, float]:
    assert outcome.report is not None
    return outcome.report.roofline.bound, outcome.report.roofline.without_overlap


def table(outcomes: Sequence[Outcome]) -> str:
    """All outcomes, the best first, those without room last."""
    ordered = sorted(outcomes, key=lambda o: (not o.fits, _time(o) if o.report else (float("inf"),) * 2))
    found = Table(title="meshes, by the least time of a step among those that fit")
    for name in ("mesh", "remat", "memory", "at least", "limit", "peak used", "without overlap"):
        found.add_column(name)
    for outcome in ordered:
        report = outcome.report
        if report is None:
            found.add_row(str(outcome.candidate), outcome.remat, outcome.refused)
            continue
        line = report.roofline
        found.add_row(
            str(outcome.candidate),
            outcome.remat,
            size_text(report.memory.total) + ("" if report.fits else " DOES NOT FIT"),
            f"{line.bound / MILLI:.1f} ms",
            line.limit,
            f"{100 * report.utilisation(line.bound):.1f}%",
            f"{100 * report.utilisation(line.without_overlap):.1f}%",
        )
    text = io.StringIO()
    Console(file=text, width=140, color_system=None).print(found)
    return text.getvalue()
