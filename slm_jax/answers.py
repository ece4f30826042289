"""What the frozen language model answers, in writing, to instructions about the texts of a manifest.

    python -m slm_jax.answers --gin_file=FILE --manifest=corpus/train.tsv --output=corpus/instructed.jsonl

FILE is an experiment's gin file, with its --gin. flags. The output is a manifest of the same recordings: each row has
an instruction and, as its target, the answer to the instruction about the text. An adapter that is trained on it learns
to let the language model do with speech what it does with text.
"""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence

import gin
import jax
import numpy as np
import tqdm
from absl import flags

from slm_jax import gin_utils
from slm_jax.data.manifest import Row, parse_manifest
from slm_jax.data.prompts import INSTRUCT
from slm_jax.data.turns import turn_of
from slm_jax.data.vocabularies import Vocabulary
from slm_jax.decoding.greedy import Greedy
from slm_jax.evaluation import make_predict, pack_rows
from slm_jax.training.run import Training
from slm_jax.typing import PyTree
from slm_jax.weights import foundation

FLAGS = flags.FLAGS

flags.DEFINE_string("manifest", None, "Recordings and their texts (slm_jax/data/manifest.py).", required=True)
flags.DEFINE_string("output", None, "The manifest to write, a .jsonl file.", required=True)
flags.DEFINE_integer("limit", None, "Rows of the manifest that are taken, from the first on; by default all.")
flags.DEFINE_boolean("unseen", False, "Take the wordings that are kept for evaluation.")
flags.DEFINE_boolean("transcripts", False, "Write each recording once more, to be transcribed.")
flags.DEFINE_integer("answer_length", 48, "Tokens of an answer, its end included; longer ones are left out.")
flags.DEFINE_integer("answer_batch_size", 32, "Texts answered at once.")

ROUND_TO = 16
"""Texts are padded to a multiple of so many tokens, so that those of like length share one compiled program."""
COMPONENT = "lm"


@dataclasses.dataclass(frozen=True)
class Writer:
    """The language model alone, answering in writing.

    Attributes:
      training: the experiment; its model's language model answers.
      params: of the language model.
      vocabulary: its tokens.
      answer_length: tokens written at most.
    """

    training: Training
    params: PyTree
    vocabulary: Vocabulary
    answer_length: int

    def answer(self, texts: Sequence[str], instructions: Sequence[str]) -> list[str | None]:
        """One answer a text; None where there is no end to it. The instruction has a line of its own."""
        turn, encode = turn_of(self.vocabulary), self.vocabulary.encode
        asked = [turn.write(encode(f"{text}\n"), encode(task)) for text, task in zip(texts, instructions, strict=True)]
        length = -(-max(map(len, asked)) // ROUND_TO) * ROUND_TO
        predict = make_predict(
            self.training.objective.model,
            Greedy(),
            max_decode_length=self.answer_length,
            start_token=turn.start_id,
            eos_id=self.vocabulary.eos_id,
        )
        batch = {"encoder_input_tokens": pack_rows(asked, length=length)}
        written = np.asarray(predict({COMPONENT: self.params}, batch, jax.random.key(0))).tolist()
        return [self.vocabulary.decode(row) if self.vocabulary.eos_id in row else None for row in written]


def load_writer() -> Writer:
    """The language model of the experiment on the command line.

    Raises:
      FileNotFoundError: the experiment does not say where it comes from.
    """
    training = gin.get_configurable(Training)()
    if COMPONENT not in training.sources:
        raise FileNotFoundError(f"run.Training.sources has no {COMPONENT!r}: only a trained language model has answers")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, training.frozen_dtype), training.shapes[COMPONENT])
    loaded = foundation.load_component(training.sources[COMPONENT], component=COMPONENT, shapes=shapes)
    params = jax.device_put(loaded.parameters)
    return Writer(training, params, gin_utils.checked_vocabulary(training), FLAGS.answer_length)


def instructed(rows: Sequence[Row], *, unseen: bool) -> Iterator[tuple[Row, str]]:
    """Each row with an instruction; they take turns."""
    return zip(rows, itertools.cycle(INSTRUCT.unseen if unseen else INSTRUCT.trained), strict=False)


def written_rows(writer: Writer, rows: Sequence[Row], *, folder: pathlib.Path) -> Iterator[list[dict[str, str]]]:
    """What each row becomes: nothing where the answer has no end or is empty."""
    asked = instructed(rows, unseen=FLAGS.unseen)
    while batch := list(itertools.islice(asked, FLAGS.answer_batch_size)):
        # A last batch that is not full is filled up, so that it needs no program of its own.
        texts, instructions = ([*part, *[part[0]] * (FLAGS.answer_batch_size - len(part))] for part in _columns(batch))
        for (row, instruction), answer in zip(batch, writer.answer(texts, instructions), strict=False):
            known = {"audio": audio_path(row.audio, folder=folder), "text": row.text}
            plain = [known] if FLAGS.transcripts else []
            yield [known | {"prompt": instruction, "target": answer}, *plain] if answer else plain


def _columns(batch: Sequence[tuple[Row, str]]) -> tuple[list[str], list[str]]:
    return [row.text for row, _ in batch], [instruction for _, instruction in batch]


def audio_path(path: str, *, folder: pathlib.Path) -> str:
    """A path as a manifest in `folder` has it: relative where it lies below."""
    relative = os.path.relpath(path, folder)
    return os.path.abspath(path) if relative.startswith(os.pardir) else relative


def main(unused: Sequence[str]) -> None:
    """Writes one manifest.

    Raises:
      FileNotFoundError, ValueError: there is no manifest, no language model, or the output is of another kind.
    """
    output = pathlib.Path(FLAGS.output).expanduser()
    if output.suffix != ".jsonl":
        raise ValueError(f"--output={output} has to end in .jsonl")
    rows, _ = parse_manifest(FLAGS.manifest)
    rows = rows[: FLAGS.limit]
    gin_utils.parse_configuration()
    gin_utils.set_up_jax()
    writer = load_writer()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial, without = output.with_name(output.name + ".partial"), 0
    with partial.open("w", encoding="utf-8") as file:
        progress = tqdm.tqdm(written_rows(writer, rows, folder=output.parent), total=len(rows), unit=" texts")
        for made in progress:
            without += not any("target" in row for row in made)
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    partial.rename(output)
    told = f"{without} were empty or had no end after {FLAGS.answer_length} tokens"
    print(f"{output}: {len(rows) - without} answers; {told}")


if __name__ == "__main__":
    gin_utils.run(main, join=gin_utils.stay_alone)
