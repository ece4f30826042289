"""A trained bundle with its frozen parts, ready to answer: from audio files, or over SeqIO tasks."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from slm_jax.data.audio_io import SAMPLE_RATE, read_audio
from slm_jax.data.turns import turn_of
from slm_jax.data.vocabularies import Vocabulary
from slm_jax.decoding.decode import DecodingMethod
from slm_jax.decoding.greedy import Greedy
from slm_jax.evaluation import make_predict
from slm_jax.training import hosts, restore
from slm_jax.training.partitioning import Partitioner, make_mesh
from slm_jax.training.run import Training
from slm_jax.typing import Batch, PyTree

ROUND_TO = SAMPLE_RATE
"""Speech is padded to whole seconds, so that files of like length share one compiled program."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model wrote about one recording."""

    audio: str
    prompt: str
    prediction: str
    audio_seconds: float


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A whole model in memory.

    Attributes:
      training: the run whose configuration it has.
      params: all parameters, laid out by the partitioner.
      partitioner: over the mesh of training in a job of several processes, over one device otherwise.
      vocabulary: of instructions and answers.
      task_feature_lengths: what it was trained for: longest speech (samples), inputs and targets (tokens).
      report: where each parameter came from, as a table.
      method: how its answers are written, unless something else is asked for.
    """

    training: Training
    params: PyTree
    partitioner: Partitioner
    vocabulary: Vocabulary
    task_feature_lengths: Mapping[str, int]
    report: str
    method: DecodingMethod = Greedy()

    @classmethod
    def load(
        cls,
        training: Training,
        *,
        directory: str | os.PathLike[str],
        vocabulary: Vocabulary,
        task_feature_lengths: Mapping[str, int],
        method: DecodingMethod = Greedy(),  # noqa: B008
    ) -> "LoadedModel":
        """The bundle in `directory` on the frozen parts that `training` names; nothing is initialised.

        Raises:
          FileNotFoundError: there is no bundle.
          slm_jax.training.bundle.IncompatibleBundleError: a frozen part is not the one the bundle was trained on.
          slm_jax.training.restore.RestoreError: parameters are missing or do not fit.
        """
        supply = restore.read_initial(directory)
        assembled = restore.assemble_parameters(
            training.shapes, trainable_patterns=training.trainable, sources=training.sources, initial=supply
        )
        restore.check_initial(supply, assembled, identity=training.settings_identity())
        partitioner = partitioner_of(training)
        params = jax.tree.map(hosts.put, assembled.parameters, partitioner.shardings(training.boxed_shapes))
        return cls(training, params, partitioner, vocabulary, task_feature_lengths, assembled.report.table(), method)

    def shard(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """A batch on the devices: split between them, or a copy on each where its rows cannot be shared out evenly."""
        even = len(next(iter(batch.values()))) % self.partitioner.batch_ways == 0
        return self.partitioner.shard_batch(batch) if even else self.partitioner.copy_batch(batch)

    def answer(
        self,
        paths: Sequence[str],
        prompt: str,
        *,
        method: DecodingMethod | None = None,
        seed: int = 0,
        start: int = 0,
    ) -> Iterator[Answer]:
        """One answer a file, in order.

        Args:
          paths: the audio files.
          prompt: the instruction.
          method: the model's own, if None.
          seed: with a file's number it decides what a method that samples draws.
          start: the number of the first file that is answered; each answer is the one it is without a `start`.

        Raises:
          FileNotFoundError, slm_jax.data.audio_io.AudioError: a file cannot be used.
          ValueError: a recording or the prompt is longer than the model was trained for.
        """
        predict = make_predict(
            self.training.objective.model,
            method or self.method,
            max_decode_length=self.task_feature_lengths["targets"],
            start_token=turn_of(self.vocabulary).start_id,
            eos_id=self.vocabulary.eos_id,
        )
        instruction = self.instruction(prompt)
        for number, path in enumerate(paths[start:], start):
            speech = read_audio(path)
            self.check_length(path, len(speech))
            padded = np.zeros((1, -(-len(speech) // ROUND_TO) * ROUND_TO), np.float32)
            padded[0, : len(speech)] = speech
            batch = {
                "speech": padded,
                "speech_length": np.array([len(speech)], np.int32),
                "encoder_input_tokens": instruction,
            }
            key = jax.random.fold_in(jax.random.key(seed), number)
            tokens = np.asarray(hosts.gather(predict(self.params, self.shard(batch), key)))[0]
            yield Answer(path, prompt, self.vocabulary.decode(tokens.tolist()), len(speech) / SAMPLE_RATE)

    def instruction(self, prompt: str) -> np.ndarray:
        """The prompt's tokens [1, I], padded to the length the model was trained for."""
        tokens = turn_of(self.vocabulary).write(self.vocabulary.encode(prompt))
        longest = self.task_feature_lengths["inputs"]
        if len(tokens) > longest:
            raise ValueError(f"The prompt has {len(tokens)} tokens, more than the {longest} of training: shorten it.")
        return np.array([tokens + [0] * (longest - len(tokens))], np.int32)

    def check_length(self, path: str, samples: int) -> None:
        longest = self.task_feature_lengths["speech"]
        if samples > longest:
            raise ValueError(
                f"{path} lasts {samples / SAMPLE_RATE:.1f} s; the model was trained for at most "
                f"{longest / SAMPLE_RATE:.1f} s. Cut the recording into sentences."
            )


def partitioner_of(training: Training) -> Partitioner:
    """Where a model that answers lies: on the mesh of its training if there are several processes, else on a device."""
    alone = jax.process_count() == 1
    mesh = make_mesh(devices=jax.devices()[:1]) if alone else training.mesh or make_mesh()
    return dataclasses.replace(training, mesh=mesh).partitioner()
