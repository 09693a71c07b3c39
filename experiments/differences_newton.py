"""How close to the minimum do Newton and L-BFGS get when differences drive them?

Rosenbrock's valley plus 1 (so that rounding of the loss does not vanish at the minimum) is
minimised with gradients by forward and by central differences of every step h, in float64 and
float32; Newton's Hessian is the derivative of the differences. A method stops where its
gradient is zero, so the true gradient there is the error of the differences. To first order
that is known beforehand, at the minimum: for forward differences at most
h/2 max |d2f/dx2| + eps |f| / h, for central ones h**2/6 max |d3f/dx3| + eps |f| / 2h.

References:
    Berahas, A., Cao, L., Choromanski, K. and Scheinberg, K. (2022). A theoretical and
    empirical comparison of gradient approximations in derivative-free optimization.
    Foundations of Computational Mathematics 22:507.
    Shi, H.-J., Xuan, M., Oztoprak, F. and Nocedal, J. (2023). On the numerical performance
    of finite-difference-based methods for derivative-free optimization. Optimization Methods
    and Software 38:289.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

METHODS = ("newton", "lbfgs")
# Scheme and order of its error; and the name of the exact gradient.
SCHEMES = {"forward": 1, "central": 2}
EXACT = "autodiff"
START = (-1.2, 1.0)
MAX_STEPS = 200
# Longer differences than this are longer than the valley is wide.
LONGEST = 0.1


def loss(x: Any) -> Any:
    """Return Rosenbrock's function plus 1: least, 1, at (1, 1)."""
    return 1 + (100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2)


def measure(
    *,
    methods: Sequence[str] = METHODS,
    schemes: Sequence[str] = tuple(SCHEMES),
    dtypes: Sequence[str] = ("float64", "float32"),
    per_decade: int = 2,
) -> list[dict[str, Any]]:
    """Minimise with every step, all steps in one compiled call.

    Returns:
        Rows with the dtype, method, scheme, step (None for the exact gradient), predicted
        error, the largest entry of the true gradient at the answer (`error`), the loss above
        the minimum (`gap`), steps taken and the status.
    """
    rows = []
    for dtype in dtypes:
        # Shorter differences than 300 eps hold little but rounding.
        lowest = math.log10(300 * float(np.finfo(dtype).eps))
        count = round(per_decade * (math.log10(LONGEST) - lowest)) + 1
        steps = np.logspace(lowest, math.log10(LONGEST), count)
        for method in methods:
            print(f"{method}, {dtype} ...", file=sys.stderr, flush=True)
            about: dict[str, Any] = {"dtype": dtype, "method": method}
            (exact,) = _runs(method, EXACT, np.ones(1), dtype)
            rows.append(about | {"scheme": EXACT, "step": None, "predicted": None} | exact)
            for scheme in schemes:
                for step, found in zip(steps, _runs(method, scheme, steps, dtype), strict=True):
                    row = {"scheme": scheme, "step": float(step)}
                    row["predicted"] = predict(scheme, float(step), dtype)
                    rows.append(about | row | found)
    return rows


def _runs(method: str, scheme: str, steps: np.ndarray, dtype: str) -> list[dict[str, Any]]:
    """Minimise once for every step, and measure the answers with exact derivatives."""
    import jax
    import jax.numpy as jnp

    start = jnp.asarray(START, dtype)

    def run(step: Any) -> tuple[Any, Any, Any]:
        options = {"scheme": scheme, "accuracy": SCHEMES.get(scheme), "step": step}
        grad = None if scheme == EXACT else functools.partial(gl.finite.grad, **options)
        settings: dict[str, Any] = {"max_steps": MAX_STEPS, "gtol": 0.0, "trace": None}
        result = gl.minimize(loss, start, method, grad=grad, **settings)
        return result.x, result.nit, result.status

    found = jax.device_get(jax.jit(jax.vmap(run))(jnp.asarray(steps, dtype)))
    rows = []
    for x, taken, status in zip(*found, strict=True):
        point = jnp.asarray(x, jnp.result_type(float))
        error = float(jnp.max(jnp.abs(jax.grad(loss)(point))))
        row = {"error": error, "gap": float(loss(point)) - 1.0, "steps": int(taken)}
        rows.append(row | {"status": gl.Status(int(status)).name})
    return rows


