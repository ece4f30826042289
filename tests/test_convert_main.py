"""The command line of convert: a trained component becomes a frozen one that loads again."""

import dataclasses
import json
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from slm_jax import trees
from slm_jax.data.tokenizers import TokenizerVocabulary
from slm_jax.training import bundle
from slm_jax.weights import foundation, safetensors_io
from slm_jax.weights.huggingface import components

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"


@pytest.fixture
def convert(run_main, tmp_path, capsys):
    """Runs convert from a source to the folder `out`, and gives what it prints."""

    def run(component, *, source, others=()):
        out = f"--out={tmp_path / 'new' / 'out'}"
        sources = [f"--source={each}" for each in (*others, source)]
        run_main("convert", *sources, f"--component={component}", out, "--licence=Apache-2.0")
        return capsys.readouterr().out

    run.out = tmp_path / "new" / "out"
    return run


def save(folder, trainable, **fields):
    """A bundle, and the folder it is in."""
    manifest = bundle.BundleManifest(**{"fingerprints": {}, "trainable_patterns": ("lm/.*",), "step": 7} | fields)
    bundle.save_bundle(bundle.Bundle(trainable, manifest), directory=folder)
    return folder


def assert_rounded(loaded, trained):
    """Every parameter is the trained one in bfloat16."""
    expected = trees.flatten(trained)
    found = trees.flatten(loaded)
    assert found.keys() == expected.keys()
    for path, value in found.items():
        rounded = np.asarray(expected[path]).astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(value, rounded, err_msg=path)


def layout(component):
    """The shapes of a shipped component."""
    return trees.unflatten(safetensors_io.read_layout(foundation.component_path(foundation.SHIPPED, component)))


