"""Small layers against plain numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slm_jax.layers.dense import Dense, Embed
from slm_jax.layers.norm import LayerNorm, RMSNorm
from slm_jax.layers.positions import (
    LinearScaling,
    Llama3Scaling,
    RelativePositionBias,
    relative_position_bucket,
    rotary,
    rotary_frequencies,
)


def init(module, *args):
    return nn.unbox(module.init(jax.random.key(0), *args))


def test_dense_contracts_as_many_axes_as_the_kernel_names():
    x = jax.random.normal(jax.random.key(1), (2, 3, 4, 5))
    layer = Dense((6,), ("heads", "kv", "embed"), use_bias=True)
    params = init(layer, x)["params"]
    assert params["kernel"].shape == (4, 5, 6)
    expected = np.einsum("blhd,hde->ble", x, params["kernel"]) + params["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-5)


def test_dense_initial_scale_follows_the_whole_fan_in():
    x = jnp.zeros((1, 64, 16))
    kernel = init(Dense((64,), ("heads", "kv", "embed")), x)["params"]["kernel"]
    assert abs(float(kernel.std()) * np.sqrt(64 * 16) - 1) < 0.05


def test_embed_attend_is_the_transpose():
    table = Embed(7, 4)
    params = init(table, jnp.array([0]))
    hidden = jax.random.normal(jax.random.key(1), (2, 4))
    scores = table.apply(params, hidden, method="attend")
    np.testing.assert_allclose(scores, hidden @ params["params"]["embedding"].T, atol=1e-5)


def test_rms_norm():
    x = jax.random.normal(jax.random.key(1), (2, 8)) * 3
    expected = x / np.sqrt(np.mean(np.square(x), -1, keepdims=True) + 1e-6)
    for offset in (0.0, 1.0):
        norm = RMSNorm(scale_offset=offset)
        variables = init(norm, x)
        assert float(variables["params"]["scale"][0]) == 1 - offset
        np.testing.assert_allclose(norm.apply(variables, x), expected, atol=1e-5)
    assert np.abs(RMSNorm(epsilon=10.0).apply(variables, x) - expected).max() > 0.1


def test_layer_norm():
    x = jax.random.normal(jax.random.key(1), (2, 8)) * 3 + 1
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(np.var(x, -1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(LayerNorm().apply(init(LayerNorm(), x), x), expected, atol=1e-5)


def test_rotary_scores_depend_on_distance_only():
    query, key = jax.random.normal(jax.random.key(1), (2, 1, 1, 1, 8))

    def score(q_position, k_position):
        rotate = lambda x, p: rotary(x, jnp.array([[p]]), frequency=rotary_frequencies(8, base=100.0))  # noqa: E731
        return float(jnp.sum(rotate(query, q_position) * rotate(key, k_position)))

    assert abs(score(3, 1) - score(13, 11)) < 1e-4
    assert abs(score(3, 1) - score(4, 1)) > 1e-3
    np.testing.assert_allclose(
        rotary(query, jnp.array([[0]]), frequency=rotary_frequencies(8, base=100.0)), query, atol=1e-6
    )


def test_rotary_pairs_channel_i_with_channel_i_plus_half():
    x = jnp.zeros((1, 1, 1, 4)).at[..., 0].set(1.0)
    rotated = rotary(x, jnp.array([[1]]), frequency=rotary_frequencies(4, base=100.0))[0, 0, 0]
    np.testing.assert_allclose(rotated, [np.cos(1), 0, np.sin(1), 0], atol=1e-6)


def test_rotary_frequencies():
    np.testing.assert_allclose(rotary_frequencies(6, base=8.0), [1, 1 / 2, 1 / 4], rtol=1e-6)
    np.testing.assert_allclose(
        rotary_frequencies(6, base=8.0, scaling=LinearScaling(4.0)), [1 / 4, 1 / 8, 1 / 16], rtol=1e-6
    )


def test_llama_scales_slow_frequencies_alone():
    """Over 8 pi positions these turn 4, 2 and 1 times: the first is kept, the last divided, the second half of each."""
    scaling = Llama3Scaling(factor=5.0, low_frequency_factor=1.0, high_frequency_factor=3.0, original_length=8 * np.pi)
    scaled = rotary_frequencies(6, base=8.0, scaling=scaling)
    np.testing.assert_allclose(scaled, [1, 0.5 * (1 + 1 / 5) / 2, 0.25 / 5], rtol=1e-5)


def test_relative_position_buckets():
    """Bidirectional, 8 buckets: 4 a side; distances 0 and 1 exact, then logarithmic up to the last bucket."""
    positions = jnp.array([-100, -8, -2, -1, 0, 1, 2, 8, 100])
    buckets = relative_position_bucket(positions, bidirectional=True, num_buckets=8, max_distance=16)
    np.testing.assert_array_equal(buckets, [3, 3, 2, 1, 0, 5, 6, 7, 7])
    causal = relative_position_bucket(positions, bidirectional=False, num_buckets=8, max_distance=16)
    np.testing.assert_array_equal(causal, [7, 6, 2, 1, 0, 0, 0, 0, 0])


def test_relative_position_bias_is_a_table_lookup():
    layer = RelativePositionBias(num_heads=2, bidirectional=True, num_buckets=8, max_distance=16)
    queries, keys = jnp.arange(3), jnp.arange(4)
    variables = init(layer, queries, keys)
    bias = layer.apply(variables, queries, keys)
    assert bias.shape == (1, 2, 3, 4)
    np.testing.assert_allclose(bias[0, :, 1, 0], variables["params"]["embedding"][1], atol=1e-6)
