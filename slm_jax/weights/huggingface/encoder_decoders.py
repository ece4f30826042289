"""Encoder-decoder language models of Hugging Face: T5 1.0 and 1.1, Flan-T5, mT5, mT0, UMT5."""

from collections.abc import Callable, Mapping
from typing import Any

from slm_jax.layers.dense import OutputHead
from slm_jax.layers.feed_forward import Activation, FeedForward, GatedFeedForward
from slm_jax.models.t5 import T5
from slm_jax.models.t5_blocks import PositionTables
from slm_jax.weights.huggingface import decoders
from slm_jax.weights.huggingface.fields import Fields, UnsupportedConfigError
from slm_jax.weights.tables import Kernel, Row

UNUSED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
"""A table that old checkpoints have, and that transformers never reads."""
ACTIVATIONS = {**decoders.ACTIVATIONS, "relu": Activation.RELU}
HEAD, EMBEDDINGS = "lm_head.weight", ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def t5(fields: Fields) -> dict[str, Any]:
    """T5 1.0, T5 1.1, Flan-T5 and what is built like them."""
    return _common(fields, feed_forward="relu") | _head(fields)


def mt5(fields: Fields) -> dict[str, Any]:
    """mT5 and mT0, whose head is a matrix of its own: transformers 5 writes another tie_word_embeddings than 4."""
    fields.drop("tie_word_embeddings")
    return _common(fields, feed_forward="gated-gelu") | dict(output_head=OutputHead.UNTIED)


def umt5(fields: Fields) -> dict[str, Any]:
    """UMT5, where each layer has its own table of relative positions."""
    fields.drop("scalable_attention")
    own = dict(position_tables=PositionTables.PER_LAYER)
    return _common(fields, feed_forward="gated-gelu") | _head(fields) | own


FAMILIES: Mapping[str, Callable[[Fields], dict[str, Any]]] = {"t5": t5, "mt5": mt5, "umt5": umt5}
"""By the model_type of their config.json."""


def model_of(config: Mapping[str, Any], *, where: str, **settings: Any) -> T5:
    """The model that a config.json describes.

    Args:
      config: its fields.
      where: the file, for messages.
      **settings: attributes of T5 that are no property of the weights: dtype, remat, scan_layers, dropout_rate.

    Raises:
      UnsupportedConfigError: a field is unknown, missing, or asks for something that slm_jax does not compute.
    """
    fields = Fields(dict(config), where=where)
    described = FAMILIES[config["model_type"]](fields)
    fields.finish()
    return T5(**described, **settings)


def rows(model: T5) -> list[Row]:
    """Where its parameters are in a checkpoint."""
    tied = model.output_head is OutputHead.TIED
    found = [Row("token_embedder/embedding", EMBEDDINGS[0], copies=EMBEDDINGS[1:] + (HEAD,) * tied)]
    if not tied:
        found.append(Row("logits_dense/kernel", HEAD, Kernel()))
    encoder = {"attention": "SelfAttention", "mlp": "DenseReluDense"}
    decoder = {"self_attention": "SelfAttention", "cross_attention": "EncDecAttention", "mlp": "DenseReluDense"}
    for stack, sublayers in {"encoder": encoder, "decoder": decoder}.items():
        found += _stack_rows(model, stack, sublayers)
    return found


def unused(model: T5) -> tuple[str, ...]:
    """Patterns of tensors that a checkpoint may have and this model does not need."""
    return UNUSED


