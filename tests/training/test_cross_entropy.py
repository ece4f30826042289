"""The chunked cross-entropy equals the plain one in value and gradient, and costs what it promises."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slm_jax.training.cross_entropy import TokenSums, chunked_cross_entropy

B, L, E, V = 3, 7, 8, 11


def logits_fn(params, hidden):
    return hidden @ params["kernel"] + params["bias"]


@pytest.fixture(scope="module")
def example():
    keys = jax.random.split(jax.random.key(0), 5)
    params = {"kernel": jax.random.normal(keys[0], (E, V)), "bias": jax.random.normal(keys[1], (V,))}
    hidden = jax.random.normal(keys[2], (B, L, E))
    targets = jax.random.randint(keys[3], (B, L), 0, V)
    weights = jax.random.bernoulli(keys[4], 0.7, (B, L)).astype(jnp.float32)
    return params, hidden, targets, weights


def plain_loss(params, hidden, targets, weights, *, z_loss=0.0, label_smoothing=0.0):
    """T5X's compute_weighted_cross_entropy, written with optax."""
    logits = logits_fn(params, hidden)
    low = label_smoothing / (V - 1)
    soft = jnp.where(jax.nn.one_hot(targets, V) > 0, 1 - label_smoothing, low)
    constant = -((1 - label_smoothing) * np.log(1 - label_smoothing) + (V - 1) * low * np.log(low + 1e-20))
    loss = optax.softmax_cross_entropy(logits, soft) - constant
    return jnp.sum(weights * (loss + z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2))


def grads(loss, example, **config):
    params, hidden, targets, weights = example
    return jax.jit(jax.value_and_grad(lambda p, h: loss(p, h, targets, weights, **config), argnums=(0, 1)))(
        params, hidden
    )


def chunked_loss(params, hidden, targets, weights, **config):
    return chunked_cross_entropy(logits_fn, params, hidden, targets, weights, **config)[0]


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), actual, expected)


@pytest.mark.parametrize(
    ("chunk_tokens", "config"),
    [
        (100, {}),
        (100, {"z_loss": 0.01, "label_smoothing": 0.1}),
        (2, {"z_loss": 0.01}),  # 4 chunks of 2 positions, the last one padded
        (1, {"label_smoothing": 0.1}),  # one position at a time
    ],
)
def test_value_and_gradients_equal_the_plain_cross_entropy(example, chunk_tokens, config):
    assert_close(
        grads(chunked_loss, example, chunk_tokens=chunk_tokens, **config), grads(plain_loss, example, **config)
    )


def test_value_without_differentiation_is_the_same(example):
    value, _ = grads(chunked_loss, example, z_loss=0.01)
    assert_close(chunked_loss(*example, z_loss=0.01), value)


@pytest.mark.parametrize("argument", ["kernel", "bias", "hidden"])
def test_any_one_part_can_be_differentiated(example, argument):
    params, hidden, targets, weights = example

    def with_part(loss):
        def fn(part):
            p = params if argument == "hidden" else params | {argument: part}
            return loss(p, part if argument == "hidden" else hidden, targets, weights) / 5

        return jax.jit(jax.grad(fn))(hidden if argument == "hidden" else params[argument])

    assert_close(with_part(chunked_loss), with_part(plain_loss))


def test_sums_count_tokens_by_weight(example):
    params, hidden, targets, weights = example
    loss, sums = chunked_cross_entropy(logits_fn, *example, z_loss=0.01, label_smoothing=0.1, chunk_tokens=2)
    logits = logits_fn(params, hidden)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    expected = TokenSums(
        nll=jnp.sum(nll * weights),
        z_loss=jnp.sum(0.01 * log_z**2 * weights),
        correct=jnp.sum((logits.argmax(-1) == targets) * weights),
        weight=weights.sum(),
    )
    assert_close(sums, expected)
    assert loss.dtype == jnp.float32


def test_sums_carry_no_gradient(example):
    params, _, targets, weights = example
    gradient = jax.grad(lambda h: chunked_cross_entropy(logits_fn, params, h, targets, weights)[1].nll)(example[1])
    assert not gradient.any()


def test_a_perfect_prediction_has_no_smoothed_loss():
    targets = jnp.array([[0, 1]])
    probability = jnp.where(jax.nn.one_hot(targets, V) > 0, 0.9, 0.1 / (V - 1))
    loss, _ = chunked_cross_entropy(
        lambda _, hidden: hidden, None, jnp.log(probability), targets, jnp.ones((1, 2)), label_smoothing=0.1
    )
    np.testing.assert_allclose(loss, 0, atol=1e-5)


def test_unweighted_positions_have_no_influence(example):
    params, hidden, targets, weights = example
    garbage = jnp.where(weights[..., None] > 0, hidden, 1e4)
    value, (_, hidden_grad) = grads(chunked_loss, (params, garbage, jnp.where(weights > 0, targets, 3), weights))
    assert_close(value, grads(chunked_loss, example)[0])
    assert not hidden_grad[weights == 0].any()


