"""Prompt tuning around speech: a written text whose vectors are trained with the adapter."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from slm_jax.layers.masks import insert_left
from slm_jax.models.interfaces import Adapter, Embed, EncoderOutput


class PromptedAdapter(nn.Module):
    """An adapter between two texts that the language model reads around speech (prompt tuning, arXiv 2104.08691).

    speech [a b _], before "x y", behind "z" -> [x' y' a b z' _]

    Each token of the texts is its vector plus a trained one that starts at zero: before training the texts are what
    they say, and training makes of them what the language model needs to be told. Rows without speech get none.

    Attributes:
      adapter: frames to vectors of the language model's width.
      before: ids of the text in front of what the adapter makes (`data.tokenizers.written`).
      behind: ids of the text behind it.

    Raises:
      ValueError: both texts are empty, or an id is that of padding or below.
    """

    adapter: Adapter
    before: Sequence[int] = ()
    behind: Sequence[int] = ()

    def __post_init__(self) -> None:
        ids = [*self.before, *self.behind]
        if not ids or min(ids) <= 0:
            raise ValueError(f"PromptedAdapter needs a text before or behind speech, with ids above 0, not {ids}")
        super().__post_init__()

    def output_length(self, num_frames: int) -> int:
        """Vectors that come out of `num_frames` frames."""
        return self.adapter.output_length(num_frames) + len(self.before) + len(self.behind)

    @nn.compact
    def __call__(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        adapted = self.adapter(frames, embed, deterministic=deterministic)
        text = embed(jnp.array([[*self.before, *self.behind]]))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), (None, "embed"))
        trained = self.param("vectors", zeros, text.shape[1:], jnp.float32)
        spoken = jnp.sum(adapted.mask, axis=1)
        rows = jnp.broadcast_to(text + trained.astype(text.dtype), (len(spoken), *text.shape[1:]))
        vectors, mask = insert_left(
            rows,
            jnp.where(spoken > 0, text.shape[1], 0),
            adapted.embeddings.astype(text.dtype),
            spoken,
            at=jnp.where(spoken > 0, len(self.before), 0),
        )
        return EncoderOutput(vectors, mask, dropped=adapted.dropped)
