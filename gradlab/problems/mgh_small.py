"""Test functions of Moré, Garbow and Hillstrom in a few variables, without data tables.

Numbers in the descriptions are those of the paper. Rosenbrock (1), Beale (5) and Powell's
singular function (13) are in `analytic`; `names(tag="mgh")` lists all 35. Minima and
minimisers without closed form were computed with 50 digits, and agree with the paper's.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from gradlab.problems._least_squares import MGH, sum_of_squares
from gradlab.problems._types import Point, Residuals
from gradlab.problems.registry import Problem, check_size, fixed_start, register

__all__ = [
    "biggs_exp6",
    "box_3d",
    "brown_badly_scaled",
    "brown_dennis",
    "freudenstein_roth",
    "gulf",
    "helical_valley",
    "jennrich_sampson",
    "powell_badly_scaled",
    "wood",
]

_TAGS = ("mgh", "least_squares")


def _freudenstein_roth(x: Point) -> Residuals:
    y = x[1]
    return jnp.stack([x[0] - 13 + ((5 - y) * y - 2) * y, x[0] - 29 + ((y + 1) * y - 14) * y])


@register("freudenstein_roth", tags=(*_TAGS, "2d"))
def freudenstein_roth(*, start_scale: float = 1.0) -> Problem:
    """Build no. 2: minimum 0 at (5, 4), and 48.98 at (11.41, -0.8968), where many runs end."""
    return Problem(
        name="freudenstein_roth",
        loss=sum_of_squares(_freudenstein_roth),
        residual=_freudenstein_roth,
        init=fixed_start([0.5, -2.0], start_scale),
        minimum=0.0,
        minimizer=np.array([5.0, 4.0]),
        local_minima=(48.984253679240021,),
        plot_box=((-5.0, 15.0), (-4.0, 6.0)),
        description="Two cubics; a local minimum of 48.98 attracts most runs.",
        source=f"Freudenstein & Roth (1963); {MGH}, no. 2.",
    )


def _powell_badly_scaled(x: Point) -> Residuals:
    return jnp.stack([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


@register("powell_badly_scaled", tags=(*_TAGS, "2d"))
def powell_badly_scaled(*, start_scale: float = 1.0) -> Problem:
    """Build no. 3: variables of sizes 1e-5 and 10 at the minimum."""
    return Problem(
        name="powell_badly_scaled",
        loss=sum_of_squares(_powell_badly_scaled),
        residual=_powell_badly_scaled,
        init=fixed_start([0.0, 1.0], start_scale),
        minimum=0.0,
        minimizer=np.array([1.0981593296998175e-5, 9.106146739866524]),
        plot_box=((-1.0, 1.0), (0.0, 10.0)),
        description="A product of 1e-4 between variables of sizes 1e-5 and 10.",
        source=f"Powell (1970); {MGH}, no. 3.",
    )


def _brown_badly_scaled(x: Point) -> Residuals:
    return jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


@register("brown_badly_scaled", tags=(*_TAGS, "2d"))
def brown_badly_scaled(*, start_scale: float = 1.0) -> Problem:
    """Build no. 4: variables of sizes 1e6 and 1e-6 at the minimum."""
    return Problem(
        name="brown_badly_scaled",
        loss=sum_of_squares(_brown_badly_scaled),
        residual=_brown_badly_scaled,
        init=fixed_start([1.0, 1.0], start_scale),
        minimum=0.0,
        minimizer=np.array([1e6, 2e-6]),
        plot_box=((-1e6, 2e6), (-1.0, 2.0)),
        description="Variables of sizes 1e6 and 1e-6.",
        source=f"Brown & Dennis, unpublished; {MGH}, no. 4.",
    )


def _jennrich_sampson(x: Point, index: Residuals) -> Residuals:
    return 2 + 2 * index - (jnp.exp(index * x[0]) + jnp.exp(index * x[1]))


@register("jennrich_sampson", tags=(*_TAGS, "2d"))
def jennrich_sampson(*, m: int = 10, start_scale: float = 1.0) -> Problem:
    """Build no. 6: the minimum is on the diagonal, where the two variables change places."""
    check_size("m", m, at_least=2)
    return Problem(
        name="jennrich_sampson",
        loss=sum_of_squares(_jennrich_sampson),
        residual=_jennrich_sampson,
        args=(np.arange(1.0, m + 1),),
        init=fixed_start([0.3, 0.4], start_scale),
        minimum=124.36218235561485 if m == 10 else None,
        minimizer=np.full(2, 0.25782521367036408) if m == 10 else None,
        plot_box=((-0.1, 0.5), (-0.1, 0.5)),
        description="Sum of two exponentials fitted to a line, exchange of variables.",
        source=f"Jennrich & Sampson (1968); {MGH}, no. 6.",
    )


def _helical_valley(x: Point) -> Residuals:
    # the paper's angle in turns, between -1/4 and 3/4: its cut is the negative x2 axis
    turn = jnp.arctan2(x[1], x[0]) / (2 * np.pi)
    turn = jnp.where((turn < 0) & (x[0] < 0), turn + 1, turn)
    return jnp.stack([10 * (x[2] - 10 * turn), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2]])


@register("helical_valley", tags=_TAGS)
def helical_valley(*, start_scale: float = 1.0) -> Problem:
    """Build no. 7: a spiral valley around the third axis, discontinuous on a half plane."""
    return Problem(
        name="helical_valley",
        loss=sum_of_squares(_helical_valley),
        residual=_helical_valley,
        init=fixed_start([-1.0, 0.0, 0.0], start_scale),
        minimum=0.0,
        minimizer=np.array([1.0, 0.0, 0.0]),
        description="Spiral valley; a jump on the half plane x1 = 0, x2 < 0.",
        source=f"Fletcher & Powell (1963), Computer Journal 6:163-168; {MGH}, no. 7.",
    )


def _gulf(x: Point, targets: Residuals, positions: Residuals) -> Residuals:
    return jnp.exp(-(jnp.abs(positions - x[1]) ** x[2]) / x[0]) - targets


@register("gulf", tags=_TAGS)
def gulf(*, m: int = 99, start_scale: float = 1.0) -> Problem:
    r"""Build no. 11: $\exp(-|y_i - x_2|^{x_3} / x_1) - i / 100$ for i up to m.

    The paper prints $|y_i m i x_2|$ for $|y_i - x_2|$. With m = 100 the last position is the
    minimiser's x2 itself, where second derivatives do not exist; hence 99, as in TOMS 566.
    """
    check_size("m", m, at_least=3)
    if m > 100:
        raise ValueError(f"`m` must be at most 100, got {m}.")
    targets = np.arange(1.0, m + 1) / 100
    return Problem(
        name="gulf",
        loss=sum_of_squares(_gulf),
        residual=_gulf,
        args=(targets, 25 + (-50 * np.log(targets)) ** (2 / 3)),
        init=fixed_start([5.0, 2.5, 0.15], start_scale),
        minimum=0.0,
        minimizer=np.array([50.0, 25.0, 1.5]),
        description="Stretched exponential with its location, scale and exponent.",
        source=f"Cox (1969), Gulf Research and Development; {MGH}, no. 11.",
    )


def _box_3d(x: Point, times: Residuals) -> Residuals:
    model = jnp.exp(-times * x[0]) - jnp.exp(-times * x[1])
    return model - x[2] * (jnp.exp(-times) - jnp.exp(-10 * times))


@register("box_3d", tags=_TAGS)
def box_3d(*, m: int = 10, start_scale: float = 1.0) -> Problem:
    """Build no. 12: zero at (1, 10, 1), at (10, 1, -1), and wherever x1 = x2 and x3 = 0."""
    check_size("m", m, at_least=3)
    return Problem(
        name="box_3d",
        loss=sum_of_squares(_box_3d),
        residual=_box_3d,
        args=(0.1 * np.arange(1, m + 1),),
        init=fixed_start([0.0, 10.0, 20.0], start_scale),
        minimum=0.0,
        minimizer=np.array([1.0, 10.0, 1.0]),
        description="Difference of exponentials; two isolated minima and a line of them.",
        source=f"Box (1966), Computer Journal 9:67-77; {MGH}, no. 12.",
    )


def _wood(x: Point) -> Residuals:
    ninety, ten = jnp.sqrt(jnp.asarray([90.0, 10.0], x.dtype))
    rows = [10 * (x[1] - x[0] ** 2), 1 - x[0], ninety * (x[3] - x[2] ** 2), 1 - x[2]]
    return jnp.stack([*rows, ten * ((x[1] - 1) + (x[3] - 1)), (x[1] - x[3]) / ten])


@register("wood", tags=_TAGS)
def wood(*, start_scale: float = 1.0) -> Problem:
    """Build no. 14: two coupled Rosenbrock valleys, with a saddle near (-1, 1, -1, 1)."""
    return Problem(
        name="wood",
        loss=sum_of_squares(_wood),
        residual=_wood,
        init=fixed_start([-3.0, -1.0, -3.0, -1.0], start_scale),
        minimum=0.0,
        minimizer=np.ones(4),
        description="Two coupled curved valleys; a saddle of 7.9 on the way.",
        source=f"Colville (1968); {MGH}, no. 14.",
    )


_BROWN_DENNIS_MINIMIZER = (
    -11.594439904762165,
    13.203630051207204,
    -0.40343948817685952,
    0.2367787744557363,
)


def _brown_dennis(x: Point, times: Residuals) -> Residuals:
    line = x[0] + times * x[1] - jnp.exp(times)
    wave = x[2] + x[3] * jnp.sin(times) - jnp.cos(times)
    return line**2 + wave**2


@register("brown_dennis", tags=_TAGS)
def brown_dennis(*, m: int = 20, start_scale: float = 1.0) -> Problem:
    """Build no. 16: large residuals at the minimum, where Gauss-Newton is slow."""
    check_size("m", m, at_least=4)
    return Problem(
        name="brown_dennis",
        loss=sum_of_squares(_brown_dennis),
        residual=_brown_dennis,
        args=(np.arange(1, m + 1) / 5,),
        init=fixed_start([25.0, 5.0, -5.0, -1.0], start_scale),
        minimum=85822.201626356345 if m == 20 else None,
        minimizer=np.array(_BROWN_DENNIS_MINIMIZER) if m == 20 else None,
        description="Large residuals: the minimum is 85822 with m = 20.",
        source=f"Brown & Dennis (1971), Numerische Mathematik 18:289-297; {MGH}, no. 16.",
    )


def _biggs_exp6(x: Point, times: Residuals, targets: Residuals) -> Residuals:
    positive = x[2] * jnp.exp(-times * x[0]) + x[5] * jnp.exp(-times * x[4])
    return positive - x[3] * jnp.exp(-times * x[1]) - targets


@register("biggs_exp6", tags=_TAGS)
def biggs_exp6(*, m: int = 13, start_scale: float = 1.0) -> Problem:
    """Build no. 18: a sum of three exponentials, exact at (1, 10, 1, 5, 4, 3).

    The paper lists a minimum of 5.65565e-3 with m = 13 as well, but that is a saddle, from
    which negative curvature leads on to 0. The start has x1 = x5 and x3 = x6; a method
    without rounding would stay with both equations, and on them the saddle is the minimum.
    """
    check_size("m", m, at_least=6)
    times = 0.1 * np.arange(1, m + 1)
    targets = np.exp(-times) - 5 * np.exp(-10 * times) + 3 * np.exp(-4 * times)
    return Problem(
        name="biggs_exp6",
        loss=sum_of_squares(_biggs_exp6),
        residual=_biggs_exp6,
        args=(times, targets),
        init=fixed_start([1.0, 2.0, 1.0, 1.0, 1.0, 1.0], start_scale),
        minimum=0.0,
        minimizer=np.array([1.0, 10.0, 1.0, 5.0, 4.0, 3.0]),
        description="Three exponentials; runs are drawn to a saddle of 5.65565e-3.",
        source=f"Biggs (1971), J. Inst. Maths Applics 8:315-327; {MGH}, no. 18.",
    )
