"""Token cross-entropy that never holds the logits of a whole batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from slm_jax.training.chunks import LogitsFn, sum_by_chunks
from slm_jax.typing import Array, Float, Int, PyTree


class TokenSums(NamedTuple):
    """Sums over the target tokens of a batch, each token counted with its weight.

    Attributes:
      nll: negative log-likelihood of the targets in nats, without label smoothing or z-loss.
      z_loss: the z-loss term of the loss.
      correct: how often the highest logit was the target's.
      weight: the weights: for weights of 0 and 1, the number of target tokens.
    """

    nll: Float[Array, ""]
    z_loss: Float[Array, ""]
    correct: Float[Array, ""]
    weight: Float[Array, ""]

    def metrics(self) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
        """`nll` and `accuracy` a token, as `LossOutput.metrics` has them."""
        return {"nll": (self.nll, self.weight), "accuracy": (self.correct, self.weight)}


class _Given(NamedTuple):
    targets: jax.Array
    weights: jax.Array


def chunked_cross_entropy(
    logits_fn: LogitsFn,
    head_params: PyTree,
    hidden: Float[Array, "B L E"],
    targets: Int[Array, "B L"],
    weights: Float[Array, "B L"],
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk_tokens: int = 128,
) -> tuple[Float[Array, ""], TokenSums]:
    """Sum over tokens of weight * (cross-entropy + z_loss * logsumexp(logits)^2), by `chunks.sum_by_chunks`.

    Args:
      logits_fn: the output head, see `chunks.LogitsFn`.
      head_params: parameters that the output head reads, of any structure; may hold others.
      hidden: the language model's last hidden states.
      targets: token to predict at each position.
      weights: weight of each position, 0 for those that do not count; not differentiable.
      z_loss: see `cross_entropy_sums`.
      label_smoothing: see `cross_entropy_sums`.
      chunk_tokens: positions of each example that meet the vocabulary at once. Temporary memory is a few times
        batch * chunk_tokens * vocabulary * 4 bytes, divided like the batch and the vocabulary over devices.

    Returns:
      The loss summed over tokens, float32, and the sums for metrics. Divide the former by the global weight.

    Raises:
      ValueError: shapes that do not agree, a smoothing outside [0, 1), a z-loss below 0, a chunk of no tokens, or a
        derivative asked for with respect to `weights`.
    """
    check_settings(z_loss=z_loss, label_smoothing=label_smoothing)

    def chunk_loss(head_params: PyTree, hidden: jax.Array, given: _Given) -> tuple[jax.Array, TokenSums]:
        logits = logits_fn(head_params, hidden).astype(jnp.float32)
        return cross_entropy_sums(logits, given.targets, given.weights, z_loss=z_loss, label_smoothing=label_smoothing)

    return sum_by_chunks(chunk_loss, head_params, hidden, _Given(targets, weights), chunk_tokens=chunk_tokens)


def check_settings(*, z_loss: float, label_smoothing: float) -> None:
    """Raises ValueError for a smoothing outside [0, 1) or a z-loss below 0."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if z_loss < 0:
        raise ValueError(f"z_loss must not be negative, got {z_loss}")


def cross_entropy_sums(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    weights: Float[Array, "B L"],
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], TokenSums]:
    """Loss and sums over all positions. Reductions over the vocabulary only, so that it may be split over devices.

    Args:
      logits: unnormalised scores, float32.
      targets: token to predict at each position.
      weights: weight of each position.
      z_loss: weight of the squared log-partition function (T5: 1e-4).
      label_smoothing: probability spread evenly over the wrong tokens. As in T5X's compute_weighted_cross_entropy
        the entropy of the smoothed target is subtracted, so that a perfect prediction has loss 0.
    """
    vocab_size = logits.shape[-1]
    is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets[..., None]
    log_partition = jax.nn.logsumexp(logits, axis=-1)
    nll = log_partition - jnp.sum(jnp.where(is_target, logits, 0), axis=-1)
    z_term = z_loss * jnp.square(log_partition)
    loss = nll + z_term
    if label_smoothing:
        low = label_smoothing / (vocab_size - 1)
        confidence = 1 - label_smoothing
        others = (vocab_size - 1) * log_partition - jnp.sum(jnp.where(is_target, 0, logits), axis=-1)
        entropy = -(confidence * jnp.log(confidence) + label_smoothing * jnp.log(low))
        loss = confidence * nll + low * others - entropy + z_term
    weights = weights.astype(jnp.float32)
    correct = jnp.argmax(logits, axis=-1) == targets
    sums = TokenSums(*(jnp.sum(x * weights) for x in (nll, z_term, correct, jnp.ones_like(nll))))
    return jnp.sum(loss * weights), sums
