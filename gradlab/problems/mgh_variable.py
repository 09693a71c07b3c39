r"""Test functions of Moré, Garbow and Hillstrom in any number of variables, nos. 20 to 31.

The linear functions and Chebyquad (32 to 35) are in `mgh_linear`. Terms are arranged so that
nothing cancels near the minimum, such as $1 - \cos t = 2 \sin^2 (t / 2)$. Minima without
closed form were computed with 50 digits, and agree with the paper's in the digits it prints.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from gradlab.problems._least_squares import MGH, sum_of_squares
from gradlab.problems._types import Point, Residuals
from gradlab.problems.analytic import _powell_singular
from gradlab.problems.registry import Problem, check_size, fixed_start, register

__all__ = [
    "brown_almost_linear",
    "broyden_banded",
    "broyden_tridiagonal",
    "discrete_boundary_value",
    "discrete_integral",
    "extended_powell_singular",
    "extended_rosenbrock",
    "penalty_1",
    "penalty_2",
    "trigonometric",
    "variably_dimensioned",
    "watson",
]

_TAGS = ("mgh", "least_squares", "variable")

_WATSON_MINIMA = {
    6: 0.0022876700535524362,
    9: 1.3997601380990199e-6,
    12: 4.7223811058917574e-10,
}


def _watson(x: Point) -> Residuals:
    times = np.arange(1, 30) / 29
    powers = np.vander(times, x.size, increasing=True)
    slopes = np.arange(1, x.size) * powers[:, :-1]
    value = jnp.asarray(powers, x.dtype) @ x
    slope = jnp.asarray(slopes, x.dtype) @ x[1:]
    return jnp.concatenate([slope - value**2 - 1, x[:1], x[1:2] - x[:1] ** 2 - 1])


@register("watson", tags=_TAGS)
def watson(*, n: int = 6, start_scale: float = 1.0) -> Problem:
    r"""Build no. 20: collocation of $y' = y^2 + 1$ by a polynomial, 2 to 31 variables.

    Badly conditioned for large n: in float64 the minimum 4.72e-10 of n = 12 is barely
    resolved, and beyond it rounding decides.
    """
    check_size("n", n, at_least=2)
    if n > 31:
        raise ValueError(f"`n` must be at most 31, got {n}.")
    return Problem(
        name="watson",
        loss=sum_of_squares(_watson),
        residual=_watson,
        init=fixed_start(np.zeros(n), start_scale),
        minimum=_WATSON_MINIMA.get(n),
        description="Polynomial solution of y' = y**2 + 1; badly conditioned.",
        source=f"Kowalik & Osborne (1968); {MGH}, no. 20.",
    )


def _extended_rosenbrock(x: Point) -> Residuals:
    odd, even = x[0::2], x[1::2]
    return jnp.stack([10 * (even - odd**2), 1 - odd], axis=1).ravel()


@register("extended_rosenbrock", tags=_TAGS)
def extended_rosenbrock(*, n: int = 10, start_scale: float = 1.0) -> Problem:
    """Build no. 21: n/2 separate Rosenbrock functions. `rosenbrock` is the chained one."""
    check_size("n", n, at_least=2, multiple_of=2)
    return Problem(
        name="extended_rosenbrock",
        loss=sum_of_squares(_extended_rosenbrock),
        residual=_extended_rosenbrock,
        init=fixed_start(np.tile([-1.2, 1.0], n // 2), start_scale),
        minimum=0.0,
        minimizer=np.ones(n),
        description="Copies of Rosenbrock's function in pairs of variables.",
        source=f"Spedicato (1975); {MGH}, no. 21.",
    )


@register("extended_powell_singular", tags=_TAGS)
def extended_powell_singular(*, n: int = 12, start_scale: float = 1.0) -> Problem:
    """Build no. 22: n/4 separate copies of Powell's singular function."""
    check_size("n", n, at_least=4, multiple_of=4)
    return Problem(
        name="extended_powell_singular",
        loss=sum_of_squares(_powell_singular),
        residual=_powell_singular,
        init=fixed_start(np.tile([3.0, -1.0, 0.0, 1.0], n // 4), start_scale),
        minimum=0.0,
        minimizer=np.zeros(n),
        description="Copies of Powell's singular function; Hessian of rank n/2.",
        source=f"Spedicato (1975); {MGH}, no. 22.",
    )


_ROOT_A = math.sqrt(1e-5)  # the square root of the paper's penalty weight a
_PENALTY_2_MINIMA = {4: 9.3762930073554415e-6, 10: 0.00029366053745674594}


def _penalty_1(x: Point) -> Residuals:
    return jnp.concatenate([_ROOT_A * (x - 1), jnp.sum(x**2)[None] - 0.25])


@register("penalty_1", tags=_TAGS)
def penalty_1(*, n: int = 10, start_scale: float = 1.0) -> Problem:
    r"""Build no. 23: almost a sphere of minima, the choice left to a term 1e-5 as large.

    At a stationary point all variables equal one root of $2 n x^3 + (a - 1/2) x - a$ with
    a = 1e-5; the minimum is at the greatest.
    """
    check_size("n", n, at_least=1)
    a = _ROOT_A**2
    root = max(np.roots([2 * n, 0, a - 0.5, -a]).real)
    return Problem(
        name="penalty_1",
        loss=sum_of_squares(_penalty_1),
        residual=_penalty_1,
        init=fixed_start(np.arange(1.0, n + 1), start_scale),
        minimum=float(n * a * (root - 1) ** 2 + (n * root**2 - 0.25) ** 2),
        minimizer=np.full(n, root),
        description="A sphere of near minima and a weak pull on it.",
        source=f"Gill, Murray & Pitfield (1972); {MGH}, no. 23.",
    )


def _penalty_2(x: Point) -> Residuals:
    n = x.size
    index = np.arange(1, n + 1)
    targets = jnp.asarray(np.exp(index[1:] / 10) + np.exp(index[:-1] / 10), x.dtype)
    growth = jnp.exp(x / 10)
    rows = [
        x[:1] - 0.2,
        _ROOT_A * (growth[1:] + growth[:-1] - targets),
        _ROOT_A * (growth[1:] - float(np.exp(-0.1))),
        jnp.sum(jnp.asarray(n - index + 1, x.dtype) * x**2)[None] - 1,
    ]
    return jnp.concatenate(rows)


@register("penalty_2", tags=_TAGS)
def penalty_2(*, n: int = 10, start_scale: float = 1.0) -> Problem:
    """Build no. 24: like no. 23 with exponentials; a very flat valley."""
    check_size("n", n, at_least=2)
    return Problem(
        name="penalty_2",
        loss=sum_of_squares(_penalty_2),
        residual=_penalty_2,
        init=fixed_start(np.full(n, 0.5), start_scale),
        minimum=_PENALTY_2_MINIMA.get(n),
        description="Penalty function with exponentials; a very flat valley.",
        source=f"Gill, Murray & Pitfield (1972); {MGH}, no. 24.",
    )


def _variably_dimensioned(x: Point) -> Residuals:
    shift = x - 1
    moment = jnp.sum(jnp.arange(1, x.size + 1, dtype=x.dtype) * shift)
    return jnp.concatenate([shift, jnp.stack([moment, moment**2])])


@register("variably_dimensioned", tags=_TAGS)
def variably_dimensioned(*, n: int = 10, start_scale: float = 1.0) -> Problem:
    """Build no. 25: a sphere plus the square and fourth power of one linear form."""
    check_size("n", n, at_least=1)
    return Problem(
        name="variably_dimensioned",
        loss=sum_of_squares(_variably_dimensioned),
        residual=_variably_dimensioned,
        init=fixed_start(1 - np.arange(1, n + 1) / n, start_scale),
        minimum=0.0,
        minimizer=np.ones(n),
        description="A sphere and the fourth power of a linear form.",
        source=f"{MGH}, no. 25.",
    )


def _trigonometric(x: Point) -> Residuals:
    fall = 2 * jnp.sin(x / 2) ** 2  # 1 - cos x
    return jnp.sum(fall) + jnp.arange(1, x.size + 1, dtype=x.dtype) * fall - jnp.sin(x)


@register("trigonometric", tags=_TAGS)
def trigonometric(*, n: int = 10, start_scale: float = 1.0) -> Problem:
    """Build no. 26: many minima of value 0, and others above it (2.79506e-5 for n = 10)."""
    check_size("n", n, at_least=1)
    return Problem(
        name="trigonometric",
        loss=sum_of_squares(_trigonometric),
        residual=_trigonometric,
        init=fixed_start(np.full(n, 1 / n), start_scale),
        minimum=0.0,
        minimizer=np.zeros(n),
        local_minima=(2.7950561218794563e-5,) if n == 10 else (),
        description="Coupled sines and cosines; many minima.",
        source=f"Spedicato (1975); {MGH}, no. 26.",
    )


def _brown_almost_linear(x: Point) -> Residuals:
    shift = x - 1
    return jnp.concatenate([(shift + jnp.sum(shift))[:-1], jnp.prod(x)[None] - 1])


@register("brown_almost_linear", tags=_TAGS)
def brown_almost_linear(*, n: int = 10, start_scale: float = 1.0) -> Problem:
    """Build no. 27: all equations linear but one; a second minimum of 1 at (0, ..., 0, n+1)."""
    check_size("n", n, at_least=2)
    return Problem(
        name="brown_almost_linear",
        loss=sum_of_squares(_brown_almost_linear),
        residual=_brown_almost_linear,
        init=fixed_start(np.full(n, 0.5), start_scale),
        minimum=0.0,
        minimizer=np.ones(n),
        local_minima=(1.0,),
        description="Linear equations and a product.",
        source=f"Brown (1969), SIAM J. Numer. Anal. 6:560-569; {MGH}, no. 27.",
    )


def _grid(x: Point) -> tuple[float, Point]:
    """Return the mesh width 1 / (n + 1) and the inner mesh points of [0, 1]."""
    width = 1 / (x.size + 1)
    return width, jnp.asarray(np.arange(1, x.size + 1) * width, x.dtype)


def _discrete_boundary_value(x: Point) -> Residuals:
    width, t = _grid(x)
    left, right = jnp.pad(x, (1, 0))[:-1], jnp.pad(x, (0, 1))[1:]
    return (x - left) + (x - right) + width**2 * (x + t + 1) ** 3 / 2


@register("discrete_boundary_value", tags=_TAGS)
def discrete_boundary_value(*, n: int = 10, start_scale: float = 1.0) -> Problem:
    r"""Build no. 28: central differences of $u'' = (u + t + 1)^3 / 2$, u = 0 at both ends."""
    check_size("n", n, at_least=1)
    t = np.arange(1, n + 1) / (n + 1)
    return Problem(
        name="discrete_boundary_value",
        loss=sum_of_squares(_discrete_boundary_value),
        residual=_discrete_boundary_value,
        init=fixed_start(t * (t - 1), start_scale),
        minimum=0.0,
        description="Boundary value problem by differences; tridiagonal Jacobian.",
        source=f"Moré & Cosnard (1979), ACM TOMS 5:64-85; {MGH}, no. 28.",
    )


def _discrete_integral(x: Point) -> Residuals:
    width, t = _grid(x)
    cube = (x + t + 1) ** 3
    below = jnp.cumsum(t * cube)
    above = jnp.sum((1 - t) * cube) - jnp.cumsum((1 - t) * cube)
    return x + width * ((1 - t) * below + t * above) / 2


@register("discrete_integral", tags=_TAGS)
def discrete_integral(*, n: int = 10, start_scale: float = 1.0) -> Problem:
    """Build no. 29: the integral equation of the same problem as no. 28, dense Jacobian."""
    check_size("n", n, at_least=1)
    t = np.arange(1, n + 1) / (n + 1)
    return Problem(
        name="discrete_integral",
        loss=sum_of_squares(_discrete_integral),
        residual=_discrete_integral,
        init=fixed_start(t * (t - 1), start_scale),
        minimum=0.0,
        description="Integral equation on a mesh; dense Jacobian.",
        source=f"Moré & Cosnard (1979), ACM TOMS 5:64-85; {MGH}, no. 29.",
    )


def _broyden_tridiagonal(x: Point) -> Residuals:
    left, right = jnp.pad(x, (1, 0))[:-1], jnp.pad(x, (0, 1))[1:]
    return (3 - 2 * x) * x - left - 2 * right + 1


@register("broyden_tridiagonal", tags=_TAGS)
def broyden_tridiagonal(*, n: int = 10, start_scale: float = 1.0) -> Problem:
    """Build no. 30: quadratic equations, each in three neighbouring variables."""
    check_size("n", n, at_least=1)
    return Problem(
        name="broyden_tridiagonal",
        loss=sum_of_squares(_broyden_tridiagonal),
        residual=_broyden_tridiagonal,
        init=fixed_start(np.full(n, -1.0), start_scale),
        minimum=0.0,
        description="Quadratic equations with a tridiagonal Jacobian.",
        source=f"Broyden (1965), Math. Comp. 19:577-593; {MGH}, no. 30.",
    )


def _broyden_banded(x: Point) -> Residuals:
    term = x * (1 + x)
    # neighbours j of i: i - 5 to i + 1, without i itself
    padded = jnp.pad(term, (5, 1))
    offsets = [0, 1, 2, 3, 4, 6]
    neighbours = sum(padded[k : k + x.size] for k in offsets)
    return x * (2 + 5 * x**2) + 1 - neighbours


@register("broyden_banded", tags=_TAGS)
def broyden_banded(*, n: int = 10, start_scale: float = 1.0) -> Problem:
    """Build no. 31: cubic equations, each in a band of seven variables."""
    check_size("n", n, at_least=1)
    return Problem(
        name="broyden_banded",
        loss=sum_of_squares(_broyden_banded),
        residual=_broyden_banded,
        init=fixed_start(np.full(n, -1.0), start_scale),
        minimum=0.0,
        description="Cubic equations with a banded Jacobian.",
        source=f"Broyden (1971), Math. Comp. 25:285-294; {MGH}, no. 31.",
    )
