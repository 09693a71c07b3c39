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

__all__ = ["FLAT_LENGTHS", "LENGTHS", "Curvature", "Facts", "Side", "any_of", "kind_of"]

# Lengths looked at, relative to the point's or each variable's own. A minimum may have lower
# values far away, so a direction leads down only if none of these is higher.
LENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# Along directions without curvature, where a loss falls by the cube or more, farther; the
# third is so close to the second that what differs is noise.
TWIN = 1 - 2.0**-14
FLAT_LENGTHS = (1, 0.3, 0.3 * TWIN, 0.1, 0.03)
# A stationary point promises less than this share of what the loss changes around it. A step
# of the square root of it, relative to the point, is what a first-order gtol may leave.
SLIGHT = 1e-6
# The same beside a saddle, where values around say what it is before the gradient has
# vanished; and along directions whose curvature is lost, where slopes alone are no proof.
NEAR = 1e-3
# Levels of noise, 4·eps·|f| each, that values of a linear regression have been seen to scatter
# by (up to three), with room for ten times as small residuals.
SCATTER = 30
# From one of these lengths to the next a cube grows 27 to 37 times, if nothing of higher
# order stands against it; what rounding leaves grows about threefold.
STEEP = 10
# Times that a fall is larger than the noise there. A power p differs by p/16384 between twins.
CLEAR = 10
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
    even: tuple[Array, Array]  # changes along directions without curvature, on both sides
    stated: bool  # whether the caller stated the noise
    bounded: bool  # whether the loss is cut off at bounds, which derivatives there ignore


def kind_of(facts: Facts) -> Array:
    """Draw the conclusion."""
    value, level, sides, seen = facts.value, facts.level, facts.sides, facts.seen
    spread = jnp.maximum(*(jnp.max(_largest(side.changes)) for side in sides))
    beyond = _falls_by_order(facts.even, level)
    down = _falls_by_values(sides, level) | (seen.bends & _falls_by_curvature(facts)) | beyond
    promised = jnp.where(jnp.isfinite(seen.decrement), seen.decrement, jnp.inf)
    # Where the model has no minimum: the slope over the longest length looked at.
    promised = jnp.minimum(promised, jnp.max(jnp.abs(sides[0].slopes[:, 0])))
    share = jnp.where(down, NEAR, SLIGHT)
    stationary = promised <= jnp.maximum(share * spread, NOISY * level)
    kind = jnp.where(spread <= NOISY * level, Kind.AT_NOISE, Kind.MINIMUM)
    higher = any_of(changes > level for changes, _ in sides)
    higher |= any_of(changes > level for changes in facts.even)
    top = jnp.where(higher, Kind.SADDLE, Kind.MAXIMUM)
    kind = jnp.where(down, top, kind)
    kind = jnp.where(stationary, kind, Kind.NOT_STATIONARY)
    kind = jnp.where(_is_slope(facts, down), Kind.SLOPE, kind)
    loud = any_of(~(jnp.abs(changes) <= level) for changes, _ in sides) | beyond
    kind = jnp.where(loud & ~(_is_plateau(facts) & ~down), kind, Kind.FLAT)
    infinite = any_of(changes == -jnp.inf for changes, _ in sides)
    bottomless = (value == -jnp.inf) | infinite
    kind = jnp.where(bottomless, Kind.UNBOUNDED, kind)
    finite = jnp.isfinite(max_abs(facts.grad)) & jnp.isfinite(value)
    finite |= value == -jnp.inf
    return jnp.where(finite, kind, Kind.NOT_FINITE).astype(jnp.int32)


def _falls_by_values(sides: tuple[Side, Side], level: Array) -> Array:
    """Whether a direction leads down: nothing along it is higher, and it is lower.

    That is by more than noise and the little that the slope explains, at two lengths or more;
    or at one, where it is three times lower and the other side as much higher, as about a
    saddle of odd order in a loss with a large constant.
    """
    found = []
    for (changes, slopes), (other, _) in (sides, sides[::-1]):
        heard = _heard(changes, level)
        fallen = changes + 2 * jnp.abs(slopes)
        twice = jnp.sum(fallen < -heard, axis=1) >= 2
        odd = (fallen < -3 * heard) & (other > 3 * _heard(other, level))
        nowhere_higher = ~jnp.any(~(changes <= level), axis=1)
        found.append(nowhere_higher & (twice | jnp.any(odd, axis=1)))
    return any_of(found)


