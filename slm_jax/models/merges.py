"""Byte-pair encoding on the device: pairs of tokens become the tokens that a tokenizer would have written."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from slm_jax.typing import Array, Bool, Int

_NEVER = np.iinfo(np.int32).max
_MULTIPLIERS = range(0x9E3779B1, 0x9E3779B1 + 200, 2)  # odd numbers from Knuth's on


@dataclasses.dataclass(frozen=True)
class Merges:
    """The merges of a tokenizer, in the order in which they are applied.

    Attributes:
      rules: (left, right, merged) tokens.

    Raises:
      ValueError: there are none.
    """

    rules: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError("Merges.rules has none: take merge_rules() of the language model's vocabulary")

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self.rules)

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _table(self) -> tuple[np.uint32, np.ndarray, np.ndarray]:
        """A multiplier that gives every pair a key of its own, the keys in order, and [left, right, merged, rank]."""
        rows = np.array([[*rule, rank] for rank, rule in enumerate(self.rules)], np.int64)
        for multiplier in _MULTIPLIERS:
            keys = ((rows[:, 0] * multiplier + rows[:, 1]) % 2**32).astype(np.uint32)
            if len(np.unique(keys)) == len(keys):
                order = np.argsort(keys)
                return np.uint32(multiplier), keys[order], rows[order].astype(np.int32)
        raise ValueError("Merges.rules has a pair twice")

    def look_up(self, left: Int[Array, "B K"], right: Int[Array, "B K"]) -> tuple[Int[Array, "B K"], Int[Array, "B K"]]:
        """The rank of each pair's merge, very large where there is none, and the merged token."""
        multiplier, keys, rows = self._table
        wanted = left.astype(jnp.uint32) * multiplier + right.astype(jnp.uint32)
        place = jnp.minimum(jnp.searchsorted(jnp.asarray(keys), wanted), len(keys) - 1)
        found = jnp.asarray(rows)[place]
        known = (found[..., 0] == left) & (found[..., 1] == right)
        return jnp.where(known, found[..., 3], _NEVER), found[..., 2]


def merge(
    tokens: Int[Array, "B K"], mask: Bool[Array, "B K"], merges: Merges
) -> tuple[Int[Array, "B K"], Bool[Array, "B K"], Int[Array, "B K"]]:
    """Applies merges until none is left, the first of the tokenizer's order first.

    rules (1 2 -> 7), (7 3 -> 8):  tokens [1 2 3 1 2] -> [8 7 _ _ _], group [0 0 0 1 1]

    Args:
      tokens: one sequence a row.
      mask: which of them are real; these come first.
      merges: of the tokenizer.

    Returns:
      The merged tokens (0 beyond the last), which of them are real, and for each token that came in the number of the
      one that it has become a part of.
    """
    places = jnp.arange(tokens.shape[1])

    def ranks(ids: Int[Array, "B K"]) -> tuple[Int[Array, "B K"], Int[Array, "B K"]]:
        following = jnp.pad(ids[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
        rank, merged = merges.look_up(ids, following)
        return jnp.where((ids >= 0) & (following >= 0), rank, _NEVER), merged

    def any_left(state: tuple[jax.Array, jax.Array]) -> Bool[Array, ""]:
        return jnp.any(ranks(state[0])[0] < _NEVER)

    def step(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        ids, group = state
        rank, merged = ranks(ids)
        best = jnp.argmin(rank, axis=1, keepdims=True)
        changes = jnp.min(rank, axis=1, keepdims=True) < _NEVER
        shifted = jnp.pad(ids[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
        joined = jnp.where(places == best, merged, jnp.where(places > best, shifted, ids))
        return jnp.where(changes, joined, ids), jnp.where(changes & (group > best), group - 1, group)

    start = jnp.where(mask, tokens, -1), jnp.broadcast_to(places, tokens.shape)
    ids, group = jax.lax.while_loop(any_left, step, start)
    return jnp.maximum(ids, 0), ids >= 0, group
