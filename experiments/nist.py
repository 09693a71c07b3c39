"""How many certified digits does each least-squares solver reach on NIST's regressions?

The 27 nonlinear regressions of NIST's Statistical Reference Datasets, each from its two
starts. Digits are the least over the parameters of -log10 of the relative error; NIST
certifies eleven, computed with 128-bit arithmetic. Every solver is given exact derivatives
and, where it has tolerances, is asked for all that float64 holds. A false claim is a success
with fewer than four digits.

References:
    National Institute of Standards and Technology. Statistical Reference Datasets, Nonlinear
    Regression. https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml
    McCullough, B. (1998). Assessing the reliability of statistical software: Part I. American
    Statistician 52:358 (the log relative error).
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

OURS = ("levenberg_marquardt", "newton", "dogleg", "gauss_newton")
PEERS = ("scipy trf", "scipy lm", "scipy dogbox", "optimistix LM")
MINIMIZE = "minimize newton"
QUICK = ("misra1a", "danwood", "mgh09")
# NIST certifies eleven digits.
CERTIFIED = 11.0
# Fewer digits than this are not the answer.
WRONG = 4.0
# As tight as the peers allow: SciPy refuses less than eps, and optimistix, which compares
# steps with its tolerances, never ends at less than some 1e-13.
SCIPY_TOLERANCE, OPTIMISTIX_TOLERANCE = 1e-15, 1e-12
MAX_STEPS = 2000


class Found(NamedTuple):
    """An answer, whether it is called a success, residuals and Jacobians evaluated."""

    x: Any
    success: bool
    residuals: int
    jacobians: int


def _ours(method: str, problem: Any) -> Found:
    """A method of gradlab with its defaults."""
    fit = gl.least_squares(
        problem.residual, problem.init(), method, args=problem.args, trace=None
    )
    return Found(fit.x, bool(fit.success), int(fit.nfev), int(fit.njev))


def _minimize(problem: Any) -> Found:
    """Newton's method on the sum of squares, which knows nothing of residuals."""
    result = gl.minimize(problem.loss, problem.init(), "newton", args=problem.args, trace=None)
    return Found(result.x, bool(result.success), int(result.nfev), int(result.ngev))


