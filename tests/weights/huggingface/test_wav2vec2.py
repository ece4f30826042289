"""Parity with transformers, from folder to frames: tiny wav2vec 2.0 and HuBERT models, kept as golden files.

The files in tests/golden hold config.json, preprocessor_config.json, weights, waveforms and outputs of transformers'
own implementations, so that parity is tested without torch. Where the first convolution is normalised over time, the
reference hears every utterance alone, since padding changes what it computes; elsewhere it hears a padded batch and its
mask. With torch and transformers the same models are built anew and compared with the files:

    SLM_JAX_UPDATE_GOLDEN=1 python -m pytest tests/weights/huggingface/test_wav2vec2.py    # writes the files again
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.models.wav2vec2 import Waveform, standardize
from slm_jax.weights.huggingface import components
from slm_jax.weights.huggingface.fields import UnsupportedConfigError
from slm_jax.weights.safetensors_io import WeightFileError

LENGTHS, NUM_SAMPLES = (500, 367, 45), 500
SIZES = dict(
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=3,
    conv_dim=[6, 5, 8],
    conv_kernel=[10, 3, 2],
    conv_stride=[5, 2, 2],
    num_conv_pos_embeddings=6,
    num_conv_pos_embedding_groups=3,
    vocab_size=7,
    layer_norm_eps=1e-2,
)
LARGE = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
MODELS = {
    "wav2vec2_base": ("Wav2Vec2Model", dict(model_type="wav2vec2")),
    "wav2vec2_large_ctc": ("Wav2Vec2ForCTC", dict(model_type="wav2vec2", pad_token_id=2, **LARGE)),
    "hubert_base": (
        "HubertModel",
        dict(model_type="hubert", feat_proj_layer_norm=False, num_conv_pos_embeddings=5, hidden_act="gelu_new"),
    ),
    "hubert_large_ctc": ("HubertForCTC", dict(model_type="hubert", feat_extract_activation="relu", **LARGE)),
}
KINDS = pytest.mark.parametrize("kind", MODELS)


def make_golden(kind, record_states):
    """Configurations, weights by their names, waveforms, and what transformers computes.

    Padding is zero in what comes out, NaN between layers.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    name, fields = MODELS[kind]
    config = transformers.AutoConfig.for_model(**(SIZES | fields), attn_implementation="eager")
    model = getattr(transformers, name)(config).eval()
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
        speech = (0.1 * torch.randn(len(LENGTHS), NUM_SAMPLES) + 0.05).numpy()
        heard = [samples[:length] for samples, length in zip(speech, LENGTHS, strict=True)]
        padded = extractor(heard, sampling_rate=16000, padding=True, return_tensors="pt")
        encoder = getattr(model, model.base_model_prefix, model)
        with record_states("layers", encoder.encoder.layers) as states:
            outputs = reference_outputs(model, encoder, padded.input_values, padded.attention_mask)
        outputs |= states([int(encoder._get_feat_extract_output_lengths(length)) for length in LENGTHS])
    return dict(
        config=config.to_diff_dict() | fields | dict(architectures=[name]),
        preprocessor=json.loads(extractor.to_json_string()),
        weights=model.state_dict(),
        arrays=outputs | dict(speech=speech, input_values=padded.input_values),
    )


def reference_outputs(model, encoder, samples, mask):
    """Frames, and CTC scores if there is a head, of a padded batch or of every utterance alone."""
    import torch

    if model.config.feat_extract_norm == "group":
        alone = [encoder(samples[i : i + 1, :length]).last_hidden_state[0] for i, length in enumerate(LENGTHS)]
        frames = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True)
    else:
        frames = encoder(samples, attention_mask=mask).last_hidden_state
    outputs = dict(
        frames=frames.clone(), scores=model.lm_head(frames) if hasattr(model, "lm_head") else frames[..., :0]
    )
    for i, length in enumerate(LENGTHS):
        for values in outputs.values():
            values[i, int(encoder._get_feat_extract_output_lengths(length)) :] = 0
    return outputs


def blank_last(scores, blank):
    return np.concatenate([np.delete(scores, blank, axis=-1), scores[..., blank : blank + 1]], axis=-1)


