"""T5 1.1 and mT5: an encoder-decoder over a prefix of embeddings."""

import enum
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from slm_jax.layers import masks
from slm_jax.layers.attention import KeyValue, MultiHeadAttention
from slm_jax.layers.dense import Dense, Embed, OutputHead
from slm_jax.layers.enums import resolve_enums
from slm_jax.layers.feed_forward import Activation, GatedFeedForward
from slm_jax.layers.norm import RMSNorm
from slm_jax.layers.positions import RelativePositionBias
from slm_jax.layers.stack import Remat, apply_stack
from slm_jax.models.interfaces import DecodeCache
from slm_jax.typing import Array, Bool, DTypeLike, Float, Int


class DecoderPass(enum.Enum):
    """What the decoder's layers are run for."""

    TEACHER_FORCING = "teacher_forcing"
    """All target positions at once."""
    PROJECT_PREFIX = "project_prefix"
    """Only the keys and values of the prefix, for the cache."""
    STEP = "step"
    """One target position, with a cache."""


class LayerCache(NamedTuple):
    """Keys and values of one decoder layer: of the target so far [B, G, T, D] and of the prefix [B, G, P, D]."""

    self_attention: KeyValue
    cross_attention: KeyValue


class Block(nn.Module):
    """What the encoder's and the decoder's layers share: sublayers of the form x + dropout(f(norm(x))).

    Attributes:
      num_heads: attention heads.
      head_dim: width of a head.
      ff_width: inner width of the feed-forward layer.
      dropout_rate: dropout of sublayer outputs, shared along time.
      deterministic: no dropout.
    """

    num_heads: int
    head_dim: int
    ff_width: int
    dropout_rate: float = 0.0
    deterministic: bool = True
    dtype: DTypeLike = jnp.float32

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

    def norm(self, x: Float[Array, "B L E"], name: str) -> Float[Array, "B L E"]:
        return RMSNorm(dtype=self.dtype, name=name)(x)

    def add(self, x: Float[Array, "B L E"], update: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
        update = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(update, deterministic=self.deterministic)
        return nn.with_logical_constraint(x + update, ("batch", "length", "embed"))

    def feed_forward(self, x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
        mlp = GatedFeedForward(
            ff_width=self.ff_width,
            activation=Activation.GELU,
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
        self, x: Float[Array, "B P E"], _: None, mask: Bool[Array, "B 1 P"], bias: Float[Array, "1 H P P"]
    ) -> tuple[Float[Array, "B P E"], None]:
        attention = self.attention("attention")
        normed = self.norm(x, "attention_norm")
        x = self.add(x, attention(normed, attention.project_keys(normed), mask=mask, bias=bias))
        return self.feed_forward(x), None


class DecoderBlock(Block):
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
        bias: Float[Array, "1 H L T"] | None,
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
        x = self.add(x, self_attention(normed, keys, mask=mask, bias=bias))

        normed = self.norm(x, "cross_attention_norm")
        x = self.add(x, cross_attention(normed, prefix_keys, mask=prefix_mask))
        return self.feed_forward(x), keys if self.decoder_pass is DecoderPass.STEP else None


class Stack(nn.Module):
    """Settings of the encoder or of the decoder: its layers, their shared position bias, and what frames them."""

    num_layers: int
    num_heads: int
    head_dim: int
    ff_width: int
    dropout_rate: float
    relative_buckets: int
    relative_max_distance: int
    scan_layers: bool
    remat: Remat
    dtype: DTypeLike

    def layer_config(self, *, deterministic: bool) -> dict[str, Any]:
        shape = dict(num_heads=self.num_heads, head_dim=self.head_dim, ff_width=self.ff_width)
        regime = dict(dropout_rate=self.dropout_rate, deterministic=deterministic, dtype=self.dtype)
        return shape | regime | dict(num_layers=self.num_layers, scan=self.scan_layers, remat=self.remat)

    def bias(self, queries: Int[Array, "Q"], keys: Int[Array, "K"], *, bidirectional: bool) -> Float[Array, "1 H Q K"]:
        return RelativePositionBias(
            num_heads=self.num_heads,
            bidirectional=bidirectional,
            num_buckets=self.relative_buckets,
            max_distance=self.relative_max_distance,
            dtype=self.dtype,
            name="relative_position_bias",
        )(queries, keys)

    def dropout(self, x: Float[Array, "B L E"], *, deterministic: bool) -> Float[Array, "B L E"]:
        return nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(x, deterministic=deterministic)

    def final_norm(self, x: Float[Array, "B L E"], *, deterministic: bool) -> Float[Array, "B L E"]:
        return self.dropout(RMSNorm(dtype=self.dtype, name="final_norm")(x), deterministic=deterministic)


class Encoder(Stack):
    """Bidirectional layers over the prefix."""

    @nn.compact
    def __call__(
        self, prefix: Float[Array, "B P E"], prefix_mask: Bool[Array, "B P"], *, deterministic: bool = True
    ) -> Float[Array, "B P E"]:
        positions = jnp.arange(prefix.shape[1])
        x, _ = apply_stack(
            EncoderBlock,
            self.dropout(prefix, deterministic=deterministic),
            masks.key_mask(prefix_mask),
            self.bias(positions, positions, bidirectional=True),
            **self.layer_config(deterministic=deterministic),
        )
        return self.final_norm(x, deterministic=deterministic)


class Decoder(Stack):
    """Causal layers over the target, each attending to the encoded prefix."""

    @nn.compact
    def __call__(
        self,
        decoder_pass: DecoderPass,
        x: Float[Array, "B L E"] | None,
        *,
        prefix: Float[Array, "B P E"] | None = None,
        prefix_mask: Bool[Array, "B P"] | None = None,
        cache: LayerCache | None = None,
        index: Int[Array, ""] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B L E"] | None, KeyValue | None]:
        """Hidden states (TEACHER_FORCING, STEP) and keys and values by layer (PROJECT_PREFIX, STEP)."""
        mask = bias = None
        if decoder_pass is DecoderPass.TEACHER_FORCING:
            queries = keys = jnp.arange(x.shape[1])
        elif decoder_pass is DecoderPass.STEP:
            queries, keys = index[None], jnp.arange(cache.self_attention.key.shape[3])
        if x is not None:
            x = self.dropout(x, deterministic=deterministic)
            mask = (keys[None, :] <= queries[:, None])[None]
            bias = self.bias(queries, keys, bidirectional=False)
        x, new_keys = apply_stack(
            DecoderBlock,
            x,
            mask,
            bias,
            prefix,
            None if prefix_mask is None else masks.key_mask(prefix_mask),
            index,
            per_layer=cache,
            decoder_pass=decoder_pass,
            **self.layer_config(deterministic=deterministic),
        )
        return (None if x is None else self.final_norm(x, deterministic=deterministic)), new_keys


class T5(nn.Module):
    """T5 1.1 or mT5 behind the LanguageModel protocol (arXiv 1910.10683, 2002.05202, 2010.11934).

    Layers are normalised first (RMSNorm), feed-forward layers are gated by GELU, nothing has a bias, and a learned
    bias by relative position is shared by the layers of a stack. The prefix goes through the encoder. Behaviour and
    initial values follow T5X's `examples/t5` (Apache-2.0), except that attention weights have no dropout.

    Attributes:
      vocab_size: tokens, padding included.
      width: size of embeddings and hidden states.
      ff_width: inner size of the feed-forward layers.
      num_encoder_layers: depth of the encoder.
      num_decoder_layers: depth of the decoder.
      num_heads: attention heads.
      head_dim: width of a head.
      dropout_rate: dropout where deterministic is False.
      relative_buckets: rows of the tables of relative positions.
      relative_max_distance: distance from which all positions share a bucket.
      output_head: UNTIED in T5 1.1 and mT5; TIED in T5 1.0, which scales hidden states by width ** -0.5 first.
      scan_layers: parameters of a stack's layers have one leading axis of layers, and compile time no longer grows
        with depth; False for a scope a layer.
      remat: what layers keep for the backward pass.
      dtype: computation type. Logits are float32 always.
    """

    vocab_size: int
    width: int
    ff_width: int
    num_encoder_layers: int
    num_decoder_layers: int
    num_heads: int
    head_dim: int
    dropout_rate: float = 0.0
    relative_buckets: int = 32
    relative_max_distance: int = 128
    output_head: OutputHead | str = OutputHead.UNTIED
    scan_layers: bool = True
    remat: Remat | str = Remat.NONE
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        resolve_enums(self)
        super().__post_init__()

    def setup(self) -> None:
        common = dict(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            ff_width=self.ff_width,
            dropout_rate=self.dropout_rate,
            relative_buckets=self.relative_buckets,
            relative_max_distance=self.relative_max_distance,
            scan_layers=self.scan_layers,
            remat=self.remat,
            dtype=self.dtype,
        )
        self.token_embedder = Embed(self.vocab_size, self.width, dtype=self.dtype)
        self.encoder = Encoder(num_layers=self.num_encoder_layers, **common)
        self.decoder = Decoder(num_layers=self.num_decoder_layers, **common)
        if self.output_head is OutputHead.UNTIED:
            self.logits_dense = Dense((self.vocab_size,), ("embed", "vocab"), dtype=jnp.float32)

    def embed(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L E"]:
        """Vectors of tokens, as the encoder and the decoder take them."""
        return nn.with_logical_constraint(self.token_embedder(tokens), ("batch", "length", "embed"))

    def __call__(
        self,
        prefix_embeddings: Float[Array, "B P E"],
        prefix_mask: Bool[Array, "B P"],
        target_inputs: Int[Array, "B L"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B L E"]:
        """Teacher forcing: hidden state l depends on the prefix and on target_inputs[:, :l + 1]."""
        hidden, _ = self.decoder(
            DecoderPass.TEACHER_FORCING,
            self.embed(target_inputs),
            prefix=self.encode(prefix_embeddings, prefix_mask, deterministic=deterministic),
            prefix_mask=prefix_mask,
            deterministic=deterministic,
        )
        assert hidden is not None  # only PROJECT_PREFIX has none
        if self.is_initializing():
            self.logits(hidden)
        return hidden

    def encode(
        self, prefix_embeddings: Float[Array, "B P E"], prefix_mask: Bool[Array, "B P"], *, deterministic: bool = True
    ) -> Float[Array, "B P E"]:
        """The encoder's output; what stands at padded positions never reaches a real one."""
        prefix = jnp.where(prefix_mask[..., None], prefix_embeddings, 0).astype(self.dtype)
        return self.encoder(prefix, prefix_mask, deterministic=deterministic)

    def logits(self, hidden: Float[Array, "... E"]) -> Float[Array, "... V"]:
        """Unnormalised scores of the next token, float32."""
        if self.output_head is OutputHead.UNTIED:
            return self.logits_dense(hidden)
        return self.token_embedder.attend(hidden * self.width**-0.5).astype(jnp.float32)

    def prefill(
        self, prefix_embeddings: Float[Array, "B P E"], prefix_mask: Bool[Array, "B P"], *, max_decode_length: int
    ) -> DecodeCache:
        """The cache before the first target token, with room for `max_decode_length` of them."""
        prefix = self.encode(prefix_embeddings, prefix_mask)
        _, prefix_keys = self.decoder(DecoderPass.PROJECT_PREFIX, None, prefix=prefix)
        shape = (self.num_decoder_layers, prefix.shape[0], self.num_heads, max_decode_length, self.head_dim)
        empty = KeyValue(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))
        return DecodeCache(layers=LayerCache(empty, prefix_keys), prefix_mask=prefix_mask)

    def step(
        self, tokens: Int[Array, "B"], cache: DecodeCache, index: Int[Array, ""]
    ) -> tuple[Float[Array, "B V"], DecodeCache]:
        """Feeds target input number `index` (less than max_decode_length); gives the next token's logits."""
        hidden, keys = self.decoder(
            DecoderPass.STEP,
            self.embed(tokens[:, None]),
            prefix_mask=cache.prefix_mask,
            cache=cache.layers,
            index=jnp.asarray(index),
        )
        return self.logits(hidden[:, 0]), cache._replace(layers=cache.layers._replace(self_attention=keys))
