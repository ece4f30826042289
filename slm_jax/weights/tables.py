"""Tables: which tensor of a checkpoint each of our parameters is, and how it is laid out there."""

import abc
import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np

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
class Combination(Protocol):
    """How a parameter is computed from several tensors of a checkpoint."""

    def parts(self, shape: Shape) -> tuple[Shape, ...]:
        """The shapes there of the tensors of a parameter that has `shape` here."""

    def combine(self, tensors: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
        """The tensors as the parameter."""


class Tensors(abc.ABC):
    """The tensors of a checkpoint in another program's form.

    Attributes:
      path: where they are, for messages.
    """

    path: pathlib.Path

    @property
    @abc.abstractmethod
    def layout(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes by name."""

    @abc.abstractmethod
    def read(self, name: str) -> np.ndarray:
        """One tensor as it is stored."""


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
class Joined:
    """A matrix [inputs, outputs] with the heads of either side in one axis, as flax and T5X have it.

    Attributes:
      input_axes: how many leading axes of ours are inputs; 2 where heads come in.
    """

    input_axes: int = 1

    def stored(self, shape: Shape) -> Shape:
        return math.prod(shape[: self.input_axes]), math.prod(shape[self.input_axes :])

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return tensor.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Transposed:
    """With its axes the other way round: tables of positions with a row a head."""

    def stored(self, shape: Shape) -> Shape:
        return shape[::-1]

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return tensor.T


@dataclasses.dataclass(frozen=True)
class Filters:
    """A torch.nn.Conv1d or Conv2d: filters [outputs, inputs, window ...]; ours are [window ..., inputs, outputs]."""

    def stored(self, shape: Shape) -> Shape:
        return shape[-1], shape[-2], *shape[:-2]

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return np.moveaxis(tensor, (0, 1), (-1, -2))


@dataclasses.dataclass(frozen=True)
class WeightNorm:
    """Filters of a torch.nn.Conv1d under weight norm along the window (arXiv 1602.07868; torch's with dim=2).

    They are stored as magnitudes [1, 1, window] and directions [outputs, inputs, window]. The filters of a place in the
    window are its direction, divided by its length over outputs and inputs, times its magnitude.
    """

    def parts(self, shape: Shape) -> tuple[Shape, ...]:
        return (1, 1, shape[0]), Filters().stored(shape)

    def combine(self, tensors: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
        magnitudes, directions = (tensor.astype(np.float32) for tensor in tensors)
        lengths = np.sqrt(np.square(directions).sum(axis=(0, 1), keepdims=True))
        return Filters()(directions * (magnitudes / lengths), shape)


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter of ours, or one of every layer of a stack.

    Several rows of one parameter are a choice, for checkpoints that do not agree on names: the row counts that has most
    of its tensors in the checkpoint, the first of those that have equally many.

    Attributes:
      ours: its path; a stack's has 'layers' where an unrolled one has 'layers_0'.
      theirs: the tensor's name, with {layer} where the number of the layer stands; several names for a Combination.
      arrangement: how it lies there.
      copies: other names under which the tensor may stand, as well or instead.

    Raises:
      ValueError: several names without a Combination, or a Combination of one.
    """

    ours: str
    theirs: str | tuple[str, ...]
    arrangement: Arrangement | Combination = Same()
    copies: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.theirs, str) == isinstance(self.arrangement, Combination):
            raise ValueError(
                f"the row of {self.ours} has {self.theirs!r} with {self.arrangement}: a name goes with an Arrangement,"
                " a tuple of names with a Combination"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of `theirs`, one or several."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


def read_parameters(
    folder: Tensors,
    rows: Sequence[Row],
    *,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    unused: Sequence[str] = (),
) -> Iterator[tuple[str, np.ndarray]]:
    """Our parameters one by one, cast to their dtypes; no more than one is held at a time.

    Args:
      folder: the checkpoint.
      rows: the table; it has to be complete on both sides, but for rows that are a choice.
      shapes: of our parameters, scanned or unrolled, by path.
      unused: regular expressions for tensors that may stay behind.

    Raises:
      WeightFileError: tensors or rows are missing, unexpected, of another shape or integers; all are listed. Or copies
        differ.
    """
    unused = [*unused, *(re.escape(name) for row in rows for name in (*row.names, *row.copies) if row.copies)]
    by_path: dict[str, list[Row]] = {}
    for row in rows:
        by_path.setdefault(row.ours, []).append(_without_copies(folder, row))
    places = {path: _chosen(path, shape.shape, by_path, folder) for path, shape in shapes.items()}
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
            f"{folder.path} does not fit the model that is to be read from it:\n  " + "\n  ".join(problems)
        )
    if integers := sorted(name for name in needed if folder.layout[name].dtype.kind == "i"):
        raise WeightFileError(f"{folder.path} has integers where weights should be: {enumerate_names(integers)}")
    for path, sources in places.items():
        yield path, _read(folder, sources, shapes[path])


def _without_copies(folder: Tensors, row: Row) -> Row:
    """The row with the first of its names that is there, once the others are seen to hold the same."""
    if not row.copies:
        return row
    first, *others = [name for name in (*row.names, *row.copies) if name in folder.layout] or [*row.names]
    for name in others:
        if not np.array_equal(folder.read(name), folder.read(first)):
            raise WeightFileError(f"{folder.path}: {name} differs from {first}, but the model has one tensor for both")
    return dataclasses.replace(row, theirs=first, copies=())


@dataclasses.dataclass(frozen=True)
class _Source:
    """Tensors, one but for a Combination, and what they become: a parameter, or one layer of it."""

    names: tuple[str, ...]
    shape: Shape
    arrangement: Arrangement | Combination

    @property
    def stored(self) -> dict[str, Shape]:
        """Shapes of the tensors by name."""
        if isinstance(self.arrangement, Combination):
            return dict(zip(self.names, self.arrangement.parts(self.shape), strict=True))
        return {self.names[0]: self.arrangement.stored(self.shape)}

    def read(self, folder: Tensors) -> np.ndarray:
        tensors = [folder.read(name) for name in self.names]
        if isinstance(self.arrangement, Combination):
            return self.arrangement.combine(tensors, self.shape)
        return self.arrangement(tensors[0], self.shape)


def _chosen(path: str, shape: Shape, rows: Mapping[str, Sequence[Row]], folder: Tensors) -> list[_Source]:
    """What a parameter is read from: of its rows the one with most tensors in the folder; nothing if it has none."""
    choices = [_sources(path, shape, row) for row in rows.get(re.sub(r"(^|/)layers_\d+/", r"\1layers/", path), ())]
    return max(choices, key=lambda each: sum(n in folder.layout for s in each for n in s.names), default=[])


def _sources(path: str, shape: Shape, row: Row) -> list[_Source]:
    """The sources of a parameter: one, or one for each layer of a scanned stack."""

    def of_layer(number: str, shape: Shape) -> _Source:
        return _Source(tuple(name.replace(LAYER, number) for name in row.names), shape, row.arrangement)

    number = re.search(r"(?:^|/)layers_(\d+)/", path)
    if number or not any(LAYER in name for name in row.names):
        return [of_layer(number[1] if number else "", shape)]
    return [of_layer(str(layer), shape[1:]) for layer in range(shape[0])]


def _read(folder: Tensors, sources: Sequence[_Source], wanted: jax.ShapeDtypeStruct) -> np.ndarray:
    if len(sources) == 1 and sources[0].shape == wanted.shape:
        return np.ascontiguousarray(sources[0].read(folder), wanted.dtype)
    stacked = np.empty(wanted.shape, wanted.dtype)
    for layer, source in zip(stacked, sources, strict=True):
        layer[...] = source.read(folder)
    return stacked
