"""From a step function to token sequences: what decoding methods have in common.

A step function feeds one token an example and gives the scores of the next: `step(tokens [B], cache, index) ->
(logits [B, V], cache)`, with `index` counting from 0. `LanguageModel.step` with its parameters bound is one.
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp

from slm_jax.decoding.repetition import forbid_repeated_ngrams
from slm_jax.typing import Array, Bool, Float, Int, PRNGKey


@runtime_checkable
class Cache(Protocol):
    """What a step function remembers; `slm_jax.models.interfaces.DecodeCache` is one."""

    def take(self, indices: Int[Array, "K"]) -> "Cache":
        """The cache whose batch entry i is this one's entry indices[i]."""
        ...


CacheT = TypeVar("CacheT", bound=Cache)
StepFunction = Callable[[jax.Array, CacheT, jax.Array], tuple[jax.Array, CacheT]]
Choice = Callable[[jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class Decoded:
    """One token sequence an example.

    Attributes:
      tokens: what was generated, the end-of-sequence token included, zeros after it; the start token is not in it.
      scores: log-probability of those tokens under the model, whatever the method chose them by.
      lengths: how many there are; the full length where no end came.
    """

    tokens: Int[Array, "B T"]
    scores: Float[Array, "B"]
    lengths: Int[Array, "B"]


@runtime_checkable
class DecodingMethod(Hashable, Protocol):
    """How the next tokens are chosen. Methods are frozen dataclasses: `Greedy`, `Sampling`, `BeamSearch`."""

    def __call__(
        self,
        step: StepFunction,
        cache: Cache,
        *,
        batch_size: int,
        max_length: int,
        start_token: int,
        eos_id: int,
        key: PRNGKey | None,
    ) -> Decoded: ...


def decode(
    step: StepFunction,
    cache: Cache,
    *,
    batch_size: int,
    method: DecodingMethod,
    max_length: int,
    start_token: int = 0,
    eos_id: int = 1,
    key: PRNGKey | None = None,
) -> Decoded:
    """Generates at most `max_length` tokens an example, and stops when every example has ended. May be jitted.

    Args:
      step: see the head of this file.
      cache: the cache before the first step, with room for `max_length` steps.
      batch_size: examples in the cache.
      method: how tokens are chosen.
      max_length: tokens generated at most, the end included.
      start_token: what the first step is fed.
      eos_id: the token that ends a sequence.
      key: randomness; only methods that sample need it.

    Raises:
      ValueError: a size is not positive, or `method` samples and there is no key.
    """
    if batch_size < 1 or max_length < 1:
        raise ValueError(f"batch_size and max_length must be at least 1, got {batch_size} and {max_length}")
    return method(
        step,
        cache,
        batch_size=batch_size,
        max_length=max_length,
        start_token=start_token,
        eos_id=eos_id,
        key=key,
    )


class _State(NamedTuple):
    step_index: jax.Array
    current: jax.Array
    tokens: jax.Array
    scores: jax.Array
    finished: jax.Array
    cache: Cache


def generate(
    step: StepFunction,
    cache: Cache,
    *,
    choose: Choice,
    batch_size: int,
    max_length: int,
    start_token: int,
    eos_id: int,
    no_repeat_ngram: int,
) -> Decoded:
    """The loop of the methods that keep one sequence an example.

    Args:
      choose: next tokens [B] from log-probabilities [B, V] (-inf where forbidden) and the index of the step.
      no_repeat_ngram: see `forbid_repeated_ngrams`.
    """

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.step_index < max_length) & ~jnp.all(state.finished)

    def advance(state: _State) -> _State:
        logits, cache = step(state.current, state.cache, state.step_index)
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        allowed = forbid_repeated_ngrams(log_probs, state.tokens, state.step_index, size=no_repeat_ngram)
        chosen = jnp.where(state.finished, 0, choose(allowed, state.step_index))
        gained = jnp.take_along_axis(log_probs, chosen[:, None], axis=1)[:, 0]
        return _State(
            step_index=state.step_index + 1,
            current=chosen,
            tokens=state.tokens.at[:, state.step_index].set(chosen),
            scores=state.scores + jnp.where(state.finished, 0, gained),
            finished=state.finished | (chosen == eos_id),
            cache=cache,
        )

    start = _State(
        step_index=jnp.zeros((), jnp.int32),
        current=jnp.full((batch_size,), start_token, jnp.int32),
        tokens=jnp.zeros((batch_size, max_length), jnp.int32),
        scores=jnp.zeros((batch_size,), jnp.float32),
        finished=jnp.zeros((batch_size,), bool),
        cache=cache,
    )
    end = jax.lax.while_loop(unfinished, advance, start)
    return Decoded(tokens=end.tokens, scores=end.scores, lengths=sequence_lengths(end.tokens, eos_id=eos_id))


def sequence_lengths(tokens: Int[Array, "... T"], *, eos_id: int) -> Int[Array, "..."]:
    """Tokens up to the first end-of-sequence token, that one included; T where there is none."""
    is_end = tokens == eos_id
    return jnp.where(jnp.any(is_end, axis=-1), jnp.argmax(is_end, axis=-1) + 1, tokens.shape[-1])
