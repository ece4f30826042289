"""What one chip computes and moves in a compiled program: operations of its matrix units, bytes of its memory."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from slm_jax.aot import collectives, hlo

FREE = frozenset(
    {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all"}
    | {"partition-id", "replica-id", "optimization-barrier", "copy-done", "async-done", "async-update", "domain"}
    | {"add-dependency", "send", "send-done", "recv", "recv-done", "iota", "custom-call"}
)
"""Instructions that move nothing, or whose parts are counted elsewhere."""
SLICES = frozenset({"dynamic-slice", "slice", "gather"})


PASSES = {"high": 3, "highest": 6}
"""How many bfloat16 products a product of float32 of some precision is made of; by default, one."""


@dataclasses.dataclass(frozen=True)
class Operations:
    """What the matrix units of one chip do in a step; a multiply-add is two operations.

    Attributes:
      flops: operations of all matrix products and convolutions.
      passes: the same, products of higher precision counted as often as they are passed through the units.
    """

    flops: int
    passes: int


def operations(program: hlo.Program) -> Operations:
    """What one chip computes, what it computes again and what others compute too included."""
    total = passes = 0
    for run in program.runs():
        for instruction, place in program.inside(run.computation):
            if instruction.opcode in COUNTED:
                number = run.times * COUNTED[instruction.opcode](instruction, place)
                precision = re.search(r"operand_precision=\{(\w+)", instruction.text)
                total += number
                passes += number * PASSES.get(precision[1] if precision else "", 1)
    return Operations(total, passes)


def _dot_flops(instruction: hlo.Instruction, place: hlo.Computation) -> int:
    left = place.by_name[instruction.operands[0]].shapes[0]
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)
    axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
    return 2 * instruction.shapes[0].elements * math.prod(left.dims[axis] for axis in axes)


def _convolution_flops(instruction: hlo.Instruction, place: hlo.Computation) -> int:
    """Only positions where the window lies on the input count: XLA writes batched products as windows on padding."""
    left, right = (place.by_name[name].shapes[0].dims for name in instruction.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    if labels is None:
        raise ValueError(f"the convolution {instruction.name} does not tell its dimensions")
    lhs, rhs, out = (dict(zip(names, range(len(names)), strict=True)) for names in labels.groups())
    window = Window(instruction.attribute("window") or "")
    positions = 1
    for number, label in enumerate(sorted(label for label in lhs if label.isdigit())):
        size = instruction.shapes[0].dims[out[label]]
        positions *= window.positions(number, left[lhs[label]], right[rhs[label]], size)
    groups = int(instruction.attribute("batch_group_count") or 1)
    return 2 * right[rhs["i"]] * right[rhs["o"]] * left[lhs["b"]] // groups * positions


COUNTED = {"convolution": _convolution_flops, "dot": _dot_flops}


class Window:
    """The window of a convolution, such as {size=3x3 stride=2x2 pad=1_1x0_0}."""

    def __init__(self, text: str) -> None:
        self._fields = dict(field.split("=") for field in text.strip("{}").split())

    def _number(self, field: str, dimension: int, default: int) -> int:
        values = self._fields.get(field)
        return default if values is None else int(values.split("x")[dimension].split("_")[0])

    def positions(self, dimension: int, size: int, kernel: int, output: int) -> int:
        """How many pairs of a kernel's and an output's position along a dimension meet a real input position."""
        stride, pad = self._number("stride", dimension, 1), self._number("pad", dimension, 0)
        dilated, spread = self._number("lhs_dilate", dimension, 1), self._number("rhs_dilate", dimension, 1)
        if kernel == 1 and pad == 0 and dilated == 1:
            return output
        at = np.arange(output)[:, None] * stride + np.arange(kernel) * spread - pad
        return int(((at >= 0) & (at <= (size - 1) * dilated) & (at % dilated == 0)).sum())


def memory_traffic(program: hlo.Program) -> int:
    """Bytes between HBM and the chip's fast memory in a step: inputs and outputs of instructions that lie in HBM.

    What a loop takes of a stacked array is a slice, and what it writes into one too; layouts' padding is not counted.
    """
    return sum(
        run.times * sum(_moved(instruction, run.computation, program) for instruction in run.computation.instructions)
        for run in program.runs()
    )


def _moved(instruction: hlo.Instruction, place: hlo.Computation, program: hlo.Program) -> int:
    opcode = instruction.opcode
    if opcode in FREE or opcode.endswith("-done"):
        return 0
    inputs = hlo.shapes_of(instruction.operands, place)
    if opcode == "copy-start":  # gives the copy, the source, and a context
        return _slow(instruction.shapes[:1]) + min(_slow(inputs[0]), instruction.shapes[0].bytes)
    if opcode == "slice-start":  # gives the source, the slice, and a context
        return _slow(instruction.shapes[1:2]) + min(_slow(inputs[0]), instruction.shapes[1].bytes)
    if opcode.removesuffix("-start") in collectives.KINDS:
        return sum(map(_slow, inputs)) + (_slow(instruction.shapes) if not opcode.endswith("-start") else 0)
    if opcode in SLICES:
        return _slow(instruction.shapes) + min(_slow(inputs[0]), instruction.shapes[0].bytes)
    if opcode == "dynamic-update-slice":
        return _slow(inputs[1]) + (inputs[1][0].bytes if not instruction.shapes[0].fast else 0)
    if opcode == "fusion":
        return _fusion(instruction, place, program)
    return sum(map(_slow, inputs)) + _slow(instruction.shapes)


def _slow(shapes: Sequence[hlo.Shape]) -> int:
    return sum(shape.bytes for shape in shapes if not shape.fast)


def _fusion(instruction: hlo.Instruction, place: hlo.Computation, program: hlo.Program) -> int:
    inner = program.computations[instruction.called["calls"]]
    read = 0
    for parameter, shapes in zip(inner.parameters, hlo.shapes_of(instruction.operands, place), strict=False):
        if _slow(shapes):
            read += min(_slow(shapes), _read(parameter.name, inner, program))
    return read + _written(inner.root, instruction, inner, program)


def _read(name: str, place: hlo.Computation, program: hlo.Program) -> int:
    """Bytes that the users of a fusion's input need of it."""
    total = 0
    for user in place.instructions:
        if name not in user.operands:
            continue
        if user.opcode in SLICES and user.operands[0] == name:
            total += sum(shape.bytes for shape in user.shapes)
        elif user.opcode == "bitcast":
            total += _read(user.name, place, program)
        elif user.opcode == "fusion":
            inner = program.computations[user.called["calls"]]
            total += _read(inner.parameters[user.operands.index(name)].name, inner, program)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue  # in place
        elif user.opcode in ("tuple", "custom-call") or user.opcode.removesuffix("-start") in collectives.KINDS:
            continue  # passed through, or counted with the collective
        else:
            return sum(shape.bytes for shape in place.by_name[name].shapes)
    return total


def _written(root: hlo.Instruction, fusion: hlo.Instruction, place: hlo.Computation, program: hlo.Program) -> int:
    parts = [place.by_name[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return sum(
        0 if shape.fast else _result_bytes(part, place, program)
        for part, shape in zip(parts, fusion.shapes, strict=False)
    )


def _result_bytes(part: hlo.Instruction, place: hlo.Computation, program: hlo.Program) -> int:
    """Bytes that an output of a fusion writes: only the slice where it changes a slice, none where it is an input."""
    if part.opcode == "bitcast":
        return _result_bytes(place.by_name[part.operands[0]], place, program)
    if part.opcode == "dynamic-update-slice":
        return sum(shape.bytes for shape in place.by_name[part.operands[1]].shapes)
    if part.opcode == "fusion":
        inner = program.computations[part.called["calls"]]
        return _written(inner.root, part, inner, program)
    if part.opcode in ("parameter", "custom-call"):
        return 0
    return sum(shape.bytes for shape in part.shapes)
