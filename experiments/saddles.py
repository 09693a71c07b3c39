"""Which methods leave a saddle: from on it, and from how near in how many steps?

Three losses with a saddle that attracts along some directions and repels along others, and
starts on the attracting side at a distance delta from where it would be hit exactly. Where
the repelling curvature is -1, gradient descent with rate r multiplies the distance by 1 + r a
step, and a step along |H|^-1 g doubles it, so that both take a number of steps proportional
to log(1 / delta) and never leave from delta = 0. A trust region follows negative curvature
even where the gradient does not see it. Newton's step unsafeguarded is drawn to the saddle.

References:
    Dauphin, Y. et al. (2014). Identifying and attacking the saddle point problem. NeurIPS.
    Lee, J. et al. (2016). Gradient descent only converges to minimizers. COLT.
    Du, S. et al. (2017). Gradient descent can take exponential time to escape saddle points.
    Moré, J. and Sorensen, D. (1983). SIAM Journal on Scientific and Statistical Computing
    4:553 (the trust region's step at a saddle).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

METHODS = ("gd", "lbfgs", "newton_cg", "newton", "saddle_free_newton", "pure_newton")
QUICK_METHODS = ("gd", "newton", "pure_newton")
DISTANCES = (0.0, 1e-12, 1e-9, 1e-6, 1e-3, 1e-1)
QUICK_DISTANCES = (0.0, 1e-6, 1e-3)
LARGE, NUM_PARAMS = "double well, n = 20", 20
WELL, MONKEY = "double well", "monkey saddle"
MAX_STEPS = 500


class Case(NamedTuple):
    """A loss with a saddle at the origin, of loss 0.

    Attributes:
        loss: The loss.
        start: Function of delta to the start.
        escaped: Loss below which a run has left the saddle.
        learning_rate: Of gradient descent: half of one over the largest curvature.
        repelled: Distance from the saddle at which the loss is `escaped`, where the
            repelling curvature is -1; else None.
    """

    loss: Callable[[Any], Any]
    start: Callable[[float], Any]
    escaped: float
    learning_rate: float
    repelled: float | None


def cases() -> dict[str, Case]:
    """Return the losses by name."""
    import jax.numpy as jnp

    def well(x: Any) -> Any:
        """Repel along the first half of the variables, attract along the others."""
        half = x.size // 2
        return jnp.sum(x[:half] ** 4 / 4 - x[:half] ** 2 / 2) + jnp.sum(x[half:] ** 2)

    def beside(n: int) -> Callable[[float], Any]:
        """Build starts at a distance delta from the attracting half, and 1 along it."""
        way = np.ones(n // 2) / math.sqrt(n / 2)
        return lambda delta: jnp.asarray(np.concatenate([delta * way, way]))

    # A tenth of the depth of one well, 1/4: there x is 0.23 along one direction.
    escaped, repelled = -0.025, math.sqrt(1 - math.sqrt(0.9))
    return {
        WELL: Case(well, beside(2), escaped, 0.25, repelled),
        LARGE: Case(well, beside(NUM_PARAMS), escaped, 0.25, repelled),
        MONKEY: Case(
            gl.problems.get("monkey_saddle").loss,
            lambda delta: jnp.asarray([1.0, delta]),
            -1.0,
            1 / 12,
            None,
        ),
    }


def measure(
    *,
    names: Sequence[str] = (WELL, LARGE, MONKEY),
    methods: Sequence[str] = METHODS,
    distances: Sequence[float] = DISTANCES,
) -> list[dict[str, Any]]:
    """Run every method from every distance.

    Returns:
        Rows with the problem, method, delta, steps and cost until the run had left the saddle
        (NaN where it did not), and the status in which it ended.
    """
    rows = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        case = cases()[name]
        chosen = {
            m: gl.make(m, learning_rate=case.learning_rate) if m == "gd" else gl.make(m)
            for m in methods
        }
        starts = [case.start(delta) for delta in distances]
        comparison = gl.compare(case.loss, chosen, starts=starts, max_steps=MAX_STEPS)
        for run in comparison.runs:
            assert run.trace is not None
            left = np.flatnonzero(np.asarray(run.trace.loss) < case.escaped)
            steps = float(left[0]) if left.size else math.nan
            cost = float(run.trace.cost[left[0]]) if left.size else math.nan
            row = {"problem": name, "method": run.method, "delta": distances[run.seed]}
            rows.append(row | {"steps": steps, "cost": cost, "status": run.status})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return one row a problem and method: steps by distance, cost, and the end from on it."""
    from gradlab.compare import Table

    shown: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["problem"], row["method"])
        entry = shown.setdefault(key, {"problem": key[0], "method": key[1], "cost": None})
        left = not math.isnan(row["steps"])
        entry[_column(row["delta"])] = row["steps"] if left else None
        if row["delta"] == 0:
            entry["end"] = row["status"]
        entry["cost"] = row["cost"] if left else entry["cost"]
    formats = {"problem": ("problem", ""), "method": ("method", "")}
    formats |= {_column(row["delta"]): (_column(row["delta"]), ".0f") for row in rows}
    formats |= {"cost": ("cost at the largest δ", ".1f"), "end": ("end from δ = 0", "")}
    return Table(tuple(shown.values()), formats)


