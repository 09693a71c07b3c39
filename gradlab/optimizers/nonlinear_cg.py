"""Gradient methods that keep a vector or two: conjugate gradients, Barzilai and Borwein."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._errors import check_choice
from gradlab._tree import inner, max_abs, working_dtype
from gradlab._typing import Array, Name, Number, Params
from gradlab.optimizers._line_method import LineSearchState, Pair, line_search_method
from gradlab.optimizers._line_search import Point, SearchResult

__all__ = ["barzilai_borwein", "nonlinear_cg"]

# Hager & Zhang (2013), SIAM J. Optim. 23:2150-2168, eta: beta is kept from falling below
# this multiple of dᵀg / dᵀd, so that directions cannot turn back on themselves.
LEAST_BETA = 0.4
# Conjugacy holds on lines that are searched well, and a second trial is a secant away.
CONJUGATE_SIGMA = 0.3
# What was promised before still counts by half a step later, by nine tenths where steps
# shrink and grow a hundredfold: neither method knows what its steps leave.
CONJUGATE_FADING, BORWEIN_FADING = 0.5, 0.9
# Zhang & Hager (2004), SIAM J. Optim. 14:1043-1056: weight of past values in the ceiling.
WEIGHT = 0.85
# Zhou, Gao & Dai (2006), Comput. Optim. Appl. 35:69-86: the short length is taken where it
# is less than this part of the long one.
SHORT = 0.5
# Where no curvature was met the next step is this much longer.
GROWTH = 10.0


def nonlinear_cg(*, noise: Number | None = None) -> optax.GradientTransformationExtraArgs:
    r"""Nonlinear conjugate gradients of Hager and Zhang, with their line search.

    The direction is $d^+ = -g^+ + \beta d$ with $y = g^+ - g$ and

    $$\beta = \Bigl(y - 2 d \frac{y^T y}{d^T y}\Bigr)^T \frac{g^+}{d^T y}
    \ge \eta \frac{d^T g}{d^T d},$$

    a direction of descent whatever the search. The first trial promises the change of the
    step before. Where no step along the direction is acceptable the gradient is followed.
    It keeps one vector, and no flat copy of the parameters is made.

    As an optax transformation it comes last in a chain, and its `update` needs `value`, `grad`
    and `value_fn`, as `optax.lbfgs` does. It goes by these alone: what links before it make of
    the gradient (weight decay, a mask, batches added up) belongs into the loss. A zero update
    means that no better point was found (`state.failed`).

    Cost: one loss and one gradient a trial step, about two trials a step.

    Args:
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `LineSearchState`.

    References:
        Hager, W. W. and Zhang, H. (2005). A new conjugate gradient method with guaranteed
        descent and an efficient line search.
        Hager, W. W. and Zhang, H. (2013). The limited memory conjugate gradient method.

    Examples:
        >>> import gradlab as gl
        >>> loss = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> result = gl.minimize(loss, jnp.array([-1.2, 1.0]), gl.optimizers.nonlinear_cg())
        >>> print(result.success, result.x.round(4))
        True [1. 1.]
    """

    def start(params: Params) -> Conjugate:
        dtype = working_dtype(params)
        nothing = jnp.zeros((), dtype)
        return Conjugate(jax.tree.map(jnp.zeros_like, params), nothing, jnp.zeros((), bool))

    def propose(state: LineSearchState, point: Point) -> tuple[Params, Array]:
        memory = state.memory
        dtype = point.unit.dtype
        direction = jax.tree.map(lambda t, g: t.astype(dtype) - g, memory.tail, point.grad)
        slope = -inner(point.grad, direction)
        promised = memory.promised / point.unit / jnp.where(slope > 0, slope, 1)
        direction = jax.tree.map(lambda d: promised * d, direction)
        return direction, ~memory.known

    return line_search_method(
        start, propose, _conjugate, noise, fading=CONJUGATE_FADING, sigma=CONJUGATE_SIGMA
    )


class Conjugate(NamedTuple):
    """The part of the next direction along the last step, in the gradient's own unit.

    `promised` is the change of the loss that the last step's slope promised; `known` whether
    there was a last step with curvature.
    """

    tail: Params
    promised: Array
    known: Array


def _conjugate(memory: Conjugate, point: Point, found: SearchResult, pair: Pair) -> Conjugate:
    """Compute beta times the step; the step's length cancels in it."""
    grad = jax.tree.map(lambda g: g.astype(point.unit.dtype), found.grad)
    scale = jnp.where(point.unit > 0, point.unit, 1)
    grad = jax.tree.map(lambda g: g / scale, grad)
    sy = jnp.where(pair.useful, pair.sy, 1)
    beta = (inner(pair.change, grad) - 2 * inner(pair.step, grad) * pair.yy / sy) / sy
    beta = jnp.maximum(beta, LEAST_BETA * pair.before * pair.size / pair.ss)
    # The next gradient is divided by its own largest entry.
    size = max_abs(grad)
    beta = jnp.where(pair.useful, beta / jnp.where(size > 0, size, 1), 0)
    tail = jax.tree.map(lambda s, t: (beta * s).astype(t.dtype), pair.step, memory.tail)
    promised = -pair.before * pair.size**2 * point.unit
    return Conjugate(tail, promised, pair.useful)


