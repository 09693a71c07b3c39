"""Recognise the usual mistakes in a wrong derivative."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_lines import unit
from gradlab.derivatives._check_search import Entry, Subject, visit

__all__ = ["explain", "factor_words"]

# Other entries of the leaf that are visited to tell a rule from an accident.
_OTHERS = 4
# Two numbers are the same where they agree to this, and to their bars.
_SAME = 1e-3
# Factors are told apart to this share of how far they are from 1.
_SHARE = 1e-2
_FACTOR = "a factor: autodiff is {} times the difference"
# Largest numerator and denominator of a factor worth naming, beside the sizes of arrays.
_SMALL = 8


def explain(ev: Evaluator, subject: Subject, entry: Entry) -> str:
    """Say in a few words why an entry is wrong, or return ""."""
    if entry.exact == 0:
        return "autodiff gives exactly zero" + (
            ": a stop_gradient, or a value not passed on" if entry.value else ""
        )
    swapped = _transposed(ev, subject, entry)
    if swapped:
        return swapped
    if entry.value == 0:
        return "the difference is zero"
    ratios = [entry.exact / entry.value]
    for other in _others(ev, entry):
        measured = visit(subject, other[0], other[1], ev.x)
        if abs(measured.value) > 10 * measured.error:
            ratios.append(measured.exact / measured.value)
    return _ratio_words(np.array(ratios), ev, entry)


def _others(ev: Evaluator, entry: Entry) -> list[tuple[int, float]]:
    """Some other entries of the same leaf, with their scales."""
    leaf = ev.problem.leaf_of(entry.flat)
    if leaf.size < 2:
        return []
    picks = np.linspace(leaf.cut.start, leaf.cut.stop - 1, _OTHERS).astype(int).tolist()
    return [(i, float(unit(ev.x, leaf, i)[i])) for i in sorted(set(picks) - {entry.flat})]


def _ratio_words(ratios: np.ndarray, ev: Evaluator, entry: Entry) -> str:
    """Name a factor that all measured entries share, or the entry alone has."""
    first, others = ratios[0], ratios[1:]
    fault = _SHARE * abs(first - 1)
    if len(others) and np.all(np.abs(others - 1) < fault):
        words = factor_words(first, ())
        return f"this entry alone{': ' + words if words else ''}"
    if np.all(np.abs(others - first) <= _SAME * abs(first)):
        sizes = {leaf.size for leaf in (*ev.problem.inputs, *ev.problem.outputs)}
        sizes |= {n for leaf in ev.problem.inputs for n in leaf.shape}
        words = factor_words(first, tuple(sizes))
        shared = len(others) and np.all(np.abs(others - first) < fault)
        return words or (_FACTOR.format(f"{first:.6g}") if shared else "")
    return ""


def factor_words(ratio: float, sizes: tuple[int, ...]) -> str:
    """Name autodiff / difference where it is a sign or a simple factor."""
    if not np.isfinite(ratio):
        return ""
    if abs(ratio + 1) < _SAME:
        return "the sign is wrong"
    simple = Fraction(abs(float(ratio))).limit_denominator(_SMALL)
    named = [
        simple,
        *(Fraction(n) for n in sizes if n > 1),
        *(Fraction(1, n) for n in sizes if n > 1),
    ]
    for fraction in named:
        value = float(fraction)
        if value not in (0.0, 1.0) and abs(abs(ratio) - value) < _SAME * value:
            sign = "-" if ratio < 0 else ""
            return _FACTOR.format(f"{sign}{fraction}")
    return ""


def _transposed(ev: Evaluator, subject: Subject, entry: Entry) -> str:
    """Whether the derivative of entry [i, j] is what entry [j, i] should have."""
    leaf = ev.problem.leaf_of(entry.flat)
    if len(leaf.shape) < 2 or leaf.shape[-1] != leaf.shape[-2]:
        return ""
    index = leaf.place(entry.flat)
    mirror = (*index[:-2], index[-1], index[-2])
    if mirror == index:
        return ""
    flat = leaf.cut.start + int(np.ravel_multi_index(mirror, leaf.shape))
    measured = visit(subject, flat, float(unit(ev.x, leaf, flat)[flat]), ev.x)
    swap = abs(measured.value - entry.exact) <= _SAME * abs(entry.exact) + 2 * measured.error
    back = abs(measured.exact - entry.value) <= _SAME * abs(entry.value) + 2 * entry.error
    return "transposed: the derivative of the mirrored entry" if swap and back else ""
