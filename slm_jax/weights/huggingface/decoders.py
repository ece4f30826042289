"""Decoder-only language models of Hugging Face: Llama, SmolLM2, Qwen 2 and 3, Gemma 1 to 3."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from slm_jax.layers.attention import HeadNorm, ProjectionBias
from slm_jax.layers.dense import OutputHead
from slm_jax.layers.feed_forward import Activation
from slm_jax.layers.positions import LinearScaling, Llama3Scaling, RotaryScaling
from slm_jax.models.decoder_blocks import Norm, SandwichBlock
from slm_jax.models.decoder_only import DecoderOnly, EmbeddingScale
from slm_jax.weights.huggingface.fields import Fields, UnsupportedConfigError
from slm_jax.weights.tables import Flat, Kernel, Row

UNUSED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
"""Tensors of old checkpoints that can be computed."""
ACTIVATIONS = {
    "silu": Activation.SILU,
    "gelu": Activation.EXACT_GELU,
    "gelu_pytorch_tanh": Activation.GELU,
    "gelu_new": Activation.GELU,
}


def llama(fields: Fields) -> dict[str, Any]:
    """Llama 1 to 3, SmolLM2 and what is built like them."""
    fields.require("attention_bias", False)
    fields.require("mlp_bias", False)
    fields.drop("pretraining_tp", "is_llama_config", "rope_interleaved")
    return _common(fields) | _rotary(fields)


def qwen2(fields: Fields) -> dict[str, Any]:
    """Qwen 1.5, 2 and 2.5."""
    _no_windows(fields)
    return _common(fields) | _rotary(fields) | dict(projection_bias=ProjectionBias.QUERY_KEY_VALUE)


def qwen3(fields: Fields) -> dict[str, Any]:
    """Qwen 3, dense."""
    _no_windows(fields)
    fields.require("attention_bias", False)
    return _common(fields) | _rotary(fields) | dict(head_norm=HeadNorm.RMS)


def gemma(fields: Fields) -> dict[str, Any]:
    """Gemma 1."""
    # Its first checkpoints say 'gelu' in hidden_act and mean the approximation, which is what they were trained with.
    fields.require("hidden_activation", None, "gelu_pytorch_tanh")
    fields.require("hidden_act", "gelu_pytorch_tanh", "gelu")
    settings = _common(fields, **_GEMMA)
    return settings | _rotary(fields) | _gemma_norm(settings["norm"], fields)


def gemma2(fields: Fields) -> dict[str, Any]:
    """Gemma 2: every second layer has a window, and scores are capped."""
    caps = dict(
        attention_softcap=fields.take("attn_logit_softcapping", 50.0),
        logit_softcap=fields.take("final_logit_softcapping", 30.0),
    )
    return _sandwiched(fields, pattern=2) | _rotary(fields) | caps


def gemma3_text(fields: Fields) -> dict[str, Any]:
    """The language model of Gemma 3: five of six layers have a window, and a rotary base of their own."""
    fields.require("attn_logit_softcapping", None)
    fields.require("final_logit_softcapping", None)
    pattern = fields.take("sliding_window_pattern", fields.take("_sliding_window_pattern", 6))
    return _sandwiched(fields, pattern=pattern) | _rotary_by_window(fields) | dict(head_norm=HeadNorm.RMS)


FAMILIES: Mapping[str, Callable[[Fields], dict[str, Any]]] = {
    "llama": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
}
"""By the model_type of their config.json."""


def model_of(config: Mapping[str, Any], *, where: str, **settings: Any) -> DecoderOnly:
    """The model that a config.json describes.

    Args:
      config: its fields.
      where: the file, for messages.
      **settings: attributes of DecoderOnly that are no property of the weights: dtype, remat, scan_layers.

    Raises:
      UnsupportedConfigError: a field is unknown, missing, or asks for something that slm_jax does not compute.
    """
    fields = Fields(dict(config), where=where)
    described = FAMILIES[config["model_type"]](fields)
    fields.finish()
    return DecoderOnly(**described, **settings)


def rows(model: DecoderOnly) -> list[Row]:
    """Where its parameters are in a checkpoint."""
    sandwich = model.block is SandwichBlock
    norms = {"attention_norm": "input_layernorm"}
    if sandwich:
        norms |= {"post_attention_norm": "post_attention_layernorm", "mlp_norm": "pre_feedforward_layernorm"}
        norms |= {"post_mlp_norm": "post_feedforward_layernorm"}
    else:
        norms |= {"mlp_norm": "post_attention_layernorm"}
    if model.head_norm is HeadNorm.RMS:
        norms |= {"attention/query_norm": "self_attn.q_norm", "attention/key_norm": "self_attn.k_norm"}
    found = [_layer_row(f"{ours}/scale", f"{theirs}.weight") for ours, theirs in norms.items()]
    for name in ("gate", "up", "down"):
        found.append(_layer_row(f"mlp/{name}/kernel", f"mlp.{name}_proj.weight", Kernel()))
    for name in ("query", "key", "value"):
        at = f"self_attn.{name[0]}_proj"
        found.append(_layer_row(f"attention/{name}/kernel", f"{at}.weight", Kernel()))
        if model.projection_bias is ProjectionBias.QUERY_KEY_VALUE:
            found.append(_layer_row(f"attention/{name}/bias", f"{at}.bias", Flat()))
    found.append(_layer_row("attention/out/kernel", "self_attn.o_proj.weight", Kernel(input_axes=2)))
    found.append(Row("token_embedder/embedding", "model.embed_tokens.weight"))
    found.append(Row("decoder/final_norm/scale", "model.norm.weight"))
    if model.output_head is OutputHead.UNTIED:
        found.append(Row("logits_dense/kernel", "lm_head.weight", Kernel()))
    return found


def unused(model: DecoderOnly) -> tuple[str, ...]:
    """Patterns of tensors that a checkpoint may have and this model does not need."""
    return UNUSED if model.output_head is OutputHead.UNTIED else (*UNUSED, r"lm_head\.weight")


def _layer_row(ours: str, theirs: str, *arrangement: Any) -> Row:
    return Row(f"decoder/layers/{ours}", f"model.layers.{{layer}}.{theirs}", *arrangement)


_GEMMA: Mapping[str, Any] = {"activation": "gelu_pytorch_tanh", "tied": True}


def _common(fields: Fields, *, activation: str | None = None, tied: bool = False) -> dict[str, Any]:
    fields.require("attention_dropout", 0.0)
    width, heads = fields.take("hidden_size"), fields.take("num_attention_heads")
    activation = activation or fields.take("hidden_act")
    if activation not in ACTIVATIONS:
        raise UnsupportedConfigError(f"{fields.where}: hidden_act is {activation!r}, not one of {sorted(ACTIVATIONS)}")
    return dict(
        vocab_size=fields.take("vocab_size"),
        width=width,
        ff_width=fields.take("intermediate_size"),
        num_layers=fields.take("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=fields.take("num_key_value_heads", None) or heads,
        head_dim=fields.take("head_dim", None) or width // heads,
        activation=ACTIVATIONS[activation],
        norm=Norm(epsilon=fields.take("rms_norm_eps", 1e-6)),
        output_head=OutputHead.TIED if fields.take("tie_word_embeddings", tied) else OutputHead.UNTIED,
    )


def _sandwiched(fields: Fields, *, pattern: int) -> dict[str, Any]:
    """What Gemma 2 and 3 share; every `pattern`-th layer sees everything, where layer_types does not say otherwise."""
    fields.require("hidden_activation", "gelu_pytorch_tanh")
    fields.drop("cache_implementation", "hidden_act")
    scale = fields.take("query_pre_attn_scalar", 256) ** -0.5
    window = fields.take("sliding_window", 4096)
    near, everything = "sliding_attention", "full_attention"
    settings = _common(fields, **_GEMMA)
    kinds = fields.take("layer_types", None) or [near] * (pattern - 1) + [everything]
    if unknown := sorted(set(kinds) - {near, everything}):
        raise UnsupportedConfigError(
            f"{fields.where}: layer_types has {unknown}, not {near!r} and {everything!r} alone"
        )
    windows = tuple(window if kind == near else None for kind in kinds)
    own = dict(block=SandwichBlock, query_scale=scale, windows=windows)
    return settings | _gemma_norm(settings["norm"], fields) | own


def _gemma_norm(norm: Norm, fields: Fields) -> dict[str, Any]:
    fields.require("attention_bias", False)
    fields.require("use_bidirectional_attention", None, False)
    scaled = dataclasses.replace(norm, scale_offset=1.0)
    return dict(norm=scaled, embedding_scale=EmbeddingScale.SQRT_WIDTH)


def _no_windows(fields: Fields) -> None:
    fields.require("use_sliding_window", False)
    fields.drop("sliding_window", "max_window_layers")
    kinds = fields.take("layer_types", None) or []
    if set(kinds) - {"full_attention"}:
        raise UnsupportedConfigError(f"{fields.where}: layer_types is {kinds}, but use_sliding_window is not set")


def _rotary_by_window(fields: Fields) -> dict[str, Any]:
    kinds = fields.take("rope_parameters", None)
    local = fields.take("rope_local_base_freq", 10_000.0)
    if kinds is None:
        fields.left.setdefault("rope_theta", 1_000_000.0)
        return _rotary(fields) | dict(window_rotary_base=float(local))
    near, everything = dict(kinds["sliding_attention"]), dict(kinds["full_attention"])
    if _scaling(near, fields.where) is not None:
        raise UnsupportedConfigError(f"{fields.where}: rotary positions of layers with a window are scaled: {near}")
    fields.left["rope_parameters"] = everything
    return _rotary(fields) | dict(window_rotary_base=float(near.get("rope_theta", local)))


def _rotary(fields: Fields) -> dict[str, Any]:
    found = dict(fields.take("rope_parameters", None) or {})
    base = fields.take("rope_theta", found.pop("rope_theta", 10_000.0))
    found |= fields.take("rope_scaling", None) or {}
    return dict(rotary_base=float(base), rotary_scaling=_scaling(found, fields.where))


def _scaling(found: Mapping[str, Any], where: str) -> RotaryScaling | None:
    kind = found.get("rope_type", found.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(float(found["factor"]))
    if kind == "llama3":
        return Llama3Scaling(
            factor=float(found["factor"]),
            low_frequency_factor=float(found["low_freq_factor"]),
            high_frequency_factor=float(found["high_freq_factor"]),
            original_length=float(found["original_max_position_embeddings"]),
        )
    raise UnsupportedConfigError(f"{where}: rotary scaling of type {kind!r}, not one of default, linear, llama3")
