"""How good is the checker? Planted faults it must find, hard functions it must let pass.

    python benchmarks/checker.py [--only NAME] [--seed N] [--peers]

Prints the share of faults found and named, the false alarms at order 1 and 2, how often it
cannot tell, and, with --peers, the same for `jax.test_util.check_grads` at its defaults,
which names no leaf. A crash counts as a fault missed and as a false alarm of both orders.
The seed draws other directions than the checker was developed with.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import jax
from checker_faults import FAULTS
from checker_hard import HARD
from checker_parts import Case


class Outcome(NamedTuple):
    """What a checker said of one case."""

    verdict: str
    named: bool
    order: int
    seconds: float
    text: str


def by_gradlab(case: Case, seed: int = 0) -> Outcome:
    """Ask gradlab."""
    from gradlab.derivatives.check import check_derivatives

    start = time.perf_counter()
    try:
        report = check_derivatives(case.f, *case.args, seed=seed)
    except Exception:
        return Outcome(
            "crash",
            False,
            0,
            time.perf_counter() - start,
            traceback.format_exc().strip()[-300:],
        )
    named = any(case.leaf in f.where or case.leaf in f.leaf for f in report.findings)
    lowest = min((f.order for f in report.findings), default=0)
    return Outcome(report.verdict, named, lowest, time.perf_counter() - start, str(report))


def by_jax(case: Case) -> Outcome:
    """Ask `jax.test_util.check_grads` at its defaults, which stops at the first failure."""
    from jax.test_util import check_grads

    start = time.perf_counter()
    try:
        check_grads(case.f, case.args, order=2)
        verdict, text = "right", ""
    except AssertionError as error:
        verdict, text = "wrong", str(error)
    except Exception as error:
        verdict, text = "crash", str(error)
    return Outcome(verdict, False, 0, time.perf_counter() - start, text)


def measure(ask: Callable[[Case], Outcome], only: str, *, talk: bool) -> None:
    """Print one line a case, and the shares."""
    results = {}
    for kind, cases in (("fault", FAULTS), ("hard", HARD)):
        for case in cases:
            if only not in case.name:
                continue
            jax.clear_caches()
            outcome = ask(case)
            results[kind, case.name] = outcome
            good = outcome.verdict == ("wrong" if kind == "fault" else "right")
            good = good and (kind == "hard" or outcome.named or not talk)
            mark = " " if good else "!"
            print(
                f"{mark} {kind:5} {case.name:36} {outcome.verdict:12} {outcome.seconds:5.1f} s",
                flush=True,
            )
            if talk and (only or not good):
                print(outcome.text)
    _shares(results)


def _shares(results: dict[tuple[str, str], Outcome]) -> None:
    faults = [o for (kind, _), o in results.items() if kind == "fault"]
    hard = [o for (kind, _), o in results.items() if kind == "hard"]

    def share(hits: list[bool], cases: list[Outcome]) -> str:
        part = 100 * sum(hits) / max(1, len(cases))
        return f"{sum(hits)} of {len(cases)} ({part:.0f} %)"

    print("found:             ", share([o.verdict == "wrong" for o in faults], faults))
    print("named:             ", share([o.named for o in faults], faults))
    print(
        "false alarms, 1:   ",
        share(
            [o.verdict == "crash" or (o.verdict == "wrong" and o.order < 2) for o in hard], hard
        ),
    )
    print(
        "false alarms, 2:   ",
        share(
            [o.verdict == "crash" or (o.verdict == "wrong" and o.order == 2) for o in hard],
            hard,
        ),
    )
    both = [*faults, *hard]
    print("cannot tell:       ", share([o.verdict == "cannot tell" for o in both], both))
    print("crashes:           ", share([o.verdict == "crash" for o in both], both))
    seconds = sorted(o.seconds for o in both) or [0.0]
    print(
        f"seconds a case:     median {seconds[len(seconds) // 2]:.1f}, most {seconds[-1]:.1f}"
    )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--seed", type=int, default=0, help="of the directions (0)")
    parser.add_argument("--peers", action="store_true", help="also jax.test_util.check_grads")
    options = parser.parse_args(argv)
    warnings.simplefilter("error")
    measure(functools.partial(by_gradlab, seed=options.seed), options.only, talk=True)
    if options.peers:
        print("\njax.test_util.check_grads:")
        measure(by_jax, options.only, talk=False)


if __name__ == "__main__":
    sys.exit(main())
