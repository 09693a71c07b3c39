"""Test functions of Moré, Garbow and Hillstrom that fit a model to a table of data.

The tables are those of the paper. Minima and minimisers were computed with 50 digits and
agree with the paper's in all the digits it prints.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from gradlab.problems._least_squares import MGH, sum_of_squares
from gradlab.problems._types import Point, Residuals
from gradlab.problems.registry import Problem, fixed_start, register

__all__ = ["bard", "gaussian", "kowalik_osborne", "meyer", "osborne_1", "osborne_2"]

_TAGS = ("mgh", "least_squares", "data")


def _table(text: str) -> np.ndarray:
    """Read numbers separated by blanks."""
    return np.array(text.split(), dtype=np.float64)


_BARD = _table("0.14 0.18 0.22 0.25 0.29 0.32 0.35 0.39 0.37 0.58 0.73 0.96 1.34 2.10 4.39")


def _bard(x: Point, u: Residuals, y: Residuals) -> Residuals:
    v = 16 - u
    return y - (x[0] + u / (v * x[1] + jnp.minimum(u, v) * x[2]))


@register("bard", tags=_TAGS)
def bard(*, start_scale: float = 1.0) -> Problem:
    """Build no. 8; a second infimum of 17.4286 lies at infinity."""
    return Problem(
        name="bard",
        loss=sum_of_squares(_bard),
        residual=_bard,
        args=(np.arange(1.0, 16.0), _BARD),
        init=fixed_start([1.0, 1.0, 1.0], start_scale),
        minimum=0.0082148773065789748,
        minimizer=np.array([0.082410559749788932, 1.1330360920297216, 2.3436951786425371]),
        local_minima=(17.42869333333333,),
        description="Rational model of 15 points; flat at infinity.",
        source=f"Bard (1970), SIAM J. Numer. Anal. 7:157-186; {MGH}, no. 8.",
    )


_GAUSSIAN = _table("0.0009 0.0044 0.0175 0.0540 0.1295 0.2420 0.3521 0.3989")


def _gaussian(x: Point, t: Residuals, y: Residuals) -> Residuals:
    return x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2) - y


@register("gaussian", tags=_TAGS)
def gaussian(*, start_scale: float = 1.0) -> Problem:
    """Build no. 9: the normal density, from a start already close."""
    return Problem(
        name="gaussian",
        loss=sum_of_squares(_gaussian),
        residual=_gaussian,
        args=((8 - np.arange(1.0, 16.0)) / 2, np.concatenate([_GAUSSIAN, _GAUSSIAN[-2::-1]])),
        init=fixed_start([0.4, 1.0, 0.0], start_scale),
        minimum=1.127932769618648e-8,
        minimizer=np.array([0.39895613783875668, 1.0000190844878057, 0.0]),
        description="Normal density fitted to 15 values of itself, rounded.",
        source=f"{MGH}, no. 9.",
    )


_MEYER = _table(
    "34780 28610 23650 19630 16370 13720 11540 9744 8261 7030 6005 5147 4427 3820 3307 2872"
)


def _meyer(x: Point, t: Residuals, y: Residuals) -> Residuals:
    return x[0] * jnp.exp(x[1] / (t + x[2])) - y


@register("meyer", tags=_TAGS)
def meyer(*, start_scale: float = 1.0) -> Problem:
    """Build no. 10: resistance of a thermistor; variables of sizes 0.006, 6000 and 300."""
    return Problem(
        name="meyer",
        loss=sum_of_squares(_meyer),
        residual=_meyer,
        args=(45 + 5 * np.arange(1.0, 17.0), _MEYER),
        init=fixed_start([0.02, 4000.0, 250.0], start_scale),
        minimum=87.945855170851121,
        minimizer=np.array([0.0056096364710280525, 6181.3463462863723, 345.2236346241365]),
        description="Thermistor; the valley is long, narrow and badly scaled.",
        source=f"Meyer (1970), in Rosen et al., Nonlinear Programming; {MGH}, no. 10.",
    )


_KOWALIK_OSBORNE = _table(
    "0.1957 0.1947 0.1735 0.1600 0.0844 0.0627 0.0456 0.0342 0.0323 0.0235 0.0246"
)
_KOWALIK_OSBORNE_U = _table("4 2 1 0.5 0.25 0.167 0.125 0.1 0.0833 0.0714 0.0625")


def _kowalik_osborne(x: Point, u: Residuals, y: Residuals) -> Residuals:
    return y - x[0] * u * (u + x[1]) / (u * (u + x[2]) + x[3])


@register("kowalik_osborne", tags=_TAGS)
def kowalik_osborne(*, start_scale: float = 1.0) -> Problem:
    """Build no. 15: an enzyme reaction; a second infimum of 1.02734e-3 lies at infinity."""
    return Problem(
        name="kowalik_osborne",
        loss=sum_of_squares(_kowalik_osborne),
        residual=_kowalik_osborne,
        args=(_KOWALIK_OSBORNE_U, _KOWALIK_OSBORNE),
        init=fixed_start([0.25, 0.39, 0.415, 0.39], start_scale),
        minimum=0.00030750560384923743,
        minimizer=np.array(
            [0.19280693457903785, 0.19128232873436696, 0.12305650692632065, 0.13606233068379484]
        ),
        local_minima=(0.0010273430486954583,),
        description="Rational model of an enzyme reaction, 11 points.",
        source=f"Kowalik & Osborne (1968); {MGH}, no. 15.",
    )


_OSBORNE_1 = _table("""
    0.844 0.908 0.932 0.936 0.925 0.908 0.881 0.850 0.818 0.784 0.751
    0.718 0.685 0.658 0.628 0.603 0.580 0.558 0.538 0.522 0.506 0.490
    0.478 0.467 0.457 0.448 0.438 0.431 0.424 0.420 0.414 0.411 0.406
