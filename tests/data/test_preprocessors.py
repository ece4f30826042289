"""Each step from a raw example to speech, inputs and targets."""

import collections
import functools
import pathlib

import numpy as np
import pytest
import seqio
import soundfile
import tensorflow as tf

from slm_jax.data import preprocessors, prompts, span_corruption
from slm_jax.data.preprocessors import OverLength, Wording
from slm_jax.data.vocabularies import byte_vocabulary

VOCABULARY = byte_vocabulary(extra_ids=10)
FEATURE = seqio.Feature(vocabulary=VOCABULARY, add_eos=True, dtype=tf.int32)
FEATURES = {"inputs": FEATURE, "targets": FEATURE}
TEMPLATE = prompts.PromptTemplate(kind="test", trained=("one {x}", "two {x}", "three {x}"), unseen=("never {x}",))


def dataset(count: int = 1, **values) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors(values).repeat(count)


def only(ds: tf.data.Dataset) -> dict:
    (example,) = ds.as_numpy_iterator()
    return example


def texts(ds: tf.data.Dataset, name: str = "inputs") -> list[str]:
    return [example[name].decode() for example in ds.as_numpy_iterator()]


@pytest.mark.parametrize("dtype", [np.int16, np.int64])
def test_integers_become_floats(dtype: type) -> None:
    ds = dataset(speech=np.array([0, 16384, -32768], dtype))
    speech = only(preprocessors.speech_from_integers(ds))["speech"]
    assert speech.dtype == np.float32
    np.testing.assert_array_equal(speech, [0, 0.5, -1])


def test_rate_conversion() -> None:
    ds = dataset(speech=np.sin(np.arange(4800) / 100).astype(np.float32))
    assert len(only(preprocessors.resample_speech(ds, from_rate=48000))["speech"]) == 1600
    np.testing.assert_array_equal(
        only(preprocessors.resample_speech(ds, from_rate=16000))["speech"], only(ds)["speech"]
    )


def test_rename_and_lower_case() -> None:
    ds = preprocessors.rename_features(dataset(a="ÄB", b="x"), names={"text": "a"})
    ds = preprocessors.lower_case(ds, names=("text",))
    assert only(ds) == {"text": "äb".encode()}


def draw_prompts(*, training: bool, seed: int, wording: Wording = Wording.TRAINED) -> list[str]:
    with seqio.utils.map_seed_manager(seed):
        attach = functools.partial(preprocessors.attach_prompt, template=TEMPLATE, wording=wording)
        return texts(attach(dataset(30, x="word", training=int(training))))


def test_training_draws_all_wordings_and_the_seed_decides() -> None:
    drawn = draw_prompts(training=True, seed=1)
    assert set(drawn) == {"one word", "two word", "three word"}
    assert drawn == draw_prompts(training=True, seed=1)
    assert drawn != draw_prompts(training=True, seed=2)


def test_evaluation_takes_the_first_wording() -> None:
    assert set(draw_prompts(training=False, seed=1)) == {"one word"}


@pytest.mark.parametrize("training", [True, False])
def test_a_fixed_wording(training: bool) -> None:
    assert set(draw_prompts(training=training, seed=1, wording=Wording.FIRST)) == {"one word"}
    assert set(draw_prompts(training=training, seed=1, wording=Wording.UNSEEN)) == {"never word"}


def test_prompts_that_cannot_be_filled_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs the fields \['x'\]"):
        preprocessors.attach_prompt(dataset(training=1), template=TEMPLATE)
    seen_only = prompts.PromptTemplate(kind="test", trained=("a",))
    with pytest.raises(ValueError, match="no unseen wording"):
        preprocessors.attach_prompt(dataset(training=1), template=seen_only, wording=Wording.UNSEEN)


def test_an_examples_own_prompt_wins() -> None:
    assert texts(preprocessors.prefer_own_prompt(dataset(inputs="general", prompt="own"))) == ["own"]
    assert texts(preprocessors.prefer_own_prompt(dataset(inputs="general", prompt=""))) == ["general"]


