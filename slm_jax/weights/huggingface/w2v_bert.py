"""w2v-BERT 2.0 encoders of Hugging Face, bare or with a CTC head."""

from collections.abc import Callable, Mapping
from typing import Any

from slm_jax.audio.kaldi_log_mel import SAMPLE_RATE, KaldiLogMel
from slm_jax.models.w2v_bert import LengthAdapter, W2vBert
from slm_jax.weights.huggingface.fields import Fields, UnsupportedConfigError
from slm_jax.weights.huggingface.shared_rows import Depthwise, attention, linear, norm, pointwise_maps
from slm_jax.weights.tables import Filters, Row

BARE, WITH_CTC_HEAD = "Wav2Vec2BertModel", "Wav2Vec2BertForCTC"
TRAINING = (
    "activation_dropout", "apply_spec_augment", "attention_dropout", "codevector_dim", "conformer_conv_dropout",
    "contrastive_logits_temperature", "ctc_loss_reduction", "ctc_zero_infinity", "diversity_loss_weight",
    "feat_proj_dropout", "feat_quantizer_dropout", "final_dropout", "hidden_dropout", "layerdrop",
    "mask_feature_length", "mask_feature_min_masks", "mask_feature_prob", "mask_time_length", "mask_time_min_masks",
    "mask_time_prob", "num_codevector_groups", "num_codevectors_per_group", "num_negatives", "proj_codevector_dim",
)  # fmt: skip
"""Fields of config.json that say how it was trained."""
OTHERS = (
    "classifier_proj_size", "max_source_positions", "rotary_embedding_base", "tdnn_dilation", "tdnn_dim",
    "tdnn_kernel", "use_weighted_layer_sum", "xvector_output_dim",
)  # fmt: skip
"""Fields of config.json of other heads and of other positions."""
PREPROCESSING = (
    "feature_extractor_type", "padding_side", "padding_value", "processor_class", "return_attention_mask",
)  # fmt: skip
"""Fields of preprocessor_config.json that say nothing about what is heard: what pads is masked."""


def w2v_bert(fields: Fields) -> dict[str, Any]:
    """w2v-BERT 2.0."""
    fields.require("position_embeddings_type", "relative_key")
    fields.require("hidden_act", "swish", "silu")
    fields.require("layer_norm_eps", 1e-5)
    fields.drop(*TRAINING, *OTHERS)
    settings = dict(
        num_layers=fields.take("num_hidden_layers"),
        width=fields.take("hidden_size"),
        num_heads=fields.take("num_attention_heads"),
        ff_width=fields.take("intermediate_size"),
        conv_kernel=fields.take("conv_depthwise_kernel_size", 31),
        max_left=fields.take("left_max_position_embeddings", 64),
        max_right=fields.take("right_max_position_embeddings", 8),
    )
    return settings | _length_adapter(fields, settings) | _head(fields)


FAMILIES: Mapping[str, Callable[[Fields], dict[str, Any]]] = {"wav2vec2-bert": w2v_bert}
"""By the model_type of their config.json."""


def model_of(config: Mapping[str, Any], preprocessor: Mapping[str, Any], *, where: str, **settings: Any) -> W2vBert:
    """The encoder that a folder describes.

    The blank of a CTC head comes last, whatever its number there: tokens behind that number are one lower here.

    Args:
      config: the fields of config.json.
      preprocessor: the fields of preprocessor_config.json.
      where: the file of `config`, for messages.
      **settings: attributes of W2vBert that are no property of the weights: dtype, remat, scan_layers.

    Raises:
      UnsupportedConfigError: a field is unknown, missing, or asks for something that slm_jax does not compute.
    """
    fields = Fields(dict(config), where=where)
    described = FAMILIES[config["model_type"]](fields)
    num_features = fields.take("feature_projection_input_dim", 160)
    fields.finish()
    heard = Fields(dict(preprocessor), where=f"the preprocessor settings next to {where}")
    if described["length_adapter"] is not None and "dtype" in settings:
        described["length_adapter"] = described["length_adapter"].clone(dtype=settings["dtype"])
    return W2vBert(**described, front_end=_front_end(heard, num_features), **settings)


def rows(model: W2vBert) -> list[Row]:
    """Where its parameters are in a checkpoint."""
    prefix = _prefix(model)
    at = f"{prefix}encoder.layers.{{layer}}"
    found = norm("feature_norm", f"{prefix}feature_projection.layer_norm")
    found += linear("feature_projection", f"{prefix}feature_projection.projection")
    norms = {
        "first_feed_forward/norm": "ffn1_layer_norm",
        "attention_norm": "self_attn_layer_norm",
        "convolution/norm": "conv_module.layer_norm",
        "convolution/depthwise_norm": "conv_module.depthwise_layer_norm",
        "second_feed_forward/norm": "ffn2_layer_norm",
        "norm": "final_layer_norm",
    }
    for ours, theirs in norms.items():
        found += norm(f"layers/{ours}", f"{at}.{theirs}")
    found += _feed_forward_rows("layers/first_feed_forward", f"{at}.ffn1")
    found += _feed_forward_rows("layers/second_feed_forward", f"{at}.ffn2")
    found += _attention_rows("layers/self_attention", f"{at}.self_attn")
    found.append(Row("layers/self_attention/distance", f"{at}.self_attn.distance_embedding.weight"))
    found += pointwise_maps("layers/convolution", f"{at}.conv_module", use_bias=False)
    found += linear("layers/convolution/depthwise", f"{at}.conv_module.depthwise_conv", Depthwise(), bias=None)
    if model.length_adapter is not None:
        found += _length_adapter_rows(model.length_adapter, f"{prefix}adapter")
    return found if model.ctc_vocab_size is None else found + linear("ctc_head", "lm_head")


