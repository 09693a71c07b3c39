"""When a run ends and what it is called: every stopping test in one place.

Nothing is compared with an absolute number: gradients with the first gradient, values and
steps with their own size, progress with the noise of the loss.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab._tree import add_scaled, norm
from gradlab._typing import AnyArray, Array, Params
from gradlab.optimizers._protocol import last_link
from gradlab.optimizers._trust_region import TrustRegionState, noise_level
from gradlab.result import Status

__all__ = ["AROUND", "Counts", "Numbers", "Problem", "judge", "look_around", "row", "start"]

# A step into NaN is shortened by 1/4 up to 26 times, which is below float64's eps.
SHORTENINGS = 26
# Steps without a better value or gradient before a run that cannot see its own progress
# ends; momentum methods swing for some tens of steps.
PATIENCE = 100
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
    """Real numbers of a run, packed in one vector between iterations."""

    value: Array
    grad_norm: Array
    best_value: Array
    best_grad_norm: Array
    start_value: Array
    reference: Array
    last_value: Array

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


class Counts(NamedTuple):
    """Whole numbers of a run, packed in one vector between iterations.

    `calls` counts evaluations: losses, gradients, Hessian-vector products, Hessians.
    """

    step: Array
    status: Array
    since_best: Array
    shortenings: Array
    calls: Array

    @classmethod
    def of(cls, packed: AnyArray) -> Counts:
        """Unpack."""
        parts: Any = (packed[0], packed[1], packed[2], packed[3], packed[4:8])
        return cls(*parts)

    def pack(self) -> Array:
        """Stack into a vector."""
        return jnp.concatenate([jnp.stack(self[:4]).astype(jnp.int32), self.calls])


def row(numbers: Numbers, length: Array) -> Array:
    """The history row of a point: loss, gradient norm, length of the step to it."""
    return jnp.stack([numbers.value, numbers.grad_norm, length])


def start(
    problem: Problem,
    value: Array,
    grad_norm: Array,
    start_finite: Array,
    *,
    settled_by_gradient: bool,
) -> tuple[Numbers, Counts]:
    """Judge the start. A method that knows curvature is let loose on a zero gradient too."""
    numbers = Numbers(value, grad_norm, value, grad_norm, value, grad_norm, value)
    usable = numbers.finite & start_finite
    at_rest = (grad_norm == 0) & settled_by_gradient
    status = jnp.where(at_rest, Status.CONVERGED_GRADIENT, Status.RUNNING)
    status = jnp.where(usable, status, Status.NONFINITE_START)
    zero = jnp.zeros((), jnp.int32)
    status = _limit(status, zero, problem)
    return numbers, Counts(zero, status, zero, zero, jnp.array([1, 1, 0, 0], jnp.int32))


def judge(
    problem: Problem,
    old: Numbers,
    counts: Counts,
    value: Array,
    grad_norm: Array,
    length: Array,
    point_norm: Array | None,
    made: Array,
    state: Any,
) -> tuple[Numbers, Counts, Array]:
    """Judge the point an iteration reached: new numbers, new counts, is it the best yet."""
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
    better = finite & (value < old.best_value)
    improved = better | (finite & (grad_norm < old.best_grad_norm))
    at_rest_before = (counts.step == 0) & (old.reference == 0)
    own = last_link(state)
    knows = isinstance(own, TrustRegionState)
    moved = ~own.failed if knows else finite
    last_value = jnp.where(old.finite, old.value, old.last_value)
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
    )
    new = Counts(
        counts.step + moved,
        jnp.full((), Status.RUNNING, jnp.int32),
        jnp.where(improved, 0, counts.since_best + 1),
        jnp.where(finite, 0, counts.shortenings + 1),
        counts.calls + made,
    )
    if knows:
        status = _exhausted(problem, old, numbers, own)
    else:
        status = _stalled(problem, numbers, new)
    gtol = default_gtol(value.dtype, knows) if problem.gtol is None else problem.gtol
    status = _converged(problem, gtol, numbers, moved, length, point_norm, status)
    searched = hasattr(own, "value") and hasattr(own, "grad") and own.grad is not None
    status = _broken(numbers, new, finite, searched, status)
    return numbers, new._replace(status=_limit(status, new.step, problem)), better


def _exhausted(
    problem: Problem, old: Numbers, numbers: Numbers, own: TrustRegionState
) -> Array:
    """End a run whose whole quadratic model promises no more than the noise of the loss.

    It goes on while the gradient, which can see below that noise, still halves.
    """
    level = noise_level(old.value, numbers.value, problem.noise)
    improving = ~own.failed & (numbers.grad_norm <= 0.5 * old.grad_norm)
    status = jnp.where(own.failed, Status.STUCK, Status.RUNNING)
    return jnp.where((own.decrement <= level) & ~improving, Status.NOISE_FLOOR, status)


def _stalled(problem: Problem, numbers: Numbers, counts: Counts) -> Array:
    """End a run that neither lowers its loss nor its gradient any more.

    Without a model of the loss, the dtype's own gtol tells a floor from a dead end.
    """
    level = noise_level(numbers.value, numbers.best_value, problem.noise)
    near_best = jnp.abs(numbers.value - numbers.best_value) <= 10 * level
    stalled = (counts.since_best >= PATIENCE) & near_best
    relative: Any = jnp.finfo(level.dtype).eps
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
    point_norm: Array | None,
    status: Array,
) -> Array:
    """Apply the tests asked for, weakest first: later ones overrule earlier ones."""
    if problem.xtol is not None and point_norm is not None:
        short = moved & (length > 0) & (length <= problem.xtol * point_norm)
        status = jnp.where(short, Status.CONVERGED_STEP, status)
    if problem.ftol is not None:
        change = jnp.abs(numbers.value - numbers.last_value)
        small = moved & (length > 0) & (change <= problem.ftol * jnp.abs(numbers.value))
        status = jnp.where(small, Status.CONVERGED_VALUE, status)
    flat = numbers.grad_norm <= gtol * numbers.reference
    return jnp.where(flat, Status.CONVERGED_GRADIENT, status)


def _broken(
    numbers: Numbers, counts: Counts, finite: Array, searched: bool, status: Array
) -> Array:
    """End a run at a point that is not finite, unless a shorter step can still be tried.

    A run whose loss had grown a million times when it met NaN has diverged and is not
    shortened; nor is one whose method searched along its step already.
    """
    usual = jnp.maximum(jnp.abs(numbers.start_value), jnp.abs(numbers.best_value))
    hopeful = (counts.shortenings <= SHORTENINGS) & (numbers.last_value <= GROWTH * usual)
    going_on = jnp.zeros((), bool) if searched else hopeful
    broken = jnp.where(going_on, Status.RUNNING, Status.NONFINITE_LOSS)
    status = jnp.where(finite, status, broken)
    return jnp.where(numbers.value == -jnp.inf, Status.UNBOUNDED, status)


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
