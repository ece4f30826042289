"""Greedy decoding."""

import dataclasses

import jax.numpy as jnp

from slm_jax.decoding.decode import Cache, Decoded, StepFunction, generate
from slm_jax.typing import PRNGKey


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The most probable token at every step.

    Attributes:
      no_repeat_ngram: no n-gram of this length twice; 0 allows all.
    """

    no_repeat_ngram: int = 0

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
        return generate(
            step,
            cache,
            choose=lambda log_probs, index: jnp.argmax(log_probs, axis=-1),
            batch_size=batch_size,
            max_length=max_length,
            start_token=start_token,
            eos_id=eos_id,
            no_repeat_ngram=self.no_repeat_ngram,
        )
