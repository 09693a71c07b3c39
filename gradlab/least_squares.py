"""`least_squares`: fit parameters to residuals, by methods that know their structure."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gradlab import _driver as driver
from gradlab import _engine as engine
from gradlab._bounds import free
from gradlab._checks import (
    check_callable,
    check_count,
    check_params,
    check_positive,
    check_state,
)
from gradlab._errors import accepts_only_its_keywords, check_choice
from gradlab._fit_checks import (
    check_bounds,
    check_room,
    check_weights,
    refuse_matrix_options,
)
from gradlab._fit_program import Factory, FitProgram, Objective, count_residuals
from gradlab._implicit import known, with_implicit_derivative
from gradlab._numbers import Numbers, Problem
from gradlab._outcome import outcome
from gradlab._typing import Array, Count, GradientOperator, Name, Number, Params
from gradlab.fit import Fit
from gradlab.minimize import (
    DEFAULT_STEPS,
    MOST_STEPS,
    Progress,
    _any_traced,
    _check_options,
    _chunk_rows,
    _refuse_host_options,
    _run_traced,
)
from gradlab.optimizers._jacobian_rule import jacobian_rule
from gradlab.optimizers.least_squares import (
    BY_PRODUCTS,
    METHODS,
    LeastSquaresState,
)
from gradlab.optimizers.method import Method
from gradlab.optimizers.robust import LOSSES
from gradlab.result import Result, Status

__all__ = ["least_squares"]

if TYPE_CHECKING:
    Residual: TypeAlias = Callable[..., Any]
    Arguments: TypeAlias = tuple[Any, ...]
    Bounds: TypeAlias = tuple[Any, Any]
    Callback: TypeAlias = Callable[[Progress], Any]
else:  # checked below, in the caller's words
    Residual = Arguments = Bounds = Callback = Any


@accepts_only_its_keywords
def least_squares(
    residual: Residual,
    x0: Params,
    method: Name = "levenberg_marquardt",
    *,
    args: Arguments = (),
    weights: Any = None,
    bounds: Bounds | None = None,
    loss: Name = "linear",
    loss_scale: Number | None = None,
    max_steps: Count | None = None,
    gtol: Number | None = None,
    ftol: Number | None = None,
    xtol: Number | None = None,
    grad: GradientOperator | None = None,
    noise: Number | None = None,
    trace: Name | None = "scalars",
    loop: Name = "auto",
    callback: Callback | None = None,
    max_seconds: Number | None = None,
    state: Any = None,
) -> Fit:
    r"""Minimise the sum of the squares of residuals, and say how well the data determine x.

    Minimised is $\sum_i c^2 \rho(w_i r_i(x)^2 / c^2)$, with ρ(s) = s unless a robust loss is
    asked for. The run ends where rounding hides all further progress, judged by the gradient,
    so that the answer has every digit that the arithmetic holds; `gtol`, `ftol` and `xtol`
    end it earlier. No tolerance is absolute: scaling the residuals or a parameter changes
    nothing.

    As of `minimize`, `x` and `fun` of the answer can be differentiated with respect to `args`
    and `weights`, by the exact Hessian, and so can `residuals`, `jacobian` and what is made of
    them, as `standard_errors`. Parameters that a bound holds do not move, and bounds count as
    constants: the derivative with respect to them is zero.

    Args:
        residual: Function `residual(params, *args)` to the residuals, an array or a pytree of
            real arrays, written for JAX. Fewer residuals than parameters are allowed.
        x0: Start: any pytree of real floating leaves.
        method: "levenberg_marquardt" (default), "gauss_newton", "dogleg", "newton", which
            uses the exact Hessian JᵀJ + Σ rᵢ∇²rᵢ, or "levenberg_marquardt_cg", which makes
            no matrix; see `gradlab.optimizers`.
        args: Further arguments of `residual`. They are traced: new data never recompile.
        weights: Weights of the squares, not negative, shaped like the residuals; with
            standard deviations σ these are 1/σ². A residual of weight 0 may be NaN.
        bounds: Lower and upper bounds, each a number or a pytree like `x0`; a start outside
            is moved inside, and steps are projected.
        loss: "linear" (default), "huber", "soft_l1", "cauchy" or "arctan", with Triggs'
            correction.
        loss_scale: Residual c beyond which a residual counts as an outlier; default 1.
        max_steps: Most steps to take; default 1,000.
        gtol: Stop when the largest gradient entry is this small relative to that at the
            start; off by default.
        ftol: Stop when a step changes the loss by at most `ftol` times its size; off by
            default.
        xtol: Stop when a step is at most `xtol` times as long as the point; off by default.
        grad: Derivative operator, default automatic differentiation, forward or reverse by
            shape; `gradlab.finite.grad` or `.jacobian`, or a partial of them, takes the
            Jacobian by differences.
        noise: Absolute noise level of the loss; default what rounding does to it.
        trace: "scalars" (default), "params" to keep every iterate too, or None.
        loop: As in `minimize`.
        callback: As in `minimize`.
        max_seconds: As in `minimize`.
        state: `Fit.state` of an earlier run of the same method, to go on from.

    Returns:
        A `Fit`: a `Result` with residuals, Jacobian, covariance, standard errors and a
        printed `summary()`.

    Raises:
        TypeError: If a leaf is not floating, the residuals are a scalar or not real arrays,
            or a keyword is unknown.
        ValueError: If an option has a value outside its range, or shapes do not fit.

    Examples:
        >>> x = jnp.arange(6.0)
        >>> y = 3 * jnp.exp(-0.5 * x) + jnp.array([0.02, -0.01, 0.0, 0.01, -0.02, 0.01])
        >>> fit = least_squares(lambda b: b[0] * jnp.exp(-b[1] * x) - y, jnp.ones(2))
        >>> print(fit.success, fit.x.round(3), fit.standard_errors.round(4))
        True [3.015 0.504] [0.0134 0.0042]
    """
    check_callable("residual", residual, "a function residual(params, *args)")
    check_choice("method", method, METHODS)
    check_choice("loss", loss, LOSSES)
    _check_options(args, loop, trace)
    if callback is not None:
        check_callable("callback", callback, "a function of a Progress")
    deadline = check_positive("max_seconds", max_seconds)
    steps = DEFAULT_STEPS if max_steps is None else check_count("max_steps", max_steps)
    scale = check_positive("loss_scale", loss_scale, zero=False, finite=True)
    x0 = check_params(x0)
    m = count_residuals(residual, x0, args)
    if method == BY_PRODUCTS:
        refuse_matrix_options(bounds, grad)
    else:
        check_room(m, x0)
    weights = check_weights(weights, residual, x0, args, m)
    bounds = check_bounds(bounds, x0)
    if bounds is not None:
        x0 = jax.tree.map(lambda x, low, high: jnp.clip(x, low, high), x0, *bounds)
    operator = None if grad is None or grad is jax.grad else jacobian_rule(grad)
    data = {"args": args, "weights": weights, "bounds": bounds, "loss_scale": scale}
    problem = Problem(
        args=(args, weights, scale),
        hyperparams=data,
        gtol=check_positive("gtol", gtol),
        ftol=check_positive("ftol", ftol),
        xtol=check_positive("xtol", xtol),
        noise=check_positive("noise", noise),
        max_steps=np.asarray(min(steps, MOST_STEPS), np.int32),
    )
    chosen = Method(method, Factory(residual, method, loss, operator), (), data)
    if state is not None:
        check_state(state, chosen.build(data).init, x0)
    objective = Objective(residual, loss, operator)
    rows = _chunk_rows(x0, trace)
    program = FitProgram(objective, chosen, None, False, rows, trace == "params")
    options = driver.Options(loop, callback, deadline)
    finished = None
    if not _any_traced((x0, problem, state)):
        finished = driver.run(program, problem, x0, state, options)
    if finished is None:
        _refuse_host_options(loop, callback, deadline)
        held, x0, state = jax.lax.stop_gradient((problem, x0, state))
        carry = _run_traced(program, held, x0, state, steps, trace)
        result = outcome(program, held, carry, None, trace is not None, lambda x: x)
        fit = _fit(objective, held, carry, result, concrete=False)
        return _with_derivative(objective, problem, bounds, fit)
    carry, history = finished
    result = outcome(program, problem, carry, history, trace is not None, lambda x: x)
    return _fit(objective, problem, carry, result, concrete=True)


def _fit(
    objective: Objective, problem: Problem, carry: engine.Carry, result: Result, concrete: bool
) -> Fit:
    """Add residuals and Jacobian at the answer to a result."""
    if not isinstance(carry.state, LeastSquaresState):
        return _fit_without_matrix(objective, problem, result, concrete)
    point = carry.state.point
    packed, value, status = carry.numbers, point.numbers[..., 0], result.status
    if concrete:  # eager JAX operations would cost more than the rest of a short run
        packed, own, status = jax.device_get((packed, point.numbers, status))
        value = own[0]
    xp: Any = np if concrete else jnp
    numbers = Numbers.of(packed)
    last = (status <= Status.NOISE_FLOOR) | (numbers.value == numbers.best_value)
    there = last & xp.isfinite(value)
    weights = problem.args[1]
    if concrete:
        known = point.residuals, point.jacobian
        found = known if there else _compiled_anew(objective)(problem.args, result.x)
    else:
        found = jax.lax.cond(
            there,
            lambda: (point.residuals, point.jacobian),
            lambda: _linearised(objective, problem.args, result.x),
        )
    again = xp.asarray(~there, np.int32)
    fields: Any = result._replace(nfev=result.nfev + again, ngev=result.ngev + again)
    every: Any = (*fields, *found, _observations(found[0], weights, xp))
    return Fit(*every)


def _observations(residuals: Array, weights: Any, xp: Any) -> Any:
    """Number of residuals of positive weight."""
    count = residuals.shape[-1] if weights is None else xp.sum(xp.asarray(weights) > 0)
    return xp.asarray(count, np.int32)


def _fit_without_matrix(
    objective: Objective, problem: Problem, result: Result, concrete: bool
) -> Fit:
    """Add the residuals at the answer to a result of a method without a Jacobian."""
    at = _compiled_residuals if concrete else _residuals_of
    residuals = at(objective)(problem.args, result.x)
    counted: Any = result._replace(nfev=result.nfev + 1)
    xp: Any = np if concrete else jnp
    every: Any = (*counted, residuals, None, _observations(residuals, problem.args[1], xp))
    return Fit(*every)


def _residuals_of(objective: Objective) -> Callable[..., Array]:
    """Build the function of arguments and parameters to the weighted residuals."""

    def residuals(args: Any, x: Params) -> Array:
        problem = objective.problem(x, *args)
        return problem(problem.flat(x))

    return residuals


@functools.lru_cache(maxsize=64)
def _compiled_residuals(objective: Objective) -> Callable[..., Array]:
    """Compile the residuals, once for equal objectives."""
    return jax.jit(_residuals_of(objective))


@dataclass(frozen=True)
class _Free:
    """An objective of the parameters that no bound holds: the others count as constants."""

    objective: Objective

    def __call__(self, params: Params, args: Any, weights: Any, scale: Any, free: Any) -> Array:
        held = jax.lax.stop_gradient(params)
        params = jax.tree.map(lambda p, h, f: f * p + (1 - f) * h, params, held, free)
        return self.objective(params, args, weights, scale)


def _with_derivative(objective: Objective, problem: Problem, bounds: Any, fit: Fit) -> Fit:
    """Make the answer, and what is known there, differentiable by arguments and weights."""
    loss: Callable[..., Array] = objective
    args: Any = problem.args
    columns: Any = 1.0
    if bounds is not None:
        held, bounds = jax.lax.stop_gradient((args, bounds))
        moves = free(fit.x, jax.grad(objective)(fit.x, *held), bounds)
        loss, args, columns = _Free(objective), (*args, moves), ravel_pytree(moves)[0][None]
    x, fun = with_implicit_derivative(loss, fit.x, fit.fun, fit.success, args)
    residuals = known(_residuals_of(objective), fit.residuals, problem.args, x)
    if fit.jacobian is None:
        return fit._replace(x=x, fun=fun, residuals=residuals)

    def jacobian(args: Any, x: Params) -> Array:
        return _linearised(objective, args, x)[1] * columns

    matrix = known(jacobian, fit.jacobian, problem.args, x)
    return fit._replace(x=x, fun=fun, residuals=residuals, jacobian=matrix)


def _linearised(objective: Objective, args: Any, x: Params) -> tuple[Array, Array]:
    """Residuals and Jacobian at a point."""
    problem = objective.problem(x, *args)
    flat = problem.flat(x)
    residuals = problem(flat)
    factor = problem.corrected(residuals)[1]
    return residuals, factor[:, None] * problem.jacobian(flat)


@functools.lru_cache(maxsize=64)
def _compiled_anew(objective: Objective) -> Callable[..., Any]:
    """Compile `_linearised`, once for equal objectives."""
    return jax.jit(functools.partial(_linearised, objective))
