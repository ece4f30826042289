"""What the tables of several families share: norms, maps, convolutions of one frame, and of one channel."""

import dataclasses

import numpy as np

from slm_jax.weights.tables import Arrangement, Flat, Kernel, Row, Same, Shape


@dataclasses.dataclass(frozen=True)
class Pointwise:
    """A torch.nn.Conv1d or Conv2d over one frame, or some of its outputs: filters [outputs, inputs, 1 ...].

    Attributes:
      axes: 1 for a Conv1d, 2 for a Conv2d.
      part: which part of the outputs it is; the parts are as large as each other.
      parts: how many there are; a gated linear unit has values, then gates.
    """

    axes: int = 1
    part: int = 0
    parts: int = 1

    def stored(self, shape: Shape) -> Shape:
        return shape[-1] * self.parts, shape[0], *[1] * self.axes

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return np.split(tensor, self.parts)[self.part].reshape(shape[-1], shape[0]).T


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of the outputs of a bias, as in `Pointwise`."""

    part: int
    parts: int

    def stored(self, shape: Shape) -> Shape:
        return (shape[0] * self.parts,)

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return np.split(tensor, self.parts)[self.part]


@dataclasses.dataclass(frozen=True)
class Depthwise:
    """A torch.nn.Conv1d with as many groups as channels: [channels, 1, window]; ours is [window, channels]."""

    def stored(self, shape: Shape) -> Shape:
        return shape[1], 1, shape[0]

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return tensor[:, 0].T


KERNEL, SAME, FLAT = Kernel(), Same(), Flat()


def norm(ours: str, theirs: str) -> list[Row]:
    """Scale and bias of a LayerNorm."""
    return [Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias")]


def linear(ours: str, theirs: str, arrangement: Arrangement = KERNEL, *, bias: Arrangement | None = SAME) -> list[Row]:
    """Kernel of a map, and its bias unless that is None."""
    kernel = Row(f"{ours}/kernel", f"{theirs}.weight", arrangement)
    return [kernel] if bias is None else [kernel, Row(f"{ours}/bias", f"{theirs}.bias", bias)]


def attention(ours: str, theirs: dict[str, str], *, use_bias: bool) -> list[Row]:
    """The four projections, given the names of query, key, value and out."""
    found = []
    for name in ("query", "key", "value"):
        found += linear(f"{ours}/{name}", theirs[name], bias=FLAT if use_bias else None)
    return found + linear(f"{ours}/out", theirs["out"], Kernel(input_axes=2), bias=SAME if use_bias else None)


def pointwise_maps(ours: str, theirs: str, *, use_bias: bool) -> list[Row]:
    """Maps before and after the depthwise convolution of a convolution module."""
    first, second = f"{theirs}.pointwise_conv1", f"{theirs}.pointwise_conv2"
    found = []
    for part, name in enumerate(("values", "gate")):
        bias = Part(part=part, parts=2) if use_bias else None
        found += linear(f"{ours}/{name}", first, Pointwise(part=part, parts=2), bias=bias)
    return found + linear(f"{ours}/out", second, Pointwise(), bias=SAME if use_bias else None)
