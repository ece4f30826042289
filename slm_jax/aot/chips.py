"""What a TPU chip can do at most, by generation, from public data sheets."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak numbers of one chip; all of its cores together.

    Attributes:
      generation: its name in topologies.
      hbm_bytes: memory.
      flops: bfloat16 operations a second; a multiply-add is two.
      hbm_bandwidth: bytes a second between memory and cores.
      link_bandwidth: bytes a second of one link to a neighbour, in one direction.
      dcn_bandwidth: bytes a second to other slices over the data centre's network: the share of a chip in its host's.
      dimensions: of the torus of links.
      wrap: a torus dimension whose size is a multiple of this has links from its end to its beginning.
      host: chips of a host along each dimension.
      slice_chips: chips of the largest slice.
      options: what libtpu has to be told to see one device a chip.
    """

    generation: str
    hbm_bytes: int
    flops: float
    hbm_bandwidth: float
    link_bandwidth: float
    dcn_bandwidth: float
    dimensions: int
    wrap: int
    host: tuple[int, ...]
    slice_chips: int
    options: tuple[tuple[str, str], ...] = ()


GB, GIB = 1e9, 2**30
MEGACORE = (("chip_config_name", "megacore"),)
"""The two cores of a chip as one device, as the software of Cloud TPU has them."""

CHIPS = {
    chip.generation: chip
    for chip in (
        # cloud.google.com/tpu/docs/v4 (compute, memory, topology); arXiv 2304.01433, table 4 (six links of 50 GB/s).
        # The data centre's network: 200 Gbit/s a host of four chips (jax-ml.github.io/scaling-book/tpus).
        Chip("v4", 32 * GIB, 275e12, 1200 * GB, 50 * GB, 6.25 * GB, 3, 4, (2, 2, 1), 4096, MEGACORE),
        # cloud.google.com/tpu/docs/v5e: 400 GB/s in both directions of four links, 6.4 Tbit/s for 256 chips.
        Chip("v5e", 16 * GIB, 197e12, 819 * GB, 50 * GB, 3.125 * GB, 2, 16, (2, 2), 256),
        # cloud.google.com/tpu/docs/v5p: 1200 GB/s in both directions of six links, 50 Gbit/s a chip.
        Chip("v5p", 95 * GIB, 459e12, 2765 * GB, 100 * GB, 6.25 * GB, 3, 4, (2, 2, 1), 6144, MEGACORE),
        # cloud.google.com/tpu/docs/v6e: 800 GB/s in both directions of four links; the data centre's network is that of
        # jax-ml.github.io/scaling-book/tpus, 100 Gbit/s a chip.
        Chip("v6e", 32 * GIB, 918e12, 1638 * GB, 100 * GB, 12.5 * GB, 2, 16, (2, 2), 256),
    )
}
