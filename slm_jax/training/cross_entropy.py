"""Token cross-entropy that never holds the logits of a whole batch, with its gradient computed on the way."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slm_jax.typing import Array, Float, Int, PyTree

LogitsFn = Callable[[PyTree, jax.Array], jax.Array]


class TokenSums(NamedTuple):
    """Sums over the target tokens of a batch, each token counted with its weight; they carry no gradient.

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


class _Objective(NamedTuple):
    logits_fn: LogitsFn
    z_loss: float
    label_smoothing: float


class _Chunk(NamedTuple):
    hidden: jax.Array
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
    """Sum over tokens of weight * (cross-entropy + z_loss * logsumexp(logits)^2).

    The output head, the softmax and their gradients are computed for a few positions of every example at a time, so
    that [B, L, V] is never held. Under differentiation the gradients are computed in the forward pass, chunk by chunk,
    and only they are kept: the head is not computed again in the backward pass (the method of fused linear
    cross-entropy, arXiv 2410.10989). Parameters that are frozen, or that the head does not read, cost nothing. Chunks
    run along the length, so a batch axis that is split over devices stays split.

    Reverse-mode differentiation only. `logits_fn` must take all that is differentiated from its arguments.

    Args:
      logits_fn: gives logits [B, l, V] of (head_params, hidden [B, l, E]), each position by itself.
      head_params: parameters that the output head reads, of any structure; may hold others.
      hidden: the language model's last hidden states.
      targets: token to predict at each position.
      weights: weight of each position, 0 for those that do not count; not differentiable.
      z_loss: weight of the squared log-partition function (T5: 1e-4).
      label_smoothing: probability spread evenly over the wrong tokens. As in T5X's compute_weighted_cross_entropy
        the entropy of the smoothed target is subtracted, so that a perfect prediction has loss 0.
      chunk_tokens: positions of each example that meet the vocabulary at once. Temporary memory is a few times
        batch * chunk_tokens * vocabulary * 4 bytes, divided like the batch and the vocabulary over devices.

    Returns:
      The loss summed over tokens, float32, and the sums for metrics. Divide the former by the global weight.

    Raises:
      ValueError: shapes that do not agree, a smoothing outside [0, 1), a z-loss below 0, a chunk of no tokens, or a
        derivative asked for with respect to `weights`.
    """
    _check(hidden, targets, weights, z_loss=z_loss, label_smoothing=label_smoothing, chunk_tokens=chunk_tokens)
    num_chunks = max(1, -(-hidden.shape[1] // chunk_tokens))
    objective = _Objective(logits_fn, z_loss, label_smoothing)
    chunks = _Chunk(*(_split(x, num_chunks) for x in (hidden, targets, weights)))
    loss, sums = _cross_entropy(objective, head_params, *chunks)
    return loss, jax.lax.stop_gradient(sums)


def _check(
    hidden: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    z_loss: float,
    label_smoothing: float,
    chunk_tokens: int,
) -> None:
    if hidden.shape[:2] != targets.shape or weights.shape != targets.shape:
        raise ValueError(
            f"targets {targets.shape} and weights {weights.shape} must have the shape of hidden {hidden.shape}"
            " without its last axis"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if z_loss < 0:
        raise ValueError(f"z_loss must not be negative, got {z_loss}")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")


def _split(x: jax.Array, num_chunks: int) -> jax.Array:
    """[B, L, ...] to [num_chunks, B, l, ...]; the last chunk is filled up with zeros, whose weight is zero too."""
    batch, length = x.shape[:2]
    size = -(-length // num_chunks)
    x = jnp.pad(x, ((0, 0), (0, num_chunks * size - length)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(batch, num_chunks, size, *x.shape[2:]), 1, 0)


def _chunk_loss(objective: _Objective, head_params: PyTree, chunk: _Chunk) -> tuple[jax.Array, TokenSums]:
    """Loss and sums of one chunk. Reductions over the vocabulary only, so that it may be split over devices."""
    logits = objective.logits_fn(head_params, chunk.hidden).astype(jnp.float32)
    vocab_size = logits.shape[-1]
    is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == chunk.targets[..., None]
    log_partition = jax.nn.logsumexp(logits, axis=-1)
    nll = log_partition - jnp.sum(jnp.where(is_target, logits, 0), axis=-1)
    z_loss = objective.z_loss * jnp.square(log_partition)
    loss = nll + z_loss
    if objective.label_smoothing:
        low = objective.label_smoothing / (vocab_size - 1)
        confidence = 1 - objective.label_smoothing
        others = (vocab_size - 1) * log_partition - jnp.sum(jnp.where(is_target, 0, logits), axis=-1)
        entropy = -(confidence * jnp.log(confidence) + objective.label_smoothing * jnp.log(low))
        loss = confidence * nll + low * others - entropy + z_loss
    weights = chunk.weights.astype(jnp.float32)
    correct = jnp.argmax(logits, axis=-1) == chunk.targets
    sums = TokenSums(*(jnp.sum(x * weights) for x in (nll, z_loss, correct, jnp.ones_like(nll))))
    return jnp.sum(loss * weights), sums


def _zeros() -> tuple[jax.Array, TokenSums]:
    zero = jnp.zeros((), jnp.float32)
    return zero, TokenSums(zero, zero, zero, zero)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(
    objective: _Objective, head_params: PyTree, hidden: jax.Array, targets: jax.Array, weights: jax.Array
) -> tuple[jax.Array, TokenSums]:
    def body(total: PyTree, chunk: _Chunk) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, _chunk_loss(objective, head_params, chunk)), None

    return jax.lax.scan(body, _zeros(), _Chunk(hidden, targets, weights))[0]


def _forward(
    objective: _Objective, head_params: PyTree, hidden: PyTree, targets: PyTree, weights: PyTree
) -> tuple[tuple[jax.Array, TokenSums], PyTree]:
    """The value, and the gradients (None where none is asked for) as residuals; arguments come as CustomVJPPrimal."""
    if weights.perturbed:
        raise ValueError("the weights of the cross-entropy are not differentiable: apply jax.lax.stop_gradient to them")
    leaves, treedef = jax.tree.flatten(head_params)
    values = [leaf.value for leaf in leaves]
    read = _which_are_read(objective.logits_fn, jax.tree.unflatten(treedef, values), hidden.value[0])
    live = tuple(leaf.value if leaf.perturbed and used else None for leaf, used in zip(leaves, read, strict=True))

    def loss_fn(hidden_chunk: jax.Array | None, live: PyTree, chunk: _Chunk) -> tuple[jax.Array, TokenSums]:
        merged = [value if leaf is None else leaf for value, leaf in zip(values, live, strict=True)]
        chunk = chunk if hidden_chunk is None else chunk._replace(hidden=hidden_chunk)
        return _chunk_loss(objective, jax.tree.unflatten(treedef, merged), chunk)

    def body(carry: PyTree, chunk: _Chunk) -> tuple[PyTree, jax.Array | None]:
        total, head_grads = carry
        hidden_chunk = chunk.hidden if hidden.perturbed else None
        value, (hidden_grad, grads) = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)(
            hidden_chunk, live, chunk
        )
        head_grads = jax.tree.map(lambda total, grad: total + grad.astype(total.dtype), head_grads, grads)
        return (jax.tree.map(jnp.add, total, value), head_grads), hidden_grad

    carry = _zeros(), jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), live)
    (value, head_grads), hidden_grads = jax.lax.scan(body, carry, _Chunk(hidden.value, targets.value, weights.value))
    head_grads = jax.tree.map(lambda grad, x: grad.astype(x.dtype), head_grads, live)
    return value, (jax.tree.unflatten(treedef, head_grads), hidden_grads)


def _which_are_read(logits_fn: LogitsFn, head_params: PyTree, hidden: jax.Array) -> list[bool]:
    """For each parameter, whether the head computes anything with it."""
    jaxpr = jax.make_jaxpr(logits_fn)(head_params, hidden).jaxpr
    read = {id(var) for equation in jaxpr.eqns for var in equation.invars} | {id(var) for var in jaxpr.outvars}
    return [id(var) in read for var in jaxpr.invars[: len(jax.tree.leaves(head_params))]]


def _backward(objective: _Objective, gradients: PyTree, cotangents: PyTree) -> tuple[PyTree, ...]:
    """Scales the gradients found in the forward pass; None is JAX's zero."""
    loss_cotangent, _ = cotangents
    if isinstance(loss_cotangent, jax.custom_derivatives.SymbolicZero):
        return None, None, None, None
    scaled = jax.tree.map(lambda grad: (loss_cotangent * grad).astype(grad.dtype), gradients)
    return *scaled, None, None


_cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)
