"""CTC of an adapter: teaches it what to hear, with the tokens' vectors of the language model but without running it."""

import dataclasses
from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from slm_jax.models.interfaces import LossOutput
from slm_jax.pretraining.ctc import ctc_output
from slm_jax.pretraining.letter_ctc import spell
from slm_jax.training.objective import RNG_STREAMS, init_parameters
from slm_jax.typing import Batch, PRNGKey, PyTree


@dataclasses.dataclass(frozen=True)
class AdapterCTCObjective:
    """CTC loss of what a speech-and-language model's `CTCTokenAdapter` hears, on `decoder_target_tokens`.

    The loss and its metrics are those of `CTCObjective`, a label being a piece of a token. A step costs what the
    adapter costs: the language model gives nothing but vectors of tokens.

    Attributes:
      model: a `SpeechLanguageModel` with a `CTCTokenAdapter`.
      pieces: what each token of the vocabulary is written with, all below the adapter's num_tokens and above 0
        (`data.tokenizers.pieces`); () for those that are not spoken, such as the end.
    """

    model: nn.Module
    pieces: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not any(self.pieces):
            raise ValueError("AdapterCTCObjective.pieces has none: take pieces() of the language model's vocabulary")

    def init(self, rng: PRNGKey, batch: Batch) -> PyTree:
        """Random boxed parameters of the whole model, so that its bundle fits every other objective."""
        return init_parameters(self.model, rng, batch)

    def loss(self, params: PyTree, batch: Batch, *, rng: PRNGKey, training: Collection[str] = ()) -> LossOutput:
        """Sums over the batch; components named in `training` run in training mode."""
        keys = dict(zip(RNG_STREAMS, jax.random.split(rng, len(RNG_STREAMS)), strict=True)) if training else {}
        frames: Any = self.model.apply({"params": params}, batch, training=training, rngs=keys, method="hear")
        tokens = batch["decoder_target_tokens"]
        # More labels than frames cannot be aligned; those that are cut off never count.
        size = frames.mask.shape[1]
        labels, lengths = spell(tokens, (tokens > 0).sum(axis=1), piece_table(self.pieces), size=size)
        return ctc_output(frames, labels, lengths)


def piece_table(pieces: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """The pieces of each token, filled up with -1: [V, P].

    ((1,), (), (1, 2)) -> [[1 -1] [-1 -1] [1 2]]
    """
    table = np.full((len(pieces), max(map(len, pieces))), -1, np.int32)
    for token, row in enumerate(pieces):
        table[token, : len(row)] = row
    return table
