"""Truncated conjugate gradients on the quadratic model: the core of Newton's method without H.

Scalars of the iteration travel packed in one vector, because each array that a compiled loop
carries costs a kernel to compile and to launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab._tree import (
    add_scaled,
    inner,
    max_abs,
    num_params,
    packed,
    pseudo_random,
    select,
    where,
)
from gradlab._typing import Array, Params
from gradlab.optimizers import _trust_region as tr
from gradlab.optimizers._preconditioner import Apply, Preconditioner

__all__ = ["Path", "truncated_cg"]


class Path(NamedTuple):
    """Where conjugate gradients ended: the step p, and gᵀp, pᵀHp, ‖p‖ along it.

    `decrement` is the reduction predicted; inf where the model has no minimum inside.
    `possible` says whether there is any step, `spanned` whether as many directions as
    variables led to it, and `memory` is the preconditioner's, with what it learnt on the way.
    """

    step: Params
    slope: Array
    curvature: Array
    length: Array
    interior: Array
    products: Array
    decrement: Array
    possible: Array
    spanned: Array
    memory: Any


class _Scalars(NamedTuple):
    """Scalars of the iteration, updated by recurrences: two inner products an iteration.

    `rz`, `dd`, `pd`, `pp` are the products of the residual and what the preconditioner makes
    of it, direction and step; `model` is the model's value; `low` and `high` the extreme
    curvatures met; `ended` is RUNNING, INTERIOR or BOUNDARY.
    """

    rz: Array
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
    memory: Any


class _Enough(NamedTuple):
    """When a step is good enough; the model's value is negative, and falls.

    `residual` is the square of the residual to leave. An iteration that adds to the decrease
    less than `patience` times the mean of all so far is the last (Nash & Sofer 1990): on an
    ill-conditioned model the residual may stay large when there is little left to gain.
    """

    residual: Array
    patience: Array

    def reached(self, rr: Array, before: Array, after: Array, products: Array) -> Array:
        """Whether the iteration that led from `before` to `after` was the last."""
        idle = products * (before - after) < -self.patience * after
        return (rr <= self.residual) | idle


class _Conditioned(NamedTuple):
    """What this step does with residuals and with what it meets; None does nothing."""

    inverse: Apply | None
    learn: Callable[[Any, Params, Params, Array], Any]

    def apply(self, residual: Params, rr: Array) -> tuple[Params, Array]:
        """Return z, about H⁻¹ times the residual, and their product; rᵀr of the latter given.

        Where the product is not positive, rounding or a caller's function made it so, and the
        residual itself stands in.
        """
        if self.inverse is None:
            return residual, rr
        z = self.inverse(residual)
        rz = inner(residual, z)
        usable = (rz > 0) & jnp.isfinite(rz)
        z = jax.tree.map(lambda new, r: where(usable, new.astype(r.dtype), r), z, residual)
        return z, where(usable, rz, rr)


RUNNING, INTERIOR, BOUNDARY = 0, 1, 2
# Share of its usual size 1/√n that the component of the made-up direction along a given
# eigenvector hardly ever falls below (1 in 100 for normal components).
RARE = 1e-2
# Products spent on looking for negative curvature at a point that passed its test. For
# n ≤ 20 they see all of it, else curvatures of a few percent of the largest.
AT_REST = 20


def truncated_cg(
    hvp: Callable[[Params], Params],
    params: Params,
    grad: Params,
    state: tr.TrustRegionState,
    budget: int,
    at_rest: Array | bool,
    preconditioner: Preconditioner | None = None,
    active: Array | bool = True,
) -> tuple[Path, tr.Model]:
    """Minimise the model by conjugate gradients from zero (Steihaug 1983).

    The model is divided by the largest gradient entry, so that no product of two vectors
    over- or underflows whatever the loss's units. At a stationary point there is no
    gradient to follow; then a fixed pseudo-random one lets the same iteration look for
    negative curvature. While all curvature met is positive, the residual's part along an
    eigenvector of negative curvature never shrinks, for a polynomial that is 1 at 0 and has
    its roots at positive Ritz values only grows towards the left. So the residual may end
    the search once it is well below such a part's usual size, 1/√n.

    Where the last step has met curvature in every direction, there is nothing left to look
    for at rest.

    With a preconditioner the region stays round, and the residual is measured as it is, so
    that both mean the same from step to step.
    """
    size = max_abs(grad)
    dtype = size.dtype
    stationary = (size == 0) | at_rest
    scale = where(stationary, 1, size)
    start = jax.tree.map(
        lambda g, r: where(stationary, r, g.astype(dtype) / scale),
        grad,
        pseudo_random(grad, dtype),
    )
    start_norm = jnp.maximum(state.start_norm.astype(dtype), size)
    # The residual, relative to the gradient, to leave: min(1/2, √(‖g‖/‖g₀‖)), squared.
    forcing = jnp.minimum(0.25, size / where(start_norm > 0, start_norm, 1))
    forcing = where(stationary, RARE**2 / num_params(params), forcing)
    known = jnp.asarray(at_rest) & (state.surveyed > 0)
    most = where(stationary, where(known, 0, min(budget, AT_REST)), budget)
    own = max_abs(params).astype(dtype)
    own = where(own > 0, own, 1)
    radius = state.radius.astype(dtype)
    patience = where(stationary, 0, 0.5 * jnp.sqrt(forcing))
    scale, start_norm, forcing, patience, own, radius2, resting = packed(
        scale, start_norm, forcing, patience, own, radius**2, stationary
    )
    rr = inner(start, start)
    target = forcing * rr

    def scaled_hvp(d: Params) -> Params:
        product = hvp(jax.tree.map(lambda u, p: u.astype(p.dtype), d, params))
        return jax.tree.map(lambda u: u.astype(dtype) / scale, product)

    def unfinished(it: _Iteration) -> Array:
        now = _Scalars(*it.scalars)
        return (now.ended == RUNNING) & (now.products < most) & active

    def iterate(it: _Iteration) -> _Iteration:
        enough = _Enough(target, patience)
        return _advance(it, scaled_hvp, enough, radius2, own, resting > 0, conditioned)

    zeros = jax.tree.map(jnp.zeros_like, start)
    zero, inf = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype)
    conditioned, memory = _conditioned(
        preconditioner, state.memory, hvp, params, scale, resting
    )
    z, rz = conditioned.apply(start, rr)
    scalars = jnp.stack(_Scalars(rz, rr, zero, zero, zero, inf, zero, zero, zero))
    first = _Iteration(zeros, start, jax.tree.map(jnp.negative, z), scalars, memory)
    last = jax.lax.while_loop(unfinished, iterate, first)
    end = _Scalars(*last.scalars)
    slope = inner(start, last.step)
    curvature = 2 * (end.model - slope) * scale
    slope = where(stationary, 0, slope * scale)
    interior = end.ended == INTERIOR
    decrement = where(interior, jnp.maximum(-slope - 0.5 * curvature, 0), jnp.inf)
    # Products that are not finite say nothing.
    decrement = where(stationary & (end.low == end.low), 0, decrement)
    # At rest, only negative curvature beyond rounding leads anywhere.
    rounding = num_params(params) * jnp.finfo(dtype).eps * end.high
    possible = ~stationary | (end.low < -rounding)
    slope, curvature, decrement, length, inside = packed(
        slope, curvature, decrement, jnp.sqrt(end.pp), interior
    )
    looks = 0 if preconditioner is None else preconditioner.looks
    path = Path(
        last.step, slope, curvature, length, inside > 0, end.products + looks, decrement,
        possible, interior & (end.products >= num_params(params)), last.memory,
    )  # fmt: skip
    # The least curvature at rest is known once the residual says that all was seen.
    low = where(stationary & (end.ended == RUNNING), jnp.minimum(end.low, 0), end.low)
    low, high = low * scale, end.high * scale
    low = where(known, state.curvature.astype(dtype), low)
    # What the steps to here have met counts too: a made-up direction may miss most of it.
    high = where(stationary, jnp.maximum(high, state.stiffness.astype(dtype)), high)
    return path, tr.Model(radius, low, start_norm, high)


def _advance(
    it: _Iteration,
    hvp: Callable[[Params], Params],
    enough: _Enough,
    radius2: Array,
    own: Array,
    at_rest: Array,
    conditioned: _Conditioned,
) -> _Iteration:
    """Advance one iteration: along the direction, to its minimum or to the boundary.

    At rest a direction of negative curvature is followed from the point itself: the step
    so far, along the made-up gradient, has nothing to do with the loss.
    """
    now = _Scalars(*it.scalars)
    d = it.direction
    if conditioned.inverse is not None:  # the recurrences below are those without
        now = now._replace(dd=inner(d, d), pd=inner(it.step, d), pp=inner(it.step, it.step))
    hd = hvp(d)
    dhd = inner(d, hd)
    rayleigh = dhd / now.dd
    high = jnp.maximum(now.high, jnp.abs(rayleigh))
    # Curvature below the rounding of the largest one met is none at all.
    positive = dhd > jnp.finfo(dhd.dtype).eps * high * now.dd
    alone = at_rest & ~positive
    now = now._replace(
        pd=where(alone, 0, now.pd),
        pp=where(alone, 0, now.pp),
        model=where(alone, 0, now.model),
    )
    tau, outside = _step_length(now, dhd, positive, radius2, own, at_rest)
    low = jnp.minimum(now.low, rayleigh)
    tau, outside, low, high, kept = packed(tau, outside, low, high, ~alone)
    step = jax.tree.map(lambda p, d: kept * p + tau * d, it.step, d)
    residual = add_scaled(it.residual, tau, hd)
    rr = inner(residual, residual)
    z, rz = conditioned.apply(residual, rr)
    beta = rz / now.rz
    memory = conditioned.learn(it.memory, d, hd, positive)
    products = now.products + 1
    model = now.model - tau * now.rz + 0.5 * tau**2 * dhd
    converged = where(enough.reached(rr, now.model, model, products), INTERIOR, RUNNING)
    scalars = _Scalars(
        rz=rz,
        dd=rr + beta**2 * now.dd,
        pd=beta * (now.pd + tau * now.dd),
        pp=now.pp + 2 * tau * now.pd + tau**2 * now.dd,
        model=model,
        low=low,
        high=high,
        ended=where(outside > 0, BOUNDARY, converged),
        products=products,
    )
    direction = jax.tree.map(lambda d, z: beta * d - z, d, z)
    return _Iteration(step, residual, direction, packed(*scalars), memory)


def _conditioned(
    preconditioner: Preconditioner | None,
    memory: Any,
    hvp: Callable[[Params], Params],
    params: Params,
    unit: Array,
    resting: Array,
) -> tuple[_Conditioned, Any]:
    """Prepare the preconditioner for a step; at rest it neither acts nor learns."""
    if preconditioner is None:
        return _Conditioned(None, lambda memory, *met: memory), memory
    memory = preconditioner.look(memory, hvp, params)
    inverse = preconditioner.inverse(memory)

    def unless_resting(residual: Params) -> Params:
        return select(resting > 0, residual, inverse(residual))

    def learn(memory: Any, direction: Params, image: Params, positive: Array) -> Any:
        return preconditioner.learn(memory, direction, image, unit, positive & (resting == 0))

    return _Conditioned(unless_resting, learn), memory


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
        now.rz / where(dhd == 0, 1, jnp.abs(dhd)), where(positive, jnp.inf, farthest)
    )
    alpha = where(dhd == 0, farthest, alpha)
    alpha = where(at_rest & ~positive, own / jnp.sqrt(now.dd), alpha)
    reached = now.pp + 2 * alpha * now.pd + alpha**2 * now.dd
    outside = ~positive | ((reached >= radius2) & ~at_rest)
    # ‖p + τd‖ = Δ: both roots without cancellation, as pᵀd ≥ 0 along the iteration.
    room = jnp.maximum(radius2 - now.pp, 0)
    sum_ = now.pd + jnp.sqrt(now.pd**2 + now.dd * room)
    forward = positive | (-now.pd * dhd <= now.rz * now.dd)
    boundary = where(forward, room / where(sum_ > 0, sum_, 1), -sum_ / now.dd)
    to_boundary = outside & jnp.isfinite(radius2)
    return where(to_boundary, boundary, alpha), outside
