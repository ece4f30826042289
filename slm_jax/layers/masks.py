"""Masks and the packing of sequences to the left. True means: real, or: may be seen."""

import jax.numpy as jnp

from slm_jax.typing import Array, Bool, Float, Int


def length_mask(lengths: Int[Array, "B"], size: int) -> Bool[Array, "B S"]:
    """The first `lengths` positions of `size`.

    lengths [2, 0], size 3 -> [[1 1 0]
                               [0 0 0]]
    """
    return jnp.arange(size) < lengths[:, None]


def zero_padding(x: Float[Array, "B S *rest"], mask: Bool[Array, "B S"]) -> Float[Array, "B S *rest"]:
    """Zeros where the mask is False."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0)


def causal_mask(size: int) -> Bool[Array, "1 L L"]:
    """Query l (rows) sees keys up to l (columns).

    size 3 -> [1 0 0]
              [1 1 0]
              [1 1 1]
    """
    return jnp.tril(jnp.ones((size, size), bool))[None]


def key_mask(keys: Bool[Array, "B K"]) -> Bool[Array, "B 1 K"]:
    """Every query sees every real key.

    keys [1 1 0] -> [1 1 0]   (one row, for any number of queries)
    """
    return keys[:, None, :]


def chunk_mask(size: int, chunk: int) -> Bool[Array, "1 S S"]:
    """Frames see their own chunk only (USM's chunk-wise attention).

    size 5, chunk 2 -> [1 1 0 0 0]
                       [1 1 0 0 0]
                       [0 0 1 1 0]
                       [0 0 1 1 0]
                       [0 0 0 0 1]
    """
    index = jnp.arange(size) // chunk
    return (index[:, None] == index[None, :])[None]


def prefix_mask(prefix: Bool[Array, "B P"], target_length: int) -> Bool[Array, "B Q Q"]:
    """The prefix sees the real prefix; the target sees the real prefix and its own past (Q = P + L).

    prefix [1 1 0], target_length 2 -> [1 1 0 0 0]
                                       [1 1 0 0 0]
                                       [1 1 0 0 0]
                                       [1 1 0 1 0]
                                       [1 1 0 1 1]
    """
    batch, prefix_length = prefix.shape
    target_rows = jnp.broadcast_to(causal_mask(target_length), (batch, target_length, target_length))
    no_future = jnp.zeros((batch, prefix_length, target_length), bool)
    right = jnp.concatenate([no_future, target_rows], axis=1)
    left = jnp.broadcast_to(key_mask(prefix), (batch, prefix_length + target_length, prefix_length))
    return jnp.concatenate([left, right], axis=2)


def causal_prefix_mask(prefix: Bool[Array, "B P"], target_length: int) -> Bool[Array, "B Q Q"]:
    """Prefix and target see what is real up to themselves (Q = P + L).

    prefix [1 1 0], target_length 2 -> [1 0 0 0 0]
                                       [1 1 0 0 0]
                                       [1 1 0 0 0]
                                       [1 1 0 1 0]
                                       [1 1 0 1 1]
    """
    keys = jnp.pad(prefix, ((0, 0), (0, target_length)), constant_values=True)
    return key_mask(keys) & causal_mask(keys.shape[1])


def window_mask(
    queries: Int[Array, "B Q"], keys: Int[Array, "B K"], window: int | Int[Array, ""]
) -> Bool[Array, "B Q K"]:
    """A query sees keys that are less than `window` positions behind it, whatever lies ahead of it.

    queries [0 1 2 3], keys the same, window 2 -> [1 1 1 1]
                                                  [1 1 1 1]
                                                  [0 1 1 1]
                                                  [0 0 1 1]
    """
    return queries[:, :, None] - keys[:, None, :] < window


def insert_left(
    outer: Float[Array, "B L E"],
    outer_length: Int[Array, "B"],
    inner: Float[Array, "B S E"],
    inner_length: Int[Array, "B"],
    *,
    at: int | Int[Array, "B"],
) -> tuple[Float[Array, "B P E"], Bool[Array, "B P"]]:
    """Puts one left-justified sequence into another, before its position `at` (P = L + S).

    outer [x y z _], inner [a b _], at 1 -> [x a b y z _ _]

    Positions therefore do not depend on padding. Padded positions hold zeros.
    """
    size = outer.shape[1] + inner.shape[1]
    position = jnp.arange(size)[None]
    start = jnp.broadcast_to(jnp.asarray(at), outer_length.shape)[:, None]
    end = start + inner_length[:, None]
    behind = position - inner_length[:, None]
    source = jnp.where(position < start, position, jnp.where(position < end, outer.shape[1] + position - start, behind))
    joined = jnp.concatenate([outer, inner], axis=1)
    mask = position < (outer_length + inner_length)[:, None]
    packed = jnp.take_along_axis(joined, jnp.clip(source, 0, size - 1)[..., None], axis=1)
    return jnp.where(mask[..., None], packed, 0), mask
