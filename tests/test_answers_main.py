"""The command that has the language model answer in writing: a manifest of recordings, instructions and answers."""

import itertools
import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from slm_jax import trees
from slm_jax.data import vocabularies
from slm_jax.data.manifest import parse_manifest
from slm_jax.data.prompts import INSTRUCT
from slm_jax.models.t5 import T5
from slm_jax.weights import foundation

GIN = """
from __gin__ import dynamic_registration
from slm_jax.models import frame_adapters
from slm_jax.models import t5
from slm_jax.data import vocabularies
from slm_jax.training import optimizers
from slm_jax.training import run

include 'models/encoders/conformer_tiny.gin'
include 'models/lms/t5_tiny.gin'
include 'models/slm.gin'
include 'runs/train.gin'
include 'tasks/manifest.gin'

MANIFEST = 'CORPUS'
VOCABULARY = @vocabularies.byte_vocabulary()
ADAPTER = @frame_adapters.LinearAdapter()
frame_adapters.LinearAdapter.features = 32
TASK_FEATURE_LENGTHS = {'speech': 16000, 'inputs': 32, 'targets': 16}
TRAIN_STEPS = 2
MODEL_DIR = ''
OPTIMIZER = @optimizers.adamw()
optimizers.adamw.learning_rate = 1e-2
t5.T5.vocab_size = 384
run.Training.sources = {'lm': 'WEIGHTS'}
"""
TEXTS = ("a red ball", "it rained", "who", "seven green frogs", "no")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A manifest of recordings, an experiment, and a language model that says "ok" to whatever it reads."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "audio").mkdir()
    lines = ["audio\ttext"]
    for number, text in enumerate(TEXTS):
        soundfile.write(folder / "audio" / f"{number}.flac", np.zeros(800), 16_000)
        lines.append(f"audio/{number}.flac\t{text}")
    (folder / "train.tsv").write_text("\n".join(lines))
    foundation.export_component(
        parrot(vocabularies.byte_vocabulary().encode("ok")),
        path=folder / "lm.safetensors",
        component="lm",
        provenance=foundation.Provenance(licence="Apache-2.0"),
    )
    (folder / "own.gin").write_text(GIN.replace("WEIGHTS", str(folder)).replace("CORPUS", str(folder / "train.tsv")))
    return folder


def parrot(answer):
    """Parameters of t5_tiny.gin with layers that add nothing, so that each token decides the next: the answer's."""
    model = T5(
        vocab_size=384, width=32, ff_width=64, num_encoder_layers=2, num_decoder_layers=2, num_heads=2, head_dim=16
    )
    inputs = jnp.zeros((1, 1, 32)), jnp.ones((1, 1), bool), jnp.zeros((1, 1), jnp.int32)
    forward = lambda model, *inputs: model.logits(model(*inputs))  # noqa: E731
    shapes = nn.unbox(jax.eval_shape(lambda key: model.init(key, *inputs, method=forward), jax.random.key(0)))["params"]
    params = trees.flatten(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    for place, (token, following) in enumerate(itertools.pairwise([0, *answer, 1])):
        params["token_embedder/embedding"][token, place] = 1
        params["logits_dense/kernel"][place, following] = 1
    params["decoder/final_norm/scale"][:] = 1
    return trees.unflatten(params)


def run_answers(folder, *flags):
    command = [sys.executable, "-m", "slm_jax.answers", f"--gin_file={folder / 'own.gin'}", *flags]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_each_recording_gets_an_instruction_and_the_answer_to_it(folder):
    output = folder / "instructed.jsonl"
    done = run_answers(
        folder, f"--manifest={folder / 'train.tsv'}", f"--output={output}", "--transcripts", "--answer_batch_size=2"
    )
    assert done.returncode == 0, done.stderr
    assert f"{output}: 5 answers; 0 were empty or had no end after 48 tokens" in done.stdout
    rows, _ = parse_manifest(str(output))
    assert [(row.text, row.prompt, row.target) for row in rows[::2]] == [
        (text, instruction, "ok") for text, instruction in zip(TEXTS, INSTRUCT.trained, strict=False)
    ]
    assert [(row.text, row.prompt, row.target) for row in rows[1::2]] == [(text, "", text) for text in TEXTS]
    assert json.loads(output.read_text().splitlines()[0])["audio"] == "audio/0.flac"


def test_answers_without_an_end_are_left_out_and_counted(folder, tmp_path):
    output = tmp_path / "unseen.jsonl"
    flags = [f"--manifest={folder / 'train.tsv'}", f"--output={output}", "--unseen", "--limit=3", "--answer_length=2"]
    done = run_answers(folder, *flags)
    assert done.returncode == 0, done.stderr
    assert "0 answers; 3 were empty or had no end after 2 tokens" in done.stdout
    assert output.read_text() == ""


def test_the_output_is_json_lines(folder):
    done = run_answers(folder, f"--manifest={folder / 'train.tsv'}", f"--output={folder / 'x.tsv'}")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == f"error: --output={folder / 'x.tsv'} has to end in .jsonl"
