"""Which method reaches the minimum first: counted in steps, in work, and in seconds?

Seven methods minimise logistic regression on the breast cancer data, softmax regression on
handwritten digits, and Rosenbrock's valley in 2 and in 10 dimensions, each from one start.
First-order methods get the learning rate that a short sweep finds best. Three of the methods
run again with the gradient taken by forward and by central differences, which shows what
exact derivatives are worth.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Sequence
from typing import Any

import gradlab as gl
from gradlab import runs

FIRST_ORDER = ("gd", "momentum", "rmsprop", "adam")
METHODS = (*FIRST_ORDER, "optax_lbfgs", "newton", "newton_cg")
DIFFERENCED = ("gd", "optax_lbfgs", "newton")
MEASURES = ("steps", "cost", "time")
# Solved means that a millionth of the possible decrease is left: further than a statistical
# loss needs, and not so far that rounding decides.
TOLERANCE = 1e-6
VALLEY = "Rosenbrock, n = 2"
# Most of the time goes into compiling, once a problem, method and derivative. So `--quick`
# keeps one first-order method, and takes differences on the smallest problem alone.
QUICK_METHODS = ("adam", "optax_lbfgs", "newton", "newton_cg")
# Steps that let a slow method show its rate, and keep the whole under three minutes.
STEPS, QUICK_STEPS = 1000, 150


def problems() -> dict[str, gl.Problem]:
    """Return the four problems by the name they have in table and figures."""
    chosen = {
        "logistic regression": gl.problems.get("logistic"),
        "softmax regression": gl.problems.get("softmax"),
        VALLEY: gl.problems.get("rosenbrock", n=2),
        "Rosenbrock, n = 10": gl.problems.get("rosenbrock", n=10),
    }
    return {name: dataclasses.replace(p, name=name) for name, p in chosen.items()}


def measure(*, quick: bool = False, seed: int = 0) -> gl.Comparison:
    """Run every method on every problem, three of them with differences as well.

    Args:
        quick: Whether to leave out what takes long to compile, and take fewer steps.
        seed: Seed of the starts, where a problem draws one.

    Returns:
        The joined comparison.
    """
    methods, steps = (QUICK_METHODS, QUICK_STEPS) if quick else (METHODS, STEPS)
    # The textbook formulas: n + 1 losses for a gradient by forward differences, 2n by central.
    differences = {
        "forward": functools.partial(gl.finite.grad, scheme="forward", accuracy=1),
        "central": functools.partial(gl.finite.grad, scheme="central", accuracy=2),
    }
    parts = []
    for name, problem in problems().items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        settings: dict[str, Any] = {"seeds": (seed,), "max_steps": steps}
        settings["trace"] = "params" if name == VALLEY else "scalars"
        exact = gl.compare(problem, methods, **settings)
        parts.append(exact)
        # A gradient of softmax regression's 650 parameters would take 651 losses or more.
        if name == VALLEY or not (quick or name == "softmax regression"):
            rates = {run.method: run.learning_rate for run in exact.runs}
            rated = {m: _with_rate(m, rates[m]) for m in DIFFERENCED if m in rates}
            parts.append(gl.compare(problem, rated, derivatives=differences, **settings))
    return gl.Comparison.merge(parts)


def _with_rate(name: str, rate: float | None) -> gl.Method:
    """Build a method with the learning rate already chosen, if it has one."""
    return gl.make(name) if rate is None else gl.make(name, learning_rate=rate)


def answer(comparison: gl.Comparison) -> str:
    """Say in a few sentences who won, who went elsewhere, and what differences cost."""
    exact = comparison.select(derivative="autodiff")
    winners = {
        m: [_first(exact.select(problem=p), m) for p in exact.problems] for m in MEASURES
    }
    told = "; ".join(
        f"counted in {'gradient equivalents' if m == 'cost' else m}, {_count(winners[m])}"
        for m in MEASURES
    )
    return (
        f"First to within {TOLERANCE:g} of the possible decrease on {len(exact.problems)} "
        f"problems: {told}.{_elsewhere(comparison)}{_differences(comparison)}"
    )


def _first(comparison: gl.Comparison, measure: str) -> str:
    """Name the method that was first to solve the one problem, or nobody."""
    prices = {run.method: _price(comparison, run, measure) for run in comparison.runs}
    winner = min(prices, key=lambda method: prices[method])
    return winner if prices[winner] < math.inf else "nobody"


def _price(comparison: gl.Comparison, run: Any, measure: str) -> float:
    """Return what a run had paid when it was first within the tolerance, or infinity."""
    if run.trace is None:  # it failed; the table says how
        return math.inf
    reached = (run.trace.loss <= _target(comparison, run)).nonzero()[0]
    paid = run.trace.seconds if measure == "time" else getattr(run.trace, measure)
    return float(paid[reached[0]]) if len(reached) else math.inf


def _target(comparison: gl.Comparison, run: Any) -> float:
    """Return the loss that leaves `TOLERANCE` of the possible decrease."""
    best = comparison.best_loss(run.problem)
    least = comparison.minima.get(run.problem, best)
    return float(least + TOLERANCE * (run.trace.loss[0] - least))


def _count(names: Sequence[str]) -> str:
    """Count names: `newton 3 times, optax_lbfgs once`."""
    times = {1: "once", 2: "twice"}
    counts = sorted(((names.count(n), n) for n in dict.fromkeys(names)), key=lambda c: -c[0])
    return ", ".join(f"{name} {times.get(k, f'{k} times')}" for k, name in counts)


def _elsewhere(comparison: gl.Comparison) -> str:
    """Name the runs that converged, but not to the minimum."""
    told = [
        f"{run.method} on {run.problem} (loss {run.loss:.3g})"
        for run in comparison.runs
        if run.success and run.derivative == "autodiff" and not _solved(comparison, run)
    ]
    return f" Converged to another stationary point: {', '.join(told)}." if told else ""


def _differences(comparison: gl.Comparison) -> str:
    """Say what a step by differences costs, and how often they kept a run from the target."""
    exact = {(r.problem, r.method): r for r in comparison.runs if r.derivative == "autodiff"}
    told = []
    for derivative in comparison.derivatives[1:]:
        runs = comparison.select(derivative=derivative).runs
        pairs = [(run, exact[run.problem, run.method]) for run in runs]
        pairs = [(a, b) for a, b in pairs if a.steps > 0 and b.steps > 0]
        if not pairs:
            continue
        ratios = [(a.cost / a.steps) / (b.cost / b.steps) for a, b in pairs]
        solved = [_solved(comparison, a) for a, b in pairs if _solved(comparison, b)]
        told.append(
            f" A step by {derivative} differences cost {min(ratios):.2g} to {max(ratios):.2g} "
            f"times one by exact derivatives, and {sum(solved)} of {len(solved)} runs arrived "
            "that did so with these."
        )
    return "".join(told)


def _solved(comparison: gl.Comparison, run: Any) -> bool:
    """Whether a run came within the tolerance of the minimum."""
    return _price(comparison, run, "steps") < math.inf


def draw(comparison: gl.Comparison) -> dict[str, Any]:
    """Draw gaps against each measure, the differences, and the paths in the valley.

    Returns:
        Figures by the name of their file.
    """
    exact = comparison.select(derivative="autodiff")
    figures = {f"gap-{measure}": _panels(exact, measure) for measure in MEASURES}
    several = [r.problem for r in comparison.runs if r.derivative != "autodiff"]
    if several:
        kept = tuple(
            r for r in comparison.runs if r.problem in several and r.method in DIFFERENCED
        )
        figures["differences"] = _panels(gl.Comparison(kept, comparison.minima), "cost")
    if VALLEY in comparison.problems:
        figures["trajectories"] = _paths(exact.select(problem=VALLEY))
    return figures


def _panels(comparison: gl.Comparison, measure: str) -> Any:
    """Draw one panel a problem."""
    import matplotlib.pyplot as plt

    names = comparison.problems
    columns = len(names) if len(names) < 4 else 2
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6.2 * columns, 4.0 * rows), layout="constrained", squeeze=False
    )
    gl.plot_convergence(comparison, x=measure, ax=axes)
    return figure


def _paths(comparison: gl.Comparison) -> Any:
    """Draw the paths of the first-order methods beside those of the others."""
    import matplotlib.pyplot as plt

    problem = problems()[VALLEY]
    figure, axes = plt.subplots(1, 2, figsize=(12.4, 4.6), layout="constrained")
    others = [m for m in comparison.methods if m not in FIRST_ORDER]
    for methods, ax in zip((FIRST_ORDER, others), axes, strict=True):
        # All runs, but only these with their history: so a method keeps its colour.
        shown = [
            run if run.method in methods else dataclasses.replace(run, trace=None)
            for run in comparison.runs
        ]
        gl.plot_trajectories(gl.Comparison(tuple(shown)), problem, ax=ax)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    options = runs.parser("convergence", __doc__).parse_args(argv)
    problems()  # a missing data package is told before a folder is made
    with runs.record(
        "convergence",
        root=options.out,
        dtype=options.dtype,
        seed=options.seed,
        script=__file__,
        options=options,
    ) as run:
        comparison = measure(quick=options.quick, seed=options.seed)
        run.summary["answer"] = answer(comparison)
        print(comparison.table)
        print(f"\n{run.summary['answer']}\n")
        run.save(comparison)
        run.save_figures(draw(comparison))
        print(f"Table, history and figures are in {run.folder}")


if __name__ == "__main__":
    runs.console(main)
