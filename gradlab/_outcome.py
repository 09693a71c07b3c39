"""From the loop's last carry to a `Result`: the answer, the status, the true counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab import _driver as driver
from gradlab import _engine as engine
from gradlab._certify_curvature import DENSE, MOST_PRODUCTS
from gradlab._numbers import Counts, Numbers, Problem
from gradlab._programs import compiled, inline
from gradlab._stopping import FALLEN, default_gtol
from gradlab._tree import any_lane, num_params, select
from gradlab._typing import Params
from gradlab.certificate import Certificate, Kind
from gradlab.optimizers._protocol import follows_curvature, last_link, looks_at_rest, vouches
from gradlab.optimizers._truncated_cg import AT_REST
from gradlab.optimizers._trust_region import NOISY, TrustRegionState
from gradlab.result import Result, Status
from gradlab.trace import Trace

__all__ = ["outcome", "trace_of"]

# Share of the whole descent that a last step onto flat ground may have. Newton's steps down an
# exponential tail, the slowest descent to level out, gain e times less each: this is five.
LEAP = 1e-2


def outcome(
    program: engine.Program,
    problem: Problem,
    carry: engine.Carry,
    history: driver.History | None,
    traced: bool,
    unpack: Callable[[Any], Params],
) -> Result:
    """Choose the answer, settle the status, and translate the counts.

    The answer is the last point where that passed the run's test, else the best point seen.
    A method that follows curvature takes no step upwards, so where it is stuck the last point
    is the best, and what is examined. Nothing of this hangs on the certificate, so a compiled
    program that wants nothing but the answer does without that.

    `history` is None when the run happened inside somebody's `jit` or `vmap`.
    """
    from_python = history is not None
    if from_python:  # eager JAX operations would cost more than the rest of a short run
        small = jax.device_get((carry.numbers, carry.counts))
        carry = carry._replace(numbers=small[0], counts=small[1])
    numbers = Numbers.of(carry.numbers)
    status, certificate = _examined(program, problem, carry, from_python)
    passed = carry.status <= Status.NOISE_FLOOR
    if follows_curvature(carry.state):
        passed = passed | (carry.status == Status.STUCK)
    choose = _choose if from_python else select
    x = choose(passed, carry.params, carry.best_params)
    fun = choose(passed, numbers.value, numbers.best_value).astype(carry.loss_dtype.dtype)
    at_last = passed | (numbers.value == numbers.best_value)
    grad = _gradient(program, problem, carry, x, at_last, from_python)
    translation = _translation(program, carry.params)
    counts = Counts.of(carry.counts)
    aux = None
    if program.has_aux:
        aux = _function(program, "aux", from_python)(problem.args, x)
    once = np.array([1, 1, 0, 0], np.int32)
    afterwards = once * (1 - at_last) + np.array([program.has_aux, 0, 0, 0], np.int32)
    totals = (counts.calls + afterwards) @ translation
    return Result(
        x=unpack(x),
        fun=fun,
        grad=unpack(grad),
        aux=aux,
        status=status,
        nit=counts.step,
        nfev=totals[0],
        ngev=totals[1],
        nhev=totals[3],
        nhvp=totals[2],
        trace=_trace(carry, history, translation, unpack) if traced else None,
        state=carry.state,
        certificate=certificate,
    )


def trace_of(program: engine.Program, carry: engine.Carry) -> Trace:
    """Return the trace of a run inside somebody's trace."""
    return _trace(carry, None, _translation(program, carry.params), lambda x: x)


def _choose(condition: Any, new: Any, old: Any) -> Any:
    """Like `select`, for a condition already known."""
    return new if condition else old


def _function(program: engine.Program, name: str, from_python: bool) -> Callable[..., Any]:
    """Return a function of the program: compiled from Python, inline within a trace."""
    return getattr(compiled(program) if from_python else inline(program), name)


def _gradient(
    program: engine.Program,
    problem: Problem,
    carry: engine.Carry,
    x: Params,
    at_last: Any,
    from_python: bool,
) -> Params:
    """Gradient at the answer: at hand at the last point, else evaluated once more."""
    grad = _function(program, "gradient", from_python)
    if from_python:
        return carry.grad if at_last else grad(problem.args, x)
    return jax.lax.cond(at_last, lambda: carry.grad, lambda: grad(problem.args, x))


