"""Our optimizers as T5X's, and our layouts on T5X's mesh."""

from typing import Any

import flax
import jax
from t5x import optimizers

from slm_jax import trees
from slm_jax.training import partitioning
from slm_jax.typing import PyTree


class Optimizer(optimizers.OptaxWrapper):
    """An optimizer of ours as T5X's, with any state: T5X's own wrapper knows the layouts of some states only."""

    def init_state(self, params: PyTree) -> Any:
        """The state before the first step."""
        return super().init_state(flax.core.unfreeze(params))

    def apply_gradient(self, hyper_params: Any, params: PyTree, state: Any, grads: PyTree) -> tuple[PyTree, Any]:
        """Parameters and state after a step."""
        plain = flax.core.unfreeze(params), state, flax.core.unfreeze(grads)
        new_params, new_state = super().apply_gradient(hyper_params, *plain)
        return flax.core.freeze(new_params), new_state

    def derive_logical_axes(self, optimizer: Any, param_logical_axes: PyTree) -> Any:
        """Names of axes in the place of arrays: what has its parameter's shape has its names, all else has none."""
        names = trees.flatten(flax.core.unfreeze(param_logical_axes))
        shapes = {path: leaf.shape for path, leaf in trees.flatten(flax.core.unfreeze(optimizer.target)).items()}

        def axes(keys: tuple[Any, ...], leaf: Any) -> Any:
            path = partitioning.parameter_path(keys, shapes)
            return names[path] if path is not None and shapes[path] == leaf.shape else None

        states = jax.tree.map_with_path(axes, optimizer.state.param_states)
        state = optimizers.OptimizerState(step=None, param_states=states)
        return optimizer.replace(target=param_logical_axes, state=state)


def logical_axis_rules() -> list[tuple[str, str | None]]:
    """The native rules on T5X's mesh of 'data' and 'model'.

    Keys and values often have fewer heads than there are devices; T5X cannot decide that for each parameter, so they
    are kept whole.
    """

    def mesh_axis(name: str, axes: str | tuple[str, ...] | None) -> str | None:
        if name == "kv_heads" or axes is None:
            return None
        return partitioning.MODEL if axes == partitioning.MODEL else partitioning.DATA

    return [(name, mesh_axis(name, axes)) for name, axes in partitioning.RULES]
