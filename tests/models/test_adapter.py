"""The adapter: padding and batch invariance, scanned against unrolled, every field."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.models.adapter import TransformerAdapter

CONFIG = dict(features=12, num_layers=2, num_heads=2, head_dim=4, ff_width=16)


@pytest.fixture(scope="module")
def inputs():
    frames = jax.random.normal(jax.random.key(0), (3, 6, 8))
    return frames, jnp.arange(6) < jnp.array([[6], [4], [1]])


@pytest.fixture(scope="module")
def variables(inputs):
    return nn.unbox(TransformerAdapter(**CONFIG).init(jax.random.key(1), *inputs))


def test_padding_and_batch_change_nothing(inputs, variables):
    frames, mask = inputs
    adapter = TransformerAdapter(**CONFIG)
    output = adapter.apply(variables, frames, mask)
    garbage = jnp.where(mask[..., None], frames, 1e3)
    np.testing.assert_allclose(adapter.apply(variables, garbage, mask), output, atol=1e-5)
    np.testing.assert_allclose(adapter.apply(variables, frames[1:2, :4], mask[1:2, :4])[0], output[1, :4], atol=1e-5)
    assert not np.any(output[1, 4:])


def test_scanned_equals_unrolled(inputs, variables):
    unrolled = TransformerAdapter(**CONFIG, scan_layers=False)
    params = {"params": trees.unstack_layers(variables["params"])}
    expected = TransformerAdapter(**CONFIG).apply(variables, *inputs)
    np.testing.assert_allclose(unrolled.apply(params, *inputs), expected, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        dict(features=8),
        dict(num_layers=1),
        dict(num_heads=4),
        dict(head_dim=8),
        dict(ff_width=8),
        dict(output_scale=2.0),
    ],
)
def test_every_field_matters(inputs, variables, change):
    adapter = TransformerAdapter(**(CONFIG | change))
    output = adapter.apply(nn.unbox(adapter.init(jax.random.key(1), *inputs)), *inputs)
    before = TransformerAdapter(**CONFIG).apply(variables, *inputs)
    assert output.shape != before.shape or np.abs(output - before).max() > 1e-3


def test_dropout_acts_in_training_only(inputs, variables):
    adapter = TransformerAdapter(**CONFIG, dropout_rate=0.5)
    quiet = adapter.apply(variables, *inputs)
    noisy = adapter.apply(variables, *inputs, deterministic=False, rngs={"dropout": jax.random.key(2)})
    np.testing.assert_allclose(quiet, TransformerAdapter(**CONFIG).apply(variables, *inputs), atol=1e-6)
    assert np.abs(noisy - quiet).max() > 1e-2
