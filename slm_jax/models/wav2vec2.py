"""wav2vec 2.0 (arXiv 2006.11477) and HuBERT (arXiv 2106.07447), which is built alike, with an optional CTC head."""

import enum
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.layers.attention import MultiHeadAttention, ProjectionBias
from slm_jax.layers.convolution import Convolution
from slm_jax.layers.dense import Dense
from slm_jax.layers.enums import resolve_enums
from slm_jax.layers.feed_forward import Activation
from slm_jax.layers.masks import key_mask, length_mask, zero_padding
from slm_jax.layers.norm import LayerNorm
from slm_jax.layers.stack import Remat, apply_stack
from slm_jax.models.interfaces import EncoderOutput
from slm_jax.typing import Array, Bool, DTypeLike, Float, Int

Length = TypeVar("Length", int, jax.Array)


class Waveform(enum.Enum):
    """What is done to the samples before the first convolution."""

    STANDARDIZED = "standardized"
    """Zero mean and unit variance over the real samples of an utterance."""
    AS_IS = "as_is"
    """Nothing."""


class ConvNorm(enum.Enum):
    """What the convolutions over the waveform are normalised by."""

    TIME = "time"
    """The first one by `TimeNorm`, the others not at all: wav2vec 2.0 base, HuBERT base."""
    FRAME = "frame"
    """Every one by a LayerNorm over the channels of a frame: the large models."""


class ProjectionNorm(enum.Enum):
    """What the frames go through between the convolutions and the projection to the transformer's width."""

    LAYER = "layer"
    NONE = "none"
    """Nothing: DistilHuBERT."""


class NormOrder(enum.Enum):
    """Where the LayerNorms of the transformer are."""

    AFTER = "after"
    """Behind every residual sum, and one before the first layer: the base models."""
    BEFORE = "before"
    """At the start of every residual branch, and one behind the last layer: the large models."""


def standardize(
    speech: Float[Array, "B N"], speech_length: Int[Array, "B"], *, epsilon: float = 1e-7
) -> Float[Array, "B N"]:
    """Samples less their mean, divided by their standard deviation, both over the real ones; zeros beyond them.

    speech [1 3 9], length 2 -> [-1 1 0]

    In behaviour as `transformers/models/wav2vec2/feature_extraction_wav2vec2.py:zero_mean_unit_var_norm` (Apache-2.0).
    """
    real = length_mask(speech_length, speech.shape[1])
    return jnp.where(real, _standardize_over_time(speech[..., None], real, epsilon=epsilon)[..., 0], 0)


def _standardize_over_time(
    x: Float[Array, "B T C"], real: Bool[Array, "B T"], *, epsilon: float
) -> Float[Array, "B T C"]:
    """Channels less their mean, divided by their standard deviation, over real frames, in float32."""
    x = zero_padding(x.astype(jnp.float32), real)
    count = jnp.maximum(real.sum(axis=1), 1)[:, None, None]
    centred = zero_padding(x - x.sum(axis=1, keepdims=True) / count, real)
    return centred * jax.lax.rsqrt(jnp.square(centred).sum(axis=1, keepdims=True) / count + epsilon)