@pytest.fixture(scope="module")
def trained_lm(tiny_model):
    """A language model as a run trains it, in more digits than bfloat16 has."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) * np.float32(1.001), tiny_model.params["lm"])


def test_a_component_of_a_run_loads_again(convert, tiny_training):
    printed = convert("adapter", source=tiny_training.model_dir)
    trained = bundle.load_bundle(tiny_training.model_dir).trainable["adapter"]
    shapes = tiny_training.shapes["adapter"]
    loaded = foundation.load_component(convert.out, component="adapter", shapes=shapes)
    assert_rounded(loaded.parameters, trained)
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert printed == f"{convert.out / 'adapter.safetensors'}: {count:,} parameters, {loaded.fingerprint}\n"


def test_of_several_runs_the_mean_is_written(convert, tiny_training, trained_lm, tmp_path):
    other = jax.tree.map(lambda leaf: leaf + 1, trained_lm)
    first, second = (save(tmp_path / n, {"lm": lm}, step=s) for n, lm, s in (("a", other, 3), ("b", trained_lm, 9)))
    convert("lm", source=second, others=[first])
    loaded = foundation.load_component(convert.out, component="lm", shapes=tiny_training.shapes["lm"])
    assert_rounded(loaded.parameters, jax.tree.map(lambda leaf: leaf + np.float32(0.5), trained_lm))
    assert foundation.read_manifest(convert.out)["components"]["lm"]["metrics"] == {}, "nobody has measured it"
    third = save(tmp_path / "c", {"lm": {"embedding": np.ones((2, 2), "f")}})
    with pytest.raises(ValueError, match="different names or shapes"):
        convert("lm", source=third, others=[first])


def test_what_a_run_began_with_may_be_in_the_mean(convert, tiny_training, trained_lm, tmp_path):
    """The folder's layers are stacked, a run's may be unrolled; the run, which is the last, is named."""
    convert("lm", source=save(tmp_path / "a", {"lm": trained_lm}))
    began = convert.out.rename(tmp_path / "began")
    unrolled = trees.unstack_layers(jax.tree.map(lambda leaf: leaf + np.float32(1), trained_lm))
    convert("lm", source=save(tmp_path / "b", {"lm": unrolled}, gin_files=("b.gin",)), others=[began])
    loaded = foundation.load_component(convert.out, component="lm", shapes=tiny_training.shapes["lm"])
    first = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16).astype("f"), trained_lm)
    assert_rounded(loaded.parameters, jax.tree.map(lambda a, b: (a + b + np.float32(1)) / 2, first, trained_lm))
    entry = foundation.read_manifest(convert.out)["components"]["lm"]
    assert (entry["gin_file"], entry["metrics"]) == ("b.gin", {})
    found = foundation.load_component(foundation.SHIPPED, component="lm", shapes=layout("lm"))
    convert("lm", source=foundation.SHIPPED)
    again = foundation.load_component(convert.out, component="lm", shapes=layout("lm"))
    assert again.fingerprint == found.fingerprint
    entries = (foundation.read_manifest(folder) for folder in (foundation.SHIPPED_FOLDER, convert.out))
    assert len({json.dumps(entry["components"]["lm"]) for entry in entries}) == 1


def test_without_a_component_the_mean_of_bundles_is_written(run_main, tiny_training, tmp_path, capsys):
    trained = bundle.load_bundle(tiny_training.model_dir)
    shifted = jax.tree.map(lambda leaf: leaf + np.float32(1), trained.trainable)
    bundle.save_bundle(dataclasses.replace(trained, trainable=shifted), directory=tmp_path / "shifted")
    sources = [f"--source={each}" for each in (tmp_path / "shifted", tiny_training.model_dir)]
    run_main("convert", *sources, f"--out={tmp_path / 'mean'}")
    count = sum(leaf.size for leaf in jax.tree.leaves(trained.trainable))
    assert capsys.readouterr().out == f"{tmp_path / 'mean' / 'bundle'}: the mean of 2, {count:,} parameters\n"
    found = bundle.load_bundle(tmp_path / "mean")
    expected = jax.tree.map(lambda leaf: leaf + np.float32(0.5), trained.trainable)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6), found.trainable, expected)
    assert found.manifest.metrics == {} and found.manifest.gin_files == trained.manifest.gin_files
    assert found.config == trained.config


def test_bundles_of_other_frozen_parts_have_no_mean(run_main, tmp_path):
    adapter = {"adapter": {"scale": np.ones(1, "f")}}
    sources = [save(tmp_path / name, adapter, fingerprints={"lm": f"sha256:{name}"}) for name in "ab"]
    with pytest.raises(ValueError, match=r"/a and .*/b have no mean(.|\n)*lm: trained with"):
        run_main("convert", *(f"--source={each}" for each in sources), f"--out={tmp_path / 'mean'}")
    assert not (tmp_path / "mean").exists()


def test_a_component_needs_a_licence(run_main, tiny_training, tmp_path):
    with pytest.raises(ValueError, match="--licence is missing"):
        run_main("convert", f"--source={tiny_training.model_dir}", "--component=adapter", f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_layers_are_stacked_and_the_manifest_says_where_they_are_from(convert, tiny_training, trained_lm, tmp_path):
    unrolled = trees.unstack_layers(trained_lm)
    assert trees.flatten(unrolled).keys() != trees.flatten(trained_lm).keys()
    facts = dict(gin_files=("experiments/a.gin", "b.gin"), metrics={"bleu": 30.5}, fingerprints={"vocabulary": "bytes"})
    convert("lm", source=save(tmp_path / "bundle", {"lm": unrolled}, **facts))
    assert safetensors_io.read_layout(convert.out / "lm.safetensors").keys() == trees.flatten(trained_lm).keys()
    loaded = foundation.load_component(convert.out, component="lm", shapes=tiny_training.shapes["lm"])
    assert_rounded(loaded.parameters, trained_lm)
    entry = foundation.read_manifest(convert.out)["components"]["lm"]
    assert entry["licence"] == "Apache-2.0"
    assert entry["gin_file"] == "experiments/a.gin, b.gin"
    assert entry["command"] == "python -m slm_jax.train --gin_file=experiments/a.gin --gin_file=b.gin"
    assert entry["vocabulary"] == "bytes"
    assert entry["metrics"] == {"step": 7.0, "bleu": 30.5}


def test_components_share_a_folder(convert, tiny_training, trained_lm, tmp_path):
    convert("adapter", source=tiny_training.model_dir)
    convert("lm", source=save(tmp_path / "bundle", {"lm": trained_lm}))
    for name in ("adapter", "lm"):
        loaded = foundation.load_component(convert.out, component=name, shapes=tiny_training.shapes[name])
        assert loaded.path == convert.out / f"{name}.safetensors"
    assert set(foundation.read_manifest(convert.out)["components"]) == {"adapter", "lm"}


def test_a_component_that_was_not_trained_is_refused(convert, tiny_training):
    with pytest.raises(ValueError, match=r"run has trained \['adapter'\], not 'lm'"):
        convert("lm", source=tiny_training.model_dir)
    assert not convert.out.exists()


def test_a_part_of_a_component_is_refused(convert, trained_lm, tmp_path):
    """The bundle holds what was trained; the frozen rest is known by its fingerprint only."""
    part, _ = trees.partition({"lm": trained_lm}, ("lm/decoder/.*",))
    frozen = dict(fingerprints={"lm": "sha256:0"}, trainable_patterns=("lm/decoder/.*",))
    with pytest.raises(ValueError, match=r"trained a part of 'lm' \(lm/decoder/\.\*\).*trained the whole"):
        convert("lm", source=save(tmp_path / "bundle", part, **frozen))
    assert not convert.out.exists()


def test_a_source_without_a_bundle_is_named(convert, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no bundle \(.*\) in .*nowhere"):
        convert("lm", source=tmp_path / "nowhere")


@pytest.fixture
def foreign(tmp_path, write_tokenizer):
    """A tiny Qwen 3 as a Hugging Face folder."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    write_tokenizer(folder)
    with np.load(GOLDEN / "hf_qwen3.npz", allow_pickle=False) as golden:
        weights = {name.removeprefix("weights/"): golden[name] for name in golden if name.startswith("weights/")}
        (folder / "config.json").write_text(str(golden["config"]))
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    return folder


def test_a_component_of_a_hugging_face_folder_is_described_and_loads_again(convert, foreign):
    printed = convert("lm", source=foreign)
    model = components.language_model(convert.out)
    assert model == components.language_model(foreign)
    shapes = components.parameter_shapes(model)
    converted = foundation.load_component(convert.out, component="lm", shapes=shapes)
    original = foundation.load_component(components.Checkpoint(str(foreign)), component="lm", shapes=shapes)
    assert_rounded(converted.parameters, original.parameters)
    assert converted.fingerprint == original.fingerprint
    assert printed.rstrip().endswith(converted.fingerprint)
    assert TokenizerVocabulary(str(convert.out)) == TokenizerVocabulary(str(foreign))


def test_a_hugging_face_folder_has_no_adapter_and_no_other_model(convert, foreign):
    with pytest.raises(ValueError, match="may hold the components lm and speech_encoder, not 'adapter'"):
        convert("adapter", source=foreign)
    with pytest.raises(ValueError, match="model_type is 'qwen3'; slm_jax knows speech encoders"):
        convert("speech_encoder", source=foreign)