def assert_parity(golden, model, params):
    output = jax.jit(model.apply)({"params": params}, jnp.asarray(golden["speech"]), jnp.array(LENGTHS))
    np.testing.assert_allclose(output.embeddings, golden["frames"], atol=1e-4, rtol=0)
    assert output.mask.sum(axis=1).tolist() == [model.output_length(length) for length in LENGTHS]
    if golden["scores"].size:
        expected = blank_last(golden["scores"], json.loads(str(golden["config"])).get("pad_token_id", 0))
        scores = np.where(output.mask[..., None], output.ctc_logits, 0)
        np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    else:
        assert output.ctc_logits is None


@pytest.mark.parametrize("scan_layers", [True, False])
@KINDS
def test_parity_with_the_golden_file(kind, scan_layers, tmp_path, read_golden, write_folder, load_encoder):
    golden = read_golden(kind)
    assert_parity(golden, *load_encoder(write_folder(golden, tmp_path), scan_layers=scan_layers))


@KINDS
def test_parity_of_each_layer(kind, tmp_path, read_golden, write_folder, load_encoder, assert_layers):
    golden = read_golden(kind)
    model, params = load_encoder(write_folder(golden, tmp_path), scan_layers=False)
    speech = jnp.asarray(golden["speech"]), jnp.array(LENGTHS)
    assert_layers(golden, lambda params: model.apply({"params": params}, *speech), params)


@pytest.mark.torch
@KINDS
def test_parity_with_transformers(kind, tmp_path, record_states, keep_golden, write_folder, load_encoder):
    golden = keep_golden(kind, **make_golden(kind, record_states))
    assert_parity(golden, *load_encoder(write_folder(golden, tmp_path)))


def test_the_waveform_is_standardized_as_by_the_feature_extractor(read_golden):
    golden = read_golden("wav2vec2_base")
    samples = standardize(jnp.asarray(golden["speech"]), jnp.array(LENGTHS))
    np.testing.assert_allclose(samples, golden["input_values"], atol=1e-5, rtol=0)


def old_weight_norm(name):
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


@pytest.mark.parametrize(
    ("kind", "rename", "extra", "changes"),
    [
        ("wav2vec2_base", old_weight_norm, ["masked_spec_embed"], {}),
        (
            "wav2vec2_base",
            lambda name: name.replace("weights/", "weights/wav2vec2."),
            ["quantizer.codevectors", "quantizer.weight_proj.bias", "project_q.weight", "project_hid.bias"],
            dict(architectures=["Wav2Vec2ForPreTraining"]),
        ),
        ("hubert_large_ctc", old_weight_norm, ["hubert.masked_spec_embed"], {}),
    ],
)
def test_all_names_of_a_checkpoint_give_the_same(
    kind, rename, extra, changes, tmp_path_factory, read_golden, write_folder, load_encoder
):
    golden = read_golden(kind)
    golden = {name: value for name, value in golden.items() if not name.endswith("masked_spec_embed")}
    _, expected = load_encoder(write_folder(golden, tmp_path_factory.mktemp("new")))
    renamed = {rename(name): value for name, value in golden.items()}
    renamed |= {f"weights/{name}": np.ones(3, np.float32) for name in extra}
    _, found = load_encoder(write_folder(renamed, tmp_path_factory.mktemp("old"), **changes))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_scanned_and_unrolled_parameters_are_the_same(tmp_path, read_golden, write_folder, load_encoder):
    folder = write_folder(read_golden("hubert_large_ctc"), tmp_path)
    (_, stacked), (_, unrolled) = load_encoder(folder), load_encoder(folder, scan_layers=False)
    jax.tree.map(np.testing.assert_array_equal, trees.stack_layers(unrolled), stacked)


def test_a_tensor_that_is_not_there_is_named_as_in_the_checkpoint(tmp_path, read_golden, write_folder, load_encoder):
    golden = read_golden("hubert_large_ctc")
    del golden["weights/hubert.encoder.layers.1.attention.q_proj.bias"]
    with pytest.raises(WeightFileError, match=r"missing \(1\): hubert\.encoder\.layers\.1\.attention\.q_proj\.bias$"):
        load_encoder(write_folder(golden, tmp_path))


def test_a_head_that_the_configuration_does_not_have_is_unexpected(tmp_path, read_golden, write_folder, load_encoder):
    folder = write_folder(read_golden("hubert_large_ctc"), tmp_path, architectures=["HubertModel"])
    with pytest.raises(WeightFileError, match=r"unexpected \(2\): lm_head\.bias, lm_head\.weight"):
        load_encoder(folder)


