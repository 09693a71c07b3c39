"""What the adaptive operators accept, checked in the caller's words."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import check_choice, leaf_name
from gradlab._typing import AnyArray, ArrayLike, PyTree
from gradlab.derivatives import _drive
from gradlab.derivatives._drive import Plan
from gradlab.derivatives._leaves import check_scalar

__all__ = [
    "check_number",
    "check_outputs",
    "checked_noise",
    "checked_orders",
    "checked_plan",
    "checked_points",
    "coarser_eps",
]

_MAX_ORDER = 8
SCHEMES = ("real", "complex", "auto")


def checked_orders(order: int | tuple[int, ...]) -> tuple[int, ...]:
    """Check the order or orders."""
    given = order if isinstance(order, tuple) else (order,)
    for o in given:
        if (
            isinstance(o, bool)
            or not isinstance(o, int | np.integer)
            or not 1 <= o <= _MAX_ORDER
        ):
            raise ValueError(
                f"`order` must be an integer from 1 to {_MAX_ORDER}, or a tuple of them, "
                f"got {order!r}."
            )
    if not given:
        raise ValueError("`order` must name at least one derivative, got ().")
    return tuple(int(o) for o in given)


def checked_plan(
    orders: tuple[int, ...], asked: int | None, default: int, side: int, scheme: str
) -> Plan:
    """Check the budget, the side and the scheme, and divide the evaluations."""
    check_choice("scheme", scheme, SCHEMES)
    least = _drive.MIN_NFEV + (scheme != "real")
    if asked is not None and asked < least:
        raise ValueError(
            f"`max_nfev` must be at least {least}, what one ladder and its scan take, got "
            f"{asked!r}."
        )
    if side not in (-1, 0, 1):
        raise ValueError(f"`side` must be -1, 0 or 1, got {side!r}.")
    budget = default if asked is None else operator.index(asked)
    # The complex step takes one evaluation more, beside the point itself.
    return _drive.make_plan(orders, budget - (scheme != "real"), int(side))


def checked_noise(noise: float | None) -> float:
    """Check a known level of noise; 0 where it is to be measured."""
    if noise is None:
        return 0.0
    if not 0 <= float(noise) < float("inf"):
        raise ValueError(
            f"`noise` must be a finite level of noise, zero or above, or None to measure it, "
            f"got {noise!r}."
        )
    return float(noise)


def checked_points(x: ArrayLike) -> AnyArray:
    """Check the points; NumPy stays NumPy, Python numbers take JAX's default dtype.

    Half precision is widened: its own spacing leaves no room for a difference.
    """
    known = isinstance(x, jax.Array | np.ndarray | np.generic)
    array: Any = np.asarray(x) if isinstance(x, np.generic) else x
    array = array if known else jnp.asarray(x)
    if not known and jnp.issubdtype(array.dtype, jnp.integer):
        array = array.astype(float)  # 1 means 1.0 when a person writes it
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"`x` must be real and floating to be moved by a step, got {array.dtype}. Cast "
            "it: jnp.asarray(x, float)."
        )
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def check_number(value: Any) -> None:
    """Raise unless f returned one real floating number."""
    check_scalar(value, hint="`adaptive.jacobian`")


def coarser_eps(*dtypes: Any) -> float:
    """Spacing at 1 of the coarsest dtype: a float32 loss of float64 input is float32."""
    return max(float(jnp.finfo(d).eps) for d in dtypes)


def check_outputs(output: PyTree) -> None:
    """Raise unless every output leaf is real and floating."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(output):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = leaf_name("f(x)", path)
            raise TypeError(f"`{name}` must be real and floating, got {leaf.dtype}.")
