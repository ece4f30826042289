"""Speech encoders of Hugging Face that are built like wav2vec 2.0: wav2vec 2.0, XLSR, XLS-R, HuBERT, DistilHuBERT."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from slm_jax.layers.feed_forward import Activation
from slm_jax.models.wav2vec2 import ConvNorm, NormOrder, ProjectionNorm, Wav2Vec2, Waveform
from slm_jax.weights.huggingface.fields import Fields, UnsupportedConfigError
from slm_jax.weights.huggingface.folder import PREPROCESSOR
from slm_jax.weights.huggingface.shared_rows import linear, norm
from slm_jax.weights.tables import Filters, Flat, Kernel, Row, WeightNorm

PREFIXES = ("wav2vec2.", "hubert.")
"""What stands before the encoder's tensors where a model has more than the encoder."""
PREFIX_PATTERN = r"(?:wav2vec2\.|hubert\.)?"
UNUSED = (PREFIX_PATTERN + r"masked_spec_embed", r"quantizer\..*", r"project_(?:hid|q)\..*")
"""Tensors that only training needs."""
WEIGHT_NORMS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
"""Magnitudes and directions, as torch called them before and since 2.1."""
ACTIVATIONS = {
    "gelu": Activation.EXACT_GELU,
    "gelu_new": Activation.GELU,
    "gelu_pytorch_tanh": Activation.GELU,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
}
CONV_NORMS = {"group": ConvNorm.TIME, "layer": ConvNorm.FRAME}
HEADLESS = ("Model", "ForPreTraining")
CTC = "ForCTC"
TRAINING_ONLY = (
    "activation_dropout", "apply_spec_augment", "attention_dropout", "codevector_dim", "contrastive_logits_temperature",
    "ctc_loss_reduction", "ctc_zero_infinity", "diversity_loss_weight", "feat_extract_dropout", "feat_proj_dropout",
    "feat_quantizer_dropout", "final_dropout", "freeze_feat_extract_train", "gradient_checkpointing", "hidden_dropout",
    "hidden_dropout_prob", "layerdrop", "mask_channel_length", "mask_channel_min_space", "mask_channel_other",
    "mask_channel_prob", "mask_channel_selection", "mask_feature_length", "mask_feature_min_masks", "mask_feature_prob",
    "mask_time_length", "mask_time_min_masks", "mask_time_min_space", "mask_time_other", "mask_time_prob",
    "mask_time_selection", "no_mask_channel_overlap", "no_mask_time_overlap", "num_codevector_groups",
    "num_codevectors_per_group", "num_negatives", "proj_codevector_dim",
)  # fmt: skip
OF_OTHER_HEADS = (
    "adapter_kernel_size", "adapter_stride", "classifier_proj_size", "num_adapter_layers", "output_hidden_size",
    "tdnn_dilation", "tdnn_dim", "tdnn_kernel", "xvector_output_dim",
)  # fmt: skip
"""Sizes of parts that are there in other architectures alone, or if add_adapter is set."""


def wav2vec2(fields: Fields) -> dict[str, Any]:
    """wav2vec 2.0 and the multilingual models that are built alike."""
    fields.require("add_adapter", False)
    fields.require("adapter_attn_dim", None)
    return _common(fields, name="Wav2Vec2")


def hubert(fields: Fields) -> dict[str, Any]:
    """HuBERT and DistilHuBERT."""
    fields.require("conv_pos_batch_norm", False)
    normed = fields.take("feat_proj_layer_norm", True)
    own = dict(projection_norm=ProjectionNorm.LAYER if normed else ProjectionNorm.NONE)
    return _common(fields, name="Hubert") | own


FAMILIES: Mapping[str, Callable[[Fields], dict[str, Any]]] = {"wav2vec2": wav2vec2, "hubert": hubert}
"""By the model_type of their config.json."""


def model_of(config: Mapping[str, Any], preprocessor: Mapping[str, Any], *, where: str, **settings: Any) -> Wav2Vec2:
    """The speech encoder that a config.json and a preprocessor_config.json describe.

    Args:
      config: the fields of the one.
      preprocessor: the fields of the other.
      where: the path of config.json, for messages.
      **settings: attributes of Wav2Vec2 that are no property of the weights: dtype, remat, scan_layers.

    Raises:
      UnsupportedConfigError: a field is unknown, missing, or asks for something that slm_jax does not compute.
    """
    fields = Fields(dict(config), where=where)
    described = FAMILIES[config["model_type"]](fields)
    fields.finish()
    described["waveform"] = _waveform(preprocessor, where=str(pathlib.PurePath(where).with_name(PREPROCESSOR)))
    try:
        return Wav2Vec2(**described, **settings)
    except ValueError as error:
        raise UnsupportedConfigError(f"{where} describes a model that cannot be: {error}") from error


def rows(model: Wav2Vec2) -> list[Row]:
    """Where its parameters are in a checkpoint.

    The encoder's tensors have a prefix where the checkpoint has more than the encoder (a CTC head, or what it was
    pretrained with), and weight norm has two pairs of names: rows for all of them.
    """
    headless = model.ctc_vocab_size is None
    found = [row for prefix in (("", *PREFIXES) if headless else PREFIXES) for row in _encoder(model, prefix)]
    return found if headless else [*found, *linear("ctc_head", "lm_head")]


