"""Newton's method without the Hessian matrix: truncated conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._tree import add_scaled, inner, norm, num_params, working_dtype
from gradlab._typing import Array, Params

from gradlab.derivatives.autodiff import value_grad_hvp
from gradlab.optimizers import _trust_region as tr
from gradlab.optimizers._protocol import bind

__all__ = ["newton_cg"]


def newton_cg(
    *, max_products: int | None = None, noise: float | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Newton's method by conjugate gradients in a trust region (Steihaug–Toint).

    Each update minimises the quadratic model by conjugate gradients on Hessian-vector
    products, until the residual is below $\min(\tfrac12, \sqrt{\|g\| / \|g_0\|})\,\|g\|$,
    the region's boundary is met, or a direction of negative curvature is: that one is
    followed to the boundary, on the side where the model is lower. Steps that do not reduce
    the loss are shortened along the path through the Cauchy point, without new products.
    No matrix and no flat copy of the parameters is made.

    As an optax transformation it comes last in a chain, and its `update` needs `value`,
    `grad` and `value_fn`, as `optax.lbfgs` does. A zero update means that no better point
    was found; `state.failed` and `state.at_noise` say why.

    Cost: one gradient (the linearisation) an accepted step, two gradient equivalents a
    product, one loss and one gradient a trial step.

    Args:
        max_products: Largest number of products a step; default 2n, at most 250.
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `TrustRegionState`.

    References:
        Steihaug, T. (1983). The conjugate gradient method and trust regions.
        Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, algorithm 7.2.

    Examples:
        >>> import gradlab as gl
        >>> result = gl.minimize(lambda x: ((x - 3) ** 2).sum(), jnp.zeros(2), gl.newton_cg())
        >>> print(result.x, result.nit)
        [3. 3.] 1
    """
    default_noise = noise

    def update(updates, state, params=None, *, value, grad, value_fn, noise=None, **extra):
        del updates  # the step is judged by the loss, so it must come from its gradient
        noise = default_noise if noise is None else noise
        loss = bind(value_fn, extra)
        dtype = working_dtype(params)
        value, radius = jnp.asarray(value, dtype), state.radius.astype(dtype)
        grad_norm = norm(grad)
        start_norm = jnp.where(state.count == 0, grad_norm, state.start_norm.astype(dtype))
        start_norm = jnp.maximum(start_norm, grad_norm)
        budget = max_products or min(2 * num_params(params), 250)
        hvp = value_grad_hvp(loss, params)[2]
        path = _truncated_cg(hvp, grad, grad_norm, start_norm, radius, params, budget)
        trial = tr.search(loss, params, value, grad, path.radius, _propose(path, grad), noise)
        decrement = jnp.where(path.interior, path.reduction, jnp.inf)
        updates, state = tr.conclude(
            state, trial, value, grad, path.radius, decrement, path.curvature, noise
        )
        return updates, state._replace(
            start_norm=start_norm.astype(state.start_norm.dtype),
            ngev=state.ngev + 1,
            nhvp=state.nhvp + path.products,
        )

    return optax.GradientTransformationExtraArgs(tr.initial_state, update)


class _Path(NamedTuple):
    """Truncated conjugate gradients: the step, the Cauchy point, and their products with H."""

    step: Params
    product: Params
    cauchy: Params
    cauchy_product: Params
    radius: Array
    interior: Array
    reduction: Array
    curvature: Array
    products: Array


class _Iteration(NamedTuple):
    """One conjugate-gradient iteration."""

    step: Params
    product: Params
    residual: Params
    direction: Params
    cauchy: Params
    cauchy_product: Params
    residual_norm2: Array
    radius: Array
    curvature: Array
    interior: Array
    done: Array
    count: Array


def _truncated_cg(
    hvp: Callable[[Params], Params],
    grad: Params,
    grad_norm: Array,
    start_norm: Array,
    radius: Array,
    params: Params,
    budget: int,
) -> _Path:
    """Minimise the model by conjugate gradients from zero (Steihaug 1983).

    At a stationary point there is no gradient to follow; then a fixed pseudo-random one
    lets the same iteration look for negative curvature.
    """
    dtype = grad_norm.dtype
    stationary = grad_norm == 0
    start = jax.tree.map(
        lambda g, r: jnp.where(stationary, r, g.astype(dtype)), grad, _probe(grad, dtype)
    )
    start_norm2 = inner(start, start)
    scale = jnp.where(start_norm > 0, start_norm, 1)
    forcing = jnp.minimum(0.5, jnp.sqrt(grad_norm / scale))
    target = (forcing * grad_norm) ** 2
    zeros = jax.tree.map(jnp.zeros_like, start)
    own = norm(params)
    own = jnp.where(own > 0, own, 1).astype(dtype)

    def iterate(it: _Iteration) -> _Iteration:
        return _cg_iteration(it, hvp, params, start, target, own)

    first = _Iteration(
        zeros, zeros, start, jax.tree.map(jnp.negative, start), zeros, zeros, start_norm2,
        radius, jnp.full((), jnp.inf, dtype), jnp.ones((), bool), jnp.zeros((), bool),
        jnp.zeros((), jnp.int32),
    )  # fmt: skip
    last = jax.lax.while_loop(lambda it: ~it.done & (it.count < budget), iterate, first)
    # Nothing to gain at a stationary point unless the curvature is negative there.
    useful = ~stationary | ~last.interior
    step, product = (
        jax.tree.map(lambda u: jnp.where(useful, u, 0), tree)
        for tree in (last.step, last.product)
    )
    interior = last.interior & (last.residual_norm2 <= jnp.maximum(target, 0))
    return _Path(
        step,
        product,
        last.cauchy,
        last.cauchy_product,
        last.radius,
        interior | (stationary & last.interior),
        _reduction(grad, step, product),
        last.curvature,
        last.count,
    )


