"""Decoded evaluation: a model writes answers to a SeqIO task, and the task's metrics score them."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slm_jax.data import pipeline
from slm_jax.data.turns import turn_of
from slm_jax.data.vocabularies import Vocabulary
from slm_jax.decoding.ctc import ctc_greedy
from slm_jax.decoding.decode import DecodingMethod, decode
from slm_jax.decoding.greedy import Greedy
from slm_jax.training import hosts
from slm_jax.typing import Array, Batch, Int, PRNGKey, PyTree

Predict = Callable[[PyTree, Batch, PRNGKey], Int[Array, "B L"]]
Examples: TypeAlias = tuple[Mapping[str, Any], Sequence[Mapping[str, str]]]
"""A batch, and the instruction and the reference of its rows: "inputs", "targets"."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One example as a person reads it."""

    inputs: str
    target: str
    prediction: str


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Scores by metric, and what they were computed from."""

    scores: dict[str, float]
    predictions: list[Prediction]


@functools.cache
def make_predict(
    model: nn.Module, method: DecodingMethod, *, max_decode_length: int, start_token: int, eos_id: int
) -> Predict:
    """A jitted function from parameters, batch and key to decoded tokens; one for all that decode alike.

    Args:
      model: has `prefill(batch, max_decode_length=...)` and `step(tokens, cache, index)`.
      method: greedy, sampling or beam search.
      max_decode_length: tokens written at most, the end included.
      start_token: the first input of the decoder.
      eos_id: the token that ends an answer.
    """

    def predict(params: PyTree, batch: Batch, rng: PRNGKey) -> Int[Array, "B L"]:
        variables = {"params": params}
        cache: Any = model.apply(variables, batch, max_decode_length=max_decode_length, method="prefill")

        def step(tokens: jax.Array, cache: Any, index: jax.Array) -> tuple[jax.Array, Any]:
            return model.apply(variables, tokens, cache, index, method="step")

        return decode(
            step,
            cache,
            batch_size=batch["encoder_input_tokens"].shape[0],
            method=method,
            max_length=max_decode_length,
            start_token=start_token,
            eos_id=eos_id,
            key=rng,
        ).tokens

    return jax.jit(predict)


@functools.cache
def make_ctc_predict(speech_encoder: nn.Module) -> Predict:
    """The same for the greedy output of an encoder's CTC head, without any language model."""

    def predict(params: PyTree, batch: Batch, rng: PRNGKey) -> Int[Array, "B L"]:
        variables = {"params": params["speech_encoder"]}
        frames: Any = speech_encoder.apply(variables, batch["speech"], batch["speech_length"])
        return ctc_greedy(frames.ctc_logits, frames.mask)[0]

    return jax.jit(predict)


@functools.cache
def make_adapter_ctc_predict(model: nn.Module) -> Predict:
    """The same for the adapter of a speech-and-language model, if that has CTC of its own."""

    def predict(params: PyTree, batch: Batch, rng: PRNGKey) -> Int[Array, "B L"]:
        frames: Any = model.apply({"params": params}, batch, method="hear")
        return ctc_greedy(frames.ctc_logits, frames.mask)[0]

    return jax.jit(predict)


def pack_rows(rows: Sequence[Sequence[int]], *, length: int) -> Int[Array, "B I"]:
    """Token lists as rows, padded with zeros.

    Raises:
      ValueError: if a row is longer than `length`.
    """
    longest = max(map(len, rows))
    if longest > length:
        raise ValueError(
            f"an instruction has {longest} tokens, more than the {length} of task_feature_lengths: raise its 'inputs'"
        )
    return jnp.array([[*row, *[0] * (length - len(row))] for row in rows], jnp.int32)


