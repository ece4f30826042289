"""Parity of Whisper's encoder and front end with transformers, kept as a golden file (see test_decoders.py).

SLM_JAX_UPDATE_GOLDEN=1 python -m pytest tests/weights/huggingface/test_whisper.py    # writes the file again
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.weights.huggingface import components
from slm_jax.weights.huggingface.fields import UnsupportedConfigError
from slm_jax.weights.safetensors_io import WeightFileError

SECONDS, RATE = 2, 16_000
LENGTHS = (11_000, 20_320)
KEPT = 20  # frames of log-mel kept in the file, from either end of what is spoken
SIZES = dict(
    vocab_size=11,
    num_mel_bins=8,
    d_model=12,
    encoder_layers=2,
    encoder_attention_heads=3,
    encoder_ffn_dim=20,
    decoder_layers=1,
    decoder_attention_heads=2,
    decoder_ffn_dim=8,
    max_source_positions=100,
    max_target_positions=8,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=1,
    decoder_start_token_id=2,
)


def speech():
    """Two sounds that rise and fade, [2, N], with zeros behind them."""
    rng, waves = np.random.default_rng(0), np.zeros((2, max(LENGTHS)), np.float32)
    for row, length in enumerate(LENGTHS):
        time = np.arange(length) / RATE
        tone = np.sin(2 * np.pi * (200 + 600 * row) * time * (1 + time))
        waves[row, :length] = 0.3 * np.sin(np.pi * time / time[-1]) * (tone + 0.1 * rng.standard_normal(length))
    return waves


def make_golden(record_states):
    """Both configurations, weights by their names, and what transformers computes."""
    import torch
    import transformers

    torch.manual_seed(0)
    extractor = transformers.WhisperFeatureExtractor(feature_size=SIZES["num_mel_bins"], chunk_length=SECONDS)
    config = transformers.WhisperConfig(**SIZES)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    waves = [wave[:length] for wave, length in zip(speech(), LENGTHS, strict=True)]
    log_mel = extractor(waves, sampling_rate=RATE, return_tensors="pt").input_features
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.4)
        with record_states("layers", model.model.encoder.layers) as states:
            hidden = model.model.encoder(log_mel).last_hidden_state
    weights = model.state_dict()
    weights.pop("proj_out.weight")  # tied
    return dict(
        config=config.to_diff_dict() | {"model_type": "whisper"},
        preprocessor=extractor.to_dict(),
        weights=weights,
        arrays=dict(log_mel=log_mel.swapaxes(1, 2)[:, :KEPT], hidden=hidden) | states(),
    )


def inputs():
    return jnp.asarray(speech()), jnp.array(LENGTHS)


def assert_parity(golden, encoder, params):
    log_mel, frame_length = encoder.front_end(*inputs())
    np.testing.assert_allclose(log_mel[:, :KEPT], golden["log_mel"], atol=1e-4)
    assert frame_length.tolist() == [100 * SECONDS] * 2
    found = jax.jit(encoder.apply)({"params": params}, *inputs())
    for row, length in enumerate(LENGTHS):
        frames = -(-length // 320)
        assert int(found.mask[row].sum()) == frames
        np.testing.assert_allclose(found.embeddings[row, :frames], golden["hidden"][row, :frames], atol=1e-4)
        assert not found.embeddings[row, frames:].any()


@pytest.mark.parametrize("scan_layers", [True, False])
def test_parity_with_the_golden_file(scan_layers, tmp_path, read_golden, write_folder, load_encoder):
    golden = read_golden("whisper")
    assert_parity(golden, *load_encoder(write_folder(golden, tmp_path), scan_layers=scan_layers))


def test_parity_of_each_layer(tmp_path, read_golden, write_folder, load_encoder, assert_layers):
    golden = read_golden("whisper")
    encoder, params = load_encoder(write_folder(golden, tmp_path), scan_layers=False)
    assert_layers(golden, lambda params: encoder.apply({"params": params}, *inputs()), params)


@pytest.mark.torch
def test_parity_with_transformers(tmp_path, record_states, keep_golden, write_folder, load_encoder):
    golden = keep_golden("whisper", **make_golden(record_states))
    assert_parity(golden, *load_encoder(write_folder(golden, tmp_path)))


def test_without_padding_the_weights_are_the_same(tmp_path, read_golden, write_folder, load_encoder):
    folder = write_folder(read_golden("whisper"), tmp_path)
    (padded, params), (tight, same) = load_encoder(folder), load_encoder(folder, pad=False)
    jax.tree.map(np.testing.assert_array_equal, params, same)
    assert (padded.front_end.seconds, tight.front_end.seconds) == (SECONDS, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model_type="encodec"), "model_type is 'encodec'; slm_jax knows speech encoders"),
        (dict(activation_function="relu"), "activation_function is 'relu', but slm_jax supports 'gelu'"),
        (dict(d_model=None), "has no 'd_model'"),
        (dict(gated=1), "does not know.*gated=1"),
        (dict(preprocessor=dict(feature_size=80)), "feature_size is 80, but slm_jax supports 8 alone"),
        (dict(preprocessor=dict(sampling_rate=8000)), "sampling_rate is 8000, but slm_jax supports 16000 alone"),
        (dict(preprocessor=dict(feature_extractor_type="Other")), "feature_extractor_type is 'Other'"),
        (dict(preprocessor=dict(do_normalize=True)), "does not know.*do_normalize=True"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(changes, message, tmp_path, read_golden, write_folder):
    folder = write_folder(read_golden("whisper"), tmp_path, **changes)
    with pytest.raises(UnsupportedConfigError, match=message):
        components.speech_encoder(folder)


def test_a_folder_without_a_front_end_is_refused(tmp_path, read_golden, write_folder):
    folder = write_folder(read_golden("whisper"), tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has neither preprocessor_config\.json nor a feature_extractor"):
        components.speech_encoder(folder)


def test_a_missing_tensor_is_named(tmp_path, read_golden, write_folder, load_encoder):
    golden = read_golden("whisper")
    del golden["weights/model.encoder.layers.1.fc2.bias"]
    with pytest.raises(WeightFileError, match=r"model\.encoder\.layers\.1\.fc2\.bias"):
        load_encoder(write_folder(golden, tmp_path))
