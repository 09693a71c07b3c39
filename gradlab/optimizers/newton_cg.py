"""Newton's method without the Hessian matrix: truncated conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._tree import (
    add_scaled,
    inner,
    max_abs,
    num_params,
    packed,
    working_dtype,
)
from gradlab._typing import Array, Number, Params
from gradlab.derivatives.autodiff import value_grad_hvp
from gradlab.optimizers import _trust_region as tr
from gradlab.optimizers._protocol import bind

__all__ = ["newton_cg"]


def newton_cg(
    *, max_products: int | None = None, noise: Number | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Newton's method by conjugate gradients in a trust region (Steihaug–Toint).

    Each update minimises the quadratic model by conjugate gradients on Hessian-vector
    products, until the residual is below $\min(\tfrac12, \sqrt{\|g\| / \|g_0\|})\,\|g\|$,
    the region's boundary is met, or a direction of negative curvature is: that one is
    followed to the boundary, on the side where the model is lower. A step that does not
    reduce the loss is shortened without new products (Nocedal & Yuan 1998). No matrix and
    no flat copy of the parameters is made.

    As an optax transformation it comes last in a chain, and its `update` needs `value`,
    `grad` and `value_fn`, as `optax.lbfgs` does. A zero update means that no better point
    was found (`state.failed`); `state.decrement` says how much the model still promised.

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
        Nocedal, J. and Yuan, Y. (1998). Combining trust region and line search techniques.

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
        value = jnp.asarray(value, working_dtype(params))
        budget = max_products or min(2 * num_params(params), 250)
        hvp = value_grad_hvp(loss, params)[2]
        path, model = _truncated_cg(hvp, params, grad, state, budget)
        trial = tr.search(
            loss, params, value, grad, model.radius, _propose(path, params), noise
        )
        calls = jnp.stack([0, 1, path.products, 0]).astype(jnp.int32)
        return tr.conclude(state, trial, value, grad, model, calls)

    return optax.GradientTransformationExtraArgs(tr.initial_state, update)


class _Path(NamedTuple):
    """Where conjugate gradients ended: the step p, and gᵀp, pᵀHp, ‖p‖ along it."""

    step: Params
    slope: Array
    curvature: Array
    length: Array
    interior: Array
    products: Array


class _Scalars(NamedTuple):
    """Scalars of the iteration, updated by recurrences: two inner products an iteration.

    `rr`, `dd`, `pd`, `pp` are the products of residual, direction and step; `model` is the
    model's value; `low` and `high` the extreme curvatures met; `ended` is RUNNING, INTERIOR
    or BOUNDARY.
    """

    rr: Array
    dd: Array
    pd: Array
    pp: Array
    model: Array
    low: Array
    high: Array
    ended: Array
    products: Array


class _Iteration(NamedTuple):
    """One conjugate-gradient iteration, its scalars packed in one vector."""

    step: Params
    residual: Params
    direction: Params
    scalars: Array


RUNNING, INTERIOR, BOUNDARY = 0, 1, 2


def _truncated_cg(
    hvp: Callable[[Params], Params],
    params: Params,
    grad: Params,
    state: tr.TrustRegionState,
    budget: int,
) -> tuple[_Path, tr.Model]:
    """Minimise the model by conjugate gradients from zero (Steihaug 1983).

    The model is divided by the largest gradient entry, so that no product of two vectors
    over- or underflows whatever the loss's units. At a stationary point there is no
    gradient to follow; then a fixed pseudo-random one lets the same iteration look for
    negative curvature.
    """
    size = max_abs(grad)
    dtype = size.dtype
    stationary = size == 0
    scale = jnp.where(stationary, 1, size)
    start = jax.tree.map(
        lambda g, r: jnp.where(stationary, r, g.astype(dtype) / scale),
        grad,
        _probe(grad, dtype),
    )
    start_norm = jnp.maximum(state.start_norm.astype(dtype), scale)
    # The residual, relative to the gradient, to leave: min(1/2, √(‖g‖/‖g₀‖)), squared.
    forcing = jnp.minimum(0.25, size / start_norm)
    own = max_abs(params).astype(dtype)
    own = jnp.where(own > 0, own, 1)
    radius = state.radius.astype(dtype)
    scale, start_norm, forcing, own, radius2 = packed(
        scale, start_norm, forcing, own, radius**2
    )
    rr = inner(start, start)
    target = forcing * rr

    def scaled_hvp(d: Params) -> Params:
        product = hvp(jax.tree.map(lambda u, p: u.astype(p.dtype), d, params))
        return jax.tree.map(lambda u: u.astype(dtype) / scale, product)

    def unfinished(it: _Iteration) -> Array:
        now = _Scalars(*it.scalars)
        return (now.ended == RUNNING) & (now.products < budget)

    def iterate(it: _Iteration) -> _Iteration:
        return _advance(it, scaled_hvp, target, radius2, own)

    zeros = jax.tree.map(jnp.zeros_like, start)
    zero, inf = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype)
    scalars = jnp.stack(_Scalars(rr, rr, zero, zero, zero, inf, zero, zero, zero))
    first = _Iteration(zeros, start, jax.tree.map(jnp.negative, start), scalars)
    last = jax.lax.while_loop(unfinished, iterate, first)
    end = _Scalars(*last.scalars)
    slope = inner(start, last.step)
    curvature = 2 * (end.model - slope) * scale
    # At a stationary point a step without negative curvature has nothing to gain.
    slope = jnp.where(stationary, 0, slope * scale)
    interior = end.ended == INTERIOR
    decrement = jnp.where(interior, jnp.maximum(-slope - 0.5 * curvature, 0), jnp.inf)
    slope, curvature, decrement, length, inside = packed(
        slope, curvature, decrement, jnp.sqrt(end.pp), interior
    )
    path = _Path(last.step, slope, curvature, length, inside > 0, end.products)
    return path, tr.Model(radius, decrement, end.low * scale, start_norm)


def _advance(
    it: _Iteration,
    hvp: Callable[[Params], Params],
    target: Array,
    radius2: Array,
    own: Array,
) -> _Iteration:
    """Advance one iteration: along the direction, to its minimum or to the boundary."""
    now = _Scalars(*it.scalars)
    d = it.direction
    hd = hvp(d)
    dhd = inner(d, hd)
    tau, outside, low, high = packed(*_step_length(now, dhd, radius2, own))
    step, residual = add_scaled(it.step, tau, d), add_scaled(it.residual, tau, hd)
    rr = inner(residual, residual)
    beta = rr / now.rr
    converged = jnp.where(rr <= target, INTERIOR, RUNNING)
    scalars = _Scalars(
        rr=rr,
        dd=rr + beta**2 * now.dd,
        pd=beta * (now.pd + tau * now.dd),
        pp=now.pp + 2 * tau * now.pd + tau**2 * now.dd,
        model=now.model - tau * now.rr + 0.5 * tau**2 * dhd,
        low=low,
        high=high,
        ended=jnp.where(outside > 0, BOUNDARY, converged),
        products=now.products + 1,
    )
    direction = jax.tree.map(lambda d, r: beta * d - r, d, residual)
    return _Iteration(step, residual, direction, packed(*scalars))


def _step_length(
    now: _Scalars, dhd: Array, radius2: Array, own: Array
) -> tuple[Array, Array, Array, Array]:
    """Find how far to go along a direction of curvature dᵀHd: τ, and what was met.

    Without positive curvature it is to the boundary, on the side where the model is lower;
    in a region still infinite, as far as a positive curvature of that size would lead, but
    no farther than 1,000 times the size of the point.
    """
    rayleigh = dhd / now.dd
    high = jnp.maximum(now.high, jnp.abs(rayleigh))
    # Curvature below the rounding of the largest one met is none at all.
    positive = dhd > jnp.finfo(dhd.dtype).eps * high * now.dd
    farthest = 1e3 * own / jnp.sqrt(now.dd)
    alpha = jnp.minimum(
        now.rr / jnp.where(dhd == 0, 1, jnp.abs(dhd)), jnp.where(positive, jnp.inf, farthest)
    )
    alpha = jnp.where(dhd == 0, farthest, alpha)
    reached = now.pp + 2 * alpha * now.pd + alpha**2 * now.dd
    outside = ~positive | (reached >= radius2)
    # ‖p + τd‖ = Δ: both roots without cancellation, as pᵀd ≥ 0 along the iteration.
    room = jnp.maximum(radius2 - now.pp, 0)
    sum_ = now.pd + jnp.sqrt(now.pd**2 + now.dd * room)
    forward = positive | (-now.pd * dhd <= now.rr * now.dd)
    boundary = jnp.where(forward, room / jnp.where(sum_ > 0, sum_, 1), -sum_ / now.dd)
    to_boundary = outside & jnp.isfinite(radius2)
    tau = jnp.where(to_boundary, boundary, alpha)
    return tau, outside, jnp.minimum(now.low, rayleigh), high


def _propose(path: _Path, params: Params) -> Callable[[Array], tr.Proposal]:
    """Build the map from a radius to the step cut to it; its model costs no product."""

    def propose(radius: Array) -> tr.Proposal:
        whole = (radius >= path.length) | (path.length == 0)
        tau = jnp.where(whole, 1, radius / jnp.where(whole, 1, path.length))
        slope = tau * path.slope
        updates = jax.tree.map(lambda u, p: (tau * u).astype(p.dtype), path.step, params)
        predicted = -slope - 0.5 * tau**2 * path.curvature
        binding = ~(whole & path.interior)
        return tr.Proposal(updates, tau * path.length, slope, predicted, binding)

    return propose


def _probe(tree: Params, dtype: Any) -> Params:
    """Build a fixed direction without symmetry: the fractional parts of multiples of φ.

    Such a sequence is spread evenly over its interval (Weyl) and needs no random bits.
    """
    leaves, structure = jax.tree.flatten(tree)
    golden = 0.6180339887498949
    made, first = [], 1
    for leaf in leaves:
        index = first + jnp.arange(leaf.size, dtype=dtype)
        made.append((index * golden % 1.0 - 0.5).reshape(leaf.shape))
        first += leaf.size
    return jax.tree.unflatten(structure, made)
