r"""Arithmetic of truncated Taylor series: one rule for each kind of primitive operation.

A series is the list $[u_0, u_1, …]$ of the coefficients of $u(t) = \sum_k u_k t^k$.
Coefficients beyond its end are zero: a constant has length one, the line x + t v length
two. A rule takes the primitive as a function of its operands, `apply`, and one series an
operand, of which at least one has length two or more; it returns one series a result,
right through $t^{order}$ (what comes after is cut off by the caller).

References:
    Griewank, A. and Walther, A. (2008). Evaluating Derivatives, 2nd ed., chapter 13: the
    recurrences below and their cost, O(order²) operations each.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from gradlab._typing import Array

Series = list[Array]
Apply = Callable[..., list[Array]]  # operands -> results, plain arrays
Rule = Callable[[Apply, list[Series], int, Mapping[str, Any]], list[Series]]

__all__ = ["RULES", "Apply", "Rule", "Series", "is_inexact", "padded"]


def is_inexact(x: Any) -> bool:
    """Whether a value can vary smoothly: a real or complex floating dtype."""
    return bool(jnp.issubdtype(getattr(x, "dtype", jnp.bool_), jnp.inexact))


def padded(series: Series, order: int) -> Series:
    """Fill a series with zeros to order + 1 coefficients, as a loop carry must have."""
    if not is_inexact(series[0]):
        return series[:1]
    return series + [jnp.zeros_like(series[0])] * (order + 1 - len(series))


def _linear(apply: Apply, inputs: list[Series], order: int, params: Any) -> list[Series]:
    """Apply a jointly linear operation coefficient by coefficient.

    Integer and boolean operands are indices or choices and stay as they are.
    """

    def coefficient(u: Series, k: int) -> Array:
        if k < len(u):
            return u[k]
        return jnp.zeros_like(u[0]) if is_inexact(u[0]) else u[0]

    length = max(map(len, inputs))
    results = [apply(*(coefficient(u, k) for u in inputs)) for k in range(length)]
    return [list(series) for series in zip(*results, strict=True)]


def _bilinear(apply: Apply, inputs: list[Series], order: int, params: Any) -> list[Series]:
    """Multiply two series: `mul`, `dot_general`, a convolution."""
    a, b = inputs
    return [_product(a, b, order, lambda a, b: apply(a, b)[0])]


def _product(
    a: Series, b: Series, order: int, times: Callable[..., Array] = operator.mul
) -> Series:
    """Form the Cauchy product through $t^{order}$."""
    length = min(len(a) + len(b) - 1, order + 1)
    return [_coefficient(a, b, k, times) for k in range(length)]


def _coefficient(a: Series, b: Series, k: int, times: Callable[..., Any] = operator.mul) -> Any:
    """Sum $a_j b_{k-j}$ over the coefficients that are there; 0.0 where none is."""
    first, last = max(0, k - len(b) + 1), min(k, len(a) - 1)
    terms = [times(a[j], b[k - j]) for j in range(first, last + 1)]
    total = terms[0] if terms else 0.0
    for term in terms[1:]:
        total = total + term
    return total


def _at(u: Series, k: int) -> Any:
    return u[k] if k < len(u) else 0.0


def _quotient(a: Series, b: Series, start: Array, order: int) -> Series:
    """Solve y b = a for y, one coefficient after the other."""
    y = [start]
    for k in range(1, (order if len(b) > 1 else len(a) - 1) + 1):
        y.append((_at(a, k) - _coefficient(b[1:], y, k - 1)) / b[0])
    return y


def _div(apply: Apply, inputs: list[Series], order: int, params: Any) -> list[Series]:
    a, b = inputs
    return [_quotient(a, b, apply(a[0], b[0])[0], order)]


def _integer_pow(
    apply: Apply, inputs: list[Series], order: int, params: Mapping[str, Any]
) -> list[Series]:
    """Multiply by repeated squaring: finite at 0, where y' = n y u'/u is not."""
    exponent, one = abs(params["y"]), [jnp.ones_like(inputs[0][0])]
    power, square = one, inputs[0]
    while exponent:
        if exponent % 2:
            power = _product(power, square, order)
        exponent //= 2
        if exponent:
            square = _product(square, square, order)
    start = apply(inputs[0][0])[0]
    return [[start, *power[1:]] if params["y"] >= 0 else _quotient(one, power, start, order)]


def _square(apply: Apply, inputs: list[Series], order: int, params: Any) -> list[Series]:
    (u,) = inputs
    return [_product(u, u, order)]


def _sqrt(apply: Apply, inputs: list[Series], order: int, params: Any) -> list[Series]:
    """Solve y y = u for y, one coefficient after the other."""
    (u,) = inputs
    y = apply(u[0])
    for k in range(1, order + 1):
        y.append((_at(u, k) - _coefficient(y[1:], y[1:], k - 2)) / (2 * y[0]))
    return [y]


def _log(apply: Apply, inputs: list[Series], order: int, params: Any) -> list[Series]:
    """Solve u y' = u' for the rate y', then integrate it."""
    (u,) = inputs
    du = _rate(u)
    dy = _quotient(du, u, du[0] / u[0], order - 1)
    return [_integrated(apply(u[0])[0], dy)]


