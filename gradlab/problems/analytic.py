"""Classical test functions with closed forms and known minimisers.

Each is written so that rounding stays small near the minimum: as sums of squares of
differences, never as expanded polynomials.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import AnyArray, Inexact
from gradlab.problems._least_squares import MGH, sum_of_squares
from gradlab.problems._types import Number, Point, Residuals, Value
from gradlab.problems.registry import Problem, check_size, fixed_start, register

__all__ = [
    "beale",
    "booth",
    "himmelblau",
    "monkey_saddle",
    "powell_singular",
    "quadratic",
    "rastrigin",
    "rosenbrock",
    "square",
    "styblinski_tang",
]


def _square(x: Number) -> Residuals:
    return jnp.reshape(x, (1,))


@register("square", tags=("analytic", "convex", "least_squares"))
def square() -> Problem:
    """Build $x^2$ of one scalar, from x = 3."""
    return Problem(
        name="square",
        loss=sum_of_squares(_square),
        residual=_square,
        init=fixed_start(3.0),
        minimum=0.0,
        minimizer=np.zeros(()),
        description="x squared, the first thing to try.",
        source="Elementary.",
    )


def _rosenbrock(x: Point) -> Residuals:
    return jnp.concatenate([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])


@register("rosenbrock", tags=("analytic", "least_squares", "2d", "mgh"))
def rosenbrock(*, n: int = 2, start_scale: float = 1.0) -> Problem:
    r"""Build Rosenbrock's curved valley, chained for n > 2.

    $\sum_{i<n} 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2$, as `scipy.optimize.rosen`, from
    (-1.2, 1, -1.2, 1, ...). For n of 4 and more there is a second minimum near
    (-1, 1, ..., 1), so that a run may end there with a loss of about 4.
    """
    n = check_size("n", n, at_least=2)
    return Problem(
        name="rosenbrock",
        loss=sum_of_squares(_rosenbrock),
        residual=_rosenbrock,
        init=fixed_start(np.where(np.arange(n) % 2 == 0, -1.2, 1.0), start_scale),
        minimum=0.0,
        minimizer=np.ones(n),
        plot_box=((-2.0, 2.0), (-1.0, 3.0)) if n == 2 else None,
        description="Curved narrow valley; chained when n > 2.",
        source=f"Rosenbrock (1960), Computer Journal 3:175-184; {MGH}, no. 1.",
    )


def _beale(x: Point) -> Residuals:
    y = x[1]
    targets = jnp.asarray([1.5, 2.25, 2.625], x.dtype)
    # 1 - y**i as products with (1 - y): no cancellation near y = 1
    powers = jnp.stack([1 - y, (1 - y) * (1 + y), (1 - y) * (1 + y * (1 + y))])
    return targets - x[0] * powers


@register("beale", tags=("analytic", "least_squares", "2d", "mgh"))
def beale(*, start_scale: float = 1.0) -> Problem:
    r"""Build Beale's function, $\sum_{i=1}^3 (y_i - x_1 (1 - x_2^i))^2$, from (1, 1)."""
    return Problem(
        name="beale",
        loss=sum_of_squares(_beale),
        residual=_beale,
        init=fixed_start([1.0, 1.0], start_scale),
        minimum=0.0,
        minimizer=np.array([3.0, 0.5]),
        plot_box=((-1.0, 4.5), (-2.0, 2.0)),
        description="Steep walls around a curved flat valley.",
        source=f"Beale (1958); {MGH}, no. 5.",
    )


def _himmelblau(x: Point) -> Residuals:
    return jnp.stack([x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7])


@register("himmelblau", tags=("analytic", "least_squares", "2d"))
def himmelblau(*, start_scale: float = 1.0) -> Problem:
    """Build Himmelblau's function: four minima of value 0; (3, 2) is the one given."""
    return Problem(
        name="himmelblau",
        loss=sum_of_squares(_himmelblau),
        residual=_himmelblau,
        init=fixed_start([1.0, 1.0], start_scale),
        minimum=0.0,
        minimizer=np.array([3.0, 2.0]),
        plot_box=((-5.0, 5.0), (-5.0, 5.0)),
        description="Four equal minima, four saddles and a maximum between them.",
        source="Himmelblau (1972), Applied Nonlinear Programming.",
    )


