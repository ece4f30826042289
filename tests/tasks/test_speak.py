"""A corpus out of sentences: its splits, its voices, and going on where it stopped."""

import csv
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from slm_jax.data.manifest import parse_manifest
from slm_jax.tasks import speak
from slm_jax.tasks.speak import Split
from slm_jax.tasks.spoken_scenes.voices import HIBARI, PICO_GB, PICO_US

SENTENCES = [f"This is sentence number {word}." for word in ("one", "two", "three", "four", "five")]
SIZES = dict(validation=1, test=1, times=3)


def planned(**changes):
    return list(speak.readings(SENTENCES, **(dict(cast=(PICO_GB, HIBARI), held_out=PICO_US, **SIZES) | changes)))


def read_tsv(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_splits_share_neither_sentences_nor_the_voice_of_the_test():
    readings = planned()
    texts = {split: {r.text for r in readings if r.split is split} for split in Split}
    assert {split: len(found) for split, found in texts.items()} == {Split.TRAIN: 3, Split.VALIDATION: 1, Split.TEST: 1}
    assert not texts[Split.TRAIN] & (texts[Split.TEST] | texts[Split.VALIDATION])
    assert all((PICO_US in r.voices) == (r.split is Split.TEST) for r in readings)


def test_a_sentence_is_read_by_one_voice_after_the_other():
    train = [r for r in planned() if r.split is Split.TRAIN]
    assert len({r.audio for r in train}) == len(train) == 9
    for text in {r.text for r in train}:
        first, second, third = [r.voices[0] for r in train if r.text == text]
        assert first == third != second


def test_sentences_are_the_different_lines_in_an_order_of_their_own(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("b  c\n\na\nb c\n")
    assert sorted(speak.read_sentences(path)) == ["a", "b c"]
    order = speak.read_sentences(path)
    path.write_text("a\nb c\nnew\n")
    assert [line for line in speak.read_sentences(path) if line != "new"] == order
    path.write_text("\n")
    with pytest.raises(ValueError, match="has no sentences"):
        speak.read_sentences(path)


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(ValueError, match="pico_en_gb is to be heard in the test split alone"):
        planned(held_out=PICO_GB)
    with pytest.raises(ValueError, match="5 sentences are too few: 3"):
        planned(test=3, validation=2)


def test_readings_vary_and_stay_the_same():
    train = [r for r in planned() if r.split is Split.TRAIN]
    found = [speak.conditions(r) for r in train]
    assert found == [speak.conditions(r) for r in train]
    assert len({varied.speed for _, varied, _ in found}) == len(train)
    rooms = [varied.reverberation for _, varied, _ in found]
    assert min(rooms) == 0 < max(rooms)
    (test,) = [r for r in planned() if r.split is Split.TEST]
    assert speak.conditions(test)[1].reverberation == 0


def test_the_command_writes_a_corpus_and_goes_on_where_it_stopped(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join([*SENTENCES, "Bread & butter <now>."]))
    command = [sys.executable, "-m", "slm_jax.tasks.speak", f"--sentences={tmp_path / 'a.txt'}", "--workers=0"]
    command += ["--validation=1", "--test=1", "--times=1", "--voices=pico_en_gb", "--held_out=pico_en_us"]
    command += [f"--folder={tmp_path / 'corpus'}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "train.tsv: 4 utterances, 0.0 hours (pico_en_gb 0.0)" in told
    rows = read_tsv(tmp_path / "corpus" / "train.tsv")
    parsed, _ = parse_manifest(str(tmp_path / "corpus" / "train.tsv"))
    assert [row.text for row in parsed] == [row["text"] for row in rows]
    first, second = (tmp_path / "corpus" / row["audio"] for row in rows[:2])
    speech, rate = soundfile.read(first)
    assert rate == 16_000
    np.testing.assert_allclose(len(speech) / rate, float(rows[0]["seconds"]), atol=1e-3)
    content = first.read_bytes()
    first.unlink()
    kept = second.stat().st_mtime_ns
    subprocess.run(command, check=True, capture_output=True)
    assert first.read_bytes() == content
    assert second.stat().st_mtime_ns == kept


def test_an_unknown_voice_is_refused(tmp_path):
    command = [sys.executable, "-m", "slm_jax.tasks.speak", "--sentences=a", "--folder=b", "--voices=nobody"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=pathlib.Path(tmp_path))
    assert done.returncode
    assert "there is no voice nobody; there are pico_en_us" in done.stderr
