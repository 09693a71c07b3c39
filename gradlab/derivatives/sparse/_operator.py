"""The compiled function of a sparse matrix of derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import Array, Params
from gradlab.derivatives._leaves import Layout, check_params, eps_of, flatten
from gradlab.derivatives.sparse._plan import Plan

__all__ = ["Products", "SparseDerivative", "build"]

# Products made together: seeds of eight columns fill the vector units of a processor.
_TOGETHER = 8
# An entry beyond the pattern is told from rounding if it is larger than this many roundings
# of the largest entry: rows without any share only what is computed on the way to others.
_ROUNDINGS = 32.0
Products = Callable[..., dict[str, Callable[[Array], Array]]]


@dataclass(frozen=True, eq=False)
class SparseDerivative:
    """A sparse Hessian or Jacobian as a compiled function of x.

    Called with x, shaped as the x it was built at, and the further arguments of f, it
    returns the matrix. Each call makes one product more than there are colours, with a
    random vector, and compares: where the pattern does not hold any more it raises a
    `ValueError`; inside `jax.jit` or `jax.vmap` the entries are NaN then.

    Attributes:
        rows: Row of each entry, sorted, shape (nnz,).
        columns: Column of each entry, shape (nnz,).
        shape: Rows and columns of the matrix, in the order in which leaves are flattened.
        num_products: Products that an evaluation takes, the colours.
        num_probes: Products that it took to find the pattern; 0 where it was given.
        colors: Colour of each column; -1 where none of its entries is read from a column.
    """

    rows: np.ndarray
    columns: np.ndarray
    shape: tuple[int, int]
    num_products: int
    num_probes: int
    colors: np.ndarray
    _format: str
    _layout: Layout
    _compute: Callable[..., tuple[Array, Array]]
    _certify: Callable[[], bool]

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return len(self.rows)

    def values(self, x: Params, *args: Any) -> Array:
        """Return the entries at x, shape (nnz,), in the order of `rows` and `columns`."""
        check_params(x, "x", holomorphic=False)
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(x))
        expected = jax.tree.unflatten(self._layout.treedef, self._layout.shapes)
        structure: Any = jax.tree.structure(x)
        if shapes != self._layout.shapes or structure != self._layout.treedef:
            raise ValueError(
                f"`x` must be shaped as where the pattern was found, {expected}, got "
                f"{jax.tree.map(np.shape, x)}."
            )
        data, wrong = self._compute(x, args)
        if isinstance(wrong, jax.core.Tracer):
            return jnp.where(wrong, jnp.nan, data)
        if wrong:
            raise ValueError(
                "The matrix has entries at this x that were zero where the pattern was found. "
                "Build it at this x, or pass a `pattern` that holds everywhere."
            )
        return data

    def __call__(self, x: Params, *args: Any) -> Any:
        """Return the matrix at x: a `BCOO`, or a SciPy `csr_array`."""
        data = self.values(x, *args)
        if self._format == "csr":
            return _csr(np.asarray(data), self.rows, self.columns, self.shape)
        from jax.experimental.sparse import BCOO

        indices = jnp.stack([jnp.asarray(self.rows), jnp.asarray(self.columns)], axis=1)
        return BCOO((data, indices), shape=self.shape, indices_sorted=True, unique_indices=True)

    def certify(self) -> bool:
        """Whether the pattern is proven to hold at every x, by asdex (extra `sparse`).

        Products show what a matrix is where they are made. asdex reads the traced program
        and returns all entries that any x could make nonzero, often more than there are: if
        none of them is missing here, none ever will be.

        Returns:
            True if proven; False if asdex sees entries more, or cannot read the program.

        Raises:
            ImportError: If asdex cannot be imported.
        """
        return self._certify()

    def __repr__(self) -> str:
        """Say what it takes."""
        return (
            f"SparseDerivative(shape={self.shape}, nnz={self.nnz}, "
            f"num_products={self.num_products})"
        )


def build(
    products: Products,
    plan: Plan,
    rows: np.ndarray,
    columns: np.ndarray,
    shape: tuple[int, int],
) -> Callable[[Params, tuple[Any, ...]], tuple[Array, Array]]:
    """Compile the evaluation: (x, args) to the entries, and whether any is missing."""
    constants = tuple(jnp.asarray(part) for part in (*plan, rows, columns))
    counts = int(plan.colors.max(initial=-1)) + 1, int(plan.row_colors.max(initial=-1)) + 1

    @jax.jit
    def compute(x: Params, args: Any, constants: tuple[Array, ...]) -> tuple[Array, Array]:
        colors, row_colors, from_column, product, place, *entries = constants
        flat = flatten(x)[0]
        linear = products(x, args)
        parts = []
        sides = (("forward", colors, counts[0]), ("reverse", row_colors, counts[1]))
        for kind, coloring, count in sides:
            if count:
                seen = _compressed(linear[kind], coloring, count, flat.dtype)
                parts.append(seen[jnp.clip(product, 0, count - 1), _inside(place, seen)])
        data = parts[0] if parts else jnp.zeros(len(rows), flat.dtype)
        if len(parts) == 2:
            data = jnp.where(from_column, parts[0], parts[1])
        return data, _is_wrong(linear, data, entries, shape)

    return lambda x, args: compute(x, args, constants)


def _inside(place: Array, seen: Array) -> Array:
    """Keep places that belong to the other kind of product from being out of bounds."""
    return jnp.minimum(place, seen.shape[1] - 1)


def _compressed(product: Any, coloring: Array, count: int, dtype: Any) -> Array:
    """Make the products, one for each colour, shape (count, length)."""

    def one(color: Array) -> Array:
        return product((coloring == color).astype(dtype))

    return jax.lax.map(one, jnp.arange(count), batch_size=min(count, _TOGETHER))


def _is_wrong(
    linear: dict[str, Any], data: Array, entries: Sequence[Array], shape: tuple[int, int]
) -> Array:
    """Compare one product by the matrix with the real one, in the rows that are finite.

    The vector gives columns of different units the same weight.
    """
    rows, columns = entries
    kind = "forward" if "forward" in linear else "reverse"
    if kind == "reverse":
        rows, columns, shape = columns, rows, shape[::-1]
    sizes = jnp.where(jnp.isfinite(data), jnp.abs(data), 0)
    largest = jnp.zeros(shape[1], data.dtype).at[columns].max(sizes)
    least = jnp.min(jnp.where(largest > 0, largest, jnp.inf), initial=jnp.inf)
    unit = jnp.where(largest > 0, largest, jnp.where(jnp.isfinite(least), least, 1))
    vector = jax.random.uniform(jax.random.key(1), (shape[1],), data.dtype, 0.5, 1.5) / unit
    true = linear[kind](vector)
    parts = data * vector[columns]
    sums = jnp.zeros((2, shape[0]), data.dtype)
    sums = sums.at[:, rows].add(jnp.stack([parts, jnp.abs(parts)]))
    finite = jnp.isfinite(true) & jnp.isfinite(sums[1])
    eps = eps_of(data.dtype)
    size = jnp.max(jnp.where(finite, jnp.maximum(jnp.abs(true), sums[1]), 0), initial=0.0)
    allowed = eps ** (2 / 3) * sums[1] + _ROUNDINGS * eps * size
    return jnp.any(finite & (jnp.abs(true - sums[0]) > allowed))


def _csr(
    data: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> Any:
    """Return a SciPy matrix."""
    from scipy.sparse import csr_array

    ends = np.searchsorted(rows, np.arange(shape[0] + 1))
    return csr_array((data, columns, ends), shape=shape)
