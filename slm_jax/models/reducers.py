"""Fewer frames for the language model: all of them obey `interfaces.FrameReducer`.

A reducer keeps the order of frames, moves what it keeps to the left, and knows its output length before compilation.
"""

import dataclasses
import enum
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.models.interfaces import EncoderOutput
from slm_jax.typing import Array, Bool, Float, Int


def starts_run(labels: Int[Array, "B S"]) -> Bool[Array, "B S"]:
    """Whether a frame's label differs from that of the frame before.

    labels [b 7 7 b 7] -> [1 1 0 1 1]
    """
    return jnp.concatenate([jnp.ones_like(labels[:, :1], bool), labels[:, 1:] != labels[:, :-1]], axis=1)


def mean_by_group(
    x: Float[Array, "B S D"], mask: Bool[Array, "B S"], group: Int[Array, "B S"]
) -> Float[Array, "B S D"]:
    """The means of the real vectors of each group, float32; zeros where a group has none.

    x [a b c _], group [0 0 1 1], mask [1 1 1 0] -> [(a + b) / 2  c  0  0]

    Args:
      x: vectors.
      mask: which of them are real.
      group: the number of each one's group, rising from the first to the last.
    """
    add = jax.vmap(functools.partial(jax.ops.segment_sum, num_segments=x.shape[1], indices_are_sorted=True))
    total = add(jnp.where(mask[..., None], x.astype(jnp.float32), 0), group)
    return total / jnp.maximum(add(mask[..., None].astype(jnp.float32), group), 1)


def keep_frames(
    frames: EncoderOutput, keep: Bool[Array, "B S"], *, length: int, room: Int[Array, "B"] | None = None
) -> EncoderOutput:
    """The frames where `keep` is True, in order, moved to the left of `length` places.

    embeddings [a c d e f _]   keep [1 0 1 1 1 0]   length 4, room 3
            -> [a d e _]       mask [1 1 1 0]       dropped 1

    Padding is never kept; frames beyond the `room` of their example (by default `length`) are lost and counted in
    `dropped`.
    """
    keep &= frames.mask
    wanted = keep.sum(axis=1)
    kept = jnp.minimum(wanted, length if room is None else room)
    order = jnp.argsort(~keep, axis=1, stable=True)[:, :length]
    mask = jnp.arange(order.shape[1]) < kept[:, None]

    def take(x: Float[Array, "B S D"]) -> Float[Array, "B K D"]:
        return jnp.where(mask[..., None], jnp.take_along_axis(x, order[..., None], axis=1), 0)

    return EncoderOutput(
        embeddings=take(frames.embeddings),
        mask=mask,
        ctc_logits=None if frames.ctc_logits is None else take(frames.ctc_logits),
        dropped=_already_dropped(frames) + wanted - kept,
    )


def _already_dropped(frames: EncoderOutput) -> Int[Array, "B"]:
    return jnp.zeros(frames.mask.shape[0], jnp.int32) if frames.dropped is None else frames.dropped


@dataclasses.dataclass(frozen=True)
class KeepAll:
    """Every frame as it is."""

    def output_length(self, num_frames: int) -> int:
        return num_frames

    def __call__(self, frames: EncoderOutput) -> EncoderOutput:
        return frames._replace(dropped=_already_dropped(frames))


