"""What is trained and what is frozen, decided by regular expressions over parameter paths."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from slm_jax import trees
from slm_jax.typing import PyTree

TRAINABLE = ("adapter/.*",)
"""The default: the adapter is trained, the speech encoder and the language model are frozen."""


def split(params: Mapping[str, PyTree], trainable: Sequence[str] = TRAINABLE) -> tuple[PyTree, PyTree]:
    """Trainable and frozen parameters, each without the keys of the other; `trees.combine` puts them together again.

    Raises:
      ValueError: a pattern matches no parameter or is not a regular expression.
    """
    trees.check_coverage(trees.flatten(params), trainable)
    return trees.partition(params, trainable)


def trainable_components(trainable: Sequence[str], paths: Iterable[str]) -> frozenset[str]:
    """Top-level components that hold any trainable parameter, e.g. {'adapter'}.

    The others may be run without gradients, from cached features or in a smaller type.

    Raises:
      ValueError: a pattern matches no parameter or is not a regular expression.
    """
    paths = list(paths)
    trees.check_coverage(paths, trainable)
    return frozenset(path.split(trees.SEPARATOR)[0] for path in paths if trees.matches(path, trainable))


def count_parameters(params: Mapping[str, PyTree], trainable: Sequence[str] = TRAINABLE) -> dict[str, Any]:
    """Sizes of the model and of each component; shapes are enough (jax.ShapeDtypeStruct), nothing is allocated.

    Returns:
      {'trainable': n, 'frozen': n, 'components': {name: {'parameters': n, 'trainable': n, 'bytes': n, 'dtypes': [..]}}}

    Raises:
      ValueError: a pattern matches no parameter or is not a regular expression.
    """
    trained, frozen = (trees.count(part) for part in split(params, trainable))
    components = {}
    for name, component in params.items():
        leaves = jax.tree.leaves(component)
        components[name] = {
            "parameters": trained.get(name, 0) + frozen.get(name, 0),
            "trainable": trained.get(name, 0),
            "bytes": sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves),
            "dtypes": sorted({np.dtype(leaf.dtype).name for leaf in leaves}),
        }
    return {"trainable": sum(trained.values()), "frozen": sum(frozen.values()), "components": components}


def parameter_table(params: Mapping[str, PyTree], trainable: Sequence[str] = TRAINABLE) -> str:
    """A table of components for people: parameters, how many are trainable, share of the model, memory, types.

    Raises:
      ValueError: a pattern matches no parameter or is not a regular expression.
    """
    counts = count_parameters(params, trainable)
    total = counts["trainable"] + counts["frozen"]
    table = Table(show_footer=True)
    table.add_column("component", "total")
    table.add_column("parameters", f"{total:,}", justify="right")
    table.add_column("trainable", f"{counts['trainable']:,}", justify="right")
    table.add_column("percent", f"{_percent(counts['trainable'], total)} trainable", justify="right")
    table.add_column("memory", _memory(sum(row["bytes"] for row in counts["components"].values())), justify="right")
    table.add_column("type")
    for name, row in counts["components"].items():
        share = _percent(row["parameters"], total)
        numbers = f"{row['parameters']:,}", f"{row['trainable']:,}", share, _memory(row["bytes"])
        table.add_row(name, *numbers, ", ".join(row["dtypes"]))
    text = io.StringIO()
    Console(file=text, width=120, color_system=None).print(table)
    return text.getvalue()


def _percent(part: int, total: int) -> str:
    return f"{100 * part / max(total, 1):.2f}%"


def _memory(num_bytes: int) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(len(units) - 1, max(0, num_bytes.bit_length() - 1) // 10)
    return f"{num_bytes / 1024**power:.1f} {units[power]}"
