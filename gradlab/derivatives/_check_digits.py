"""How many digits of the gradient, as computed in the dtypes given, are right."""

from __future__ import annotations

import numpy as np

from gradlab.derivatives._check_consistency import given_gradient
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_problem import Problem

__all__ = ["digit_notes", "leaf_digits", "relative_digits"]

# Operations of a gradient beyond which its randomly rounded runs would take the longest part
# of a check; `certify_digits` takes that time.
_LONGEST = 150


def leaf_digits(
    ev: Evaluator, given: Problem, weights: np.ndarray, gradient: np.ndarray
) -> dict[str, float]:
    """Right decimal digits of the gradient of weights · f, leaf by leaf, by norm.

    In a low precision the gradient is held against the one in float64; in float64 the
    spread of randomly rounded runs tells.
    """
    if ev.problem.wide and given.eps > ev.problem.eps:
        computed = given_gradient(given, weights)
        if computed is None:
            return {}
        error = np.abs(computed.astype(np.float64) - gradient)
    elif ev.gradient_length() <= _LONGEST:
        error = ev.gradient_spread(weights)
    else:
        return {}
    digits = {}
    for leaf in ev.problem.inputs:
        top = float(np.max(np.abs(gradient[leaf.cut]), initial=0.0))
        if top > 0:
            size = np.linalg.norm(gradient[leaf.cut] / top)
            digits[leaf.name] = relative_digits(
                float(np.linalg.norm(error[leaf.cut] / top) / size)
            )
    return digits


def relative_digits(error: float) -> float:
    """Decimal digits of a relative error: none where it is not below 1."""
    if not np.isfinite(error):
        return 0.0
    return float(max(0.0, -np.log10(max(error, 1e-17))))


def digit_notes(digits: dict[str, float], given: Problem) -> list[str]:
    """Report the leaves that have lost half of their digits."""
    notes = []
    for leaf in given.inputs:
        had = -np.log10(max(given.eps, float(np.finfo(np.float64).eps)))
        left = digits.get(leaf.name, had)
        if left < had / 2:
            notes.append(
                f"the gradient of {leaf.name} has lost digits to rounding: {left:.1f} of "
                f"{had:.1f} are right."
            )
    return notes
