"""FastConformer encoders of Hugging Face: Parakeet with its CTC head, and its encoder alone."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from slm_jax.audio.nemo_log_mel import SAMPLE_RATE, NemoLogMel
from slm_jax.models.conformer_blocks import Bias
from slm_jax.models.fast_conformer import FastConformer, InputScale
from slm_jax.weights.huggingface.fields import Fields, UnsupportedConfigError
from slm_jax.weights.huggingface.shared_rows import (
    Depthwise,
    Pointwise,
    attention,
    linear,
    norm,
    pointwise_maps,
)
from slm_jax.weights.tables import Filters, Kernel, Row, Same, Shape

BATCH_NORM_EPSILON = 1e-5
TRAINING = (
    "activation_dropout",
    "attention_dropout",
    "ctc_loss_reduction",
    "ctc_zero_infinity",
    "dropout",
    "dropout_positions",
    "layerdrop",
)
"""Fields of config.json that say how it was trained."""
PREPROCESSING = ("feature_extractor_type", "padding_side", "processor_class", "return_attention_mask")
"""Fields of preprocessor_config.json that say nothing about what is heard."""


@dataclasses.dataclass(frozen=True)
class BatchNormScale:
    """What BatchNorm multiplies by, out of its weight and variance."""

    def parts(self, shape: Shape) -> tuple[Shape, ...]:
        return shape, shape

    def combine(self, tensors: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
        weight, variance = (tensor.astype(np.float64) for tensor in tensors)
        return weight / np.sqrt(variance + BATCH_NORM_EPSILON)


@dataclasses.dataclass(frozen=True)
class BatchNormBias:
    """What BatchNorm adds, out of its weight, variance, mean and bias."""

    def parts(self, shape: Shape) -> tuple[Shape, ...]:
        return shape, shape, shape, shape

    def combine(self, tensors: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
        weight, variance, mean, bias = tensors
        return bias.astype(np.float64) - mean.astype(np.float64) * BatchNormScale().combine((weight, variance), shape)


@dataclasses.dataclass(frozen=True)
class SinesFirst:
    """A torch.nn.Linear whose inputs are pairs of a sine and a cosine; ours are all sines, then all cosines."""

    def stored(self, shape: Shape) -> Shape:
        return Kernel().stored(shape)

    def __call__(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return Kernel()(np.concatenate([tensor[:, 0::2], tensor[:, 1::2]], axis=1), shape)


def with_ctc_head(fields: Fields) -> dict[str, Any]:
    """Parakeet CTC: its encoder's settings are fields of their own."""
    _require_architecture(fields, "ParakeetForCTC")
    vocabulary, blank = fields.take("vocab_size"), fields.take("pad_token_id")
    if blank != vocabulary - 1:
        raise UnsupportedConfigError(
            f"{fields.where}: the blank, pad_token_id, is {blank}, not the last of {vocabulary} classes"
        )
    inner = Fields(fields.take("encoder_config"), where=f"encoder_config of {fields.where}")
    inner.require("model_type", "parakeet_encoder")
    described = _encoder(inner)
    inner.finish()
    return described | dict(ctc_vocab_size=vocabulary - 1)


def without_head(fields: Fields) -> dict[str, Any]:
    """Parakeet's encoder alone."""
    _require_architecture(fields, "ParakeetEncoder")
    return _encoder(fields)


FAMILIES: Mapping[str, Callable[[Fields], dict[str, Any]]] = {
    "parakeet_ctc": with_ctc_head,
    "parakeet_encoder": without_head,
}
"""By the model_type of their config.json."""


def model_of(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], *, where: str, **settings: Any
) -> FastConformer:
    """The encoder that a folder describes.

    Args:
      config: the fields of config.json.
      preprocessor: the fields of preprocessor_config.json.
      where: the file of `config`, for messages.
      **settings: attributes of FastConformer that are no property of the weights: dtype, remat, scan_layers.

    Raises:
      UnsupportedConfigError: a field is unknown, missing, or asks for something that slm_jax does not compute.
    """
    fields = Fields(dict(config), where=where)
    described = FAMILIES[config["model_type"]](fields)
    fields.drop(*TRAINING)
    fields.finish()
    num_mels = described.pop("num_mels")
    front_end = _front_end(Fields(dict(preprocessor), where=f"the preprocessor settings next to {where}"), num_mels)
    return FastConformer(**described, front_end=front_end, **settings)


