"""Narrow a wrong second derivative down to its two variables."""

from __future__ import annotations

import numpy as np

from gradlab.derivatives._check_causes import factor_words
from gradlab.derivatives._check_differences import along
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_first import First
from gradlab.derivatives._check_laws import Trial
from gradlab.derivatives._check_problem import Leaf
from gradlab.derivatives._check_report import Finding, bracketed
from gradlab.derivatives._check_search import (
    Entry,
    Subject,
    close,
    judge,
    localise,
    measured,
    stands,
)

__all__ = ["faults", "faults_without_reverse"]

# Step at which candidates for the wrong row are picked; a ladder confirms them.
_PICK_STEP = 2.0**-13
_PICKED = 4
_TOLD = 4


def faults(
    ev: Evaluator,
    first: First,
    trial: Trial,
    line: int,
    leaf: Leaf,
    center: float,
    level: float,
) -> list[Finding]:
    """Find the wrong columns of the Hessian by cutting a line, then their rows in a leaf.

    `center` is the sum of probe × gradient over the leaf at x, `level` that of its sizes.
    """
    probe, weights = np.zeros_like(trial.probe), trial.weights
    probe[leaf.cut] = trial.probe[leaf.cut]
    number = ev.problem.inputs.index(leaf)

    def exact(direction: np.ndarray) -> float:
        return float(np.sum((probe * ev.hvp(weights, direction))[leaf.cut]))

    def sample(direction: np.ndarray, steps: np.ndarray) -> np.ndarray:
        return ev.probes(direction, steps, weights, probe)[:, number : number + 1]

    direction = first.lines[line].direction
    spread = ev.curvature_spread(weights, direction, probe)
    subject = Subject(
        exact,
        lambda d: abs(exact(d)),
        sample,
        center,
        ev.problem.eps,
        level,
        ev.closeness,
        lambda d: spread,
    )
    number_there = exact(direction)
    if not stands(subject, direction, ev.x) and np.isfinite(number_there):
        return []
    found, few = localise(subject, direction, ev.x)
    name = first.columns.names[trial.combination]
    output = "a combination of the outputs" if name is None else name
    told = []
    for entry in found[:2]:
        told += _rows_of(ev, trial, entry, float(direction[entry.flat]), leaf, output)
    if told:
        return told[:_TOLD]
    value, bar = measured(subject, direction, ev.x)
    if close(number_there, value, 0.0, ev.closeness):
        return []
    source = ev.problem.leaf_of(int(few[0]))
    place = source.place(int(few[0])) if len(few) == 1 else None
    numbers, words = (number_there, value, bar), "only at second order, along a random line"
    if not np.isfinite(number_there):
        words = "only at second order: not finite"
    return [
        Finding(source.name, place, output, 2, "autodiff", *numbers, words, other=leaf.name)
    ]


def faults_without_reverse(
    ev: Evaluator, weights: np.ndarray, probe: np.ndarray, direction: np.ndarray, center: float
) -> list[Finding]:
    """Find the wrong entries of H probe, by forward mode alone, by cutting a line."""

    def exact(direction: np.ndarray) -> float:
        return ev.curvature(weights, direction, probe)

    spread = ev.curvature_spread(weights, direction, probe)
    subject = Subject(
        exact,
        lambda d: abs(exact(d)),
        lambda d, t: ev.pushed(d, t, weights, probe),
        center,
        ev.problem.eps,
        abs(center),
        ev.closeness,
        lambda d: spread,
    )
    if not stands(subject, direction, ev.x):
        return []
    found, few = localise(subject, direction, ev.x)
    index = found[0].flat if found else int(few[0])
    entry = (
        found[0]
        if found
        else Entry(index, exact(direction), *measured(subject, direction, ev.x))
    )
    leaf = ev.problem.leaf_of(index)
    place = leaf.place(index) if found else None
    numbers, words = (entry.exact, entry.value, entry.error), "only at second order"
    return [
        Finding(leaf.name, place, "", 2, "forward mode", *numbers, words, "a random direction")
    ]


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
    place = "" if diagonal else "off-diagonal"
    if not np.isfinite(exact):
        words = "only at second order: not finite"
    elif exact == 0:
        words = "only at second order: autodiff gives exactly zero"
    else:
        words = factor_words(exact / value if value else np.inf, ())
        words = "only at second order" + (f": {words}" if words else "")
    return f"{words}, {place}" if place else words
