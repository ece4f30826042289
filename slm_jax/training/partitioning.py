"""How parameters and batches are laid out over a mesh of devices: rules from logical axis names to mesh axes.

JAX does the rest (GSPMD): the same step runs on one device and on a pod.
"""

import contextlib
import dataclasses
import enum
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from slm_jax import trees
from slm_jax.training import freezing, hosts
from slm_jax.typing import PyTree

DATA, FSDP, MODEL = "data", "fsdp", "model"
MESH_AXES = (DATA, FSDP, MODEL)
LogicalRules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

RULES: LogicalRules = (
    ("batch", (DATA, FSDP)),
    ("vocab", MODEL),
    ("mlp", MODEL),
    ("heads", MODEL),
    ("kv_heads", MODEL),
    ("joined_kv", MODEL),
    ("embed", None),
    ("kv", None),
    ("length", None),
    ("layers", None),
    ("relpos_buckets", None),
    ("frames", None),
    ("mels", None),
    ("conv_window", None),
    ("adapter", None),
)
"""Activations and frozen parameters: the latter are replicated over data and fsdp, since they have neither gradients
nor optimizer state, and a copy each needs no communication (but see `FrozenLayout`). Rules come in order of
precedence."""

TRAINABLE_RULES: LogicalRules = tuple((name, FSDP if name == "embed" else axes) for name, axes in RULES)
"""Trainable parameters and their optimizer state are split over fsdp too (arXiv 1910.02054)."""


class FrozenLayout(enum.Enum):
    """Where frozen parameters are, besides being split over the model axis."""

    COPIED = "copied"
    """Whole in every part of data and fsdp: nothing is sent for them."""
    SPLIT = "split"
    """Split over fsdp as trainable ones are, and gathered layer by layer where they are used: what is sent does not
    grow with the batch, while the model axis sends activations (arXiv 1910.02054, stage 3)."""