@pytest.mark.parametrize(("normalized", "waveform"), [(True, Waveform.STANDARDIZED), (False, Waveform.AS_IS)])
def test_the_preprocessor_says_what_is_done_to_the_samples(normalized, waveform, tmp_path, read_golden, write_folder):
    folder = write_folder(read_golden("wav2vec2_base"), tmp_path, preprocessor=dict(do_normalize=normalized))
    assert components.speech_encoder(folder).waveform is waveform


def test_every_field_of_a_real_configuration_is_known(tmp_path, read_golden, write_folder):
    """Fields of the published wav2vec2-base that transformers does not write any more."""
    old = dict(
        feat_extract_dropout=0.0,
        freeze_feat_extract_train=True,
        gradient_checkpointing=True,
        hidden_dropout_prob=0.1,
        mask_channel_length=10,
        mask_channel_min_space=1,
        mask_channel_other=0.0,
        mask_channel_prob=0.0,
        mask_channel_selection="static",
        mask_time_min_space=1,
        mask_time_other=0.0,
        mask_time_selection="static",
        no_mask_channel_overlap=False,
        no_mask_time_overlap=False,
        num_feat_extract_layers=3,
        tokenizer_class="Wav2Vec2CTCTokenizer",
        torch_dtype="float32",
    )
    golden = read_golden("wav2vec2_base")
    expected = components.speech_encoder(write_folder(golden, tmp_path))
    assert components.speech_encoder(write_folder(golden, tmp_path, **old)) == expected


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("wav2vec2_base", dict(residual_scale=0.2), "fields that slm_jax does not know.*residual_scale=0.2"),
        ("wav2vec2_base", dict(add_adapter=True), "add_adapter is True, but slm_jax supports False alone"),
        ("wav2vec2_base", dict(adapter_attn_dim=16), "adapter_attn_dim is 16, but slm_jax supports None alone"),
        ("wav2vec2_base", dict(use_weighted_layer_sum=True), "use_weighted_layer_sum is True"),
        ("wav2vec2_base", dict(feat_extract_norm="batch"), "feat_extract_norm is 'batch', not one of group, layer"),
        ("wav2vec2_base", dict(feat_extract_activation="selu"), "feat_extract_activation is 'selu', not one of gelu"),
        ("wav2vec2_base", dict(hidden_act="relu2"), "hidden_act is 'relu2', not one of gelu"),
        ("wav2vec2_base", dict(hidden_size=None), r"config\.json has no 'hidden_size'"),
        ("wav2vec2_base", dict(architectures=None), r"config\.json has no 'architectures'"),
        ("wav2vec2_base", dict(num_attention_heads=5), r"config\.json describes a model.*width 12 is not a multiple"),
        ("wav2vec2_base", dict(conv_stride=[5, 2]), r"config\.json describes a model.*3, 3 and 2 numbers"),
        (
            "wav2vec2_base",
            dict(architectures=["Wav2Vec2ForXVector"]),
            "architectures is .*, not one of Wav2Vec2Model, Wav2Vec2ForPreTraining, Wav2Vec2ForCTC",
        ),
        ("wav2vec2_large_ctc", dict(vocab_size=None), "has a CTC head, but no vocab_size or no pad_token_id"),
        ("wav2vec2_large_ctc", dict(pad_token_id=7), r"ctc_blank is 7, but the head has the classes 0 \.\. 6"),
        (
            "hubert_base",
            dict(conv_pos_batch_norm=True),
            "conv_pos_batch_norm is True, but slm_jax supports False alone",
        ),
    ],
)
def test_what_is_not_computed_is_refused_by_name(kind, changes, message, tmp_path, read_golden, write_folder):
    folder = write_folder(read_golden(kind), tmp_path, **changes)
    with pytest.raises(UnsupportedConfigError, match=message):
        components.speech_encoder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(sampling_rate=8000), "sampling_rate is 8000, but slm_jax supports 16000 alone"),
        (dict(feature_size=80), "feature_size is 80, but slm_jax supports 1 alone"),
        (dict(feature_extractor_type="WhisperFeatureExtractor"), "feature_extractor_type is 'WhisperFeatureExtractor'"),
        (dict(dither=0.1), "fields that slm_jax does not know.*dither=0.1"),
    ],
)
def test_what_the_front_end_does_not_do_is_refused_by_name(changes, message, tmp_path, read_golden, write_folder):
    folder = write_folder(read_golden("wav2vec2_base"), tmp_path, preprocessor=changes)
    with pytest.raises(UnsupportedConfigError, match=rf"preprocessor_config\.json.*{message}"):
        components.speech_encoder(folder)
