"""The speech encoder of Whisper checkpoints, all sizes."""

import pathlib
from collections.abc import Mapping
from typing import Any

from slm_jax.audio.whisper_log_mel import WhisperLogMel
from slm_jax.models.whisper import WhisperEncoder
from slm_jax.weights.huggingface.fields import Fields
from slm_jax.weights.huggingface.folder import PREPROCESSOR
from slm_jax.weights.huggingface.shared_rows import linear, norm
from slm_jax.weights.tables import Filters, Flat, Kernel, Row

FAMILIES = ("whisper",)
"""By the model_type of their config.json."""
UNUSED = (r"model\.decoder\..*", r"proj_out\.weight")
"""The decoder, which is a language model of its own."""
_DECODER = (
    "vocab_size", "decoder_layers", "decoder_attention_heads", "decoder_ffn_dim", "decoder_layerdrop",
    "decoder_start_token_id", "max_target_positions", "max_length", "suppress_tokens", "begin_suppress_tokens",
    "forced_decoder_ids", "tie_word_embeddings", "is_encoder_decoder", "num_hidden_layers", "median_filter_width",
    "classifier_proj_size", "use_weighted_layer_sum", "alignment_heads", "lang_to_id", "scale_embedding",
)  # fmt: skip
_TRAINING = (
    "dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "init_std", "apply_spec_augment",
    "mask_time_prob", "mask_time_length", "mask_time_min_masks", "mask_feature_prob", "mask_feature_length",
    "mask_feature_min_masks",
)  # fmt: skip


def model_of(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], *, where: str, pad: bool = True, **settings: Any
) -> WhisperEncoder:
    """The encoder that config.json and preprocessor_config.json describe.

    Args:
      config: the fields of config.json.
      preprocessor: those of preprocessor_config.json.
      where: the path of config.json, for messages.
      pad: append zeros up to 30 s, as in Whisper's training; otherwise speech is as long as it is.
      **settings: attributes of WhisperEncoder that are no property of the weights: dtype, remat, scan_layers.

    Raises:
      slm_jax.weights.huggingface.fields.UnsupportedConfigError: a field is unknown, missing, or asks for something that
        slm_jax does not compute.
    """
    fields = Fields(dict(config), where=where)
    fields.require("activation_function", "gelu")
    fields.drop(*_DECODER, *_TRAINING)
    mels = fields.take("num_mel_bins", 80)
    sizes = dict(
        num_layers=fields.take("encoder_layers"),
        width=fields.take("d_model"),
        num_heads=fields.take("encoder_attention_heads"),
        ff_width=fields.take("encoder_ffn_dim"),
        max_frames=fields.take("max_source_positions", 1500),
    )
    fields.finish()
    beside = str(pathlib.PurePath(where).with_name(PREPROCESSOR))
    seconds = front_end_seconds(preprocessor, mels=mels, where=beside)
    front_end = WhisperLogMel(num_mels=mels, seconds=seconds if pad else None)
    return WhisperEncoder(**sizes, front_end=front_end, **settings)


def front_end_seconds(preprocessor: Mapping[str, Any], *, mels: int, where: str) -> float:
    """What the front end pads to; refuses one that does not fit the encoder, or that WhisperLogMel does not compute.

    Raises:
      slm_jax.weights.huggingface.fields.UnsupportedConfigError: it does not.
    """
    fields = Fields(dict(preprocessor), where=where)
    fields.require("feature_extractor_type", "WhisperFeatureExtractor")
    fields.require("feature_size", mels)
    fields.require("sampling_rate", 16000)
    fields.require("hop_length", 160)
    fields.require("n_fft", 400)
    fields.require("padding_value", 0.0)
    fields.require("padding_side", "right")
    fields.require("dither", 0.0)
    seconds = float(fields.take("chunk_length", 30))
    # What can be computed from the others; mel_filters is written out in old files.
    fields.drop("n_samples", "nb_max_frames", "mel_filters", "return_attention_mask", "processor_class")
    fields.finish()
    return seconds


def rows(model: WhisperEncoder) -> list[Row]:
    """Where its parameters are in a checkpoint."""
    found = [Row("positions", "model.encoder.embed_positions.weight")]
    for i in range(2):
        found += linear(f"convolution_{i}", f"model.encoder.conv{i + 1}", Filters())
    found += norm("final_norm", "model.encoder.layer_norm")
    layer = "model.encoder.layers.{layer}"
    found += norm("layers/attention_norm", f"{layer}.self_attn_layer_norm")
    found += norm("layers/mlp_norm", f"{layer}.final_layer_norm")
    for name in ("query", "key", "value"):
        found.append(Row(f"layers/attention/{name}/kernel", f"{layer}.self_attn.{name[0]}_proj.weight", Kernel()))
    for name in ("query", "value"):
        found.append(Row(f"layers/attention/{name}/bias", f"{layer}.self_attn.{name[0]}_proj.bias", Flat()))
    found += linear("layers/attention/out", f"{layer}.self_attn.out_proj", Kernel(input_axes=2))
    found += linear("layers/expand", f"{layer}.fc1", Kernel())
    return found + linear("layers/contract", f"{layer}.fc2", Kernel())


def unused(model: WhisperEncoder) -> tuple[str, ...]:
    """Patterns of tensors that a checkpoint may have and the encoder does not need."""
    return UNUSED
