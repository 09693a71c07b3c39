"""Are the digits that `certify_digits` promises the digits that are there?

    python benchmarks/certified_digits.py [--seed N] [--dtype float32]

Every formula is differentiated once and twice at points drawn at random, automatically in
the dtype and by mpmath to 60 digits at the same point. A row gives the digits that are
there and the error of the digits certified (certified less actual: above zero promises too
much), by median and extremes over the points, for the gradient and for the Hessian as
wholes (by their length) and for their entries one by one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import mpmath as mp  # noqa: E402
import numpy as np  # noqa: E402

from gradlab.derivatives.digits import certify_digits  # noqa: E402

mp.mp.dps = 60
# Points a formula.
_POINTS = 3


class Formula(NamedTuple):
    """A formula in any arithmetic m, and the box its points are drawn from.

    `f(m, *x)` takes scalars. Boxes that span decades are drawn from logarithmically.
    """

    kind: str
    name: str
    f: Callable[..., Any]
    box: tuple[tuple[float, float], ...]


FORMULAS = [
    Formula("cancelling", "(1-cos x)/x^2", lambda m, x: (1 - m.cos(x)) / x**2, ((1e-4, 0.3),)),
    Formula("cancelling", "(e^x-1)/x", lambda m, x: (m.exp(x) - 1) / x, ((1e-6, 0.1),)),
    Formula("cancelling", "sqrt(x^2+1)-x", lambda m, x: m.sqrt(x**2 + 1) - x, ((5.0, 1e5),)),
    Formula(
        "cancelling",
        "(x-1)^6 written out",
        lambda m, x: x**6 - 6 * x**5 + 15 * x**4 - 20 * x**3 + 15 * x**2 - 6 * x + 1,
        ((1.02, 1.6),),
    ),
    Formula("cancelling", "x-sin x", lambda m, x: (x - m.sin(x)) * (1 / x**3), ((1e-3, 0.5),)),
    Formula("cancelling", "log(1+x)/x", lambda m, x: m.log(1 + x) / x, ((1e-6, 0.1),)),
    Formula("cancelling", "tan x-sin x", lambda m, x: m.tan(x) - m.sin(x), ((1e-3, 0.3),)),
    Formula(
        "cancelling",
        "log(cosh x)",
        lambda m, x: m.log((m.exp(x) + m.exp(-x)) / 2) / x**2,
        ((1e-3, 0.5),),
    ),
    Formula(
        "cancelling",
        "variance as E[x^2]-E[x]^2",
        lambda m, x, y, z: (x**2 + y**2 + z**2) / 3 - ((x + y + z) / 3) ** 2,
        ((50.0, 60.0),) * 3,
    ),
    Formula(
        "cancelling",
        "triangle by Heron",
        lambda m, a, b: m.sqrt((a + b + 1) * (b + 1 - a) * (a + 1 - b) * (a + b - 1)),
        ((0.5, 0.5002), (0.5, 0.5002)),
    ),
    Formula(
        "cancelling",
        "root of a quadratic",
        lambda m, b, c: -b + m.sqrt(b**2 - 4 * c),
        ((1e2, 1e4), (0.5, 2.0)),
    ),
    Formula(
        "cancelling",
        "determinant",
        lambda m, a, b, c, d: m.log(a * d - b * c),
        ((2.0, 2.001), (1.0, 1.001), (3.99, 3.995), (2.0, 2.001)),
    ),
    Formula(
        "cancelling", "cos^2-sin^2", lambda m, x: m.cos(x) ** 2 - m.sin(x) ** 2, ((0.7, 0.87),)
    ),
    Formula("benign", "sin cos + x^3", lambda m, x: m.sin(x) * m.cos(x) + x**3, ((0.3, 10.0),)),
    Formula("benign", "tan", lambda m, x: m.tan(x), ((0.3, 1.5),)),
    Formula("benign", "log(1+e^x)", lambda m, x: m.log(1 + m.exp(x)), ((-5.0, 5.0),)),
    Formula("benign", "exp(-x^2)", lambda m, x: m.exp(-(x**2)), ((0.1, 4.0),)),
    Formula("benign", "1/(1+25 x^2)", lambda m, x: 1 / (1 + 25 * x**2), ((0.01, 2.0),)),
    Formula("benign", "x^2.5", lambda m, x: m.exp(2.5 * m.log(x)), ((1e-6, 1e6),)),
    Formula("benign", "atan(x)/x", lambda m, x: m.atan(x) / x, ((0.5, 20.0),)),
    Formula("benign", "sqrt(1+x^4)", lambda m, x: m.sqrt(1 + x**4), ((1e-2, 50.0),)),
    Formula("benign", "tanh tower", lambda m, x: m.tanh(m.sin(m.tanh(x))), ((-2.0, 2.0),)),
    Formula(
        "benign",
        "Rosenbrock",
        lambda m, x, y: 100 * (y - x**2) ** 2 + (1 - x) ** 2,
        ((-2.0, 2.0), (-1.0, 3.0)),
    ),
    Formula(
        "benign",
        "log-sum-exp",
        lambda m, x, y, z: m.log(m.exp(x) + m.exp(y) + m.exp(z)),
        ((-3.0, 3.0),) * 3,
    ),
    Formula(
        "benign",
        "one neuron",
        lambda m, w, b, v: (v * m.tanh(w * 0.7 + b) - 0.3) ** 2,
        ((-2.0, 2.0), (-1.0, 1.0), (0.5, 2.0)),
    ),
    Formula(
        "benign",
        "Lennard-Jones",
        lambda m, x, y: (x**2 + y**2) ** -6 - 2 * (x**2 + y**2) ** -3,
        ((0.9, 1.4), (0.2, 0.8)),
    ),
    Formula(
        "benign",
        "Gaussian in 3",
        lambda m, x, y, z: m.exp(-(x**2) - x * y / 2 - y**2 - z**2 / 3),
        ((-1.5, 1.5),) * 3,
    ),
]


class _Jax:
    """The few functions the formulas use, by JAX."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, {"atan": "arctan"}.get(name, name))


