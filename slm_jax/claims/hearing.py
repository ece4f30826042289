"""Speech that is heard once, however many instructions there are about it."""

import hashlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from slm_jax.models.interfaces import Embed, EncoderOutput
from slm_jax.typing import Batch, PyTree


class Adapted(nn.Module):
    """An adapter for what an adapter gave already."""

    def __call__(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        del embed, deterministic
        return frames

    def output_length(self, num_frames: int) -> int:
        """All of them."""
        return num_frames


class Hearing:
    """What a model makes of utterances, kept.

    Args:
      model: a speech-and-language model.

    Attributes:
      reader: the same model, for batches with speech as `add` gives it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.reader = model.clone(adapter=Adapted())
        self.heard: dict[bytes, EncoderOutput] = {}

        def listen(params: PyTree, batch: Batch) -> EncoderOutput:
            found: Any = model.apply({"params": params}, batch, method="adapt_speech")
            return found

        self.listen = jax.jit(listen)

    def add(self, params: PyTree, batch: Batch) -> Batch:
        """The batch with the language model's vectors in the place of its speech, always of the same `params`."""
        key = hashlib.blake2b(np.asarray(batch["speech"]).tobytes()).digest()
        speech = {name: batch[name] for name in ("speech", "speech_length")}
        if key not in self.heard:
            self.heard[key] = self.listen(params, speech)
        heard = self.heard[key]
        rest = {name: value for name, value in batch.items() if name not in speech}
        return {**rest, "speech_embeddings": heard.embeddings, "speech_mask": heard.mask}
