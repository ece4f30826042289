"""The layers of T5 and its kin: self-attention, attention to the prefix and feed-forward, each normalised first."""

import dataclasses
import enum
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from slm_jax.layers.attention import KeyValue, MultiHeadAttention
from slm_jax.layers.enums import resolve_enums
from slm_jax.layers.feed_forward import Activation, FeedForward, GatedFeedForward
from slm_jax.layers.norm import RMSNorm
from slm_jax.layers.positions import RelativePositionBias
from slm_jax.typing import Array, Bool, DTypeLike, Float, Int


class DecoderPass(enum.Enum):
    """What the decoder's layers are run for."""

    TEACHER_FORCING = "teacher_forcing"
    """All target positions at once."""
    PROJECT_PREFIX = "project_prefix"
    """Only the keys and values of the prefix, for the cache."""
    STEP = "step"
    """One target position, with a cache."""


class PositionTables(enum.Enum):
    """How many tables of relative positions there are."""

    PER_STACK = "per_stack"
    """One in the encoder and one in the decoder, whose bias all layers share: T5 and mT5."""
    PER_LAYER = "per_layer"
    """One in each layer: UMT5."""


class LayerCache(NamedTuple):
    """Keys and values of one decoder layer: of the target so far [B, G, T, D] and of the prefix [B, G, P, D]."""

    self_attention: KeyValue
    cross_attention: KeyValue


class Positions(NamedTuple):
    """Where the queries and keys of self-attention stand.

    Attributes:
      queries: positions of the queries.
      keys: positions of the keys.
      bias: what their distances add to the scores; None where each layer has its own table.
    """

    queries: Int[Array, "Q"]
    keys: Int[Array, "K"]
    bias: Float[Array, "1 H Q K"] | None


class LayerSettings(nn.Module, kw_only=True):
    """What a layer is made of.

    Attributes:
      num_heads: attention heads.
      head_dim: width of a head.
      ff_width: inner width of the feed-forward layer.
      feed_forward: its kind; FeedForward in T5 1.0.
      activation: the function in it; RELU in T5 1.0.
      norm_epsilon: added to the mean squares that norms divide by.
      relative_buckets: rows of a table of relative positions.
      relative_max_distance: distance from which all positions share a bucket.
      position_tables: how many of these tables there are.
      dropout_rate: dropout where deterministic is False.
      dtype: computation type. Logits are float32 always.
    """

    num_heads: int
    head_dim: int
    ff_width: int
    feed_forward: type[FeedForward] = GatedFeedForward
    activation: Activation | str = Activation.GELU
    norm_epsilon: float = 1e-6
    relative_buckets: int = 32
    relative_max_distance: int = 128
    position_tables: PositionTables | str = PositionTables.PER_STACK
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        resolve_enums(self)
        super().__post_init__()

    def norm(self, x: Float[Array, "B L E"], name: str) -> Float[Array, "B L E"]:
        return RMSNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name=name)(x)

    def position_bias(
        self, queries: Int[Array, "Q"], keys: Int[Array, "K"], *, bidirectional: bool
    ) -> Float[Array, "1 H Q K"]:
        return RelativePositionBias(
            num_heads=self.num_heads,
            bidirectional=bidirectional,
            num_buckets=self.relative_buckets,
            max_distance=self.relative_max_distance,
            dtype=self.dtype,
            name="relative_position_bias",
        )(queries, keys)


LAYER_FIELDS = tuple(f.name for f in dataclasses.fields(LayerSettings) if f.name not in ("parent", "name"))


class Block(LayerSettings, kw_only=True):
    """What the encoder's and the decoder's layers share: sublayers of the form x + dropout(f(norm(x))).

    Attributes:
      deterministic: no dropout. It is shared along time, on what sublayers give.
    """

    deterministic: bool = True

    def attention(self, name: str) -> MultiHeadAttention:
        """Attention whose scores are not divided by sqrt(head_dim): the queries start smaller instead."""
        return MultiHeadAttention(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            query_scale=1.0,
            kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
            query_init=nn.initializers.variance_scaling(1.0 / self.head_dim, "fan_in", "normal"),
            dtype=self.dtype,
            name=name,
        )

    def bias(self, positions: Positions, *, bidirectional: bool) -> Float[Array, "1 H Q K"]:
        """The bias that all layers share, or this layer's own."""
        if positions.bias is not None:
            return positions.bias
        return self.position_bias(positions.queries, positions.keys, bidirectional=bidirectional)

    def add(self, x: Float[Array, "B L E"], update: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
        update = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(update, deterministic=self.deterministic)
        return nn.with_logical_constraint(x + update, ("batch", "length", "embed"))

    def add_feed_forward(self, x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
        mlp = self.feed_forward(
            ff_width=self.ff_width,
            activation=Activation(self.activation),
            dropout_rate=self.dropout_rate,
            deterministic=self.deterministic,
            dtype=self.dtype,
            name="mlp",
        )
        return self.add(x, mlp(self.norm(x, "mlp_norm")))


class EncoderBlock(Block):
    """Self-attention, then feed-forward."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B P E"], _: None, mask: Bool[Array, "B 1 P"], positions: Positions
    ) -> tuple[Float[Array, "B P E"], None]:
        attention, bias = self.attention("attention"), self.bias(positions, bidirectional=True)
        normed = self.norm(x, "attention_norm")
        x = self.add(x, attention(normed, attention.project_keys(normed), mask=mask, bias=bias))
        return self.add_feed_forward(x), None


class DecoderBlock(Block, kw_only=True):
    """Self-attention, attention to the encoded prefix, then feed-forward.

    Attributes:
      decoder_pass: PROJECT_PREFIX leaves x as it is and returns the prefix's keys and values; STEP reads `cache`,
        writes position `index` of it and returns the new keys and values of the target.
    """

    decoder_pass: DecoderPass = DecoderPass.TEACHER_FORCING

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L E"] | None,
        cache: LayerCache | None,
        mask: Bool[Array, "1 L T"] | None,
        positions: Positions | None,
        prefix: Float[Array, "B P E"] | None,
        prefix_mask: Bool[Array, "B 1 P"] | None,
        index: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B L E"] | None, KeyValue | None]:
        self_attention, cross_attention = self.attention("self_attention"), self.attention("cross_attention")
        if self.decoder_pass is DecoderPass.PROJECT_PREFIX:
            return x, cross_attention.project_keys(prefix)

        normed = self.norm(x, "self_attention_norm")
        keys = self_attention.project_keys(normed)
        if self.decoder_pass is DecoderPass.STEP:
            keys, prefix_keys = cache.self_attention.write(keys, index), cache.cross_attention
        else:
            prefix_keys = cross_attention.project_keys(prefix)
        bias = self.bias(positions, bidirectional=False)
        x = self.add(x, self_attention(normed, keys, mask=mask, bias=bias))

        normed = self.norm(x, "cross_attention_norm")
        x = self.add(x, cross_attention(normed, prefix_keys, mask=prefix_mask))
        return self.add_feed_forward(x), keys if self.decoder_pass is DecoderPass.STEP else None
