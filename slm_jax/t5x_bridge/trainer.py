"""T5X's trainer with the loss of the native step."""

import functools
import os
import types
from typing import Any

import flax
import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from t5x import metrics as t5x_metrics
from t5x import trainer, utils

from slm_jax.t5x_bridge import frozen_parts
from slm_jax.t5x_bridge.model import Model, metrics_of
from slm_jax.training import bundle, hosts
from slm_jax.training.run_interfaces import Configuration
from slm_jax.typing import Batch, PRNGKey, PyTree

T5X_FILES = "runs/t5x/"
"""Where gin files are that only T5X can read; a bundle does not name them."""


class Trainer(trainer.Trainer):
    """T5X's trainer with the native step's loss: a sum over the tokens of all microbatches by their number.

    Keys are those of the native loop for the experiment's seed. A MODEL_DIR goes on only with the frozen parts that it
    began with. At the end the trained parameters are written as a bundle, to MODEL_DIR/bundle.
    """

    def __init__(self, model: Model, *, num_microbatches: int | None = None, rng: PRNGKey, **arguments: Any) -> None:
        del rng
        frozen_parts.check_or_keep(model.training.model_dir, model.fingerprints)
        super().__init__(
            model=model,
            rng=jax.random.key(model.training.seed),
            learning_rate_fn=lambda step: jnp.zeros(()),  # of no use: the optimizer has its own
            num_microbatches=num_microbatches,
            **arguments,
        )

    @functools.cached_property
    def _partitioned_train_step(self) -> Any:
        axes, data = self._train_state_axes, self._partitioner.data_partition_spec
        return self._partitioner.partition(
            self._step, in_axis_resources=(axes, data), out_axis_resources=(axes, None), donate_argnums=(0,)
        )

    def _step(self, state: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
        def loss_fn(params: PyTree, batch: Batch, rng: PRNGKey, frozen: PyTree) -> tuple[jax.Array, Any]:
            output = self._model.sums(params, batch, rng, frozen)
            return output.loss, (metrics_of(output, batch), frozen)

        gradients, metrics, frozen = trainer.accumulate_grads_microbatched(
            types.SimpleNamespace(loss_fn=loss_fn),
            state,
            batch,
            self._get_step_rng(state.step),
            self._num_microbatches,
            self._partitioner.data_partition_spec,
        )
        weight = jnp.maximum(metrics["loss"].count, 1)
        gradients = jax.tree.map(lambda leaf: leaf / weight, gradients)
        norm = optax.global_norm(gradients)
        metrics["gradient_norm"] = t5x_metrics.AveragePerStep.from_model_output(norm)
        return state.apply_gradient(gradients, learning_rate=0.0, flax_mutables=frozen), metrics

    def close(self) -> None:
        """Ends the writers of metrics, and writes the bundle."""
        super().close()
        run = self._model.training
        gather = functools.partial(jax.tree.map, hosts.gather)
        trained = jax.tree.map(np.asarray, jax.device_get(gather(flax.core.unfreeze(self.train_state.params))))
        files = [file for file in flags.FLAGS.gin_file if not file.removeprefix("gin/").startswith(T5X_FILES)]
        configuration = Configuration(gin.operative_config_str, files, flags.FLAGS.gin_bindings)
        step = int(utils.get_local_data(self.train_state.step))
        manifest = run.manifest(configuration, step=step, fingerprints=self._model.fingerprints, metrics={})
        if hosts.is_first():
            folder = os.path.join(run.model_dir, bundle.FOLDER)
            bundle.save_bundle(bundle.Bundle(trained, manifest, configuration.text()), directory=folder)
