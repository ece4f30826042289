"""Silence before and behind speech, as recordings have it: from the press of a button to the first word."""

import numpy as np
import seqio
import tensorflow as tf

from slm_jax.data.preprocessors import Example, Seed
from slm_jax.tasks.spoken_scenes.utterances import MAX_SECONDS
from slm_jax.tasks.spoken_scenes.voices import SAMPLE_RATE

LONGEST_SECONDS = 1.5
"""Of silence on one side."""
NONE_SHARE = 0.5
"""Sides without any."""
DIGITAL_SHARE = 0.5
"""Recordings to which no noise is added."""
_QUIETEST_DB, _LOUDEST_DB = -90.0, -50.0
"""Noise, where 0 is full scale."""


def surround(speech: np.ndarray, *, seed: int) -> np.ndarray:
    """Speech, [N], with silence on both sides: digital, or with faint noise over all; at most MAX_SECONDS in sum.

    Args:
      speech: float32 samples at 16 kHz.
      seed: decides how much silence, and which.
    """
    rng = np.random.default_rng(seed)
    lead, trail = rng.uniform(0.0, LONGEST_SECONDS, size=2) * (rng.random(2) >= NONE_SHARE)
    room = max(MAX_SECONDS - len(speech) / SAMPLE_RATE, 0.0)
    scale = min(1.0, room / max(lead + trail, 1e-6)) * SAMPLE_RATE
    padded = np.pad(speech, (int(lead * scale), int(trail * scale)))
    if rng.random() < DIGITAL_SHARE:
        return padded
    level = 10 ** (rng.uniform(_QUIETEST_DB, _LOUDEST_DB) / 20)
    return padded + np.float32(level) * rng.standard_normal(len(padded), dtype=np.float32)


@seqio.map_over_dataset(num_seeds=1)
def surround_with_silence(example: Example, *, seed: Seed) -> Example:
    """`speech` as `surround` gives it: in training anew in every epoch, elsewhere as the example's id decides."""

    def pad(speech: np.ndarray, seed: np.int64) -> np.ndarray:
        return surround(speech, seed=int(seed))

    fixed = tf.strings.to_hash_bucket_fast(example["id"], 2**31 - 1)
    drawn = tf.cast(seed[0], tf.int64) & (2**31 - 1)
    chosen = tf.where(tf.equal(example["training"], 1), drawn, fixed)
    speech = tf.numpy_function(pad, [example["speech"], chosen], tf.float32)
    return example | {"speech": tf.ensure_shape(speech, [None])}
