"""Blocks of which Conformers are made (arXiv 2005.08100): USM's, FastConformer's and w2v-BERT's."""

import enum
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.layers.attention import KeyValue, dot_product_attention, heads_first
from slm_jax.layers.dense import Dense, lecun_normal, small_normal
from slm_jax.layers.feed_forward import Activation
from slm_jax.layers.masks import key_mask, zero_padding
from slm_jax.layers.norm import FixedBatchNorm, LayerNorm
from slm_jax.typing import Array, Bool, DTypeLike, Float


class Bias(enum.Enum):
    """Whether maps have biases."""

    NONE = "none"
    LEARNED = "learned"


class BlockNorm(enum.Enum):
    """What closes a block."""

    LAYER = "layer"
    """LayerNorm, as in the Conformer's paper."""
    NONE = "none"
    """Nothing, as in pre-norm transformers; learns many times sooner from little data (docs/log.md)."""


class ConvNorm(enum.Enum):
    """What follows the depthwise convolution."""

    LAYER = "layer"
    """LayerNorm, so that an utterance never depends on its batch."""
    BATCH = "batch"
    """BatchNorm as the Conformer's paper has it, with the statistics of its training: nothing depends on a batch."""


class Reach(enum.Enum):
    """Which frames a depthwise convolution sees."""

    CENTRED = "centred"
    """As many before as after."""
    CAUSAL = "causal"
    """Those before."""


def relative_shift(scores: Float[Array, "B H Q R"]) -> Float[Array, "B H Q Q"]:
    """From columns by distance to columns by key, for R = 2 Q - 1 (arXiv 1901.02860, appendix B).

    Column r of the input is the distance query - key = Q - 1 - r; with Q = 3 and distances written out:

        [2 1 0 -1 -2]    [0 -1 -2]
        [2 1 0 -1 -2] -> [1  0 -1]
        [2 1 0 -1 -2]    [2  1  0]
    """
    batch, heads, size, distances = scores.shape
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(batch, heads, -1)
    # A row is now 2 Q long; reading it as rows of 2 Q - 1 from element Q - 1 moves each row one further to the left.
    start = size - 1
    shifted = padded[..., start : start + size * distances].reshape(batch, heads, size, distances)
    return shifted[..., :size]


def distance_encoding(size: int, width: int) -> Float[Array, "R D"]:
    """Sines, then cosines, of the distances size - 1, ..., 0, ..., 1 - size (R = 2 size - 1; arXiv 1901.02860)."""
    distance = jnp.arange(size - 1, -size, -1, dtype=jnp.float32)
    frequency = 10000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = distance[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)[:, :width]


class RelativeAttention(nn.Module):
    """Self-attention with Transformer-XL's relative positions (arXiv 1901.02860, section 3.3).

    score(i, j) = ((q_i + u) . k_j + (q_i + v) . W_r r_(i-j)) / sqrt(head width)

    Attributes:
      num_heads: heads; they share the width equally.
      use_bias: biases on the projections, all but the relative one.
    """

    num_heads: int
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"], distances: Float[Array, "R D"]
    ) -> Float[Array, "B S D"]:
        heads, head_dim = self.num_heads, x.shape[-1] // self.num_heads

        def project(name: str, use_bias: bool = self.use_bias) -> Dense:
            axes = ("embed", "heads", "kv")
            return Dense((heads, head_dim), axes, use_bias=use_bias, dtype=self.dtype, name=name)

        def offset(name: str) -> jax.Array:
            init = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("heads", "kv"))
            return self.param(name, init, (heads, head_dim), jnp.float32).astype(self.dtype)

        query = project("query")(x)
        relative = project("relative", use_bias=False)(distances)
        by_distance = jnp.einsum("bqhd,rhd->bhqr", query + offset("position_bias"), relative)
        bias = relative_shift(by_distance) * head_dim**-0.5
        content = (query + offset("content_bias")) * head_dim**-0.5
        keys = KeyValue(heads_first(project("key")(x)), heads_first(project("value")(x)))
        mixed = dot_product_attention(content, *keys, mask=key_mask(mask), bias=bias)
        mixed = nn.with_logical_constraint(mixed, ("batch", "frames", "heads", "kv"))
        shape, axes = (x.shape[-1],), ("heads", "kv", "embed")
        common = dict(use_bias=self.use_bias, kernel_init=small_normal, dtype=self.dtype)
        return Dense(shape, axes, **common, name="out")(mixed)


