"""How many starts does each method need to find the deepest of many minima?

Runs from 1,000 random starts, all in one compiled call a method, are sorted by the minimum
they end in. With the share p of starts that reach the deepest and the mean cost c of a run,
independent restarts have found it with probability 1 - (1 - p)**(C / c) after a total cost of
C gradients. The losses are sums over coordinates, so that steepest descent reaches the
deepest minimum from a known share of the box: in every coordinate the start must lie between
the two maxima that flank it. Methods with long steps find it more or less often than that.

References:
    Rinnooy Kan, A. and Timmer, G. (1987). Stochastic global optimization methods. Part I.
    Mathematical Programming 39:27.
    Wilson, E. (1927). Journal of the American Statistical Association 22:209 (the interval).
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

STEEPEST = "gd"
METHODS = (STEEPEST, "bfgs", "newton_cg", "newton")
QUICK_METHODS = (STEEPEST, "newton")
# Name, number of variables, and half the side of the cube of starts.
PROBLEMS = (("rastrigin", 2, 5.12), ("styblinski_tang", 4, 5.0))
NUM_STARTS, QUICK_STARTS = 1000, 300
MAX_STEPS = 500
CONFIDENCE = 0.99  # of having found the deepest minimum, for the total cost in the table
TWO_SIGMA = 1.96  # of the interval of the shares, 95 %


def measure(
    *,
    names: Sequence[tuple[str, int, float]] = PROBLEMS,
    methods: Sequence[str] = METHODS,
    num_starts: int = NUM_STARTS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Run every method from the same random starts on every problem.

    Returns:
        Rows with the problem, method, share of starts that reached the deepest minimum, its
        95 % interval, the share that theory gives to steepest descent, the share that
        reached any minimum, median steps, mean cost, and the total cost of restarts that
        find the deepest with probability 0.99.
    """
    import jax

    from gradlab.compare import multistart

    rows = []
    for name, n, half in names:
        print(f"{name}, n = {n} ...", file=sys.stderr, flush=True)
        problem = gl.problems.get(name, n=n)
        problem = dataclasses.replace(problem, name=f"{name}, n = {n}")
        starts = jax.vmap(problem.init)(jax.random.split(jax.random.key(seed), num_starts))
        found = multistart(
            problem, _made(methods, problem, starts), starts, max_steps=MAX_STEPS
        )
        deepest = np.isclose(found.depths[0], problem.minimum, rtol=1e-5, atol=1e-5)
        for row in found.table:
            share = row["deepest"] if deepest else 0.0
            low, high = interval(share, num_starts)
            told = {"deepest": share, "low": low, "high": high, "minima": len(found.minima)}
            told["theory"] = basin_share(name, half) ** n if row["method"] == STEEPEST else None
            rows.append(row | told | {"total": total_cost(share, row["cost"])})
    return rows


def _made(methods: Sequence[str], problem: gl.Problem, starts: Any) -> dict[str, gl.Method]:
    """Build the methods; steepest descent with one over the largest curvature at the starts."""
    import jax
    import jax.numpy as jnp

    curvatures = jnp.linalg.eigvalsh(jax.vmap(gl.hessian(problem.loss))(starts))
    rate = 1 / float(jnp.max(jnp.abs(curvatures)))
    return {m: gl.make(m, learning_rate=rate) if m == STEEPEST else gl.make(m) for m in methods}


def basin_share(name: str, half: float) -> float:
    """Return the share of [-half, half] between the maxima that flank the deepest minimum."""
    import jax
    import jax.numpy as jnp

    problem = gl.problems.get(name, n=1)
    # Fine enough for four digits of the share.
    x = np.linspace(-half, half, 200_001)
    f = np.asarray(jax.vmap(problem.loss)(jnp.asarray(x)[:, None]), dtype=float)
    inner = np.flatnonzero((f[1:-1] > f[:-2]) & (f[1:-1] >= f[2:])) + 1
    edges = np.concatenate([[-half], x[inner], [half]])
    point = float(np.asarray(problem.minimizer)[0])
    place = int(np.searchsorted(edges, point))
    return float(edges[place] - edges[place - 1]) / (2 * half)


def interval(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share that was found in `count` trials."""
    z2 = TWO_SIGMA**2 / count
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def total_cost(share: float, cost: float) -> float:
    """Return the cost of restarts that reach the deepest minimum with `CONFIDENCE`."""
    if share <= 0:
        return math.inf
    restarts = math.log(1 - CONFIDENCE) / math.log1p(-share) if share < 1 else 1.0
    return max(1.0, restarts) * cost


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return one row a problem and method."""
    from gradlab.compare import Table

    formats = {
        "problem": ("problem", ""),
        "minima": ("minima", "d"),
        "method": ("method", ""),
        "deepest": ("found the deepest", ".1%"),
        "low": ("from", ".1%"),
        "high": ("to", ".1%"),
        "theory": ("theory", ".1%"),
        "any": ("any minimum", ".0%"),
        "steps": ("median steps", ".0f"),
        "cost": ("mean cost", ".1f"),
        "total": (f"total cost for {CONFIDENCE:.0%}", ".0f"),
    }
    return Table(tuple(rows), formats)


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say on each problem which method finds the deepest minimum most cheaply."""
    told = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        here = [row for row in rows if row["problem"] == problem]
        cheapest = min(here, key=lambda row: row["total"])
        most = max(row["deepest"] for row in here)
        luckiest = [row["method"] for row in here if row["deepest"] == most]
        finds = "finds" if len(luckiest) == 1 else "find"
        told.append(
            f"On {problem}, restarts of {cheapest['method']} find the deepest minimum with a "
            f"chance of {CONFIDENCE:.0%} at the least cost, {cheapest['total']:.0f} gradients; "
            f"{' and '.join(luckiest)} {finds} it from most starts, {most:.1%}."
        )
    return " ".join(told)


def draw(rows: Sequence[dict[str, Any]]) -> Mapping[str, Any]:
    """Draw the chance of having found the deepest minimum against the total cost.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["problem"] for row in rows))
    figure, axes = plt.subplots(
        1, len(names), figsize=(6.4 * len(names), 4.2), layout="constrained", squeeze=False
    )
    for name, ax in zip(names, axes.flat, strict=True):
        here = [row for row in rows if row["problem"] == name]
        lines = {}
        for row in here:  # a line ends where the chance is `CONFIDENCE`
            end = row["total"] if math.isfinite(row["total"]) else 100 * row["cost"]
            costs = np.geomspace(row["cost"], max(end, 2 * row["cost"]))
            chances = 1 - (1 - row["deepest"]) ** (costs / row["cost"])
            lines[row["method"]] = (costs, chances)
        gl.plots.plot_errors(
            lines,
            x_label="total cost of restarts / gradients",
            y_label="chance to have found the deepest minimum",
            log="x",
            ax=ax,
        )
        ax.set_ylim(-0.02, 1.04)
        ax.set_title(name, loc="left", fontsize=10.5)
    return {"multistart": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        settings: dict[str, Any] = {"seed": options.seed}
        if options.quick:
            settings |= {"methods": QUICK_METHODS, "names": PROBLEMS[1:]}
            settings["num_starts"] = QUICK_STARTS
        rows = measure(**settings)
        shown = table(rows)
        shown.to_csv(run.path("shares.csv"))
        print(run.report(shown, answer(rows)))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
