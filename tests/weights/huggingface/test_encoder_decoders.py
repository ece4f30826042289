"""Parity with transformers, from folder to scores and generated tokens: tiny T5s of every kind, kept as golden files.

The files in tests/golden hold a config.json, weights, inputs and outputs of transformers' own implementations, so that
parity is tested without torch. With torch and transformers the same models are built anew and compared with the files:

    SLM_JAX_UPDATE_GOLDEN=1 python -m pytest -m torch tests/weights/huggingface/test_encoder_decoders.py  # writes
"""

import functools
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from slm_jax import trees
from slm_jax.decoding.decode import decode
from slm_jax.decoding.greedy import Greedy
from slm_jax.layers.dense import OutputHead
from slm_jax.layers.feed_forward import Activation, FeedForward, GatedFeedForward
from slm_jax.models.t5_blocks import PositionTables
from slm_jax.weights.huggingface import components
from slm_jax.weights.huggingface.fields import UnsupportedConfigError
from slm_jax.weights.safetensors_io import WeightFileError

VOCAB, WIDTH, PREFIX, TARGETS, GENERATED = 11, 12, 14, 9, 8
SIZES = dict(
    vocab_size=VOCAB,
    d_model=WIDTH,
    d_kv=6,
    d_ff=20,
    num_layers=2,
    num_heads=4,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=12,
    decoder_start_token_id=0,
)
# Golden file -> seed with which generated tokens vary, model_type, and what is special about the config.
MODELS = {
    "t5v1_0": (2, "t5", dict(layer_norm_epsilon=1e-2)),
    "t5v1_1": (0, "t5", dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "mt5": (0, "mt5", dict(num_decoder_layers=3)),
    "umt5": (0, "umt5", dict(num_decoder_layers=3, tie_word_embeddings=False)),
}


def make_golden(name, record_states):
    """config.json and weights as save_pretrained writes them, inputs, scores, and what `generate` makes of them."""
    import torch
    import transformers

    seed, kind, changes = MODELS[name]
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(kind, **(SIZES | changes))
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    if name != "t5v1_0":
        # transformers 5 ties new heads always; those of published checkpoints have a tensor of their own.
        model.lm_head.weight = torch.nn.Parameter(torch.empty(VOCAB, WIDTH))
    prefix = torch.randn(2, PREFIX, WIDTH)
    mask = torch.arange(PREFIX) < torch.tensor([[PREFIX], [5]])
    targets = torch.randint(0, VOCAB, (2, TARGETS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
        given = dict(inputs_embeds=prefix, attention_mask=mask.long())
        with (
            record_states("encoder/layers", model.encoder.block) as encoded,
            record_states("decoder/layers", model.decoder.block) as decoded,
        ):
            scores = model(**given, decoder_input_ids=targets).logits
        # Without a cache: transformers 5.24 makes one of as many layers as the encoder has.
        generated = model.generate(**given, do_sample=False, num_beams=1, max_new_tokens=GENERATED, use_cache=False)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = safetensors.numpy.load_file(f"{folder}/model.safetensors")
        config = json.loads(pathlib.Path(folder, "config.json").read_text())
    arrays = dict(prefix=prefix, mask=mask, targets=targets, scores=scores, generated=generated[:, 1:])
    return dict(config=config, weights=weights, arrays=arrays | encoded(mask.sum(1)) | decoded())


def inputs(golden):
    """Prefix with NaN for padding, its mask, and what the decoder is given."""
    mask, targets = jnp.asarray(golden["mask"]), jnp.asarray(golden["targets"], jnp.int32)
    return jnp.where(mask[..., None], jnp.asarray(golden["prefix"]), jnp.nan), mask, targets


def assert_parity(golden, model, params):
    """The same scores and the same greedy tokens, whatever stands in the padding."""
    prefix, mask, targets = inputs(golden)

    @jax.jit
    def compute(params):
        hidden = model.apply({"params": params}, prefix, mask, targets)
        cache = model.apply({"params": params}, prefix, mask, max_decode_length=GENERATED, method="prefill")
        step = functools.partial(model.apply, {"params": params}, method="step")
        decoded = decode(step, cache, batch_size=len(mask), method=Greedy(), max_length=GENERATED)
        return model.apply({"params": params}, hidden, method="logits"), decoded.tokens

    scores, tokens = compute(params)
    np.testing.assert_allclose(scores, golden["scores"], atol=1e-4)
    generated = golden["generated"]
    np.testing.assert_array_equal(tokens, np.pad(generated, ((0, 0), (0, GENERATED - generated.shape[1]))))


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_parity_with_the_golden_file(name, scan_layers, tmp_path, read_golden, write_folder, load_language_model):
    golden = read_golden(name)
    assert_parity(golden, *load_language_model(write_folder(golden, tmp_path), scan_layers=scan_layers))


@pytest.mark.parametrize("name", MODELS)
def test_parity_of_each_layer(name, tmp_path, read_golden, write_folder, load_language_model, assert_layers):
    golden = read_golden(name)
    model, params = load_language_model(write_folder(golden, tmp_path), scan_layers=False)
    assert_layers(golden, lambda params: model.apply({"params": params}, *inputs(golden)), params)


@pytest.mark.torch
@pytest.mark.parametrize("name", MODELS)
def test_parity_with_transformers(name, tmp_path, record_states, keep_golden, write_folder, load_language_model):
    golden = keep_golden(name, **make_golden(name, record_states))
    assert_parity(golden, *load_language_model(write_folder(golden, tmp_path)))


def test_golden_generations_say_something(read_golden):
    """Tokens that never changed, or never ended, would tell little about decoding."""
    generated = [row for name in MODELS for row in read_golden(name)["generated"]]
    assert all(len(set(row)) > 1 for row in generated)
    assert any(1 in row for row in generated) and any(1 not in row for row in generated)


def test_scanned_and_unrolled_parameters_are_the_same(tmp_path, read_golden, write_folder, load_language_model):
    folder = write_folder(read_golden("umt5"), tmp_path)
    (_, stacked), (_, unrolled) = load_language_model(folder), load_language_model(folder, scan_layers=False)
    jax.tree.map(np.testing.assert_array_equal, trees.stack_layers(unrolled), stacked)


OLD = dict(scale_decoder_outputs=None)
UNSAID = dict(is_gated_act=None, dense_act_fn=None)
SAYS_NOTHING = dict(scalable_attention=True, n_positions=512, output_past=True, task_specific_params={"prefix": ""})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("t5v1_0", OLD),
        ("t5v1_0", OLD | dict(tie_word_embeddings=None)),
        ("t5v1_1", OLD | dict(tie_word_embeddings=False)),
        ("mt5", dict(tie_word_embeddings=False)),
        ("mt5", dict(tie_word_embeddings=None)),
        ("umt5", OLD | dict(tie_word_embeddings=False)),
        ("t5v1_1", UNSAID | dict(num_decoder_layers=None)),
        ("t5v1_0", dict(feed_forward_proj=None)),
        ("umt5", UNSAID | dict(feed_forward_proj=None)),
        ("umt5", SAYS_NOTHING),
    ],
)
def test_a_config_of_transformers_4_describes_the_same_model(name, changes, tmp_path, read_golden, write_folder):
    golden = read_golden(name)
    new = components.language_model(write_folder(golden, tmp_path))
    assert components.language_model(write_folder(golden, tmp_path, **changes)) == new


@pytest.mark.parametrize(
    ("field", "value", "attribute", "expected"),
    [
        ("vocab_size", 17, "vocab_size", 17),
        ("d_model", 16, "width", 16),
        ("d_ff", 24, "ff_width", 24),
        ("d_kv", 8, "head_dim", 8),
        ("num_heads", 2, "num_heads", 2),
        ("num_layers", 5, "num_encoder_layers", 5),
        ("num_decoder_layers", 5, "num_decoder_layers", 5),
        ("layer_norm_epsilon", 1e-3, "norm_epsilon", 1e-3),
        ("relative_attention_num_buckets", 16, "relative_buckets", 16),
        ("relative_attention_max_distance", 64, "relative_max_distance", 64),
        ("scale_decoder_outputs", False, "output_head", OutputHead.UNTIED),
        ("is_gated_act", True, "feed_forward", GatedFeedForward),
        ("dense_act_fn", "silu", "activation", Activation.SILU),
        ("model_type", "umt5", "position_tables", PositionTables.PER_LAYER),
    ],
)
def test_every_field_of_the_computation_reaches_the_model(
    field, value, attribute, expected, tmp_path, read_golden, write_folder
):
    golden = read_golden("t5v1_0")
    before = components.language_model(write_folder(golden, tmp_path))
    after = components.language_model(write_folder(golden, tmp_path, **{field: value}))
    assert getattr(before, attribute) != expected
    assert after == before.clone(**{attribute: expected})


@pytest.mark.parametrize(
    ("projection", "feed_forward", "activation"),
    [
        ("relu", FeedForward, Activation.RELU),
        ("gelu", FeedForward, Activation.EXACT_GELU),
        ("gated-gelu", GatedFeedForward, Activation.GELU),
        ("gated-gelu_new", GatedFeedForward, Activation.GELU),
        ("gated-silu", GatedFeedForward, Activation.SILU),
        ("gated-relu", GatedFeedForward, Activation.RELU),
    ],
)
def test_the_projection_names_kind_and_function(
    projection, feed_forward, activation, tmp_path, read_golden, write_folder
):
    changes = dict(feed_forward_proj=projection, is_gated_act=None, dense_act_fn=None)
    model = components.language_model(write_folder(read_golden("t5v1_0"), tmp_path, **changes))
    assert (model.feed_forward, model.activation) == (feed_forward, activation)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(router_z_loss_coef=0.1), "fields that slm_jax does not know.*router_z_loss_coef=0.1"),
        (dict(is_decoder=True), "is_decoder is True, but slm_jax supports False alone"),
        (dict(is_encoder_decoder=False), "is_encoder_decoder is False, but slm_jax supports True alone"),
        (dict(decoder_start_token_id=2), "decoder_start_token_id is 2, but slm_jax supports 0 alone"),
        (dict(parallel_layers=True), "parallel_layers is True, but slm_jax supports False alone"),
        (dict(dense_act_fn="tanh"), "feed_forward_proj is 'relu' and dense_act_fn 'tanh'; slm_jax supports gelu, "),
        (dict(feed_forward_proj="split-gelu"), "feed_forward_proj is 'split-gelu'"),
        (dict(d_kv=None), "has no 'd_kv'"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(changes, message, tmp_path, read_golden, write_folder):
    folder = write_folder(read_golden("t5v1_0"), tmp_path, **changes)
    with pytest.raises(UnsupportedConfigError, match=message):
        components.language_model(folder)


def renamed(golden, **names):
    """The golden file with tensors under other names, as many as are given."""
    golden = dict(golden)
    for old, new in names.items():
        tensor = golden.pop(f"weights/{old}.weight")
        golden |= {f"weights/{name}.weight": tensor.copy() for name in new}
    return golden


EMBEDDINGS = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")


@pytest.mark.parametrize(
    ("name", "names"),
    [("t5v1_1", EMBEDDINGS), ("t5v1_1", EMBEDDINGS[2:]), ("t5v1_0", (*EMBEDDINGS, "lm_head"))],
    ids=str,
)
def test_embeddings_may_stand_under_other_names(name, names, tmp_path, read_golden, write_folder, load_language_model):
    """Old checkpoints have them three or four times; MADLAD-400 has only the decoder's."""
    golden = read_golden(name)
    _, expected = load_language_model(write_folder(golden, tmp_path))
    _, found = load_language_model(write_folder(renamed(golden, shared=names), tmp_path))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_tied_head_with_a_tensor_of_its_own_is_refused(tmp_path, read_golden, write_folder, load_language_model):
    golden = read_golden("t5v1_0")
    golden["weights/lm_head.weight"] = golden["weights/shared.weight"] + 1
    with pytest.raises(WeightFileError, match=r"lm_head\.weight differs from shared\.weight"):
        load_language_model(write_folder(golden, tmp_path))


def test_an_untied_head_without_a_tensor_is_refused(tmp_path, read_golden, write_folder, load_language_model):
    golden = renamed(read_golden("t5v1_1"), lm_head=())
    with pytest.raises(WeightFileError, match=r"missing \(1\): lm_head\.weight"):
        load_language_model(write_folder(golden, tmp_path))


def test_the_table_that_old_checkpoints_have_for_nothing_is_left_behind(
    tmp_path, read_golden, write_folder, load_language_model
):
    golden = read_golden("t5v1_0")
    name = "weights/decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    golden[name] = np.zeros((8, 4), np.float32)
    assert_parity(golden, *load_language_model(write_folder(golden, tmp_path)))