def _cg_iteration(it: _Iteration, hvp, params, start, target, own) -> _Iteration:
    """Advance one iteration: along the direction, to its minimum or to the boundary."""
    dtype = it.residual_norm2.dtype
    d = it.direction
    as_params = jax.tree.map(lambda u, p: u.astype(p.dtype), d, params)
    hd = jax.tree.map(lambda u: u.astype(dtype), hvp(as_params))
    curvature, length2 = inner(d, hd), inner(d, d)
    eps = jnp.finfo(dtype).eps
    positive = curvature > eps * jnp.sqrt(length2 * inner(hd, hd))
    ahead = it.residual_norm2 / jnp.where(positive, curvature, 1)
    radius = jnp.where(
        jnp.isinf(it.radius) & ~positive,
        _first_radius(it, curvature, length2, own),
        it.radius,
    )
    step = add_scaled(it.step, ahead, d)
    outside = ~positive | (norm(step) >= radius)
    tau = jnp.where(outside, _to_boundary(it, start, curvature, radius, positive), ahead)
    step, product = add_scaled(it.step, tau, d), add_scaled(it.product, tau, hd)
    residual = add_scaled(it.residual, tau, hd)
    norm2 = inner(residual, residual)
    ratio = norm2 / jnp.where(it.residual_norm2 > 0, it.residual_norm2, 1)
    first = it.count == 0
    keep = jax.tree_util.Partial(jax.tree.map, lambda new, old: jnp.where(first, new, old))
    rayleigh = curvature / jnp.where(length2 > 0, length2, 1)
    return _Iteration(
        step,
        product,
        residual,
        add_scaled(jax.tree.map(jnp.negative, residual), ratio, d),
        keep(step, it.cauchy),
        keep(product, it.cauchy_product),
        norm2,
        radius,
        jnp.minimum(it.curvature, rayleigh),
        ~outside,
        outside | (norm2 <= target) | (norm2 == 0),
        it.count + 1,
    )


def _first_radius(it: _Iteration, curvature: Array, length2: Array, own: Array) -> Array:
    """Length to allow where curvature first turns negative in an infinite region.

    What the step has reached, plus the step that a positive curvature of this size would
    give: it has the units of x whatever those of the loss. Without curvature, the point's
    own length.
    """
    size = jnp.abs(curvature)
    along = it.residual_norm2 / jnp.where(size > 0, size, 1) * jnp.sqrt(length2)
    return norm(it.step) + jnp.where((size > 0) & jnp.isfinite(along), along, own)


def _to_boundary(it: _Iteration, start, curvature: Array, radius: Array, positive) -> Array:
    """Find τ with ‖step + τ·direction‖ = radius; of two, the one with the lower model."""
    d = it.direction
    a, b = inner(d, d), inner(it.step, d)
    room = jnp.maximum(radius**2 - inner(it.step, it.step), 0)
    root = jnp.sqrt(b**2 + a * room)
    safe = jnp.where(a > 0, a, 1)
    # The root without cancellation, the other from the product of the roots −room / a.
    large = jnp.where(b > 0, -(b + root), root - b) / safe
    small = jnp.where(large != 0, -room / (safe * jnp.where(large != 0, large, 1)), 0)
    forward, backward = jnp.maximum(large, small), jnp.minimum(large, small)
    slope = inner(it.residual, d)

    def model(tau):
        return tau * slope + 0.5 * tau**2 * curvature

    return jnp.where(positive | (model(forward) <= model(backward)), forward, backward)


def _propose(path: _Path, grad: Params) -> Callable[[Array], tr.Proposal]:
    """Build the map from a radius to a step: the path 0 → Cauchy point → step, cut there.

    Both ends have known products with H, so the model's reduction costs nothing.
    """
    cauchy_norm, step_norm = norm(path.cauchy), norm(path.step)

    def propose(radius: Array) -> tr.Proposal:
        whole = radius >= step_norm
        early = radius <= cauchy_norm
        difference = add_scaled(path.step, -1.0, path.cauchy)
        a, b = inner(difference, difference), inner(path.cauchy, difference)
        room = jnp.maximum(radius**2 - cauchy_norm**2, 0)
        root = jnp.sqrt(jnp.maximum(b**2 + a * room, 0))
        denominator = b + root
        # Rationalised, so that nothing cancels where b > 0, as on a path of growing norm.
        tau = jnp.where(denominator > 0, room / jnp.where(denominator > 0, denominator, 1), 0)
        tau = jnp.where(whole, 1.0, jnp.where(early, 0.0, jnp.clip(tau, 0, 1)))
        factor = radius / jnp.where(cauchy_norm > 0, cauchy_norm, 1)
        scale = jnp.where(early & ~whole, factor, 1.0)

        def combine(first: Params, last: Params) -> Params:
            return jax.tree.map(lambda u, v: scale * ((1 - tau) * u + tau * v), first, last)

        step = combine(path.cauchy, path.step)
        product = combine(path.cauchy_product, path.product)
        updates = jax.tree.map(lambda u, g: u.astype(g.dtype), step, grad)
        return tr.Proposal(updates, _reduction(grad, step, product), ~(whole & path.interior))

    return propose


def _reduction(grad: Params, step: Params, product: Params) -> Array:
    """Reduction −gᵀp − ½pᵀHp that the model predicts."""
    return -inner(grad, step) - 0.5 * inner(step, product)


def _probe(tree: Params, dtype) -> Params:
    """Build a fixed pseudo-random direction without symmetry, shaped like the tree."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return structure.unflatten(
        [jax.random.normal(k, x.shape, dtype) for k, x in zip(keys, leaves, strict=True)]
    )
