"""Parity of Parakeet with transformers, from waveforms to CTC scores: tiny models, kept as golden files.

The files in tests/golden hold config.json, preprocessor_config.json, weights and what transformers computes of
`waveforms`. With torch and transformers the same models are built anew:

    SLM_JAX_UPDATE_GOLDEN=1 python -m pytest tests/weights/huggingface/test_fast_conformer.py    # writes them again
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.audio.nemo_log_mel import NemoLogMel
from slm_jax.weights.huggingface import components, fast_conformer
from slm_jax.weights.huggingface.fields import UnsupportedConfigError

LENGTHS = (8000, 5130)
SIZES = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, num_mel_bins=8)
SIZES |= dict(conv_kernel_size=5, subsampling_conv_channels=3)
CONFIGS = {
    "parakeet_ctc": SIZES,
    "parakeet_encoder": SIZES
    | dict(attention_bias=False, convolution_bias=False, scale_input=False, subsampling_factor=4),
}


def waveforms():
    """A voice of changing pitch and loudness, with noise, twice."""
    rng, time = np.random.default_rng(0), np.arange(max(LENGTHS)) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 3 * time)) / 16000
    voice = sum(np.sin(k * phase) / k**1.5 for k in range(1, 30)) * np.sin(2 * np.pi * 4 * time) ** 2
    return [(0.2 * voice[:n] + 1e-3 * rng.normal(size=n)).astype(np.float32) for n in LENGTHS]


def make_golden(kind, fill_at_random, record_states):
    """config.json, preprocessor_config.json, weights by their names, features, frames and scores."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.ParakeetEncoderConfig(**CONFIGS[kind], attn_implementation="eager")
    if kind == "parakeet_ctc":
        config = transformers.ParakeetCTCConfig(vocab_size=6, pad_token_id=5, encoder_config=config)
    model = (transformers.ParakeetForCTC if kind == "parakeet_ctc" else transformers.ParakeetEncoder)(config).eval()
    hear = transformers.ParakeetFeatureExtractor(feature_size=SIZES["num_mel_bins"])
    with torch.no_grad():
        fill_at_random(model)
        heard = hear(waveforms(), sampling_rate=16000, return_tensors="pt")
        encoder = model.encoder if kind == "parakeet_ctc" else model
        with record_states("layers", encoder.layers) as states:
            frames = encoder(**heard)
        outputs = dict(frames=frames.last_hidden_state, mask=frames.attention_mask, features=heard["input_features"])
        outputs |= states(frames.attention_mask.sum(1)) | dict(feature_mask=heard["attention_mask"])
        if kind == "parakeet_ctc":
            outputs["scores"] = model(**heard).logits
    config = json.loads(config.to_json_string()) | dict(architectures=[type(model).__name__], model_type=kind)
    return dict(config=config, preprocessor=hear.to_dict(), weights=model.state_dict(), arrays=outputs)


def assert_parity(golden, batch, model, params):
    features, length = model.front_end(*batch)
    size = features.shape[1]
    assert length.tolist() == golden["feature_mask"].sum(1).tolist()
    heard = np.pad(golden["features"], ((0, 0), (0, size), (0, 0)))[:, :size]
    np.testing.assert_allclose(features, heard, atol=1e-4)

    output = jax.jit(lambda params: model.apply({"params": params}, *batch))(params)
    real = golden["mask"].astype(bool)
    assert np.array_equal(output.mask[:, : real.shape[1]], real) and output.mask.sum() == real.sum()
    np.testing.assert_allclose(output.embeddings[output.mask], golden["frames"][real], atol=1e-4)
    assert not np.any(output.embeddings[~output.mask])
    if "scores" in golden:
        np.testing.assert_allclose(output.ctc_logits[output.mask], golden["scores"][real], atol=1e-4)
    else:
        assert output.ctc_logits is None


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("kind", CONFIGS)
def test_parity_with_the_golden_file(
    kind, scan_layers, tmp_path, read_golden, write_folder, load_encoder, pad_with_garbage
):
    golden = read_golden(kind)
    encoder = load_encoder(write_folder(golden, tmp_path), scan_layers=scan_layers)
    assert_parity(golden, pad_with_garbage(waveforms()), *encoder)


@pytest.mark.parametrize("kind", CONFIGS)
def test_parity_of_each_layer(kind, tmp_path, read_golden, write_folder, load_encoder, assert_layers):
    golden = read_golden(kind)
    model, params = load_encoder(write_folder(golden, tmp_path), scan_layers=False)
    heard = jnp.asarray(golden["features"]), jnp.asarray(golden["feature_mask"].sum(1))
    assert_layers(golden, lambda params: model.apply({"params": params}, *heard, method="encode"), params)


