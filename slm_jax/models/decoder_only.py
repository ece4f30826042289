"""Decoder-only language models over a prefix of embeddings: PaLM, Gemma, Llama, Qwen and their kin."""

import dataclasses
import enum
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from slm_jax.layers import masks
from slm_jax.layers.attention import HeadNorm, KeyValue, MultiHeadAttention
from slm_jax.layers.dense import Dense, Embed, OutputHead
from slm_jax.layers.enums import resolve_enums
from slm_jax.layers.feed_forward import Activation, GatedFeedForward
from slm_jax.layers.norm import LayerNorm, RMSNorm
from slm_jax.layers.positions import rotary
from slm_jax.layers.stack import Remat, apply_stack
from slm_jax.models.interfaces import DecodeCache
from slm_jax.typing import Array, Bool, DTypeLike, Float, Int


class NormKind(enum.Enum):
    """What a normalisation does."""

    RMS = "rms"
    """Divides by the root mean square and scales."""
    LAYER = "layer"
    """Also subtracts the mean and adds a bias."""
    LAYER_WITHOUT_BIAS = "layer_without_bias"
    """Subtracts the mean, adds no bias (PaLM)."""


@dataclasses.dataclass(frozen=True)
class Norm:
    """The normalisation of a model.

    Attributes:
      kind: what it does.
      epsilon: added to the mean square or variance.
      scale_offset: constant added to learned scales of NormKind.RMS; 1 in Gemma.
    """

    kind: NormKind | str = NormKind.RMS
    epsilon: float = 1e-6
    scale_offset: float = 0.0

    def __post_init__(self) -> None:
        resolve_enums(self)

    def build(self, *, name: str, dtype: DTypeLike) -> nn.Module:
        """A layer that does it."""
        if self.kind is NormKind.RMS:
            return RMSNorm(epsilon=self.epsilon, scale_offset=self.scale_offset, dtype=dtype, name=name)
        return LayerNorm(epsilon=self.epsilon, use_bias=self.kind is NormKind.LAYER, dtype=dtype, name=name)


class ProjectionBias(enum.Enum):
    """Which attention projections have a bias."""

    NONE = "none"
    QUERY_KEY_VALUE = "query_key_value"
    """Those of queries, keys and values (Qwen 1.5 to 2.5)."""


class EmbeddingScale(enum.Enum):
    """What embedded tokens are multiplied by."""

    ONE = "one"
    SQRT_WIDTH = "sqrt_width"
    """sqrt(width), so that small embeddings enter the stack at size one (Gemma)."""


class LayerSettings(nn.Module, kw_only=True):
    """What a layer is made of.

    Attributes:
      num_heads: query heads.
      num_kv_heads: heads of keys and values; 1 for multi-query attention.
      head_dim: width of a head.
      ff_width: inner width of the feed-forward layer.
      activation: function on the gate of the feed-forward layer.
      norm: the normalisation, everywhere in the model.
      rotary_base: the longest rotary wavelength is about 2 pi times this many positions.
      query_scale: factor on the queries; None for head_dim ** -0.5.
      attention_softcap: attention scores are squashed into (-cap, cap); None for no cap. 50 in Gemma 2.
      head_norm: normalise queries and keys a head at a time (Qwen 3, Gemma 3).
      projection_bias: which attention projections have a bias.
      dropout_rate: dropout of sublayer outputs where deterministic is False.
      dtype: computation type. Logits are float32 always.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    ff_width: int
    activation: Activation | str = Activation.SILU
    norm: Norm = Norm()
    rotary_base: float = 10_000.0
    query_scale: float | None = None
    attention_softcap: float | None = None
    head_norm: HeadNorm | str = HeadNorm.NONE
    projection_bias: ProjectionBias | str = ProjectionBias.NONE
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        resolve_enums(self)
        super().__post_init__()


class Block(LayerSettings, kw_only=True):
    """The sublayers that every kind of block puts together.

    Called with hidden states, the layer's cache or None, which keys each query may see, the positions of the queries,
    and the slot of the cache where the new keys go. Without a cache the keys are the hidden states' own.
    """

    deterministic: bool = True

    def normalize(self, x: Float[Array, "B Q E"], name: str) -> Float[Array, "B Q E"]:
        return self.norm.build(name=name, dtype=self.dtype)(x)

    def attend(
        self,
        x: Float[Array, "B Q E"],
        cache: KeyValue | None,
        mask: Bool[Array, "B #Q K"],
        positions: Int[Array, "B Q"],
        slot: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B Q E"], KeyValue | None]:
        attention = MultiHeadAttention(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            num_kv_heads=self.num_kv_heads,
            query_scale=self.query_scale,
            logit_softcap=self.attention_softcap,
            head_norm=self.head_norm,
            norm_scale_offset=self.norm.scale_offset,
            use_bias=self.projection_bias is ProjectionBias.QUERY_KEY_VALUE,
            dtype=self.dtype,
            name="attention",
        )
        rotate = functools.partial(rotary, positions=positions, base=self.rotary_base)
        keys = attention.project_keys(x, rotate)
        if cache is not None:
            keys = cache = cache.write(keys, slot)
        return self.dropout(attention(x, keys, mask=mask, rotate=rotate)), cache

    def feed_forward(self, x: Float[Array, "B Q E"]) -> Float[Array, "B Q E"]:
        mlp = GatedFeedForward(ff_width=self.ff_width, activation=self.activation, dtype=self.dtype, name="mlp")
        return self.dropout(mlp(x))

    def dropout(self, x: Float[Array, "B Q E"]) -> Float[Array, "B Q E"]:
        x = nn.Dropout(self.dropout_rate)(x, deterministic=self.deterministic)
        return nn.with_logical_constraint(x, ("batch", "length", "embed"))


class SequentialBlock(Block, kw_only=True):
    """x + attention(norm(x)), then x + mlp(norm(x)): Llama, Qwen, Gemma 1."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Q E"], cache: KeyValue | None, *context: Any
    ) -> tuple[Float[Array, "B Q E"], KeyValue | None]:
        update, cache = self.attend(self.normalize(x, "attention_norm"), cache, *context)
        x = x + update
        return x + self.feed_forward(self.normalize(x, "mlp_norm")), cache


