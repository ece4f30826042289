"""T5, mT5 and UMT5: an encoder-decoder over a prefix of embeddings."""

import flax.linen as nn
import jax.numpy as jnp

from slm_jax.layers import masks
from slm_jax.layers.attention import KeyValue
from slm_jax.layers.dense import Dense, Embed, OutputHead
from slm_jax.layers.stack import Remat, apply_stack
from slm_jax.models.interfaces import DecodeCache
from slm_jax.models.t5_blocks import (
    LAYER_FIELDS,
    DecoderBlock,
    DecoderPass,
    EncoderBlock,
    LayerCache,
    LayerSettings,
    Positions,
    PositionTables,
)
from slm_jax.typing import Array, Bool, Float, Int, PyTree


class Stack(LayerSettings, kw_only=True):
    """Settings of the encoder or of the decoder: its layers, the position bias they share, and what frames them."""

    num_layers: int
    scan_layers: bool
    remat: Remat

    def layer_config(self, *, deterministic: bool) -> dict[str, PyTree]:
        regime = dict(num_layers=self.num_layers, scan=self.scan_layers, remat=self.remat, deterministic=deterministic)
        return regime | {name: getattr(self, name) for name in LAYER_FIELDS}

    def positions(self, queries: Int[Array, "Q"], keys: Int[Array, "K"], *, bidirectional: bool) -> Positions:
        if self.position_tables is PositionTables.PER_LAYER:
            return Positions(queries, keys, bias=None)
        return Positions(queries, keys, self.position_bias(queries, keys, bidirectional=bidirectional))

    def dropout(self, x: Float[Array, "B L E"], *, deterministic: bool) -> Float[Array, "B L E"]:
        return nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(x, deterministic=deterministic)

    def final_norm(self, x: Float[Array, "B L E"], *, deterministic: bool) -> Float[Array, "B L E"]:
        return self.dropout(self.norm(x, "final_norm"), deterministic=deterministic)


class Encoder(Stack):
    """Bidirectional layers over the prefix."""

    @nn.compact
    def __call__(
        self, prefix: Float[Array, "B P E"], prefix_mask: Bool[Array, "B P"], *, deterministic: bool = True
    ) -> Float[Array, "B P E"]:
        places = jnp.arange(prefix.shape[1])
        x, _ = apply_stack(
            EncoderBlock,
            self.dropout(prefix, deterministic=deterministic),
            masks.key_mask(prefix_mask),
            self.positions(places, places, bidirectional=True),
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
        mask = positions = None
        if decoder_pass is DecoderPass.TEACHER_FORCING:
            queries = keys = jnp.arange(x.shape[1])
        elif decoder_pass is DecoderPass.STEP:
            queries, keys = index[None], jnp.arange(cache.self_attention.key.shape[3])
        if x is not None:
            x = self.dropout(x, deterministic=deterministic)
            mask = (keys[None, :] <= queries[:, None])[None]
            positions = self.positions(queries, keys, bidirectional=False)
        x, new_keys = apply_stack(
            DecoderBlock,
            x,
            mask,
            positions,
            prefix,
            None if prefix_mask is None else masks.key_mask(prefix_mask),
            index,
            per_layer=cache,
            decoder_pass=decoder_pass,
            **self.layer_config(deterministic=deterministic),
        )
        return (None if x is None else self.final_norm(x, deterministic=deterministic)), new_keys


class T5(LayerSettings, kw_only=True):
    """T5, mT5 or UMT5 behind the LanguageModel protocol (arXiv 1910.10683, 2002.05202, 2010.11934, 2304.09151).

    Layers are normalised first (RMSNorm), maps have no bias, and learned tables add a bias by relative position to the
    scores of self-attention. The prefix goes through the encoder. Behaviour and initial values follow T5X's
    `examples/t5` (Apache-2.0), except that attention weights have no dropout.

    T5 1.1 and mT5: the defaults. T5 1.0: FeedForward, Activation.RELU, OutputHead.TIED. UMT5: PositionTables.PER_LAYER.

    Attributes (besides those of `LayerSettings`):
      vocab_size: tokens, padding included.
      width: size of embeddings and hidden states.
      num_encoder_layers: depth of the encoder.
      num_decoder_layers: depth of the decoder.
      output_head: UNTIED in T5 1.1, mT5 and UMT5; TIED in T5 1.0, which scales hidden states by width ** -0.5 first.
      scan_layers: parameters of a stack's layers have one leading axis of layers, and compile time no longer grows
        with depth; False for a scope a layer.
      remat: what layers keep for the backward pass.
    """

    vocab_size: int
    width: int
    num_encoder_layers: int
    num_decoder_layers: int
    output_head: OutputHead | str = OutputHead.UNTIED
    scan_layers: bool = True
    remat: Remat | str = Remat.NONE

    def setup(self) -> None:
        common = {name: getattr(self, name) for name in LAYER_FIELDS}
        common |= dict(scan_layers=self.scan_layers, remat=self.remat)
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
