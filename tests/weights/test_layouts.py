"""Differences between a model and a file are listed whole, or with how many more there are."""

import jax
import numpy as np

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


def test_long_lists_say_how_many_more_there_are():
    assert layouts.enumerate_names([str(i) for i in range(20)]).endswith("18, 19")
    assert layouts.enumerate_names([str(i) for i in range(23)]).endswith("18, 19, and 3 more")
