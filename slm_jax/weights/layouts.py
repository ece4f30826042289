"""What a model needs and what a file holds: stacks arranged alike, names and shapes compared, differences listed."""

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from slm_jax import trees
from slm_jax.typing import PyTree

_LISTED = 20


def layout_problems(
    expected: Mapping[str, Any], found: Mapping[str, Any], *, optional: Collection[str] = ()
) -> list[str]:
    """One line for each kind of difference between two flat dictionaries of arrays or jax.ShapeDtypeStruct.

    Args:
      expected: what the model has.
      found: what the file has.
      optional: names of `expected` that need not be found.

    Returns:
      No line if all is well; otherwise lines that begin with 'missing', 'unexpected' or 'wrong shape'.
    """
    missing = sorted(expected.keys() - found.keys() - set(optional))
    unexpected = sorted(found.keys() - expected.keys())
    reshaped = [
        f"{name} is {tuple(found[name].shape)}, needs {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if tuple(found[name].shape) != tuple(expected[name].shape)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "wrong shape": reshaped}
    return [f"{kind} ({len(names)}): {enumerate_names(names)}" for kind, names in kinds.items() if names]


def arrange_layers(params: PyTree, *, like: Collection[str]) -> PyTree:
    """Nested parameters with their stacks of layers scanned or unrolled, as the paths `like` have them.

    Raises:
      ValueError: unrolled layers have a gap or differ in shape, so that they cannot be stacked.
    """
    wanted, found = _unrolled(like), _unrolled(trees.flatten(params))
    if wanted == found:
        return params
    return trees.unstack_layers(params) if wanted else trees.stack_layers(params)


def arrange_shapes(shapes: PyTree, *, like: Collection[str]) -> PyTree:
    """The same for a tree of jax.ShapeDtypeStruct."""
    return jax.eval_shape(functools.partial(arrange_layers, like=like), shapes)


def _unrolled(paths: Collection[str]) -> bool:
    return any(re.search(r"(^|/)layers_\d+/", path) for path in paths)


def enumerate_names(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
