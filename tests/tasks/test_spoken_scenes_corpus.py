"""Sentences drawn at random: variety, names, splits."""

import itertools
import random

import pytest

from slm_jax.tasks.spoken_scenes import corpus, english, grammar, names
from slm_jax.tasks.spoken_scenes.corpus import Split


def test_splits_share_no_sentence_and_test_has_names_of_its_own():
    drawn = {split: list(itertools.islice(corpus.sentences(split), 150)) for split in Split}
    for split, found in drawn.items():
        texts = [text for text, _ in found]
        assert len(set(texts)) == len(texts)
        assert all(corpus.split_of(text) is split for text in texts)
        assert all(corpus.MIN_WORDS <= len(text.split()) <= corpus.MAX_WORDS for text in texts)
        used = {scene.name for _, scene in found} - {""}
        assert len(used) > 20
        assert used <= set(names.TRAIN_NAMES if split is Split.TRAIN else names.HELD_OUT_NAMES)


def test_sentences_are_reproducible():
    first, again, other = (list(itertools.islice(corpus.sentences(Split.TEST, seed=s), 20)) for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_language_is_rich_in_sentences_and_poor_in_words():
    scenes = list(itertools.islice(grammar.draw_scenes("rich", names=names.TRAIN_NAMES), 60_000))
    texts = [english.realise(scene) for scene in scenes]
    assert len(set(texts)) >= 50_000
    words = {word for text in texts for word in text.split()} - set(names.TRAIN_NAMES)
    assert 250 <= len(words) <= 450
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    assert 0.37 < sum(bool(scene.name) for scene in scenes) / len(scenes) < 0.43


def test_drawing_is_reproducible_and_needs_names():
    first, again, other = (
        list(itertools.islice(grammar.draw_scenes(seed, names=names.TRAIN_NAMES), 50)) for seed in ("a", "a", "b")
    )
    assert first == again
    assert first != other
    with pytest.raises(ValueError, match="at least one name"):
        grammar.draw_scene(random.Random(0), names=())


def test_the_inventories_of_names():
    train, held_out = set(names.TRAIN_NAMES), set(names.HELD_OUT_NAMES)
    assert (len(train), len(held_out)) == (names.NUM_TRAIN_NAMES, names.NUM_HELD_OUT_NAMES) == (8000, 400)
    assert (names.HELD_OUT_NAMES[0], names.HELD_OUT_NAMES[-1]) == ("tubifa", "mudesil")
    assert not train & held_out
    assert all(name.isalpha() and name.islower() and name.isascii() for name in train | held_out)
    assert (names.pronoun("mirela"), names.pronoun("tovan")) == ("she", "he")


def test_lists_of_names_hold_the_name_once():
    inventory = names.TRAIN_NAMES[:20]
    listed = names.name_list(inventory[3], inventory=inventory, size=8, seed=1)
    assert (len(listed), len(set(listed)), listed.count(inventory[3])) == (8, 8, 1)
    assert listed == names.name_list(inventory[3], inventory=inventory, size=8, seed=1)
    assert len(names.name_list("", inventory=inventory, size=8, seed=1)) == 8
    without = names.name_list(inventory[3], inventory=inventory, size=19, seed=1, with_name=False)
    assert len(set(without)) == 19 and inventory[3] not in without
    with pytest.raises(ValueError, match="21 names cannot be drawn from an inventory of 20 others"):
        names.name_list("", inventory=inventory, size=21, seed=1)
