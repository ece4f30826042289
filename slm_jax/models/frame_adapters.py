"""Adapters without attention: a linear map, stacked frames through two, strided convolutions."""

import flax.linen as nn
import jax.numpy as jnp

from slm_jax.layers.dense import Dense
from slm_jax.layers.enums import resolve_enums
from slm_jax.layers.feed_forward import Activation
from slm_jax.layers.masks import length_mask
from slm_jax.models.adapter import finish
from slm_jax.models.interfaces import Embed, EncoderOutput
from slm_jax.models.reducers import Stacking, require_positive
from slm_jax.typing import Array, DTypeLike, Float


class LinearAdapter(nn.Module):
    """One linear map to the language model's width, as in LLaVA (arXiv 2304.08485): the least there is to train.

    frames [a b c _] -> [a' b' c' _]

    Attributes:
      features: the language model's width E.
      output_scale: initial size of the embeddings that come out; match the RMS of the language model's own.

    Raises:
      ValueError: if features is below 1.
    """

    features: int
    output_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(self, "features")
        super().__post_init__()

    def output_length(self, num_frames: int) -> int:
        return num_frames

    @nn.compact
    def __call__(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        del embed, deterministic
        x = Dense((self.features,), ("adapter", "embed"), dtype=self.dtype, name="projection")(frames.embeddings)
        return finish(x, frames.mask, frames.dropped, output_scale=self.output_scale, dtype=self.dtype)


class StackedMLPAdapter(nn.Module):
    """Neighbouring frames side by side, then two linear maps with an activation between them.

    stack 2:  frames [a b c _] -> [ab' c0']

    The projector of SLAM-LLM (arXiv 2402.08846) and, but for its gate, of Ultravox (github.com/fixie-ai/ultravox).
    Unlike in SLAM-LLM, the last frames are completed with zeros instead of lost.

    Attributes:
      features: the language model's width E.
      stack: frames side by side, as in `reducers.Stacking`.
      hidden: width between the two maps.
      activation: function between the two maps, or its value ("gelu").
      output_scale: initial size of the embeddings that come out; match the RMS of the language model's own.

    Raises:
      ValueError: if features, stack or hidden is below 1, or activation is not one of `Activation`.
    """

    features: int
    stack: int = 4
    hidden: int = 2048
    activation: Activation | str = Activation.RELU
    output_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(self, "features", "stack", "hidden")
        resolve_enums(self)
        super().__post_init__()

    def output_length(self, num_frames: int) -> int:
        return Stacking(self.stack).output_length(num_frames)

    @nn.compact
    def __call__(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        del embed, deterministic
        silenced = jnp.where(frames.mask[..., None], frames.embeddings, 0)  # padding stands beside the last real frame
        stacked = Stacking(self.stack)(frames._replace(embeddings=silenced))
        expand = Dense((self.hidden,), ("embed", "mlp"), use_bias=True, dtype=self.dtype, name="expand")
        x = nn.with_logical_constraint(self.activation(expand(stacked.embeddings)), ("batch", "frames", "mlp"))
        x = Dense((self.features,), ("mlp", "embed"), dtype=self.dtype, name="projection")(x)
        return finish(x, stacked.mask, frames.dropped, output_scale=self.output_scale, dtype=self.dtype)


def strided_windows(x: Float[Array, "B S D"], *, size: int, stride: int) -> Float[Array, "B S2 W D"]:
    """For every `stride` frames, the `size` frames around them, with zeros beyond both ends (size >= stride).

    size 4, stride 2:  [a b c d e] -> [0abc bcde de00]

    Where a window begins does not depend on how many frames there are.
    """
    count = -(-x.shape[1] // stride)
    before = (size - stride) // 2
    after = count * stride - x.shape[1] + size - stride - before
    padded = jnp.pad(x, ((0, 0), (before, after), (0, 0)))
    return jnp.stack([padded[:, i : i + count * stride : stride] for i in range(size)], axis=2)


class StridedConvAdapter(nn.Module):
    """Strided convolutions along time, each with an activation, then a linear map.

    num_layers 1, stride 2, kernel_size 4:  frames [a b c d e _] -> [0abc' bcde' de00']

    The length adaptor of arXiv 2010.12829 with another activation. n frames become ceil(n / stride) at every
    convolution, whatever the padding.

    Attributes:
      features: the language model's width E.
      num_layers: convolutions.
      stride: frames for each one that a convolution gives.
      kernel_size: frames under the filter; at least the stride, or frames would be lost.
      channels: width of what a convolution gives.
      activation: function behind each convolution, or its value ("relu").
      output_scale: initial size of the embeddings that come out; match the RMS of the language model's own.

    Raises:
      ValueError: if a number is below 1, kernel_size is below stride, or activation is not one of `Activation`.
    """

    features: int
    num_layers: int = 2
    stride: int = 2
    kernel_size: int = 3
    channels: int = 512
    activation: Activation | str = Activation.GELU
    output_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(self, "features", "num_layers", "stride", "kernel_size", "channels")
        if self.kernel_size < self.stride:
            raise ValueError(
                f"StridedConvAdapter.kernel_size must be at least the stride {self.stride}, got {self.kernel_size}"
            )
        resolve_enums(self)
        super().__post_init__()

    def output_length(self, num_frames: int) -> int:
        return -(-num_frames // self.stride**self.num_layers)

    @nn.compact
    def __call__(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        del embed, deterministic
        x, mask = frames.embeddings, frames.mask
        for layer in range(self.num_layers):
            x = self._convolve(jnp.where(mask[..., None], x, 0), layer)
            mask = length_mask(-(-mask.sum(axis=1) // self.stride), x.shape[1])
        x = Dense((self.features,), ("mlp", "embed"), dtype=self.dtype, name="projection")(x)
        return finish(x, mask, frames.dropped, output_scale=self.output_scale, dtype=self.dtype)

    def _convolve(self, x: Float[Array, "B S D"], layer: int) -> Float[Array, "B S2 C"]:
        windows = strided_windows(x, size=self.kernel_size, stride=self.stride)
        axes = ("conv_window", "embed", "mlp")
        x = Dense((self.channels,), axes, use_bias=True, dtype=self.dtype, name=f"convolution_{layer}")(windows)
        return nn.with_logical_constraint(self.activation(x), ("batch", "frames", "mlp"))