def test_the_instruction_has_the_same_ids_after_speech_and_after_text() -> None:
    ds = dataset(inputs="Write it", targets="rot", transcript="red ball")
    spoken = only(preprocessors.tokenize_speech_task(ds, output_features=FEATURES))
    written = only(preprocessors.tokenize_text_task(ds, output_features=FEATURES))
    transcript = VOCABULARY.encode("red ball")
    np.testing.assert_array_equal(spoken["inputs"], [*VOCABULARY.encode("Write it"), 1])
    np.testing.assert_array_equal(written["inputs"], [*transcript, *spoken["inputs"]])
    for example in (spoken, written):
        np.testing.assert_array_equal(example["targets"], [*VOCABULARY.encode("rot"), 1])
        assert example["targets_pretokenized"] == b"rot"
    assert written["inputs_pretokenized"] == b"red ball Write it"


def test_a_teacher_reads_what_the_text_task_has_as_inputs() -> None:
    ds = dataset(inputs="Write it", targets="rot", transcript="red ball")
    written = only(preprocessors.tokenize_text_task(ds, output_features=FEATURES))
    spoken = only(preprocessors.tokenize_speech_task(ds, output_features=FEATURES))
    taught = preprocessors.add_teacher_inputs(ds, output_features=FEATURES)
    taught = only(preprocessors.tokenize_speech_task(taught, output_features=FEATURES))
    np.testing.assert_array_equal(taught.pop("teacher_inputs"), written["inputs"])
    assert taught.keys() == spoken.keys()
    for name, value in spoken.items():
        np.testing.assert_array_equal(taught[name], value, err_msg=name)


def test_a_teacher_without_a_transcript_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a `transcript`; the example has \['inputs', 'targets'\]"):
        preprocessors.add_teacher_inputs(dataset(inputs="a", targets="b"), output_features=FEATURES)


def test_no_end_of_sequence_where_the_feature_wants_none() -> None:
    plain = seqio.Feature(vocabulary=VOCABULARY, add_eos=False)
    ds = dataset(inputs="a", targets="b")
    example = only(preprocessors.tokenize_speech_task(ds, output_features={"inputs": plain, "targets": FEATURE}))
    assert example["inputs"].tolist() == VOCABULARY.encode("a")


def test_empty_speech() -> None:
    speech = only(preprocessors.add_empty_speech(dataset(inputs="a")))["speech"]
    assert speech.shape == (0,) and speech.dtype == np.float32


def write(folder: pathlib.Path, name: str) -> str:
    soundfile.write(folder / name, np.full(800, 0.25, np.float32), 8000)
    return str(folder / name)


def test_speech_is_read_from_files(tmp_path: pathlib.Path) -> None:
    example = only(preprocessors.read_speech(dataset(audio=write(tmp_path, "a.flac"), source="m.tsv:2")))
    assert set(example) == {"audio", "source", "speech"}
    assert len(example["speech"]) == 1600


def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "bad.wav").write_text("no sound")
    ds = preprocessors.read_speech(dataset(audio=str(tmp_path / "bad.wav"), source="m.tsv:2"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="m.tsv:2: Cannot decode .*bad.wav"):
        only(ds)


def test_files_that_cannot_be_read_are_left_out_and_reported_if_asked(tmp_path: pathlib.Path) -> None:
    (tmp_path / "bad.wav").write_text("no sound")
    audio = [write(tmp_path, "a.wav"), str(tmp_path / "bad.wav"), write(tmp_path, "b.wav")]
    ds = tf.data.Dataset.from_tensor_slices({"audio": audio, "source": ["m:1", "m:2", "m:3"]})
    report: dict[str, str] = {}
    kept = texts(preprocessors.read_speech(ds, on_error=report.__setitem__), "source")
    assert kept == ["m:1", "m:3"]
    assert list(report) == ["m:2"] and "Cannot decode" in report["m:2"]


def lengths_dataset() -> tf.data.Dataset:
    ds = tf.data.Dataset.from_tensor_slices({"n": [1, 3, 5], "m": [4, 1, 1]})
    return ds.map(lambda ex: {"inputs": tf.range(ex["n"]), "targets": tf.range(ex["m"])})


def test_too_long_examples_are_an_error_with_the_length_and_the_limit() -> None:
    checked = preprocessors.check_lengths(lengths_dataset(), {"inputs": 3, "targets": 4, "speech": 7})
    with pytest.raises(tf.errors.InvalidArgumentError, match="inputs of length 5, but TASK_FEATURE_LENGTHS allows 3"):
        list(checked.as_numpy_iterator())


@pytest.mark.parametrize(("limit", "endless"), [(4, True), (1, False)])
def test_nothing_but_too_long_examples_is_an_error_where_they_come_for_ever(monkeypatch, limit, endless) -> None:
    monkeypatch.setattr(preprocessors, "MOST_DROPPED_IN_A_ROW", 4)
    checked = preprocessors.check_lengths(
        lengths_dataset().repeat(), {"inputs": 5, "targets": 4 - limit}, over_length=OverLength.DROP
    )
    first = checked.take(5).as_numpy_iterator()
    if not endless:  # two of three are left out each time
        assert [len(example["inputs"]) for example in first] == [3, 5, 3, 5, 3]
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match="4 examples in a row.*targets of more than 0.*raise"):
        list(first)


