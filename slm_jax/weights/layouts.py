"""Comparing what a model needs with what a file holds: names and shapes, with every difference listed."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

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


def enumerate_names(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
