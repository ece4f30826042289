"""A stack of equal layers: scanned, so that compile time does not grow with depth, or unrolled."""

import enum
from typing import Any

import flax.linen as nn
import jax

from slm_jax.typing import PyTree


class Remat(enum.Enum):
    """What a layer keeps for its backward pass."""

    NONE = "none"
    """Everything XLA wants to keep: fastest."""
    DOTS = "dots"
    """Results of matrix products that have no batch axis in common; the rest is computed again."""
    FULL = "full"
    """Only the layer's input: least memory."""


POLICIES = {
    Remat.DOTS: jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    Remat.FULL: jax.checkpoint_policies.nothing_saveable,
}


def apply_stack(
    block: type[nn.Module],
    x: PyTree,
    *broadcast: Any,
    num_layers: int,
    per_layer: PyTree = None,
    scan: bool = True,
    remat: Remat = Remat.NONE,
    name: str = "layers",
    **config: Any,
) -> tuple[PyTree, PyTree]:
    """Runs `num_layers` blocks in a row; call it inside an `nn.compact` method.

    A block is called as `block(**config)(x, per_layer, *broadcast) -> (x, per_layer_output)`.

    Args:
      block: the layer's class.
      x: what flows through the stack.
      *broadcast: arrays every layer sees alike (masks, biases); None is allowed.
      num_layers: depth.
      per_layer: a pytree whose leaves have a leading axis of layers (caches, windows), or None.
      scan: one `nn.scan` whose parameters have a leading axis of layers under `name`; otherwise `name`_0, _1, ...
      remat: what is kept for the backward pass.
      name: scope of the parameters.
      **config: attributes of the block.

    Returns:
      What flows out, and the outputs of the layers stacked along a leading axis (None where blocks return None).
    """
    remat = Remat(remat)  # gin gives the value
    if remat is not Remat.NONE:
        block = nn.remat(block, prevent_cse=not scan, policy=POLICIES[remat])
    if scan:
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True, "discard": True},
            in_axes=(0, *([nn.broadcast] * len(broadcast))),
            out_axes=0,
            length=num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scanned(**config, name=name)(x, per_layer, *broadcast)
    outputs = []
    for layer in range(num_layers):
        own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], per_layer)
        x, output = block(**config, name=f"{name}_{layer}")(x, own, *broadcast)
        outputs.append(output)
    return x, jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *outputs)
