r"""Compiles the steps of an experiment for a TPU topology, without TPUs, and tells what they need.

    python -m slm_jax.precompile --topology=v5e:16x16 --gin_file=experiments/slm_usm2b_mt5xxl_v5e256.gin

Prints a table for each step; the last line is a JSON object. Needs libtpu: pip install 'slm_jax[tpu_aot]'.
With --dry_run it says at once what is known without compiling. docs/scale.md says how each number is got.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import jax
from absl import flags

from slm_jax import evaluation, gin_utils
from slm_jax.aot import search, serialised, topology
from slm_jax.aot.network import Network
from slm_jax.aot.report import Report, compile_step, size_text
from slm_jax.aot.steps import Step, Steps, with_remat
from slm_jax.data import pipeline
from slm_jax.decoding.greedy import Greedy
from slm_jax.training.run import Training

FLAGS = flags.FLAGS
STEPS = ("train", "eval", "decode")

flags.DEFINE_string("topology", None, "What to compile for, such as v5e:16x16.")
flags.DEFINE_integer("num_slices", 1, "How many such slices, joined by the data centre's network.")
flags.DEFINE_bool("search", False, "Try meshes, layouts of frozen parameters and recomputation; report the best.")
flags.DEFINE_string("serialize", None, "A file to write the compiled step to; of one step.")
flags.DEFINE_enum("remat", None, search.REMAT, "What all layers keep for their backward pass, whatever gin says.")
flags.DEFINE_list("steps", ["train"], f"Which steps, of {', '.join(STEPS)}.")


class Devices(tuple[jax.Device, ...]):
    """Devices as gin can hold them: it copies its values, and these are not to be copied."""

    def __deepcopy__(self, memo: Mapping[int, Any]) -> "Devices":
        return self


def read_training(devices: Sequence[jax.Device]) -> Training:
    """What gin builds, with a mesh of these devices."""
    gin_utils.parse_configuration()
    with gin.unlock_config():
        gin.bind_parameter("slm_jax.training.partitioning.make_mesh.devices", Devices(devices))
        if FLAGS.search:  # the mesh that gin asks for is not looked at, and need not fit
            gin.bind_parameter("slm_jax.training.run.Training.mesh", None)
    return gin.get_configurable(Training)()


def evaluations(training: Training, steps: Steps) -> list[Step]:
    """The run's decoded evaluations, or a greedy one of its training batches if it has none."""
    found = []
    for name, configured in training.evaluations.items():
        if isinstance(configured, evaluation.DecodedEvaluation):
            lengths = configured.task_feature_lengths
            shapes = pipeline.batch_shapes(task_feature_lengths=lengths, batch_size=configured.batch_size)
            length = configured.max_decode_length or lengths["targets"]
            predict = configured.predict(training.objective.model)
            found.append(steps.evaluate(name, predict, shapes=shapes, length=length))
    return found or [steps.evaluate("greedy", greedy(training), shapes=training.batch_shapes, length=targets(training))]


def targets(training: Training) -> int:
    """The length of the targets of a training batch."""
    return training.batch_shapes["decoder_target_tokens"].shape[1]


def greedy(training: Training) -> Callable[..., Any]:
    """Writes answers as long as the training's targets; which tokens begin and end them does not matter here."""
    length = targets(training)
    return evaluation.make_predict(
        training.objective.model, Greedy(), max_decode_length=length, start_token=0, eos_id=1
    )


def chosen_steps(training: Training, mesh: jax.sharding.Mesh, names: Sequence[str]) -> list[Step]:
    """The steps that the command line names.

    Raises:
      ValueError: there is no step of such a name, or the mesh does not divide something.
    """
    unknown = sorted(set(names) - set(STEPS))
    if unknown:
        raise ValueError(f"--steps has {', '.join(unknown)}: there are {', '.join(STEPS)}")
    steps = Steps(training, mesh)
    found: list[Step] = []
    if "train" in names:
        found.append(steps.train())
    if "eval" in names:
        found += evaluations(training, steps)
    if "decode" in names:
        found.append(steps.decode(shapes=training.batch_shapes, length=targets(training)))
    return found


def main(unused: Sequence[str]) -> None:
    """Parses the configuration, compiles, prints."""
    if FLAGS.topology is None:
        raise ValueError("name what to compile for with --topology, such as --topology=v5e:16x16")
    jax.config.update("jax_platforms", "cpu")  # a TPU or GPU of this machine is not touched
    wanted = topology.parse(FLAGS.topology, num_slices=FLAGS.num_slices)
    devices = wanted.devices()
    training = read_training(devices)
    if FLAGS.remat is not None:
        training = with_remat(training, FLAGS.remat)
    told: dict[str, Any] = {"topology": wanted.name, "num_slices": wanted.num_slices}
    if FLAGS.search:
        print(json.dumps(told | search_meshes(training, wanted, devices)))
        return
    mesh = training.partitioner().mesh
    network = Network(mesh, wanted.chip, wanted.shape)
    reports: dict[str, Report] = {}
    steps = chosen_steps(training, mesh, FLAGS.steps)
    if FLAGS.dry_run:
        print(json.dumps(told | {"steps": {step.name: without_compiling(step, network) for step in steps}}))
        return
    if FLAGS.serialize and len(steps) != 1:
        raise ValueError(f"--serialize writes one step, but --steps gives {len(steps)}: name one")
    for step in steps:
        reports[step.name] = compile_step(step, network)
        print(reports[step.name].table(), flush=True)
    if FLAGS.serialize:
        (report,) = reports.values()
        size = serialised.save(
            report.compiled, results=report.results, path=FLAGS.serialize, about=told | {"step": report.step}
        )
        print(f"{FLAGS.serialize}: an executable of {size_text(size)}")
    print(json.dumps(told | {"steps": {name: report.to_json() for name, report in reports.items()}}))


def without_compiling(step: Step, network: Network) -> dict[str, Any]:
    """Prints and gives what shapes alone tell of a step: the memory of its arguments, and what has to be computed."""
    minimum = step.minimum_flops / network.num_devices
    seconds = minimum / network.chip.flops
    held = ", ".join(f"{name} {size_text(size)}" for name, size in step.held.items())
    print(f"{step.name}: a chip holds {held}; it has to compute {minimum:.4g} FLOPs, in {seconds:.4g} s at its peak")
    return {"held_bytes": dict(step.held), "minimum_flops": minimum, "seconds_at_peak": seconds}


def search_meshes(training: Training, wanted: topology.Topology, devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Prints what became of each candidate, and the report of the best.

    Raises:
      ValueError: none fits.
    """
    outcomes: list[search.Outcome] = []
    for outcome in search.search(training, wanted, devices):
        outcomes.append(outcome)
        found = "fits" if outcome.fits else outcome.refused or "has no room"
        print(f"{outcome.candidate} {outcome.remat}: {found}", flush=True)
    print(search.table(outcomes))
    best = search.best(outcomes)
    if best is None or best.report is None:
        raise ValueError(f"the step fits in no way on {wanted.num_chips} chips {wanted.name}: see the table above")
    print(best.report.table(), flush=True)
    tried = [outcome.to_json() for outcome in outcomes]
    return {"search": tried, "best": best.to_json(), "steps": {"train": best.report.to_json()}}


if __name__ == "__main__":
    gin_utils.run(main, join=gin_utils.stay_alone)
