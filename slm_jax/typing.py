"""Array aliases and the batch type; no logic. The letters of shapes are listed in docs/notation.md."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Array", "Batch", "Bool", "DTypeLike", "Float", "Int", "PRNGKey", "PyTree"]

Batch = Mapping[str, jax.Array]
"""One batch of a model, by feature name:

speech [B, N] float32 and speech_length [B] int32 (samples), or speech_embeddings [B, S, D] and speech_mask [B, S]
(what the reducer hands to the adapter), or neither (a text batch); encoder_input_tokens [B, I] (instruction, 0 pads);
decoder_input_tokens, decoder_target_tokens [B, L] int32; decoder_loss_weights [B, L] float32. For distillation also
teacher_input_tokens [B, P] int32 (transcript and instruction in writing, 0 pads).
"""

PRNGKey = jax.Array
PyTree = Any
