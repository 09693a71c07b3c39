"""What kind of point it is: the conclusion from curvature, slopes and values around it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp

from gradlab._tree import max_abs
from gradlab._typing import Array, Params
from gradlab.certificate import Kind
from gradlab.optimizers._trust_region import NOISY

__all__ = ["LENGTHS", "Curvature", "Facts", "Side", "any_of", "kind_of"]

# Lengths looked at, relative to the point's or each variable's own. A minimum may have lower
# values far away, so a direction leads down only if none of these is higher.
LENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# A stationary point promises less than this share of what the loss changes around it. A step
# of the square root of it, relative to the point, is what a first-order gtol may leave.
SLIGHT = 1e-6
# The same beside a saddle, where values around say what it is before the gradient has
# vanished; and along directions whose curvature is lost, where slopes alone are no proof.
NEAR = 1e-3
# Levels of noise, 4·eps·|f| each, that values of a linear regression have been seen to scatter
# by (up to three), with room for ten times as small residuals.
SCATTER = 30
# What values that are known to fall by their curvature must fall by, in levels of noise.
FEW = 3


class Curvature(NamedTuple):
    """What second derivatives say of a point.

    The least curvature and the largest absolute one; the decrease that the model promises, and
    the length of the step to it; whether the gradient is above its rounding where the
    curvature is lost in it, so that nobody knows how far it leads; the direction to look
    along, of that gradient if so and of the least curvature if not; whether that is negative
    beyond doubt; and the products taken.
    """

    least: Array
    size: Array
    direction: Params
    decrement: Array
    distance: Array
    loud: Array
    bends: Array
    products: Array


class Side(NamedTuple):
    """Changes of the loss on one side of a point, a row a direction, and what slopes explain.

    The first direction is that of the least curvature, the first length the longest.
    """

    changes: Array
    slopes: Array


def any_of(flags: Iterable[Array]) -> Array:
    """Whether any entry of any of them is set."""
    return functools.reduce(operator.or_, [jnp.any(flag) for flag in flags])


class Facts(NamedTuple):
    """All that was found at the point."""

    value: Array
    grad: Params
    seen: Curvature
    level: Array
    sides: tuple[Side, Side]
    stated: bool  # whether the caller stated the noise


def kind_of(facts: Facts) -> Array:
    """Draw the conclusion."""
    value, level, sides = facts.value, facts.level, facts.sides
    spreads = [_largest(side.changes) for side in sides]
    spread = jnp.maximum(*(jnp.max(spread) for spread in spreads))
    # A direction leads down if nothing along it is higher, and at two lengths or more it is
    # lower by more than noise and the little that the slope explains.
    lower = [c < -_heard(c, level) - 2 * jnp.abs(slopes) for c, slopes in sides]
    nowhere_higher = [~jnp.any(~(changes <= level), axis=1) for changes, _ in sides]
    down = any_of(
        free & (jnp.sum(low, axis=1) >= 2)
        for free, low in zip(nowhere_higher, lower, strict=True)
    )
    # One length is enough where it is three times lower and the other side as much higher, as
    # about a saddle of odd order in a loss with a large constant.
    deep = [
        (c < -3 * _heard(c, level) - 2 * jnp.abs(s)) & (other > 3 * _heard(other, level))
        for (c, s), (other, _) in (sides, sides[::-1])
    ]
    down |= any_of(
        free & jnp.any(odd, axis=1) for free, odd in zip(nowhere_higher, deep, strict=True)
    )
    # Where the curvature is negative beyond doubt, so does its direction if at shorter lengths
    # the loss falls below its own slope: farther away it may rise again.
    seen, nearby = facts.seen, slice(len(LENGTHS) // 2, None)
    below = (
        changes[0, nearby] < -level + jnp.minimum(slopes[0, nearby], 0)
        for changes, slopes in sides
    )
    down |= seen.bends & any_of(jnp.sum(lower) >= 2 for lower in below)
    # Or if both sides are lower at one length; or if, beside a large constant, no value can
    # tell, and the curvature leaves no doubt at all. Within a stated noise it may be that of
    # a ripple.
    ahead, behind = (
        changes[0] < -FEW * level + jnp.minimum(slopes[0], 0) for changes, slopes in sides
    )
    down |= seen.bends & jnp.any(ahead & behind)
    certain = seen.least < -(jnp.finfo(seen.size.dtype).eps ** (1 / 3)) * seen.size
    mute = jnp.maximum(*(spread[0] for spread in spreads)) <= FEW * level
    down |= seen.bends & certain & mute & (not facts.stated)
    promised = jnp.where(jnp.isfinite(seen.decrement), seen.decrement, jnp.inf)
    # Where the model has no minimum: the slope over the longest length looked at.
    promised = jnp.minimum(promised, jnp.max(jnp.abs(sides[0].slopes[:, 0])))
    share = jnp.where(down, NEAR, SLIGHT)
    stationary = promised <= jnp.maximum(share * spread, NOISY * level)
    # Along some direction the loss may be a slope and nothing else, however far looked, or as
    # far as its curvature says.
    falling = [
        (changes < -NOISY * level) & (jnp.abs(changes - slopes) <= 0.5 * jnp.abs(slopes))
        for changes, slopes in sides
    ]
    straight = any_of(falls[:, 0] for falls in falling)
    kind = jnp.where(spread <= NOISY * level, Kind.AT_NOISE, Kind.MINIMUM)
    higher = any_of(changes > level for changes, _ in sides)
    top = jnp.where(higher, Kind.SADDLE, Kind.MAXIMUM)
    kind = jnp.where(down, top, kind)
    kind = jnp.where(stationary, kind, Kind.NOT_STATIONARY)
    # (On one side it may be up a wall.)
    slope, around = jnp.abs(sides[0].slopes[0, 0]), jnp.minimum(*(s[0] for s in spreads))
    falls = slope > jnp.maximum(NEAR * around, NOISY * level)
    # Or it turns before the longest length, and falls as it says up to there.
    falls |= any_of(falls[0] for falls in falling)
    # Or nothing is seen of what the gradient says: a plateau, as far as values tell.
    falls |= around <= NOISY * level
    falls &= seen.loud
    kind = jnp.where(straight | (falls & ~down), Kind.SLOPE, kind)
    loud = any_of(~(jnp.abs(changes) <= level) for changes, _ in sides)
    # All derivatives zero: a plateau with jumps about it, or a minimum of high order. That is
    # felt at two lengths, and rises at least a hundredfold from each to the next, for it does
    # so by the cube or more.
    still = (max_abs(facts.grad) == 0) & (seen.size == 0)
    felt = any_of(changes[:, 1:] != 0 for changes, _ in sides)
    abrupt = any_of(
        jnp.abs(c[:, 1:]) > jnp.maximum(1e-2 * jnp.abs(c[:, :-1]), FEW * level)
        for c, _ in sides
    )
    plateau = still & ~down & (~felt | abrupt)
    kind = jnp.where(loud & ~plateau, kind, Kind.FLAT)
    infinite = any_of(changes == -jnp.inf for changes, _ in sides)
    bottomless = (value == -jnp.inf) | infinite
    kind = jnp.where(bottomless, Kind.UNBOUNDED, kind)
    finite = jnp.isfinite(max_abs(facts.grad)) & jnp.isfinite(value)
    finite |= value == -jnp.inf
    return jnp.where(finite, kind, Kind.NOT_FINITE).astype(jnp.int32)


def _heard(changes: Array, level: Array) -> Array:
    """Level that changes along each direction must exceed, a column.

    Where a loss cancels, as a sum of small squares of large data, its values scatter by far
    more than their own rounding, and along a direction without curvature that is all they do.
    It shows between the shortest lengths; the value at the point scatters too. A real fall is
    ten times as deep a length farther, and a jump is the same at all.
    """
    short = changes[:, -3:]
    scatter = jnp.max(jnp.abs(short[:, 1:] - short[:, :-1]), axis=1, keepdims=True)
    return jnp.maximum(SCATTER * level, 3 * jnp.where(jnp.isfinite(scatter), scatter, 0))


def _largest(changes: Array) -> Array:
    """Largest size in each row of what is finite."""
    return jnp.max(jnp.where(jnp.isfinite(changes), jnp.abs(changes), 0), axis=1)
