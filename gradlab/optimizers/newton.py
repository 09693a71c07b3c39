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
from gradlab.optimizers._subproblem import is_positive_definite, solve_subproblem

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
        value = jnp.asarray(value, working_dtype(params))
        basis, model = _quadratic_model(loss, params, grad, state.radius)
        propose = _propose(basis, params)
        trial = tr.search(loss, params, value, grad, model.radius, propose, noise)
        one_hessian = jnp.array([0, 0, 0, 1], jnp.int32)
        return tr.conclude(state, trial, value, grad, model, one_hessian)

    return optax.GradientTransformationExtraArgs(tr.initial_state, update)


class _Eigenbasis(NamedTuple):
    """Quadratic model at a point: eigenvalues, eigenvectors, gradient in their basis."""

    eigenvalues: Array
    eigenvectors: Array
    grad: Array


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
    positive = is_positive_definite(eigenvalues)
    natural = _natural_length(eigenvalues, rotated, x)
    radius = radius.astype(dtype)
    radius = jnp.where(jnp.isinf(radius) & ~positive, natural, radius)
    safe = jnp.where(eigenvalues > 0, eigenvalues, 1)
    decrement = jnp.where(positive, 0.5 * jnp.sum(rotated * (rotated / safe)), jnp.inf)
    basis = _Eigenbasis(eigenvalues, vectors, rotated)
    return basis, tr.Model(radius, decrement, eigenvalues[0], jnp.zeros_like(decrement))


def _natural_length(eigenvalues: Array, grad: Array, x: Array) -> Array:
    """Length of the step |H|⁻¹g, which has the units of x whatever those of the loss.

    Curvatures under 1e-3 of the largest count as that: a nearly flat direction says
    little about how far the model holds. Without any curvature, the point's own length.
    """
    size = jnp.maximum(jnp.abs(eigenvalues[0]), jnp.abs(eigenvalues[-1]))
    floored = jnp.maximum(jnp.abs(eigenvalues), 1e-3 * size)
    length = jnp.sqrt(jnp.sum((grad / jnp.where(floored > 0, floored, 1)) ** 2))
    own = jnp.sqrt(jnp.sum(x**2))
    return jnp.where((size > 0) & (length > 0), length, jnp.where(own > 0, own, 1))


def _propose(basis: _Eigenbasis, params: Params) -> Callable[[Array], tr.Proposal]:
    """Build the map from a radius to the model's minimiser within it."""
    flat, unravel = ravel_pytree(params)

    def propose(radius: Array) -> tr.Proposal:
        p, binding = solve_subproblem(basis.eigenvalues, basis.grad, radius)
        step = jnp.matmul(basis.eigenvectors, p, precision=jax.lax.Precision.HIGHEST)
        slope = jnp.sum(basis.grad * p)
        predicted = -slope - 0.5 * jnp.sum(basis.eigenvalues * p**2)
        length = jnp.sqrt(jnp.sum(p**2))
        return tr.Proposal(unravel(step.astype(flat.dtype)), length, slope, predicted, binding)

    return propose
