"""Examples dealt to several shards, of which a host reads those that its devices hold."""

from collections.abc import Iterable, Sequence

import seqio
import tensorflow as tf

from slm_jax.data.buckets import Bucket


def check_shards(data_shards: int, *, batch_size: int, buckets: Sequence[Bucket], num_epochs: int | None) -> None:
    """Refuses settings under which shards would not give batches of one shape for ever.

    Raises:
      ValueError: rows cannot be shared out evenly, or there are buckets or a number of epochs.
    """
    if data_shards < 1 or batch_size % data_shards:
        raise ValueError(f"a batch of {batch_size} examples cannot be split evenly over {data_shards} data_shards")
    if buckets:
        raise ValueError(
            f"{data_shards} data_shards and buckets do not go together, since whoever reads one shard does not know in"
            " which bucket the others are: set BUCKETS = () or data_shards = 1"
        )
    if num_epochs is not None:
        raise ValueError(f"{data_shards} data_shards come to their ends at different steps: num_epochs has to be None")


def check_examples(task: seqio.Task, split: str, shard: seqio.ShardInfo) -> None:
    """Refuses a task with fewer examples than shards: one without any would be looked through for ever.

    Raises:
      ValueError: it has.
    """
    count = task.num_input_examples(split)
    if count is not None and count < shard.num_shards:
        raise ValueError(
            f"Task '{task.name}' has {count} examples in '{split}', too few for {shard.num_shards} data_shards"
        )


def one_above_the_other(parts: Iterable[tf.data.Dataset]) -> tf.data.Dataset:
    """Batches with the rows of all parts, the first part's first."""
    first, *others = parts
    if not others:
        return first
    zipped = tf.data.Dataset.zip(first, *others)
    return zipped.map(lambda *batches: {name: tf.concat([b[name] for b in batches], axis=0) for name in batches[0]})
