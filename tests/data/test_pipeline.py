"""Batches: the same for the same seed, resumable at any batch, alike on all hosts, and no example lost."""

import collections
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

from slm_jax.data.buckets import Bucket, check_buckets
from slm_jax.data.pipeline import (
    batch_shapes,
    eval_batches,
    eval_examples,
    eval_texts,
    get_mixture_or_task,
    train_batches,
)
from slm_jax.data.preprocessors import add_empty_speech
from slm_jax.data.vocabularies import byte_vocabulary

FEATURE = seqio.Feature(vocabulary=byte_vocabulary(), add_eos=True, dtype=tf.int32)
LENGTHS = {"speech": 12, "inputs": 6, "targets": 6}
SIZE = 23


def examples(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
    """Example i has i % 12 + 1 samples of value i / 100, inputs of i % 3 + 2 ids and targets [i + 10, 1]."""

    def make(i: tf.Tensor) -> dict[str, tf.Tensor]:
        texts = {name: tf.strings.join([name, " ", tf.strings.as_string(i)]) for name in ("inputs", "targets")}
        return {
            "speech": tf.fill([i % 12 + 1], tf.cast(i, tf.float32) / 100),
            "inputs": tf.fill([i % 3 + 2], i + 10),
            "targets": tf.stack([i + 10, 1]),
        } | {f"{name}_pretokenized": text for name, text in texts.items()}

    ds = tf.data.Dataset.range(SIZE if split == "train" else 10, output_type=tf.int32)
    return ds.map(make)


def add_task(
    name: str, preprocessors: tuple = (), *, speech: bool = True, tokens: tuple = ("inputs", "targets")
) -> None:
    features = dict.fromkeys(tokens, FEATURE)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(examples, splits=("train", "test")),
        preprocessors=list(preprocessors),
        output_features=features | ({"speech": seqio.ContinuousFeature(dtype=tf.float32, rank=1)} if speech else {}),
    )


@seqio.map_over_dataset
def without_speech(example: dict) -> dict:
    return {name: value for name, value in example.items() if name != "speech"}


@seqio.map_over_dataset
def with_teacher(example: dict) -> dict:
    """One to five ids of the target's number, and one that the vocabulary does not know."""
    number = example["targets"][0]
    return example | {"teacher_inputs": tf.concat([tf.fill([number % 5 + 1], number), [FEATURE.vocabulary.unk_id]], 0)}


@seqio.map_over_dataset
def with_unknown_target(example: dict) -> dict:
    return example | {"targets": tf.constant([FEATURE.vocabulary.unk_id, 1])}


@pytest.fixture(scope="module", autouse=True)
def registered():
    add_task("pipeline_spoken")
    add_task("pipeline_spoken_too")
    add_task("pipeline_odd", (with_unknown_target,))
    add_task("pipeline_written", (without_speech,), speech=False)
    add_task("pipeline_written_among_spoken", (without_speech, add_empty_speech))
    add_task("pipeline_taught", (with_teacher,), tokens=("inputs", "targets", "teacher_inputs"))
    seqio.MixtureRegistry.add("pipeline_mixture", ["pipeline_spoken", "pipeline_spoken_too"], default_rate=1.0)
    seqio.MixtureRegistry.add("pipeline_both", ["pipeline_spoken", "pipeline_written_among_spoken"], default_rate=1.0)
    yield
    for name in list(seqio.TaskRegistry.names()):
        if name.startswith("pipeline_"):
            seqio.TaskRegistry.remove(name)
    for name in ("pipeline_mixture", "pipeline_both"):
        seqio.MixtureRegistry.remove(name)


def train(name: str = "pipeline_spoken", **options):
    arguments = {"task_feature_lengths": LENGTHS, "batch_size": 4, "seed": 7} | options
    return train_batches(name, **arguments)


def evaluate(name: str = "pipeline_spoken", **options):
    arguments = {"task_feature_lengths": LENGTHS, "batch_size": 4, "split": "test"} | options
    return eval_batches(name, **arguments)


