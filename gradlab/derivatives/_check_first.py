"""First derivatives: both modes against differences, leaf by leaf."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from gradlab.derivatives._check_differences import Slopes, along
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_faults import Tried, faults
from gradlab.derivatives._check_lines import Columns, Line, make_columns, make_lines
from gradlab.derivatives._check_problem import Leaf
from gradlab.derivatives._check_report import Finding
from gradlab.derivatives._check_search import Judged, judge

__all__ = ["First", "check_first"]

# Entries of the gradients of all combinations that are held at once.
_HELD = 2**24
# Noise levels that a derivative may be off, and the most that is excused in this way.
_NOISES, _CLOSEST = 64.0, 1e-5


class First(NamedTuple):
    """What is known of the first derivatives.

    Attributes:
        findings: What is wrong.
        states: For each group of leaves "right", "wrong" or "cannot tell".
        rest: Verdicts of the leaves that share a group with a wrong one.
        agreement: For each group, how closely the best line of each combination agrees.
        groups, lines, columns, slopes: What was tried.
        gradients: Reverse-mode gradients of the combinations, shape (K, n), or None.
        nonfinite: Entries of x whose derivative is NaN or infinite, shape (n,).
        dead: Leaves f does not visibly depend on.
        kinks: Groups where the slope jumps at x.
        noisy: Largest noise level over rounding.
        center: The combinations at x, shape (K,).
        exact: Slopes by autodiff, by the best mode there is, shape (P, K).
    """

    findings: list[Finding]
    states: list[str]
    rest: dict[str, str]
    agreement: list[float]
    groups: list[list[Leaf]]
    lines: list[Line]
    columns: Columns
    slopes: Slopes
    gradients: np.ndarray | None
    nonfinite: np.ndarray
    dead: list[str]
    kinks: list[int]
    noisy: list[float]
    center: np.ndarray
    exact: np.ndarray


def check_first(ev: Evaluator, rng: np.random.Generator, order: int) -> First:
    """Compare the first derivatives of a problem with differences."""
    problem = ev.problem
    outputs = ev.value()
    columns = make_columns(problem, outputs, rng)
    gradients = _gradients(ev, columns)
    nonfinite, typical = np.zeros(len(ev.x), bool), None
    if gradients is not None:
        nonfinite = ~np.all(np.isfinite(gradients), axis=0)
        gradients = np.where(np.isfinite(gradients), gradients, 0)
        typical = np.sum(np.abs(gradients), axis=0)
    lines, groups = make_lines(problem, typical, rng)
    for line in lines:
        line.direction[nonfinite] = 0
    tried = _tried(ev, columns, outputs, gradients, lines, tuple(range(1, order + 1)))
    rows = [[p for p, line in enumerate(lines) if line.group == g] for g in range(len(groups))]
    findings: list[Finding] = []
    states: list[str] = []
    rest: dict[str, str] = {}
    for mine, group in zip(rows, groups, strict=True):
        told = faults(ev, tried, mine, group)
        states.append("wrong" if told else _state(tried.judged, mine))
        if told and len(group) > 1:
            more, others = _others(ev, tried, outputs, mine, group, told)
            told, rest = told + more, rest | others
        findings += told
    slopes = tried.slopes
    return First(
        findings,
        states,
        rest,
        [_agreement(tried.judged, mine) for mine in rows],
        groups,
        lines,
        columns,
        slopes,
        gradients,
        nonfinite,
        _dead(tried, rows, groups),
        [g for g, mine in enumerate(rows) if slopes.kink[mine].any()],
        [float(np.max(slopes.noise[mine])) for mine in rows],
        tried.center,
        next(iter(tried.modes.values()), np.full(slopes.kink.shape, np.nan)),
    )


def _tried(
    ev: Evaluator,
    columns: Columns,
    outputs: np.ndarray,
    gradients: np.ndarray | None,
    lines: list[Line],
    orders: tuple[int, ...] = (1,),
) -> Tried:
    """Differentiate the combinations along the lines in every way, and compare."""
    eps = ev.problem.eps
    terms = np.where(columns.rows != 0, columns.rows * outputs, 0)
    center, level = np.sum(terms, axis=1), np.sum(np.abs(terms), axis=1)
    sample = functools.partial(ev.line, rows=columns.rows)
    slopes = along(sample, [line.direction for line in lines], ev.x, center, eps, orders)
    ev.closeness = max(ev.closeness, _closeness(eps, slopes))
    modes = _modes(ev, columns, gradients, lines)
    size = _sizes(gradients, lines, modes)
    judged = {
        name: judge(mode, size, slopes, 1, eps, level, closeness=ev.closeness)
        for name, mode in modes.items()
    }
    return Tried(columns, center, gradients, lines, slopes, modes, judged)


def _others(
    ev: Evaluator,
    tried: Tried,
    outputs: np.ndarray,
    rows: list[int],
    group: list[Leaf],
    told: list[Finding],
) -> tuple[list[Finding], dict[str, str]]:
    """Try the leaves of a group again without those that are wrong."""
    blamed = {name for finding in told for name in finding.leaf.split(", ")}
    rest = [leaf for leaf in group if leaf.name not in blamed]
    kept = np.zeros(len(ev.x), bool)
    for leaf in rest:
        kept[leaf.cut] = True
    lines = [Line(np.where(kept, tried.lines[p].direction, 0), 0) for p in rows]
    if not np.any([line.direction for line in lines]):
        return [], {}
    again = _tried(ev, tried.columns, outputs, tried.gradients, lines)
    every = list(range(len(lines)))
    more = faults(ev, again, every, rest)
    state = "cannot tell" if more else _state(again.judged, every)
    return more, {leaf.name: state for leaf in rest}


def _state(judged: dict[str, Judged], rows: list[int]) -> str:
    """Right where every combination agrees, by every mode, on one line at the least."""
    for result in judged.values():
        if not np.all(np.any(result.resolved[rows], axis=0)):
            return "cannot tell"
    return "right" if judged else "cannot tell"


def _closeness(eps: float, slopes: Slopes) -> float:
    """Relative difference that is not called wrong: half of all digits, or f's own noise.

    A function of an inner solver is right to the solver's tolerance only, and so is its
    derivative; the tolerance shows as noise.
    """
    noise = slopes.noise[np.isfinite(slopes.noise)]
    seen = _NOISES * eps * float(np.max(noise, initial=0.0))
    return float(np.clip(seen, np.sqrt(eps), max(_CLOSEST, np.sqrt(eps))))


def _gradients(ev: Evaluator, columns: Columns) -> np.ndarray | None:
    """Gradients of as many combinations as memory holds; the others stay NaN-free zeros."""
    if ev.reverse is not None:
        return None
    return np.array([ev.vjp(row) for row in _held(ev, columns)])


def _held(ev: Evaluator, columns: Columns) -> np.ndarray:
    """The combinations whose gradients are formed: the last, which mix all outputs."""
    return columns.rows[-max(1, _HELD // len(ev.x)) :]


def _modes(
    ev: Evaluator, columns: Columns, gradients: np.ndarray | None, lines: list[Line]
) -> dict[str, np.ndarray]:
    """Slopes of the combinations along the lines by each available mode, shape (P, K)."""
    modes = {}
    if gradients is not None:
        known = np.array([gradients @ line.direction for line in lines])
        missing = len(columns.rows) - known.shape[1]
        if missing:  # told apart from wrong by standing in for what was not computed
            known = np.pad(known, ((0, 0), (missing, 0)), constant_values=np.nan)
        modes["reverse mode"] = known
    if ev.forward is None:
        pushed = np.array([ev.jvp(line.direction) for line in lines])
        with np.errstate(all="ignore"):
            modes["forward mode"] = np.array(
                [np.sum(np.where(columns.rows != 0, columns.rows * j, 0), 1) for j in pushed]
            )
    return modes


def _sizes(
    gradients: np.ndarray | None, lines: list[Line], modes: dict[str, np.ndarray]
) -> np.ndarray:
    """Sum of the sizes of the terms of each slope, shape (P, K) or (P, 1)."""
    if gradients is None:
        return np.abs(modes["forward mode"]) if modes else np.zeros((len(lines), 1))
    sums = np.array([np.abs(gradients) @ np.abs(line.direction) for line in lines])
    columns = next(iter(modes.values())).shape[1]
    return np.pad(sums, ((0, 0), (columns - sums.shape[1], 0)), mode="edge")


def _agreement(judged: dict[str, Judged], rows: list[int]) -> float:
    """How closely the best line of the worst combination agrees."""
    worst = 0.0
    for result in judged.values():
        best = np.min(np.where(result.resolved, result.agreement, np.inf)[rows], axis=0)
        worst = max(worst, float(np.max(best)))
    return worst if judged else float("inf")


def _dead(tried: Tried, rows: list[list[int]], groups: list[list[Leaf]]) -> list[str]:
    """Leaves that f does not depend on, neither by differences nor by autodiff."""
    names = []
    for mine, group in zip(rows, groups, strict=True):
        values = [tried.slopes.samples[p][1] for p in mine]
        still = all(np.all(sampled == sampled[:1]) for sampled in values)
        if still and all(np.all(mode[mine] == 0) for mode in tried.modes.values()):
            names += [leaf.name for leaf in group]
        elif tried.gradients is not None and len(group) > 1:
            names += [leaf.name for leaf in group if not np.any(tried.gradients[:, leaf.cut])]
    return names
