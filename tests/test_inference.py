"""Answers about audio files: what goes in, what comes out, and what is refused."""

import dataclasses

import numpy as np
import pytest
import soundfile

from slm_jax.audio.log_mel import LogMel
from slm_jax.data.audio_io import AudioError
from slm_jax.decoding.sampling import Sampling
from slm_jax.inference import LoadedModel
from slm_jax.training import bundle
from slm_jax.training.objective import TeacherForcing


@pytest.fixture
def recording(tmp_path):
    """1.5 s at 44.1 kHz, stereo."""
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (66150, 2)), 44100)
    return str(path)


def test_one_answer_a_file_in_order_and_the_same_alone(tiny_model, recording, tmp_path):
    other = tmp_path / "b.wav"
    soundfile.write(other, np.random.default_rng(1).uniform(-0.5, 0.5, 8000), 16000)
    both = list(tiny_model.answer([recording, str(other)], "say it"))
    assert [answer.audio for answer in both] == [recording, str(other)]
    assert [round(answer.audio_seconds, 2) for answer in both] == [1.5, 0.5]
    assert list(tiny_model.answer([str(other)], "say it"))[0].prediction == both[1].prediction


def test_what_is_sampled_depends_on_the_seed_and_the_number_of_the_file(tiny_model, recording):
    def sampled(**options):
        answers = tiny_model.answer([recording] * 4, "say it", method=Sampling(temperature=3.0), **options)
        return [answer.prediction for answer in answers]

    whole = sampled(seed=1)
    assert len(set(whole)) > 1
    assert sampled(seed=1) == whole
    assert sampled(seed=2) != whole
    assert not set(sampled(seed=2)) & set(whole), "seed 2 draws for one file what seed 1 draws for the next"
    assert sampled(seed=1, start=1) == whole[1:]
    assert sampled(seed=1, start=4) == []


def test_a_recording_longer_than_training_had_is_refused(tiny_model, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.full(40000, 0.1), 16000)
    with pytest.raises(ValueError, match=r"long.wav lasts 2.5 s.*at most 2.0 s"):
        list(tiny_model.answer([str(path)], "say it"))


def test_a_prompt_longer_than_training_had_is_refused(tiny_model, recording):
    with pytest.raises(ValueError, match="The prompt has 31 tokens, more than the 16"):
        list(tiny_model.answer([recording], "x" * 30))


def test_files_that_are_no_audio_are_named(tiny_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.wav"):
        list(tiny_model.answer([str(tmp_path / "none.wav")], "say it"))
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(AudioError, match="text.wav"):
        list(tiny_model.answer([str(tmp_path / "text.wav")], "say it"))


def test_another_front_end_is_refused_by_name(tiny_training, tiny_model):
    model = tiny_training.objective.model
    other = model.clone(speech_encoder=model.speech_encoder.clone(front_end=LogMel(num_mels=4, low_hz=200.0)))
    changed = dataclasses.replace(tiny_training, objective=TeacherForcing(model=other))
    with pytest.raises(bundle.IncompatibleBundleError, match="front_end: trained with"):
        LoadedModel.load(
            changed,
            directory=tiny_training.model_dir,
            vocabulary=tiny_model.vocabulary,
            task_feature_lengths=tiny_model.task_feature_lengths,
        )
