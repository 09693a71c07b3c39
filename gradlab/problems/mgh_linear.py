"""The linear test functions of Moré, Garbow and Hillstrom, and Chebyquad: nos. 32 to 35.

Their number of residuals, m, is free; it is the length of the vector in `args`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from gradlab.problems._least_squares import MGH, sum_of_squares
from gradlab.problems._types import Point, Residuals
from gradlab.problems.registry import Problem, check_size, fixed_start, register

__all__ = ["chebyquad", "linear_full_rank", "linear_rank_1", "linear_rank_1_zeros"]

_TAGS = ("mgh", "least_squares", "variable")


def _linear_full_rank(x: Point, targets: Residuals) -> Residuals:
    m = targets.size
    return jnp.pad(x, (0, m - x.size)) - 2 / m * jnp.sum(x) - targets


@register("linear_full_rank", tags=(*_TAGS, "convex"))
def linear_full_rank(*, n: int = 10, m: int = 20, start_scale: float = 1.0) -> Problem:
    """Build no. 32, whose minimum is m - n at (-1, ..., -1)."""
    check_size("n", n, at_least=1)
    check_size("m", m, at_least=n)
    return Problem(
        name="linear_full_rank",
        loss=sum_of_squares(_linear_full_rank),
        residual=_linear_full_rank,
        args=(np.ones(m),),
        init=fixed_start(np.ones(n), start_scale),
        minimum=float(m - n),
        minimizer=-np.ones(n),
        description="Linear least squares with orthogonal columns.",
        source=f"{MGH}, no. 32.",
    )


def _linear_rank_1(x: Point, weights: Residuals) -> Residuals:
    return weights * jnp.sum(jnp.arange(1, x.size + 1, dtype=x.dtype) * x) - 1


@register("linear_rank_1", tags=(*_TAGS, "convex"))
def linear_rank_1(*, n: int = 10, m: int = 20, start_scale: float = 1.0) -> Problem:
    """Build no. 33, with a hyperplane of minimisers; the one given is the smallest."""
    check_size("n", n, at_least=1)
    check_size("m", m, at_least=n)
    weights = np.arange(1.0, n + 1)
    return Problem(
        name="linear_rank_1",
        loss=sum_of_squares(_linear_rank_1),
        residual=_linear_rank_1,
        args=(np.arange(1.0, m + 1),),
        init=fixed_start(np.ones(n), start_scale),
        minimum=m * (m - 1) / (2 * (2 * m + 1)),
        minimizer=3 / (2 * m + 1) * weights / np.sum(weights**2),
        description="Linear least squares of rank one.",
        source=f"{MGH}, no. 33.",
    )


def _linear_rank_1_zeros(x: Point, weights: Residuals) -> Residuals:
    inner = jnp.arange(2, x.size, dtype=x.dtype) * x[1:-1]
    return weights * jnp.sum(inner) - 1


@register("linear_rank_1_zeros", tags=(*_TAGS, "convex"))
def linear_rank_1_zeros(*, n: int = 10, m: int = 20, start_scale: float = 1.0) -> Problem:
    """Build no. 34: rank one, and neither the first nor the last variable has any effect."""
    check_size("n", n, at_least=3)
    check_size("m", m, at_least=n)
    weights = np.arange(1.0, n + 1)
    weights[[0, -1]] = 0
    return Problem(
        name="linear_rank_1_zeros",
        loss=sum_of_squares(_linear_rank_1_zeros),
        residual=_linear_rank_1_zeros,
        args=(np.append(np.arange(0.0, m - 1), 0.0),),
        init=fixed_start(np.ones(n), start_scale),
        minimum=(m * m + 3 * m - 6) / (2 * (2 * m - 3)),
        minimizer=3 / (2 * m - 3) * weights / np.sum(weights**2),
        description="Linear least squares of rank one, with columns and rows of zeros.",
        source=f"{MGH}, no. 34.",
    )


# zero where a quadrature of equal weights exists (Bernstein 1937); the others are the smallest
# of 150 runs from random starts, polished with 50 digits
_CHEBYQUAD_MINIMA = {
    **dict.fromkeys([1, 2, 3, 4, 5, 6, 7, 9], 0.0),
    8: 0.0035168737256779317,
    10: 0.004772713696375349,
}
_CHEBYQUAD_PUBLISHED_10 = 0.0065039548008823061


def _chebyquad(x: Point, integrals: Residuals) -> Residuals:
    argument = 2 * x - 1
    polynomials = [jnp.ones_like(argument), argument]
    for _ in range(integrals.size - 1):
        polynomials.append(2 * argument * polynomials[-1] - polynomials[-2])
    return jnp.mean(jnp.stack(polynomials[1:]), axis=1) - integrals


@register("chebyquad", tags=_TAGS)
def chebyquad(*, n: int = 8, m: int | None = None, start_scale: float = 1.0) -> Problem:
    """Build no. 35: nodes of equal-weight quadrature, exact for m Chebyshev polynomials.

    m is n unless given. The minimum is 0 for m = n up to 7 and for 9. With n = 10 the paper's
    6.50395e-3, where runs from its start end, is a local minimum: 4.77271e-3 is smaller. Any
    order of the nodes is as good, so there are n! minimisers.
    """
    check_size("n", n, at_least=1)
    m = n if m is None else check_size("m", m, at_least=n)
    index = np.arange(1, m + 1)
    even = index % 2 == 0
    return Problem(
        name="chebyquad",
        loss=sum_of_squares(_chebyquad),
        residual=_chebyquad,
        args=(np.where(even, -1 / np.where(even, index**2 - 1.0, 1.0), 0.0),),
        init=fixed_start(np.arange(1, n + 1) / (n + 1), start_scale),
        minimum=_CHEBYQUAD_MINIMA.get(n) if m == n else None,
        local_minima=(_CHEBYQUAD_PUBLISHED_10,) if n == m == 10 else (),
        description="Nodes of equal-weight quadrature on [0, 1].",
        source=f"Fletcher (1965), Computer Journal 8:33-41; {MGH}, no. 35.",
    )
