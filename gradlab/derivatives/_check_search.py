"""Hold automatic derivatives against differences along lines, and narrow a fault down.

A *subject* is any number that is linear in the direction: the slope of one output by one
mode, or one sum over a Hessian's column. Random lines first; where one fails, its direction
is cut in four again and again, O(log n) lines, until the entries are few enough to visit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gradlab.derivatives._check_differences import Slopes, along

__all__ = [
    "Entry",
    "Judged",
    "Subject",
    "close",
    "judge",
    "localise",
    "measured",
    "stands",
    "visit",
]

# A difference is off by more than its bar promises only by accident; twice is not.
_BARS = 2.0
# Roundings allowed to automatic differentiation itself, over the sum of the sizes of its
# terms: a long sum loses more than one.
_ROUNDINGS = 64.0
# Roundings allowed to it over the size of the function, which an exact difference of zero
# does not have: |z|² is differentiated through a square root.
_OF_VALUE = 8.0
# Measured rounding deviations that autodiff may be off.
_DEVIATIONS = 10.0
# A bar and a difference, as shares of the derivative, that need no further measurement.
_SMOOTH, _GROSS = 1e-9, 1e-3
# A bar above this share of the derivative, and of the function's variation, leaves open
# what the derivative is.
_DOUBT = 0.1
_PARTS, _FEW = 4, 8
# Branches of the search that are followed at once.
_BEAM = 2


class Subject(NamedTuple):
    """One number, linear in the direction, by automatic differentiation and by differences.

    Attributes:
        exact: From a direction to the automatic derivative.
        size: From a direction to the sum of the sizes of its terms.
        sample: From a direction and steps to values, shape (M, 1).
        center: Value at x.
        eps: Spacing of the arithmetic.
        level: Size of the terms the value is a sum of.
        closeness: Relative difference that is not called wrong.
        spread: From a direction to the rounding deviation of `exact`, or None.
    """

    exact: Callable[[np.ndarray], float]
    size: Callable[[np.ndarray], float]
    sample: Callable[[np.ndarray, np.ndarray], np.ndarray]
    center: float
    eps: float
    level: float
    closeness: float
    spread: Callable[[np.ndarray], float] | None = None


class Judged(NamedTuple):
    """Comparison of arrays of automatic derivatives with differences, elementwise.

    Attributes:
        differs: Off by more than both errors.
        resolved: Agrees, with a bar that says something.
        excess: Difference over what is allowed.
        agreement: (|difference| + bar) over the size of the derivative.
    """

    differs: np.ndarray
    resolved: np.ndarray
    excess: np.ndarray
    agreement: np.ndarray


class Entry(NamedTuple):
    """One entry of a direction: automatic derivative, difference, bar."""

    flat: int
    exact: float
    value: float
    error: float


def judge(
    exact: np.ndarray,
    size: np.ndarray,
    slopes: Slopes,
    order: int,
    eps: float,
    level: np.ndarray | float = 0.0,
    spread: np.ndarray | float = 0.0,
    insignificant: np.ndarray | float = 0.0,
    closeness: float = 0.0,
) -> Judged:
    """Compare; NaN in `exact` is neither a difference nor resolved.

    Automatic differentiation rounds terms as large as `size`, and as the function itself,
    `level`, since the directions change it by its own size; where that has been measured,
    its rounding deviation is `spread`. Differences below `closeness` of the derivative, or
    of `insignificant`, are an inner solver's tolerance.
    """
    value, error = slopes.value[order], slopes.error[order]
    with np.errstate(all="ignore"):
        gap = np.abs(exact - value)
        rounding = _ROUNDINGS * np.maximum(np.abs(exact), size) + _OF_VALUE * level
        allowed = _BARS * error + eps * rounding + _DEVIATIONS * spread
        differs = gap > allowed
        largest = np.maximum(np.maximum(np.abs(exact), np.abs(value)), size)
        clear = (error <= _DOUBT * largest) | (slopes.doubt[order] <= _DOUBT)
        dead = (exact == 0) & ((value == 0) | slopes.flat)
        kinked = slopes.kink & (order == 1)
        near = ~differs | (gap <= closeness * np.maximum(largest, insignificant))
        differs &= gap > closeness * insignificant
        known = (clear | kinked) & np.isfinite(error)
        resolved = dead | (near & np.isfinite(exact) & known)
        differs &= ~dead
        agreement = np.where(dead, 0.0, (gap + error) / np.maximum(largest, insignificant))
        return Judged(differs, resolved, gap / allowed, agreement)


def stands(subject: Subject, direction: np.ndarray, x: np.ndarray) -> bool:
    """Whether a line still differs when the rounding of autodiff has been measured."""
    return bool(_excess(subject, [direction], x)[0] > 1)


def localise(
    subject: Subject, direction: np.ndarray, x: np.ndarray
) -> tuple[list[Entry], np.ndarray]:
    """Find the entries of a direction along which the subject is wrong.

    Returns the entries, the worst first, and the smallest set of entries known to hold a
    fault (used where noise hides which).
    """
    sets = [np.flatnonzero(direction)]
    while sets and max(map(len, sets)) > _FEW:
        parts = [p for s in sets for p in (_split(s) if len(s) > _FEW else [s])]
        excess = _excess(subject, [_restricted(direction, p) for p in parts], x)
        failing = [i for i in np.argsort(-excess) if excess[i] > 1][:_BEAM]
        if not failing:
            return [], min(sets, key=len)
        sets = [parts[i] for i in failing]
    few = np.unique(np.concatenate(sets))
    return entries(subject, few, direction, x), few


def entries(
    subject: Subject, few: np.ndarray, direction: np.ndarray, x: np.ndarray
) -> list[Entry]:
    """Visit entries one by one and return those that differ, the worst first."""
    lines = [_restricted(direction, np.array([i])) for i in few]
    exact, size, slopes = _measure(subject, lines, x)
    judged = _judged(subject, lines, exact, size, slopes)
    typical = subject.size(direction) / np.count_nonzero(direction)
    found = []
    for row in np.argsort(-judged.excess[:, 0]):
        values = (exact[row, 0], slopes.value[1][row, 0], slopes.error[1][row, 0])
        if judged.differs[row, 0] and not close(
            values[0], values[1], typical, subject.closeness
        ):
            i = int(few[row])
            scaled = [float(v / direction[i]) for v in values]
            found.append(Entry(i, scaled[0], scaled[1], abs(scaled[2])))
    return found


def close(exact: float, value: float, typical: float, closeness: float) -> bool:
    """Whether two numbers share half of all digits, or more than noise leaves.

    The derivative of a value from an inner solver is right to the solver's tolerance, not
    to rounding; nobody plants a fault that small.
    """
    gap = abs(exact - value)
    return bool(gap <= closeness * max(abs(exact), abs(value), typical))


def visit(subject: Subject, index: int, scale: float, x: np.ndarray) -> Entry:
    """Measure one entry, right or wrong."""
    line = np.zeros_like(x)
    line[index] = scale
    exact, _, slopes = _measure(subject, [line], x)
    values = (exact[0, 0], slopes.value[1][0, 0], slopes.error[1][0, 0])
    scaled = [float(v / scale) for v in values]
    return Entry(index, scaled[0], scaled[1], abs(scaled[2]))


def measured(subject: Subject, direction: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """Derivative along a line by differences, and its bar."""
    slopes = along(subject.sample, [direction], x, np.array([subject.center]), subject.eps)
    return float(slopes.value[1][0, 0]), float(slopes.error[1][0, 0])


def _measure(
    subject: Subject, lines: list[np.ndarray], x: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Slopes]:
    slopes = along(subject.sample, lines, x, np.array([subject.center]), subject.eps)
    exact = np.array([[subject.exact(line)] for line in lines])
    size = np.array([[subject.size(line)] for line in lines])
    return exact, size, slopes


def _judged(
    subject: Subject,
    lines: list[np.ndarray],
    exact: np.ndarray,
    size: np.ndarray,
    slopes: Slopes,
) -> Judged:
    """Judge one subject along some lines.

    The rounding of autodiff takes long to measure. That is spared where nothing differs, or
    where the difference is plain: f is smooth to many digits, and the derivative has not
    even a few of them.
    """

    def judged(spread: np.ndarray | float) -> Judged:
        eps, level = subject.eps, subject.level
        return judge(exact, size, slopes, 1, eps, level, spread, 0.0, subject.closeness)

    first = judged(0.0)
    value, error = slopes.value[1], slopes.error[1]
    largest = np.maximum(np.maximum(np.abs(exact), np.abs(value)), size)
    plain = (error <= _SMOOTH * largest) & (np.abs(exact - value) > _GROSS * largest)
    if subject.spread is None or not np.any(first.differs & ~plain):
        return first
    return judged(np.array([[subject.spread(d)] for d in lines]))


def _excess(subject: Subject, lines: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    exact, size, slopes = _measure(subject, lines, x)
    excess = _judged(subject, lines, exact, size, slopes).excess[:, 0]
    return np.where(np.isnan(excess), 0.0, excess)


def _split(indices: np.ndarray) -> list[np.ndarray]:
    return [p for p in np.array_split(indices, _PARTS) if len(p)]


def _restricted(direction: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Keep only some entries of a direction."""
    line = np.zeros_like(direction)
    line[indices] = direction[indices]
    return line