def barzilai_borwein(
    *, rule: Name = "adaptive", noise: Number | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient steps of Barzilai and Borwein's length, which need not lower the loss.

    With $s = x^+ - x$ and $y = g^+ - g$ the next step is $-\alpha g^+$, where the long
    length is $\alpha = s^T s / s^T y$, the short one $s^T y / y^T y$, and the adaptive one is
    the short where it is less than half the long. A step is accepted below a mean of past
    values, and shortened otherwise (Zhang & Hager 2004). Where no curvature was met the step
    is ten times the last one. It keeps no vector at all.

    As an optax transformation it comes last in a chain, and its `update` needs `value`, `grad`
    and `value_fn`, as `optax.lbfgs` does. It goes by these alone: what links before it make of
    the gradient (weight decay, a mask, batches added up) belongs into the loss. A zero update
    means that no better point was found (`state.failed`).

    Cost: one loss and one gradient a trial step, most often one trial a step.

    Args:
        rule: "long", "short" or "adaptive".
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `LineSearchState`.

    Raises:
        ValueError: If there is no such rule.

    References:
        Barzilai, J. and Borwein, J. M. (1988). Two-point step size gradient methods.
        Zhang, H. and Hager, W. W. (2004). A nonmonotone line search technique and its
        application to unconstrained optimization.
        Zhou, B., Gao, L. and Dai, Y.-H. (2006). Gradient methods with adaptive step-sizes.

    Examples:
        >>> import gradlab as gl
        >>> loss = lambda x: x[0] ** 2 + 30 * (x[1] - x[0]) ** 2
        >>> result = gl.minimize(loss, jnp.ones(2), gl.optimizers.barzilai_borwein())
        >>> print(result.success, abs(result.x).max() < 1e-6)
        True True
    """
    check_choice("rule", rule, ("long", "short", "adaptive"))

    def start(params: Params) -> Spectral:
        none = jnp.zeros((), working_dtype(params))
        return Spectral(none, none, none)

    def propose(state: LineSearchState, point: Point) -> tuple[Params, Array]:
        memory = state.memory
        grown = GROWTH * state.step_size.astype(point.unit.dtype)
        length = jnp.where(memory.length > 0, memory.length * point.unit, grown)
        return jax.tree.map(lambda g: -length * g, point.grad), length <= 0

    def learn(memory: Spectral, point: Point, found: SearchResult, pair: Pair) -> Spectral:
        sy = jnp.where(pair.useful, pair.sy, 1)
        long, short = pair.ss / sy, sy / jnp.where(pair.yy > 0, pair.yy, 1)
        if rule == "adaptive":
            length = jnp.where(short < SHORT * long, short, long)
        else:
            length = long if rule == "long" else short
        length = jnp.where(pair.useful, length / point.unit, 0)
        weight = WEIGHT * jnp.maximum(memory.weight, 1) + 1
        mean = _ceiling(memory, point.value)
        mean = mean + (found.value - mean) / weight
        ok = found.accepted
        return Spectral(
            jnp.where(ok, length, memory.length),
            jnp.where(ok, mean, memory.mean),
            jnp.where(ok, weight, memory.weight),
        )

    return line_search_method(
        start, propose, learn, noise, fading=BORWEIN_FADING, sigma=None, ceiling=_ceiling
    )


class Spectral(NamedTuple):
    """The next length, zero where no curvature was met; a mean of past values, its weight."""

    length: Array
    mean: Array
    weight: Array


def _ceiling(memory: Spectral, value: Array) -> Array:
    """Value from which decrease is counted: the mean, but no less than the point's own."""
    return jnp.where(memory.weight > 0, jnp.maximum(memory.mean, value), value)
