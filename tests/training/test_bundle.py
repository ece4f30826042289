"""Bundles: whole or not there, bit-exact, and refused on other frozen parts."""

import dataclasses
import json
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest

from slm_jax.training import bundle as bundles
from slm_jax.training.bundle import Bundle, BundleError, BundleManifest, IncompatibleBundleError
from slm_jax.weights.safetensors_io import WeightFileError

FINGERPRINTS = {name: f"sha256:{number:064d}" for number, name in enumerate(bundles.ADVICE)}
MANIFEST = BundleManifest(
    fingerprints=FINGERPRINTS,
    trainable_patterns=("adapter/.*",),
    step=1200,
    prompt_templates={"asr": "Write what is said: "},
    metrics={"wer": 4.25},
)


@pytest.fixture
def bundle() -> Bundle:
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(3, 4)).astype(np.float32)
    scale = rng.normal(size=(4,)).astype(ml_dtypes.bfloat16)
    return Bundle({"adapter": {"kernel": kernel, "scale": scale}}, MANIFEST, config="TRAIN_STEPS = 1200\n")


def assert_same_parameters(a: dict, b: dict) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


def test_round_trip_is_bit_exact(bundle, tmp_path):
    bundles.save_bundle(bundle, directory=tmp_path / "bundle")
    loaded = bundles.load_bundle(tmp_path / "bundle")
    assert_same_parameters(loaded.trainable, bundle.trainable)
    assert dataclasses.replace(loaded.manifest, parameters_fingerprint="") == MANIFEST
    assert loaded.config == "TRAIN_STEPS = 1200\n"


def test_a_bundle_is_found_in_its_model_dir(bundle, tmp_path):
    bundles.save_bundle(bundle, directory=tmp_path / "bundle")
    assert bundles.load_bundle(tmp_path).manifest.step == 1200


