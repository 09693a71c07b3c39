"""First derivatives: both modes against differences, leaf by leaf."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from gradlab.derivatives._check_causes import explain
from gradlab.derivatives._check_differences import Slopes, along
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_lines import Columns, Line, make_columns, make_lines
from gradlab.derivatives._check_problem import Leaf
from gradlab.derivatives._check_report import Finding
from gradlab.derivatives._check_search import Entry, Judged, Subject, judge, localise, stands

__all__ = ["First", "check_first", "group_states"]

# Entries of the gradients of all combinations that are held at once.
_HELD = 2**24
# Noise levels that a derivative may be off, and the most that is excused in this way.
_NOISES, _CLOSEST = 64.0, 1e-5
# Rounding of autodiff, as a share of the sizes of its terms, that leaves it right.
_SMALL = 1e-2
# Entries of one fault that are told.
_TOLD = 5


class First(NamedTuple):
    """What is known of the first derivatives.

    Attributes:
        findings: What is wrong.
        states: For each group of leaves "right", "wrong" or "cannot tell".
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
    center = ev.value()
    columns = make_columns(problem, center, rng)
    gradients = _gradients(ev, columns)
    nonfinite = np.zeros(len(ev.x), bool)
    if gradients is not None:
        nonfinite = ~np.all(np.isfinite(gradients), axis=0)
        gradients = np.where(np.isfinite(gradients), gradients, 0)
    typical = None if gradients is None else np.sum(np.abs(gradients), axis=0)
    lines, groups = make_lines(problem, typical, rng)
    for line in lines:
        line.direction[nonfinite] = 0
    weighted = _weighted(columns, center)
    slopes = along(
        functools.partial(_rows, ev, columns.rows),
        [line.direction for line in lines],
        ev.x,
        weighted,
        problem.eps,
        tuple(range(1, order + 1)),
    )
    modes = _modes(ev, columns, gradients, lines)
    size = _sizes(gradients, lines, modes)
    level = np.sum(np.abs(np.where(columns.rows != 0, columns.rows * center, 0)), axis=1)
    ev.closeness = _closeness(problem.eps, slopes)
    judged = {
        name: judge(m, size, slopes, 1, problem.eps, level, closeness=ev.closeness)
        for name, m in modes.items()
    }
    findings, states = [], []
    for number, group in enumerate(groups):
        rows = [p for p, line in enumerate(lines) if line.group == number]
        mine = _findings(ev, columns, weighted, gradients, lines, rows, judged, modes, group)
        findings += mine
        states.append("wrong" if mine else group_states(judged, rows))
    agreement = [_agreement(judged, lines, g) for g in range(len(groups))]
    kinks = [
        g
        for g in range(len(groups))
        if any(slopes.kink[p].any() for p, line in enumerate(lines) if line.group == g)
    ]
    noisy = [
        float(max(np.max(slopes.noise[p]) for p, line in enumerate(lines) if line.group == g))
        for g in range(len(groups))
    ]
    dead = _dead(slopes, modes, lines, groups, gradients)
    return First(
        findings,
        states,
        agreement,
        groups,
        lines,
        columns,
        slopes,
        gradients,
        nonfinite,
        dead,
        kinks,
        noisy,
        weighted,
        next(iter(modes.values()), np.full((len(lines), len(weighted)), np.nan)),
    )


def group_states(judged: dict[str, Judged], rows: list[int]) -> str:
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


def _weighted(columns: Columns, center: np.ndarray) -> np.ndarray:
    return np.sum(np.where(columns.rows != 0, columns.rows * center, 0), axis=1)


def _rows(
    ev: Evaluator, rows: np.ndarray, direction: np.ndarray, steps: np.ndarray
) -> np.ndarray:
    return ev.line(direction, steps, rows)


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


def _agreement(judged: dict[str, Judged], lines: list[Line], group: int) -> float:
    """How closely the best line of the worst combination agrees."""
    rows = [p for p, line in enumerate(lines) if line.group == group]
    worst = 0.0
    for result in judged.values():
        best = np.min(np.where(result.resolved, result.agreement, np.inf)[rows], axis=0)
        worst = max(worst, float(np.max(best)))
    return worst if judged else float("inf")


def _dead(
    slopes: Slopes,
    modes: dict[str, np.ndarray],
    lines: list[Line],
    groups: list[list[Leaf]],
    gradients: np.ndarray | None,
) -> list[str]:
    """Leaves that f does not depend on, neither by differences nor by autodiff."""
    names = []
    for number, group in enumerate(groups):
        rows = [p for p, line in enumerate(lines) if line.group == number]
        still = all(np.all(slopes.samples[p][1] == slopes.samples[p][1][:1]) for p in rows)
        if still and all(np.all(mode[rows] == 0) for mode in modes.values()):
            names += [leaf.name for leaf in group]
        elif gradients is not None and len(group) > 1:
            names += [g.name for g in group if not np.any(gradients[:, g.cut])]
    return names


