"""Components from folders: complete, of the right shapes, and the very files that the manifest describes."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.weights import foundation, safetensors_io
from slm_jax.weights.foundation import Provenance
from slm_jax.weights.safetensors_io import WeightFileError

PROVENANCE = Provenance(
    licence="Apache-2.0", gin_file="runs/lm.gin", command="python -m slm_jax.train", metrics={"wer": 4.5}
)


@pytest.fixture
def params() -> dict:
    rng = np.random.default_rng(2)
    kernel, scale = (rng.normal(size=shape).astype(ml_dtypes.bfloat16).astype(np.float32) for shape in ((3, 5), (5,)))
    return {"layers": {"kernel": kernel, "scale": scale}}


@pytest.fixture
def folder(params, tmp_path):
    foundation.export_component(params, path=tmp_path / "lm.safetensors", component="lm", provenance=PROVENANCE)
    return tmp_path


@pytest.mark.parametrize("source", ["folder", "file", "shipped"])
def test_every_kind_of_source_gives_the_same_parameters(source, params, folder, monkeypatch):
    monkeypatch.setattr(foundation, "SHIPPED_FOLDER", folder)
    where = {"folder": folder, "file": folder / "lm.safetensors", "shipped": "shipped"}[source]
    loaded = foundation.load_component(where, component="lm", shapes=foundation.abstract(params))
    assert loaded.path == folder / "lm.safetensors"
    jax.tree.map(np.testing.assert_array_equal, loaded.parameters, params)


def test_stacks_are_loaded_scanned_or_unrolled_as_the_model_has_them(tmp_path):
    stacked = {"layers": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}, "norm": np.ones(2, np.float32)}
    unrolled = trees.unstack_layers(stacked)
    assert sorted(trees.flatten(unrolled)) == ["layers_0/kernel", "layers_1/kernel", "layers_2/kernel", "norm"]
    for stored in (stacked, unrolled):
        foundation.export_component(stored, path=tmp_path / "lm.safetensors", component="lm", provenance=PROVENANCE)
        for wanted in (stacked, unrolled):
            loaded = foundation.load_component(tmp_path, component="lm", shapes=foundation.abstract(wanted))
            jax.tree.map(np.testing.assert_array_equal, loaded.parameters, wanted)
    with pytest.raises(WeightFileError, match="missing .*layers_3/kernel"):
        four = unrolled | {"layers_3": unrolled["layers_0"]}
        foundation.load_component(tmp_path, component="lm", shapes=foundation.abstract(four))


def test_another_vocabulary_is_refused(params, tmp_path):
    provenance = dataclasses.replace(PROVENANCE, vocabulary="sha256:" + "1" * 64)
    foundation.export_component(params, path=tmp_path / "lm.safetensors", component="lm", provenance=provenance)
    foundation.export_component(params, path=tmp_path / "old.safetensors", component="old", provenance=PROVENANCE)
    other = "sha256:" + "2" * 64
    foundation.check_vocabulary(tmp_path, component="lm", vocabulary=provenance.vocabulary)
    foundation.check_vocabulary(tmp_path, component="old", vocabulary=other)  # nobody knows
    foundation.check_vocabulary(tmp_path / "lm.safetensors", component="lm", vocabulary=other)
    with pytest.raises(ValueError, match="lm of .* was trained with the vocabulary sha256:1.* the task's is sha256:2"):
        foundation.check_vocabulary(tmp_path, component="lm", vocabulary=other)


def test_parameters_come_in_the_dtypes_asked_for_under_one_fingerprint(params, folder):
    wide = foundation.load_component(folder, component="lm", shapes=foundation.abstract(params, np.float32))
    narrow = foundation.load_component(folder, component="lm", shapes=foundation.abstract(params, ml_dtypes.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(wide.parameters)} == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow.parameters)} == {np.dtype(ml_dtypes.bfloat16)}
    assert wide.fingerprint == narrow.fingerprint


def test_the_file_is_bfloat16_and_the_manifest_says_how_it_was_made(folder):
    layout = safetensors_io.read_layout(folder / "lm.safetensors")
    assert {leaf.dtype for leaf in layout.values()} == {np.dtype(ml_dtypes.bfloat16)}
    entry = foundation.read_manifest(folder)["components"]["lm"]
    assert entry["parameters"] == 20 and entry["file"] == "lm.safetensors"
    assert entry["licence"] == "Apache-2.0" and entry["metrics"] == {"wer": 4.5}
    assert entry["gin_file"] == "runs/lm.gin" and entry["command"] == "python -m slm_jax.train"


def test_a_second_component_keeps_the_first_in_the_manifest(params, folder):
    foundation.export_component(
        params, path=folder / "speech_encoder.safetensors", component="speech_encoder", provenance=PROVENANCE
    )
    assert sorted(foundation.read_manifest(folder)["components"]) == ["lm", "speech_encoder"]


def test_missing_unexpected_and_misshapen_tensors_are_all_listed(params, folder):
    shapes = {
        "layers": {"kernel": jax.ShapeDtypeStruct((5, 3), np.float32), "new": jax.ShapeDtypeStruct((1,), np.float32)}
    }
    with pytest.raises(WeightFileError) as error:
        foundation.load_component(folder, component="lm", shapes=shapes)
    for part in (
        "missing (1): layers/new",
        "unexpected (1): layers/scale",
        "layers/kernel is (3, 5), needs (5, 3)",
        "'lm'",
    ):
        assert part in str(error.value)


def test_optional_tensors_may_be_missing_and_no_others(params, folder):
    shapes = trees.flatten(foundation.abstract(params)) | {"lora/a": jax.ShapeDtypeStruct((2,), np.float32)}
    loaded = foundation.load_component(folder, component="lm", shapes=trees.unflatten(shapes), optional={"lora/a"})
    assert trees.flatten(loaded.parameters).keys() == {"layers/kernel", "layers/scale"}
    with pytest.raises(WeightFileError, match=r"missing \(1\): lora/a"):
        foundation.load_component(folder, component="lm", shapes=trees.unflatten(shapes), optional={"layers/scale"})


def test_a_changed_file_is_refused_by_the_manifest_and_by_its_own_header(params, folder):
    path = folder / "lm.safetensors"
    stored, metadata = safetensors_io.load_tensors(path), safetensors_io.read_metadata(path)
    stored["layers/scale"] = stored["layers/scale"] + stored["layers/scale"]
    safetensors_io.save_tensors(stored, path=path)
    with pytest.raises(WeightFileError, match=r"lm.safetensors are not what they are said to be: expected sha256:"):
        foundation.load_component(folder, component="lm", shapes=foundation.abstract(params))
    alone = folder / "alone.safetensors"
    safetensors_io.save_tensors(stored, path=alone, metadata=metadata)
    with pytest.raises(WeightFileError, match=r"alone.safetensors are not what"):
        foundation.load_component(alone, component="lm", shapes=foundation.abstract(params))


def test_a_file_of_another_program_without_fingerprint_is_accepted(params, tmp_path):
    path = tmp_path / "own.safetensors"
    safetensors_io.save_tensors(trees.flatten(params), path=path)
    loaded = foundation.load_component(path, component="lm", shapes=foundation.abstract(params))
    jax.tree.map(np.testing.assert_array_equal, loaded.parameters, params)


def test_what_is_not_there_is_named(params, folder):
    shapes = foundation.abstract(params)
    with pytest.raises(FileNotFoundError, match="no weights for 'lm' at .*nowhere.safetensors"):
        foundation.load_component(folder / "nowhere.safetensors", component="lm", shapes=shapes)
    with pytest.raises(FileNotFoundError, match="no manifest.json in .*nowhere"):
        foundation.load_component(folder / "nowhere", component="lm", shapes=shapes)
    with pytest.raises(WeightFileError, match="has no 'speech_encoder'; its components are: lm"):
        foundation.load_component(folder, component="speech_encoder", shapes=shapes)
    (folder / "lm.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="names 'lm.safetensors' for 'lm', but the file is not there"):
        foundation.load_component(folder, component="lm", shapes=shapes)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not a manifest"),
        ("[]", "not a manifest"),
        ("{}", "not a manifest"),
        ('{"format_version": 9}', "format 9"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(text, message, folder):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(WeightFileError, match=message):
        foundation.component_path(folder, "lm")


def test_a_manifest_cannot_point_out_of_its_folder(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["components"]["lm"]["file"] = "../lm.safetensors"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightFileError, match="not a file of that folder"):
        foundation.component_path(folder, "lm")


def test_shipped_files_are_checked(folder, monkeypatch):
    monkeypatch.setattr(foundation, "SHIPPED_FOLDER", folder)
    (folder / "scenes.model").write_bytes(b"pieces")
    foundation.record_file(folder / "scenes.model", provenance=PROVENANCE)
    assert foundation.shipped_file("scenes.model") == folder / "scenes.model"
    (folder / "scenes.model").write_bytes(b"other pieces")
    with pytest.raises(WeightFileError, match="scenes.model are not what"):
        foundation.shipped_file("scenes.model")
    with pytest.raises(WeightFileError, match="has no 'other.model'; its files are: scenes.model"):
        foundation.shipped_file("other.model")


def test_weights_are_written_to_safetensors_files_only(params, tmp_path):
    with pytest.raises(ValueError, match="lm.bin"):
        foundation.export_component(params, path=tmp_path / "lm.bin", component="lm", provenance=PROVENANCE)