def test_too_long_examples_are_dropped_and_counted_if_asked() -> None:
    dropped: collections.Counter[str] = collections.Counter()
    checked = preprocessors.check_lengths(
        lengths_dataset(),
        {"inputs": 4, "targets": 3},
        over_length=OverLength.DROP,
        count_dropped=lambda name: dropped.update([name]),
    )
    assert [len(example["inputs"]) for example in checked.as_numpy_iterator()] == [3]
    assert dropped == {"inputs": 1, "targets": 1}


def test_the_drawn_span_corruption() -> None:
    tokens = tf.constant([5, 6, 7, 8, 9])
    mask = tf.constant([False, True, True, False, True])
    inputs, targets = span_corruption.corrupt(tokens, mask, vocab_size=100)
    assert inputs.numpy().tolist() == [5, 99, 8, 98]
    assert targets.numpy().tolist() == [99, 6, 7, 98, 9]


@pytest.mark.parametrize("length", [1, 2, 7, 50, 300])
def test_masks_have_the_density_and_at_most_the_spans(length: int) -> None:
    for seed in range(5):
        mask = span_corruption.random_spans_mask(
            tf.constant(length), seed=tf.constant([seed, 0]), noise_density=0.2, mean_span_length=2.0, max_spans=4
        ).numpy()
        spans = int(np.sum(np.diff(mask.astype(int)) == 1))
        assert len(mask) == length and not mask[0]
        if length > 1:
            assert mask[-1] and mask.sum() == max(1, round(length * 0.2))
            assert 1 <= spans <= 4


def corrupt(text: str, **options: float) -> dict:
    with seqio.utils.map_seed_manager(3):
        return only(span_corruption.span_corruption(dataset(transcript=text), output_features=FEATURES, **options))


def test_inputs_and_targets_together_hold_the_text() -> None:
    text = "the farmer sold a red apple at the market"
    example = corrupt(text)
    size, gaps = VOCABULARY.vocab_size, {}
    assert example["inputs"][-1] == example["targets"][-1] == 1
    for token in example["targets"][:-1]:
        if token >= size - 10:
            current = gaps.setdefault(int(token), [])
        else:
            current.append(int(token))
    filled = [t for token in example["inputs"][:-1] for t in gaps.get(int(token), [int(token)])]
    assert VOCABULARY.decode(filled) == text


def test_noise_density_and_span_length_matter() -> None:
    text = "x" * 60
    sentinels = [
        int((corrupt(text, **o)["inputs"] >= VOCABULARY.vocab_size - 10).sum())
        for o in ({}, {"noise_density": 0.4}, {"mean_span_length": 9.0})
    ]
    assert sentinels == [3, 8, 1]


def test_span_corruption_needs_sentinels() -> None:
    plain = seqio.Feature(vocabulary=byte_vocabulary(), dtype=tf.int32)
    with pytest.raises(ValueError, match="extra_ids"):
        span_corruption.span_corruption(dataset(transcript="a b"), output_features={"inputs": plain, "targets": plain})
