"""Parity with Hugging Face transformers: tiny models with random weights, kept as golden files.

The files in tests/golden hold weights, inputs and outputs of transformers' own implementations, so that parity is
tested without torch. With torch and transformers the same models are built anew and compared with the files:

    SLM_JAX_UPDATE_GOLDEN=1 python -m pytest tests/models/test_hf_parity.py    # writes the files again
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.layers.attention import HeadNorm
from slm_jax.layers.dense import OutputHead
from slm_jax.layers.feed_forward import Activation
from slm_jax.models.decoder_only import (
    DecoderOnly,
    EmbeddingScale,
    Norm,
    ProjectionBias,
    SandwichBlock,
)
from slm_jax.models.t5 import T5

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
VOCAB, WIDTH, FF, LAYERS, HEADS, GROUPS, HEAD_DIM = 11, 12, 20, 2, 4, 2, 6
SIZES = dict(vocab_size=VOCAB, width=WIDTH, ff_width=FF, num_heads=HEADS, head_dim=HEAD_DIM)
DECODER = SIZES | dict(num_layers=LAYERS, num_kv_heads=GROUPS, scan_layers=False)
MODELS = {
    "t5": T5(
        **SIZES,
        num_encoder_layers=LAYERS,
        num_decoder_layers=LAYERS,
        relative_buckets=8,
        relative_max_distance=12,
        scan_layers=False,
    ),
    "llama": DecoderOnly(**DECODER, norm=Norm(epsilon=1e-5), rotary_base=500.0, output_head=OutputHead.UNTIED),
    "gemma2": DecoderOnly(
        **DECODER,
        block=SandwichBlock,
        activation=Activation.GELU,
        norm=Norm(scale_offset=1.0),
        embedding_scale=EmbeddingScale.SQRT_WIDTH,
        query_scale=9.0**-0.5,
        attention_softcap=2.0,
        logit_softcap=3.0,
    ),
    "qwen2": DecoderOnly(**DECODER, projection_bias=ProjectionBias.QUERY_KEY_VALUE, rotary_base=1e6),
    "qwen3": DecoderOnly(**DECODER, head_norm=HeadNorm.RMS, rotary_base=1e6),
}


def build_hugging_face(name):
    import torch
    import transformers

    torch.manual_seed(0)
    common = dict(vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=FF, num_hidden_layers=LAYERS)
    common |= dict(num_attention_heads=HEADS, num_key_value_heads=GROUPS, head_dim=HEAD_DIM)
    common |= dict(pad_token_id=0, eos_token_id=1, bos_token_id=2, attn_implementation="eager")
    if name == "t5":
        config = transformers.T5Config(
            vocab_size=VOCAB,
            d_model=WIDTH,
            d_kv=HEAD_DIM,
            d_ff=FF,
            num_layers=LAYERS,
            num_heads=HEADS,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=12,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
        model = transformers.T5ForConditionalGeneration(config)
    elif name == "llama":
        config = transformers.LlamaConfig(
            **common, rms_norm_eps=1e-5, tie_word_embeddings=False, rope_parameters=rope(500.0)
        )
        model = transformers.LlamaForCausalLM(config)
    elif name == "gemma2":
        caps = dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0, query_pre_attn_scalar=9)
        model = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**common, **caps))
    elif name == "qwen2":
        config = transformers.Qwen2Config(**common, tie_word_embeddings=True, rope_parameters=rope(1e6))
        model = transformers.Qwen2ForCausalLM(config)
    else:
        config = transformers.Qwen3Config(**common, tie_word_embeddings=True, rope_parameters=rope(1e6))
        model = transformers.Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return model.eval()


def rope(base):
    return {"rope_type": "default", "rope_theta": base}


def make_golden(name):
    """Weights by their Hugging Face names, inputs, and the logits that transformers computes."""
    import torch

    model = build_hugging_face(name)
    rng = np.random.default_rng(0)
    targets = rng.integers(0, VOCAB, (2, 9))
    prefix = rng.normal(size=(2, 14, WIDTH)).astype(np.float32)
    mask = np.arange(14) < np.array([[14], [5]])
    with torch.no_grad():
        if name == "t5":
            logits = model(
                inputs_embeds=torch.tensor(prefix),
                attention_mask=torch.tensor(mask),
                decoder_input_ids=torch.tensor(targets),
            ).logits
        else:
            mask[:] = False  # transformers' decoders are causal throughout: the prefix is empty
            logits = model(input_ids=torch.tensor(targets)).logits
    weights = {f"weights/{key}": value.numpy() for key, value in model.state_dict().items()}
    return weights | dict(prefix=prefix, mask=mask, targets=targets, logits=logits.numpy())


def linear(weights, name, heads=None):
    """A torch matrix [out, in] as a kernel, its outputs split into heads."""
    kernel = weights[f"{name}.weight"].T
    return {"kernel": kernel if heads is None else kernel.reshape(kernel.shape[0], heads, -1)}


def attention(weights, prefix, names, groups):
    query, key, value, out = (f"{prefix}.{name}" for name in names)
    params = {
        "query": linear(weights, query, HEADS),
        "key": linear(weights, key, groups),
        "value": linear(weights, value, groups),
        "out": {"kernel": weights[f"{out}.weight"].T.reshape(HEADS, HEAD_DIM, WIDTH)},
    }
    for ours, theirs in (("query", query), ("key", key), ("value", value)):
        if f"{theirs}.bias" in weights:
            params[ours]["bias"] = weights[f"{theirs}.bias"].reshape(-1, HEAD_DIM)
    return params


def scale(weights, name):
    return {"scale": weights[f"{name}.weight"]}


def t5_stack(weights, stack, sublayers):
    params = {"final_norm": scale(weights, f"{stack}.final_layer_norm")}
    table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    params["relative_position_bias"] = {"embedding": weights[table]}
    for i in range(LAYERS):
        layer = {}
        for number, (ours, theirs) in enumerate(sublayers):
            at = f"{stack}.block.{i}.layer.{number}"
            layer[f"{ours}_norm"] = scale(weights, f"{at}.layer_norm")
            if ours == "mlp":
                names = (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo"))
                layer[ours] = {name: linear(weights, f"{at}.{theirs}.{theirs_name}") for name, theirs_name in names}
            else:
                layer[ours] = attention(weights, f"{at}.{theirs}", "qkvo", HEADS)
        params[f"layers_{i}"] = layer
    return params


def t5_parameters(weights):
    mlp = ("mlp", "DenseReluDense")
    decoder = (("self_attention", "SelfAttention"), ("cross_attention", "EncDecAttention"), mlp)
    return {
        "token_embedder": {"embedding": weights["shared.weight"]},
        "encoder": t5_stack(weights, "encoder", (("attention", "SelfAttention"), mlp)),
        "decoder": t5_stack(weights, "decoder", decoder),
        "logits_dense": linear(weights, "lm_head"),
    }


def decoder_layer(weights, at, name):
    norms = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    if name == "gemma2":
        norms |= {"post_attention_norm": "post_attention_layernorm", "mlp_norm": "pre_feedforward_layernorm"}
        norms |= {"post_mlp_norm": "post_feedforward_layernorm"}
    layer = {ours: scale(weights, f"{at}.{theirs}") for ours, theirs in norms.items()}
    layer["mlp"] = {ours: linear(weights, f"{at}.mlp.{ours}_proj") for ours in ("gate", "up", "down")}
    layer["attention"] = attention(weights, f"{at}.self_attn", ("q_proj", "k_proj", "v_proj", "o_proj"), GROUPS)
    if name == "qwen3":
        layer["attention"] |= {f"{n}_norm": scale(weights, f"{at}.self_attn.{n[0]}_norm") for n in ("query", "key")}
    return layer


def decoder_parameters(weights, name):
    decoder = {f"layers_{i}": decoder_layer(weights, f"model.layers.{i}", name) for i in range(LAYERS)}
    decoder["final_norm"] = scale(weights, "model.norm")
    params = {"token_embedder": {"embedding": weights["model.embed_tokens.weight"]}, "decoder": decoder}
    return params | {"logits_dense": linear(weights, "lm_head")} if name == "llama" else params


def assert_parity(name, golden):
    weights = {key.removeprefix("weights/"): value for key, value in golden.items() if key.startswith("weights/")}
    params = t5_parameters(weights) if name == "t5" else decoder_parameters(weights, name)
    model, inputs = MODELS[name], tuple(jnp.asarray(golden[key]) for key in ("prefix", "mask", "targets"))
    expected = trees.flatten(jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"])
    assert {k: v.shape for k, v in trees.flatten(params).items()} == {k: v.value.shape for k, v in expected.items()}

    @jax.jit
    def forward(params):
        hidden = model.apply({"params": params}, *inputs)
        return model.apply({"params": params}, hidden, method="logits")

    np.testing.assert_allclose(forward(params), golden["logits"], atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_parity_with_the_golden_file(name):
    with np.load(GOLDEN / f"hf_{name}.npz", allow_pickle=False) as golden:
        assert_parity(name, dict(golden))


@pytest.mark.torch
@pytest.mark.parametrize("name", MODELS)
def test_parity_with_transformers(name):
    golden = make_golden(name)
    if os.environ.get("SLM_JAX_UPDATE_GOLDEN"):
        np.savez_compressed(GOLDEN / f"hf_{name}.npz", **golden)
    assert_parity(name, golden)
