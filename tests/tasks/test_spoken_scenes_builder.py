"""The TFDS dataset: round trip, splits, voices, errors."""

import itertools
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from slm_jax.tasks.spoken_scenes import builder, families, names, utterances, voices
from slm_jax.tasks.spoken_scenes.corpus import Split
from slm_jax.tasks.spoken_scenes.utterances import Content


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tfds.core.DatasetBuilder:
    built = tfds.builder("spoken_scenes/tiny", data_dir=tmp_path_factory.mktemp("tfds"))
    built.download_and_prepare()
    return built


@pytest.fixture(scope="module")
def read(tiny: tfds.core.DatasetBuilder) -> dict[str, list[dict]]:
    return {split.value: list(tfds.as_numpy(tiny.as_dataset(split=split.value))) for split in Split}


def test_round_trip(tiny: tfds.core.DatasetBuilder, read: dict[str, list[dict]]):
    assert {name: len(found) for name, found in read.items()} == {"train": 24, "validation": 8, "test": 8}
    expected = {"speech", "voice", "speed", "id", "name", "question", *families.TARGET_FEATURES}
    assert set(tiny.info.features) == expected
    for split in Split:
        made = dict(utterances.examples(split, size=len(read[split.value]), content=Content.SPEECH, workers=0))
        for example in read[split.value]:
            original = made.pop(example["id"].decode())
            np.testing.assert_array_equal(example["speech"], original["speech"])
            assert all(example[name].decode() == original[name] for name in (*families.TARGET_FEATURES, "question"))
        assert not made


def test_speech_is_audible_and_of_plausible_length(read: dict[str, list[dict]]):
    for example in itertools.chain(*read.values()):
        seconds = len(example["speech"]) / voices.SAMPLE_RATE
        words = len(example["text"].split())
        assert example["speech"].dtype == np.int16
        assert 0.12 < seconds / words < 0.8
        assert seconds <= utterances.MAX_SECONDS
        assert np.sqrt(np.mean(np.square(example["speech"].astype(np.float64)))) > 200


def test_the_voice_and_the_names_of_test_are_not_in_train(read: dict[str, list[dict]]):
    heard = {split: {example["voice"].decode() for example in found} for split, found in read.items()}
    assert heard["test"] == {voices.HELD_OUT_VOICE.name}
    assert heard["train"] == {voice.name for voice, _ in voices.PYPI_CAST}
    assert heard["validation"] <= heard["train"]
    called = {split: {example["name"].decode() for example in found} - {""} for split, found in read.items()}
    assert called["train"] <= set(names.TRAIN_NAMES)
    assert called["validation"] | called["test"] <= set(names.HELD_OUT_NAMES)


def test_splits_share_no_sentence(read: dict[str, list[dict]]):
    texts = [example["text"] for example in itertools.chain(*read.values())]
    assert len(set(texts)) == len(texts)


def test_text_needs_no_speech(tmp_path: pathlib.Path):
    config = builder.SpokenScenesConfig(name="words", train=30, validation=3, test=2, content=Content.TEXT, workers=0)
    built = builder.SpokenScenes(config=config, data_dir=tmp_path)
    built.download_and_prepare()
    assert not {"speech", "voice", "speed"} & set(built.info.features)
    assert {name: split.num_examples for name, split in built.info.splits.items()} == {
        "train": 30,
        "validation": 3,
        "test": 2,
    }


def test_a_drill_has_text_and_speech_alone(tmp_path: pathlib.Path):
    config = builder.SpokenScenesConfig(
        name="few_words", train=6, validation=4, test=4, content=Content.DRILL, workers=0
    )
    built = builder.SpokenScenes(config=config, data_dir=tmp_path)
    built.download_and_prepare()
    assert set(built.info.features) == {"text", "speech", "voice", "speed", "id"}
    inventories = {"train": names.TRAIN_NAMES, "validation": names.HELD_OUT_NAMES, "test": names.HELD_OUT_NAMES}
    for split, inventory in inventories.items():
        words = {w.decode() for e in tfds.as_numpy(built.as_dataset(split=split)) for w in e["text"].split()}
        called = words & {*names.TRAIN_NAMES, *names.HELD_OUT_NAMES}
        assert called
        assert called <= set(inventory)


