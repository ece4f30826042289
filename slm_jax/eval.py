"""Scores a bundle on SeqIO tasks.

python -m slm_jax.eval --bundle=DIR --task=scenes_quickstart_transcribe --task=scenes_quickstart_translate_es
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from absl import flags
from rich.console import Console
from rich.table import Table

from slm_jax import gin_utils
from slm_jax.evaluation import DecodedEvaluation, Evaluated

FLAGS = flags.FLAGS

flags.DEFINE_string("bundle", None, "A bundle, or the MODEL_DIR of a run.", required=True)
flags.DEFINE_multi_string("task", [], "A SeqIO task; give the flag again for more.")
flags.DEFINE_string("split", "test", "The tasks' split.")
flags.DEFINE_string("output", None, "A folder for the scores (scores.json) and the answers (TASK.jsonl).")
flags.DEFINE_integer("batch_size", 16, "Examples decoded at once.")


def main(unused: Sequence[str]) -> None:
    """Evaluates every task and prints a table."""
    if not FLAGS.task:
        raise ValueError("name at least one SeqIO task with --task")
    gin_utils.set_up_jax()
    model = gin_utils.load_model(FLAGS.bundle)
    scores = {}
    for task in FLAGS.task:
        evaluation = DecodedEvaluation(
            task=task,
            split=FLAGS.split,
            task_feature_lengths=model.task_feature_lengths,
            batch_size=FLAGS.batch_size,
        )
        evaluated = evaluation.run(evaluation.predict(model.training.objective.model), model.params)
        scores[task] = {"n": len(evaluated.predictions), **evaluated.scores}
        save(task, evaluated)
    table = Table("task", "n", "scores", title=f"{FLAGS.bundle}, {FLAGS.split}")
    for task, row in scores.items():
        table.add_row(task, str(row["n"]), ", ".join(f"{name} {row[name]:.2f}" for name in row if name != "n"))
    Console().print(table)
    if FLAGS.output:
        (pathlib.Path(FLAGS.output) / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")


def save(task: str, evaluated: Evaluated) -> None:
    """Writes the answers to --output, if it is given."""
    if FLAGS.output:
        folder = pathlib.Path(FLAGS.output)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in evaluated.predictions]
        (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    gin_utils.run(main)
