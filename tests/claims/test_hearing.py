"""Speech that is heard once: the answers are the model's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.claims.hearing import Hearing
from slm_jax.decoding.greedy import Greedy
from slm_jax.evaluation import make_predict


@pytest.fixture
def batches():
    speech = jax.random.normal(jax.random.key(0), (2, 32000))
    length = jnp.array([32000, 20000], jnp.int32)
    rows = [jnp.array([[5, 6, 1], [number, 1, 0]], jnp.int32) for number in (7, 9)]
    return [{"speech": speech, "speech_length": length, "encoder_input_tokens": tokens} for tokens in rows]


def test_answers_are_those_of_the_model_and_speech_is_heard_once(tiny_model, batches, monkeypatch):
    model, params, key = tiny_model.training.objective.model, tiny_model.params, jax.random.key(0)
    hearing = Hearing(model)
    settings = {"max_decode_length": 5, "start_token": 0, "eos_id": 1}
    answer = make_predict(model, Greedy(), **settings)
    read = make_predict(hearing.reader, Greedy(), **settings)
    calls = []
    listen = hearing.listen
    monkeypatch.setattr(hearing, "listen", lambda *args: calls.append(args) or listen(*args))
    for batch in batches:
        np.testing.assert_array_equal(read(params, hearing.add(params, batch), key), answer(params, batch, key))
    assert len(calls) == 1
    quiet = {**batches[0], "speech": 0.5 * batches[0]["speech"]}
    hearing.add(params, quiet)
    assert len(calls) == 2, "another recording is heard too"
    added = hearing.add(params, batches[0])
    assert "speech" not in added
    adapted = model.apply({"params": params}, batches[0], method="adapt_speech")
    np.testing.assert_allclose(added["speech_embeddings"], adapted.embeddings, atol=1e-5)
    np.testing.assert_array_equal(added["speech_mask"], adapted.mask)
