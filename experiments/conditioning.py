"""How many more steps does each method take when the problem is badly scaled?

A bowl and pairs of Rosenbrock's valley are seen through a linear map: loss(x) = base(A x),
where A gives the Hessian of the bowl the condition number kappa. The start is moved with
it, so that in the variables y = A x nothing changes, and a method that is affine invariant
takes the same steps whatever kappa is. Newton's step is; every safeguard that measures
lengths in x is not; gradient descent takes about kappa ln(1 / tolerance) / 2 steps on the
bowl. Once kappa exceeds 1 / eps the rounding of the Hessian is as large as its smallest
eigenvalue, and nothing helps: that is 8e6 in float32 and 5e15 in float64.

References:
    Deuflhard, P. (2004). Newton Methods for Nonlinear Problems: Affine Invariance and
    Adaptive Algorithms, section 1.1.
    Boyd, S. and Vandenberghe, L. (2004). Convex Optimization, sections 9.3 and 9.5.
    Tisseur, F. (2001). Newton's method in floating point arithmetic. SIAM Journal on Matrix
    Analysis and Applications 22:1038.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

BOWL, VALLEY = "bowl", "Rosenbrock's valleys"
THEORY = {
    "gd": "steps ∝ κ",
    "bfgs": "not invariant",
    "newton_cg": "not invariant",
    "damped_newton": "invariant below κ = 1/√eps",
    "newton": "invariant until a step fails",
    "pure_newton": "invariant",
}
QUICK_METHODS = ("gd", "bfgs", "newton", "pure_newton")
CONDITIONS = tuple(10.0**k for k in range(0, 13, 2))
QUICK_CONDITIONS = (1.0, 1e4, 1e8, 1e12)
NUM_PARAMS = 6  # an even number: the valleys are of two variables each
# Solved once the loss is this share of that at the start; the minimum of both is 0.
TOLERANCE = 1e-6
MAX_STEPS = 1000


def bases() -> dict[str, tuple[Callable[[Any], Any], np.ndarray]]:
    """Return the losses in the variables y, and where they start."""
    import jax.numpy as jnp

    def bowl(y: Any) -> Any:
        return jnp.sum(y**2) / 2

    def valleys(y: Any) -> Any:
        return jnp.sum(100 * (y[1::2] - y[::2] ** 2) ** 2 + (1 - y[::2]) ** 2)

    start = np.tile([-1.2, 1.0], NUM_PARAMS // 2)
    return {BOWL: (bowl, np.ones(NUM_PARAMS)), VALLEY: (valleys, start)}


def linear_map(condition: float, seed: int = 0) -> np.ndarray:
    """Return A: a random rotation, then scales from 1 / sqrt(condition) to 1."""
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.standard_normal((NUM_PARAMS, NUM_PARAMS)))[0]
    return np.geomspace(condition**-0.5, 1.0, NUM_PARAMS)[:, None] * rotation


def measure(
    *,
    methods: Sequence[str] = tuple(THEORY),
    names: Sequence[str] = (BOWL, VALLEY),
    dtypes: Sequence[str] = ("float64", "float32"),
    conditions: Sequence[float] = CONDITIONS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Count the steps of every method on every problem, condition number and precision.

    Returns:
        Rows with the problem, dtype, method, condition, steps (NaN where not solved), cost
        and the status in which the run ended.
    """
    rows = []
    for name, dtype in ((name, dtype) for dtype in dtypes for name in names):
        print(f"{name}, {dtype} ...", file=sys.stderr, flush=True)
        base, start = bases()[name]
        loss = _seen_through(base)
        for method in methods:
            for condition in conditions:
                matrix = linear_map(condition, seed)
                row = {"problem": name, "dtype": dtype, "method": method, "kappa": condition}
                rows.append(row | _run(loss, matrix, start, method, dtype))
    return rows


def _seen_through(base: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Build loss(x, A) = base(A x): one function for all A, so that it compiles once."""

    def loss(x: Any, matrix: Any) -> Any:
        return base(matrix @ x)

    return loss


def _run(
    loss: Any, matrix: np.ndarray, start: np.ndarray, method: str, dtype: str
) -> dict[str, Any]:
    """Minimise once; gradient descent with one over the largest curvature at the start."""
    import jax.numpy as jnp

    args = (jnp.asarray(matrix, dtype),)
    x0 = jnp.asarray(np.linalg.solve(matrix, start), dtype)
    chosen = gl.make(method)
    if chosen.takes_learning_rate:
        curvature = float(jnp.linalg.norm(gl.hessian(loss)(x0, *args), 2))
        chosen = gl.make(method, learning_rate=1 / curvature)
    # The gradient test is off: it is relative to the first gradient, which the map changes.
    settings: dict[str, Any] = {"max_steps": MAX_STEPS, "gtol": 0.0}
    (run,) = gl.compare(loss, chosen, starts=x0, args=args, **settings).runs
    assert run.trace is not None
    losses = np.asarray(run.trace.loss, dtype=float)
    reached = np.flatnonzero(losses <= TOLERANCE * losses[0])
    if not reached.size:
        return {"steps": math.nan, "cost": math.nan, "status": run.status}
    cost = float(run.trace.cost[reached[0]])
    return {"steps": float(reached[0]), "cost": cost, "status": run.status}


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return one row a problem, precision and method, one column a condition number."""
    from gradlab.compare import Table

    shown: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["problem"], row["dtype"], row["method"])
        entry = dict(zip(("problem", "dtype", "method"), key, strict=True))
        entry = shown.setdefault(key, entry | {"theory": THEORY.get(row["method"], "")})
        entry[f"{row['kappa']:.0e}"] = None if math.isnan(row["steps"]) else row["steps"]
    columns = {f"{row['kappa']:.0e}": None for row in rows}
    formats = {name: (name, "") for name in ("problem", "dtype", "method")}
    formats |= {name: (f"κ={name}", ".0f") for name in columns}
    return Table(tuple(shown.values()), formats | {"theory": ("theory", "")})


