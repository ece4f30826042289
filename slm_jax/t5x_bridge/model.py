"""A speech-and-language model behind the interface of T5X's models."""

import functools
import os
from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from clu import metrics as clu_metrics
from flax.linen import partitioning as flax_partitioning
from t5x import metrics as t5x_metrics
from t5x import models

from slm_jax import trees
from slm_jax.data import pipeline, vocabularies
from slm_jax.data.feature_converter import SpeechToTextFeatureConverter
from slm_jax.data.turns import turn_of
from slm_jax.data.vocabularies import Vocabulary
from slm_jax.decoding.decode import DecodingMethod
from slm_jax.decoding.greedy import Greedy
from slm_jax.decoding.scoring import score_targets
from slm_jax.evaluation import make_predict
from slm_jax.models.interfaces import LossOutput
from slm_jax.t5x_bridge import frozen_parts
from slm_jax.t5x_bridge.optimizer import Optimizer
from slm_jax.training import freezing, hosts, objective
from slm_jax.training.run import Training
from slm_jax.typing import Batch, PRNGKey, PyTree

FROZEN = "frozen"
"""The collection of variables that holds frozen parameters."""


class Model(models.BaseModel):
    """A speech-and-language model as T5X trains, evaluates and asks it.

    Attributes:
      training: the experiment's run, of which T5X's own loop takes the place of `run`.
      vocabulary: of instructions and answers.
      method: how answers are written.
      checkpoint: a checkpoint of T5X's that is to be asked, which has to belong to the frozen parts; '' in training.
      fingerprints: of the frozen parts and settings, once `assemble` has put the parameters together.
    """

    def __init__(
        self,
        *,
        training: Training,
        task: pipeline.MixtureOrTask,
        method: DecodingMethod = Greedy(),  # noqa: B008
        checkpoint: str = "",
    ) -> None:
        """`task` is the one that is trained on or asked about; its vocabulary must be the language model's.

        Raises:
          ValueError: there is no such task, or its vocabulary does not belong to the language model.
        """
        super().__init__(optimizer_def=Optimizer(training.optimizer))
        if training.prepare is not None:  # T5X opens the data before it asks the model for anything else
            with hosts.first_goes_first():
                training.prepare()
        self.training = training
        self.vocabulary = pipeline.get_mixture_or_task(task).output_features["targets"].vocabulary
        vocabularies.check_vocabulary(self.vocabulary, self.module.lm.vocab_size)
        self.method = method
        self.checkpoint = checkpoint
        self.fingerprints: dict[str, str] = {}
        self.FEATURE_CONVERTER_CLS = functools.partial(
            SpeechToTextFeatureConverter, decoder_start_id=turn_of(self.vocabulary).start_id
        )

    @property
    def input_vocabulary(self) -> Vocabulary:
        """Of instructions, under T5X's name."""
        return self.vocabulary

    @property
    def output_vocabulary(self) -> Vocabulary:
        """Of answers, under T5X's name."""
        return self.vocabulary

    @property
    def module(self) -> Any:
        """The model whose parameters these are."""
        return self.training.objective.model

    def get_initial_variables(
        self, rng: PRNGKey, input_shapes: Mapping[str, Any], input_types: Mapping[str, Any] | None = None
    ) -> PyTree:
        """Random parameters with the logical names of their axes: trained ones as `params`, the others as FROZEN.

        The shapes of batches do not matter to parameters; those of the experiment are taken.
        """
        del input_shapes, input_types
        batch = {name: jnp.zeros((1, *spec.shape[1:]), spec.dtype) for name, spec in self.training.batch_shapes.items()}
        trained, frozen = trees.partition(self.training.objective.init(rng, batch), self.training.trainable)
        frozen = jax.tree.map(lambda leaf: leaf.astype(self.training.frozen_dtype), frozen)
        parts = {"params": trained, FROZEN: frozen}
        axes = {f"{name}_axes": axes_of(part) for name, part in parts.items()}
        return flax.core.freeze(nn.unbox(parts) | axes)

    def assemble(self, shardings: PyTree) -> tuple[PyTree, PyTree]:
        """Trained and frozen parameters, each from where the experiment says (`Training.assemble`), on the devices.

        Raises:
          slm_jax.training.bundle.IncompatibleBundleError: `checkpoint` was trained on other frozen parts.
        """
        by_path = trees.flatten(shardings)
        run = self.training
        assembled, self.fingerprints = run.assemble(place=lambda path, value: hosts.put(value, by_path[path]))
        logging.info("Parameters, unless T5X restores them:\n%s", assembled.report.table())
        if self.checkpoint:
            frozen_parts.check(os.path.dirname(self.checkpoint.rstrip("/")), self.fingerprints)
        if run.check_data is not None:
            run.check_data(run.feature_identity(self.fingerprints))
        return trees.partition(jax.tree.map(hosts.put, assembled.parameters, shardings), run.trainable)

    def sums(
        self, params: PyTree, batch: Batch, dropout_rng: PRNGKey | None, flax_mutables: PyTree | None = None
    ) -> LossOutput:
        """The objective's sums over the batch; without a key, nothing runs in training mode."""
        trained = trees.flatten(flax.core.unfreeze(params))
        training = () if dropout_rng is None else freezing.trainable_components(self.training.trainable, trained)
        rng = jax.random.key(0) if dropout_rng is None else dropout_rng
        return self.training.objective.loss(combine(params, flax_mutables), batch, rng=rng, training=training)

    def loss_fn(
        self, params: PyTree, batch: Batch, dropout_rng: PRNGKey | None, flax_mutables: PyTree | None = None
    ) -> tuple[jax.Array, Any]:
        """The loss a token, and the metrics; with frozen parameters, also these as they came."""
        output = self.sums(params, batch, dropout_rng, flax_mutables)
        metrics = metrics_of(output, batch)
        told = metrics if flax_mutables is None else (metrics, flax_mutables)
        return output.loss / jnp.maximum(output.weight, 1), told

    def eval_fn(self, params: PyTree, batch: Batch, flax_mutables: PyTree | None = None) -> tuple[jax.Array, Any]:
        """Loss and metrics without dropout."""
        output = self.sums(params, batch, None, flax_mutables)
        return output.loss / jnp.maximum(output.weight, 1), metrics_of(output, batch)

    def predict_batch(
        self, params: PyTree, batch: Batch, rng: PRNGKey | None = None, flax_mutables: PyTree | None = None
    ) -> jax.Array:
        """Tokens of the answers, [B, L]."""
        return self.predict_batch_with_aux(params, batch, rng, flax_mutables)[0]

    def predict_batch_with_aux(
        self, params: PyTree, batch: Batch, rng: PRNGKey | None = None, flax_mutables: PyTree | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Tokens of the answers, and nothing besides."""
        predict = make_predict(
            self.module,
            self.method,
            max_decode_length=batch["decoder_target_tokens"].shape[1],
            start_token=turn_of(self.vocabulary).start_id,
            eos_id=self.vocabulary.eos_id,
        )
        return predict(combine(params, flax_mutables), batch, jax.random.key(0) if rng is None else rng), {}

    def score_batch(
        self,
        params: PyTree,
        batch: Batch,
        return_intermediates: bool = False,
        flax_mutables: PyTree | None = None,
    ) -> jax.Array:
        """Log-probability of each target, [B].

        Raises:
          ValueError: intermediates are asked for; there are none.
        """
        if return_intermediates:
            raise ValueError("slm_jax has no intermediates to give: score with return_intermediates False")
        whole = combine(params, flax_mutables)
        hidden, _ = objective.hidden_states(self.module, whole, batch, rng=jax.random.key(0))
        logits = functools.partial(objective.output_head(self.module), whole["lm"])
        return score_targets(logits, hidden, batch["decoder_target_tokens"], weights=batch["decoder_loss_weights"])


def combine(params: PyTree, flax_mutables: PyTree | None) -> PyTree:
    """All parameters, as the objective has them."""
    frozen = {} if flax_mutables is None else flax.core.unfreeze(flax_mutables).get(FROZEN, {})
    return trees.combine(flax.core.unfreeze(params), frozen)


def axes_of(boxed: PyTree) -> PyTree:
    """T5X's names of the axes of boxed parameters: those of `kernel` are called `kernel_axes`."""
    found = {}
    for path, leaf in trees.flatten(boxed).items():
        names = tuple(nn.get_partition_spec(leaf)) or (None,) * nn.unbox(leaf).ndim
        found[f"{path}_axes"] = flax_partitioning.AxisMetadata(names)
    return trees.unflatten(found)


def metrics_of(output: LossOutput, batch: Batch) -> dict[str, Any]:
    """What T5X logs: the loss a token, the objective's own metrics, and how fast it goes."""
    examples = jnp.asarray(next(iter(batch.values())).shape[0])
    sums = {"loss": (output.loss, output.weight), **output.metrics}
    told = {name: clu_metrics.Average(total=total, count=weight) for name, (total, weight) in sums.items()}
    return told | {
        "timing/seqs_per_second": t5x_metrics.TimeRate.from_model_output(numerator=examples),
        "timing/steps_per_second": t5x_metrics.StepsPerTime.from_model_output(),
    }
