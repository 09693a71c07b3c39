"""Extrapolation weights for a ladder of samples, computed once in NumPy.

Around a point a function is split in its odd part (f(x + h) - f(x - h))/2 =
f' h + f''' h³/6 + … and its even part, (f(x + h) + f(x - h))/2 - f(x) = f'' h²/2 + …;
from one side it is f' h + f'' h²/2 + …. In each the derivatives are coefficients of a
polynomial whose powers are known. A *candidate* is one least-squares polynomial: a run of
neighbouring rungs of the ladder and a number of terms. All of them are linear in the
samples, so the whole table of estimates is one matrix product.

References:
    Richardson, L. F. (1911). The approximate arithmetical solution by finite differences.
    Ridders, C. (1982). Accurate computation of F'(x) and F'(x) F''(x).
    Lyness, J. N. and Moler, C. B. (1966). Van der Monde systems and numerical
    differentiation.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "MIN_BELOW",
    "Stack",
    "Table",
    "central_nodes",
    "one_sided_nodes",
    "stacked",
    "table",
]

# Fractions inserted between the powers of two, in the order in which a larger budget buys
# them. Few mantissa bits, so that x + h stays exact.
_FRACTIONS = (0.75, 0.875, 0.625)
# Rungs a run must have below it, to see the noise with.
MIN_BELOW = 3
# Noise level over the largest residual, and how much more the largest of few may hide: with
# r rungs below a run, level = _LEVEL (1 + _FEW / r) × largest.
_LEVEL, _FEW = 0.55, 3.0


class Table(NamedTuple):
    """Weights of every candidate, C of them, on a ladder of J rungs.

    Attributes:
        weights: For each derivative order, shape (C, J), in units of the top rung; rows of
            zeros where a candidate has too few terms.
        has_order: For each order, whether a candidate can tell it, shape (C,).
        predict: Matrix to each candidate's prediction at every rung, shape (C, J, J); zero
            for the rungs that are neither below its run nor the next one above it.
        used: Which rungs a candidate is fitted to, shape (C, J).
        below: Which rungs lie below its run, shape (C, J): noise shows there.
        above: The next rung above its run, shape (C, J).
        neighbours: Candidates to compare with, shape (C, 2); -1 where there is none.
        terms: Number of terms, shape (C,).
        growth: For each order, how far a polynomial misses the rung above for each unit
            that its derivative is off, when the next term of the series is to blame,
            shape (C,).
        nodes: Steps in units of the top rung, shape (J,).
    """

    weights: dict[int, np.ndarray]
    has_order: dict[int, np.ndarray]
    predict: np.ndarray
    used: np.ndarray
    below: np.ndarray
    above: np.ndarray
    neighbours: np.ndarray
    terms: np.ndarray
    growth: dict[int, np.ndarray]
    nodes: np.ndarray


def central_nodes(count: int, octaves: int) -> np.ndarray:
    """Give `count` steps in (0, 1], falling: powers of two, then fractions from the top."""
    octaves = min(octaves, count)
    nodes = [2.0**-k for k in range(octaves)]
    extra = [f * 2.0**-k for f in _FRACTIONS for k in range(octaves)]
    return np.array(sorted(nodes + extra[: count - octaves], reverse=True))


def one_sided_nodes(nodes: np.ndarray) -> np.ndarray:
    """Give twice as many steps on one side, over the same octaves as `nodes`."""
    between = 0.75 * nodes
    taken = set(nodes)
    extra = [b if b not in taken else b * (0.875 / 0.75) for b in between]
    return np.array(sorted([*nodes, *extra], reverse=True))


def _interpolation_rows(nodes: np.ndarray, powers: np.ndarray, rows: int) -> np.ndarray:
    """Coefficients of the interpolating polynomial, each accurate to a few roundings.

    With powers p0 + stride·i, dividing by node^p0 leaves a polynomial in q = node^stride,
    whose Lagrange basis expands in elementary symmetric functions of positive numbers: no
    cancellation.
    """
    stride = int(powers[1] - powers[0]) if len(powers) > 1 else 1
    q = nodes**stride
    result = np.zeros((rows, len(nodes)))
    for j in range(len(nodes)):
        others = np.delete(q, j)
        coefficients = np.zeros(len(nodes))
        coefficients[0] = 1.0
        for other in others:
            shifted = np.concatenate([[0.0], coefficients[:-1]])
            coefficients = other * coefficients - shifted
        result[:, j] = coefficients[:rows] / np.prod(others - q[j]) / nodes[j] ** powers[0]
    return result


@functools.lru_cache(maxsize=4096)
def _fit_rows(steps: tuple[float, ...], exponents: tuple[int, ...]) -> np.ndarray:
    """Coefficients of the least-squares polynomial, shape (terms, nodes)."""
    nodes, powers = np.array(steps), np.array(exponents)
    terms = len(powers)
    if len(nodes) == terms:
        return _interpolation_rows(nodes, powers, terms)
    basis = nodes[:, None] ** powers
    q, r = np.linalg.qr(basis)
    rows = np.linalg.solve(r, q.T)
    for _ in range(2):  # restore rows @ basis = 1, which rounding in the solve loses
        rows = rows + (np.eye(terms) - rows @ basis) @ rows
    return rows


def _candidates(count: int, terms: tuple[int, ...], extras: tuple[int, ...]) -> list:
    return [
        (start, size, t)
        for t in terms
        for size in (t + extra for extra in extras)
        for start in range(count - size + 1)
    ]


@functools.lru_cache(maxsize=32)
def table(
    nodes: tuple[float, ...],
    kind: str,
    terms: tuple[int, ...],
    extras: tuple[int, ...],
    orders: tuple[int, ...],
) -> Table:
    """Build the weights of every candidate; `kind` is "odd", "even", "one-sided" or "mixed"."""
    kinds = {"odd": (1, 2), "even": (2, 2), "one-sided": (1, 1), "mixed": (2, 1)}
    first, stride = kinds[kind]
    u = np.asarray(nodes)
    count = len(u)
    candidates = _candidates(count, terms, extras)
    index = {c: i for i, c in enumerate(candidates)}
    shape = (len(candidates), count)
    mine = [o for o in orders if o >= first and (o - first) % stride == 0]
    weights = {o: np.zeros(shape) for o in mine}
    has_order = {o: np.zeros(shape[0], bool) for o in mine}
    predict = np.zeros((*shape, count))
    used, below, above = (np.zeros(shape, bool) for _ in range(3))
    neighbours = np.full((shape[0], 2), -1)
    growth = {o: np.ones(shape[0]) for o in mine}
    for c, (start, size, t) in enumerate(candidates):
        run = slice(start, start + size)
        powers = first + stride * np.arange(t)
        rows = _fit_rows(tuple((u[run] / u[start]).tolist()), tuple(powers.tolist()))
        for o in mine:
            if (o - first) // stride < t:
                row = rows[(o - first) // stride]
                weights[o][c, run] = row * math.factorial(o) / u[start] ** o
                has_order[o][c] = True
        used[c, run] = True
        below[c, start + size :] = True
        if start:
            above[c, start - 1] = True
        told = np.flatnonzero(below[c] | above[c])
        predict[c, told, run] = (u[told] / u[start])[:, None] ** powers @ rows
        if start:
            missing = u ** (first + stride * t)
            miss = abs(predict[c, start - 1] @ missing - missing[start - 1])
            for o in mine:
                off = abs(weights[o][c] @ missing)
                growth[o][c] = miss / off if off > 0 else 1.0
        for k, key in enumerate(((start + 1, size, t), (start + 1, size + 1, t + 1))):
            neighbours[c, k] = index.get(key, -1)
    return Table(
        weights,
        has_order,
        predict,
        used,
        below,
        above,
        neighbours,
        np.array([t for _, _, t in candidates]),
        growth,
        u,
    )


class Stack(NamedTuple):
    """Tables of S parts of a function with the same C candidates, ready for use.

    All arrays are NumPy's, in the dtype of the samples; a compiler sees constants.

    Attributes:
        orders: The orders asked for, shape (O,).
        nodes: Steps in units of the top rung, shape (J,).
        scale: Nodes to the power of minus each order, shape (O, J).
        weights: Matrix of shape (S J, O C) to all estimates of all orders, and O.
        following: The same for the next order each.
        beyond: The same for what a candidate of this order misses at the rung above its run.
        predict: For each part, matrix of shape (J, C J) to `Table.predict`.
        known: Whether a candidate can tell an order, shape (O, C).
        norm: Root of the sum of squares of its weights, shape (O, C).
        growth: As in `Table`, shape (O, C).
        gain: Noise of a prediction at the rung above, in noise levels, shape (O, C).
        used, below: As in `Table`, shape (C, J).
        seen: Whether a candidate has enough rungs below its run, shape (C,).
        few: Noise level over the largest residual, shape (C,).
        lowest: Lowest step of each candidate, shape (C,).
        start: Highest rung of each candidate, shape (C,).
        near: `Table.neighbours`, shape (2, C).
        near_known: Whether a neighbour is there and can tell the order, shape (2, O, C).
        groups: Candidates whose run ends just below each rung, padded, shape (J, G).
        in_group: Which of them are not padding, shape (J, G).
    """

    orders: np.ndarray
    nodes: np.ndarray
    scale: np.ndarray
    weights: tuple[np.ndarray, int]
    following: tuple[np.ndarray, int]
    beyond: tuple[np.ndarray, int]
    predict: list[np.ndarray]
    known: np.ndarray
    norm: np.ndarray
    growth: np.ndarray
    gain: np.ndarray
    used: np.ndarray
    below: np.ndarray
    seen: np.ndarray
    few: np.ndarray
    lowest: np.ndarray
    start: np.ndarray
    near: np.ndarray
    near_known: np.ndarray
    groups: np.ndarray
    in_group: np.ndarray


def stacked(tables: list[Table], orders: tuple[int, ...], dtype: Any) -> Stack:
    """Put the tables of all parts together, for the orders that they can tell."""
    first = tables[0]
    below_count = first.below.sum(axis=1)
    start = np.argmax(first.used, axis=1)
    of_order = [next(t for t in tables if o in t.weights) for o in orders]
    near = np.maximum(first.neighbours.T, 0)
    there = first.neighbours.T >= 0
    known = np.array([t.has_order[o] for t, o in zip(of_order, orders, strict=True)])
    beyond = {o: _beyond(t) for t, o in zip(of_order, orders, strict=True)}
    rows = [t.predict[np.arange(len(start)), _above(t)] for t in of_order]
    groups, in_group = _by_rung(first)

    def matrix(weights: Any) -> tuple[np.ndarray, int]:
        blocks = [
            np.concatenate([weights(t, o).T for o in orders], axis=1).astype(dtype)
            for t in tables
        ]
        return np.ascontiguousarray(np.concatenate(blocks)), len(orders)

    def of(table: Table, rows: dict[int, np.ndarray], order: int) -> np.ndarray:
        return rows.get(order, np.zeros(table.used.shape))

    return Stack(
        np.array(orders),
        first.nodes.astype(dtype),
        (first.nodes[None] ** -np.array(orders, float)[:, None]).astype(dtype),
        matrix(lambda t, o: of(t, t.weights, o)),
        matrix(lambda t, o: of(t, t.weights, o + 1)),
        matrix(lambda t, o: beyond[o] if o in t.weights else np.zeros(t.used.shape)),
        [
            np.ascontiguousarray(t.predict.reshape(-1, len(t.nodes)).T.astype(dtype))
            for t in tables
        ],
        known,
        np.array(
            [
                np.sqrt((t.weights[o] ** 2).sum(axis=1))
                for t, o in zip(of_order, orders, strict=True)
            ]
        ).astype(dtype),
        np.array([t.growth[o] for t, o in zip(of_order, orders, strict=True)]).astype(dtype),
        np.array([1 + np.sqrt((r**2).sum(axis=1)) for r in rows]).astype(dtype),
        first.used,
        first.below,
        below_count >= MIN_BELOW,
        (_LEVEL * (1 + _FEW / np.maximum(below_count, 1))).astype(dtype),
        np.where(first.used, first.nodes, 1).min(axis=1).astype(dtype),
        start,
        near,
        there[:, None] & known[:, near].transpose(1, 0, 2),
        groups,
        in_group,
    )


def _above(table: Table) -> np.ndarray:
    """Index of the rung above each candidate's run; 0 where there is none."""
    return np.where(table.above.any(axis=1), np.argmax(table.above, axis=1), 0)


def _beyond(table: Table) -> np.ndarray:
    """Weights of what each candidate misses at the rung above its run, shape (C, J)."""
    index = np.arange(len(table.terms))
    rows = table.predict[index, _above(table)].copy()
    rows[index, _above(table)] -= 1
    return rows


def _by_rung(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the candidates whose run ends just below each rung, padded, and a mask."""
    usable = table.above & (table.below.sum(axis=1) >= MIN_BELOW)[:, None]
    lists = [np.flatnonzero(column) for column in usable.T]
    width = max(1, *(len(found) for found in lists))
    groups = np.zeros((len(lists), width), int)
    known = np.zeros((len(lists), width), bool)
    for j, found in enumerate(lists):
        groups[j, : len(found)], known[j, : len(found)] = found, True
    return groups, known
