"""Call the user's function at many points: mapped by JAX, or as NumPy on concrete arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._equal_programs import computed
from gradlab._typing import PyTree

__all__ = [
    "along",
    "at_points",
    "concrete",
    "flat_output",
    "in_numpy_or_traced",
    "is_traceable",
    "pointwise_jax",
    "pointwise_numpy",
    "to_numpy",
]

# What a function that is not made of JAX operations raises when JAX traces it.
_UNTRACEABLE = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
)
# A point far off may be outside the domain of f; that is an answer, not a failure.
_OUTSIDE = (ArithmeticError, ValueError)
# Numbers of input entries held at once when f is mapped over many directions.
_ENTRIES_AT_ONCE = 2**22


def is_traceable(f: Callable[..., Any], x: PyTree) -> bool:
    """Whether JAX can trace f; its other errors are the caller's and are raised."""
    try:
        jax.eval_shape(lambda v: f(v), x)  # a ufunc cannot be referenced weakly
    except _UNTRACEABLE:
        return False
    return True


def concrete(x: Any) -> np.ndarray:
    """Take the numbers themselves, which a NumPy function needs."""
    if isinstance(x, jax.core.Tracer):
        raise TypeError(
            "`f` is not made of JAX operations, so its derivative cannot be taken inside jit "
            "or vmap. Call it on concrete arrays, or write f with jax.numpy."
        )
    return np.asarray(x)


def to_numpy(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """Let a compiled function return NumPy arrays."""
    return lambda *args: np.asarray(function(*args))


def in_numpy_or_traced(
    analyse: Callable[[Any], Any], traced: Callable[[Any], Any], x: Any
) -> Any:
    """Analyse concrete samples in NumPy, which needs no compilation; else within a trace.

    f may be traced although x is not, when it closes over a traced array.
    """
    if isinstance(x, jax.core.Tracer):
        return traced(x)
    try:
        return analyse(np.asarray(x))
    except jax.errors.TracerArrayConversionError:
        return traced(jnp.asarray(x))


def flat_output(value: PyTree, xp: Any) -> Any:
    """Concatenate the leaves of an output as one vector."""
    leaves = [xp.ravel(xp.asarray(leaf)) for leaf in jax.tree.leaves(value)]
    return leaves[0] if len(leaves) == 1 else xp.concatenate(leaves)


def pointwise_jax(f: Callable[..., Any]) -> Callable[[Any], Any]:
    """Map a function of one number over an array of any shape."""

    def evaluate(points: Any) -> Any:
        return jax.vmap(f)(points.ravel()).reshape(points.shape)

    return evaluate


def pointwise_numpy(f: Callable[..., Any]) -> Callable[[np.ndarray], Any]:
    """Map a NumPy function: in one call where it works elementwise, else number by number."""

    def evaluate(points: np.ndarray) -> Any:
        values: Any
        with np.errstate(all="ignore"):
            try:
                values = np.asarray(f(points))
            except (TypeError, *_OUTSIDE):
                values = None
        if values is None or values.shape != points.shape:
            values = [_tolerant(f, point) for point in points.ravel()]
        return np.asarray(values).reshape(points.shape)

    return evaluate


def at_points(f: Callable[[Any], Any], flat: np.ndarray) -> list[Any] | np.ndarray:
    """Evaluate f at the points themselves, where its own errors are the caller's."""
    with np.errstate(all="ignore"):
        try:
            values = np.asarray(f(flat))
            if values.shape == flat.shape:
                return values
        except (TypeError, *_OUTSIDE):
            pass
        return [f(point) for point in flat]


def along(call: Callable[[Any], Any], xp: Any, flat: Any, index: Any, points: Any) -> Any:
    """Give values of `call` where some entries of `flat` are replaced.

    Row i replaces the entries `index[i]`, shape (P, k), by each of `points[i]`, shape
    (P, M, k), in turn. Returns shape (P, M, m).
    """
    if xp is np:
        rows = zip(index, points, strict=True)
        values = [[_tolerant(call, _moved(flat, i, p)) for p in row] for i, row in rows]
        width = max(np.size(value) for row in values for value in row)
        return np.array([[np.broadcast_to(v, (width,)) for v in row] for row in values])

    def line(row: Any) -> Any:
        entries, moves = row
        return jax.vmap(lambda move: call(flat.at[entries].set(move)))(moves)

    batch = max(1, _ENTRIES_AT_ONCE // (flat.size * points.shape[1]))
    loop = functools.partial(jax.lax.map, line, batch_size=min(batch, len(index)))
    return computed(loop, (index, points))


def _moved(flat: np.ndarray, index: np.ndarray, point: np.ndarray) -> np.ndarray:
    copy = np.array(flat)
    copy[index] = point
    return copy


def _tolerant(f: Callable[[Any], Any], point: Any) -> Any:
    """Evaluate a NumPy function; outside its domain the value is NaN."""
    with np.errstate(all="ignore"):
        try:
            return f(point)
        except _OUTSIDE:
            return np.nan
