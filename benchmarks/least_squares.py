"""How often do gradlab's least-squares methods find the minimum, how fast, beside peers?

The Moré-Garbow-Hillstrom functions as residuals, in 40 sizes from 1, 10 and 100 times their
published starts (119 in all), judged as `minimizers.py` judges; the warm time of a solve on
NIST's regressions beside optimistix's Levenberg-Marquardt, both compiled whole, where both
reach six digits; and the certified digits on all of NIST's, by default of `least_squares` and
of `minimize` with Newton's method on the sums of squares alone. `experiments/nist.py` has the
digits of many more solvers.

    python benchmarks/least_squares.py [--methods NAME ...] [--dtype float32] [--quick]
    python benchmarks/least_squares.py --time [--quick]
    python benchmarks/least_squares.py --digits [SOLVER ...] [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import jax
import nist
import numpy as np
from minimizers import QUICK, Run, many_solves, print_failures, print_table, seconds
from minimizers_cases import SCALES, Answer, Case, best_values, cases, judge

import gradlab as gl
from gradlab.least_squares import least_squares

__all__ = ["main", "measure", "measure_digits", "measure_time"]

METHODS = ("levenberg_marquardt",)
# Least values known of the cases whose problem knows none, found by many solvers.
BEST = {"chebyquad 10": 0.0047727136953730196}
QUICKLY_TIMED = ("misra1a", "danwood")
TOLERANCE = 1e-12
DIGITS = (nist.OURS[0], nist.MINIMIZE)


def measure(methods: Sequence[str], found: Sequence[Case]) -> list[Run]:
    """Run every method from every start."""
    answers: dict[tuple[str, str, float], Answer] = {}
    for case in found:
        for method in methods:
            for scale, x0 in case.starts.items():
                answers[method, case.name, scale] = _solve(method, case, x0)
        jax.clear_caches()
    best = best_values(list(found), answers)
    by_name = {case.name: case for case in found}
    for name, value in BEST.items():
        if name in best:
            best[name] = min(best[name], value)
    return [
        Run(method, name, scale, answer, judge(by_name[name], answer.x, best[name]))
        for (method, name, scale), answer in answers.items()
    ]


def _solve(method: str, case: Case, x0: Any) -> Answer:
    """Solve a case with its residuals; calls are residuals, Jacobians, bends, matrices."""
    fit = least_squares(case.problem.residual, x0, method, args=case.problem.args, trace=None)
    calls = (int(fit.nfev), int(fit.njev), int(fit.nhvp), int(fit.nhev))
    status = gl.Status(int(fit.status)).name
    return Answer(np.asarray(fit.x), bool(fit.success), status, calls)


def measure_time(names: Sequence[str]) -> float | None:
    """Print warm times a solve, and return the median of ours over optimistix's.

    The median is over the data sets that both solve, of a solve among many in one compiled
    program; single calls, with what it costs to begin a program, stand beside.
    """
    try:
        import optimistix
    except ImportError:
        print("optimistix is not installed: no times beside it")
        return None
    ratios = []
    print(f"\n{'warm µs a solve':<18}{'in a program':>31}{'a call':>31}")
    print(f"{'':<18}" + 2 * f"{'ours':>9}{'optimistix':>13}{'ratio':>9}")
    for name in names:
        problem = gl.problems.get(name)
        solver = optimistix.LevenbergMarquardt(rtol=TOLERANCE, atol=TOLERANCE)

        @jax.jit
        def peer(x0: Any, problem: Any = problem, solver: Any = solver) -> Any:
            return optimistix.least_squares(
                lambda x, args: problem.residual(x, *args), solver, x0, args=problem.args,
                max_steps=2000, throw=False,
            ).value  # fmt: skip

        calls = {"ours": _compiled(problem), "theirs": peer}
        start = problem.init()
        if not all(_solves(problem, call(start)) for call in calls.values()):
            print(f"{name:<18} not solved by both")
            continue
        told = ""
        for kind in (many_solves, seconds):
            ours, theirs = kind(calls, start).values()
            told += f"{1e6 * ours:>9.0f}{1e6 * theirs:>13.0f}{ours / theirs:>9.2f}"
            ratios.append(ours / theirs)
        print(f"{name:<18}{told}")
    inside, called = np.median(np.reshape(ratios, (-1, 2)), axis=0)
    print(f"{'median':<18}{inside:>31.2f}{called:>31.2f}")
    return float(inside)


def _solves(problem: Any, x: Any) -> bool:
    """Whether all parameters have six of the certified digits."""
    certified = problem.certified["parameters"]
    return bool(np.all(np.abs(np.asarray(x) - certified) <= 1e-6 * np.abs(certified)))


def measure_digits(solvers: Sequence[str], names: Sequence[str] | None = None) -> None:
    """Print how many certified digits solvers of `experiments/nist.py` reach, and the worst."""
    rows = nist.measure(names=names, chosen=solvers)
    print(nist.table(rows))
    for row in rows:
        if row["digits"] < 8 or not row["success"]:
            said = "success" if row["success"] else "failure"
            start = f"{row['problem']} {row['start']}"
            print(f"{row['solver']:<24}{start:<16}{row['digits']:>5.1f} digits, says {said}")


def _compiled(problem: Any) -> Callable[[Any], Any]:
    """Compile a whole solve."""

    @jax.jit
    def run(x0: Any) -> Any:
        return least_squares(problem.residual, x0, args=problem.args, trace=None).x

    return run


def main(argv: list[str] | None = None) -> None:
    """Measure and print the table, the failures and the times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--problems", nargs="+", help="only these functions or cases")
    parser.add_argument("--starts", nargs="+", type=float, default=SCALES, help="scales")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--time", action="store_true", help="warm times only")
    parser.add_argument(
        "--digits", nargs="*", choices=tuple(nist.solvers()), metavar="SOLVER",
        help="NIST's certified digits only, by default of " + " and ".join(DIGITS),
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="five functions only")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    if options.time:
        measure_time(QUICKLY_TIMED if options.quick else gl.problems.names(tag="nist"))
        return
    if options.digits is not None:
        measure_digits(options.digits or DIGITS, nist.QUICK if options.quick else None)
        return
    names = options.problems or (QUICK if options.quick else None)
    runs = measure(options.methods, cases(options.dtype, options.starts, names))
    print_table(runs, f"{options.dtype}, starts x {options.starts}")
    print_failures(runs)


if __name__ == "__main__":
    main()