class SandwichBlock(Block, kw_only=True):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x))): Gemma 2 and 3."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Q E"], cache: KeyValue | None, *context: Any
    ) -> tuple[Float[Array, "B Q E"], KeyValue | None]:
        update, cache = self.attend(self.normalize(x, "attention_norm"), cache, *context)
        x = x + self.normalize(update, "post_attention_norm")
        update = self.feed_forward(self.normalize(x, "mlp_norm"))
        return x + self.normalize(update, "post_mlp_norm"), cache


class ParallelBlock(Block, kw_only=True):
    """x + attention(norm(x)) + mlp(norm(x)), with one norm for both: PaLM (arXiv 2204.02311)."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Q E"], cache: KeyValue | None, *context: Any
    ) -> tuple[Float[Array, "B Q E"], KeyValue | None]:
        normed = self.normalize(x, "norm")
        update, cache = self.attend(normed, cache, *context)
        return x + update + self.feed_forward(normed), cache


LAYER_FIELDS = tuple(f.name for f in dataclasses.fields(LayerSettings) if f.name not in ("parent", "name"))


class Stack(LayerSettings, kw_only=True):
    """All layers and the norm after the last."""

    num_layers: int
    block: type[Block]
    scan_layers: bool
    remat: Remat

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Q E"],
        mask: Bool[Array, "B #Q K"],
        positions: Int[Array, "B Q"],
        *,
        cache: KeyValue | None = None,
        slot: Int[Array, ""] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B Q E"], KeyValue | None]:
        x, cache = apply_stack(
            self.block,
            x.astype(self.dtype),
            mask,
            positions,
            slot,
            per_layer=cache,
            num_layers=self.num_layers,
            scan=self.scan_layers,
            remat=self.remat,
            deterministic=deterministic,
            **{name: getattr(self, name) for name in LAYER_FIELDS},
        )
        return self.norm.build(name="final_norm", dtype=self.dtype)(x), cache


class DecoderOnly(LayerSettings, kw_only=True):
    """A decoder-only model behind the LanguageModel protocol: the prefix stands before the target.

    The prefix sees all of itself, the target sees the prefix and its own past. Target l has rotary position
    (length of the real prefix) + l, so that padding between the two leaves no trace.

    PaLM (arXiv 2204.02311): ParallelBlock, NormKind.LAYER_WITHOUT_BIAS, logit_scale width ** -0.5. Gemma (arXiv
    2403.08295): Activation.GELU, scale_offset 1, EmbeddingScale.SQRT_WIDTH; Gemma 2 and 3: SandwichBlock as well.
    Llama and SmolLM2: the defaults. Qwen 2: ProjectionBias.QUERY_KEY_VALUE. Qwen 3: HeadNorm.RMS.

    Attributes (besides those of `LayerSettings`):
      vocab_size: tokens, padding included.
      width: size of embeddings and hidden states.
      num_layers: depth.
      block: how attention, feed-forward and norms are put together.
      embedding_scale: what embedded tokens are multiplied by.
      embedding_stddev: scale of the embeddings' initial values.
      output_head: where the scores of the next token come from.
      logit_scale: factor on the logits.
      logit_softcap: logits are squashed into (-cap, cap); None for no cap. 30 in Gemma 2.
      scan_layers: parameters of the layers have one leading axis of layers, and compile time does not grow with depth;
        False for a scope a layer.
      remat: what layers keep for the backward pass.
    """

    vocab_size: int
    width: int
    num_layers: int
    block: type[Block] = SequentialBlock
    embedding_scale: EmbeddingScale | str = EmbeddingScale.ONE
    embedding_stddev: float = 0.02
    output_head: OutputHead | str = OutputHead.TIED
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    scan_layers: bool = True
    remat: Remat | str = Remat.NONE

    def setup(self) -> None:
        self.token_embedder = Embed(self.vocab_size, self.width, stddev=self.embedding_stddev, dtype=self.dtype)
        self.decoder = Stack(
            num_layers=self.num_layers,
            block=self.block,
            scan_layers=self.scan_layers,
            remat=self.remat,
            **{name: getattr(self, name) for name in LAYER_FIELDS},
        )
        if self.output_head is OutputHead.UNTIED:
            self.logits_dense = Dense((self.vocab_size,), ("embed", "vocab"), dtype=jnp.float32)

    def embed(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L E"]:
        """Vectors of tokens, as they enter the stack."""
        embedded = nn.with_logical_constraint(self.token_embedder(tokens), ("batch", "length", "embed"))
        return embedded * self.width**0.5 if self.embedding_scale is EmbeddingScale.SQRT_WIDTH else embedded

    def __call__(
        self,
        prefix_embeddings: Float[Array, "B P E"],
        prefix_mask: Bool[Array, "B P"],
        target_inputs: Int[Array, "B L"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B L E"]:
        """Teacher forcing: hidden state l depends on the prefix and on target_inputs[:, :l + 1]."""
        prefix, prefix_positions = self.prefix(prefix_embeddings, prefix_mask)
        targets = self.embed(target_inputs)
        target_positions = jnp.sum(prefix_mask, axis=1, keepdims=True) + jnp.arange(targets.shape[1])
        hidden, _ = self.decoder(
            jnp.concatenate([prefix, targets], axis=1),
            masks.prefix_mask(prefix_mask, targets.shape[1]),
            jnp.concatenate([prefix_positions, target_positions], axis=1),
            deterministic=deterministic,
        )
        hidden = hidden[:, prefix.shape[1] :]
        if self.is_initializing():
            self.logits(hidden)
        return hidden

    def prefix(
        self, embeddings: Float[Array, "B P E"], mask: Bool[Array, "B P"]
    ) -> tuple[Float[Array, "B P E"], Int[Array, "B P"]]:
        """The prefix with zeros where it is padded, and its positions."""
        positions = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
        return jnp.where(mask[..., None], embeddings, 0).astype(self.dtype), positions

    def logits(self, hidden: Float[Array, "... E"]) -> Float[Array, "... V"]:
        """Unnormalised scores of the next token, float32."""
        if self.output_head is OutputHead.UNTIED:
            scores = self.logits_dense(hidden)
        else:
            scores = self.token_embedder.attend(hidden).astype(jnp.float32)
        scores *= self.logit_scale
        return scores if self.logit_softcap is None else self.logit_softcap * jnp.tanh(scores / self.logit_softcap)

    def prefill(
        self, prefix_embeddings: Float[Array, "B P E"], prefix_mask: Bool[Array, "B P"], *, max_decode_length: int
    ) -> DecodeCache:
        """The cache before the first target token: P slots for the prefix, then `max_decode_length` for targets."""
        prefix, positions = self.prefix(prefix_embeddings, prefix_mask)
        batch, size = prefix_mask.shape
        shape = (self.num_layers, batch, self.num_kv_heads, size + max_decode_length, self.head_dim)
        empty = KeyValue(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))
        seen = jnp.pad(prefix_mask, ((0, 0), (0, max_decode_length)))
        _, cache = self.decoder(prefix, masks.key_mask(seen), positions, cache=empty, slot=jnp.zeros((), jnp.int32))
        return DecodeCache(layers=cache, prefix_mask=prefix_mask)

    def step(
        self, tokens: Int[Array, "B"], cache: DecodeCache, index: Int[Array, ""]
    ) -> tuple[Float[Array, "B V"], DecodeCache]:
        """Feeds target input number `index` (less than max_decode_length); gives the next token's logits."""
        batch, prefix_size = cache.prefix_mask.shape
        num_targets = cache.layers.key.shape[3] - prefix_size
        past = jnp.broadcast_to(jnp.arange(num_targets) <= index, (batch, num_targets))
        hidden, layers = self.decoder(
            self.embed(tokens[:, None]),
            masks.key_mask(jnp.concatenate([cache.prefix_mask, past], axis=1)),
            jnp.sum(cache.prefix_mask, axis=1, keepdims=True) + index,
            cache=cache.layers,
            slot=prefix_size + index,
        )
        return self.logits(hidden[:, 0]), cache._replace(layers=layers)
