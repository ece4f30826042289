"""CTC of an adapter: teaches it what to hear, with the tokens' vectors of the language model but without running it."""

import dataclasses
from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.models.interfaces import LossOutput
from slm_jax.models.reducers import fraction_of, require_fractions
from slm_jax.pretraining.ctc import ctc_output
from slm_jax.pretraining.letter_ctc import piece_table, spell
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
      labels_per_frame: most labels of an utterance, as a fraction of the frames of its batch; utterances with more
        count as infeasible. CTC computes as many as that for every frame, needed or not.

    Raises:
      ValueError: there are no pieces, or labels_per_frame is not in (0, 1].
    """

    model: nn.Module
    pieces: tuple[tuple[int, ...], ...]
    labels_per_frame: float = 1.0

    def __post_init__(self) -> None:
        require_fractions(self, "labels_per_frame")
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
        num_frames = frames.mask.shape[1]
        size = fraction_of(num_frames, self.labels_per_frame)
        labels, lengths = spell(tokens, (tokens > 0).sum(axis=1), piece_table(self.pieces), size=size)
        # What is cut off never counts: nothing has more labels than frames.
        return ctc_output(frames, labels, jnp.where(lengths > size, num_frames + 1, lengths))
