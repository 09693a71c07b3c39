"""Second derivatives: Hessian products against differences of gradients, and of f itself.

Differences of the gradient are far sharper than second differences of f, but see only what
the gradient's program does; second differences of f see a gradient that is right at x and
wrong next to it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gradlab.derivatives._check_differences import along, directions, entry_scale
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_first import First
from gradlab.derivatives._check_laws import Trial, asymmetry, by_values
from gradlab.derivatives._check_problem import Leaf
from gradlab.derivatives._check_pushed import by_pushing
from gradlab.derivatives._check_report import Finding, bracketed
from gradlab.derivatives._check_search import (
    Entry,
    Judged,
    Subject,
    close,
    judge,
    localise,
    stands,
)

__all__ = ["Second", "check_second"]

# Combinations of outputs whose Hessian is looked at.
_COMBINATIONS = 2
# Step at which candidates for the wrong row are picked; a ladder confirms them.
_PICK_STEP = 2.0**-13
_PICKED = 4
_TOLD = 4


class Second(NamedTuple):
    """What is known of the second derivatives; `states` and `agreement` go by group.

    `curvatures` holds d · H d of the first combination for the lines that were tried, by
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
    several = len(first.groups) <= 6
    rows = [p for p in range(len(first.lines)) if several or _is_first(first, p)]
    rows = [p for p in rows if not several or not _is_third(first, p)]
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
            with np.errstate(all="ignore"):
                curvatures = {
                    p: float(first.lines[p].direction @ h)
                    for p, h in zip(rows, products, strict=True)
                }
        else:
            told, judged = by_pushing(ev, first, k, rows, probe)
        findings += told
        results.append(judged)
    groups = range(len(first.groups))
    states = [_state(first, g, rows, results, findings) for g in groups]
    agreement = [_agreement(first, g, rows, results) for g in groups]
    return Second(findings, states, agreement, curvatures)


def _is_first(first: First, p: int) -> bool:
    return p == 0 or first.lines[p - 1].group != first.lines[p].group


def _is_third(first: First, p: int) -> bool:
    return p >= 2 and first.lines[p - 2].group == first.lines[p].group


def _by_gradients(ev: Evaluator, first: First, trial: Trial) -> tuple[list[Finding], Judged]:
    """Compare probe · H d, leaf by leaf, with differences of probe · gradient."""
    cuts = [leaf.cut for leaf in ev.problem.inputs]
    probe = trial.probe
    gradient = ev.vjp(trial.weights)
    with np.errstate(all="ignore"):
        gradient = np.where(probe != 0, gradient, 0)
        terms = np.where(probe != 0, probe * trial.products, 0)
        exact = np.array([[np.sum(t[c]) for c in cuts] for t in terms])
        size = np.array([[np.sum(np.abs(t[c])) for c in cuts] for t in terms])
        center = np.array([np.sum((probe * gradient)[c]) for c in cuts])
        level = np.array([np.sum(np.abs(probe * gradient)[c]) for c in cuts])
    slopes = along(
        lambda d, t: ev.probes(d, t, trial.weights, probe),
        [first.lines[p].direction for p in trial.rows],
        ev.x,
        center,
        ev.problem.eps,
    )
    judged = judge(exact, size, slopes, 1, ev.problem.eps, level, 0.0, level, ev.closeness)
    lost = ~np.isfinite(exact) & (slopes.doubt[1] <= 1e-3) & np.isfinite(slopes.error[1])
    small = slopes.error[1] <= np.sqrt(ev.problem.eps) * level[None]
    resolved = judged.resolved | (~judged.differs & np.isfinite(exact) & small)
    judged = judged._replace(resolved=resolved, differs=judged.differs | lost)
    excess = np.where(judged.differs, np.where(np.isfinite(exact), judged.excess, np.inf), 0)
    if not np.any(judged.differs):
        return [], judged
    row, column = np.unravel_index(int(np.argmax(excess)), excess.shape)
    return _narrowed(ev, first, trial, int(row), int(column), center, level), judged


