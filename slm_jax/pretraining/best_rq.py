"""BEST-RQ: trains a speech encoder without transcripts, by the names of what is hidden from it (arXiv 2202.01855).

The name of a frame is the nearest of many random vectors to a random projection of its log-mel. Neither is learned, so
neither is stored: a seed says it all. There are several such codebooks, and a softmax for each (USM, arXiv 2303.01037).
"""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slm_jax.audio.log_mel import normalize
from slm_jax.layers.masks import length_mask
from slm_jax.models.interfaces import EncoderOutput, LossOutput
from slm_jax.typing import Array, Batch, Bool, Float, Int, PRNGKey, PyTree

HEADS = "codebook_heads"
"""The component that is trained besides the speech encoder, and not needed afterwards."""


class Quantizer(NamedTuple):
    """Random projections, and a codebook for each.

    Attributes:
      projections: [M, X, Z], from X features to Z.
      codebooks: [M, V, Z], V vectors of length 1 in each.
    """

    projections: np.ndarray
    codebooks: np.ndarray


@functools.cache
def random_quantizer(
    *, seed: int, num_codebooks: int, codebook_size: int, codebook_dim: int, num_features: int
) -> Quantizer:
    """The quantizer of a seed.

    RandomState gives the same numbers in every version of NumPy, on every device; a run that goes on elsewhere must
    meet the same targets.
    """
    shape = (num_codebooks, codebook_size, codebook_dim)
    codebooks = np.random.RandomState((seed, 0)).standard_normal(shape)
    projections = np.random.RandomState((seed, 1)).standard_normal((num_codebooks, num_features, codebook_dim))
    codebooks /= np.linalg.norm(codebooks, axis=-1, keepdims=True)
    return Quantizer(projections.astype(np.float32), codebooks.astype(np.float32))


def quantize(stacked: Float[Array, "B S X"], quantizer: Quantizer) -> Int[Array, "M B S"]:
    """In each codebook, the vector with the largest cosine to the projected features.

    projection the identity, codebook [[1 0] [0 1]]:  [[3 1] [1 2]] -> [0 1]
    """
    # In full precision, so that all devices agree.
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def nearest(one: tuple[jax.Array, jax.Array]) -> jax.Array:
        projection, codebook = one
        # Not divided by the length of the projected features: it is the same for all vectors.
        return jnp.argmax(product(product(stacked, projection), codebook.T), axis=-1)

    return jax.lax.map(nearest, (jnp.asarray(quantizer.projections), jnp.asarray(quantizer.codebooks)))


def stack_frames(log_mel: Float[Array, "B T F"], factor: int) -> Float[Array, "B S X"]:
    """`factor` frames side by side, the last ones filled up with zeros: T frames become ceil(T / factor).

    factor 2:  [[1 2] [3 4] [5 6]] -> [[1 2 3 4] [5 6 0 0]]
    """
    batch, size, width = log_mel.shape
    padded = jnp.pad(log_mel, ((0, 0), (0, -size % factor), (0, 0)))
    return padded.reshape(batch, -1, factor * width)


def spans(starts: Bool[Array, "B T"], length: int) -> Bool[Array, "B T"]:
    """True for `length` frames from every start on; spans may overlap.

    length 3:  [0 1 0 0 0 0 1 0] -> [0 1 1 1 0 0 1 1]
    """
    position = jnp.arange(starts.shape[1])
    latest = jax.lax.cummax(jnp.where(starts, position, -length), axis=1)
    return position - latest < length