def test_the_configurations_for_users():
    sizes = {
        config.name: (config.train, config.validation, config.test) for config in builder.SpokenScenes.BUILDER_CONFIGS
    }
    assert sizes == {
        "quickstart": (3000, 64, 200),
        "full": (30_000, 500, 1000),
        "drill": (24_000, 200, 200),
        "chorus": (8000, 100, 1),
        "chorus_drill": (8000, 100, 1),
        **dict.fromkeys(("neural", "neural_2"), (1200, 100, 1)),
        **dict.fromkeys(("neural_drill", "neural_drill_2", "neural_drill_3"), (2000, 100, 1)),
        "clear_drill": (4000, 100, 1),
        "study": (8000, 200, 1),
        "claims": (1, 1, 500),
        "text": (120_000, 500, 1000),
        "tiny": (24, 8, 8),
    }


def test_the_quickstart_trains_on_sentences_that_the_encoder_has_not_heard():
    configs = {config.name: config for config in builder.SpokenScenes.BUILDER_CONFIGS}
    # Some sentences are too long, so that a configuration draws a few more than it holds.
    assert configs["full"].first >= 1.1 * configs["quickstart"].train
    texts = [
        [example["text"] for _, example in utterances.examples(Split.TRAIN, size=9, content=Content.TEXT, **places)]
        for places in ({"workers": 0}, {"workers": 0, "first": 4})
    ]
    assert texts[0][4:] == texts[1][:5]


def test_the_cast_of_a_configuration_speaks():
    speakers = {
        example["voice"]
        for split in (Split.TRAIN, Split.VALIDATION)
        for _, example in utterances.examples(
            split, size=3, content=Content.SPEECH, workers=0, cast=((voices.PICO_GB, 1.0),)
        )
    }
    assert speakers == {"pico_en_gb"}


def test_examples_do_not_depend_on_the_number_of_workers():
    alone = list(utterances.bounded_map(abs, range(-40, 0), workers=0))
    assert alone == list(utterances.bounded_map(abs, range(-40, 0), workers=2)) == list(range(40, 0, -1))


def test_endless_jobs_are_taken_one_by_one():
    assert list(itertools.islice(utterances.bounded_map(abs, itertools.count(), workers=1), 3)) == [0, 1, 2]


def test_too_long_utterances_give_way_to_the_next_sentence(monkeypatch: pytest.MonkeyPatch):
    examples = utterances.examples(Split.TRAIN, size=20, content=Content.SPEECH, workers=0)
    plain = [example["text"] for _, example in examples]
    monkeypatch.setattr(utterances, "MAX_SECONDS", 2.5)
    cut = list(utterances.examples(Split.TRAIN, size=12, content=Content.SPEECH, workers=0))
    kept = [example["text"] for _, example in cut]
    assert all(len(example["speech"]) <= 2.5 * voices.SAMPLE_RATE for _, example in cut)
    assert kept != plain[:12]
    order = [plain.index(text) for text in kept if text in plain]
    assert order == sorted(order)
    assert [key for key, _ in cut] == [f"train-{index:06d}" for index in range(12)]


def test_bad_configurations_are_named():
    with pytest.raises(ValueError, match="spoken_scenes/none: every split needs at least one example"):
        builder.SpokenScenesConfig(name="none", train=0, validation=1, test=1)
    with pytest.raises(ValueError, match="first is -1"):
        builder.SpokenScenesConfig(name="none", train=1, validation=1, test=1, first=-1)
    with pytest.raises(ValueError, match="workers is -1"):
        builder.SpokenScenesConfig(name="none", train=1, validation=1, test=1, workers=-1)
