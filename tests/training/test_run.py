"""A whole run on a tiny model and real SeqIO pipeline: bundle, devices, frozen parameters, wrong parts."""

import dataclasses
import functools
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from slm_jax import trees
from slm_jax.audio.log_mel import LogMel
from slm_jax.data import metrics, pipeline
from slm_jax.decoding.greedy import Greedy
from slm_jax.evaluation import DecodedEvaluation, Evaluated
from slm_jax.models.adapter import TransformerAdapter
from slm_jax.models.conformer import Conformer
from slm_jax.models.slm import SpeechLanguageModel
from slm_jax.models.t5 import T5
from slm_jax.training import bundle, model_dir, optimizers, partitioning
from slm_jax.training.distillation import Distillation
from slm_jax.training.objective import TeacherForcing
from slm_jax.training.run import Training
from slm_jax.training.run_interfaces import Configuration
from slm_jax.training.run_log import read_metrics
from slm_jax.weights import foundation

TASK = "test_run_tiny"
TAUGHT_TASK = "test_run_tiny_taught"
LENGTHS = {"speech": 3200, "inputs": 8, "targets": 8}
SPLITS = {"train": 12, "test": 5}


def examples(split, shuffle_files, seed=None):
    def generate():
        rng = np.random.default_rng(len(split))
        for number in range(SPLITS[split]):
            length = int(rng.integers(1600, 3201))
            speech = rng.normal(size=length).astype(np.float32)
            yield {"speech": speech, "inputs": "say", "targets": "abcde"[number % 5]}

    signature = {
        "speech": tf.TensorSpec([None], tf.float32),
        "inputs": tf.TensorSpec([], tf.string),
        "targets": tf.TensorSpec([], tf.string),
    }
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


@seqio.map_over_dataset
def add_teacher(example):
    return example | {"teacher_inputs": tf.strings.join([example["targets"], example["inputs"]], " ")}


@pytest.fixture(scope="module", autouse=True)
def task():
    vocabulary = seqio.ByteVocabulary()
    speech = seqio.ContinuousFeature(vocabulary=seqio.PassThroughVocabulary(1), dtype=tf.float32, rank=1, add_eos=False)
    text = seqio.Feature(vocabulary=vocabulary)
    features = {"speech": speech, "inputs": text, "targets": text}
    taught = features | {"teacher_inputs": text}
    for name, before, output_features in ((TASK, [], features), (TAUGHT_TASK, [add_teacher], taught)):
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(examples, splits=list(SPLITS), num_input_examples=SPLITS),
            preprocessors=[*before, functools.partial(seqio.preprocessors.tokenize, with_eos=True)],
            output_features=output_features,
            metric_fns=[metrics.exact_match],
        )
    yield
    for name in (TASK, TAUGHT_TASK):
        seqio.TaskRegistry.remove(name)


@pytest.fixture(scope="module")
def model():
    lm = dict(vocab_size=384, width=8, ff_width=8, num_encoder_layers=1, num_decoder_layers=1, num_heads=2, head_dim=4)
    encoder = dict(num_layers=1, width=8, num_heads=2, subsampling_channels=(2, 2), front_end=LogMel(num_mels=4))
    adapter = dict(features=8, num_heads=2, head_dim=4, ff_width=8)
    return SpeechLanguageModel(speech_encoder=Conformer(**encoder), adapter=TransformerAdapter(**adapter), lm=T5(**lm))


@pytest.fixture(scope="module")
def frozen_folder(model, tmp_path_factory):
    """Foundation weights on disk, as a user has them."""
    folder = tmp_path_factory.mktemp("foundation")
    shapes = pipeline.batch_shapes(task_feature_lengths=LENGTHS, batch_size=1)
    objective = TeacherForcing(model=model)
    batch = jax.tree.map(lambda spec: jnp.zeros(spec.shape, spec.dtype), shapes)
    params = jax.jit(lambda key: nn.unbox(objective.init(key, batch)))(jax.random.key(7))
    for name in ("speech_encoder", "lm"):
        foundation.export_component(
            params[name],
            path=folder / f"{name}.safetensors",
            component=name,
            provenance=foundation.Provenance(licence="Apache-2.0"),
        )
    return folder


