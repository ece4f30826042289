"""Whisper's encoder: padding, batches, lengths, and what each setting does. Parity: tests/weights/huggingface."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.audio.whisper_log_mel import WhisperLogMel
from slm_jax.models.interfaces import SpeechEncoder
from slm_jax.models.whisper import WhisperEncoder
from slm_jax.training.partitioning import RULES

TIGHT = WhisperLogMel(num_mels=8, seconds=None)
SIZES = dict(num_layers=2, width=12, num_heads=3, ff_width=20, max_frames=40)
ENCODER = WhisperEncoder(**SIZES, front_end=TIGHT)
LENGTHS = jnp.array([6400, 3300, 320])


@pytest.fixture(scope="module")
def speech():
    real = np.arange(6400) < np.asarray(LENGTHS)[:, None]
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 6400)) * real, jnp.float32)


@pytest.fixture(scope="module")
def params(speech):
    return nn.unbox(jax.jit(ENCODER.init)(jax.random.key(0), speech, LENGTHS))["params"]


def encode(params, speech, lengths, **changes):
    encoder = dataclasses.replace(ENCODER, **changes)
    return jax.jit(encoder.apply)({"params": params}, speech, lengths)


def test_it_is_a_speech_encoder():
    assert isinstance(ENCODER, SpeechEncoder)


def test_neither_padding_nor_neighbours_change_an_utterance(params, speech):
    together = encode(params, speech, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = encode(params, speech[row : row + 1, :length], LENGTHS[row : row + 1])
        frames = alone.embeddings.shape[1]
        np.testing.assert_allclose(together.embeddings[row, :frames], alone.embeddings[0], atol=1e-5)
        assert int(together.mask[row].sum()) == frames == ENCODER.output_length(length)
        assert not together.embeddings[row, frames:].any()
    junk = jnp.where(jnp.arange(6400) < LENGTHS[:, None], speech, 5.0)
    np.testing.assert_array_equal(encode(params, junk, LENGTHS).embeddings, together.embeddings)


def test_padded_to_a_window_silence_is_heard_but_not_given(params, speech):
    padded = encode(params, speech, LENGTHS, front_end=WhisperLogMel(num_mels=8, seconds=0.8))
    tight = encode(params, speech, LENGTHS)
    np.testing.assert_array_equal(padded.mask, tight.mask)
    assert float(jnp.abs(padded.embeddings - tight.embeddings).max()) > 1e-2
    shorter = encode(params, speech[1:, :3300], LENGTHS[1:], front_end=WhisperLogMel(num_mels=8, seconds=0.8))
    np.testing.assert_allclose(shorter.embeddings, padded.embeddings[1:, :11], atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 319, 320, 321, 5000, 12800])
def test_output_length(num_samples):
    speech, lengths = jnp.zeros((1, num_samples)), jnp.array([num_samples])
    shape = jax.eval_shape(ENCODER.init_with_output, jax.random.key(0), speech, lengths)[0].embeddings.shape
    assert shape == (1, ENCODER.output_length(num_samples), 12)


def test_speech_beyond_the_positions_is_refused():
    with pytest.raises(ValueError, match="41 frames of speech are more than the 40 positions.*12800 at most"):
        jax.eval_shape(ENCODER.init, jax.random.key(0), jnp.zeros((1, 12_960)), jnp.array([12_960]))


@pytest.mark.parametrize(
    "changes", [dict(num_heads=2), dict(front_end=WhisperLogMel(num_mels=8, seconds=0.5)), dict(dtype=jnp.bfloat16)]
)
def test_settings_without_parameters_change_what_is_computed(params, speech, changes):
    changed = encode(params | {}, speech, LENGTHS, **changes) if "num_heads" not in changes else None
    if changed is None:  # the same numbers, cut into other heads
        attention = dict(params["layers"]["attention"])
        cut = {
            name: {k: v.reshape(*v.shape[: v.ndim - 2], 2, 6) for k, v in attention[name].items()}
            for name in ("query", "key", "value")
        }
        out = attention["out"] | {"kernel": attention["out"]["kernel"].reshape(2, 2, 6, 12)}
        layers = params["layers"] | {"attention": cut | {"out": out}}
        changed = encode(params | {"layers": layers}, speech, LENGTHS, **changes)
    difference = float(jnp.abs(changed.embeddings - encode(params, speech, LENGTHS).embeddings).max())
    assert 1e-4 < difference < 10


@pytest.mark.parametrize(
    ("changes", "path", "shape"),
    [
        (dict(num_layers=3), ("layers", "expand", "kernel"), (3, 12, 20)),
        (dict(width=24), ("positions",), (40, 24)),
        (dict(ff_width=7), ("layers", "expand", "kernel"), (2, 12, 7)),
        (dict(max_frames=50), ("positions",), (50, 12)),
        (dict(scan_layers=False), ("layers_1", "expand", "kernel"), (12, 20)),
        (dict(front_end=WhisperLogMel(num_mels=5, seconds=None)), ("convolution_0", "kernel"), (3, 5, 12)),
    ],
)
def test_sizes_decide_parameters(speech, changes, path, shape):
    found = nn.unbox(jax.eval_shape(dataclasses.replace(ENCODER, **changes).init, jax.random.key(0), speech, LENGTHS))
    leaf = found["params"]
    for name in path:
        leaf = leaf[name]
    assert leaf.shape == shape


def test_remat_changes_no_gradient(params, speech):
    def loss(params, remat):
        return jnp.square(encode(params, speech, LENGTHS, remat=remat).embeddings).sum()

    plain, again = (jax.grad(loss)(params, remat) for remat in ("none", "full"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3), plain, again)


def test_every_axis_has_a_rule(speech):
    boxed = jax.eval_shape(ENCODER.init, jax.random.key(0), speech, LENGTHS)["params"]
    names = {
        name for box in jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)) for name in box.names
    }
    assert names - {None} <= {name for name, _ in RULES}
