"""Freezing is data: patterns decide every parameter, and the table says how."""

import jax
import jax.numpy as jnp
import pytest

from slm_jax import trees
from slm_jax.training import freezing


@pytest.fixture
def shapes():
    return {
        "speech_encoder": {"conv": {"kernel": jax.ShapeDtypeStruct((3, 10), jnp.bfloat16)}},
        "adapter": {"dense": {"kernel": jax.ShapeDtypeStruct((4, 5), jnp.float32)}},
        "lm": {
            "embedding": jax.ShapeDtypeStruct((2**20, 2**12), jnp.bfloat16),
            "norm": {"scale": jax.ShapeDtypeStruct((4,), jnp.float32)},
        },
    }


def test_the_default_trains_exactly_the_adapter(shapes):
    trained, frozen = freezing.split(shapes)
    assert set(trees.flatten(trained)) == {"adapter/dense/kernel"}
    assert set(frozen) == {"speech_encoder", "lm"}
    assert trees.combine(trained, frozen) == shapes


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [(("adapter/.*",), {"adapter"}), ((".*/scale", "adapter/.*"), {"adapter", "lm"}), ((), set())],
)
def test_trainable_components(shapes, trainable, expected):
    assert freezing.trainable_components(trainable, trees.flatten(shapes)) == expected


def test_a_pattern_without_parameters_is_refused(shapes):
    for check in (freezing.split, freezing.count_parameters, freezing.parameter_table):
        with pytest.raises(ValueError, match="adaptor"):
            check(shapes, ("adaptor/.*",))
    with pytest.raises(ValueError, match="adaptor"):
        freezing.trainable_components(("adaptor/.*",), trees.flatten(shapes))


def test_counts_of_a_model_that_is_not_allocated(shapes):
    counts = freezing.count_parameters(shapes, ("adapter/.*", ".*/scale"))
    assert counts["trainable"] == 24
    assert counts["frozen"] == 30 + 2**32
    assert counts["components"]["lm"] == {
        "parameters": 2**32 + 4,
        "trainable": 4,
        "bytes": 2**33 + 16,
        "dtypes": ["bfloat16", "float32"],
    }


def test_the_table_shows_each_component_and_the_total(shapes):
    lines = freezing.parameter_table(shapes).splitlines()
    row = {name: next(line for line in lines if name in line) for name in (*shapes, "total")}
    assert "4,294,967,300" in row["lm"] and "8.0 GiB" in row["lm"] and "bfloat16, float32" in row["lm"]
    assert "20" in row["adapter"] and "80.0 B" in row["adapter"] and "0.00%" in row["adapter"]
    assert "4,294,967,350" in row["total"] and "0.00% trainable" in row["total"]
