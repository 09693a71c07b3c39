"""What a transformation was made from, so that one made anew is known again."""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Any

__all__ = ["recipe"]

# Whose functions depend on nothing but their arguments and what they close over.
_LIBRARIES = ("gradlab", "optax")
_PLAIN = (bool, int, str, bytes, type, types.NoneType)


@dataclass(frozen=True, eq=False)
class _Itself:
    """Something that equals nothing but itself; holding it keeps its identity from reuse."""

    value: Any

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value


def recipe(value: Any, within: tuple[int, ...] = ()) -> Any:
    """Return what is hashable and equal for transformations that act alike.

    `optax.adam(0.1)` gives new functions at every call, with the same code and the same
    numbers in their closures. A function of the user's may depend on variables that have
    changed since, so it equals itself alone.
    """
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, float):
        return float, value.hex()  # 0.0 and -0.0 differ, NaN equals itself
    if id(value) in within:
        return _Itself(value)
    inside = functools.partial(recipe, within=(*within, id(value)))
    if isinstance(value, tuple | list):
        return type(value), *map(inside, value)
    if isinstance(value, dict):
        return dict, *((key, inside(item)) for key, item in value.items())
    if isinstance(value, functools.partial):
        return functools.partial, inside(value.func), inside(value.args), inside(value.keywords)
    if isinstance(value, types.FunctionType) and _is_ours(value):
        try:
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
        except ValueError:  # a variable that is not set yet
            return _Itself(value)
        return value.__code__, inside((cells, value.__defaults__, value.__kwdefaults__))
    return _Itself(value)


def _is_ours(function: types.FunctionType) -> bool:
    """Whether a library wrote it; `functools.wraps` changes the name a function goes by."""
    home = str(function.__globals__.get("__name__"))
    return home.partition(".")[0] in _LIBRARIES
