"""The encoder of Whisper (arXiv 2212.04356) behind the interface of speech encoders."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.audio.whisper_log_mel import WhisperLogMel
from slm_jax.layers.attention import MultiHeadAttention, ProjectionBias
from slm_jax.layers.convolution import Convolution
from slm_jax.layers.dense import Dense, small_normal
from slm_jax.layers.enums import resolve_enums
from slm_jax.layers.feed_forward import Activation
from slm_jax.layers.masks import key_mask, length_mask, zero_padding
from slm_jax.layers.norm import LayerNorm
from slm_jax.layers.stack import Remat, apply_stack
from slm_jax.models.interfaces import EncoderOutput
from slm_jax.typing import Array, Bool, DTypeLike, Float, Int

SAMPLES_A_FRAME = 320
"""20 ms."""


class WhisperLayer(nn.Module):
    """x + attention(norm(x)), then x + contract(gelu(expand(norm(x))))."""

    num_heads: int
    ff_width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], per_layer: None, mask: Bool[Array, "B 1 S"]
    ) -> tuple[Float[Array, "B S D"], None]:
        width = x.shape[-1]
        attention = MultiHeadAttention(
            num_heads=self.num_heads,
            head_dim=width // self.num_heads,
            projection_bias=ProjectionBias.QUERY_VALUE,
            use_output_bias=True,
            output_init=small_normal,
            dtype=self.dtype,
            name="attention",
        )
        h = LayerNorm(dtype=self.dtype, name="attention_norm")(x)
        x = x + attention(h, attention.project_keys(h), mask=mask)
        h = LayerNorm(dtype=self.dtype, name="mlp_norm")(x)
        h = Dense((self.ff_width,), ("embed", "mlp"), use_bias=True, dtype=self.dtype, name="expand")(h)
        h = nn.with_logical_constraint(Activation.EXACT_GELU(h), ("batch", "frames", "mlp"))
        contract = Dense(
            (width,), ("mlp", "embed"), use_bias=True, kernel_init=small_normal, dtype=self.dtype, name="contract"
        )
        return nn.with_logical_constraint(x + contract(h), ("batch", "frames", "embed")), None


class WhisperEncoder(nn.Module):
    """Waveforms to 50 frames a second (obeys `interfaces.SpeechEncoder`; no CTC head).

    With `WhisperLogMel.seconds` = 30 it computes what Whisper does: all 1500 frames see each other, and those of the
    appended silence are left out at the end. With None, only speech is computed, which costs less the shorter it is.

    Attributes:
      num_layers: transformer layers.
      width: features of a frame.
      num_heads: attention heads; they share the width equally.
      ff_width: inner width of the feed-forward layers.
      max_frames: rows of the table of positions.
      front_end: waveform to log-mel.
      scan_layers: one scanned stack of parameters, or one set of parameters a layer.
      remat: what a layer keeps for the backward pass.
      dtype: computation type; the front end always computes in float32.
    """

    num_layers: int
    width: int
    num_heads: int
    ff_width: int
    max_frames: int = 1500
    front_end: WhisperLogMel = WhisperLogMel()
    scan_layers: bool = True
    remat: Remat | str = Remat.NONE
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        resolve_enums(self)
        super().__post_init__()

    def output_length(self, num_samples: int) -> int:
        """Frames of `num_samples` samples."""
        return -(-num_samples // SAMPLES_A_FRAME)

    @nn.compact
    def __call__(
        self, speech: Float[Array, "B N"], speech_length: Int[Array, "B"], *, deterministic: bool = True
    ) -> EncoderOutput:
        """Frames of speech.

        Raises:
          ValueError: the speech is longer than the table of positions, or than the front end holds.
        """
        log_mel, frame_length = self.front_end(speech, speech_length)
        x, mask = self._subsample(log_mel.astype(self.dtype), frame_length)
        x, _ = apply_stack(
            WhisperLayer,
            zero_padding(x, mask),
            key_mask(mask),
            num_layers=self.num_layers,
            scan=self.scan_layers,
            remat=self.remat,
            num_heads=self.num_heads,
            ff_width=self.ff_width,
            dtype=self.dtype,
        )
        x = LayerNorm(dtype=self.dtype, name="final_norm")(x)
        frames = self.output_length(speech.shape[1])
        spoken = length_mask(-(-speech_length // SAMPLES_A_FRAME), frames)
        return EncoderOutput(zero_padding(x[:, :frames], spoken), spoken)

    def _subsample(
        self, log_mel: Float[Array, "B T F"], frame_length: Int[Array, "B"]
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        """Two convolutions, the second of which halves the frames, and positions."""
        common = dict(features=self.width, kernel_size=3, padding=(1, 1), dtype=self.dtype)
        x = Activation.EXACT_GELU(Convolution(**common, name="convolution_0")(log_mel))
        # An utterance of its own would have zeros behind its end.
        x = zero_padding(x, length_mask(frame_length, x.shape[1]))
        x = Activation.EXACT_GELU(Convolution(**common, stride=2, name="convolution_1")(x))
        if x.shape[1] > self.max_frames:
            raise ValueError(
                f"{x.shape[1]} frames of speech are more than the {self.max_frames} positions of this encoder: "
                f"TASK_FEATURE_LENGTHS['speech'] may be {self.max_frames * SAMPLES_A_FRAME} at most"
            )
        init = nn.with_logical_partitioning(_sinusoids, ("frames", "embed"))
        positions = self.param("positions", init, (self.max_frames, self.width), jnp.float32)
        x += positions[: x.shape[1]].astype(self.dtype)
        return x, length_mask(-(-frame_length // 2), x.shape[1])


def _sinusoids(key: jax.Array, shape: tuple[int, int], dtype: DTypeLike) -> jax.Array:
    """Sines, then cosines, of wavelengths from 2 pi to 2 pi 10,000 frames."""
    frames, width = shape
    rates = 10_000.0 ** (-jnp.arange(width // 2) / (width // 2 - 1))
    angles = jnp.arange(frames)[:, None] * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1).astype(dtype)
