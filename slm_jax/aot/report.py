"""Compiles a step and tells what it needs: a table for people, a dictionary for programs."""

import dataclasses
import io
import time
from collections.abc import Sequence
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from slm_jax.aot import collectives, hlo, memory, work
from slm_jax.aot.chips import Chip
from slm_jax.aot.network import Network
from slm_jax.aot.roofline import Roofline, roofline, utilisation
from slm_jax.aot.steps import Step
from slm_jax.typing import PyTree

TERA, MILLI = 1e12, 1e-3


def size_text(size: int | float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


@dataclasses.dataclass(frozen=True)
class Report:
    """What compiling a step has told.

    Attributes:
      step: its name.
      mesh: sizes by axis.
      num_chips: of all slices.
      chip: of which kind.
      memory: of one chip.
      operations: of one chip.
      minimum_flops: of all chips together: what the step has to compute, however it is laid out.
      memory_bytes: between HBM and one chip.
      collectives: what is exchanged.
      roofline: least times.
      trace_seconds: to trace the step.
      compile_seconds: to compile it.
      compile_cpu_seconds: the same, of all processors, whatever else they were busy with.
      compiled: the executable.
      results: shapes of what it gives.
    """

    step: str
    mesh: dict[str, int]
    num_chips: int
    chip: Chip
    memory: memory.Memory
    operations: work.Operations
    minimum_flops: int
    memory_bytes: int
    collectives: Sequence[collectives.Collective]
    roofline: Roofline
    trace_seconds: float
    compile_seconds: float
    compile_cpu_seconds: float
    compiled: jax.stages.Compiled
    results: PyTree

    @property
    def fits(self) -> bool:
        """Whether a chip's memory holds it all."""
        return self.memory.total <= self.memory.hbm

    def utilisation(self, seconds: float) -> float:
        """The share of the peak that steps of this length would use."""
        return utilisation(float(self.minimum_flops), seconds=seconds, num_chips=self.num_chips, chip=self.chip)

    def exchanges(self) -> list[dict[str, Any]]:
        """Collectives summed up by kind and mesh axes."""
        total: dict[tuple[str, str], dict[str, Any]] = {}
        for one in self.collectives:
            row = total.setdefault(
                (one.kind, one.axes),
                {"kind": one.kind, "axes": one.axes, "times": 0, "ici_bytes": 0.0, "dcn_bytes": 0.0, "seconds": 0.0},
            )
            row["times"] += one.times
            row["ici_bytes"] += one.ici_bytes
            row["dcn_bytes"] += one.dcn_bytes
            row["seconds"] += one.seconds_ici + one.seconds_dcn
        return sorted(total.values(), key=lambda row: -row["seconds"])

    def to_json(self) -> dict[str, Any]:
        """Everything as numbers; bytes and FLOPs are those of one chip and one step."""
        bound = self.roofline.bound
        return {
            "mesh": self.mesh,
            "chips": self.num_chips,
            "memory_bytes": {**self.memory.rows, "total": self.memory.total, "hbm": self.memory.hbm},
            "fits": self.fits,
            "flops": self.operations.flops,
            "minimum_flops": self.minimum_flops / self.num_chips,
            "hbm_traffic_bytes": self.memory_bytes,
            "collectives": self.exchanges(),
            "roofline_seconds": self.roofline.terms,
            "step_seconds_bound": bound,
            "step_seconds_without_overlap": self.roofline.without_overlap,
            "limit": self.roofline.limit,
            "utilisation_bound": self.utilisation(bound),
            "utilisation_without_overlap": self.utilisation(self.roofline.without_overlap),
            "trace_seconds": round(self.trace_seconds, 2),
            "compile_seconds": round(self.compile_seconds, 2),
            "compile_cpu_seconds": round(self.compile_cpu_seconds, 2),
        }

    def table(self) -> str:
        """The same for people."""
        table = Table(title=f"{self.step}: {self.num_chips} chips {self.chip.generation}, mesh {self.mesh}")
        table.add_column("of one chip and one step")
        table.add_column("", justify="right")
        table.add_column("")
        for name, size in self.memory.rows.items():
            table.add_row(name, size_text(size), "")
        verdict = "fits" if self.fits else "DOES NOT FIT"
        table.add_row("memory in all", size_text(self.memory.total), f"of {size_text(self.memory.hbm)}: {verdict}")
        table.add_section()
        minimum = self.minimum_flops / self.num_chips
        share = f"{self.operations.flops / minimum:.2f} times the minimum of {minimum / TERA:.4g}" if minimum else ""
        table.add_row("FLOPs", f"{self.operations.flops / TERA:.4g} T", share)
        table.add_row("bytes of HBM moved", size_text(self.memory_bytes), "")
        for row in self.exchanges():
            size = row["ici_bytes"] + row["dcn_bytes"]
            note = f"{row['times']} times, over {row['axes'] or 'one chip'}"
            note += f", {size_text(row['dcn_bytes'])} between slices" if row["dcn_bytes"] else ""
            table.add_row(f"{row['kind']} sends", size_text(size), note)
        table.add_section()
        for name, seconds in self.roofline.terms.items():
            table.add_row(f"time of {name}", f"{seconds / MILLI:.3f} ms", "")
        for name, seconds in (
            ("at least", self.roofline.bound),
            ("without overlap", self.roofline.without_overlap),
        ):
            limit = f", set by {self.roofline.limit}" if name == "at least" else ""
            used = f"{100 * self.utilisation(seconds):.1f}% of the peak used{limit}"
            table.add_row(f"step takes {name}", f"{seconds / MILLI:.3f} ms", used)
        table.add_row("compiled in", f"{self.compile_seconds:.1f} s", f"{self.compile_cpu_seconds:.1f} s of processors")
        text = io.StringIO()
        Console(file=text, width=120, color_system=None).print(table)
        return text.getvalue()


def compile_step(step: Step, network: Network) -> Report:
    """Compiles a step for the devices of a mesh and reads what came out.

    Raises:
      ValueError: the compiler found no room for it; the message is the compiler's.
    """
    start = time.monotonic()
    lowered = step.lower()
    traced, used = time.monotonic(), time.process_time()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(f"{step.name} has no room on {network.chip.generation}: {_first_lines(str(error))}") from error
    done, used = time.monotonic(), time.process_time() - used
    program = hlo.parse(compiled.as_text() or "")
    operations, traffic = work.operations(program), work.memory_traffic(program)
    exchanged = collectives.find(program, network)
    return Report(
        step=step.name,
        mesh={str(name): size for name, size in network.mesh.shape.items()},
        num_chips=network.num_devices,
        chip=network.chip,
        memory=memory.memory(compiled, program, held=step.held, hbm=network.chip.hbm_bytes),
        operations=operations,
        minimum_flops=step.minimum_flops,
        memory_bytes=traffic,
        collectives=exchanged,
        roofline=roofline(
            flops=float(operations.passes), memory_bytes=float(traffic), collectives=exchanged, chip=network.chip
        ),
        trace_seconds=traced - start,
        compile_seconds=done - traced,
        compile_cpu_seconds=used,
        compiled=compiled,
        results=lowered.out_info,
    )


def _first_lines(message: str) -> str:
    return " ".join(line.strip() for line in message.splitlines()[:3])
