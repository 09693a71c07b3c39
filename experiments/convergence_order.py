"""How fast do the digits come near a minimum: doubled, tripled, or one by one?

Each method starts near a known minimiser from several points, and the error after every step
is drawn against that before it. The error is the root of the loss above its minimum, which is
the distance in the norm of the Hessian there, so that a narrow valley does not distort it. On
logarithmic axes the slope is the order p of e(k+1) = C e(k)**p: 1 for gradient descent, 2 for
Newton's step, 3 where it is bent by the third derivative, as `newton` does. At the minimum of
Powell's singular function the theory does not hold: along the null space of the Hessian the
loss is a quartic, Newton's step keeps 2/3 of the distance and the bent one 5/9, which leaves
4/9 and 25/81 of the error.

References:
    Nocedal, J. and Wright, S. (2006). Numerical Optimization: theorems 3.4 (gradient
    descent), 3.5 (Newton), 6.6 (BFGS) and 7.2 (inexact Newton).
    Nesterov, Y. and Polyak, B. (2006). Mathematical Programming 108:177 (cubic).
    Mishchenko, K. (2023). SIAM Journal on Optimization 33:1440 (regularised).
    Traub, J. (1964). Iterative Methods for the Solution of Equations, 5.1 (third order).
    Decker, D. and Kelley, C. (1980). SIAM Journal on Numerical Analysis 17:66 (singular).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

# The order that is proven for a positive definite Hessian; "≥" where the forcing sequence or
# the adapted weight can only make it better, ">" for superlinear.
THEORY = {
    "gd": "1",
    "bfgs": "> 1",
    "newton_cg": "≥ 1.5",
    "regularized_newton": "1.5",
    "cubic_newton": "2",
    "pure_newton": "2",
    "newton": "3",
}
QUICK_METHODS = ("gd", "pure_newton", "newton")
REGULAR, LARGER, SINGULAR = "Rosenbrock, n = 2", "Rosenbrock, n = 10", "Powell singular"
# What a step leaves of the error there: of x in the gradient x**3, x - x/3, and that - x/9.
SINGULAR_RATES = {"pure_newton": (2 / 3) ** 2, "newton": (5 / 9) ** 2}
# Starts about the minimiser, in random directions, this far away relative to its length (or
# to 1).
NUM_STARTS, QUICK_STARTS, DISTANCE = 12, 8, 0.1
# Fitted are steps from this share of the error at the start on: nearer than that the third
# derivatives, which turn the orders into rates, are small beside the second.
WITHIN = 0.03
# Gradient descent's 1,000 steps show its rate; all others end long before.
MAX_STEPS = 1000
# Rounding of the point leaves an error of eps times its length times the root of the largest
# curvature; below ten times that it shows.
FLOOR = 10.0
# In the singular case the smallest eigenvalues, which vary as the error, have lost their
# digits to the rounding of the Hessian below this.
SINGULAR_FLOOR = 1e-7


class Case(NamedTuple):
    """A problem, and where the theory of its minimum holds.

    Attributes:
        problem: The problem, with its minimiser.
        learning_rate: One over the largest curvature there.
        floor: Error below which rounding decides.
    """

    problem: gl.Problem
    learning_rate: float
    floor: float


def cases(*, quick: bool = False) -> dict[str, Case]:
    """Return the problems by the name they have in table and figure."""
    chosen = {REGULAR: gl.problems.get("rosenbrock")}
    if not quick:
        chosen[LARGER] = gl.problems.get("rosenbrock", n=10)
        chosen[SINGULAR] = gl.problems.get("powell_singular")
    return {name: _case(problem) for name, problem in chosen.items()}


def _case(problem: gl.Problem) -> Case:
    """Measure the largest curvature at the minimiser of a problem."""
    import jax.numpy as jnp

    point = jnp.asarray(problem.minimizer)
    curvature = float(np.linalg.norm(np.asarray(gl.hessian(problem.loss)(point)), 2))
    size = float(jnp.linalg.norm(point))
    floor = FLOOR * float(jnp.finfo(point.dtype).eps) * size * math.sqrt(curvature / 2)
    return Case(problem, 1 / curvature, floor or SINGULAR_FLOOR)


def measure(
    *, methods: Sequence[str] = tuple(THEORY), quick: bool = False, seed: int = 0
) -> list[dict[str, Any]]:
    """Run every method from several starts near each minimiser, and fit the orders.

    Args:
        methods: Names of methods.
        quick: Whether to take one problem and fewer starts.
        seed: Seed of the starts.

    Returns:
        Rows with the problem, the method and its order, a `gradlab.compare.Order`.
    """
    from gradlab.compare import convergence_order

    rows = []
    for name, case in cases(quick=quick).items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        # The gradient test is switched off: a run ends where rounding hides all progress.
        comparison = gl.compare(
            case.problem,
            {m: _method(m, case) for m in methods},
            starts=_starts(case.problem, QUICK_STARTS if quick else NUM_STARTS, seed),
            max_steps=MAX_STEPS,
            gtol=0.0,
        )
        for method in methods:
            found = comparison.select(method=method).runs
            errors = [np.sqrt(np.asarray(r.trace.loss, float)) for r in found if r.trace]
            within = WITHIN * float(np.median([error[0] for error in errors]))
            order = convergence_order(errors, floor=case.floor, within=within)
            rows.append({"problem": name, "method": method, "order": order})
    return rows


def _method(name: str, case: Case) -> gl.Method:
    """Build a method; gradient descent with one over the largest curvature as its rate."""
    return gl.make(name, learning_rate=case.learning_rate) if name == "gd" else gl.make(name)


def _starts(problem: gl.Problem, count: int, seed: int) -> list[Any]:
    """Draw points at a distance of `DISTANCE` from the minimiser, in random directions."""
    import jax.numpy as jnp

    point = np.asarray(problem.minimizer, dtype=float)
    ways = np.random.default_rng(seed).standard_normal((count, point.size))
    ways *= DISTANCE * (np.linalg.norm(point) or 1.0) / np.linalg.norm(ways, axis=1)[:, None]
    return [jnp.asarray(point + way) for way in ways]


def gain(row: dict[str, Any]) -> float:
    """Return the median of e(k + 1) / e(k): what a step leaves of the error."""
    pairs = row["order"].pairs
    return float(np.median(pairs[:, 1] / pairs[:, 0])) if len(pairs) else math.nan


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the fitted orders beside those of theory."""
    from gradlab.compare import Table

    shown = tuple(
        {
            "problem": row["problem"],
            "method": row["method"],
            "slope": row["order"].order,
            "theory": _theory(row),
            "steps": len(row["order"].pairs),
            "gain": gain(row),
        }
        for row in rows
    )
    formats = {
        "problem": ("problem", ""),
        "method": ("method", ""),
        "slope": ("fitted slope", ".2f"),
        "theory": ("theory", ""),
        "steps": ("steps fitted", "d"),
        "gain": ("error left by a step", ".3g"),
    }
    return Table(shown, formats)


