"""Schedules and optimizers against their formulas, and every setting by changing it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slm_jax.training import optimizers


def values(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_constant():
    assert values(optimizers.constant(learning_rate=0.5), (0, 10)) == [0.5, 0.5]


def test_rsqrt_is_flat_during_warmup():
    schedule = optimizers.rsqrt_with_warmup(base_learning_rate=2.0, warmup_steps=100)
    np.testing.assert_allclose(values(schedule, (0, 100, 400)), [0.2, 0.2, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "halfway"),
    [(optimizers.linear_warmup_cosine_decay, 0.55), (optimizers.linear_warmup_linear_decay, 0.55)],
)
def test_warmup_and_decay(schedule, halfway):
    fn = schedule(peak_learning_rate=1.0, warmup_steps=10, total_steps=30, end_learning_rate=0.1)
    np.testing.assert_allclose(values(fn, (0, 5, 10, 20, 30, 99)), [0, 0.5, 1, halfway, 0.1, 0.1], rtol=1e-6)
    started = schedule(peak_learning_rate=1.0, warmup_steps=0, total_steps=20)
    np.testing.assert_allclose(values(started, (0, 20)), [1, 0], atol=1e-7)


def test_cosine_and_linear_differ_between_their_ends():
    config = dict(peak_learning_rate=1.0, warmup_steps=0, total_steps=4)
    np.testing.assert_allclose(
        optimizers.linear_warmup_cosine_decay(**config)(1), (1 + np.cos(np.pi / 4)) / 2, rtol=1e-6
    )
    np.testing.assert_allclose(optimizers.linear_warmup_linear_decay(**config)(1), 0.75, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warmup_steps": 10}, r"warmup_steps \(10\)"),
        ({"warmup_steps": -1}, r"warmup_steps \(-1\)"),
        ({"peak_learning_rate": 0.0}, "learning rate must be above 0"),
        ({"end_learning_rate": 2.0}, "end_learning_rate"),
    ],
)
@pytest.mark.parametrize("schedule", [optimizers.linear_warmup_cosine_decay, optimizers.linear_warmup_linear_decay])
def test_impossible_schedules_are_refused(schedule, change, message):
    with pytest.raises(ValueError, match=message):
        schedule(**({"peak_learning_rate": 1.0, "warmup_steps": 2, "total_steps": 10} | change))


def test_other_impossible_schedules_are_refused():
    with pytest.raises(ValueError, match="learning rate"):
        optimizers.constant(learning_rate=-1.0)
    with pytest.raises(ValueError, match="warmup_steps"):
        optimizers.rsqrt_with_warmup(warmup_steps=0)


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "adapter": {"dense": {"kernel": jax.random.normal(keys[0], (4, 6)), "bias": jnp.ones(6)}},
        "lm": {"kernel": jax.random.normal(keys[1], (3, 2))},
    }


def updates(optimizer, params, steps=2):
    """The updates of the last of a few steps with gradients of 0.5 * |params|^2."""
    state = optimizer.init(params)
    for _ in range(steps):
        update, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, update)
    return update


def differ(a, b):
    return {path for path, same in jax.tree.leaves_with_path(jax.tree.map(np.array_equal, a, b)) if not same}


def test_adamw_follows_its_formula():
    config = dict(learning_rate=0.1, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.01)
    x, mean, square = np.array([[1.0, -2.0]]), 0.0, 0.0
    for t in (1, 2):
        mean, square = 0.8 * mean + 0.2 * x, 0.9 * square + 0.1 * x**2
        direction = (mean / (1 - 0.8**t)) / (np.sqrt(square / (1 - 0.9**t)) + 1e-3)
        step = -0.1 * (direction + 0.01 * x)
        x = x + step
    actual = updates(optimizers.adamw(**config), {"dense": {"kernel": jnp.array([[1.0, -2.0]])}})
    np.testing.assert_allclose(actual["dense"]["kernel"], step, rtol=1e-5)


def test_adafactor_equals_optax_without_weight_decay(params):
    schedule = optimizers.rsqrt_with_warmup(warmup_steps=1)
    expected = updates(optax.adafactor(schedule), params)
    actual = updates(optimizers.adafactor(learning_rate=schedule), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), actual, expected)


def test_adafactor_keeps_rows_and_columns_of_large_arrays():
    params = {"kernel": jnp.ones((128, 256)), "small": jnp.ones((127, 256))}
    shapes = {leaf.shape for leaf in jax.tree.leaves(optimizers.adafactor(learning_rate=1.0).init(params))}
    assert (128, 256) not in shapes and {(128,), (256,), (127, 256)} <= shapes


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.2},
        {"decay_rate": 0.5},
        {"clipping_threshold": 0.5},
        {"clipping_threshold": None},
        {"multiply_by_parameter_scale": False},
        {"min_dim_size_to_factor": 2},
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"clip_norm": 1e-12},
    ],
    ids=str,
)
def test_each_setting_of_adafactor_matters(params, change):
    base = {"learning_rate": 0.1, "clipping_threshold": 0.9}
    plain = updates(optimizers.adafactor(**base), params, steps=3)
    assert differ(plain, updates(optimizers.adafactor(**(base | change)), params, steps=3))


MUON = {"learning_rate": 0.1, "matrices": (".*/kernel",)}


@pytest.fixture
def attention():
    """Kernels with an axis of heads, and what is no matrix."""
    keys = jax.random.split(jax.random.key(1), 4)
    shapes = {"query": (6, 2, 4), "out": (2, 4, 6), "dense": (6, 8)}
    layers = {
        name: {"kernel": jax.random.normal(key, shape)}
        for key, (name, shape) in zip(keys, shapes.items(), strict=False)
    }
    return {"layer": layers | {"norm": {"scale": jnp.ones(6)}}}


def test_muon_turns_matrices_by_an_even_amount_in_all_directions(attention):
    """What is left of the gradient are its singular vectors; heads of a kernel are one matrix together."""
    update = updates(optimizers.muon(**MUON), attention)["layer"]
    for name, shape in (("query", (6, 8)), ("out", (8, 6)), ("dense", (6, 8))):
        singular = np.linalg.svd(np.reshape(update[name]["kernel"], shape), compute_uv=False)
        np.testing.assert_allclose(singular, 0.1 * 0.2 * np.sqrt(8), rtol=0.35)  # five iterations are that exact


def test_muon_leaves_other_parameters_to_adam_with_nesterovs_momentum(attention):
    settings = {"learning_rate": 0.1, "weight_decay": 0.01, "b1": 0.8}
    actual = updates(optimizers.muon(**settings, matrices=("layer/dense/kernel",)), attention)["layer"]
    mask = {"layer": {**dict.fromkeys(("query", "out", "dense"), True), "norm": False}}
    adam = optax.adamw(0.1, 0.8, 0.98, weight_decay=0.01, mask=mask, nesterov=True)
    expected = updates(adam, attention)["layer"]
    assert differ(actual["dense"], expected["dense"])
    for name in ("query", "out", "norm"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), actual[name], expected[name])


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.2},
        {"matrices": ("layer/dense/kernel",)},
        {"momentum": 0.5},
        {"update_rms": 0.1},
        {"b1": 0.5},
        {"b2": 0.5},
        {"weight_decay": 0.1},
        {"no_decay": ()},
        {"clip_norm": 1e-12},
    ],
    ids=str,
)
def test_each_setting_of_muon_matters(attention, change):
    base = MUON | {"weight_decay": 0.5}
    plain = updates(optimizers.muon(**base), attention, steps=3)
    assert differ(plain, updates(optimizers.muon(**(base | change)), attention, steps=3))


@pytest.mark.parametrize(
    ("matrices", "message"),
    [((".*/scale",), "Muon trains matrices, and 'layer/norm/scale' has the shape"), (("adapter/.*",), "matches none")],
)
def test_muon_refuses_what_is_no_matrix(attention, matrices, message):
    with pytest.raises(ValueError, match=message):
        optimizers.muon(learning_rate=0.1, matrices=matrices).init(attention)


@pytest.mark.parametrize("optimizer", [optimizers.adamw, optimizers.adafactor])
def test_weight_decay_spares_what_no_decay_names(params, optimizer):
    config = dict(learning_rate=0.1, weight_decay=0.1)
    names = {str(path[-1].key) for path in differ(
        updates(optimizer(learning_rate=0.1), params, steps=1), updates(optimizer(**config), params, steps=1)
    )}  # fmt: skip
    assert names == {"kernel"}
    everything = differ(
        updates(optimizer(**config), params, steps=1), updates(optimizer(**config, no_decay=()), params, steps=1)
    )
    assert {str(path[-1].key) for path in everything} == {"bias"}


@pytest.mark.parametrize("optimizer", [optimizers.adamw, optimizers.adafactor])
def test_gradients_are_clipped_before_the_optimizer(params, optimizer):
    clipped, _ = optax.clip_by_global_norm(0.5).update(params, optax.EmptyState())
    base, clipping = optimizer(learning_rate=0.1), optimizer(learning_rate=0.1, clip_norm=0.5)
    expected, _ = base.update(clipped, base.init(params), params)
    actual, _ = clipping.update(params, clipping.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), actual, expected)


def test_each_component_has_its_own_optimizer(params):
    fast, slow = (optimizers.adamw(learning_rate=rate, weight_decay=0.01) for rate in (1.0, 0.1))
    both = updates(optimizers.per_component(optimizers={".*/bias": fast, "adapter/.*": slow, "lm/.*": fast}), params)
    expected = {
        "adapter": {
            "dense": {
                "kernel": updates(slow, params)["adapter"]["dense"]["kernel"],
                "bias": updates(fast, params)["adapter"]["dense"]["bias"],
            }
        },
        "lm": updates(fast, params)["lm"],
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), both, expected)


def test_the_state_of_per_component_can_be_named_by_paths(params):
    optimizer = optimizers.per_component(optimizers={"adapter/.*": optax.adam(1e-3), "lm/.*": optax.sgd(1.0)})
    keys = {key for path, _ in jax.tree.leaves_with_path(optimizer.init(params)) for key in path}
    names = [key.key for key in keys if isinstance(key, jax.tree_util.DictKey)]
    assert "adapter:.*" in names
    assert not [name for name in names if "/" in name]


def test_per_component_clips_by_the_norm_of_all(params):
    sgd = optax.sgd(1.0)
    optimizer = optimizers.per_component(optimizers={"adapter/.*": sgd, "lm/.*": sgd}, clip_norm=0.5)
    assert float(optax.global_norm(updates(optimizer, params, steps=1))) == pytest.approx(0.5, rel=1e-5)


def test_parameters_without_an_optimizer_are_refused(params):
    sgd = optax.sgd(1.0)
    with pytest.raises(ValueError, match="'lm/kernel' has no optimizer"):
        optimizers.per_component(optimizers={"adapter/.*": sgd}).init(params)
    with pytest.raises(ValueError, match="'encoder/.*' matches none"):
        optimizers.per_component(optimizers={".*": sgd, "encoder/.*": sgd}).init(params)
    with pytest.raises(ValueError, match="at least one"):
        optimizers.per_component(optimizers={})


@pytest.mark.parametrize(
    ("optimizer", "change", "message"),
    [
        (optimizers.adamw, {"b1": 1.0}, "b1"),
        (optimizers.adamw, {"b2": -0.1}, "b2"),
        (optimizers.adamw, {"learning_rate": 0.0}, "learning rate"),
        (optimizers.adamw, {"weight_decay": -1.0}, "weight_decay"),
        (optimizers.adamw, {"clip_norm": 0.0}, "clip_norm"),
        (optimizers.muon, {"matrices": (), "momentum": 1.0}, "momentum"),
        (optimizers.muon, {"matrices": (), "update_rms": 0.0}, "update_rms"),
        (optimizers.adafactor, {"decay_rate": 1.5}, "decay_rate"),
        (optimizers.adafactor, {"momentum": 1.0}, "momentum"),
    ],
)
def test_bad_settings_are_refused(optimizer, change, message):
    with pytest.raises(ValueError, match=message):
        optimizer(**({"learning_rate": 0.1} | change))
