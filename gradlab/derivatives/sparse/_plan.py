"""Which products make up a sparse matrix, and where in them each entry stands."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gradlab.derivatives.sparse._color import column_coloring, dense_rows, star_coloring

__all__ = ["Plan", "plan_hessian", "plan_jacobian"]


class Plan(NamedTuple):
    """Products to make and how to read the entries off them.

    Attributes:
        colors: The colour of each column, shape (n,): products A v with v the sum of the
            unit vectors of one colour; -1 for a column that needs none.
        row_colors: The colour of each row, shape (m,), for products Aᵀ w; -1 for none.
        from_column: Whether an entry is read from the former, shape (nnz,).
        product: Its colour, shape (nnz,).
        place: Where in the product it stands, shape (nnz,).
    """

    colors: np.ndarray
    row_colors: np.ndarray
    from_column: np.ndarray
    product: np.ndarray
    place: np.ndarray

    @property
    def num_products(self) -> int:
        """How many products there are, of either kind."""
        return _count(self.colors) + _count(self.row_colors)


def plan_hessian(rows: np.ndarray, columns: np.ndarray, n: int) -> Plan:
    """Colour a symmetric pattern; entries are read from their own row or its mirror's."""
    colors = star_coloring(rows, columns, n)
    own = _alone(rows, columns, colors, n)
    mirrored = _alone(columns, rows, colors, n)
    if not np.all(own | mirrored):  # never seen; a wrong matrix must not come of it
        raise AssertionError("the star colouring does not determine every entry")
    product = np.where(own, colors[columns], colors[rows])
    place = np.where(own, rows, columns)
    none = np.full(n, -1, np.int32)
    return Plan(colors, none, np.ones(len(rows), bool), product, place)


def plan_jacobian(
    rows: np.ndarray,
    columns: np.ndarray,
    shape: tuple[int, int],
    *,
    forward: bool = True,
    reverse: bool = True,
) -> Plan:
    """Colour a pattern by columns or by rows, whichever takes fewer products.

    Where both kinds of products can be had, the few long rows that alone would make the
    colours many have a product each of the other kind.
    """
    plans = []
    if forward:
        plans.append(_by_columns(rows, columns, shape, reverse))
    if reverse:
        plans.append(_swapped(_by_columns(columns, rows, shape[::-1], forward)))
    return min(plans, key=lambda plan: plan.num_products)


def _by_columns(
    rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], both: bool
) -> Plan:
    """Colour the columns of all rows but the long ones."""
    m, n = shape
    long = dense_rows(rows, m) if both else np.zeros(0, int)
    row_colors = np.full(m, -1, np.int32)
    row_colors[long] = np.arange(len(long))
    short = row_colors[rows] < 0
    colors = np.full(n, -1, np.int32)
    if np.any(short):
        used = np.unique(columns[short])
        colors[used] = column_coloring(rows[short], columns[short], shape)[used]
    product = np.where(short, colors[columns], row_colors[rows])
    return Plan(colors, row_colors, short, product, np.where(short, rows, columns))


def _swapped(plan: Plan) -> Plan:
    """Return the plan of the transposed matrix."""
    colors, row_colors, from_column, product, place = plan
    return Plan(row_colors, colors, ~from_column, product, place)


def _alone(rows: np.ndarray, columns: np.ndarray, colors: np.ndarray, n: int) -> np.ndarray:
    """Whether no other entry of the row is in a column of the same colour."""
    number = _count(colors)
    key = rows.astype(np.int64) * number + colors[columns]
    return np.bincount(key, minlength=n * number)[key] == 1


def _count(colors: np.ndarray) -> int:
    """Count the colours."""
    return int(np.max(colors, initial=-1)) + 1
