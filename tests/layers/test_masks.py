"""The drawings in slm_jax/layers/masks.py, repeated."""

import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.layers import masks


def drawing(text):
    return np.array([[int(cell) for cell in row.split()] for row in text.strip().splitlines()], bool)


def test_length_mask():
    np.testing.assert_array_equal(masks.length_mask(jnp.array([2, 0]), 3), drawing("1 1 0\n0 0 0"))


def test_causal_mask():
    np.testing.assert_array_equal(masks.causal_mask(3)[0], drawing("1 0 0\n1 1 0\n1 1 1"))


def test_key_mask():
    np.testing.assert_array_equal(masks.key_mask(jnp.array([[True, True, False]]))[0], drawing("1 1 0"))


def test_chunk_mask():
    expected = """
    1 1 0 0 0
    1 1 0 0 0
    0 0 1 1 0
    0 0 1 1 0
    0 0 0 0 1
    """
    np.testing.assert_array_equal(masks.chunk_mask(5, 2)[0], drawing(expected))


def test_prefix_mask():
    expected = """
    1 1 0 0 0
    1 1 0 0 0
    1 1 0 0 0
    1 1 0 1 0
    1 1 0 1 1
    """
    np.testing.assert_array_equal(masks.prefix_mask(jnp.array([[True, True, False]]), 2)[0], drawing(expected))


def test_causal_prefix_mask():
    expected = """
    1 0 0 0 0
    1 1 0 0 0
    1 1 0 0 0
    1 1 0 1 0
    1 1 0 1 1
    """
    found = masks.causal_prefix_mask(jnp.array([[True, True, False]]), 2)[0]
    np.testing.assert_array_equal(found, drawing(expected))


def test_window_mask():
    expected = """
    1 1 1 1
    1 1 1 1
    0 1 1 1
    0 0 1 1
    """
    positions = jnp.arange(4)[None]
    np.testing.assert_array_equal(masks.window_mask(positions, positions, 2)[0], drawing(expected))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (0, [[1, 2, 3, 4, 5, 0, 0], [1, 3, 0, 0, 0, 0, 0]]),
        (1, [[3, 1, 2, 4, 5, 0, 0], [3, 1, 0, 0, 0, 0, 0]]),
        (jnp.array([2, 1]), [[3, 4, 1, 2, 5, 0, 0], [3, 1, 0, 0, 0, 0, 0]]),
    ],
)
def test_insert_left_leaves_no_gap_whatever_the_padding_holds(at, expected):
    a, b, x, y, z, junk = (jnp.full((2,), value) for value in (1.0, 2.0, 3.0, 4.0, 5.0, jnp.nan))
    outer = jnp.stack([jnp.stack([x, y, z, junk]), jnp.stack([x, junk, junk, junk])])
    inner = jnp.stack([jnp.stack([a, b, junk]), jnp.stack([a, junk, junk])])
    joined, mask = masks.insert_left(outer, jnp.array([3, 1]), inner, jnp.array([2, 1]), at=at)
    np.testing.assert_array_equal(joined[..., 0], expected)
    np.testing.assert_array_equal(mask, np.array(expected) > 0)


def test_insert_left_puts_nothing_where_nothing_is():
    outer, inner = jnp.ones((1, 2, 1)), jnp.full((1, 2, 1), jnp.nan)
    joined, mask = masks.insert_left(outer, jnp.array([2]), inner, jnp.array([0]), at=1)
    np.testing.assert_array_equal(joined[0, :, 0], [1, 1, 0, 0])
    np.testing.assert_array_equal(mask[0], [True, True, False, False])
