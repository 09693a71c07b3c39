"""Levenberg-Marquardt without the Jacobian: damped steps by products, for large problems.

min ‖J p + r‖² + λ‖p‖² is solved by conjugate gradients in the form that works on residuals
(CGLS; Björck 1996, section 7.4): JᵀJ is never applied to anything, so half the digits that the
normal equations lose are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._typing import Array, Params
from gradlab.derivatives.curvature._products import _model
from gradlab.optimizers._damped_steps import (
    GaussNewtonState,
    conclude,
    initial_state,
    search,
)
from gradlab.optimizers._model_solve import Solution
from gradlab.optimizers._protocol import bind
from gradlab.optimizers._residuals import Residuals

__all__ = ["by_products"]

# The first damping relative to the curvature along the gradient, as for the dense method.
FIRST_DAMPING = 1e-3
# Residual of the normal equations to leave: each step gains two digits of the last ones.
RTOL = 1e-2
# Products a step, at most: beyond, a step from a new point is worth more.
MOST_PRODUCTS = 250


def by_products(
    problem_at: Callable[[Params, dict[str, Any]], Residuals], default_noise: Any
) -> optax.GradientTransformationExtraArgs:
    """Build the transformation of residuals at work; its state is a `GaussNewtonState`."""

    def init(params: Params) -> GaussNewtonState:
        return initial_state(params, FIRST_DAMPING)

    def update(updates, state, params=None, *, value, grad, value_fn, noise=None, **extra):
        del updates
        problem = problem_at(params, extra)
        noise = default_noise if noise is None else noise
        found, unit = _step(problem, problem.flat(params), state.damping)
        found = found._replace(step=problem.tree(found.step))
        trial = search(bind(value_fn, extra), params, value, found, noise)
        updates, new = conclude(state, params, grad, value, found, trial, unit)
        # Nothing starts from the last step: CGLS begins at zero.
        return updates, new._replace(direction=state.direction)

    return optax.GradientTransformationExtraArgs(init, update)


class _Iteration(NamedTuple):
    """An iteration; `scalars` are γ = ‖s‖², extreme curvatures, products made."""

    step: Array
    residual: Array
    direction: Array
    scalars: Array


def _step(problem: Residuals, x: Array, damping: Array) -> tuple[Solution, Array]:
    """Make the damped step and return it with the curvature along the gradient.

    Residuals are divided by their largest entry, then products with J by that of the
    gradient, so that nothing over- or underflows that the loss itself does not.
    """
    r, push, pull = _model(problem, x)
    to_r, to_j = problem.corrected(r)[:2]
    b = -to_r * r
    height = _size(b)
    b = b / height
    steepness = _size(pull(to_j * b).astype(r.dtype))

    def forward(p: Array) -> Array:
        return to_j * push(p.astype(x.dtype)) / steepness

    def backward(w: Array) -> Array:
        return pull(to_j * w).astype(r.dtype) / steepness

    start = backward(b)
    gamma = jnp.sum(start**2)
    curved = jnp.sum(forward(start) ** 2)
    unit = curved / jnp.where(gamma > 0, gamma, 1)
    shift = damping.astype(r.dtype) * unit
    budget = min(2 * min(x.size, r.size), MOST_PRODUCTS)

    def going(it: _Iteration) -> Array:
        now, _, _, made = it.scalars
        return (now > RTOL**2 * gamma) & (made < budget)

    def iterate(it: _Iteration) -> _Iteration:
        now, high, low, made = it.scalars
        q = forward(it.direction)
        dd, qq = jnp.sum(it.direction**2), jnp.sum(q**2)
        whole = qq + shift * dd
        length = jnp.where(whole > 0, now / jnp.where(whole > 0, whole, 1), 0)
        step, residual = it.step + length * it.direction, it.residual - length * q
        s = backward(residual) - shift * step
        following = jnp.where(whole > 0, jnp.sum(s**2), 0)
        direction = s + following / now * it.direction
        along = qq / dd
        scalars = jnp.stack(
            [following, jnp.maximum(high, along), jnp.minimum(low, along), made + 1]
        )
        return _Iteration(step, residual, direction, scalars)

    zero = jnp.zeros_like(gamma)
    scalars = jnp.stack([gamma, zero, zero + jnp.inf, zero])
    last = jax.lax.while_loop(
        going, iterate, _Iteration(jnp.zeros_like(start), b, start, scalars)
    )
    _, high, low, made = last.scalars
    slope = 2 * jnp.sum(start * last.step) * height**2
    curvature = 2 * jnp.sum((b - last.residual) ** 2) * height**2
    products = made.astype(jnp.int32)
    step, bend = last.step * (height / steepness), 2 * steepness**2
    found = Solution(step, slope, curvature, bend * high, bend * low, products)
    return found, bend * unit


def _size(v: Array) -> Array:
    """Largest entry, or 1 of a vector of zeros."""
    size = jnp.max(jnp.abs(v))
    return jnp.where(size > 0, size, 1)
