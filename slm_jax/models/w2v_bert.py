"""The w2v-BERT 2.0 speech encoder (arXiv 2312.05187), with an optional length adapter and CTC head."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from slm_jax.audio.kaldi_log_mel import KaldiLogMel
from slm_jax.layers.attention import KeyValue, MultiHeadAttention, ProjectionBias, dot_product_attention, heads_first
from slm_jax.layers.convolution import Convolution
from slm_jax.layers.dense import Dense, small_normal
from slm_jax.layers.feed_forward import Activation
from slm_jax.layers.masks import key_mask, length_mask, zero_padding
from slm_jax.layers.norm import LayerNorm
from slm_jax.layers.stack import Remat, apply_stack
from slm_jax.models.conformer_blocks import (
    ConformerBlock,
    ConvModule,
    FeedForward,
    Reach,
    relative_shift,
)
from slm_jax.models.interfaces import EncoderOutput
from slm_jax.typing import Array, Bool, DTypeLike, Float, Int


class ClippedDistanceAttention(nn.Module):
    """Self-attention with a learned vector a distance, the same for all distances beyond a limit (arXiv 1803.02155).

    score(i, j) = q_i . (k_j + r_clip(j - i, -max_left, max_right)) / sqrt(head width)

    Attributes:
      num_heads: heads; they share the width equally.
      max_left: how far back distances are told apart.
      max_right: how far ahead.
    """

    num_heads: int
    max_left: int
    max_right: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"], distances: None) -> Float[Array, "B S D"]:
        heads, (size, width) = self.num_heads, x.shape[1:]
        head_dim, common = width // heads, dict(use_bias=True, dtype=self.dtype)

        def project(name: str) -> Dense:
            return Dense((heads, head_dim), ("embed", "heads", "kv"), **common, name=name)

        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), (None, "kv"))
        table = self.param("distance", init, (self.max_left + self.max_right + 1, head_dim), jnp.float32)
        query = project("query")(x) * head_dim**-0.5
        by_vector = jnp.einsum("bqhd,rd->bhqr", query, table.astype(self.dtype))
        # As `relative_shift` wants it: column r is key - query = r - (size - 1).
        columns = np.clip(np.arange(1 - size, size), -self.max_left, self.max_right) + self.max_left
        bias = relative_shift(jnp.take(by_vector, columns, axis=-1, mode="clip"))
        keys = KeyValue(heads_first(project("key")(x)), heads_first(project("value")(x)))
        mixed = dot_product_attention(query, *keys, mask=key_mask(mask), bias=bias)
        mixed = nn.with_logical_constraint(mixed, ("batch", "frames", "heads", "kv"))
        return Dense((width,), ("heads", "kv", "embed"), kernel_init=small_normal, **common, name="out")(mixed)


class LengthAdapterLayer(nn.Module):
    """Fewer frames: attention among strided frames, next to a strided residual, then a feed-forward.

    Both strides are convolutions into a gated linear unit. n frames become
    floor((n + 2 floor(kernel_size / 2) - kernel_size) / stride) + 1.

    Attributes:
      num_heads: heads of attention, which knows no positions.
      ff_width: inner width of the feed-forward.
      kernel_size: frames under the convolutions.
      stride: frames between their filters.
    """

    num_heads: int
    ff_width: int
    kernel_size: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B S2 D"], Bool[Array, "B S2"]]:
        width = x.shape[-1]
        lengths = reduced_length(mask.sum(1), kernel_size=self.kernel_size, stride=self.stride)

        def strided(name: str) -> Float[Array, "B S2 D"]:
            normed = zero_padding(LayerNorm(dtype=self.dtype, name=f"{name}_norm")(x), mask)
            padding = (self.kernel_size // 2, self.kernel_size // 2)
            window = dict(kernel_size=self.kernel_size, stride=self.stride, padding=padding)
            both = Convolution(2 * width, **window, dtype=self.dtype, name=f"{name}_convolution")(normed)
            return both[..., :width] * nn.sigmoid(both[..., width:])

        residual, inner = strided("residual"), strided("attention")
        mask = length_mask(lengths, residual.shape[1])
        biases = dict(projection_bias=ProjectionBias.QUERY_KEY_VALUE, use_output_bias=True)
        attention = MultiHeadAttention(
            self.num_heads, width // self.num_heads, **biases, dtype=self.dtype, name="self_attention"
        )
        x = residual + attention(inner, attention.project_keys(inner), mask=key_mask(mask))
        feed_forward = dict(ff_width=self.ff_width, activation=Activation.RELU, dtype=self.dtype)
        x = x + FeedForward(**feed_forward, name="feed_forward")(x)
        return zero_padding(x, mask), mask


def reduced_length(num_frames: int | Int[Array, "B"], *, kernel_size: int, stride: int) -> int | Int[Array, "B"]:
    """Frames that a layer of the length adapter makes of `num_frames`: of none, none."""
    return ((num_frames + 2 * (kernel_size // 2) - kernel_size) // stride + 1) * (num_frames > 0)


class LengthAdapter(nn.Module):
    """A projection, if the width changes, and layers that make frames fewer.

    Attributes:
      num_layers: how many.
      width: features of a frame that comes out.
      num_heads, ff_width, kernel_size, stride: of every layer.
    """

    num_layers: int
    width: int
    num_heads: int
    ff_width: int
    kernel_size: int = 3
    stride: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B S2 D2"], Bool[Array, "B S2"]]:
        if self.width != x.shape[-1]:
            x = Dense((self.width,), ("embed", "mlp"), use_bias=True, dtype=self.dtype, name="projection")(x)
            x = LayerNorm(dtype=self.dtype, name="projection_norm")(x)
        for layer in range(self.num_layers):
            # Not "layers_0": each works on fewer frames than the one before, so that they are never stacked.
            x, mask = LengthAdapterLayer(
                num_heads=self.num_heads,
                ff_width=self.ff_width,
                kernel_size=self.kernel_size,
                stride=self.stride,
                dtype=self.dtype,
                name=f"stride_{layer}",
            )(x, mask)
        return x, mask

    def output_length(self, num_frames: int) -> int:
        """Frames that `num_frames` become."""
        for _ in range(self.num_layers):
            num_frames = int(reduced_length(num_frames, kernel_size=self.kernel_size, stride=self.stride))
        return num_frames


class W2vBert(nn.Module):
    """Waveforms to frames, and CTC scores of the frames (obeys `interfaces.SpeechEncoder`).

    With 10 ms between log-mel vectors and two stacked, frames are 20 ms apart: 50 a second, fewer behind a length
    adapter. There is no dropout: the encoder is made to be frozen.

    Attributes:
      num_layers: Conformer blocks; their depthwise convolutions see the past alone.
      width: features of a frame; a multiple of num_heads.
      num_heads: heads of self-attention.
      ff_width: inner width of the feed-forwards.
      conv_kernel: frames under the depthwise convolution.
      max_left: how far back attention tells distances apart.
      max_right: how far ahead.
      length_adapter: what makes frames fewer behind the blocks; None for nothing.
      ctc_vocab_size: tokens of the CTC head, which gives one score more for the blank, the last; None for no head.
      ctc_blank: the output of the head that is the blank and is moved behind the others; None for its last.
      front_end: waveform to stacked log-mel.
      scan_layers: one scanned stack of parameters, or one set of parameters a layer.
      remat: what a layer keeps for the backward pass.
      dtype: computation type; the front end always computes in float32.

    Raises:
      ValueError: if num_heads does not divide a width, or a batch is too short for one frame.
    """

    num_layers: int
    width: int
    num_heads: int
    ff_width: int
    conv_kernel: int = 31
    max_left: int = 64
    max_right: int = 8
    length_adapter: LengthAdapter | None = None
    ctc_vocab_size: int | None = None
    ctc_blank: int | None = None
    front_end: KaldiLogMel = KaldiLogMel()
    scan_layers: bool = True
    remat: Remat = Remat.NONE
    dtype: DTypeLike = jnp.float32

    def output_length(self, num_samples: int) -> int:
        """Frames of `num_samples` samples."""
        num_frames = self.front_end.output_length(num_samples)
        return num_frames if self.length_adapter is None else self.length_adapter.output_length(num_frames)

    def __call__(
        self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"], *, deterministic: bool = True
    ) -> EncoderOutput:
        """`encode` of the front end's log-mel; `deterministic` makes no difference."""
        if not self.output_length(speech.shape[1]):
            raise ValueError(f"w2v-BERT makes no frame of {speech.shape[1]} samples; pad them to a tenth of a second")
        return self.encode(*self.front_end(speech, speech_length))

    @nn.compact
    def encode(self, features: Float[Array, "B T X"], frame_length: Int[Array, "B"]) -> EncoderOutput:
        """Frames of what the front end gives."""
        self._check()
        mask = length_mask(frame_length, features.shape[1])
        x = LayerNorm(dtype=self.dtype, name="feature_norm")(features)
        x = Dense((self.width,), ("mels", "embed"), use_bias=True, dtype=self.dtype, name="feature_projection")(x)
        x = nn.with_logical_constraint(zero_padding(x, mask), ("batch", "frames", "embed"))
        x, _ = apply_stack(
            ConformerBlock,
            x,
            mask,
            None,
            num_layers=self.num_layers,
            scan=self.scan_layers,
            remat=self.remat,
            **self._parts(),
            dtype=self.dtype,
        )
        if self.length_adapter is not None:
            x, mask = self.length_adapter(x, mask)
        return EncoderOutput(embeddings=x, mask=mask, ctc_logits=self._ctc_logits(x))

    def _parts(self) -> dict[str, functools.partial]:
        limits = dict(max_left=self.max_left, max_right=self.max_right)
        window = dict(kernel_size=self.conv_kernel, reach=Reach.CAUSAL, use_bias=False)
        return dict(
            feed_forward=functools.partial(FeedForward, ff_width=self.ff_width, dtype=self.dtype),
            attention=functools.partial(ClippedDistanceAttention, num_heads=self.num_heads, **limits, dtype=self.dtype),
            convolution=functools.partial(ConvModule, **window, dtype=self.dtype),
        )

    def _check(self) -> None:
        adapter = self.length_adapter
        for name, owner in (("W2vBert", self), ("LengthAdapter", self if adapter is None else adapter)):
            if owner.width % owner.num_heads:
                raise ValueError(f"{name}.width {owner.width} is not a multiple of num_heads {owner.num_heads}")

    def _ctc_logits(self, x: Float[Array, "B S D"]) -> Float[Array, "B S C"] | None:
        if self.ctc_vocab_size is None:
            return None
        head = Dense((self.ctc_vocab_size + 1,), ("embed", "vocab"), use_bias=True, dtype=self.dtype, name="ctc_head")
        logits, blank = head(x).astype(jnp.float32), self.ctc_blank
        if blank is None:
            return logits
        return jnp.concatenate([logits[..., :blank], logits[..., blank + 1 :], logits[..., blank : blank + 1]], axis=-1)