@pytest.fixture
def training(model, frozen_folder, tmp_path):
    data = dict(task_feature_lengths=LENGTHS, batch_size=8)
    return Training(
        model_dir=str(tmp_path / "run"),
        objective=TeacherForcing(model=model),
        optimizer=optimizers.adamw(learning_rate=0.05, clip_norm=1.0),
        train_batches=functools.partial(pipeline.train_batches, TASK, **data),
        batch_shapes=pipeline.batch_shapes(**data),
        train_steps=4,
        mesh=partitioning.make_mesh(devices=jax.devices()[:1]),
        sources={"speech_encoder": str(frozen_folder), "lm": str(frozen_folder)},
        identity={"vocabulary": "bytes"},
        log_period=1,
        checkpoint_period=2,
        listening_batches=functools.partial(pipeline.eval_batches, TASK, split="test", **data),
    )


def state_of(folder):
    return trees.flatten(bundle.load_bundle(folder).trainable)


def test_eight_devices_equal_one(training, tmp_path):
    """Data x fsdp x model against a single device: losses, listening and updated parameters.

    Adam divides by the size of a gradient, rounding errors of tiny ones included; so its eps is above those here.
    """
    meshes = {"one": training.mesh, "eight": partitioning.make_mesh(data=2, fsdp=2, model=2)}
    optimizer = optimizers.adamw(learning_rate=0.05, eps=1e-3, clip_norm=1.0)
    short = dataclasses.replace(training, train_steps=2, checkpoint_period=0, optimizer=optimizer)
    heard = {
        name: dataclasses.replace(short, model_dir=str(tmp_path / name), mesh=mesh).run().listening
        for name, mesh in meshes.items()
    }
    assert heard["eight"] == pytest.approx(heard["one"], rel=0, abs=1e-4)
    assert len(set(heard["one"].values())) == 3, "true, shuffled and no speech are not alike"
    for row, expected in zip(*(read_metrics(tmp_path / name, "train") for name in ("eight", "one")), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=0, abs=1e-4)
        assert row["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
    expected = state_of(tmp_path / "one")
    for path, leaf in state_of(tmp_path / "eight").items():
        np.testing.assert_allclose(leaf, expected[path], rtol=0, atol=1e-4, err_msg=path)


class Capture:
    """An evaluation that keeps the parameters it is given, by path."""

    def __init__(self):
        self.seen = []

    def predict(self, model):
        return jax.jit(lambda params: params)

    def run(self, predict, params, *, shard):
        self.seen.append({path: np.array(leaf) for path, leaf in trees.flatten(params).items()})
        return Evaluated({}, [])


def test_after_training_frozen_parameters_are_those_of_the_sources_bit_for_bit(training, tmp_path, frozen_folder):
    capture = Capture()
    dataclasses.replace(
        training,
        train_steps=3,
        optimizer=optimizers.adamw(learning_rate=0.05, weight_decay=0.1),
        listening_batches=None,
        evaluations={"capture": capture},
        evaluations_before=("capture",),
    ).run()
    before, after = capture.seen
    frozen = {}
    for name in ("speech_encoder", "lm"):
        loaded = foundation.load_component(frozen_folder, component=name, shapes=training.shapes[name])
        frozen |= trees.flatten({name: loaded.parameters})
    for path, leaf in frozen.items():
        assert (after[path].dtype, after[path].tobytes()) == (leaf.dtype, np.asarray(leaf).tobytes()), path
    trained = after.keys() - frozen.keys()
    assert trained == state_of(tmp_path / "run").keys(), "these, and no others, are saved"
    assert {path.split("/")[0] for path in trained} == {"adapter"}
    assert [path for path in trained if np.array_equal(before[path], after[path])] == []


def test_what_was_frozen_may_be_trained_from_an_initial_checkpoint_and_the_run_goes_on(training, tmp_path):
    first = dataclasses.replace(training, train_steps=1, listening_batches=None)
    first.run()
    further = dataclasses.replace(
        first,
        model_dir=str(tmp_path / "further"),
        trainable=("adapter/.*", "lm/.*"),
        initial_checkpoint=first.model_dir,
    )
    further.run()
    dataclasses.replace(further, train_steps=2).run()
    assert [row["step"] for row in read_metrics(tmp_path / "further", "train")] == [1, 2]
    other = dataclasses.replace(further, model_dir=str(tmp_path / "other"), identity={"vocabulary": "words"})
    with pytest.raises(bundle.IncompatibleBundleError, match="vocabulary: trained with"):
        other.run()


def test_what_a_run_leaves_behind(training, tmp_path, model):
    evaluation = DecodedEvaluation(task=TASK, split="test", task_feature_lengths=LENGTHS, method=Greedy(), batch_size=8)
    results = []
    training = dataclasses.replace(
        training, evaluations={"say": evaluation}, evaluations_before=("say",), train_steps=1, report=results.append
    )
    result = training.run(Configuration(text=lambda: "configuration"))
    assert set(result.listening) == {"loss_true_audio", "loss_shuffled_audio", "loss_no_audio"}
    folder = tmp_path / "run"
    heard = [row for row in read_metrics(folder, "eval") if "loss_true_audio" in row][-1]
    assert heard["nll"] == pytest.approx(result.listening["loss_true_audio"], rel=1e-6)
    assert 0 <= heard["accuracy"] <= 1
    assert results == [result]
    assert (folder / "config.gin").read_text() == "configuration"
    counts = json.loads((folder / "model-info.txt").read_text().splitlines()[-1])
    assert counts["trainable"] == result.counts["components"]["adapter"]["parameters"]
    assert list(folder.glob("events.out.tfevents*"))
    for name in ("say-0", "say-1"):
        rows = [json.loads(line) for line in (folder / "predictions" / f"{name}.jsonl").read_text().splitlines()]
        assert [row["target"] for row in rows] == list("abcde")
    manifest = bundle.load_bundle(folder).manifest
    assert set(manifest.fingerprints) == {"speech_encoder", "lm", "vocabulary", "front_end"}
    assert manifest.metrics.keys() == {"say/exact_match"}


def test_a_distilled_run_listens_by_teacher_forcing_where_nobody_teaches(training, tmp_path, model):
    data = dict(task_feature_lengths=LENGTHS | {"teacher_inputs": 12}, batch_size=8)
    distilled = dataclasses.replace(
        training,
        objective=Distillation(model=model),
        listening_objective=TeacherForcing(model=model),
        train_batches=functools.partial(pipeline.train_batches, TAUGHT_TASK, **data),
        batch_shapes=pipeline.batch_shapes(**data),
        train_steps=3,
    )
    result = distilled.run()
    rows = read_metrics(tmp_path / "run", "train")
    assert rows[-1]["loss"] < rows[0]["loss"] != rows[0]["nll"]
    assert rows[0]["teacher_nll"] > 0
    (heard,) = read_metrics(tmp_path / "run", "eval")
    assert heard["nll"] == pytest.approx(result.listening["loss_true_audio"], rel=1e-6)
    assert "teacher_nll" not in heard


def test_a_run_in_a_bucket_goes_on_elsewhere(training, tmp_path, monkeypatch):
    whole = training.run()
    assert whole.place == str(tmp_path / "run")
    monkeypatch.setattr(model_dir, "is_remote", lambda directory: "bucket" in str(directory))
    bucket = tmp_path / "bucket"
    part = dataclasses.replace(training, model_dir=str(bucket), train_steps=2)
    part.run()
    shutil.rmtree(bucket / "bundle")
    rest = dataclasses.replace(part, train_steps=4).run()
    assert rest.place == str(bucket)
    rows = [read_metrics(folder, "train") for folder in (bucket, tmp_path / "run")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    found, expected = state_of(bucket), state_of(tmp_path / "run")
    assert all((found[path] == leaf).all() for path, leaf in expected.items())
    assert {"checkpoints", "config.gin", "model-info.txt"} <= {path.name for path in bucket.iterdir()}
    assert list(bucket.glob("events*"))


def test_other_frozen_weights_are_refused_by_name(training, tmp_path, frozen_folder, model):
    training = dataclasses.replace(training, train_steps=1, listening_batches=None)
    training.run()
    other = dataclasses.replace(training, identity={"vocabulary": "words"})
    with pytest.raises(bundle.IncompatibleBundleError, match="vocabulary: trained with"):
        other.run()


def test_frozen_parameters_without_a_source_are_an_error(training):
    with pytest.raises(ValueError, match="frozen parameters would be random.*lm/"):
        dataclasses.replace(training, sources={"speech_encoder": training.sources["speech_encoder"]}).run()


def test_a_pattern_that_matches_nothing_is_an_error(training):
    with pytest.raises(ValueError, match="adaptor"):
        dataclasses.replace(training, trainable=("adaptor/.*",)).describe()


def test_describe_ends_with_json(training):
    counts = json.loads(training.describe().splitlines()[-1])
    assert counts["trainable"] > 0
    assert counts["frozen"] == sum(counts["components"][name]["parameters"] for name in ("speech_encoder", "lm"))