def _findings(
    ev: Evaluator,
    columns: Columns,
    weighted: np.ndarray,
    gradients: np.ndarray | None,
    lines: list[Line],
    rows: list[int],
    judged: dict[str, Judged],
    modes: dict[str, np.ndarray],
    group: list[Leaf],
) -> list[Finding]:
    """Narrow down and confirm the faults of one group of leaves."""
    found: list[Finding] = []
    seen: set[tuple[int, int]] = set()
    for name, result in judged.items():
        failing = np.argwhere(result.differs[rows])
        if not len(failing):
            continue
        excess = np.array([result.excess[rows[p], k] for p, k in failing])
        p, k = failing[int(np.argmax(excess))]
        row = rows[int(p)]
        k = int(k)
        subject = _subject(ev, columns, weighted, gradients, name, k)
        if not stands(subject, lines[row].direction, ev.x):
            _excuse(subject, result, [(rows[int(p)], int(k)) for p, k in failing], lines)
            continue
        told, _ = localise(subject, lines[row].direction, ev.x)
        both = _same_fault(judged, modes, row, k)
        for entry in told[:_TOLD]:
            if (entry.flat, k) not in seen:
                seen.add((entry.flat, k))
                found.append(_finding(ev, subject, columns, k, entry, both or name, gradients))
        gross = not result.resolved[row, k]
        if not told and gross and len({int(q) for q, _ in failing}) > 1:
            found.append(_unplaced(group, columns, lines, row, k, name, modes, subject, ev.x))
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


def _same_fault(
    judged: dict[str, Judged], modes: dict[str, np.ndarray], row: int, k: int
) -> str:
    """Return "autodiff" where both modes say the same wrong thing, else an empty string."""
    if len(modes) < 2 or not all(result.differs[row, k] for result in judged.values()):
        return ""
    reverse, forward = (mode[row, k] for mode in modes.values())
    return "autodiff" if abs(reverse - forward) <= 1e-6 * abs(reverse) else ""


def _subject(
    ev: Evaluator,
    columns: Columns,
    weighted: np.ndarray,
    gradients: np.ndarray | None,
    mode: str,
    k: int,
) -> Subject:
    """One combination of the outputs, by one mode."""
    row = columns.rows[k]
    gradient = None
    if gradients is not None:
        offset = k - (len(columns.rows) - len(gradients))
        gradient = gradients[offset] if offset >= 0 else ev.vjp(row)

    def pushed(direction: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            return float(np.sum(np.where(row != 0, row * ev.jvp(direction), 0)))

    def pulled(direction: np.ndarray) -> float:
        assert gradient is not None
        return float(gradient @ direction)

    def size(direction: np.ndarray) -> float:
        return 0.0 if gradient is None else float(np.abs(gradient) @ np.abs(direction))

    spreads: list[np.ndarray] = []

    def spread(direction: np.ndarray) -> float:
        if not spreads and gradient is not None:
            spreads.append(ev.gradient_spread(row))
        elif not spreads:  # asked first of the longest line, whose parts err less
            spreads.append(np.array(ev.slope_spread(row, direction)))
        if gradient is None:
            return float(spreads[0])
        # Errors of the entries may have one source, and add up.
        return float(spreads[0] @ np.abs(direction))

    return Subject(
        pulled if mode == "reverse mode" else pushed,
        size,
        functools.partial(_rows, ev, row[None]),
        float(weighted[k]),
        ev.problem.eps,
        abs(float(weighted[k])),
        ev.closeness,
        spread,
    )


def _finding(
    ev: Evaluator,
    subject: Subject,
    columns: Columns,
    k: int,
    entry: Entry,
    check: str,
    gradients: np.ndarray | None,
) -> Finding:
    """Name the entry, the output and the cause."""
    leaf = ev.problem.leaf_of(entry.flat)
    name = columns.names[k]
    cause = explain(ev, subject, entry)
    return Finding(
        leaf.name,
        leaf.place(entry.flat),
        "a combination of the outputs" if name is None else name,
        1,
        check,
        entry.exact,
        entry.value,
        entry.error,
        cause,
    )


def _unplaced(
    group: list[Leaf],
    columns: Columns,
    lines: list[Line],
    row: int,
    k: int,
    check: str,
    modes: dict[str, np.ndarray],
    subject: Subject,
    x: np.ndarray,
) -> Finding:
    """A fault that several lines show and no single entry."""
    slopes = along(
        subject.sample, [lines[row].direction], x, np.array([subject.center]), subject.eps
    )
    return Finding(
        ", ".join(leaf.name for leaf in group),
        None,
        columns.names[k] or "",
        1,
        check,
        float(modes[check][row, k]),
        float(slopes.value[1][0, 0]),
        float(slopes.error[1][0, 0]),
        "along a random direction; no single entry stands out",
    )
