"""Attention against plain numpy, head by head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.layers.attention import HeadNorm, KeyValue, MultiHeadAttention, ProjectionBias, dot_product_attention

B, Q, K, H, G, D = 2, 3, 5, 4, 2, 6


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    mask = rng.random((B, Q, K)) < 0.6
    mask[0, 0] = False
    return normal(B, Q, H, D), normal(B, G, K, D), normal(B, G, K, D), jnp.asarray(mask), normal(1, H, Q, K)


def reference(query, key, value, mask, bias, softcap=None):
    query, key, value, mask, bias = map(np.asarray, (query, key, value, mask, bias))
    output = np.zeros_like(query)
    for b in range(B):
        for h in range(H):
            group = h // (H // G)
            for q in range(Q):
                if not mask[b, q].any():
                    continue
                scores = key[b, group] @ query[b, q, h]
                scores = softcap * np.tanh(scores / softcap) if softcap else scores
                scores = np.where(mask[b, q], scores + bias[0, h, q], -np.inf)
                weights = np.exp(scores - scores.max())
                output[b, q, h] = weights / weights.sum() @ value[b, group]
    return output


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_parity_with_numpy_and_zeros_where_nothing_may_be_seen(arrays, softcap):
    query, key, value, mask, bias = arrays
    output = dot_product_attention(query, key, value, mask=mask, bias=bias, logit_softcap=softcap)
    np.testing.assert_allclose(output, reference(*arrays, softcap), atol=1e-5)
    assert not np.any(output[0, 0])


def test_gradient_is_finite_where_nothing_may_be_seen(arrays):
    query, key, value, mask, _ = arrays
    gradient = jax.grad(lambda q: dot_product_attention(q, key, value, mask=mask).sum())(jnp.asarray(query))
    assert np.isfinite(gradient).all()


def module(**changes):
    return MultiHeadAttention(**(dict(num_heads=4, head_dim=6, num_kv_heads=2) | changes))


def apply(attention, x):
    def forward(self, x):
        return self(x, self.project_keys(x))

    variables = attention.init(jax.random.key(0), x, method=forward)
    return attention.apply(variables, x, method=forward)


@pytest.mark.parametrize(
    "change",
    [
        dict(num_heads=2),
        dict(head_dim=4),
        dict(num_kv_heads=1),
        dict(query_scale=1.0),
        dict(logit_softcap=0.1),
        dict(head_norm=HeadNorm.RMS),
        dict(output_features=3),
        dict(kernel_init=jax.nn.initializers.ones),
    ],
)
def test_every_field_matters(change):
    x = jax.random.normal(jax.random.key(1), (B, Q, 8))
    before, after = apply(module(), x), apply(module(**change), x)
    assert before.shape != after.shape or np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(projection_bias=ProjectionBias.NONE), set()),
        (dict(projection_bias=ProjectionBias.QUERY_KEY_VALUE), {"query", "key", "value"}),
        (dict(projection_bias=ProjectionBias.QUERY_VALUE), {"query", "value"}),
        (dict(use_output_bias=True), {"out"}),
    ],
)
def test_biases_are_parameters(settings, expected):
    x = jnp.ones((B, Q, 8))
    variables = module(**settings).init(jax.random.key(0), x, method=lambda self, x: self(x, self.project_keys(x)))
    assert {name for name, value in variables["params"].items() if "bias" in value} == expected


def test_a_cache_holds_what_was_written():
    empty = KeyValue(jnp.zeros((1, 1, 4, 2)), jnp.zeros((1, 1, 4, 2)))
    new = KeyValue(jnp.ones((1, 1, 1, 2)), jnp.full((1, 1, 1, 2), 2.0))
    written = empty.write(new, jnp.array(2))
    np.testing.assert_array_equal(written.key[0, 0, :, 0], [0, 0, 1, 0])
    np.testing.assert_array_equal(written.value[0, 0, :, 0], [0, 0, 2, 0])