def _examined(
    program: engine.Program, problem: Problem, carry: engine.Carry, from_python: bool
) -> tuple[Any, Certificate]:
    """Examine an answer before calling it a success: status and certificate.

    A method may vouch for its answers by itself, see `_vouched`; then only a jump right beside
    the point, which no derivative shows, is looked for. Where a run is stuck the look tells a
    minimum or a saddle from a dead end.
    """
    numbers, own = Numbers.of(carry.numbers), last_link(carry.state)
    if from_python and isinstance(own, TrustRegionState):  # as above
        own = own._replace(model=jax.device_get(own.model))
    told = _told_by_method(carry, numbers, own)
    stuck = carry.status == Status.STUCK
    doubtful = carry.status <= Status.NOISE_FLOOR
    if vouches(own) and problem.noise is None:
        known = doubtful & _vouched(carry, numbers, own, np if from_python else jnp)
        if not (from_python and not known):
            glance = _function(program, "glance", from_python)
            region = program.region(problem)
            jump = glance(problem.args, carry.params, numbers.largest_size, region)
            known = known & ~(jax.device_get(jump) if from_python else jump)
        doubtful = doubtful & ~known
    doubtful = doubtful | stuck
    examine = _function(program, "examine", from_python)

    def look() -> Certificate:
        data = problem.args, carry.params, problem.noise, numbers.largest_size
        found = examine(*data, program.region(problem))
        found = jax.device_get(found) if from_python else found
        return jax.tree.map(lambda new, old: new.astype(old.dtype), found, told)

    if from_python:
        certificate = look() if doubtful else told
    else:
        looked = jax.lax.cond(any_lane(doubtful), look, lambda: told)
        certificate = select(doubtful, looked, told)
    kind = certificate.kind
    refused = (kind == Kind.SADDLE) | (kind == Kind.MAXIMUM)
    where: Any = np.where if from_python else jnp.where
    status = where(refused, Status.STATIONARY_NOT_MINIMUM, carry.status)
    at_floor = carry.status == Status.NOISE_FLOOR
    more = (certificate.decrement < np.inf) & (
        certificate.decrement > NOISY * certificate.noise
    )
    far = _far(certificate, numbers)
    promising = ((kind == Kind.NOT_STATIONARY) | (kind == Kind.SLOPE) | more) & at_floor
    if problem.gtol is None:  # what was not asked for must hold by itself
        by_gradient = carry.status == Status.CONVERGED_GRADIENT
        contradicted = kind == Kind.SLOPE
        if follows_curvature(carry.state):  # else the gradient alone was asked
            contradicted = contradicted | (more & far)
        promising = promising | (contradicted & by_gradient)
    status = where(promising, Status.STUCK, status)
    # Where no step helps any more although the point is a minimum to within its noise. A
    # method that knows the whole Hessian has judged that already, entry by entry.
    minimum = (kind == Kind.MINIMUM) | (kind == Kind.AT_NOISE)
    small = numbers.grad_norm <= default_gtol(numbers.value.dtype, True) * numbers.reference
    ended = small & _little_beside_descent(certificate, numbers)
    if not vouches(own) or looks_at_rest(own):
        ended = ended | (small & (certificate.decrement < np.inf) & ~far)
        ended = ended | (certificate.decrement <= NOISY * certificate.noise)
    ended = (ended | getattr(own, "quiet", False)) & minimum
    status = where(stuck & ended, Status.NOISE_FLOOR, status)
    unproved = (kind == Kind.FLAT) & ~_descended(numbers, certificate)
    # What began with no gradient may be a plateau, whatever changes far away.
    unproved = unproved | (
        (kind == Kind.AT_NOISE) & (carry.step == 0) & (numbers.grad_norm == 0)
    )
    claimed = (status <= Status.NOISE_FLOOR) | stuck
    status = where(unproved & claimed, Status.FLAT, status)
    status = where(kind == Kind.UNBOUNDED, Status.UNBOUNDED, status)
    return status.astype(np.int32), certificate


def _far(certificate: Certificate, numbers: Numbers) -> Any:
    """Whether the Newton step is longer than half the digits of the path leave unknown.

    Minima without curvature, which nothing but the path can measure, are nearer by then; or
    what that step promises is lost twice over beside the descent made.
    """
    half = jnp.finfo(numbers.value.dtype).eps ** 0.5 * numbers.largest_size
    longer = (certificate.distance > half) & (certificate.distance < np.inf)
    return longer & ~_little_beside_descent(certificate, numbers)


def _little_beside_descent(certificate: Certificate, numbers: Numbers) -> Any:
    """Whether what is still promised is lost twice over beside the descent made."""
    lost = jnp.finfo(numbers.value.dtype).eps ** 2
    with np.errstate(invalid="ignore"):  # of infinite losses nothing is lost
        return certificate.decrement <= lost * (numbers.start_value - numbers.value)


