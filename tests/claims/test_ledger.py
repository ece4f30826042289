"""The ledger: what is kept of a run, its page and its pictures."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
from matplotlib import pyplot

from slm_jax.claims import ledger_page, plots
from slm_jax.claims.measures import Claim
from slm_jax.claims.records import Number, Record, Summary, load_kept, record_of
from slm_jax.claims.table import SIZES
from slm_jax.data.metrics import bleu
from slm_jax.training.bundle import Bundle, BundleManifest, save_bundle

ANSWERS = [
    ("we all ran to the lake today", "we all ran to the lake now"),
    ("he slept", "he slept well"),
    ("it rained", "it rained"),
    ("she", "he"),
]


def write_run(folder: pathlib.Path, *, gin_files: tuple[str, ...], bindings: tuple[str, ...] = ()) -> pathlib.Path:
    manifest = BundleManifest({}, ("adapter/.*",), step=40, gin_files=gin_files, gin_bindings=bindings)
    save_bundle(Bundle({"adapter": {"kernel": np.ones(2, "f")}}, manifest), directory=folder / "bundle")
    rows = [
        {"step": step, "kind": "train", "loss": 4.0 / step, "steps_per_second": 1.0 + (step > 5), "speech_vectors": 6.0}
        | {"audio_seconds_per_second": 32.0, "examples_per_second": 16.0}
        for step in range(1, 41)
    ]
    rows += [{"step": 40, "kind": "eval", "loss_true_audio": 0.25, "loss_no_audio": 5.0}]
    rows += [{"step": step, "kind": "eval", "test/wer": 50.0 - step} for step in (20, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text(json.dumps({"seconds": 75, "trained_parameters": 1200}))
    (folder / "predictions").mkdir()
    lines = [json.dumps({"inputs": "", "target": t, "prediction": p}) + "\n" for t, p in ANSWERS]
    for name in ("transcribe-40", "transcribe-20", "unseen_voice-40", "reply-40"):
        (folder / "predictions" / f"{name}.jsonl").write_text("".join(lines))
    return folder


def test_a_run_on_cached_features_does_not_know_how_long_its_speech_is(tmp_path):
    run = write_run(tmp_path, gin_files=("gin/experiments/claims/adapters/linear.gin",))
    text = (run / "metrics.jsonl").read_text().replace('"audio_seconds_per_second": 32.0, ', "")
    (run / "metrics.jsonl").write_text(text)
    assert record_of(run, commit="abc1234").speeds == {"steps_per_second": 2.0}


def test_what_is_kept_of_a_run(tmp_path):
    gin_file = "experiments/claims/adapters/linear.gin"
    run = write_run(tmp_path, gin_files=(f"gin/{gin_file}",), bindings=("SEED = 3", "MODEL_DIR = 'x'", "LM = 'a b'"))
    record = record_of(run, commit="abc1234")
    assert record.name == "adapters/linear-3" and record.seed == 3 and record.steps == 40
    assert record.command == f"python -m slm_jax.train --gin_file={gin_file} --gin.SEED=3 --gin.LM=\"'a b'\""
    assert set(record.scores) == {"transcribe/wer", "unseen_voice/wer", "reply/bleu"}
    number = record.scores["transcribe/wer"]
    assert number.score == pytest.approx(25.0) and number.low < 25.0 < number.high and number.n == 4
    assert record.scores["reply/bleu"].score > 50
    assert record.scores["reply/bleu"].score == pytest.approx(bleu(*zip(*ANSWERS, strict=True))["bleu"], abs=0.01)
    assert record.speeds == {"steps_per_second": 2.0, "vectors_per_second": 3.0}
    assert record.curve[0] == [1, 4.0] and record.held_out == {"true": [[40, 0.25]], "no": [[40, 5.0]]}
    assert record.score_curves == {"test/wer": [[20, 30.0], [40, 10.0]]}
    assert record.seconds == 75.0 and record.trained_parameters == 1200 and record.commit == "abc1234"
    path = record.save(tmp_path)
    assert path.name == "adapters-linear-3.json"
    (tmp_path / "claims-1.json").write_text(json.dumps(summary(1, 2.0)))
    (tmp_path / "summary.json").unlink()
    assert load_kept(tmp_path) == ([summary(1, 2.0)], [record])


def test_a_run_without_a_report_took_as_long_as_its_files_tell(tmp_path):
    run = write_run(tmp_path, gin_files=("experiments/scenes_ctc_tenth.gin",))
    (run / "summary.json").unlink()
    (run / "model-info.txt").touch()
    os.utime(run / "model-info.txt", (1000.0, 1000.0))
    os.utime(run / "bundle" / "manifest.json", (1090.0, 1090.0))
    assert record_of(run, commit="abc1234").seconds == 90.0


@pytest.mark.parametrize("gin_files", [(), ("mine.gin",), ("experiments/a.gin", "experiments/b.gin")])
def test_a_run_of_something_else_is_refused(gin_files, tmp_path):
    with pytest.raises(ValueError, match=r"not by one file of experiments/"):
        record_of(write_run(tmp_path, gin_files=gin_files), commit="abc1234")


def summary(seed: int, score: float) -> Summary:
    keys = ["wer", "bias_0_names", "reply_text", "translate_de_text", "loss_true"]
    bounds = {"wer": {"at_most": 3.0}}
    for size in SIZES:
        keys += [f"bias_{size}_names", f"bias_{size}_without_names", f"bias_{size}_without_cost"]
    claims = [Claim(key, key.upper(), score, 500, score - 1, score + 1, **bounds.get(key, {})) for key in keys]
    claims += [Claim(f"{family}_ratio", "  ratio", 0.95, 500, at_least=0.9) for family in ("reply", "translate_de")]
    return {
        "commit": "abc1234",
        "seed": seed,
        "seconds": 300,
        "claims": {claim.name: claim.as_json() for claim in claims},
    }


def record(name: str, wer: float) -> Record:
    scores = {"transcribe/wer": Number(wer, wer - 1, wer + 1, 200)}
    speeds = {"steps_per_second": 5.0, "vectors_per_second": 3.0}
    held_out = {"true": [[20, 0.3]], "shuffled": [[20, 7.0]], "no": [[20, 6.0]]}
    gin_file = f"experiments/claims/{name}.gin"
    curve = [[10, 2.0], [20, 0.5]]
    return Record(name, gin_file, f"train {gin_file}", 0, "abc1234", 75.0, 20, scores, speeds, curve, held_out, 10)


def test_the_page_has_a_row_for_every_number():
    records = [record("reducers/none", 9.0), record("study-1", 2.5), record("train_lm", 4.0)]
    page = ledger_page.ledger([summary(1, 2.0), summary(2, 3.5)], records)
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert "| `wer` | WER | 2 [1, 3] | 3.5 | 2.75 | 500 | <= 3 | 1 seeds |" in rows
    assert "| `reply_ratio` | ratio | 0.95  | 0.95 | 0.95 | 500 | >= 0.9 | yes |" in rows
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == [
        "Claims", "Study", "Reducers", "Order, what is trained, and on what"
    ]  # fmt: skip
    assert "| claims/reducers/none.gin | 0 | abc1234 | 20 | 1:15 | 9.0 [8.0, 10.0] | 3.0 | 5.0 | 10 |" in rows
    assert ledger_page.members(records, "") == records[2:]


def test_seeds_of_an_experiment_have_a_mean():
    command = f"{record('reducers/none', 9.0).command} --gin.SEED=1"
    other = dataclasses.replace(record("reducers/none", 12.0), name="reducers/none-1", seed=1, command=command)
    rows = ledger_page.ledger([], [record("reducers/none", 9.0), other, record("reducers/stack2", 5.0)]).splitlines()
    first = rows.index("| claims/reducers/none.gin | 0 | abc1234 | 20 | 1:15 | 9.0 [8.0, 10.0] | 3.0 | 5.0 | 10 |")
    assert rows[first + 1].startswith("| claims/reducers/none.gin | 1 |")
    assert rows[first + 2] == "|  | mean |  |  |  | 10.5 (9.0 to 12.0) | 3.0 | 5.0 |  |"
    assert rows[first + 3].startswith("| claims/reducers/stack2.gin | 0 |"), "one seed has none"
    longer = dataclasses.replace(other, scores={})
    rows = ledger_page.ledger([], [record("reducers/none", 9.0), longer]).splitlines()
    assert "|  | mean |  |  |  |  | 3.0 | 5.0 |  |" in rows, "of what all of them have"
    went_on = dataclasses.replace(other, command=f"{command} --gin.INITIAL_CHECKPOINT=x")
    assert "| mean |" not in ledger_page.ledger([], [record("reducers/none", 9.0), went_on]), "another experiment"


def test_the_page_tells_the_scores_of_open_weights_over_steps():
    records = [
        dataclasses.replace(
            record("whisper_base_x", 9.0), score_curves={"test/wer": [[20, 30.0], [40, 9.0]], "test/cer": []}
        ),
        record("whisper_base_alone", 4.0),
    ]
    page = ledger_page.ledger([], records)
    assert "- whisper_base_x, WER over steps: 30.0 at 20, 9.0 at 40\n" in page
    assert "images/open_weights.png" in page
    assert "images/open_weights.png" not in ledger_page.ledger([], [record("study-1", 2.5)])


def test_scores_over_steps_are_drawn_beside_what_needed_no_training(tmp_path):
    alone = dataclasses.replace(record("whisper_base_alone", 4.0), scores={"test/wer": Number(4.0, 3.0, 5.0, 10)})
    trained = dataclasses.replace(record("whisper_base_x", 9.0), score_curves={"test/wer": [[20, 30.0], [40, 9.0]]})
    plots.plot_score_curves([trained, alone], tmp_path / "curves.png")
    assert pyplot.imread(tmp_path / "curves.png").size > 10_000


def test_every_picture_is_drawn(tmp_path):
    claims = [summary(1, 2.0), summary(2, 3.5)]
    records = [record("reducers/none", 9.0), record("reducers/stack2", 8.0)]
    plots.plot_biasing(claims, tmp_path / "biasing.png")
    plots.plot_families(claims, tmp_path / "families.png")
    plots.plot_reducers(records, tmp_path / "reducers.png")
    plots.plot_curves(records, tmp_path / "curves.png")
    for name in ("biasing", "families", "reducers", "curves"):
        image = pyplot.imread(tmp_path / f"{name}.png")
        assert image.min() < 0.5 < image.mean(), "something dark on a light ground"
