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
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import leaf_name
from gradlab._typing import AnyArray, ArrayLike, Params, PyTree
from gradlab.derivatives import _drive, _hessian
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
_MAX_ORDER = 8


def derivative(
    f: Callable[[Any], Any],
    *,
    order: int | tuple[int, ...] = 1,
    max_nfev: int | None = None,
    noise: float | None = None,
    side: int = 0,
) -> Callable[[ArrayLike], Estimate]:
    r"""Build the derivative of a function of one variable, elementwise over its points.

    The odd part $(f(x+h) - f(x-h))/2 = f' h + f''' h^3/6 + \dots$ and the even part are
    fitted with polynomials on a ladder of steps chosen for each point; all orders come from
    the same samples. It fails, and says so, where f jumps, has a kink or is noise
    throughout. A function that is smooth on a smaller scale than the ladder resolves
    (noise with a slope of its own) is differentiated beneath it or above it, not both.

    Args:
        f: From a number to a number. JAX functions are mapped over the points; NumPy
            functions are called on arrays of points if they work elementwise, else on one
            number at a time.
        order: Which derivative, or a tuple of them; orders 1 to 8, accurate digits fall
            with the order.
        max_nfev: Most evaluations of f at each point: by default 50 for the first
            derivative alone, else 100. At least 29.
        noise: Absolute noise level of f, if known; otherwise it is measured.
        side: 0 for both sides; 1 or -1 to evaluate f only at or above, at or below x.

    Returns:
        A function from x, of any shape, to an `Estimate` whose entries have the shape of x;
        for a tuple of orders, tuples of such arrays.

    Raises:
        ValueError: If `order`, `max_nfev`, `noise` or `side` is out of range.
        TypeError: If x is not real and floating, or f does not return a real number.

    References:
        Ridders (1982); Lyness and Moler (1966).

    Examples:
        >>> estimate = derivative(jnp.exp, order=(1, 2))(jnp.array([0.0, 1.0]))
        >>> print(estimate.value[1].round(6))
        [1.       2.718282]
    """
    orders = _orders(order)
    budget = max_nfev or (_NFEV_FIRST if orders == (1,) else _NFEV_HIGHER)
    plan = _plan(orders, max_nfev, budget, side)
    given, several = _noise_level(noise), isinstance(order, tuple)
    mapped = jax.jit(pointwise_jax(f))
    within = jax.jit(lambda x: _pointwise(plan, given, pointwise_jax(f), jnp, x, None))

    def outside(x: np.ndarray, center: Any = None) -> Any:
        call = to_numpy(mapped) if center is None else pointwise_numpy(f)
        return _pointwise(plan, given, call, np, x, center)

    @functools.cache
    def by_jax(dtype: Any) -> bool:
        one = jax.ShapeDtypeStruct((), dtype)
        if traceable := is_traceable(f, one):
            _check_number(jax.eval_shape(lambda v: f(v), one))
        return traceable

    def at(x: ArrayLike) -> Estimate:
        x = _real_points(x)
        if by_jax(np.dtype(x.dtype)):
            answers, center = in_numpy_or_traced(outside, within, x.ravel())
            answers, center = jax.tree.map(jnp.asarray, (answers, center))
        else:
            flat = concrete(x.ravel())
            values = at_points(f, flat)
            for value in values:
                _check_number(value if hasattr(value, "dtype") else np.asarray(value))
            answers, center = outside(flat, np.asarray(values))
        estimates = [judge(answers[o], center, 1 + plan.nfev, np.shape(x)) for o in orders]
        return Estimate(*zip(*estimates, strict=True)) if several else estimates[0]

    return at


def grad(
    f: Callable[[Params], Any], *, max_nfev: int | None = None, noise: float | None = None
) -> Callable[[Params], Estimate]:
    r"""Build the gradient of a scalar function of a pytree, with a bar for each entry.

    Every coordinate has its own ladder, so entries of any size side by side are safe.

    Args:
        f: From a pytree of real floating leaves to a scalar.
        max_nfev: Most evaluations for each of the n coordinates; 35 by default.
        noise: Absolute noise level of f, if known.

    Returns:
        A function from the parameters to an `Estimate` in their structure. Costs
        n (max_nfev - 1) + 1 evaluations of f.

    Raises:
        TypeError: If f does not return a real scalar or a leaf is not real and floating.

    Examples:
        >>> estimate = grad(lambda p: jnp.sum(p["w"] ** 2))({"w": jnp.arange(3.0)})
        >>> print(estimate.value["w"].round(6))
        [0. 2. 4.]
    """
    plan = _plan((1,), max_nfev, max_nfev or _NFEV_COORDINATE, 0)
    inner = _on_coordinates(f, plan, noise, scalar=True, pairs=False)

    def at(params: Params) -> Estimate:
        (answers, center), layout, _ = inner(params)
        estimate = judge(answers[1], center, 1 + plan.nfev, (layout.size,))
        total = 1 + layout.size * plan.nfev
        return _in_structure(estimate, lambda v: layout.unflatten(v, cast=False), total)

    return at