def _booth(x: Point) -> Residuals:
    return jnp.stack([x[0] + 2 * x[1] - 7, 2 * x[0] + x[1] - 5])


@register("booth", tags=("analytic", "convex", "least_squares", "2d"))
def booth(*, start_scale: float = 1.0) -> Problem:
    """Build Booth's function, a quadratic of condition number 9, from the origin."""
    return Problem(
        name="booth",
        loss=sum_of_squares(_booth),
        residual=_booth,
        init=fixed_start([0.0, 0.0], start_scale),
        minimum=0.0,
        minimizer=np.array([1.0, 3.0]),
        plot_box=((-10.0, 10.0), (-10.0, 10.0)),
        description="Convex quadratic in two variables, condition number 9.",
        source="Jamil & Yang (2013), IJMMNO 4(2):150-194, no. 17.",
    )


def _uniform_start(n: int, bound: float):
    """Build an `init` uniform in the cube [-bound, bound]^n; without a key, of key 0."""

    def init(key=None):
        key = jax.random.key(0) if key is None else key
        return jax.random.uniform(key, (n,), minval=-bound, maxval=bound)

    return init


def _rastrigin_loss(x: Point) -> Value:
    # 10 - 10 cos(2 pi x) = 20 sin(pi x)^2: no cancellation near the minimum
    return jnp.sum(x**2 + 20 * jnp.sin(jnp.pi * x) ** 2)


@register("rastrigin", tags=("analytic", "2d", "multimodal", "random_start"))
def rastrigin(*, n: int = 2) -> Problem:
    r"""Build Rastrigin's function, $\sum_i x_i^2 + 10 (1 - \cos 2\pi x_i)$.

    About 11^n minima in the cube of side 10.24, in which the start is drawn uniformly.
    """
    n = check_size("n", n, at_least=1)
    return Problem(
        name="rastrigin",
        loss=_rastrigin_loss,
        init=_uniform_start(n, 5.12),
        minimum=0.0,
        minimizer=np.zeros(n),
        plot_box=((-5.12, 5.12), (-5.12, 5.12)) if n == 2 else None,
        description="A lattice of about 11**n minima on a parabola.",
        source="Rastrigin (1974); Mühlenbein et al. (1991), Parallel Computing 17:619-632.",
    )


# the smallest of the three roots of 2 x^3 - 16 x + 5/2, and the value there
_STYBLINSKI_TANG_ROOT = -2.903534027771177
_STYBLINSKI_TANG_VALUE = -39.166165703771419


def _styblinski_tang_loss(x: Point) -> Value:
    return jnp.sum(x**4 - 16 * x**2 + 5 * x) / 2


@register("styblinski_tang", tags=("analytic", "2d", "multimodal", "random_start"))
def styblinski_tang(*, n: int = 2) -> Problem:
    r"""Build the Styblinski-Tang function, $\frac12 \sum_i x_i^4 - 16 x_i^2 + 5 x_i$.

    2^n minima; the start is drawn uniformly in the cube of side 10.
    """
    n = check_size("n", n, at_least=1)
    return Problem(
        name="styblinski_tang",
        loss=_styblinski_tang_loss,
        init=_uniform_start(n, 5.0),
        minimum=_STYBLINSKI_TANG_VALUE * n,
        minimizer=np.full(n, _STYBLINSKI_TANG_ROOT),
        plot_box=((-5.0, 5.0), (-5.0, 5.0)) if n == 2 else None,
        description="2**n minima of different depth, the least value not zero.",
        source="Styblinski & Tang (1990), Neural Networks 3:467-483.",
    )


