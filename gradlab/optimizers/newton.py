"""Newton's method with the dense Hessian, as an optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from gradlab._tree import working_dtype
from gradlab._typing import Array, Number, Params
from gradlab.derivatives.autodiff import flat_hessian
from gradlab.optimizers import _trust_region as tr
from gradlab.optimizers._protocol import bind
from gradlab.optimizers._subproblem import (
    is_positive_definite,
    largest_curvature,
    rounding_of,
    solve_subproblem,
)

__all__ = ["newton"]


def newton(*, noise: Number | None = None) -> optax.GradientTransformationExtraArgs:
    r"""Newton's method in a trust region with a nearly exact subproblem.

    Each update minimises the quadratic model $g^T p + \tfrac12 p^T H p$ over
    $\|p\| \le \Delta$ through one eigendecomposition of the Hessian, and tries shorter
    steps until one is acceptable, so one call is one accepted step. Indefinite and singular
    Hessians are fine: the step follows negative curvature to the boundary, also from a
    saddle. Above a few thousand variables the Hessian no longer fits: use `newton_cg`.

    The region is infinite until a step fails, hence a quadratic is solved in one step and
    the first steps do not depend on the units of the parameters.

    As an optax transformation it comes last in a chain, and its `update` needs `value`,
    `grad` and `value_fn`, as `optax.lbfgs` does. A zero update means that no better point
    was found (`state.failed`); `state.decrement` says how much the model still promised.

    Cost: one dense Hessian (2n gradient equivalents) an accepted step, one loss and one
    gradient a trial step.

    Args:
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `TrustRegionState`.

    References:
        Moré, J. J. and Sorensen, D. C. (1983). Computing a trust region step.
        Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, algorithm 4.3.

    Examples:
        >>> import gradlab as gl
        >>> result = gl.minimize(lambda x: ((x - 3) ** 2).sum(), jnp.zeros(2), gl.newton())
        >>> print(result.x, result.nit)
        [3. 3.] 1
    """
    default_noise = noise

    def update(updates, state, params=None, *, value, grad, value_fn, noise=None, **extra):
        del updates  # the step is judged by the loss, so it must come from its gradient
        noise = default_noise if noise is None else noise
        loss = bind(value_fn, extra)
        value, eps = tr.loss_value(value, params)
        basis, model = _quadratic_model(loss, params, grad, state.radius)
        propose = _propose(basis, params)
        trial = tr.search(loss, params, value, grad, model, propose, noise, eps)
        decrement, remaining = _what_remains(basis, params, trial.grad)
        one_hessian = jnp.array([0, 0, 0, 1], jnp.int32)
        model = model._replace(decrement=decrement)
        return tr.conclude(state, trial, value, grad, model, remaining, one_hessian)

    return optax.GradientTransformationExtraArgs(tr.initial_state, update)


class _Eigenbasis(NamedTuple):
    """Quadratic model at a point: eigenvalues, eigenvectors, gradient in their basis.

    `followed` are the eigenvalues as the step takes them, see `_without_flat`.
    """

    eigenvalues: Array
    eigenvectors: Array
    grad: Array
    followed: Array


def _quadratic_model(
    loss: Callable[[Params], Array], params: Params, grad: Params, radius: Array
) -> tuple[_Eigenbasis, tr.Model]:
    """Build the model; an infinite region is made finite where H is not positive."""
    dtype = working_dtype(params)
    flat, unravel = ravel_pytree(params)
    x, g = flat.astype(dtype), ravel_pytree(grad)[0].astype(dtype)
    hessian = flat_hessian(lambda x: loss(unravel(x.astype(flat.dtype))).astype(dtype), x)
    # A Hessian that is not finite (a kink, an overflow) leaves the gradient alone to go by.
    hessian = jnp.where(jnp.isfinite(jnp.sum(jnp.abs(hessian))), hessian, 0)
    eigenvalues, vectors = jnp.linalg.eigh(hessian)
    rotated = jnp.matmul(g, vectors, precision=jax.lax.Precision.HIGHEST)
    followed, g = _without_flat(eigenvalues, rotated)
    natural = _natural_length(followed, g, x)
    radius = radius.astype(dtype)
    radius = jnp.where(jnp.isinf(radius) & ~is_positive_definite(followed), natural, radius)
    unknown = jnp.full((), jnp.inf, dtype)
    model = tr.Model(
        radius=radius,
        decrement=unknown,
        curvature=eigenvalues[0],
        start_norm=jnp.zeros((), dtype),
        stiffness=largest_curvature(eigenvalues),
        # At rest, only negative curvature leads anywhere.
        possible=(jnp.max(jnp.abs(g)) > 0) | (eigenvalues[0] < -rounding_of(eigenvalues)),
    )
    return _Eigenbasis(eigenvalues, vectors, g, followed), model


def _what_remains(basis: _Eigenbasis, params: Params, grad: Params) -> tuple[Array, Array]:
    """Predict the decrease and the length of the Newton step from the point reached.

    By the Hessian of the point before, which in the end is as good. Along directions
    without curvature the model has no minimum; what the gradient promises over the length
    of the point stands in. With negative curvature both are infinite.
    """
    w = basis.eigenvalues
    x, g = (ravel_pytree(tree)[0].astype(w.dtype) for tree in (params, grad))
    rotated = jnp.matmul(g, basis.eigenvectors, precision=jax.lax.Precision.HIGHEST)
    tolerance = rounding_of(w)
    curved = w > tolerance
    step = jnp.where(curved, rotated / jnp.where(curved, w, 1), 0)
    flat = jnp.abs(rotated) * jnp.max(jnp.abs(x))
    decrement = jnp.sum(jnp.where(curved, 0.5 * rotated * step, flat))
    length = jnp.sqrt(jnp.sum(step**2))
    bottomless = w[0] < -tolerance
    return jnp.where(bottomless, jnp.inf, decrement), jnp.where(bottomless, jnp.inf, length)


def _without_flat(eigenvalues: Array, grad: Array) -> tuple[Array, Array]:
    """Leave directions alone along which neither curvature nor gradient says anything.

    A loss that does not depend on some combination of its variables has an eigenvalue and
    a gradient entry of rounding there; the step of least length does not move along it.
    """
    tolerance = rounding_of(eigenvalues)
    flat = jnp.abs(eigenvalues) <= tolerance
    largest = jnp.max(jnp.abs(grad))
    noise = eigenvalues.size * jnp.finfo(grad.dtype).eps * largest
    # All or none: with one direction to follow, the region is needed anyway.
    silent = jnp.all(jnp.where(flat, jnp.abs(grad) <= noise, True)) & (largest > 0)
    leave = flat & silent
    size = largest_curvature(eigenvalues)
    return jnp.where(leave, size, eigenvalues), jnp.where(leave, 0, grad)


def _natural_length(eigenvalues: Array, grad: Array, x: Array) -> Array:
    """Length of the step |H|⁻¹g, which has the units of x whatever those of the loss.

    Curvatures under 1e-3 of the largest count as that: a nearly flat direction says
    little about how far the model holds. Without any curvature, the point's own length.
    """
    size = largest_curvature(eigenvalues)
    floored = jnp.maximum(jnp.abs(eigenvalues), 1e-3 * size)
    length = jnp.sqrt(jnp.sum((grad / jnp.where(floored > 0, floored, 1)) ** 2))
    own = jnp.sqrt(jnp.sum(x**2))
    return jnp.where((size > 0) & (length > 0), length, jnp.where(own > 0, own, 1))


def _propose(basis: _Eigenbasis, params: Params) -> Callable[[Array], tr.Proposal]:
    """Build the map from a radius to the model's minimiser within it."""
    flat, unravel = ravel_pytree(params)

    def propose(radius: Array) -> tr.Proposal:
        p, binding = solve_subproblem(basis.followed, basis.grad, radius)
        step = jnp.matmul(basis.eigenvectors, p, precision=jax.lax.Precision.HIGHEST)
        slope = jnp.sum(basis.grad * p)
        predicted = -slope - 0.5 * jnp.sum(basis.followed * p**2)
        length = jnp.sqrt(jnp.sum(p**2))
        return tr.Proposal(unravel(step.astype(flat.dtype)), length, slope, predicted, binding)

    return propose
