"""Parity of T5 with Hugging Face transformers: a tiny model with random weights, kept as a golden file.

The file in tests/golden holds weights, inputs and outputs of transformers' own implementation, so that parity is tested
without torch. With torch and transformers the same model is built anew and compared with the file:

    SLM_JAX_UPDATE_GOLDEN=1 python -m pytest tests/models/test_t5_parity.py    # writes the file again
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.models.t5 import T5

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "hf_t5.npz"
VOCAB, WIDTH, FF, LAYERS, HEADS, HEAD_DIM = 11, 12, 20, 2, 4, 6
MODEL = T5(
    vocab_size=VOCAB,
    width=WIDTH,
    ff_width=FF,
    num_heads=HEADS,
    head_dim=HEAD_DIM,
    num_encoder_layers=LAYERS,
    num_decoder_layers=LAYERS,
    relative_buckets=8,
    relative_max_distance=12,
    scan_layers=False,
)


def make_golden():
    """Weights by their Hugging Face names, inputs, and the logits that transformers computes."""
    import torch
    import transformers

    torch.manual_seed(0)
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
        pad_token_id=0,
        eos_token_id=1,
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    rng = np.random.default_rng(0)
    targets = rng.integers(0, VOCAB, (2, 9))
    prefix = rng.normal(size=(2, 14, WIDTH)).astype(np.float32)
    mask = np.arange(14) < np.array([[14], [5]])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
        logits = model(
            inputs_embeds=torch.tensor(prefix),
            attention_mask=torch.tensor(mask),
            decoder_input_ids=torch.tensor(targets),
        ).logits
    weights = {f"weights/{key}": value.numpy() for key, value in model.state_dict().items()}
    return weights | dict(prefix=prefix, mask=mask, targets=targets, logits=logits.numpy())


def linear(weights, name, heads=None):
    """A torch matrix [out, in] as a kernel, its outputs split into heads."""
    kernel = weights[f"{name}.weight"].T
    return {"kernel": kernel if heads is None else kernel.reshape(kernel.shape[0], heads, -1)}


def attention(weights, prefix, names):
    query, key, value, out = (f"{prefix}.{name}" for name in names)
    return {
        "query": linear(weights, query, HEADS),
        "key": linear(weights, key, HEADS),
        "value": linear(weights, value, HEADS),
        "out": {"kernel": weights[f"{out}.weight"].T.reshape(HEADS, HEAD_DIM, WIDTH)},
    }


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
                layer[ours] = attention(weights, f"{at}.{theirs}", "qkvo")
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


def assert_parity(golden):
    weights = {key.removeprefix("weights/"): value for key, value in golden.items() if key.startswith("weights/")}
    params, inputs = t5_parameters(weights), tuple(jnp.asarray(golden[key]) for key in ("prefix", "mask", "targets"))
    expected = trees.flatten(jax.eval_shape(MODEL.init, jax.random.key(0), *inputs)["params"])
    assert {k: v.shape for k, v in trees.flatten(params).items()} == {k: v.value.shape for k, v in expected.items()}

    @jax.jit
    def forward(params):
        hidden = MODEL.apply({"params": params}, *inputs)
        return MODEL.apply({"params": params}, hidden, method="logits")

    np.testing.assert_allclose(forward(params), golden["logits"], atol=1e-4)


def test_parity_with_the_golden_file():
    with np.load(GOLDEN, allow_pickle=False) as golden:
        assert_parity(dict(golden))


@pytest.mark.torch
def test_parity_with_transformers():
    golden = make_golden()
    if os.environ.get("SLM_JAX_UPDATE_GOLDEN"):
        np.savez_compressed(GOLDEN, **golden)
    assert_parity(golden)
