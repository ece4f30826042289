"""CTC of an adapter: labels, what it costs, what is trained, and decoding what it hears."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.decoding.ctc import ctc_greedy
from slm_jax.evaluation import make_adapter_ctc_predict
from slm_jax.models.adapter import CTCPosteriorAdapter, TransformerAdapter
from slm_jax.models.frame_adapters import LinearAdapter
from slm_jax.models.interfaces import Objective
from slm_jax.models.slm import SpeechLanguageModel
from slm_jax.models.t5 import T5
from slm_jax.models.token_adapter import CTCTokenAdapter
from slm_jax.pretraining.adapter_ctc import AdapterCTCObjective
from slm_jax.pretraining.ctc import ctc_sums
from slm_jax.pretraining.letter_ctc import piece_table
from slm_jax.training.objective import TeacherForcing

WIDTH = 8
LM = dict(vocab_size=12, width=WIDTH, ff_width=8, num_encoder_layers=1, num_decoder_layers=1, num_heads=1, head_dim=8)
HEARING = TransformerAdapter(features=WIDTH, num_heads=2, head_dim=4, ff_width=8)
READING = CTCPosteriorAdapter(adapter=LinearAdapter(features=WIDTH, output_scale=0.1), num_tokens=3)
MODEL = SpeechLanguageModel(adapter=CTCTokenAdapter(hearing=HEARING, reading=READING, num_tokens=6), lm=T5(**LM))
PIECES = ((), (), (), (3,), (4,), (5,), (3, 4), (5, 5, 3), *[()] * 4)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def batch():
    mask = jnp.array([[True] * 9, [True] * 6 + [False] * 3, [True] * 2 + [False] * 7])
    targets = jnp.array([[6, 3, 1, 0], [7, 1, 0, 0], [6, 6, 1, 0]])
    return {
        "speech_embeddings": jax.random.normal(KEY, (3, 9, 5)) * mask[..., None],
        "speech_mask": mask,
        "encoder_input_tokens": jnp.array([[3, 1, 0], [4, 5, 1], [1, 0, 0]]),
        "decoder_target_tokens": targets,
        "decoder_input_tokens": jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": jnp.asarray(targets > 0, jnp.float32),
    }


@pytest.fixture(scope="module")
def objective():
    return AdapterCTCObjective(model=MODEL, pieces=PIECES)


@pytest.fixture(scope="module")
def params(objective, batch):
    return nn.unbox(jax.jit(objective.init)(jax.random.key(1), batch))


@pytest.fixture(scope="module")
def heard(params, batch):
    return MODEL.apply({"params": params}, batch, method="hear")


def test_piece_table_drawing():
    assert piece_table(((1,), (), (1, 2))).tolist() == [[1, -1], [-1, -1], [1, 2]]


def test_the_loss_is_ctc_of_the_pieces(objective, params, batch, heard):
    output = objective.loss(params, batch, rng=KEY)
    labels = jnp.array([[3, 4, 3, 0], [5, 5, 3, 0], [3, 4, 3, 4]])
    sums = ctc_sums(heard.ctc_logits, heard.mask, labels, jnp.array([3, 3, 4]))
    np.testing.assert_allclose(output.loss, sums.loss, rtol=1e-5)
    assert output.weight == 6  # four pieces are too many for two frames
    assert output.metrics["ctc_infeasible"] == (1, 3)
    assert output.metrics["ctc_blank_frames"][1] == 17


def test_utterances_with_more_labels_than_are_computed_are_left_out_and_counted(objective, params, batch):
    whole = objective.loss(params, batch, rng=KEY)
    shorter = dataclasses.replace(objective, labels_per_frame=0.4)  # 4 of 9 frames
    np.testing.assert_allclose(shorter.loss(params, batch, rng=KEY).loss, whole.loss, rtol=1e-5)
    assert shorter.loss(params, batch, rng=KEY).metrics == whole.metrics
    shortest = dataclasses.replace(objective, labels_per_frame=0.2)  # 2, and no sentence has so few
    output = shortest.loss(params, batch, rng=KEY)
    assert (output.loss, output.weight, output.metrics["ctc_infeasible"]) == (0, 0, (3, 3))
    with pytest.raises(ValueError, match=r"AdapterCTCObjective.labels_per_frame must be in \(0, 1\], got 0\.0"):
        dataclasses.replace(objective, labels_per_frame=0.0)


def test_only_what_hears_is_trained(objective, params, batch):
    gradients = jax.jit(jax.grad(lambda adapter: objective.loss({**params, "adapter": adapter}, batch, rng=KEY).loss))(
        params["adapter"]
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients["reading"]))
    for part in ("hearing", "blank"):
        assert all(np.any(leaf) and np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients[part]))


def test_of_the_language_model_it_costs_nothing_but_vectors(objective, params, batch):
    def flops(objective):
        return (
            jax.jit(objective.loss, static_argnames="training")
            .lower(params, batch, rng=KEY)
            .compile()
            .cost_analysis()["flops"]
        )

    unread = jax.tree.map(jnp.zeros_like, params["lm"]["decoder"])
    output = objective.loss({**params, "lm": {**params["lm"], "decoder": unread}}, batch, rng=KEY)
    np.testing.assert_array_equal(output.loss, objective.loss(params, batch, rng=KEY).loss)
    assert flops(objective) < flops(TeacherForcing(model=MODEL))


def test_filler_counts_for_nothing(objective, params, batch):
    filler = {name: jnp.concatenate([value, jnp.zeros_like(value)]) for name, value in batch.items()}
    pairs = zip(*(jax.tree.leaves(objective.loss(params, b, rng=KEY)) for b in (filler, batch)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_bundle_fits_teacher_forcing(objective, batch):
    shapes = [jax.eval_shape(x.init, KEY, batch) for x in (objective, TeacherForcing(model=MODEL))]
    assert jax.tree.map(lambda x: x.shape, shapes[0]) == jax.tree.map(lambda x: x.shape, shapes[1])


def test_what_it_hears_is_written_without_the_language_model(params, batch, heard):
    written = make_adapter_ctc_predict(MODEL)(params, batch, KEY)
    np.testing.assert_array_equal(written, ctc_greedy(heard.ctc_logits, heard.mask)[0])


def test_it_obeys_the_protocol_and_refuses_what_cannot_hear(objective, params, batch):
    assert isinstance(objective, Objective) and objective.model is MODEL
    with pytest.raises(ValueError, match="pieces has none"):
        dataclasses.replace(objective, pieces=((), ()))
    other = AdapterCTCObjective(model=MODEL.copy(adapter=HEARING), pieces=PIECES)
    with pytest.raises(ValueError, match="TransformerAdapter has no CTC of its own"):
        jax.eval_shape(lambda: other.loss({**params, "adapter": params["adapter"]["hearing"]}, batch, rng=KEY))
