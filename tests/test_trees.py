"""Parameter paths, selection by patterns, and the two layouts of a stack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees


@pytest.fixture
def params():
    return {
        "adapter": {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}},
        "lm": {"embedding": jnp.ones((5, 2)), "steps": jnp.arange(2)},
    }


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_flatten_and_unflatten_are_inverse(params):
    flat = trees.flatten(params)
    assert set(flat) == {"adapter/dense/kernel", "adapter/dense/bias", "lm/embedding", "lm/steps"}
    assert_same(trees.unflatten(flat), params)


@pytest.mark.parametrize("key", ["a/b", 3])
def test_flatten_refuses_names_that_make_paths_ambiguous(key):
    with pytest.raises(ValueError, match="parameter names"):
        trees.flatten({"x": {key: jnp.ones(1)}})


def test_unflatten_refuses_a_parameter_below_a_parameter():
    with pytest.raises(ValueError, match="cannot lie below"):
        trees.unflatten({"a/b/c": 1, "a/b": 2})


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("adapter/.*", True), ("adapter", False), (".*/kernel", True), ("dense", False), ("lm/.*", False)],
)
def test_a_pattern_must_match_the_whole_path(pattern, expected):
    assert trees.matches("adapter/dense/kernel", (pattern,)) is expected


def test_partition_and_combine_are_inverse(params):
    matched, rest = trees.partition(params, ("adapter/.*", "lm/steps"))
    assert set(trees.flatten(matched)) == {"adapter/dense/kernel", "adapter/dense/bias", "lm/steps"}
    assert set(trees.flatten(rest)) == {"lm/embedding"}
    assert "adapter" not in rest
    assert_same(trees.combine(rest, matched), trees.combine(matched, rest))
    assert trees.flatten(trees.combine(matched, rest)).keys() == trees.flatten(params).keys()


def test_partition_by_nothing_leaves_everything(params):
    matched, rest = trees.partition(params, ())
    assert matched == {}
    assert_same(rest, params)


def test_combine_refuses_overlap(params):
    with pytest.raises(ValueError, match="in both trees.*adapter/dense/bias"):
        trees.combine(params, {"adapter": params["adapter"]})
    with pytest.raises(ValueError, match="cannot lie below"):
        trees.combine(params, {"lm": {"embedding": {"table": jnp.ones(1)}}})


def test_coverage_names_the_unused_pattern_and_the_nearest_parameters(params):
    trees.check_coverage(trees.flatten(params), ("adapter/.*", ".*/steps"))
    with pytest.raises(ValueError, match=r"'adaptor/dense/kernel' matches none of 4.*'adapter/dense/kernel'"):
        trees.check_coverage(trees.flatten(params), ("adapter/.*", "adaptor/dense/kernel"))
    with pytest.raises(ValueError, match="there are no parameters"):
        trees.check_coverage([], ("adapter/.*",))


def test_bad_patterns_are_refused(params):
    with pytest.raises(ValueError, match=r"'adapter/\(' is not a regular expression"):
        trees.partition(params, ("adapter/(",))
    with pytest.raises(ValueError, match="got one string"):
        trees.matches("adapter/x", "adapter/.*")


def test_count_needs_only_shapes(params):
    assert trees.count(jax.eval_shape(lambda: params)) == {"adapter": 9, "lm": 12}


def test_cast_floating_leaves_integers(params):
    cast = trees.cast_floating(params, jnp.bfloat16)
    assert cast["lm"]["embedding"].dtype == jnp.bfloat16
    assert cast["lm"]["steps"].dtype == params["lm"]["steps"].dtype


def unrolled(num_layers):
    layers = {
        f"layers_{i}": {"mlp": {"kernel": jnp.full((2, 3), i)}, "scale": jnp.full(2, -i)} for i in range(num_layers)
    }
    return {"encoder": {**layers, "norm": jnp.ones(2)}, "embedding": jnp.ones((4, 2))}


def test_stacking_orders_layers_by_number_and_is_undone():
    stacked = trees.stack_layers(unrolled(11))
    assert set(trees.flatten(stacked)) == {
        "encoder/layers/mlp/kernel", "encoder/layers/scale", "encoder/norm", "embedding",
    }  # fmt: skip
    np.testing.assert_array_equal(stacked["encoder"]["layers"]["mlp"]["kernel"][:, 0, 0], np.arange(11))
    assert_same(trees.unstack_layers(stacked), unrolled(11))


def test_nested_stacks_are_stacked_at_every_level():
    params = {f"layers_{i}": unrolled(2)["encoder"] for i in range(3)}
    stacked = trees.stack_layers(params)
    assert stacked["layers"]["layers"]["mlp"]["kernel"].shape == (3, 2, 2, 3)
    assert_same(trees.unstack_layers(stacked), params)


def test_another_name_of_the_stack():
    stacked = trees.stack_layers({"blocks_0": {"w": jnp.ones(1)}, "layers_0": {"w": jnp.ones(1)}}, name="blocks")
    assert set(stacked) == {"blocks", "layers_0"}
    assert set(trees.unstack_layers(stacked, name="blocks")) == {"blocks_0", "layers_0"}


def test_broken_stacks_are_refused():
    params = unrolled(3)["encoder"]
    with pytest.raises(ValueError, match=r"layers_0 to layers_2 must all be there.*\[0, 2\]"):
        trees.stack_layers({name: tree for name, tree in params.items() if name != "layers_1"})
    with pytest.raises(ValueError, match=r"layers_1 cannot be stacked.*'scale'.*missing"):
        trees.stack_layers(params | {"layers_1": {"mlp": params["layers_1"]["mlp"]}})
    with pytest.raises(ValueError, match="side by side"):
        trees.stack_layers(params | {"layers": params["layers_0"]})
    with pytest.raises(ValueError, match="one number of layers"):
        trees.unstack_layers({"layers": {"a": jnp.ones((2, 1)), "b": jnp.ones((3, 1))}})
