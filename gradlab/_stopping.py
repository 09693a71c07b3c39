"""When a run ends and what it is called: every stopping test in one place.

Nothing is compared with an absolute number: gradients with the first gradient, values and
steps with their own size, progress with the noise of the loss.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab._tree import add_scaled, max_abs, norm, num_params
from gradlab._typing import AnyArray, Array, Params
from gradlab.optimizers._protocol import follows_curvature, last_link, looks_at_rest
from gradlab.optimizers._trust_region import NOISY, noise_level
from gradlab.result import Status

__all__ = [
    "AROUND",
    "Counts",
    "Numbers",
    "Precision",
    "Problem",
    "judge",
    "look_around",
    "row",
    "start",
]

# A step into NaN is shortened by 1/4 up to 26 times, which is below float64's eps.
SHORTENINGS = 26
# Steps without a better value or gradient before a run that cannot see its own progress
# ends; momentum methods swing for some tens of steps.
PATIENCE = 100
# The same for methods whose every step must lower the loss, up to its noise.
SHORT_PATIENCE = 20
# Gradients below this multiple of eps·‖H‖·‖x‖ are what rounding the point leaves.
FLOOR = 10
# Loss over its size at the start beyond which a run counts as diverged: what overflows has
# long passed it, what bounces off the wall of a logarithm does not reach it.
GROWTH = 1e6
# Directions in which a point of zero gradient is looked at, and lengths along each.
DIRECTIONS, LENGTHS = 16, (-1e-1, -1e-3, 1e-3, 1e-1)
# Losses that takes.
AROUND = 1 + DIRECTIONS * len(LENGTHS)


class Problem(NamedTuple):
    """The traced inputs of a run.

    `gtol` None means the dtype's own; the other tests are off where they are None.
    """

    args: tuple[Any, ...]
    hyperparams: dict[str, Any]
    gtol: Array | float | None
    ftol: Array | float | None
    xtol: Array | float | None
    noise: Array | float | None
    max_steps: AnyArray


class Numbers(NamedTuple):
    """Real numbers of a run, packed in one vector between iterations.

    `largest_size` is the largest norm of the points so far, kept for methods that know
    curvature.
    """

    value: Array
    grad_norm: Array
    best_value: Array
    best_grad_norm: Array
    start_value: Array
    reference: Array
    last_value: Array
    size: Array
    largest_size: Array

    @classmethod
    def of(cls, packed: AnyArray) -> Numbers:
        """Unpack."""
        return cls(*(packed[i] for i in range(len(cls._fields))))

    def pack(self) -> Array:
        """Stack into a vector."""
        return jnp.stack(self)

    @property
    def finite(self) -> Array:
        """Whether loss and gradient are finite at the point."""
        return jnp.isfinite(self.value) & jnp.isfinite(self.grad_norm)


class Precision(NamedTuple):
    """Relative rounding errors of a run, known when it is compiled: of loss and gradient."""

    loss: float
    grad: float


class Counts(NamedTuple):
    """Whole numbers of a run, packed in one vector between iterations.

    `pending` is the success that stands once no negative curvature is found, or -1;
    `calls` counts evaluations: losses, gradients, Hessian-vector products, Hessians.
    """

    step: Array
    status: Array
    since_best: Array
    shortenings: Array
    pending: Array
    calls: Array

    @classmethod
    def of(cls, packed: AnyArray) -> Counts:
        """Unpack."""
        parts: Any = (packed[0], packed[1], packed[2], packed[3], packed[4], packed[5:9])
        return cls(*parts)

    def pack(self) -> Array:
        """Stack into a vector."""
        return jnp.concatenate([jnp.stack(self[:5]).astype(jnp.int32), self.calls])


def row(numbers: Numbers, length: Array) -> Array:
    """The history row of a point: loss, gradient norm, length of the step to it."""
    return jnp.stack([numbers.value, numbers.grad_norm, length])


def start(
    problem: Problem,
    value: Array,
    grad_norm: Array,
    size: Array,
    *,
    settled_by_gradient: bool,
) -> tuple[Numbers, Counts]:
    """Judge the start. A method that knows curvature is let loose on a zero gradient too."""
    numbers = Numbers(value, grad_norm, value, grad_norm, value, grad_norm, value, size, size)
    usable = numbers.finite & jnp.isfinite(size)
    at_rest = (grad_norm == 0) & settled_by_gradient
    status = jnp.where(at_rest, Status.CONVERGED_GRADIENT, Status.RUNNING)
    status = jnp.where(usable, status, Status.NONFINITE_START)
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
    last_value = jnp.where(old.finite, old.value, old.last_value)
    measured = knows or problem.xtol is not None
    size = norm(params).astype(value.dtype) if measured else old.size
    numbers = Numbers(
        value,
        grad_norm,
        jnp.where(better, value, old.best_value),
        jnp.where(
            finite & improved, jnp.minimum(grad_norm, old.best_grad_norm), old.best_grad_norm
        ),
        old.start_value,
        jnp.where(at_rest_before, grad_norm, old.reference),
        last_value,
        size,
        jnp.maximum(size, old.largest_size),
    )
    new = Counts(
        counts.step + moved,
        jnp.full((), Status.RUNNING, jnp.int32),
        jnp.where(improved, 0, counts.since_best + 1),
        jnp.where(finite, 0, counts.shortenings + 1),
        counts.pending,
        counts.calls + made,
    )
    level = noise_level(old.value, value, problem.noise, precision.loss)
    if knows:
        status = _exhausted(precision, level, old, numbers, new, own, params)
    else:
        status = _stalled(problem, precision, numbers, new)
    gtol, settled = problem.gtol, jnp.ones((), bool)
    if gtol is None:
        gtol = default_gtol(value.dtype, knows)
        settled = _settled(precision, numbers, level, own) if knows else settled
    status = _converged(problem, gtol, numbers, moved, length, settled, status)
    if knows:
        status = _no_saddle(status, num_params(params), own)
    searched = hasattr(own, "value") and hasattr(own, "grad") and own.grad is not None
    status = _broken(numbers, new, finite, searched, status)
    if looks_at_rest(state):
        status, pending = _confirmed(counts.pending, status, moved, numbers)
        new = new._replace(pending=pending)
    return numbers, new._replace(status=_limit(status, new.step, problem)), better


def _exhausted(
    precision: Precision,
    level: Array,
    old: Numbers,
    numbers: Numbers,
    counts: Counts,
    own: Any,
    params: Params,
) -> Array:
    """End a run whose quadratic model promises no more than the noise of the loss.

    It goes on while the gradient, which can see below that noise, still halves. Where no
    step was found, or none has led to a better point for long, the run ends anyway: at the
    noise floor if the model promises next to nothing or the gradient is what rounding the
    point leaves of it, else stuck.
    """
    improving = ~own.failed & (numbers.grad_norm <= 0.5 * old.grad_norm)
    floor = FLOOR * precision.grad * own.stiffness * max_abs(params)
    close = (own.decrement <= NOISY * level) | (numbers.grad_norm <= floor)
    over = own.failed | (counts.since_best >= SHORT_PATIENCE)
    status = jnp.where(over, Status.STUCK, Status.RUNNING)
    done = ((own.decrement <= level) & ~improving) | (over & close)
    return jnp.where(done, Status.NOISE_FLOOR, status)


def _settled(precision: Precision, numbers: Numbers, level: Array, own: Any) -> Array:
    """Whether a small gradient is a minimum's, and not just far below that of a far start.

    It is if the model promises no more than noise, or if the Newton step still to take is
    short: less than half the digits of the point, so that the step after it would be lost
    in rounding, or nothing beside the path taken (a minimum without curvature, or at zero).
    """
    short = own.remaining <= precision.grad**0.5 * numbers.size
    nothing = own.remaining <= precision.grad ** (2 / 3) * numbers.largest_size
    return (own.decrement <= level) | short | nothing | (numbers.grad_norm == 0)


def _no_saddle(status: Array, num_params: int, own: Any) -> Array:
    """Go on where curvature was negative beyond rounding at the point the step came from."""
    rounding = num_params * jnp.finfo(own.curvature.dtype).eps * own.stiffness
    doubtful = (status <= Status.NOISE_FLOOR) & (own.curvature < -rounding) & ~own.failed
    return jnp.where(doubtful, Status.RUNNING, status)


def _confirmed(
    pending: Array, status: Array, moved: Array, numbers: Numbers
) -> tuple[Array, Array]:
    """Let a success wait for a look at the point at rest: the status, and what is pending.

    The look ends without a step where it finds no negative curvature; a gradient that is
    exactly zero has been looked at already.
    """
    looked = (pending >= 0) & ~moved
    asked = (status <= Status.NOISE_FLOOR) & ~looked & (moved | (numbers.grad_norm > 0))
    pending_now = jnp.where(asked, status, -1).astype(jnp.int32)
    status = jnp.where(looked, pending, status)
    return jnp.where(asked, Status.RUNNING, status), pending_now


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
        relative = jnp.maximum(relative, level / jnp.where(size > 0, size, level))
    small = numbers.best_grad_norm <= jnp.sqrt(relative) * numbers.reference
    ended = jnp.where(small, Status.NOISE_FLOOR, Status.STUCK)
    return jnp.where(stalled, ended, Status.RUNNING)


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
        status = jnp.where(short, Status.CONVERGED_STEP, status)
    if problem.ftol is not None:
        change = jnp.abs(numbers.value - numbers.last_value)
        small = moved & (length > 0) & (change <= problem.ftol * jnp.abs(numbers.value))
        status = jnp.where(small, Status.CONVERGED_VALUE, status)
    flat = (numbers.grad_norm <= gtol * numbers.reference) & settled
    return jnp.where(flat, Status.CONVERGED_GRADIENT, status)


def _broken(
    numbers: Numbers, counts: Counts, finite: Array, searched: bool, status: Array
) -> Array:
    """End a run at a point that is not finite, unless a shorter step can still be tried.

    A loss that has sunk below its start by the square root of the largest number, in units
    of what it was there, has no lower bound.

    A run whose loss had grown a million times when it met NaN has diverged and is not
    shortened; nor is one whose method searched along its step already.
    """
    start = jnp.abs(numbers.start_value)
    usual = jnp.maximum(start, jnp.abs(numbers.best_value))
    hopeful = (counts.shortenings <= SHORTENINGS) & (numbers.last_value <= GROWTH * usual)
    going_on = jnp.zeros((), bool) if searched else hopeful
    broken = jnp.where(going_on, Status.RUNNING, Status.NONFINITE_LOSS)
    status = jnp.where(finite, status, broken)
    unit = jnp.maximum(start, numbers.reference * numbers.largest_size)
    depth = float(jnp.finfo(numbers.value.dtype).max) ** 0.5 * jnp.where(unit > 0, unit, 1)
    bottomless = numbers.value <= -depth
    return jnp.where(bottomless, Status.UNBOUNDED, status)


def _limit(status: Array, step: Array, problem: Problem) -> Array:
    """Turn a running status into MAX_STEPS once the steps are used up."""
    over = (status == Status.RUNNING) & (step >= problem.max_steps)
    return jnp.where(over, Status.MAX_STEPS, status).astype(jnp.int32)


def look_around(value_fn: Any, x: Params, noise: Array | float | None) -> Array:
    """Judge a point of zero gradient by values around it: a status.

    Sixteen pseudo-random directions, forward and back at two lengths, relative to the
    point's own: a lower value says saddle or maximum, no change at all says flat.
    """
    value = value_fn(x)
    own = norm(x)
    own = jnp.where(own > 0, own, 1)
    leaves, structure = jax.tree.flatten(x)

    def around(key: Array) -> Array:
        keys = jax.random.split(key, len(leaves))
        normal = [
            jax.random.normal(k, v.shape, v.dtype) for k, v in zip(keys, leaves, strict=True)
        ]
        direction = jax.tree.unflatten(structure, normal)
        scales = jnp.array(LENGTHS) * own / norm(direction)
        return jax.lax.map(lambda s: value_fn(add_scaled(x, s, direction)), scales)

    values = jax.lax.map(around, jax.random.split(jax.random.key(0), DIRECTIONS))
    level = noise_level(value, value, noise)
    lower = jnp.any(values < value - level)
    flat = jnp.all(jnp.abs(values - value) <= level)
    status = jnp.where(flat, Status.FLAT, Status.CONVERGED_GRADIENT)
    return jnp.where(lower, Status.STATIONARY_NOT_MINIMUM, status).astype(jnp.int32)
