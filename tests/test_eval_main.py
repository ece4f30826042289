"""The command line of eval: what it prints and writes, and what it refuses."""

import dataclasses
import json

import pytest
import seqio

from slm_jax import gin_utils
from slm_jax.data import metrics
from slm_jax.decoding.beam_search import BeamSearch
from slm_jax.evaluation import DecodedEvaluation


@pytest.fixture
def evaluate(run_main, monkeypatch, capsys, tiny_model):
    """Runs eval on the bundle DIR, the tiny model, and gives what it prints."""
    searching = dataclasses.replace(tiny_model, method=BeamSearch(num_beams=3))
    monkeypatch.setattr(gin_utils, "load_model", {"DIR": tiny_model, "DIR_WITH_BEAMS": searching}.__getitem__)

    def run(*arguments, bundle="DIR"):
        run_main("eval", f"--bundle={bundle}", "--batch_size=2", *arguments)
        return capsys.readouterr().out

    return run


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_scores_and_answers_are_printed_and_written(evaluate, tiny_task, tmp_path):
    folder = tmp_path / "new" / "scores"
    printed = evaluate(f"--task={tiny_task}", f"--output={folder}")
    rows = read_lines(folder / f"{tiny_task}.jsonl")
    assert [(row["inputs"], row["target"]) for row in rows] == [("which letter?", letter) for letter in "abcde"]

    scores = json.loads((folder / "scores.json").read_text())
    written = [row["prediction"] for row in rows]
    expected = metrics.exact_match(list("abcde"), written) | metrics.word_error_rate(list("abcde"), written)
    assert scores == {tiny_task: {"n": 5, **expected}}
    assert sorted(path.name for path in folder.iterdir()) == ["scores.json", f"{tiny_task}.jsonl"]

    assert "DIR, test" in printed
    (line,) = [line for line in printed.splitlines() if tiny_task in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == [tiny_task, "5", ", ".join(f"{name} {value:.2f}" for name, value in expected.items())]


def test_every_task_of_the_command_line_is_scored(evaluate, tiny_task, tmp_path):
    task = seqio.get_mixture_or_task(tiny_task)
    other = "tiny_letters_again"
    seqio.TaskRegistry.add(other, task.source, task.output_features, task.preprocessors, metric_fns=task.metric_fns)
    try:
        evaluate(f"--task={tiny_task}", f"--task={other}", f"--output={tmp_path}", "--split=validation")
    finally:
        seqio.TaskRegistry.remove(other)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores) == [tiny_task, other] and scores[tiny_task] == scores[other]
    assert read_lines(tmp_path / f"{tiny_task}.jsonl") == read_lines(tmp_path / f"{other}.jsonl")


def test_answers_are_written_as_the_experiment_does(evaluate, tiny_task, tiny_model, tmp_path):
    evaluate(f"--task={tiny_task}", f"--output={tmp_path}", bundle="DIR_WITH_BEAMS")
    facts = dict(task=tiny_task, split="test", task_feature_lengths=tiny_model.task_feature_lengths, batch_size=2)
    evaluation = DecodedEvaluation(**facts, method=BeamSearch(num_beams=3))
    predict = evaluation.predict(tiny_model.training.objective.model)
    expected = evaluation.run(predict, tiny_model.params, shard=tiny_model.shard).predictions
    rows = read_lines(tmp_path / f"{tiny_task}.jsonl")
    assert [row["prediction"] for row in rows] == [row.prediction for row in expected]
    evaluate(f"--task={tiny_task}", f"--output={tmp_path}")
    assert rows != read_lines(tmp_path / f"{tiny_task}.jsonl"), "greedy answers are the same, which proves nothing"


def test_without_output_nothing_is_written(evaluate, tiny_task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tiny_task in evaluate(f"--task={tiny_task}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "name at least one SeqIO task with --task"),
        (["--task=tiny_letters", "another"], "'another' would be left out: give --task again"),
        (["--task=tiny_leters"], "No task or mixture is called 'tiny_leters'. Did you mean tiny_letters"),
        (["--task=tiny_letters", "--split=dev"], "no split 'dev'; it has .'test', 'validation'."),
    ],
)
def test_mistakes_are_errors(evaluate, tiny_task, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        evaluate(*arguments)