def _column(delta: float) -> str:
    """Name a distance."""
    return "on it" if delta == 0 else f"δ={delta:.0e}"


def predicted(method: str, case: Case, delta: float) -> float | None:
    """Return the steps that theory says are taken to leave, where it says so."""
    if case.repelled is None or delta == 0:
        return None
    factor = {"gd": 1 + case.learning_rate, "saddle_free_newton": 2.0}.get(method)
    return None if factor is None else max(0.0, math.log(case.repelled / delta, factor))


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say who leaves from on the saddle, who from near it, and who never."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    left = {
        m: {(r["problem"], r["delta"]) for r in rows if r["method"] == m and r["steps"] >= 0}
        for m in methods
    }
    count = len({(row["problem"], row["delta"]) for row in rows})
    problems = len({row["problem"] for row in rows})
    on_it = {m: sum(delta == 0 for _, delta in left[m]) for m in methods}
    leaves = [f"{m} on {on_it[m]} of {problems} losses" for m in methods if on_it[m]]
    never = [m for m in methods if not left[m]]
    shares = ", ".join(f"{m} {len(left[m])} of {count}" for m in methods)
    return (
        f"From exactly on the attracting side leave: {', '.join(leaves) or 'none'}. Over all "
        f"starts: {shares}. Never: {', '.join(never) or 'none'}. What runs that stayed say: "
        f"{_claims(rows)}."
    )


def _claims(rows: Sequence[dict[str, Any]]) -> str:
    """Count the statuses of the runs that stayed."""
    stayed = [row["status"] for row in rows if math.isnan(row["steps"])]
    return ", ".join(f"{stayed.count(s)}× {s}" for s in dict.fromkeys(stayed)) or "all left"


def draw(rows: Sequence[dict[str, Any]]) -> Mapping[str, Any]:
    """Draw the steps until a run had left against the distance, one panel a loss.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    known, names = cases(), list(dict.fromkeys(row["problem"] for row in rows))
    figure, axes = plt.subplots(
        1, len(names), figsize=(6.0 * len(names), 4.2), layout="constrained", squeeze=False
    )
    for name, ax in zip(names, axes.flat, strict=True):
        here = [row for row in rows if row["problem"] == name and row["delta"] > 0]
        lines, theory = {}, {}
        for method in dict.fromkeys(row["method"] for row in here):
            pairs = [(r["delta"], r["steps"]) for r in here if r["method"] == method]
            lines[method] = tuple(zip(*pairs, strict=True))
            told = [(d, predicted(method, known[name], d)) for d, _ in pairs]
            if told[0][1] is not None:
                theory[method] = tuple(zip(*told, strict=True))
        gl.plots.plot_errors(
            lines,
            counted=theory,
            x_label="distance δ from the attracting side",
            y_label="steps until it has left the saddle",
            log="x",
            ax=ax,
        )
        stay = [m for m in lines if np.all(np.isnan(lines[m][1]))]
        note = f"   never left: {', '.join(stay)}" if stay else ""
        ax.set_title(f"{name}{note}   (dashed: theory)", loc="left", fontsize=10)
    return {"saddles": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        from gradlab.compare import Table

        settings: dict[str, Any] = {}
        if options.quick:
            settings = {"names": (WELL,), "methods": QUICK_METHODS}
            settings["distances"] = QUICK_DISTANCES
        rows = measure(**settings)
        Table(tuple(rows), {}).to_csv(run.path("escapes.csv"))
        print(run.report(table(rows), answer(rows), results=rows))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
