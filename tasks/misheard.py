"""Written transcripts that were misheard, so that a language model which reads them learns what must have been said."""

import random

import numpy as np
import seqio
import tensorflow as tf

from slm_jax.data.preprocessors import Example, Seed
from slm_jax.tasks.spoken_scenes.mishearing import mishear_words

MISHEARD_SHARE = 0.4
"""Transcripts of training with something that was not said."""


def maybe_mishear(transcript: str, *, training: bool, seed: int) -> str:
    """The transcript, in training now and then with words taken for similar ones or lost."""
    rng = random.Random(seed)
    return mishear_words(transcript, rng=rng) if training and rng.random() < MISHEARD_SHARE else transcript


@seqio.map_over_dataset(num_seeds=1)
def mishear_transcripts(example: Example, *, seed: Seed) -> Example:
    """`transcript` as `maybe_mishear` gives it, anew in every epoch; the targets are those of what was said."""

    def hear(transcript: bytes, training: np.int32, seed: np.int64) -> bytes:
        return maybe_mishear(transcript.decode(), training=bool(training), seed=int(seed)).encode()

    inputs = [example["transcript"], example["training"], tf.cast(seed[0], tf.int64)]
    return example | {"transcript": tf.ensure_shape(tf.numpy_function(hear, inputs, tf.string), [])}
