"""What Taylor series and Laplacians ask of their arguments, in the caller's words."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import leaf_name
from gradlab._typing import Array, Params
from gradlab.derivatives._leaves import is_complex
from gradlab.derivatives._series import is_inexact

__all__ = [
    "checked_count",
    "checked_index",
    "checked_line",
    "checked_values",
    "in_callers_words",
]


@contextmanager
def in_callers_words() -> Iterator[None]:
    """Say what to do about a function that JAX cannot trace."""
    try:
        yield
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(
            "`f` hands a traced value to NumPy. Write it with jax.numpy; a function that "
            "must stay in NumPy is differentiated by `gradlab.finite` or `gradlab.adaptive`."
        ) from error
    except jax.errors.TracerBoolConversionError as error:
        raise TypeError(
            "`f` branches in Python on a traced value. Use jnp.where or jax.lax.cond."
        ) from error


def checked_count(argument: str, value: Any) -> int:
    """Return a non-negative integer."""
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"`{argument}` must be an integer, got {value!r}.") from None
    if count < 0:
        raise ValueError(f"`{argument}` must be 0 or more, got {count}.")
    return count


def checked_line(x: Params, v: Params) -> list[list[Array]]:
    """Return the pairs [x, v] of matching leaves."""
    expected: Any = jax.tree.structure(x)
    given: Any = jax.tree.structure(v)
    if expected != given:
        raise TypeError(f"`v` must have the structure of `x`, {expected}, got {given}.")
    pairs = []
    for (path, leaf), direction in zip(
        jax.tree_util.tree_leaves_with_path(x), jax.tree.leaves(v), strict=True
    ):
        value, name = jnp.asarray(leaf), leaf_name("v", path)
        if np.shape(direction) != value.shape:
            raise ValueError(
                f"`{name}` must have shape {value.shape}, as in `x`, got {np.shape(direction)}."
            )
        if is_complex(jnp.result_type(direction)) and not is_complex(value.dtype):
            raise TypeError(
                f"`{name}` must be real, as `{leaf_name('x', path)}` is, got "
                f"{jnp.result_type(direction)}."
            )
        pairs.append([value, jnp.asarray(direction, value.dtype)])
    return pairs


def checked_values(returned: Any) -> tuple[list[Array], Any]:
    """Flatten what f returned, of which every leaf must be a floating array."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(returned)
    if not leaves:
        raise TypeError(f"`f` must return an array, but returned {returned!r}.")
    for path, leaf in leaves:
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | complex | int):
            raise TypeError(
                f"`{leaf_name('f(x)', path)}` must be a floating array, got {leaf!r}."
            )
        if not is_inexact(jnp.asarray(leaf)):
            raise TypeError(
                f"`{leaf_name('f(x)', path)}` must be floating to be differentiated, got "
                f"{jnp.asarray(leaf).dtype}. Leave it out of what `f` returns."
            )
    return [jnp.asarray(leaf) for _, leaf in leaves], tree


def checked_index(index: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return an index into x as a tuple of non-negative integers."""
    entry = tuple(index) if isinstance(index, tuple) else (index,)
    try:
        entry = tuple(operator.index(i) for i in entry)
    except TypeError:
        raise TypeError(
            f"`indices` must hold integers, or tuples of integers, got {index!r}."
        ) from None
    if len(entry) != len(shape):
        raise ValueError(
            f"`indices` must hold {len(shape)} integers an entry, since `x` has shape "
            f"{shape}, got {index!r}."
        )
    if any(not -size <= i < size for i, size in zip(entry, shape, strict=True)):
        raise IndexError(f"`indices` holds {index!r}, which lies outside `x` of shape {shape}.")
    return tuple(i % size for i, size in zip(entry, shape, strict=True))
