"""Taylor series along a line, and the high and mixed derivatives that come from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import Array, ArrayLike, Params, PyTree
from gradlab.derivatives._checks import (
    checked_count,
    checked_index,
    checked_line,
    checked_values,
    in_callers_words,
)
from gradlab.derivatives._leaves import check_params
from gradlab.derivatives._propagate import propagate
from gradlab.derivatives._series import padded

__all__ = ["mixed_partial", "nth_derivative", "taylor"]

# 170! is the largest factorial below the largest float64.
_MAX_FACTORIAL = 170


def taylor(f: Callable[[Any], Any], x: Params, v: Params, order: int) -> PyTree:
    r"""Taylor coefficients of f along a line, in one pass.

    The coefficients $c_k = \frac{1}{k!} \frac{\mathrm d^k}{\mathrm dt^k} f(x + t v)$ at
    t = 0, for k = 0, …, order, so that $f(x + t v) = \sum_k c_k t^k + O(t^{order + 1})$.
    The k-th directional derivative is $k!\,c_k$.

    Every operation of f acts on whole truncated series, by the recurrences of Griewank and
    Walther. An operation without one is integrated from its first derivative, so
    whatever `jax.jvp` differentiates has a Taylor series: linear algebra, special functions,
    loops, `custom_jvp` rules, and `custom_vjp` rules too. The cost is O(order²) evaluations
    of f, each of one coefficient, where nesting `jax.jvp` or `jax.grad` costs O(2^order);
    only Bessel functions, and x**y when both move, still double with every order. Called
    often, it belongs inside `jax.jit`, which compiles all of it once.

    Where f is not smooth (|x| at 0, a sort with ties) the coefficients are those of the
    derivative rules JAX has there, as `jax.grad` nested would give; likewise where such a
    rule is itself right to first order only (`jax.scipy.special.i1` at exactly 0).

    Args:
        f: Function of one argument, from a pytree to a pytree of floating arrays.
        x: Point, a pytree of real or complex floating arrays or numbers.
        v: Direction, with the structure and shapes of x.
        order: Highest power of t, 0 or more.

    Returns:
        The coefficients, with the structure of f(x); each leaf has a leading axis of
        length order + 1.

    Raises:
        TypeError: If a leaf of x or of f(x) is not floating, v has another structure, or f
            is not written in JAX.
        ValueError: If a leaf of v has another shape, x is empty, or `order` is negative.

    References:
        Griewank, A. and Walther, A. (2008). Evaluating Derivatives, 2nd ed., chapter 13.
        Bettencourt, J., Johnson, M. J., and Duvenaud, D. (2019). Taylor-mode automatic
        differentiation for higher-order derivatives in JAX.

    Examples:
        >>> print(taylor(jnp.exp, 0.0, 1.0, 4).round(4))
        [1.     1.     0.5    0.1667 0.0417]
    """
    order = checked_count("order", order)
    check_params(x, "x")
    lines = checked_line(x, v)
    tree: Any = None

    def on_leaves(*leaves: Array) -> list[Array]:
        nonlocal tree
        values, tree = checked_values(f(jax.tree.unflatten(jax.tree.structure(x), leaves)))
        return values

    with in_callers_words():
        series = propagate(on_leaves, lines, order)
    return jax.tree.unflatten(tree, [jnp.stack(padded(c, order)) for c in series])


def nth_derivative(f: Callable[[Any], Any], n: int) -> Callable[[ArrayLike], PyTree]:
    r"""Build the n-th derivative of a function of one number.

    $f^{(n)}(x)$ from the Taylor series of t ↦ f(x + t), at O(n²) evaluations of f. On an
    array it acts on each entry: f itself only ever sees a scalar.

    Args:
        f: Function from a scalar to a floating array or a pytree of them.
        n: Order of the derivative, from 0 to 170.

    Returns:
        A function of x, an array of any shape, to the derivatives; each leaf has the shape
        of x followed by the shape of f's own output.

    Raises:
        TypeError: If `n` is not an integer, or x is not floating.
        ValueError: If `n` is negative, or n! is no longer a float64.

    Examples:
        >>> print(nth_derivative(lambda x: x**5, 3)(jnp.array([0.0, 1.0, 2.0])))
        [  0.  60. 240.]
    """
    n = checked_count("n", n)
    if n > _MAX_FACTORIAL:
        raise ValueError(
            f"`n` must be at most {_MAX_FACTORIAL}, got {n}: n! overflows float64. Take "
            "the coefficients themselves from `taylor`."
        )

    def at_scalar(x: Array) -> PyTree:
        return _derivative_along(f, x, jnp.ones_like(x), n)

    def derivative(x: ArrayLike) -> PyTree:
        check_params(x, "x")
        x = jnp.asarray(x)
        if x.ndim == 0:
            return at_scalar(x)
        values = jax.vmap(at_scalar)(x.ravel())
        return jax.tree.map(lambda c: c.reshape(x.shape + c.shape[1:]), values)

    return derivative


def mixed_partial(
    f: Callable[[Any], Any], x: ArrayLike, indices: Sequence[int | tuple[int, ...]]
) -> PyTree:
    r"""Mixed partial derivative with respect to the entries of x that `indices` lists.

    $\partial^3 f / \partial x_0^2 \partial x_1$ for indices (0, 0, 1), in any order. One
    Taylor series is taken along each distinct entry, one inside the other, so no
    differences are formed and nothing cancels. The cost is O(m²) evaluations of f for an
    entry listed m times, multiplied over the distinct entries.

    Args:
        f: Function of one array, to a floating array or a pytree of them.
        x: Point, a floating array of any shape.
        indices: Which entry of x each differentiation is by: an integer where x is a
            vector, a tuple of integers where it has more axes. Empty gives f(x).

    Returns:
        The derivative, with the structure and shapes of f(x).

    Raises:
        TypeError: If x is not one floating array, or an index is not an integer (or tuple).
        ValueError: If an index has not one integer an axis.
        IndexError: If an index lies outside x.

    Examples:
        >>> f = lambda x: x[0] ** 3 * x[1] ** 2
        >>> print(mixed_partial(f, jnp.array([2.0, 3.0]), (0, 0, 1)))
        72.0
    """
    check_params(x, "x")
    if not isinstance(x, jax.Array | np.ndarray | np.generic | float | complex):
        raise TypeError(f"`x` must be one array, got {type(x).__name__}.")
    x = jnp.asarray(x)
    entries = [checked_index(index, x.shape) for index in indices]

    def partial_derivative(g: Callable[..., Any], entry: tuple[int, ...], times: int) -> Any:
        return lambda x: _derivative_along(g, x, jnp.zeros_like(x).at[entry].set(1), times)

    derivative = f
    for entry, times in Counter(entries).items():
        derivative = partial_derivative(derivative, entry, times)
    return derivative(x)


def _derivative_along(f: Callable[..., Any], x: Array, v: Array, n: int) -> PyTree:
    """Return n! times the n-th Taylor coefficient."""
    factorial = float(math.factorial(n))
    return jax.tree.map(lambda c: c[n] * factorial, taylor(f, x, v, n))
