"""The least time a compiled step can take on its chips, and which part of a chip that time is set by."""

import dataclasses
from collections.abc import Mapping, Sequence

from slm_jax.aot.chips import Chip
from slm_jax.aot.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds each part of a chip needs for its share of a step, if it runs at its peak.

    Attributes:
      compute: of the matrix units.
      memory: of HBM.
      ici: of the links within a slice, by mesh axes.
      dcn: of the network between slices, by mesh axes.
    """

    compute: float
    memory: float
    ici: Mapping[str, float]
    dcn: Mapping[str, float]

    @property
    def terms(self) -> dict[str, float]:
        """All of them by name."""
        links = {f"ici {axes}": seconds for axes, seconds in self.ici.items()}
        links |= {f"dcn {axes}": seconds for axes, seconds in self.dcn.items()}
        return {"compute": self.compute, "memory": self.memory} | links

    @property
    def bound(self) -> float:
        """Seconds of a step if everything overlaps perfectly: no less is possible."""
        return max(self.terms.values())

    @property
    def limit(self) -> str:
        """The term that the bound is."""
        return max(self.terms, key=lambda name: self.terms[name])

    @property
    def without_overlap(self) -> float:
        """Seconds of a step if chips do nothing else while they exchange: what a program without overlap comes to."""
        return max(self.compute, self.memory) + sum(self.ici.values()) + sum(self.dcn.values())


def roofline(*, flops: float, memory_bytes: float, collectives: Sequence[Collective], chip: Chip) -> Roofline:
    """The bounds of a step.

    Args:
      flops: operations of one chip's matrix units, products of higher precision counted by their passes.
      memory_bytes: between HBM and one chip.
      collectives: of the step.
      chip: what they run on.
    """
    return Roofline(
        compute=flops / chip.flops,
        memory=memory_bytes / chip.hbm_bandwidth,
        ici=_sum_by_axes({(c.axes, i): c.seconds_ici for i, c in enumerate(collectives)}),
        dcn=_sum_by_axes({(c.axes, i): c.seconds_dcn for i, c in enumerate(collectives)}),
    )


def _sum_by_axes(seconds: Mapping[tuple[str, int], float]) -> dict[str, float]:
    total: dict[str, float] = {}
    for (axes, _), value in seconds.items():
        if value:
            total[axes] = total.get(axes, 0.0) + value
    return total


def utilisation(minimum_flops: float, *, seconds: float, num_chips: int, chip: Chip) -> float:
    """The share of the chips' peak that a step of `seconds` makes use of (arXiv 2204.02311, appendix B)."""
    return minimum_flops / (seconds * num_chips * chip.flops)
