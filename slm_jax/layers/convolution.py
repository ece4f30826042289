"""Convolution along time."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.layers.dense import Initializer, lecun_normal
from slm_jax.typing import Array, DTypeLike, Float

FEW_GROUPS = 32
"""Up to so many groups become convolutions of their own on a CPU; more would take long to compile."""


def convolve(
    x: Float[Array, "B T C"], kernel: Float[Array, "W _ F"], *, stride: int, padding: tuple[int, int], groups: int
) -> Float[Array, "B S F"]:
    """Filters [window, channels of a group, features] over frames, without a bias.

    XLA's grouped convolution is slow on a CPU. Milliseconds for 4 x 400 frames of 768 channels in 16 groups with 128
    frames under a filter, wav2vec 2.0's positions, on two shared cores: 2021 grouped, 176 a convolution a group, 386 a
    sum of shifted products, 452 by Fourier transforms.
    """
    apart = functools.partial(_convolve_apart, stride=stride, padding=padding, groups=groups)
    together = functools.partial(_convolve_together, stride=stride, padding=padding, groups=groups)
    if 1 < groups <= FEW_GROUPS:
        return jax.lax.platform_dependent(x, kernel, cpu=apart, default=together)
    return together(x, kernel)


def _convolve_together(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int], groups: int
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,), (padding,), dimension_numbers=("NHC", "HIO", "NHC"), feature_group_count=groups
    )


def _convolve_apart(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int], groups: int
) -> jax.Array:
    pairs = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
    parts = [_convolve_together(*pair, stride=stride, padding=padding, groups=1) for pair in pairs]
    return jnp.concatenate(parts, axis=-1)


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
        y = convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
        )
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), axes[2:])
            y += self.param("bias", zeros, (self.features,), jnp.float32).astype(self.dtype)
        return y
