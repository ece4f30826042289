"""The composition: what it reads, what it ignores, and decoding against teacher forcing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.audio.log_mel import LogMel
from slm_jax.models.adapter import CTCPosteriorAdapter, TransformerAdapter
from slm_jax.models.conformer import Conformer
from slm_jax.models.frame_adapters import StackedMLPAdapter
from slm_jax.models.interfaces import METRICS, EncoderOutput
from slm_jax.models.reducers import CTCBlankFilter, Stacking
from slm_jax.models.slm import PrefixOrder, SpeechLanguageModel
from slm_jax.models.t5 import T5

LM = dict(vocab_size=20, width=16, ff_width=16, num_encoder_layers=1, num_decoder_layers=1, num_heads=2, head_dim=8)
ENCODER = dict(num_layers=1, width=16, num_heads=2, subsampling_channels=(4, 4), front_end=LogMel(num_mels=8))
ADAPTER = dict(features=16, num_heads=2, head_dim=8, ff_width=16)


def build(**changes):
    parts = dict(
        speech_encoder=Conformer(**ENCODER),
        reducer=Stacking(factor=2),
        adapter=TransformerAdapter(**ADAPTER),
        lm=T5(**LM),
    )
    return SpeechLanguageModel(**(parts | changes))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    lengths = np.array([4000, 2500, 3200])
    speech = rng.normal(size=(3, 4800)) * (np.arange(4800) < lengths[:, None])
    targets = np.array([[5, 6, 7, 1], [8, 1, 0, 0], [9, 4, 1, 0]])
    return {
        "speech": jnp.asarray(speech, jnp.float32),
        "speech_length": jnp.asarray(lengths),
        "encoder_input_tokens": jnp.array([[3, 1, 0], [4, 5, 1], [1, 0, 0]]),
        "decoder_target_tokens": jnp.asarray(targets),
        "decoder_input_tokens": jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": jnp.asarray(targets > 0, jnp.float32),
    }


@pytest.fixture(scope="module")
def params(batch):
    return nn.unbox(jax.jit(build().init)(jax.random.key(0), batch))["params"]


@pytest.fixture(scope="module")
def forward():
    model = build()
    return jax.jit(lambda params, batch: model.apply({"params": params}, batch))


@pytest.fixture(scope="module")
def hidden(params, batch, forward):
    return forward(params, batch)


def test_parameters_are_keyed_by_component(params):
    assert set(params) == {"speech_encoder", "adapter", "lm"}


def test_a_text_batch_needs_the_language_model_only(batch):
    text = {name: value for name, value in batch.items() if "speech" not in name}
    assert set(jax.eval_shape(build().init, jax.random.key(0), text)["params"]) == {"lm"}


def test_padding_and_batch_change_nothing(params, batch, forward, hidden):
    past_the_end = jnp.arange(4800) >= batch["speech_length"][:, None]
    garbage = batch | {"speech": jnp.where(past_the_end, 1e3, batch["speech"])}
    np.testing.assert_allclose(forward(params, garbage), hidden, atol=1e-4)
    alone = {name: value[1:2] for name, value in batch.items()}
    alone["speech"] = alone["speech"][:, :2500]
    np.testing.assert_allclose(forward(params, alone), hidden[1:2], atol=1e-4)


def build_ctc(max_fraction):
    """As the small system: blank filter and CTC posteriors."""
    return build(
        speech_encoder=Conformer(**ENCODER, ctc_vocab_size=20),
        reducer=CTCBlankFilter(threshold=0.05, max_fraction=max_fraction),
        adapter=CTCPosteriorAdapter(adapter=TransformerAdapter(**ADAPTER), num_tokens=3),
    )


@pytest.fixture(scope="module")
def ctc_params(batch):
    return nn.unbox(jax.jit(build_ctc(0.5).init)(jax.random.key(1), batch))["params"]


@pytest.mark.parametrize("max_fraction", [0.3, 1.0])
def test_padding_and_batch_change_nothing_with_a_blank_filter(batch, ctc_params, max_fraction):
    model = build_ctc(max_fraction)
    forward = jax.jit(lambda batch: model.apply({"params": ctc_params}, batch, mutable=[METRICS]))
    hidden, told = forward(batch)
    dropped, _ = told[METRICS]["dropped_frames"]
    assert (dropped > 0) == (max_fraction == 0.3)
    alone = {name: value[1:2] for name, value in batch.items()}
    for size in (2500, 3000, 9000):
        padding = jnp.full((1, max(size - 4800, 0)), 1e3)
        speech = jnp.concatenate([alone["speech"][:, :size].at[:, 2500:].set(1e3), padding], axis=1)
        np.testing.assert_allclose(forward(alone | {"speech": speech})[0], hidden[1:2], atol=1e-4)


def test_it_tells_how_many_vectors_speech_becomes(batch, ctc_params):
    model = build_ctc(1.0)
    _, told = model.apply({"params": ctc_params}, batch, mutable=[METRICS])
    frames = model.apply({"params": ctc_params}, batch, method="encode_speech")
    vectors, utterances = told[METRICS]["speech_vectors"]
    assert vectors == frames.mask.sum() > 0 and utterances == frames.mask.any(axis=1).sum()


class TwoVectors(nn.Module):
    """An adapter without room for more than two vectors."""

    def output_length(self, num_frames):
        return 2

    @nn.compact
    def __call__(self, frames, embed, *, deterministic=True):
        made = TransformerAdapter(**ADAPTER)(frames, embed, deterministic=deterministic)
        lost = jnp.maximum(made.mask.sum(axis=1) - 2, 0)
        return EncoderOutput(made.embeddings[:, :2], made.mask[:, :2], dropped=made.dropped + lost)


def test_it_tells_what_the_adapter_had_no_room_for(batch):
    model = build_ctc(0.3).clone(adapter=TwoVectors())
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    frames = model.apply(variables, batch, method="encode_speech")
    _, told = model.apply(variables, batch, mutable=[METRICS])
    lost, whole = told[METRICS]["dropped_vectors"]
    assert lost == jnp.maximum(frames.mask.sum(axis=1) - 2, 0).sum() > 0
    assert whole == frames.mask.sum()


@pytest.mark.parametrize("order", ["instruction_first", PrefixOrder.INSTRUCTION_FIRST])
def test_the_order_may_be_given_by_value(order):
    assert build(order=order).order is PrefixOrder.INSTRUCTION_FIRST


def test_it_listens_and_reads(params, batch, forward, hidden):
    other = forward(params, batch | {"speech": batch["speech"][::-1], "speech_length": batch["speech_length"][::-1]})
    assert np.abs(other - hidden)[0].max() > 1e-3
    instructed = forward(params, batch | {"encoder_input_tokens": batch["encoder_input_tokens"].at[0, 0].set(9)})
    assert np.abs(instructed - hidden)[0].max() > 1e-3
    np.testing.assert_allclose(instructed[1:], hidden[1:], atol=1e-5)


def test_cached_features_give_the_same_as_speech(params, batch, forward, hidden):
    frames = build().apply({"params": params}, batch, method="encode_speech")
    cached = {name: value for name, value in batch.items() if not name.startswith("speech")}
    cached |= {"speech_embeddings": frames.embeddings, "speech_mask": frames.mask}
    np.testing.assert_allclose(forward(params, cached), hidden, atol=1e-5)


def test_order_of_the_prefix(params, batch):
    def prefix(order):
        return build(order=order).apply({"params": params}, batch, method="prefix")

    speech_first, mask = prefix(PrefixOrder.SPEECH_FIRST)
    instruction_first, _ = prefix(PrefixOrder.INSTRUCTION_FIRST)
    instruction = params["lm"]["token_embedder"]["embedding"][batch["encoder_input_tokens"][0, :2]]
    end = int(mask[0].sum())
    np.testing.assert_allclose(speech_first[0, end - 2 : end], instruction, atol=1e-5)
    np.testing.assert_allclose(instruction_first[0, :2], instruction, atol=1e-5)
    np.testing.assert_allclose(instruction_first[0, 2:end], speech_first[0, : end - 2], atol=1e-5)


def test_a_turn_opens_before_speech_and_closes_behind_it(params, batch):
    batch = batch | {"encoder_input_tokens": jnp.array([[7, 3, 8, 9], [7, 3, 8, 9], [7, 3, 8, 9]])}
    table = params["lm"]["token_embedder"]["embedding"]
    for order, before, behind in (("speech_first", [7], [3, 8, 9]), ("instruction_first", [7, 3], [8, 9])):
        model = build(order=order, opening=1, closing=2)
        prefix, mask = model.apply({"params": params}, batch, method="prefix")
        end = int(mask[0].sum())
        np.testing.assert_allclose(prefix[0, : len(before)], table[jnp.array(before)], atol=1e-5)
        np.testing.assert_allclose(prefix[0, end - len(behind) : end], table[jnp.array(behind)], atol=1e-5)
        assert end > 4


def test_the_instruction_follows_what_the_adapter_made_of_the_speech(params, batch):
    adapter = StackedMLPAdapter(features=16, stack=3, hidden=8)
    frames = EncoderOutput(jnp.ones((3, 7, 5)), jnp.arange(7) < jnp.array([[7], [4], [1]]))
    own = nn.unbox(adapter.init(jax.random.key(0), frames, lambda tokens: tokens))["params"]
    cached = {name: value for name, value in batch.items() if not name.startswith("speech")}
    cached |= {"speech_embeddings": frames.embeddings, "speech_mask": frames.mask}
    variables = {"params": params | {"adapter": own}}
    prefix, mask = build(adapter=adapter).apply(variables, cached, method="prefix")
    assert mask.sum(axis=1).tolist() == [3 + 2, 2 + 3, 1 + 1]
    instruction = params["lm"]["token_embedder"]["embedding"][batch["encoder_input_tokens"][1]]
    np.testing.assert_allclose(prefix[1, 2:5], instruction, atol=1e-5)


def test_decoding_equals_teacher_forcing(params, batch, hidden):
    model, variables = build(), {"params": params}
    expected = model.apply(variables, hidden, method="logits")
    cache = model.apply(variables, batch, max_decode_length=4, method="prefill")
    step = jax.jit(lambda tokens, cache, index: model.apply(variables, tokens, cache, index, method="step"))
    for index in range(4):
        logits, cache = step(batch["decoder_input_tokens"][:, index], cache, jnp.asarray(index))
        np.testing.assert_allclose(logits, expected[:, index], atol=1e-4)


@pytest.mark.parametrize("part", ["speech_encoder", "adapter"])
def test_speech_without_a_part_that_hears_it_is_an_error(batch, part):
    with pytest.raises(ValueError, match=f"no {part}"):
        jax.eval_shape(build(**{part: None}).init, jax.random.key(0), batch)
