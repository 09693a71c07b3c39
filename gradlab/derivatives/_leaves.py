"""Parameters as one flat vector, and what may be differentiated at all.

Every operator checks its input here, so that the same mistake gets the same sentence.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import leaf_name
from gradlab._typing import Array, Params, PyTree

__all__ = [
    "Layout",
    "check_fits",
    "check_params",
    "check_scalar",
    "eps_of",
    "flatten",
    "is_complex",
    "same_structure",
    "select_arguments",
    "warn_if_narrowed",
]


@dataclass(frozen=True, eq=False)
class Layout:
    """How a flat vector is cut into the leaves of a pytree."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @property
    def slices(self) -> list[slice]:
        """Where each leaf lies in the flat vector."""
        ends = list(itertools.accumulate((int(np.prod(s)) for s in self.shapes), initial=0))
        return [slice(a, b) for a, b in itertools.pairwise(ends)]

    @property
    def size(self) -> int:
        """Number n of scalar entries."""
        return sum(int(np.prod(s)) for s in self.shapes)

    def as_complex(self) -> Layout:
        """Return the same layout with complex leaves, complex64 at least."""
        wide = tuple(jnp.result_type(d, jnp.complex64) for d in self.dtypes)
        return Layout(self.treedef, self.shapes, wide)

    def unflatten(self, x: Any, axis_shape: tuple[int, ...] = ()) -> Params:
        """Cut x, shape (*axis_shape, n), into leaves of their own shape and dtype."""
        leaves = [
            _cast(x[..., cut], dtype).reshape(axis_shape + shape)
            for cut, shape, dtype in zip(self.slices, self.shapes, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def blocks(self, matrix: Any) -> PyTree:
        """Cut a dense matrix, shape (n, n), into a pytree of pytrees of blocks."""
        rows = []
        for cut, shape, dtype in zip(self.slices, self.shapes, self.dtypes, strict=True):
            row = self.unflatten(matrix[cut], (matrix[cut].shape[0],))
            rows.append(_reshape_rows(row, shape, dtype))
        return jax.tree.unflatten(self.treedef, rows)

    def map_leaves(self, function: Any, *vectors: Any) -> Any:
        """Concatenate `function(dtype, *pieces)` over the leaves, along the first axis."""
        pieces = [
            function(dtype, *(v[cut] for v in vectors))
            for cut, dtype in zip(self.slices, self.dtypes, strict=True)
        ]
        return jnp.concatenate(pieces)


def flatten(params: Params) -> tuple[Array, Layout]:
    """Return checked `params` as one vector, in the widest dtype and at least float32."""
    leaves, treedef = jax.tree.flatten(params)
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    layout = Layout(treedef, tuple(a.shape for a in arrays), tuple(a.dtype for a in arrays))
    wide = jnp.result_type(jnp.float32, *layout.dtypes)
    return jnp.concatenate([a.ravel().astype(wide) for a in arrays]), layout


def select_arguments(
    args: tuple[Any, ...], argnums: int | tuple[int, ...]
) -> tuple[Params, Callable[[Params], tuple[Any, ...]]]:
    """Return the differentiated arguments and how to put others in their place."""
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if any(not -len(args) <= k < len(args) for k in numbers):
        raise ValueError(
            f"`argnums` must name positional arguments, got {argnums!r} for {len(args)}."
        )

    def replace(params: Params) -> tuple[Any, ...]:
        new = list(args)
        values = (params,) if isinstance(argnums, int) else params
        for k, value in zip(numbers, values, strict=True):
            new[k] = value
        return tuple(new)

    params = args[argnums] if isinstance(argnums, int) else tuple(args[k] for k in numbers)
    return params, replace


def check_params(
    params: Params, argument: str = "params", *, holomorphic: bool = True, warn: bool = True
) -> None:
    """Raise unless `params` is a non-empty pytree of floating leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        _check_leaf(leaf, leaf_name(argument, path), holomorphic)
    if sum(np.size(leaf) for _, leaf in leaves) == 0:
        raise ValueError(f"`{argument}` is empty: there is nothing to differentiate.")
    if warn:
        warn_if_narrowed(params, argument)


def warn_if_narrowed(params: Params, argument: str = "params") -> None:
    """Say that JAX drops half the digits of a float64 array."""
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if getattr(leaf, "dtype", None) in (np.float64, np.complex128):
            warnings.warn(
                f"`{leaf_name(argument, path)}` is float64, but JAX computes in float32 "
                "unless jax.config.update('jax_enable_x64', True) is called first.",
                UserWarning,
                stacklevel=4,
            )
            return


def check_scalar(out: Any, *, holomorphic: bool = False, hint: str = "`jacobian`") -> None:
    """Raise unless `out`, the abstract output of f, is one real (or complex) scalar."""
    if not hasattr(out, "shape") or not hasattr(out, "dtype"):
        raise TypeError(_not_a_scalar(out))
    if out.shape == (1,):
        raise TypeError(
            "`f` must return a scalar, but returned shape (1,). Take its sum, or [0]."
        )
    if out.shape != ():
        raise TypeError(
            f"`f` must return a scalar, but returned shape {tuple(out.shape)}. Take a mean or "
            f"a sum, or use {hint} for a function with many outputs."
        )
    kind = jnp.complexfloating if holomorphic else jnp.floating
    if not jnp.issubdtype(out.dtype, kind):
        raise TypeError(_wrong_kind(out.dtype, holomorphic))


def same_structure(a: PyTree, b: PyTree) -> bool:
    """Whether two pytrees have the same structure."""
    left: Any = jax.tree.structure(a)
    return bool(left == jax.tree.structure(b))


def eps_of(dtype: Any) -> float:
    """Return the spacing of `dtype` at 1."""
    return float(jnp.finfo(dtype).eps)


def is_complex(dtype: Any) -> bool:
    """Whether `dtype` is complex."""
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))


def check_fits(n: int, itemsize: int) -> None:
    """Raise if two n × n matrices, one beside its transpose, exceed this machine's memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not told on this system
        return
    if 2 * n * n * itemsize > memory:
        raise ValueError(
            f"The dense Hessian of {n} variables takes {n * n * itemsize / 1e9:.3g} GB, and "
            f"as much again while it is made symmetric, but this machine has "
            f"{memory / 1e9:.3g} GB. Use products H v instead: `hvp`, or "
            "method='newton_cg' in `minimize`."
        )


def _reshape_rows(row: Params, shape: tuple[int, ...], dtype: Any) -> Params:
    """Give the leading axis of every block of one row the shape of its leaf."""
    return jax.tree.map(lambda b: b.reshape(shape + b.shape[1:]).astype(dtype), row)


def _cast(x: Any, dtype: Any) -> Any:
    """Cast, taking the real part where a complex vector holds a real leaf."""
    return (x.real if is_complex(x.dtype) and not is_complex(dtype) else x).astype(dtype)


def _check_leaf(leaf: Any, name: str, holomorphic: bool) -> None:
    """Raise unless one leaf is a usable floating array or number."""
    if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
        if leaf.is_deleted():
            raise ValueError(
                f"`{name}` was deleted or donated to an earlier call. Pass a copy: "
                "jnp.array(x, copy=True)."
            )
    elif not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | complex | int):
        raise TypeError(f"`{name}` must be a floating array, got {leaf!r}.")
    dtype = jnp.result_type(leaf) if not isinstance(leaf, str | bytes) else np.dtype(str)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"`{name}` must be floating to be differentiated, got {dtype}. Cast it: "
            "jnp.asarray(x, float)."
        )
    if is_complex(dtype) and not holomorphic:
        raise TypeError(f"`{name}` must be real, got {dtype}. Split it into two real leaves.")


def _not_a_scalar(out: Any) -> str:
    """Say what f returned in place of a scalar."""
    if isinstance(out, Sequence) and not isinstance(out, str) and len(out) == 2:
        return (
            "`f` must return a scalar, but returned a pair. If it is (value, aux), return the "
            "value alone here; has_aux is known to `minimize` only."
        )
    return (
        f"`f` must return a real scalar, but returned {out!r}. Is a `return` missing?"
        if out is None
        else f"`f` must return a real scalar, but returned {type(out).__name__}."
    )


def _wrong_kind(dtype: Any, holomorphic: bool) -> str:
    """Say which kind of number f returned."""
    if holomorphic:
        return (
            f"`f` returned {dtype} for complex `params`: only holomorphic functions, complex "
            "in and out, have a complex derivative. Differentiate with respect to the real "
            "and the imaginary part instead."
        )
    return (
        f"`f` must return a real floating scalar, but returned {dtype}. Return its real part."
        if is_complex(dtype)
        else f"`f` must return a real floating scalar, but returned {dtype}. Cast it to float."
    )
