"""One accepted step of a least-squares method: trials, their judgement, the next point."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._tree import select
from gradlab._typing import Array
from gradlab.optimizers._fit_point import (
    CLOSE,
    FINISHED,
    Box,
    Point,
    arrive,
    inside,
    norm,
    times,
)
from gradlab.optimizers._fit_steps import MOST_DAMPING, Kind, Tuning, damped_inverse
from gradlab.optimizers._residuals import Residuals
from gradlab.optimizers._trust_region import ACCEPT, MAX_TRIALS, NOISY
from gradlab.optimizers.robust import corrected

__all__ = ["Plan", "Search", "search"]

# Geodesic acceleration is taken, and a step tried at all, only where it is no longer than this
# times the step (Transtrum & Sethna 2012, section 4: α = 0.75).
ACCELERATION = 0.75
# The residuals' own curvature is followed where the model without it erred 1.5 times as much
# (Dennis, Gay & Welsch 1981, NL2SOL), and was no good; and left alone likewise.
BETTER = 1.5
GOOD = 0.75
# A Newton step of the finish must halve the gradient.
HALF = 0.5
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

    `flags` are: trials since the last accepted point, whether the point has still to be
    evaluated, whether the search has ended, whether a step was accepted, whether the run is
    finished. `origin` is the loss where the search began.
    """

    point: Point
    step: Array
    tuning: Tuning
    flags: Array
    calls: Array
    origin: Array

    @property
    def tries(self) -> Array:
        """Trials made from this point."""
        return self.flags[0]

    @property
    def stale(self) -> Array:
        """Whether the point has still to be evaluated."""
        return self.flags[1] != 0

    @property
    def ended(self) -> Array:
        """Whether the search has ended."""
        return self.flags[2] != 0

    @property
    def accepted(self) -> Array:
        """Whether a step was accepted."""
        return self.flags[3] != 0

    @property
    def finished(self) -> Array:
        """Whether the run is finished: nothing is left to gain."""
        return self.flags[4] != 0


def search(
    problem: Residuals,
    plan: Plan,
    box: Box | None,
    x: Array,
    point: Point,
    tuning: Tuning,
    stale: Array,
    least_noise: Array,
) -> Search:
    """Try steps until one is acceptable; first evaluate the point where it is stale.

    The trial point is `optax.apply_updates(params, updates)`, to the bit the one the host
    will have.
    """

    def attempt(now: Search) -> Search:
        return _attempt(problem, plan, box, x, now, least_noise)

    flags = jnp.stack([0, stale, 0, 0, 0]).astype(jnp.int32)
    start = Search(
        point, jnp.zeros_like(x), tuning, flags, jnp.zeros(4, jnp.int32), point.value
    )
    return jax.lax.while_loop(lambda now: ~now.ended, attempt, start)


class _Offer(NamedTuple):
    """A step offered: scaled step, its bend taken in, what the models promise."""

    step: Array
    plain: Array
    second: Array
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
    unit = jnp.where(point.scale > 0, point.scale, 1)
    finish = point.sharp & (now.tries == 0) & ~now.stale
    offer = _offer(problem, plan, box, x, now, finish)
    wanted = inside(box, x, jnp.where(now.stale, 0, offer.step / unit))
    new_x, step = _moved(problem, x, wanted)
    moved = jnp.any(new_x != x)
    # A step whose end would only be thrown away is not evaluated.
    tried = now.stale | (moved & ~offer.declined)
    residuals = jax.lax.cond(tried, problem, lambda _: point.residuals, new_x)
    value = problem.value(residuals)
    reduction = point.value - value
    clear = ~(jnp.abs(reduction) <= NOISY * point.level)
    promised = jnp.where(point.second, offer.second, offer.plain)
    ratio = reduction / jnp.where(promised > 0, promised, jnp.inf)
    good = jnp.isfinite(value) & tried
    worth = good & (now.stale | finish | ~clear | (ratio >= ACCEPT))
    other = _other_model(plan, point, offer, reduction, ratio, clear & good & ~finish)
    second = jnp.where(now.stale, plan.exact, point.second ^ other)

    def go() -> Point:
        return arrive(
            problem, box, new_x, residuals, point, second, finish, least_noise,
            finishing=plan.finishing,
        )  # fmt: skip

    reached = jax.lax.cond(worth, go, lambda: point)
    # Below the noise the trapezoid rule stands in, as for every trust region here.
    slopes = -jnp.sum((point.gradient + reached.gradient) * step)
    ratio = jnp.where(clear, ratio, slopes / jnp.where(promised > 0, promised, jnp.inf))
    below = value <= point.value + point.level
    left = norm(times(point.whitening, point.shrunk(reached.gradient)))
    had = norm(times(point.whitening, point.shrunk(point.gradient)))
    halved = (left < HALF * had) & below
    taken = jnp.where(finish, halved, (ratio >= ACCEPT) & (clear | below))
    taken = taken & worth & reached.finite & moved & ~now.stale
    seen = _Seen(ratio, taken, finish, left, had, tried, worth)
    return _decide(plan, x, now, reached, offer, wanted, seen)


