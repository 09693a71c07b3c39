"""Finding where a matrix is not zero, from products with it alone.

A product with a vector that is nonzero on one bucket of columns shows, row by row, what the
bucket holds. Where that is one entry, a second product whose weights encode the column's
number says which, and a third confirms it. Buckets are drawn anew each round and entries
known are subtracted, so that few products find all rows at once, however many; rows too long
for that are computed whole, one product each.

References:
    Griewank, A. and Mitev, C. (2002). Detecting Jacobian sparsity patterns by Bayesian
    probing. Mathematical Programming 93:1.
    Eppstein, D. and Goodrich, M. T. (2011). Straggler identification in round-trip data
    streams via Newton's identities and invertible Bloom filters (decoding by checksums).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

__all__ = ["Products", "find_pattern"]

Products = Callable[[np.ndarray], np.ndarray]

# Up to here every column has a product of its own; up to there where little is zero.
_SMALL, _LARGEST_WHOLE = 64, 4096
_FIRST_BUCKETS = 8
# A residual below this many roundings of what was subtracted, or of its row, is rounding.
_OWN_ROUNDINGS, _ROW_ROUNDINGS = 256.0, 8.0
# Rows that are still unexplained and no more than this, or than a round has products, are
# computed whole: what keeps them so may be rounding.
_FEW_ROWS = 32
# Products of each kind from which the units of the columns are read; and the share of the
# digits by which one may be larger or smaller than the median before that counts as units:
# entries that much smaller are still decoded, and the sum of 10⁵ entries is no larger.
_FOR_UNITS, _ALIKE = 3, 0.55


def find_pattern(
    products: Products,
    transposed: Products | None,
    shape: tuple[int, int],
    eps: float,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Find the nonzero entries of a matrix.

    Args:
        products: Function of vectors, shape (k, n), to their images, shape (k, m).
        transposed: The same of the transpose, from (k, m) to (k, n); None where it cannot be
            had. Entries of columns far smaller than others are then lost in their rounding.
        shape: Rows m and columns n.
        eps: Rounding of the products.
        random: Where the buckets come from.

    Returns:
        Rows and columns of the entries, sorted by rows, and the number of products made.

    Raises:
        ValueError: If the matrix is large and too little of it is zero.
    """
    m, n = shape
    if n <= _SMALL:
        return *_all_entries(products, shape, eps), n
    search = _Search(shape, eps, random)
    buckets, made, stalled = _FIRST_BUCKETS, 0, 0
    units = np.ones(n)
    if transposed is not None:
        units, made = _units(products, transposed, shape, eps, random), 2 * _FOR_UNITS
    active = np.arange(m)
    while True:
        if 2 * buckets * search.num_weights > n:
            # Nothing sparse enough to be told apart by fewer products than columns.
            if n <= _LARGEST_WHOLE:
                return *_all_entries(products, shape, eps), made + n
            raise ValueError(
                f"No sparse pattern was found: after {made} products {len(active)} of {m} rows "
                f"are still unexplained, with {len(search.keys)} entries found. Pass "
                "`pattern` if you know it, or use products without a matrix: `hvp`."
            )
        new, decoded, active = search.round(lambda v: products(v / units), buckets)
        made += buckets * search.num_weights
        if not len(active):
            break
        # Entries that keep coming back are rounding of large ones: products will tell.
        stalled = stalled + 1 if decoded and not new else 0
        few = max(_FEW_ROWS, buckets * search.num_weights)
        if transposed is not None and len(active) <= few:
            search.add_rows(active, transposed(_ones_at(active, m)) / units)
            made += len(active)
            break
        if stalled == 2:
            break
        if new < 0.25 * len(active):
            buckets *= 2
    return *search.entries(), made


