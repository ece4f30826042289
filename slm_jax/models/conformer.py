"""The Conformer speech encoder of USM (arXiv 2303.01037, blocks of arXiv 2005.08100) with an optional CTC head."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.audio.log_mel import LogMel
from slm_jax.audio.spec_augment import SpecAugment
from slm_jax.layers.dense import Dense, lecun_normal
from slm_jax.layers.enums import resolve_enums
from slm_jax.layers.masks import length_mask, zero_padding
from slm_jax.layers.norm import LayerNorm
from slm_jax.layers.stack import Remat, apply_stack
from slm_jax.models.conformer_blocks import (
    BlockNorm,
    ConformerBlock,
    ConvModule,
    FeedForward,
    RelativeAttention,
    distance_encoding,
)
from slm_jax.models.interfaces import EncoderOutput
from slm_jax.typing import Array, Bool, DTypeLike, Float, Int


class ChunkedAttention(nn.Module):
    """`RelativeAttention` within chunks of frames that do not overlap (USM, section 2.1).

    Chunks become entries of the batch, so nothing of size S x S is ever computed beyond one chunk.

    Attributes:
      num_heads: heads; they share the width equally.
    """

    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"], distances: Float[Array, "R D"]
    ) -> Float[Array, "B S D"]:
        attention = RelativeAttention(num_heads=self.num_heads, dtype=self.dtype, name="attention")
        batch, size, width = x.shape
        chunk = (distances.shape[0] + 1) // 2
        if size <= chunk:
            return attention(x, mask, distances)
        padding = -size % chunk
        x = jnp.pad(x, ((0, 0), (0, padding), (0, 0))).reshape(-1, chunk, width)
        mask = jnp.pad(mask, ((0, 0), (0, padding))).reshape(-1, chunk)
        return attention(x, mask, distances).reshape(batch, -1, width)[:, :size]


class Subsampling(nn.Module):
    """Strided 3 x 3 convolutions over time and channels, each halving both, then a projection to the width.

    LayerNorm before every rectifier and behind the projection keeps what differs between frames in sight: without it,
    the rectified means drown it, and training starts several times slower.

    n frames become ceil(n / 2) at every convolution, whatever the padding.

    Attributes:
      channels: output channels of each convolution.
      width: features of a frame that comes out.
    """

    channels: tuple[int, ...]
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, log_mel: Float[Array, "B T F"], frame_length: Int[Array, "B"]
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        x = log_mel.astype(self.dtype)[..., None]
        mask = length_mask(frame_length, x.shape[1])
        for layer, features in enumerate(self.channels):
            frame_length = -(-frame_length // 2)
            x = self._convolve(x, features, layer)
            normed = LayerNorm(dtype=self.dtype, name=f"norm_{layer}")(x.reshape(*x.shape[:2], -1))
            mask = length_mask(frame_length, x.shape[1])
            x = zero_padding(nn.relu(normed).reshape(x.shape), mask)
        x = x.reshape(*x.shape[:2], -1)
        x = Dense((self.width,), ("mels", "embed"), dtype=self.dtype, name="projection")(x)
        # Frames hidden by SpecAugment are all zero here. A random bias keeps them away from the zero vector, where
        # the gradient of a LayerNorm is 1 / sqrt(epsilon) = 316.
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed",))
        x += self.param("projection_bias", init, (self.width,), jnp.float32).astype(self.dtype)
        return zero_padding(LayerNorm(dtype=self.dtype, name="projection_norm")(x), mask), mask

    def _convolve(self, x: Float[Array, "B T F C"], features: int, layer: int) -> Float[Array, "B T2 F2 C2"]:
        axes = ("conv_window", "mlp")
        init = nn.with_logical_partitioning(lecun_normal, axes)
        kernel = self.param(f"kernel_{layer}", init, (9 * x.shape[-1], features), jnp.float32)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), axes[1:])
        bias = self.param(f"bias_{layer}", zeros, (features,), jnp.float32)
        kernel = kernel.reshape(3, 3, x.shape[-1], features).astype(self.dtype)
        # Padding of one on each side, not "SAME": that shifts the window by one when the padded length is even.
        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + bias.astype(self.dtype)


class Conformer(nn.Module):
    """Waveforms to frames, and CTC scores of the frames (obeys `interfaces.SpeechEncoder`).

    With 10 ms between log-mel vectors and two convolutions, frames are 40 ms apart: 25 a second.

    Attributes:
      num_layers: Conformer blocks.
      width: features of a frame; a multiple of num_heads.
      num_heads: heads of self-attention.
      ff_multiplier: inner width of the feed-forwards over `width`.
      conv_kernel: frames under the depthwise convolution; odd.
      block_norm: what closes a block, or its value ("none").
      chunk_frames: frames see the frames of their own chunk only, 200 in USM; None to see the whole utterance.
      subsampling_channels: output channels of the strided convolutions, one number a convolution.
      ctc_vocab_size: tokens of the CTC head, which gives one score more for the blank, the last; None for no head.
      dropout_rate: of every residual branch and of the inner feed-forward, in training only (rng "dropout").
      front_end: waveform to log-mel.
      spec_augment: masking of the log-mel, in training only (rng "specaugment"); None for none.
      scan_layers: one scanned stack of parameters, or one set of parameters a layer.
      remat: what a layer keeps for the backward pass.
      dtype: computation type; the front end always computes in float32.

    Raises:
      ValueError: if num_heads does not divide width, or conv_kernel is even.
    """

    num_layers: int
    width: int
    num_heads: int
    ff_multiplier: int = 4
    conv_kernel: int = 5
    block_norm: BlockNorm | str = BlockNorm.LAYER
    chunk_frames: int | None = 200
    subsampling_channels: tuple[int, ...] = (128, 32)
    ctc_vocab_size: int | None = None
    dropout_rate: float = 0.0
    front_end: LogMel = LogMel()
    spec_augment: SpecAugment | None = None
    scan_layers: bool = True
    remat: Remat = Remat.NONE
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        resolve_enums(self)
        super().__post_init__()

    def output_length(self, num_samples: int) -> int:
        """Frames of `num_samples` samples."""
        return -(-self.front_end.output_length(num_samples) // self.subsampling_factor)

    @property
    def subsampling_factor(self) -> int:
        """Log-mel vectors that a frame stands for; the last frame may stand for fewer."""
        return 2 ** len(self.subsampling_channels)

    def __call__(
        self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"], *, deterministic: bool = True
    ) -> EncoderOutput:
        """`encode` of the front end's log-mel."""
        log_mel, frame_length = self.front_end(speech, speech_length)
        # Here and not in `encode`: an objective that hands over log-mel has hidden in it what it wants hidden.
        if self.spec_augment is not None and not deterministic:
            log_mel = self.spec_augment(log_mel, frame_length, self.make_rng("specaugment"))
        return self.encode(log_mel, frame_length, deterministic=deterministic)

    @nn.compact
    def encode(
        self, log_mel: Float[Array, "B T F"], frame_length: Int[Array, "B"], *, deterministic: bool = True
    ) -> EncoderOutput:
        """Frames of what the front end gives, or of what an objective has made of it; adds no SpecAugment."""
        self._check()
        x, mask = Subsampling(
            channels=self.subsampling_channels, width=self.width, dtype=self.dtype, name="subsampling"
        )(log_mel, frame_length)
        x = nn.Dropout(self.dropout_rate, deterministic=deterministic)(x)
        x = nn.with_logical_constraint(x, ("batch", "frames", "embed"))
        context = min(x.shape[1], self.chunk_frames or x.shape[1])
        x, _ = apply_stack(
            ConformerBlock,
            x,
            mask,
            distance_encoding(context, self.width).astype(self.dtype),
            num_layers=self.num_layers,
            scan=self.scan_layers,
            remat=self.remat,
            attention=functools.partial(ChunkedAttention, num_heads=self.num_heads, dtype=self.dtype),
            feed_forward=functools.partial(
                FeedForward,
                ff_width=self.width * self.ff_multiplier,
                dropout_rate=self.dropout_rate,
                deterministic=deterministic,
                dtype=self.dtype,
            ),
            convolution=functools.partial(ConvModule, kernel_size=self.conv_kernel, dtype=self.dtype),
            block_norm=self.block_norm,
            dropout_rate=self.dropout_rate,
            deterministic=deterministic,
            dtype=self.dtype,
        )
        return EncoderOutput(embeddings=x, mask=mask, ctc_logits=self._ctc_logits(x))

    def _check(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"Conformer.width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"Conformer.conv_kernel must be odd to be centred, got {self.conv_kernel}")

    def _ctc_logits(self, x: Float[Array, "B S D"]) -> Float[Array, "B S C"] | None:
        if self.ctc_vocab_size is None:
            return None
        head = Dense((self.ctc_vocab_size + 1,), ("embed", "vocab"), use_bias=True, dtype=self.dtype, name="ctc_head")
        return head(x).astype(jnp.float32)
