"""CTC: the loss against the sum over all alignments, labels, infeasible utterances, padding."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.audio.log_mel import LogMel
from slm_jax.models.conformer import Conformer
from slm_jax.models.interfaces import EncoderOutput, LossOutput, Objective
from slm_jax.pretraining.ctc import CTCObjective, label_lengths, required_frames

ENCODER = Conformer(
    num_layers=1,
    width=8,
    num_heads=2,
    subsampling_channels=(3, 3),
    ctc_vocab_size=5,
    dropout_rate=0.5,
    front_end=LogMel(num_mels=8, fft_length=512),
)
FRAME = 640
TOKENS = [[3, 4, 1, 0], [3, 3, 1, 0], [2, 1, 0, 0], [1, 0, 0, 0]]
FRAMES = [4, 3, 2, 1]


@pytest.fixture(scope="module")
def batch():
    speech = 0.1 * jax.random.normal(jax.random.key(0), (4, 4 * FRAME))
    return {
        "speech": speech,
        "speech_length": jnp.array(FRAMES) * FRAME,
        "decoder_target_tokens": jnp.array(TOKENS),
    }


@pytest.fixture(scope="module")
def objective():
    return CTCObjective(speech_encoder=ENCODER)


@pytest.fixture(scope="module")
def params(objective, batch):
    return nn.unbox(jax.jit(objective.init)(jax.random.key(1), batch))


@pytest.fixture(scope="module")
def loss(objective):
    return jax.jit(lambda params, batch: objective.loss(params, batch, rng=jax.random.key(0)))


def collapse(path: tuple[int, ...], blank: int) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != blank]


def all_alignments(logits: np.ndarray, labels: list[int]) -> float:
    """-log of the summed probability of every path that collapses to the labels."""
    size, classes = logits.shape
    log_posterior = np.asarray(jax.nn.log_softmax(logits), np.float64)
    paths = itertools.product(range(classes), repeat=size)
    total = sum(
        np.exp(sum(log_posterior[t, label] for t, label in enumerate(path)))
        for path in paths
        if collapse(path, classes - 1) == labels
    )
    return -np.log(total)


def test_obeys_the_protocol_and_names_its_component(objective, params):
    assert isinstance(objective, Objective)
    assert list(params) == ["speech_encoder"]


def test_label_lengths_drawing():
    tokens = jnp.array([[7, 5, 1, 0], [7, 5, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [7, 1, 5, 0], [7, 5, 6, 1]])
    assert label_lengths(tokens, eos_id=1).tolist() == [2, 2, 0, 0, 3, 3]


def test_required_frames_drawing():
    labels = jnp.array([[7, 7, 5, 0], [7, 7, 5, 5], [0, 0, 0, 0]])
    assert required_frames(labels, jnp.array([3, 2, 0])).tolist() == [4, 3, 0]


def test_loss_is_the_sum_over_all_alignments(params, batch, loss):
    output = loss(params, batch)
    frames: EncoderOutput = jax.jit(ENCODER.apply)(
        {"params": params["speech_encoder"]}, batch["speech"], batch["speech_length"]
    )
    labels = [[token for token in row if token > 1] for row in TOKENS]
    rows = zip(np.asarray(frames.ctc_logits), FRAMES, labels, strict=True)
    expected = sum(all_alignments(logits[:size], row) for logits, size, row in rows)
    np.testing.assert_allclose(output.loss, expected, rtol=1e-5)
    assert output.weight == 5
    assert output.metrics["ctc_infeasible"] == (0, 4)
    assert output.metrics["ctc_blank_frames"][1] == sum(FRAMES)


def test_infeasible_utterances_are_counted_and_left_out(params, batch, loss):
    short = batch | {"speech_length": batch["speech_length"].at[1].set(2 * FRAME)}
    without = {name: jnp.delete(value, 1, axis=0) for name, value in batch.items()}
    output, expected = loss(params, short), loss(params, without)
    np.testing.assert_allclose(output.loss, expected.loss, rtol=1e-5)
    assert output.weight == expected.weight == 3
    assert output.metrics["ctc_infeasible"] == (1, 4)


def test_gradients_are_finite_with_infeasible_and_empty_utterances(objective, params, batch):
    hard = batch | {"speech_length": jnp.array([0, FRAME, 2 * FRAME, FRAME])}
    gradients = jax.jit(jax.grad(lambda params: objective.loss(params, hard, rng=jax.random.key(0)).loss))(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def assert_same_sums(actual: LossOutput, expected: LossOutput) -> None:
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_filler_examples_count_for_nothing(params, batch, loss):
    filler = {name: jnp.concatenate([value, jnp.zeros_like(value)]) for name, value in batch.items()}
    filled, output = loss(params, filler), loss(params, batch)
    assert_same_sums(filled, output)


def test_parts_of_a_batch_add_up(params, batch, loss):
    whole = loss(params, batch)
    parts = [loss(params, {name: value[i : i + 2] for name, value in batch.items()}) for i in (0, 2)]
    total = jax.tree.map(jnp.add, *parts)
    assert_same_sums(total, whole)


def test_training_mode_is_chosen_by_name(objective, params, batch, loss):
    key = jax.random.key(0)
    noisy = objective.loss(params, batch, rng=key, training=("speech_encoder",)).loss
    assert abs(noisy - loss(params, batch).loss) > 1e-3
    np.testing.assert_allclose(
        objective.loss(params, batch, rng=key, training=("lm",)).loss, loss(params, batch).loss, rtol=1e-5
    )


def test_end_token_is_a_field(params, batch, loss):
    tokens = batch["decoder_target_tokens"]
    other = CTCObjective(speech_encoder=ENCODER, eos_id=4)
    output = other.loss(
        params, batch | {"decoder_target_tokens": jnp.where(tokens == 1, 4, tokens)}, rng=jax.random.key(0)
    )
    np.testing.assert_allclose(output.loss, loss(params, batch).loss, rtol=1e-5)
    assert output.weight == 5


def test_an_encoder_without_a_head_is_refused(params, batch):
    objective = CTCObjective(speech_encoder=ENCODER.clone(ctc_vocab_size=None))
    headless = {"speech_encoder": {k: v for k, v in params["speech_encoder"].items() if k != "ctc_head"}}
    with pytest.raises(ValueError, match="set ctc_vocab_size"):
        jax.eval_shape(lambda params: objective.loss(params, batch, rng=jax.random.key(0)), headless)
