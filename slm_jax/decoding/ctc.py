"""Decoding of CTC scores."""

import jax.numpy as jnp

from slm_jax.models.reducers import starts_run
from slm_jax.typing import Array, Bool, Float, Int


def ctc_greedy(logits: Float[Array, "B S C"], mask: Bool[Array, "B S"]) -> tuple[Int[Array, "B S"], Int[Array, "B"]]:
    """Best label of every frame, repeats collapsed, then blanks (the last class) dropped.

    frames [b 7 7 b 7 5 -] -> tokens [7 7 5 0 0 0 0], length 3

    Returns:
      Tokens, left-justified with zeros behind them, and how many there are.
    """
    blank = logits.shape[-1] - 1
    best = jnp.where(mask, jnp.argmax(logits, axis=-1), blank)
    keep = starts_run(best) & (best != blank)
    order = jnp.argsort(~keep, axis=1, stable=True)
    lengths = keep.sum(axis=1)
    tokens = jnp.take_along_axis(best, order, axis=1)
    return jnp.where(jnp.arange(best.shape[1]) < lengths[:, None], tokens, 0), lengths
