"""From what the parts of a check have seen to one report."""

from __future__ import annotations

import numpy as np

from gradlab.derivatives._check_consistency import digit_notes, leaf_digits
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_first import First
from gradlab.derivatives._check_laws import remainders
from gradlab.derivatives._check_nonfinite import nonfinite_findings, value_cause
from gradlab.derivatives._check_problem import Leaf, Problem
from gradlab.derivatives._check_program import out_of_range
from gradlab.derivatives._check_report import CheckReport, Finding, LeafVerdict, merged
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
    leaves = _leaf_verdicts(ev, first, second, findings, order)
    states = [leaf.verdict for leaf in leaves]
    verdict = "wrong" if findings else merged(states)
    digits = {}
    if first.gradients is not None and not np.any(first.nonfinite):
        digits = leaf_digits(ev, given, first)
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


def _leaf_verdicts(
    ev: Evaluator, first: First, second: Second | None, findings: list[Finding], order: int
) -> list[LeafVerdict]:
    """Give every leaf its verdict."""
    blamed = {name for f in findings for name in f.leaf.split(", ")}
    made = []
    for g, group in enumerate(first.groups):
        later = [second.states[g]] if second else ["cannot tell"] * (order - 1)
        agreement = {1: first.agreement[g]}
        if order == 2:
            agreement[2] = second.agreement[g] if second else float("inf")
        for leaf in group:
            # Leaves beside a wrong one were tried again at first order alone.
            states = [first.rest.get(leaf.name, first.states[g]), *later]
            if leaf.name in blamed:
                state = "wrong"
            elif "wrong" in states and len(group) > 1:
                state = "cannot tell"
            else:
                state = merged(states)
            lost = bool(np.any(first.nonfinite[leaf.cut]))
            state = "cannot tell" if lost and state == "right" else state
            note = _leaf_note(first, g, leaf, lost)
            if state == "cannot tell" and not lost:
                beside = "wrong" in states
                why = (
                    "tried together with a leaf that is wrong" if beside else _why(ev, first, g)
                )
                note = "; ".join(filter(None, [note, why]))
            made.append(LeafVerdict(leaf.name, leaf.shape, state, agreement, note))
    return made


def _leaf_note(first: First, group: int, leaf: Leaf, lost: bool) -> str:
    """Say what else is to be said about a leaf."""
    words = []
    if leaf.name in first.dead:
        words.append("f does not depend on it here")
    if group in first.kinks:
        words.append("a kink at this point: autodiff lies between the two slopes")
    if lost:
        words.append("autodiff is NaN or infinite here")
    return "; ".join(words)


def _why(ev: Evaluator, first: First, group: int) -> str:
    """Say how large the noise or the bar is that hides the derivative."""
    rows = [p for p, line in enumerate(first.lines) if line.group == group]
    with np.errstate(all="ignore"):
        size = np.maximum(np.abs(first.slopes.value[1][rows]), np.abs(first.exact[rows]))
        share = np.nanmin(np.nanmax(first.slopes.error[1][rows] / size, axis=1))
    noise = first.noisy[group]
    if np.any(first.slopes.flat[rows] & (first.exact[rows] != 0)):
        return (
            "f is exactly constant around the point, autodiff is not zero: rounded values, or "
            "a straight-through rule"
        )
    if share < _SHORT:
        words = "the difference lies within the rounding of autodiff"
    elif share < 1:
        words = f"the bar is {100 * share:.3g} % of the derivative"
    elif np.isfinite(share):
        words = "the bar is as large as the derivative"
    else:
        words = "no step at which f looks smooth"
    jitter = f", f is noisy by {noise * ev.problem.eps:.1g} of its size"
    return words + (jitter if noise > _NOTABLE_NOISE else "")


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
        notes.append(f"f is noisy: by about {noise * ev.problem.eps:.1g} of its size.")
    if not ev.problem.wide:
        notes.append(
            f"f does not accept float64: it was checked as given, in {ev.problem.dtype}, with "
            "wider bars."
        )
    return notes
