"""Tables: which tensor of a checkpoint each of our parameters is, and how it is laid out there."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

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
      theirs: the tensor's name, with {layer} where the number of the layer stands.
      arrangement: how it lies there.
      copies: other names under which the tensor may stand, as well or instead.
    """

    ours: str
    theirs: str
    arrangement: Arrangement = Same()
    copies: Sequence[str] = ()


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
      WeightFileError: tensors or rows are missing, unexpected or of another shape; all are listed. Or copies differ.
    """
    unused = [*unused, *(re.escape(name) for row in rows for name in (row.theirs, *row.copies) if row.copies)]
    by_path = {row.ours: _without_copies(folder, row) for row in rows}
    places = {path: _sources(path, shape.shape, by_path) for path, shape in shapes.items()}
    unknown = sorted(path for path, sources in places.items() if not sources)
    if unknown:
        raise WeightFileError(f"{folder.path}: the table has no row for {enumerate_names(unknown)}")
    needed = {
        source.name: jax.ShapeDtypeStruct(source.stored, np.float32) for each in places.values() for source in each
    }
    left = [name for name in folder.layout if not any(re.fullmatch(pattern, name) for pattern in unused)]
    problems = layout_problems(
        needed, {name: folder.layout[name] for name in {*left, *(needed & folder.layout.keys())}}
    )
    if problems:
        raise WeightFileError(
            f"{folder.path} does not fit the model that its config.json describes:\n  " + "\n  ".join(problems)
        )
    for path, sources in places.items():
        yield path, _read(folder, sources, shapes[path])


def _without_copies(folder: Folder, row: Row) -> Row:
    """The row with the first of its names that is there, once the others are seen to hold the same."""
    first, *others = [name for name in (row.theirs, *row.copies) if name in folder.layout] or [row.theirs]
    for name in others:
        if not np.array_equal(folder.read(name), folder.read(first)):
            raise WeightFileError(
                f"{folder.path}: {name} differs from {first}, but the model that config.json describes has one tensor"
                " for both"
            )
    return dataclasses.replace(row, theirs=first, copies=())


@dataclasses.dataclass(frozen=True)
class _Source:
    """A tensor, and what it becomes: a parameter, or one layer of it."""

    name: str
    shape: Shape
    arrangement: Arrangement

    @property
    def stored(self) -> Shape:
        return self.arrangement.stored(self.shape)


def _sources(path: str, shape: Shape, rows: Mapping[str, Row]) -> list[_Source]:
    """The tensors of a parameter: one, or one for each layer of a scanned stack; none if no row has it."""
    row = rows.get(re.sub(r"(^|/)layers_\d+/", r"\1layers/", path))
    if row is None:
        return []
    number = re.search(r"(?:^|/)layers_(\d+)/", path)
    if LAYER not in row.theirs or number:
        name = row.theirs.replace(LAYER, number[1] if number else "")
        return [_Source(name, shape, row.arrangement)]
    return [_Source(row.theirs.replace(LAYER, str(i)), shape[1:], row.arrangement) for i in range(shape[0])]


def _read(folder: Folder, sources: Sequence[_Source], wanted: jax.ShapeDtypeStruct) -> np.ndarray:
    if len(sources) == 1 and sources[0].shape == wanted.shape:
        (source,) = sources
        return np.ascontiguousarray(source.arrangement(folder.read(source.name), source.shape), wanted.dtype)
    stacked = np.empty(wanted.shape, wanted.dtype)
    for layer, source in zip(stacked, sources, strict=True):
        layer[...] = source.arrangement(folder.read(source.name), source.shape)
    return stacked
