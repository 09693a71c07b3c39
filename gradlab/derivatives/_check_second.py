"""Second derivatives: Hessian products against differences of gradients, and of f itself.

Differences of the gradient are far sharper than second differences of f, but see only what
the gradient's program does; second differences of f see a gradient that is right at x and
wrong next to it. Where there is no reverse mode, slopes by forward mode stand in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gradlab.derivatives._check_differences import along, directions, entry_scale
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_first import First
from gradlab.derivatives._check_laws import Trial, asymmetry, by_values
from gradlab.derivatives._check_report import Finding
from gradlab.derivatives._check_search import Judged, judge
from gradlab.derivatives._check_second_faults import faults, faults_without_reverse

__all__ = ["Second", "check_second"]

# Combinations of outputs whose Hessian is looked at.
_COMBINATIONS = 2
# Up to this many groups of leaves are tried along two lines each, more along one.
_FEW_GROUPS = 6


class Second(NamedTuple):
    """What is known of the second derivatives; `states` and `agreement` go by group.

    `curvatures` holds d · H d of the last combination for the lines that were tried, by
    line.
    """

    findings: list[Finding]
    states: list[str]
    agreement: list[float]
    curvatures: dict[int, float]


def check_second(ev: Evaluator, first: First, rng: np.random.Generator) -> Second:
    """Compare the second derivatives with differences."""
    probe = np.zeros_like(ev.x)
    for leaf in ev.problem.inputs:
        if leaf.size:
            scale = entry_scale(ev.x[leaf.cut], relative=True)
            probe[leaf.cut] = directions(rng, leaf.size) * scale
    probe[first.nonfinite] = 0
    rows = _lines(first)
    findings: list[Finding] = []
    results: list[Judged] = []
    curvatures: dict[int, float] = {}
    count = len(first.columns.rows)
    for k in range(max(0, count - _COMBINATIONS), count):
        weights = first.columns.rows[k]
        if not np.any(weights):
            continue
        if ev.reverse is None:
            products = np.array([ev.hvp(weights, first.lines[p].direction) for p in rows])
            trial = Trial(weights, k, probe, rows, products)
            told, judged = _by_gradients(ev, first, trial)
            if not told:
                told = asymmetry(ev, first, trial) + by_values(ev, first, trial)
            pairs = zip(rows, products, strict=True)
            curvatures = {p: float(first.lines[p].direction @ h) for p, h in pairs}
        else:
            told, judged = _by_slopes(ev, first, weights, rows, probe)
        findings += told
        results.append(judged)
    groups = range(len(first.groups))
    states = [_state(first, g, rows, results, findings) for g in groups]
    agreement = [_agreement(first, g, rows, results) for g in groups]
    return Second(findings, states, agreement, curvatures)


def _lines(first: First) -> list[int]:
    """The first line of each group, or the first two."""
    most = 2 if len(first.groups) <= _FEW_GROUPS else 1
    kept: list[int] = []
    for p, line in enumerate(first.lines):
        if sum(first.lines[q].group == line.group for q in kept) < most:
            kept.append(p)
    return kept


def _by_gradients(ev: Evaluator, first: First, trial: Trial) -> tuple[list[Finding], Judged]:
    """Compare probe · H d, leaf by leaf, with differences of probe · gradient."""
    leaves, probe = ev.problem.inputs, trial.probe
    terms = np.where(probe != 0, probe * trial.products, 0)
    parts = np.where(probe != 0, probe * ev.vjp(trial.weights), 0)
    exact = np.array([[np.sum(t[leaf.cut]) for leaf in leaves] for t in terms])
    size = np.array([[np.sum(np.abs(t[leaf.cut])) for leaf in leaves] for t in terms])
    center = np.array([np.sum(parts[leaf.cut]) for leaf in leaves])
    level = np.array([np.sum(np.abs(parts[leaf.cut])) for leaf in leaves])

    def sample(direction: np.ndarray, steps: np.ndarray) -> np.ndarray:
        return ev.probes(direction, steps, trial.weights, probe)

    lines = [first.lines[p].direction for p in trial.rows]
    judged = _compared(ev, sample, lines, exact, size, center, level)
    if not np.any(judged.differs):
        return [], judged
    row, column = _worst(judged)
    told = faults(
        ev,
        first,
        trial,
        trial.rows[row],
        leaves[column],
        float(center[column]),
        float(level[column]),
    )
    return told, judged


def _by_slopes(
    ev: Evaluator, first: First, weights: np.ndarray, rows: list[int], probe: np.ndarray
) -> tuple[list[Finding], Judged]:
    """Compare probe · H d by forward mode alone with differences of the slope along probe."""
    lines = [first.lines[p].direction for p in rows]
    exact = np.array([[ev.curvature(weights, d, probe)] for d in lines])
    center = np.array([np.sum(weights * ev.jvp(probe))])

    def sample(direction: np.ndarray, steps: np.ndarray) -> np.ndarray:
        return ev.pushed(direction, steps, weights, probe)

    judged = _compared(ev, sample, lines, exact, np.abs(exact), center, np.abs(center))
    if not np.any(judged.differs):
        return [], judged
    direction = lines[_worst(judged)[0]]
    return faults_without_reverse(ev, weights, probe, direction, float(center[0])), judged


def _compared(
    ev: Evaluator,
    sample: Callable[[np.ndarray, np.ndarray], np.ndarray],
    lines: list[np.ndarray],
    exact: np.ndarray,
    size: np.ndarray,
    center: np.ndarray,
    level: np.ndarray,
) -> Judged:
    """Judge second derivatives along lines; NaN differs where the difference is smooth.

    A second derivative that is small beside the gradient is resolved by a bar that is.
    """
    eps = ev.problem.eps
    slopes = along(sample, lines, ev.x, center, eps)
    judged = judge(exact, size, slopes, 1, eps, level, 0.0, level, ev.closeness)
    lost = ~np.isfinite(exact) & (slopes.doubt[1] <= 1e-3) & np.isfinite(slopes.error[1])
    small = slopes.error[1] <= np.sqrt(eps) * level
    resolved = judged.resolved | (~judged.differs & np.isfinite(exact) & small)
    excess = np.where(lost, np.inf, judged.excess)
    return judged._replace(differs=judged.differs | lost, resolved=resolved, excess=excess)


def _worst(judged: Judged) -> tuple[int, int]:
    """Row and column of the gravest difference."""
    excess = np.where(judged.differs, judged.excess, 0)
    row, column = np.unravel_index(int(np.argmax(excess)), excess.shape)
    return int(row), int(column)


def _state(
    first: First, group: int, rows: list[int], results: list[Judged], findings: list[Finding]
) -> str:
    """Right where every sum agrees on one line of the group at the least."""
    names = {leaf.name for leaf in first.groups[group]}
    if any(set(f.leaf.split(", ")) & names for f in findings):
        return "wrong"
    if group in first.kinks:
        return "right"
    mine = [i for i, p in enumerate(rows) if first.lines[p].group == group]
    good = all(np.all(np.any(r.resolved[mine], axis=0)) for r in results)
    return "right" if good and results else "cannot tell"


def _agreement(first: First, group: int, rows: list[int], results: list[Judged]) -> float:
    """How closely the best line of the worst sum agrees."""
    mine = [i for i, p in enumerate(rows) if first.lines[p].group == group]
    worst = 0.0
    for result in results:
        agreed = np.where(result.resolved, result.agreement, np.inf)[mine]
        agreed = np.where(np.isnan(agreed), 0.0, agreed)
        worst = max(worst, float(np.max(np.min(agreed, axis=0), initial=0.0)))
    return worst if results else float("inf")