def fully_hidden(hidden: Bool[Array, "B T"], frame_length: Int[Array, "B"], factor: int) -> Bool[Array, "B S"]:
    """Stacks whose real frames are hidden, every one; a stack of which something can be seen is no riddle.

    factor 2, frame_length 5:  [1 1 1 0 1 0] -> [1 0 1]
    """
    size = hidden.shape[1]
    gone = jnp.pad(hidden | ~length_mask(frame_length, size), ((0, 0), (0, -size % factor)), constant_values=True)
    stacks = gone.reshape(gone.shape[0], -1, factor).all(axis=2)
    return stacks & length_mask(-(-frame_length // factor), stacks.shape[1])


def draw_rows(draw: Callable[[PRNGKey], jax.Array], key: PRNGKey, *, rows: int) -> jax.Array:
    """`draw(key of the row)` for each row: neither the size of the batch nor its padding changes what a row gets."""
    return jax.vmap(lambda row: draw(jax.random.fold_in(key, row)))(jnp.arange(rows))


class CodebookSums(NamedTuple):
    """Sums over the frames that count and all codebooks.

    Attributes:
      loss: cross-entropy in nats.
      correct: how often the highest score was the target's.
    """

    loss: Float[Array, ""]
    correct: Float[Array, ""]


def codebook_cross_entropy(
    heads: PyTree, frames: Float[Array, "B S D"], targets: Int[Array, "M B S"], counted: Bool[Array, "B S"]
) -> CodebookSums:
    """Cross-entropies of one linear softmax a codebook, over the frames that are counted.

    One codebook at a time, forward and backward: scores of [B, S, V] are in memory, never of all M codebooks.

    Args:
      heads: {"kernel": [M, D, V], "bias": [M, V]}.
      frames: what the scores are computed from.
      targets: entries of the codebooks.
      counted: frames without it neither count nor have a gradient.
    """

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add(total: CodebookSums, one: tuple[PyTree, jax.Array]) -> tuple[CodebookSums, None]:
        head, target = one
        scores = (frames @ head["kernel"].astype(frames.dtype)).astype(jnp.float32) + head["bias"]
        # A sum instead of a lookup: entries may be split over devices.
        is_target = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 2) == target[..., None]
        losses = jax.nn.logsumexp(scores, axis=-1) - jnp.sum(jnp.where(is_target, scores, 0), axis=-1)
        correct = (jnp.argmax(scores, axis=-1) == target) & counted
        sums = CodebookSums(jnp.sum(jnp.where(counted, losses, 0)), jnp.sum(correct).astype(jnp.float32))
        return jax.tree.map(jnp.add, total, sums), None

    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(add, CodebookSums(zero, zero), (heads, targets))[0]


def target_entropy(
    targets: Int[Array, "M B S"], counted: Bool[Array, "B S"], *, codebook_size: int
) -> Float[Array, ""]:
    """Entropy in nats of how often each entry is a target among the counted frames, summed over codebooks.

    Near 0 if the codebooks have collapsed to few entries; at most the logarithm of the number of frames.

    one codebook:  [3 3 5 5] -> log 2
    """

    def entropy(target: jax.Array) -> jax.Array:
        counts = jnp.zeros(codebook_size).at[target].add(counted.astype(jnp.float32))
        return jnp.sum(jax.scipy.special.entr(counts / jnp.maximum(counts.sum(), 1)))

    return jnp.sum(jax.lax.map(entropy, targets))


@dataclasses.dataclass(frozen=True)
class BestRQObjective:
    """Masked prediction of the entries of random codebooks.

    Spans of the encoder's input are replaced by noise. The loss is the sum, over the frames that are hidden whole and
    over codebooks, of the cross-entropy of the entry that the features had before; its weight is the number of these
    pairs. It is hidden in evaluation too, since there is nothing to predict otherwise.

    Metrics: `accuracy`; `hidden_frames`, hidden ones among the real frames; `target_entropy` in nats, the mean over
    codebooks: a loss below it means that more is learned than how frequent the entries are, near 0 means that the
    codebooks have collapsed.

    Attributes:
      speech_encoder: a linen `SpeechEncoder` without a CTC head, with `front_end`, `encode` and `subsampling_factor` as
        the Conformer has them.
      num_codebooks: M, codebooks and softmaxes (16 in USM).
      codebook_size: V, vectors in each.
      codebook_dim: Z, the width of these vectors.
      mask_probability: that a frame of the encoder's input starts a span.
      mask_length: frames of the encoder's input in a span; 40 are 400 ms at 10 ms.
      noise_stddev: of the noise, which has mean 0.
      seed: of projections and codebooks.

    Raises:
      ValueError: a field is out of range; or in `loss`, if the encoder has a CTC head.
    """

    speech_encoder: nn.Module
    num_codebooks: int = 16
    codebook_size: int = 8192
    codebook_dim: int = 16
    mask_probability: float = 0.01
    mask_length: int = 40
    noise_stddev: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.mask_probability <= 1 or self.mask_length < 1:
            raise ValueError(
                f"BestRQObjective needs a mask_probability in 0 .. 1 and a mask_length of at least 1, got "
                f"{self.mask_probability} and {self.mask_length}"
            )

    @property
    def model(self) -> nn.Module:
        """What is trained for its own sake."""
        return self.speech_encoder

    def init(self, rng: PRNGKey, batch: Batch) -> PyTree:
        """Random boxed parameters, {"speech_encoder": ..., "codebook_heads": ...}."""
        encoder_key, head_key = jax.random.split(rng)
        frames, variables = self.speech_encoder.init_with_output(encoder_key, batch["speech"], batch["speech_length"])
        shape = (self.num_codebooks, frames.embeddings.shape[-1], self.codebook_size)
        kernel, bias = nn.initializers.lecun_normal(batch_axis=0), nn.initializers.zeros_init()
        # Heads are scanned like layers.
        heads = {
            "kernel": nn.with_logical_partitioning(kernel, ("layers", "embed", "vocab"))(head_key, shape),
            "bias": nn.with_logical_partitioning(bias, ("layers", "vocab"))(head_key, shape[::2]),
        }
        return {"speech_encoder": variables["params"], HEADS: heads}

    def targets(self, log_mel: Float[Array, "B T F"], frame_length: Int[Array, "B"]) -> Int[Array, "M B S"]:
        """The entries of what the front end gives, for every frame of the encoder; those of padding mean nothing."""
        real = length_mask(frame_length, log_mel.shape[1])[..., None]
        normalized = jnp.where(real, normalize(log_mel, real), 0)
        stacked = stack_frames(normalized, self.speech_encoder.subsampling_factor)
        quantizer = random_quantizer(
            seed=self.seed,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            codebook_dim=self.codebook_dim,
            num_features=stacked.shape[-1],
        )
        return quantize(stacked, quantizer)

    def hide(
        self, log_mel: Float[Array, "B T F"], frame_length: Int[Array, "B"], key: PRNGKey
    ) -> tuple[Float[Array, "B T F"], Bool[Array, "B T"]]:
        """The features with noise in place of random spans, and where that is; never in padding."""
        rows, size, width = log_mel.shape
        span_key, noise_key = jax.random.split(key)
        starts = draw_rows(lambda key: jax.random.bernoulli(key, self.mask_probability, (size,)), span_key, rows=rows)
        noise = draw_rows(lambda key: jax.random.normal(key, (size, width)), noise_key, rows=rows)
        hidden = spans(starts, self.mask_length) & length_mask(frame_length, size)
        return jnp.where(hidden[..., None], self.noise_stddev * noise, log_mel), hidden

    def loss(self, params: PyTree, batch: Batch, *, rng: PRNGKey, training: Collection[str] = ()) -> LossOutput:
        """Sums over the batch; the encoder is in training mode if `training` names "speech_encoder"."""
        mask_key, dropout_key = jax.random.split(rng)
        log_mel, frame_length = self.speech_encoder.front_end(batch["speech"], batch["speech_length"])
        masked, hidden = self.hide(log_mel, frame_length, mask_key)
        deterministic = "speech_encoder" not in training
        frames = self.speech_encoder.apply(
            {"params": params["speech_encoder"]},
            masked,
            frame_length,
            deterministic=deterministic,
            rngs={} if deterministic else {"dropout": dropout_key},
            method="encode",
        )
        if frames.ctc_logits is not None:
            raise ValueError("BestRQObjective trains no CTC head, which would stay random: set ctc_vocab_size to None.")
        counted = fully_hidden(hidden, frame_length, self.speech_encoder.subsampling_factor) & frames.mask
        return self._sums(params[HEADS], frames, self.targets(log_mel, frame_length), counted)

    def _sums(
        self, heads: PyTree, frames: EncoderOutput, targets: Int[Array, "M B S"], counted: Bool[Array, "B S"]
    ) -> LossOutput:
        sums = codebook_cross_entropy(heads, frames.embeddings, targets, counted)
        entropy = target_entropy(targets, frames.mask, codebook_size=self.codebook_size)
        hidden = counted.sum().astype(jnp.float32)
        weight = hidden * self.num_codebooks
        metrics = {
            "accuracy": (sums.correct, weight),
            "hidden_frames": (hidden, frames.mask.sum().astype(jnp.float32)),
            "target_entropy": (entropy, jnp.float32(self.num_codebooks)),
        }
        return LossOutput(loss=sums.loss, weight=weight, metrics=metrics)
