"""A run that is killed or asked to stop, and started again, ends where an uninterrupted one does, bit for bit.

What could differ is all there: dropout and a random reducer, a schedule, moments, buckets that are half full.
This file is also the program that is killed: `python test_resume.py MODEL_DIR`.
"""

import dataclasses
import functools
import os
import pathlib
import signal
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from slm_jax import trees
from slm_jax.data import pipeline
from slm_jax.data.buckets import Bucket
from slm_jax.evaluation import Evaluated
from slm_jax.models.adapter import TransformerAdapter
from slm_jax.models.interfaces import EncoderOutput
from slm_jax.models.reducers import RandomDiscard
from slm_jax.training import bundle, checkpoints, optimizers, partitioning
from slm_jax.training.objective import TeacherForcing
from slm_jax.training.run import Training
from slm_jax.training.run_log import read_metrics

TASK = "test_resume"
SHORT, LONG = ({"speech": samples, "inputs": 8, "targets": 8} for samples in (1600, 3200))
STEPS, CHECKPOINT_PERIOD, KILLED_IN_STEP = 6, 2, 5
EXAMPLES = 14


def examples(split, shuffle_files, seed=None):
    numbers = np.arange(EXAMPLES)
    arrays = {
        "speech": np.random.default_rng(0).normal(size=(EXAMPLES, 2800)).astype(np.float32),
        "samples": np.where(numbers % 2, 1200, 2800),
        "targets": np.array(list("abcde"))[numbers % 5],
    }
    return tf.data.Dataset.from_tensor_slices(arrays).map(
        lambda row: {"speech": row["speech"][: row["samples"]], "inputs": "say", "targets": row["targets"]}
    )


def add_task():
    speech = seqio.ContinuousFeature(vocabulary=seqio.PassThroughVocabulary(1), dtype=tf.float32, rank=1, add_eos=False)
    text = seqio.Feature(vocabulary=seqio.ByteVocabulary())
    seqio.TaskRegistry.add(
        TASK,
        source=seqio.FunctionDataSource(examples, splits=["train"], num_input_examples={"train": EXAMPLES}),
        preprocessors=[functools.partial(seqio.preprocessors.tokenize, with_eos=True)],
        output_features={"speech": speech, "inputs": text, "targets": text},
    )


@dataclasses.dataclass
class Watched:
    """The batches of the task; a signal is sent to this very process when the batch of one step is asked for.

    Attributes:
      signals: by step.
      widths: of speech, by step, of the batches that were given.
    """

    signals: dict[int, signal.Signals] = dataclasses.field(default_factory=dict)
    widths: dict[int, int] = dataclasses.field(default_factory=dict)

    def __call__(self, *, seed, skip_batches):
        self.batches = pipeline.train_batches(
            TASK,
            task_feature_lengths=LONG,
            batch_size=4,
            buckets=(Bucket(SHORT), Bucket(LONG)),
            seed=seed,
            skip_batches=skip_batches,
        )
        return self

    @property
    def position(self):
        return self.batches.position

    def __iter__(self):
        return self

    def __next__(self):
        step = self.position + 1
        if step in self.signals:
            os.kill(os.getpid(), self.signals[step])
        batch = next(self.batches)
        self.widths[step] = batch["speech"].shape[1]
        return batch


class Probe:
    """An evaluation that only counts how often it is done."""

    def __init__(self):
        self.done = 0

    def predict(self, model):
        return jax.jit(lambda params: params)

    def run(self, predict, params, *, shard):
        self.done += 1
        return Evaluated({"done": 1.0}, [])


class Model(nn.Module):
    """Frozen word vectors, and an adapter with dropout behind a reducer that is random in training."""

    def setup(self):
        self.reducer = RandomDiscard(ratio=2)
        self.adapter = TransformerAdapter(features=8, num_heads=2, head_dim=4, ff_width=8, dropout_rate=0.2)
        self.lm = nn.Embed(384, 8)

    def __call__(self, batch, *, training=()):
        frames = batch["speech"].reshape(batch["speech"].shape[0], -1, 100)
        mask = jnp.arange(frames.shape[1]) < batch["speech_length"][:, None] // 100
        frames = self.reducer(EncoderOutput(frames, mask))
        heard = self.adapter(frames, self.lm, deterministic="adapter" not in training)
        return heard.embeddings.mean(axis=1, keepdims=True) + self.lm(batch["decoder_input_tokens"])

    def logits(self, hidden):
        return self.lm.attend(hidden)


