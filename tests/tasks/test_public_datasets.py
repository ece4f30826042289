"""LibriSpeech, FLEURS, Common Voice and CoVoST 2, on stand-ins with the features the real datasets have."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import seqio
import soundfile
import tensorflow as tf
import tensorflow_datasets as tfds

from slm_jax.data.manifest import BadRows
from slm_jax.data.pipeline import eval_batches, eval_texts
from slm_jax.data.vocabularies import byte_vocabulary
from slm_jax.tasks import common_voice, covost2, fleurs, librispeech
from slm_jax.tasks.registration import register_once

VOCABULARY = byte_vocabulary()
LENGTHS = {"speech": 48000, "inputs": 128, "targets": 256}


@pytest.fixture(autouse=True)
def forget_tasks():
    before = set(seqio.TaskRegistry.names())
    yield
    for name in set(seqio.TaskRegistry.names()) - before:
        seqio.TaskRegistry.remove(name)
        register_once.settings.pop(name, None)


def mock(audio: str, count: int = 3):
    """Examples with the features that TFDS declares: 4800 samples of a constant, and texts that name their feature."""

    def as_dataset(self: tfds.core.DatasetBuilder, *args, **kwargs) -> tf.data.Dataset:
        def example(i: tf.Tensor) -> dict[str, tf.Tensor]:
            values = {}
            for name, feature in self.info.features.items():
                dtype, shape = feature.tf_dtype, feature.shape
                if name == audio:
                    values[name] = tf.cast(tf.fill([4800], 16384), dtype)
                elif dtype == tf.string:
                    values[name] = tf.strings.join(["SOME ", name, " ", tf.strings.as_string(i)])
                else:
                    values[name] = tf.zeros(shape, dtype)
            return values

        return tf.data.Dataset.range(count).map(example)

    return tfds.testing.mock_data(num_examples=count, as_dataset_fn=as_dataset, policy=tfds.testing.MockPolicy.USE_CODE)


CASES: dict[str, tuple[Callable[[], str], str, str, int]] = {
    "librispeech": (lambda: librispeech.register_librispeech(vocabulary=VOCABULARY), "speech", "some text 0", 4800),
    "fleurs": (lambda: fleurs.register_fleurs(vocabulary=VOCABULARY), "audio", "SOME transcription 0", 4800),
    "common_voice": (
        lambda: common_voice.register_common_voice(vocabulary=VOCABULARY, language="sv-SE"),
        "voice",
        "SOME sentence 0",
        1600,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_transcription_from_tensorflow_datasets(case: str) -> None:
    register, audio, text, samples = CASES[case]
    name = register()
    assert register() == name
    for split in ("validation", "test"):
        with mock(audio):
            (batch,) = eval_batches(name, task_feature_lengths=LENGTHS, batch_size=3, split=split)
            texts = list(eval_texts(name, task_feature_lengths=LENGTHS, split=split))
        np.testing.assert_array_equal(batch["speech_length"], [samples] * 3)
        np.testing.assert_allclose(np.median(batch["speech"][:, :samples]), 0.5, atol=1e-3)
        assert texts[0] == {"inputs": "Transcribe the speech.", "targets": text}


def test_a_dataset_of_another_sample_rate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    name = librispeech.register_librispeech(vocabulary=VOCABULARY)
    with mock("speech"):
        source = seqio.TaskRegistry.get(name).source
        monkeypatch.setattr(source.tfds_dataset.info.features["speech"], "_sample_rate", 8000, raising=True)
        with pytest.raises(ValueError, match="librispeech.*speech has 8000 samples a second.*takes it to have 16000"):
            list(eval_batches(name, task_feature_lengths=LENGTHS, batch_size=3, split="test"))


def test_names() -> None:
    assert librispeech.register_librispeech(vocabulary=VOCABULARY, name="libri") == "libri"
    assert fleurs.register_fleurs(vocabulary=VOCABULARY, language="de_de") == "fleurs_de_de_transcribe"
    assert common_voice.register_common_voice(vocabulary=VOCABULARY) == "common_voice_en_transcribe"


def test_a_dataset_that_is_not_prepared_says_how_to(tmp_path: pathlib.Path) -> None:
    seqio.set_tfds_data_dir_override(str(tmp_path))
    name = librispeech.register_librispeech(vocabulary=VOCABULARY)
    with pytest.raises(FileNotFoundError, match="tfds build librispeech/default"):
        eval_batches(name, task_feature_lengths=LENGTHS, batch_size=1, split="test")
    seqio.set_tfds_data_dir_override(None)


@pytest.fixture
def clips(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for index in range(2):
        soundfile.write(folder / f"common_voice_de_{index}.mp3", np.zeros(16000 * (index + 1)), 32000)
    return folder


def test_a_release_of_common_voice(clips: pathlib.Path) -> None:
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\tlocale\tsegment\n"
    for split in ("train", "dev", "test"):
        rows = [f"x\tcommon_voice_de_{i}.mp3\t{split} {i}\t2\t0\t\t\t\tde\t\n" for i in range(2)]
        (clips.parent / f"{split}.tsv").write_text(header + "".join(rows))
    name = common_voice.register_common_voice_release(folder=str(clips.parent), vocabulary=VOCABULARY)
    (batch,) = eval_batches(name, task_feature_lengths=LENGTHS, batch_size=2, split="validation")
    assert (np.abs(batch["speech_length"] - [8000, 16000]) < 2500).all()  # MP3 pads to whole frames
    texts = list(eval_texts(name, task_feature_lengths=LENGTHS, split="validation"))
    assert [text["targets"] for text in texts] == ["dev 0", "dev 1"]


def test_covost2(clips: pathlib.Path) -> None:
    for split in ("train", "dev", "test"):
        row = f'common_voice_de_0.mp3\tein \\"Wort\\"\ta \\"word\\" of {split}\tx\n'
        (clips.parent / f"covost_v2.de_en.{split}.tsv").write_text("path\tsentence\ttranslation\tclient_id\n" + row)
    options = {"folder": str(clips.parent), "clips_folder": str(clips), "vocabulary": VOCABULARY}
    name = covost2.register_covost2(source_language="de", bad_rows=BadRows.SKIP_AND_REPORT, **options)
    assert name == "covost2_de_en"
    (text,) = eval_texts(name, task_feature_lengths=LENGTHS, split="test")
    assert text == {"inputs": "Translate the speech to English.", "targets": 'a "word" of test'}
    assert {fn.__name__ for fn in seqio.TaskRegistry.get(name).metric_fns} == {"bleu", "chrf"}
    with pytest.raises(ValueError, match="no language 'xx'"):
        covost2.register_covost2(source_language="xx", **options)
