"""One accepted step of a least-squares method: trials, their judgement, the next point."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._tree import select, stacked
from gradlab._typing import Array
from gradlab.optimizers._fit_model import across, along, norm, times
from gradlab.optimizers._fit_point import (
    CLOSE,
    FINISHED,
    Box,
    Point,
    arrive,
    inside,
)
from gradlab.optimizers._fit_steps import MOST_DAMPING, Kind, Tuning, damped_inverse
from gradlab.optimizers._residuals import Residuals
from gradlab.optimizers._trust_region import ACCEPT, HALF, MAX_TRIALS, NOISY

__all__ = ["Plan", "Search", "blank_search", "search"]

# Geodesic acceleration is taken, and a step tried at all, only where it is no longer than this
# times the step (Transtrum & Sethna 2012, section 4: α = 0.75).
ACCELERATION = 0.75
# The residuals' own curvature is followed where the model without it erred 1.5 times as much
# (Dennis, Gay & Welsch 1981, NL2SOL), and was no good; and left alone likewise.
BETTER = 1.5
GOOD = 0.75
# Trials where nothing is promised beyond noise.
FEW_TRIALS = 3


class Plan(NamedTuple):
    """What a method does: its kind of step, and what it makes of second derivatives.

    Attributes:
        kind: How steps are made.
        accelerated: Whether steps bend along the geodesic.
        adaptive: Whether the residuals' own curvature is followed where it matters.
        exact: Whether it always is.
        finishing: Whether the last steps are Newton's.
    """

    kind: Kind
    accelerated: bool
    adaptive: bool
    exact: bool
    finishing: bool


class Search(NamedTuple):
    """A search under way.

    `numbers` are the tuning, and the loss where the search began. `counts` are: trials since
    the last accepted point, whether the point has still to be evaluated, whether the search
    has ended, whether a step was accepted, whether the run is finished; and the calls made,
    all in all.
    """

    point: Point
    step: Array
    numbers: Array
    counts: Array

    @property
    def tuning(self) -> Tuning:
        """Tuning of the next step."""
        return Tuning(self.numbers[0], self.numbers[1])

    @property
    def origin(self) -> Array:
        """Loss where the search began."""
        return self.numbers[2]

    @property
    def tries(self) -> Array:
        """Trials made from this point."""
        return self.counts[0]

    @property
    def stale(self) -> Array:
        """Whether the point has still to be evaluated."""
        return self.counts[1] != 0

    @property
    def ended(self) -> Array:
        """Whether the search has ended."""
        return self.counts[2] != 0

    @property
    def accepted(self) -> Array:
        """Whether a step was accepted."""
        return self.counts[3] != 0

    @property
    def finished(self) -> Array:
        """Whether the run is finished: nothing is left to gain."""
        return self.counts[4] != 0

    @property
    def calls(self) -> Array:
        """Residuals, Jacobians, bends and matrices evaluated."""
        return self.counts[..., 5:]


def blank_search(dtype: Any) -> tuple[Array, Array]:
    """Numbers and counts before any search."""
    return jnp.zeros(3, dtype), jnp.array([0, 0, 0, 1, 0, 0, 0, 0, 0], jnp.int32)


def search(
    problem: Residuals,
    plan: Plan,
    box: Box | None,
    x: Array,
    point: Point,
    numbers: Array,
    counts: Array,
    stale: Array,
    least_noise: Array,
) -> Search:
    """Try steps until one is acceptable; first evaluate the point where it is stale.

    `numbers` and `counts` are those that the search before ended with. The trial point is
    `optax.apply_updates(params, updates)`, to the bit the one the host will have.
    """

    def attempt(now: Search) -> Search:
        return _attempt(problem, plan, box, x, now, least_noise)

    flags = jnp.stack([0, stale, 0, 0, 0]).astype(jnp.int32)
    counts = jnp.concatenate([flags, counts[5:]])
    start = Search(point, jnp.zeros_like(x), numbers, counts)
    return jax.lax.while_loop(lambda now: ~now.ended, attempt, start)


class _Offer(NamedTuple):
    """A step offered: scaled step, its bend taken in, and its length without the bend.

    `promised` is what the model followed promises, `other` what the other one does, with or
    without the residuals' own curvature.
    """

    step: Array
    length: Array
    promised: Array
    other: Array
    declined: Array
    bends: Array


def _attempt(
    problem: Residuals,
    plan: Plan,
    box: Box | None,
    x: Array,
    now: Search,
    least_noise: Array,
) -> Search:
    """Make one trial."""
    point = now.point
    finish = point.sharp & (now.tries == 0) & ~now.stale
    offer = _offer(problem, plan, box, x, now, finish)
    wanted = inside(box, x, jnp.where(now.stale, 0, offer.step / point.unit))
    new_x, step = _moved(problem, x, wanted)
    moved = jnp.any(new_x != x)
    # A step whose end would only be thrown away is not evaluated.
    tried = now.stale | (moved & ~offer.declined)
    residuals = jax.lax.cond(tried, problem, lambda _: point.residuals, new_x)
    value = problem.value(residuals)
    reduction = point.value - value
    clear = ~(jnp.abs(reduction) <= NOISY * point.level)
    promised = offer.promised
    ratio = reduction / jnp.where(promised > 0, promised, jnp.inf)
    good = jnp.isfinite(value) & tried
    worth = good & (now.stale | finish | ~clear | (ratio >= ACCEPT))
    other = _other_model(plan, point, offer, reduction, ratio, clear & good & ~finish)
    second = jnp.where(now.stale, plan.exact, point.second ^ other)

    def go() -> Point:
        return arrive(
            problem, box, new_x, residuals, value, point, second, finish, least_noise,
            finishing=plan.finishing,
        )  # fmt: skip

    # The residuals, which are at hand, need no copy.
    none: Any = None
    reached = jax.lax.cond(
        worth, lambda: go()._replace(residuals=none), lambda: point._replace(residuals=none)
    )._replace(residuals=residuals)
    # Below the noise the trapezoid rule stands in, as for every trust region here.
    slopes = -jnp.sum((point.gradient + reached.gradient) * step)
    ratio = jnp.where(clear, ratio, slopes / jnp.where(promised > 0, promised, jnp.inf))
    below = value <= point.value + point.level
    halved = (reached.left < HALF * point.steepness) & below
    taken = jnp.where(finish, halved, (ratio >= ACCEPT) & (clear | below))
    taken = taken & worth & reached.finite & moved & ~now.stale
    seen = _Seen(ratio, taken, finish, tried, worth)
    return _decide(plan, x, now, reached, offer, wanted, seen)


class _Seen(NamedTuple):
    """What a trial showed."""

    ratio: Array
    taken: Array
    finish: Array
    tried: Array
    worth: Array


def _decide(
    plan: Plan, x: Array, now: Search, reached: Point, offer: _Offer, step: Array, seen: _Seen
) -> Search:
    """Take the trial or not, and say whether the search goes on."""
    point, stale, taken, finish = now.point, now.stale, seen.taken, seen.finish
    # Of a promise within noise a few trials are enough.
    most = jnp.where(point.promise <= point.level, FEW_TRIALS, MAX_TRIALS)
    tries = jnp.where(stale | taken, 0, now.tries + 1)
    lost = ~seen.tried & ~offer.declined & ~finish
    enough = finish & (reached.left <= FINISHED * reached.noise)
    at_noise = finish & jnp.where(taken, enough, point.steepness <= CLOSE * point.noise)
    nothing = (reached.promise == 0) & (stale | taken)
    given_up = ~stale & ~taken & (lost | (tries >= most) | at_noise)
    ended = taken | given_up | (stale & (nothing | ~reached.finite))
    # Where a column or a rank is lost far out, noise alone would call any point finished.
    close = at_noise | (point.promise <= NOISY * point.level)
    finished = (taken & at_noise & _is_short(reached)) | (given_up & close & _is_short(point))
    finished = finished | nothing
    second = seen.worth & reached.looked
    flags = [tries, 0, ended, taken, finished]
    calls = [now.calls[0] + seen.tried, now.calls[1] + seen.worth]
    calls += [now.calls[2] + offer.bends, now.calls[3] + second]
    tuning = _next_tuning(plan.kind, x, now, reached, offer.length, seen)
    return Search(
        select(stale | taken, reached, point),
        jnp.where(taken, step, jnp.zeros_like(step)),
        jnp.stack([*tuning, jnp.where(stale, reached.value, now.origin)]),
        stacked(flags + calls, jnp.int32),
    )


def _next_tuning(
    kind: Kind, x: Array, now: Search, reached: Point, length: Array, seen: _Seen
) -> Tuning:
    """Adapt the tuning; a step of the finish says nothing of it."""
    known = now.tuning.growth > 0
    begun = select(known, now.tuning, kind.first(reached, x))
    after = select(
        seen.taken, kind.taken(now.tuning, seen.ratio, length), kind.refused(now.tuning, length)
    )
    return select(now.stale, begun, select(seen.finish, now.tuning, after))


def _is_short(point: Point) -> Array:
    """Whether the step still to take is less than half the digits of the point."""
    return point.length <= jnp.sqrt(jnp.finfo(point.length.dtype).eps)


def _offer(
    problem: Residuals, plan: Plan, box: Box | None, x: Array, now: Search, finish: Array
) -> _Offer:
    """Make the step of the model, bent along the geodesic where that is wanted."""
    point, size = now.point, now.tuning.size
    model = plan.kind.step(point, size)  # in its basis
    plain = along(point.basis, model)
    move = inside(box, x, plain / point.unit)
    promised = _promise(point, model, move, box)

    def without() -> Array:
        """The step as it is, and the promise of the model that is not followed."""
        step = jnp.where(finish, point.last_step, plain)
        if not plan.adaptive:
            return jnp.append(step, jnp.zeros(2, step.dtype))
        other = -2 * jnp.sum(point.gradient * move) - jnp.sum(times(point.jacobian, move) ** 2)
        return jnp.concatenate([step, other[None], jnp.zeros(1, step.dtype)])

    def bending() -> Array:
        """Step with its bend, the promise with the bend's curvature, is the bend too long?"""
        bend = problem.bend(x, plain / point.unit)
        to_r, _, to_slope, _ = problem.corrected(point.residuals)
        pull = times(to_r * bend, point.jacobian) / point.unit
        half = -0.5 * damped_inverse(point, size) * across(point.basis, pull)
        within = 16 * jnp.sum(half**2) <= ACCELERATION**2 * jnp.sum(model**2)
        step = along(point.basis, model + jnp.where(within, half, 0))
        own = times(to_slope * point.residuals, bend)
        scalars = jnp.stack([promised - own, jnp.where(within, 0, 1).astype(step.dtype)])
        return jnp.concatenate([step, scalars])

    bends = jnp.zeros((), bool)
    if plan.accelerated:
        bends = ~finish & ~now.stale & ~point.second
        told = jax.lax.cond(bends, bending, without)
    else:
        told = without()
    declined = (told[-1] != 0) & (size < MOST_DAMPING)
    return _Offer(told[:-2], norm(model), promised, told[-2], declined, bends)


def _promise(point: Point, model: Array, move: Array, box: Box | None) -> Array:
    """Reduction that the model promises; a step that no bound cuts is known in its basis."""
    if box is None:
        return jnp.sum(model * (-2 * point.slopes - point.curvatures * model))
    along_basis = across(point.basis, point.unit * move)
    bent = jnp.sum(point.curvatures * along_basis**2)
    return -2 * jnp.sum(point.gradient * move) - bent


def _other_model(
    plan: Plan, point: Point, offer: _Offer, reduction: Array, ratio: Array, known: Array
) -> Array:
    """Whether the model not followed would have foretold the reduction much better."""
    if not plan.adaptive:
        return jnp.zeros((), bool)
    followed = jnp.abs(reduction - offer.promised)
    better = jnp.abs(reduction - offer.other) * BETTER < followed
    return known & better & (point.second | (offer.bends & (ratio < GOOD)))


def _moved(problem: Residuals, x: Array, step: Array) -> tuple[Array, Array]:
    """Return the point that optax makes of a step, and the step that leads there."""
    params = problem.tree(x)
    new_x = problem.flat(optax.apply_updates(params, problem.tree(step)))
    return new_x, new_x - x
