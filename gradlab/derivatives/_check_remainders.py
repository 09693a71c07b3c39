"""Taylor remainders on the samples already taken, and their slopes over the trusted steps."""

from __future__ import annotations

import numpy as np

from gradlab.derivatives._check_first import First
from gradlab.derivatives._check_report import Remainder

__all__ = ["remainders"]

# A remainder this many times the rounding of f stands clear of it.
_CLEAR = 64.0
# Longest step trusted: well within the length over which the entries change by themselves.
_LONGEST = 2.0**-3
# Fewest steps, and octaves between them, that make a slope.
_FEWEST, _OCTAVES = 3, 1.5


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