@functools.cache
def _compiled(residual: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compile a residual function and its Jacobian."""
    import jax

    return jax.jit(residual), jax.jit(jax.jacfwd(residual))


def _scipy(method: str, problem: Any) -> Found:
    """SciPy, its columns scaled by the Jacobian."""
    import scipy.optimize

    residual, jacobian = _compiled(problem.residual)
    tolerances = dict.fromkeys(("ftol", "xtol", "gtol"), SCIPY_TOLERANCE)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = scipy.optimize.least_squares(
            lambda x: np.asarray(residual(x, *problem.args)), np.asarray(problem.init()),
            jac=lambda x: np.asarray(jacobian(x, *problem.args)), method=method,
            x_scale="jac", max_nfev=MAX_STEPS, **tolerances,
        )  # fmt: skip
    # MINPACK's wrapper does not count Jacobians: there is one for about each step.
    return Found(found.x, bool(found.success), int(found.nfev), int(found.njev or found.nfev))


def _optimistix(problem: Any) -> Found:
    """Optimistix's Levenberg-Marquardt: a residual a step, a Jacobian an accepted one."""
    import optimistix

    tolerance = OPTIMISTIX_TOLERANCE
    found = optimistix.least_squares(
        lambda x, args: problem.residual(x, *args),
        optimistix.LevenbergMarquardt(rtol=tolerance, atol=tolerance),
        problem.init(), args=problem.args, max_steps=MAX_STEPS, throw=False,
    )  # fmt: skip
    right = bool(found.result == optimistix.RESULTS.successful)
    accepted = int(getattr(found.state, "num_accepted_steps", found.stats["num_steps"]))
    return Found(found.value, right, int(found.stats["num_steps"]), accepted)


def solvers() -> dict[str, Callable[[Any], Found]]:
    """Return the solvers by name, peers only where they are installed."""
    found: dict[str, Callable[[Any], Found]] = {
        name: functools.partial(_ours, name) for name in OURS
    }
    found[MINIMIZE] = _minimize
    for name in PEERS:
        library, method = name.split(" ")
        if importlib.util.find_spec(library) is not None:
            known = functools.partial(_scipy, method) if library == "scipy" else _optimistix
            found[name] = known
    return found


def digits(x: Any, certified: np.ndarray) -> float:
    """Least number of right digits over the parameters, at most those certified."""
    x = np.asarray(x)
    if not np.all(np.isfinite(x)):
        return 0.0
    error = np.max(np.abs(x - certified) / np.abs(certified))
    return float(np.clip(-np.log10(max(error, 10**-CERTIFIED)), 0, CERTIFIED))


def measure(
    *, names: Sequence[str] | None = None, chosen: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Run every solver on every problem from both starts.

    Returns:
        Rows with the solver, problem, start, digits, success, residuals and Jacobians.
    """
    rows = []
    known = solvers()
    for name in names or gl.problems.names(tag="nist"):
        print(f"{name} ...", file=sys.stderr, flush=True)
        for start in (1, 2):
            problem = gl.problems.get(name, start=start)
            for solver in chosen or known:
                found = known[solver](problem)
                reached = digits(found.x, problem.certified["parameters"])
                row = {"solver": solver, "problem": name, "start": start, "digits": reached}
                rest = found._asdict()
                del rest["x"]
                rows.append(row | rest)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return one row a solver: how many starts end at 6, 8 and 10 digits, and the cost."""
    from gradlab.compare import Table

    shown = []
    for solver in dict.fromkeys(row["solver"] for row in rows):
        own = [row for row in rows if row["solver"] == solver]
        reached = np.array([row["digits"] for row in own])
        entry: dict[str, Any] = {"solver": solver, "starts": len(own)}
        entry |= {f"{bar}": int(np.sum(reached >= bar)) for bar in (6, 8, 10)}
        entry["mean"] = float(np.mean(reached))
        entry["false"] = sum(row["success"] and row["digits"] < WRONG for row in own)
        entry["residuals"] = sum(row["residuals"] for row in own)
        entry["jacobians"] = sum(row["jacobians"] for row in own)
        shown.append(entry)
    formats = {"solver": ("solver", ""), "starts": ("starts", "d")}
    formats |= {f"{bar}": (f"≥ {bar} digits", "d") for bar in (6, 8, 10)}
    formats |= {"mean": ("mean digits", ".2f"), "false": ("false claims", "d")}
    formats |= {"residuals": ("residuals", "d"), "jacobians": ("Jacobians", "d")}
    return Table(tuple(shown), formats)


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say who reaches the most starts with ten digits, and how the default does."""
    entries = table(rows).rows
    best = max(entries, key=lambda entry: (entry["10"], entry["mean"]))
    default = next(entry for entry in entries if entry["solver"] == OURS[0])
    return (
        f"{best['solver']} reaches ten digits from {best['10']} of {best['starts']} starts. "
        f"The default, {OURS[0]}: {default['10']}, {default['mean']:.2f} digits in the mean, "
        f"{default['false']} false claims, {default['residuals']} residuals and "
        f"{default['jacobians']} Jacobians in all."
    )


def draw(rows: Sequence[dict[str, Any]]) -> Mapping[str, Any]:
    """Draw the digits as a heat map, solvers by problems and starts.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["solver"] for row in rows))
    cases = list(dict.fromkeys((row["problem"], row["start"]) for row in rows))
    grid = np.full((len(names), len(cases)), np.nan)
    for row in rows:
        where = names.index(row["solver"]), cases.index((row["problem"], row["start"]))
        grid[where] = row["digits"]
    figure, ax = plt.subplots(
        figsize=(max(6.0, 3.0 + 0.24 * len(cases)), 2.6 + 0.3 * len(names)),
        layout="constrained",
    )
    image = ax.imshow(grid, vmin=0, vmax=CERTIFIED, cmap="viridis", aspect="auto")
    ax.set_yticks(range(len(names)), names)
    ax.set_xticks(range(len(cases)), [f"{p} {s}" for p, s in cases], rotation=90, fontsize=7)
    ax.set_title("right digits of the worst parameter, by problem and start", loc="left")
    figure.colorbar(image, ax=ax, label="digits")
    return {"nist": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        from gradlab.compare import Table

        settings: dict[str, Any] = {}
        if options.quick:
            settings = {"names": QUICK[:2], "chosen": OURS[:1]}
        rows = measure(**settings)
        Table(tuple(rows), {}).to_csv(run.path("digits.csv"))
        print(run.report(table(rows), answer(rows), results=rows))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