def spread(rows: Sequence[dict[str, Any]], method: str, dtype: str) -> float:
    """Return the most over the fewest steps of a method, or infinity where it failed once.

    Only condition numbers count that are below 1 / eps, where rounding leaves a Hessian.
    """
    limit = 1 / float(np.finfo(dtype).eps)
    ratios = [1.0]
    for problem in dict.fromkeys(row["problem"] for row in rows):
        steps = [
            row["steps"]
            for row in rows
            if (row["problem"], row["method"], row["dtype"]) == (problem, method, dtype)
            if row["kappa"] < limit
        ]
        ratios.append(math.inf if np.any(np.isnan(steps)) else max(steps) / min(steps))
    return max(ratios)


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say by what factor the steps of each method grow, in each precision."""
    told = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        methods = dict.fromkeys(row["method"] for row in rows)
        factors = {method: spread(rows, method, dtype) for method in methods}
        parts = [
            f"{method} {'fails' if math.isinf(factor) else f'{factor:.2g}'}"
            for method, factor in sorted(factors.items(), key=lambda item: item[1])
        ]
        limit = 1 / float(np.finfo(dtype).eps)
        top = max((r["kappa"] for r in rows if r["kappa"] < limit), default=1.0)
        told.append(f"In {dtype}, up to κ = {top:.0e}, steps grow by {', '.join(parts)}.")
    return " ".join(told) + f" (fails: not solved in {MAX_STEPS} steps for some κ.)"


def draw(rows: Sequence[dict[str, Any]]) -> Mapping[str, Any]:
    """Draw steps against the condition number, one panel a problem and precision.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    names, dtypes = (list(dict.fromkeys(r[key] for r in rows)) for key in ("problem", "dtype"))
    figure, axes = plt.subplots(
        len(names),
        len(dtypes),
        figsize=(6.6 * len(dtypes), 4.0 * len(names)),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for name, line in zip(names, axes, strict=True):
        for dtype, ax in zip(dtypes, line, strict=True):
            here = [r for r in rows if (r["problem"], r["dtype"]) == (name, dtype)]
            _panel(here, ax)
            ax.set_title(f"{name}, {dtype}", loc="left", fontsize=10.5)
    note = "dashed: κ ln(1 / tolerance) / 2   a line ends where its method no longer arrives"
    figure.suptitle(note, fontsize=10, x=0.01, ha="left")
    return {"conditioning": figure}


def _panel(rows: Sequence[dict[str, Any]], ax: Any) -> None:
    """Draw one panel; a line ends where its method no longer arrives."""
    lines = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        pairs = [(r["kappa"], r["steps"]) for r in rows if r["method"] == method]
        lines[method] = tuple(np.asarray(side) for side in zip(*pairs, strict=True))
    predicted = {}
    if rows[0]["problem"] == BOWL:  # the share (1 − 1/κ)² of the loss is left by a step
        most = 2 * MAX_STEPS / math.log(1 / TOLERANCE)
        kappas = np.geomspace(10, most)
        predicted["gd"] = (kappas, kappas * math.log(1 / TOLERANCE) / 2)
    limit = 1 / float(np.finfo(rows[0]["dtype"]).eps)
    if limit < max(row["kappa"] for row in rows):
        ax.axvline(limit, color="#6b6b6b", linewidth=1.0, linestyle=":", zorder=1)
        ax.annotate("1 / eps", (limit, 0.7), fontsize=8, color="#6b6b6b", ha="right")
    ax.set_ylim(0.6, 1.5 * MAX_STEPS)
    gl.plots.plot_errors(
        lines,
        counted=predicted,
        x_label="condition number κ",
        y_label=f"steps to {TOLERANCE:g} of the loss at the start",
        ax=ax,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        from gradlab.compare import Table

        dtypes = ("float64", "float32") if options.dtype == "float64" else ("float32",)
        settings: dict[str, Any] = {"dtypes": dtypes, "seed": options.seed}
        if options.quick:
            settings |= {"methods": QUICK_METHODS, "conditions": QUICK_CONDITIONS}
            settings |= {"names": (BOWL,), "dtypes": dtypes[:1]}
        rows = measure(**settings)
        print(run.report(table(rows), answer(rows), results=rows))
        Table(tuple(rows), {}).to_csv(run.path("steps.csv"))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
