"""Splits of prepared datasets, and slices of them."""

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from slm_jax.data.pipeline import train_batches
from slm_jax.data.sources import Splits, TfdsSource
from slm_jax.tasks import scenes
from slm_jax.tasks.spoken_scenes.builder import SpokenScenes

SPLITS = {"train": "clean + other", "test": "test"}


def test_a_slice_of_a_split_is_a_split():
    splits = Splits(SPLITS)
    assert splits["train[:10%]"] == "clean[:10%]+other[:10%]" and splits["test[5:]"] == "test[5:]"
    assert splits["train"] == "clean + other"
    assert "test[5:]" in splits and "train" in splits
    assert "dev[5:]" not in splits and "dev" not in splits
    assert list(splits) == ["train", "test"]
    for unknown in ("dev", "dev[5:]"):
        with pytest.raises(KeyError):
            splits[unknown]


def test_a_source_reads_slices():
    asked = []

    def as_dataset(self, split, *args, **kwargs):
        asked.append(split)
        return tf.data.Dataset.range(1).map(lambda number: {"number": number})

    with tfds.testing.mock_data(as_dataset_fn=as_dataset, policy=tfds.testing.MockPolicy.USE_CODE):
        source = TfdsSource(f"spoken_scenes/tiny:{SpokenScenes.VERSION}", splits=SPLITS, prepare_command="prepare")
        flags = [next(iter(source.get_dataset(split)))["training"] for split in ("train[:10%]", "test")]
        with pytest.raises(FileNotFoundError, match=r"spoken_scenes/tiny.*\(dev\[:3\]\)"):
            source.get_dataset("dev[:3]")
    assert asked == ["clean[:10%]+other[:10%]", "test"]
    assert flags == [1, 0]
    assert set(source.splits) == {"train", "test"}


def test_slices_of_unknown_splits_and_of_the_cache_are_refused():
    name, options = scenes.task_name("tiny", "transcribe"), dict(task_feature_lengths={}, batch_size=1, seed=0)
    with pytest.raises(ValueError, match=r"no split 'dev\[:3\]'; it has \['test', 'train', 'validation'\]"):
        train_batches(name, split="dev[:3]", **options)
    with pytest.raises(ValueError, match=r"cache holds whole splits only, not 'train\[:3\]'"):
        train_batches(name, split="train[:3]", use_cached=True, **options)
