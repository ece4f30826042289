"""Convolution along time against sums written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.layers.convolution import Convolution


def convolve(x, kernel, bias, *, stride, padding, groups):
    """The textbook's sum."""
    x = np.pad(x, ((0, 0), padding, (0, 0)))
    size, channels, features = kernel.shape
    out = np.zeros((x.shape[0], (x.shape[1] - size) // stride + 1, features))
    for t in range(out.shape[1]):
        for f in range(features):
            first = f // (features // groups) * channels
            window = x[:, t * stride : t * stride + size, first : first + channels]
            out[:, t, f] = (window * kernel[..., f]).sum((1, 2)) + bias[f]
    return out


@pytest.mark.parametrize(
    "settings",
    [
        dict(stride=1, padding=(0, 0), groups=1),
        dict(stride=2, padding=(1, 1), groups=1),
        dict(stride=3, padding=(2, 0), groups=2),
    ],
)
def test_it_is_the_sum_over_a_window(settings):
    layer = Convolution(features=6, kernel_size=3, **settings)
    x = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    shape = layer.init(jax.random.key(0), jnp.asarray(x))["params"]["kernel"].value.shape
    kernel, bias = np.random.default_rng(1).normal(size=shape).astype(np.float32), np.arange(6.0, dtype=np.float32)
    y = layer.apply({"params": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}, jnp.asarray(x))
    np.testing.assert_allclose(y, convolve(x, kernel, bias, **settings), atol=1e-5)
    assert y.shape[1] == (9 + sum(settings["padding"]) - 3) // settings["stride"] + 1


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 2), ("tpu", 1), ("cuda", 1)])
def test_groups_are_taken_apart_on_a_cpu_alone(platform, convolutions):
    layer = Convolution(features=6, kernel_size=3, groups=2)
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4)))
    program = jax.jit(layer.apply).trace(variables, jnp.zeros((1, 4, 4))).lower(lowering_platforms=(platform,))
    assert program.as_text().count("stablehlo.convolution(") == convolutions


def test_without_a_bias_there_is_none():
    params = Convolution(features=2, kernel_size=3, use_bias=False).init(jax.random.key(0), jnp.zeros((1, 4, 2)))
    assert set(params["params"]) == {"kernel"}