def _theory(row: dict[str, Any]) -> str:
    """Return the proven order, where there is one."""
    if row["problem"] != SINGULAR:
        return THEORY[row["method"]]
    rate = SINGULAR_RATES.get(row["method"])
    return "none" if rate is None else f"1, leaves {rate:.3f}"


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say which methods double their digits, and where none does."""
    regular = [row for row in rows if row["problem"] != SINGULAR]
    told = []
    for method in dict.fromkeys(row["method"] for row in regular):
        slopes = [f"{row['order'].order:.2f}" for row in regular if row["method"] == method]
        told.append(f"{method} {' and '.join(slopes)} (theory {THEORY[method]})")
    text = f"Slopes where the Hessian is positive definite: {', '.join(told)}."
    for row in rows:
        if row["problem"] == SINGULAR and row["method"] in SINGULAR_RATES:
            text += (
                f" At Powell's singular minimum {row['method']} has slope "
                f"{row['order'].order:.2f} and leaves {gain(row):.3f} of the error a step "
                f"(theory {SINGULAR_RATES[row['method']]:.3f})."
            )
    return text


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw error after against error before a step, one panel a problem.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["problem"] for row in rows))
    figure, axes = plt.subplots(
        1, len(names), figsize=(6.2 * len(names), 4.4), layout="constrained", squeeze=False
    )
    for name, ax in zip(names, axes.flat, strict=True):
        orders = {row["method"]: row["order"] for row in rows if row["problem"] == name}
        gl.plots.plot_convergence_order(orders, ax=ax)
        ax.set_title(name, loc="left", fontsize=10.5)
    return {"convergence-order": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        methods = QUICK_METHODS if options.quick else tuple(THEORY)
        rows = measure(methods=methods, quick=options.quick, seed=options.seed)
        shown = table(rows)
        shown.to_csv(run.path("orders.csv"))
        print(run.report(shown, answer(rows)))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
