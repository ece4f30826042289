"""What the claims are measured on was in no training: sentences, names, the voice."""

import functools
import itertools

import pytest

from slm_jax.tasks import scenes
from slm_jax.tasks.spoken_scenes import names, voices
from slm_jax.tasks.spoken_scenes.builder import SpokenScenes
from slm_jax.tasks.spoken_scenes.corpus import Split, sentences

CONFIGS = {config.name: config for config in SpokenScenes.BUILDER_CONFIGS}
CLAIMS = CONFIGS["claims"].size(Split.TEST)
SKIPPED = 1.1
"""A little more than the sentences that a dataset passes over because they are too long when spoken."""


@functools.cache
def drawn(split: Split, size: int) -> frozenset[str]:
    return frozenset(text for text, _ in itertools.islice(sentences(split), size))


def test_no_voice_of_training_is_that_of_the_test():
    casts = [config.cast for config in CONFIGS.values()]
    assert len(casts) > 8
    assert all(voices.HELD_OUT_VOICE not in dict(cast) for cast in casts)
    models = {(voice.engine, voice.model) for cast in casts for voice, _ in cast}
    assert (voices.HELD_OUT_VOICE.engine, voices.HELD_OUT_VOICE.model) not in models


def test_no_name_of_training_is_in_a_sentence_of_the_test():
    words = {word for text in drawn(Split.TEST, round(SKIPPED * CLAIMS)) for word in text.split()}
    assert not words & set(names.TRAIN_NAMES)
    assert len(words & set(names.HELD_OUT_NAMES)) > 100
    assert set(names.HELD_OUT_NAMES) <= set(names.CATALOGUE) and not set(names.CATALOGUE) & set(names.TRAIN_NAMES)


@pytest.mark.parametrize("size", [1000, pytest.param(None, marks=pytest.mark.slow)], ids=["beginning", "all"])
def test_no_sentence_of_training_is_one_of_the_test(size: int | None):
    """The drill's are these with their words in another order."""
    ends = [config.first + round(SKIPPED * config.size(Split.TRAIN)) for config in CONFIGS.values()]
    training = drawn(Split.TRAIN, size or max(ends))
    assert not training & drawn(Split.TEST, round(SKIPPED * CLAIMS))
    assert not training & drawn(Split.VALIDATION, 300)


def test_datasets_that_say_so_share_no_sentence():
    """What adapters are trained on is new to the speech encoder."""
    spans = {name: (c.first, c.first + SKIPPED * c.size(Split.TRAIN)) for name, c in CONFIGS.items()}
    for adapters, encoder in itertools.product(("quickstart", "study"), ("full", *scenes.ENCODER_CONFIGS)):
        (low, high), (other_low, other_high) = spans[adapters], spans[encoder]
        assert high <= other_low or other_high <= low, (adapters, encoder)