class TimeNorm(nn.Module):
    """Every channel normalised over the real frames of its utterance, with a learned scale and bias.

    torch.nn.GroupNorm with as many groups as channels, but for padding: transformers counts padded frames too, so that
    there an utterance depends on the length of its batch. Here it does not; without padding both are the same.

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"], real: Bool[Array, "B T"]) -> Float[Array, "B T C"]:
        ones = nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("embed",))
        scale = self.param("scale", ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", zeros, (x.shape[-1],), jnp.float32)
        return (_standardize_over_time(x, real, epsilon=self.epsilon) * scale + bias).astype(self.dtype)


class WaveformConvolutions(nn.Module):
    """Strided convolutions from samples to frames, without padding (arXiv 2006.11477, section 2).

    Attributes:
      features, kernel_sizes, strides: one number a convolution.
      norm: where they are normalised.
      use_bias: add learned biases.
      activation: behind every convolution.
    """

    features: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    strides: tuple[int, ...]
    norm: ConvNorm
    use_bias: bool
    activation: Activation
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"]) -> Float[Array, "B S C"]:
        x = speech.astype(self.dtype)[..., None]
        for i, (features, size, stride) in enumerate(zip(self.features, self.kernel_sizes, self.strides, strict=True)):
            x = Convolution(
                features, size, stride=stride, use_bias=self.use_bias, dtype=self.dtype, name=f"convolution_{i}"
            )(x)
            if self.norm is ConvNorm.FRAME:
                x = LayerNorm(dtype=self.dtype, name=f"norm_{i}")(x)
            elif i == 0:
                real = length_mask((speech_length - size) // stride + 1, x.shape[1])
                x = TimeNorm(dtype=self.dtype, name=f"norm_{i}")(x, real)
            x = self.activation(x)
        return x


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward, each with a LayerNorm where `order` says.

    Attributes:
      num_heads: heads; they share the width equally.
      ff_width: inner width of the feed-forward.
      activation: between the two maps of the feed-forward.
      order: where the LayerNorms are.
      norm_epsilon: added to their variances.
    """

    num_heads: int
    ff_width: int
    activation: Activation
    order: NormOrder
    norm_epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], per_layer: None, mask: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B S D"], None]:
        attention_norm, mlp_norm = (
            LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name=name) for name in ("attention_norm", "mlp_norm")
        )
        if self.order is NormOrder.BEFORE:
            x = x + self._attend(attention_norm(x), mask)
            x = x + self._feed_forward(mlp_norm(x))
        else:
            x = attention_norm(x + self._attend(x, mask))
            x = mlp_norm(x + self._feed_forward(x))
        return nn.with_logical_constraint(x, ("batch", "frames", "embed")), None

    def _attend(self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        attention = MultiHeadAttention(
            num_heads=self.num_heads,
            head_dim=x.shape[-1] // self.num_heads,
            projection_bias=ProjectionBias.QUERY_KEY_VALUE,
            use_output_bias=True,
            dtype=self.dtype,
            name="attention",
        )
        return attention(x, attention.project_keys(x), mask=key_mask(mask))

    def _feed_forward(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        common = dict(use_bias=True, dtype=self.dtype)
        hidden = self.activation(Dense((self.ff_width,), ("embed", "mlp"), **common, name="expand")(x))
        hidden = nn.with_logical_constraint(hidden, ("batch", "frames", "mlp"))
        return Dense((x.shape[-1],), ("mlp", "embed"), **common, name="contract")(hidden)


class Wav2Vec2(nn.Module):
    """Waveforms to frames, and CTC scores of the frames (obeys `interfaces.SpeechEncoder`).

    Frames are not padded: with the convolutions of all published models n samples give (n - 400) // 320 + 1 frames,
    20 ms apart, and less than 25 ms give none. With ConvNorm.TIME padding changes what transformers computes; here it
    never does (`TimeNorm`).

    It is there to be used frozen, so it has no noise: dropout, dropped layers and masked frames of the original's
    training are left out, and `deterministic` changes nothing.

    Attributes:
      num_layers: transformer layers.
      width: features of a frame; a multiple of num_heads and of position_groups.
      num_heads: heads of self-attention.
      ff_width: inner width of the feed-forwards.
      conv_features: channels of the convolutions over the waveform, one number a convolution.
      conv_kernels: samples, then frames, under their filters.
      conv_strides: samples, then frames, between their filters.
      conv_norm: what normalises them, or its value ("time").
      conv_bias: whether they have learned biases.
      projection_norm: what stands between them and the transformer, or its value ("layer").
      position_kernel: frames under the convolution that tells the transformer where a frame is.
      position_groups: groups of channels of that convolution.
      norm_order: where the transformer's LayerNorms are, or its value ("after").
      norm_epsilon: added to the variances of the LayerNorms behind the waveform's convolutions.
      conv_activation: function behind every convolution, or its value ("exact_gelu").
      activation: function inside the feed-forwards, or its value ("exact_gelu").
      ctc_vocab_size: classes of the CTC head besides the blank; None for no head.
      ctc_blank: which class of the head's parameters is the blank, 0 in the original. It is moved behind the others:
        class c of `EncoderOutput.ctc_logits` is class c of the parameters below it, class c + 1 from it on.
      waveform: what is done to the samples first, or its value ("standardized").
      scan_layers: one scanned stack of parameters, or one set of parameters a layer.
      remat: what a layer keeps for the backward pass.
      dtype: computation type; samples are always standardized in float32.

    Raises:
      ValueError: attributes do not fit together.
    """

    num_layers: int
    width: int
    num_heads: int
    ff_width: int
    conv_features: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_norm: ConvNorm | str = ConvNorm.TIME
    conv_bias: bool = False
    projection_norm: ProjectionNorm | str = ProjectionNorm.LAYER
    position_kernel: int = 128
    position_groups: int = 16
    norm_order: NormOrder | str = NormOrder.AFTER
    norm_epsilon: float = 1e-5
    conv_activation: Activation | str = Activation.EXACT_GELU
    activation: Activation | str = Activation.EXACT_GELU
    ctc_vocab_size: int | None = None
    ctc_blank: int = 0
    waveform: Waveform | str = Waveform.STANDARDIZED
    scan_layers: bool = True
    remat: Remat | str = Remat.NONE
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        resolve_enums(self)
        for name in ("num_heads", "position_groups"):
            if self.width % getattr(self, name):
                raise ValueError(f"Wav2Vec2.width {self.width} is not a multiple of {name} {getattr(self, name)}")
        counts = [len(self.conv_features), len(self.conv_kernels), len(self.conv_strides)]
        if len(set(counts)) > 1 or not counts[0]:
            raise ValueError(
                "Wav2Vec2 needs conv_features, conv_kernels and conv_strides of one number a convolution each, got"
                f" {counts[0]}, {counts[1]} and {counts[2]} numbers"
            )
        if self.ctc_vocab_size is not None and not 0 <= self.ctc_blank <= self.ctc_vocab_size:
            raise ValueError(
                f"Wav2Vec2.ctc_blank is {self.ctc_blank}, but the head has the classes 0 .. {self.ctc_vocab_size}"
            )
        super().__post_init__()

    def output_length(self, num_samples: int) -> int:
        """Frames of `num_samples` samples."""
        return max(0, self._convolved(num_samples))

    @property
    def min_samples(self) -> int:
        """Samples of one frame."""
        needed = 1
        for size, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            needed = (needed - 1) * stride + size
        return needed

    @nn.compact
    def __call__(
        self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"], *, deterministic: bool = True
    ) -> EncoderOutput:
        """Frames and their CTC scores; `deterministic` changes nothing."""
        num_frames = self.output_length(speech.shape[1])
        # Shapes stay positive where not even one frame fits in; what is computed then is cut off at the end.
        speech = jnp.pad(speech, ((0, 0), (0, max(0, self.min_samples - speech.shape[1]))))
        x = self._project(self._convolve(self._front_end(speech, speech_length), speech_length))
        mask = length_mask(jnp.maximum(self._convolved(speech_length), 0), x.shape[1])
        x = self._transform(zero_padding(x, mask), mask)
        x, mask = zero_padding(x, mask)[:, :num_frames], mask[:, :num_frames]
        return EncoderOutput(embeddings=x, mask=mask, ctc_logits=self._ctc_logits(x))

    def _convolved(self, length: Length) -> Length:
        """Frames of so many samples; not above 0 where not even one fits in."""
        for size, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            length = (length - size) // stride + 1
        return length

    def _front_end(self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"]) -> Float[Array, "B N"]:
        speech = speech.astype(jnp.float32)
        if self.waveform is Waveform.STANDARDIZED:
            return standardize(speech, speech_length)
        return zero_padding(speech, length_mask(speech_length, speech.shape[1]))

    def _convolve(self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"]) -> Float[Array, "B S C"]:
        return WaveformConvolutions(
            features=self.conv_features,
            kernel_sizes=self.conv_kernels,
            strides=self.conv_strides,
            norm=self.conv_norm,
            use_bias=self.conv_bias,
            activation=self.conv_activation,
            dtype=self.dtype,
            name="waveform_convolutions",
        )(speech, speech_length)

    def _project(self, x: Float[Array, "B S C"]) -> Float[Array, "B S D"]:
        if self.projection_norm is ProjectionNorm.LAYER:
            x = LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="projection_norm")(x)
        return Dense((self.width,), ("mlp", "embed"), use_bias=True, dtype=self.dtype, name="projection")(x)

    def _transform(self, x: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        """Positions and the transformer; padded frames come in as zeros and go out as anything."""
        reach = self.position_kernel // 2, (self.position_kernel - 1) // 2
        position = Convolution(
            self.width,
            self.position_kernel,
            padding=reach,
            groups=self.position_groups,
            dtype=self.dtype,
            name="position",
        )
        norm = LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="transformer_norm")
        x = nn.with_logical_constraint(x + self.conv_activation(position(x)), ("batch", "frames", "embed"))
        x = norm(x) if self.norm_order is NormOrder.AFTER else x
        x, _ = apply_stack(
            TransformerLayer,
            x,
            mask,
            num_layers=self.num_layers,
            scan=self.scan_layers,
            remat=self.remat,
            num_heads=self.num_heads,
            ff_width=self.ff_width,
            activation=self.activation,
            order=self.norm_order,
            norm_epsilon=self.norm_epsilon,
            dtype=self.dtype,
        )
        return norm(x) if self.norm_order is NormOrder.BEFORE else x

    def _ctc_logits(self, x: Float[Array, "B S D"]) -> Float[Array, "B S C"] | None:
        if self.ctc_vocab_size is None:
            return None
        head = Dense((self.ctc_vocab_size + 1,), ("embed", "vocab"), use_bias=True, dtype=self.dtype, name="ctc_head")
        logits, blank = head(x).astype(jnp.float32), self.ctc_blank
        return jnp.concatenate([logits[..., :blank], logits[..., blank + 1 :], logits[..., blank : blank + 1]], axis=-1)
