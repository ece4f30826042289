"""CTC on tokens, and on their letters: what a token sounds like is learned from all tokens that share its letters."""

import dataclasses
import functools
from collections.abc import Collection, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slm_jax.layers.masks import length_mask
from slm_jax.models.interfaces import EncoderOutput, LossOutput
from slm_jax.pretraining.ctc import CTCObjective, ctc_sums, label_lengths
from slm_jax.typing import Array, Batch, Bool, Float, Int, PRNGKey, PyTree

HEAD = "letter_head"
"""The component that is trained besides the speech encoder, and not needed afterwards."""


@functools.cache
def letter_table(spellings: tuple[str, ...]) -> np.ndarray:
    """Letters of each token, numbered from 0 in the order of their code points and filled up with -1: [V, P].

    ("ab", "", "b") -> [[0 1] [-1 -1] [1 -1]]
    """
    numbers = {letter: number for number, letter in enumerate(sorted(set("".join(spellings))))}
    return piece_table([[numbers[letter] for letter in spelling] for spelling in spellings])


def piece_table(pieces: Sequence[Sequence[int]]) -> np.ndarray:
    """The pieces of each token, filled up with -1: [V, P].

    ((1,), (), (1, 2)) -> [[1 -1] [-1 -1] [1 2]]
    """
    table = np.full((len(pieces), max(map(len, pieces))), -1, np.int32)
    for token, row in enumerate(pieces):
        table[token, : len(row)] = row
    return table


def spell(
    tokens: Int[Array, "B L"], lengths: Int[Array, "B"], table: Int[np.ndarray, "V P"], *, size: int
) -> tuple[Int[Array, "B K"], Int[Array, "B"]]:
    """The letters of the first `lengths` tokens, at most `size` of them, and how many there are in all.

    table [[0 1] [1 -1]], tokens [1 0 1], length 2 -> [1 0 1 ...], 3
    """
    letters = jnp.where(length_mask(lengths, tokens.shape[1])[..., None], jnp.asarray(table)[tokens], -1)
    letters = letters.reshape(tokens.shape[0], -1)
    # A stable sort by "is no letter" moves the letters to the left and keeps their order.
    order = jnp.argsort(letters < 0, axis=1, stable=True)[:, :size]
    packed = jnp.take_along_axis(letters, order, axis=1)
    return jnp.maximum(packed, 0), (letters >= 0).sum(axis=1)


@dataclasses.dataclass(frozen=True)
class LetterCTCObjective:
    """`CTCObjective`, and a CTC loss of the letters that its tokens are spelled with.

    A linear layer of its own writes several letters a frame, since there are more letters than frames; it is left
    behind after training. The loss is CTC of tokens plus `letter_weight` times CTC of letters, the weight stays the
    number of tokens. Metrics besides those of `CTCObjective`: `token_loss`, a token; `letter_loss`, a letter;
    `letters_infeasible`, utterances with too few frames for their letters, which the letters' loss leaves out.

    Several granularities from one encoder: Sanabria and Metze (arXiv 1807.06234).

    Attributes:
      ctc: the objective on tokens.
      spellings: what each token is written as; "" for those that are not spoken.
      letter_weight: of the letters' loss.
      letters_per_frame: steps of the letters' alignment in a frame.
    """

    ctc: CTCObjective
    spellings: tuple[str, ...]
    letter_weight: float = 0.3
    letters_per_frame: int = 3

    def __post_init__(self) -> None:
        if not any(self.spellings):
            raise ValueError("LetterCTCObjective.spellings has no letter; take spellings() of the tokens' vocabulary.")
        if self.letter_weight < 0 or self.letters_per_frame < 1:
            raise ValueError(
                "LetterCTCObjective needs letter_weight of at least 0 and letters_per_frame of at least 1, got "
                f"{self.letter_weight} and {self.letters_per_frame}"
            )

    @property
    def model(self) -> nn.Module:
        """What is trained for its own sake."""
        return self.ctc.model

    @property
    def num_classes(self) -> int:
        """Letters and the blank, which is the last."""
        return int(letter_table(self.spellings).max()) + 2

    def init(self, rng: PRNGKey, batch: Batch) -> PyTree:
        """Random boxed parameters, {"speech_encoder": ..., "letter_head": ...}."""
        encoder_key, head_key = jax.random.split(rng)
        encoder = self.ctc.speech_encoder
        frames, variables = encoder.init_with_output(encoder_key, batch["speech"], batch["speech_length"])
        shape = (frames.embeddings.shape[-1], self.letters_per_frame * self.num_classes)
        kernel = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "vocab"))
        bias = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("vocab",))
        head = {"kernel": kernel(head_key, shape), "bias": bias(head_key, shape[1:])}
        return {"speech_encoder": variables["params"], HEAD: head}

    def loss(self, params: PyTree, batch: Batch, *, rng: PRNGKey, training: Collection[str] = ()) -> LossOutput:
        """Sums over the batch; the encoder is in training mode if `training` names "speech_encoder"."""
        frames = self.ctc.hear(params, batch, rng=rng, training=training)
        tokens = self.ctc.sums(frames, batch)
        logits, mask = self.letter_logits(params[HEAD], frames)
        labels = batch["decoder_target_tokens"]
        lengths = label_lengths(labels, eos_id=self.ctc.eos_id)
        # More letters than steps cannot be aligned; those that are cut off never count.
        letters, letter_lengths = spell(labels, lengths, letter_table(self.spellings), size=logits.shape[1])
        sums = ctc_sums(logits, mask, letters, letter_lengths)
        metrics = {
            **tokens.metrics,
            "token_loss": (tokens.loss, tokens.weight),
            "letter_loss": (sums.loss, sums.labels),
            "letters_infeasible": (sums.infeasible, sums.utterances),
        }
        return LossOutput(loss=tokens.loss + self.letter_weight * sums.loss, weight=tokens.weight, metrics=metrics)

    def letter_logits(self, head: PyTree, frames: EncoderOutput) -> tuple[Float[Array, "B X C"], Bool[Array, "B X"]]:
        """Scores of letters at `letters_per_frame` steps a frame, and which steps are real."""
        scores = frames.embeddings.astype(jnp.float32) @ head["kernel"] + head["bias"]
        scores = scores.reshape(scores.shape[0], -1, self.num_classes)
        return scores, jnp.repeat(frames.mask, self.letters_per_frame, axis=1)
