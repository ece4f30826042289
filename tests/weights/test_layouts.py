"""Differences between a model and a file are listed whole, or with how many more there are."""

import jax
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.weights import layouts


def shapes(**by_name: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in by_name.items()}


def test_equal_layouts_have_no_problems():
    assert layouts.layout_problems(shapes(a=(1,), b=(2, 3)), shapes(b=(2, 3), a=(1,))) == []


def test_each_kind_of_difference_is_one_line():
    assert layouts.layout_problems(shapes(a=(1,), b=(2,), d=()), shapes(b=(3,), c=(4,)), optional={"d"}) == [
        "missing (1): a",
        "unexpected (1): c",
        "wrong shape (1): b is (3,), needs (2,)",
    ]


@pytest.mark.parametrize("unrolled", [True, False])
def test_shapes_are_arranged_as_arrays_are(unrolled):
    stacked = {"encoder": {"layers": {"kernel": np.ones((2, 3), np.float32)}}}
    like = ["encoder/layers_0/kernel", "encoder/layers_1/kernel"] if unrolled else ["encoder/layers/kernel"]
    found = trees.flatten(layouts.arrange_layers(stacked, like=like))
    shaped = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stacked)
    arranged = trees.flatten(layouts.arrange_shapes(shaped, like=like))
    assert sorted(found) == sorted(arranged) == like
    assert {name: leaf.shape for name, leaf in found.items()} == {name: leaf.shape for name, leaf in arranged.items()}


def test_long_lists_say_how_many_more_there_are():
    assert layouts.enumerate_names([str(i) for i in range(20)]).endswith("18, 19")
    assert layouts.enumerate_names([str(i) for i in range(23)]).endswith("18, 19, and 3 more")
