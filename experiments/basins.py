"""Which minimum does each method reach, from every start of a grid?

Each method runs from a grid of starts on functions of two variables with several minima, all
starts in one compiled call. Gradient descent with a small step follows the path of steepest
descent, so it tells which minimum a start belongs to. Methods that lower the loss with every
step mostly agree with it. Newton's method without a safeguard does not: it solves for a zero
of the gradient, is drawn to saddles and maxima as well, and its basins have fractal borders.

References:
    Cayley, A. (1879). American Journal of Mathematics 2:97 (basins of Newton's method).
    Peitgen, H.-O. and Richter, P. (1986). The Beauty of Fractals (their borders).
    Nocedal, J. and Wright, S. (2006). Numerical Optimization, section 3.3: Newton's step
    descends only where the Hessian is positive definite.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

STEEPEST = "gd"
METHODS = (STEEPEST, "bfgs", "newton", "pure_newton")
PROBLEMS = ("himmelblau", "styblinski_tang", "rastrigin")
# Most of the time goes into compiling, once a problem and method.
QUICK_METHODS, QUICK_PROBLEMS = (STEEPEST, "pure_newton"), ("himmelblau",)
RESOLUTION, QUICK_RESOLUTION = 121, 61
# Steps enough for steepest descent; what has not ended then is drawn as having reached none.
MAX_STEPS = 500
_ELSEWHERE = "it ended at a saddle or a maximum, or was still on its way"
# Where the paths start that are drawn: off all symmetries, near the border of two basins, and
# where the Hessian is indefinite, relative to the half-width of the window.
PATHS = ((-0.1, 0.55), (0.2, -0.25), (0.9, 0.2))


def measure(
    *,
    names: Sequence[str] = PROBLEMS,
    methods: Sequence[str] = METHODS,
    resolution: int = RESOLUTION,
) -> list[Any]:
    """Run every method from a grid over the window of each problem.

    Args:
        names: Problems of two variables with a window.
        methods: Names of methods.
        resolution: Starts along each side of the grid.

    Returns:
        A `gradlab.compare.Multistart` for each problem.
    """
    from gradlab.compare import grid, multistart

    found = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        problem = gl.problems.get(name)
        starts = grid(problem.plot_box, resolution)
        chosen = made(methods, problem)
        found.append(multistart(problem, chosen, starts, max_steps=MAX_STEPS))
    return found


def made(methods: Sequence[str], problem: gl.Problem) -> dict[str, gl.Method]:
    """Build the methods; steepest descent with a step no curvature in the window exceeds."""
    import jax
    import jax.numpy as jnp

    from gradlab.compare import grid

    points = jnp.asarray(grid(problem.plot_box, 41))  # curvature varies slowly: few points do
    curvatures = jnp.linalg.eigvalsh(jax.vmap(gl.hessian(problem.loss))(points))
    rate = 1 / float(jnp.max(jnp.abs(curvatures)))
    return {m: gl.make(m, learning_rate=rate) if m == STEEPEST else gl.make(m) for m in methods}


def paths(name: str, methods: Sequence[str]) -> gl.Comparison:
    """Run every method from a few starts, with every iterate kept."""
    import jax.numpy as jnp

    problem = gl.problems.get(name)
    low, high = np.asarray(problem.plot_box).T
    starts = [jnp.asarray((low + high + (high - low) * np.asarray(p)) / 2) for p in PATHS]
    settings: dict[str, Any] = {"max_steps": MAX_STEPS, "trace": "params"}
    return gl.compare(problem, made(methods, problem), starts=starts, **settings)


def table(found: Sequence[Any]) -> Any:
    """Return one row a problem and method: shares of the starts, steps and cost."""
    from gradlab.compare import Table

    rows = tuple(
        row | {"problem": one.problem, "minima": len(one.minima), "same": agreement(one, m)}
        for one in found
        for m, row in zip(one.endings, one.table, strict=True)
    )
    formats = {
        "problem": ("problem", ""),
        "minima": ("minima found", "d"),
        "method": ("method", ""),
        "any": ("reached one", ".1%"),
        "deepest": ("the deepest", ".1%"),
        "same": ("that of gd", ".1%"),
        "steps": ("median steps", ".0f"),
        "cost": ("mean cost", ".1f"),
    }
    return Table(rows, formats)


def agreement(found: Any, method: str) -> float:
    """Return the share of starts from which a method reached what steepest descent did."""
    theirs, ours = found.endings[STEEPEST].reached, found.endings[method].reached
    return float(np.mean((theirs == ours) & (ours >= 0)))


def answer(found: Sequence[Any]) -> str:
    """Say how often each method ended where steepest descent does."""
    told = []
    for one in found:
        others = [m for m in one.endings if m != STEEPEST]
        parts = [f"{m} from {agreement(one, m):.0%}" for m in others]
        told.append(f"{one.problem}: {', '.join(parts)}")
    text = f"The same minimum as steepest descent was reached on {'; on '.join(told)}."
    lost = [
        f"{np.mean(one.endings['pure_newton'].reached < 0):.0%} of the starts on {one.problem}"
        for one in found
        if "pure_newton" in one.endings
    ]
    ends = ", ".join(lost)
    return text + (
        f" pure_newton reached no minimum from {ends}: {_ELSEWHERE}." if lost else ""
    )


def draw(found: Sequence[Any], compared: gl.Comparison | None = None) -> Mapping[str, Any]:
    """Draw the basins, one row a problem, and the paths over the contours.

    Returns:
        Figures by the name of their file.
    """
    import matplotlib.pyplot as plt

    columns = len(found[0].endings)
    figure, axes = plt.subplots(
        len(found),
        columns,
        figsize=(4.4 * columns, 3.9 * len(found)),
        layout="constrained",
        squeeze=False,
    )
    for one, row in zip(found, axes, strict=True):
        for method, ax in zip(one.endings, row, strict=True):
            gl.plots.plot_basins(one, method, ax=ax)
    figure.suptitle(
        "colour: the minimum reached (stars)   darker: more steps   dark grey: none",
        fontsize=10.5,
        x=0.01,
        ha="left",
    )
    figures = {"basins": figure}
    if compared is not None:
        problem = gl.problems.get(compared.problems[0])
        figures["paths"] = gl.plot_trajectories(compared, problem).figure
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        methods = QUICK_METHODS if options.quick else METHODS
        names = QUICK_PROBLEMS if options.quick else PROBLEMS
        resolution = QUICK_RESOLUTION if options.quick else RESOLUTION
        found = measure(names=names, methods=methods, resolution=resolution)
        shown = table(found)
        shown.to_csv(run.path("basins.csv"))
        print(run.report(shown, answer(found)))
        run.save_figures(draw(found, paths(names[0], methods)))


if __name__ == "__main__":
    runs.console(main)
