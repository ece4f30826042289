"""Checkpoints of T5X with a model of the T5 family: its own format, or Orbax; layers unrolled or scanned.

    run.Training.sources = {'lm': @t5x.Checkpoint()}
    t5x.Checkpoint.folder = 't5_1_1_small/checkpoint_1000000'

They do not say what model they are of: a gin file of models/lms/ does, and has to fit. Models of `examples/scalable_t5`
have a table of relative positions in each layer: T5.position_tables = 'per_layer'.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from flax import traverse_util

from slm_jax import trees
from slm_jax.weights.safetensors_io import WeightFileError
from slm_jax.weights.tables import Joined, Row, Tensors, Transposed, read_parameters

LEGACY, ORBAX = "checkpoint", "_METADATA"
"""The file that a checkpoint of either format has."""
_TREES = ("target", "params")
"""What the parameters are called in a training state."""
_SCANNED = re.compile(r"(encoder|decoder)/\1/")
_LAYER = re.compile(r"(encoder|decoder)/layers_(\d+)/")
_HEADS = re.compile(r"attention/(query|key|value|out)/kernel$")


def _rows() -> list[Row]:
    """Where the parameters of a `models.t5.T5` are."""
    found = [
        Row("token_embedder/embedding", "token_embedder/embedding"),
        Row("logits_dense/kernel", "decoder/logits_dense/kernel"),
    ]
    sublayers = {"encoder": ("attention",), "decoder": ("self_attention", "encoder_decoder_attention")}
    for stack, attentions in sublayers.items():
        theirs, ours = f"{stack}/layers_{{layer}}", f"{stack}/layers"
        found.append(Row(f"{stack}/final_norm/scale", f"{stack}/{stack}_norm/scale"))
        table = "relpos_bias/rel_embedding"
        found.append(Row(f"{stack}/relative_position_bias/embedding", f"{stack}/{table}", Transposed()))
        found.append(Row(f"{ours}/relative_position_bias/embedding", f"{theirs}/{table}", Transposed()))
        for name in attentions:
            our_name = _CROSS.get(name, name)
            found.append(Row(f"{ours}/{our_name}_norm/scale", f"{theirs}/pre_{our_name}_layer_norm/scale"))
            for part in ("query", "key", "value", "out"):
                arrangement = Joined(input_axes=2 if part == "out" else 1)
                found.append(Row(f"{ours}/{our_name}/{part}/kernel", f"{theirs}/{name}/{part}/kernel", arrangement))
        found.append(Row(f"{ours}/mlp_norm/scale", f"{theirs}/pre_mlp_layer_norm/scale"))
        for our_part, their_part in (("gate", "wi_0"), ("up", "wi_1"), ("up", "wi"), ("down", "wo")):
            found.append(Row(f"{ours}/mlp/{our_part}/kernel", f"{theirs}/mlp/{their_part}/kernel"))
    return found


_CROSS = {"encoder_decoder_attention": "cross_attention"}
ROWS = _rows()


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The source of a language model.

    Attributes:
      folder: the checkpoint of a step, such as `checkpoint_1000000`.
    """

    folder: str

    def __fspath__(self) -> str:
        return self.folder

    def read(self, component: str, *, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Iterator[tuple[str, np.ndarray]]:
        """The parameters of the language model, each with its path, in the dtypes of `shapes`.

        Args:
          component: 'lm'.
          shapes: what a `models.t5.T5` needs, scanned or unrolled, by path.

        Raises:
          FileNotFoundError: the folder is no checkpoint of a step.
          WeightFileError: it is damaged, or of another model: tensors are missing, unexpected or of another shape.
          ValueError: another component is asked for.
        """
        if component != "lm":
            raise ValueError(f"{self.folder} may hold the component 'lm', not {component!r}")
        return read_parameters(Folder(self.folder), ROWS, shapes=shapes)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array of a checkpoint.

    Attributes:
      shape, dtype: of the array.
      read: gives it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Folder(Tensors):
    """A checkpoint's parameters as those of unrolled layers, with the heads of attention in one axis.

    Args:
      path: the checkpoint of a step.

    Raises:
      FileNotFoundError: it is none.
      WeightFileError: it is damaged.
    """

    def __init__(self, path: str) -> None:
        self.path = pathlib.Path(path).expanduser()
        self._leaves = _read_leaves(self.path)
        self._read_whole = functools.lru_cache(maxsize=1)(lambda name: self._leaves[name].read())

    @functools.cached_property
    def layout(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of all parameters."""
        found = {}
        for name, leaf in self._leaves.items():
            if not _SCANNED.match(name):
                found[name] = jax.ShapeDtypeStruct(_joined(name, leaf.shape), leaf.dtype)
                continue
            for layer in range(leaf.shape[1]):
                shape = _joined(name, leaf.shape[:1] + leaf.shape[2:])
                found[_SCANNED.sub(rf"\1/layers_{layer}/", name)] = jax.ShapeDtypeStruct(shape, leaf.dtype)
        return found

    def read(self, name: str) -> np.ndarray:
        """One parameter; the last array that was read is kept, since the next one may be another layer of it."""
        if name in self._leaves:
            return self._read_whole(name).reshape(self.layout[name].shape)
        number = int(_LAYER.match(name)[2])  # type: ignore[index]
        return self._read_whole(_LAYER.sub(r"\1/\1/", name))[:, number].reshape(self.layout[name].shape)


def _joined(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a parameter of one layer, with heads and their width in one axis."""
    found = _HEADS.search(name)
    if found is None or len(shape) != 3:
        return shape
    return (shape[0] * shape[1], shape[2]) if found[1] == "out" else (shape[0], shape[1] * shape[2])


def _read_leaves(path: pathlib.Path) -> dict[str, Leaf]:
    """The parameters of a checkpoint by T5X's names."""
    if (path / LEGACY).is_file():
        return _legacy_leaves(path)
    for folder in (path / "state", path):
        if (folder / ORBAX).is_file():
            return _orbax_leaves(folder)
    steps = sorted(child.name for child in path.glob("checkpoint_*") if child.is_dir())
    hint = f"; it has {', '.join(steps)}: name one of them" if steps else ""
    raise FileNotFoundError(f"{path} is not a checkpoint of T5X: it has neither {LEGACY} nor state/{ORBAX}{hint}")


def _legacy_leaves(path: pathlib.Path) -> dict[str, Leaf]:
    """T5X's own format: msgpack, with arrays in it or in folders beside it."""
    try:
        contents = flax.serialization.msgpack_restore((path / LEGACY).read_bytes())
    except Exception as error:  # whatever msgpack raises
        raise WeightFileError(f"{path / LEGACY} is damaged, or not written by T5X: {error!r}") from error
    params = _parameters(contents.get("optimizer", contents), path)

    def is_stored(name: tuple[str, ...], node: Any) -> bool:
        return "driver" in node and "kvstore" in node

    flat = traverse_util.flatten_dict(params, sep="/", is_leaf=is_stored)
    return {name: _legacy_leaf(path, name, leaf) for name, leaf in flat.items()}


def _legacy_leaf(path: pathlib.Path, name: str, leaf: Any) -> Leaf:
    if not isinstance(leaf, dict):
        return Leaf(leaf.shape, leaf.dtype, lambda: leaf)
    folder = str(leaf["kvstore"]["path"]).rstrip("/")
    if pathlib.PurePath(folder).name != folder:
        raise WeightFileError(f"{path / LEGACY} has {name} in {folder!r}, which is not a folder of the checkpoint")
    spec = {"driver": leaf["driver"], "kvstore": {"driver": "file", "path": str(path / folder)}}
    try:
        array = tensorstore.open(spec, read=True).result()
    except ValueError as error:
        raise WeightFileError(f"{path / folder} is missing or damaged: {error}") from error
    return Leaf(tuple(array.shape), array.dtype.numpy_dtype, lambda: array.read().result())


def _orbax_leaves(folder: pathlib.Path) -> dict[str, Leaf]:
    """Orbax: each array is restored by itself."""
    handler = ocp.PyTreeCheckpointer()
    try:
        tree = handler.metadata(folder).item_metadata.tree
    except Exception as error:  # of whatever part of Orbax
        raise WeightFileError(f"{folder} is damaged, or not written by Orbax: {error!r}") from error
    prefix = next((f"{name}/" for name in _TREES if name in tree), "")

    def read(name: str) -> np.ndarray:
        item, how = (trees.unflatten({prefix + name: x}) for x in (0, ocp.RestoreArgs(restore_type=np.ndarray)))
        found = handler.restore(folder, args=ocp.args.PyTreeRestore(item=item, restore_args=how, transforms={}))
        return trees.flatten(found)[prefix + name]

    leaves = trees.flatten(_parameters(tree, folder))
    return {name: Leaf(tuple(x.shape), np.dtype(x.dtype), functools.partial(read, name)) for name, x in leaves.items()}


def _parameters(tree: Mapping[str, Any], path: pathlib.Path) -> Mapping[str, Any]:
    """The parameters of a training state, or of a tree of nothing else."""
    params = next((tree[name] for name in _TREES if name in tree), tree)
    if "token_embedder" not in params:
        raise WeightFileError(f"{path} has no token_embedder, but {', '.join(sorted(params))}: it is no model of T5X's")
    return params
