"""Decoding methods on a small recurrent model, against plain Python and exhaustive search."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.decoding.beam_search import BeamSearch
from slm_jax.decoding.decode import decode
from slm_jax.decoding.greedy import Greedy
from slm_jax.decoding.repetition import forbid_repeated_ngrams
from slm_jax.decoding.sampling import Sampling
from slm_jax.decoding.scoring import score_targets
from slm_jax.models.interfaces import DecodeCache

VOCAB, WIDTH, BATCH, LENGTH, EOS = 4, 8, 3, 5, 1
RNG = np.random.default_rng(3)
EMBEDDING = 2 * RNG.normal(size=(VOCAB, WIDTH)).astype(np.float32)
RECURRENT = RNG.normal(size=(WIDTH, WIDTH)).astype(np.float32)
OUTPUT = RNG.normal(size=(WIDTH, VOCAB)).astype(np.float32)
STATES = RNG.normal(size=(BATCH, WIDTH)).astype(np.float32)


def next_state(state, tokens, xp=np):
    return xp.tanh(state @ RECURRENT + xp.asarray(EMBEDDING)[tokens])


def step(tokens, cache, index):
    state = next_state(cache.layers[0], tokens, jnp)
    return state @ OUTPUT, cache._replace(layers=state[None])


def start(states=STATES):
    return DecodeCache(layers=jnp.asarray(states)[None], prefix_mask=jnp.ones((len(states), 1), bool))


@functools.partial(jax.jit, static_argnames=("method", "max_length"))
def run(cache, *, method, max_length=LENGTH, key=None):
    size = cache.prefix_mask.shape[0]
    return decode(step, cache, batch_size=size, method=method, max_length=max_length, eos_id=EOS, key=key)


@functools.partial(jax.jit, static_argnames=("method",))
def search(cache, *, method):
    size = cache.prefix_mask.shape[0]
    return method.search(step, cache, batch_size=size, max_length=LENGTH, start_token=0, eos_id=EOS)


def log_probability(state, tokens):
    """Plain Python: the score of one sequence, up to its end."""
    total, previous = 0.0, 0
    for token in tokens:
        state = next_state(state, previous)
        logits = state @ OUTPUT
        total += logits[token] - np.log(np.sum(np.exp(logits)))
        previous = token
        if token == EOS:
            break
    return total


def all_ended_sequences():
    for length in range(1, LENGTH + 1):
        for body in itertools.product([t for t in range(VOCAB) if t != EOS], repeat=length - 1):
            yield (*body, EOS)


def test_greedy_is_the_best_token_at_every_step():
    decoded = run(start(), method=Greedy())
    for example, state in enumerate(STATES):
        expected, previous = [], 0
        while len(expected) < LENGTH and EOS not in expected:
            state = next_state(state, previous)
            previous = int(np.argmax(state @ OUTPUT))
            expected.append(previous)
        assert decoded.lengths[example] == len(expected)
        np.testing.assert_array_equal(decoded.tokens[example], expected + [0] * (LENGTH - len(expected)))
        np.testing.assert_allclose(decoded.scores[example], log_probability(STATES[example], expected), atol=1e-4)
    assert len(set(decoded.lengths.tolist())) > 1, "the example should show sequences of several lengths"


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_what_exhaustive_search_finds(penalty):
    beams = search(start(), method=BeamSearch(num_beams=VOCAB**3, length_penalty=penalty))
    for example, state in enumerate(STATES):

        def rank(tokens, state=state):
            return log_probability(state, tokens) / ((5 + len(tokens)) / 6) ** penalty

        expected = sorted(all_ended_sequences(), key=rank, reverse=True)[:8]
        for beam, tokens in enumerate(expected):
            np.testing.assert_array_equal(beams.tokens[example, beam, : len(tokens)], tokens)
            assert not np.any(beams.tokens[example, beam, len(tokens) :])
            assert beams.lengths[example, beam] == len(tokens)
            np.testing.assert_allclose(beams.scores[example, beam], log_probability(state, tokens), atol=1e-4)


def test_a_length_penalty_favours_longer_sequences():
    plain, penalised = (search(start(), method=BeamSearch(num_beams=64, length_penalty=p)) for p in (0.0, 1.0))
    assert np.mean(penalised.lengths[:, :8]) > np.mean(plain.lengths[:, :8])


def test_one_beam_without_an_end_is_greedy():
    def endless(tokens, cache, index):
        logits, cache = step(tokens, cache, index)
        return logits.at[:, EOS].set(-1e9), cache

    common = dict(batch_size=BATCH, max_length=LENGTH, eos_id=EOS)
    greedy = decode(endless, start(), method=Greedy(), **common)
    beam = decode(endless, start(), method=BeamSearch(num_beams=1), **common)
    np.testing.assert_array_equal(beam.tokens, greedy.tokens)
    np.testing.assert_allclose(beam.scores, greedy.scores, atol=1e-4)
    np.testing.assert_array_equal(greedy.lengths, [LENGTH] * BATCH)


@pytest.mark.parametrize("method", [Greedy(), BeamSearch(num_beams=2), Sampling()], ids=lambda m: type(m).__name__)
def test_scores_are_log_probabilities_and_the_batch_changes_nothing(method):
    together = run(start(), method=method, key=jax.random.key(0))
    for example in range(BATCH):
        tokens = together.tokens[example, : together.lengths[example]]
        expected = log_probability(STATES[example], tokens.tolist())
        np.testing.assert_allclose(together.scores[example], expected, atol=1e-4)
    alone = run(start(STATES[:1]), method=method, key=jax.random.key(0))
    np.testing.assert_array_equal(alone.tokens, together.tokens[:1])
    np.testing.assert_allclose(alone.scores, together.scores[:1], atol=1e-4)


def test_decoding_stops_when_all_examples_have_ended():
    calls = []

    def counted(tokens, cache, index):
        jax.debug.callback(lambda i: calls.append(int(i)), index)
        return jnp.tile(jnp.array([0.0, 9.0, 0.0, 0.0]), (BATCH, 1)), cache

    decoded = decode(counted, start(), batch_size=BATCH, method=Greedy(), max_length=50, eos_id=EOS)
    jax.effects_barrier()
    assert calls == [0]
    np.testing.assert_array_equal(decoded.tokens[:, :2], [[EOS, 0]] * BATCH)


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        (Sampling(), [0.1, 0.2, 0.3, 0.4]),
        (Sampling(top_k=2), [0, 0, 3 / 7, 4 / 7]),
        (Sampling(top_p=0.6), [0, 0, 3 / 7, 4 / 7]),
        (Sampling(top_p=0.3), [0, 0, 0, 1]),
        (Sampling(temperature=0.5), [1 / 30, 4 / 30, 9 / 30, 16 / 30]),
        (Sampling(top_k=9), [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_sampling_truncates_as_asked(method, kept):
    log_probs = jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4]]))
    np.testing.assert_allclose(jax.nn.softmax(method.truncate(log_probs))[0], kept, atol=1e-5)


def test_samples_follow_the_probabilities():
    cache = start(np.tile(STATES[:1], (512, 1)))
    first = run(cache, method=Sampling(), max_length=1, key=jax.random.key(1)).tokens[:, 0]
    logits = next_state(STATES[0], 0) @ OUTPUT
    frequencies = np.bincount(first, minlength=VOCAB) / 512
    np.testing.assert_allclose(frequencies, np.exp(logits) / np.exp(logits).sum(), atol=0.07)


def test_the_ngram_guard_forbids_what_the_drawing_says():
    tokens = jnp.array([[5, 6, 7, 5, 6, 0], [5, 6, 7, 6, 5, 0]])
    for size, forbidden in ((3, [{7}, set()]), (2, [{7}, {6}]), (1, [{5, 6, 7}, {5, 6, 7}]), (0, [set(), set()])):
        guarded = forbid_repeated_ngrams(jnp.zeros((2, 9)), tokens, jnp.asarray(5), size=size)
        assert [set(np.flatnonzero(np.isinf(row)).tolist()) for row in guarded] == forbidden


@pytest.mark.parametrize("method", [Greedy, BeamSearch, Sampling])
def test_methods_never_repeat_an_ngram_under_the_guard(method):
    def loop(tokens, cache, index):
        return jnp.tile(jnp.array([1.0, -9.0, 2.0, 3.0]), (tokens.shape[0], 1)), cache

    common = dict(batch_size=BATCH, max_length=8, eos_id=EOS, key=jax.random.key(0))
    decoded = decode(loop, start(), method=method(no_repeat_ngram=2), **common)
    for row, length in zip(decoded.tokens.tolist(), decoded.lengths.tolist(), strict=True):
        pairs = list(itertools.pairwise(row[:length]))
        assert len(pairs) == len(set(pairs))


def test_scoring_equals_the_scores_of_decoding():
    decoded = run(start(), method=Greedy())
    inputs = np.concatenate([np.zeros((BATCH, 1), int), decoded.tokens[:, :-1]], axis=1)
    hidden, state = [], STATES
    for index in range(LENGTH):
        state = next_state(state, inputs[:, index])
        hidden.append(state)
    weights = (jnp.arange(LENGTH) < decoded.lengths[:, None]).astype(jnp.float32)
    scores = score_targets(lambda h: h @ OUTPUT, jnp.stack(hidden, axis=1), decoded.tokens, weights=weights)
    np.testing.assert_allclose(scores, decoded.scores, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sampling(temperature=0.0), "temperature must be positive"),
        (lambda: Sampling(top_k=0), "top_k must be at least 1"),
        (lambda: Sampling(top_p=1.5), "top_p must be above 0"),
        (lambda: BeamSearch(num_beams=0), "num_beams must be at least 1"),
        (lambda: BeamSearch(length_penalty=-1.0), "length_penalty must not be negative"),
        (lambda: run(start(), method=Sampling()), "needs a random key"),
        (lambda: run(start(), method=Greedy(no_repeat_ngram=-1)), "no_repeat_ngram must be 0"),
        (lambda: run(start(), method=Greedy(), max_length=0), "max_length must be at least 1"),
    ],
)
def test_bad_values_give_one_clear_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()
