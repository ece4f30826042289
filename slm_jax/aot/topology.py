"""Named TPU topologies, described by libtpu on a machine without TPUs."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from slm_jax.aot.chips import CHIPS, Chip

QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""What keeps libtpu from asking a cloud machine for its own slice; none of it matters for a topology that is named."""

INSTALL = "libtpu is not installed: pip install 'slm_jax[tpu_aot]'"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips to compile for.

    Attributes:
      name: as given, such as 'v5e:16x16'.
      chip: of which kind they are.
      shape: chips along each dimension of a slice's torus.
      num_slices: slices, joined by the data centre's network.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    num_slices: int = 1

    @property
    def num_chips(self) -> int:
        """Chips of all slices."""
        return math.prod(self.shape) * self.num_slices

    def devices(self) -> Sequence[jax.Device]:
        """One device a chip, for compilation only.

        Raises:
          ValueError: libtpu is not installed, or does not know the topology.
        """
        _prepare()
        options: dict[str, Any] = dict(self.chip.options)
        if self.num_slices > 1:
            options["num_slices"] = self.num_slices
        try:
            found = topologies.get_topology_desc(platform="tpu", topology_name=self.name, **options)
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"libtpu refuses the topology {self.name}: {error}") from error
        if len(found.devices) != self.num_chips:
            raise ValueError(f"{self.name} should have {self.num_chips} devices, libtpu tells of {len(found.devices)}")
        return found.devices


def _prepare() -> None:
    """Has to run before libtpu is loaded, which jax does once in a process."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ValueError(INSTALL) from error


def parse(name: str, *, num_slices: int = 1) -> Topology:
    """The topology of a name: a generation and the chips along each dimension.

    Raises:
      ValueError: the name has another form, a generation that is not known, sizes that a slice cannot have, or there
        is no slice.
    """
    generation, _, sizes = name.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"\d+(x\d+)+", sizes):
        raise ValueError(
            f"unknown topology {name!r}: write GENERATION:SIZES, one of {'; '.join(map(_known, CHIPS.values()))}"
        )
    chip = CHIPS[generation]
    shape = tuple(int(size) for size in sizes.split("x"))
    if len(shape) != chip.dimensions:
        raise ValueError(f"unknown topology {name!r}: {_known(chip)}")
    if math.prod(shape) > chip.slice_chips:
        raise ValueError(
            f"{name} has {math.prod(shape)} chips, but a slice of {generation} has at most {chip.slice_chips}:"
            " take several slices with --num_slices"
        )
    uneven = [pair for pair in zip(shape, chip.host, strict=True) if pair[0] % pair[1]]
    if uneven and math.prod(shape) > 1:
        size, host = uneven[0]
        raise ValueError(f"{name}: the size {size} is not a multiple of {host}, the chips of a host in its direction")
    if num_slices < 1:
        raise ValueError(f"--num_slices must be at least 1, got {num_slices}")
    return Topology(name, chip, shape, num_slices)


def _known(chip: Chip) -> str:
    examples = {2: "4x4, 8x8, 8x16 or 16x16", 3: "2x2x1, 2x2x4, 4x4x4 or 8x8x16"}[chip.dimensions]
    return f"{chip.generation} with {chip.dimensions} sizes such as {examples}"