def _rate(u: Series) -> Series:
    """Coefficients of u'(t)."""
    return [k * c for k, c in enumerate(u)][1:]


def _integrated(start: Array, rate: Series) -> Series:
    """Coefficients of the function that starts at `start` and has this rate."""
    return [start] + [c / (k + 1) for k, c in enumerate(rate)]


def _autonomous(slope: Callable[[Series, int], Array]) -> Rule:
    """Build the rule of a function with y' = slope(y) u', given coefficient k of slope(y)."""

    def rule(apply: Apply, inputs: list[Series], order: int, params: Any) -> list[Series]:
        (u,) = inputs
        y, slopes, du = apply(u[0]), [], _rate(u)
        for k in range(1, order + 1):
            slopes.append(slope(y, k - 1))
            y.append(_coefficient(du, slopes, k - 1) / k)
        return [y]

    return rule


def _one_minus_square(y: Series, k: int) -> Array:
    return (k == 0) * 1.0 - _coefficient(y, y, k)


def _minus_square(y: Series, k: int) -> Array:
    return y[k] - _coefficient(y, y, k)


def _sine_cosine(u: Series, order: int) -> tuple[Series, Series]:
    """Integrate sin' = cos · u' and cos' = -sin · u' together."""
    sine, cosine, du = [jnp.sin(u[0])], [jnp.cos(u[0])], _rate(u)
    for k in range(1, order + 1):
        next_sine = _coefficient(du, cosine, k - 1) / k
        cosine.append(-_coefficient(du, sine, k - 1) / k)
        sine.append(next_sine)
    return sine, cosine


def _sin(apply: Apply, inputs: list[Series], order: int, params: Any) -> list[Series]:
    sine, _ = _sine_cosine(inputs[0], order)
    return [apply(inputs[0][0]) + sine[1:]]


def _cos(apply: Apply, inputs: list[Series], order: int, params: Any) -> list[Series]:
    _, cosine = _sine_cosine(inputs[0], order)
    return [apply(inputs[0][0]) + cosine[1:]]


def _triangular_solve(
    apply: Apply, inputs: list[Series], order: int, params: Mapping[str, Any]
) -> list[Series]:
    """Solve A X = B, or X A = B, for one coefficient of X after the other."""
    a, b = inputs
    # A unit diagonal is not read, so it does not change either.
    offset = int(params["unit_diagonal"])

    def times(a: Array, x: Array) -> Array:
        a = jnp.tril(a, -offset) if params["lower"] else jnp.triu(a, offset)
        a = a.conj() if params["conjugate_a"] else a
        a = a.mT if params["transpose_a"] else a
        left, right = (a, x) if params["left_side"] else (x, a)
        return jnp.matmul(left, right, precision="highest")

    x = apply(a[0], b[0])
    for k in range(1, (order if len(a) > 1 else len(b) - 1) + 1):
        known = _coefficient(a[1:], x, k - 1, times)
        x += apply(a[0], _at(b, k) - known)
    return [x]


# Jointly linear in all their floating operands; the others are shapes, indices, choices.
_LINEAR = """
    add add_any broadcast_in_dim complex concatenate conj convert_element_type copy copy_p
    cumsum device_put dynamic_slice dynamic_update_slice expand_dims fft imag name neg
    optimization_barrier pad psum real reduce_precision reduce_sum reduce_window_sum reshape
    rev scatter-add scatter_add select_n sharding_constraint slice split squeeze sub transpose
""".split()  # noqa: SIM905 - a list of names, not of lines
_BILINEAR = ("conv_general_dilated", "dot_general", "mul")

RULES: dict[str, Rule] = {
    **dict.fromkeys(_LINEAR, _linear),
    **dict.fromkeys(_BILINEAR, _bilinear),
    "cos": _cos,
    "div": _div,
    "exp": _autonomous(lambda y, k: y[k]),
    "integer_pow": _integer_pow,
    "log": _log,
    "logistic": _autonomous(_minus_square),
    "sin": _sin,
    "sqrt": _sqrt,
    "square": _square,
    "tanh": _autonomous(_one_minus_square),
    "triangular_solve": _triangular_solve,
}
