"""What holds of every right derivative.

A Hessian is symmetric, and f itself curves as it says; Taylor remainders fall as t² and t³.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_first import First
from gradlab.derivatives._check_report import Finding, Remainder

__all__ = ["Trial", "asymmetry", "by_values", "remainders"]

# Second differences of f are blunt: what they say alone must be gross, and said twice.
_GROSS = 1e-2
# Roundings of the gradient's terms that two products may differ by.
_ROUNDINGS = 64.0
# A remainder this many times the rounding of f stands clear of it.
_CLEAR = 64.0
# Longest step trusted: well within the length over which the entries change by themselves.
_LONGEST = 2.0**-3
# Fewest steps, and octaves between them, that make a slope.
_FEWEST, _OCTAVES = 3, 1.5


class Trial(NamedTuple):
    """Hessian products of one combination of outputs along some lines."""

    weights: np.ndarray
    combination: int
    probe: np.ndarray
    rows: list[int]
    products: np.ndarray  # (rows, n)


def asymmetry(ev: Evaluator, first: First, trial: Trial) -> list[Finding]:
    """Compare d · H e with e · H d."""
    lines = [first.lines[p].direction for p in trial.rows]
    eps = ev.problem.eps
    gradient = np.abs(_finite(ev.vjp(trial.weights)))
    for a in range(len(lines)):
        for b in range(a):
            one_way, other_way = lines[a] * trial.products[b], lines[b] * trial.products[a]
            with np.errstate(all="ignore"):
                left, right = np.sum(one_way), np.sum(other_way)
                size = np.sum(np.abs(one_way)) + np.sum(np.abs(other_way))
                level = gradient @ (np.abs(lines[a]) + np.abs(lines[b]))
            bar = ev.closeness * size + _ROUNDINGS * eps * level
            if abs(left - right) > bar:
                one, other = (first.groups[first.lines[trial.rows[i]].group] for i in (a, b))
                numbers = float(left), float(right), float(bar)
                words = "the Hessian is not symmetric"
                return [
                    Finding(
                        ", ".join(g.name for g in one),
                        None,
                        "",
                        2,
                        "symmetry",
                        *numbers,
                        words,
                        ", ".join(g.name for g in other),
                    )
                ]
    return []


def by_values(ev: Evaluator, first: First, trial: Trial) -> list[Finding]:
    """Compare d · H d with second differences of f; two lines of a group must differ."""
    value, error = (part[2][:, trial.combination] for part in first.slopes[:2])
    lines = [first.lines[p].direction for p in trial.rows]
    with np.errstate(all="ignore"):
        exact = np.array([d @ h for d, h in zip(lines, trial.products, strict=True)])
        size = np.array(
            [np.abs(d) @ np.abs(h) for d, h in zip(lines, trial.products, strict=True)]
        )
    told = []
    for number, group in enumerate(first.groups):
        mine = [i for i, p in enumerate(trial.rows) if first.lines[p].group == number]
        differing = []
        for i in mine:
            p = trial.rows[i]
            gap = abs(exact[i] - value[p])
            gross = gap > _GROSS * max(size[i], abs(value[p]))
            if gap > 4 * error[p] and gross and not first.slopes.kink[p].any():
                differing.append(i)
        if len(differing) == len(mine) and differing and first.states[number] != "wrong":
            i = differing[0]
            p = trial.rows[i]
            told.append(
                Finding(
                    ", ".join(leaf.name for leaf in group),
                    None,
                    first.columns.names[trial.combination] or "",
                    2,
                    "autodiff",
                    float(exact[i]),
                    float(value[p]),
                    float(error[p]),
                    "only at second order: the gradient is right at this point alone",
                )
            )
    return told


def remainders(
    first: First, curvatures: dict[int, float], column: int, eps: float
) -> tuple[Remainder, ...]:
    """Remainders of one combination of outputs, along the first line of every group."""
    made, seen = [], set()
    for p, line in enumerate(first.lines):
        if line.group in seen:
            continue
        seen.add(line.group)
        steps, values = first.slopes.samples[p]
        positive = (steps > 0) & np.isfinite(values[:, column])
        steps, values = steps[positive], values[positive, column]
        center = float(first.center[column])
        noise = eps * max(
            abs(center), float(np.max(np.abs(values), initial=0.0, where=steps <= 1))
        )
        noise *= max(1.0, float(first.slopes.noise[p, column]))
        terms = {1: values - center - steps * first.exact[p, column]}
        if p in curvatures:
            terms[2] = terms[1] - steps**2 * curvatures[p] / 2
        sizes = {order: np.abs(term) for order, term in terms.items()}
        trusted = {
            order: (r > _CLEAR * noise) & (steps <= _LONGEST) for order, r in sizes.items()
        }
        slopes = {
            order: _slope(steps[trusted[order]], r[trusted[order]])
            for order, r in sizes.items()
        }
        names = ", ".join(leaf.name for leaf in first.groups[line.group])
        made.append(Remainder(names, steps, sizes, noise, slopes, trusted))
    return tuple(made)


def _slope(steps: np.ndarray, sizes: np.ndarray) -> float:
    """Least-squares slope in logarithms."""
    if len(steps) < _FEWEST:
        return float("nan")
    t = np.log2(steps)
    if t[-1] - t[0] < _OCTAVES:
        return float("nan")
    t = t - t.mean()
    return float(t @ np.log2(sizes) / (t @ t))


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 0)
