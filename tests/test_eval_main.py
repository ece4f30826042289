"""The command line of eval: what it prints and writes, and what it refuses."""

import json

import pytest
import seqio

from slm_jax import gin_utils
from slm_jax.data import metrics


@pytest.fixture
def evaluate(run_main, monkeypatch, capsys, tiny_model):
    """Runs eval on the bundle DIR, the tiny model, and gives what it prints."""
    monkeypatch.setattr(gin_utils, "load_model", {"DIR": tiny_model}.__getitem__)

    def run(*arguments):
        run_main("eval", "--bundle=DIR", "--batch_size=2", *arguments)
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