def numbers(batches) -> list[int]:
    """Which examples a sequence of batches holds, in order, empty rows left out."""
    rows = itertools.chain.from_iterable(batch["decoder_target_tokens"][:, 0] for batch in batches)
    return [int(row) - 10 for row in rows if row]


def take(batches, count: int) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(batches, count))


def assert_same(left: list, right: list) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


BUCKETS = (
    Bucket({"speech": 4, "inputs": 6, "targets": 6}),
    Bucket({"speech": 8, "inputs": 3, "targets": 4}),
    Bucket(LENGTHS),
)


@pytest.mark.parametrize(("name", "buckets"), [("pipeline_spoken", ()), ("pipeline_mixture", BUCKETS)])
def test_the_seed_decides_and_resuming_goes_on_exactly(name: str, buckets: tuple) -> None:
    whole = take(train(name, buckets=buckets), 12)
    assert_same(whole, take(train(name, buckets=buckets), 12))
    resumed = train(name, buckets=buckets, skip_batches=5)
    assert resumed.position == 5
    assert_same(whole[5:], take(resumed, 7))
    assert resumed.position == 12
    assert numbers(whole) != numbers(take(train(name, buckets=buckets, seed=8), 12))


def test_training_goes_on_beyond_the_first_epoch() -> None:
    drawn = numbers(take(train(), 3 * SIZE // 4))
    assert len(drawn) == 3 * SIZE // 4 * 4 > 2 * SIZE
    assert drawn != sorted(drawn)


@pytest.mark.parametrize("buckets", [(), BUCKETS], ids=["one shape", "buckets"])
def test_one_epoch_loses_no_example(buckets: tuple) -> None:
    batches = list(train(num_epochs=1, buckets=buckets))
    assert sorted(numbers(batches)) == list(range(SIZE))
    for batch in batches:
        assert {len(value) for value in batch.values()} == {4}
        empty = batch["decoder_target_tokens"][:, 0] == 0
        assert all(not value[empty].any() for value in batch.values())


def test_one_shape_without_buckets_known_beforehand() -> None:
    batch = next(train())
    known = batch_shapes(task_feature_lengths=LENGTHS, batch_size=4)
    assert {name: (spec.shape, spec.dtype) for name, spec in known.items()} == {
        name: (value.shape, value.dtype) for name, value in batch.items()
    }
    assert set(batch) - set(batch_shapes(task_feature_lengths={"inputs": 6, "targets": 6}, batch_size=4)) == {
        "speech",
        "speech_length",
    }
    shapes = {name: value.shape for name, value in batch.items()}
    assert shapes == {
        "speech": (4, 12),
        "speech_length": (4,),
        "encoder_input_tokens": (4, 6),
        "decoder_target_tokens": (4, 6),
        "decoder_input_tokens": (4, 6),
        "decoder_loss_weights": (4, 6),
    }


def test_every_example_goes_to_the_first_bucket_that_fits() -> None:
    for batch in train(num_epochs=2, buckets=BUCKETS):
        expected = {(4, 6, 6): 0, (8, 3, 4): 1, (12, 6, 6): 2}
        shape = tuple(batch[n].shape[1] for n in ("speech", "encoder_input_tokens", "decoder_target_tokens"))
        assert batch["decoder_loss_weights"].shape == batch["decoder_input_tokens"].shape == (4, shape[2])
        for number, speech in zip(batch["decoder_target_tokens"][:, 0] - 10, batch["speech"], strict=True):
            if number < 0:
                continue
            samples, tokens = number % 12 + 1, number % 3 + 2
            assert expected[shape] == (0 if samples <= 4 else 1 if samples <= 8 and tokens <= 3 else 2)
            np.testing.assert_allclose(speech, [number / 100] * samples + [0] * (len(speech) - samples), atol=1e-6)


def test_buckets_lower_the_padding_ratio() -> None:
    plain, bucketed = train(), train(buckets=BUCKETS)
    take(plain, 20), take(bucketed, 20)
    assert bucketed.padding_ratio()["speech"] < plain.padding_ratio()["speech"] - 0.1


def test_the_padding_ratio_counts_elements() -> None:
    batches = evaluate(batch_size=10)
    next(batches)
    real = sum(i % 12 + 1 for i in range(10))
    assert batches.padding_ratio() == pytest.approx(
        {
            "speech": 1 - real / 120,
            "encoder_input_tokens": 1 - sum(i % 3 + 2 for i in range(10)) / 60,
            "decoder_target_tokens": 1 - 20 / 60,
        }
    )


def test_evaluation_keeps_order_and_fills_the_last_batch_with_empty_rows() -> None:
    batches = list(evaluate())
    assert numbers(batches) == list(range(10))
    assert len(batches) == math.ceil(10 / 4)
    np.testing.assert_array_equal(batches[-1]["decoder_loss_weights"].sum(axis=1), [2, 2, 0, 0])


@pytest.mark.parametrize("name", ["pipeline_spoken", "pipeline_written"])
def test_texts_come_in_the_order_of_the_batches(name: str) -> None:
    found = list(eval_texts(name, task_feature_lengths=LENGTHS, split="test"))
    assert found == [{"inputs": f"inputs {i}", "targets": f"targets {i}"} for i in range(10)]


def test_each_batch_comes_with_the_texts_of_its_real_rows() -> None:
    examples = list(eval_examples("pipeline_spoken", task_feature_lengths=LENGTHS, split="test", batch_size=4))
    texts = [[text["targets"] for text in texts] for _, texts in examples]
    assert texts == [[f"targets {i}" for i in range(10)][start : start + 4] for start in (0, 4, 8)]
    assert numbers([batch for batch, _ in examples]) == list(range(10))


def test_a_text_task_has_no_speech() -> None:
    for lengths in (LENGTHS, {"inputs": 6, "targets": 6}):
        batch = next(train("pipeline_written", task_feature_lengths=lengths))
        assert not any(name.startswith("speech") for name in batch)
    buckets = (Bucket({"inputs": 3, "targets": 3}), Bucket({"inputs": 6, "targets": 6}))
    widths = {
        b["encoder_input_tokens"].shape[1]
        for b in take(train("pipeline_written", task_feature_lengths={"inputs": 6, "targets": 6}, buckets=buckets), 8)
    }
    assert widths == {3, 6}


def test_text_among_speech_has_length_zero() -> None:
    batches = take(train("pipeline_both"), 10)
    lengths = np.concatenate([batch["speech_length"] for batch in batches])
    speech = np.concatenate([batch["speech"] for batch in batches])
    assert (lengths == 0).any() and (lengths > 0).any()
    assert not speech[lengths == 0].any()


def test_too_long_examples_are_an_error() -> None:
    batches = evaluate(task_feature_lengths=LENGTHS | {"speech": 5})
    with pytest.raises(ValueError, match="speech of length 6, but TASK_FEATURE_LENGTHS allows 5.*targets 5"):
        list(batches)
    with pytest.raises(ValueError, match="speech of length 6"):
        list(eval_texts("pipeline_spoken", task_feature_lengths=LENGTHS | {"speech": 5}, split="test"))


def test_too_long_examples_are_dropped_and_counted_if_asked() -> None:
    options = {"task_feature_lengths": LENGTHS | {"speech": 5}, "over_length": "drop"}
    batches = evaluate(**options)
    assert numbers(batches) == [0, 1, 2, 3, 4]
    assert batches.dropped == collections.Counter(speech=5)
    found = eval_texts("pipeline_spoken", split="test", **options)
    assert [text["targets"] for text in found] == [f"targets {i}" for i in range(5)]


TAUGHT_LENGTHS = LENGTHS | {"teacher_inputs": 6}


def test_what_a_teacher_reads_decides_the_bucket_too() -> None:
    buckets = (Bucket(LENGTHS | {"teacher_inputs": 3}), Bucket(TAUGHT_LENGTHS))
    batches = train("pipeline_taught", task_feature_lengths=TAUGHT_LENGTHS, buckets=buckets)
    widths = set()
    for batch in take(batches, 12):
        taught, number = batch["teacher_input_tokens"], batch["decoder_target_tokens"][:, 0]
        np.testing.assert_array_equal(np.count_nonzero(taught, axis=1), number % 5 + 2)
        widths |= {(taught.shape[1], bool(short)) for short in number % 5 + 2 <= 3}
    assert widths == {(3, True), (6, False)}
    assert 0 < batches.padding_ratio()["teacher_input_tokens"] < 0.5
    known = batch_shapes(task_feature_lengths=TAUGHT_LENGTHS, batch_size=4)
    assert known.keys() == batch.keys() and known["teacher_input_tokens"].shape == (4, 6)


def test_what_a_teacher_reads_is_checked_for_length_and_unknown_pieces() -> None:
    batches = evaluate("pipeline_taught", task_feature_lengths=TAUGHT_LENGTHS)
    list(batches)
    assert batches.unknown == {"teacher_input_tokens": 10}
    with pytest.raises(ValueError, match="teacher_inputs of length 6, but TASK_FEATURE_LENGTHS allows 5"):
        list(evaluate("pipeline_taught", task_feature_lengths=LENGTHS | {"teacher_inputs": 5}))


def test_unknown_pieces_are_counted() -> None:
    batches = evaluate()
    list(batches)
    assert not batches.unknown
    odd = evaluate("pipeline_odd")
    list(odd)
    assert odd.unknown == {"decoder_target_tokens": 10}


def test_an_example_that_fits_no_bucket_is_an_error() -> None:
    with pytest.raises(ValueError, match="fits no bucket: speech 6 encoder_input_tokens 4 decoder_target_tokens 2"):
        list(evaluate(buckets=(Bucket(LENGTHS | {"speech": 5}),)))
    with pytest.raises(ValueError, match="fits no bucket"):
        list(evaluate(buckets=(Bucket(LENGTHS | {"speech": 4}), Bucket(LENGTHS | {"speech": 5}))))


def test_buckets_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="Bucket 0 gives lengths of"):
        check_buckets((Bucket({"speech": 4}),), LENGTHS)
    with pytest.raises(ValueError, match=r"Bucket 0: the lengths of \['speech'\]"):
        check_buckets((Bucket(LENGTHS | {"speech": 13}),), LENGTHS)
    with pytest.raises(ValueError, match="Bucket 1 is never used"):
        check_buckets((Bucket(LENGTHS), Bucket(LENGTHS | {"inputs": 2})), LENGTHS)
    assert check_buckets((), LENGTHS) == (Bucket(LENGTHS),)


def test_unknown_names_get_near_matches() -> None:
    with pytest.raises(ValueError, match="called 'pipelin_spoken'. Did you mean pipeline_spoken"):
        train("pipelin_spoken")
    with pytest.raises(ValueError, match="called '#'. There are"):
        get_mixture_or_task("#")


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no split 'validation'; it has \['test', 'train'\]"):
        evaluate("pipeline_mixture", split="validation")


LEAVE_EARLY = """
import gc, threading
import seqio, tensorflow as tf
from slm_jax.data import pipeline

go_on = threading.Event()
done = threading.Event()

def slow(number):
    if number > 3:
        go_on.wait()
    done.set()
    return number

dataset = tf.data.Dataset.range(100).map(
    lambda x: tf.numpy_function(slow, [x], tf.int64), num_parallel_calls=4
).batch(2).prefetch(2)
elements = pipeline.elements(dataset)
print(next(elements))
del elements
gc.collect()
print("left")
go_on.set()
"""


def test_leaving_early_does_not_wait_for_functions_that_wait_for_python():
    done = subprocess.run([sys.executable, "-c", LEAVE_EARLY], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["[0", "1]", "left"], done.stderr[-2000:]
