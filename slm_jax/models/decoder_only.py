"""Decoder-only language models over a prefix of embeddings: PaLM, Gemma, Llama, Qwen and their kin."""

import enum
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from slm_jax.layers import masks
from slm_jax.layers.attention import KeyValue
from slm_jax.layers.dense import Dense, Embed, OutputHead
from slm_jax.layers.stack import Remat, apply_stack
from slm_jax.models.decoder_blocks import (
    LAYER_FIELDS,
    NO_WINDOW,
    Block,
    Context,
    LayerSettings,
    LayerState,
    SequentialBlock,
)
from slm_jax.models.interfaces import DecodeCache
from slm_jax.typing import Array, Bool, Float, Int


class EmbeddingScale(enum.Enum):
    """What embedded tokens are multiplied by."""

    ONE = "one"
    SQRT_WIDTH = "sqrt_width"
    """sqrt(width), so that small embeddings enter the stack at size one (Gemma)."""


class PrefixAttention(enum.Enum):
    """What a position of the prefix sees of it."""

    CAUSAL = "causal"
    """Itself and what is before it, as these models were trained."""
    BIDIRECTIONAL = "bidirectional"
    """All of it, as in prefix language models (arXiv 1910.10683)."""


class Stack(LayerSettings, kw_only=True):
    """All layers and the norm after the last."""

    num_layers: int
    block: type[Block]
    windows: Sequence[int | None]
    scan_layers: bool
    remat: Remat

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Q E"], context: Context, *, cache: KeyValue | None = None, deterministic: bool = True
    ) -> tuple[Float[Array, "B Q E"], KeyValue | None]:
        x, cache = apply_stack(
            self.block,
            x.astype(self.dtype),
            context,
            per_layer=LayerState(cache, self.layer_windows()),
            num_layers=self.num_layers,
            scan=self.scan_layers,
            remat=self.remat,
            deterministic=deterministic,
            **{name: getattr(self, name) for name in LAYER_FIELDS},
        )
        return self.norm.build(name="final_norm", dtype=self.dtype)(x), cache

    def layer_windows(self) -> Int[Array, "layers"] | None:
        """The window of each layer, or None if none has one."""
        if not any(self.windows):
            return None
        pattern = [NO_WINDOW if window is None else window for window in self.windows]
        return jnp.resize(jnp.array(pattern, jnp.int32), (self.num_layers,))


class DecoderOnly(LayerSettings, kw_only=True):
    """A decoder-only model behind the LanguageModel protocol: the prefix stands before the target.

    The target sees the prefix and its own past. Target l has rotary position (length of the real prefix) + l, so that
    padding between the two leaves no trace.

    PaLM (arXiv 2204.02311): ParallelBlock, NormKind.LAYER_WITHOUT_BIAS, logit_scale width ** -0.5. Gemma (arXiv
    2403.08295): Activation.GELU, scale_offset 1, EmbeddingScale.SQRT_WIDTH; Gemma 2 and 3: SandwichBlock and windows as
    well.
    Llama and SmolLM2: the defaults. Qwen 2: ProjectionBias.QUERY_KEY_VALUE. Qwen 3: HeadNorm.RMS.

    Attributes (besides those of `LayerSettings`):
      vocab_size: tokens, padding included.
      width: size of embeddings and hidden states.
      num_layers: depth.
      block: how attention, feed-forward and norms are put together.
      prefix_attention: what a position of the prefix sees of it.
      windows: how many positions back the layers see, None for all; repeated over the depth. (4096, None) in Gemma 2.
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
    prefix_attention: PrefixAttention | str = PrefixAttention.CAUSAL
    windows: Sequence[int | None] = (None,)
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
            windows=self.windows,
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
        prefix, targets = self.zero_padding(prefix_embeddings, prefix_mask), self.embed(target_inputs)
        num_targets = targets.shape[1]
        positions = self.positions(prefix_mask, num_targets)
        context = Context(self.mask(prefix_mask, num_targets), positions, key_positions=positions)
        hidden, _ = self.decoder(jnp.concatenate([prefix, targets], axis=1), context, deterministic=deterministic)
        hidden = hidden[:, prefix.shape[1] :]
        if self.is_initializing():
            self.logits(hidden)
        return hidden

    def zero_padding(self, embeddings: Float[Array, "B P E"], mask: Bool[Array, "B P"]) -> Float[Array, "B P E"]:
        """The prefix with zeros where it is padded."""
        return jnp.where(mask[..., None], embeddings, 0).astype(self.dtype)

    def positions(self, prefix: Bool[Array, "B P"], num_targets: int) -> Int[Array, "B Q"]:
        """Rotary positions of the prefix, padded, and of the targets, which begin where it really ends."""
        before = jnp.broadcast_to(jnp.arange(prefix.shape[1]), prefix.shape)
        return jnp.concatenate([before, prefix.sum(axis=1, keepdims=True) + jnp.arange(num_targets)], axis=1)

    def mask(self, prefix: Bool[Array, "B P"], num_targets: int) -> Bool[Array, "B Q Q"]:
        """What prefix and targets see of each other."""
        causal = self.prefix_attention is PrefixAttention.CAUSAL
        return (masks.causal_prefix_mask if causal else masks.prefix_mask)(prefix, num_targets)

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
        batch, size = prefix_mask.shape
        shape = (self.num_layers, batch, self.num_kv_heads, size + max_decode_length, self.head_dim)
        empty = KeyValue(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))
        positions = self.positions(prefix_mask, max_decode_length)
        mask = self.mask(prefix_mask, max_decode_length)[:, :size]
        context = Context(mask, positions[:, :size], positions, jnp.zeros((), jnp.int32))
        _, cache = self.decoder(self.zero_padding(prefix_embeddings, prefix_mask), context, cache=empty)
        return DecodeCache(layers=cache, prefix_mask=prefix_mask)

    def step(
        self, tokens: Int[Array, "B"], cache: DecodeCache, index: Int[Array, ""]
    ) -> tuple[Float[Array, "B V"], DecodeCache]:
        """Feeds target input number `index` (less than max_decode_length); gives the next token's logits."""
        batch, prefix_size = cache.prefix_mask.shape
        num_targets = cache.layers.key.shape[3] - prefix_size
        past = jnp.broadcast_to(jnp.arange(num_targets) <= index, (batch, num_targets))
        seen = jnp.concatenate([cache.prefix_mask, past], axis=1)
        positions = self.positions(cache.prefix_mask, num_targets)
        now = jnp.sum(cache.prefix_mask, axis=1, keepdims=True) + index
        context = Context(masks.key_mask(seen), now, positions, prefix_size + index)
        hidden, layers = self.decoder(self.embed(tokens[:, None]), context, cache=cache.layers)
        return self.logits(hidden[:, 0]), cache._replace(layers=layers)
