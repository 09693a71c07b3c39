"""Parameters as one flat vector for differences along coordinates, in either library."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import Params, PyTree
from gradlab.derivatives._evaluate import (
    along,
    concrete,
    flat_output,
    in_numpy_or_traced,
    is_traceable,
    to_numpy,
)
from gradlab.derivatives._leaves import check_params

__all__ = ["Coordinates", "blocks", "on_lines"]


@dataclass(frozen=True)
class Coordinates:
    """How a flat vector is cut into leaves; hashable, so it is a static argument of jit.

    Leaves of half precision are passed to f as float32: their own spacing leaves no room
    for a difference.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    @property
    def size(self) -> int:
        """Number n of scalar entries."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    @property
    def wide(self) -> Any:
        """The widest dtype of the leaves."""
        return np.result_type(*self.dtypes)

    def as_complex(self) -> Coordinates:
        """Return the same layout with complex leaves."""
        dtypes = tuple(np.result_type(dtype, np.complex64) for dtype in self.dtypes)
        return Coordinates(self.treedef, self.shapes, dtypes)

    def abstract(self) -> PyTree:
        """Shapes and dtypes of the parameters, as f sees them."""
        pairs = zip(self.shapes, self.dtypes, strict=True)
        return jax.tree.unflatten(
            self.treedef, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in pairs]
        )

    def flatten(self, leaves: list[Any], xp: Any) -> Any:
        """Concatenate the leaves."""
        return xp.concatenate([xp.ravel(xp.asarray(leaf, self.wide)) for leaf in leaves])

    def unflatten(self, vector: Any, lead: tuple[int, ...] = (), cast: bool = True) -> Params:
        """Cut a vector, or an array (*lead', n) whose first axes are reshaped to `lead`."""
        leaves, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            stop = start + int(np.prod(shape))
            piece = vector[..., start:stop].reshape((*lead, *shape))
            leaves.append(piece.astype(dtype) if cast else piece)
            start = stop
        return jax.tree.unflatten(self.treedef, leaves)

    def vector_function(self, f: Callable[[Params], Any], xp: Any) -> Callable[[Any], Any]:
        """Let f take the flat vector and return one."""
        return lambda vector: flat_output(f(self.unflatten(vector)), xp)


def _coordinates_of(params: Params, xp: Any) -> tuple[Coordinates, list[Any]]:
    """Return the layout of checked parameters, and their leaves, as `xp` sees them."""
    leaves, treedef = jax.tree.flatten(params)
    arrays = [leaf if hasattr(leaf, "dtype") else xp.asarray(leaf) for leaf in leaves]
    dtypes = tuple(_at_least_single(a.dtype, xp) for a in arrays)
    return Coordinates(treedef, tuple(np.shape(a) for a in arrays), dtypes), arrays


def _at_least_single(dtype: Any, xp: Any) -> np.dtype:
    """Widen half precision; without x64, JAX narrows float64."""
    wide = np.dtype(jnp.float32) if dtype.itemsize < 4 else np.dtype(dtype)
    return np.dtype(jax.dtypes.canonicalize_dtype(wide)) if xp is jnp else wide


def blocks(matrix: Any, layout: Coordinates, rows: PyTree) -> PyTree:
    """Cut a matrix (m, n) into the structure of the rows, then of the parameters."""
    leaves, treedef = jax.tree.flatten(rows)
    pieces, start = [], 0
    for leaf in leaves:
        stop = start + int(np.prod(np.shape(leaf)))
        pieces.append(layout.unflatten(matrix[start:stop], np.shape(leaf), cast=False))
        start = stop
    return jax.tree.unflatten(treedef, pieces)


def on_lines(
    f: Callable[[Params], Any],
    analyse: Callable[..., Any],
    check_output: Callable[[Any], None],
    *,
    as_jax: bool = True,
) -> Callable[[Params], Any]:
    """Build the function that runs an analysis on the coordinate lines through a point.

    Args:
        f: The user's function of a pytree.
        analyse: `analyse(xp, layout, call, lines, flat)`, where `call` is f of the flat
            vector and `lines(flat, index, points)` is `along`.
        check_output: Raises unless the output of f, abstract or concrete, will do.
        as_jax: Whether to return JAX arrays for a JAX function, also where the analysis was
            done in NumPy.

    Returns:
        From the parameters to the analysis, the layout and the output's structure.
    """

    @functools.cache
    def compiled(layout: Coordinates) -> tuple[Any, Any]:
        call = layout.vector_function(f, jnp)
        lines = functools.partial(along, call, jnp)
        one, many = to_numpy(jax.jit(call)), to_numpy(jax.jit(lines))
        return (
            lambda flat: analyse(np, layout, one, many, flat),
            jax.jit(lambda flat: analyse(jnp, layout, call, lines, flat)),
        )

    # What f turned out to be at parameters of each layout: its output, or None for NumPy.
    outputs: dict[Coordinates, Any] = {}

    def traced_output(layout: Coordinates) -> Any:
        if layout not in outputs:
            shapes = layout.abstract()
            traceable = is_traceable(f, shapes)
            outputs[layout] = jax.eval_shape(f, shapes) if traceable else None
        return outputs[layout]

    def at(params: Params) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # float64 is safe with a NumPy function
            check_params(params, holomorphic=False)
        layout, leaves = _coordinates_of(params, jnp)
        output = traced_output(layout)
        if output is not None:
            check_params(params, holomorphic=False)
            check_output(output)
            traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
            flat = layout.flatten(leaves, jnp if traced else np)
            result = in_numpy_or_traced(*compiled(layout), flat)
            result = jax.tree.map(jnp.asarray, result) if as_jax else result
            return result, layout, output
        layout, leaves = _coordinates_of(params, np)
        flat = layout.flatten([concrete(leaf) for leaf in leaves], np)
        output = jax.tree.map(np.asarray, f(layout.unflatten(flat)))
        check_output(output)
        call = layout.vector_function(f, np)
        return (
            analyse(np, layout, call, functools.partial(along, call, np), flat),
            layout,
            output,
        )

    return at
