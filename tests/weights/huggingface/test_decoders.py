"""Parity with transformers, from folder to scores: tiny models of every family, kept as golden files.

The files in tests/golden hold a config.json, weights, inputs and outputs of transformers' own implementations, so that
parity is tested without torch. With torch and transformers the same models are built anew and compared with the files:

    SLM_JAX_UPDATE_GOLDEN=1 python -m pytest tests/weights/huggingface/test_decoders.py    # writes the files again
"""

import copy

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.resources import gin_folder
from slm_jax.weights import foundation
from slm_jax.weights.huggingface import components
from slm_jax.weights.huggingface.fields import UnsupportedConfigError

VOCAB, WIDTH, LENGTH, PADDING = 11, 12, 12, 3
SIZES = dict(
    vocab_size=VOCAB,
    hidden_size=WIDTH,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=2,
)
LLAMA3 = dict(rope_type="llama3", rope_theta=50.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=2.0)
NEAR, FAR = "sliding_attention", "full_attention"
CONFIGS = {
    "llama": dict(
        rms_norm_eps=1e-2,
        tie_word_embeddings=False,
        rope_parameters=LLAMA3 | dict(original_max_position_embeddings=12),
    ),
    "qwen2": dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1e3)),
    "qwen3": dict(
        rms_norm_eps=1e-2,
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type="linear", rope_theta=1e3, factor=3.0),
    ),
    "gemma": dict(rms_norm_eps=1e-2),
    "gemma2": dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0, query_pre_attn_scalar=9, sliding_window=4),
    "gemma3_text": dict(
        num_hidden_layers=3,
        query_pre_attn_scalar=9,
        sliding_window=4,
        layer_types=[NEAR, FAR, NEAR],
        rope_parameters={
            NEAR: dict(rope_type="default", rope_theta=50.0),
            FAR: dict(rope_type="linear", rope_theta=1e3, factor=3.0),
        },
    ),
}
# Gemma's norms scale by 1 + weight, and no second norm holds what the sublayers give: with weights as large as the
# others' its hidden states are in the thirties, where float32 itself is off by 2e-5 a layer.
STDDEVS = {"gemma": 0.25}


