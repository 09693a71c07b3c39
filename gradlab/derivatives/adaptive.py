r"""Derivatives from function values alone, with an error bar that contains the truth.

Every point has its own ladder of steps. A scan over all lengths the numbers can hold finds
the function's own length at the point; a ladder of power-of-two steps there is fitted with
many polynomials (Richardson's extrapolation and its least-squares relatives); the rungs
below each fit tell the noise, the neighbouring fits the truncation, and the fit with the
least sum of both wins.

    >>> estimate = derivative(jnp.log)(jnp.asarray(1e-6))
    >>> bool(abs(estimate.value - 1e6) <= estimate.error)
    True

References:
    Ridders, C. (1982). Accurate computation of F'(x) and F'(x) F''(x). Advances in
    Engineering Software 4:75.
    Lyness, J. N. and Moler, C. B. (1966). Van der Monde systems and numerical
    differentiation. Numerische Mathematik 8:458.
    Moré, J. J. and Wild, S. M. (2012). Estimating derivatives of noisy simulations. ACM
    TOMS 38:19.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import ArrayLike, Params, PyTree
from gradlab.derivatives import _complex, _drive, _hessian
from gradlab.derivatives._adaptive_options import (
    check_number,
    check_outputs,
    checked_noise,
    checked_orders,
    checked_plan,
    checked_points,
    coarser_eps,
)
from gradlab.derivatives._coordinates import Coordinates, blocks, on_lines
from gradlab.derivatives._drive import Answer, Plan
from gradlab.derivatives._estimate import DerivativeStatus, Estimate, judge
from gradlab.derivatives._evaluate import (
    at_points,
    concrete,
    in_numpy_or_traced,
    is_traceable,
    pointwise_jax,
    pointwise_numpy,
    to_numpy,
)
from gradlab.derivatives._leaves import check_scalar

__all__ = ["DerivativeStatus", "Estimate", "derivative", "grad", "hessian", "jacobian"]

# Evaluations at each point (or along each coordinate), including the one at the point.
_NFEV_FIRST, _NFEV_HIGHER, _NFEV_COORDINATE = 50, 100, 35


def derivative(
    f: Callable[[Any], Any],
    *,
    order: int | tuple[int, ...] = 1,
    max_nfev: int | None = None,
    noise: float | None = None,
    side: int = 0,
    scheme: str = "auto",
) -> Callable[[ArrayLike], Estimate]:
    r"""Build the derivative of a function of one variable, elementwise over its points.

    The odd part $(f(x+h) - f(x-h))/2 = f' h + f''' h^3/6 + \dots$ and the even part are
    fitted with polynomials on a ladder of steps chosen for each point; all orders come from
    the same samples. It fails, and says so, where f jumps, has a kink or is noise
    throughout. A function that is smooth on a smaller scale than the ladder resolves
    (noise with a slope of its own) is differentiated beneath it or above it, not both. A
    `while_loop` that stops at an absolute tolerance makes one: beneath its tolerance the
    result is a step function of x, or smooth pieces with jumps between them, whose noise the
    ladder sees and the bar covers. Make the tolerance relative, or tighter, for more digits.

    Where f takes complex numbers, the samples of the ladder are moved off the real axis by
    $h$, far below a rounding: $\operatorname{Im} f(t + ih)/h = f'(t)$ is not rounded by the
    size of f (Squire and Trapp). It is never taken on trust: |x| or a rounded function give
    numbers too. JAX functions are read for what is not analytic, and in any case the real
    parts of the same samples must confirm it, within their bars, at this very point; else
    the answer is theirs.

    Args:
        f: From a number to a number. JAX functions are mapped over the points; NumPy
            functions are called on arrays of points if they work elementwise, else on one
            number at a time.
        order: Which derivative, or a tuple of them; orders 1 to 8, accurate digits fall
            with the order.
        max_nfev: Most evaluations of f at each point: by default 50 for the first
            derivative alone, else 100. At least 31, and 32 for the complex step.
        noise: Absolute noise level of f, if known; otherwise it is measured.
        side: 0 for both sides; 1 or -1 to evaluate f only at or above, at or below x.
        scheme: "auto" takes the complex step where f allows it and real differences confirm
            it; "real" never evaluates f at complex numbers, which cost two to four times as
            much; "complex" raises where f does not allow it, and where differences
            contradict it, the status is `NOT_ANALYTIC`.

    Returns:
        A function from x, of any shape, to an `Estimate` whose entries have the shape of x;
        for a tuple of orders, tuples of such arrays.

    Raises:
        ValueError: If `order`, `max_nfev`, `noise` or `side` is out of range.
        TypeError: If x is not real and floating, f does not return a real number, or
            `scheme` is "complex" and f does not take complex numbers or is not analytic.

    References:
        Ridders (1982); Lyness and Moler (1966). Squire, W. and Trapp, G. (1998). Using
        complex variables to estimate derivatives of real functions. SIAM Review 40:110.

    Examples:
        >>> estimate = derivative(jnp.exp, order=(1, 2))(jnp.array([0.0, 1.0]))
        >>> print(estimate.value[1].round(6))
        [1.       2.718282]
    """
    orders = checked_orders(order)
    default = _NFEV_FIRST if orders == (1,) else _NFEV_HIGHER
    scheme = "real" if scheme == "auto" and max_nfev == _drive.MIN_NFEV else scheme
    plan = checked_plan(orders, max_nfev, default, side, scheme)
    given, several = checked_noise(noise), isinstance(order, tuple)
    run = functools.partial(_pointwise, plan, given, scheme)
    mapped = jax.jit(pointwise_jax(f))
    traced = functools.partial(run, pointwise_jax(f), jnp, center=None)
    within = {
        analytic: jax.jit(functools.partial(traced, analytic)) for analytic in (False, True)
    }

    @functools.cache
    def by_jax(dtype: Any) -> tuple[bool, bool]:
        one = jax.ShapeDtypeStruct((), dtype)
        if traceable := is_traceable(f, one):
            check_number(jax.eval_shape(lambda v: f(v), one))
        return traceable, traceable and _complex.jax_allows(f, one, scheme)

    def at(x: ArrayLike) -> Estimate:
        x = checked_points(x)
        traceable, analytic = by_jax(np.dtype(x.dtype))
        if traceable:
            outside = functools.partial(run, to_numpy(mapped), np, analytic, center=None)
            answered = in_numpy_or_traced(outside, within[analytic], x.ravel())
        else:
            flat = concrete(x.ravel())
            values = at_points(f, flat)
            for value in values:
                check_number(value if hasattr(value, "dtype") else np.asarray(value))
            beside = _complex.numpy_beside(f, flat, scheme)
            answered = run(
                pointwise_numpy(f), np, beside is not None, flat, np.asarray(values), beside
            )
        answers, center, refuted = answered
        # Once more beside x, also where that only tells that f takes no complex numbers.
        nfev = 1 + plan.nfev + (analytic if traceable else scheme != "real")
        estimates = [judge(answers[o], center, nfev, np.shape(x), refuted) for o in orders]
        if traceable:
            estimates = jax.tree.map(jnp.asarray, estimates)
        return Estimate(*zip(*estimates, strict=True)) if several else estimates[0]

    return at


def grad(
    f: Callable[[Params], Any],
    *,
    max_nfev: int | None = None,
    noise: float | None = None,
    scheme: str = "real",
) -> Callable[[Params], Estimate]:
    r"""Build the gradient of a scalar function of a pytree, with a bar for each entry.

    Every coordinate has its own ladder, so entries of any size side by side are safe.

    Args:
        f: From a pytree of real floating leaves to a scalar.
        max_nfev: Most evaluations for each of the n coordinates; 35 by default.
        noise: Absolute noise level of f, if known.
        scheme: "real", "complex" or "auto", as for `derivative`. The complex step takes one
            evaluation a coordinate more, and each in complex arithmetic.

    Returns:
        A function from the parameters to an `Estimate` in their structure. Costs
        at most n (max_nfev - 1) + 1 evaluations of f.

    Raises:
        TypeError: If f does not return a real scalar or a leaf is not real and floating.

    Examples:
        >>> estimate = grad(lambda p: jnp.sum(p["w"] ** 2))({"w": jnp.arange(3.0)})
        >>> print(estimate.value["w"].round(6))
        [0. 2. 4.]
    """
    plan = checked_plan((1,), max_nfev, _NFEV_COORDINATE, 0, scheme)
    inner = _on_coordinates(f, plan, noise, scheme, scalar=True)

    def at(params: Params) -> Estimate:
        (answers, center, refuted), layout, output = inner(params)
        estimate = judge(answers[1], center, 1 + plan.nfev, (layout.size,), refuted)
        total = 1 + layout.size * (plan.nfev + (scheme != "real"))
        return _in_structure(estimate, lambda v: layout.unflatten(v, cast=False), total, output)

    return at


def jacobian(
    f: Callable[[Params], Any],
    *,
    max_nfev: int | None = None,
    noise: float | None = None,
    scheme: str = "real",
) -> Callable[[Params], Estimate]:
    r"""Build the Jacobian, shaped like `jax.jacobian`'s, with a bar for each entry.

    All outputs share the samples along a coordinate; each entry has its own fit.

    Args:
        f: From a pytree of real floating leaves to a pytree of arrays.
        max_nfev: Most evaluations for each of the n coordinates; 35 by default.
        noise: Absolute noise level of f, if known.
        scheme: "real", "complex" or "auto", as for `derivative`. The complex step takes one
            evaluation a coordinate more, and each in complex arithmetic.

    Returns:
        A function from the parameters to an `Estimate`: for each output leaf, the
        structure of the parameters, with leaves of shape (*output, *parameter).

    Raises:
        TypeError: If a leaf is not real and floating.

    Examples:
        >>> estimate = jacobian(lambda x: x**2)(jnp.array([1.0, 2.0]))
        >>> print(estimate.value.round(6))
        [[2. 0.]
         [0. 4.]]
    """
    plan = checked_plan((1,), max_nfev, _NFEV_COORDINATE, 0, scheme)
    inner = _on_coordinates(f, plan, noise, scheme, scalar=False)

    def at(params: Params) -> Estimate:
        (answers, center, refuted), layout, output = inner(params)
        estimate = judge(answers[1], center, 1 + plan.nfev, answers[1].value.shape, refuted)
        total = 1 + layout.size * (plan.nfev + (scheme != "real"))
        return _in_structure(estimate, lambda m: blocks(m.T, layout, output), total, output)

    return at


def hessian(
    f: Callable[[Params], Any], *, max_nfev: int | None = None, noise: float | None = None
) -> Callable[[Params], Estimate]:
    r"""Build the dense Hessian, shaped like `jax.hessian`'s, with a bar for each entry.

    The diagonal comes from the ladders along the coordinates. For $i \ne j$ the mixed part
    $E(h_i, h_j) - E(h_i, 0) - E(0, h_j) = H_{ij} h_i h_j + \dots$ of the even parts climbs
    a ladder of its own, each coordinate in units of its own length.

    Args:
        f: From a pytree of real floating leaves to a scalar.
        max_nfev: Most evaluations for each of the n coordinates, and a little more than
            half as many for each of the n (n - 1)/2 pairs; 50 by default.
        noise: Absolute noise level of f, if known.

    Returns:
        A function from the parameters to an `Estimate`: the structure of the parameters
        twice, with leaves of shape (*row parameter, *column parameter).

    Raises:
        TypeError: If f does not return a real scalar or a leaf is not real and floating.

    Examples:
        >>> estimate = hessian(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 3.0]))
        >>> print(estimate.value.round(5))
        [[6. 2.]
         [2. 0.]]
    """
    plan = checked_plan((2,), max_nfev, _NFEV_FIRST, 0, "real")
    inner = _on_coordinates(f, plan, noise, "real", scalar=True, pairs=True)

    def at(params: Params) -> Estimate:
        (answers, center, _), layout, output = inner(params)
        n = layout.size
        estimate = judge(answers[2], center, 1 + plan.nfev, (n, n))
        total = 1 + n * plan.nfev + n * (n - 1) * plan.rungs
        rows = layout.abstract()
        return _in_structure(estimate, lambda m: blocks(m, layout, rows), total, output)

    return at


def _pointwise(
    plan: Plan,
    given: float,
    scheme: str,
    evaluate: Callable[[Any], Any],
    xp: Any,
    analytic: bool,
    x: Any,
    center: Any,
    beside: Any = None,
) -> tuple[dict[int, Answer], Any, Any]:
    """Differentiate at each point of x, shape (P,); rows are points."""
    center = (evaluate(x) if center is None else center)[:, None]
    eps = coarser_eps(x.dtype, center.dtype)

    def many(points: Any) -> Any:
        return evaluate(points)[:, :, None]

    if not analytic:
        return _drive.run(plan, x, center, many, eps, given, xp), center, None
    asked = scheme == "complex"
    answers, refuted = _complex.run(
        plan, x, center, many, many, eps, given, xp, beside, asked=asked
    )
    return answers, center, refuted if asked else None


def _on_coordinates(
    f: Callable[[Params], Any],
    plan: Plan,
    noise: float | None,
    scheme: str,
    *,
    scalar: bool,
    pairs: bool = False,
) -> Callable[[Params], Any]:
    """Build the function that differentiates along every coordinate of the parameters."""
    given = checked_noise(noise)
    off_axis = _complex.coordinate_lines(f, scheme)

    def analyse(xp: Any, layout: Coordinates, call: Any, lines: Any, flat: Any) -> Any:
        center = call(flat)[None, :]
        eps = coarser_eps(*layout.dtypes, center.dtype)
        if pairs:
            return _hessian.run(plan, lines, flat, center, eps, given, xp), center, None
        repeated = xp.repeat(center, layout.size, axis=0)
        evaluate = _hessian.coordinate_lines(lines, flat, xp)
        beside = off_axis(layout, flat, xp)
        if beside is None:
            return _drive.run(plan, flat, repeated, evaluate, eps, given, xp), center, None
        asked = scheme == "complex"
        answers, refuted = _complex.run(
            plan, flat, repeated, evaluate, beside, eps, given, xp, asked=asked
        )
        return answers, center, refuted if asked else None

    return on_lines(f, analyse, check_scalar if scalar else check_outputs, as_jax=False)


def _in_structure(
    estimate: Estimate, shape: Callable[[Any], PyTree], total: int, output: PyTree
) -> Estimate:
    """Give the fields the structure of the derivative; `output` is that of f."""
    value, error, step, _, status = estimate
    fields = Estimate(shape(value), shape(error), shape(step), np.int64(total), shape(status))
    if isinstance(jax.tree.leaves(output)[0], np.ndarray):  # of a NumPy function
        return fields
    return jax.tree.map(jnp.asarray, fields)
