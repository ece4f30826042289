"""Span corruption: the language model's own pretraining task on plain text.

T5 (Raffel et al. 2020, section 3.1.4); restated from t5.data.preprocessors.
"""

import seqio
import tensorflow as tf

from slm_jax.data.preprocessors import Example, Features, Seed, with_eos
from slm_jax.typing import Bool, Int


@seqio.map_over_dataset(num_seeds=1)
def span_corruption(
    example: Example,
    output_features: Features,
    *,
    seed: Seed,
    noise_density: float = 0.15,
    mean_span_length: float = 3.0,
) -> Example:
    """`transcript` to `inputs` with gaps and `targets` that fill them.

    Raises:
      ValueError: the vocabulary has no sentinels (extra_ids).
    """
    vocabulary = output_features["inputs"].vocabulary
    if not vocabulary.extra_ids:
        raise ValueError("Span corruption needs sentinels: give the vocabulary extra_ids")
    tokens = vocabulary.encode_tf(example["transcript"])
    mask = random_spans_mask(
        tf.size(tokens),
        seed=tf.stack(seed),
        noise_density=noise_density,
        mean_span_length=mean_span_length,
        max_spans=vocabulary.extra_ids,
    )
    inputs, targets = corrupt(tokens, mask, vocab_size=vocabulary.vocab_size)
    return example | {
        "inputs": with_eos(inputs, output_features["inputs"]),
        "targets": with_eos(targets, output_features["targets"]),
        "inputs_pretokenized": vocabulary.decode_tf(inputs),
        "targets_pretokenized": vocabulary.decode_tf(targets),
    }


def corrupt(
    tokens: Int[tf.Tensor, "L"], mask: Bool[tf.Tensor, "L"], *, vocab_size: int
) -> tuple[Int[tf.Tensor, "I"], Int[tf.Tensor, "J"]]:
    """Inputs and targets; gap number i is written as id vocab_size - 1 - i in both.

    tokens      5  6  7  8  9      vocab_size 100
    mask        .  x  x  .  x
    inputs      5  99    8  98     masked spans become sentinels
    targets    99  6  7  98 9      kept spans become sentinels
    """
    return _replace_spans(tokens, mask, vocab_size), _replace_spans(tokens, tf.logical_not(mask), vocab_size)


def _replace_spans(tokens: tf.Tensor, mask: tf.Tensor, vocab_size: int) -> tf.Tensor:
    before = tf.concat([[False], mask[:-1]], axis=0)
    first = tf.logical_and(mask, tf.logical_not(before))
    sentinels = tf.cast(vocab_size - tf.cumsum(tf.cast(first, tokens.dtype)), tokens.dtype)
    later = tf.logical_and(mask, before)
    return tf.boolean_mask(tf.where(first, sentinels, tokens), tf.logical_not(later))


def random_spans_mask(
    length: Int[tf.Tensor, ""], *, seed: tf.Tensor, noise_density: float, mean_span_length: float, max_spans: int
) -> Bool[tf.Tensor, "L"]:
    """True for masked tokens: round(length * noise_density) of them, at least 1, in spans of the mean length.

    The first token is kept and the last one masked; spans are never next to each other. There are at most
    `max_spans` spans, so those of very long texts are longer.
    """
    padded = tf.maximum(length, 2)
    noise = tf.clip_by_value(_round(tf.cast(padded, tf.float32) * noise_density), 1, padded - 1)
    most = tf.minimum(tf.minimum(noise, padded - noise), max_spans)
    spans = tf.clip_by_value(_round(tf.cast(noise, tf.float32) / mean_span_length), 1, most)
    seeds = tf.unstack(tf.random.split(seed, 2))
    kept = _random_segments(padded - noise, spans, seeds[0])
    masked = _random_segments(noise, spans, seeds[1])
    lengths = tf.reshape(tf.stack([kept, masked], axis=1), [-1])
    return tf.repeat(tf.tile([False, True], [spans]), lengths)[:length]


def _round(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(value), tf.int32)


def _random_segments(items: tf.Tensor, segments: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Lengths, at least 1 each, of `items` cut at random into `segments`; every cut is equally likely."""
    borders = tf.cast(tf.range(items - 1) < segments - 1, tf.int32)
    borders = tf.random.experimental.stateless_shuffle(borders, seed)
    segment = tf.cumsum(tf.concat([[0], borders], axis=0))
    return tf.math.segment_sum(tf.ones_like(segment), segment)
