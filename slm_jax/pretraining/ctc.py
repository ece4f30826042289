"""Connectionist temporal classification: trains a speech encoder and its CTC head from transcripts."""

import dataclasses
from collections.abc import Collection
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from slm_jax.layers.masks import length_mask
from slm_jax.models.interfaces import EncoderOutput, LossOutput
from slm_jax.typing import Array, Batch, Bool, Float, Int, PRNGKey, PyTree

RNG_STREAMS = ("dropout", "specaugment")


def label_lengths(tokens: Int[Array, "B L"], *, eos_id: int) -> Int[Array, "B"]:
    """Number of tokens before the padding (0), not counting an end-of-sequence token that closes them.

    eos_id 1:  [7 5 1 0] -> 2    [7 5 0 0] -> 2    [1 0 0 0] -> 0
    """
    lengths = jnp.sum(tokens > 0, axis=1)
    last = jnp.take_along_axis(tokens, jnp.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
    return lengths - (last == eos_id)


def required_frames(labels: Int[Array, "B L"], lengths: Int[Array, "B"]) -> Int[Array, "B"]:
    """Fewest frames that can spell the labels: one a label, and a blank between equal neighbours.

    [7 7 5] -> 4
    """
    repeated = (labels[:, 1:] == labels[:, :-1]) & length_mask(lengths, labels.shape[1])[:, 1:]
    return lengths + jnp.sum(repeated, axis=1)


class CTCSums(NamedTuple):
    """Sums over a batch.

    Attributes:
      loss: of the utterances that are not infeasible, in nats.
      labels: how many these have.
      infeasible: utterances with fewer frames than their labels need.
      utterances: all of them.
    """

    loss: Float[Array, ""]
    labels: Float[Array, ""]
    infeasible: Float[Array, ""]
    utterances: Float[Array, ""]


def ctc_sums(
    logits: Float[Array, "B S C"], mask: Bool[Array, "B S"], labels: Int[Array, "B L"], lengths: Int[Array, "B"]
) -> CTCSums:
    """CTC loss of labels, of which only the first `lengths` count; the blank is the last class.

    `labels` may be shorter than `lengths` says where the frames do not suffice anyway.
    """
    real = length_mask(lengths, labels.shape[1])
    losses = optax.ctc_loss(logits, 1.0 - mask, jnp.where(real, labels, 0), 1.0 - real, blank_id=logits.shape[-1] - 1)
    num_frames = mask.sum(axis=1)
    feasible = num_frames >= required_frames(labels, lengths)
    # Zero before the sum, not after it: an infeasible loss is astronomically large.
    return CTCSums(
        loss=jnp.sum(jnp.where(feasible & (num_frames > 0), losses, 0)),
        labels=jnp.sum(jnp.where(feasible, lengths, 0)).astype(jnp.float32),
        infeasible=jnp.sum(~feasible).astype(jnp.float32),
        utterances=jnp.sum((num_frames > 0) | (lengths > 0)).astype(jnp.float32),
    )


def ctc_output(frames: EncoderOutput, labels: Int[Array, "B L"], lengths: Int[Array, "B"]) -> LossOutput:
    """Loss and metrics of frames with CTC scores, see `CTCObjective`; the arguments are those of `ctc_sums`."""
    logits, mask = frames.ctc_logits, frames.mask
    sums = ctc_sums(logits, mask, labels, lengths)
    blank = jnp.sum((jnp.argmax(logits, axis=-1) == logits.shape[-1] - 1) & mask).astype(jnp.float32)
    metrics = {
        "ctc_infeasible": (sums.infeasible, sums.utterances),
        "ctc_blank_frames": (blank, mask.sum().astype(jnp.float32)),
    }
    return LossOutput(loss=sums.loss, weight=sums.labels, metrics=metrics)


@dataclasses.dataclass(frozen=True)
class CTCObjective:
    """CTC loss (Graves et al., ICML 2006) of a speech encoder on `decoder_target_tokens`.

    The sum over utterances of -log p(labels | speech); its weight is the number of labels. An utterance with fewer
    frames than its labels need has probability 0: it is left out of the loss and of the weight, and counted in the
    metric `ctc_infeasible` (fraction of the utterances of the batch).

    Attributes:
      speech_encoder: a linen `SpeechEncoder` with a CTC head, blank last.
      eos_id: the token that ends `decoder_target_tokens`; it is not spoken, so it is no label.

    Raises:
      ValueError: in `init` and `loss`, if the encoder has no CTC head.
    """

    speech_encoder: nn.Module
    eos_id: int = 1

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        return self.speech_encoder

    def init(self, rng: PRNGKey, batch: Batch) -> PyTree:
        """Random boxed parameters, {"speech_encoder": ...}."""
        variables = self.speech_encoder.init(rng, batch["speech"], batch["speech_length"])
        return {"speech_encoder": variables["params"]}

    def loss(self, params: PyTree, batch: Batch, *, rng: PRNGKey, training: Collection[str] = ()) -> LossOutput:
        """Sums over the batch; the encoder is in training mode if `training` names "speech_encoder"."""
        return self.sums(self.hear(params, batch, rng=rng, training=training), batch)

    def hear(self, params: PyTree, batch: Batch, *, rng: PRNGKey, training: Collection[str] = ()) -> EncoderOutput:
        """The encoder's frames, with scores."""
        deterministic = "speech_encoder" not in training
        keys = dict(zip(RNG_STREAMS, jax.random.split(rng, len(RNG_STREAMS)), strict=True))
        frames: Any = self.speech_encoder.apply(
            {"params": params["speech_encoder"]},
            batch["speech"],
            batch["speech_length"],
            deterministic=deterministic,
            rngs={} if deterministic else keys,
        )
        if frames.ctc_logits is None:
            raise ValueError("CTCObjective needs an encoder with a CTC head: set ctc_vocab_size of the speech encoder.")
        return frames

    def sums(self, frames: EncoderOutput, batch: Batch) -> LossOutput:
        """What `loss` returns, from frames."""
        tokens = batch["decoder_target_tokens"]
        return ctc_output(frames, tokens, label_lengths(tokens, eos_id=self.eos_id))
