"""Scores a bundle on SeqIO tasks.

python -m slm_jax.eval --bundle=DIR --task=scenes_quickstart_transcribe --task=scenes_quickstart_translate_es
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

from absl import flags
from rich.console import Console
from rich.table import Table

from slm_jax import gin_utils
from slm_jax.evaluation import DecodedEvaluation, Evaluated
from slm_jax.training import hosts
from slm_jax.training.bundle import SHIPPED

FLAGS = flags.FLAGS

flags.DEFINE_string("bundle", SHIPPED, "A bundle, or the MODEL_DIR of a run; by default the one of slm_jax.")
flags.DEFINE_multi_string("task", [], "A SeqIO task; give the flag again for more.")
flags.DEFINE_string("split", "test", "The tasks' split.")
flags.DEFINE_string("output", None, "A folder for the scores (scores.json) and the answers (TASK.jsonl).")
flags.DEFINE_integer("batch_size", 16, "Examples decoded at once.")


def main(arguments: Sequence[str]) -> None:
    """Evaluates every task and prints a table.

    Raises:
      ValueError: there is no --task, or something that is no flag.
    """
    if not FLAGS.task:
        raise ValueError("name at least one SeqIO task with --task")
    if arguments:
        raise ValueError(f"{' '.join(arguments)!r} would be left out: give --task again before each further task")
    gin_utils.set_up_jax()
    model = gin_utils.load_model(FLAGS.bundle)
    scores = {}
    for task in FLAGS.task:
        evaluation = DecodedEvaluation(
            task=task,
            split=FLAGS.split,
            task_feature_lengths=model.task_feature_lengths,
            method=model.method,
            batch_size=FLAGS.batch_size,
        )
        predict = evaluation.predict(model.training.objective.model)
        evaluated = evaluation.run(predict, model.params, shard=model.shard)
        scores[task] = {"n": len(evaluated.predictions), **evaluated.scores}
        save(f"{task}.jsonl", answers(evaluated))
    if hosts.is_first():
        show(scores)


def show(scores: Mapping[str, Mapping[str, float | int]]) -> None:
    """Prints the table and writes the scores, by task and metric."""
    table = Table("task", "n", "scores", title=f"{FLAGS.bundle}, {FLAGS.split}")
    for task, row in scores.items():
        table.add_row(task, str(row["n"]), ", ".join(f"{name} {row[name]:.2f}" for name in row if name != "n"))
    Console().print(table)
    save("scores.json", json.dumps(scores, indent=2) + "\n")


def answers(evaluated: Evaluated) -> str:
    """What was decoded, as JSON lines."""
    rows = map(dataclasses.asdict, evaluated.predictions)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def save(name: str, text: str) -> None:
    """Writes a file of --output, if it is given, on the first process."""
    if FLAGS.output and hosts.is_first():
        folder = pathlib.Path(FLAGS.output).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    gin_utils.run(main)
