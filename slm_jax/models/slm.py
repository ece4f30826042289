"""The composition: frozen speech encoder, frame reducer, trained adapter, frozen language model (arXiv 2310.00230)."""

import enum
from collections.abc import Collection

import flax.linen as nn
import jax.numpy as jnp

from slm_jax.layers.enums import resolve_enums
from slm_jax.layers.masks import insert_left
from slm_jax.models.interfaces import (
    METRICS,
    Adapter,
    DecodeCache,
    EncoderOutput,
    FrameReducer,
    HearingAdapter,
    LanguageModel,
    SpeechEncoder,
)
from slm_jax.typing import Array, Batch, Bool, Float, Int


class PrefixOrder(enum.Enum):
    """What comes first in the language model's prefix, between its opening and its closing."""

    SPEECH_FIRST = "speech_first"
    INSTRUCTION_FIRST = "instruction_first"


class SpeechLanguageModel(nn.Module):
    """One model for speech, text, and instructions about either.

    Parameters are keyed `speech_encoder`, `adapter` and `lm`; a part that a batch never uses gets none.

    Attributes:
      lm: the language model.
      speech_encoder: waveforms to frames; None in a model of text or of cached features.
      reducer: fewer frames; None keeps all.
      adapter: frames to vectors of the language model's width, often fewer.
      order: whether speech or instruction comes first in the prefix, or its value ("speech_first").
      opening: tokens of each instruction that stand before speech in any order, such as those of a chat template.
      closing: tokens of each instruction that stand behind speech in any order.
    """

    lm: LanguageModel
    speech_encoder: SpeechEncoder | None = None
    reducer: FrameReducer | None = None
    adapter: Adapter | None = None
    order: PrefixOrder | str = PrefixOrder.SPEECH_FIRST
    opening: int = 0
    closing: int = 0

    def __post_init__(self) -> None:
        resolve_enums(self)
        super().__post_init__()

    def encode_speech(self, batch: Batch, *, training: Collection[str] = ()) -> EncoderOutput:
        """Reduced frames of the batch's speech, before the adapter."""
        if "speech_embeddings" in batch:
            return EncoderOutput(batch["speech_embeddings"], batch["speech_mask"])
        if self.speech_encoder is None:
            raise ValueError(
                "The batch has speech, but the model has no speech_encoder: configure one, or cache features."
            )
        frames = self.speech_encoder(
            batch["speech"], batch["speech_length"], deterministic="speech_encoder" not in training
        )
        return frames if self.reducer is None else self.reducer(frames)

    def hear(self, batch: Batch, *, training: Collection[str] = ()) -> EncoderOutput:
        """The speech with CTC scores of the language model's tokens, as the adapter hears it.

        Raises:
          ValueError: the adapter has no CTC of its own.
        """
        if not isinstance(self.adapter, HearingAdapter):
            raise ValueError(
                f"{type(self.adapter).__name__} has no CTC of its own: configure an adapter that hears, such as"
                " CTCTokenAdapter"
            )
        frames = self.encode_speech(batch, training=training)
        return self.adapter.hear(frames, self.lm.embed, deterministic="adapter" not in training)

    def adapt_speech(self, batch: Batch, *, training: Collection[str] = ()) -> EncoderOutput:
        """The speech as vectors of the language model; they depend on nothing but the speech."""
        if self.adapter is None:
            raise ValueError(
                "The batch has speech, but the model has no adapter: configure SpeechLanguageModel.adapter."
            )
        frames = self.encode_speech(batch, training=training)
        if frames.dropped is not None:  # what the reducer had no room for
            self._tell("dropped_frames", frames.dropped.sum(), frames.dropped.sum() + frames.mask.sum())
        adapted = self.adapter(frames, self.lm.embed, deterministic="adapter" not in training)
        if adapted.dropped is not None:  # what the adapter itself had no room for
            lost = adapted.dropped.sum() - (0 if frames.dropped is None else frames.dropped.sum())
            self._tell("dropped_vectors", lost, lost + adapted.mask.sum())
        self._tell("speech_vectors", adapted.mask.sum(), adapted.mask.any(axis=1).sum())
        return adapted

    def prefix(
        self, batch: Batch, *, training: Collection[str] = ()
    ) -> tuple[Float[Array, "B P E"], Bool[Array, "B P"]]:
        """The language model's prefix: adapted speech and embedded instruction, packed to the left."""
        tokens = batch["encoder_input_tokens"]
        instruction, instruction_length = self.lm.embed(tokens), jnp.sum(tokens > 0, axis=1)
        if "speech" not in batch and "speech_embeddings" not in batch:
            return instruction, tokens > 0
        adapted = self.adapt_speech(batch, training=training)
        speech, speech_length = adapted.embeddings.astype(instruction.dtype), jnp.sum(adapted.mask, axis=1)
        at = instruction_length - self.closing if self.order is PrefixOrder.INSTRUCTION_FIRST else self.opening
        return insert_left(instruction, instruction_length, speech, speech_length, at=at)

    def _tell(self, name: str, total: Int[Array, ""], weight: Int[Array, ""]) -> None:
        """Puts a sum and its weight into the collection METRICS."""
        pair = total.astype(jnp.float32), weight.astype(jnp.float32)
        self.sow(METRICS, name, pair, reduce_fn=lambda _, new: new, init_fn=lambda: None)

    def __call__(self, batch: Batch, *, training: Collection[str] = ()) -> Float[Array, "B L E"]:
        """Hidden states over the targets, by teacher forcing.

        Args:
          batch: see `slm_jax.typing.Batch`.
          training: names of the components that run in training mode (dropout, SpecAugment); a frozen one never does.
        """
        embeddings, mask = self.prefix(batch, training=training)
        return self.lm(embeddings, mask, batch["decoder_input_tokens"], deterministic="lm" not in training)

    def logits(self, hidden: Float[Array, "... E"]) -> Float[Array, "... V"]:
        return self.lm.logits(hidden)

    def prefill(self, batch: Batch, *, max_decode_length: int) -> DecodeCache:
        """The cache before the first target token."""
        embeddings, mask = self.prefix(batch)
        return self.lm.prefill(embeddings, mask, max_decode_length=max_decode_length)

    def step(
        self, tokens: Int[Array, "B"], cache: DecodeCache, index: Int[Array, ""]
    ) -> tuple[Float[Array, "B V"], DecodeCache]:
        """Logits of the next token; see `LanguageModel.step`."""
        return self.lm.step(tokens, cache, index)