def unused(model: Wav2Vec2) -> tuple[str, ...]:
    """Patterns of tensors that a checkpoint may have and this model does not need."""
    return UNUSED


def _encoder(model: Wav2Vec2, prefix: str) -> list[Row]:
    layer = f"{prefix}encoder.layers.{{layer}}"
    position = f"{prefix}encoder.pos_conv_embed.conv"
    found = [
        *_convolutions(model, f"{prefix}feature_extractor.conv_layers"),
        *linear("projection", f"{prefix}feature_projection.projection"),
        *(
            Row("position/kernel", (f"{position}.{magnitudes}", f"{position}.{directions}"), WeightNorm())
            for magnitudes, directions in WEIGHT_NORMS
        ),
        Row("position/bias", f"{position}.bias"),
        *norm("transformer_norm", f"{prefix}encoder.layer_norm"),
        *norm("layers/attention_norm", f"{layer}.layer_norm"),
        *norm("layers/mlp_norm", f"{layer}.final_layer_norm"),
        *linear("layers/expand", f"{layer}.feed_forward.intermediate_dense"),
        *linear("layers/contract", f"{layer}.feed_forward.output_dense"),
        *linear("layers/attention/out", f"{layer}.attention.out_proj", Kernel(input_axes=2)),
    ]
    for name in ("query", "key", "value"):
        found += linear(f"layers/attention/{name}", f"{layer}.attention.{name[0]}_proj", bias=Flat())
    if model.projection_norm is ProjectionNorm.LAYER:
        found += norm("projection_norm", f"{prefix}feature_projection.layer_norm")
    return found


def _convolutions(model: Wav2Vec2, theirs: str) -> list[Row]:
    found = []
    for i in range(len(model.conv_features)):
        ours = f"waveform_convolutions/convolution_{i}"
        found.append(Row(f"{ours}/kernel", f"{theirs}.{i}.conv.weight", Filters()))
        if model.conv_bias:
            found.append(Row(f"{ours}/bias", f"{theirs}.{i}.conv.bias"))
        if model.conv_norm is ConvNorm.FRAME or i == 0:
            found += norm(f"waveform_convolutions/norm_{i}", f"{theirs}.{i}.layer_norm")
    return found


def _common(fields: Fields, *, name: str) -> dict[str, Any]:
    fields.require("use_weighted_layer_sum", False)
    fields.drop("num_feat_extract_layers", "tokenizer_class", *TRAINING_ONLY, *OF_OTHER_HEADS)
    before = fields.take("do_stable_layer_norm", False)
    return _head(fields, name=name) | dict(
        num_layers=fields.take("num_hidden_layers"),
        width=fields.take("hidden_size"),
        num_heads=fields.take("num_attention_heads"),
        ff_width=fields.take("intermediate_size"),
        conv_features=tuple(fields.take("conv_dim")),
        conv_kernels=tuple(fields.take("conv_kernel")),
        conv_strides=tuple(fields.take("conv_stride")),
        conv_norm=_choice(fields, "feat_extract_norm", CONV_NORMS),
        conv_bias=fields.take("conv_bias"),
        position_kernel=fields.take("num_conv_pos_embeddings"),
        position_groups=fields.take("num_conv_pos_embedding_groups"),
        norm_order=NormOrder.BEFORE if before else NormOrder.AFTER,
        norm_epsilon=fields.take("layer_norm_eps"),
        conv_activation=_choice(fields, "feat_extract_activation", ACTIVATIONS),
        activation=_choice(fields, "hidden_act", ACTIVATIONS),
    )


def _head(fields: Fields, *, name: str) -> dict[str, Any]:
    """The CTC head, if the checkpoint's architecture has one; its blank is what pads text."""
    architectures, classes = fields.take("architectures"), fields.take("vocab_size", None)
    if architectures == [f"{name}{CTC}"]:
        blank = fields.take("pad_token_id", 0)
        if classes is None or blank is None:
            raise UnsupportedConfigError(f"{fields.where} has a CTC head, but no vocab_size or no pad_token_id")
        return dict(ctc_vocab_size=classes - 1, ctc_blank=blank)
    if architectures not in [[f"{name}{each}"] for each in HEADLESS]:
        known = ", ".join(f"{name}{each}" for each in (*HEADLESS, CTC))
        raise UnsupportedConfigError(f"{fields.where}: architectures is {architectures}, not one of {known}")
    return {}


def _choice(fields: Fields, name: str, choices: Mapping[str, Any]) -> Any:
    value = fields.take(name)
    if value not in choices:
        raise UnsupportedConfigError(f"{fields.where}: {name} is {value!r}, not one of {', '.join(sorted(choices))}")
    return choices[value]


def _waveform(preprocessor: Mapping[str, Any], *, where: str) -> Waveform:
    fields = Fields(dict(preprocessor), where=where)
    fields.require("feature_extractor_type", "Wav2Vec2FeatureExtractor")
    fields.require("feature_size", 1)
    fields.require("sampling_rate", 16000)
    # Padding is never heard here, so it does not matter where it stands, what it holds, and whether a mask tells.
    fields.drop("padding_side", "padding_value", "processor_class", "return_attention_mask")
    normalized = fields.take("do_normalize", True)
    fields.finish()
    return Waveform.STANDARDIZED if normalized else Waveform.AS_IS
