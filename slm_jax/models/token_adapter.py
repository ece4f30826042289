"""An adapter that writes the language model's tokens by CTC, over any speech encoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.layers.dense import Dense
from slm_jax.models.interfaces import Adapter, Embed, EncoderOutput, FrameReducer
from slm_jax.models.reducers import require_positive
from slm_jax.typing import Array, DTypeLike, Float

_EPSILON = 1e-6


class CTCTokenAdapter(nn.Module):
    """Hears tokens of the language model by CTC, and tells it what it has heard.

    `hearing` turns frames into vectors of the language model's width. A vector's score of a token is its product with
    the token's own vector in the language model, so the scores need no matrix of their own, and CTC
    (`pretraining.adapter_ctc`) teaches the adapter what to hear before the language model is ever run. `reducer` then
    drops frames, and `reading` makes vectors of the rest.

    Attributes:
      hearing: frames to vectors of the language model's width.
      reading: vectors with CTC scores to what the language model reads, such as `CTCPosteriorAdapter`.
      reducer: between the two, such as `CTCRunMean`; None keeps all frames.
      num_tokens: the tokens that are heard are the language model's first ones. Tokenizers that merge pairs of tokens
        have the frequent ones first, and the others can be written with them.

    Raises:
      ValueError: if num_tokens is below 1.
    """

    hearing: Adapter
    reading: Adapter
    reducer: FrameReducer | None = None
    num_tokens: int = 4096
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(self, "num_tokens")
        super().__post_init__()

    def setup(self) -> None:
        self.blank = Dense((1,), ("adapter", "kv"), use_bias=True, dtype=self.dtype)

    def output_length(self, num_frames: int) -> int:
        """Vectors that come out of `num_frames` frames."""
        heard = self.hearing.output_length(num_frames)
        return self.reading.output_length(heard if self.reducer is None else self.reducer.output_length(heard))

    def hear(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        """Vectors of the language model's width, with CTC scores of `num_tokens` tokens and the blank."""
        heard = self.hearing(frames, embed, deterministic=deterministic)
        x = heard.embeddings
        table = embed(jnp.arange(self.num_tokens)[None])[0]
        scores = jnp.einsum("bse,ve->bsv", x, self._rows(table).astype(x.dtype)) / x.shape[-1] ** 0.5
        return heard._replace(ctc_logits=jnp.concatenate([scores, self.blank(x)], axis=-1))

    def _rows(self, table: Float[Array, "V E"]) -> Float[Array, "V E"]:
        """The tokens' vectors, all equally long."""
        table = table.astype(jnp.float32)
        return table * jax.lax.rsqrt(jnp.mean(jnp.square(table), axis=-1, keepdims=True) + _EPSILON)

    def __call__(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        heard = self.hear(frames, embed, deterministic=deterministic)
        kept = heard if self.reducer is None else self.reducer(heard)
        return self.reading(kept, embed, deterministic=deterministic)