class _Search:
    """Entries found so far, as sorted keys i·n + j, and their values."""

    def __init__(self, shape: tuple[int, int], eps: float, random: np.random.Generator):
        """Start with nothing known."""
        self.shape, self.eps, self.random = shape, eps, random
        # Digits of a column's number in a base that rounding leaves readable.
        self.base = 2 ** max(4, int(-math.log2(eps) / 3))
        self.digits = max(1, math.ceil(math.log(shape[1]) / math.log(self.base)))
        self.num_weights = self.digits + 2
        self.keys: np.ndarray = np.zeros(0, np.int64)
        self.values: np.ndarray = np.zeros(0)

    def round(self, products: Products, buckets: int) -> tuple[int, int, np.ndarray]:
        """Probe with fresh buckets: entries new and decoded, and the rows unexplained."""
        m, n = self.shape
        bucket = self.random.permutation(n) % buckets
        weights = self._weights()
        seen = np.empty((len(weights), buckets, m))
        for w, weight in enumerate(weights):
            seeds = np.zeros((buckets, n))
            seeds[bucket, np.arange(n)] = weight
            seen[w] = products(seeds)
        size, total = self._subtract(seen, bucket, weights)
        rough = _OWN_ROUNDINGS * self.eps * size
        rough += _ROW_ROUNDINGS * self.eps * np.max(total, axis=0)[None]
        unexplained = np.abs(seen[0]) > rough
        b, i = np.nonzero(unexplained)
        found, j, value = self._decode(seen[:, b, i], weights, (bucket, b), rough[b, i])
        new = self._add(i[found] * n + j[found], value[found])
        explained = np.zeros((buckets, m), bool)
        explained[b[found], i[found]] = True
        active = np.nonzero(np.any(unexplained & ~explained, axis=0))[0]
        return new, int(np.sum(found)), active

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of entries that are more than what is left of wrong ones."""
        n = self.shape[1]
        largest = np.zeros(self.shape[0])
        np.maximum.at(largest, self.keys // n, np.abs(self.values))
        rough = _ROW_ROUNDINGS * self.eps * largest[self.keys // n]
        keys = self.keys[np.abs(self.values) > rough]
        return keys // n, keys % n

    def add_rows(self, rows: np.ndarray, whole: np.ndarray) -> None:
        """Add the entries of rows that were computed whole."""
        r, j = np.nonzero(_significant(whole, self.eps))
        n = self.shape[1]
        known = np.isin(self.keys // n, rows)
        self.keys, self.values = self.keys[~known], self.values[~known]
        self._add(rows[r] * n + j, whole[r, j])

    def _weights(self) -> np.ndarray:
        """Draw weights: random ones, the same with each digit encoded, and others to check."""
        n, numbers = self.shape[1], np.arange(self.shape[1])
        plain, check = self.random.uniform(1, 2, (2, n)) * self.random.choice([-1, 1], (2, n))
        rows = [plain]
        for k in range(self.digits):
            rows.append(plain * (1 + numbers // self.base**k % self.base / self.base))
        return np.stack([*rows, check])

    def _subtract(
        self, seen: np.ndarray, bucket: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Subtract what is known, in place; return the sizes that rounding follows."""
        m, n = self.shape
        buckets = seen.shape[1]
        i, j = self.keys // n, self.keys % n
        where = bucket[j] * m + i
        total = np.abs(seen[0])
        size = total.copy()
        for w, weight in enumerate(weights):
            part = self.values * weight[j]
            seen[w] -= np.bincount(where, part, buckets * m).reshape(buckets, m)
            if w == 0:
                size += np.bincount(where, np.abs(part), buckets * m).reshape(buckets, m)
        return size, total

    def _decode(
        self,
        seen: np.ndarray,
        weights: np.ndarray,
        buckets: tuple[np.ndarray, np.ndarray],
        rough: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tell lone entries, with their column and value; `buckets` are theirs, and seen."""
        digits = (seen[1:-1] / seen[0] - 1) * self.base
        whole = np.rint(np.nan_to_num(digits, nan=-1.0, posinf=-1.0, neginf=-1.0))
        good = np.all((np.abs(digits - whole) < 0.2) & (whole >= 0), axis=0)
        good &= np.all(whole < self.base, axis=0)
        scale = self.base ** np.arange(self.digits, dtype=float)
        number = np.where(good, scale @ np.where(good, whole, 0), 0)
        good &= number < self.shape[1]
        j = np.where(good, number, 0).astype(np.int64)
        good &= buckets[0][j] == buckets[1]
        value = seen[0] / weights[0, j]
        expected = value * weights[-1, j]
        rough = 4 * rough + _OWN_ROUNDINGS * self.eps * np.abs(expected)
        return good & (np.abs(seen[-1] - expected) <= rough), j, value

    def _add(self, keys: np.ndarray, values: np.ndarray) -> int:
        """Merge entries into those known; values at a known place add up."""
        before = len(self.keys)
        self.keys, inverse = np.unique(np.append(self.keys, keys), return_inverse=True)
        self.values = np.bincount(inverse, np.append(self.values, values))
        return len(self.keys) - before


def _units(
    products: Products,
    transposed: Products,
    shape: tuple[int, int],
    eps: float,
    random: np.random.Generator,
) -> np.ndarray:
    """Choose units of the columns, powers of two, where their sizes differ beyond counts.

    Entries of a parameter in large units would be lost in the rounding of others in the same
    row. Sizes are read from sums with random signs, of which few cancel every time; every
    row counts alike.
    """
    signs = random.choice([-1.0, 1.0], (_FOR_UNITS, sum(shape)))
    rows = np.max(np.abs(products(signs[:, shape[0] :])), axis=0)
    sums = transposed(signs[:, : shape[0]] / _positive(rows))
    octaves = np.log2(_positive(np.max(np.abs(sums), axis=0)))
    octaves -= np.median(octaves)
    alike = -_ALIKE * math.log2(eps)
    return np.exp2(np.rint(octaves - np.clip(octaves, -alike, alike)))


def _ones_at(places: np.ndarray, length: int) -> np.ndarray:
    """Return unit vectors as rows."""
    units = np.zeros((len(places), length))
    units[np.arange(len(places)), places] = 1
    return units


def _all_entries(
    products: Products, shape: tuple[int, int], eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compute every column; what is small in its row may be large in its column's units."""
    matrix = np.abs(products(np.eye(shape[1])).T)
    in_row = matrix / _positive(np.max(matrix, axis=1, keepdims=True, initial=0.0))
    i, j = np.nonzero(_significant(in_row.T, eps).T)
    return i, j


def _positive(sizes: np.ndarray) -> np.ndarray:
    """Return sizes to divide by: 1 in place of 0."""
    return np.where(sizes > 0, sizes, 1.0)


def _significant(rows: np.ndarray, eps: float) -> np.ndarray:
    """Whether entries are more than rounding beside the largest of their row."""
    largest = np.max(np.abs(rows), axis=1, keepdims=True, initial=0.0)
    return np.abs(rows) > _ROW_ROUNDINGS * eps * largest
