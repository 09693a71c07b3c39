"""What the methods that search along lines share: their state, and what a step taught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._tree import inner, max_abs, packed_by_position, real_dtype, select
from gradlab._typing import Array, Number, Params
from gradlab.optimizers._line_search import (
    SIGMA,
    Begin,
    Point,
    SearchResult,
    search,
    start_point,
)
from gradlab.optimizers._noise_level import loss_value
from gradlab.optimizers._protocol import bind

__all__ = ["LineSearchState", "Pair", "line_search_method"]

# First step, relative to the point (Hager & Zhang 2006, psi_0); the search lengthens it soon.
FIRST = 0.01
# Part of the largest curvature that is still remembered a step later: a tenth after ten.
FADING = 0.8


def line_search_method(
    start: Callable[[Params], Any],
    propose: Callable[[LineSearchState, Point], tuple[Params, Array]],
    learn: Callable[[Any, Point, SearchResult, Pair], Any],
    noise: Number | None,
    *,
    fading: float,
    has_model: bool = False,
    sigma: float | None = SIGMA,
    ceiling: Callable[[Any, Array], Array] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Build the transformation that searches along the directions a method proposes.

    Args:
        start: Builds the method's memory for parameters.
        propose: From state and point to a direction, and whether it is -g for want of
            anything better.
        learn: From memory, point, search and what was measured to the next memory.
        noise: Noise level of the loss, where the host gives none.
        fading: Part of the predictions told before that still counts.
        has_model: Whether the whole direction is the step to a model's minimum.
        sigma: Part of the first slope that the search may leave; None asks for no slope.
        ceiling: From memory and value to the value from which decrease is counted.
    """
    default_noise = noise

    def init(params: Params) -> LineSearchState:
        return initial_state(params, start(params))

    def update(
        updates,
        state,
        params=None,
        *,
        value,
        grad,
        value_fn,
        noise=None,
        active=True,
        **extra,
    ):
        del updates  # the step is judged by the loss, so it must come from its gradient
        noise = default_noise if noise is None else noise
        value, eps = loss_value(value, params)
        point = start_point(params, value, grad)
        direction, fresh = propose(state, point)
        first = begin(state, point, direction, fresh)
        above = None if ceiling is None else ceiling(state.memory, value)
        found = search(
            bind(value_fn, extra),
            point,
            direction,
            first,
            noise,
            eps,
            ceiling=above,
            sigma=sigma,
            active=active,
        )
        pair = measure(point, found)
        memory = learn(state.memory, point, found, pair)
        squares = inner(direction, direction)
        told = _told(state, first, squares, found, pair, fading, has_model)
        return _conclude(state, value, grad, found, memory, told)

    return optax.GradientTransformationExtraArgs(init, update)


class LineSearchState(NamedTuple):
    """State of a method that searches along lines.

    Attributes:
        count: Accepted steps.
        value: Loss at the parameters the last update leads to; inf before the first.
        grad: Gradient there.
        memory: What the method remembers of the curvature.
        model: What the last step said, as a vector; see the properties.
        failed: Whether no acceptable step was found, so that the update was zero.
        calls: Evaluations made by the method (losses, gradients, Hessian-vector products,
            Hessians), without those its host makes.
    """

    count: Array  # type: ignore[assignment]  # the name optax's hosts look for
    value: Array
    grad: Params
    memory: Any
    model: Array
    failed: Array
    calls: Array

    @property
    def heeds_idleness(self) -> bool:
        """Its `update` takes `active`."""
        return True

    @property
    def step_size(self) -> Array:
        """Largest entry of the last step; zero before the first."""
        return self.model[..., 0]

    @property
    def decrement(self) -> Array:
        """Reduction that the last steps' models predicted; inf where they had none."""
        return self.model[..., 1]

    @property
    def remaining(self) -> Array:
        """Length of the last steps' whole steps; inf where they had none."""
        return self.model[..., 2]

    @property
    def curvature(self) -> Array:
        """Curvature along the last step."""
        return self.model[..., 3]

    @property
    def stiffness(self) -> Array:
        """Largest curvature met in the last steps."""
        return self.model[..., 4]


def initial_state(params: Params, memory: Any) -> LineSearchState:
    """Build the state before the first step, in the parameters' own dtype."""
    dtype = real_dtype(params)
    none, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    grad = jax.tree.map(jnp.zeros_like, params)
    model = jnp.array([0, jnp.inf, jnp.inf, 0, 0], dtype)
    inf = jnp.full((), jnp.inf, dtype)
    return LineSearchState(none, inf, grad, memory, model, no, jnp.zeros(4, jnp.int32))


def begin(state: LineSearchState, point: Point, direction: Params, fresh: Array) -> Begin:
    """Begin with the whole direction; along -g where it is `fresh` or hardly descends.

    A step along -g is as long as the last step, else relative to the point. At zero it is
    relative to what a linear loss would need to reach zero (Hager & Zhang 2006, rule I0);
    where that is nothing too, its largest entry is one.

    A slope within the rounding of its sum says nothing.
    """
    slope, squares = inner(point.grad, direction), point.squares
    lengths = inner(direction, direction)
    eps = jnp.finfo(real_dtype(point.params)).eps
    descends = -slope > eps * jnp.sqrt(squares * lengths)
    safe = jnp.where(squares > 0, squares * point.unit, 1)
    linear = FIRST * jnp.abs(point.value) / safe
    at_zero = jnp.where((linear > 0) & jnp.isfinite(linear), linear, 1)
    own = max_abs(point.params).astype(at_zero.dtype)
    first = jnp.where(own > 0, FIRST * own, at_zero)
    last = state.step_size.astype(first.dtype)
    size = jnp.where(last > 0, last, first)
    parts = packed_by_position(point.unit * slope, size, fresh | ~descends)
    return Begin(parts[0], parts[1], parts[2] != 0)


