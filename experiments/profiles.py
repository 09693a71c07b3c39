"""Which method solves most of the classical test problems, and within what budget?

The 35 problems of Moré, Garbow and Hillstrom, each from its standard start. A performance
profile shows the share of problems that a method solves at no more than a factor times the
cost of the method that was best there; a data profile, the share that it solves within a
budget. Solved means that the loss has made all but 1e-7 of the decrease to the least loss any
method found; a run to a worse minimum counts as not solved. Cost is counted in gradients.

References:
    Moré, J., Garbow, B. and Hillstrom, K. (1981). Testing unconstrained optimization
    software. ACM Transactions on Mathematical Software 7:17.
    Dolan, E. and Moré, J. (2002). Mathematical Programming 91:201 (performance profiles).
    Moré, J. and Wild, S. (2009). SIAM Journal on Optimization 20:172 (data profiles).
    Gould, N. and Scott, J. (2016). A note on performance profiles. ACM Transactions on
    Mathematical Software 43:15 (why they are to be read in pairs).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gradlab as gl
from gradlab import runs

METHODS = ("bfgs", "newton_cg", "newton")
# Nearly all the time goes into compiling, once a problem and method.
QUICK_METHODS, QUICK_PROBLEMS = ("bfgs", "newton"), ("rosenbrock", "beale", "box_3d")
# The second is what statistics asks for, the first what Moré and Wild call high accuracy.
TOLERANCES = (1e-7, 1e-3)
MAX_STEPS = 500
# Compiling leaves the interpreter free, so that two problems at a time take half as long.
WORKERS = 2


def problems(*, quick: bool = False) -> tuple[str, ...]:
    """Return the names of the problems."""
    return QUICK_PROBLEMS if quick else tuple(gl.problems.names(tag="mgh"))


def measure(*, names: Sequence[str], methods: Sequence[str] = METHODS) -> gl.Comparison:
    """Run every method on every problem.

    Args:
        names: Problems.
        methods: Names of methods.

    Returns:
        The joined comparison.
    """
    import jax

    wide = bool(jax.config.jax_enable_x64)

    def one(name: str) -> gl.Comparison:
        with jax.enable_x64(wide):  # the setting belongs to a thread
            print(f"{name} ...", file=sys.stderr, flush=True)
            return gl.compare(gl.problems.get(name), methods, max_steps=MAX_STEPS)

    with _compiled_quickly(), ThreadPoolExecutor(WORKERS) as pool:
        return gl.Comparison.merge(list(pool.map(one, names)))


@contextlib.contextmanager
def _compiled_quickly() -> Iterator[None]:
    """Compile with fewer optimisations: a run of a few variables takes less than that does."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def table(comparison: gl.Comparison) -> Any:
    """Return one row a method: shares of problems solved, and at what price."""
    from gradlab.compare import Table

    strict, loose = (comparison.profile(tolerance) for tolerance in TOLERANCES)
    shown = tuple(
        {
            "method": method,
            "solved": _solved(strict, method),
            "loosely": _solved(loose, method),
            "best": strict.share(method, 1.0),
            "twice": strict.share(method, 2.0),
            "budget": _median_budget(strict, method),
            "converged": sum(r.success for r in comparison.select(method=method).runs),
        }
        for method in strict.methods
    )
    formats = {
        "method": ("method", ""),
        "solved": (f"solved to {TOLERANCES[0]:g}", ".0%"),
        "loosely": (f"to {TOLERANCES[1]:g}", ".0%"),
        "best": ("cheapest", ".0%"),
        "twice": ("within 2× of it", ".0%"),
        "budget": ("median budget / (n + 1) losses", ".0f"),
        "converged": ("stopped with success", "d"),
    }
    return Table(shown, formats)


def _solved(profile: Any, method: str) -> float:
    """Return the share of problems that a method solved at all."""
    return float(profile.curve(method)[1][-1])


def _median_budget(profile: Any, method: str) -> float | None:
    """Return the budget within which a method solves half of all problems, if it does."""
    budgets, shares = profile.data_curve(method)
    reached = [b for b, share in zip(budgets, shares, strict=True) if share >= 0.5]
    return float(reached[0]) if reached else None


def answer(comparison: gl.Comparison) -> str:
    """Say which method is cheapest most often, which solves most, and what none solved."""
    profile = comparison.profile(TOLERANCES[0])
    cheapest = max(profile.methods, key=lambda m: profile.share(m, 1.0))
    shares = ", ".join(f"{m} solves {_solved(profile, m):.0%}" for m in profile.methods)
    lost = {
        method: [
            problem[0] if isinstance(problem, tuple) else problem
            for problem, cost in zip(profile.problems, row, strict=True)
            if cost == float("inf")
        ]
        for method, row in zip(profile.methods, profile.costs, strict=True)
    }
    told = "; ".join(f"{m}: {', '.join(names)}" for m, names in lost.items() if names)
    return (
        f"Of {len(profile.problems)} problems {shares}; "
        f"{cheapest} is cheapest on {profile.share(cheapest, 1.0):.0%}, counted in gradients. "
        f"Not solved, or to a worse minimum than another method found: {told or 'none'}."
    )


def draw(comparison: gl.Comparison) -> Mapping[str, Any]:
    """Draw performance profiles above data profiles, one column a tolerance.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12.8, 7.6), layout="constrained")
    for tolerance, (above, below) in zip(TOLERANCES, axes.T, strict=True):
        profile = comparison.profile(tolerance)
        gl.plot_performance_profile(profile, ax=above)
        gl.plots.plot_data_profile(profile, ax=below)
    return {"profiles": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        methods = QUICK_METHODS if options.quick else METHODS
        comparison = measure(names=problems(quick=options.quick), methods=methods)
        run.save(comparison)
        comparison.table.to_csv(run.path("runs.csv"))
        print(run.report(table(comparison), answer(comparison)))
        run.save_figures(draw(comparison))


if __name__ == "__main__":
    runs.console(main)
