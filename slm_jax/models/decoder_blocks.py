"""The layers of decoder-only language models: norms, attention and feed-forward, put together in three ways."""

import dataclasses
import enum
import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from slm_jax.layers import masks
from slm_jax.layers.attention import HeadNorm, KeyValue, MultiHeadAttention, ProjectionBias
from slm_jax.layers.enums import resolve_enums
from slm_jax.layers.feed_forward import Activation, GatedFeedForward
from slm_jax.layers.norm import LayerNorm, RMSNorm
from slm_jax.layers.positions import RotaryScaling, rotary, rotary_frequencies
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
      rotary_scaling: how rotary frequencies are changed for texts longer than the first training's; None for not.
      window_rotary_base: rotary_base of layers with a window, whose frequencies are not scaled; None for that of all.
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
    rotary_scaling: RotaryScaling | None = None
    window_rotary_base: float | None = None
    query_scale: float | None = None
    attention_softcap: float | None = None
    head_norm: HeadNorm | str = HeadNorm.NONE
    projection_bias: ProjectionBias | str = ProjectionBias.NONE
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        resolve_enums(self)
        super().__post_init__()


LAYER_FIELDS = tuple(f.name for f in dataclasses.fields(LayerSettings) if f.name not in ("parent", "name"))


class LayerState(NamedTuple):
    """What differs between layers, besides their parameters.

    Attributes:
      cache: keys and values at hand; None where the keys are the hidden states' own.
      window: how many positions back a query sees, itself included; None if no layer has a window.
    """

    cache: KeyValue | None
    window: Int[Array, ""] | None


class Context(NamedTuple):
    """What all layers share.

    Attributes:
      mask: which keys each query may see.
      positions: of the queries.
      key_positions: of the keys.
      slot: where the new keys go in the cache, if there is one.
    """

    mask: Bool[Array, "B #Q K"]
    positions: Int[Array, "B Q"]
    key_positions: Int[Array, "B K"]
    slot: Int[Array, ""] | None = None


NO_WINDOW = np.iinfo(np.int32).max
"""The window of a layer that sees everything, where others have one."""


class Block(LayerSettings, kw_only=True):
    """The sublayers that every kind of block puts together; gives hidden states and what is kept of its keys."""

    deterministic: bool = True

    def normalize(self, x: Float[Array, "B Q E"], name: str) -> Float[Array, "B Q E"]:
        return self.norm.build(name=name, dtype=self.dtype)(x)

    def attend(
        self, x: Float[Array, "B Q E"], state: LayerState, context: Context
    ) -> tuple[Float[Array, "B Q E"], KeyValue | None]:
        attention = MultiHeadAttention(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            num_kv_heads=self.num_kv_heads,
            query_scale=self.query_scale,
            logit_softcap=self.attention_softcap,
            head_norm=self.head_norm,
            norm_epsilon=self.norm.epsilon,
            norm_scale_offset=self.norm.scale_offset,
            projection_bias=self.projection_bias,
            dtype=self.dtype,
            name="attention",
        )
        rotate = functools.partial(rotary, positions=context.positions, frequency=self.frequencies(state.window))
        keys, cache = attention.project_keys(x, rotate), state.cache
        if cache is not None:
            keys = cache = cache.write(keys, context.slot)
        mask = context.mask
        if state.window is not None:
            mask &= masks.window_mask(context.positions, context.key_positions, state.window)
        return self.dropout(attention(x, keys, mask=mask, rotate=rotate)), cache

    def frequencies(self, window: Int[Array, ""] | None) -> Float[Array, "F"]:
        """The rotary frequencies of a layer with this window."""
        everywhere = rotary_frequencies(self.head_dim, base=self.rotary_base, scaling=self.rotary_scaling)
        if window is None or self.window_rotary_base is None:
            return everywhere
        near = rotary_frequencies(self.head_dim, base=self.window_rotary_base)
        return jnp.where(window < NO_WINDOW, near, everywhere)

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
        self, x: Float[Array, "B Q E"], state: LayerState, context: Context
    ) -> tuple[Float[Array, "B Q E"], KeyValue | None]:
        update, cache = self.attend(self.normalize(x, "attention_norm"), state, context)
        x = x + update
        return x + self.feed_forward(self.normalize(x, "mlp_norm")), cache


class SandwichBlock(Block, kw_only=True):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x))): Gemma 2 and 3."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Q E"], state: LayerState, context: Context
    ) -> tuple[Float[Array, "B Q E"], KeyValue | None]:
        update, cache = self.attend(self.normalize(x, "attention_norm"), state, context)
        x = x + self.normalize(update, "post_attention_norm")
        update = self.feed_forward(self.normalize(x, "mlp_norm"))
        return x + self.normalize(update, "post_mlp_norm"), cache


class ParallelBlock(Block, kw_only=True):
    """x + attention(norm(x)) + mlp(norm(x)), with one norm for both: PaLM (arXiv 2204.02311)."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Q E"], state: LayerState, context: Context
    ) -> tuple[Float[Array, "B Q E"], KeyValue | None]:
        normed = self.normalize(x, "norm")
        update, cache = self.attend(normed, state, context)
        return x + update + self.feed_forward(normed), cache
