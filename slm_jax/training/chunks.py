"""Losses summed over tokens, a few positions at a time, with their gradients computed on the way."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slm_jax.typing import Array, Float, PyTree

LogitsFn = Callable[[PyTree, jax.Array], jax.Array]
"""Gives logits [B, l, V] of (head_params, hidden [B, l, E]), each position by itself."""

ChunkLoss = Callable[[PyTree, jax.Array, Any], tuple[jax.Array, Any]]
"""Gives the loss, a sum over the positions of a chunk, and further sums, of (head_params, hidden [B, l, E], given).

Positions with nothing but zeros in `given` must add nothing: the last chunk is filled up with such.
"""


class _Chunk(NamedTuple):
    hidden: jax.Array
    given: PyTree


def sum_by_chunks(
    chunk_loss: ChunkLoss,
    head_params: PyTree,
    hidden: Float[Array, "B L E"],
    given: PyTree,
    *,
    chunk_tokens: int,
) -> tuple[Float[Array, ""], Any]:
    """The sum of `chunk_loss` over pieces of the length.

    What the loss makes of a position, such as its logits, is held for a few positions of every example at a time, so
    that [B, L, V] is never held. Under differentiation the gradients are computed in the forward pass, chunk by chunk,
    and only they are kept: the head is not computed again in the backward pass (the method of fused linear
    cross-entropy, arXiv 2410.10989). Parameters that are frozen, or that the loss does not read, cost nothing. Chunks
    run along the length, so a batch axis that is split over devices stays split.

    Reverse-mode differentiation only. `chunk_loss` must take all that is differentiated from its first two arguments.

    Args:
      chunk_loss: see `ChunkLoss`.
      head_params: parameters that the loss reads, of any structure; may hold others.
      hidden: the language model's last hidden states.
      given: arrays [B, L, ...] of any structure: what else the loss knows of each position; not differentiable.
      chunk_tokens: positions of each example at once.

    Returns:
      The loss and the further sums; these carry no gradient.

    Raises:
      ValueError: an array of another batch or length than `hidden`, a chunk of no tokens, or a derivative asked for
        with respect to `given`.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(given):
        if leaf.shape[:2] != hidden.shape[:2]:
            raise ValueError(
                f"{_name(path)} {leaf.shape} must begin as the hidden states {hidden.shape} do: one entry a position"
            )
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    num_chunks = max(1, -(-hidden.shape[1] // chunk_tokens))
    chunks = jax.tree.map(lambda x: _split(x, num_chunks), _Chunk(hidden, given))
    loss, sums = _sum(chunk_loss, head_params, *chunks)
    return loss, jax.lax.stop_gradient(sums)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _split(x: jax.Array, num_chunks: int) -> jax.Array:
    """[B, L, ...] to [num_chunks, B, l, ...]; the last chunk is filled up with zeros."""
    batch, length = x.shape[:2]
    size = -(-length // num_chunks)
    x = jnp.pad(x, ((0, 0), (0, num_chunks * size - length)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(batch, num_chunks, size, *x.shape[2:]), 1, 0)


def _trace(chunk_loss: ChunkLoss, head_params: PyTree, chunks: _Chunk) -> tuple[Any, list[bool]]:
    """Zeros in the form of what the loss gives, and for each parameter whether the loss computes anything with it."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), chunks)
    closed, shapes = jax.make_jaxpr(chunk_loss, return_shape=True)(head_params, *one)
    jaxpr = closed.jaxpr
    read = {id(var) for equation in jaxpr.eqns for var in equation.invars} | {id(var) for var in jaxpr.outvars}
    parameters = jaxpr.invars[: len(jax.tree.leaves(head_params))]
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), [id(var) in read for var in parameters]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum(chunk_loss: ChunkLoss, head_params: PyTree, hidden: jax.Array, given: PyTree) -> tuple[jax.Array, Any]:
    chunks = _Chunk(hidden, given)

    def body(total: PyTree, chunk: _Chunk) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, chunk_loss(head_params, *chunk)), None

    return jax.lax.scan(body, _trace(chunk_loss, head_params, chunks)[0], chunks)[0]


def _forward(
    chunk_loss: ChunkLoss, head_params: PyTree, hidden: PyTree, given: PyTree
) -> tuple[tuple[jax.Array, Any], PyTree]:
    """The value, and the gradients (None where none is asked for) as residuals; arguments come as CustomVJPPrimal."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(given):
        if leaf.perturbed:
            raise ValueError(f"the loss is not differentiable by {_name(path)}: apply jax.lax.stop_gradient to them")
    leaves, treedef = jax.tree.flatten(head_params)
    values = [leaf.value for leaf in leaves]
    chunks = _Chunk(hidden.value, jax.tree.map(lambda leaf: leaf.value, given))
    zeros, read = _trace(chunk_loss, jax.tree.unflatten(treedef, values), chunks)
    live = tuple(leaf.value if leaf.perturbed and used else None for leaf, used in zip(leaves, read, strict=True))

    def loss_fn(hidden_chunk: jax.Array | None, live: PyTree, chunk: _Chunk) -> tuple[jax.Array, Any]:
        merged = [value if leaf is None else leaf for value, leaf in zip(values, live, strict=True)]
        hidden_chunk = chunk.hidden if hidden_chunk is None else hidden_chunk
        return chunk_loss(jax.tree.unflatten(treedef, merged), hidden_chunk, chunk.given)

    def body(carry: PyTree, chunk: _Chunk) -> tuple[PyTree, jax.Array | None]:
        total, head_grads = carry
        hidden_chunk = chunk.hidden if hidden.perturbed else None
        value, (hidden_grad, grads) = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)(
            hidden_chunk, live, chunk
        )
        head_grads = jax.tree.map(lambda total, grad: total + grad.astype(total.dtype), head_grads, grads)
        return (jax.tree.map(jnp.add, total, value), head_grads), hidden_grad

    carry = zeros, jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), live)
    (value, head_grads), hidden_grads = jax.lax.scan(body, carry, chunks)
    head_grads = jax.tree.map(lambda grad, x: grad.astype(x.dtype), head_grads, live)
    return value, (jax.tree.unflatten(treedef, head_grads), hidden_grads)


def _backward(chunk_loss: ChunkLoss, gradients: PyTree, cotangents: PyTree) -> tuple[PyTree, ...]:
    """Scales the gradients found in the forward pass; None is JAX's zero."""
    loss_cotangent, _ = cotangents
    if isinstance(loss_cotangent, jax.custom_derivatives.SymbolicZero):
        return None, None, None
    scaled = jax.tree.map(lambda grad: (loss_cotangent * grad).astype(grad.dtype), gradients)
    return *scaled, None


_sum.defvjp(_forward, _backward, symbolic_zeros=True)
