"""A training step computes what it must and no more."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from slm_jax import trees
from slm_jax.audio.log_mel import LogMel
from slm_jax.models.adapter import TransformerAdapter
from slm_jax.models.conformer import Conformer
from slm_jax.models.interfaces import EncoderOutput
from slm_jax.models.slm import SpeechLanguageModel
from slm_jax.models.t5 import T5
from slm_jax.training.objective import TeacherForcing
from slm_jax.training.state import TrainState
from slm_jax.training.step import TrainStep

WIDTH = 64


def compiled_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


@pytest.fixture(scope="module")
def objective():
    """Unrolled, because XLA's count of a loop takes its body once."""
    heads = dict(num_heads=2, head_dim=32)
    encoder = Conformer(
        num_layers=2,
        width=WIDTH,
        num_heads=2,
        subsampling_channels=(4, 4),
        scan_layers=False,
        front_end=LogMel(num_mels=16),
    )
    adapter = TransformerAdapter(features=WIDTH, ff_width=128, scan_layers=False, **heads)
    lm = T5(
        vocab_size=256,
        width=WIDTH,
        ff_width=128,
        num_encoder_layers=2,
        num_decoder_layers=2,
        scan_layers=False,
        **heads,
    )
    return TeacherForcing(model=SpeechLanguageModel(speech_encoder=encoder, adapter=adapter, lm=lm))


def test_a_step_costs_forward_passes_and_the_gradients_the_adapter_needs(objective):
    """Encoder forward + LM forward + LM backward to its inputs + adapter forward and backward, within 3%."""
    batch = {
        "speech": jnp.zeros((8, 16000)),
        "speech_length": jnp.full((8,), 16000),
        "encoder_input_tokens": jnp.ones((8, 8), jnp.int32),
        "decoder_input_tokens": jnp.ones((8, 16), jnp.int32),
        "decoder_target_tokens": jnp.ones((8, 16), jnp.int32),
        "decoder_loss_weights": jnp.ones((8, 16)),
    }
    key = jax.random.key(0)
    params = nn.unbox(jax.eval_shape(objective.init, key, batch))
    trainable, frozen = trees.partition(params, ("adapter/.*",))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    state = jax.eval_shape(lambda p: TrainState.create(p, optimizer), trainable)
    step = TrainStep(objective=objective, optimizer=optimizer, training=frozenset({"adapter"}))
    whole = compiled_flops(step, state, frozen, batch, key)

    model = objective.model
    encoder, adapter = model.speech_encoder, model.adapter

    def encode(params, batch):
        return encoder.apply({"params": params}, batch["speech"], batch["speech_length"])

    frames = jax.eval_shape(encode, frozen["speech_encoder"], batch)

    def adapt(params, embeddings, cotangent):
        heard = EncoderOutput(embeddings, frames_mask)
        output, pull = jax.vjp(lambda p: adapter.apply({"params": p}, heard, no_tokens).embeddings, params)
        return output, pull(cotangent)

    frames_mask = jnp.ones(frames.mask.shape, bool)
    cotangent = jax.ShapeDtypeStruct((*frames.mask.shape, WIDTH), jnp.float32)

    def answer(lm, speech):
        """The language model alone: the adapter's output is what is differentiated."""
        cached = {name: value for name, value in batch.items() if not name.startswith("speech")}
        cached |= {"speech_embeddings": speech, "speech_mask": frames_mask}
        alone = TeacherForcing(model=SpeechLanguageModel(adapter=Identity(), lm=model.lm))
        return alone.loss({"lm": lm, "adapter": {}}, cached, rng=key).loss

    parts = [
        compiled_flops(encode, frozen["speech_encoder"], batch),
        compiled_flops(adapt, trainable["adapter"], frames.embeddings, cotangent),
        compiled_flops(jax.value_and_grad(answer, argnums=1), frozen["lm"], cotangent),
    ]
    assert whole == pytest.approx(sum(parts), rel=0.03)


class Identity(nn.Module):
    """An adapter that is none."""

    def __call__(self, frames, embed, *, deterministic=True):
        return frames

    def output_length(self, num_frames):
        return num_frames


def no_tokens(tokens):
    """The `embed` of an adapter that does not use it."""
    raise AssertionError("not called")
