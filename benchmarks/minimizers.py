"""How often do gradlab's minimisers find the minimum, at what cost, and do they say so?

The Moré-Garbow-Hillstrom functions in 40 sizes, each from 1, 10 and 100 times its published
start (119 in all), by gradlab's methods and by the peers that are installed, with exact
derivatives and each library's usual options. An answer is "global" when its value is the
best that is known or that anyone here finds, and "stationary" when it is global or its
gradient is nothing; `minimizers_cases.py` has the bars. A success that is neither is a false
claim; a failure that is stationary is a good point called a failure.

    python benchmarks/minimizers.py [--methods NAME ...] [--dtype float32] [--peers] [--time]
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import jax
import jax.numpy as jnp
import numpy as np
from minimizers_cases import SCALES, Answer, Case, Judgement, best_values, cases, judge
from minimizers_solvers import MAX_STEPS, PEERS, compiled_bfgs, own_method, solver

import gradlab as gl

__all__ = ["Run", "main", "many_solves", "measure", "seconds", "summary"]

METHODS = ("newton", "newton_cg")
# Solves in one program, where the time of a solve among many is measured.
SOLVES = 64
MATRIX_FREE_PEER = "scipy trust-ncg"
QUICK = ("rosenbrock", "beale", "brown_badly_scaled", "freudenstein_roth", "wood")


class Run(NamedTuple):
    """One solve: who, what, from where, what came out and what it is worth."""

    method: str
    case: str
    scale: float
    answer: Answer
    worth: Judgement

    @property
    def is_false(self) -> bool:
        """Success claimed at a point that is not even stationary."""
        return self.answer.success and not self.worth.is_stationary

    @property
    def is_saddle(self) -> bool:
        """Success claimed at a saddle."""
        return self.answer.success and self.worth.is_saddle

    @property
    def is_modest(self) -> bool:
        """A failure said at a point that is good, and no saddle."""
        good = self.worth.is_global or (self.worth.is_stationary and not self.worth.is_saddle)
        return good and not self.answer.success


def measure(methods: Iterable[str], found: list[Case]) -> list[Run]:
    """Run every method from every start, then judge all by the best anyone found."""
    answers = {}
    for case in found:
        for name in methods:
            try:
                solve = solver(name)(case)
            except ValueError as missing:
                print(f"{name} is left out: {missing}")
                continue
            for scale, x0 in case.starts.items():
                answers[name, case.name, scale] = _answer(solve, x0)
    best = best_values(found, answers)
    by_name = {case.name: case for case in found}
    return [
        Run(method, name, scale, answer, judge(by_name[name], answer.x, best[name]))
        for (method, name, scale), answer in answers.items()
    ]


def _answer(solve: Callable[[Any], Answer], x0: Any) -> Answer:
    """Solve; an exception is an answer too."""
    try:
        return solve(x0)
    except Exception as error:
        text = f"EXCEPTION {type(error).__name__}: {str(error).splitlines()[0]:.60}"
        return Answer(np.full(np.shape(x0), np.nan), False, text, (0, 0, 0, 0))


def summary(runs: list[Run]) -> dict[str, Any]:
    """Count what became of the runs of one method, over some starts."""
    calls = np.array([run.answer.calls for run in runs])
    return {
        "runs": len(runs),
        "global": sum(run.worth.is_global for run in runs),
        "stationary": sum(run.worth.is_stationary for run in runs),
        "false": sum(run.is_false for run in runs),
        "saddle": sum(run.is_saddle for run in runs),
        "modest": sum(run.is_modest for run in runs),
        "limit": sum(run.answer.status == "MAX_STEPS" for run in runs),
        "nan": sum(not np.all(np.isfinite(run.answer.x)) for run in runs),
        "raised": sum(run.answer.status.startswith("EXCEPTION") for run in runs),
        "median": tuple(np.median(calls, axis=0)),
        "total": tuple(calls.sum(axis=0)),
    }


def print_table(runs: list[Run], title: str) -> None:
    """Print one line a method."""
    print(f"\n{title}")
    print(
        f"{'method':<22}{'runs':>5}{'global':>8}{'station.':>9}{'false':>6}{'saddle':>7}"
        f"{'modest':>7}{'limit':>6}{'NaN':>4}{'raised':>7}   median f, g, Hv, H"
    )
    for method in dict.fromkeys(run.method for run in runs):
        row = summary([run for run in runs if run.method == method])
        median = ", ".join(f"{number:g}" for number in row["median"])
        print(
            f"{method:<22}{row['runs']:>5}{row['global']:>8}{row['stationary']:>9}"
            f"{row['false']:>6}{row['saddle']:>7}{row['modest']:>7}{row['limit']:>6}"
            f"{row['nan']:>4}{row['raised']:>7}   {median}; Hv in all {row['total'][2]}"
        )


def print_products(runs: list[Run]) -> None:
    """Compare Hessian-vector products with those of SciPy's trust-ncg, where that ran too."""
    peer = {(run.case, run.scale): run for run in runs if run.method == MATRIX_FREE_PEER}
    if not peer:
        return
    print(f"\nproducts over those of {MATRIX_FREE_PEER}: of medians, of sums; median ratio")
    theirs = np.array([run.answer.calls[2] for run in peer.values()])
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        ours = np.array([run.answer.calls[2] for run in own])
        if method == MATRIX_FREE_PEER or not ours.any():
            continue
        both = [
            run.answer.calls[2] / max(peer[run.case, run.scale].answer.calls[2], 1)
            for run in own
            if _solves(run) and _solves(peer[run.case, run.scale])
        ]
        print(
            f"{method:<22}{np.median(ours) / np.median(theirs):7.3f}"
            f"{ours.sum() / theirs.sum():7.3f}{np.median(both):7.3f} of {len(both)} both solve"
        )