def make_mesh(*, data: int = -1, fsdp: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of devices with the axes ('data', 'fsdp', 'model').

    Args:
      data: ways to split a batch, with a copy of all parameters for each; -1 for all devices that remain.
      fsdp: ways to split a batch and, with it, the trainable parameters and their optimizer state; or -1.
      model: ways to split layers (heads, feed-forward width, vocabulary); or -1.
      devices: None for all devices of all hosts.

    Devices of several TPU slices share out `data` first: only its gradients pass the slow network between slices.

    Raises:
      ValueError: more than one -1, a size below 1, sizes whose product is not the number of devices, or slices that
        do not divide `data`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {DATA: data, FSDP: fsdp, MODEL: model}
    given = {name: size for name, size in sizes.items() if size != -1}
    described = ", ".join(f"{name}={size}" for name, size in sizes.items())
    if len(given) < len(sizes) - 1 or min(given.values()) < 1:
        raise ValueError(f"mesh sizes must be at least 1, and one of them may be -1 for the rest, got {described}")
    rest, remainder = divmod(len(devices), math.prod(given.values()))
    if remainder or (len(given) == len(sizes) and rest != 1):
        raise ValueError(
            f"a mesh of {described} does not fit {len(devices)} devices: the product of the given sizes is"
            f" {math.prod(given.values())}. Set one size to -1 to let it take the devices that remain"
        )
    data, fsdp, model = (rest if size == -1 else size for size in sizes.values())
    return Mesh(_arrange((data, fsdp, model), devices), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _arrange(shape: tuple[int, int, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices as an array in which neighbours along an axis are near each other, and slices differ along data only."""
    slices = len({getattr(device, "slice_index", None) or 0 for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    data, fsdp, model = shape
    if data % slices:
        raise ValueError(f"a mesh with data={data} cannot be shared out over {slices} slices: make it a multiple")
    within = data // slices, fsdp, model
    return mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, allow_split_physical_axes=True)


@dataclasses.dataclass(frozen=True)
class Partitioner:
    """Layouts of everything a training step touches.

    Attributes:
      mesh: devices, see `make_mesh`.
      trainable: patterns of the parameters that follow `trainable_rules`.
      rules: logical to mesh axes of activations and frozen parameters, in order of precedence.
      trainable_rules: the same for trainable parameters.
      may_replicate: logical axes that are replicated where their size is not a multiple of the mesh axis (keys and
        values often have fewer heads than there are devices); for other axes this is an error.
      frozen: whether frozen parameters are split over fsdp too.
    """

    mesh: Mesh
    trainable: Sequence[str] = freezing.TRAINABLE
    rules: LogicalRules = RULES
    trainable_rules: LogicalRules = TRAINABLE_RULES
    may_replicate: Sequence[str] = ("kv_heads",)
    frozen: FrozenLayout | str = FrozenLayout.COPIED

    @property
    def replicated(self) -> NamedSharding:
        """A copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """The leading axis split over data and fsdp, the others whole."""
        return nn.logical_to_mesh_sharding(PartitionSpec("batch"), self.mesh, self.rules)

    @property
    def batch_ways(self) -> int:
        """Into how many parts a batch is split."""
        return math.prod(self.mesh.shape[axis] for axis in jax.tree.leaves(tuple(self.batch.spec)))

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Where steps are compiled and run: makes `nn.with_logical_constraint` in the modules mean this mesh.

        Without it the constraints do nothing. Enter it outside of jit.
        """
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.rules):
            yield

    def shardings(self, boxed: Mapping[str, PyTree]) -> dict[str, PyTree]:
        """One NamedSharding a parameter, in a tree like the unboxed parameters.

        Args:
          boxed: parameters or their shapes as `jax.eval_shape(model.init, ...)` gives them, in their boxes of
            logical axis names; those without a box are replicated.

        Raises:
          ValueError: an axis name has no rule or occurs twice in a parameter, or a size is not a multiple of the
            devices it is split over.
        """
        return trees.unflatten({path: self._sharding(path, leaf) for path, leaf in trees.flatten(boxed).items()})

    def _sharding(self, path: str, leaf: Any) -> NamedSharding:
        shape = nn.unbox(leaf).shape
        names = tuple(nn.get_partition_spec(leaf)) or (None,) * len(shape)
        split = FrozenLayout(self.frozen) is FrozenLayout.SPLIT or trees.matches(path, self.trainable)
        rules = self.trainable_rules if split else self.rules
        unknown = [name for name in names if name is not None and name not in dict(rules)]
        if unknown or len(set(names) - {None}) < len([name for name in names if name is not None]):
            raise ValueError(
                f"the axes {names} of {path!r} must be different names with a rule in {sorted(dict(rules))}"
            )
        mesh_axes = nn.logical_to_mesh(PartitionSpec(*names), rules)
        spec = [self._checked(path, name, size, axes) for name, size, axes in zip(names, shape, mesh_axes, strict=True)]
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def _checked(self, path: str, name: str | None, size: int, axes: Any) -> Any:
        """`axes`, or None if the dimension cannot be split over them and may be replicated."""
        ways = math.prod(self.mesh.shape[axis] for axis in jax.tree.leaves(axes))
        if size % ways == 0:
            return axes
        if name in self.may_replicate:
            return None
        raise ValueError(
            f"the axis {name!r} of {path!r} has size {size}, which is not a multiple of the {ways} devices of the mesh"
            f" axis {axes!r}: change the mesh, or add {name!r} to may_replicate to keep it whole"
        )

    def optimizer_shardings(self, optimizer: optax.GradientTransformation, params: PyTree, shardings: PyTree) -> PyTree:
        """Layouts of `optimizer.init(params)`: moments follow their parameters, all else is replicated.

        Whatever has not the shape of its parameter, such as the row and column statistics of Adafactor, is small.

        Args:
          optimizer: the optimizer of the trainable parameters.
          params: unboxed trainable parameters or their shapes.
          shardings: their layouts.
        """
        shapes = {path: leaf.shape for path, leaf in trees.flatten(params).items()}
        by_path = trees.flatten(shardings)

        def layout(keys: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
            path = parameter_path(keys, shapes)
            return by_path[path] if path is not None and shapes[path] == leaf.shape else self.replicated

        return jax.tree.map_with_path(layout, jax.eval_shape(optimizer.init, params))

    def held_shards(self, data_shards: int) -> tuple[int, ...]:
        """Of `data_shards` equal parts of a batch's rows, those that devices of this process hold or have a part of."""
        size = math.lcm(data_shards, self.batch_ways)
        rows = size // data_shards
        held: Mapping[Any, Any] = self.batch.addressable_devices_indices_map((size,))
        slices = (index[0].indices(size) for index in held.values())
        return tuple(sorted({row // rows for start, stop, _ in slices for row in range(start, stop)}))

    def shard_batch(self, batch: Mapping[str, np.ndarray], *, data_shards: int = 1) -> dict[str, jax.Array]:
        """A batch on the devices: each takes its rows.

        Args:
          batch: all rows, which every host has; or those of `held_shards`, if there are several data_shards.
          data_shards: into how many equal parts the rows are shared out.

        Raises:
          ValueError: features differ in their number of examples, or it is not a multiple of the ways to split a
            batch.
        """
        sizes = {name: np.shape(value)[:1] for name, value in batch.items()}
        if len(set(sizes.values())) != 1 or () in sizes.values():
            raise ValueError(f"every feature must have one row an example, got the leading sizes {sizes}")
        ((size,),) = set(sizes.values())
        shards = self.held_shards(data_shards)
        size = size // len(shards) * data_shards
        if size % self.batch_ways:
            raise ValueError(
                f"{size} examples cannot be split evenly over the {self.batch_ways} parts that the devices hold:"
                f" make the batch a multiple of {self.batch_ways}"
            )
        put: Callable[..., jax.Array] = hosts.put
        if data_shards > 1:
            put = functools.partial(hosts.put_shards, shards=shards, data_shards=data_shards)
        return {name: put(np.asarray(value), sharding=self.batch) for name, value in batch.items()}

    def copy_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A global batch, which every host has, whole on each device."""
        return {name: hosts.put(np.asarray(value), self.replicated) for name, value in batch.items()}


def parameter_path(keys: tuple[Any, ...], paths: Mapping[str, Any]) -> str | None:
    """The parameter whose path ends the path of a leaf in an optimizer's state, e.g. 'a/b' of state[0].mu['a']['b']."""
    names: list[str] = []
    for key in reversed(keys):
        if not isinstance(key, jax.tree_util.DictKey):
            break
        names.insert(0, str(key.key))
    ends = (trees.SEPARATOR.join(names[start:]) for start in range(len(names)))
    return next((path for path in ends if path in paths), None)
