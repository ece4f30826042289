"""A guard against loops: no n-gram is generated twice."""

import jax.numpy as jnp

from slm_jax.typing import Array, Float, Int


def forbid_repeated_ngrams(
    log_probs: Float[Array, "B V"], tokens: Int[Array, "B T"], index: Int[Array, ""], *, size: int
) -> Float[Array, "B V"]:
    """-inf for every token that would complete an n-gram of `size` tokens for the second time.

    tokens [5 6 7 5 6 _], index 5, size 3 -> token 7 is forbidden, because 5 6 7 has been there.

    Args:
      log_probs: scores of the next token.
      tokens: what was generated, real up to `index`.
      index: how many tokens were generated.
      size: length of the n-grams; 0 forbids nothing.

    Raises:
      ValueError: a negative size.
    """
    if size < 0:
        raise ValueError(f"no_repeat_ngram must be 0 (off) or the length of an n-gram, got {size}")
    batch, max_length = tokens.shape
    if size == 0 or max_length < size:
        return log_probs
    context_size = size - 1
    num_windows = max_length - context_size
    recent = index - context_size + jnp.arange(context_size)
    context = jnp.take(tokens, jnp.maximum(recent, 0), axis=1)
    offsets = jnp.arange(num_windows)[:, None] + jnp.arange(context_size)
    repeated = jnp.all(tokens[:, offsets] == context[:, None, :], axis=-1)
    repeated &= jnp.arange(num_windows) + context_size < index
    completions = tokens[:, context_size:]
    forbidden = jnp.zeros(log_probs.shape, bool).at[jnp.arange(batch)[:, None], completions].max(repeated)
    return jnp.where(forbidden, -jnp.inf, log_probs)
