"""How a least-squares method makes a step of its model, and what it learns from a trial.

A kind of step is a map from the model, in its eigenbasis, and one number that a failed trial
makes smaller or larger: a damping, a fraction of the step, a radius.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from gradlab._typing import Array
from gradlab.fit import rank_tolerance
from gradlab.optimizers._fit_point import Point

__all__ = ["DAMPED", "DOGLEG", "HALVED", "Kind", "Tuning", "damped_inverse"]

# First damping relative to the largest curvature of the scaled model (Madsen, Nielsen &
# Tingleff 2004, section 3.2: 1e-3 where the start is not known to be good).
FIRST_DAMPING = 1e-3
# A good step divides the damping by 3 (the same, algorithm 3.16); one whose model erred by less
# than a ninth by more, up to 30, for then the damping is far from where the model ends.
LEAST_CUT, MOST_CUT, FAST = 1 / 3, 1 / 30, 3.0
# Beyond this the step is as short as it can be told from rounding.
MOST_DAMPING = 1e8
# The ratios below which a region shrinks and above which it grows.
POOR, GOOD = 0.25, 0.75


class Tuning(NamedTuple):
    """The number a step is made with, and the factor it grows by when a trial fails."""

    size: Array
    growth: Array


class Kind(NamedTuple):
    """A kind of step.

    Attributes:
        first: From a point to the first tuning.
        step: From a point and a size to the step in scaled space, in the model's basis.
        taken: Tuning after a step of this ratio and length.
        refused: Tuning after a trial refused, of this length.
    """

    first: Callable[[Point, Array], Tuning]
    step: Callable[[Point, Array], Array]
    taken: Callable[[Tuning, Array, Array], Tuning]
    refused: Callable[[Tuning, Array], Tuning]


def _damping_first(point: Point, x: Array) -> Tuning:
    """Begin with a small damping."""
    dtype = point.residuals.dtype
    return Tuning(jnp.asarray(FIRST_DAMPING, dtype), jnp.asarray(2.0, dtype))


def damped_inverse(point: Point, size: Array) -> Array:
    """1 / (curvature + damping), the damping beyond the most negative curvature."""
    w = point.curvatures
    eps = jnp.finfo(w.dtype).eps
    least = point.least
    relative = jnp.where(point.second, 50 * eps, rank_tolerance(w.size, eps) ** 2)
    floor = relative * point.largest
    shift = jnp.maximum(size, jnp.where(floor > 0, floor, 1))
    shift = jnp.where(least < 0, jnp.maximum(shift, -1.5 * least), shift)
    shift = jnp.where(least < 0, jnp.maximum(shift, size - least), shift)
    return 1 / (w + shift)


def _damped(point: Point, size: Array) -> Array:
    """Minimiser of the model plus damping times ‖p‖²."""
    return -point.slopes * damped_inverse(point, size)


def _less_damping(tuning: Tuning, ratio: Array, length: Array) -> Tuning:
    """Nielsen's rule, faster where the model erred by little."""
    del length
    error = jnp.abs(1 - ratio)
    cut = jnp.where(ratio < 1, jnp.maximum(LEAST_CUT, 1 - (2 * ratio - 1) ** 3), LEAST_CUT)
    cut = jnp.where(error < LEAST_CUT / FAST, jnp.maximum(MOST_CUT, FAST * error), cut)
    return Tuning(tuning.size * cut, jnp.full_like(tuning.growth, 2))


def _more_damping(tuning: Tuning, length: Array) -> Tuning:
    """Grow by 2, 4, 8, ..."""
    del length
    least = 50 * jnp.finfo(tuning.size.dtype).eps
    return Tuning(jnp.maximum(tuning.size * tuning.growth, least), 2 * tuning.growth)


def _whole_first(point: Point, x: Array) -> Tuning:
    """Begin with the whole step."""
    one = jnp.ones((), point.residuals.dtype)
    return Tuning(one, one)


def _pseudo_inverse(point: Point, size: Array) -> Array:
    """1 / curvature, nothing where it is rounding: the step of least length."""
    w = point.curvatures
    floor = rank_tolerance(w.size, jnp.finfo(w.dtype).eps) ** 2 * point.largest
    return jnp.where(w > floor, 1 / jnp.where(w > floor, w, 1), 0)


def _shortened(point: Point, size: Array) -> Array:
    """A fraction of the Gauss-Newton step."""
    return -size * point.slopes * _pseudo_inverse(point, size)


def _whole_again(tuning: Tuning, ratio: Array, length: Array) -> Tuning:
    """Begin the next step with the whole one."""
    del ratio, length
    return Tuning(jnp.ones_like(tuning.size), jnp.ones_like(tuning.growth))


def _half(tuning: Tuning, length: Array) -> Tuning:
    """Try half the step."""
    del length
    return Tuning(tuning.size / 2, tuning.growth)


def _radius_first(point: Point, x: Array) -> Tuning:
    """Begin with a region of the point's own length."""
    size = jnp.sqrt(jnp.sum((point.scale * x) ** 2))
    length = jnp.sqrt(jnp.sum(_shortened(point, jnp.ones((), size.dtype)) ** 2))
    radius = jnp.where(size > 0, size, jnp.where(length > 0, length, 1))
    return Tuning(radius, jnp.ones_like(radius))


def _dogleg(point: Point, radius: Array) -> Array:
    """Go along Cauchy's step, then towards the Gauss-Newton step, to the region's edge."""
    slopes = point.slopes
    whole = -slopes * _pseudo_inverse(point, radius)
    slope2 = jnp.sum(slopes**2)
    curvature = jnp.sum(point.curvatures * slopes**2)
    cauchy = -slopes * slope2 / jnp.where(curvature > 0, curvature, 1)
    cauchy_length = jnp.sqrt(jnp.sum(cauchy**2))
    whole_length = jnp.sqrt(jnp.sum(whole**2))
    way = whole - cauchy
    # The positive root of ‖cauchy + t·way‖ = radius.
    a, b = jnp.sum(way**2), jnp.sum(cauchy * way)
    c = jnp.minimum(cauchy_length**2 - radius**2, 0)
    root = jnp.sqrt(jnp.maximum(b**2 - a * c, 0))
    t = jnp.where(
        b > 0, -c / jnp.where(b + root > 0, b + root, 1), (root - b) / jnp.where(a > 0, a, 1)
    )
    joined = cauchy + jnp.clip(t, 0, 1) * way
    short = cauchy * (radius / jnp.where(cauchy_length > 0, cauchy_length, 1))
    step = jnp.where(cauchy_length >= radius, short, joined)
    return jnp.where(whole_length <= radius, whole, step)


def _other_radius(tuning: Tuning, ratio: Array, length: Array) -> Tuning:
    """Grow where the model is good, shrink where it is poor."""
    grown = jnp.where(ratio > GOOD, jnp.maximum(tuning.size, 3 * length), tuning.size)
    return Tuning(jnp.where(ratio < POOR, 0.5 * length, grown), tuning.growth)


def _smaller_radius(tuning: Tuning, length: Array) -> Tuning:
    """A quarter of the step that failed."""
    return Tuning(0.25 * jnp.minimum(length, tuning.size), tuning.growth)


DAMPED = Kind(_damping_first, _damped, _less_damping, _more_damping)
HALVED = Kind(_whole_first, _shortened, _whole_again, _half)
DOGLEG = Kind(_radius_first, _dogleg, _other_radius, _smaller_radius)
