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
    With `at_rest=True` an update takes the point for stationary and looks for negative
    curvature only, along a direction the gradient knows nothing of: conjugate gradients
    cannot leave the space that the gradient spans, so by themselves they take a saddle
    reached along its valley for a minimum.

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

    def update(
        updates,
        state,
        params=None,
        *,
        value,
        grad,
        value_fn,
        noise=None,
        at_rest=False,
        **extra,
    ):
        del updates  # the step is judged by the loss, so it must come from its gradient
        noise = default_noise if noise is None else noise
        loss = bind(value_fn, extra)
        value, eps = tr.loss_value(value, params)
        budget = max_products or min(2 * num_params(params), 250)
        hvp = value_grad_hvp(loss, params)[2]
        path, model = _truncated_cg(hvp, params, grad, state, budget, at_rest)
        trial = tr.search(loss, params, value, grad, model, _propose(path, params), noise, eps)
        calls = jnp.stack([0, 1, path.products, 0]).astype(jnp.int32)
        remaining = _remaining_length(path, grad, trial)
        return tr.conclude(state, trial, value, grad, model, remaining, calls)

    def init(params: Params) -> tr.TrustRegionState:
        return tr.initial_state(params, tr.MatrixFreeState)

    return optax.GradientTransformationExtraArgs(init, update)


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
# Share of its usual size 1/√n that the component of the made-up direction along a given
# eigenvector hardly ever falls below (1 in 100 for normal components).
RARE = 1e-2
# Products spent on looking for negative curvature at a point that passed its test. For
# n ≤ 20 they see all of it, else curvatures of a few percent of the largest.
AT_REST = 20


def _truncated_cg(
    hvp: Callable[[Params], Params],
    params: Params,
    grad: Params,
    state: tr.TrustRegionState,
    budget: int,
    at_rest: Array | bool,
) -> tuple[_Path, tr.Model]:
    """Minimise the model by conjugate gradients from zero (Steihaug 1983).

    The model is divided by the largest gradient entry, so that no product of two vectors
    over- or underflows whatever the loss's units. At a stationary point there is no
    gradient to follow; then a fixed pseudo-random one lets the same iteration look for
    negative curvature. While all curvature met is positive, the residual's part along an
    eigenvector of negative curvature never shrinks, for a polynomial that is 1 at 0 and has
    its roots at positive Ritz values only grows towards the left. So the residual may end
    the search once it is well below such a part's usual size, 1/√n.
    """
    size = max_abs(grad)
    dtype = size.dtype
    stationary = (size == 0) | at_rest
    scale = jnp.where(stationary, 1, size)
    start = jax.tree.map(
        lambda g, r: jnp.where(stationary, r, g.astype(dtype) / scale),
        grad,
        _probe(grad, dtype),
    )
    start_norm = jnp.maximum(state.start_norm.astype(dtype), size)
    # The residual, relative to the gradient, to leave: min(1/2, √(‖g‖/‖g₀‖)), squared.
    forcing = jnp.minimum(0.25, size / jnp.where(start_norm > 0, start_norm, 1))
    forcing = jnp.where(stationary, RARE**2 / num_params(params), forcing)
    most = jnp.where(stationary, min(budget, AT_REST), budget)
    own = max_abs(params).astype(dtype)
    own = jnp.where(own > 0, own, 1)
    radius = state.radius.astype(dtype)
    scale, start_norm, forcing, own, radius2, resting = packed(
        scale, start_norm, forcing, own, radius**2, stationary
    )
    rr = inner(start, start)
    target = forcing * rr

    def scaled_hvp(d: Params) -> Params:
        product = hvp(jax.tree.map(lambda u, p: u.astype(p.dtype), d, params))
        return jax.tree.map(lambda u: u.astype(dtype) / scale, product)

    def unfinished(it: _Iteration) -> Array:
        now = _Scalars(*it.scalars)
        return (now.ended == RUNNING) & (now.products < most)

    def iterate(it: _Iteration) -> _Iteration:
        return _advance(it, scaled_hvp, target, radius2, own, resting > 0)

    zeros = jax.tree.map(jnp.zeros_like, start)
    zero, inf = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype)
    scalars = jnp.stack(_Scalars(rr, rr, zero, zero, zero, inf, zero, zero, zero))
    first = _Iteration(zeros, start, jax.tree.map(jnp.negative, start), scalars)
    last = jax.lax.while_loop(unfinished, iterate, first)
    end = _Scalars(*last.scalars)
    slope = inner(start, last.step)
    curvature = 2 * (end.model - slope) * scale
    slope = jnp.where(stationary, 0, slope * scale)
    interior = end.ended == INTERIOR
    decrement = jnp.where(interior, jnp.maximum(-slope - 0.5 * curvature, 0), jnp.inf)
    decrement = jnp.where(stationary, 0, decrement)
    # At rest, only negative curvature beyond rounding leads anywhere.
    rounding = num_params(params) * jnp.finfo(dtype).eps * end.high
    possible = ~stationary | (end.low < -rounding)
    slope, curvature, decrement, length, inside = packed(
        slope, curvature, decrement, jnp.sqrt(end.pp), interior
    )
    path = _Path(last.step, slope, curvature, length, inside > 0, end.products)
    low, high = end.low * scale, end.high * scale
    return path, tr.Model(radius, decrement, low, start_norm, high, possible)


