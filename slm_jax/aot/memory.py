"""What a chip holds while it runs a compiled step."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from slm_jax.aot import hlo

FORWARD, BACKWARD = "jvp(", "transpose("
"""In the names of operations, JAX marks with these what differentiation has made of them."""
PASSED_ON = frozenset({"bitcast", "copy", "get-tuple-element", "tuple", "copy-done", "opt-barrier"})


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip.

    Attributes:
      held: arguments by kind.
      padding: what the layouts of the arguments add to them.
      output: results that do not take the place of an argument.
      activations: what the forward pass leaves for the backward pass.
      temporaries: everything else a step needs for a while.
      program: the compiled code and its constants.
      hbm: what there is.
    """

    held: Mapping[str, int]
    padding: int
    output: int
    activations: int
    temporaries: int
    program: int
    hbm: int

    @property
    def total(self) -> int:
        """All of them together."""
        others = self.padding + self.output + self.activations + self.temporaries + self.program
        return sum(self.held.values()) + others

    @property
    def rows(self) -> dict[str, int]:
        """By name, in the order of a table."""
        fields = ("padding", "output", "activations", "temporaries", "program")
        return {**self.held, **{name: getattr(self, name) for name in fields}}


def memory(compiled: Any, program: hlo.Program, *, held: Mapping[str, int], hbm: int) -> Memory:
    """The memory of a compiled step, by XLA's own account of arguments, outputs and temporaries.

    Args:
      compiled: has `memory_analysis`.
      program: its text, parsed.
      held: bytes of the arguments by kind.
      hbm: what a chip has.
    """
    told = compiled.memory_analysis()
    kept = min(activations(program), told.temp_size_in_bytes)
    return Memory(
        held=held,
        padding=max(0, told.argument_size_in_bytes - sum(held.values())),
        output=told.output_size_in_bytes - told.alias_size_in_bytes,
        activations=kept,
        temporaries=told.temp_size_in_bytes - kept,
        program=told.generated_code_size_in_bytes,
        hbm=hbm,
    )


def activations(program: hlo.Program) -> int:
    """Bytes in HBM that instructions of the forward pass give and such of the backward pass take."""
    total = 0
    for run in program.runs():
        place = run.computation
        kept: dict[tuple[str, int], int] = {}
        for user in place.instructions:
            if BACKWARD in user.op_name and user.opcode not in PASSED_ON:
                for name in user.operands:
                    kept |= _forward(name, None, place)
        total += sum(kept.values())
    return total


def _forward(name: str, index: int | None, place: hlo.Computation) -> dict[tuple[str, int], int]:
    """The arrays of the forward pass that an operand is or holds, with their sizes."""
    source = place.by_name.get(name)
    if source is None:
        return {}
    if source.opcode == "get-tuple-element":
        return _forward(source.operands[0], int(source.attribute("index") or 0), place)
    if source.opcode == "tuple":
        chosen = source.operands if index is None else source.operands[index : index + 1]
        return {key: size for one in chosen for key, size in _forward(one, None, place).items()}
    if source.opcode in PASSED_ON or source.opcode == "copy-start":
        return _forward(source.operands[0], None, place)
    if source.opcode == "while" and index is not None and source.operands:
        origin = place.by_name.get(source.operands[0])
        if origin is not None and origin.opcode == "tuple" and index < len(origin.operands):
            first = place.by_name.get(origin.operands[index])
            if first is not None and first.opcode == "parameter":
                return {}  # parameters that a loop hands on
    if FORWARD not in source.op_name or BACKWARD in source.op_name or source.opcode == "parameter":
        return {}
    shapes = list(enumerate(source.shapes))
    return {
        (name, number): shape.bytes
        for number, shape in (shapes if index is None else shapes[index : index + 1])
        if not shape.fast
    }
