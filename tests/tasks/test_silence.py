"""Silence around speech keeps the speech, varies in training alone, and never makes an utterance too long."""

import numpy as np
import pytest
import tensorflow as tf

from slm_jax.tasks import silence
from slm_jax.tasks.spoken_scenes.utterances import MAX_SECONDS
from slm_jax.tasks.spoken_scenes.voices import SAMPLE_RATE

SPEECH = np.linspace(0.1, 0.9, 2 * SAMPLE_RATE, dtype=np.float32)
MOST = MAX_SECONDS * SAMPLE_RATE


@pytest.mark.parametrize("seed", range(12))
def test_the_speech_stays_and_what_is_around_it_is_silent(seed: int) -> None:
    padded = silence.surround(SPEECH, seed=seed)
    lead = int(np.argmax(padded > 0.05))
    inside, outside = padded[lead : lead + len(SPEECH)], np.delete(padded, slice(lead, lead + len(SPEECH)))
    np.testing.assert_allclose(inside, SPEECH, atol=0.02)
    assert np.abs(outside).max(initial=0) < 0.02
    assert len(outside) <= 2 * silence.LONGEST_SECONDS * SAMPLE_RATE


def test_sides_differ_and_half_of_the_recordings_have_noise() -> None:
    drawn = [silence.surround(SPEECH, seed=seed) for seed in range(200)]
    noisy = np.mean([not np.isin(SPEECH[1000], padded) for padded in drawn])
    longer = np.array([len(padded) - len(SPEECH) for padded in drawn]) / SAMPLE_RATE
    assert 0.35 < noisy < 0.65
    assert 0.15 < (longer == 0).mean() < 0.35 and longer.max() > 2.0 and longer.std() > 0.4


@pytest.mark.parametrize("seconds", [6.0, MAX_SECONDS, 8.0])
def test_nothing_becomes_longer_than_the_longest_utterance(seconds: float) -> None:
    speech = np.ones(int(seconds * SAMPLE_RATE), np.float32)
    lengths = [len(silence.surround(speech, seed=seed)) for seed in range(20)]
    assert max(lengths) <= max(MOST, len(speech)) and min(lengths) >= len(speech)


@pytest.mark.parametrize(("training", "different"), [(1, True), (0, False)])
def test_training_draws_anew_and_evaluation_does_not(training: int, different: bool) -> None:
    example = {"speech": tf.constant(SPEECH), "id": tf.constant("test-000003"), "training": tf.constant(training)}
    dataset = tf.data.Dataset.from_tensors(example).repeat(6)
    lengths = {len(found["speech"]) for found in silence.surround_with_silence(dataset).as_numpy_iterator()}
    assert (len(lengths) > 1) == different