def _advance(
    it: _Iteration,
    hvp: Callable[[Params], Params],
    target: Array,
    radius2: Array,
    own: Array,
    at_rest: Array,
) -> _Iteration:
    """Advance one iteration: along the direction, to its minimum or to the boundary.

    At rest a direction of negative curvature is followed from the point itself: the step
    so far, along the made-up gradient, has nothing to do with the loss.
    """
    now = _Scalars(*it.scalars)
    d = it.direction
    hd = hvp(d)
    dhd = inner(d, hd)
    rayleigh = dhd / now.dd
    high = jnp.maximum(now.high, jnp.abs(rayleigh))
    # Curvature below the rounding of the largest one met is none at all.
    positive = dhd > jnp.finfo(dhd.dtype).eps * high * now.dd
    alone = at_rest & ~positive
    now = now._replace(
        pd=jnp.where(alone, 0, now.pd),
        pp=jnp.where(alone, 0, now.pp),
        model=jnp.where(alone, 0, now.model),
    )
    tau, outside = _step_length(now, dhd, positive, radius2, own, at_rest)
    low = jnp.minimum(now.low, rayleigh)
    tau, outside, low, high, kept = packed(tau, outside, low, high, ~alone)
    step = jax.tree.map(lambda p, d: kept * p + tau * d, it.step, d)
    residual = add_scaled(it.residual, tau, hd)
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
    now: _Scalars, dhd: Array, positive: Array, radius2: Array, own: Array, at_rest: Array
) -> tuple[Array, Array]:
    """Find how far to go along a direction of curvature dᵀHd: τ, and whether it ends there.

    Without positive curvature it is to the boundary, on the side where the model is lower;
    in a region still infinite, as far as a positive curvature of that size would lead, but
    no farther than 1,000 times the size of the point. At rest, where no gradient tells how
    far, it is that size; and positive curvature, met on the way, knows no boundary.
    """
    farthest = 1e3 * own / jnp.sqrt(now.dd)
    alpha = jnp.minimum(
        now.rr / jnp.where(dhd == 0, 1, jnp.abs(dhd)), jnp.where(positive, jnp.inf, farthest)
    )
    alpha = jnp.where(dhd == 0, farthest, alpha)
    alpha = jnp.where(at_rest & ~positive, own / jnp.sqrt(now.dd), alpha)
    reached = now.pp + 2 * alpha * now.pd + alpha**2 * now.dd
    outside = ~positive | ((reached >= radius2) & ~at_rest)
    # ‖p + τd‖ = Δ: both roots without cancellation, as pᵀd ≥ 0 along the iteration.
    room = jnp.maximum(radius2 - now.pp, 0)
    sum_ = now.pd + jnp.sqrt(now.pd**2 + now.dd * room)
    forward = positive | (-now.pd * dhd <= now.rr * now.dd)
    boundary = jnp.where(forward, room / jnp.where(sum_ > 0, sum_, 1), -sum_ / now.dd)
    to_boundary = outside & jnp.isfinite(radius2)
    return jnp.where(to_boundary, boundary, alpha), outside


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


def _remaining_length(path: _Path, grad: Params, trial: tr.Trial) -> Array:
    """Predict the next step's length: it has shrunk as the gradient has.

    Only where the last step was to the minimum of the model, and as good as that said.
    """
    fell = trial.grad_max / max_abs(grad)
    as_told = path.interior & (jnp.abs(trial.ratio - 1) <= 1 - tr.GOOD)
    return jnp.where(as_told, path.length * fell, jnp.inf)


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
