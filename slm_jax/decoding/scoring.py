"""Log-probabilities of given targets, by teacher forcing."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from slm_jax.typing import Array, Float, Int


def target_log_probs(
    logits: Callable[[jax.Array], jax.Array], hidden: Float[Array, "B L E"], targets: Int[Array, "B L"]
) -> Float[Array, "B L"]:
    """Log-probability of every target token; scores are made for one position at a time, never [B, L, V].

    Args:
      logits: hidden states [B, E] to scores [B, V]: `LanguageModel.logits` with its parameters bound.
      hidden: hidden states of teacher forcing, `LanguageModel.__call__`.
      targets: the token that each hidden state should predict.
    """

    def one_position(position: tuple[jax.Array, jax.Array]) -> Float[Array, "B"]:
        state, target = position
        log_probs = jax.nn.log_softmax(logits(state).astype(jnp.float32))
        return jnp.take_along_axis(log_probs, target[:, None], axis=1)[:, 0]

    return jax.lax.map(one_position, (hidden.swapaxes(0, 1), targets.swapaxes(0, 1))).swapaxes(0, 1)


def score_targets(
    logits: Callable[[jax.Array], jax.Array],
    hidden: Float[Array, "B L E"],
    targets: Int[Array, "B L"],
    *,
    weights: Float[Array, "B L"],
) -> Float[Array, "B"]:
    """Log-probability of each target sequence: the sum over tokens, each times its weight (0 for padding)."""
    return jnp.sum(target_log_probs(logits, hidden, targets) * weights, axis=1)
