"""Beam search with a length penalty."""

import dataclasses
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from slm_jax.decoding.decode import Cache, Decoded, StepFunction, sequence_lengths
from slm_jax.decoding.repetition import forbid_repeated_ngrams
from slm_jax.typing import Array, Bool, Float, Int, PRNGKey


@flax.struct.dataclass
class Beams:
    """The K best sequences of each example, best first.

    Attributes:
      tokens: as in `Decoded`.
      scores: log-probabilities; -inf where fewer than K sequences were found.
      lengths: tokens, the end included.
    """

    tokens: Int[Array, "B K T"]
    scores: Float[Array, "B K"]
    lengths: Int[Array, "B K"]


class _State(NamedTuple):
    """`live` sequences have not ended and are scored by log-probability; `ended` ones by penalised log-probability."""

    step_index: jax.Array
    live_tokens: jax.Array
    live_scores: jax.Array
    ended_tokens: jax.Array
    ended_scores: jax.Array
    cache: Cache


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Keeps the `num_beams` most probable unfinished sequences, and as many finished ones.

    Sequences are ranked by log-probability / ((5 + length) / 6) ** length_penalty (GNMT, arXiv 1609.08144, as in T5X's
    `decoding.beam_search`). A sequence without an end is returned only if no sequence of that example has ended.

    Attributes:
      num_beams: sequences kept.
      length_penalty: 0 favours short sequences, larger values longer ones.
      no_repeat_ngram: no n-gram of this length twice; 0 allows all.

    Raises:
      ValueError: a value out of range.
    """

    num_beams: int = 4
    length_penalty: float = 0.6
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise ValueError(f"BeamSearch.num_beams must be at least 1, got {self.num_beams}")
        if self.length_penalty < 0:
            raise ValueError(f"BeamSearch.length_penalty must not be negative, got {self.length_penalty}")

    def __call__(
        self,
        step: StepFunction,
        cache: Cache,
        *,
        batch_size: int,
        max_length: int,
        start_token: int,
        eos_id: int,
        key: PRNGKey | None = None,
    ) -> Decoded:
        beams = self.search(
            step, cache, batch_size=batch_size, max_length=max_length, start_token=start_token, eos_id=eos_id
        )
        return Decoded(tokens=beams.tokens[:, 0], scores=beams.scores[:, 0], lengths=beams.lengths[:, 0])

    def search(
        self, step: StepFunction, cache: Cache, *, batch_size: int, max_length: int, start_token: int, eos_id: int
    ) -> Beams:
        """All beams of every example; see `decode` for the arguments."""
        end = jax.lax.while_loop(
            lambda state: (state.step_index < max_length) & jnp.any(self._can_improve(state, max_length)),
            lambda state: self._advance(state, step, start_token=start_token, eos_id=eos_id),
            self._start(cache, batch_size, max_length),
        )
        has_ended = jnp.any(jnp.isfinite(end.ended_scores), axis=1, keepdims=True)
        tokens = jnp.where(has_ended[..., None], end.ended_tokens, end.live_tokens)
        lengths = sequence_lengths(tokens, eos_id=eos_id)
        scores = jnp.where(has_ended, end.ended_scores * self._penalty(lengths), end.live_scores)
        return Beams(tokens=tokens, scores=scores, lengths=lengths)

    def _start(self, cache: Cache, batch_size: int, max_length: int) -> _State:
        no_tokens = jnp.zeros((batch_size, self.num_beams, max_length), jnp.int32)
        no_scores = jnp.full((batch_size, self.num_beams), -jnp.inf, jnp.float32)
        return _State(
            step_index=jnp.zeros((), jnp.int32),
            live_tokens=no_tokens,
            live_scores=no_scores.at[:, 0].set(0),
            ended_tokens=no_tokens,
            ended_scores=no_scores,
            cache=cache.take(jnp.repeat(jnp.arange(batch_size), self.num_beams)),
        )

    def _penalty(self, length: Int[Array, "..."]) -> Float[Array, "..."]:
        return ((5.0 + length) / 6.0) ** self.length_penalty

    def _can_improve(self, state: _State, max_length: int) -> Bool[Array, "B"]:
        """Whether a live sequence may still beat the worst ended one, if nothing but its penalty changes."""
        best_live = jnp.max(state.live_scores, axis=1) / self._penalty(jnp.asarray(max_length))
        return best_live > jnp.min(state.ended_scores, axis=1)

    def _advance(self, state: _State, step: StepFunction, *, start_token: int, eos_id: int) -> _State:
        scores, beams, tokens, cache = self._candidates(state, step, start_token)
        sequences = (
            jnp.take_along_axis(state.live_tokens, beams[..., None], axis=1).at[:, :, state.step_index].set(tokens)
        )
        is_end = tokens == eos_id

        live_scores, kept = jax.lax.top_k(jnp.where(is_end, -jnp.inf, scores), self.num_beams)
        live_beams = jnp.take_along_axis(beams, kept, axis=1)
        first_of_example = jnp.arange(beams.shape[0])[:, None] * self.num_beams

        penalised = jnp.where(is_end, scores / self._penalty(state.step_index + 1), -jnp.inf)
        ended_scores, best = jax.lax.top_k(jnp.concatenate([state.ended_scores, penalised], axis=1), self.num_beams)
        ended_tokens = jnp.concatenate([state.ended_tokens, sequences], axis=1)
        return _State(
            step_index=state.step_index + 1,
            live_tokens=jnp.take_along_axis(sequences, kept[..., None], axis=1),
            live_scores=live_scores,
            ended_tokens=jnp.take_along_axis(ended_tokens, best[..., None], axis=1),
            ended_scores=ended_scores,
            cache=cache.take((first_of_example + live_beams).reshape(-1)),
        )

    def _candidates(
        self, state: _State, step: StepFunction, start_token: int
    ) -> tuple[Float[Array, "B C"], Int[Array, "B C"], Int[Array, "B C"], Cache]:
        """The best continuations by one token: scores, which beams they continue, tokens; and the new cache.

        There are twice as many as beams, so that enough are left when all beams could end.
        """
        batch, num_beams, max_length = state.live_tokens.shape
        history = state.live_tokens.reshape(batch * num_beams, max_length)
        last = jax.lax.dynamic_index_in_dim(history, jnp.maximum(state.step_index - 1, 0), axis=1, keepdims=False)
        logits, cache = step(jnp.where(state.step_index == 0, start_token, last), state.cache, state.step_index)
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        log_probs = forbid_repeated_ngrams(log_probs, history, state.step_index, size=self.no_repeat_ngram)
        vocab_size = log_probs.shape[-1]
        totals = state.live_scores[..., None] + log_probs.reshape(batch, num_beams, vocab_size)
        scores, flat = jax.lax.top_k(totals.reshape(batch, -1), 2 * num_beams)
        return scores, flat // vocab_size, flat % vocab_size, cache