def rows(model: FastConformer) -> list[Row]:
    """Where its parameters are in a checkpoint."""
    prefix = _prefix(model)
    biased, conv_biased = model.projection_bias is Bias.LEARNED, model.convolution_bias is Bias.LEARNED
    at = f"{prefix}layers.{{layer}}"
    found = _subsampling_rows(model, prefix)
    norms = {
        "first_feed_forward/norm": "norm_feed_forward1",
        "attention_norm": "norm_self_att",
        "convolution/norm": "norm_conv",
        "second_feed_forward/norm": "norm_feed_forward2",
        "norm": "norm_out",
    }
    for ours, theirs in norms.items():
        found += norm(f"layers/{ours}", f"{at}.{theirs}")
    for number, order in enumerate(("first", "second"), 1):
        for map_number, name in enumerate(("expand", "contract"), 1):
            ours, theirs = f"layers/{order}_feed_forward/{name}", f"{at}.feed_forward{number}.linear{map_number}"
            found += linear(ours, theirs, bias=Same() if biased else None)
    names = dict(query="q_proj", key="k_proj", value="v_proj", out="o_proj")
    projections = {ours: f"{at}.self_attn.{name}" for ours, name in names.items()}
    found += attention("layers/self_attention", projections, use_bias=biased)
    found.append(Row("layers/self_attention/relative/kernel", f"{at}.self_attn.relative_k_proj.weight", SinesFirst()))
    found.append(Row("layers/self_attention/content_bias", f"{at}.self_attn.bias_u"))
    found.append(Row("layers/self_attention/position_bias", f"{at}.self_attn.bias_v"))
    found += _convolution_rows(f"{at}.conv", use_bias=conv_biased)
    return found if model.ctc_vocab_size is None else found + linear("ctc_head", "ctc_head", Pointwise())


def unused(model: FastConformer) -> tuple[str, ...]:
    """Patterns of tensors that a checkpoint may have and this model does not need: counters of training steps."""
    return (r"(encoder\.)?layers\.\d+\.conv\.norm\.num_batches_tracked",)


def _prefix(model: FastConformer) -> str:
    return "" if model.ctc_vocab_size is None else "encoder."


def _subsampling_rows(model: FastConformer, prefix: str) -> list[Row]:
    """Their convolutions, maps and rectifiers are numbered 0 and 1, then 2 to 4, 5 to 7 ..."""
    ours, theirs = "subsampling/", f"{prefix}subsampling.layers."
    found = linear(f"{ours}convolution_0", f"{theirs}0", Filters())
    for layer in range(1, model.subsampling_factor.bit_length() - 1):
        found += linear(f"{ours}convolution_{layer}", f"{theirs}{3 * layer - 1}", Filters())
        found += linear(f"{ours}mix_{layer}", f"{theirs}{3 * layer}", Pointwise(axes=2))
    return found + linear(f"{ours}projection", f"{prefix}subsampling.linear", Kernel(input_axes=2))


def _convolution_rows(theirs: str, *, use_bias: bool) -> list[Row]:
    ours = "layers/convolution"
    found = pointwise_maps(ours, theirs, use_bias=use_bias)
    found += linear(f"{ours}/depthwise", f"{theirs}.depthwise_conv", Depthwise(), bias=Same() if use_bias else None)
    weight, variance, mean, bias = (f"{theirs}.norm.{n}" for n in ("weight", "running_var", "running_mean", "bias"))
    found.append(Row(f"{ours}/depthwise_norm/scale", (weight, variance), BatchNormScale()))
    found.append(Row(f"{ours}/depthwise_norm/bias", (weight, variance, mean, bias), BatchNormBias()))
    return found


def _require_architecture(fields: Fields, name: str) -> None:
    fields.require("architectures", [name], None)


def _encoder(fields: Fields) -> dict[str, Any]:
    heads = fields.take("num_attention_heads")
    fields.require("num_key_value_heads", heads)
    fields.require("hidden_act", "silu", "swish")
    fields.require("subsampling_conv_kernel_size", 3)
    fields.require("subsampling_conv_stride", 2)
    fields.drop(*TRAINING)

    def bias(name: str) -> Bias:
        return Bias.LEARNED if fields.take(name, True) else Bias.NONE

    return dict(
        num_layers=fields.take("num_hidden_layers"),
        width=fields.take("hidden_size"),
        num_heads=heads,
        ff_width=fields.take("intermediate_size"),
        conv_kernel=fields.take("conv_kernel_size", 9),
        subsampling_factor=fields.take("subsampling_factor", 8),
        subsampling_channels=fields.take("subsampling_conv_channels", 256),
        projection_bias=bias("attention_bias"),
        convolution_bias=bias("convolution_bias"),
        input_scale=InputScale.SQRT_WIDTH if fields.take("scale_input", True) else InputScale.NONE,
        num_mels=fields.take("num_mel_bins", 80),
    )


def _front_end(fields: Fields, num_mels: int) -> NemoLogMel:
    fields.require("feature_size", num_mels)
    fields.require("sampling_rate", SAMPLE_RATE)
    fields.require("padding_value", 0.0)
    fields.drop(*PREPROCESSING)
    front_end = NemoLogMel(
        num_mels=num_mels,
        frame_samples=fields.take("win_length", 400),
        hop_samples=fields.take("hop_length", 160),
        fft_length=fields.take("n_fft", 512),
        preemphasis=fields.take("preemphasis", 0.97) or 0.0,
    )
    fields.finish()
    return front_end
