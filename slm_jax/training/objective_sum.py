"""Several objectives of one model at once."""

import dataclasses
from collections.abc import Collection
from typing import Any

import flax.linen as nn

from slm_jax.models.interfaces import LossOutput, Objective
from slm_jax.typing import Batch, PRNGKey, PyTree


@dataclasses.dataclass(frozen=True)
class ObjectiveSum:
    """The first objective, and others beside it.

    The loss is the first one's plus each other one's times its share, all of them sums over the batch. Its weight is
    the first one's, so a share is counted in units of the other objective per unit of the first. Metrics are those of
    all, and `loss_NAME` of each other one, a unit of its own.

    Attributes:
      first: gives the model, its parameters and the weight.
      others: by name; objectives of the same model.
      shares: by the same names, above 0.

    Raises:
      ValueError: names do not agree, a share is not above 0, or an objective is of another model.
    """

    first: Objective
    others: dict[str, Objective]
    shares: dict[str, float]

    def __post_init__(self) -> None:
        if self.others.keys() != self.shares.keys():
            raise ValueError(f"ObjectiveSum has others {sorted(self.others)}, but shares of {sorted(self.shares)}")
        for name, other in self.others.items():
            if self.shares[name] <= 0:
                raise ValueError(f"ObjectiveSum.shares has {self.shares[name]} for {name!r}: it has to be above 0")
            if other.model != self.first.model:
                raise ValueError(
                    f"ObjectiveSum.others has {name!r}, which is of another model than the first objective"
                )

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        return self.first.model

    def init(self, rng: PRNGKey, batch: Batch) -> PyTree:
        """Random boxed parameters, as the first objective gives them."""
        return self.first.init(rng, batch)

    def loss(self, params: PyTree, batch: Batch, *, rng: PRNGKey, training: Collection[str] = ()) -> LossOutput:
        """Sums over the batch; all objectives draw from the same key."""
        given: dict[str, Any] = dict(batch=batch, rng=rng, training=training)
        output = self.first.loss(params, **given)
        loss, metrics = output.loss, dict(output.metrics)
        for name, other in self.others.items():
            found = other.loss(params, **given)
            loss += self.shares[name] * found.loss
            metrics |= {**found.metrics, f"loss_{name}": (found.loss, found.weight)}
        return LossOutput(loss=loss, weight=output.weight, metrics=metrics)
