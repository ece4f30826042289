"""Answers about audio files: what goes in, what comes out, and what is refused."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import seqio
import soundfile

from slm_jax.audio.log_mel import LogMel
from slm_jax.data import pipeline
from slm_jax.data.audio_io import AudioError
from slm_jax.inference import LoadedModel
from slm_jax.models.adapter import TransformerAdapter
from slm_jax.models.conformer import Conformer
from slm_jax.models.slm import SpeechLanguageModel
from slm_jax.models.t5 import T5
from slm_jax.training import bundle, restore
from slm_jax.training.objective import TeacherForcing
from slm_jax.training.run import Training
from slm_jax.weights import foundation

LENGTHS = {"speech": 32000, "inputs": 16, "targets": 5}


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A configuration whose frozen parts are on disk."""
    lm = dict(vocab_size=384, width=8, ff_width=8, num_encoder_layers=1, num_decoder_layers=1, num_heads=1, head_dim=8)
    encoder = dict(num_layers=1, width=8, num_heads=1, subsampling_channels=(2, 2), front_end=LogMel(num_mels=4))
    model = SpeechLanguageModel(
        speech_encoder=Conformer(**encoder),
        adapter=TransformerAdapter(features=8, num_heads=1, head_dim=8, ff_width=8),
        lm=T5(**lm),
    )
    folder = tmp_path_factory.mktemp("weights")
    training = Training(
        model_dir=str(folder / "run"),
        objective=TeacherForcing(model=model),
        optimizer=optax.sgd(1.0),
        train_batches=pipeline.train_batches,
        batch_shapes=pipeline.batch_shapes(task_feature_lengths=LENGTHS, batch_size=1),
        train_steps=1,
        sources={"speech_encoder": str(folder), "lm": str(folder)},
    )
    batch = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in training.batch_shapes.items()}
    params = jax.jit(lambda key: nn.unbox(training.objective.init(key, batch)))(jax.random.key(0))
    licence = foundation.Provenance(licence="Apache-2.0")
    for name in ("speech_encoder", "lm"):
        path = folder / f"{name}.safetensors"
        foundation.export_component(params[name], path=path, component=name, provenance=licence)
    identity = training.settings_identity() | restore.frozen_fingerprints(params, trainable_patterns=("adapter/.*",))
    manifest = bundle.BundleManifest(fingerprints=identity, trainable_patterns=("adapter/.*",))
    bundle.save_bundle(bundle.Bundle({"adapter": params["adapter"]}, manifest), directory=folder / "run" / "bundle")
    return training


@pytest.fixture(scope="module")
def model(training):
    return LoadedModel.load(
        training, directory=training.model_dir, vocabulary=seqio.ByteVocabulary(), task_feature_lengths=LENGTHS
    )


@pytest.fixture
def recording(tmp_path):
    """1.5 s at 44.1 kHz, stereo."""
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (66150, 2)), 44100)
    return str(path)


def test_one_answer_a_file_in_order_and_the_same_alone(model, recording, tmp_path):
    other = tmp_path / "b.wav"
    soundfile.write(other, np.random.default_rng(1).uniform(-0.5, 0.5, 8000), 16000)
    both = list(model.answer([recording, str(other)], "say it"))
    assert [answer.audio for answer in both] == [recording, str(other)]
    assert [round(answer.audio_seconds, 2) for answer in both] == [1.5, 0.5]
    assert list(model.answer([str(other)], "say it"))[0].prediction == both[1].prediction


def test_a_recording_longer_than_training_had_is_refused(model, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.full(40000, 0.1), 16000)
    with pytest.raises(ValueError, match=r"long.wav lasts 2.5 s.*at most 2.0 s"):
        list(model.answer([str(path)], "say it"))


def test_a_prompt_longer_than_training_had_is_refused(model, recording):
    with pytest.raises(ValueError, match="The prompt has 31 tokens, more than the 16"):
        list(model.answer([recording], "x" * 30))


def test_files_that_are_no_audio_are_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.wav"):
        list(model.answer([str(tmp_path / "none.wav")], "say it"))
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(AudioError, match="text.wav"):
        list(model.answer([str(tmp_path / "text.wav")], "say it"))


def test_another_front_end_is_refused_by_name(training):
    model = training.objective.model
    other = model.clone(speech_encoder=model.speech_encoder.clone(front_end=LogMel(num_mels=4, low_hz=200.0)))
    changed = dataclasses.replace(training, objective=TeacherForcing(model=other))
    with pytest.raises(bundle.IncompatibleBundleError, match="front_end: trained with"):
        LoadedModel.load(
            changed, directory=training.model_dir, vocabulary=seqio.ByteVocabulary(), task_feature_lengths=LENGTHS
        )