@pytest.mark.torch
@pytest.mark.parametrize("kind", CONFIGS)
def test_parity_with_transformers(
    kind, tmp_path, fill_at_random, record_states, keep_golden, write_folder, load_encoder, pad_with_garbage
):
    golden = keep_golden(kind, **make_golden(kind, fill_at_random, record_states))
    assert_parity(golden, pad_with_garbage(waveforms()), *load_encoder(write_folder(golden, tmp_path)))


def test_what_is_heard_is_read_from_the_preprocessor(tmp_path, read_golden, write_folder):
    changes = dict(win_length=320, hop_length=200, n_fft=1024, preemphasis=0.5)
    model = components.speech_encoder(write_folder(read_golden("parakeet_ctc"), tmp_path, preprocessor=changes))
    assert model.front_end == NemoLogMel(8, frame_samples=320, hop_samples=200, fft_length=1024, preemphasis=0.5)


@pytest.mark.parametrize(
    ("changes", "preprocessor", "message"),
    [
        (dict(layout="new"), {}, "fields that slm_jax does not know.*layout='new'"),
        (dict(architectures=["ParakeetForTDT"]), {}, "architectures is .'ParakeetForTDT'., but slm_jax supports"),
        (dict(hidden_act="relu"), {}, "hidden_act is 'relu', but slm_jax supports 'silu' or 'swish' alone"),
        (dict(num_key_value_heads=1), {}, "num_key_value_heads is 1, but slm_jax supports 2 alone"),
        (dict(subsampling_conv_kernel_size=5), {}, "subsampling_conv_kernel_size is 5, but slm_jax supports 3 alone"),
        (dict(subsampling_conv_stride=3), {}, "subsampling_conv_stride is 3, but slm_jax supports 2 alone"),
        (dict(hidden_size=None), {}, "has no 'hidden_size'"),
        ({}, dict(feature_size=80), "next to config.json: feature_size is 80, but slm_jax supports 8 alone"),
        ({}, dict(sampling_rate=8000), "sampling_rate is 8000, but slm_jax supports 16000 alone"),
        ({}, dict(padding_value=1.0), "padding_value is 1.0"),
        ({}, dict(dither=0.1), "fields that slm_jax does not know.*dither=0.1"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    changes, preprocessor, message, tmp_path, monkeypatch, read_golden, write_folder
):
    monkeypatch.chdir(write_folder(read_golden("parakeet_encoder"), tmp_path, preprocessor=preprocessor, **changes))
    with pytest.raises(UnsupportedConfigError, match=message):
        components.speech_encoder(".")  # so that messages name files without a path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(pad_token_id=0), "the blank, pad_token_id, is 0, not the last of 6 classes"),
        (dict(architectures=["ParakeetEncoder"]), "architectures is .'ParakeetEncoder'., but slm_jax supports"),
        (dict(encoder_config=dict(model_type="other")), "encoder_config of config.json: model_type is 'other'"),
        (dict(encoder_config=SIZES | dict(head_dim=3)), "encoder_config of config.json has fields.*head_dim=3"),
    ],
)
def test_a_head_that_is_not_computed_is_refused_by_name(
    changes, message, tmp_path, monkeypatch, read_golden, write_folder
):
    monkeypatch.chdir(write_folder(read_golden("parakeet_ctc"), tmp_path, **changes))
    with pytest.raises(UnsupportedConfigError, match=message):
        components.speech_encoder(".")  # so that messages name files without a path


def test_scanned_and_unrolled_parameters_are_the_same(tmp_path, read_golden, write_folder, load_encoder):
    folder = write_folder(read_golden("parakeet_ctc"), tmp_path)
    (_, stacked), (_, unrolled) = load_encoder(folder), load_encoder(folder, scan_layers=False)
    jax.tree.map(np.testing.assert_array_equal, trees.stack_layers(unrolled), stacked)


def test_sizes_of_the_open_model():
    """nvidia/parakeet-ctc-0.6b: 24 layers of width 1024, 1024 tokens and the blank."""
    encoder = SIZES | dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=8, intermediate_size=4096)
    encoder |= dict(conv_kernel_size=9, subsampling_conv_channels=256, num_mel_bins=80)
    config = dict(model_type="parakeet_ctc", vocab_size=1025, pad_token_id=1024, encoder_config=encoder)
    model = fast_conformer.model_of(config, {}, where="config.json")
    shapes = components.parameter_shapes(model)
    assert sum(trees.count(shapes).values()) / 1e9 == pytest.approx(0.609, abs=0.001)
    paths = {row.ours for row in fast_conformer.rows(model)}
    assert paths == trees.flatten(shapes).keys()
