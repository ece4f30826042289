"""The FastConformer speech encoder (arXiv 2305.05084) with an optional CTC head, as in NVIDIA's Parakeet."""

import enum
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.audio.nemo_log_mel import NemoLogMel
from slm_jax.layers.dense import Dense, lecun_normal
from slm_jax.layers.enums import resolve_enums
from slm_jax.layers.masks import length_mask, zero_padding
from slm_jax.layers.stack import Remat, apply_stack
from slm_jax.models.conformer_blocks import (
    Bias,
    ConformerBlock,
    ConvModule,
    ConvNorm,
    FeedForward,
    RelativeAttention,
    distance_encoding,
)
from slm_jax.models.interfaces import EncoderOutput
from slm_jax.typing import Array, Bool, DTypeLike, Float, Int


class InputScale(enum.Enum):
    """What subsampled frames are multiplied by."""

    NONE = "none"
    SQRT_WIDTH = "sqrt_width"


class StridedConv(nn.Module):
    """3 x 3 filters over time and channels, every second frame and channel: n of either become ceil(n / 2).

    Attributes:
      features: channels that come out.
      groups: 1, or as many as channels come in, so that each has a filter of its own.
    """

    features: int
    groups: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T F C"]) -> Float[Array, "B T2 F2 C2"]:
        shape, axes = (3, 3, x.shape[-1] // self.groups, self.features), ("conv_window", None, None, "mlp")

        def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
            return lecun_normal(key, (math.prod(shape[:3]), shape[3]), dtype).reshape(shape)

        kernel = self.param("kernel", nn.with_logical_partitioning(init, axes), shape, jnp.float32).astype(self.dtype)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), axes[3:])
        bias = self.param("bias", zeros, (self.features,), jnp.float32).astype(self.dtype)
        # Padding of one on each side, not "SAME": that shifts the window by one when the padded length is even.
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 2),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y + bias


