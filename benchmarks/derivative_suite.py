"""Functions with known derivatives, for judging differentiation from function values.

Each function is written once against a namespace `m` (`numpy`, `jax.numpy` or the
50-digit `MP` below), so the tested code and the reference cannot drift apart. Twelve kinds
and three sets of points:

* "suite": what the method was developed on.
* "heldout": the same functions elsewhere. Whole figures and missed bars of this set were
  looked at while the constants were set, so it is a second development set rather than a
  blind one.
* "fresh": drawn between the two by a seed, after the constants were set. This is the set
  whose figures may be called out-of-sample, for these functions.

Definitions used by every table:

* **truth**: for noisy functions the derivative of the smooth function underneath. At a kink
  there is none; a bar is honest there when it covers both one-sided derivatives or when
  the status says that the function is not differentiable. These points count in coverage,
  not in digits.
* **digits**: -log10 of the error relative to the truth, from 0 to 15.95 (float64) or 7
  (float32). A zero truth has no relative error: there it is relative to
  n! |f| / length^n, with the function's own length and its largest value within it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import mpmath
import numpy as np

__all__ = [
    "FUNCTIONS",
    "KINDS",
    "MULTIVARIATE",
    "Function",
    "Multivariate",
    "cases",
    "digits",
    "gradient_truth",
    "truth",
    "vectors",
]

mpmath.mp.dps = 50


class MP:
    """The names of NumPy that the functions use, in 50 digits."""

    sin, cos, tan, exp, log = mpmath.sin, mpmath.cos, mpmath.tan, mpmath.exp, mpmath.log
    sqrt, tanh, cosh, arctan, erf = (
        mpmath.sqrt,
        mpmath.tanh,
        mpmath.cosh,
        mpmath.atan,
        mpmath.erf,
    )
    abs = staticmethod(lambda x: abs(x))
    maximum = staticmethod(lambda a, b: a if a >= b else b)
    where = staticmethod(lambda c, a, b: a if c else b)
    round = staticmethod(lambda x: x)  # the smooth function underneath


@dataclass(frozen=True, eq=False)
class Function:
    """One function of one variable, its points and what is special about it."""

    name: str
    kind: str
    formula: Callable[[Any, Any], Any]
    points: tuple[float, ...]
    heldout: tuple[float, ...]
    smooth: Callable[[Any, Any], Any] | None = None  # underneath the noise
    length: float = 1.0  # for the zero derivatives only
    float32: bool = True
    max_order: int = 4

    def __call__(self, x: Any) -> Any:
        """Evaluate in JAX."""
        return self.formula(jnp, x)

    def numpy(self, x: Any) -> Any:
        """Evaluate in NumPy; overflow and invalid values are answers, not warnings."""
        with np.errstate(all="ignore"):
            return self.formula(np, np.asarray(x))


def _hashed(m: Any, x: Any) -> Any:
    """Give a reproducible number in [-1, 1) that jumps with every rounding of x."""
    y = m.sin(x * (1.2345 * 2.0**36)) * (2.0**20 * 1.1)
    return 2.0 * (y - m.floor(y)) - 1.0


def _noisy(smooth: Callable[[Any, Any], Any], level: float) -> Callable[[Any, Any], Any]:
    return lambda m, x: smooth(m, x) * (1.0 + level * _hashed(m, x))


def _rounded(smooth: Callable[[Any, Any], Any], bits: int) -> Callable[[Any, Any], Any]:
    return lambda m, x: m.round(smooth(m, x) * 2.0**bits) / 2.0**bits


def _kepler(m: Any, x: Any, tolerance: float = 2.0**-20) -> Any:
    """Solve y = x + sin(y)/2 by iteration, stopped once the residual is small enough."""
    y = x
    for _ in range(40):
        following = x + 0.5 * m.sin(y)
        y = m.where(m.abs(following - y) > tolerance, following, y)
    return y


def _kepler_smooth(m: Any, x: Any) -> Any:
    y = x
    for _ in range(200):
        y = x + 0.5 * m.sin(y)
    return y


def _wave(m: Any, x: Any) -> Any:
    return 2.0 + m.sin(x) * m.exp(0.25 * x)


def _growth(m: Any, x: Any) -> Any:
    return m.exp(x)


def _hill(m: Any, x: Any) -> Any:
    return 1.0 / (1.0 + x * x)


_F = Function
_BIG = 2.0**40  # about 1e12
FUNCTIONS: tuple[Function, ...] = (
    # smooth
    _F("exp", "smooth", _growth, (0.3, 1.7, -2.2), (0.41, 2.3, -1.1)),
    _F(
        "sin+x²",
        "smooth",
        lambda m, x: m.sin(x) + 0.25 * x * x,
        (0.3, 1.1, 4.0),
        (0.7, 2.9, 6.1),
    ),
    _F(
        "logistic",
        "smooth",
        lambda m, x: 1 / (1 + m.exp(-x)),
        (0.2, -1.5, 3.0),
        (0.6, -2.1, 2.2),
    ),
    _F(
        "quintic",
        "smooth",
        lambda m, x: x**5 - 3 * x**3 + 2 * x,
        (0.4, 1.6, -2.0),
        (0.9, 2.2, -0.3),
    ),
    _F("gauss", "smooth", lambda m, x: m.exp(-x * x), (0.5, 1.2, -0.9), (0.35, 1.5, -0.6)),
    _F("wave", "smooth", _wave, (0.8, 3.0, -1.0), (1.1, 2.2, -2.4)),
    # oscillating
    _F(
        "sin 50x", "oscillating", lambda m, x: m.sin(50 * x), (0.3, 1.0, 2.6), (0.47, 1.33, 3.1)
    ),
    _F("cos x²", "oscillating", lambda m, x: m.cos(x * x), (5.0, 8.1, 11.3), (4.1, 9.2, 12.7)),
    _F(
        "exp·sin 200x",
        "oscillating",
        lambda m, x: m.exp(-x) * m.sin(200 * x),
        (0.1, 1.01, 2.3),
        (0.22, 1.4, 2.9),
    ),
    _F(
        "sin 1000x",
        "oscillating",
        lambda m, x: m.sin(1000 * x),
        (0.2, 1.1, 3.7),
        (0.31, 1.9, 2.6),
    ),
    # steep
    _F(
        "tanh 100(x-1)",
        "steep",
        lambda m, x: m.tanh(100 * (x - 1)),
        (1.002, 0.995, 1.01),
        (1.004, 0.99, 1.007),
    ),
    _F("exp 30x", "steep", lambda m, x: m.exp(30 * x), (0.1, 0.9, -1.0), (0.25, 0.6, -0.5)),
    _F("x^20", "steep", lambda m, x: x**20, (0.7, 1.5, 3.0), (0.9, 1.2, 2.4)),
    _F(
        "narrow gauss",
        "steep",
        lambda m, x: m.exp(-400 * (x - 2) * (x - 2)),
        (2.03, 1.95, 2.08),
        (2.05, 1.93, 2.015),
    ),
    # near a pole or branch point
    _F("1/(x-1)", "singular", lambda m, x: 1 / (x - 1), (1.001, 0.99, 1.1), (1.003, 0.97, 1.2)),
    _F("log", "singular", lambda m, x: m.log(x), (1e-6, 1e-3, 0.1), (3e-6, 4e-3, 0.3)),
    _F("sqrt", "singular", lambda m, x: m.sqrt(x), (1e-8, 1e-4, 0.03), (5e-7, 2e-3, 0.2)),
    _F("tan", "singular", lambda m, x: m.tan(x), (1.5, 1.57, -1.45), (1.53, 1.56, -1.4)),
    _F(
        "runge",
        "singular",
        lambda m, x: 1 / (1 + 625 * x * x),
        (0.03, 0.2, -0.05),
        (0.02, 0.3, -0.1),
    ),
    _F("x^1.5", "singular", lambda m, x: x * m.sqrt(x), (1e-4, 0.01, 0.5), (3e-4, 0.04, 0.8)),
    # saturated
    _F(
        "tanh far",
        "saturated",
        lambda m, x: m.tanh(x),
        (4.0, 6.0, 9.0),
        (3.6, 5.3, 8.1),
        max_order=4,
    ),
    _F(
        "logistic far",
        "saturated",
        lambda m, x: 1 / (1 + m.exp(-x)),
        (8.0, 12.0, 16.0),
        (7.1, 10.4, 15.0),
    ),
    _F(
        "arctan far",
        "saturated",
        lambda m, x: m.arctan(x),
        (30.0, 300.0, -1000.0),
        (50.0, 220.0, -700.0),
    ),
    _F(
        "1-exp(-x)", "saturated", lambda m, x: 1 - m.exp(-x), (4.0, 9.0, 14.0), (6.0, 8.0, 12.0)
    ),
    # strongly curved
    _F(
        "1e4x²+x",
        "curved",
        lambda m, x: 8192 * x * x + x,
        (0.001, 0.3, -2.0),
        (0.004, 0.7, -1.4),
    ),
    _F("exp x²", "curved", lambda m, x: m.exp(x * x), (1.0, 2.0, 3.0), (0.8, 1.7, 2.6)),
    _F("x^8", "curved", lambda m, x: x**8, (0.3, 1.1, -2.5), (0.5, 1.4, -1.7)),
    _F(
        "log(1+1e4x²)",
        "curved",
        lambda m, x: m.log(1 + 8192 * x * x),
        (0.004, 0.1, 2.0),
        (0.008, 0.3, 1.2),
    ),
    _F("cosh 5x", "curved", lambda m, x: m.cosh(5 * x), (0.02, 0.5, 2.0), (0.06, 0.9, 1.5)),
    # huge and tiny scales
    _F(
        "tiny wave",
        "scale",
        lambda m, x: 1e-200 * m.sin(1e9 * x),
        (3e-10, 1e-9, 2e-9),
        (5e-10, 2.6e-9, 4e-9),
        float32=False,
    ),
    _F(
        "huge growth",
        "scale",
        lambda m, x: 1e200 * m.exp(x / 1e9),
        (1.0, 3e8, -2e9),
        (30.0, 1e8, 1.5e9),
        float32=False,
    ),
    _F("log wide", "scale", lambda m, x: m.log(x), (1e-12, 1e6, 1e12), (2e-12, 3e5, 4e11)),
    _F("sqrt wide", "scale", lambda m, x: m.sqrt(x), (1e-12, 1e-6, 1e12), (4e-12, 5e6, 2e11)),
    _F("1/x wide", "scale", lambda m, x: 1 / x, (1e-12, 1e-5, 1e9), (3e-11, 2e-4, 5e10)),
    _F("exp, tiny x", "scale", _growth, (1e-12, 1e-9, -1e-6), (3e-12, 2e-8, -4e-5)),
    _F(
        "sin, far x",
        "scale",
        lambda m, x: m.sin(x - _BIG),
        (_BIG + 0.5, _BIG - 1.25, _BIG + 2.0),
        (_BIG + 0.75, _BIG - 2.5, _BIG + 1.0),
        float32=False,
    ),
    # cancelling
    _F(
        "(1-cos x)/x²",
        "cancelling",
        lambda m, x: (1 - m.cos(x)) / (x * x),
        (0.01, 0.2, 1.0),
        (0.03, 0.1, 0.7),
    ),
    _F(
        "(e^x-1-x)/x²",
        "cancelling",
        lambda m, x: (m.exp(x) - 1 - x) / (x * x),
        (0.01, 0.1, 1.0),
        (0.02, 0.3, 0.8),
    ),
    _F(
        "1e8+sin",
        "cancelling",
        lambda m, x: 134217728.0 + m.sin(x),
        (0.3, 1.0, 5.0),
        (0.6, 2.0, 4.0),
        float32=False,
    ),
    _F(
        "√(x+1)-√x",
        "cancelling",
        lambda m, x: m.sqrt(x + 1) - m.sqrt(x),
        (1e2, 1e4, 1e6),
        (3e2, 2e4, 4e5),
        float32=False,
    ),
    _F(
        "(x-1)^6 expanded",
        "cancelling",
        lambda m, x: x**6 - 6 * x**5 + 15 * x**4 - 20 * x**3 + 15 * x**2 - 6 * x + 1,
        (1.5, 0.4, 1.2),
        (1.6, 0.3, 1.3),
        float32=False,
    ),
    # noisy
    _F(
        "rounded 1e-9",
        "noisy",
        _rounded(_wave, 30),
        (0.8, 3.0, -1.0),
        (1.1, 2.2, -2.4),
        smooth=_wave,
    ),
    _F(
        "rounded 1e-4",
        "noisy",
        _rounded(_wave, 13),
        (0.8, 3.0, -1.0),
        (1.1, 2.2, -2.4),
        smooth=_wave,
    ),
    _F(
        "hashed 1e-10",
        "noisy",
        _noisy(_growth, 1e-10),
        (0.3, 1.7, -2.2),
        (0.41, 2.3, -1.1),
        smooth=_growth,
        float32=False,
    ),
    _F(
        "hashed 1e-6",
        "noisy",
        _noisy(_hill, 1e-6),
        (0.4, 1.7, -0.8),
        (0.6, 1.3, -0.5),
        smooth=_hill,
    ),
    _F(
        "hashed 1e-4",
        "noisy",
        _noisy(_wave, 1e-4),
        (0.8, 3.0, -1.0),
        (1.1, 2.2, -2.4),
        smooth=_wave,
    ),
    _F(
        "inner solver 1e-6",
        "noisy",
        _kepler,
        (0.7, 2.0, 4.0),
        (0.9, 2.4, 5.1),
        smooth=_kepler_smooth,
    ),
    # at a kink
    _F("|x|", "at a kink", lambda m, x: m.abs(x), (0.0,) * 3, (0.0,) * 3),
    _F("|x-1|+x²", "at a kink", lambda m, x: m.abs(x - 1) + x * x, (1.0,) * 3, (1.0,) * 3),
    _F(
        "relu+sin",
        "at a kink",
        lambda m, x: m.maximum(x, 0 * x) + m.sin(3 * x),
        (0.0,) * 3,
        (0.0,) * 3,
    ),
    # near a kink: across it
    _F(
        "|x| near", "near a kink", lambda m, x: m.abs(x), (1e-3, -0.02, 0.3), (3e-3, -0.05, 0.7)
    ),
    _F("|sin|", "near a kink", lambda m, x: m.abs(m.sin(x)), (3.1, 6.3, 0.05), (3.2, 6.2, 0.1)),
    _F(
        "relu+exp",
        "near a kink",
        lambda m, x: m.maximum(x, 0 * x) + m.exp(x),
        (0.01, -0.03, 0.2),
        (0.02, -0.07, 0.4),
    ),
    _F("x|x|", "near a kink", lambda m, x: x * m.abs(x), (0.01, -0.1, 1.0), (0.03, -0.2, 0.6)),
    # zero derivative
    _F("cos at 0", "zero", lambda m, x: m.cos(x), (0.0,) * 3, (0.0,) * 3),
    _F("1+x^4", "zero", lambda m, x: 1 + x**4, (0.0,) * 3, (0.0,) * 3),
    _F("constant", "zero", lambda m, x: 3 + 0 * x, (0.0, 1.0, 1e6), (0.3, -2.0, 1e-5)),
    _F("(x-1)²e^x", "zero", lambda m, x: (x - 1) * (x - 1) * m.exp(x), (1.0,) * 3, (1.0,) * 3),
    _F(
        "sin at its top",
        "zero",
        lambda m, x: m.cos(8 * (x - 2)) + 1,
        (2.0,) * 3,
        (2.0,) * 3,
        length=0.125,
    ),
)
KINDS = tuple(dict.fromkeys(f.kind for f in FUNCTIONS))


@functools.cache
def truth(function: Function, x: float, order: int) -> float:
    """Return the derivative at x to 50 digits, rounded; NaN at a kink."""
    if function.kind == "at a kink":
        return math.nan
    smooth = function.smooth or function.formula
    x = mpmath.mpf(x)
    # Steps far inside every length of the suite, and precision to spare for them.
    with mpmath.workdps(200):
        step = mpmath.mpf(10) ** -30 * (abs(x) if x else 1)
        step = min(step, mpmath.mpf(10) ** -30)
        value = mpmath.diff(lambda t: smooth(MP, t), x, order, h=step)
        scale = scale_of_zero(function, float(x), order)
    may_vanish = function.kind in ("zero", "near a kink", "curved")
    return 0.0 if may_vanish and abs(value) < 1e-18 * scale else float(value)


def scale_of_zero(function: Function, x: float, order: int) -> float:
    """Return n! |f| / length^n, what a zero derivative is compared with."""
    size = abs(float(function.numpy(x))) or 1.0
    return math.factorial(order) * size / function.length**order


def digits(function: Function, x: float, order: int, value: float, dtype: str) -> float:
    """Return the correct digits of `value`, 0 to 15.95 (float64) or 7 (float32)."""
    cap = 15.95 if dtype == "float64" else 7.0
    exact = truth(function, x, order)
    error = abs(value - exact) / (abs(exact) or scale_of_zero(function, x, order))
    if not math.isfinite(error):
        return 0.0
    return cap if error == 0 else min(cap, max(0.0, -math.log10(error)))


def cases(dtype: str = "float64", points: str = "suite", seed: int = 0) -> list[Any]:
    """List (function, point) pairs, the points representable in `dtype`."""
    chosen = [f for f in FUNCTIONS if f.float32 or dtype == "float64"]
    return [
        (f, float(np.dtype(dtype).type(x)))
        for f in chosen
        for x in _choose(f.points, f.heldout, points, seed)
    ]


def vectors(function: Multivariate, points: str = "suite", seed: int = 0) -> list[Any]:
    """List the points of one function of several variables."""
    columns = zip(function.points, function.heldout, strict=True)
    return [tuple(_choose(a, b, points, seed + k)) for k, (a, b) in enumerate(columns)]


def _choose(suite: Any, heldout: Any, points: str, seed: int) -> list[float]:
    """Choose a set; fresh points lie between the other two, in size where signs agree."""
    if points != "fresh":
        return list({"suite": suite, "heldout": heldout}[points])
    shares = np.random.default_rng(seed).uniform(0.2, 0.8, len(suite))
    return [_between(a, b, t) for a, b, t in zip(suite, heldout, shares, strict=True)]


def _between(a: float, b: float, share: float) -> float:
    if a == b:  # a place that is special, not to be missed by a rounding
        return a
    if a * b > 0:
        return math.copysign(abs(a) ** (1 - share) * abs(b) ** share, a)
    return (1 - share) * a + share * b


@dataclass(frozen=True, eq=False)
class Multivariate:
    """A function of several variables, two points and two held-out ones."""

    name: str
    formula: Callable[[Any, Any], Any]  # of (m, x): the components of x are scalars
    points: tuple[tuple[float, ...], ...]
    heldout: tuple[tuple[float, ...], ...]

    def __call__(self, x: Any) -> Any:
        """Evaluate in JAX at x, shape (n,)."""
        return self.formula(jnp, x)

    def numpy(self, x: Any) -> Any:
        """Evaluate in NumPy; overflow and invalid values are answers, not warnings."""
        with np.errstate(all="ignore"):
            return self.formula(np, np.asarray(x))


def _chain(m: Any, x: Any) -> Any:
    return sum(100 * (x[i + 1] - x[i] * x[i]) ** 2 + (1 - x[i]) ** 2 for i in range(len(x) - 1))


def _softmax_loss(m: Any, x: Any) -> Any:
    return m.log(sum(m.exp(x[i]) for i in range(len(x)))) - x[0]


def _kinetics(m: Any, x: Any) -> Any:
    """Rate constants of very different size: each entry has its own scale."""
    return m.exp(-1e9 * x[0]) + m.sin(1e-6 * x[1]) * x[2] + m.log(x[3])


def _network(m: Any, x: Any) -> Any:
    hidden = [m.tanh(x[3 * k] + 0.5 * x[3 * k + 1]) * x[3 * k + 2] for k in range(3)]
    return (hidden[0] - 2 * hidden[1] + hidden[2] - 1) ** 2


def _well(m: Any, x: Any) -> Any:
    r = m.sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2])
    return 4 * (r**-12 - r**-6)


_V = Multivariate
MULTIVARIATE: tuple[Multivariate, ...] = (
    _V(
        "Rosenbrock 4",
        _chain,
        ((-1.2, 1.0, 0.5, 2.0), (0.9, 0.7, 0.6, 0.3)),
        ((1.3, -0.4, 0.8, 0.2), (0.2, 0.6, -1.1, 1.7)),
    ),
    _V(
        "softmax loss",
        _softmax_loss,
        ((0.1, 2.0, -1.0, 5.0, 0.3), (3.0, -4.0, 1.0, 0.0, 0.7)),
        ((1.1, 0.4, -2.0, 2.5, 0.9), (-0.6, 1.8, 0.2, 3.1, -1.4)),
    ),
    _V(
        "rate constants",
        _kinetics,
        ((3e-10, 2e5, 40.0, 1e-3), (1e-9, -1e6, 0.5, 2e4)),
        ((7e-10, 5e5, 8.0, 0.03), (2e-9, 3e6, -3.0, 7e2)),
    ),
    _V(
        "network of 9",
        _network,
        (tuple(0.3 * k - 1.1 for k in range(9)), tuple(0.9 - 0.2 * k for k in range(9))),
        (tuple(0.25 * k - 0.8 for k in range(9)), tuple(1.3 - 0.3 * k for k in range(9))),
    ),
    _V(
        "Lennard-Jones",
        _well,
        ((1.1, 0.3, 0.2), (0.8, -0.9, 0.6)),
        ((0.9, 0.5, -0.4), (1.4, 0.2, 0.7)),
    ),
    _V(
        "Branin-like",
        lambda m, x: (
            (x[1] - 0.129 * x[0] * x[0] + 1.6 * x[0] - 6) ** 2 + 9.6 * m.cos(x[0]) + 10
        ),
        ((2.0, 3.0), (-3.0, 11.0)),
        ((1.2, 5.5), (6.3, 1.9)),
    ),
    _V(
        "powers",
        lambda m, x: x[0] ** 3 * x[1] ** 2 / x[2],
        ((2.0, 0.5, 4.0), (1e-3, 30.0, 0.2)),
        ((0.7, 3.0, 9.0), (2e-3, 50.0, 0.6)),
    ),
    _V(
        "oscillations",
        lambda m, x: m.sin(30 * x[0]) * m.cos(20 * x[1]) + m.exp(x[2]),
        ((0.3, 0.7, 1.0), (1.9, -0.4, -2.0)),
        ((0.55, 1.2, 0.4), (2.6, -0.9, 1.5)),
    ),
    _V(
        "log-likelihood",
        lambda m, x: (
            -m.log(x[1]) - sum((d - x[0]) ** 2 for d in (0.3, 1.1, 2.4)) / (2 * x[1] * x[1])
        ),
        ((1.0, 0.7), (0.2, 2.0)),
        ((1.6, 1.1), (0.5, 0.4)),
    ),
    _V(
        "distances",
        lambda m, x: m.sqrt(x[0] ** 2 + x[1] ** 2) + m.sqrt((x[0] - 1) ** 2 + x[2] ** 2),
        ((0.4, 0.3, 2.0), (1.2, -0.01, 0.5)),
        ((0.8, 0.6, 1.1), (1.7, -0.05, 0.3)),
    ),
)


@functools.cache
def gradient_truth(function: Multivariate, x: tuple[float, ...]) -> tuple[float, ...]:
    """Return the gradient at x to 50 digits, rounded."""
    point = [mpmath.mpf(v) for v in x]
    result = []
    for i, value in enumerate(point):

        def line(t: Any, i: int = i) -> Any:
            return function.formula(MP, [*point[:i], t, *point[i + 1 :]])

        with mpmath.workdps(200):
            step = mpmath.mpf(10) ** -30 * min(abs(value) or 1, 1)
            result.append(float(mpmath.diff(line, value, 1, h=step)))
    return tuple(result)
