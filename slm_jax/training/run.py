"""What a training run is made of, and the shapes, layouts and parameters that follow from it."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from slm_jax import trees
from slm_jax.models.interfaces import Objective
from slm_jax.training import bundle, freezing, partitioning, restore
from slm_jax.training.execution import Execution
from slm_jax.training.run_interfaces import Batches, Configuration, Evaluation, RunResult
from slm_jax.typing import DTypeLike, PyTree
from slm_jax.weights import fingerprints


@dataclasses.dataclass(frozen=True)
class Training:
    """One training run.

    Attributes:
      model_dir: checkpoints, logs and the bundle; a run that finds its own checkpoints here goes on from them.
      objective: what is minimised.
      optimizer: of the trainable parameters.
      train_batches: called with (seed=, skip_batches=), gives batches for ever.
      batch_shapes: shapes of one batch, to know the parameters' shapes without reading data.
      train_steps: updates in all, those before a restart included.
      trainable: patterns of the parameters that are trained; all others are frozen.
      mesh: devices, see `partitioning.make_mesh`.
      sources: where frozen components come from, by name ('shipped', a folder, a .safetensors file, or a checkpoint
        of another program, such as `slm_jax.weights.huggingface.components.Checkpoint`).
      initial_checkpoint: a bundle or MODEL_DIR whose trained parameters this run starts from.
      allow_random: patterns of parameters that may be random although they are frozen (for tests of speed and shape
        only), or although the initial checkpoint has the rest of their component, such as a new output head.
      allow_unexpected: patterns of parameters of the initial checkpoint that this model has no use for.
      identity: fingerprints of what is no parameter, such as the vocabulary, or functions that give them when the run
        starts; kept in the bundle.
      prompts: prompt templates by name, kept in the bundle.
      frozen_dtype: the type frozen parameters are held in.
      frozen_layout: whether they are split over fsdp, or its value.
      seed: of parameters, data order and dropout.
      data_shards: parts of a batch that have examples of their own, of which a process reads those that its devices
        hold: a multiple of the processes that hold different rows. For batches of one shape; 1: each reads all.
      num_microbatches: pieces of a batch, one after the other, to save memory.
      log_period: steps between two rows of the log.
      checkpoint_period: steps between two checkpoints; 0 for one at the end.
      keep_checkpoints: how many of the latest stay.
      listening_batches: called without arguments, gives the batches of the teacher-forced evaluation; None for none.
      listening_objective: what they are measured by, where that is not `objective`.
      listening_period: steps between two of them; 0 for one at the end.
      evaluations: decoded evaluations after the last step, by name.
      evaluations_before: names of those that are also done before the first step.
      decode_period: steps between decoded evaluations on the way; 0 for none on the way.
      prepare: called before data are read, such as to make a dataset; None for nothing.
      check_data: called with `feature_identity` before data are read, to refuse cached features of another speech
        encoder; None for nothing.
      report: told the result of a finished run; None for nothing.
    """

    model_dir: str
    objective: Objective
    optimizer: optax.GradientTransformation
    train_batches: Callable[..., Batches]
    batch_shapes: Mapping[str, jax.ShapeDtypeStruct]
    train_steps: int
    trainable: Sequence[str] = freezing.TRAINABLE
    mesh: jax.sharding.Mesh | None = None
    sources: Mapping[str, str | os.PathLike[str]] = dataclasses.field(default_factory=dict)
    initial_checkpoint: str | None = None
    allow_random: Sequence[str] = ()
    allow_unexpected: Sequence[str] = ()
    identity: Mapping[str, str | Callable[[], str]] = dataclasses.field(default_factory=dict)
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    frozen_dtype: DTypeLike = jnp.float32
    frozen_layout: partitioning.FrozenLayout | str = partitioning.FrozenLayout.COPIED
    seed: int = 0
    data_shards: int = 1
    num_microbatches: int = 1
    log_period: int = 50
    checkpoint_period: int = 0
    keep_checkpoints: int = 2
    listening_batches: Callable[..., Batches] | None = None
    listening_objective: Objective | None = None
    listening_period: int = 0
    evaluations: Mapping[str, Evaluation] = dataclasses.field(default_factory=dict)
    evaluations_before: Sequence[str] = ()
    decode_period: int = 0
    prepare: Callable[[], None] | None = None
    check_data: Callable[[Mapping[str, str]], None] | None = None
    report: Callable[[RunResult], None] | None = None

    @functools.cached_property
    def boxed_shapes(self) -> PyTree:
        """Shapes of all parameters in their boxes of axis names; nothing is allocated."""
        shapes = jax.eval_shape(self.objective.init, jax.random.key(0), self.batch_shapes)
        trees.check_coverage(trees.flatten(nn.unbox(shapes)), self.trainable)
        return shapes

    @functools.cached_property
    def shapes(self) -> PyTree:
        """Shapes and types of all parameters as this run holds them."""
        trained, frozen = trees.partition(nn.unbox(self.boxed_shapes), self.trainable)
        frozen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, self.frozen_dtype), frozen)
        return trees.combine(trained, frozen)

    def initial_parameters(self) -> PyTree:
        """Random parameters of the whole model; called inside jit, where what is not used costs nothing."""
        one = {name: jnp.zeros((1, *spec.shape[1:]), spec.dtype) for name, spec in self.batch_shapes.items()}
        return self.objective.init(jax.random.key(self.seed), one)

    def partitioner(self) -> partitioning.Partitioner:
        """Layouts on `mesh`, or on all devices if there is none."""
        mesh = self.mesh or partitioning.make_mesh()
        return partitioning.Partitioner(mesh, trainable=self.trainable, frozen=self.frozen_layout)

    def settings_identity(self) -> dict[str, str]:
        """Fingerprints of what decides the meaning of parameters and is none: `identity`, and the front end."""
        encoder = getattr(self.objective.model, "speech_encoder", self.objective.model)
        front_end = getattr(encoder, "front_end", None)
        found = {} if front_end is None else {"front_end": fingerprints.fingerprint_config(repr(front_end))}
        return {name: value() if callable(value) else value for name, value in self.identity.items()} | found

    def feature_identity(self, frozen: Mapping[str, str]) -> dict[str, str]:
        """Fingerprints of what decides the features of speech: encoder, front end and reducer.

        Args:
          frozen: fingerprints of the frozen components, by name.
        """
        reducer = fingerprints.fingerprint_config(repr(getattr(self.objective.model, "reducer", None)))
        identity = {**self.settings_identity(), **frozen, "reducer": reducer}
        return {name: identity.get(name, "") for name in ("speech_encoder", "front_end", "reducer")}

    def manifest(
        self, configuration: Configuration, *, step: int, fingerprints: Mapping[str, str], metrics: Mapping[str, float]
    ) -> bundle.BundleManifest:
        """What the trained parameters belong to."""
        return bundle.BundleManifest(
            fingerprints=fingerprints,
            trainable_patterns=tuple(self.trainable),
            step=step,
            prompt_templates=dict(self.prompts),
            metrics=dict(metrics),
            gin_files=tuple(configuration.gin_files),
            gin_bindings=tuple(configuration.gin_bindings),
        )

    def assemble(
        self, *, place: Callable[[str, Any], Any], checkpoint: restore.Supply | None = None
    ) -> tuple[restore.AssembledParameters, dict[str, str]]:
        """All parameters, each from the first place that has it, and the fingerprints of what is not trained.

        A run that goes on has a `checkpoint` of them; `place` puts a parameter of a path where it will stay.

        Raises:
          slm_jax.training.restore.RestoreError: a frozen parameter would be random, or something does not fit.
          slm_jax.training.bundle.IncompatibleBundleError: the initial checkpoint was trained on other frozen parts.
        """
        initial = None if self.initial_checkpoint is None else restore.read_initial(self.initial_checkpoint)
        assembled = restore.assemble_parameters(
            self.shapes,
            trainable_patterns=self.trainable,
            sources=self.sources,
            checkpoint=checkpoint,
            initial=initial,
            init_fn=restore.initialiser(self.initial_parameters),
            allow_random=self.allow_random,
            allow_unexpected=self.allow_unexpected,
            place=place,
        )
        identity = self.settings_identity()
        if checkpoint is None and initial is not None:  # later, what it was trained on may have been trained further
            restore.check_initial(initial, assembled, identity=identity)
        frozen = restore.frozen_fingerprints(assembled.parameters, trainable_patterns=self.trainable)
        return assembled, identity | frozen

    def describe(self) -> str:
        """The parameter table; its last line is a JSON object with `trainable`, `frozen` and `components`."""
        shapes = self.shapes
        counts = freezing.count_parameters(shapes, self.trainable)
        return freezing.parameter_table(shapes, self.trainable) + json.dumps(counts)

    def run(self, configuration: Configuration = Configuration()) -> RunResult:  # noqa: B008
        """Trains to the end, or raises; see `execution` and its parts for what may go wrong."""
        return Execution(self, configuration).execute()
