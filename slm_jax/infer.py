"""Answers, as JSON lines.

Audio files:  python -m slm_jax.infer --bundle=DIR --audio=a.wav b.flac --prompt="transcribe the speech"
SeqIO tasks:  python -m slm_jax.infer --bundle=DIR --task=scenes_quickstart_translate_es --split=test
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from slm_jax import gin_utils
from slm_jax.decoding.beam_search import BeamSearch
from slm_jax.decoding.greedy import Greedy
from slm_jax.evaluation import DecodedEvaluation
from slm_jax.inference import LoadedModel

FLAGS = flags.FLAGS

flags.DEFINE_string("bundle", None, "A bundle, or the MODEL_DIR of a run.", required=True)
flags.DEFINE_multi_string("audio", [], "An audio file; more may follow it, or the flag may be given again.")
flags.DEFINE_string("prompt", None, "The instruction; by default the first one of the bundle.")
flags.DEFINE_string("task", None, "A SeqIO task to answer instead of audio files.")
flags.DEFINE_string("split", "test", "The task's split.")
flags.DEFINE_string("output", None, "A file for the lines; what it holds already is not done again.")
flags.DEFINE_integer("batch_size", 16, "Examples of a task decoded at once.")
flags.DEFINE_integer("beams", 1, "Beams of beam search; 1 is greedy.")


def decoding_method() -> Greedy | BeamSearch:
    """What --beams asks for."""
    return Greedy() if FLAGS.beams == 1 else BeamSearch(num_beams=FLAGS.beams)


def audio_rows(model: LoadedModel, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Answers about audio files."""
    prompts = list(model.training.prompts.values())
    prompt = FLAGS.prompt or (prompts[0] if prompts else "")
    if not prompt:
        raise ValueError("the bundle has no prompt of its own: give one with --prompt")
    return (dataclasses.asdict(row) for row in model.answer(paths, prompt, method=decoding_method()))


def task_rows(model: LoadedModel, done: int) -> Iterator[dict[str, Any]]:
    """Answers to the examples of --task, without the first `done`."""
    evaluation = DecodedEvaluation(
        task=FLAGS.task,
        split=FLAGS.split,
        task_feature_lengths=model.task_feature_lengths,
        method=decoding_method(),
        batch_size=FLAGS.batch_size,
    )
    predict = evaluation.predict(model.training.objective.model)
    rows = enumerate(evaluation.decode(predict, model.params, start=done), start=done)
    return ({"task": FLAGS.task, "number": number, **dataclasses.asdict(row)} for number, row in rows)


def write(rows_after: Callable[[int], Iterator[dict[str, Any]]]) -> None:
    """Writes rows to --output, after those it holds, or to the terminal."""
    if FLAGS.output is None:
        for row in rows_after(0):
            print(json.dumps(row, ensure_ascii=False), flush=True)
        return
    path = pathlib.Path(FLAGS.output).expanduser()
    done = len(path.read_text().splitlines()) if path.exists() else 0
    with path.open("a") as file:
        for row in rows_after(done):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    print(f"{path}: {done} rows were there, {len(path.read_text().splitlines()) - done} are new", file=sys.stderr)


def main(arguments: Sequence[str]) -> None:
    """Answers audio files or a task."""
    paths = [*FLAGS.audio, *arguments]
    if bool(paths) == bool(FLAGS.task):
        raise ValueError("give either audio files (--audio) or a SeqIO task (--task)")
    gin_utils.set_up_jax()
    model = gin_utils.load_model(FLAGS.bundle)
    if paths:
        write(lambda done: audio_rows(model, paths[done:]))
    else:
        write(lambda done: task_rows(model, done))


if __name__ == "__main__":
    gin_utils.run(main)