class Pair(NamedTuple):
    """Step and change of the gradient, both divided by the step's largest entry.

    Quasi-Newton formulas do not see the common factor, `size`. The change is in the
    gradient's `unit`; `sy`, `ss`, `yy` are the inner products, `before` that of the step
    with the gradient at its start, itself divided by `size`. `useful` says that the
    curvature along the step is above the rounding of the two gradients.
    """

    step: Params
    change: Params
    unit: Array
    size: Array
    before: Array
    sy: Array
    ss: Array
    yy: Array
    useful: Array


def measure(point: Point, found: SearchResult) -> Pair:
    """Measure the step that the host's parameters will take, and the gradient's change."""
    params, unit = point.params, point.unit
    dtype = unit.dtype
    taken = optax.apply_updates(params, found.updates)
    step = jax.tree.map(lambda a, b: a.astype(dtype) - b.astype(dtype), taken, params)
    size = max_abs(step)
    size = jnp.where(size > 0, size, 1)
    safe = jnp.where(unit > 0, unit, 1)
    change = jax.tree.map(
        lambda a, b: (a.astype(dtype) / safe - b) / size, found.grad, point.grad
    )
    step = jax.tree.map(lambda s: s / size, step)
    sy, ss, yy = inner(step, change), inner(step, step), inner(change, change)
    eps = jnp.finfo(real_dtype(params)).eps
    rounding = eps * jnp.sqrt(ss) * (2 * jnp.sqrt(point.squares) / size + jnp.sqrt(yy))
    useful = found.accepted & (sy > rounding) & jnp.isfinite(yy)
    before = found.first_slope * found.length / safe / size**2
    numbers = packed_by_position(size, before, sy, jnp.where(ss > 0, ss, 1), yy, useful)
    size, before, sy, ss, yy, useful = numbers
    return Pair(step, change, unit, size, before, sy, ss, yy, useful > 0)


def _conclude(
    state: LineSearchState,
    value: Array,
    grad: Params,
    found: SearchResult,
    memory: Any,
    told: tuple[Array, ...],
) -> tuple[Params, LineSearchState]:
    """Turn a search's outcome into optax's updates and the next state.

    Where nothing was found the updates are zero and the state keeps its point.
    """
    ok, dtype = found.accepted, state.value.dtype
    updates = jax.tree.map(lambda u: jnp.where(ok, u, jnp.zeros_like(u)), found.updates)
    size = jnp.where(ok, max_abs(updates), state.step_size)
    return updates, LineSearchState(
        count=state.count + ok,
        value=jnp.where(ok, found.value, value).astype(dtype),
        grad=select(ok, found.grad, grad),
        memory=memory,
        model=packed_by_position(size, *told).astype(dtype),
        failed=~ok,
        calls=state.calls + found.tries * jnp.array([1, 1, 0, 0], jnp.int32),
    )


def _told(
    state: LineSearchState,
    begin: Begin,
    squares: Array,
    found: SearchResult,
    pair: Pair,
    fading: float,
    has_model: bool,
) -> tuple[Array, Array, Array, Array]:
    """Tell decrement, remaining length, curvature and stiffness.

    They are the point's before the step, which is farther from the minimum; and one lucky
    step is no sign of the end, so part of what was told before counts too: `fading`, and its
    square for the length. A method that `has_model` predicts half the slope of its whole
    step, whose length is 1. For another the parabola along the line stands in, known after
    the step.
    """
    ok = found.accepted
    if has_model:
        told = ~begin.steepest & (~ok | ~found.steepest)
        decrement, length = -0.5 * begin.slope, jnp.sqrt(squares)
    else:
        told = ok & (pair.sy > 0)
        whole = -pair.before / jnp.where(told, pair.sy, 1)  # in units of the step taken
        decrement = -0.5 * pair.unit * pair.size**2 * pair.before * whole
        length = whole * pair.size * jnp.sqrt(pair.ss)
    before, last = state.decrement, state.remaining
    decrement = _faded(jnp.where(told, decrement, jnp.inf), before, fading)
    length = _faded(jnp.where(told, length, jnp.inf), last, fading**2)
    decrement = jnp.where(ok | told, decrement, before)
    length = jnp.where(ok | told, length, last)
    stiffness = pair.unit * jnp.sqrt(pair.yy / pair.ss)
    stiffness = jnp.maximum(stiffness, FADING * state.stiffness)
    return (
        decrement,
        length,
        jnp.where(ok, pair.unit * pair.sy / pair.ss, state.curvature),
        jnp.where(ok, stiffness, state.stiffness),
    )


def _faded(now: Array, before: Array, fading: float) -> Array:
    """Return the larger of now and what is left of before."""
    return jnp.where(jnp.isinf(before), now, jnp.maximum(now, fading * before))