def _narrowed(
    ev: Evaluator,
    first: First,
    trial: Trial,
    row: int,
    column: int,
    center: np.ndarray,
    level: np.ndarray,
) -> list[Finding]:
    """Find the column of the Hessian by cutting the direction, then its row."""
    leaf = ev.problem.inputs[column]
    probe, weights = trial.probe, trial.weights

    def exact(direction: np.ndarray) -> float:
        return float(np.sum((probe * ev.hvp(weights, direction))[leaf.cut]))

    def size(direction: np.ndarray) -> float:
        return abs(exact(direction))

    def sample(direction: np.ndarray, steps: np.ndarray) -> np.ndarray:
        return ev.probes(direction, steps, weights, probe)[:, column : column + 1]

    direction = first.lines[trial.rows[row]].direction
    inside = np.zeros_like(probe)
    inside[leaf.cut] = probe[leaf.cut]
    spread = ev.curvature_spread(weights, direction, inside)
    subject = Subject(
        exact,
        size,
        sample,
        float(center[column]),
        ev.problem.eps,
        float(level[column]),
        ev.closeness,
        lambda d: spread,
    )
    if not stands(subject, direction, ev.x) and np.isfinite(exact(direction)):
        return []
    found, few = localise(subject, direction, ev.x)
    output = first.columns.names[trial.combination] or ""
    if first.columns.names[trial.combination] is None:
        output = "a combination of the outputs"
    told = []
    for entry in found[:2]:
        told += _rows_of(ev, trial, entry, float(direction[entry.flat]), leaf, output)
    if told:
        return told[:_TOLD]
    if close(
        exact(direction), _difference(sample, direction, subject, ev)[0], 0.0, ev.closeness
    ):
        return []
    i = int(few[0])
    source = ev.problem.leaf_of(i)
    place = source.place(i) if len(few) == 1 else None
    numbers = exact(direction), *_difference(sample, direction, subject, ev)
    words = "along a random direction"
    return [
        Finding(source.name, place, output, 2, "autodiff", *numbers, words, other=leaf.name)
    ]


def _difference(
    sample: Any, direction: np.ndarray, subject: Subject, ev: Evaluator
) -> tuple[float, float]:
    """Derivative along a line and its bar."""
    slopes = along(sample, [direction], ev.x, np.array([subject.center]), subject.eps)
    return float(slopes.value[1][0, 0]), float(slopes.error[1][0, 0])


def _rows_of(
    ev: Evaluator, trial: Trial, entry: Entry, scale: float, leaf: Leaf, output: str
) -> list[Finding]:
    """Find the wrong rows within a leaf of one column of the Hessian."""
    x, i = ev.x, entry.flat
    line = np.zeros_like(x)
    line[i] = scale
    column = ev.hvp(trial.weights, line)
    ends = ev.picked(
        line, np.array([-_PICK_STEP, _PICK_STEP]), trial.weights, np.arange(len(x))
    )
    with np.errstate(all="ignore"):
        gap = np.abs((ends[1] - ends[0]) / (2 * _PICK_STEP) - column)
        gap = np.where(np.isnan(column), np.inf, np.where(np.isnan(gap), 0, gap))
    inside = np.arange(leaf.cut.start, leaf.cut.stop)
    worst = inside[np.argsort(-gap[inside])][:_PICKED]
    center = ev.vjp(trial.weights)[worst]
    slopes = along(
        lambda d, t: ev.picked(d, t, trial.weights, worst), [line], x, center, ev.problem.eps
    )
    level = np.abs(center)  # a gradient, changed by its own size
    judged = judge(
        column[worst][None], np.abs(column[worst])[None], slopes, 1, ev.problem.eps, level
    )
    source = ev.problem.leaf_of(i)
    told = []
    for j in range(len(worst)):
        exact = float(column[worst[j]] / scale)
        value, bar = slopes.value[1][0, j] / scale, slopes.error[1][0, j] / abs(scale)
        same = close(exact, float(value), 0.0, ev.closeness)
        if (judged.differs[0, j] and not same) or not np.isfinite(exact):
            other = leaf.name + bracketed(leaf.place(int(worst[j])))
            told.append(
                Finding(
                    source.name,
                    source.place(i),
                    output,
                    2,
                    "autodiff",
                    exact,
                    float(value),
                    float(bar),
                    _cause(exact, float(value), i == int(worst[j])),
                    other,
                )
            )
    return told


def _cause(exact: float, value: float, diagonal: bool) -> str:
    """Name what is wrong with one entry of the Hessian."""
    from gradlab.derivatives._check_causes import factor_words

    place = "" if diagonal else "off-diagonal"
    if not np.isfinite(exact):
        words = "only at second order: not finite"
    elif exact == 0:
        words = "only at second order: autodiff gives exactly zero"
    else:
        words = factor_words(exact / value if value else np.inf, ())
        words = "only at second order" + (f": {words}" if words else "")
    return f"{words}, {place}" if place else words


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