@dataclasses.dataclass(frozen=True)
class Stacking:
    """Every `factor` neighbouring frames become one, features side by side (SLAM-LLM, Ultravox).

    factor 2:  frames [a b c _]      -> [ab c0]
               mask   [1 1 1 0]      -> [1  1 ]

    The last frame is completed with zeros. CTC scores have no meaning afterwards and are removed.

    Attributes:
      factor: frames in one.

    Raises:
      ValueError: if factor is below 1.
    """

    factor: int

    def __post_init__(self) -> None:
        require_positive(self, "factor")

    def output_length(self, num_frames: int) -> int:
        return -(-num_frames // self.factor)

    def __call__(self, frames: EncoderOutput) -> EncoderOutput:
        batch, size, width = frames.embeddings.shape
        padding = -size % self.factor
        embeddings = jnp.pad(frames.embeddings, ((0, 0), (0, padding), (0, 0)))
        mask = jnp.pad(frames.mask, ((0, 0), (0, padding)))
        return EncoderOutput(
            embeddings=embeddings.reshape(batch, -1, self.factor * width),
            mask=mask.reshape(batch, -1, self.factor).any(axis=-1),
            dropped=_already_dropped(frames),
        )


class RandomDiscard(nn.Module):
    """Keeps one frame in `ratio`: random ones while training, evenly spaced ones otherwise.

    ratio 3:  frames [a b c d e f g _] -> [a d g]   without an rng named "discard"
                                       -> [b c f]   with one, for example

    Of n real frames, ceil(n / ratio) are kept, each subset of that size being equally likely.

    Attributes:
      ratio: frames for each one that is kept.

    Raises:
      ValueError: when called, if ratio is below 1.
    """

    ratio: int = 4

    def output_length(self, num_frames: int) -> int:
        return -(-num_frames // self.ratio)

    def __call__(self, frames: EncoderOutput) -> EncoderOutput:
        require_positive(self, "ratio")
        size = frames.mask.shape[1]
        if self.has_rng("discard"):
            keep = self._random(frames.mask)
        else:
            keep = jnp.broadcast_to(jnp.arange(size) % self.ratio == 0, frames.mask.shape)
        return keep_frames(frames, keep, length=self.output_length(size))

    def _random(self, mask: Bool[Array, "B S"]) -> Bool[Array, "B S"]:
        lottery = jnp.where(mask, jax.random.uniform(self.make_rng("discard"), mask.shape), 2.0)
        rank = jnp.argsort(jnp.argsort(lottery, axis=1), axis=1)
        return rank < -(-mask.sum(axis=1, keepdims=True) // self.ratio)


class Repeats(enum.Enum):
    """What becomes of neighbouring frames with the same best label."""

    KEEP = "keep"
    """All are kept."""
    FIRST = "first"
    """Only the first of each run is kept; frames whose best label is the blank are no run."""


@dataclasses.dataclass(frozen=True)
class CTCBlankFilter:
    """Drops the frames that CTC is sure are blank (arXiv 2306.07944).

    threshold 0.9, max_fraction 0.5:

        frames           [a   b   c   d   e   f  ]
        blank posterior  [.99 .2  .1  .95 .3  .99]
        best label       [-   7   7   -   5   -  ]
                      -> [b   c   e]                 Repeats.KEEP
                      -> [b   e   _]                 Repeats.FIRST

    An utterance keeps at least one frame, the least blank, if it has any. Frames that pass the filter but are more
    than `max_fraction` of the utterance's own, however long its padding, are counted in `dropped`.

    Attributes:
      threshold: frames with a higher posterior of the blank go.
      max_fraction: most frames an utterance keeps, as a fraction of what it has, rounded up.
      repeats: what becomes of repeated labels, or its value ("first").

    Raises:
      ValueError: if threshold or max_fraction is not in (0, 1]; when called, if the frames have no CTC scores.
    """

    threshold: float = 0.95
    max_fraction: float = 0.5
    repeats: Repeats | str = Repeats.KEEP

    def __post_init__(self) -> None:
        object.__setattr__(self, "repeats", Repeats(self.repeats))
        require_fractions(self, "threshold", "max_fraction")

    def output_length(self, num_frames: int) -> int:
        return fraction_of(num_frames, self.max_fraction)

    def __call__(self, frames: EncoderOutput) -> EncoderOutput:
        logits = _ctc_scores(frames, self)
        blank = logits.shape[-1] - 1
        posterior = jnp.where(frames.mask, jax.nn.softmax(logits.astype(jnp.float32), axis=-1)[..., blank], 2.0)
        keep = posterior <= self.threshold
        if self.repeats is Repeats.FIRST:
            best = jnp.argmax(logits, axis=-1)
            keep &= starts_run(best) | (best == blank)
        keep = _keep_one(keep, posterior)
        return keep_fraction(frames, keep, frames.mask.sum(axis=1), max_fraction=self.max_fraction)


@dataclasses.dataclass(frozen=True)
class CTCRunMean:
    """One frame for each label that greedy CTC writes: the mean of its run of frames; blank runs go.

    max_fraction 0.5:

        frames      [a   b   c   d   e   f  ]
        best label  [-   7   7   -   5   -  ]
                 -> [(b + c) / 2   e   _    ]

    The CTC scores become the logarithms of the mean posteriors. An utterance that has frames keeps one at least, of its
    least blank run. Frames for which there is no room, as in `CTCBlankFilter`, are counted in `dropped`.

    Attributes:
      max_fraction: most frames an utterance keeps, as a fraction of what it has, rounded up.

    Raises:
      ValueError: if max_fraction is not in (0, 1]; when called, if the frames have no CTC scores.
    """

    max_fraction: float = 0.5

    def __post_init__(self) -> None:
        require_fractions(self, "max_fraction")

    def output_length(self, num_frames: int) -> int:
        return fraction_of(num_frames, self.max_fraction)

    def __call__(self, frames: EncoderOutput) -> EncoderOutput:
        logits = _ctc_scores(frames, self)
        blank = logits.shape[-1] - 1
        run = jnp.cumsum(starts_run(jnp.argmax(logits, axis=-1)), axis=1) - 1
        mean = functools.partial(mean_by_group, mask=frames.mask, group=run)
        real = mean(jnp.ones((*run.shape, 1)))[..., 0] > 0
        posterior = mean(jax.nn.softmax(logits.astype(jnp.float32), axis=-1))
        runs = EncoderOutput(
            embeddings=mean(frames.embeddings).astype(frames.embeddings.dtype),
            mask=real,
            ctc_logits=jnp.log(jnp.maximum(posterior, jnp.finfo(jnp.float32).tiny)),
            dropped=frames.dropped,
        )
        # The label that is best in every frame of a run is also best in the mean.
        keep = runs.mask & (jnp.argmax(posterior, axis=-1) != blank)
        keep = _keep_one(keep, jnp.where(runs.mask, posterior[..., blank], 2.0))
        return keep_fraction(runs, keep, frames.mask.sum(axis=1), max_fraction=self.max_fraction)


def _ctc_scores(frames: EncoderOutput, reducer: Any) -> Float[Array, "B S C"]:
    if frames.ctc_logits is None:
        raise ValueError(
            f"{type(reducer).__name__} needs CTC scores, but the frames have none: "
            "give the speech encoder a CTC head, or use another reducer"
        )
    return frames.ctc_logits


def _keep_one(keep: Bool[Array, "B S"], blank_posterior: Float[Array, "B S"]) -> Bool[Array, "B S"]:
    """`keep`, and where that keeps nothing, the frame that is least blank."""
    least_blank = jnp.arange(keep.shape[1]) == jnp.argmin(blank_posterior, axis=1, keepdims=True)
    return keep | least_blank & ~keep.any(axis=1, keepdims=True)


def fraction_of(num_frames: int, fraction: float) -> int:
    """A fraction of a number of frames, rounded up."""
    return math.ceil(round(num_frames * fraction, 6))  # 0.07 * 100 is a little more than 7


def keep_fraction(
    frames: EncoderOutput, keep: Bool[Array, "B S"], spoken: Int[Array, "B"], *, max_fraction: float
) -> EncoderOutput:
    """`keep_frames` with room for a fraction of the frames that an utterance had, however long its padding."""
    size = keep.shape[1]
    room = jnp.array([fraction_of(real, max_fraction) for real in range(size + 1)])[spoken]
    return keep_frames(frames, keep, length=fraction_of(size, max_fraction), room=room)


def require_fractions(settings: Any, *fields: str) -> None:
    """Raises ValueError, naming the first of these fields of `settings` that is not in (0, 1]."""
    for field in fields:
        if not 0 < (value := getattr(settings, field)) <= 1:
            raise ValueError(f"{type(settings).__name__}.{field} must be in (0, 1], got {value}")


def require_positive(settings: Any, *fields: str) -> None:
    """Raises ValueError, naming the first of these fields of `settings` that is below 1."""
    for field in fields:
        value = getattr(settings, field)
        if value < 1:
            raise ValueError(f"{type(settings).__name__}.{field} must be at least 1, got {value}")