class SeparableSubsampling(nn.Module):
    """A strided convolution, then depthwise strided ones with maps of the channels, then a projection to the width
    (arXiv 2305.05084, section 3.1).

    Each of the `factor`.bit_length() - 1 convolutions turns n frames into ceil(n / 2), whatever the padding.

    Attributes:
      factor: frames of the front end that become one; a power of two.
      channels: of every convolution.
      width: features of a frame that comes out.
    """

    factor: int
    channels: int
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, log_mel: Float[Array, "B T F"], frame_length: Int[Array, "B"]
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        x, mask = log_mel.astype(self.dtype)[..., None], length_mask(frame_length, log_mel.shape[1])
        for layer in range(self.factor.bit_length() - 1):
            groups = x.shape[-1] if layer else 1
            conv = StridedConv(self.channels, groups=groups, dtype=self.dtype, name=f"convolution_{layer}")
            frame_length = -(-frame_length // 2)
            mask = length_mask(frame_length, -(-x.shape[1] // 2))
            x = zero_padding(conv(x), mask)
            if layer:
                mix = Dense((self.channels,), ("mlp", "mlp"), use_bias=True, dtype=self.dtype, name=f"mix_{layer}")
                x = mix(x)
            x = zero_padding(nn.relu(x), mask)
        axes = ("mlp", "mels", "embed")
        projection = Dense((self.width,), axes, use_bias=True, dtype=self.dtype, name="projection")
        return zero_padding(projection(jnp.swapaxes(x, 2, 3)), mask), mask


class FastConformer(nn.Module):
    """Waveforms to frames, and CTC scores of the frames (obeys `interfaces.SpeechEncoder`).

    With 10 ms between log-mel vectors and a factor of 8, frames are 80 ms apart: 12.5 a second. There is no dropout:
    the encoder is made to be frozen.

    Attributes:
      num_layers: Conformer blocks.
      width: features of a frame; a multiple of num_heads.
      num_heads: heads of self-attention.
      ff_width: inner width of the feed-forwards.
      conv_kernel: frames under the depthwise convolution; odd.
      subsampling_factor: log-mel vectors that a frame stands for; a power of two.
      subsampling_channels: channels of the strided convolutions.
      projection_bias: of attention and feed-forwards.
      convolution_bias: of the convolution modules.
      input_scale: what subsampled frames are multiplied by.
      ctc_vocab_size: tokens of the CTC head, which gives one score more for the blank, the last; None for no head.
      front_end: waveform to log-mel.
      scan_layers: one scanned stack of parameters, or one set of parameters a layer.
      remat: what a layer keeps for the backward pass.
      dtype: computation type; the front end always computes in float32.

    Raises:
      ValueError: if num_heads does not divide width, conv_kernel is even, subsampling_factor is no power of two, or
        a batch is too short for one frame.
    """

    num_layers: int
    width: int
    num_heads: int
    ff_width: int
    conv_kernel: int = 9
    subsampling_factor: int = 8
    subsampling_channels: int = 256
    projection_bias: Bias | str = Bias.LEARNED
    convolution_bias: Bias | str = Bias.LEARNED
    input_scale: InputScale | str = InputScale.SQRT_WIDTH
    ctc_vocab_size: int | None = None
    front_end: NemoLogMel = NemoLogMel()
    scan_layers: bool = True
    remat: Remat = Remat.NONE
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        resolve_enums(self)
        super().__post_init__()

    def output_length(self, num_samples: int) -> int:
        """Frames of `num_samples` samples."""
        return -(-self.front_end.output_length(num_samples) // self.subsampling_factor)

    def __call__(
        self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"], *, deterministic: bool = True
    ) -> EncoderOutput:
        """`encode` of the front end's log-mel; `deterministic` makes no difference."""
        if not self.output_length(speech.shape[1]):
            raise ValueError(
                f"FastConformer makes no frame of {speech.shape[1]} samples; pad them to {self.front_end.hop_samples}"
            )
        return self.encode(*self.front_end(speech, speech_length))

    @nn.compact
    def encode(self, log_mel: Float[Array, "B T F"], frame_length: Int[Array, "B"]) -> EncoderOutput:
        """Frames of what the front end gives."""
        self._check()
        x, mask = SeparableSubsampling(
            factor=self.subsampling_factor,
            channels=self.subsampling_channels,
            width=self.width,
            dtype=self.dtype,
            name="subsampling",
        )(log_mel, frame_length)
        if self.input_scale is InputScale.SQRT_WIDTH:
            x *= math.sqrt(self.width)
        x = nn.with_logical_constraint(x, ("batch", "frames", "embed"))
        x, _ = apply_stack(
            ConformerBlock,
            x,
            mask,
            distance_encoding(x.shape[1], self.width).astype(self.dtype),
            num_layers=self.num_layers,
            scan=self.scan_layers,
            remat=self.remat,
            **self._parts(),
            dtype=self.dtype,
        )
        return EncoderOutput(embeddings=x, mask=mask, ctc_logits=self._ctc_logits(x))

    def _parts(self) -> dict[str, functools.partial]:
        biased, conv_biased = self.projection_bias is Bias.LEARNED, self.convolution_bias is Bias.LEARNED
        projected = dict(use_bias=biased, dtype=self.dtype)
        return dict(
            feed_forward=functools.partial(FeedForward, ff_width=self.ff_width, **projected),
            attention=functools.partial(RelativeAttention, num_heads=self.num_heads, **projected),
            convolution=functools.partial(
                ConvModule,
                kernel_size=self.conv_kernel,
                norm=ConvNorm.BATCH,
                use_bias=conv_biased,
                use_depthwise_bias=conv_biased,
                dtype=self.dtype,
            ),
        )

    def _check(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"FastConformer.width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"FastConformer.conv_kernel must be odd to be centred, got {self.conv_kernel}")
        if self.subsampling_factor < 2 or self.subsampling_factor & (self.subsampling_factor - 1):
            raise ValueError(f"FastConformer.subsampling_factor must be a power of two, got {self.subsampling_factor}")

    def _ctc_logits(self, x: Float[Array, "B S D"]) -> Float[Array, "B S C"] | None:
        if self.ctc_vocab_size is None:
            return None
        head = Dense((self.ctc_vocab_size + 1,), ("embed", "vocab"), use_bias=True, dtype=self.dtype, name="ctc_head")
        return head(x).astype(jnp.float32)
