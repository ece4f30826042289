"""Answers, as JSON lines.

Audio files:  python -m slm_jax.infer --bundle=DIR --audio=a.wav b.flac --prompt="transcribe the speech"
SeqIO tasks:  python -m slm_jax.infer --bundle=DIR --task=scenes_quickstart_translate_es --split=test

With --output a run that was killed goes on where it stopped. Answers are written as in the experiment's own evaluations
(DECODING), unless --beams or --temperature say otherwise.
"""

import collections
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from slm_jax import gin_utils
from slm_jax.decoding.beam_search import BeamSearch
from slm_jax.decoding.decode import DecodingMethod
from slm_jax.decoding.greedy import Greedy
from slm_jax.decoding.sampling import Sampling
from slm_jax.evaluation import DecodedEvaluation
from slm_jax.inference import LoadedModel
from slm_jax.training import hosts
from slm_jax.training.bundle import SHIPPED

FLAGS = flags.FLAGS

flags.DEFINE_string("bundle", SHIPPED, "A bundle, or the MODEL_DIR of a run; by default the one of slm_jax.")
flags.DEFINE_multi_string("audio", [], "An audio file; more may follow it, or the flag may be given again.")
flags.DEFINE_string("prompt", None, "The instruction about audio files; by default the first one of the bundle.")
flags.DEFINE_string("task", None, "A SeqIO task to answer instead of audio files.")
flags.DEFINE_string("split", "test", "The task's split.")
flags.DEFINE_string("output", None, "A file for the lines; what it holds already is not done again.")
flags.DEFINE_integer("batch_size", 16, "Examples of a task decoded at once.")
flags.DEFINE_integer("beams", None, "Beams of beam search; 1 is greedy; by default what the experiment says.")
flags.DEFINE_float("temperature", 0.0, "Above 0, answers are sampled at this temperature.")
flags.DEFINE_integer("top_k", None, "Sample among this many most probable tokens; by default all.")
flags.DEFINE_float("top_p", 1.0, "Sample among the most probable tokens that have this probability together.")
flags.DEFINE_integer("seed", 0, "Of sampling; what is drawn for a task depends on --batch_size too.")


@dataclasses.dataclass(frozen=True)
class Work:
    """What is asked for.

    Attributes:
      facts: by row, from the first on, what the row must say: a file whose rows say something else is of other work.
      rows: gives the rows from a number on, the first being 0.
    """

    facts: Iterable[Mapping[str, Any]]
    rows: Callable[[int], Iterator[dict[str, Any]]]


def decoding_method() -> DecodingMethod | None:
    """What --beams, --temperature, --top_k and --top_p ask for; None if they are not given.

    Raises:
      ValueError: they do not go together, or one is out of range.
    """
    if FLAGS.temperature == 0:
        if FLAGS.top_k is not None or FLAGS.top_p != 1:
            raise ValueError("--top_k and --top_p are for sampling: give a --temperature above 0 too")
        if FLAGS.beams is None:
            return None
        return Greedy() if FLAGS.beams == 1 else BeamSearch(num_beams=FLAGS.beams)
    if FLAGS.beams is not None:
        raise ValueError(
            f"--beams={FLAGS.beams} searches and --temperature={FLAGS.temperature} samples: give only one of the two"
        )
    return Sampling(temperature=FLAGS.temperature, top_k=FLAGS.top_k, top_p=FLAGS.top_p)


def audio_work(model: LoadedModel, paths: Sequence[str], method: DecodingMethod | None) -> Work:
    """Answers about audio files.

    Raises:
      ValueError: there is no prompt.
    """
    prompt = FLAGS.prompt or next(iter(model.training.prompts.values()), "")
    if not prompt:
        raise ValueError(f"the bundle {FLAGS.bundle} has no prompt of its own: give one with --prompt")

    def rows(start: int) -> Iterator[dict[str, Any]]:
        return map(dataclasses.asdict, model.answer(paths, prompt, method=method, seed=FLAGS.seed, start=start))

    return Work([{"audio": path, "prompt": prompt} for path in paths], rows)


