"""Damped Gauss-Newton steps by products: their state, the cut of a step, the damping's rule."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab._tree import max_abs, norm, real_dtype, select, working_dtype
from gradlab._typing import Array, Params
from gradlab.optimizers._model_solve import Solution

__all__ = ["GaussNewtonState", "conclude", "initial_state", "search"]

# The damping falls by the factor where the model foretold the loss better than GOOD, and
# rises by it where worse than POOR (Martens 2010); and faster where a step had to be cut.
EASE, GOOD, POOR, HARDEN = 2 / 3, 0.75, 0.25, 4.0
# Damping relative to the curvature along the gradient: beyond, a step is one of steepest
# descent, a thousand times too short; below, it is rounding.
LEAST_DAMPING, MOST_DAMPING = 1e-8, 1e3
# Halvings of a step before it counts as failed: to a thousandth of it.
HALVINGS = 10


class GaussNewtonState(NamedTuple):
    """State of `gauss_newton_cg`.

    Attributes:
        count: Accepted steps.
        value: Loss at the parameters the last update leads to; inf before the first.
        grad: Gradient there, on the same data.
        damping: Damping of the next step, relative to the curvature along the gradient.
        direction: The last step, where the next solve starts.
        ratio: Decrease of the loss over that of the model, of the last whole step tried.
        failed: Whether no better point was found, so that the update was zero.
        decrement: Decrease that the model still promised where the step led to; inf before.
        remaining: Length of the step still to take there; inf before.
        curvature: Least curvature met.
        stiffness: Largest curvature met.
        calls: Evaluations made (losses, gradients, curvature products, Hessians).
    """

    count: Array  # type: ignore[assignment]  # the name optax's hosts look for
    value: Array
    grad: Params
    damping: Array
    direction: Params
    ratio: Array
    failed: Array
    decrement: Array
    remaining: Array
    curvature: Array
    stiffness: Array
    calls: Array


def initial_state(params: Params, damping: Any) -> GaussNewtonState:
    """Build the state before the first step."""
    dtype = real_dtype(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    zero = jnp.zeros((), dtype)
    inf = jnp.full((), jnp.inf, dtype)
    return GaussNewtonState(
        count=jnp.zeros((), jnp.int32), value=inf, grad=zeros,
        damping=jnp.asarray(damping, dtype), direction=zeros, ratio=zero,
        failed=jnp.zeros((), bool), decrement=inf, remaining=inf, curvature=zero,
        stiffness=zero, calls=jnp.zeros(4, jnp.int32),
    )  # fmt: skip


class _Trial(NamedTuple):
    """The step tried last: how far, where it leads, what it gained, and the trials made."""

    length: Array
    params: Params
    value: Array
    grad: Params
    accepted: Array
    whole: Array
    trials: Array


def search(
    fun: Callable[[Params], Array], params: Params, value: Array, found: Solution, noise: Any
) -> _Trial:
    """Halve the step until the loss falls, by more than nothing or within its noise."""
    dtype = working_dtype(params)
    value = jnp.asarray(value, dtype)
    level = jnp.finfo(dtype).eps * jnp.abs(value) if noise is None else noise
    predicted = found.slope - 0.5 * found.curvature
    # A gain that rounding hides is believed where the model promises no more than that.
    room = jnp.where(predicted <= 10 * level, level, 0)

    def at(length: Array) -> Params:
        return jax.tree.map(lambda p, d: (p + length * d).astype(p.dtype), params, found.step)

    def refused(carry: tuple[Array, Array, Array]) -> Array:
        _, reached, trials = carry
        better = reached <= value + room
        return ~better & (trials < HALVINGS)

    def halve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        length, _, trials = carry
        return length / 2, fun(at(length / 2)).astype(dtype), trials + 1

    one = jnp.ones((), dtype)
    whole = fun(at(one)).astype(dtype)
    length, reached, trials = jax.lax.while_loop(
        refused, halve, (one, whole, jnp.ones((), jnp.int32))
    )
    place = at(length)
    moved = functools.reduce(
        jnp.logical_or,
        [jnp.any(a != b) for a, b in zip(*map(jax.tree.leaves, (place, params)), strict=True)],
    )
    accepted = (reached <= value + room) & moved
    place = select(accepted, place, params)
    return _Trial(length, place, reached, jax.grad(fun)(place), accepted, whole, trials)


def conclude(
    state: GaussNewtonState,
    params: Params,
    grad: Params,
    value: Array,
    found: Solution,
    trial: _Trial,
    unit: Array,
) -> tuple[Params, GaussNewtonState]:
    """Judge the step: updates, the damping for the next one, and what is left to gain."""
    dtype = working_dtype(params)
    value = jnp.asarray(value, dtype)
    predicted = found.slope - 0.5 * found.curvature
    ratio = (value - trial.whole) / jnp.where(predicted > 0, predicted, 1)
    cut = ~(trial.accepted & (trial.trials == 1))
    factor = jnp.where(ratio > GOOD, EASE, jnp.where(ratio < POOR, 1 / EASE, 1))
    # Where the gain is lost in rounding the ratio says nothing.
    blind = predicted <= 100 * jnp.finfo(dtype).eps * jnp.abs(value)
    factor = jnp.where(cut, HARDEN, jnp.where(blind, 1, factor))
    damping = jnp.clip(state.damping * factor, LEAST_DAMPING, MOST_DAMPING)
    sized = max_abs(grad)
    fell = max_abs(trial.grad) / jnp.where(sized > 0, sized, 1)
    good = trial.accepted & (jnp.abs(ratio - 1) <= POOR)
    length = norm(found.step)
    share = jnp.where(good, fell, 1)
    remaining = jnp.where(good | ~trial.accepted, length * share, jnp.inf)
    new = GaussNewtonState(
        count=state.count + trial.accepted,
        value=jnp.where(trial.accepted, trial.value, value),
        grad=trial.grad,
        damping=damping,
        direction=jax.tree.map(lambda d: trial.length * d, found.step),
        ratio=ratio,
        failed=~trial.accepted,
        decrement=jnp.maximum(predicted, 0) * share**2,
        remaining=remaining,
        curvature=jnp.maximum(jnp.where(jnp.isfinite(found.softest), found.softest, 0), 0),
        stiffness=jnp.maximum(found.stiffest, unit),
        calls=state.calls + jnp.stack(
            [trial.trials, jnp.full((), 2, jnp.int32), found.products + 1,
             jnp.zeros((), jnp.int32)]
        ),
    )  # fmt: skip
    updates = jax.tree.map(jnp.subtract, trial.params, params)
    return updates, jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), new, state)
