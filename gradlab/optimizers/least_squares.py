"""Least-squares methods as optax transformations, built with their residual function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab._tree import real_dtype, select, working_dtype
from gradlab._typing import Array, Number, Params
from gradlab.optimizers._fit_point import Box, Point, blank_point
from gradlab.optimizers._fit_products import by_products
from gradlab.optimizers._fit_search import Plan, Search, blank_search, search
from gradlab.optimizers._fit_steps import DAMPED, DOGLEG, HALVED
from gradlab.optimizers._protocol import bind
from gradlab.optimizers._residuals import Residuals

__all__ = [
    "BY_PRODUCTS",
    "METHODS",
    "PLANS",
    "LeastSquaresState",
    "Setup",
    "dogleg",
    "gauss_newton",
    "levenberg_marquardt",
    "levenberg_marquardt_cg",
    "newton_least_squares",
    "roots",
    "transformation",
]

PLANS = {
    "levenberg_marquardt": Plan(DAMPED, True, True, False, True),
    "gauss_newton": Plan(HALVED, False, False, False, False),
    "dogleg": Plan(DOGLEG, False, False, False, False),
    "newton": Plan(DAMPED, False, False, True, True),
}
# Without the Jacobian as a matrix.
BY_PRODUCTS = "levenberg_marquardt_cg"
METHODS = (*PLANS, BY_PRODUCTS)


class LeastSquaresState(NamedTuple):
    """State of a least-squares method: the accepted point and what is known there.

    Attributes:
        count: Accepted steps.
        value: Loss at the parameters the last update leads to; inf before the first.
        grad: Gradient there.
        point: Residuals, Jacobian and their factors there.
        numbers: Damping, or radius, for the next step, and the factor that it grows by; loss
            where the search began.
        counts: How the search ended, and the calls made; see `Search`.
        unit: Loss of the host over the sum of squares.
    """

    count: Array  # type: ignore[assignment]  # the name optax's hosts look for
    value: Array
    grad: Params
    point: Point
    numbers: Array
    counts: Array
    unit: Array

    @property
    def failed(self) -> Array:
        """Whether no acceptable step was found, so that the update was zero."""
        return self.counts[..., 3] == 0

    @property
    def finished(self) -> Array:
        """Whether nothing is left to gain."""
        return self.counts[..., 4] != 0

    @property
    def calls(self) -> Array:
        """Evaluations of residuals, Jacobians and second derivatives, without its host's.

        The latter along a step, and as matrices.
        """
        return self.counts[..., 5:]

    @property
    def vouches(self) -> bool:
        """It knows enough of the Hessian to say what its answer is."""
        return True

    @property
    def decrement(self) -> Array:
        """Nothing where the run is finished, else inf: the method judges noise itself."""
        return jnp.where(self.finished, 0, jnp.inf).astype(self.value.dtype)

    @property
    def quiet(self) -> Array:
        """Whether what a step still promises is within the noise of the residuals.

        That grows with the terms that cancel in them, far beyond the rounding of the loss
        where the data leave two large parameters nearly open.
        """
        return self.point.promise <= self.point.level

    @property
    def remaining(self) -> Array:
        """Likewise for the length of the step still to take."""
        return self.decrement

    @property
    def curvature(self) -> Array:
        """Least curvature, in the metric of the Jacobian at the finish."""
        return self.point.lowest

    @property
    def stiffness(self) -> Array:
        """Largest absolute curvature in the same metric."""
        return self.point.highest


class Setup(NamedTuple):
    """What a method needs beside its residual function; see `gradlab.least_squares`."""

    args: tuple[Any, ...] = ()
    weights: Any = None
    bounds: Any = None
    loss: str = "linear"
    loss_scale: Any = None
    jacobian: Callable[..., Any] | None = None


def levenberg_marquardt(
    residual: Callable[..., Any], *, args: Any = (), noise: Number | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Levenberg-Marquardt with geodesic acceleration, polished by Newton steps.

    Minimises $\sum_i r_i(x)^2$ by steps that minimise
    $\|r + J p\|^2 + \lambda \|D p\|^2$. D is the running maximum of J's column norms (Moré
    1978), forgetting a fifth a step, λ follows Nielsen's rule, and each step is bent by the
    exact second derivative of r along it; a step that bends more than it is long is not
    tried. Where the residuals' own curvature would have foretold a step much better, the next
    ones use it, and so do the last ones, down to the rounding of the gradient.

    Cost: a residual a trial, a Jacobian an accepted step and a second derivative along a
    trial (about three residuals); now and then a matrix of second derivatives.

    Args:
        residual: Function `residual(params, *args)` to a vector, or a pytree of arrays.
        args: Further arguments of `residual`.
        noise: Absolute noise level of the loss; default what rounding does to it.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `LeastSquaresState`. Its host must
        minimise the sum of squares, or that times a constant, and it comes last in a chain.

    References:
        Levenberg, K. (1944); Marquardt, D. (1963). Moré, J. (1978). The Levenberg-Marquardt
        algorithm: implementation and theory. Madsen, K., Nielsen, H. and Tingleff, O. (2004).
        Methods for non-linear least squares problems. Transtrum, M. and Sethna, J. (2012).
        Improvements to the Levenberg-Marquardt algorithm. Dennis, J., Gay, D. and Welsch, R.
        (1981). An adaptive nonlinear least-squares algorithm.

    Examples:
        >>> def residual(x):
        ...     return jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])
        >>> def loss(x):
        ...     return jnp.sum(residual(x) ** 2)
        >>> method, x = levenberg_marquardt(residual), jnp.array([-1.2, 1.0])
        >>> state = method.init(x)
        >>> @jax.jit
        ... def step(x, state):
        ...     value, grad = jax.value_and_grad(loss)(x)
        ...     updates, state = method.update(
        ...         grad, state, x, value=value, grad=grad, value_fn=loss
        ...     )
        ...     return optax.apply_updates(x, updates), state
        >>> for _ in range(15):
        ...     x, state = step(x, state)
        >>> print(x.round(6))
        [1. 1.]
    """
    return transformation(residual, "levenberg_marquardt", Setup(args), noise)


