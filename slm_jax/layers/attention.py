"""Multi-head attention with grouped keys, additive biases and an explicit cache."""

import enum
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.layers.dense import Dense, Initializer, lecun_normal
from slm_jax.layers.norm import RMSNorm
from slm_jax.typing import Array, Bool, DTypeLike, Float

Rotation = Callable[[jax.Array], jax.Array]


class KeyValue(NamedTuple):
    """Projected keys and values, [B, G, K, D] each (G groups of heads).

    Groups come before time: a decoding step then multiplies what it holds as it lies. With time first, XLA on a CPU
    transposes the whole cache in every step.
    """

    key: jax.Array
    value: jax.Array

    def write(self, new: "KeyValue", index: jax.Array) -> "KeyValue":
        """This cache with `new` written at position `index` of the time axis."""
        return KeyValue(
            jax.lax.dynamic_update_slice_in_dim(self.key, new.key.astype(self.key.dtype), index, axis=2),
            jax.lax.dynamic_update_slice_in_dim(self.value, new.value.astype(self.value.dtype), index, axis=2),
        )


class HeadNorm(enum.Enum):
    """Whether queries and keys are normalised a head at a time before they meet."""

    NONE = "none"
    RMS = "rms"


class ProjectionBias(enum.Enum):
    """Which attention projections have a bias."""

    NONE = "none"
    QUERY_KEY_VALUE = "query_key_value"
    """Those of queries, keys and values (Qwen 1.5 to 2.5)."""
    QUERY_VALUE = "query_value"
    """Those of queries and values (Whisper): the softmax over keys would take a bias of the keys out again."""


def heads_first(x: Float[Array, "B K G D"]) -> Float[Array, "B G K D"]:
    """The layout of `KeyValue`."""
    return jnp.swapaxes(x, 1, 2)


def dot_product_attention(
    query: Float[Array, "B Q H D"],
    key: Float[Array, "B G K D"],
    value: Float[Array, "B G K D"],
    *,
    mask: Bool[Array, "#B #Q K"] | None = None,
    bias: Float[Array, "#B H Q K"] | None = None,
    logit_softcap: float | None = None,
) -> Float[Array, "B Q H D"]:
    """softmax(query . key + bias) . value, with H / G query heads to a group of keys; scores in float32.

    A query that may see no key gives zeros, never NaN.
    """
    batch, num_queries, num_heads, head_dim = query.shape
    groups = key.shape[1]
    query = query.reshape(batch, num_queries, groups, num_heads // groups, head_dim)
    scores = jnp.einsum("bqgrd,bgkd->bgrqk", query, key, preferred_element_type=jnp.float32)
    if logit_softcap is not None:
        scores = logit_softcap * jnp.tanh(scores / logit_softcap)
    if bias is not None:
        scores += bias.reshape(bias.shape[0], groups, -1, *bias.shape[2:]).astype(jnp.float32)
    if mask is not None:
        mask = mask[:, None, None]
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    # Normalised after the sum over keys: dividing [.., Q, D] is cheaper than dividing [.., Q, K].
    mixed = jnp.einsum("bgrqk,bgkd->bgrqd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    mixed = mixed / weights.sum(axis=-1, keepdims=True)
    if mask is not None:
        mixed = jnp.where(mask.any(axis=-1, keepdims=True), mixed, 0)
    return jnp.moveaxis(mixed, 3, 1).astype(value.dtype).reshape(batch, num_queries, num_heads, head_dim)


class MultiHeadAttention(nn.Module):
    """Projections around `dot_product_attention`.

    `project_keys` and `__call__` are apart so that a decoder can keep what it projected: the caller projects new
    keys, writes them into its cache, and attends to whatever it holds.

    Attributes:
      num_heads: query heads.
      head_dim: width of a head.
      num_kv_heads: key and value heads; None for as many as query heads, 1 for multi-query attention.
      query_scale: factor on the queries; None for head_dim ** -0.5. T5 uses 1.
      logit_softcap: scores are squashed into (-cap, cap) by tanh; None for no cap.
      head_norm: normalise queries and keys a head at a time.
      norm_epsilon, norm_scale_offset: as in RMSNorm.
      projection_bias: which of the query, key and value projections have a bias.
      use_output_bias: bias on the output projection.
      output_features: width of the result; None for the width of the queries' input.
      kernel_init: initial values of all four projections.
      query_init: initial values of the query projection, if they differ (T5 scales them instead of the scores).
      output_init: initial values of the output projection, if they differ.
    """

    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    query_scale: float | None = None
    logit_softcap: float | None = None
    head_norm: HeadNorm = HeadNorm.NONE
    norm_epsilon: float = 1e-6
    norm_scale_offset: float = 0.0
    projection_bias: ProjectionBias = ProjectionBias.NONE
    use_output_bias: bool = False
    output_features: int | None = None
    kernel_init: Initializer = lecun_normal
    query_init: Initializer | None = None
    output_init: Initializer | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        groups = self.num_kv_heads or self.num_heads
        biased = self.projection_bias is not ProjectionBias.NONE
        common = dict(use_bias=biased, kernel_init=self.kernel_init, dtype=self.dtype)
        query_common = common | dict(kernel_init=self.query_init or self.kernel_init)
        key_common = common | dict(use_bias=self.projection_bias is ProjectionBias.QUERY_KEY_VALUE)
        self.query = Dense((self.num_heads, self.head_dim), ("embed", "heads", "kv"), **query_common)
        self.key = Dense((groups, self.head_dim), ("embed", "kv_heads", "kv"), **key_common)
        self.value = Dense((groups, self.head_dim), ("embed", "kv_heads", "kv"), **common)
        if self.head_norm is HeadNorm.RMS:
            norm = dict(epsilon=self.norm_epsilon, scale_offset=self.norm_scale_offset, dtype=self.dtype)
            self.query_norm, self.key_norm = RMSNorm(**norm), RMSNorm(**norm)

    def project_keys(self, x: Float[Array, "B K E"], rotate: Rotation | None = None) -> KeyValue:
        key, value = self.key(x), self.value(x)
        if self.head_norm is HeadNorm.RMS:
            key = self.key_norm(key)
        return KeyValue(*(heads_first(x) for x in (rotate(key) if rotate else key, value)))

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Q E"],
        keys: KeyValue,
        *,
        mask: Bool[Array, "#B #Q K"] | None = None,
        bias: Float[Array, "#B H Q K"] | None = None,
        rotate: Rotation | None = None,
    ) -> Float[Array, "B Q O"]:
        query = self.query(x)
        if self.head_norm is HeadNorm.RMS:
            query = self.query_norm(query)
        query = rotate(query) if rotate else query
        scale = self.head_dim**-0.5 if self.query_scale is None else self.query_scale
        mixed = dot_product_attention(
            query * scale, keys.key, keys.value, mask=mask, bias=bias, logit_softcap=self.logit_softcap
        )
        mixed = nn.with_logical_constraint(mixed, ("batch", "length", "heads", "kv"))
        return Dense(
            (self.output_features or x.shape[-1],),
            ("heads", "kv", "embed"),
            use_bias=self.use_output_bias,
            kernel_init=self.output_init or self.kernel_init,
            dtype=self.dtype,
            name="out",
        )(mixed)
