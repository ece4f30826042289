"""An adapter that writes the language model's tokens by CTC, over any speech encoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.layers.dense import Dense
from slm_jax.models.interfaces import Adapter, Embed, EncoderOutput, FrameReducer
from slm_jax.models.merges import Merges, merge
from slm_jax.models.reducers import (
    fraction_of,
    keep_fraction,
    mean_by_group,
    require_fractions,
    require_positive,
)
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
      reading: vectors with CTC scores to what the language model reads, such as `MergedTokenReading`.
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


class MergedTokenReading(nn.Module):
    """Tells the language model which tokens were heard, merged as its tokenizer would have them.

    CTC hears the frequent tokens that it was taught; the language model knows words by their own. The likeliest tokens
    of the frames are merged (`models.merges`), and each merged token becomes its vector times the mean of what its
    frames' posteriors leave to tokens, so that doubtful ones are short. To this is added what `context` makes of the
    means of the frames' vectors: it can tell what else may have been said, and what to do. Let that be small at first
    (`output_scale`): the language model can read the tokens already.

    Merging has no gradient. The loss reaches the adapter that hears through the means, and through the lengths.

    Attributes:
      context: a vector of the language model's width for each token.
      merges: of the language model's tokenizer.
      max_fraction: most merged tokens an utterance keeps, as a fraction of its frames, rounded up; those beyond are
        counted in `dropped`.

    Raises:
      ValueError: if max_fraction is not in (0, 1]; when called, if the frames have no CTC scores, or `context` gives
        fewer vectors than tokens.
    """

    context: Adapter
    merges: Merges
    max_fraction: float = 1.0

    def __post_init__(self) -> None:
        require_fractions(self, "max_fraction")
        super().__post_init__()

    def output_length(self, num_frames: int) -> int:
        """Vectors that come out of `num_frames` frames, of which as many are real as there are merged tokens."""
        return fraction_of(num_frames, self.max_fraction)

    @nn.compact
    def __call__(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        if frames.ctc_logits is None:
            raise ValueError("MergedTokenReading needs CTC scores, but the frames have none")
        posterior = jax.nn.softmax(frames.ctc_logits.astype(jnp.float32), axis=-1)[..., :-1]  # the blank is the last
        tokens, real, group = merge(jnp.argmax(posterior, axis=-1), frames.mask, self.merges)
        spoken = mean_by_group(posterior.sum(axis=-1, keepdims=True), frames.mask, group)
        heard = keep_fraction(
            EncoderOutput(mean_by_group(frames.embeddings, frames.mask, group), real, dropped=frames.dropped),
            real,
            frames.mask.sum(axis=1),
            max_fraction=self.max_fraction,
        )
        size = heard.mask.shape[1]
        vectors = embed(tokens[:, :size])
        context = self.context(heard, embed, deterministic=deterministic).embeddings
        if context.shape != vectors.shape:
            raise ValueError(
                f"MergedTokenReading.context makes {context.shape} of tokens with vectors {vectors.shape}: it has to "
                "give a vector of the language model's width for each"
            )
        x = vectors * spoken[:, :size].astype(vectors.dtype) + context.astype(vectors.dtype)
        return EncoderOutput(jnp.where(heard.mask[..., None], x, 0), heard.mask, dropped=heard.dropped)
