"""What the parts of a speech-and-language model promise to each other."""

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax

from slm_jax.typing import Array, Batch, Bool, Float, Int, PRNGKey, PyTree

Embed = Callable[[Int[Array, "B L"]], Float[Array, "B L E"]]
"""From tokens to their vectors in a language model: `LanguageModel.embed`."""

METRICS = "metrics"
"""The collection in which a model puts what a forward pass has to tell besides its output: by name, a sum and its
weight."""


class EncoderOutput(NamedTuple):
    """Frames of speech with the mask that travels with them.

    Attributes:
      embeddings: one vector a frame, of the language model's width behind an adapter; frames where the mask is False
        hold zeros.
      mask: True for real frames; the real frames of an example come first.
      ctc_logits: unnormalised CTC scores, blank last; None for encoders without a CTC head.
      dropped: how many real frames of each example a reducer had no room for (None before any reducer).
    """

    embeddings: Float[Array, "B S D"]
    mask: Bool[Array, "B S"]
    ctc_logits: Float[Array, "B S C"] | None = None
    dropped: Int[Array, "B"] | None = None


class DecodeCache(NamedTuple):
    """What a language model remembers between decoding steps.

    Attributes:
      layers: arrays of [layers, B, ...], one set of keys and values a layer.
      prefix_mask: which positions of the prefix are real.
    """

    layers: PyTree
    prefix_mask: Bool[Array, "B P"]

    def take(self, indices: Int[Array, "K"]) -> "DecodeCache":
        """The cache whose batch entry i is this one's entry indices[i] (beam search reorders and repeats)."""
        return DecodeCache(
            layers=jax.tree.map(lambda x: x[:, indices], self.layers), prefix_mask=self.prefix_mask[indices]
        )


@runtime_checkable
class SpeechEncoder(Protocol):
    """Waveforms to frames. Owns its front end; padding never changes an output."""

    def __call__(
        self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"], *, deterministic: bool = True
    ) -> EncoderOutput: ...

    def output_length(self, num_samples: int) -> int:
        """Frames that come out of `num_samples` samples."""
        ...


@runtime_checkable
class FrameReducer(Protocol):
    """Fewer frames, kept ones moved to the left, at a length known before compilation."""

    def __call__(self, frames: EncoderOutput) -> EncoderOutput: ...

    def output_length(self, num_frames: int) -> int: ...


@runtime_checkable
class Adapter(Protocol):
    """From the encoder's width to the language model's: the trained part.

    What comes out has the language model's width, a mask of its own, since frames may become fewer, no CTC scores, and
    `dropped` as it came in. `embed` is the language model's, for adapters that use its vectors of tokens.
    """

    def __call__(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput: ...

    def output_length(self, num_frames: int) -> int:
        """Vectors that come out of `num_frames` frames."""
        ...


@runtime_checkable
class HearingAdapter(Adapter, Protocol):
    """An adapter with CTC scores of its own."""

    def hear(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        """Vectors with scores of the language model's tokens, blank last."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """A language model conditioned on a prefix of embeddings.

    The real positions of a prefix come first (left-justified), so position t of a prefix is its t-th real vector.
    Encoder-decoders put the prefix through their encoder; decoder-only models put it before the target, under a
    mask that lets the prefix see all of itself and the target see the prefix and its own past.
    """

    def embed(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L E"]: ...

    def __call__(
        self,
        prefix_embeddings: Float[Array, "B P E"],
        prefix_mask: Bool[Array, "B P"],
        target_inputs: Int[Array, "B L"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B L E"]:
        """Teacher forcing: hidden state l depends on the prefix and on target_inputs[:, :l + 1]."""
        ...

    def logits(self, hidden: Float[Array, "... E"]) -> Float[Array, "... V"]: ...

    def prefill(
        self, prefix_embeddings: Float[Array, "B P E"], prefix_mask: Bool[Array, "B P"], *, max_decode_length: int
    ) -> DecodeCache:
        """The cache before the first target token."""
        ...

    def step(
        self, tokens: Int[Array, "B"], cache: DecodeCache, index: Int[Array, ""]
    ) -> tuple[Float[Array, "B V"], DecodeCache]:
        """Feeds target input number `index` (from 0, the same for the whole batch); gives the next token's logits."""
        ...


class LossOutput(NamedTuple):
    """Sums over a batch, so that batches of any split add up to the same loss.

    Attributes:
      loss: sum of the loss over tokens (or labels); what is differentiated.
      weight: how many tokens it is a sum over.
      metrics: by name, a sum and the weight to divide it by once all of them are added.
    """

    loss: Float[Array, ""]
    weight: Float[Array, ""]
    metrics: dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


@runtime_checkable
class Objective(Protocol):
    """What is trained, and for what."""

    @property
    def model(self) -> nn.Module:
        """The module whose parameters are trained."""
        ...

    def init(self, rng: PRNGKey, batch: Batch) -> PyTree:
        """Random parameters, boxed with their logical axis names, keyed by component."""
        ...

    def loss(self, params: PyTree, batch: Batch, *, rng: PRNGKey, training: Collection[str] = ()) -> LossOutput:
        """The loss of a batch; components named in `training` run in training mode (dropout, SpecAugment)."""
        ...
