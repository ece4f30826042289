"""Sampling, with temperature, top-k and nucleus truncation."""

import dataclasses

import jax
import jax.numpy as jnp

from slm_jax.decoding.decode import Cache, Decoded, StepFunction, generate
from slm_jax.typing import Array, Float, Int, PRNGKey


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A random token at every step. What is drawn for an example does not depend on the rest of the batch.

    Attributes:
      temperature: log-probabilities are divided by it; below 1 is more certain.
      top_k: only the k most probable tokens; None for all.
      top_p: only the most probable tokens that together have at least this probability (arXiv 1904.09751); applied
        after the temperature and top_k.
      no_repeat_ngram: no n-gram of this length twice; 0 allows all.

    Raises:
      ValueError: a value out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"Sampling.temperature must be positive, got {self.temperature}; use Greedy for 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"Sampling.top_k must be at least 1, or None for all tokens; got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"Sampling.top_p must be above 0 and at most 1, got {self.top_p}")

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
    ) -> Decoded:
        if key is None:
            raise ValueError("Sampling needs a random key: decode(..., key=jax.random.key(SEED))")
        example_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch_size))

        def choose(log_probs: Float[Array, "B V"], index: Int[Array, ""]) -> Int[Array, "B"]:
            keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys, index)
            return jax.vmap(jax.random.categorical)(keys, self.truncate(log_probs))

        return generate(
            step,
            cache,
            choose=choose,
            batch_size=batch_size,
            max_length=max_length,
            start_token=start_token,
            eos_id=eos_id,
            no_repeat_ngram=self.no_repeat_ngram,
        )

    def truncate(self, log_probs: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """Unnormalised log-probabilities after the temperature, -inf for tokens that are cut off."""
        logits = log_probs / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = jax.lax.top_k(logits, self.top_k)[0][:, -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        if self.top_p < 1:
            ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
            probabilities = jax.nn.softmax(ordered, axis=-1)
            before = jnp.cumsum(probabilities, axis=-1) - probabilities
            least = jnp.min(jnp.where(before < self.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
            logits = jnp.where(logits < least, -jnp.inf, logits)
        return logits