def test_bfloat16_keeps_its_type_in_the_gradient_and_sums_in_float32(example):
    params, hidden, targets, weights = example
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, hidden))
    loss, (head_grad, hidden_grad) = grads(chunked_loss, (*half, targets, weights), chunk_tokens=1)
    assert loss.dtype == jnp.float32
    assert hidden_grad.dtype == head_grad["kernel"].dtype == jnp.bfloat16
    exact = grads(plain_loss, (*jax.tree.map(lambda x: x.astype(jnp.float32), half), targets, weights))
    np.testing.assert_allclose(hidden_grad.astype(jnp.float32), exact[1][1], atol=0.05)


BIG = dict(batch=4, length=64, width=32, vocab=2048)


def compiled(loss, *, trained_head=False, forward_only=False):
    shapes = (
        {"kernel": (BIG["width"], BIG["vocab"]), "bias": (BIG["vocab"],)},
        (BIG["batch"], BIG["length"], BIG["width"]),
    )
    params, hidden = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes, is_leaf=lambda s: isinstance(s, tuple) and s != shapes
    )
    targets = jax.ShapeDtypeStruct((BIG["batch"], BIG["length"]), jnp.int32)
    weights = jax.ShapeDtypeStruct(targets.shape, jnp.float32)
    fn = loss if forward_only else jax.value_and_grad(loss, argnums=(0, 1) if trained_head else 1)
    return jax.jit(fn).lower(params, hidden, targets, weights).compile()


def full_loss(params, hidden, targets, weights):
    logits = logits_fn(params, hidden)
    return jnp.sum(weights * optax.softmax_cross_entropy_with_integer_labels(logits, targets))


def test_memory_never_holds_the_logits_of_the_batch():
    full_logits = 4 * BIG["batch"] * BIG["length"] * BIG["vocab"]
    chunked = compiled(lambda *args: chunked_loss(*args, chunk_tokens=4))
    assert compiled(full_loss).memory_analysis().temp_size_in_bytes >= full_logits
    assert chunked.memory_analysis().temp_size_in_bytes < full_logits / 3


def test_the_head_is_computed_once_and_its_gradient_only_when_trained():
    matmul = 2 * BIG["batch"] * BIG["length"] * BIG["width"] * BIG["vocab"]

    def head_matmuls(**how):
        return round(compiled(chunked_loss, **how).cost_analysis()["flops"] / matmul, 1)

    assert 1 <= head_matmuls(forward_only=True) < 1.5
    assert 2 <= head_matmuls() < 2.5
    assert 3 <= head_matmuls(trained_head=True) < 3.5


def test_parameters_that_the_head_does_not_read_cost_nothing():
    unread = {"body": jnp.ones((512, 512))}
    hidden, targets, weights = jnp.ones((1, 2, E)), jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2))

    def loss(params, hidden):
        return chunked_loss(params, hidden, targets, weights)

    head = {"kernel": jnp.ones((E, V)), "bias": jnp.ones(V)}
    gradient = jax.jit(jax.grad(loss)).lower(head | unread, hidden).compile()
    assert gradient.memory_analysis().temp_size_in_bytes < unread["body"].nbytes
    assert not gradient(head | unread, hidden)["body"].any()


def test_values_hidden_in_the_function_cannot_be_differentiated(example):
    params, hidden, targets, weights = example

    def loss(kernel):
        return chunked_cross_entropy(lambda _, h: h @ kernel, {}, hidden, targets, weights)[0]

    with pytest.raises(jax.errors.UnexpectedTracerError):
        jax.grad(loss)(params["kernel"])


def test_a_batch_split_over_devices_stays_split():
    mesh = jax.make_mesh((8,), ("data",))
    params = {"kernel": jax.random.normal(jax.random.key(0), (E, V)), "bias": jnp.zeros(V)}
    hidden = jax.random.normal(jax.random.key(1), (8, L, E))
    targets, weights = jnp.zeros((8, L), jnp.int32), jnp.ones((8, L))
    expected = jax.grad(plain_loss, argnums=1)(params, hidden, targets, weights)
    split = jax.device_put((hidden, targets, weights), NamedSharding(mesh, PartitionSpec("data")))
    fn = jax.jit(jax.grad(lambda *args: chunked_loss(*args, chunk_tokens=2), argnums=1)).lower(params, *split).compile()
    gradient = fn(jax.device_put(params, NamedSharding(mesh, PartitionSpec())), *split)
    assert "all-gather" not in fn.as_text() and "all-to-all" not in fn.as_text()
    assert gradient.sharding.spec[0] == "data"
    assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"z_loss": -1.0}, "z_loss"),
        ({"chunk_tokens": 0}, "chunk_tokens"),
    ],
)
def test_bad_settings_are_refused(example, change, message):
    with pytest.raises(ValueError, match=message):
        chunked_loss(*example, **change)


def test_shapes_that_do_not_fit_are_refused(example):
    params, hidden, targets, weights = example
    unchecked = inspect.unwrap(chunked_cross_entropy)  # the type checker of the tests would speak first
    with pytest.raises(ValueError, match=r"weights \(3, 6\)"):
        unchecked(logits_fn, params, hidden, targets, weights[:, :-1])


def test_weights_are_not_differentiable(example):
    with pytest.raises(ValueError, match="weights"):
        jax.grad(chunked_loss, argnums=3)(*example)