class _Seen(NamedTuple):
    """What a trial showed; `left` and `had` are gradients in the metric of the finish."""

    ratio: Array
    taken: Array
    finish: Array
    left: Array
    had: Array
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
    enough = finish & (seen.left <= FINISHED * reached.noise)
    at_noise = finish & jnp.where(taken, enough, seen.had <= CLOSE * point.noise)
    nothing = (reached.promise == 0) & (stale | taken)
    given_up = ~stale & ~taken & (lost | (tries >= most) | at_noise)
    ended = taken | given_up | (stale & (nothing | ~reached.finite))
    # Where a column or a rank is lost far out, noise alone would call any point finished.
    close = at_noise | (point.promise <= NOISY * point.level)
    finished = (taken & at_noise & _is_short(reached)) | (given_up & close & _is_short(point))
    finished = finished | nothing
    flags = [tries, False, ended, taken, finished]
    second = seen.worth & (reached.second | reached.near) & ~enough
    calls = jnp.stack([seen.tried, seen.worth, offer.bends, second]).astype(jnp.int32)
    return Search(
        select(stale | taken, reached, point),
        jnp.where(taken, step, jnp.zeros_like(step)),
        _next_tuning(plan.kind, x, now, reached, norm(offer.step), seen),
        jnp.stack([jnp.asarray(flag).astype(jnp.int32) for flag in flags]),
        now.calls + calls,
        jnp.where(stale, reached.value, now.origin),
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
    unit = jnp.where(point.scale > 0, point.scale, 1)
    model = plan.kind.step(point, size)
    plain, second = _promises(point, inside(box, x, model / unit), unit)
    no = jnp.zeros((), bool)
    if not plan.accelerated:
        return _Offer(jnp.where(finish, point.last_step, model), plain, second, no, no)
    bends = ~finish & ~now.stale & ~point.second
    bend = jax.lax.cond(
        bends, lambda v: problem.bend(x, v), lambda v: jnp.zeros_like(point.residuals),
        model / unit,
    )  # fmt: skip
    loss = problem.losses(point.residuals)
    pull = times(corrected(point.residuals, loss)[0] * bend, point.jacobian) / unit
    inverse = damped_inverse(point, size)
    acceleration = -times(point.basis, inverse * times(pull, point.basis))
    length, longest = norm(acceleration), norm(model)
    within = 2 * length <= ACCELERATION * longest
    step = jnp.where(bends & within, model + 0.5 * acceleration, model)
    own = jnp.sum(loss.slope * point.residuals * bend)
    return _Offer(
        jnp.where(finish, point.last_step, step),
        plain,
        jnp.where(point.second, second, plain - own),
        bends & ~within & (size < MOST_DAMPING),
        bends,
    )


def _promises(point: Point, step: Array, unit: Array) -> tuple[Array, Array]:
    """Reduction that a step promises without the residuals' own curvature, and by the model."""
    slope = -2 * jnp.sum(point.gradient * step)
    plain = slope - jnp.sum(times(point.jacobian, step) ** 2)
    along = times(unit * step, point.basis)
    return plain, slope - jnp.sum(point.curvatures * along**2)


def _other_model(
    plan: Plan, point: Point, offer: _Offer, reduction: Array, ratio: Array, known: Array
) -> Array:
    """Whether the model not followed would have foretold the reduction much better."""
    if not plan.adaptive:
        return jnp.zeros((), bool)
    plain = jnp.abs(reduction - offer.plain)
    second = jnp.abs(reduction - offer.second)
    take_up = offer.bends & (second * BETTER < plain) & (ratio < GOOD)
    return known & jnp.where(point.second, plain * BETTER < second, take_up)


def _moved(problem: Residuals, x: Array, step: Array) -> tuple[Array, Array]:
    """Return the point that optax makes of a step, and the step that leads there."""
    params = problem.tree(x)
    new_x = problem.flat(optax.apply_updates(params, problem.tree(step)))
    return new_x, new_x - x