def _quadratic(x: Point, factor: Inexact[AnyArray, "n n"], center: Point) -> Residuals:
    return factor @ (x - center)


@register("quadratic", tags=("analytic", "convex", "least_squares", "2d"))
def quadratic(*, n: int = 2, condition: float = 100.0, start_scale: float = 1.0) -> Problem:
    r"""Build a convex quadratic of chosen condition number.

    $\frac12 (x - c)^\top H (x - c)$ with c = (1, ..., 1), from the origin. The eigenvalues of
    H run geometrically from 1 / condition to 1, so a learning rate of 1 suits every one of
    them; the eigenvectors are a random rotation, the same at every call. Written with the
    factor $R^\top R = H / 2$, whose small singular values survive float32.
    """
    n = check_size("n", n, at_least=1)
    if not 1 <= condition < np.inf:
        raise ValueError(f"`condition` must be at least 1 and finite, got {condition}.")
    rotation, triangle = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))
    rotation *= np.sign(np.diag(triangle))  # makes the rotation uniformly distributed
    eigenvalues = np.geomspace(1 / condition, 1.0, n) if n > 1 else np.ones(1)
    return Problem(
        name="quadratic",
        loss=sum_of_squares(_quadratic),
        residual=_quadratic,
        args=(np.sqrt(eigenvalues / 2)[:, None] * rotation.T, np.ones(n)),
        init=fixed_start(np.zeros(n), start_scale),
        minimum=0.0,
        minimizer=np.ones(n),
        plot_box=((-1.0, 3.0), (-1.0, 3.0)) if n == 2 else None,
        description=f"Convex quadratic, condition number {condition:g}, randomly rotated.",
        source="Elementary.",
    )


def _monkey_saddle_loss(x: Point) -> Value:
    return x[0] * (x[0] ** 2 - 3 * x[1] ** 2)


@register("monkey_saddle", tags=("analytic", "2d", "unbounded"))
def monkey_saddle(*, start_scale: float = 1.0) -> Problem:
    """Build the monkey saddle, $x^3 - 3 x y^2$, unbounded below, from (1, 0).

    The gradient at the start points along the x axis, so that a gradient method walks into
    the degenerate saddle at the origin, where the gradient and the Hessian vanish.
    """
    return Problem(
        name="monkey_saddle",
        loss=_monkey_saddle_loss,
        init=fixed_start([1.0, 0.0], start_scale),
        plot_box=((-2.0, 2.0), (-2.0, 2.0)),
        description="Degenerate saddle at the origin; unbounded below.",
        source="Hilbert & Cohn-Vossen (1952), Geometry and the Imagination, section 29.",
    )


def _powell_singular(x: Point) -> Residuals:
    a, b, c, d = x[0::4], x[1::4], x[2::4], x[3::4]
    five, ten = jnp.sqrt(jnp.asarray([5.0, 10.0], x.dtype))
    rows = [a + 10 * b, five * (c - d), (b - 2 * c) ** 2, ten * (a - d) ** 2]
    return jnp.stack(rows, axis=1).ravel()


@register("powell_singular", tags=("analytic", "least_squares", "mgh"))
def powell_singular(*, start_scale: float = 1.0) -> Problem:
    r"""Build Powell's singular function of four variables, from (3, -1, 0, 1).

    $(x_1 + 10 x_2)^2 + 5 (x_3 - x_4)^2 + (x_2 - 2 x_3)^4 + 10 (x_1 - x_4)^4$: the Hessian is
    singular at the minimum, so Newton's method converges only linearly.
    """
    return Problem(
        name="powell_singular",
        loss=sum_of_squares(_powell_singular),
        residual=_powell_singular,
        init=fixed_start([3.0, -1.0, 0.0, 1.0], start_scale),
        minimum=0.0,
        minimizer=np.zeros(4),
        description="Hessian of rank two at the minimum.",
        source=f"Powell (1962), Computer Journal 5:147-151; {MGH}, no. 13.",
    )