@dataclasses.dataclass(frozen=True)
class DecodedEvaluation:
    """What to decode, and how.

    Attributes:
      task: a registered SeqIO task; its metric functions score the answers.
      split: of the task.
      task_feature_lengths: longest speech (samples), inputs and targets (tokens).
      method: greedy, sampling or beam search.
      batch_size: rows decoded at once.
      max_decode_length: tokens written at most; None for the length of the targets.
      seed: of methods that sample; what they draw depends on `batch_size` too.
      use_cached: read the task's cache, as training does.
    """

    task: str
    split: str
    task_feature_lengths: Mapping[str, int]
    method: DecodingMethod = Greedy()
    batch_size: int = 32
    max_decode_length: int | None = None
    seed: int = 0
    use_cached: bool = False

    def predict(self, model: nn.Module) -> Predict:
        """Writes answers with `model`, a speech-and-language model."""
        return make_predict(
            model,
            self.method,
            max_decode_length=self.max_decode_length or self.task_feature_lengths["targets"],
            start_token=turn_of(self.vocabulary).start_id,
            eos_id=self.vocabulary.eos_id,
        )

    @property
    def vocabulary(self) -> Vocabulary:
        return pipeline.get_mixture_or_task(self.task).output_features["targets"].vocabulary

    def examples(self) -> Iterator[Examples]:
        """The batches of the split in its order, each with the texts of its real rows."""
        return pipeline.eval_examples(
            self.task,
            task_feature_lengths=self.task_feature_lengths,
            split=self.split,
            batch_size=self.batch_size,
            use_cached=self.use_cached,
        )

    def decode(
        self,
        predict: Predict,
        params: PyTree,
        *,
        shard: Callable = jax.device_put,
        start: int = 0,
        examples: Iterable[Examples] | None = None,
    ) -> Iterator[Prediction]:
        """The examples of the split from number `start` on, in its order, as they are decoded.

        Args:
          predict: decodes a batch.
          params: its parameters.
          shard: puts a batch on the devices.
          start: examples left out at the beginning.
          examples: what `examples()` gave, if it is at hand.
        """
        chosen = enumerate(self.examples() if examples is None else examples)
        for number, (batch, texts) in itertools.islice(chosen, start // self.batch_size, None):
            key = jax.random.fold_in(jax.random.key(self.seed), number)
            tokens = np.asarray(hosts.gather(predict(params, shard(batch), key)))
            rows = zip(tokens.tolist(), texts, strict=False)  # empty rows have no texts
            for row, text in itertools.islice(rows, max(0, start - number * self.batch_size), None):
                yield Prediction(text["inputs"], text["targets"], self.vocabulary.decode(row))

    def run(
        self,
        predict: Predict,
        params: PyTree,
        *,
        shard: Callable = jax.device_put,
        examples: Iterable[Examples] | None = None,
    ) -> Evaluated:
        """Scores of the whole split; the arguments are those of `decode`."""
        predictions = list(self.decode(predict, params, shard=shard, examples=examples))
        return Evaluated(self.score(predictions), predictions)

    def score(self, predictions: list[Prediction]) -> dict[str, float]:
        """The task's metrics over what was decoded."""
        targets = [prediction.target for prediction in predictions]
        written = [prediction.prediction for prediction in predictions]
        scores: dict[str, float] = {}
        for metric in pipeline.get_mixture_or_task(self.task).metric_fns:
            scores |= {name: float(value) for name, value in metric(targets, written).items()}
        return scores


@dataclasses.dataclass(frozen=True)
class CTCEvaluation(DecodedEvaluation):
    """What a speech encoder's own CTC head writes; `method` does not matter."""

    def predict(self, model: nn.Module) -> Predict:
        """Writes transcripts with `model`, a speech encoder or what has one."""
        return make_ctc_predict(getattr(model, "speech_encoder", model))


@dataclasses.dataclass(frozen=True)
class AdapterCTCEvaluation(DecodedEvaluation):
    """What the CTC of an adapter writes, without the language model; `method` does not matter."""

    def predict(self, model: nn.Module) -> Predict:
        """Writes transcripts with `model`, a speech-and-language model."""
        return make_adapter_ctc_predict(model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordedEvaluation(DecodedEvaluation):
    """Answers to the examples of a task under another wording of its instruction.

    Attributes:
      prompt: the instruction; `Prediction.inputs` still shows the task's.
    """

    prompt: str

    def predict(self, model: nn.Module) -> Predict:
        """Writes answers with `model`, a speech-and-language model."""
        answer = super().predict(model)
        row = turn_of(self.vocabulary).write(self.vocabulary.encode(self.prompt))
        length = self.task_feature_lengths["inputs"]

        def predict(params: PyTree, batch: Batch, rng: PRNGKey) -> Int[Array, "B L"]:
            rows = pack_rows([row] * batch["encoder_input_tokens"].shape[0], length=length)
            return answer(params, {**batch, "encoder_input_tokens": rows}, rng)

        return predict
