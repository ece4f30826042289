"""Misheard words: what may change in a transcript, how often, and that answers are those to what was said."""

import random

import pytest
import tensorflow as tf

from slm_jax.tasks import misheard
from slm_jax.tasks.spoken_scenes.mishearing import mishear_words, neighbours
from slm_jax.tasks.spoken_scenes.names import TRAIN_NAMES

TEXT = f"{TRAIN_NAMES[3]} bought a coat at the market yesterday"


def test_neighbours_are_words_that_sound_alike():
    assert {"coats", "boat"} <= set(neighbours()["coat"])
    assert "brought" in neighbours()["bought"]
    assert not {"a", "the", *TRAIN_NAMES} & set(neighbours())
    assert all(word not in others for word, others in neighbours().items())


def test_one_or_two_ordinary_words_change_and_none_is_lost():
    ordinary = f"{TRAIN_NAMES[3]} bought the coat near the market yesterday"
    for seed in range(100):
        heard = mishear_words(ordinary, rng=random.Random(seed)).split()
        changed = [(said, word) for said, word in zip(ordinary.split(), heard, strict=True) if said != word]
        assert 1 <= len(changed) <= 2
        assert all(said in neighbours() for said, _ in changed)
        assert all(word in neighbours()[said] or word.startswith(said) for said, word in changed)


def test_nothing_changes_where_there_is_no_ordinary_word():
    assert mishear_words(f"the {TRAIN_NAMES[3]}", rng=random.Random(0)) == f"the {TRAIN_NAMES[3]}"


def test_small_words_are_lost_half_the_time_and_the_never():
    heard = [mishear_words("to the", rng=random.Random(seed)) for seed in range(400)]
    assert all(text.endswith("the") for text in heard)
    assert heard.count("the") / 400 == pytest.approx(0.5, abs=0.08)


def test_the_share_is_kept_in_training_and_nothing_changes_elsewhere():
    heard = [misheard.maybe_mishear(TEXT, training=True, seed=seed) for seed in range(600)]
    assert sum(text != TEXT for text in heard) / 600 == pytest.approx(misheard.MISHEARD_SHARE, abs=0.06)
    assert {misheard.maybe_mishear(TEXT, training=False, seed=seed) for seed in range(50)} == {TEXT}


@pytest.mark.parametrize("training", [0, 1])
def test_examples_keep_their_targets(training: int):
    rows = {"transcript": [TEXT] * 60, "targets": [TEXT] * 60, "training": [training] * 60}
    dataset = tf.data.Dataset.from_tensor_slices({name: tf.constant(column) for name, column in rows.items()})
    heard = list(misheard.mishear_transcripts(dataset).as_numpy_iterator())
    assert all(row["targets"].decode() == TEXT for row in heard)
    assert (len({row["transcript"] for row in heard}) > 5) is bool(training)
