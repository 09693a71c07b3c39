"""From what the parts of a check have seen to one report."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradlab.derivatives import _check_consistency as consistency
from gradlab.derivatives._check_digits import digit_notes, leaf_digits
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_first import First
from gradlab.derivatives._check_lines import unit
from gradlab.derivatives._check_nonfinite import nonfinite_cause, value_cause
from gradlab.derivatives._check_problem import Leaf, Problem
from gradlab.derivatives._check_program import out_of_range
from gradlab.derivatives._check_remainders import remainders
from gradlab.derivatives._check_report import CheckReport, Finding, LeafVerdict, merged
from gradlab.derivatives._check_search import Subject, visit
from gradlab.derivatives._check_second import Second

__all__ = ["make_report"]

# Noise this many times the rounding of f is worth a word.
_NOTABLE_NOISE = 256.0
# A bar of this share of the derivative is short.
_SHORT = 1e-3


def make_report(
    ev: Evaluator,
    given: Problem,
    first: First,
    second: Second | None,
    elsewhere: list[Finding],
    notes: list[str],
    order: int,
) -> CheckReport:
    """Put findings, verdicts and notes together."""
    findings = [*nonfinite_findings(ev, given, first), *first.findings]
    findings += elsewhere
    if second is not None:
        named = {name for f in findings for name in f.leaf.split(", ")}
        findings += [f for f in second.findings if not named & set(f.leaf.split(", "))]
    leaves = _leaf_verdicts(first, second, findings, order)
    states = [leaf.verdict for leaf in leaves]
    verdict = "wrong" if findings else merged(states)
    digits = {}
    if first.gradients is not None and not np.any(first.nonfinite):
        digits = leaf_digits(ev, given, first.columns.rows[-1], first.gradients[-1])
    modes = [*digit_notes(digits, given), *_mode_notes(ev), *_output_notes(ev, first)]
    curves = remainders(
        first, second.curvatures if second else {}, len(first.center) - 1, ev.problem.eps
    )
    return CheckReport(
        verdict,
        tuple(findings),
        tuple(leaves),
        (*ev.problem.notes, *modes, *notes, *out_of_range(ev.problem)),
        curves,
        order,
        min(digits.values(), default=float("nan")),
        ev.calls,
    )


def nonfinite_findings(ev: Evaluator, given: Problem, first: First) -> list[Finding]:
    """One finding for each leaf with a derivative that is NaN or infinite."""
    bad, gradient, weights = first.nonfinite, None, first.columns.rows[-1]
    if not np.any(bad) and ev.problem.wide and ev.reverse is None:
        gradient = consistency.given_gradient(given, weights)
        bad = bad if gradient is None else ~np.isfinite(gradient)
    if not np.any(bad):
        return []
    if gradient is not None:
        cause = f"not finite in {given.inputs[0].dtype}, finite in float64"
    else:
        cause = ""
        for row in first.columns.rows:
            if np.any(~np.isfinite(ev.vjp(row))):
                cause = nonfinite_cause(ev, row)
                weights = row
                break
        gradient = ev.vjp(weights)
    leaves = [leaf for leaf in ev.problem.inputs if np.any(bad[leaf.cut])]
    found = [_nonfinite(ev, first, leaf, gradient, weights, cause) for leaf in leaves]
    # An infinite slope that differences cannot contradict may be the truth, as sqrt's at 0.
    return [f for f in found if not np.isinf(f.autodiff) or f.bar <= abs(f.difference)]


def _nonfinite(
    ev: Evaluator, first: First, leaf: Leaf, gradient: Any, weights: Any, cause: str
) -> Finding:
    """Measure what the derivative should be where it is not finite."""
    inside = ~np.isfinite(gradient[leaf.cut])
    i = leaf.cut.start + int(np.argmax(inside))
    center = float(np.sum(np.where(weights != 0, weights * ev.value(), 0)))
    subject = Subject(
        lambda d: 0.0,
        lambda d: 0.0,
        lambda d, t: ev.line(d, t, weights[None]),
        center,
        ev.problem.eps,
        abs(center),
        ev.closeness,
    )
    entry = visit(subject, i, float(unit(ev.x, leaf, i)[i]), ev.x)
    count = int(np.sum(inside))
    cause = f"{cause} ({count} entries)" if count > 1 else cause
    return Finding(
        leaf.name,
        leaf.place(i),
        "",
        1,
        "reverse mode",
        float(gradient[i]),
        entry.value,
        entry.error,
        cause,
    )


def _leaf_verdicts(
    first: First, second: Second | None, findings: list[Finding], order: int
) -> list[LeafVerdict]:
    """Give every leaf its verdict."""
    blamed = {name for f in findings for name in f.leaf.split(", ")}
    made = []
    for g, group in enumerate(first.groups):
        states = [first.states[g]] + ([second.states[g]] if second else [])
        agreement = {1: first.agreement[g]}
        if order == 2:
            agreement[2] = second.agreement[g] if second else float("inf")
            if second is None:
                states.append("cannot tell")
        for leaf in group:
            if leaf.name in blamed:
                state = "wrong"
            elif "wrong" in states:
                state = "cannot tell" if len(group) > 1 else merged(states)
            else:
                state = merged(states)
            if np.any(first.nonfinite[leaf.cut]) and state == "right":
                state = "cannot tell"
            note = _leaf_note(first, g, leaf, state)
            made.append(LeafVerdict(leaf.name, leaf.shape, state, agreement, note))
    return made


def _leaf_note(first: First, group: int, leaf: Leaf, state: str) -> str:
    """Say what else is to be said about a leaf."""
    words = []
    if leaf.name in first.dead:
        words.append("f does not depend on it here")
    if group in first.kinks:
        words.append("a kink at this point: autodiff lies between the two slopes")
    if np.any(first.nonfinite[leaf.cut]):
        words.append("autodiff is NaN or infinite here")
    elif state == "cannot tell":
        words.append(_why(first, group))
    return "; ".join(words)


def _why(first: First, group: int) -> str:
    """Say how large the noise or the bar is that hides the derivative."""
    rows = [p for p, line in enumerate(first.lines) if line.group == group]
    with np.errstate(all="ignore"):
        size = np.maximum(np.abs(first.slopes.value[1][rows]), np.abs(first.exact[rows]))
        share = np.nanmin(np.nanmax(first.slopes.error[1][rows] / size, axis=1))
    noise = first.noisy[group]
    if share < _SHORT:
        words = "the difference lies within the rounding of autodiff"
    elif np.isfinite(share) and share > 0:
        words = f"bars are {share:.1g} of the derivative"
    else:
        words = "no step at which f looks smooth"
    return words + (f", noise {noise:.1g} roundings" if noise > _NOTABLE_NOISE else "")


def _mode_notes(ev: Evaluator) -> list[str]:
    """Say which mode is not there."""
    notes = []
    if ev.forward is not None:
        notes.append(f"forward mode is not available, reverse mode was checked: {ev.forward}")
    if ev.reverse is not None:
        notes.append(f"reverse mode is not available, forward mode was checked: {ev.reverse}")
    return notes


def _output_notes(ev: Evaluator, first: First) -> list[str]:
    """Say what the values of f are like."""
    notes = []
    value = ev.value()
    if not np.all(np.isfinite(value)):
        count = int(np.sum(~np.isfinite(value)))
        notes.append(
            f"{count} of {len(value)} outputs of f are NaN or infinite here{value_cause(ev)}."
        )
    noise = max(first.noisy, default=0.0)
    if noise > _NOTABLE_NOISE and np.isfinite(noise):
        notes.append(f"f is noisy: about {noise:.1g} times its rounding.")
    if not ev.problem.wide:
        notes.append(
            f"f does not accept float64: it was checked as given, in {ev.problem.dtype}, with "
            "wider bars."
        )
    return notes