def gauss_newton(
    residual: Callable[..., Any], *, args: Any = (), noise: Number | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Gauss-Newton steps $p = -J^+ r$ of least length, halved until the loss falls.

    The textbook's method: fast where residuals are small, and lost where J loses rank far
    from the answer. Arguments, result and protocol as of `levenberg_marquardt`.

    Args:
        residual: Function `residual(params, *args)` to a vector, or a pytree of arrays.
        args: Further arguments of `residual`.
        noise: Absolute noise level of the loss; default what rounding does to it.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `LeastSquaresState`.
    """
    return transformation(residual, "gauss_newton", Setup(args), noise)


def dogleg(
    residual: Callable[..., Any], *, args: Any = (), noise: Number | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Powell's dogleg: from the steepest descent step towards the Gauss-Newton step.

    Arguments, result and protocol as of `levenberg_marquardt`.

    Args:
        residual: Function `residual(params, *args)` to a vector, or a pytree of arrays.
        args: Further arguments of `residual`.
        noise: Absolute noise level of the loss; default what rounding does to it.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `LeastSquaresState`.

    References:
        Powell, M. (1970). A hybrid method for nonlinear equations.
    """
    return transformation(residual, "dogleg", Setup(args), noise)


def newton_least_squares(
    residual: Callable[..., Any], *, args: Any = (), noise: Number | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Damped Newton steps on the exact Hessian $J^T J + \sum_i r_i \nabla^2 r_i$.

    For residuals that stay large. A matrix of second derivatives a step; arguments, result
    and protocol as of `levenberg_marquardt`.

    Args:
        residual: Function `residual(params, *args)` to a vector, or a pytree of arrays.
        args: Further arguments of `residual`.
        noise: Absolute noise level of the loss; default what rounding does to it.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `LeastSquaresState`.
    """
    return transformation(residual, "newton", Setup(args), noise)


def levenberg_marquardt_cg(
    residual: Callable[..., Any], *, args: Any = (), noise: Number | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Levenberg-Marquardt without the Jacobian, for problems too large for one.

    Minimises $\|r + J p\|^2 + \lambda \|p\|^2$ by conjugate gradients on products with J and
    Jᵀ (CGLS), to two digits, and halves the step until the loss falls. λ is relative to the
    curvature along the gradient and follows how well the model foretold the loss. Parameters
    should be of like size: nothing scales them here.

    Cost: two gradient equivalents a product, at most 250 a step; a residual a trial; two
    gradients. Arguments and protocol as of `levenberg_marquardt`.

    Args:
        residual: Function `residual(params, *args)` to a vector, or a pytree of arrays.
        args: Further arguments of `residual`.
        noise: Absolute noise level of the loss; default what rounding does to it.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `GaussNewtonState`. Its host must
        minimise the sum of squares.

    References:
        Björck, Å. (1996). Numerical Methods for Least Squares Problems, section 7.4.
        Martens, J. (2010). Deep learning via Hessian-free optimization.
    """
    return transformation(residual, BY_PRODUCTS, Setup(args), noise)


def transformation(
    residual: Callable[..., Any], name: str, setup: Setup, noise: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Build the optax transformation of one of `METHODS`."""
    default_noise = noise

    def problem_at(params: Params, extra: dict[str, Any]) -> Residuals:
        return Residuals(
            bind(residual, extra), params, setup.args, roots(setup.weights), setup.loss,
            setup.loss_scale, setup.jacobian,
        )  # fmt: skip

    if name == BY_PRODUCTS:
        return by_products(problem_at, noise)

    def init(params: Params) -> LeastSquaresState:
        return _initial_state(problem_at(params, {}), params)

    def update(updates, state, params=None, *, value, grad, value_fn, noise=None, **extra):
        del updates, grad, value_fn  # a step is judged by the residuals
        problem = problem_at(params, extra)
        x = problem.flat(params)
        plan = _able(PLANS[name], problem, x)
        noise = default_noise if noise is None else noise
        stale = ~_same(jnp.asarray(value).astype(state.value.dtype), state.value)
        found = search(
            problem, plan, _box(setup.bounds, params), x, state.point, state.numbers,
            state.counts, stale,
            jnp.asarray(0 if noise is None else noise, state.point.residuals.dtype),
        )  # fmt: skip
        unit = jnp.where(stale, _unit(value, found.origin), state.unit)
        return _conclude(problem, params, state, found, unit.astype(state.unit.dtype))

    return optax.GradientTransformationExtraArgs(init, update)


def _same(value: Array, known: Array) -> Array:
    """Whether the host stands where the last step led: its loss agrees but for rounding."""
    eps = jnp.finfo(known.dtype).eps
    return (jnp.abs(value - known) <= 8 * eps * jnp.abs(known)) & jnp.isfinite(known)


def _able(plan: Plan, problem: Residuals, x: Array) -> Plan:
    """Leave out of a plan what the residuals' derivatives do not allow."""
    bends = plan.accelerated and problem.bends(x)
    return plan._replace(
        accelerated=bends,
        adaptive=plan.adaptive and bends,
        exact=plan.exact and problem.exact,
        finishing=plan.finishing and problem.exact,
    )


def roots(weights: Any) -> Any:
    """Square roots of the weights, as one vector."""
    if weights is None:
        return None
    leaves = [jnp.sqrt(jnp.ravel(leaf)) for leaf in jax.tree.leaves(weights)]
    return jnp.concatenate(leaves)


def _box(bounds: Any, params: Params) -> Box | None:
    """Bounds as flat vectors."""
    if bounds is None:
        return None
    dtype = working_dtype(params)
    lower, upper = (
        jnp.concatenate([jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(side)])
        for side in bounds
    )
    return Box(lower, upper)


def _unit(value: Array, own: Array) -> Array:
    """Loss of the host over the sum of squares; one where they agree to rounding."""
    usable = jnp.isfinite(value) & jnp.isfinite(own) & (own > 0) & (value > 0)
    unit = jnp.asarray(value, own.dtype) / jnp.where(usable, own, 1)
    close = jnp.abs(unit - 1) < np.sqrt(jnp.finfo(own.dtype).eps)
    return jnp.where(usable & ~close, unit, 1)


def _initial_state(problem: Residuals, params: Params) -> LeastSquaresState:
    """Build the state before the first step."""
    x = problem.flat(params)
    out = jax.eval_shape(problem, x)
    dtype = real_dtype(params)
    numbers, counts = blank_search(out.dtype)
    return LeastSquaresState(
        count=jnp.zeros((), jnp.int32),
        value=jnp.full((), jnp.inf, dtype),
        grad=jax.tree.map(jnp.zeros_like, params),
        point=blank_point(out.size, x.size, out.dtype),
        numbers=numbers,
        counts=counts,
        unit=jnp.ones((), out.dtype),
    )


def _conclude(
    problem: Residuals, params: Params, state: LeastSquaresState, found: Search, unit: Array
) -> tuple[Params, LeastSquaresState]:
    """Turn a search's outcome into optax's updates and the next state."""
    updates = problem.tree(found.step)
    gradient = problem.tree(2 * unit * found.point.gradient)
    new = LeastSquaresState(
        count=state.count + found.accepted,
        value=(unit * found.point.value).astype(state.value.dtype),
        grad=gradient,
        point=found.point,
        numbers=found.numbers,
        counts=found.counts,
        unit=unit,
    )
    cast = jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), new, state)
    return select(found.accepted, updates, jax.tree.map(jnp.zeros_like, params)), cast
