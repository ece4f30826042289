"""Parameter trees: paths such as 'adapter/layers/mlp/kernel', regex selection, and stacked layers."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from slm_jax.typing import DTypeLike, PyTree

SEPARATOR = "/"


def flatten(params: Mapping[str, PyTree]) -> dict[str, Any]:
    """Nested dictionaries to one dictionary from path to leaf; boxed parameters stay boxed.

    Raises:
      ValueError: a key is not a string or holds a '/', so that the way back would not be unique.
    """
    flat = traverse_util.flatten_dict(params)
    for keys in flat:
        bad = [key for key in keys if not isinstance(key, str) or SEPARATOR in key]
        if bad:
            raise ValueError(f"parameter names must be strings without {SEPARATOR!r}, got {bad[0]!r} in {keys}")
    return {SEPARATOR.join(keys): leaf for keys, leaf in flat.items()}


def unflatten(flat: Mapping[str, Any]) -> dict[str, PyTree]:
    """The inverse of `flatten`.

    Raises:
      ValueError: a path is both a leaf and the beginning of another path.
    """
    for path in flat:
        keys = path.split(SEPARATOR)
        for end in range(1, len(keys)):
            prefix = SEPARATOR.join(keys[:end])
            if prefix in flat:
                raise ValueError(f"{prefix!r} is a parameter, so {path!r} cannot lie below it")
    return traverse_util.unflatten_dict(dict(flat), sep=SEPARATOR)


def _compile(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    if isinstance(patterns, str):
        raise ValueError(f"expected a sequence of patterns, got one string: write ({patterns!r},)")
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(f"the pattern {pattern!r} is not a regular expression: {error}") from error
    return compiled


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether any of the regular expressions matches the whole path.

    Raises:
      ValueError: a pattern is not a regular expression, or `patterns` is a single string.
    """
    return any(pattern.fullmatch(path) for pattern in _compile(patterns))


def partition(params: Mapping[str, PyTree], patterns: Sequence[str]) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Splits parameters into those that a pattern matches and the rest, each without the keys of the other.

    Raises:
      ValueError: a pattern is not a regular expression.
    """
    compiled = _compile(patterns)
    matched: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for path, leaf in flatten(params).items():
        side = matched if any(pattern.fullmatch(path) for pattern in compiled) else rest
        side[path] = leaf
    return unflatten(matched), unflatten(rest)


def combine(a: Mapping[str, PyTree], b: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """One tree of the parameters of both; the inverse of `partition`.

    Raises:
      ValueError: both hold a parameter of the same path, or a parameter of one is a subtree of the other.
    """
    flat_a, flat_b = flatten(a), flatten(b)
    overlap = sorted(flat_a.keys() & flat_b.keys())
    if overlap:
        raise ValueError(f"{len(overlap)} parameters are in both trees, the first is {overlap[0]!r}")
    return unflatten(flat_a | flat_b)


def check_coverage(paths: Iterable[str], patterns: Sequence[str]) -> None:
    """Refuses patterns that match nothing: they are misspelled or belong to another model.

    Raises:
      ValueError: a pattern matches no path (the message shows the nearest ones) or is not a regular expression.
    """
    paths = list(paths)
    for pattern in _compile(patterns):
        if not any(pattern.fullmatch(path) for path in paths):
            raise ValueError(
                f"the pattern {pattern.pattern!r} matches none of {len(paths)} parameters; it must match a whole"
                f" path. Nearest: {', '.join(_nearest(pattern.pattern, paths)) or 'there are no parameters'}"
            )


def _nearest(pattern: str, paths: Sequence[str], limit: int = 3) -> list[str]:
    close = difflib.get_close_matches(pattern, paths, n=limit, cutoff=0.0)
    return [repr(path) for path in close]


def count(params: Mapping[str, PyTree]) -> dict[str, int]:
    """Number of parameters in each top-level component; shapes are enough (jax.ShapeDtypeStruct)."""
    return {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(component)) for name, component in params.items()
    }


def cast_floating(params: PyTree, dtype: DTypeLike) -> PyTree:
    """Parameters with every floating-point array in `dtype`; integers and booleans stay as they are."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, params)


def stack_layers(params: Mapping[str, PyTree], *, name: str = "layers") -> dict[str, PyTree]:
    """Unrolled layers to scanned ones, at any depth: layers_0 ... layers_{n-1} become one `layers`.

    Args:
      params: parameters of an unrolled stack, without boxes.
      name: name of the scanned collection and, with a number, of the unrolled ones.

    Returns:
      The same parameters with every array of the stack given a leading axis of n layers.

    Raises:
      ValueError: the numbers have a gap, layers differ in their parameters or shapes, or `layers` is there already.
    """
    numbered = {key: match for key in params if (match := re.fullmatch(rf"{re.escape(name)}_(\d+)", key))}
    result = {
        key: stack_layers(value, name=name) if isinstance(value, Mapping) else value
        for key, value in params.items()
        if key not in numbered
    }
    if not numbered:
        return result
    if name in params:
        raise ValueError(f"{name!r} and {name}_<number> stand side by side: the stack is scanned and unrolled at once")
    order = sorted(int(match[1]) for match in numbered.values())
    if order != list(range(len(order))):
        raise ValueError(f"the layers {name}_0 to {name}_{order[-1]} must all be there, found the numbers {order}")
    result[name] = _stack([stack_layers(params[f"{name}_{i}"], name=name) for i in order], name)
    return result


def _stack(layers: Sequence[Mapping[str, PyTree]], name: str) -> dict[str, PyTree]:
    flat = [flatten(layer) for layer in layers]
    shapes = [{path: leaf.shape for path, leaf in layer.items()} for layer in flat]
    for i, layer in enumerate(shapes):
        differing = sorted(path for path in layer.keys() | shapes[0].keys() if layer.get(path) != shapes[0].get(path))
        if differing:
            path = differing[0]
            raise ValueError(
                f"{name}_{i} cannot be stacked on {name}_0: the shape of {path!r} is {layer.get(path, 'missing')}"
                f" in the former and {shapes[0].get(path, 'missing')} in the latter"
            )
    return unflatten({path: jnp.stack([layer[path] for layer in flat]) for path in flat[0]})


def unstack_layers(params: Mapping[str, PyTree], *, name: str = "layers") -> dict[str, PyTree]:
    """The inverse of `stack_layers`.

    Raises:
      ValueError: the arrays below one `layers` differ in their number of layers.
    """
    result: dict[str, PyTree] = {}
    for key, value in params.items():
        if key == name and isinstance(value, Mapping):
            result |= {layer: unstack_layers(tree, name=name) for layer, tree in _unstack(value, name).items()}
        else:
            result[key] = unstack_layers(value, name=name) if isinstance(value, Mapping) else value
    return result


def _unstack(stacked: Mapping[str, PyTree], name: str) -> dict[str, PyTree]:
    flat = flatten(stacked)
    lengths = {path: leaf.shape[0] if leaf.shape else 0 for path, leaf in flat.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the arrays below {name!r} must have one number of layers as first axis, found {lengths}")
    (num_layers,) = set(lengths.values())
    return {f"{name}_{i}": unflatten({path: leaf[i] for path, leaf in flat.items()}) for i in range(num_layers)}
