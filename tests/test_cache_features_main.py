"""The command that caches features: training from them is training from speech."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

GIN = """
from __gin__ import dynamic_registration
from slm_jax.data import pipeline
from slm_jax.models import adapter
from slm_jax.models import conformer
from slm_jax.models import reducers
from slm_jax.models import t5
from slm_jax.data import vocabularies
from slm_jax.training import optimizers
from slm_jax.training import run

include 'models/encoders/conformer_tiny.gin'
include 'models/lms/t5_tiny.gin'
include 'models/slm.gin'
include 'runs/train.gin'
include 'tasks/manifest.gin'

VOCABULARY = @vocabularies.byte_vocabulary()
ADAPTER = @adapter.TransformerAdapter()
adapter.TransformerAdapter.features = 32
adapter.TransformerAdapter.num_heads = 2
adapter.TransformerAdapter.head_dim = 16
adapter.TransformerAdapter.ff_width = 32
REDUCER = @reducers.Stacking()
reducers.Stacking.factor = FACTOR
TASK_FEATURE_LENGTHS = {'speech': 16000, 'speech_embeddings': 13, 'inputs': 32, 'targets': 16}
t5.T5.vocab_size = 384
TRAIN_STEPS = 2
BATCH_SIZE = 2
OPTIMIZER = @optimizers.adamw()
optimizers.adamw.learning_rate = 1e-2
run.Training.sources = {'speech_encoder': 'WEIGHTS'}
run.Training.allow_random = ('lm/.*',)
run.Training.log_period = 1
run.Training.listening_batches = @listening/pipeline.eval_batches
listening/pipeline.eval_batches.mixture_or_task = %MIXTURE_OR_TASK_NAME
listening/pipeline.eval_batches.split = 'train'
listening/pipeline.eval_batches.task_feature_lengths = %TASK_FEATURE_LENGTHS
listening/pipeline.eval_batches.batch_size = 4
listening/pipeline.eval_batches.use_cached = %USE_CACHED_TASKS
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A manifest of four sounds, weights of a tiny encoder, and an experiment."""
    import flax.linen as nn
    import jax

    from slm_jax.audio.log_mel import LogMel
    from slm_jax.models.conformer import Conformer
    from slm_jax.weights import foundation

    folder = tmp_path_factory.mktemp("experiment")
    lines = ["audio\ttext"]
    for number in range(4):
        length = 8000 + 1500 * number
        sound = (
            0.3 * np.sin(np.arange(length) * 0.1 * (number + 1)) * np.random.default_rng(number).uniform(size=length)
        )
        soundfile.write(folder / f"{number}.flac", sound, 16_000)
        lines.append(f"{number}.flac\tsound {number}")
    (folder / "own.tsv").write_text("\n".join(lines))
    front_end = LogMel(num_mels=16, fft_length=512, normalization="utterance")
    encoder = Conformer(
        num_layers=2, width=16, num_heads=2, subsampling_channels=(4, 4), ctc_vocab_size=2048, front_end=front_end
    )
    speech = np.zeros((1, 1600), np.float32)
    params = nn.unbox(encoder.init(jax.random.key(0), jax.numpy.asarray(speech), jax.numpy.array([1600])))["params"]
    foundation.export_component(
        params,
        path=folder / "speech_encoder.safetensors",
        component="speech_encoder",
        provenance=foundation.Provenance(licence="Apache-2.0"),
    )
    (folder / "own.gin").write_text(GIN.replace("FACTOR", "2").replace("WEIGHTS", str(folder)))
    return folder


def command(folder, module, *arguments):
    flags = [f"--gin_file={folder / 'own.gin'}", f"--gin.MANIFEST='{folder / 'own.tsv'}'", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device
    command = [sys.executable, "-m", f"slm_jax.{module}", *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def listening(folder, name, *arguments):
    done = command(folder, "train", f"--gin.MODEL_DIR='{folder / name}'", *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss_true_audio" in row][-1]["loss_true_audio"]


@pytest.mark.slow
def test_a_run_on_cached_features_is_the_run_on_speech(folder):
    cached = ("--gin.USE_CACHED_TASKS=True", f"--seqio_additional_cache_dirs={folder / 'cache'}")
    done = command(folder, "train", f"--gin.MODEL_DIR='{folder / 'none'}'", *cached)
    assert "is not cached in" in done.stderr
    done = command(folder, "cache_features", f"--output_cache_dir={folder / 'cache'}", "--gin.MODEL_DIR=''")
    assert done.returncode == 0, done.stderr[-2000:]
    steady = ("--gin.optimizers.adamw.learning_rate=1e-30",)  # batches come in another order
    losses = [listening(folder, "plain", *steady), listening(folder, "cached", *steady, *cached)]
    np.testing.assert_allclose(*losses, atol=1e-5)
    listening(folder, "trained", *cached)
    other = (*cached, "--gin.reducers.Stacking.factor=3")
    done = command(folder, "train", f"--gin.MODEL_DIR='{folder / 'other'}'", *other)
    assert "the features were made by something else: reducer was" in done.stderr