def _vouched(carry: engine.Carry, numbers: Numbers, own: Any, xp: Any) -> Any:
    """Whether a method that knows the Hessian is sure of its answer.

    It is not if the least curvature is lost beside the largest, or unknown; nor if the gradient
    has fallen like that of a point without curvature, a minimum or an inflection; nor if the
    run has not moved at all. A method that looks at rest by products is sure where those few
    see all, and where a proof would cost more than the run did.
    """
    eps = jnp.finfo(own.stiffness.dtype).eps
    # Conjugate gradients do not resolve a curvature below half the digits.
    partly = looks_at_rest(own)
    resolved = own.curvature > (eps**0.5 if partly else NOISY * eps) * own.stiffness
    step = own.remaining
    if partly:  # at rest it has none
        bound = numbers.grad_norm / xp.where(resolved, own.curvature, 1)
        step = xp.where(xp.isfinite(step), step, bound)
    # With the square of the distance, or faster; see `_stopping`. The step left is up to nine
    # times shorter than the last one, by which that is judged there.
    # By roots, for in float32 their squares overflow; a step left may be infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = numbers.largest_size * xp.sqrt(numbers.grad_norm)
        vanishing = scaled < 10 * FALLEN**0.5 * step * xp.sqrt(numbers.reference)
    known = resolved & ~vanishing & ((carry.step > 0) | (numbers.grad_norm > 0))
    if partly:
        spent = Counts.of(carry.counts).calls[2]
        n = num_params(carry.params)
        known = known & ((n <= AT_REST) | ((n > DENSE) & (spent < MOST_PRODUCTS)))
    return known


def _descended(numbers: Numbers, certificate: Certificate) -> Any:
    """Whether a run that ends where the loss is flat has come down to it step by step.

    A long step may have leapt from a slope onto a plateau, which is not a minimum.
    """
    with np.errstate(invalid="ignore"):
        gained = numbers.start_value - numbers.value
        last = numbers.last_value - numbers.value
        return (gained > NOISY * certificate.noise) & (last <= LEAP * gained)


def _told_by_method(carry: engine.Carry, numbers: Numbers, own: Any) -> Certificate:
    """State what the method itself knows of its answer."""
    dtype = numbers.value.dtype
    nan: Any = np.asarray(np.nan, dtype)
    known = vouches(own)
    curvature, stiffness = (own.curvature, own.stiffness) if known else (nan, nan)
    minimum = (carry.status <= Status.NOISE_FLOOR) if known else np.zeros((), bool)
    none: Any = np.zeros((), np.int32)
    kind: Any = minimum * np.int32(Kind.MINIMUM) + (1 - minimum) * np.int32(Kind.NOT_EXAMINED)
    return Certificate(
        kind=kind.astype(np.int32),
        value=numbers.value,
        grad_norm=numbers.grad_norm,
        curvature=curvature.astype(dtype),
        stiffness=stiffness.astype(dtype),
        decrement=own.decrement.astype(dtype) if known else nan,
        noise=nan,
        lowest=nan,
        nfev=none,
        nhvp=none,
        distance=own.remaining.astype(dtype) if known else nan,
    )


def _translation(program: engine.Program, params: Params) -> np.ndarray:
    """Matrix from the method's calls to true evaluations, (f, g, Hv, H) to (f, g, Hv, H).

    A gradient, product or Hessian taken by differences is nothing but losses.
    """
    identity = np.eye(4, dtype=np.int32)
    differences = program.difference_costs(params)
    if differences is None:
        return identity
    per_gradient, per_product = differences
    # One-sided differences of gradients also need the gradient at the point itself.
    at_point = per_gradient if per_product == per_gradient else 0
    identity[1] = [per_gradient, 0, 0, 0]
    identity[2] = [per_product, 0, 0, 0]
    identity[3] = [at_point + per_product * num_params(params), 0, 0, 0]
    return identity


def _trace(
    carry: engine.Carry,
    history: driver.History | None,
    translation: np.ndarray,
    unpack: Callable[[Any], Params],
) -> Trace:
    """Assemble the trace from the rows fetched, or from those still in the carry."""
    calls = Counts.of(carry.counts).calls
    if history is None:
        numbers, counts, params = jax.tree.map(lambda rows: rows[:-1], tuple(carry.rows[1:]))
        filled = jnp.arange(counts.shape[0])[:, None] < carry.step
        counts = jnp.where(filled, counts, calls)
        seconds: Any = jnp.full(counts.shape[0], jnp.nan, numbers.dtype)
        compile_seconds: Any = jnp.full((), jnp.nan, numbers.dtype)
    else:
        numbers, counts = np.concatenate(history.numbers), np.concatenate(history.counts)
        counts[-1] = np.asarray(calls)
        seconds, compile_seconds = np.concatenate(history.seconds), history.compile_seconds
        compile_seconds = np.asarray(compile_seconds)
        params = None
        if history.params:
            params = jax.tree.map(lambda *parts: np.concatenate(parts), *history.params)
    calls = counts @ translation
    return Trace(
        loss=numbers[:, 0],
        grad_norm=numbers[:, 1],
        step_norm=numbers[:, 2],
        nfev=calls[:, 0],
        ngev=calls[:, 1],
        nhvp=calls[:, 2],
        nhev=calls[:, 3],
        seconds=seconds,
        num_rows=Counts.of(carry.counts).step + 1,
        num_params=np.asarray(num_params(carry.params), np.int32),
        compile_seconds=compile_seconds,
        params=None if params is None else unpack(params),
    )
