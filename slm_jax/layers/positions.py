"""Positions: rotary embeddings and T5's relative position buckets."""

import math

import flax.linen as nn
import jax.numpy as jnp

from slm_jax.typing import Array, DTypeLike, Float, Int


def rotary(x: Float[Array, "B L H D"], positions: Int[Array, "B L"], *, base: float) -> Float[Array, "B L H D"]:
    """Rotates the halves of each head by an angle that grows with position (arXiv 2104.09864).

    Channel i is paired with channel i + D / 2, the layout of PaLM, Llama and Gemma checkpoints.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def relative_position_bucket(
    relative_position: Int[Array, "..."], *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Int[Array, "..."]:
    """T5's bucket of key position minus query position: exact when near, logarithmic when far.

    Follows `mesh_tensorflow/transformer/transformer_layers.py:_relative_position_bucket` (Apache-2.0) in behaviour.
    """
    offset = jnp.zeros_like(relative_position)
    distance = -relative_position
    if bidirectional:
        num_buckets //= 2
        offset = jnp.where(distance < 0, num_buckets, 0)
        distance = jnp.abs(distance)
    distance = jnp.maximum(distance, 0)
    exact = num_buckets // 2
    scale = (num_buckets - exact) / math.log(max_distance / exact)
    far = exact + (jnp.log(jnp.maximum(distance, 1) / exact) * scale).astype(jnp.int32)
    return offset + jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1))


class RelativePositionBias(nn.Module):
    """T5's learned bias on attention scores, shared by the layers of a stack.

    Attributes:
      num_heads: one bias a head.
      bidirectional: separate buckets for keys after the query.
      num_buckets: rows of the table.
      max_distance: distance from which all keys share the last bucket.
    """

    num_heads: int
    bidirectional: bool
    num_buckets: int = 32
    max_distance: int = 128
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, query_positions: Int[Array, "Q"], key_positions: Int[Array, "K"]) -> Float[Array, "1 H Q K"]:
        buckets = relative_position_bucket(
            key_positions[None, :] - query_positions[:, None],
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )
        uniform = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        init = nn.with_logical_partitioning(uniform, ("relpos_buckets", "heads"))
        table = self.param("embedding", init, (self.num_buckets, self.num_heads), jnp.float32)
        return jnp.moveaxis(table[buckets], -1, 0)[None].astype(self.dtype)
