"""Greedy CTC decoding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from slm_jax.decoding.ctc import ctc_greedy


def test_drawing():
    best = jnp.array([[10, 7, 7, 10, 7, 5, 9]])
    logits = jax.nn.one_hot(best, 11)
    tokens, lengths = ctc_greedy(logits, jnp.array([[True] * 6 + [False]]))
    assert tokens.tolist() == [[7, 7, 5, 0, 0, 0, 0]]
    assert lengths.tolist() == [3]


def test_equals_the_loop_whatever_the_padding_holds():
    logits = jax.random.normal(jax.random.key(0), (20, 12, 3))
    sizes = np.arange(20) % 13
    mask = jnp.arange(12) < sizes[:, None]
    tokens, lengths = jax.jit(ctc_greedy)(logits, mask)
    for row, size in enumerate(sizes):
        best = np.argmax(logits[row, :size], axis=-1).tolist()
        expected = [label for label, _ in itertools.groupby(best) if label != 2]
        assert tokens[row].tolist() == expected + [0] * (12 - len(expected))
        assert lengths[row] == len(expected)
