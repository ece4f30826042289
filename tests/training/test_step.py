"""The step: microbatches, sharding, frozen parameters, and the FLOPs it may cost."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slm_jax import trees
from slm_jax.models.adapter import TransformerAdapter
from slm_jax.models.slm import SpeechLanguageModel
from slm_jax.models.t5 import T5
from slm_jax.training.objective import TeacherForcing, remove_speech, shuffle_speech
from slm_jax.training.state import TrainState
from slm_jax.training.step import EvalStep, TrainStep, split_batch

LM = dict(vocab_size=24, width=16, ff_width=16, num_encoder_layers=1, num_decoder_layers=1, num_heads=2, head_dim=8)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    targets = np.where(np.arange(6) < rng.integers(1, 7, (8, 1)), rng.integers(1, 24, (8, 6)), 0)
    return {
        "speech_embeddings": jnp.asarray(rng.normal(size=(8, 5, 8)), jnp.float32),
        "speech_mask": jnp.arange(5) < jnp.asarray(rng.integers(1, 6, (8, 1))),
        "encoder_input_tokens": jnp.asarray(rng.integers(1, 24, (8, 3))),
        "decoder_target_tokens": jnp.asarray(targets),
        "decoder_input_tokens": jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": jnp.asarray(targets > 0, jnp.float32),
    }


@pytest.fixture(scope="module")
def objective():
    adapter = TransformerAdapter(features=16, num_heads=2, head_dim=8, ff_width=16)
    return TeacherForcing(model=SpeechLanguageModel(lm=T5(**LM), adapter=adapter), z_loss=1e-4)


@pytest.fixture(scope="module")
def parts(objective, batch):
    params = nn.unbox(jax.jit(objective.init)(jax.random.key(0), batch))
    return trees.partition(params, ("adapter/.*",))


def update(objective, parts, batch, **config):
    optimizer = optax.adam(1e-2)
    step = jax.jit(TrainStep(objective=objective, optimizer=optimizer, training=frozenset({"adapter"}), **config))
    return step(TrainState.create(parts[0], optimizer), parts[1], batch, jax.random.key(1))


@pytest.fixture(scope="module")
def updated(objective, parts, batch):
    return update(objective, parts, batch)


def test_microbatches_change_nothing(objective, parts, batch, updated):
    state, scalars = update(objective, parts, batch, num_microbatches=4)
    assert float(scalars["loss"]) == pytest.approx(float(updated[1]["loss"]), abs=1e-5)
    assert float(scalars["gradient_norm"]) == pytest.approx(float(updated[1]["gradient_norm"]), rel=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), state.trainable, updated[0].trainable)


def test_loss_is_the_mean_over_all_tokens_and_the_metrics_agree(objective, parts, batch, updated):
    params = trees.combine(*parts)
    hidden = objective.model.apply({"params": params}, batch)
    logits = objective.model.apply({"params": params}, hidden, method="logits")
    weights = batch["decoder_loss_weights"]
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["decoder_target_tokens"])
    z_loss = 1e-4 * jnp.square(jax.nn.logsumexp(logits, axis=-1))
    assert float(updated[1]["loss"]) == pytest.approx(
        float(jnp.sum((nll + z_loss) * weights) / weights.sum()), abs=1e-5
    )
    assert float(updated[1]["nll"]) == pytest.approx(float(jnp.sum(nll * weights) / weights.sum()), abs=1e-5)
    correct = jnp.argmax(logits, -1) == batch["decoder_target_tokens"]
    assert float(updated[1]["accuracy"]) == pytest.approx(float(jnp.sum(correct * weights) / weights.sum()), abs=1e-5)


def test_only_the_trainable_subtree_has_a_state_and_all_of_it_moves(parts, updated):
    state = updated[0]
    assert set(state.trainable) == {"adapter"}
    assert jax.tree.structure(state.opt_state[0].mu) == jax.tree.structure(parts[0])
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), parts[0], state.trainable)
    assert all(jax.tree.leaves(moved))


def test_steps_of_the_same_state_are_equal_and_rng_follows_the_step(objective, parts, batch, updated):
    again = update(objective, parts, batch)
    jax.tree.map(np.testing.assert_array_equal, again[0].trainable, updated[0].trainable)


def test_split_batch_deals_examples_out_and_refuses_uneven_pieces():
    pieces = split_batch({"x": jnp.arange(6)}, 2)
    np.testing.assert_array_equal(pieces["x"], [[0, 2, 4], [1, 3, 5]])
    with pytest.raises(ValueError, match="6 examples cannot be cut into 4"):
        split_batch({"x": jnp.arange(6)}, 4)


def test_variants_of_a_batch():
    batch = {
        "speech": jnp.arange(6.0).reshape(3, 2),
        "speech_length": jnp.array([2, 1, 2]),
        "encoder_input_tokens": jnp.arange(3)[:, None],
    }
    shuffled, silent = shuffle_speech(batch), remove_speech(batch)
    np.testing.assert_array_equal(shuffled["speech"][:, 0], [4, 0, 2])
    np.testing.assert_array_equal(shuffled["speech_length"], [2, 2, 1])
    np.testing.assert_array_equal(shuffled["encoder_input_tokens"], batch["encoder_input_tokens"])
    np.testing.assert_array_equal(silent["speech_length"], [0, 0, 0])


def test_eval_step_gives_sums_for_every_variant(objective, parts, batch):
    variants = {"true": lambda batch: batch, "none": remove_speech}
    outputs = jax.jit(EvalStep(objective=objective, variants=variants))(*parts, batch, jax.random.key(0))
    assert float(outputs["true"].weight) == float(batch["decoder_loss_weights"].sum())
    assert float(outputs["true"].loss) != float(outputs["none"].loss)
