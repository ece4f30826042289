"""Parity of w2v-BERT 2.0 with transformers, from waveforms to CTC scores: tiny models, kept as golden files.

The files in tests/golden hold config.json, preprocessor_config.json, weights and what transformers computes of
`waveforms`. With torch and transformers the same models are built anew:

    SLM_JAX_UPDATE_GOLDEN=1 python -m pytest tests/weights/huggingface/test_w2v_bert.py    # writes the files again
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.models.w2v_bert import LengthAdapter
from slm_jax.weights.huggingface import components, w2v_bert
from slm_jax.weights.huggingface.fields import UnsupportedConfigError

LENGTHS = (4720, 3450)
SIZES = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)
SIZES |= dict(feature_projection_input_dim=16, conv_depthwise_kernel_size=5)
SIZES |= dict(left_max_position_embeddings=4, right_max_position_embeddings=2)
ADAPTER = dict(add_adapter=True, num_adapter_layers=2, output_hidden_size=6)
CONFIGS = {"bare": SIZES, "ctc": SIZES | ADAPTER | dict(vocab_size=6, pad_token_id=2)}


def waveforms():
    """A voice of changing pitch and a hiss, which take turns as vowels and consonants do, twice."""
    rng, time = np.random.default_rng(0), np.arange(max(LENGTHS)) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 3 * time)) / 16000
    voice = sum(np.sin(k * phase) / k**1.5 for k in range(1, 30)) * 10 ** (np.sin(2 * np.pi * 7 * time) - 1)
    hiss = rng.normal(size=len(time)) * 10 ** (np.sin(2 * np.pi * 11 * time + 2) - 1)
    return [(0.2 * voice[:n] + 0.05 * hiss[:n]).astype(np.float32) for n in LENGTHS]


def make_golden(kind, fill_at_random, record_states):
    """config.json, preprocessor_config.json, weights by their names, features, frames and scores.

    The blocks are given the padded batch and its mask. The length adapter of transformers lets what is computed of
    padding into the last frame of a stride, so that it is given each utterance by itself.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.Wav2Vec2BertConfig(**CONFIGS[kind], attn_implementation="eager")
    model = (transformers.Wav2Vec2BertModel if kind == "bare" else transformers.Wav2Vec2BertForCTC)(config).eval()
    hear = transformers.SeamlessM4TFeatureExtractor(feature_size=8, num_mel_bins=8)
    with torch.no_grad():
        fill_at_random(model)
        heard = hear(waveforms(), sampling_rate=16000, return_tensors="pt")
        outputs = dict(features=heard["input_features"], feature_mask=heard["attention_mask"])
        lengths = heard["attention_mask"].sum(1).tolist()
        if kind == "bare":
            with record_states("layers", model.encoder.layers) as states:
                outputs["frames"] = model(**heard).last_hidden_state
            outputs |= states(lengths)
        else:
            alone = [heard["input_features"][row : row + 1, :length] for row, length in enumerate(lengths)]
            outputs |= alone_outputs(model, alone, record_states)
    config = json.loads(config.to_json_string()) | dict(architectures=[type(model).__name__])
    return dict(config=config, preprocessor=hear.to_dict(), weights=model.state_dict(), arrays=outputs)


def alone_outputs(model, utterances, record_states):
    """Scores, frames, and what goes between layers, of utterances given one by one."""
    encoder = model.wav2vec2_bert
    outputs = {f"scores_{row}": model(features).logits[0] for row, features in enumerate(utterances)}
    with (
        record_states("layers", encoder.encoder.layers) as blocks,
        record_states("length_adapter/stride", encoder.adapter.layers) as strides,
    ):
        frames = [encoder(features).last_hidden_state[0] for features in utterances]
    return outputs | {f"frames_{row}": values for row, values in enumerate(frames)} | blocks() | strides()


def assert_parity(golden, batch, model, params):
    features, length = model.front_end(*batch)
    real = golden["feature_mask"].astype(bool)
    assert length.tolist() == real.sum(1).tolist()
    np.testing.assert_allclose(features[:, : real.shape[1]][real], golden["features"][real], atol=1e-4)

    output = jax.jit(lambda params: model.apply({"params": params}, *batch))(params)
    assert not np.any(output.embeddings[~output.mask])
    if "frames" in golden:
        assert np.array_equal(output.mask[:, : real.shape[1]], real) and output.ctc_logits is None
        np.testing.assert_allclose(output.embeddings[output.mask], golden["frames"][real], atol=1e-4)
        return
    for row, mask in enumerate(output.mask):
        np.testing.assert_allclose(output.embeddings[row][mask], golden[f"frames_{row}"], atol=1e-4)
        scores = golden[f"scores_{row}"][:, [0, 1, 3, 4, 5, 2]]  # the blank, pad_token_id, last
        np.testing.assert_allclose(output.ctc_logits[row][mask], scores, atol=1e-4)


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("kind", CONFIGS)
def test_parity_with_the_golden_file(
    kind, scan_layers, tmp_path, read_golden, write_folder, load_encoder, pad_with_garbage
):
    golden = read_golden(f"w2v_bert_{kind}")
    encoder = load_encoder(write_folder(golden, tmp_path), scan_layers=scan_layers)
    assert_parity(golden, pad_with_garbage(waveforms()), *encoder)


