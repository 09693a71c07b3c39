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
from typing import NamedTuple

import numpy as np

__all__ = ["Table", "central_nodes", "one_sided_nodes", "table"]

# Fractions inserted between the powers of two, in the order in which a larger budget buys
# them. Few mantissa bits, so that x + h stays exact.
_FRACTIONS = (0.75, 0.875, 0.625)


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


def _fit_rows(nodes: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Coefficients of the least-squares polynomial, shape (terms, nodes)."""
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
    """Build the weights of every candidate; `kind` is "odd", "even" or "one-sided"."""
    first, stride = {"odd": (1, 2), "even": (2, 2), "one-sided": (1, 1)}[kind]
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
        rows = _fit_rows(u[run] / u[start], powers)
        for o in mine:
            if (o - first) // stride < t:
                row = rows[(o - first) // stride]
                weights[o][c, run] = row * math.factorial(o) / u[start] ** o
                has_order[o][c] = True
        used[c, run] = True
        below[c, start + size :] = True
        if start:
            above[c, start - 1] = True
        for j in np.flatnonzero(below[c] | above[c]):
            predict[c, j, run] = (u[j] / u[start]) ** powers @ rows
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
