"""Normalisation of features, computed in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.typing import Array, DTypeLike, Float


class RMSNorm(nn.Module):
    """x / rms(x) * (scale + offset), without mean or bias (arXiv 1910.07467); T5's LayerNorm.

    Attributes:
      epsilon: added to the mean square.
      scale_offset: constant added to the learned scale; 1 in Gemma, whose scales start at 0.
    """

    epsilon: float = 1e-6
    scale_offset: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... E"]:
        init = nn.with_logical_partitioning(nn.initializers.constant(1.0 - self.scale_offset), ("embed",))
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32) + self.scale_offset
        x32 = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        return (x32 * jax.lax.rsqrt(mean_square + self.epsilon) * scale).astype(self.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / std * scale + bias (arXiv 1607.06450).

    Attributes:
      epsilon: added to the variance.
      use_bias: add the learned bias; PaLM has none.
    """

    epsilon: float = 1e-5
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... E"]:
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", nn.with_logical_partitioning(ones, ("embed",)), (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        centered = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
        normed = centered * jax.lax.rsqrt(variance + self.epsilon) * scale
        if self.use_bias:
            normed += self.param("bias", nn.with_logical_partitioning(zeros, ("embed",)), (x.shape[-1],), jnp.float32)
        return normed.astype(self.dtype)


class FixedBatchNorm(nn.Module):
    """x * scale + bias: BatchNorm (arXiv 1502.03167) whose mean and variance are those of its training.

    scale = weight / sqrt(variance + epsilon) and bias = offset - mean * scale of what was trained.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... E"]:
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", nn.with_logical_partitioning(ones, ("embed",)), (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.with_logical_partitioning(zeros, ("embed",)), (x.shape[-1],), jnp.float32)
        return (x.astype(jnp.float32) * scale + bias).astype(self.dtype)
