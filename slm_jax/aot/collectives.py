"""What the chips of a compiled program send to each other: kind, mesh axes, bytes, links."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from slm_jax.aot import hlo
from slm_jax.aot.network import Network

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
"""On a `send`: libtpu makes of a collective one within each slice and, for the rest, transfers by the hosts."""
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"mesh\[([^\]]*)\]\s*\{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between chips, once for each time that it is run.

    Attributes:
      kind: one of KINDS.
      axes: of the mesh, along which the members of a group differ, joined by '+'.
      group: how many chips exchange with each other.
      times: how often a step does it.
      ici_bytes: what a chip sends to others of its slice, all times together.
      dcn_bytes: what a chip sends to other slices, all times together.
      seconds_ici: how long the links within a slice take for that at least.
      seconds_dcn: how long the network between slices takes for that at least.
    """

    kind: str
    axes: str
    group: int
    times: int
    ici_bytes: float
    dcn_bytes: float
    seconds_ici: float
    seconds_dcn: float


def parse_groups(text: str, num_devices: int) -> list[list[int]]:
    """Groups of devices, by their numbers in the mesh, from any form in which XLA prints them.

    {{0,1},{2,3}}            -> [[0, 1], [2, 3]]
    [2,2]<=[2,2]T(1,0)       -> [[0, 2], [1, 3]]
    mesh['a'=2,'b'=2] {'a'}  -> [[0, 2], [1, 3]]
    {}                       -> all in one

    Raises:
      ValueError: another form.
    """
    text = text.strip()
    if found := _MESH.match(text):
        return _mesh_groups(found[1], found[2])
    if found := _IOTA.match(text):
        shape, dims, permutation = (None if part is None else _integers(part) for part in found.groups())
        assert shape is not None and dims is not None
        order = np.arange(math.prod(dims)).reshape(dims)
        return (order if permutation is None else order.transpose(permutation)).reshape(shape).tolist()
    if text in ("", "{}", "{{}}"):
        return [list(range(num_devices))]
    groups = [_integers(group) for group in re.findall(r"\{([\d,]+)\}", text)]
    if not groups:
        raise ValueError(f"groups of devices in a form that is not known: {text[:80]}")
    return groups


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number.strip()]


def _mesh_groups(mesh: str, axes: str) -> list[list[int]]:
    """Groups along named axes of a mesh, or along a part of an axis, 'a':(2)4: 4 parts, each with 2 before it."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    order = np.arange(math.prod(sizes.values()))
    if "device_ids" in mesh and (found := _IOTA.search(mesh)):
        permutation = None if found[3] is None else _integers(found[3])
        order = order.reshape(_integers(found[2])).transpose(permutation).reshape(-1)
    parts: list[tuple[str, int, bool]] = []
    chosen = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in _AXIS.findall(axes)}
    for name, size in sizes.items():
        before, taken = chosen.get(name, (1, 1))
        parts += [(name, before, False), (name, taken, True), (name, size // before // taken, False)]
    grid = order.reshape([size for _, size, _ in parts])
    moved = [number for number, part in enumerate(parts) if part[2]]
    kept = [number for number, part in enumerate(parts) if not part[2]]
    members = math.prod(parts[number][1] for number in moved)
    return grid.transpose(kept + moved).reshape(-1, members).tolist()


def find(program: hlo.Program, network: Network) -> list[Collective]:
    """The collectives of a program; one that overlaps with several fusions stands in each of them, and counts once."""
    found: dict[tuple[str, str, str], Collective] = {}
    for run in program.runs():
        for instruction, place in program.inside(run.computation):
            kind = _kind(instruction)
            if kind is None:
                continue
            channel = instruction.attribute("channel_id") or instruction.name
            key = run.computation.name, instruction.opcode, channel  # a send has a channel of another count
            if key not in found:
                sent = sum(shape.bytes for shapes in hlo.shapes_of(instruction.operands, place) for shape in shapes)
                found[key] = _collective(kind, instruction, sent, run.times, network)
    return list(found.values())


def _kind(instruction: hlo.Instruction) -> str | None:
    """The kind of exchange, or None; a transfer between slices of a kind that is not known counts as a permutation."""
    kind = instruction.opcode.removesuffix("-start")
    if kind == "send" and (found := _BETWEEN_SLICES.search(instruction.text)):
        kind = found[1].lower().replace("_", "-")
        return kind if kind in KINDS else "collective-permute"
    return kind if kind in KINDS else None


def _collective(kind: str, instruction: hlo.Instruction, size: int, times: int, network: Network) -> Collective:
    groups = _groups(kind, instruction, network)
    group = max(groups, key=len)
    inside, slices = network.split(group)
    if kind in ("collective-permute", "collective-broadcast"):
        crossing = any(len({network.slice_of(device) for device in pair}) > 1 for pair in groups)
        ici, dcn = (0.0, float(size)) if crossing else (float(size), 0.0)
    else:
        ici, dcn = shares(kind, float(size), inside=inside, slices=slices)
    if len(group) == 1:
        ici = dcn = 0.0
    return Collective(
        kind=kind,
        axes=network.axes(groups),
        group=len(group),
        times=times,
        ici_bytes=times * ici,
        dcn_bytes=times * dcn,
        seconds_ici=times * ici / network.ici_bandwidth(group) if ici else 0.0,
        seconds_dcn=times * dcn / network.chip.dcn_bandwidth if dcn else 0.0,
    )


def _groups(kind: str, instruction: hlo.Instruction, network: Network) -> Sequence[Sequence[int]]:
    if instruction.opcode == "send":
        return network.partners()
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=(\{\{.*?\}\})", instruction.text)
        return parse_groups(pairs[1] if pairs else "{}", network.num_devices)
    found = re.search(r"replica_groups=(mesh\[.*?\]\s*\{[^}]*\}|\[[^ ]*|\{\{.*?\}\}|\{\})", instruction.text)
    return parse_groups(found[1].rstrip(",") if found else "{}", network.num_devices)


def shares(kind: str, size: float, *, inside: int, slices: int) -> tuple[float, float]:
    """Bytes that a chip has to send within its slice and to other slices, by the algorithms that send the least.

    Args:
      kind: of KINDS, but not a permutation.
      size: bytes of a chip's input.
      inside: chips of the group in one slice.
      slices: over which the group extends.

    Several slices first work within each, so that each chip sends its share to its partners in the other slices.
    """
    members = inside * slices
    if kind == "all-gather":
        return float(size * slices * (inside - 1)), float(size * (slices - 1))
    if kind in ("all-to-all", "ragged-all-to-all"):
        return size * (inside - 1) / members, size * (members - inside) / members
    twice = 2 if kind == "all-reduce" else 1
    return twice * size * (inside - 1) / inside, twice * size / inside * (slices - 1) / slices