def _falls_by_order(even: tuple[Array, Array], level: Array) -> Array:
    """Whether the loss falls along a direction without curvature, as about a saddle of order.

    At some length it is clearly lower, nearer it is nowhere higher, and farther it is lower
    still, by so much more as a cube or a higher power is. What is clear is judged by the noise
    there, seen between two points next to each other, as a median over all directions. (Far
    along directions without curvature residuals cancel that are small at the point, and every
    value has their rounding.)
    """
    changes, twin = jnp.stack(even), FLAT_LENGTHS.index(FLAT_LENGTHS[1] * TWIN)
    apart = jnp.abs(changes[..., twin - 1] - changes[..., twin])
    noise = jnp.median(jnp.where(jnp.isfinite(apart), apart, jnp.inf))
    changes = jnp.delete(changes, twin, axis=-1, assume_unique_indices=True)
    farther, there = changes[..., :-1], changes[..., 1:]
    clear = there < -jnp.maximum(FEW * level, CLEAR * noise)
    higher = jnp.cumsum(~(there <= level), axis=-1)
    nearer_higher = higher[..., -1:] - higher > 0
    return jnp.any(clear & (farther < STEEP * there) & ~nearer_higher)


def _falls_by_curvature(facts: Facts) -> Array:
    """Whether values bear out a curvature that is negative beyond doubt.

    Its direction leads down if at two of the shorter lengths the loss falls below its own
    slope (farther away it may rise again), or at one length on both sides. Where no value can
    tell, beside a large constant, a curvature that leaves no doubt at all is enough, unless it
    may be that of a ripple within a stated noise.
    """
    level, seen = facts.level, facts.seen
    sides = [(changes[0], jnp.minimum(slopes[0], 0)) for changes, slopes in facts.sides]
    nearby = slice(len(LENGTHS) // 2, None)
    once = any_of(jnp.sum((c < -level + s)[nearby]) >= 2 for c, s in sides)
    ahead, behind = (changes < -FEW * level + slopes for changes, slopes in sides)
    certain = seen.least < -(jnp.finfo(seen.size.dtype).eps ** (1 / 3)) * seen.size
    mute = jnp.maximum(*(_largest(side.changes)[0] for side in facts.sides)) <= FEW * level
    return once | jnp.any(ahead & behind) | (certain & mute & (not facts.stated))


def _is_slope(facts: Facts, down: Array) -> Array:
    """Whether along some direction the loss is a slope and nothing else.

    However far looked; or as far as its curvature says, where the gradient is loud.
    """
    level, sides = facts.level, facts.sides
    falling = [
        (changes < -NOISY * level) & (jnp.abs(changes - slopes) <= 0.5 * jnp.abs(slopes))
        for changes, slopes in sides
    ]
    straight = any_of(
        falls[:, 0] & (jnp.abs(side.changes) > CLEAR * _scatter(side.changes))[:, 0]
        for falls, side in zip(falling, sides, strict=True)
    )
    # (On one side it may be up a wall.)
    slope = jnp.abs(sides[0].slopes[0, 0])
    around = jnp.minimum(*(_largest(side.changes)[0] for side in sides))
    falls = slope > jnp.maximum(NEAR * around, NOISY * level)
    # Or it turns before the longest length, and falls as it says up to there.
    falls |= any_of(falls[0] for falls in falling)
    # Or nothing is seen of what the gradient says: a plateau, as far as values tell.
    falls |= around <= NOISY * level
    return straight | (falls & facts.seen.loud & ~down)


def _is_plateau(facts: Facts) -> Array:
    """Whether all derivatives are zero, and what changes around the point are jumps.

    A minimum of high order is felt at two lengths, and rises at least a hundredfold from each
    to the next, for it does so by the cube or more.
    """
    still = (max_abs(facts.grad) == 0) & (facts.seen.size == 0)
    felt = any_of(changes[:, 1:] != 0 for changes, _ in facts.sides)
    abrupt = any_of(
        jnp.abs(c[:, 1:]) > jnp.maximum(1e-2 * jnp.abs(c[:, :-1]), FEW * facts.level)
        for c, _ in facts.sides
    )
    return still & (~felt | abrupt) & (not facts.bounded)


def _heard(changes: Array, level: Array) -> Array:
    """Level that changes along each direction must exceed, a column."""
    return jnp.maximum(SCATTER * level, CLEAR * _scatter(changes))


def _scatter(changes: Array) -> Array:
    """How much values along each direction scatter, a column.

    Where a loss cancels, as a sum of small squares of large data, its values scatter by far
    more than their own rounding, and along a direction without curvature that is all they do.
    It shows between the shortest lengths; the value at the point scatters too. A real fall is
    ten times as deep a length farther, or more, and a jump is the same at all.
    """
    short = changes[:, -3:]
    scatter = jnp.max(jnp.abs(short[:, 1:] - short[:, :-1]), axis=1, keepdims=True)
    return jnp.where(jnp.isfinite(scatter), scatter, 0)


def _largest(changes: Array) -> Array:
    """Largest size in each row of what is finite."""
    return jnp.max(jnp.where(jnp.isfinite(changes), jnp.abs(changes), 0), axis=1)