def test_a_bundle_is_three_files(bundle, tmp_path):
    bundles.save_bundle(bundle, directory=tmp_path / "bundle")
    names = sorted(path.name for path in (tmp_path / "bundle").iterdir())
    assert names == ["config.gin", "manifest.json", "trainable.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_new_bundle_replaces_the_old_one(bundle, tmp_path):
    for step in (1, 2):
        newer = dataclasses.replace(bundle, manifest=dataclasses.replace(MANIFEST, step=step))
        bundles.save_bundle(newer, directory=tmp_path / "bundle")
    assert bundles.load_bundle(tmp_path).manifest.step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


class Died(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("survived_renames", [0, 1])
def test_a_crash_between_writing_and_renaming_leaves_the_old_bundle(survived_renames, bundle, tmp_path, monkeypatch):
    bundles.save_bundle(bundle, directory=tmp_path / "bundle")
    rename, count = pathlib.Path.rename, []

    def dying(self, target):
        if len(count) == survived_renames:
            raise Died
        count.append(target)
        return rename(self, target)

    newer = dataclasses.replace(bundle, manifest=dataclasses.replace(MANIFEST, step=9999))
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "rename", dying)
        with pytest.raises(Died):
            bundles.save_bundle(newer, directory=tmp_path / "bundle")
    assert bundles.load_bundle(tmp_path).manifest.step == 1200
    assert bundles.load_bundle(tmp_path / "bundle").manifest.step == 1200
    bundles.save_bundle(newer, directory=tmp_path / "bundle")
    assert bundles.load_bundle(tmp_path).manifest.step == 9999
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_full_disk_leaves_the_old_bundle(bundle, tmp_path, monkeypatch):
    bundles.save_bundle(bundle, directory=tmp_path / "bundle")

    def no_space(*unused, **unused_too):
        raise OSError("No space left on device")

    monkeypatch.setattr(bundles.safetensors_io, "save_tensors", no_space)
    with pytest.raises(OSError, match="No space left"):
        bundles.save_bundle(bundle, directory=tmp_path / "bundle")
    assert bundles.load_bundle(tmp_path).manifest.step == 1200
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_of_other_things_is_never_replaced(bundle, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="notes.txt.*so it is not replaced by a bundle"):
        bundles.save_bundle(bundle, directory=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["manifest.json", "trainable.safetensors"])
def test_a_missing_part_is_named_and_half_a_bundle_may_be_replaced(name, bundle, tmp_path):
    bundles.save_bundle(bundle, directory=tmp_path / "bundle")
    (tmp_path / "bundle" / name).unlink()
    with pytest.raises(BundleError, match=f"bundle has .* but no {name}: copy the whole folder again"):
        bundles.load_bundle(tmp_path)
    bundles.save_bundle(bundle, directory=tmp_path / "bundle")
    assert bundles.load_bundle(tmp_path).manifest.step == bundle.manifest.step


def test_cloud_paths_are_refused(bundle):
    with pytest.raises(ValueError, match="gs://bucket/bundle"):
        bundles.save_bundle(bundle, directory="gs://bucket/bundle")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no bundle .*{tmp_path.name}"):
        bundles.load_bundle(tmp_path)


def change_manifest(folder: pathlib.Path, change) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(format_version=2), "format 2; this version of slm_jax reads 1"),
        (lambda m: m.pop("fingerprints"), r"lacks \['fingerprints'\]"),
        (lambda m: m.update(licence="MIT"), r"not known: \['licence'\]"),
        (lambda m: m.update(trainable_patterns="adapter/.*"), "wrong type: trainable_patterns"),
        (lambda m: m.update(step="9", metrics=[]), "wrong type: step, metrics"),
    ],
)
def test_a_manifest_of_another_form_is_refused(change, message, bundle, tmp_path):
    bundles.save_bundle(bundle, directory=tmp_path / "bundle")
    change_manifest(tmp_path / "bundle", change)
    with pytest.raises(BundleError, match=message):
        bundles.load_bundle(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 1, '])
def test_a_damaged_manifest_is_refused(text, bundle, tmp_path):
    bundles.save_bundle(bundle, directory=tmp_path / "bundle")
    (tmp_path / "bundle" / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="manifest.json cannot be read"):
        bundles.load_bundle(tmp_path)


def test_a_single_changed_bit_of_the_parameters_is_noticed(bundle, tmp_path):
    bundles.save_bundle(bundle, directory=tmp_path / "bundle")
    path = tmp_path / "bundle" / "trainable.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"trainable.safetensors is not the file that manifest.json describes"):
        bundles.load_bundle(tmp_path)


def test_parameters_that_are_not_of_a_stored_type_are_refused(bundle, tmp_path):
    odd = dataclasses.replace(bundle, trainable={"adapter": {"count": np.ones(2, np.int32)}})
    with pytest.raises(WeightFileError, match=r"adapter/count \(int32\)"):
        bundles.save_bundle(odd, directory=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_the_same_frozen_parts_are_accepted():
    bundles.check_compatible(MANIFEST, dict(FINGERPRINTS))


@pytest.mark.parametrize("part", bundles.ADVICE)
def test_another_frozen_part_is_named_with_both_fingerprints_and_what_to_do(part):
    current = FINGERPRINTS | {part: "sha256:" + "f" * 64}
    with pytest.raises(IncompatibleBundleError) as error:
        bundles.check_compatible(MANIFEST, current)
    lines = str(error.value).splitlines()[1:]
    expected, actual = (values[part][:19] for values in (FINGERPRINTS, current))
    assert lines == [f"  {part}: trained with {expected}, loaded {actual}: {bundles.ADVICE[part]}"]


def test_a_part_on_one_side_only_is_a_difference():
    without = {name: value for name, value in FINGERPRINTS.items() if name != "lm"}
    with pytest.raises(IncompatibleBundleError, match="lm: trained with sha256:0+, loaded nothing of this name"):
        bundles.check_compatible(MANIFEST, without)
    with pytest.raises(IncompatibleBundleError, match="speaker: trained with nothing of this name, loaded sha256:1"):
        bundles.check_compatible(MANIFEST, FINGERPRINTS | {"speaker": "sha256:1"})


def test_a_manifest_survives_json():
    assert BundleManifest.from_json(json.loads(json.dumps(MANIFEST.to_json()))) == MANIFEST