def make_training(model_dir, watched):
    schedule = optimizers.linear_warmup_cosine_decay(peak_learning_rate=0.05, warmup_steps=2, total_steps=STEPS)
    return Training(
        model_dir=str(model_dir),
        objective=TeacherForcing(model=Model()),
        optimizer=optimizers.adamw(learning_rate=schedule, clip_norm=1.0),
        train_batches=watched,
        batch_shapes=pipeline.batch_shapes(task_feature_lengths=LONG, batch_size=4),
        train_steps=STEPS,
        mesh=partitioning.make_mesh(devices=jax.devices()[:1]),
        allow_random=("lm/.*",),
        log_period=1,
        checkpoint_period=CHECKPOINT_PERIOD,
        evaluations={"probe": Probe()},
    )


def saved_steps(training):
    return checkpoints.saved_steps(pathlib.Path(training.model_dir) / checkpoints.FOLDER)


def what_is_left(training):
    """All that training decides, to the bit: parameters, the optimizer's state, where the data are, the log."""
    folder = pathlib.Path(training.model_dir)
    trained, _ = trees.partition(training.shapes, training.trainable)
    moments = jax.eval_shape(training.optimizer.init, trained)
    checkpoint = checkpoints.Checkpoints(folder / checkpoints.FOLDER).restore(trainable=trained, optimizer=moments)
    leaves, _ = jax.tree_util.tree_flatten_with_path((checkpoint.trainable, checkpoint.optimizer))
    arrays = {jax.tree_util.keystr(path): (x.dtype, x.shape, np.asarray(x).tobytes()) for path, x in leaves}
    shipped = {path: leaf.tobytes() for path, leaf in trees.flatten(bundle.load_bundle(folder).trainable).items()}
    rows = [{name: x for name, x in row.items() if "second" not in name} for row in read_metrics(folder, "train")]
    return {"step": checkpoint.step, "data": checkpoint.data_position, "log": rows, "bundle": shipped} | arrays


@pytest.fixture(scope="module", autouse=True)
def task():
    add_task()
    yield
    seqio.TaskRegistry.remove(TASK)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """MODEL_DIR of another process that kills itself, and that process, at work beside the tests."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, __file__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        yield folder, process
        process.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run leaves."""
    training = make_training(tmp_path_factory.mktemp("whole"), Watched())
    training.run()
    widths = training.train_batches.widths
    for part in (range(1, KILLED_IN_STEP), range(KILLED_IN_STEP, STEPS + 1)):
        assert {widths[step] for step in part} == {SHORT["speech"], LONG["speech"]}, "both buckets, before and after"
    left = what_is_left(training)
    assert [row["step"] for row in left["log"]] == list(range(1, STEPS + 1))
    return left


def test_a_run_that_is_killed_goes_on_bit_for_bit(killed, whole):
    """N steps, kill -9, resume, N steps equals 2N steps: parameters, moments, losses and data."""
    folder, process = killed
    output, _ = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, output
    resumed = make_training(folder, Watched())
    # The checkpoint of step 4 was perhaps still being written; that of step 2 was finished before it.
    assert saved_steps(resumed)[-1] in (KILLED_IN_STEP - 1, KILLED_IN_STEP - 1 - CHECKPOINT_PERIOD)
    first = saved_steps(resumed)[-1] + 1
    resumed.run()
    assert list(resumed.train_batches.widths) == list(range(first, STEPS + 1))
    assert what_is_left(resumed) == whole


@pytest.mark.parametrize("step", [3, STEPS])
def test_a_run_that_is_asked_to_stop_saves_that_step_and_goes_on_bit_for_bit(step, whole, tmp_path):
    """In the last step too, whose checkpoint has been begun when the loop stops; only evaluations are left then."""
    stopped = make_training(tmp_path, Watched({step: signal.SIGTERM}))
    with pytest.raises(SystemExit) as exit_:
        stopped.run()
    assert exit_.value.code == 143
    assert saved_steps(stopped)[-1] == step
    assert stopped.evaluations["probe"].done == 0 and not (tmp_path / bundle.FOLDER).exists()
    resumed = make_training(tmp_path, Watched())
    result = resumed.run()
    assert list(resumed.train_batches.widths) == list(range(step + 1, STEPS + 1))
    assert result.after["probe"].scores == {"done": 1.0} and resumed.evaluations["probe"].done == 1
    assert what_is_left(resumed) == whole


if __name__ == "__main__":
    add_task()
    make_training(sys.argv[1], Watched({KILLED_IN_STEP: signal.SIGKILL})).run()