def jacobian(
    f: Callable[[Params], Any], *, max_nfev: int | None = None, noise: float | None = None
) -> Callable[[Params], Estimate]:
    r"""Build the Jacobian, shaped like `jax.jacobian`'s, with a bar for each entry.

    All outputs share the samples along a coordinate; each entry has its own fit.

    Args:
        f: From a pytree of real floating leaves to a pytree of arrays.
        max_nfev: Most evaluations for each of the n coordinates; 35 by default.
        noise: Absolute noise level of f, if known.

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
    plan = _plan((1,), max_nfev, max_nfev or _NFEV_COORDINATE, 0)
    inner = _on_coordinates(f, plan, noise, scalar=False, pairs=False)

    def at(params: Params) -> Estimate:
        (answers, center), layout, output = inner(params)
        estimate = judge(answers[1], center, 1 + plan.nfev, answers[1].value.shape)
        total = 1 + layout.size * plan.nfev
        return _in_structure(estimate, lambda m: blocks(m.T, layout, output), total)

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
    plan = _plan((2,), max_nfev, max_nfev or _NFEV_FIRST, 0)
    inner = _on_coordinates(f, plan, noise, scalar=True, pairs=True)

    def at(params: Params) -> Estimate:
        (answers, center), layout, _ = inner(params)
        n = layout.size
        estimate = judge(answers[2], center, 1 + plan.nfev, (n, n))
        total = 1 + n * plan.nfev + n * (n - 1) * plan.rungs
        rows = layout.abstract()
        return _in_structure(estimate, lambda m: blocks(m, layout, rows), total)

    return at


def _orders(order: int | tuple[int, ...]) -> tuple[int, ...]:
    """Check the order or orders."""
    given = order if isinstance(order, tuple) else (order,)
    for o in given:
        if (
            isinstance(o, bool)
            or not isinstance(o, int | np.integer)
            or not 1 <= o <= _MAX_ORDER
        ):
            raise ValueError(
                f"`order` must be an integer from 1 to {_MAX_ORDER}, or a tuple of them, "
                f"got {order!r}."
            )
    if not given:
        raise ValueError("`order` must name at least one derivative, got ().")
    return tuple(int(o) for o in given)


def _plan(orders: tuple[int, ...], asked: int | None, budget: int, side: int) -> Plan:
    """Check the budget and the side, and divide the evaluations."""
    if asked is not None and asked < _drive.MIN_NFEV:
        raise ValueError(
            f"`max_nfev` must be at least {_drive.MIN_NFEV}, what one ladder and its scan "
            f"take, got {asked!r}."
        )
    if side not in (-1, 0, 1):
        raise ValueError(f"`side` must be -1, 0 or 1, got {side!r}.")
    return _drive.make_plan(orders, operator.index(budget), int(side))


def _noise_level(noise: float | None) -> float:
    if noise is None:
        return 0.0
    if not 0 <= float(noise) < float("inf"):
        raise ValueError(
            f"`noise` must be a finite level of noise, zero or above, or None to measure it, "
            f"got {noise!r}."
        )
    return float(noise)


def _real_points(x: ArrayLike) -> AnyArray:
    """Check the points; NumPy stays NumPy, Python numbers take JAX's default dtype.

    Half precision is widened: its own spacing leaves no room for a difference.
    """
    known = isinstance(x, jax.Array | np.ndarray | np.generic)
    array: Any = x if known else jnp.asarray(x)
    if not known and jnp.issubdtype(array.dtype, jnp.integer):
        array = array.astype(float)  # 1 means 1.0 when a person writes it
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"`x` must be real and floating to be moved by a step, got {array.dtype}. Cast "
            "it: jnp.asarray(x, float)."
        )
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def _pointwise(
    plan: Plan, given: float, evaluate: Callable[[Any], Any], xp: Any, x: Any, center: Any
) -> tuple[dict[int, Answer], Any]:
    """Differentiate at each point of x, shape (P,); rows are points."""
    center = (evaluate(x) if center is None else center)[:, None]
    eps = _coarser_eps(x.dtype, center.dtype)
    many = lambda points: evaluate(points)[:, :, None]  # noqa: E731
    return _drive.run(plan, x, center, many, eps, given, xp), center


def _check_number(value: Any) -> None:
    """Raise unless f returned one real floating number."""
    check_scalar(value, hint="`adaptive.jacobian`")


def _coarser_eps(*dtypes: Any) -> float:
    """Spacing at 1 of the coarsest dtype: a float32 loss of float64 input is float32."""
    return max(float(jnp.finfo(d).eps) for d in dtypes)


def _on_coordinates(
    f: Callable[[Params], Any], plan: Plan, noise: float | None, *, scalar: bool, pairs: bool
) -> Callable[[Params], Any]:
    """Build the function that differentiates along every coordinate of the parameters."""
    given = _noise_level(noise)

    def analyse(xp: Any, layout: Coordinates, call: Any, lines: Any, flat: Any) -> Any:
        center = call(flat)[None, :]
        eps = _coarser_eps(*layout.dtypes, center.dtype)
        if pairs:
            return _hessian.run(plan, lines, flat, center, eps, given, xp), center
        repeated = xp.repeat(center, layout.size, axis=0)
        evaluate = _hessian.coordinate_lines(lines, flat, xp)
        return _drive.run(plan, flat, repeated, evaluate, eps, given, xp), center

    return on_lines(f, analyse, check_scalar if scalar else _check_outputs)


def _check_outputs(output: PyTree) -> None:
    """Raise unless every output leaf is real and floating."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(output):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = leaf_name("f(x)", path)
            raise TypeError(f"`{name}` must be real and floating, got {leaf.dtype}.")


def _in_structure(estimate: Estimate, shape: Callable[[Any], PyTree], total: int) -> Estimate:
    """Give the fields the structure of the derivative."""
    value, error, step, _, status = estimate
    nfev = np.int64(total) if isinstance(value, np.ndarray) else jnp.asarray(total)
    return Estimate(shape(value), shape(error), shape(step), nfev, shape(status))
