"""Feed-forward layers without biases: plain in T5 1.0, gated in T5 1.1, PaLM, Gemma, Llama and Qwen."""

import enum
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.layers.dense import Dense, Initializer, lecun_normal
from slm_jax.typing import Array, DTypeLike, Float


class Activation(enum.Enum):
    """The function between the two maps; on the gate, if there is one."""

    GELU = "gelu"
    """Approximated by tanh, as in T5 1.1 and Gemma (GeGLU)."""
    EXACT_GELU = "exact_gelu"
    """x times the Gaussian distribution function."""
    SILU = "silu"
    """x times its sigmoid, as in PaLM, Llama and Qwen (SwiGLU)."""
    RELU = "relu"
    """max(x, 0), as in T5 1.0."""

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return _FUNCTIONS[self](x)


_FUNCTIONS = {
    Activation.GELU: functools.partial(jax.nn.gelu, approximate=True),
    Activation.EXACT_GELU: functools.partial(jax.nn.gelu, approximate=False),
    Activation.SILU: jax.nn.silu,
    Activation.RELU: jax.nn.relu,
}


class FeedForward(nn.Module):
    """down(activation(up(x))) (arXiv 1706.03762, without biases).

    Attributes:
      ff_width: width between the two maps.
      activation: function between them.
      dropout_rate: dropout before `down`, shared along time as in T5.
      deterministic: no dropout.
      kernel_init: initial values of all maps.
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
        hidden = nn.with_logical_constraint(self.activate(x), ("batch", "length", "mlp"))
        hidden = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(hidden, deterministic=self.deterministic)
        init = self.down_init or self.kernel_init
        return Dense((x.shape[-1],), ("mlp", "embed"), kernel_init=init, dtype=self.dtype, name="down")(hidden)

    def activate(self, x: Float[Array, "B L E"]) -> Float[Array, "B L mlp"]:
        """What `down` maps back."""
        return self.activation(self.widen(x, "up"))

    def widen(self, x: Float[Array, "B L E"], name: str) -> Float[Array, "B L mlp"]:
        return Dense((self.ff_width,), ("embed", "mlp"), kernel_init=self.kernel_init, dtype=self.dtype, name=name)(x)


class GatedFeedForward(FeedForward):
    """down(activation(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def activate(self, x: Float[Array, "B L E"]) -> Float[Array, "B L mlp"]:
        return self.activation(self.widen(x, "gate")) * self.widen(x, "up")
