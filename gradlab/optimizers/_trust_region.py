"""The parts every trust-region method shares: state, acceptance, radius, the search.

Nothing here is absolute: lengths are compared with the step, reductions with the noise
level of the loss, curvatures with the largest curvature.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._tree import all_finite, inner, max_abs, moved, norm, real_dtype
from gradlab._typing import Array, Params

__all__ = ["Proposal", "Trial", "TrustRegionState", "conclude", "initial_state", "search"]

# Conn, Gould & Toint (2000), Trust-Region Methods, section 17.1: the usual constants.
ACCEPT = 1e-4  # smallest ratio of actual to predicted reduction that is taken
POOR, GOOD = 0.25, 0.75  # below POOR the region shrinks, above GOOD it may grow
MAX_TRIALS = 40  # a step shortened 40 times by at least 1/2 is below every dtype's eps
# Reductions below this multiple of the noise are judged by slopes: the ratio of two such
# differences has lost three digits.
NOISY = 1e3


class TrustRegionState(NamedTuple):
    """State of a trust-region method: the accepted point's value and gradient, and counts.

    Attributes:
        count: Accepted steps.
        value: Loss at the parameters the last update leads to; inf before the first.
        grad: Gradient there.
        radius: Trust-region radius; infinite until a step was rejected or poor.
        ratio: Actual over predicted reduction of the last step.
        decrement: Reduction that the model without a region predicted for the last step;
            inf where that model has no minimum.
        curvature: Smallest curvature seen at the last point.
        start_norm: Norm of the first gradient, the scale of the inexact solves.
        at_noise: Whether the last step could gain nothing above the loss's noise.
        failed: Whether no acceptable step was found (the update was zero).
        nfev: Losses evaluated by the method, without those its host evaluates.
        ngev: Gradients, likewise.
        nhvp: Hessian-vector products.
        nhev: Dense Hessians.
    """

    count: Array
    value: Array
    grad: Params
    radius: Array
    ratio: Array
    decrement: Array
    curvature: Array
    start_norm: Array
    at_noise: Array
    failed: Array
    nfev: Array
    ngev: Array
    nhvp: Array
    nhev: Array


def initial_state(params: Params) -> TrustRegionState:
    """Build the state before the first step, in the parameters' own dtype."""
    dtype = real_dtype(params)
    inf, zero = jnp.full((), jnp.inf, dtype), jnp.zeros((), dtype)
    no, none = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    grad = jax.tree.map(jnp.zeros_like, params)
    return TrustRegionState(
        none, inf, grad, inf, zero, inf, zero, zero, no, no, none, none, none, none
    )


def noise_level(value: Array, new_value: Array, noise: Array | float | None) -> Array:
    """Noise of the loss: as given, else the bound 4·eps·|f| of its rounding.

    A measured float32 logistic loss or least squares errs by 0.25 to 0.33 eps·|f|; four
    leaves room for sums that are less kind. A loss that cancels needs `noise` measured.
    """
    if noise is not None:
        return jnp.asarray(noise, value.dtype)
    eps = jnp.finfo(value.dtype).eps
    size = jnp.maximum(jnp.abs(value), jnp.abs(new_value))
    return 4 * eps * jnp.where(jnp.isfinite(size), size, jnp.abs(value))


class Proposal(NamedTuple):
    """Step offered for a radius: the model's reduction, and whether the region binds."""

    updates: Params
    predicted: Array
    on_boundary: Array


class Trial(NamedTuple):
    """A trial step, how it was judged, and how many it took.

    `lost` says that the step vanished in the rounding of the parameters.
    """

    updates: Params
    value: Array
    grad: Params
    accepted: Array
    lost: Array
    ratio: Array
    radius: Array
    count: Array


def search(
    loss: Callable[[Params], Array],
    params: Params,
    value: Array,
    grad: Params,
    radius: Array,
    propose: Callable[[Array], Proposal],
    noise: Array | float | None,
) -> Trial:
    """Shrink the region until the step proposed for it is acceptable.

    The trial point is `optax.apply_updates(params, updates)`, to the bit the one the host
    will have, so the value and gradient found belong to it. Each trial costs one loss and
    one gradient; `propose` must cost none.
    """

    def not_done(trial: Trial) -> Array:
        return ~trial.accepted & ~trial.lost & (trial.count < MAX_TRIALS)

    def attempt(trial: Trial) -> Trial:
        proposal = propose(trial.radius)
        new_params = optax.apply_updates(params, proposal.updates)
        new_value, new_grad = jax.value_and_grad(loss)(new_params)
        new_value = new_value.astype(value.dtype)
        changed = moved(params, new_params)
        accepted, ratio, radius = _judge(
            value, new_value, grad, new_grad, proposal, trial.radius, noise
        )
        return Trial(
            proposal.updates,
            new_value,
            new_grad,
            accepted & changed,
            ~changed,
            ratio,
            radius,
            trial.count + 1,
        )

    no, none = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    zeros = jax.tree.map(jnp.zeros_like, params)
    start = Trial(zeros, value, grad, no, no, jnp.zeros((), value.dtype), radius, none)
    return jax.lax.while_loop(not_done, attempt, start)


