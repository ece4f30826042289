"""Speed of the training step of any experiment, on random data and random parameters.

    .venv/bin/python benchmarks/training_step.py --gin_file=experiments/quickstart.gin

Each length bucket is compiled and run by itself. Prints, for a bucket, the seconds to compile, the floating-point
operations that the compiler counts, the seconds of a step (median) and both together as GFLOP/s.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence

import flax.linen as nn
import gin
import jax
import numpy as np
from absl import flags

from slm_jax import gin_utils, trees
from slm_jax.data import pipeline
from slm_jax.training import freezing
from slm_jax.training.run import Training
from slm_jax.training.state import TrainState
from slm_jax.training.step import TrainStep

_STEPS = flags.DEFINE_integer("steps", 10, "Steps timed for each bucket, after one that is not.")


def random_batch(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """A batch without padding: noise, tokens from 3 to 99, and full lengths."""
    random = np.random.default_rng(0)
    batch = {}
    for name, spec in shapes.items():
        if name == "speech_length":
            batch[name] = np.full(spec.shape, shapes["speech"].shape[1], spec.dtype)
        elif name == "decoder_loss_weights":
            batch[name] = np.ones(spec.shape, spec.dtype)
        elif np.issubdtype(spec.dtype, np.integer):
            batch[name] = random.integers(3, 100, spec.shape).astype(spec.dtype)
        else:
            batch[name] = random.normal(scale=0.1, size=spec.shape).astype(spec.dtype)
    return batch


def measure(training: Training, batch: dict[str, np.ndarray], steps: int) -> dict[str, float]:
    """Compiles and times the step for one shape of batch."""
    components = freezing.trainable_components(training.trainable, trees.flatten(nn.unbox(training.boxed_shapes)))
    step = TrainStep(objective=training.objective, optimizer=training.optimizer, training=components)
    key = jax.random.key(0)
    parameters = nn.unbox(jax.jit(training.objective.init)(key, batch))
    trained, frozen = trees.partition(parameters, training.trainable)
    state = TrainState.create(trained, training.optimizer)
    start = time.monotonic()
    compiled = jax.jit(step, donate_argnums=0).lower(state, frozen, batch, key).compile()
    compile_seconds = time.monotonic() - start
    seconds = []
    for _ in range(steps + 1):
        start = time.monotonic()
        state, _ = jax.block_until_ready(compiled(state, frozen, batch, key))
        seconds.append(time.monotonic() - start)
    operations = compiled.cost_analysis()["flops"]
    median = statistics.median(seconds[1:])
    return {
        "compile_seconds": round(compile_seconds, 1),
        "gflop": round(operations / 1e9, 1),
        "step_seconds": round(median, 3),
        "gflop_per_second": round(operations / 1e9 / median),
    }


def main(unused: Sequence[str]) -> None:
    """Measures every bucket of the experiment."""
    gin_utils.parse_configuration(bindings=["MODEL_DIR = ''"])
    training = gin.get_configurable(Training)()
    batch_size = gin_utils.macro("BATCH_SIZE")
    buckets = [dict(bucket.feature_lengths) for bucket in gin_utils.macro("BUCKETS")]
    for lengths in buckets or [gin_utils.macro("TASK_FEATURE_LENGTHS")]:
        shapes = pipeline.batch_shapes(task_feature_lengths=lengths, batch_size=batch_size)
        measured = measure(training, random_batch(shapes), _STEPS.value)
        print(json.dumps({"batch_size": batch_size, "lengths": lengths, **measured}), flush=True)


if __name__ == "__main__":
    gin_utils.run(main)
