"""Which everyday functions have a Taylor series to order 4: `jet` beside `gradlab.taylor`?

Each function of one number is written in JAX and, independently, in mpmath, whose
30-digit series is the truth. A cell holds the correct digits of the worst of the five
coefficients, relative to the largest of them (at most 15.9 in float64), or what went wrong.

    python benchmarks/everyday_functions.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special as sp
import mpmath as mp
import numpy as np
from jax import lax, nn
from jax.experimental.jet import jet

from gradlab.derivatives.taylor import taylor

__all__ = ["FUNCTIONS", "ORDER", "Function", "digits", "measure", "truth"]

ORDER = 4

# A coefficient counts as right from here: some functions of JAX itself (polygamma, igamma)
# have no more digits.
ENOUGH_DIGITS = 9.0


class Function(NamedTuple):
    """One function: its name, in JAX, in mpmath, and where it is expanded."""

    name: str
    in_jax: Callable
    in_mpmath: Callable
    x: float = 0.7


def _matrix(m, x):
    """Write a 2 × 2 symmetric positive definite matrix that depends on x."""
    return m([[2 + x, x * x], [x * x, 3 - x / 2]])


def _in_jax(rows):
    return jnp.stack([jnp.stack(row) for row in rows])


def _smallest_eigenvalue(x):
    a, b, d = 2 + x, x * x, 3 - x / 2
    return (a + d - mp.sqrt((a - d) ** 2 + 4 * b * b)) / 2


def _normal_cdf(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2


def _sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def _gelu_tanh(x):
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)))


_SELU_SCALE, _SELU_ALPHA = mp.mpf("1.0507009873554804934"), mp.mpf("1.6732632423543772848")
_VECTOR = (1.0, 2.0, 0.5)  # softmax and its kin act on x times this


def _vector(x):
    return x * jnp.asarray(_VECTOR, x.dtype)


def _logsumexp(x):
    return mp.log(sum(mp.exp(c * x) for c in _VECTOR))


FUNCTIONS = [
    Function("exp", jnp.exp, mp.exp),
    Function("exp2", jnp.exp2, lambda x: 2**x),
    Function("expm1", jnp.expm1, mp.expm1),
    Function("log", jnp.log, mp.log),
    Function("log2", jnp.log2, lambda x: mp.log(x, 2)),
    Function("log1p", jnp.log1p, lambda x: mp.log(1 + x)),
    Function("sqrt", jnp.sqrt, mp.sqrt),
    Function("cbrt", jnp.cbrt, mp.cbrt),
    Function("reciprocal", jnp.reciprocal, lambda x: 1 / x),
    Function("rsqrt", lax.rsqrt, lambda x: 1 / mp.sqrt(x)),
    Function("x**7", lambda x: x**7, lambda x: x**7),
    Function("x**3 at 0", lambda x: x**3, lambda x: x**3, 0.0),
    Function("x**-2", lambda x: x**-2, lambda x: x**-2),
    Function("x**2.5", lambda x: x**2.5, lambda x: x ** mp.mpf("2.5")),
    Function("x**x", lambda x: x**x, lambda x: x**x),
    Function("sin", jnp.sin, mp.sin),
    Function("cos", jnp.cos, mp.cos),
    Function("tan", jnp.tan, mp.tan),
    Function("arcsin", jnp.arcsin, mp.asin),
    Function("arccos", jnp.arccos, mp.acos),
    Function("arctan", jnp.arctan, mp.atan),
    Function("arctan2", lambda x: jnp.arctan2(x, 1 + x), lambda x: mp.atan2(x, 1 + x)),
    Function("hypot", lambda x: jnp.hypot(x, 2.0), lambda x: mp.sqrt(x * x + 4)),
    Function("sinh", jnp.sinh, mp.sinh),
    Function("cosh", jnp.cosh, mp.cosh),
    Function("tanh", jnp.tanh, mp.tanh),
    Function("arcsinh", jnp.arcsinh, mp.asinh),
    Function("arccosh", jnp.arccosh, mp.acosh, 1.7),
    Function("arctanh", jnp.arctanh, mp.atanh),
    Function("sinc", jnp.sinc, lambda x: mp.sincpi(x)),
    Function("sinc at 0", jnp.sinc, lambda x: mp.sincpi(x), 0.0),
    Function("abs", jnp.abs, abs, -0.7),
    Function(
        "logaddexp",
        lambda x: jnp.logaddexp(x, 2 * x),
        lambda x: mp.log(mp.exp(x) + mp.exp(2 * x)),
    ),
    Function(
        "where",
        lambda x: jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), 0.0),
        mp.log,
    ),
    Function("maximum", lambda x: jnp.maximum(x**2, x), lambda x: x),
    Function("clip", lambda x: jnp.clip(x**2, 0.0, 2.0), lambda x: x**2),
    Function("sort", lambda x: jnp.sort(jnp.stack([x**3, x, 1 - x]))[0], lambda x: 1 - x),
    Function("max", lambda x: jnp.max(_vector(x) ** 2), lambda x: 4 * x * x),
    Function(
        "prod",
        lambda x: jnp.prod(1 + _vector(x)),
        lambda x: (1 + x) * (1 + 2 * x) * (1 + x / 2),
    ),
    Function("cumsum", lambda x: jnp.cumsum(_vector(x) ** 2)[1], lambda x: 5 * x * x),
    Function("cumprod", lambda x: jnp.cumprod(_vector(x))[2], lambda x: x**3),
    Function(
        "linalg.norm",
        lambda x: jnp.linalg.norm(_vector(x) ** 2),
        lambda x: x * x * mp.sqrt(mp.mpf("17.0625")),
    ),
    Function("relu", nn.relu, lambda x: x),
    Function("sigmoid", nn.sigmoid, _sigmoid),
    Function("log_sigmoid", nn.log_sigmoid, lambda x: mp.log(_sigmoid(x))),
    Function("softplus", nn.softplus, lambda x: mp.log(1 + mp.exp(x))),
    Function("silu", nn.silu, lambda x: x * _sigmoid(x)),
    Function("gelu", nn.gelu, _gelu_tanh),
    Function(
        "gelu, exact", lambda x: nn.gelu(x, approximate=False), lambda x: x * _normal_cdf(x)
    ),
    Function("elu", nn.elu, mp.expm1, -0.7),
    Function("selu", nn.selu, lambda x: _SELU_SCALE * _SELU_ALPHA * mp.expm1(x), -0.7),
    Function("celu", nn.celu, mp.expm1, -0.7),
    Function("mish", nn.mish, lambda x: x * mp.tanh(mp.log(1 + mp.exp(x)))),
    Function("soft_sign", nn.soft_sign, lambda x: x / (1 + x)),
    Function(
        "softmax", lambda x: nn.softmax(_vector(x))[1], lambda x: mp.exp(2 * x - _logsumexp(x))
    ),
    Function(
        "log_softmax", lambda x: nn.log_softmax(_vector(x))[1], lambda x: 2 * x - _logsumexp(x)
    ),
    Function("logsumexp", lambda x: nn.logsumexp(_vector(x)), _logsumexp),
    Function(
        "standardize",
        lambda x: nn.standardize(_vector(x) ** 2, epsilon=0.0)[0],
        lambda x: (
            (1 - mp.mpf(5.25) / 3)
            / mp.sqrt((1 + 16 + mp.mpf(1) / 16) / 3 - (mp.mpf(5.25) / 3) ** 2)
            + 0 * x
        ),
    ),
    Function("erf", sp.erf, mp.erf),
    Function("erfc", sp.erfc, mp.erfc),
    Function("erfinv", sp.erfinv, mp.erfinv),
    Function("gammaln", sp.gammaln, mp.loggamma),
    Function("digamma", sp.digamma, mp.digamma),
    Function("polygamma", lambda x: sp.polygamma(1, x), lambda x: mp.polygamma(1, x)),
    Function("zeta", lambda x: sp.zeta(2.5, x), lambda x: mp.zeta(mp.mpf("2.5"), x)),
    Function("betaln", lambda x: sp.betaln(x, 2.0), lambda x: mp.log(mp.beta(x, 2))),
    Function(
        "gammainc",
        lambda x: sp.gammainc(2.5, x),
        lambda x: mp.gammainc(mp.mpf("2.5"), 0, x, regularized=True),
    ),
    Function(
        "betainc",
        lambda x: sp.betainc(2.0, 3.0, x),
        lambda x: mp.betainc(2, 3, 0, x, regularized=True),
    ),
    Function("i0", sp.i0, lambda x: mp.besseli(0, x)),
    Function("i0e", sp.i0e, lambda x: mp.exp(-x) * mp.besseli(0, x)),
    Function("i1", sp.i1, lambda x: mp.besseli(1, x)),
    Function("ndtr", sp.ndtr, _normal_cdf),
    Function("log_ndtr", sp.log_ndtr, lambda x: mp.log(_normal_cdf(x))),
    Function("ndtri", sp.ndtri, lambda x: mp.sqrt(2) * mp.erfinv(2 * x - 1)),
    Function("logit", sp.logit, lambda x: mp.log(x / (1 - x))),
    Function("entr", sp.entr, lambda x: -x * mp.log(x)),
    Function("xlogy", lambda x: sp.xlogy(x, x), lambda x: x * mp.log(x)),
    Function("expi", sp.expi, mp.ei),
    Function(
        "det",
        lambda x: jnp.linalg.det(_matrix(_in_jax, x)),
        lambda x: (2 + x) * (3 - x / 2) - x**4,
    ),
    Function(
        "inv",
        lambda x: jnp.linalg.inv(_matrix(_in_jax, x))[0, 1],
        lambda x: -x * x / ((2 + x) * (3 - x / 2) - x**4),
    ),
    Function(
        "solve",
        lambda x: jnp.linalg.solve(_matrix(_in_jax, x), jnp.array([1.0, 0.0]))[0],
        lambda x: (3 - x / 2) / ((2 + x) * (3 - x / 2) - x**4),
    ),
    Function(
        "cholesky",
        lambda x: jnp.linalg.cholesky(_matrix(_in_jax, x))[1, 1],
        lambda x: mp.sqrt(3 - x / 2 - x**4 / (2 + x)),
    ),
    Function(
        "eigvalsh", lambda x: jnp.linalg.eigvalsh(_matrix(_in_jax, x))[0], _smallest_eigenvalue
    ),
    Function(
        "fori_loop",
        lambda x: lax.fori_loop(0, 5, lambda i, y: y * x, 1.0 + 0 * x),
        lambda x: x**5,
    ),
    Function(
        "while_loop",
        lambda x: lax.while_loop(
            lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1])), (0, x)
        )[1],
        lambda x: mp.sin(mp.sin(mp.sin(x))),
    ),
    Function("cond", lambda x: lax.cond(x > 0, lambda x: jnp.sin(x), lambda x: x, x), mp.sin),
]


def truth(function: Function, order: int = ORDER) -> np.ndarray:
    """Series coefficients by mpmath at 40 digits, rounded to float64."""
    with mp.workdps(30):
        return np.array(
            [float(c) for c in mp.taylor(function.in_mpmath, mp.mpf(function.x), order)]
        )


def digits(found: np.ndarray, expected: np.ndarray) -> float:
    """Correct digits of the worst coefficient, relative to the largest; NaN for none."""
    error = np.max(np.abs(np.asarray(found) - expected)) / np.max(np.abs(expected))
    return float(-np.log10(np.maximum(error, np.finfo(np.float64).eps / 2)))


def by_jet(function: Function, order: int = ORDER) -> np.ndarray:
    """Coefficients from `jax.experimental.jet`, which returns derivatives."""
    x = jnp.asarray(function.x)
    line = [jnp.ones(())] + [jnp.zeros(())] * (order - 1)
    value, derivatives = jet(function.in_jax, (x,), (line,))
    factorials = [math.factorial(k) for k in range(order + 1)]
    return np.array([float(c) for c in [value, *derivatives]]) / np.array(factorials)


def by_taylor(function: Function, order: int = ORDER) -> np.ndarray:
    """Coefficients from `gradlab.taylor`."""
    return np.asarray(taylor(function.in_jax, jnp.asarray(function.x), jnp.ones(()), order))


def measure(method: Callable[[Function], np.ndarray], function: Function) -> str:
    """Digits of one method on one function, or the kind of its failure."""
    try:
        found = method(function)
    except Exception as error:  # every kind of failure is a result here
        return type(error).__name__
    return "NaN" if np.isnan(found).any() else f"{digits(found, truth(function)):.1f}"


def main() -> None:
    """Print the table and the two counts."""
    jax.config.update("jax_enable_x64", True)
    right = {"jet": 0, "taylor": 0}
    print(f"{'function':14} {'jet':>20} {'gradlab.taylor':>20}")
    for function in FUNCTIONS:
        cells = {"jet": measure(by_jet, function), "taylor": measure(by_taylor, function)}
        for name, cell in cells.items():
            is_number = cell[0].isdigit()
            right[name] += is_number and float(cell) >= ENOUGH_DIGITS
        print(f"{function.name:14} {cells['jet']:>20} {cells['taylor']:>20}")
    print(f"{'right, of ' + str(len(FUNCTIONS)):14} {right['jet']:>20} {right['taylor']:>20}")


if __name__ == "__main__":
    main()