def print_failures(runs: list[Run]) -> None:
    """List every run that is not a claimed, global minimum."""
    print("\nwhat is not a global minimum, said so")
    for run in sorted(runs, key=lambda run: (run.method, run.case, run.scale)):
        marks = [
            word
            for word, holds in (
                ("not-stationary", not run.worth.is_stationary),
                ("not-global", not run.worth.is_global),
                ("FALSE", run.is_false),
                ("SADDLE" if run.answer.success else "saddle", run.worth.is_saddle),
                ("MODEST", run.is_modest),
            )
            if holds
        ]
        if marks:
            print(
                f"  {run.method:<18}{run.case:<30}x{run.scale:<4g}{run.answer.status:<24.40}"
                f"f={run.worth.value:<13.7g}|g|={run.worth.grad:<10.2g}"
                f"calls={run.answer.calls}  {' '.join(marks)}"
            )


def measure_time(methods: Iterable[str], found: list[Case], runs: list[Run]) -> None:
    """Print each method's warm seconds a solve beside optimistix's BFGS, where both solve.

    From the published starts. "in a program": many solves in one compiled program, a solve's
    share; "a call": one compiled solve, called; "from Python": `minimize` as it is called
    there, with its trace, over a compiled call of the peer.
    """
    solved = {(run.method, run.case) for run in runs if run.scale == 1 and _solves(run)}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for case in found:
        names = [name for name in methods if (name, case.name) in solved]
        if not names or ("optimistix BFGS", case.name) not in solved:
            continue
        whole: dict[str, Callable[[Any], Any]] = {"": compiled_bfgs(case)}
        python = {"": whole[""]}
        for name in names:
            run = functools.partial(
                gl.minimize, case.problem.loss, method=own_method(name), args=case.problem.args,
                max_steps=MAX_STEPS,
            )  # fmt: skip
            whole[name] = jax.jit(lambda x0, run=run: run(x0, trace=None).x)
            python[name] = run
        start = case.starts[1.0]
        kinds = [many_solves(whole, start), seconds(whole, start), seconds(python, start)]
        for name in names:
            times = [(kind[name], kind[name] / kind[""]) for kind in kinds]
            rows[name].append(np.array(times))
    print("\nwarm µs a solve, and over that of optimistix BFGS, where both solve: medians")
    print(f"{'method':<22}{'solved':>7}{'in a program':>18}{'a call':>18}{'from Python':>18}")
    for name, measured in rows.items():
        if measured:
            times = np.median(measured, axis=0)
            told = "".join(f"{1e6 * each:>11.0f}{ratio:>7.2f}" for each, ratio in times)
            print(f"{name:<22}{len(measured):>7}{told}")


def _solves(run: Run) -> bool:
    """Whether the run ends at a stationary point that is no saddle."""
    return run.worth.is_stationary and not run.worth.is_saddle


def seconds(
    calls: dict[str, Callable[[Any], Any]], x0: Any, repeats: int = 15
) -> dict[str, float]:
    """Time calls side by side, compiled beforehand: the median of several each."""
    for call in calls.values():
        jax.block_until_ready(call(x0))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call(x0))
            taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(each)) for name, each in taken.items()}


def many_solves(calls: dict[str, Callable[[Any], Any]], x0: Any) -> dict[str, float]:
    """Time a solve among many in one program: without what it costs to begin a program.

    On the CPU, XLA runs a program of less than some 1,000 operations in the caller's thread
    and hands a larger one to another, which may take as long as a small solve.
    """
    starts = jnp.stack([x0] * SOLVES)
    loops = {
        name: jax.jit(functools.partial(jax.lax.map, call)) for name, call in calls.items()
    }
    taken = seconds(loops, starts)
    return {name: each / SOLVES for name, each in taken.items()}


def main(argv: list[str] | None = None) -> None:
    """Measure and print the tables, the failures and the times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=METHODS, help="gradlab's or peers'")
    parser.add_argument("--peers", action="store_true", help="run all the peers as well")
    parser.add_argument("--problems", nargs="+", help="only these functions or cases")
    parser.add_argument("--starts", nargs="+", type=float, default=SCALES, help="scales")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--time", action="store_true", help="also measure warm times")
    parser.add_argument("--quick", action="store_true", help="five functions only")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    ours = list(options.methods)
    methods = ours + [name for name in PEERS if options.peers and name not in ours]
    if options.time and "optimistix BFGS" not in methods:
        methods.append("optimistix BFGS")
    names = options.problems or (QUICK if options.quick else None)
    found = cases(options.dtype, options.starts, names)
    runs = measure(methods, found)
    for scale in options.starts:
        some = [run for run in runs if run.scale == scale]
        print_table(some, f"{options.dtype}, published start x {scale:g}")
    if len(options.starts) > 1:
        print_table(runs, f"{options.dtype}, all starts")
    print_products(runs)
    print_failures([run for run in runs if run.method not in PEERS])
    if options.time:
        measure_time([name for name in ours if name not in PEERS], found, runs)


if __name__ == "__main__":
    main()
