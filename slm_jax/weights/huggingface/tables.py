"""Tables: which tensor of a checkpoint each of our parameters is, and how it is laid out there."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from slm_jax.weights.huggingface.folder import Folder
from slm_jax.weights.layouts import enumerate_names, layout_problems
from slm_jax.weights.safetensors_io import WeightFileError

Shape = tuple[int, ...]
LAYER = "{layer}"
"""Stands for the number of a layer in the names of a row."""


@runtime_checkable
class Arrangement(Protocol):
    """How the values of a parameter lie in a checkpoint."""

    def stored(self, shape: Shape) -> Shape:
        """The shape there of a parameter that has `shape` here."""

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        """The tensor as the parameter."""


@runtime_checkable
class JointArrangement(Protocol):
    """How a parameter follows from several tensors of a checkpoint."""

    def stored(self, shape: Shape) -> tuple[Shape, ...]:
        """The shapes there, one a tensor, of a parameter that has `shape` here."""

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """The tensors, then the shape: the parameter."""


@dataclasses.dataclass(frozen=True)
class Same:
    """As it is: scales, embeddings."""

    def stored(self, shape: Shape) -> Shape:
        return shape

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return tensor


@dataclasses.dataclass(frozen=True)
class Flat:
    """All axes in one: biases by head."""

    def stored(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return tensor.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A torch.nn.Linear: a matrix [outputs, inputs].

    Attributes:
      input_axes: how many leading axes of ours are inputs; 2 where heads come in.
    """

    input_axes: int = 1

    def stored(self, shape: Shape) -> Shape:
        return math.prod(shape[self.input_axes :]), math.prod(shape[: self.input_axes])

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return tensor.T.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Filters:
    """A torch.nn.Conv1d or Conv2d: filters [outputs, inputs, window ...]; ours are [window ..., inputs, outputs]."""

    def stored(self, shape: Shape) -> Shape:
        return shape[-1], shape[-2], *shape[:-2]

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return np.moveaxis(tensor, (0, 1), (-1, -2))


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter of ours, or one of every layer of a stack.

    Attributes:
      ours: its path; a stack's has 'layers' where an unrolled one has 'layers_0'.
      theirs: the tensor's name, with {layer} where the number of the layer stands; or the names of several.
      arrangement: how it lies there; a JointArrangement if there are several.
    """

    ours: str
    theirs: str | tuple[str, ...]
    arrangement: Arrangement | JointArrangement = Same()

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, {layer} in them."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


def read_parameters(
    folder: Folder,
    rows: Sequence[Row],
    *,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    unused: Sequence[str] = (),
) -> Iterator[tuple[str, np.ndarray]]:
    """Our parameters one by one, cast to their dtypes; no more than one is held at a time.

    Args:
      folder: the checkpoint.
      rows: the table; it has to be complete on both sides.
      shapes: of our parameters, scanned or unrolled, by path.
      unused: regular expressions for tensors that may stay behind.

    Raises:
      WeightFileError: tensors or rows are missing, unexpected, of another shape or integers; all are listed.
    """
    by_path = {row.ours: row for row in rows}
    places = {path: _sources(path, shape.shape, by_path) for path, shape in shapes.items()}
    unknown = sorted(path for path, sources in places.items() if not sources)
    if unknown:
        raise WeightFileError(f"{folder.path}: the table has no row for {enumerate_names(unknown)}")
    needed = {
        name: jax.ShapeDtypeStruct(stored, np.float32)
        for sources in places.values()
        for source in sources
        for name, stored in source.stored.items()
    }
    left = [name for name in folder.layout if not any(re.fullmatch(pattern, name) for pattern in unused)]
    problems = layout_problems(
        needed, {name: folder.layout[name] for name in {*left, *(needed & folder.layout.keys())}}
    )
    if problems:
        raise WeightFileError(
            f"{folder.path} does not fit the model that its config.json describes:\n  " + "\n  ".join(problems)
        )
    if integers := sorted(name for name in needed if folder.layout[name].dtype.kind == "i"):
        raise WeightFileError(f"{folder.path} has integers where weights should be: {enumerate_names(integers)}")
    for path, sources in places.items():
        yield path, _read(folder, sources, shapes[path])


@dataclasses.dataclass(frozen=True)
class _Source:
    """The tensors of a row, and what they become: a parameter, or one layer of it."""

    row: Row
    layer: str
    shape: Shape

    @property
    def names(self) -> list[str]:
        return [name.replace(LAYER, self.layer) for name in self.row.names]

    @property
    def stored(self) -> dict[str, Shape]:
        shapes: Any = self.row.arrangement.stored(self.shape)
        return dict(zip(self.names, [shapes] if isinstance(self.row.theirs, str) else shapes, strict=True))

    def read(self, folder: Folder) -> np.ndarray:
        arrange: Any = self.row.arrangement  # of one tensor, or of several
        return arrange(*(folder.read(name) for name in self.names), self.shape)


def _sources(path: str, shape: Shape, rows: Mapping[str, Row]) -> list[_Source]:
    """Where a parameter comes from: one source, or one for each layer of a scanned stack; none if no row has it."""
    row = rows.get(re.sub(r"(^|/)layers_\d+/", r"\1layers/", path))
    if row is None:
        return []
    number = re.search(r"(?:^|/)layers_(\d+)/", path)
    if number or not any(LAYER in name for name in row.names):
        return [_Source(row, number[1] if number else "", shape)]
    return [_Source(row, str(i), shape[1:]) for i in range(shape[0])]


def _read(folder: Folder, sources: Sequence[_Source], wanted: jax.ShapeDtypeStruct) -> np.ndarray:
    if len(sources) == 1 and sources[0].shape == wanted.shape:
        return np.ascontiguousarray(sources[0].read(folder), wanted.dtype)
    stacked = np.empty(wanted.shape, wanted.dtype)
    for layer, source in zip(stacked, sources, strict=True):
        layer[...] = source.read(folder)
    return stacked
