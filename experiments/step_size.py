"""Which step makes a difference quotient most accurate, and how accurate is that?

Forward, central and fourth-order differences and the complex step differentiate
exp(x) / (sin³ x + cos³ x) near 1.5 with steps from 1e-16 to 0.3, in float64 and in float32.
The error is a V: truncation falls with the order of the formula, rounding grows as 1 / step.
The predicted best step is marked, from the measured noise and the next derivative.

References:
    Squire, W. and Trapp, G. (1998). SIAM Review 40:110 (the function).
    Gill, P., Murray, W. and Wright, M. (1981). Practical Optimization, 8.6 (the optimum).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

# Name, scheme, order of its error.
FORMULAS = (
    ("forward", "forward", 1),
    ("central", "central", 2),
    ("central, 4th order", "central", 4),
    ("complex step", "complex", 2),
)
# At one point luck decides how a value is rounded; the median of several shows the law.
# Multiples of 1/1024 are exact in float32.
POINTS = 1.5 + np.arange(-10, 11) / 1024
# The function has a pole 0.86 to the right, so that longer steps show nothing.
LONGEST = 0.3
# Half a rounding of float64: what the reference, a closed form in float64, is good for.
REFERENCE = 2.0**-53


class Curve(NamedTuple):
    """The errors of one formula in one precision.

    Attributes:
        formula: Its name.
        dtype: "float64" or "float32".
        accuracy: Order of its error.
        steps: Steps, shape (k,).
        errors: Median relative error over the points at each step, shape (k,); NaN where
            x + step is x.
        optimum: Predicted best step.
        floor: Predicted relative error there.
    """

    formula: str
    dtype: str
    accuracy: int
    steps: np.ndarray
    errors: np.ndarray
    optimum: float
    floor: float

    @property
    def best(self) -> int:
        """Index of the step with the least error."""
        return int(np.nanargmin(self.errors))


def function(x: Any) -> Any:
    """Return exp(x) / (sin³ x + cos³ x)."""
    import jax.numpy as jnp

    return jnp.exp(x) / (jnp.sin(x) ** 3 + jnp.cos(x) ** 3)


def slope(x: np.ndarray) -> np.ndarray:
    """Return the derivative of `function` by the quotient rule, in float64."""
    s, c = np.sin(x), np.cos(x)
    below = s**3 + c**3
    return np.exp(x) * (below - 3 * s * c * (s - c)) / below**2


def measure(
    *, dtypes: Sequence[str] = ("float64", "float32"), per_decade: int = 6
) -> list[Curve]:
    """Differentiate with every formula and every step.

    Args:
        dtypes: Precisions.
        per_decade: Steps to a factor of ten.

    Returns:
        A curve for each precision and formula.
    """
    import jax.numpy as jnp

    curves = []
    for dtype in dtypes:
        eps = float(jnp.finfo(dtype).eps)
        count = round(per_decade * math.log10(LONGEST / (eps / 4)))
        steps = np.geomspace(eps / 4, LONGEST, count).astype(dtype)
        points = POINTS.astype(dtype)[:, None] + np.zeros_like(steps)
        exact = slope(points.astype(float))
        for formula, scheme, accuracy in FORMULAS:
            # Elementwise, with an array of steps: all of a curve in one compiled call.
            widths = jnp.asarray(steps + np.zeros_like(points))
            operator = gl.finite.derivative(
                function, scheme=scheme, accuracy=accuracy, step=widths
            )
            found = np.asarray(operator(jnp.asarray(points)), dtype=float)
            errors = np.median(abs(found - exact) / abs(exact), axis=0)
            errors = np.maximum(errors, REFERENCE)
            told = predict(scheme, accuracy, dtype)
            curves.append(Curve(formula, dtype, accuracy, steps.astype(float), errors, *told))
    return curves


def predict(scheme: str, accuracy: int, dtype: str) -> tuple[float, float]:
    r"""Predict the best step and the relative error there.

    The error is $|C| h^p + s / h$: C is the next derivative times the constant of the
    formula with weights w at offsets o, $\sum w o^{p+1} / (p+1)!$, and s is the noise of
    the function times $\sqrt{\sum w^2}$. It is least at $h = (s / (p |C|))^{1/(p+1)}$. The
    complex step cancels nothing: its error is that of rounding until $|C| h^2$ exceeds it.
    """
    import jax.numpy as jnp

    x = jnp.asarray(POINTS[len(POINTS) // 2], dtype)
    wide = jnp.asarray(x, jnp.result_type(float))
    first, following = (
        abs(float(gl.nth_derivative(function, n)(wide))) for n in (1, accuracy + 1)
    )
    if scheme == "complex":
        eps = float(jnp.finfo(dtype).eps)
        return math.sqrt(6 * eps * first / following), eps
    offsets = np.arange(-(accuracy // 2), accuracy // 2 + 1) if accuracy > 1 else np.arange(2)
    weights = np.asarray(gl.finite.weights(offsets.tolist(), 1), dtype=float)
    constant = abs(float(weights @ offsets ** (accuracy + 1.0)))
    constant *= following / math.factorial(accuracy + 1)
    noise = float(gl.estimate_noise(function, x).noise) * float(np.linalg.norm(weights))
    optimum = (noise / (accuracy * constant)) ** (1 / (accuracy + 1))
    return optimum, (constant * optimum**accuracy + noise / optimum) / first


def table(curves: Sequence[Curve]) -> Any:
    """Return the best steps, measured and predicted, as a table."""
    from gradlab.compare.table import Table

    rows = tuple(
        {
            "dtype": c.dtype,
            "formula": c.formula,
            "predicted_step": c.optimum,
            "best_step": float(c.steps[c.best]),
            "predicted_error": c.floor,
            "best_error": float(c.errors[c.best]),
            "slope": falling_slope(c),
        }
        for c in curves
    )
    formats = {
        "dtype": ("dtype", ""),
        "formula": ("formula", ""),
        "predicted_step": ("predicted step", ".1e"),
        "best_step": ("best step", ".1e"),
        "predicted_error": ("predicted error", ".1e"),
        "best_error": ("least error", ".1e"),
        "slope": ("slope right of it", ".2f"),
    }
    return Table(rows, formats)


def falling_slope(curve: Curve) -> float:
    """Return the log-log slope of the error well right of the optimum: the order.

    From 4 times the best step, where rounding no longer shows, to a tenth of the distance to
    the pole or four times the former.
    """
    low = 4 * curve.optimum
    high = max(0.08, 4 * low)
    kept = (curve.steps > low) & (curve.steps < high) & (curve.errors > 0)
    if kept.sum() < 2:
        return math.nan
    return float(np.polyfit(np.log(curve.steps[kept]), np.log(curve.errors[kept]), 1)[0])


def answer(curves: Sequence[Curve]) -> str:
    """Say which step is best and how many digits it leaves."""
    told = []
    for dtype in dict.fromkeys(c.dtype for c in curves):
        parts = [
            f"{c.formula} {-math.log10(c.errors[c.best]):.1f} digits at {c.steps[c.best]:.0e}"
            for c in curves
            if c.dtype == dtype and c.formula != "complex step"
        ]
        told.append(f"In {dtype}: {', '.join(parts)}.")
    ratios = [
        max(c.optimum / c.steps[c.best], c.steps[c.best] / c.optimum)
        for c in curves
        if c.formula != "complex step"
    ]
    exact = next(c for c in curves if c.formula == "complex step")
    told.append(
        f"The prediction misses the best step by a factor of {max(ratios):.2g} at most; the "
        f"complex step has every digit of {exact.dtype} below {exact.optimum:.0e}, however "
        "short it is."
    )
    return " ".join(told)


def draw(curves: Sequence[Curve]) -> dict[str, Any]:
    """Draw the V of every formula, one panel a precision.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    dtypes = list(dict.fromkeys(c.dtype for c in curves))
    figure, axes = plt.subplots(
        1,
        len(dtypes),
        figsize=(6.4 * len(dtypes), 4.4),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for dtype, ax in zip(dtypes, axes.flat, strict=True):
        gl.plots.plot_step_size_errors(**_panel([c for c in curves if c.dtype == dtype]), ax=ax)
        ax.set_title(f"{dtype}   (▽ predicted best step)", loc="left", fontsize=10.5)
        ax.set_ylim(REFERENCE / 4, 30)
    return {"step-size": figure}


def _panel(curves: Sequence[Curve]) -> Mapping[str, Any]:
    """Return the arguments of `plot_step_size_errors` for one panel."""
    return {
        "errors": {c.formula: (c.steps, c.errors) for c in curves},
        "optima": {c.formula: c.optimum for c in curves},
        "noise_floor": float(np.finfo(curves[0].dtype).eps),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        dtypes = ("float64", "float32") if options.dtype == "float64" else ("float32",)
        curves = measure(dtypes=dtypes, per_decade=3 if options.quick else 6)
        run.write_json("curves.json", [curve._asdict() for curve in curves])
        print(run.report(table(curves), answer(curves)))
        run.save_figures(draw(curves))


if __name__ == "__main__":
    runs.console(main)