def make_golden(kind, record_states):
    """config.json, weights by their names, tokens, and the scores that transformers computes."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **(SIZES | CONFIGS[kind]), attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * STDDEVS.get(kind, 0.5))
        tokens = torch.randint(0, VOCAB, (2, LENGTH))
        with record_states("decoder/layers", model.model.layers) as states:
            scores = model(input_ids=tokens).logits
    weights = model.state_dict()
    if getattr(config, "tie_word_embeddings", False):
        weights.pop("lm_head.weight", None)  # save_pretrained leaves it out too
    config = config.to_diff_dict() | {"model_type": kind}
    return dict(config=config, weights=weights, arrays=dict(tokens=tokens, scores=scores) | states())


def hidden_states(golden, model, params):
    """What the tokens become behind a prefix that is nothing but padding."""
    prefix, mask = jnp.full((2, PADDING, model.width), jnp.nan), jnp.zeros((2, PADDING), bool)
    return model.apply({"params": params}, prefix, mask, jnp.asarray(golden["tokens"], jnp.int32))


def assert_parity(golden, model, params):
    @jax.jit
    def scores(params):
        return model.apply({"params": params}, hidden_states(golden, model, params), method="logits")

    np.testing.assert_allclose(scores(params), golden["scores"], atol=1e-4)


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("kind", CONFIGS)
def test_parity_with_the_golden_file(kind, scan_layers, tmp_path, read_golden, write_folder, load_language_model):
    golden = read_golden(kind)
    assert_parity(golden, *load_language_model(write_folder(golden, tmp_path), scan_layers=scan_layers))


@pytest.mark.parametrize("kind", CONFIGS)
def test_parity_of_each_layer(kind, tmp_path, read_golden, write_folder, load_language_model, assert_layers):
    golden = read_golden(kind)
    model, params = load_language_model(write_folder(golden, tmp_path), scan_layers=False)
    assert_layers(golden, lambda params: hidden_states(golden, model, params), params, start=PADDING)


def test_a_layer_that_differs_is_named(tmp_path, read_golden, write_folder, load_language_model, assert_layers):
    """The second of two: what comes before it is the same."""
    golden = read_golden("llama")
    golden["weights/model.layers.1.mlp.down_proj.weight"] *= 1.0001
    model, params = load_language_model(write_folder(golden, tmp_path), scan_layers=False)
    with pytest.raises(AssertionError, match="decoder/layers_2"):
        assert_layers(golden, lambda params: hidden_states(golden, model, params), params, start=PADDING)


@pytest.mark.torch
@pytest.mark.parametrize("kind", CONFIGS)
def test_parity_with_transformers(kind, tmp_path, record_states, keep_golden, write_folder, load_language_model):
    golden = keep_golden(kind, **make_golden(kind, record_states))
    assert_parity(golden, *load_language_model(write_folder(golden, tmp_path)))


def test_a_gin_file_takes_model_and_parameters_from_one_folder(
    tmp_path, monkeypatch, read_golden, write_folder, load_language_model
):
    folder = write_folder(read_golden("llama"), tmp_path)
    monkeypatch.chdir(gin_folder())
    gin.clear_config()
    settings = [f"LM_FOLDER = '{folder}'", "components.language_model.dtype = 'bfloat16'"]
    gin.parse_config_files_and_bindings(["models/lms/hugging_face.gin"], settings)
    model, source = (copy.deepcopy(gin.query_parameter(f"{name}/gin.macro.value")) for name in ("LM", "LM_SOURCE"))
    gin.clear_config()
    assert model == components.language_model(folder, dtype="bfloat16")
    loaded = foundation.load_component(source, component="lm", shapes=components.parameter_shapes(model))
    jax.tree.map(np.testing.assert_array_equal, loaded.parameters, load_language_model(folder)[1])
    assert loaded.path == folder


@pytest.mark.parametrize("kind", ["llama", "qwen2"])  # untied and tied
def test_padding_changes_places_with_a_token(kind, tmp_path, read_golden, write_folder, load_language_model):
    folder = write_folder(read_golden(kind), tmp_path)
    model, params = load_language_model(folder)
    shapes = components.parameter_shapes(model)
    source = components.Checkpoint(str(folder), padding_id=7)
    exchanged = foundation.load_component(source, component="lm", shapes=shapes).parameters
    order = jnp.array([7, 1, 2, 3, 4, 5, 6, 0, 8, 9, 10])
    tokens = jnp.array([[3, 0, 7, 5]])
    prefix, mask = jnp.zeros((1, 1, model.width)), jnp.zeros((1, 1), bool)

    def scores(params, tokens):
        hidden = model.apply({"params": params}, prefix, mask, tokens)
        return model.apply({"params": params}, hidden, method="logits")

    np.testing.assert_array_equal(scores(exchanged, order[tokens])[..., order], scores(params, tokens))
    with pytest.raises(ValueError, match="padding_id is 11, but .* has 11 tokens"):
        dict(components.Checkpoint(str(folder), padding_id=11).read("lm", shapes=trees.flatten(shapes)))


def test_it_is_no_other_component(tmp_path, read_golden, write_folder):
    folder = write_folder(read_golden("llama"), tmp_path)
    with pytest.raises(UnsupportedConfigError, match="model_type is 'llama'; slm_jax knows speech encoders"):
        dict(components.Checkpoint(str(folder)).read("speech_encoder", shapes={}))
    with pytest.raises(ValueError, match="'lm' and 'speech_encoder', not 'adapter'"):
        dict(components.Checkpoint(str(folder)).read("adapter", shapes={}))


def test_scanned_and_unrolled_parameters_are_the_same(tmp_path, read_golden, write_folder, load_language_model):
    folder = write_folder(read_golden("llama"), tmp_path)
    (_, stacked), (_, unrolled) = load_language_model(folder), load_language_model(folder, scan_layers=False)
    jax.tree.map(np.testing.assert_array_equal, trees.stack_layers(unrolled), stacked)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "llama",
            dict(model_type="mamba"),
            "model_type is 'mamba'; slm_jax knows language models gemma, gemma2, gemma3_text, llama",
        ),
        ("llama", dict(residual_multiplier=0.2), "fields that slm_jax does not know.*residual_multiplier=0.2"),
        ("llama", dict(attention_bias=True), "attention_bias is True, but slm_jax supports False alone"),
        ("llama", dict(hidden_act="relu2"), "hidden_act is 'relu2', not one of"),
        ("llama", dict(rope_parameters=dict(rope_type="yarn")), "rotary scaling of type 'yarn'"),
        ("llama", dict(vocab_size=None), "has no 'vocab_size'"),
        ("qwen2", dict(use_sliding_window=True), "use_sliding_window is True"),
        (
            "gemma",
            dict(hidden_act="relu"),
            "hidden_act is 'relu', but slm_jax supports 'gelu_pytorch_tanh' or 'gelu' alone",
        ),
        ("gemma2", dict(layer_types=["chunked_attention"]), "layer_types has .'chunked_attention'.,"),
        ("gemma3_text", dict(use_bidirectional_attention=True), "use_bidirectional_attention is True"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(kind, changes, message, tmp_path, read_golden, write_folder):
    folder = write_folder(read_golden(kind), tmp_path, **changes)
    with pytest.raises(UnsupportedConfigError, match=message):
        components.language_model(folder)
