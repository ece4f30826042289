"""How the devices of a mesh lie in their slices: which links the groups of a collective have."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from slm_jax.aot.chips import Chip


@runtime_checkable
class DeviceMesh(Protocol):
    """What is asked of a `jax.sharding.Mesh`."""

    @property
    def devices(self) -> Any: ...

    @property
    def axis_names(self) -> Any: ...

    @property
    def shape(self) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Network:
    """Devices of a mesh, numbered in its order, and the links between them.

    Attributes:
      mesh: the devices with their axes.
      chip: what they are.
      shape: of a slice: chips along each dimension of the torus.
    """

    mesh: DeviceMesh
    chip: Chip
    shape: tuple[int, ...]

    @property
    def num_devices(self) -> int:
        """Chips of all slices."""
        return self.mesh.devices.size

    @functools.cached_property
    def _devices(self) -> list[Any]:
        return list(self.mesh.devices.flat)

    def slice_of(self, device: int) -> int:
        """The number of a device's slice."""
        return getattr(self._devices[device], "slice_index", None) or 0

    def split(self, group: Sequence[int]) -> tuple[int, int]:
        """How many members of a group a slice holds, and how many slices there are."""
        slices = len({self.slice_of(device) for device in group})
        return len(group) // slices, slices

    def partners(self) -> list[list[int]]:
        """Groups of the devices that have the same place in all slices."""
        found: dict[tuple[int, ...], list[int]] = {}
        for number, device in enumerate(self._devices):
            found.setdefault(_coordinates(device), []).append(number)
        return list(found.values())

    def axes(self, groups: Iterable[Sequence[int]]) -> str:
        """Names of the mesh axes along which members of the same group differ, joined by '+'."""
        differs = np.zeros(len(self.mesh.axis_names), bool)
        for group in groups:
            places = np.array(np.unravel_index(np.asarray(group), self.mesh.devices.shape))
            differs |= (places != places[:, :1]).any(axis=1)
        return "+".join(str(name) for name, moved in zip(self.mesh.axis_names, differs, strict=True) if moved)

    def wraps(self, dimension: int) -> bool:
        """Whether a dimension of the torus closes to a ring: of three dimensions, all or none."""
        sizes = self.shape if self.chip.dimensions == 3 else self.shape[dimension : dimension + 1]
        return all(size % self.chip.wrap == 0 for size in sizes)

    def ici_bandwidth(self, group: Sequence[int]) -> float:
        """Bytes a second that each chip of a group can send to the others of its slice, in rings.

        A ring of links gives both directions, a line one (it is gone through forth and back). Groups that lie between
        each other share links: of every fourth chip of a line, each has a quarter. Dimensions add up.
        """
        first = self.slice_of(group[0])
        places = [_coordinates(self._devices[device]) for device in group if self.slice_of(device) == first]
        if not places[0]:  # devices that are no TPUs
            return self.chip.link_bandwidth
        total = 0.0
        for dimension, values in enumerate(map(sorted, map(set, zip(*places, strict=True)))):
            if len(values) > 1:
                stride = math.gcd(*(high - low for low, high in zip(values, values[1:], strict=False)))
                whole = len(values) * stride == self.shape[dimension]
                total += (2 if whole and self.wraps(dimension) else 1) / stride
        return (total or 1.0) * self.chip.link_bandwidth


def _coordinates(device: Any) -> tuple[int, ...]:
    return tuple(getattr(device, "coords", None) or ())
