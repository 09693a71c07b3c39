"""Finite-difference stencils: offsets, exact weights and the step that suits a number."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import AnyArray, Array
from gradlab.derivatives._leaves import Layout, eps_of, is_complex

__all__ = [
    "Stencil",
    "leaf_scale",
    "natural_steps",
    "power_of_two",
    "relative_length",
    "relative_step",
    "round_to",
    "stencil",
    "weights",
]


def weights(offsets: Sequence[float | int] | np.ndarray, order: int = 1) -> np.ndarray:
    r"""Weights of the finite-difference formula on given offsets.

    The k weights $w_j$ with $f^{(m)}(x) \approx h^{-m} \sum_j w_j f(x + o_j h)$, exact for
    polynomials of degree k - 1, by Fornberg's recursion in rational arithmetic: the result
    is rounded once, whatever the offsets.

    Args:
        offsets: The $o_j$ in units of the step, distinct and finite, shape (k,).
        order: Order m of the derivative, less than k. Order 0 interpolates at x.

    Returns:
        The weights in float64, shape (k,).

    Raises:
        ValueError: If the offsets repeat or are not finite, or k is not above `order`.

    References:
        Fornberg, B. (1988). Generation of finite difference formulas on arbitrarily spaced
        grids. Mathematics of Computation 51:699.

    Examples:
        >>> print(weights([-1, 0, 1], 2))
        [ 1. -2.  1.]
    """
    points = [float(o) for o in np.ravel(np.asarray(offsets, dtype=float))]
    if not all(math.isfinite(o) for o in points) or len(set(points)) < len(points):
        raise ValueError(f"`offsets` must be finite and distinct, got {offsets!r}.")
    if not isinstance(order, int | np.integer) or isinstance(order, bool) or order < 0:
        raise ValueError(f"`order` must be an integer, 0 or above, got {order!r}.")
    if len(points) <= order:
        raise ValueError(
            f"`offsets` must hold more than `order` = {order} points, got {len(points)}."
        )
    return np.array([float(w) for w in _exact_weights(tuple(points), int(order))])


def _exact_weights(points: tuple[float, ...], order: int) -> list[Fraction]:
    """Fornberg's recursion for derivatives at 0, in fractions (floats are fractions)."""
    o = [Fraction(p) for p in points]
    table = [[Fraction(0)] * (order + 1) for _ in o]  # table[j][m]
    table[0][0] = Fraction(1)
    previous = Fraction(1)
    for n in range(1, len(o)):
        product = Fraction(1)
        top = min(n, order)
        last = list(table[n - 1])
        for j in range(n):
            gap = o[n] - o[j]
            product *= gap
            for m in range(top, -1, -1):
                lower = m * table[j][m - 1] if m else Fraction(0)
                table[j][m] = (o[n] * table[j][m] - lower) / gap
        for m in range(top, -1, -1):
            lower = m * last[m - 1] if m else Fraction(0)
            table[n][m] = previous / product * (lower - o[n - 1] * last[m])
        previous = product
    return [row[order] for row in table]


class Stencil(NamedTuple):
    """Offsets with non-zero weights; the centre 0, where it is used, comes first."""

    offsets: tuple[int, ...]
    weights: tuple[float, ...]
    order: int
    accuracy: int

    @property
    def has_centre(self) -> bool:
        """Whether f(x) itself takes part."""
        return 0 in self.offsets

    @property
    def moved(self) -> tuple[int, ...]:
        """The offsets other than 0."""
        return tuple(o for o in self.offsets if o)


@functools.cache
def stencil(scheme: str, order: int, accuracy: int) -> Stencil:
    """Return the shortest stencil of a scheme whose error is O(h^accuracy)."""
    if scheme == "central":
        reach = (order + 1) // 2 + accuracy // 2 - 1
        offsets = list(range(-reach, reach + 1))
    else:
        sign = 1 if scheme == "forward" else -1
        offsets = [sign * k for k in range(order + accuracy)]
    exact = _exact_weights(tuple(float(o) for o in offsets), order)
    used = sorted(((o, float(w)) for o, w in zip(offsets, exact, strict=True) if w), key=_rank)
    return Stencil(tuple(o for o, _ in used), tuple(w for _, w in used), order, accuracy)


def _rank(pair: tuple[int, float]) -> tuple[int, int]:
    """Order offsets by distance: 0, -1, 1, -2, 2 and so on."""
    return abs(pair[0]), pair[0]


