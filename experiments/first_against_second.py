"""First or second order: which brings each model's loss lower for the same work?

Every model of the curriculum, on all of its training data, minimised by Adam with the rate
that a sweep finds best, by L-BFGS, and by Newton's method with conjugate gradients, each
stopped when it has spent the same number of gradient evaluations: a product with the Hessian
counts as two, a loss as a third. Adam's sweep is not counted. What is left of the way down is
told beside what held-out data say, because they are not the same question.

References:
    Nocedal, J. and Wright, S. (2006). Numerical Optimization, chapters 6 and 7.
    Schmidt, R., Schneider, F. and Hennig, P. (2021). Descending through a crowded valley:
    benchmarking deep learning optimizers. ICML.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

METHODS = {"adam": "first", "lbfgs": "quasi-Newton", "newton_cg": "second"}
BUDGET, QUICK_BUDGET = 600.0, 150.0
# Losses that differ by less of the way down than this are equally low.
TOLERANCE = 1e-6
SHARED: dict[str, Any] = {"held_out": 0.25}
# Small enough that all of it takes minutes: 40 runs, and as many compilations.
PROBLEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear (ridge)": ("linear", SHARED | {"l2": 0.1}),
    "logistic": ("logistic", SHARED),
    "softmax": ("softmax", SHARED),
    "perceptron": ("mlp", {"rows": 500}),
    "convolutional": ("cnn", {"channels": 4, "rows": 300}),
    "recurrent": ("rnn", {"width": 16, "length": 16, "rows": 128}),
    "LSTM": ("lstm", {"width": 12, "length": 16, "rows": 128}),
    "Transformer": ("transformer", {"length": 16, "rows": 128}),
    "sunspots": ("sunspots", {"cell": "rnn"}),
    "skip-gram": ("skip_gram", {"rows": 2000}),
    "GloVe": ("glove", {}),
    "autoencoder": ("vae", {"rows": 500}),
    "recommender": ("recommender", {}),
    "physics, Poisson": ("poisson", {}),
    "physics, Burgers": ("burgers", {"rows": 8}),
}
QUICK, QUICK_METHODS = ("logistic", "recommender"), ("adam", "newton_cg")


def measure(
    *,
    names: Sequence[str] = tuple(PROBLEMS),
    methods: Sequence[str] = tuple(METHODS),
    budget: float = BUDGET,
    seed: int = 0,
) -> tuple[gl.Comparison, dict[tuple[str, str], dict[str, float]]]:
    """Run every method on every model within the budget.

    Returns:
        The joined comparison, and by model and method the metrics on held-out data.
    """
    import dataclasses

    parts, judged = [], {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        problem = gl.problems.get(PROBLEMS[name][0], **PROBLEMS[name][1])
        # No gradient test: the budget alone decides, unless rounding does before.
        part = gl.compare(
            dataclasses.replace(problem, name=name),
            methods,
            seeds=(seed,),
            max_cost=budget,
            gtol=0.0,
        )
        parts.append(part)
        for run in part.runs:
            if run.result is not None:
                judged[name, run.method] = problem.evaluate(run.result.x)
    return gl.Comparison.merge(parts), judged


def remaining(comparison: gl.Comparison, run: Any, cost: float | None = None) -> float:
    """Return the share of the way down that a run has left, at a cost or at its end.

    The way is from the start to the least loss that any run has seen.
    """
    if run.trace is None:
        return math.nan
    least = min(comparison.best_loss(run.problem), comparison.minima.get(run.problem, math.inf))
    loss, paid = np.asarray(run.trace.loss), np.asarray(run.trace.cost)
    within = loss if cost is None else loss[paid <= cost]
    return float((np.nanmin(within) - least) / (loss[0] - least))


def table(comparison: gl.Comparison, judged: Mapping[tuple[str, str], Any]) -> Any:
    """Return the printed table: a row a model and method."""
    from gradlab.compare.table import Table

    rows = []
    for run in comparison.runs:
        metrics = judged.get((run.problem, run.method), {})
        name, value = next(iter(metrics.items()), ("", None))
        rows.append(
            {
                "problem": run.problem,
                "method": run.method,
                "steps": run.steps,
                "cost": run.cost,
                "seconds": run.seconds,
                "loss": run.loss,
                "left": remaining(comparison, run),
                "price": price(comparison, run),
                "metric": name,
                "value": value,
                "status": run.status,
            }
        )
    formats = {
        "problem": ("model", ""),
        "method": ("method", ""),
        "steps": ("steps", ",.0f"),
        "cost": ("cost", ".0f"),
        "seconds": ("seconds", ".2f"),
        "loss": ("loss", ".4g"),
        "left": ("left of the way", ".1e"),
        "price": (f"cost to {TOLERANCE:.0e}", ".0f"),
        "metric": ("held out", ""),
        "value": ("", ".4g"),
        "status": ("ended", ""),
    }
    return Table(tuple(rows), formats)


def price(comparison: gl.Comparison, run: Any) -> float:
    """Return the cost at which a run had no more than `TOLERANCE` of the way left."""
    if run.trace is None:
        return math.inf
    paid = np.asarray(run.trace.cost)
    left = np.array([remaining(comparison, run, cost) for cost in paid])
    reached = np.flatnonzero(left <= TOLERANCE)
    return float(paid[reached[0]]) if reached.size else math.inf


def winners(comparison: gl.Comparison) -> dict[str, str]:
    """Return for every model the method that was lowest, of equally low ones the cheapest."""
    found = {}
    for problem in comparison.problems:
        here = comparison.select(problem=problem).runs
        prices = {run.method: price(comparison, run) for run in here}
        found[problem] = min(prices, key=lambda method: prices[method])
    return found


def answer(comparison: gl.Comparison, judged: Mapping[tuple[str, str], Any]) -> str:
    """Say who came lowest how often, and how often that was also best on held-out data."""
    found = winners(comparison)
    told = []
    for method in comparison.methods:
        where = [problem for problem, name in found.items() if name == method]
        told.append(f"{method} {len(where)}" + (f" ({', '.join(where)})" if where else ""))
    agree = [
        problem for problem, name in found.items() if name in _judged_best(problem, judged)
    ]
    alike = [problem for problem in found if _all_arrive(comparison, problem)]
    budget = max(run.cost for run in comparison.runs)
    return (
        f"Lowest training loss within {budget:.0f} gradient evaluations, of {len(found)} "
        f"models (of methods equally low the cheapest): {'; '.join(told)}. All methods end "
        f"equally low on {len(alike)} models. On {len(agree)} the same method is also best on "
        f"held-out data, alone or with others."
    )


def _all_arrive(comparison: gl.Comparison, problem: str) -> bool:
    """Whether every method came as low as the lowest."""
    here = comparison.select(problem=problem).runs
    return all(price(comparison, run) < math.inf for run in here)


def _judged_best(problem: str, judged: Mapping[tuple[str, str], Any]) -> list[str]:
    """Return the methods that are best on held-out data, by the problem's first metric."""
    values = {
        method: next(iter(metrics.values()))
        for (name, method), metrics in judged.items()
        if name == problem and metrics
    }
    if not values:
        return []
    metric = next(iter(next(m for (n, _), m in judged.items() if n == problem)))
    more = metric in ("accuracy", "elbo", "preference")
    best = (max if more else min)(values.values())
    return [method for method, value in values.items() if value == best]


def draw(comparison: gl.Comparison) -> dict[str, Any]:
    """Draw what is left of the way against the cost, one panel a model.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    names = comparison.problems
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(5.0 * columns, 3.2 * lines),
        layout="constrained",
        squeeze=False,
    )
    gl.plot_convergence(comparison, x="cost", ax=axes)
    return {"first-against-second": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        settings: dict[str, Any] = {"seed": options.seed}
        if options.quick:
            settings |= {"names": QUICK, "methods": QUICK_METHODS, "budget": QUICK_BUDGET}
        comparison, judged = measure(**settings)
        shown = table(comparison, judged)
        comparison.to_csv(run.path("history.csv"))
        shown.to_csv(run.path("models.csv"))
        print(run.report(shown, answer(comparison, judged)))
        run.save_figures(draw(comparison))


if __name__ == "__main__":
    runs.console(main)
