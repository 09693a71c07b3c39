"""Reading what JAX traced: which primitives a function uses, and how much it writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["bodies", "bytes_written", "primitive_names"]


def bodies(equation: Any) -> Iterator[Any]:
    """Yield the jaxprs an equation holds: of a call, of a loop, the branches of a cond."""
    for value in equation.params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield inner


def primitive_names(jaxpr: Any) -> set[str]:
    """Return the names of all primitives in a jaxpr, inner ones included."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for body in bodies(equation):
            names |= primitive_names(body)
    return names


def bytes_written(jaxpr: Any) -> int:
    """Sum the sizes of all results in a jaxpr; a loop's body counts once."""
    total = 0
    for equation in jaxpr.eqns:
        total += sum(_bytes(v.aval) for v in equation.outvars)
        total += sum(bytes_written(body) for body in bodies(equation))
    return total


def _bytes(aval: Any) -> int:
    """Size of one abstract array; 0 for tokens and keys."""
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return int(np.prod(getattr(aval, "shape", (0,)))) * int(itemsize)