class FeedForward(nn.Module):
    """Normalisation, expansion, activation, contraction (arXiv 2005.08100, section 2.3).

    Attributes:
      ff_width: inner width.
      activation: function in between.
      use_bias: biases on both maps.
    """

    ff_width: int
    activation: Activation = Activation.SILU
    use_bias: bool = True
    dropout_rate: float = 0.0
    deterministic: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        width, common = x.shape[-1], dict(use_bias=self.use_bias, dtype=self.dtype)
        x = LayerNorm(dtype=self.dtype, name="norm")(x)
        x = Dense((self.ff_width,), ("embed", "mlp"), **common, name="expand")(x)
        x = nn.with_logical_constraint(self.activation(x), ("batch", "frames", "mlp"))
        x = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)(x)
        return Dense((width,), ("mlp", "embed"), kernel_init=small_normal, **common, name="contract")(x)


class DepthwiseConv(nn.Module):
    """One filter a channel along time, with zeros beyond the ends.

    A sum of shifted products: XLA fuses it into one pass over memory, while its grouped convolution is slow on CPU.

    Attributes:
      kernel_size: frames under the filter; odd if it is centred.
      reach: which frames these are.
      use_bias: add a learned bias.
    """

    kernel_size: int
    reach: Reach = Reach.CENTRED
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        init = nn.with_logical_partitioning(lecun_normal, ("conv_window", "embed"))
        kernel = self.param("kernel", init, (self.kernel_size, x.shape[-1]), jnp.float32).astype(self.dtype)
        after = self.kernel_size // 2 if self.reach is Reach.CENTRED else 0
        padded = jnp.pad(x, ((0, 0), (self.kernel_size - 1 - after, after), (0, 0)))
        y = sum(padded[:, i : i + x.shape[1]] * kernel[i] for i in range(self.kernel_size))
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("embed",))
            y += self.param("bias", zeros, (x.shape[-1],), jnp.float32).astype(self.dtype)
        return y


class ConvModule(nn.Module):
    """Gated linear unit, depthwise convolution, normalisation, swish (arXiv 2005.08100, section 2.2).

    Attributes:
      kernel_size: frames under the depthwise filter; odd if it is centred.
      reach: which frames these are.
      norm: what follows the depthwise convolution.
      use_bias: biases on the maps before and after.
      use_depthwise_bias: bias of the depthwise convolution.
    """

    kernel_size: int
    reach: Reach = Reach.CENTRED
    norm: ConvNorm = ConvNorm.LAYER
    use_bias: bool = True
    use_depthwise_bias: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        width, common = x.shape[-1], dict(use_bias=self.use_bias, dtype=self.dtype)
        x = LayerNorm(dtype=self.dtype, name="norm")(x)
        values = Dense((width,), ("embed", "mlp"), **common, name="values")(x)
        gate = Dense((width,), ("embed", "mlp"), **common, name="gate")(x)
        x = zero_padding(values * nn.sigmoid(gate), mask)
        window = dict(kernel_size=self.kernel_size, reach=self.reach, use_bias=self.use_depthwise_bias)
        x = DepthwiseConv(**window, dtype=self.dtype, name="depthwise")(x)
        norm = LayerNorm if self.norm is ConvNorm.LAYER else FixedBatchNorm
        x = nn.swish(norm(dtype=self.dtype, name="depthwise_norm")(x))
        return Dense((width,), ("mlp", "embed"), kernel_init=small_normal, **common, name="out")(x)


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, `block_norm` (arXiv 2005.08100, figure 1).

    Attributes:
      feed_forward: makes one, given its name.
      attention: makes what is called with normalised frames, their mask and the distances.
      convolution: makes a ConvModule.
      block_norm: what closes the block.
      dropout_rate: of every residual branch.
    """

    feed_forward: Callable[..., nn.Module]
    attention: Callable[..., nn.Module]
    convolution: Callable[..., nn.Module]
    block_norm: BlockNorm = BlockNorm.LAYER
    dropout_rate: float = 0.0
    deterministic: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        per_layer: None,
        mask: Bool[Array, "B S"],
        distances: Float[Array, "R D"] | None = None,
    ) -> tuple[Float[Array, "B S D"], None]:
        dropout = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)
        x = x + 0.5 * dropout(self.feed_forward(name="first_feed_forward")(x))
        normed = LayerNorm(dtype=self.dtype, name="attention_norm")(x)
        x = x + dropout(self.attention(name="self_attention")(normed, mask, distances))
        x = x + dropout(self.convolution(name="convolution")(x, mask))
        x = x + 0.5 * dropout(self.feed_forward(name="second_feed_forward")(x))
        if self.block_norm is BlockNorm.LAYER:
            x = LayerNorm(dtype=self.dtype, name="norm")(x)
        return nn.with_logical_constraint(zero_padding(x, mask), ("batch", "frames", "embed")), None