def unused(model: W2vBert) -> tuple[str, ...]:
    """Patterns of tensors that a checkpoint may have and this model does not need: what hides frames in training."""
    return (r"(wav2vec2_bert\.)?masked_spec_embed",)


def _prefix(model: W2vBert) -> str:
    return "" if model.ctc_vocab_size is None else "wav2vec2_bert."


def _attention_rows(ours: str, theirs: str) -> list[Row]:
    names = dict(query="linear_q", key="linear_k", value="linear_v", out="linear_out")
    return attention(ours, {name: f"{theirs}.{name_there}" for name, name_there in names.items()}, use_bias=True)


def _feed_forward_rows(ours: str, theirs: str) -> list[Row]:
    first = linear(f"{ours}/expand", f"{theirs}.intermediate_dense")
    return first + linear(f"{ours}/contract", f"{theirs}.output_dense")


def _length_adapter_rows(adapter: LengthAdapter, theirs: str) -> list[Row]:
    """Rows of all layers, those of the projection too: a model without one asks for none of them."""
    found = linear("length_adapter/projection", f"{theirs}.proj")
    found += norm("length_adapter/projection_norm", f"{theirs}.proj_layer_norm")
    norms = dict(residual_norm="residual_layer_norm", attention_norm="self_attn_layer_norm")
    for layer in range(adapter.num_layers):
        ours, at = f"length_adapter/stride_{layer}", f"{theirs}.layers.{layer}"
        for name, name_there in (norms | {"feed_forward/norm": "ffn_layer_norm"}).items():
            found += norm(f"{ours}/{name}", f"{at}.{name_there}")
        found += linear(f"{ours}/residual_convolution", f"{at}.residual_conv", Filters())
        found += linear(f"{ours}/attention_convolution", f"{at}.self_attn_conv", Filters())
        found += _attention_rows(f"{ours}/self_attention", f"{at}.self_attn")
        found += _feed_forward_rows(f"{ours}/feed_forward", f"{at}.ffn")
    return found


def _length_adapter(fields: Fields, settings: Mapping[str, Any]) -> dict[str, Any]:
    exists = fields.take("add_adapter", False)
    kernel_size, stride = fields.take("adapter_kernel_size", 3), fields.take("adapter_stride", 2)
    layers, width = fields.take("num_adapter_layers", 1), fields.take("output_hidden_size", None) or settings["width"]
    if not exists:
        fields.drop("adapter_act", "use_intermediate_ffn_before_adapter")
        return dict(length_adapter=None)
    fields.require("adapter_act", "relu")
    fields.require("use_intermediate_ffn_before_adapter", False)
    if kernel_size // 2 != stride // 2:
        raise UnsupportedConfigError(
            f"{fields.where}: adapter_kernel_size {kernel_size} and adapter_stride {stride} pad by different numbers"
            " of frames, their halves; slm_jax supports those that agree alone"
        )
    shared = {name: settings[name] for name in ("num_heads", "ff_width")}
    return dict(length_adapter=LengthAdapter(layers, width, **shared, kernel_size=kernel_size, stride=stride))


def _head(fields: Fields) -> dict[str, Any]:
    architectures = fields.take("architectures", None) or [BARE]
    vocabulary, blank = fields.take("vocab_size", None), fields.take("pad_token_id", 0)
    if architectures == [BARE]:
        return {}
    if architectures != [WITH_CTC_HEAD]:
        raise UnsupportedConfigError(
            f"{fields.where}: architectures is {architectures!r}, but slm_jax supports {BARE} and {WITH_CTC_HEAD} alone"
        )
    if vocabulary is None or blank is None or not 0 <= blank < vocabulary:
        raise UnsupportedConfigError(
            f"{fields.where}: the blank, pad_token_id, is {blank!r}, which is none of the {vocabulary!r} classes"
            " of vocab_size"
        )
    return dict(ctc_vocab_size=vocabulary - 1, ctc_blank=None if blank == vocabulary - 1 else blank)


def _front_end(fields: Fields, num_features: int) -> KaldiLogMel:
    fields.require("sampling_rate", SAMPLE_RATE)
    num_mels = fields.take("num_mel_bins", 80)
    fields.require("feature_size", num_mels)
    fields.drop(*PREPROCESSING)
    fields.require("stride", 2)
    front_end = KaldiLogMel(num_mels=num_mels)
    fields.finish()
    if front_end.num_features != num_features:
        raise UnsupportedConfigError(
            f"{fields.where} make {front_end.num_features} features of a frame, but the model's"
            f" feature_projection_input_dim is {num_features}"
        )
    return front_end
