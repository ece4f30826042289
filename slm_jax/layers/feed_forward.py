"""The gated feed-forward layer of T5 1.1, PaLM, Gemma, Llama and Qwen."""

import enum
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.layers.dense import Dense, Initializer, lecun_normal
from slm_jax.typing import Array, DTypeLike, Float


class Activation(enum.Enum):
    """The function on the gate."""

    GELU = "gelu"
    """Approximated by tanh, as in T5 1.1 and Gemma (GeGLU)."""
    EXACT_GELU = "exact_gelu"
    """x times the Gaussian distribution function."""
    SILU = "silu"
    """x times its sigmoid, as in PaLM, Llama and Qwen (SwiGLU)."""
    RELU = "relu"
    """ReGLU."""

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return _FUNCTIONS[self](x)


_FUNCTIONS = {
    Activation.GELU: functools.partial(jax.nn.gelu, approximate=True),
    Activation.EXACT_GELU: functools.partial(jax.nn.gelu, approximate=False),
    Activation.SILU: jax.nn.silu,
    Activation.RELU: jax.nn.relu,
}


class GatedFeedForward(nn.Module):
    """down(activation(gate(x)) * up(x)) without biases (arXiv 2002.05202).

    Attributes:
      ff_width: width between the two maps.
      activation: function on the gate.
      dropout_rate: dropout between the two maps, shared along time as in T5.
      deterministic: no dropout.
      kernel_init: initial values of all three maps.
      down_init: initial values of `down`, if they differ.
    """

    ff_width: int
    activation: Activation
    dropout_rate: float = 0.0
    deterministic: bool = True
    kernel_init: Initializer = lecun_normal
    down_init: Initializer | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
        common = dict(kernel_init=self.kernel_init, dtype=self.dtype)
        gate = Dense((self.ff_width,), ("embed", "mlp"), **common, name="gate")(x)
        hidden = self.activation(gate) * Dense((self.ff_width,), ("embed", "mlp"), **common, name="up")(x)
        hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
        hidden = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(hidden, deterministic=self.deterministic)
        down = common | dict(kernel_init=self.down_init or self.kernel_init)
        return Dense((x.shape[-1],), ("mlp", "embed"), **down, name="down")(hidden)
