"""Linear layers and embedding tables whose parameters carry logical axis names."""

import enum
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.typing import Array, DTypeLike, Float, Int, PyTree

Initializer = Callable[..., jax.Array]
lecun_normal = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
small_normal = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
"""Initial values of what is added to the residual stream: a tenth of the usual, so that the input shines through."""


class Dense(nn.Module):
    """A linear map from the last `len(kernel_axes) - len(features)` axes to `features` new ones.

    Attributes:
      features: sizes of the output axes, e.g. (width,) or (heads, head_dim).
      kernel_axes: logical names of the kernel's axes, inputs first.
      use_bias: add a learned bias over the output axes.
      kernel_init: called with the kernel flattened to [fan_in, fan_out].
      dtype: computation type; parameters stay float32.
    """

    features: tuple[int, ...]
    kernel_axes: tuple[str, ...] = ("embed", "mlp")
    use_bias: bool = False
    kernel_init: Initializer = lecun_normal
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        num_inputs = len(self.kernel_axes) - len(self.features)
        input_shape = x.shape[x.ndim - num_inputs :]

        def init(key: jax.Array, shape: tuple[int, ...], dtype: PyTree) -> jax.Array:
            flat = (math.prod(shape[:num_inputs]), math.prod(shape[num_inputs:]))
            return self.kernel_init(key, flat, dtype).reshape(shape)

        kernel = self.param(
            "kernel", nn.with_logical_partitioning(init, self.kernel_axes), (*input_shape, *self.features), jnp.float32
        )
        axes = tuple(range(x.ndim - num_inputs, x.ndim)), tuple(range(num_inputs))
        y = jax.lax.dot_general(x.astype(self.dtype), kernel.astype(self.dtype), (axes, ((), ())))
        if self.use_bias:
            bias_init = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.kernel_axes[num_inputs:])
            y += self.param("bias", bias_init, self.features, jnp.float32).astype(self.dtype)
        return y


class OutputHead(enum.Enum):
    """Where a language model's scores of the next token come from."""

    UNTIED = "untied"
    """A matrix of their own."""
    TIED = "tied"
    """The table of embeddings."""


class Embed(nn.Module):
    """A table of vectors, one a token.

    Attributes:
      vocab_size: rows of the table.
      features: width of a row.
      stddev: scale of the initial values.
    """

    vocab_size: int
    features: int
    stddev: float = 1.0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.stddev), ("vocab", "embed"))
        self.embedding = self.param("embedding", init, (self.vocab_size, self.features), jnp.float32)

    def __call__(self, tokens: Int[Array, "..."]) -> Float[Array, "... E"]:
        return jnp.take(self.embedding, tokens, axis=0).astype(self.dtype)

    def attend(self, hidden: Float[Array, "... E"]) -> Float[Array, "... V"]:
        """Scores of every token: the table as an output head."""
        return jnp.dot(hidden.astype(self.dtype), self.embedding.astype(self.dtype).T)
