"""The training and evaluation steps: pure functions to be compiled once for each bucket of shapes."""

import dataclasses
from collections.abc import Callable, Collection, Mapping

import jax
import jax.numpy as jnp
import optax

from slm_jax import trees
from slm_jax.models.interfaces import LossOutput, Objective
from slm_jax.training.state import TrainState, parameter_norm
from slm_jax.typing import Array, Batch, Float, PRNGKey, PyTree

Scalars = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """One update of the trainable parameters.

    Gradients exist for the trainable subtree only; frozen parameters are constants of the differentiation. The loss
    is the sum over tokens divided by the batch's token count, whatever the number of microbatches.

    Attributes:
      objective: what is minimised.
      optimizer: optax transformation, clipping included.
      training: components that run in training mode.
      num_microbatches: pieces a batch is cut into, one after the other, to save memory.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    training: Collection[str]
    num_microbatches: int = 1

    def __call__(self, state: TrainState, frozen: PyTree, batch: Batch, rng: PRNGKey) -> tuple[TrainState, Scalars]:
        rng = jax.random.fold_in(rng, state.step)
        output, gradients = self.gradients(state.trainable, frozen, batch, rng)
        weight = jnp.maximum(output.weight, 1)
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        scalars = {
            "loss": output.loss / weight,
            "tokens": output.weight,
            "gradient_norm": parameter_norm(gradients),
            "parameter_norm": parameter_norm(trainable),
            "update_norm": parameter_norm(updates),
            **means(output),
        }
        return TrainState(step=state.step + 1, trainable=trainable, opt_state=opt_state), scalars

    def gradients(self, trainable: PyTree, frozen: PyTree, batch: Batch, rng: PRNGKey) -> tuple[LossOutput, PyTree]:
        """Sums of losses and of gradients over the batch."""

        def loss(trainable: PyTree, batch: Batch, rng: PRNGKey) -> tuple[Float[Array, ""], LossOutput]:
            params = trees.combine(trainable, frozen)
            output = self.objective.loss(params, batch, rng=rng, training=self.training)
            return output.loss, output

        def value_and_grad(batch: Batch, rng: PRNGKey) -> tuple[LossOutput, PyTree]:
            (_, output), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, batch, rng)
            return output, gradients

        if self.num_microbatches == 1:
            return value_and_grad(batch, rng)
        pieces = split_batch(batch, self.num_microbatches)
        keys = jax.random.split(rng, self.num_microbatches)
        return sum_over(lambda piece: value_and_grad(*piece), (pieces, keys))


@dataclasses.dataclass(frozen=True, eq=False)
class EvalStep:
    """Sums of the loss over a batch, under several versions of it (true, shuffled, no speech).

    Attributes:
      objective: what is measured.
      variants: by name, a function from batch to batch.
    """

    objective: Objective
    variants: Mapping[str, Callable[[Batch], Batch]]

    def __call__(self, trainable: PyTree, frozen: PyTree, batch: Batch, rng: PRNGKey) -> dict[str, LossOutput]:
        params = trees.combine(trainable, frozen)
        return {name: self.objective.loss(params, change(batch), rng=rng) for name, change in self.variants.items()}


def means(output: LossOutput) -> Scalars:
    """Each metric's sum divided by its weight."""
    return {name: total / jnp.maximum(weight, 1) for name, (total, weight) in output.metrics.items()}


def split_batch(batch: Batch, pieces: int) -> Batch:
    """[B, ...] -> [pieces, B / pieces, ...]; every piece takes examples from all over the batch.

    Examples i, i + pieces, ... form piece i, so that a batch sharded over devices stays evenly sharded in each piece.
    """
    size = next(iter(batch.values())).shape[0]
    if size % pieces:
        raise ValueError(f"A batch of {size} examples cannot be cut into {pieces} microbatches of equal size.")
    return {name: x.reshape(size // pieces, pieces, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}


def sum_over(function: Callable[[PyTree], PyTree], pieces: PyTree) -> PyTree:
    """The sum of `function(piece)` over the leading axis of `pieces`, one piece in memory at a time."""
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], pieces)),
    )

    def add(total: PyTree, piece: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, function(piece)), None

    return jax.lax.scan(add, zeros, pieces)[0]
