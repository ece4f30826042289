"""Runs whose MODEL_DIR is a bucket; a local folder stands for it."""

import pytest

from slm_jax.training import model_dir
from slm_jax.training.model_dir import ModelDir


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(model_dir, "is_remote", lambda directory: "bucket" in str(directory))
    return tmp_path / "bucket" / "run"


def test_a_folder_of_this_machine_is_written_to_directly(tmp_path):
    place = ModelDir.open(tmp_path / "run")
    place.write("predictions/a.jsonl", "{}\n")
    assert place.local == tmp_path / "run"
    assert (tmp_path / "run" / "predictions" / "a.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("directory, remote", [("gs://bucket/run", True), ("runs/a", False), ("~/runs", False)])
def test_buckets_are_told_by_their_scheme(directory, remote):
    assert model_dir.is_remote(directory) == remote


def test_what_is_new_is_copied_and_nothing_else(bucket):
    place = ModelDir.open(bucket)
    place.write("config.gin", "a = 1\n")
    place.write("bundle/manifest.json", "{}\n")
    (bucket / "config.gin").write_text("left alone\n")
    place.write("model-info.txt", "1\n")
    assert (bucket / "config.gin").read_text() == "left alone\n"
    (place.local / "config.gin").write_text("a = 22\n")
    place.push()
    found = {path.relative_to(bucket).as_posix(): path.read_text() for path in bucket.rglob("*") if path.is_file()}
    assert found == {"config.gin": "a = 22\n", "bundle/manifest.json": "{}\n", "model-info.txt": "1\n"}


def test_a_new_machine_begins_with_what_the_bucket_has_besides_checkpoints(bucket):
    ModelDir.open(bucket).write("metrics.jsonl", '{"step": 1}\n')
    (bucket / "checkpoints" / "1").mkdir(parents=True)
    (bucket / "checkpoints" / "1" / "array").write_text("large")
    (bucket / "events.out.tfevents.1").write_text("written by TensorFlow")
    place = ModelDir.open(bucket)
    assert [path.name for path in place.local.rglob("*")] == ["metrics.jsonl"]


def test_only_the_process_that_writes_does(bucket):
    ModelDir.open(bucket).write("metrics.jsonl", "1\n")
    other = ModelDir.open(bucket, writes=False)
    other.write("config.gin", "a = 1\n")
    (other.local / "scratch").write_text("1\n")
    other.push()
    assert [path.name for path in bucket.iterdir()] == ["metrics.jsonl"]
