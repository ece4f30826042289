"""The steps of a run, ready to be compiled for a mesh: what `slm_jax.train` runs, on shapes instead of arrays."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from slm_jax import trees
from slm_jax.aot import flops
from slm_jax.training import freezing, partitioning
from slm_jax.training.run import Training
from slm_jax.training.state import TrainState
from slm_jax.training.step import TrainStep
from slm_jax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Step:
    """A function with the shapes and layouts of its arguments.

    Attributes:
      name: 'train', 'eval NAME' or 'decode'.
      function: what is compiled; jitted.
      arguments: shapes with layouts.
      held: bytes a chip holds of each kind of argument.
      minimum_flops: operations that no layout and no recomputation can save, over all chips.
      partitioner: layouts, and the mesh to be compiled for.
    """

    name: str
    function: Any
    arguments: tuple[PyTree, ...]
    held: Mapping[str, int]
    minimum_flops: int
    partitioner: partitioning.Partitioner

    def lower(self) -> jax.stages.Lowered:
        """The traced function for the mesh."""
        with self.partitioner.context():
            return self.function.lower(*self.arguments)


class Steps:
    """The steps of a training on a mesh.

    Args:
      training: what gin built; its mesh is not looked at.
      mesh: devices to compile for.

    Raises:
      ValueError: the mesh divides a parameter's axis or the batch unevenly; the message names both numbers.
    """

    def __init__(self, training: Training, mesh: jax.sharding.Mesh) -> None:
        self.training = training
        self.partitioner = dataclasses.replace(training, mesh=mesh).partitioner()
        self.shardings = self.partitioner.shardings(training.boxed_shapes)
        params = jax.tree.map(shaped, training.shapes, self.shardings)
        self.trained, self.frozen = trees.partition(params, training.trainable)

    @functools.cached_property
    def _key(self) -> jax.ShapeDtypeStruct:
        return shaped(jax.eval_shape(jax.random.key, 0), self.partitioner.replicated)

    def _batch(self, shapes: Mapping[str, jax.ShapeDtypeStruct], pieces: int = 1) -> dict[str, jax.ShapeDtypeStruct]:
        size = next(iter(shapes.values())).shape[0]
        ways = self.partitioner.batch_ways
        if size % pieces or size // pieces % ways:
            cut = f", cut into {pieces} microbatches," if pieces > 1 else ""
            raise ValueError(
                f"a batch of {size}{cut} cannot be split evenly over the {ways} parts of the mesh"
                f" {dict(self.partitioner.mesh.shape)}: make the batch a multiple of {pieces * ways}"
            )
        return {name: shaped(shape, self.partitioner.batch) for name, shape in shapes.items()}

    @functools.cached_property
    def _train_arguments(self) -> tuple[TrainState, PyTree, PyTree, PyTree]:
        training = self.training
        layouts, _ = trees.partition(self.shardings, training.trainable)
        state = jax.eval_shape(lambda params: TrainState.create(params, training.optimizer), self.trained)
        moments = self.partitioner.optimizer_shardings(training.optimizer, self.trained, layouts)
        layout = TrainState(step=self.partitioner.replicated, trainable=layouts, opt_state=moments)
        state = jax.tree.map(shaped, state, layout)
        return state, self.frozen, self._batch(training.batch_shapes, training.num_microbatches), self._key

    def train_held(self) -> dict[str, int]:
        """Bytes that a chip holds of each kind of argument of `train`."""
        state, frozen, batch, _ = self._train_arguments
        kinds = {
            "frozen parameters": frozen,
            "trainable parameters": state.trainable,
            "optimizer": state.opt_state,
            "batch": batch,
        }
        return {name: held(tree) for name, tree in kinds.items()}

    def train(self) -> Step:
        """One update, as the loop runs it."""
        arguments = self._train_arguments
        training = self.training
        return Step(
            name="train",
            function=jax.jit(self._train_step(training), donate_argnums=0),
            arguments=arguments,
            held=self.train_held(),
            minimum_flops=flops.count(self._train_step(without_remat(training)), *arguments),
            partitioner=self.partitioner,
        )

    def _train_step(self, training: Training) -> TrainStep:
        paths = trees.flatten(nn.unbox(self.training.boxed_shapes))
        return TrainStep(
            objective=training.objective,
            optimizer=training.optimizer,
            training=freezing.trainable_components(training.trainable, paths),
            num_microbatches=training.num_microbatches,
        )

    @property
    def _parameters(self) -> PyTree:
        return trees.combine(self.trained, self.frozen)

    def evaluate(
        self, name: str, predict: Callable[..., Any], *, shapes: Mapping[str, jax.ShapeDtypeStruct], length: int
    ) -> Step:
        """A decoded evaluation of one batch: encoder, prefix and all steps of decoding.

        Args:
          name: of the evaluation.
          predict: what decodes a batch.
          shapes: of the batch.
          length: tokens written at most.
        """
        batch = self._batch(shapes)
        arguments = self._parameters, batch, self._key
        return Step(
            name=f"eval {name}",
            function=predict if hasattr(predict, "lower") else jax.jit(predict),
            arguments=arguments,
            held={"parameters": held(arguments[0]), "batch": held(batch)},
            minimum_flops=flops.count(predict, *arguments, while_trips=length),
            partitioner=self.partitioner,
        )

    def decode(self, *, shapes: Mapping[str, jax.ShapeDtypeStruct], length: int) -> Step:
        """One step of decoding by itself: a token of each example, with a cache that has room for `length`."""
        model = self.training.objective.model
        batch = self._batch(shapes)
        params = self._parameters
        cache = jax.eval_shape(
            lambda params, batch: model.apply({"params": params}, batch, max_decode_length=length, method="prefill"),
            params,
            batch,
        )
        cache = jax.tree.map(self._cache_layout, cache)
        size = next(iter(shapes.values())).shape[0]
        tokens = shaped(jax.ShapeDtypeStruct((size,), jnp.int32), self.partitioner.batch)
        index = shaped(jax.ShapeDtypeStruct((), jnp.int32), self.partitioner.replicated)

        def step(params: PyTree, tokens: jax.Array, cache: PyTree, index: jax.Array) -> Any:
            return model.apply({"params": params}, tokens, cache, index, method="step")

        read = {"lm": params["lm"]} if "lm" in params else params
        arguments = read, tokens, cache, index
        return Step(
            name="decode",
            function=jax.jit(step, donate_argnums=2),
            arguments=arguments,
            held={"parameters": held(read), "cache": held(cache)},
            minimum_flops=flops.count(step, *arguments),
            partitioner=self.partitioner,
        )

    def _cache_layout(self, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """[layers, B, heads, T, D] by examples and heads, [B, P] by examples."""
        mesh, batch = self.partitioner.mesh, self.partitioner.batch.spec[0]
        if len(leaf.shape) == 2:
            return shaped(leaf, self.partitioner.batch)
        axes: list[Any] = [None, batch]
        if len(leaf.shape) == 5 and leaf.shape[2] % mesh.shape[partitioning.MODEL] == 0:
            axes.append(partitioning.MODEL)
        return shaped(leaf, NamedSharding(mesh, PartitionSpec(*axes)))


def shaped(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    """A shape with a layout."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def held(tree: PyTree) -> int:
    """Bytes that a chip holds of a tree of shapes with layouts."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * _itemsize(leaf.dtype) for leaf in jax.tree.leaves(tree)
    )


def _itemsize(dtype: Any) -> int:
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else jnp.dtype(dtype).itemsize


def without_remat(training: Training) -> Training:
    """The same training, with all that its backward pass needs kept from the forward pass."""
    return with_remat(training, "none")


def with_remat(training: Training, remat: str) -> Training:
    """The same training with another choice of what layers keep for their backward pass: 'none', 'dots' or 'full'."""
    return dataclasses.replace(training, objective=flops.with_remat(training.objective, remat))