def task_work(model: LoadedModel, method: DecodingMethod | None) -> Work:
    """Answers to the examples of --task.

    Raises:
      ValueError: there is a --prompt, which a task does not take.
    """
    if FLAGS.prompt:
        raise ValueError("--prompt is about audio files; the examples of a task bring their own instructions")
    evaluation = DecodedEvaluation(
        task=FLAGS.task,
        split=FLAGS.split,
        task_feature_lengths=model.task_feature_lengths,
        method=method or model.method,
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
    )

    def facts(start: int) -> Iterator[dict[str, Any]]:
        return ({"task": FLAGS.task, "split": FLAGS.split, "number": number} for number in itertools.count(start))

    def rows(start: int) -> Iterator[dict[str, Any]]:
        predict = evaluation.predict(model.training.objective.model)
        predictions = evaluation.decode(predict, model.params, shard=model.shard, start=start)
        return (fact | dataclasses.asdict(row) for fact, row in zip(facts(start), predictions, strict=False))

    return Work(facts(0), rows)


def parse_row(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line with its newline; None if there is not exactly that."""
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    return row if isinstance(row, dict) and line.endswith(b"\n") else None


def difference(line: bytes, wanted: Mapping[str, Any] | None) -> str:
    """What speaks against a line being the row that is wanted (None: no row is); '' if nothing does."""
    row = parse_row(line)
    if row is None:
        return "this is not a JSON object"
    if wanted is None:
        return "there are more rows than are asked for"
    return ", ".join(
        f"{name} is {row.get(name)!r}, but {value!r} is asked for"
        for name, value in wanted.items()
        if row.get(name) != value
    )


def read_progress(path: pathlib.Path, facts: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """How many rows of the work a file holds, and their bytes; a last row that a kill has torn is in neither.

    Raises:
      ValueError: the file holds something else.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and lines[-1].startswith(b"{") and parse_row(lines[-1]) is None:
        lines.pop()
    asked = itertools.chain(facts, itertools.repeat(None))
    for number, line in enumerate(lines, 1):
        problem = difference(line, next(asked))
        if problem:
            raise ValueError(f"{path}, line {number}: {problem}. The file is of other work: choose another --output")
    return len(lines), sum(map(len, lines))


def write(work: Work) -> None:
    """Writes rows to --output, after those it holds, or to the terminal; of several processes the first writes.

    Raises:
      ValueError: --output holds something else.
    """
    path = None if FLAGS.output is None else pathlib.Path(FLAGS.output).expanduser()
    done, size = read_progress(path, work.facts) if path and hosts.is_first() else (0, 0)
    done = hosts.from_first(done)
    if not hosts.is_first():
        collections.deque(work.rows(done), maxlen=0)  # takes part in computing them
        return
    if path is None:
        for row in work.rows(0):
            print(json.dumps(row, ensure_ascii=False), flush=True)
        return
    new = 0
    with path.open("ab") as file:
        file.truncate(size)
        for row in work.rows(done):
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))
            file.flush()
            new += 1
    print(f"{path}: {done} rows were there, {new} are new", file=sys.stderr)


def main(arguments: Sequence[str]) -> None:
    """Answers audio files or a task.

    Raises:
      ValueError: flags do not go together, or --output holds other work.
    """
    paths = [*FLAGS.audio, *arguments]
    if bool(paths) == bool(FLAGS.task):
        raise ValueError("give either audio files (--audio) or a SeqIO task (--task)")
    method = decoding_method()
    gin_utils.set_up_jax()
    model = gin_utils.load_model(FLAGS.bundle)
    write(audio_work(model, paths, method) if paths else task_work(model, method))


if __name__ == "__main__":
    gin_utils.run(main)
