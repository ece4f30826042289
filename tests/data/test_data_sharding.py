"""Examples dealt to shards: the same batches whoever reads them, only one's own are decoded, bad settings."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from slm_jax.data.pipeline import Bucket, train_batches
from slm_jax.data.vocabularies import byte_vocabulary

LENGTHS = {"speech": 4, "inputs": 3, "targets": 3}
SIZE = 13


def examples(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
    return tf.data.Dataset.range(SIZE if split == "train" else 3, output_type=tf.int32).map(lambda i: {"number": i})


def decoder(decoded: list[int]):
    """Makes example i, with i % 4 + 1 samples and targets [i + 10, 1], and notes its number."""

    def note(number: np.ndarray) -> np.int32:
        decoded.append(int(number))
        return np.int32(number)

    @seqio.map_over_dataset
    def decode(example: dict) -> dict:
        number = tf.ensure_shape(tf.numpy_function(note, [example["number"]], tf.int32), [])
        texts = {f"{name}_pretokenized": tf.strings.as_string(number) for name in ("inputs", "targets")}
        speech = tf.fill([number % 4 + 1], tf.cast(number, tf.float32))
        return {"speech": speech, "inputs": tf.fill([2], number + 10), "targets": tf.stack([number + 10, 1])} | texts

    return decode


def make_task(name: str, decoded: list[int]) -> seqio.Task:
    tokens = seqio.Feature(vocabulary=byte_vocabulary(), add_eos=True, dtype=tf.int32)
    speech = seqio.ContinuousFeature(dtype=tf.float32, rank=1)
    counts = {"train": SIZE, "few": 3}
    return seqio.Task(
        name,
        source=seqio.FunctionDataSource(examples, splits=tuple(counts), num_input_examples=counts),
        preprocessors=[decoder(decoded)],
        output_features={"speech": speech, "inputs": tokens, "targets": tokens},
    )


TASK = make_task("sharded", [])


def train(**options):
    return train_batches(
        options.pop("task", TASK), **{"task_feature_lengths": LENGTHS, "batch_size": 8, "seed": 7} | options
    )


def take(batches, count: int) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(batches, count))


def numbers(batches) -> list[list[int]]:
    return [(batch["decoder_target_tokens"][:, 0] - 10).tolist() for batch in batches]


@pytest.mark.parametrize("readers", [[(0, 1), (2, 3)], [(0,), (1,), (2,), (3,)], [(0, 3), (1, 2)]])
def test_shards_fill_their_own_rows_whoever_reads_them(readers):
    whole = take(train(data_shards=4), 6)
    for shards in readers:
        for part, batch in zip(take(train(data_shards=4, shards=shards), 6), whole, strict=True):
            rows = [row for shard in shards for row in range(2 * shard, 2 * shard + 2)]
            assert part.keys() == batch.keys()
            for name in batch:
                np.testing.assert_array_equal(part[name], batch[name][rows], err_msg=name)


def test_every_example_is_in_one_shard():
    seen = [set(itertools.chain(*numbers(take(train(data_shards=4, shards=(i,)), 8)))) for i in range(4)]
    assert sorted(itertools.chain(*seen)) == list(range(SIZE))


def test_a_shard_decodes_no_example_of_another():
    decoded: list[int] = []  # of a task of its own: iterators of other tests go on reading ahead
    task = make_task("sharded_alone", decoded)
    own = set(itertools.chain(*numbers(take(train(task=task, data_shards=4, shards=(2,)), 8))))
    assert set(decoded) == own
    assert len(own) in (3, 4)


def test_one_shard_is_the_data_as_they_are():
    for whole, one in zip(take(train(), 4), take(train(data_shards=1, shards=(0,)), 4), strict=True):
        for name in whole:
            np.testing.assert_array_equal(one[name], whole[name], err_msg=name)


def test_resuming_goes_on_exactly():
    whole = train(data_shards=2, shards=(1,))
    expected = numbers(take(whole, 5))
    assert whole.position == 5
    assert numbers(take(train(data_shards=2, shards=(1,), skip_batches=3), 2)) == expected[3:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_shards": 3}, "batch of 8 examples cannot be split evenly over 3 data_shards"),
        ({"data_shards": 0}, "batch of 8 examples cannot be split evenly over 0 data_shards"),
        ({"data_shards": 2, "buckets": [Bucket(LENGTHS)]}, "2 data_shards and buckets do not go together"),
        ({"data_shards": 2, "num_epochs": 1}, "num_epochs has to be None"),
        ({"data_shards": 4, "split": "few"}, "Task 'sharded' has 3 examples in 'few', too few for 4 data_shards"),
    ],
)
def test_settings_that_shards_cannot_keep_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        next(train(**options))
