"""Colouring: which columns one product can serve.

Sets of colours are the bits of Python integers, so that a vertex asks for the first free
colour in a handful of operations and a row of any length costs what its entries cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

__all__ = ["column_coloring", "dense_rows", "star_coloring"]

# Entries up to which every order is tried; beyond, an order takes seconds, and the first two
# of them have to do.
_FEW = 10**6


def star_coloring(rows: np.ndarray, columns: np.ndarray, n: int) -> np.ndarray:
    r"""Colour a symmetric pattern so that every entry can be read off the products.

    A star colouring: neighbours differ, and no path of four vertices has two colours only.
    Then H_ij is alone in its row among the columns of the colour of j, or in row j among
    those of the colour of i. Greedy, in several orders, of which the best counts; the cost
    is that of the entries times the colours.

    Args:
        rows: Rows of the entries, both triangles, with or without the diagonal.
        columns: Columns of the entries.
        n: Rows and columns of the matrix.

    Returns:
        The colour of each column, from 0, shape (n,).

    References:
        Coleman, T. F. and Moré, J. J. (1984). Estimation of sparse Hessian matrices and graph
        coloring problems.
        Gebremedhin, A. H., Manne, F. and Pothen, A. (2005). What color is your Jacobian?
        SIAM Review 47:629, section 4.
    """
    off = rows != columns
    near = _neighbours(rows[off], columns[off], n)
    degrees = np.bincount(rows[off], minlength=n)
    best = _stars(near, range(n), n)
    for order in _orders(near, degrees, best):
        colors = _stars(near, order, n)
        best = min(best, colors, key=max)
    return np.asarray(best, np.int32)


def _stars(near: Sequence[Sequence[int]], order: Iterable[int], n: int) -> list[int]:
    """Colour greedily in the given order.

    A path a-b-c-d of two colours arises when its last vertex gets its colour: an end, whose
    neighbour b then has `ends[b]` forbid the colour; or an inner one, which then has two
    neighbours of the same colour, and may share no colour with theirs.
    """
    color = [-1] * n
    ends = [0] * n  # colours that would end a path of two colours at this vertex
    once, twice = [0] * n, [0] * n  # colours of the neighbours; of two of them or more
    first: list[dict[int, int]] = [{} for _ in range(n)]  # the first neighbour of a colour
    for v in order:
        forbidden, doubled = once[v], twice[v]
        for w in near[v]:
            if color[w] >= 0:
                forbidden |= ends[w]
                if doubled >> color[w] & 1:
                    forbidden |= once[w]
        bit = ~forbidden & (forbidden + 1)
        k = color[v] = bit.bit_length() - 1
        for w in near[v]:
            j = color[w]
            if j >= 0 and doubled >> j & 1:  # v is between w and another of colour j
                ends[w] |= bit
            if not once[w] & bit:
                once[w] |= bit
                first[w][k] = v
                continue
            if j >= 0:  # w is between v and another of colour k
                ends[v] |= 1 << j
                if not twice[w] & bit:
                    ends[first[w][k]] |= 1 << j
            twice[w] |= bit
    return color


def column_coloring(
    rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Colour columns so that no two of one colour have an entry in the same row.

    Args:
        rows: Rows of the entries.
        columns: Columns of the entries.
        shape: Shape of the matrix.

    Returns:
        The colour of each column, from 0.

    References:
        Curtis, A. R., Powell, M. J. D. and Reid, J. K. (1974). On the estimation of sparse
        Jacobian matrices.
    """
    m, n = shape
    if not len(rows):
        return np.zeros(n, np.int32)
    members = _neighbours(columns, rows, n)
    bound = int(np.bincount(rows).max())
    degrees = np.bincount(columns, minlength=n)
    best = _columns(members, range(n), m, n)
    for order in (np.argsort(-degrees, kind="stable").tolist(), _by_classes(best)):
        if max(best) + 1 > bound:
            best = min(best, _columns(members, order, m, n), key=max)
    return np.asarray(best, np.int32)


def _columns(
    members: Sequence[Sequence[int]], order: Iterable[int], m: int, n: int
) -> list[int]:
    """Colour columns greedily in the given order."""
    color, used = [0] * n, [0] * m
    for v in order:
        forbidden = 0
        for r in members[v]:
            forbidden |= used[r]
        bit = ~forbidden & (forbidden + 1)
        color[v] = bit.bit_length() - 1
        for r in members[v]:
            used[r] |= bit
    return color


def dense_rows(rows: np.ndarray, m: int) -> np.ndarray:
    """Choose the rows worth a product each, because they alone make colours many."""
    counts = np.bincount(rows, minlength=m)
    order = np.argsort(-counts, kind="stable")
    cost = np.arange(m + 1) + np.append(counts[order], 0)
    return np.sort(order[: int(np.argmin(cost))])


def _orders(
    near: Sequence[Sequence[int]], degrees: np.ndarray, best: list[int]
) -> Iterator[Iterable[int]]:
    """Yield orders that may do better than the natural one."""
    yield np.argsort(-degrees, kind="stable").tolist()
    if degrees.sum() <= _FEW:
        yield _by_classes(best)


def _by_classes(color: Sequence[int]) -> list[int]:
    """Order by the classes of a colouring, the last first: it can only do better."""
    return np.argsort(-np.asarray(color), kind="stable").tolist()


def _neighbours(rows: np.ndarray, columns: np.ndarray, n: int) -> list[list[int]]:
    """List the columns of each row."""
    order = np.argsort(rows, kind="stable")
    ends = np.cumsum(np.bincount(rows, minlength=n))
    sorted_columns = columns[order].tolist()
    starts = [0, *ends[:-1].tolist()]
    return [sorted_columns[a:b] for a, b in zip(starts, ends.tolist(), strict=True)]
