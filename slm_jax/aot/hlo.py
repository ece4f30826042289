"""Compiled programs as XLA prints them: instructions, shapes, and how often each computation is run."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

BITS = {"pred": 8, "token": 0, "opaque": 0}

_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,<=]*)\](\{[^{}]*\})?")
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_OPERATION = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_CALLS = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array's type, and where it lives.

    Attributes:
      dtype: XLA's name, such as bf16.
      dims: sizes of its axes.
      fast: whether it lives in the chip's fast memory and not in HBM.
    """

    dtype: str
    dims: tuple[int, ...]
    fast: bool = False

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Its size without the padding of its layout."""
        found = re.search(r"\d+", self.dtype)
        bits = BITS.get(self.dtype, int(found[0]) if found else 0)
        return math.ceil(self.elements * bits / 8)


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type, those of tuples one after the other.

    (f32[2,3]{1,0:T(8,128)S(1)}, u32[]) -> (Shape('f32', (2, 3), fast=True), Shape('u32', ()))
    """
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        found.append(Shape(dtype, sizes, fast=re.search(r"S\([1-9]\)", layout) is not None))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in the program.
      shapes: the arrays it gives.
      opcode: such as fusion.
      operands: names of its inputs.
      text: what follows the operands: attributes, metadata, backend configuration.
      inputs: what stands between its brackets: a constant's value, a parameter's number.
      root: whether it is what its computation gives.
    """

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    text: str
    inputs: str = ""
    root: bool = False

    @property
    def called(self) -> Mapping[str, str]:
        """Names of the computations it runs, by their role: body, condition, calls, to_apply, branch0, ..."""
        found = {role: name for role, name in _CALLS.findall(self.text)}
        for names in _BRANCHES.findall(self.text):
            found |= {f"branch{i}": name.strip().lstrip("%") for i, name in enumerate(names.split(","))}
        return found

    @property
    def op_name(self) -> str:
        """Where in the traced program it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else ""

    def attribute(self, name: str) -> str | None:
        """The text of an attribute up to the next comma, or its braces."""
        found = re.search(rf"\b{name}=(\{{[^{{}}]*\}}|[^,\s]+)", self.text)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in the order in which they are run."""

    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        """Instructions by their names."""
        return {instruction.name: instruction for instruction in self.instructions}

    @property
    def root(self) -> Instruction:
        """What the computation gives."""
        return next((i for i in self.instructions if i.root), self.instructions[-1])

    @functools.cached_property
    def parameters(self) -> tuple[Instruction, ...]:
        """Its inputs, in the order of the call."""
        found = [i for i in self.instructions if i.opcode == "parameter"]
        return tuple(sorted(found, key=lambda i: int(i.inputs)))


@dataclasses.dataclass(frozen=True)
class Run:
    """A computation that is run by itself, not as the inside of another instruction.

    Attributes:
      computation: the entry, a loop's body or condition, a branch.
      times: how often a step runs it.
    """

    computation: Computation
    times: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program for one device of a mesh.

    Attributes:
      computations: by name.
      entry: the name of the one that is run.
    """

    computations: Mapping[str, Computation]
    entry: str

    def runs(self) -> list[Run]:
        """The entry and all loops and branches it reaches, with how often they are run; every branch counts."""
        return list(self._runs(self.entry, 1))

    def _runs(self, name: str, times: int) -> Iterator[Run]:
        computation = self.computations[name]
        yield Run(computation, times)
        for instruction in computation.instructions:
            called = instruction.called
            if instruction.opcode == "while":
                yield from self._runs(called["body"], times * self.trip_count(instruction))
            elif instruction.opcode in ("call", "conditional"):
                for inner in called.values():
                    yield from self._runs(inner, times)

    def inside(self, computation: Computation) -> Iterator[tuple[Instruction, Computation]]:
        """Its instructions and those of the fusions it calls, of fusions of fusions too, each with where it stands."""
        for instruction in computation.instructions:
            yield instruction, computation
            if instruction.opcode not in ("while", "call", "conditional"):
                for role, name in instruction.called.items():
                    if role != "to_apply" and name in self.computations:
                        yield from self.inside(self.computations[name])

    def trip_count(self, loop: Instruction) -> int:
        """How often a loop runs: the bound its counter, which starts at 0, is compared with. At most so often, if the
        loop may also end earlier.

        Raises:
          ValueError: its condition compares nothing with a constant.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text)
        if known:
            return int(known[1])
        condition = self.computations[loop.called["condition"]]
        bounds = [
            int(i.inputs)
            for i, _ in self.inside(condition)
            if i.opcode == "constant" and i.shapes[:1] and i.shapes[0].dims == () and re.fullmatch(r"\d+", i.inputs)
        ]
        if not any(i.opcode == "compare" for i, _ in self.inside(condition)) or not bounds:
            raise ValueError(f"the loop {loop.name} has no constant bound: how often it runs is not known")
        return max(bounds)


def parse(text: str) -> Program:
    """The text of an HLO module.

    Raises:
      ValueError: there is no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, name = "", ""
    lines: list[Instruction] = []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, lines = header[1], []
            entry = name if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, tuple(lines))
        elif name and (instruction := _parse_instruction(line)):
            lines.append(instruction)
    if not entry:
        raise ValueError("the text holds no entry computation: it is not an HLO module")
    return Program(computations, entry)


def _parse_instruction(line: str) -> Instruction | None:
    found = _INSTRUCTION.match(line)
    if not found:
        return None
    root, name, rest = found.groups()
    operation = _OPERATION.search(rest)
    if not operation:
        return None
    start = operation.end()
    end = _closing(rest, start)
    inputs = rest[start:end]
    return Instruction(
        name=name,
        shapes=parse_shapes(rest[: operation.start()]),
        opcode=operation[1],
        operands=tuple(_NAME.findall(inputs)),
        text=rest[end + 1 :],
        inputs=inputs.strip(),
        root=bool(root),
    )


def _closing(text: str, start: int) -> int:
    """Where the bracket that was opened before `start` is closed."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return len(text)


def shapes_of(names: Sequence[str], computation: Computation) -> list[tuple[Shape, ...]]:
    """What the named instructions of a computation give."""
    return [computation.by_name[name].shapes for name in names if name in computation.by_name]
