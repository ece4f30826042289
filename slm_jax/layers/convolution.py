"""Convolution along time."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.layers.dense import Initializer, lecun_normal
from slm_jax.typing import Array, DTypeLike, Float


class Convolution(nn.Module):
    """Filters over `kernel_size` frames, one every `stride` frames.

    n frames become (n + left + right - kernel_size) // stride + 1.

    Attributes:
      features: channels that come out.
      kernel_size: frames under a filter.
      stride: frames between filters.
      padding: frames of zeros on the left and on the right.
      groups: channels are cut into as many groups, which do not see each other.
      use_bias: add a learned bias.
      kernel_init: called with the kernel flattened to [kernel_size * channels of a group, features].
      dtype: computation type; parameters stay float32.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = lecun_normal
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B S F"]:
        shape = (self.kernel_size, x.shape[-1] // self.groups, self.features)

        def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
            return self.kernel_init(key, (shape[0] * shape[1], shape[2]), dtype).reshape(shape)

        axes = ("conv_window", None, "embed")
        kernel = self.param("kernel", nn.with_logical_partitioning(init, axes), shape, jnp.float32)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride,),
            (self.padding,),
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=self.groups,
        )
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), axes[2:])
            y += self.param("bias", zeros, (self.features,), jnp.float32).astype(self.dtype)
        return y
