"""Several objectives at once: the sum, its weight, its metrics and its gradients."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.models.interfaces import LossOutput, Objective
from slm_jax.training.objective_sum import ObjectiveSum

BATCH = {"x": jnp.array([[1.0, 2.0], [3.0, 5.0]])}
KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Power:
    """The sum of the layer's outputs to a power; half of it where nothing trains."""

    exponent: int
    model: nn.Module = nn.Dense(1)

    def init(self, rng, batch):
        return {"layer": self.model.init(rng, batch["x"])["params"]}

    def loss(self, params, batch, *, rng, training=()):
        values = self.model.apply({"params": params["layer"]}, batch["x"]) ** self.exponent
        total = values.sum() * (1.0 if training else 0.5) + jax.random.uniform(rng)
        weight = jnp.float32(self.exponent * len(values))
        return LossOutput(total, weight, {f"mean_{self.exponent}": (values.sum(), weight)})


@pytest.fixture(scope="module")
def params():
    return ObjectiveSum(Power(1), {}, {}).init(KEY, BATCH)


def test_losses_are_added_by_their_shares(params):
    both = ObjectiveSum(Power(1), {"square": Power(2), "cube": Power(3)}, {"square": 0.5, "cube": 2.0})
    for training in ((), ("layer",)):
        one, two, three = (Power(n).loss(params, BATCH, rng=KEY, training=training) for n in (1, 2, 3))
        output = both.loss(params, BATCH, rng=KEY, training=training)
        np.testing.assert_allclose(output.loss, one.loss + 0.5 * two.loss + 2 * three.loss, rtol=1e-6)
        assert output.weight == one.weight
        assert set(output.metrics) == {"mean_1", "mean_2", "mean_3", "loss_square", "loss_cube"}
        assert output.metrics["loss_cube"] == (three.loss, three.weight)


def test_gradients_are_those_of_the_sum(params):
    def gradient(objective):
        return jax.grad(lambda params: objective.loss(params, BATCH, rng=KEY).loss)(params)

    found = gradient(ObjectiveSum(Power(1), {"square": Power(2)}, {"square": 0.3}))
    expected = jax.tree.map(lambda a, b: a + 0.3 * b, gradient(Power(1)), gradient(Power(2)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def test_it_obeys_the_protocol_and_refuses_what_does_not_belong_together():
    assert isinstance(ObjectiveSum(Power(1), {"square": Power(2)}, {"square": 1.0}), Objective)
    with pytest.raises(ValueError, match=r"others \['square'\], but shares of \['cube'\]"):
        ObjectiveSum(Power(1), {"square": Power(2)}, {"cube": 1.0})
    with pytest.raises(ValueError, match=r"shares has 0.0 for 'square'"):
        ObjectiveSum(Power(1), {"square": Power(2)}, {"square": 0.0})
    with pytest.raises(ValueError, match="'square', which is of another model"):
        ObjectiveSum(Power(1), {"square": Power(2, nn.Dense(2))}, {"square": 1.0})
