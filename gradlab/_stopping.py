"""When a run ends and what it is called: every stopping test in one place.

Nothing is compared with an absolute number: gradients with the first gradient, values and
steps with their own size, progress with the noise of the loss.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from gradlab._numbers import Counts, Numbers, Precision, Problem
from gradlab._tree import norm, num_params, where
from gradlab._typing import Array, Params
from gradlab.optimizers._noise_level import noise_level
from gradlab.optimizers._protocol import follows_curvature, last_link, looks_at_rest
from gradlab.optimizers._trust_region import FLOOR, NOISY, TrustRegionState
from gradlab.result import Status

__all__ = [
    "default_gtol",
    "judge",
    "start",
]

# A step into NaN is shortened by 1/4 up to 26 times, which is below float64's eps.
SHORTENINGS = 26
# Steps without a better value or gradient before a run that cannot see its own progress
# ends; momentum methods swing for some tens of steps.
PATIENCE = 100
# The same for methods whose every step must lower the loss, up to its noise.
SHORT_PATIENCE = 20
# A loss this power of the largest number below zero, as it is and in units of its start, has no
# bound: well before the squares of what led there overflow.
DEPTH = 3 / 8
# Share of the last gain that a last step may promise: convergence is superlinear then, and
# does not creep along a valley, where each step gains as much as the one before.
SLIGHT = 1e-4
# Relative error of each variable that is left where another Newton step would gain nothing
# in the loss. In float32 it is eight times the rounding; in float64 half the digits are less.
DIGITS = 1e-6
# Factor within which gradients follow the law of a minimum without curvature.
FALLEN = 10
# Loss over its size at the start beyond which a run counts as diverged: what overflows has
# long passed it, what bounces off the wall of a logarithm does not reach it.
GROWTH = 1e6


def start(
    problem: Problem,
    value: Array,
    grad_norm: Array,
    size: Array,
    *,
    settled_by_gradient: bool,
) -> tuple[Numbers, Counts]:
    """Judge the start. A method that knows curvature is let loose on a zero gradient too."""
    unit = jnp.maximum(jnp.abs(value), grad_norm * size)
    numbers = Numbers(
        value, grad_norm, value, grad_norm, value, grad_norm, value, size, size, unit
    )
    usable = numbers.finite & jnp.isfinite(size)
    at_rest = (grad_norm == 0) & settled_by_gradient
    status = where(at_rest, Status.CONVERGED_GRADIENT, Status.RUNNING)
    status = where(usable, status, Status.NONFINITE_START)
    zero = jnp.zeros((), jnp.int32)
    status = _limit(status, zero, problem)
    calls = jnp.array([1, 1, 0, 0], jnp.int32)
    return numbers, Counts(zero, status, zero, zero, zero - 1, calls)


def judge(
    problem: Problem,
    precision: Precision,
    old: Numbers,
    counts: Counts,
    value: Array,
    grad_norm: Array,
    length: Array,
    params: Params,
    made: Array,
    state: Any,
) -> tuple[Numbers, Counts, Array]:
    """Judge the point an iteration reached: new numbers, new counts, is it the best yet."""
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
    better = finite & (value < old.best_value)
    improved = better | (finite & (grad_norm < old.best_grad_norm))
    at_rest_before = (counts.step == 0) & (old.reference == 0)
    own = last_link(state)
    knows = follows_curvature(state)
    moved = ~own.failed if knows else finite
    last_value = where(old.finite, old.value, old.last_value)
    measured = knows or problem.xtol is not None
    size = norm(params).astype(value.dtype) if measured else old.size
    numbers = Numbers(
        value,
        grad_norm,
        where(better, value, old.best_value),
        where(
            finite & improved, jnp.minimum(grad_norm, old.best_grad_norm), old.best_grad_norm
        ),
        old.start_value,
        where(at_rest_before, grad_norm, old.reference),
        last_value,
        size,
        jnp.maximum(size, old.largest_size),
        where(old.unit > 0, old.unit, jnp.abs(value)),
    )
    new = Counts(
        counts.step + moved,
        jnp.full((), Status.RUNNING, jnp.int32),
        where(improved, 0, counts.since_best + 1),
        where(finite, 0, counts.shortenings + 1),
        counts.pending,
        counts.calls + made,
    )
    level = noise_level(old.value, value, problem.noise, precision.loss)
    if knows:
        status = _exhausted(precision, level, old, numbers, new, own)
    else:
        status = _stalled(problem, precision, numbers, new)
    gtol, settled = problem.gtol, jnp.ones((), bool)
    if gtol is None:
        gtol = default_gtol(value.dtype, knows)
        if knows:
            settled = _settled(precision, old, numbers, level, length, own)
    status = _converged(problem, gtol, numbers, moved, length, settled, status)
    if knows:
        status = _no_saddle(status, num_params(params), own)
    searched = hasattr(own, "value") and hasattr(own, "grad") and own.grad is not None
    status = _broken(numbers, new, finite, searched, status)
    if looks_at_rest(state):
        settled = _settled_at_rest(precision, numbers, level, num_params(params), own)
        floor = _at_floor(precision, own)
        status, pending = _confirmed(counts.pending, status, moved, settled, floor, numbers)
        new = new._replace(pending=pending)
    return numbers, new._replace(status=_limit(status, new.step, problem)), better


def _exhausted(
    precision: Precision,
    level: Array,
    old: Numbers,
    numbers: Numbers,
    counts: Counts,
    own: Any,
) -> Array:
    """End a run whose quadratic model promises no more than the noise of the loss.

    It goes on while the gradient, which can see below that noise, still halves. Where no
    step was found, or none has led to a better point for long, the run ends anyway: at the
    noise floor if the model promises next to nothing or the gradient is what rounding the
    point leaves of it, else stuck.
    """
    improving = ~own.failed & (numbers.grad_norm <= 0.5 * old.grad_norm)
    close = own.decrement <= NOISY * level
    close |= _at_floor(precision, own)
    over = own.failed | (counts.since_best >= SHORT_PATIENCE)
    status = where(over, Status.STUCK, Status.RUNNING)
    done = ((own.decrement <= level) & ~improving) | (over & close)
    return where(done, Status.NOISE_FLOOR, status)


def _at_floor(precision: Precision, own: Any) -> Array:
    """Whether the gradient is what rounding the point leaves of it, by the Hessian.

    A curvature from differences of gradients is too large beside a kink to be asked.
    """
    if not isinstance(own, TrustRegionState):
        return jnp.zeros((), bool)
    return jnp.asarray(own.loudness) * precision.params <= FLOOR * precision.grad


def _settled(
    precision: Precision, old: Numbers, numbers: Numbers, level: Array, length: Array, own: Any
) -> Array:
    """Whether a small gradient is a minimum's, and not just far below that of a far start.

    It is if the model promises no more than noise. Or if the Newton step still to take is
    short beside the digits of the point, so that the step after it would be lost in
    rounding, and its gain is little beside the last one. Or if that step and the last one
    are nothing beside the path taken: minima without curvature are approached linearly.
    """
    slight = own.decrement <= SLIGHT * jnp.maximum(NOISY * level, old.value - numbers.value)
    quiet = own.decrement <= level
    longest = jnp.maximum(own.remaining, length)
    nothing = longest <= min(precision.grad ** (4 / 5), DIGITS) * numbers.largest_size
    nothing &= own.decrement < jnp.inf  # or nobody knows how far it is
    if isinstance(own, TrustRegionState) and not looks_at_rest(own):
        # With the whole Hessian the next step costs one more and doubles the digits, so it is
        # taken while they are few, in any one variable, and the gradient still falls. (At half
        # of them, not five eighths, a fit of NIST's Hahn1 ends with 8 digits, not 11.)
        inexact = jnp.maximum(
            own.remaining / where(numbers.size > 0, numbers.size, 1),
            own.loudness * precision.params,
        )
        # Of the variable that has the fewest.
        least = jnp.maximum(inexact, own.inexact)
        improving = ~own.failed & (numbers.grad_norm <= 0.5 * old.grad_norm)
        quiet &= ~improving | (least <= min(precision.grad ** (5 / 8), DIGITS))
        short = slight & (inexact <= min(precision.grad ** (2 / 3), DIGITS))
        # A gradient without curvature falls with the square of the distance and faster. A path
        # that led far away and back to a valley makes steps small, but not the gradient.
        share = longest / where(numbers.largest_size > 0, numbers.largest_size, 1)
        nothing &= numbers.grad_norm <= FALLEN * share**2 * numbers.reference
    else:
        short = slight & (own.remaining <= precision.grad ** (1 / 2) * numbers.size)
        if looks_at_rest(own):
            nothing |= _at_zero(precision, numbers)
    return quiet | short | nothing | (numbers.grad_norm == 0)


def _at_zero(precision: Precision, numbers: Numbers) -> Array:
    """Whether the minimum is at zero as far as the digits of the path tell.

    Relative to its own size a point on its way there is never near.
    """
    nowhere = numbers.size <= precision.grad * numbers.largest_size
    return nowhere & (numbers.grad_norm <= precision.grad * numbers.reference)


def _no_saddle(status: Array, num_params: int, own: Any) -> Array:
    """Go on where curvature was negative at the point the step came from.

    Where no step was found although it is negative by more than half the digits, the point
    is no minimum, and that is said.
    """
    eps = jnp.finfo(own.curvature.dtype).eps
    negative = own.curvature < -num_params * eps * own.stiffness
    clearly = own.curvature < -(eps**0.5) * own.stiffness
    success = status <= Status.NOISE_FLOOR
    going_on = success & negative & ~own.failed
    status = where(going_on, Status.RUNNING, status)
    refused = success & clearly & own.failed
    return where(refused, Status.STATIONARY_NOT_MINIMUM, status)


def _settled_at_rest(
    precision: Precision, numbers: Numbers, level: Array, num_params: int, own: Any
) -> Array:
    """Whether a gradient is settled by the least curvature that a look at rest has met.

    No Newton step is longer than ‖g‖ over that curvature, and none gains more than half
    their product. Below half the digits of the largest curvature conjugate gradients do not
    resolve the least. It may be as small as rounding, of which `loudness` knows entry by
    entry: badly scaled variables have curvatures far below the rounding of the largest.
    """
    eps = jnp.finfo(own.curvature.dtype).eps
    resolved = own.curvature > eps**0.5 * own.stiffness
    curvature = where(resolved, own.curvature, 1)
    lost = own.loudness * numbers.size / num_params
    step = where(resolved, numbers.grad_norm / curvature, lost)
    short = step <= precision.grad**0.5 * numbers.size
    # Of the path only where no curvature tells, for from a far start most of the way is
    # nothing beside it; or where the path has led to zero.
    share = step / where(numbers.largest_size > 0, numbers.largest_size, 1)
    nothing = ~resolved & (share <= precision.grad ** (2 / 3))
    nothing |= _at_zero(precision, numbers) & (share <= precision.grad)
    # A bound that rests on rounding is never as close as one that rests on a curvature.
    level = where(resolved, level, NOISY * level)
    return short | nothing | (0.5 * step * numbers.grad_norm <= level)


def _confirmed(
    pending: Array,
    status: Array,
    moved: Array,
    settled: Array,
    floor: Array,
    numbers: Numbers,
) -> tuple[Array, Array]:
    """Let a success wait for a look at the point at rest: the status, and what is pending.

    The look ends without a step where it finds no negative curvature. Where what it finds
    does not settle the gradient, the run goes on; if no step had been found, it is at its
    floor or stuck. A gradient that is exactly zero has been looked at already.
    """
    looked = (pending != -1) & ~moved
    no_step = pending < -1
    success = where(no_step, -2 - pending, pending)
    refused = where(no_step, Status.STUCK, Status.RUNNING)
    settled |= (no_step & floor) | (numbers.grad_norm == 0)
    told = where(settled, success, refused)
    told = where(status == Status.STATIONARY_NOT_MINIMUM, status, told)
    asked = (status <= Status.NOISE_FLOOR) & ~looked & (moved | (numbers.grad_norm > 0))
    waiting = where(moved, status, -2 - status)
    status = where(looked, told, where(asked, Status.RUNNING, status))
    return status, where(asked, waiting, -1).astype(jnp.int32)


def _stalled(problem: Problem, precision: Precision, numbers: Numbers, counts: Counts) -> Array:
    """End a run that neither lowers its loss nor its gradient any more.

    Without a model of the loss, the dtype's own gtol tells a floor from a dead end.
    """
    level = noise_level(numbers.value, numbers.best_value, problem.noise, precision.loss)
    near_best = jnp.abs(numbers.value - numbers.best_value) <= 10 * level
    stalled = (counts.since_best >= PATIENCE) & near_best
    relative: Any = precision.grad
    if problem.noise is not None:
        size = jnp.abs(numbers.value)
        relative = jnp.maximum(relative, level / where(size > 0, size, level))
    small = numbers.best_grad_norm <= jnp.sqrt(relative) * numbers.reference
    ended = where(small, Status.NOISE_FLOOR, Status.STUCK)
    return where(stalled, ended, Status.RUNNING)


def default_gtol(dtype: Any, follows_curvature: bool) -> float:
    """Gradient tolerance relative to the first gradient, where none was asked for.

    √eps is half the digits. A method that knows curvature gains the next digits in a step
    or two, so it is sent on to eps^(2/3); a third of the digits is left for what cancels
    in the gradient itself.
    """
    return float(jnp.finfo(dtype).eps) ** (2 / 3 if follows_curvature else 1 / 2)


def _converged(
    problem: Problem,
    gtol: Array | float,
    numbers: Numbers,
    moved: Array,
    length: Array,
    settled: Array,
    status: Array,
) -> Array:
    """Apply the tests asked for, weakest first: later ones overrule earlier ones."""
    if problem.xtol is not None:
        short = moved & (length > 0) & (length <= problem.xtol * numbers.size)
        status = where(short, Status.CONVERGED_STEP, status)
    if problem.ftol is not None:
        change = jnp.abs(numbers.value - numbers.last_value)
        small = moved & (length > 0) & (change <= problem.ftol * jnp.abs(numbers.value))
        status = where(small, Status.CONVERGED_VALUE, status)
    flat = (numbers.grad_norm <= gtol * numbers.reference) & settled
    return where(flat, Status.CONVERGED_GRADIENT, status)


def _broken(
    numbers: Numbers, counts: Counts, finite: Array, searched: bool, status: Array
) -> Array:
    """End a run at a point that is not finite, unless a shorter step can still be tried.

    A loss that has sunk below all measure, and of its start (see DEPTH), has no lower bound;
    nor one that broke off when it had sunk below all measure of its start. That alone proves
    nothing: in the tail of a bump the start is no measure of the bump.
    """
    usual = jnp.maximum(jnp.abs(numbers.start_value), jnp.abs(numbers.best_value))
    hopeful = (counts.shortenings <= SHORTENINGS) & (numbers.last_value <= GROWTH * usual)
    going_on = jnp.zeros((), bool) if searched else hopeful
    broken = where(going_on, Status.RUNNING, Status.NONFINITE_LOSS)
    status = where(finite, status, broken)
    depth = float(jnp.finfo(numbers.value.dtype).max) ** DEPTH
    sunk = (numbers.best_value <= -depth * numbers.unit) & (numbers.unit > 0)
    sunk &= (numbers.best_value <= -depth) | (status == Status.NONFINITE_LOSS)
    return where(sunk, Status.UNBOUNDED, status)


def _limit(status: Array, step: Array, problem: Problem) -> Array:
    """Turn a running status into MAX_STEPS once the steps are used up."""
    over = (status == Status.RUNNING) & (step >= problem.max_steps)
    return where(over, Status.MAX_STEPS, status).astype(jnp.int32)
