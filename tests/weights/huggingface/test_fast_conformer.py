"""Parity of Parakeet with transformers, from waveforms to CTC scores: tiny models, kept as golden files.

The files in tests/golden hold config.json, preprocessor_config.json, weights and what transformers computes of
`waveforms`. With torch and transformers the same models are built anew:

    SLM_JAX_UPDATE_GOLDEN=1 python -m pytest tests/weights/huggingface/test_fast_conformer.py    # writes them again
"""

import json
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from slm_jax import trees
from slm_jax.audio.nemo_log_mel import NemoLogMel
from slm_jax.weights.huggingface import fast_conformer
from slm_jax.weights.huggingface.fields import UnsupportedConfigError
from slm_jax.weights.huggingface.folder import Folder
from slm_jax.weights.tables import read_parameters

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden"
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


def random_values(name, tensor):
    """Values that let what is heard through to the end: scales near 1, maps that keep the size of what they map."""
    import torch

    noise = torch.randn(tensor.shape)
    if "running_var" in name:
        return noise.abs() + 0.5
    if tensor.ndim > 1:
        return 1.5 * noise / tensor[0].numel() ** 0.5
    return 0.3 * noise + ("norm" in name and name.endswith("weight"))


def make_golden(kind):
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
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(random_values(name, tensor))
        heard = hear(waveforms(), sampling_rate=16000, return_tensors="pt")
        encoder = model.encoder if kind == "parakeet_ctc" else model
        frames = encoder(**heard)
        outputs = dict(frames=frames.last_hidden_state, mask=frames.attention_mask, features=heard["input_features"])
        outputs["feature_mask"] = heard["attention_mask"]
        if kind == "parakeet_ctc":
            outputs["scores"] = model(**heard).logits
    weights = {f"weights/{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    written = json.loads(config.to_json_string()) | dict(architectures=[type(model).__name__], model_type=kind)
    texts = dict(config=written, preprocessor=hear.to_dict())
    return (
        weights
        | {name: tensor.numpy() for name, tensor in outputs.items()}
        | {name: np.array(json.dumps(text, sort_keys=True)) for name, text in texts.items()}
    )


def read_golden(kind):
    with np.load(GOLDEN / f"hf_{kind}.npz", allow_pickle=False) as golden:
        return dict(golden)


def write_folder(golden, folder, *, preprocessor=None, **changes):
    """The checkpoint, as save_pretrained would write it; a change of None takes a field away."""
    weights = {name.removeprefix("weights/"): value for name, value in golden.items() if name.startswith("weights/")}
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    for name, changed in (("config", changes), ("preprocessor", preprocessor or {})):
        fields = json.loads(str(golden[name])) | changed
        fields = {field: value for field, value in fields.items() if value is not None}
        file = "config.json" if name == "config" else "preprocessor_config.json"
        (folder / file).write_text(json.dumps(fields))
    return folder


def load(folder, **settings):
    """The model of a folder, and its parameters."""
    folder = Folder(folder)
    model = fast_conformer.model_of(folder.config, folder.preprocessor, where="config.json", **settings)
    speech, length = jnp.zeros((1, 3200)), jnp.array([3200])
    shapes = trees.flatten(nn.unbox(jax.eval_shape(model.init, jax.random.key(0), speech, length))["params"])
    table, unused = fast_conformer.rows(model), fast_conformer.unused(model)
    return model, trees.unflatten(dict(read_parameters(folder, table, shapes=shapes, unused=unused)))


def padded():
    """The waveforms as a batch with garbage beyond their ends."""
    size = max(LENGTHS) + 700
    batch = [np.concatenate([x, np.full(size - len(x), 7.0, np.float32)]) for x in waveforms()]
    return jnp.asarray(np.stack(batch)), jnp.array(LENGTHS)


def assert_parity(golden, folder, **settings):
    model, params = load(folder, **settings)
    features, length = model.front_end(*padded())
    size = features.shape[1]
    assert length.tolist() == golden["feature_mask"].sum(1).tolist()
    heard = np.pad(golden["features"], ((0, 0), (0, size), (0, 0)))[:, :size]
    np.testing.assert_allclose(features, heard, atol=1e-4)

    output = jax.jit(lambda params: model.apply({"params": params}, *padded()))(params)
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
def test_parity_with_the_golden_file(kind, scan_layers, tmp_path):
    golden = read_golden(kind)
    assert_parity(golden, write_folder(golden, tmp_path), scan_layers=scan_layers)


@pytest.mark.torch
@pytest.mark.parametrize("kind", CONFIGS)
def test_parity_with_transformers(kind, tmp_path):
    golden = make_golden(kind)
    if os.environ.get("SLM_JAX_UPDATE_GOLDEN"):
        np.savez_compressed(GOLDEN / f"hf_{kind}.npz", **golden)
    assert_parity(golden, write_folder(golden, tmp_path))


def test_what_is_heard_is_read_from_the_preprocessor(tmp_path):
    changes = dict(win_length=320, hop_length=200, n_fft=1024, preemphasis=0.5)
    folder = Folder(write_folder(read_golden("parakeet_ctc"), tmp_path, preprocessor=changes))
    model = fast_conformer.model_of(folder.config, folder.preprocessor, where="config.json")
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
def test_what_is_not_computed_is_refused_by_name(changes, preprocessor, message, tmp_path):
    folder = write_folder(read_golden("parakeet_encoder"), tmp_path, preprocessor=preprocessor, **changes)
    with pytest.raises(UnsupportedConfigError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(pad_token_id=0), "the blank, pad_token_id, is 0, not the last of 6 classes"),
        (dict(architectures=["ParakeetEncoder"]), "architectures is .'ParakeetEncoder'., but slm_jax supports"),
        (dict(encoder_config=dict(model_type="other")), "encoder_config of config.json: model_type is 'other'"),
        (dict(encoder_config=SIZES | dict(head_dim=3)), "encoder_config of config.json has fields.*head_dim=3"),
    ],
)
def test_a_head_that_is_not_computed_is_refused_by_name(changes, message, tmp_path):
    with pytest.raises(UnsupportedConfigError, match=message):
        load(write_folder(read_golden("parakeet_ctc"), tmp_path, **changes))


def test_scanned_and_unrolled_parameters_are_the_same(tmp_path):
    folder = write_folder(read_golden("parakeet_ctc"), tmp_path)
    (_, stacked), (_, unrolled) = load(folder), load(folder, scan_layers=False)
    jax.tree.map(np.testing.assert_array_equal, trees.stack_layers(unrolled), stacked)


def test_sizes_of_the_open_model():
    """nvidia/parakeet-ctc-0.6b: 24 layers of width 1024, 1024 tokens and the blank."""
    encoder = SIZES | dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=8, intermediate_size=4096)
    encoder |= dict(conv_kernel_size=9, subsampling_conv_channels=256, num_mel_bins=80)
    config = dict(model_type="parakeet_ctc", vocab_size=1025, pad_token_id=1024, encoder_config=encoder)
    model = fast_conformer.model_of(config, {}, where="config.json")
    boxed = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16000)), jnp.array([16000]))["params"]
    assert sum(trees.count(nn.unbox(boxed)).values()) / 1e9 == pytest.approx(0.609, abs=0.001)
    paths = {row.ours for row in fast_conformer.rows(model)}
    assert paths == trees.flatten(boxed).keys()
