"""Narrow a wrong first derivative down to its entries, and say what they should be."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from gradlab.derivatives._check_causes import explain
from gradlab.derivatives._check_differences import Slopes
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_lines import Columns, Line
from gradlab.derivatives._check_problem import Leaf
from gradlab.derivatives._check_report import Finding
from gradlab.derivatives._check_search import Entry, Judged, Subject, localise, measured, stands

__all__ = ["Tried", "faults"]

# Rounding of autodiff, as a share of the sizes of its terms, that leaves it right.
_SMALL = 1e-2
# Entries of one fault that are told.
_TOLD = 5


class Tried(NamedTuple):
    """K combinations of the outputs along P lines.

    Attributes:
        columns, center: The combinations, and their values at x, shape (K,).
        gradients: Reverse-mode gradients of the last of them, or None.
        lines: The lines.
        slopes: Slopes by differences.
        modes: Slopes by each mode of autodiff, shape (P, K).
        judged: The comparison, by mode.
    """

    columns: Columns
    center: np.ndarray
    gradients: np.ndarray | None
    lines: list[Line]
    slopes: Slopes
    modes: dict[str, np.ndarray]
    judged: dict[str, Judged]


def faults(ev: Evaluator, tried: Tried, rows: list[int], group: list[Leaf]) -> list[Finding]:
    """Narrow down and confirm the faults of one group of leaves, moved by some lines."""
    found: list[Finding] = []
    seen: set[tuple[int, int]] = set()
    for mode, result in tried.judged.items():
        failing = [(rows[p], int(k)) for p, k in np.argwhere(result.differs[rows])]
        if not failing:
            continue
        row, k = max(failing, key=lambda place: float(result.excess[place]))
        direction = tried.lines[row].direction
        subject = _subject(ev, tried, mode, k)
        if not stands(subject, direction, ev.x):
            _excuse(subject, result, failing, tried.lines)
            continue
        told, _ = localise(subject, direction, ev.x)
        check = "autodiff" if _in_both_modes(tried, row, k) else mode
        for entry in told[:_TOLD]:
            if (entry.flat, k) not in seen:
                seen.add((entry.flat, k))
                found.append(_finding(ev, subject, tried.columns.names[k], entry, check))
        several = len({p for p, _ in failing}) > 1
        if not told and several and not result.resolved[row, k]:
            found.append(_unplaced(ev, subject, tried, row, k, mode, group))
    return found


def _excuse(
    subject: Subject, result: Judged, failing: list[tuple[int, int]], lines: list[Line]
) -> None:
    """Count lines as resolved whose difference is autodiff's rounding, and small."""
    for p, k in failing:
        direction = lines[p].direction
        spread = subject.spread(direction) if subject.spread else np.inf
        if spread <= _SMALL * max(subject.size(direction), abs(subject.exact(direction))):
            result.resolved[p, k] = True


def _in_both_modes(tried: Tried, row: int, k: int) -> bool:
    """Whether both modes say the same wrong thing."""
    if len(tried.modes) < 2 or not all(r.differs[row, k] for r in tried.judged.values()):
        return False
    reverse, forward = (mode[row, k] for mode in tried.modes.values())
    return bool(abs(reverse - forward) <= 1e-6 * abs(reverse))


def _subject(ev: Evaluator, tried: Tried, mode: str, k: int) -> Subject:
    """One combination of the outputs, by one mode."""
    row, gradient = tried.columns.rows[k], None
    if tried.gradients is not None:
        offset = k - (len(tried.columns.rows) - len(tried.gradients))
        gradient = tried.gradients[offset] if offset >= 0 else ev.vjp(row)

    def pushed(direction: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            return float(np.sum(np.where(row != 0, row * ev.jvp(direction), 0)))

    def pulled(direction: np.ndarray) -> float:
        assert gradient is not None
        return float(gradient @ direction)

    def size(direction: np.ndarray) -> float:
        return 0.0 if gradient is None else float(np.abs(gradient) @ np.abs(direction))

    spreads: list[float] = []

    def spread(direction: np.ndarray) -> float:
        if gradient is not None:  # errors of the entries may have one source, and add up
            return float(ev.gradient_spread(row) @ np.abs(direction))
        if not spreads:  # asked first of the longest line, whose parts err less
            spreads.append(ev.slope_spread(row, direction))
        return spreads[0]

    return Subject(
        pulled if mode == "reverse mode" else pushed,
        size,
        functools.partial(ev.line, rows=row[None]),
        float(tried.center[k]),
        ev.problem.eps,
        abs(float(tried.center[k])),
        ev.closeness,
        spread,
    )


def _finding(
    ev: Evaluator, subject: Subject, output: str | None, entry: Entry, check: str
) -> Finding:
    """Name the entry, the output and the cause."""
    leaf = ev.problem.leaf_of(entry.flat)
    return Finding(
        leaf.name,
        leaf.place(entry.flat),
        "a combination of the outputs" if output is None else output,
        1,
        check,
        entry.exact,
        entry.value,
        entry.error,
        explain(ev, subject, entry),
    )


def _unplaced(
    ev: Evaluator,
    subject: Subject,
    tried: Tried,
    row: int,
    k: int,
    mode: str,
    group: list[Leaf],
) -> Finding:
    """A fault that several lines show and no single entry."""
    return Finding(
        ", ".join(leaf.name for leaf in group),
        None,
        tried.columns.names[k] or "",
        1,
        mode,
        float(tried.modes[mode][row, k]),
        *measured(subject, tried.lines[row].direction, ev.x),
        "along a random direction; no single entry stands out",
    )
