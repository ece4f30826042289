"""T5X's state with frozen parameters that no checkpoint holds, and where it comes from."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from t5x import checkpoints, train_state, utils

from slm_jax.t5x_bridge.model import FROZEN, combine
from slm_jax.training import restore
from slm_jax.typing import PRNGKey, PyTree

T5X_PREFIX = "checkpoint_"
"""What the name of a checkpoint of T5X's begins with; its step follows."""


_State: Any = object  # for type checkers: one of T5X's states


class _FrozenApart(_State):
    """A state of T5X whose frozen parameters are neither saved nor restored: they stay what they are."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {name: part for name, part in super().state_dict().items() if name != "flax_mutables"}

    def restore_state(self, state_dict: Mapping[str, Any]) -> "_FrozenApart":
        """What a checkpoint holds, with the frozen parameters of this state."""
        return super().restore_state({**state_dict, "flax_mutables": self.flax_mutables})

    def as_logical_axes(self) -> "_FrozenApart":
        """Names of axes in the place of arrays."""
        return frozen_apart(super().as_logical_axes())


class SpeechTrainState(_FrozenApart, train_state.FlaxOptimTrainState):
    """T5X's state of training, with frozen parameters that no checkpoint holds."""


class SpeechInferenceState(_FrozenApart, train_state.InferenceState):
    """The same without an optimizer."""


def frozen_apart(state: Any) -> Any:
    """A state of T5X as one whose frozen parameters no checkpoint holds."""
    kind = SpeechInferenceState if isinstance(state, train_state.InferenceState) else SpeechTrainState
    return kind(**{field.name: getattr(state, field.name) for field in dataclasses.fields(state)})


class TrainStateInitializer(utils.TrainStateInitializer):
    """T5X's initializer; parameters come from where the experiment says, see `Model.assemble`.

    Its seed decides what is random, not T5X's key. The state that T5X restores checkpoints into
    (`global_train_state_shape`) already has the frozen parameters, which no checkpoint holds.
    """

    global_train_state_shape: Any
    train_state_axes: Any

    def __init__(
        self,
        optimizer_def: Any,
        init_fn: Any,
        input_shapes: Mapping[str, Any],
        partitioner: Any,
        input_types: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(optimizer_def, init_fn, input_shapes, partitioner, input_types)
        shapes, axes = frozen_apart(self.global_train_state_shape), frozen_apart(self.train_state_axes)
        layout = jax.tree.map(lambda spec: NamedSharding(partitioner.mesh, spec), (axes.params, axes.flax_mutables))
        trained, frozen = init_fn.__self__.assemble(combine(*layout))
        self.train_state_axes = axes
        state = shapes.replace_params(flax.core.freeze(trained))
        self.global_train_state_shape = state.replace_flax_mutables(flax.core.freeze({FROZEN: frozen}))
        self._optimizer_def = optimizer_def

    def from_scratch(self, init_rng: PRNGKey) -> Any:
        """The state before the first step."""
        del init_rng
        shapes = self.global_train_state_shape

        def create(params: PyTree) -> Any:
            variables = flax.core.freeze({"params": params, "params_axes": shapes.params_axes})
            if self._optimizer_def is None:
                return frozen_apart(train_state.InferenceState.create(variables))
            return frozen_apart(train_state.FlaxOptimTrainState.create(self._optimizer_def, variables))

        out = self.train_state_axes.replace_flax_mutables(flax.core.freeze({}))
        placed = self._partitioner.partition(create, (self.train_state_axes.params,), out)(shapes.params)
        return placed.replace(flax_mutables=shapes.flax_mutables, flax_mutables_axes=shapes.flax_mutables_axes)


class CheckpointManager(checkpoints.OrbaxCheckpointManagerInterface):
    """For t5x.eval and t5x.infer: restores T5X's checkpoints, and what `checkpoint_path` has named."""

    def restore(self, step: int | None = None, path: str | None = None, **arguments: Any) -> Any:
        """The state of a checkpoint of T5X's; of a native one, what the initializer has read of it already."""
        folder, name = os.path.split(path or "")
        if os.path.exists(path or "") or native_checkpoint(folder) is None:
            return super().restore(step=step, path=path, **arguments)
        return self._train_state.replace_step(jnp.asarray(int(name.removeprefix(T5X_PREFIX))))


def native_checkpoint(path: str) -> str | None:
    """`path` if it is a bundle, a MODEL_DIR of the native loop or a checkpoint there; None if it is T5X's own."""
    try:
        restore.read_initial(path)
    except FileNotFoundError:
        return None
    return path


def checkpoint_path(path: str) -> str:
    """`path` as T5X wants it, with a step at its end: as it is if T5X wrote it, else with the step that was reached."""
    if native_checkpoint(path) is None:
        return path
    manifest = restore.read_initial(path).manifest
    return os.path.join(path, f"{T5X_PREFIX}{manifest.step if manifest else 0}")
