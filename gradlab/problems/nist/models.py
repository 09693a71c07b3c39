"""The model functions of NIST's nonlinear regressions, b and x to the predicted response.

They equal the published formulas, arranged so that nothing overflows or cancels where the
formula itself does not: 1 - exp(-z) by `expm1`, logistic curves by `sigmoid` and `softplus`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gradlab.problems._types import Point, Predictors, Residuals

__all__ = [
    "bennett5",
    "chwirut",
    "cubic_over_cubic",
    "eckerle4",
    "mgh09",
    "mgh10",
    "misra1b",
    "misra1c",
    "misra1d",
    "nelson",
    "power",
    "quadratic_over_quadratic",
    "rat42",
    "rat43",
    "roszman1",
    "saturation",
    "three_cycles",
    "three_exponentials",
    "two_exponentials",
    "two_peaks",
]


def bennett5(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 (b2 + x)^(-1 / b3)."""
    return b[0] * (b[1] + x) ** (-1 / b[2])


def chwirut(b: Point, x: Predictors) -> Residuals:
    """Evaluate exp(-b1 x) / (b2 + b3 x)."""
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


def cubic_over_cubic(b: Point, x: Predictors) -> Residuals:
    """Evaluate (b1 + b2 x + b3 x² + b4 x³) / (1 + b5 x + b6 x² + b7 x³)."""
    top = b[0] + x * (b[1] + x * (b[2] + x * b[3]))
    return top / (1 + x * (b[4] + x * (b[5] + x * b[6])))


def eckerle4(b: Point, x: Predictors) -> Residuals:
    """Evaluate (b1 / b2) exp(-((x - b3) / b2)² / 2)."""
    return b[0] / b[1] * jnp.exp(-(((x - b[2]) / b[1]) ** 2) / 2)


def mgh09(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 (x² + x b2) / (x² + x b3 + b4)."""
    return b[0] * x * (x + b[1]) / (x * (x + b[2]) + b[3])


def mgh10(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 exp(b2 / (x + b3))."""
    return b[0] * jnp.exp(b[1] / (x + b[2]))


def misra1b(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 (1 - (1 + b2 x / 2)^-2)."""
    z = b[1] * x / 2
    return b[0] * z * (2 + z) / (1 + z) ** 2


def misra1c(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 (1 - (1 + 2 b2 x)^(-1/2))."""
    z = 2 * b[1] * x
    root = jnp.sqrt(1 + z)
    return b[0] * z / (root * (root + 1))


def misra1d(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 b2 x / (1 + b2 x)."""
    z = b[1] * x
    return b[0] * z / (1 + z)


def nelson(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 - b2 x1 exp(-b3 x2), the logarithm of the response."""
    return b[0] - b[1] * x[:, 0] * jnp.exp(-b[2] * x[:, 1])


def power(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 x^b2."""
    return b[0] * x ** b[1]


def quadratic_over_quadratic(b: Point, x: Predictors) -> Residuals:
    """Evaluate (b1 + b2 x + b3 x²) / (1 + b4 x + b5 x²)."""
    return (b[0] + x * (b[1] + x * b[2])) / (1 + x * (b[3] + x * b[4]))


def rat42(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 / (1 + exp(b2 - b3 x))."""
    return b[0] * jax.nn.sigmoid(b[2] * x - b[1])


def rat43(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 / (1 + exp(b2 - b3 x))^(1 / b4)."""
    return b[0] * jnp.exp(-jax.nn.softplus(b[1] - b[2] * x) / b[3])


def roszman1(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 - b2 x - arctan(b3 / (x - b4)) / pi."""
    return b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / jnp.pi


def saturation(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 (1 - exp(-b2 x))."""
    return -b[0] * jnp.expm1(-b[1] * x)


def three_cycles(b: Point, x: Predictors) -> Residuals:
    """Evaluate a constant and three cycles: of 12 months, of b4 and of b7."""
    turn = 2 * jnp.pi * x
    year = b[1] * jnp.cos(turn / 12) + b[2] * jnp.sin(turn / 12)
    second = b[4] * jnp.cos(turn / b[3]) + b[5] * jnp.sin(turn / b[3])
    third = b[7] * jnp.cos(turn / b[6]) + b[8] * jnp.sin(turn / b[6])
    return b[0] + year + second + third


def three_exponentials(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 exp(-b2 x) + b3 exp(-b4 x) + b5 exp(-b6 x)."""
    return b[0] * jnp.exp(-b[1] * x) + b[2] * jnp.exp(-b[3] * x) + b[4] * jnp.exp(-b[5] * x)


def two_exponentials(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 + b2 exp(-b4 x) + b3 exp(-b5 x)."""
    return b[0] + b[1] * jnp.exp(-b[3] * x) + b[2] * jnp.exp(-b[4] * x)


def two_peaks(b: Point, x: Predictors) -> Residuals:
    """Evaluate b1 exp(-b2 x) and two peaks, b3 exp(-(x - b4)² / b5²) and b6, b7, b8."""
    first = b[2] * jnp.exp(-(((x - b[3]) / b[4]) ** 2))
    second = b[5] * jnp.exp(-(((x - b[6]) / b[7]) ** 2))
    return b[0] * jnp.exp(-b[1] * x) + first + second
