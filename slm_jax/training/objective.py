"""Teacher forcing: the cross-entropy of the language model's next token."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.models.interfaces import METRICS, LossOutput
from slm_jax.training.chunks import LogitsFn
from slm_jax.training.cross_entropy import chunked_cross_entropy
from slm_jax.typing import Array, Batch, Float, PRNGKey, PyTree

RNG_STREAMS = ("dropout", "specaugment", "discard")


@dataclasses.dataclass(frozen=True)
class TeacherForcing:
    """Sum of token cross-entropies of a speech-and-language model, with the model's own METRICS beside it.

    Attributes:
      model: called as `model(batch, training=...) -> hidden`, with a method `logits(hidden)`.
      z_loss: weight of log(Z)^2, which keeps the logits from drifting (T5X).
      label_smoothing: probability mass spread over the vocabulary.
      chunk_tokens: how many target positions of an example meet the vocabulary at once.
    """

    model: nn.Module
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    chunk_tokens: int = 128

    def init(self, rng: PRNGKey, batch: Batch) -> PyTree:
        """Random boxed parameters of every component that the batch uses."""
        return init_parameters(self.model, rng, batch)

    def loss(self, params: PyTree, batch: Batch, *, rng: PRNGKey, training: Collection[str] = ()) -> LossOutput:
        """Sums over the batch's target tokens."""
        hidden, told = hidden_states(self.model, params, batch, rng=rng, training=training)
        loss, sums = chunked_cross_entropy(
            output_head(self.model),
            params["lm"],
            hidden,
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            z_loss=self.z_loss,
            label_smoothing=self.label_smoothing,
            chunk_tokens=self.chunk_tokens,
        )
        return LossOutput(loss=loss, weight=sums.weight, metrics=sums.metrics() | told)


def init_parameters(model: nn.Module, rng: PRNGKey, batch: Batch) -> PyTree:
    """Random boxed parameters of every component of a speech-and-language model that the batch uses."""

    def forward(model: Any, batch: Batch) -> jax.Array:
        return model.logits(model(batch))

    keys = dict(zip(("params", *RNG_STREAMS), jax.random.split(rng, 1 + len(RNG_STREAMS)), strict=True))
    return model.init(keys, batch, method=forward)["params"]


def hidden_states(
    model: nn.Module, params: PyTree, batch: Batch, *, rng: PRNGKey, training: Collection[str] = ()
) -> tuple[Float[Array, "B L E"], dict[str, Any]]:
    """The language model's hidden states over the targets, and the model's own METRICS by name."""
    keys = dict(zip(RNG_STREAMS, jax.random.split(rng, len(RNG_STREAMS)), strict=True)) if training else {}
    hidden, told = model.apply({"params": params}, batch, training=training, rngs=keys, mutable=[METRICS])
    return hidden, told.get(METRICS, {})


def output_head(model: nn.Module) -> LogitsFn:
    """The model's `logits` as a function of the language model's parameters and hidden states."""

    def logits(lm_params: PyTree, hidden: jax.Array) -> jax.Array:
        scores: Any = model.apply({"params": {"lm": lm_params}}, hidden, method="logits")
        return scores

    return logits


def shuffle_speech(batch: Batch) -> Batch:
    """The batch with every utterance given to its neighbour: what a model that listens must suffer from."""
    keys = ("speech", "speech_length", "speech_embeddings", "speech_mask")
    return {name: jnp.roll(value, 1, axis=0) if name in keys else value for name, value in batch.items()}


def remove_speech(batch: Batch) -> Batch:
    """The batch with no speech frames at all: what the language model can guess from the instruction."""
    batch = dict(batch)
    for name in ("speech_length", "speech_mask"):
        if name in batch:
            batch[name] = jnp.zeros_like(batch[name])
    return batch


VARIANTS: Mapping[str, Callable[[Batch], Batch]] = {
    "true": lambda batch: batch,
    "shuffled": shuffle_speech,
    "no": remove_speech,
}
"""Versions of an evaluation batch by how much speech there is to listen to."""
