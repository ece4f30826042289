"""What Conformers share, where the Conformer of USM does not use it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.layers.norm import FixedBatchNorm
from slm_jax.models.conformer_blocks import (
    ConvModule,
    ConvNorm,
    DepthwiseConv,
    FeedForward,
    Reach,
    RelativeAttention,
    distance_encoding,
)


@pytest.mark.parametrize(("reach", "kernel_size", "after"), [("centred", 5, 2), ("causal", 5, 0), ("causal", 4, 0)])
def test_depthwise_convolution_reaches_as_far_as_it_says(reach, kernel_size, after):
    layer = DepthwiseConv(kernel_size=kernel_size, reach=Reach(reach), use_bias=True)
    x = jnp.zeros((1, 9, 2)).at[0, 4].set(1.0)
    kernel = jnp.arange(1.0, 2 * kernel_size + 1).reshape(kernel_size, 2)
    y = layer.apply({"params": {"kernel": kernel, "bias": jnp.array([10.0, 20.0])}}, x) - jnp.array([10.0, 20.0])
    first = 4 - after
    np.testing.assert_allclose(y[0, first : first + kernel_size], kernel[::-1], atol=1e-5)
    assert not np.any(y[0, :first]) and not np.any(y[0, first + kernel_size :])


def test_a_fixed_batch_norm_is_a_scale_and_a_shift():
    x = jax.random.normal(jax.random.key(0), (2, 3, 2))
    scale, bias = jnp.array([2.0, 3.0]), jnp.array([-1.0, 0.5])
    y = FixedBatchNorm().apply({"params": {"scale": scale, "bias": bias}}, x)
    np.testing.assert_allclose(y, x * scale + bias, atol=1e-6)
    started = nn.unbox(FixedBatchNorm().init(jax.random.key(0), x))
    np.testing.assert_array_equal(FixedBatchNorm().apply(started, x), x)


def test_a_convolution_module_with_batch_norm_mixes_no_channels_before_the_last_map(random_variables):
    x, mask = jax.random.normal(jax.random.key(0), (1, 6, 4)), jnp.ones((1, 6), bool)
    module = ConvModule(kernel_size=3, norm=ConvNorm.BATCH, use_bias=False)
    params = random_variables(module, (x, mask))["params"]
    y = module.apply({"params": params}, x, mask)
    normed = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    normed = normed * params["norm"]["scale"] + params["norm"]["bias"]
    gated = normed @ params["values"]["kernel"] * nn.sigmoid(normed @ params["gate"]["kernel"])
    padded = np.pad(gated, ((0, 0), (1, 1), (0, 0)))
    convolved = sum(padded[:, i : i + 6] * params["depthwise"]["kernel"][i] for i in range(3))
    scaled = convolved * params["depthwise_norm"]["scale"] + params["depthwise_norm"]["bias"]
    np.testing.assert_allclose(y, nn.swish(scaled) @ params["out"]["kernel"], atol=1e-5)


@pytest.mark.parametrize("module", [RelativeAttention(num_heads=2), FeedForward(ff_width=6)])
def test_biases_of_zero_are_none(module, random_variables):
    x, mask = jax.random.normal(jax.random.key(0), (1, 5, 8)), jnp.ones((1, 5), bool)
    inputs = (x, mask, distance_encoding(5, 8)) if isinstance(module, RelativeAttention) else (x,)
    with_bias, without = module.clone(use_bias=True), module.clone(use_bias=False)
    params = random_variables(with_bias, inputs)["params"]
    added = {name for name, leaves in params.items() if isinstance(leaves, dict) and {"kernel", "bias"} <= set(leaves)}
    assert added == ({"query", "key", "value", "out"} if len(inputs) == 3 else {"expand", "contract"})
    zeroed = params | {name: params[name] | {"bias": jnp.zeros_like(params[name]["bias"])} for name in added}
    bare = params | {name: {"kernel": params[name]["kernel"]} for name in added}
    expected = without.apply({"params": bare}, *inputs)
    np.testing.assert_allclose(with_bias.apply({"params": zeroed}, *inputs), expected, atol=1e-6)
    assert np.abs(with_bias.apply({"params": params}, *inputs) - expected).max() > 1e-2
