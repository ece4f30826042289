"""Operations a traced function has to do: matrix products and convolutions of its jaxpr, loops multiplied."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
from jax.interpreters import partial_eval

Tree = TypeVar("Tree")


def count(function: Callable[..., Any], *arguments: Any, while_trips: int = 1) -> int:
    """Operations of the matrix products and convolutions that a function's results depend on. Nothing is computed.

    A multiply-add is two operations.

    Args:
      function: what is traced.
      *arguments: shapes are enough.
      while_trips: how often loops without a fixed length run.
    """
    traced = jax.make_jaxpr(function)(*arguments).jaxpr
    needed, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    return _count(needed, while_trips)


def _count(jaxpr: Any, while_trips: int) -> int:
    return sum(_equation(equation, while_trips) for equation in jaxpr.eqns)


def _equation(equation: Any, while_trips: int) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        ((contracted, _), _) = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        out_axis = equation.params["dimension_numbers"].rhs_spec[0]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[out_axis]
    inner = [_count(jaxpr, while_trips) for jaxpr in _inner(equation.params)]
    if name == "cond":
        return max(inner, default=0)
    times = {"scan": equation.params.get("length", 1), "while": while_trips}.get(name, 1)
    return times * sum(inner)


def _inner(params: dict[str, Any]) -> list[Any]:
    """The jaxprs among an equation's parameters."""
    found = []
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(one, "jaxpr", one)
            if hasattr(jaxpr, "eqns"):
                found.append(jaxpr)
    return found


def with_remat(tree: Tree, remat: str) -> Tree:
    """An objective or a module whose parts all keep for their backward pass what `remat` says.

    Args:
      tree: modules and dataclasses of them.
      remat: a value of `slm_jax.layers.stack.Remat`: 'none', 'dots' or 'full'.
    """
    if not dataclasses.is_dataclass(tree) or isinstance(tree, type):
        return tree
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(tree):
        if not field.init or field.name in ("parent", "name"):
            continue
        value = getattr(tree, field.name)
        if field.name == "remat":
            changes["remat"] = remat if isinstance(value, str) else type(value)(remat)
        elif (changed := _with_remat(value, remat)) is not value:
            changes[field.name] = changed
    if not changes:
        return tree
    return tree.clone(**changes) if isinstance(tree, nn.Module) else dataclasses.replace(tree, **changes)  # type: ignore[return-value,type-var]


def _with_remat(value: Any, remat: str) -> Any:
    if isinstance(value, tuple | list):
        changed = [with_remat(one, remat) for one in value]
        return type(value)(changed) if any(a is not b for a, b in zip(changed, value, strict=True)) else value
    return with_remat(value, remat)
