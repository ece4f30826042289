"""Evaluations in which the speech encoder's own transcript helps the language model, or stands in for the speech."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import numpy as np

from slm_jax.data.retrieval import retrieve
from slm_jax.data.turns import opening_length, turn_of
from slm_jax.data.vocabularies import Vocabulary
from slm_jax.evaluation import DecodedEvaluation, Predict, make_ctc_predict, pack_rows
from slm_jax.training import hosts
from slm_jax.typing import Array, Batch, Int, PRNGKey, PyTree

Rewrite = Callable[[Batch, list[str]], Batch]
"""From a batch and the transcripts of its rows to the batch that the model answers."""


def hear_first(answer: Predict, model: nn.Module, *, rewrite: Rewrite, vocabulary: Vocabulary) -> Predict:
    """Predicts by `answer` from batches that `rewrite` makes of the batch and of what the encoder's CTC head writes."""
    hear = make_ctc_predict(model.speech_encoder)

    def predict(params: PyTree, batch: Batch, rng: PRNGKey) -> Int[Array, "B L"]:
        tokens = np.asarray(hosts.gather(hear(params, batch, rng)))
        return answer(params, rewrite(batch, [vocabulary.decode(row.tolist()) for row in tokens]), rng)

    return predict


@dataclasses.dataclass(frozen=True)
class CascadeEvaluation(DecodedEvaluation):
    """What the language model answers to the CTC transcript in writing, without any speech."""

    def predict(self, model: nn.Module) -> Predict:
        """Writes answers with `model`, a speech-and-language model whose encoder has a CTC head."""
        return hear_first(super().predict(model), model, rewrite=self.rewrite, vocabulary=self.vocabulary)

    def rewrite(self, batch: Batch, heard: list[str]) -> Batch:
        """Transcript and instruction, as a text task has them."""
        instructions = [row[row > 0].tolist() for row in np.asarray(hosts.gather(batch["encoder_input_tokens"]))]
        before = opening_length(self.vocabulary)
        rows = [
            [*row[:before], *self.vocabulary.encode(text), *row[before:]]
            for text, row in zip(heard, instructions, strict=True)
        ]
        length = self.task_feature_lengths["inputs"] + self.task_feature_lengths["targets"]
        spoken = ("speech", "speech_length")
        written = {name: value for name, value in batch.items() if name not in spoken}
        return written | {"encoder_input_tokens": pack_rows(rows, length=length)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalEvaluation(DecodedEvaluation):
    """Answers to speech and an instruction with the names of a catalogue that are most like the CTC transcript.

    Attributes:
      catalogue: the names.
      prompt: the instruction, with {names} where the names go.
      limit: how many names it lists.
    """

    catalogue: tuple[str, ...]
    prompt: str
    limit: int = 10

    def predict(self, model: nn.Module) -> Predict:
        """Writes answers with `model`, a speech-and-language model whose encoder has a CTC head."""
        return hear_first(super().predict(model), model, rewrite=self.rewrite, vocabulary=self.vocabulary)

    def rewrite(self, batch: Batch, heard: list[str]) -> Batch:
        """The same speech under an instruction that lists names."""
        found = [retrieve(text, self.catalogue, limit=self.limit) for text in heard]
        prompts = [self.prompt.format(names=" ".join(names)) for names in found]
        rows = [turn_of(self.vocabulary).write(self.vocabulary.encode(prompt)) for prompt in prompts]
        return {**batch, "encoder_input_tokens": pack_rows(rows, length=self.task_feature_lengths["inputs"])}
