"""Adapters: the part that is trained, between a frozen speech encoder and a frozen language model."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.layers.attention import MultiHeadAttention
from slm_jax.layers.dense import Dense, small_normal
from slm_jax.layers.feed_forward import Activation, GatedFeedForward
from slm_jax.layers.masks import key_mask
from slm_jax.layers.norm import RMSNorm
from slm_jax.layers.positions import RelativePositionBias
from slm_jax.layers.stack import Remat, apply_stack
from slm_jax.models.interfaces import Adapter, Embed, EncoderOutput
from slm_jax.typing import Array, Bool, DTypeLike, Float, Int, PyTree


def finish(
    x: Float[Array, "B S E"],
    mask: Bool[Array, "B S"],
    dropped: Int[Array, "B"] | None,
    *,
    output_scale: float,
    dtype: DTypeLike,
) -> EncoderOutput:
    """How adapters end: RMSNorm times `output_scale`, and zeros where the mask is False.

    Call it inside an `nn.compact` method.
    """
    x = RMSNorm(dtype=dtype, name="final_norm")(x) * output_scale
    return EncoderOutput(jnp.where(mask[..., None], x, 0), mask, dropped=dropped)


class AdapterLayer(nn.Module):
    """Pre-norm self-attention and a gated feed-forward, both residual: T5 1.1's encoder layer (arXiv 1910.10683)."""

    num_heads: int
    head_dim: int
    ff_width: int
    dropout_rate: float
    deterministic: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S E"], per_layer: PyTree, mask: Bool[Array, "B 1 S"], bias: Float[Array, "1 H S S"]
    ) -> tuple[Float[Array, "B S E"], None]:
        dropout = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)
        attention = MultiHeadAttention(
            self.num_heads, self.head_dim, output_init=small_normal, dtype=self.dtype, name="attention"
        )
        h = RMSNorm(dtype=self.dtype, name="attention_norm")(x)
        x = x + dropout(attention(h, attention.project_keys(h), mask=mask, bias=bias))
        h = RMSNorm(dtype=self.dtype, name="mlp_norm")(x)
        mlp = GatedFeedForward(self.ff_width, Activation.GELU, down_init=small_normal, dtype=self.dtype, name="mlp")
        x = x + dropout(mlp(h))
        return nn.with_logical_constraint(x, ("batch", "frames", "embed")), None


class TransformerAdapter(nn.Module):
    """A projection to the language model's width and a few transformer layers over the frames (arXiv 2310.00230).

    Attributes:
      features: the language model's width E.
      num_layers: transformer layers after the projection.
      num_heads: attention heads of a layer.
      head_dim: width of a head.
      ff_width: width of the gated feed-forward.
      output_scale: initial size of the embeddings that come out; match the RMS of the language model's own.
      dropout_rate: on both branches of every layer, in training.
      scan_layers: one scanned layer (see `apply_stack`), or unrolled ones.
      remat: what a layer keeps for its backward pass.
    """

    features: int
    num_layers: int = 1
    num_heads: int = 4
    head_dim: int = 64
    ff_width: int = 512
    output_scale: float = 1.0
    dropout_rate: float = 0.0
    scan_layers: bool = True
    remat: Remat = Remat.NONE
    dtype: DTypeLike = jnp.float32

    def output_length(self, num_frames: int) -> int:
        return num_frames

    @nn.compact
    def __call__(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        del embed  # it finds its own way into the language model's space
        x = Dense((self.features,), ("adapter", "embed"), dtype=self.dtype, name="projection")(frames.embeddings)
        positions = jnp.arange(x.shape[1])
        bias = RelativePositionBias(self.num_heads, bidirectional=True, dtype=self.dtype, name="position_bias")
        x, _ = apply_stack(
            AdapterLayer,
            x,
            key_mask(frames.mask),
            bias(positions, positions),
            num_layers=self.num_layers,
            scan=self.scan_layers,
            remat=self.remat,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            ff_width=self.ff_width,
            dropout_rate=self.dropout_rate,
            deterministic=deterministic,
            dtype=self.dtype,
        )
        return finish(x, frames.mask, frames.dropped, output_scale=self.output_scale, dtype=self.dtype)


class CTCPosteriorAdapter(nn.Module):
    """Tells the language model what CTC has heard, in its own vectors (LegoSLM, arXiv 2505.11352).

    A frame becomes the sum of the vectors of its likeliest tokens, weighted by their CTC posteriors. What the blank
    has of the posterior is missing, so that doubtful frames are short. To this is added what `adapter` makes of the
    sums in their context; let that be small at first (`output_scale`): the language model can read the sums already.

    The labels of the CTC head have to be the language model's tokens.

    Attributes:
      adapter: what hears the context; gives a vector for each frame.
      num_tokens: likeliest tokens of a frame that are summed.
      temperature: of the posteriors that divide a frame among these tokens; below 1 the likeliest gets more, and a
        frame is as long as it would be at 1.

    Raises:
      ValueError: if temperature is not above 0; when called, if the frames have no CTC scores, or `adapter` gives
        fewer vectors than frames.
    """

    adapter: Adapter
    num_tokens: int = 8
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"CTCPosteriorAdapter.temperature has to be above 0, not {self.temperature}")
        super().__post_init__()

    def output_length(self, num_frames: int) -> int:
        return num_frames

    @nn.compact
    def __call__(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        heard = self.heard(frames, embed)
        context = self.adapter(frames._replace(embeddings=heard), embed, deterministic=deterministic)
        if context.embeddings.shape != heard.shape:
            raise ValueError(
                f"CTCPosteriorAdapter.adapter makes {context.embeddings.shape} of {heard.shape}: it has to give "
                "a vector of the language model's width for each frame"
            )
        x = jnp.where(frames.mask[..., None], heard + context.embeddings, 0)
        return EncoderOutput(x, frames.mask, dropped=frames.dropped)

    def heard(self, frames: EncoderOutput, embed: Embed) -> Float[Array, "B S E"]:
        """The weighted sums of the language model's vectors."""
        if frames.ctc_logits is None:
            raise ValueError(
                "CTCPosteriorAdapter needs CTC scores, but the frames have none: give the speech encoder a CTC head, a "
                "reducer that keeps its scores, or use its adapter alone"
            )
        posterior = jax.nn.softmax(frames.ctc_logits.astype(jnp.float32), axis=-1)[..., :-1]  # the blank is the last
        spoken, tokens = jax.lax.top_k(posterior, self.num_tokens)
        shares = jax.nn.softmax(jnp.log(jnp.maximum(spoken, jnp.finfo(jnp.float32).tiny)) / self.temperature)
        weights = shares * spoken.sum(axis=-1, keepdims=True)
        vectors = embed(tokens.reshape(tokens.shape[0], -1)).reshape(*tokens.shape, -1)
        heard = jnp.einsum("bsk,bske->bse", weights.astype(vectors.dtype), vectors)
        return jnp.where(frames.mask[..., None], heard, 0)