class Row(NamedTuple):
    """Digits certified and there, of one derivative at one point."""

    kind: str
    name: str
    what: str
    certified: float
    actual: float


def measure(formula: Formula, seed: int, dtype: Any) -> list[Row]:
    """Certify one formula at its points."""
    rows = []
    rng = np.random.default_rng([seed, len(formula.name)])
    for _ in range(_POINTS):
        x = jnp.asarray([_drawn(rng, *ends) for ends in formula.box], dtype)
        rows += _rows(formula, x)
    return rows


def _drawn(rng: np.random.Generator, low: float, high: float) -> float:
    if low > 0 and high > 10 * low:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(rng.uniform(low, high))


def _rows(formula: Formula, x: jax.Array) -> list[Row]:
    """Compare at one point."""

    def f(v: jax.Array) -> jax.Array:
        return formula.f(_Jax(), *(v[i] for i in range(len(formula.box))))

    digits = certify_digits(f, x, order=2)
    rows = []
    for order, operator in ((1, jax.grad), (2, jax.hessian)):
        value = np.asarray(jax.jit(operator(f))(x), np.float64)
        truth = _truth(formula, np.asarray(x, np.float64), order)
        error = np.array([float(abs(mp.mpf(float(v)) - t)) for v, t in _pairs(value, truth)])
        size = np.array([float(abs(t)) for t in truth.ravel()])
        entries = np.ravel(np.asarray(digits.grad if order == 1 else digits.hessian))
        name = "gradient" if order == 1 else "Hessian"
        if order == 1:
            whole = np.linalg.norm(error) / np.linalg.norm(size)
            rows.append((name, digits.worst, whole))
        rows += [
            (f"{name} entry", d, e / s)
            for d, e, s in zip(entries, error, size, strict=True)
            if s > 0
        ]
    most = digits.most
    return [
        Row(formula.kind, formula.name, what, float(d), _count(e, most)) for what, d, e in rows
    ]


def _pairs(value: np.ndarray, truth: np.ndarray) -> Any:
    return zip(value.ravel(), truth.ravel(), strict=True)


def _truth(formula: Formula, x: np.ndarray, order: int) -> np.ndarray:
    """Gradient or Hessian to about 25 digits."""
    n, point = len(x), tuple(mp.mpf(float(v)) for v in x)
    f = lambda *v: formula.f(mp, *v)  # noqa: E731
    unit = np.eye(n, dtype=int)
    if order == 1:
        return np.array([mp.diff(f, point, tuple(map(int, u))) for u in unit], object)
    rows = [[mp.diff(f, point, tuple(map(int, u + v))) for u in unit] for v in unit]
    return np.array(rows, object)


def _count(error: float, most: float) -> float:
    """Decimal digits, between none and the most the dtype holds."""
    return float(np.clip(-np.log10(max(error, 1e-40)), 0.0, most))


def report(rows: list[Row]) -> None:
    """Print one line a formula and derivative, then the shares."""
    print(f"{'':27}{'':16}digits there      certified less there")
    print(f"{'formula':27}{'':16}median   least    median   least    most")
    keys = dict.fromkeys((r.name, r.what) for r in rows)
    for name, what in keys:
        mine = [r for r in rows if (r.name, r.what) == (name, what)]
        actual = np.array([r.actual for r in mine])
        off = np.array([r.certified - r.actual for r in mine])
        print(
            f"{name:27}{what:16}{np.median(actual):6.1f}  {actual.min():6.1f}"
            f"    {np.median(off):+6.2f}  {off.min():+6.2f}  {off.max():+6.2f}"
        )
    print()
    for kind in ("cancelling", "benign"):
        for what in ("gradient", "gradient entry", "Hessian entry"):
            off = np.array(
                [r.certified - r.actual for r in rows if (r.kind, r.what) == (kind, what)]
            )
            within = 100 * np.mean(np.abs(off) <= 1)
            promised = 100 * np.mean(off > 1)
            print(
                f"{kind:11} {what:15} within one digit {within:5.1f} % of {len(off)}, "
                f"more than one too many {promised:.1f} %, extremes {off.min():+.2f} "
                f"{off.max():+.2f}"
            )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="", choices=("", "float64", "float32"))
    options = parser.parse_args(argv)
    for dtype in [options.dtype] if options.dtype else ["float64", "float32"]:
        start = time.perf_counter()
        rows = [r for formula in FORMULAS for r in measure(formula, options.seed, dtype)]
        print(f"{dtype} ({time.perf_counter() - start:.0f} s)")
        report(rows)
        print()


if __name__ == "__main__":
    main()