@pytest.mark.parametrize("kind", CONFIGS)
def test_parity_of_each_layer(kind, tmp_path, read_golden, write_folder, load_encoder, assert_layers):
    golden = read_golden(f"w2v_bert_{kind}")
    model, params = load_encoder(write_folder(golden, tmp_path), scan_layers=False)
    heard = jnp.asarray(golden["features"]), jnp.asarray(golden["feature_mask"].sum(1))
    assert_layers(golden, lambda params: model.apply({"params": params}, *heard, method="encode"), params)


@pytest.mark.torch
@pytest.mark.parametrize("kind", CONFIGS)
def test_parity_with_transformers(
    kind, tmp_path, fill_at_random, record_states, keep_golden, write_folder, load_encoder, pad_with_garbage
):
    golden = keep_golden(f"w2v_bert_{kind}", **make_golden(kind, fill_at_random, record_states))
    assert_parity(golden, pad_with_garbage(waveforms()), *load_encoder(write_folder(golden, tmp_path)))


def test_what_hides_frames_in_training_may_be_missing(tmp_path, read_golden, write_folder, load_encoder):
    golden = read_golden("w2v_bert_bare")
    _, whole = load_encoder(write_folder(golden, tmp_path))
    del golden["weights/masked_spec_embed"]
    _, without = load_encoder(write_folder(golden, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, without, whole)


def test_settings_reach_the_length_adapter(tmp_path, read_golden, write_folder):
    folder = write_folder(read_golden("w2v_bert_ctc"), tmp_path)
    model = components.speech_encoder(folder, dtype=jnp.bfloat16)
    adapter = dict(num_layers=2, width=6, num_heads=2, ff_width=12, kernel_size=3, stride=2)
    assert model.length_adapter == LengthAdapter(**adapter, dtype=jnp.bfloat16)
    assert (model.ctc_vocab_size, model.ctc_blank, model.front_end.num_mels) == (5, 2, 8)


def test_a_blank_that_is_last_stays_there(tmp_path, read_golden, write_folder):
    folder = write_folder(read_golden("w2v_bert_ctc"), tmp_path, pad_token_id=5)
    assert components.speech_encoder(folder).ctc_blank is None


@pytest.mark.parametrize(
    ("changes", "preprocessor", "message"),
    [
        (dict(layout="new"), {}, "fields that slm_jax does not know.*layout='new'"),
        (
            dict(architectures=["Wav2Vec2BertForXVector"]),
            {},
            "architectures is .'Wav2Vec2BertForXVector'., but slm_jax",
        ),
        (dict(position_embeddings_type="rotary"), {}, "position_embeddings_type is 'rotary', but slm_jax supports"),
        (dict(hidden_act="gelu"), {}, "hidden_act is 'gelu', but slm_jax supports 'swish' or 'silu' alone"),
        (dict(layer_norm_eps=1e-6), {}, "layer_norm_eps is 1e-06, but slm_jax supports 1e-05 alone"),
        (dict(hidden_size=None), {}, "has no 'hidden_size'"),
        (dict(adapter_act="gelu"), {}, "adapter_act is 'gelu', but slm_jax supports 'relu' alone"),
        (dict(use_intermediate_ffn_before_adapter=True), {}, "use_intermediate_ffn_before_adapter is True"),
        (dict(adapter_stride=4), {}, "adapter_kernel_size 3 and adapter_stride 4 pad by different numbers"),
        (dict(vocab_size=None), {}, "pad_token_id, is 2, which is none of the None classes"),
        (dict(pad_token_id=6), {}, "pad_token_id, is 6, which is none of the 6 classes"),
        ({}, dict(num_mel_bins=80, feature_size=80), "make 160 features of a frame, .* is 16"),
        ({}, dict(feature_size=80), "next to config.json: feature_size is 80, but slm_jax supports 8 alone"),
        ({}, dict(sampling_rate=8000), "sampling_rate is 8000, but slm_jax supports 16000 alone"),
        ({}, dict(stride=3), "stride is 3, but slm_jax supports 2 alone"),
        ({}, dict(dither=0.1), "fields that slm_jax does not know.*dither=0.1"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    changes, preprocessor, message, tmp_path, monkeypatch, read_golden, write_folder
):
    monkeypatch.chdir(write_folder(read_golden("w2v_bert_ctc"), tmp_path, preprocessor=preprocessor, **changes))
    with pytest.raises(UnsupportedConfigError, match=message):
        components.speech_encoder(".")  # so that messages name files without a path


def test_scanned_and_unrolled_parameters_are_the_same(tmp_path, read_golden, write_folder, load_encoder):
    folder = write_folder(read_golden("w2v_bert_ctc"), tmp_path)
    (_, stacked), (_, unrolled) = load_encoder(folder), load_encoder(folder, scan_layers=False)
    jax.tree.map(np.testing.assert_array_equal, trees.stack_layers(unrolled), stacked)


def test_sizes_of_the_open_model():
    """facebook/w2v-bert-2.0: 24 layers of width 1024."""
    config = dict(model_type="wav2vec2-bert", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
    model = w2v_bert.model_of(config | dict(intermediate_size=4096), {}, where="config.json")
    shapes = components.parameter_shapes(model)
    assert sum(trees.count(shapes).values()) / 1e9 == pytest.approx(0.580, abs=0.001)
    assert {row.ours for row in w2v_bert.rows(model)} == trees.flatten(shapes).keys()
