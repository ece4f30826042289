"""What changes while training: the trainable parameters, the optimizer's state, the step."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from slm_jax.typing import PyTree


@flax.struct.dataclass
class TrainState:
    """All that a training step reads and writes; frozen parameters stand beside it, never in it.

    Attributes:
      step: updates done so far, an int32 scalar (untyped: trees of shapes and of shardings have the same form).
      trainable: the parameters that TRAINABLE decides to train, by component.
      opt_state: the optimizer's state, of the trainable parameters only.
    """

    step: PyTree
    trainable: PyTree
    opt_state: PyTree

    @classmethod
    def create(cls, trainable: PyTree, optimizer: optax.GradientTransformation) -> "TrainState":
        return cls(step=jnp.zeros((), jnp.int32), trainable=trainable, opt_state=optimizer.init(trainable))


def parameter_norm(params: PyTree) -> jax.Array:
    """Euclidean norm over every leaf, in float32."""
    return optax.global_norm(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params))
