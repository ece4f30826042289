"""Positions: rotary embeddings and T5's relative position buckets."""

import dataclasses
import math

import flax.linen as nn
import jax.numpy as jnp

from slm_jax.typing import Array, DTypeLike, Float, Int


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Rotary positions divided by a constant, to reach further than the model was first trained for (arXiv 2306.15595).

    Attributes:
      factor: the constant.
    """

    factor: float

    def __call__(self, frequency: Float[Array, "F"]) -> Float[Array, "F"]:
        return frequency / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Slow rotary frequencies divided by a constant, fast ones kept, those between in between (Llama 3.1).

    Follows `transformers/modeling_rope_utils.py:_compute_llama3_parameters` (Apache-2.0) in behaviour.

    Attributes:
      factor: the constant.
      low_frequency_factor: frequencies that turn less often than this over the original length are divided.
      high_frequency_factor: those that turn more often than this are kept.
      original_length: positions that the model was first trained for.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: float

    def __call__(self, frequency: Float[Array, "F"]) -> Float[Array, "F"]:
        turns = self.original_length * frequency / (2 * jnp.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = jnp.clip((turns - low) / (high - low), 0, 1)
        return kept * frequency + (1 - kept) * frequency / self.factor


RotaryScaling = LinearScaling | Llama3Scaling


def rotary_frequencies(head_dim: int, *, base: float, scaling: RotaryScaling | None = None) -> Float[Array, "F"]:
    """Angles a position, for each half of a head (F = head_dim / 2), from 1 down to nearly 1 / base."""
    half = head_dim // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    return frequency if scaling is None else scaling(frequency)


def rotary(
    x: Float[Array, "B L H D"], positions: Int[Array, "B L"], *, frequency: Float[Array, "F"]
) -> Float[Array, "B L H D"]:
    """Rotates the halves of each head by an angle that grows with position (arXiv 2104.09864).

    Channel i is paired with channel i + D / 2, the layout of PaLM, Llama and Gemma checkpoints.
    """
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
    """T5's learned bias on attention scores, shared by the layers of a stack or a layer's own.

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