@functools.cache
def _curvatures() -> dict[str, float]:
    """Return the largest second and third derivative along an axis, at the minimum."""
    import jax.numpy as jnp

    def largest(order: int) -> float:
        along = [
            gl.nth_derivative(lambda t, axis=axis: loss(jnp.ones(2).at[axis].add(t)), order)
            for axis in (0, 1)
        ]
        return max(abs(float(derivative(jnp.zeros(())))) for derivative in along)

    return {"forward": largest(2), "central": largest(3)}


def predict(scheme: str, step: float, dtype: str) -> float:
    """Return the bound of the error of a difference at the minimum, where the loss is 1."""
    eps, order = float(np.finfo(dtype).eps), SCHEMES[scheme]
    truncation = _curvatures()[scheme] * step**order / math.factorial(order + 1)
    return truncation + eps / (order * step)


def floors(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each dtype, method and scheme the best step and error, and those predicted."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["dtype"], row["method"], row["scheme"]), []).append(row)
    told = []
    for key, group in groups.items():
        best = min(group, key=lambda row: row["error"])
        entry = dict(zip(("dtype", "method", "scheme"), key, strict=True))
        entry |= {"step": best["step"], "error": best["error"], "gap": best["gap"]}
        entry |= {"predicted_step": None, "floor": None, "ratio": None}
        if key[2] != EXACT:
            expected = min(group, key=lambda row: row["predicted"])
            ratios = [row["error"] / row["predicted"] for row in group]
            entry |= {"predicted_step": expected["step"], "floor": expected["predicted"]}
            entry["ratio"] = float(np.median(ratios))
        told.append(entry)
    return told


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the best steps and errors, measured and predicted."""
    from gradlab.compare import Table

    formats = {name: (name, "") for name in ("dtype", "method", "scheme")}
    formats |= {
        "predicted_step": ("predicted step", ".0e"),
        "step": ("best step", ".0e"),
        "floor": ("predicted gradient", ".1e"),
        "error": ("least gradient", ".1e"),
        "gap": ("loss − minimum", ".1e"),
        "ratio": ("median measured / predicted", ".2f"),
    }
    return Table(tuple(floors(rows)), formats)


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say where each method stalls, and whether that was known beforehand."""
    told = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        parts = [
            f"{e['method']} with {e['scheme']} {e['error']:.0e}"
            for e in floors(rows)
            if e["dtype"] == dtype
        ]
        told.append(f"In {dtype} the least gradients are: {', '.join(parts)}.")
    ratios = [e["ratio"] for e in floors(rows) if e["ratio"] is not None]
    return " ".join(told) + (
        f" What is left of the gradient is the predicted error of the differences, at a median "
        f"of {min(ratios):.2f} to {max(ratios):.2f} times."
    )


def draw(rows: Sequence[dict[str, Any]]) -> Mapping[str, Any]:
    """Draw the true gradient at the answer against the step, one panel a precision.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figure, axes = plt.subplots(
        1, len(dtypes), figsize=(6.8 * len(dtypes), 4.4), layout="constrained", squeeze=False
    )
    for dtype, ax in zip(dtypes, axes.flat, strict=True):
        here = [row for row in rows if row["dtype"] == dtype]
        lines: dict[str, Any] = {}
        theory: dict[str, Any] = {}
        for row in here:
            name = f"{row['method']}, {row['scheme']}"
            if row["scheme"] != EXACT:
                lines.setdefault(name, []).append((row["step"], row["error"]))
                theory.setdefault(row["scheme"], {})[row["step"]] = row["predicted"]
        gl.plots.plot_errors(
            {name: tuple(zip(*pairs, strict=True)) for name, pairs in lines.items()},
            counted={name: tuple(zip(*p.items(), strict=True)) for name, p in theory.items()},
            x_label="step h of the differences",
            y_label="largest entry of the true gradient at the answer",
            ax=ax,
        )
        ax.set_title(f"{dtype}   (dashed: predicted)", loc="left", fontsize=10.5)
    return {"differences-newton": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        from gradlab.compare import Table

        dtypes = ("float64", "float32") if options.dtype == "float64" else ("float32",)
        settings: dict[str, Any] = {"dtypes": dtypes}
        if options.quick:
            settings = {"dtypes": dtypes[:1], "methods": METHODS[:1], "schemes": ("central",)}
        rows = measure(**settings)
        Table(tuple(rows), {}).to_csv(run.path("stalls.csv"))
        print(run.report(table(rows), answer(rows), results=rows))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
