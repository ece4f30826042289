"""How a training run is done: what it opens, loads and compiles, and what it does in which order."""

import dataclasses
import functools
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slm_jax import trees
from slm_jax.models.interfaces import LossOutput
from slm_jax.training import bundle, checkpoints, freezing, hosts, restore
from slm_jax.training.loop import Loop, Periodic
from slm_jax.training.model_dir import ModelDir
from slm_jax.training.objective import VARIANTS
from slm_jax.training.run_interfaces import Batches, Configuration, RunResult
from slm_jax.training.run_log import RunLog, scores_before
from slm_jax.training.state import TrainState
from slm_jax.training.step import EvalStep, TrainStep, means
from slm_jax.training.watchdog import Watchdog
from slm_jax.typing import PyTree

if TYPE_CHECKING:
    import slm_jax.training.run


class Execution:
    """The running state of a Training: what is opened, compiled and loaded once."""

    def __init__(self, training: "slm_jax.training.run.Training", configuration: Configuration) -> None:
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
            batches = self.batches(position)
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

    def batches(self, position: int) -> Batches:
        """What is trained on from a batch on: all rows, or those of the shards that this process holds."""
        training = self.training
        part = {}
        if training.data_shards > 1:
            part = {"data_shards": training.data_shards, "shards": self.partitioner.held_shards(training.data_shards)}
        return training.train_batches(seed=training.seed, skip_batches=position, **part)

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
            shard=functools.partial(self.partitioner.shard_batch, data_shards=training.data_shards),
            log=self.log,
            train_steps=training.train_steps,
            log_period=training.log_period,
            periodic=periodic,
            save=save_and_wait,
            watchdog=Watchdog(self.configuration.step_timeout),
            share=len(self.partitioner.held_shards(training.data_shards)) / training.data_shards,
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
