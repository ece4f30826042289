"""The report: numbers under their keys, a table, a plot."""

import json

import pytest

from slm_jax.evaluation import Evaluated, Prediction
from slm_jax.report import Report, Score
from slm_jax.training.run_interfaces import RunResult

WER = Score(label="transcription", evaluation="transcribe", metric="wer", key="wer_after", unit="%")
SPANISH = Score(label="Spanish", evaluation="translate_es", metric="bleu", key="zero_shot.translate_es")
BEFORE = Score(label="transcription", evaluation="transcribe", metric="wer", key="wer_before", unit="%")


@pytest.fixture
def result(tmp_path):
    rows = [{"step": 1, "kind": "train", "loss": 2.0}, {"step": 2, "kind": "train", "loss": 1.0}]
    rows += [{"step": 2, "kind": "eval", "loss_true_audio": 0.5, "loss_shuffled_audio": 2.0, "loss_no_audio": 3.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prediction = Prediction("say it in spanish", "un perro", "un gato")
    return RunResult(
        model_dir=tmp_path,
        counts={"trainable": 10, "frozen": 990, "components": {}},
        before={"transcribe": {"wer": 101.0}},
        after={
            "transcribe": Evaluated({"wer": 3.25}, [prediction]),
            "translate_es": Evaluated({"bleu": 61.5}, [prediction]),
        },
        listening={"loss_true_audio": 0.5, "loss_shuffled_audio": 2.0, "loss_no_audio": 3.0},
        place="runs/mine",
        seconds=75.26,
    )


def test_summary_has_every_number_under_its_key(result):
    report = Report(scores=(WER, SPANISH), scores_before=(BEFORE,))
    assert report.summary(result) == {
        "wer_before": 101.0,
        "wer_after": 3.25,
        "zero_shot": {"translate_es": 61.5},
        "loss_true_audio": 0.5,
        "loss_shuffled_audio": 2.0,
        "loss_no_audio": 3.0,
        "trained_parameters": 10,
        "frozen_parameters": 990,
        "seconds": 75.3,
    }


def test_what_a_person_sees(result, capsys):
    report = Report(
        scores=(WER, SPANISH), scores_before=(BEFORE,), examples=("translate_es",), try_it="infer --bundle={model_dir}"
    )
    report(result)
    shown = capsys.readouterr().out
    for text in (
        "101.0%",
        "3.2%",
        "61.5",
        "0.500",
        "10 (1.0%)",
        "1:15",
        "un gato",
        "un perro",
        "infer --bundle=runs/mine",
    ):
        assert text in shown
    assert json.loads((result.model_dir / "summary.json").read_text())["wer_after"] == 3.25
    assert (result.model_dir / "loss.png").read_bytes().startswith(b"\x89PNG")