def _judge(
    value: Array,
    new_value: Array,
    grad: Params,
    new_grad: Params,
    proposal: Proposal,
    radius: Array,
    noise: Array | float | None,
) -> tuple[Array, Array, Array]:
    r"""Judge a trial step: accepted or not, the ratio, the next radius.

    Above the noise the reduction is $f - f^+$. Below it the trapezoid rule
    $-\tfrac12 (g + g^+)^T p$ stands in, whose error is $O(\|p\|^3)$ and free of
    cancellation, and $f^+ \le f + \varepsilon_f$ must hold (Hager & Zhang 2005;
    Conn, Gould & Toint 2000, section 17.4.2).
    """
    step = proposal.updates
    slope, new_slope = inner(grad, step), inner(new_grad, step)
    finite = jnp.isfinite(new_value) & all_finite(new_grad)
    level = noise_level(value, new_value, noise)
    reduction = value - new_value
    clear = jnp.abs(reduction) > NOISY * level
    actual = jnp.where(clear, reduction, -0.5 * (slope + new_slope))
    predicted = jnp.where(proposal.predicted > 0, proposal.predicted, jnp.inf)
    ratio = jnp.where(finite, actual / predicted, -jnp.inf).astype(value.dtype)
    accepted = finite & (ratio >= ACCEPT) & (new_value <= value + level)
    length = norm(step).astype(radius.dtype)
    after = jnp.where(
        accepted,
        _next_radius(radius, length, proposal.on_boundary, ratio),
        length * _shrink_factor(value, new_value, slope, finite),
    )
    return accepted, ratio, after.astype(radius.dtype)


def _next_radius(radius: Array, length: Array, on_boundary: Array, ratio: Array) -> Array:
    """Radius after an accepted step: a quarter of a poor one, double a good boundary one."""
    grown = jnp.where(on_boundary & (ratio > GOOD), 2 * radius, radius)
    return jnp.where(ratio < POOR, 0.25 * length, grown)


def _shrink_factor(value: Array, new_value: Array, slope: Array, finite: Array) -> Array:
    """How much of a rejected step to keep: between a tenth and a half.

    The minimiser of the parabola through the value, the slope and the new value; a tenth
    where the trial was not finite.
    """
    rise = new_value - value - slope
    fraction = jnp.where(rise > 0, -0.5 * slope / jnp.where(rise > 0, rise, 1), 0.5)
    return jnp.where(finite, jnp.clip(fraction, 0.1, 0.5), 0.1)


def conclude(
    state: TrustRegionState,
    trial: Trial,
    value: Array,
    grad: Params,
    radius: Array,
    decrement: Array,
    curvature: Array,
    noise: Array | float | None,
) -> tuple[Params, TrustRegionState]:
    """Turn a search's outcome into optax's updates and the next state.

    Where no step was acceptable the updates are zero and the state keeps its point. The
    step is `at_noise` when the whole model has no more to gain than the loss's noise and
    the gradient, which knows better, does not get smaller either.
    """
    ok, dtype = trial.accepted, state.value.dtype
    choose = functools.partial(jax.tree.map, lambda new, old: jnp.where(ok, new, old))
    new_value = jnp.where(ok, trial.value, value)
    improving = ok & (max_abs(trial.grad) <= 0.5 * max_abs(grad))
    at_noise = (decrement <= noise_level(value, new_value, noise)) & ~improving
    new_state = state._replace(
        count=state.count + ok,
        value=new_value.astype(dtype),
        grad=choose(trial.grad, grad),
        radius=jnp.where(ok, trial.radius, radius).astype(dtype),
        ratio=trial.ratio.astype(dtype),
        decrement=decrement.astype(dtype),
        curvature=curvature.astype(dtype),
        at_noise=at_noise,
        failed=~ok,
        nfev=state.nfev + trial.count,
        ngev=state.ngev + trial.count,
    )
    return jax.tree.map(lambda u: jnp.where(ok, u, jnp.zeros_like(u)), trial.updates), new_state