def _stack_rows(model: T5, stack: str, sublayers: Mapping[str, str]) -> list[Row]:
    found = [Row(f"{stack}/final_norm/scale", f"{stack}.final_layer_norm.weight")]
    table = "layer.0.SelfAttention.relative_attention_bias.weight"
    if model.position_tables is PositionTables.PER_LAYER:
        found.append(Row(f"{stack}/layers/relative_position_bias/embedding", f"{stack}.block.{{layer}}.{table}"))
    else:
        found.append(Row(f"{stack}/relative_position_bias/embedding", f"{stack}.block.0.{table}"))
    for number, (ours, theirs) in enumerate(sublayers.items()):
        layer, at = f"{stack}/layers", f"{stack}.block.{{layer}}.layer.{number}"
        found.append(Row(f"{layer}/{ours}_norm/scale", f"{at}.layer_norm.weight"))
        maps = _mlp_maps(model) if ours == "mlp" else _ATTENTION_MAPS
        for name, (tensor, arrangement) in maps.items():
            found.append(Row(f"{layer}/{ours}/{name}/kernel", f"{at}.{theirs}.{tensor}.weight", arrangement))
    return found


_ATTENTION_MAPS: Mapping[str, tuple[str, Kernel]] = {
    "query": ("q", Kernel()),
    "key": ("k", Kernel()),
    "value": ("v", Kernel()),
    "out": ("o", Kernel(input_axes=2)),
}


def _mlp_maps(model: T5) -> Mapping[str, tuple[str, Kernel]]:
    if model.feed_forward is GatedFeedForward:
        return {"gate": ("wi_0", Kernel()), "up": ("wi_1", Kernel()), "down": ("wo", Kernel())}
    return {"up": ("wi", Kernel()), "down": ("wo", Kernel())}


def _head(fields: Fields) -> dict[str, Any]:
    """Tied and scaled, or neither: scale_decoder_outputs, or what it was called before transformers 5.

    transformers 5 writes tie_word_embeddings=True always, and ties what has no tensor of its own.
    """
    scaled = fields.take("scale_decoder_outputs", fields.take("tie_word_embeddings", True))
    return dict(output_head=OutputHead.TIED if scaled else OutputHead.UNTIED)


def _common(fields: Fields, *, feed_forward: str) -> dict[str, Any]:
    fields.require("is_encoder_decoder", True)
    fields.require("is_decoder", False)
    fields.require("decoder_start_token_id", 0)
    fields.require("parallel_layers", False)
    # How it was trained or made text, and what other code than the model's needs.
    fields.drop("dropout_rate", "classifier_dropout", "initializer_factor", "gradient_checkpointing")
    fields.drop("n_positions", "output_past", "task_specific_params", "tokenizer_class")
    num_layers = fields.take("num_layers")
    return _feed_forward(fields, default=feed_forward) | dict(
        vocab_size=fields.take("vocab_size"),
        width=fields.take("d_model"),
        ff_width=fields.take("d_ff"),
        num_encoder_layers=num_layers,
        num_decoder_layers=fields.take("num_decoder_layers", None) or num_layers,
        num_heads=fields.take("num_heads"),
        head_dim=fields.take("d_kv"),
        norm_epsilon=fields.take("layer_norm_epsilon", 1e-6),
        relative_buckets=fields.take("relative_attention_num_buckets", 32),
        relative_max_distance=fields.take("relative_attention_max_distance", 128),
    )


def _feed_forward(fields: Fields, *, default: str) -> dict[str, Any]:
    """feed_forward_proj, such as 'relu' or 'gated-gelu', which is_gated_act and dense_act_fn overrule."""
    kind = fields.take("feed_forward_proj", default)
    gate, _, name = kind.rpartition("-")
    # 'gated-gelu' alone means the approximation; 'gelu' and what dense_act_fn says mean what they say.
    name = fields.take("dense_act_fn", "gelu_new" if kind == "gated-gelu" else name)
    gated = fields.take("is_gated_act", gate == "gated")
    if gate not in ("", "gated") or name not in ACTIVATIONS:
        choices = ", ".join(sorted(ACTIVATIONS))
        raise UnsupportedConfigError(
            f"{fields.where}: feed_forward_proj is {kind!r} and dense_act_fn {name!r}; slm_jax supports {choices}, each"
            " of them also behind 'gated-'"
        )
    return dict(feed_forward=GatedFeedForward if gated else FeedForward, activation=ACTIVATIONS[name])
