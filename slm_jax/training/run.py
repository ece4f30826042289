"""A training run from configuration to bundle: shapes, parameters, loop, checkpoints, evaluations."""

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from slm_jax import trees
from slm_jax.models.interfaces import LossOutput, Objective
from slm_jax.training import bundle, checkpoints, freezing, hosts, partitioning, restore
from slm_jax.training.loop import Loop, Periodic
from slm_jax.training.model_dir import ModelDir
from slm_jax.training.objective import VARIANTS
from slm_jax.training.run_interfaces import Batches, Configuration, Evaluation, RunResult
from slm_jax.training.run_log import RunLog, scores_before
from slm_jax.training.state import TrainState
from slm_jax.training.step import EvalStep, TrainStep, means
from slm_jax.training.watchdog import Watchdog
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
        """Trains to the end, or raises; see the module's parts for what may go wrong."""
        return _Run(self, configuration).execute()


class _Run:
    """The running state of a Training: what is opened, compiled and loaded once."""

    def __init__(self, training: Training, configuration: Configuration) -> None:
        self.training = training
        self.configuration = configuration
        self.start = time.monotonic()
        self.place = ModelDir.open(training.model_dir, writes=hosts.is_first())
        self.model_dir, events = self.place.local, str(self.place.place)
        self.log = RunLog(self.model_dir, events=events, total_steps=training.train_steps, primary=hosts.is_first())
        self.partitioner = training.partitioner()
        self.boxed = training.boxed_shapes
        self.shardings = self.partitioner.shardings(self.boxed)
        self.components = freezing.trainable_components(training.trainable, trees.flatten(nn.unbox(self.boxed)))
        self.checkpoints = checkpoints.Checkpoints(
            self.place.place / checkpoints.FOLDER, keep=training.keep_checkpoints
        )
        self.predict = {name: evaluation.predict(self.model) for name, evaluation in training.evaluations.items()}
        listening = training.listening_objective or training.objective
        self.evaluate_step = jax.jit(EvalStep(objective=listening, variants=VARIANTS))

    @property
    def model(self) -> nn.Module:
        return self.training.objective.model

    def execute(self) -> RunResult:
        training = self.training
        self.place.write("model-info.txt", training.describe() + "\n")
        self.place.write(bundle.CONFIG, self.configuration.text())
        self.log.say(freezing.parameter_table(training.shapes, training.trainable))
        # Outside the mesh's context: in it, flax constrains every parameter that is unboxed by the frozen rules.
        state, frozen, position = self.restore()
        if training.prepare is not None:
            with hosts.first_goes_first():
                training.prepare()
        if training.check_data is not None:
            training.check_data(training.feature_identity(self.fingerprints))
        with self.partitioner.context():
            for name in training.evaluations_before if int(state.step) == 0 else ():
                self.decode(name, state, frozen)
            batches = training.train_batches(seed=training.seed, skip_batches=position)
            state = self.loop(frozen, batches).run(state, frozen, batches, jax.random.key(training.seed))
            self.checkpoints.close()
            listening = self.listen(state, frozen)
            after = self.decode_all(state, frozen)
            self.write_bundle(state, after)
        result = RunResult(
            model_dir=self.model_dir,
            place=str(self.place.place),
            counts=freezing.count_parameters(training.shapes, training.trainable),
            before=scores_before(self.model_dir, training.evaluations_before) if hosts.is_first() else {},
            after=after,
            listening=listening,
            seconds=time.monotonic() - self.start,
        )
        if training.report is not None and hosts.is_first():
            training.report(result)
        self.log.close()
        self.place.push()
        return result

    def restore(self) -> tuple[TrainState, PyTree, int]:
        """State, frozen parameters and data position: from this run's checkpoint, else from where they start."""
        training = self.training
        saved = self.saved()
        own = None if saved is None else restore.Supply(f"this run's step {saved.step}", saved.trainable)
        assembled, self.fingerprints = training.assemble(place=self.put, checkpoint=own)
        self.log.say(assembled.report.table())
        if saved is not None:
            bundle.check_compatible(bundle.BundleManifest.from_json(saved.manifest), self.fingerprints)
        trained, frozen = trees.partition(
            jax.tree.map(hosts.put, assembled.parameters, self.shardings), training.trainable
        )
        if saved is None:
            return self.fresh_state(trained), frozen, 0
        state = TrainState(step=jnp.asarray(saved.step, jnp.int32), trainable=trained, opt_state=saved.optimizer)
        state = jax.tree.map(hosts.put, state, self.state_shardings(trained))
        return state, frozen, int(saved.data_position["batches"])

    def put(self, path: str, value: np.ndarray) -> jax.Array:
        """A parameter on the devices that hold it or a part of it."""
        return hosts.put(value, trees.flatten(self.shardings)[path])

    def saved(self) -> checkpoints.Checkpoint | None:
        """This run's latest checkpoint, on the devices; None if it has none."""
        if not self.checkpoints.steps():
            return None
        trained, _ = trees.partition(self.training.shapes, self.training.trainable)
        state = jax.eval_shape(lambda params: TrainState.create(params, self.training.optimizer), trained)
        template = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            state,
            self.state_shardings(trained),
        )
        return self.checkpoints.restore(trainable=template.trainable, optimizer=template.opt_state)

    def state_shardings(self, trained: PyTree) -> TrainState:
        shardings, _ = trees.partition(self.shardings, self.training.trainable)
        moments = self.partitioner.optimizer_shardings(self.training.optimizer, trained, shardings)
        return TrainState(step=self.partitioner.replicated, trainable=shardings, opt_state=moments)

    def fresh_state(self, trained: PyTree) -> TrainState:
        create = jax.jit(
            lambda params: TrainState.create(params, self.training.optimizer),
            out_shardings=self.state_shardings(trained),
        )
        return create(trained)

    def loop(self, frozen: PyTree, batches: Batches) -> Loop:
        training = self.training
        step = TrainStep(
            objective=training.objective,
            optimizer=training.optimizer,
            training=self.components,
            num_microbatches=training.num_microbatches,
        )

        def save(state: TrainState) -> None:
            self.save(state, batches.position)

        periodic = [
            Periodic(training.checkpoint_period, save),
            Periodic(training.listening_period, lambda state: self.listen(state, frozen), at_end=False),
            Periodic(training.decode_period, lambda state: self.decode_all(state, frozen), at_end=False),
        ]

        def save_and_wait(state: TrainState) -> None:
            if int(state.step) not in self.checkpoints.steps():
                save(state)
            self.checkpoints.close()

        return Loop(
            step=jax.jit(step, donate_argnums=0),
            shard=self.partitioner.shard_batch,
            log=self.log,
            train_steps=training.train_steps,
            log_period=training.log_period,
            periodic=periodic,
            save=save_and_wait,
            watchdog=Watchdog(self.configuration.step_timeout),
        )

    def save(self, state: TrainState, position: int) -> None:
        checkpoint = checkpoints.Checkpoint(
            step=int(state.step),
            trainable=state.trainable,
            optimizer=state.opt_state,
            seed=self.training.seed,
            data_position={"batches": position},
            manifest=self.manifest(state, {}).to_json(),
        )
        self.checkpoints.save(checkpoint)
        self.place.push()

    def manifest(self, state: TrainState, metrics: Mapping[str, float]) -> bundle.BundleManifest:
        found = self.fingerprints
        return self.training.manifest(self.configuration, step=int(state.step), fingerprints=found, metrics=metrics)

    def listen(self, state: TrainState, frozen: PyTree) -> dict[str, float]:
        """Loss a token with true, shuffled and no speech over the listening batches; {} if there are none."""
        if self.training.listening_batches is None:
            return {}
        total: dict[str, LossOutput] | None = None
        for batch in self.training.listening_batches():
            sharded = self.partitioner.shard_batch(batch)
            output = self.evaluate_step(state.trainable, frozen, sharded, jax.random.key(0))
            total = output if total is None else jax.tree.map(jnp.add, total, output)
        if total is None:
            return {}
        # A CTC objective has no loss where there is no speech.
        counted = {name: sums for name, sums in total.items() if sums.weight > 0}
        losses = {f"loss_{name}_audio": float(sums.loss / sums.weight) for name, sums in counted.items()}
        besides = {name: float(mean) for name, mean in means(total["true"]).items()}
        self.log.write(int(state.step), losses | besides, kind="eval")
        told = ", ".join(f"{name.split('_')[1]} audio {loss:.4f}" for name, loss in losses.items())
        self.log.say(f"loss a token on held-out speech: {told}")
        return losses

    def decode(self, name: str, state: TrainState, frozen: PyTree) -> Any:
        """Scores of one decoded evaluation, logged, with its predictions in MODEL_DIR/predictions."""
        params = trees.combine(state.trainable, frozen)
        step = int(state.step)
        evaluated = self.training.evaluations[name].run(self.predict[name], params, shard=self.partitioner.shard_batch)
        self.log.write(step, {f"{name}/{metric}": value for metric, value in evaluated.scores.items()}, kind="eval")
        told = ", ".join(f"{metric} {value:.2f}" for metric, value in evaluated.scores.items())
        self.log.say(f"{name} after {step} steps: {told}")
        lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in evaluated.predictions]
        self.place.write(f"predictions/{name}-{step}.jsonl", "\n".join(lines) + "\n")
        return evaluated

    def decode_all(self, state: TrainState, frozen: PyTree) -> dict[str, Any]:
        return {name: self.decode(name, state, frozen) for name in self.training.evaluations}

    def write_bundle(self, state: TrainState, after: Mapping[str, Any]) -> None:
        metrics = {f"{name}/{metric}": v for name, e in after.items() for metric, v in e.scores.items()}
        trained = jax.tree.map(np.asarray, jax.device_get(jax.tree.map(hosts.gather, state.trainable)))
        manifest = self.manifest(state, metrics)
        folder = self.model_dir / bundle.FOLDER
        self.place.write(bundle.CONFIG, self.configuration.text())
        if hosts.is_first():
            bundle.save_bundle(bundle.Bundle(trained, manifest, self.configuration.text()), directory=folder)
        self.log.say(f"bundle written to {self.place.place / bundle.FOLDER}")
