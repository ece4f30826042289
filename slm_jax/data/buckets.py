"""Length buckets: a few static shapes, so that short examples are not padded to the longest."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

HostBatch = dict[str, np.ndarray]
Tensors = dict[str, tf.Tensor]

_LENGTH_FROM = {
    "speech": "speech_length",
    "speech_embeddings": "speech_mask",
    "encoder_input_tokens": None,
    "teacher_input_tokens": None,
    "decoder_target_tokens": "decoder_loss_weights",
}
"""Arrays with a length of their own, and what tells it: a length, weights, or (None) the last id that is not 0."""


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One shape of batches.

    Attributes:
      feature_lengths: the largest length of each task feature (speech in samples, speech_embeddings, inputs, targets,
        teacher_inputs), by the names of TASK_FEATURE_LENGTHS.
    """

    feature_lengths: Mapping[str, int]


def check_buckets(buckets: Sequence[Bucket], task_feature_lengths: Mapping[str, int]) -> tuple[Bucket, ...]:
    """The buckets, or one bucket of the full lengths if there are none.

    Raises:
      ValueError: a bucket names other features than `task_feature_lengths`, is larger than these, or can never be
        used because an earlier one is at least as large in everything.
    """
    buckets = tuple(buckets) or (Bucket(dict(task_feature_lengths)),)
    for index, bucket in enumerate(buckets):
        lengths = bucket.feature_lengths
        if set(lengths) != set(task_feature_lengths):
            raise ValueError(
                f"Bucket {index} gives lengths of {sorted(lengths)}, TASK_FEATURE_LENGTHS of "
                f"{sorted(task_feature_lengths)}"
            )
        larger = [name for name in lengths if not 0 < lengths[name] <= task_feature_lengths[name]]
        if larger:
            raise ValueError(f"Bucket {index}: the lengths of {larger} must be 1 to those of TASK_FEATURE_LENGTHS")
        for earlier in buckets[:index]:
            if all(lengths[name] <= earlier.feature_lengths[name] for name in lengths):
                raise ValueError(
                    f"Bucket {index} is never used: an earlier bucket takes all that fits. Smallest first."
                )
    return buckets


def bucketed_batches(
    dataset: tf.data.Dataset,
    buckets: Sequence[Bucket],
    *,
    converter: seqio.FeatureConverter,
    batch_size: int,
) -> tf.data.Dataset:
    """Batches of converted examples; every example goes to the first bucket where all its real lengths fit.

    A batch is emitted when its bucket has `batch_size` examples, in the order in which buckets fill, so the same order
    of examples gives the same batches. When the examples end, what is left in each bucket comes out as smaller
    batches.

    Args:
      dataset: what `converter` made, padded to the full lengths.
      buckets: smallest first; the shapes are those the converter would make of their lengths.
      converter: the one that made `dataset`.
      batch_size: rows of a full batch.

    Raises:
      tf.errors.InvalidArgumentError: when an example is read that fits no bucket; `slm_jax.data.pipeline` makes a
        ValueError of it.
    """
    ranks = {name: spec.shape.rank for name, spec in dataset.element_spec.items()}
    shapes = [
        {name: n for name, n in converter.get_model_feature_lengths(bucket.feature_lengths).items() if ranks.get(name)}
        for bucket in buckets
    ]
    measured = [name for name in _LENGTH_FROM if name in dataset.element_spec]

    def choose(example: Tensors) -> tf.Tensor:
        lengths = real_lengths(example)
        fits = [tf.reduce_all([lengths[name] <= shape[name] for name in measured]) for shape in shapes]
        tf.debugging.Assert(tf.reduce_any(fits), [_fits_no_bucket({name: lengths[name] for name in measured})])
        return tf.argmax(tf.cast(fits, tf.int64))

    def cut(example: Tensors) -> tuple[tf.Tensor, Tensors]:
        """Only padding is cut: the real lengths fit."""
        key = choose(example)
        sizes = {name: tf.constant([shape[name] for shape in shapes])[key] for name in shapes[0]}
        return key, {name: value[: sizes[name]] if name in sizes else value for name, value in example.items()}

    def batch(key: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        return window.map(lambda key, example: example).batch(batch_size)

    if len(shapes) == 1:
        return dataset.map(lambda example: cut(example)[1], num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)
    keyed = dataset.map(cut, num_parallel_calls=tf.data.AUTOTUNE)
    return keyed.group_by_window(lambda key, example: key, batch, window_size=batch_size)


def real_lengths(example: Tensors) -> dict[str, tf.Tensor]:
    """Lengths without padding of one converted example, by model feature."""
    lengths = {}
    for name, source in _LENGTH_FROM.items():
        if name not in example:
            continue
        if source == "speech_length":
            lengths[name] = example[source]
        else:
            real = tf.cast(example[source or name], tf.bool)
            lengths[name] = tf.reduce_max(tf.where(real, tf.range(1, tf.size(real) + 1), 0))
    return lengths


def _fits_no_bucket(lengths: Mapping[str, tf.Tensor]) -> tf.Tensor:
    parts = [part for name, length in lengths.items() for part in (f" {name} ", tf.strings.as_string(length))]
    return tf.strings.join(
        ["An example fits no bucket:", *parts, ". Make the last bucket as large as TASK_FEATURE_LENGTHS."]
    )


def real_and_padded(batch: Mapping[str, np.ndarray]) -> dict[str, tuple[int, int]]:
    """How many elements of a batch are real, and how many there are, by model feature."""
    counts = {}
    for name, source in _LENGTH_FROM.items():
        if name in batch:
            real = batch[source].sum() if source else np.count_nonzero(batch[name])
            counts[name] = (int(real), math.prod(batch[name].shape[:2]))
    return counts
