"""A task out of files on disk, from sound files to batches."""

import pathlib

import gin
import numpy as np
import pytest
import seqio
import soundfile
import tensorflow as tf

from slm_jax.data.manifest import BadRows
from slm_jax.data.pipeline import eval_batches, eval_texts, train_batches
from slm_jax.data.prompts import TRANSLATE, PromptTemplate
from slm_jax.data.vocabularies import byte_vocabulary
from slm_jax.resources import gin_folder
from slm_jax.tasks import manifest

LENGTHS = {"speech": 16000, "inputs": 64, "targets": 32}
VOCABULARY = byte_vocabulary()


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Three recordings of 0.1, 0.2 and 0.3 s in three formats, rates and numbers of channels, and a manifest."""
    for index, (name, rate, channels) in enumerate([("a.wav", 8000, 1), ("b.flac", 44100, 2), ("c.ogg", 16000, 1)]):
        samples = 0.1 * np.random.default_rng(index).standard_normal((rate // 10 * (index + 1), channels))
        soundfile.write(tmp_path / name, samples, rate)
    rows = ["audio\ttext\tprompt", "a.wav\tone\t", "b.flac\tzwei äpfel\t", "c.ogg\tthree\tcount this"]
    (tmp_path / "m.tsv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


@pytest.fixture(autouse=True)
def forget_tasks():
    yield
    for name in [name for name in seqio.TaskRegistry.names() if name.startswith("manifest")]:
        seqio.TaskRegistry.remove(name)
        manifest.register_once.settings.pop(name, None)


def register(folder: pathlib.Path, **options) -> str:
    return manifest.register_manifest_task(path=str(folder / "m.tsv"), vocabulary=VOCABULARY, **options)


def test_from_files_to_batches(folder: pathlib.Path) -> None:
    name = register(folder)
    (batch,) = eval_batches(name, task_feature_lengths=LENGTHS, batch_size=3, split="train")
    np.testing.assert_allclose(batch["speech_length"], [1600, 3200, 4800], atol=2)
    texts = list(eval_texts(name, task_feature_lengths=LENGTHS, split="train"))
    assert [text["targets"] for text in texts] == ["one", "zwei äpfel", "three"]
    assert texts[2]["inputs"] == "count this"
    targets = [VOCABULARY.decode([int(i) for i in row if i > 1]) for row in batch["decoder_target_tokens"]]
    assert targets == ["one", "zwei äpfel", "three"]


def test_a_folder_has_a_manifest_a_split(folder: pathlib.Path) -> None:
    text = (folder / "m.tsv").read_text(encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"neither train\.tsv nor train\.jsonl"):
        manifest.register_manifest_task(path=str(folder), vocabulary=VOCABULARY)
    (folder / "train.tsv").write_text(text, encoding="utf-8")
    (folder / "test.jsonl").write_text('{"audio": "c.ogg", "text": "three"}\n')
    name = manifest.register_manifest_task(path=str(folder), vocabulary=VOCABULARY)
    assert set(seqio.TaskRegistry.get(name).splits) == {"train", "test"}
    assert [len(list(eval_texts(name, task_feature_lengths=LENGTHS, split=split))) for split in ("train", "test")] == [
        3,
        1,
    ]


def test_training_is_shuffled_by_the_seed(folder: pathlib.Path) -> None:
    name = register(folder)

    def order(seed: int) -> list[int]:
        batches = train_batches(name, task_feature_lengths=LENGTHS, batch_size=1, seed=seed)
        return [int(next(batches)["speech_length"][0]) for _ in range(24)]

    first = order(1)
    assert first == order(1) and first != order(2)


def test_splits_are_separate_files(folder: pathlib.Path) -> None:
    (folder / "test.jsonl").write_text('{"audio": "c.ogg", "text": "last"}')
    name = register(folder, test_path=str(folder / "test.jsonl"))
    assert seqio.TaskRegistry.get(name).splits == ("train", "test")
    texts = list(eval_texts(name, task_feature_lengths=LENGTHS, split="test"))
    assert texts == [{"inputs": "Transcribe the speech.", "targets": "last"}]


def test_the_template_takes_fields_from_the_row(folder: pathlib.Path) -> None:
    (folder / "m.tsv").write_text("audio\ttext\tlanguage\ttarget\na.wav\tone\tGerman\teins\n")
    name = register(folder, template=TRANSLATE)
    texts = list(eval_texts(name, task_feature_lengths=LENGTHS, split="train"))
    assert texts[0]["targets"] == "eins" and "German" in texts[0]["inputs"]
    metrics = {fn.__name__ for fn in seqio.TaskRegistry.get(name).metric_fns}
    assert metrics == {"bleu", "chrf"}
    with pytest.raises(ValueError, match=r"no columns for the fields \['question'\]"):
        register(folder, name="manifest_2", template=PromptTemplate(kind="k", trained=("{question}",)))


def test_bad_audio_is_an_error_that_names_the_line(folder: pathlib.Path) -> None:
    (folder / "b.flac").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="m.tsv:3: Cannot decode .*b.flac"):
        list(eval_batches(register(folder), task_feature_lengths=LENGTHS, batch_size=3, split="train"))


def test_bad_rows_are_left_out_and_reported_if_asked(folder: pathlib.Path) -> None:
    (folder / "b.flac").write_bytes(b"nonsense")
    with (folder / "m.tsv").open("a") as file:
        file.write("\nmissing.wav\tno\t\n")
    name = register(folder, bad_rows="skip_and_report", wording="first")
    texts = list(eval_texts(name, task_feature_lengths=LENGTHS, split="train"))
    assert [text["targets"] for text in texts] == ["one", "three"]
    report = manifest.bad_rows_of(name)
    assert sorted(source.rpartition(":")[2] for source in report) == ["3", "5"]
    assert "Cannot decode" in report[f"{folder}/m.tsv:3"]


def test_registering_twice(folder: pathlib.Path) -> None:
    assert register(folder) == register(folder) == "manifest"
    with pytest.raises(ValueError, match="already a task or mixture called 'manifest'"):
        register(folder, bad_rows=BadRows.SKIP_AND_REPORT)


def test_registering_reads_nothing(tmp_path: pathlib.Path) -> None:
    name = register(tmp_path)
    with pytest.raises(FileNotFoundError, match="No manifest at"):
        eval_batches(name, task_feature_lengths=LENGTHS, batch_size=1, split="train")


def test_two_lines_of_gin(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gin_folder())
    gin.clear_config()
    lines = [
        "from __gin__ import dynamic_registration",
        "from slm_jax.data import vocabularies",
        "VOCABULARY = @vocabularies.byte_vocabulary()",
        "include 'tasks/manifest.gin'",
        f"MANIFEST = '{folder}/m.tsv'",
    ]
    gin.parse_config("\n".join(lines))
    for _ in range(2):
        assert gin.query_parameter("%MIXTURE_OR_TASK_NAME").scoped_configurable_fn() == "manifest"
    assert len(list(eval_texts("manifest", task_feature_lengths=LENGTHS, split="train"))) == 3
    gin.clear_config()


def write_cache(name: str, folder: pathlib.Path) -> None:
    """What seqio_cache_tasks writes, without its pipelines."""
    import json

    task = seqio.TaskRegistry.get(name)
    target = folder / seqio.utils.get_task_dir_from_name(name)
    target.mkdir()
    ds = task.preprocess_precache(task.source.get_dataset("train", shuffle=False), seed=0)
    rows = list(ds)
    with tf.io.TFRecordWriter(str(target / "train.tfrecord-00000-of-00001")) as writer:
        for row in rows:
            writer.write(seqio.utils.dict_to_tfexample(row).SerializeToString())
    spec = {k: {"shape": v.shape.as_list(), "dtype": v.dtype.name} for k, v in ds.element_spec.items()}
    info = {"num_shards": 1, "features": spec, "seqio_version": seqio.__version__}
    (target / "info.train.json").write_text(json.dumps(info))
    (target / "stats.train.json").write_text(json.dumps({"examples": len(rows)}))
    (target / "COMPLETED").touch()


def test_the_cache_gives_the_same_batches(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    name = register(folder)
    options = {"task_feature_lengths": LENGTHS, "batch_size": 3, "split": "train"}
    (plain,) = eval_batches(name, **options)
    write_cache(name, tmp_path)
    seqio.set_global_cache_dirs([str(tmp_path)])
    for audio in ("a.wav", "b.flac", "c.ogg"):
        (folder / audio).unlink()
    (cached,) = eval_batches(name, use_cached=True, **options)
    seqio.set_global_cache_dirs([])
    for key in plain:
        np.testing.assert_array_equal(plain[key], cached[key], err_msg=key)