""")


def _osborne_1(x: Point, t: Residuals, y: Residuals) -> Residuals:
    return y - (x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4]))


@register("osborne_1", tags=_TAGS)
def osborne_1(*, start_scale: float = 1.0) -> Problem:
    """Build no. 17: two exponential decays and a constant."""
    return Problem(
        name="osborne_1",
        loss=sum_of_squares(_osborne_1),
        residual=_osborne_1,
        args=(10 * np.arange(33.0), _OSBORNE_1),
        init=fixed_start([0.5, 1.5, -1.0, 0.01, 0.02], start_scale),
        minimum=5.4648946974829064e-5,
        minimizer=np.array(
            [
                0.37541005210695204,
                1.9358469127123674,
                -1.4646871366134231,
                0.012867534640057289,
                0.022122699661672611,
            ]
        ),
        description="Two exponentials and a constant, 33 points.",
        source=f"Osborne (1972), in Lootsma, Numerical Methods; {MGH}, no. 17.",
    )


_OSBORNE_2 = _table("""
    1.366 1.191 1.112 1.013 0.991 0.885 0.831 0.847 0.786 0.725 0.746 0.679 0.608
    0.655 0.616 0.606 0.602 0.626 0.651 0.724 0.649 0.649 0.694 0.644 0.624 0.661
    0.612 0.558 0.533 0.495 0.500 0.423 0.395 0.375 0.372 0.391 0.396 0.405 0.428
    0.429 0.523 0.562 0.607 0.653 0.672 0.708 0.633 0.668 0.645 0.632 0.591 0.559
    0.597 0.625 0.739 0.710 0.729 0.720 0.636 0.581 0.428 0.292 0.162 0.098 0.054
""")


def _osborne_2(x: Point, t: Residuals, y: Residuals) -> Residuals:
    decay = x[0] * jnp.exp(-t * x[4])
    offsets = t[:, None] - x[None, 8:11]
    peaks = jnp.exp(-(offsets**2) * x[None, 5:8]) @ x[1:4]
    return y - (decay + peaks)


@register("osborne_2", tags=_TAGS)
def osborne_2(*, start_scale: float = 1.0) -> Problem:
    """Build no. 19: an exponential decay and three Gaussian peaks, 11 variables."""
    return Problem(
        name="osborne_2",
        loss=sum_of_squares(_osborne_2),
        residual=_osborne_2,
        args=(np.arange(65.0) / 10, _OSBORNE_2),
        init=fixed_start(
            [1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5], start_scale
        ),
        minimum=0.040137736293547738,
        minimizer=np.array(
            [
                1.3099771546273005,
                0.43155379460298892,
                0.633661698960724,
                0.5994305347859163,
                0.75418322632801128,
                0.90428857985963366,
                1.3658118352370285,
                4.8236988172271556,
                2.3986848661317546,
                4.5688745976676716,
                5.6753414705806412,
            ]
        ),
        description="An exponential and three Gaussian peaks, 65 points.",
        source=f"Osborne (1972), in Lootsma, Numerical Methods; {MGH}, no. 19.",
    )