def relative_step(eps: float, order: int, accuracy: int) -> float:
    """Return the step, in units of the scale of x, that balances the two errors.

    Truncation grows as h^accuracy, rounding as eps / h^order; for a function whose
    derivatives are all of one size in these units the sum is least, up to a constant near
    1, where they are equal.
    """
    return eps ** (1.0 / (order + accuracy))


def power_of_two(x: Array) -> Array:
    """Round positive x to a power of two: adding one to a float costs no digit of either."""
    return jax.lax.reduce_precision(x, _EXPONENT_BITS[x.dtype.name], 0)


_EXPONENT_BITS = {"float32": 8, "float64": 11}
# In units of the smallest normal number: room for the weights, which reach down to 1/1000 in
# the formulas in use, before a product is flushed to zero.
_SMALLEST_STEP = 1024.0


def natural_steps(
    x: AnyArray,
    layout: Layout,
    out_eps: float,
    order: int,
    accuracy: int,
    elementwise: bool = False,
) -> Array:
    """Steps that follow the size of each entry of the flat x, shape (n,)."""

    def leaf_steps(dtype: Any, piece: AnyArray) -> Array:
        eps = max(eps_of(dtype), out_eps)
        power = None if elementwise else accuracy / (order + accuracy)
        scale = leaf_scale(piece, eps, power, order)
        h = power_of_two(relative_step(eps, order, accuracy) * scale)
        return jnp.maximum(h, smallest_step(h.dtype))

    return layout.map_leaves(leaf_steps, x)


def smallest_step(dtype: Any) -> float:
    """Return the step below which products with weights would be flushed to zero."""
    return _SMALLEST_STEP * float(jnp.finfo(dtype).smallest_normal)


def leaf_scale(piece: AnyArray, eps: float, power: float | None, order: int = 1) -> Array:
    r"""Return the positive scale of each entry of one leaf.

    An entry at a fraction r of the largest, M, of its leaf may have a scale of its own, r M,
    or share that of its neighbours and pass through zero. A step for the scale $r^q M$ costs
    $-q \log r$ digits to rounding per order m of the derivative in the second case, and
    $-(1 - q) \log r$ digits to truncation per order p of the accuracy in the first:
    $q = p / (m + p)$ makes the worst of both the least. Fractions below eps^(1/2m) count as
    that, which keeps half of the derivative's digits in the second case; an entry that is
    exactly 0 has the scale M, and 1 in a leaf of zeros.

    Entries of an `elementwise` function (`power` None) are points of their own: their scale
    is their size, except for a zero up to the rounding of its neighbours.
    """
    size = jax.lax.stop_gradient(jnp.abs(piece))
    if not size.size:
        return size
    usable = jnp.where(jnp.isfinite(size), size, 0.0)
    largest = jnp.max(usable)
    largest = jnp.where(largest > 0, largest, 1.0)
    ratio = usable / largest
    if power is None:
        return jnp.where(ratio > eps, usable, largest)
    shrunk = jnp.maximum(ratio, eps ** (0.5 / order)) ** power
    return largest * jnp.where(usable > 0, shrunk, 1.0)


def relative_length(layout: Layout, x: AnyArray, v: AnyArray, accuracy: int) -> Array:
    """Return the length of the flat v in units of the sizes of the flat x.

    It is the mean of |v_i| / (scale of x_i) over the entries that move: entries of very
    different scales all stay near theirs when v is divided by it, and a few near zero do
    not shrink the step of the others.
    """
    eps = max(eps_of(dtype) for dtype in layout.dtypes)
    power = accuracy / (1 + accuracy)
    scale = layout.map_leaves(lambda _, piece: leaf_scale(piece, eps, power), x)
    ratios = jnp.abs(v) / scale
    return jnp.sum(ratios) / jnp.maximum(jnp.sum(ratios > 0), 1).astype(ratios.dtype)


def round_to(x: AnyArray, dtype: Any) -> Array:
    """Round to what `dtype` holds, kept in the wider dtype of x.

    `reduce_precision` rather than a pair of casts, which XLA may remove.
    """
    info = jnp.finfo(dtype)
    if is_complex(x.dtype) or info.bits >= jnp.finfo(x.dtype).bits:
        return jnp.asarray(x)
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)
