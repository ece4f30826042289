"""The window-level Q-Former: learned queries listen to the frames of one window each."""

import flax.linen as nn
import jax.numpy as jnp

from slm_jax.layers.attention import MultiHeadAttention
from slm_jax.layers.dense import small_normal
from slm_jax.layers.enums import resolve_enums
from slm_jax.layers.feed_forward import Activation, GatedFeedForward
from slm_jax.layers.masks import key_mask
from slm_jax.layers.norm import RMSNorm
from slm_jax.layers.positions import RelativePositionBias
from slm_jax.layers.stack import Remat, apply_stack
from slm_jax.models.adapter import finish
from slm_jax.models.interfaces import Embed, EncoderOutput
from slm_jax.models.reducers import Stacking, require_positive
from slm_jax.typing import Array, Bool, DTypeLike, Float


class QFormerLayer(nn.Module):
    """Attention among the queries of a window, attention to its frames, gated feed-forward: pre-norm and residual."""

    num_heads: int
    head_dim: int
    ff_width: int
    dropout_rate: float
    deterministic: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Q E"],
        per_layer: None,
        frames: Float[Array, "B K D"],
        mask: Bool[Array, "B 1 K"],
        bias: Float[Array, "1 H Q K"],
    ) -> tuple[Float[Array, "B Q E"], None]:
        dropout = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)
        heads = dict(num_heads=self.num_heads, head_dim=self.head_dim, dtype=self.dtype)
        attention = MultiHeadAttention(**heads, output_init=small_normal, name="self_attention")
        # What it has heard starts at full size: a query knows nothing else of its window.
        hearing = MultiHeadAttention(**heads, name="cross_attention")
        mlp = GatedFeedForward(self.ff_width, Activation.GELU, down_init=small_normal, dtype=self.dtype, name="mlp")

        h = RMSNorm(dtype=self.dtype, name="self_attention_norm")(x)
        x = x + dropout(attention(h, attention.project_keys(h)))
        h = RMSNorm(dtype=self.dtype, name="cross_attention_norm")(x)
        x = x + dropout(hearing(h, hearing.project_keys(frames), mask=mask, bias=bias))
        x = x + dropout(mlp(RMSNorm(dtype=self.dtype, name="mlp_norm")(x)))
        return nn.with_logical_constraint(x, ("batch", "frames", "embed")), None


class WindowQFormerAdapter(nn.Module):
    """Learned queries that listen to one window of frames each (the window-level Q-Former of arXiv 2310.13289).

    window 3, num_queries 2:  frames [a b c d _ _ _ _ _] -> [abc1 abc2 d1 d2 _ _]

    A window with a real frame gives all its queries, however few frames it has. A learned bias by the distance of
    frame and query, shared by the layers, tells where in the window a frame stands: SALMONN needs none, since the
    frames of Whisper know their position and those of a Conformer do not.

    Attributes:
      features: the language model's width E, and that of the queries.
      window: frames that share queries; 17, a third of a second, in SALMONN.
      num_queries: vectors that a window becomes; 1 in SALMONN.
      num_layers: layers, each with both kinds of attention.
      num_heads: attention heads of a layer.
      head_dim: width of a head.
      ff_width: width of the gated feed-forward.
      output_scale: initial size of the embeddings that come out; match the RMS of the language model's own.
      dropout_rate: on all three branches of every layer, in training.
      scan_layers: one scanned layer (see `apply_stack`), or unrolled ones.
      remat: what a layer keeps for its backward pass, or its value ("full").

    Raises:
      ValueError: if a number of the first seven is below 1, or remat is not one of `Remat`.
    """

    features: int
    window: int = 8
    num_queries: int = 1
    num_layers: int = 2
    num_heads: int = 4
    head_dim: int = 64
    ff_width: int = 512
    output_scale: float = 1.0
    dropout_rate: float = 0.0
    scan_layers: bool = True
    remat: Remat | str = Remat.NONE
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(self, "features", "window", "num_queries")
        require_positive(self, "num_layers", "num_heads", "head_dim", "ff_width")
        resolve_enums(self)
        super().__post_init__()

    def output_length(self, num_frames: int) -> int:
        return Stacking(self.window).output_length(num_frames) * self.num_queries

    @nn.compact
    def __call__(self, frames: EncoderOutput, embed: Embed, *, deterministic: bool = True) -> EncoderOutput:
        del embed
        batch, size, width = frames.embeddings.shape
        stacked = Stacking(self.window)(frames)
        # Windows become entries of the batch: a query never sees a frame of another one.
        windows = stacked.embeddings.reshape(-1, self.window, width)
        real = jnp.pad(frames.mask, ((0, 0), (0, -size % self.window))).reshape(-1, self.window)
        # Small beside what is heard: that tells windows apart.
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("adapter", "embed"))
        queries = self.param("queries", init, (self.num_queries, self.features), jnp.float32).astype(self.dtype)
        middles = (2 * jnp.arange(self.num_queries) + 1) * self.window // (2 * self.num_queries)
        bias = RelativePositionBias(self.num_heads, bidirectional=True, dtype=self.dtype, name="position_bias")
        x, _ = apply_stack(
            QFormerLayer,
            jnp.broadcast_to(queries, (windows.shape[0], *queries.shape)),
            RMSNorm(dtype=self.dtype, name="frames_norm")(windows),
            key_mask(real),
            bias(middles, jnp.arange(self.window)),
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
        mask = jnp.repeat(stacked.mask, self.num_queries, axis=1)
        x = x.reshape(batch, -1, self.features)
        return finish(x, mask, frames.dropped, output_scale=self.output_scale, dtype=self.dtype)
