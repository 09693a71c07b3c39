"""Derivatives that are NaN or infinite: where they became so, and the trap by its name."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.derivatives._check_consistency import given_gradient
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_first import First
from gradlab.derivatives._check_lines import unit
from gradlab.derivatives._check_problem import Leaf, Problem
from gradlab.derivatives._check_program import Step, program_of, walk
from gradlab.derivatives._check_report import Finding
from gradlab.derivatives._check_search import Subject, visit
from gradlab.derivatives._leaves import is_complex

__all__ = ["nonfinite_findings", "value_cause"]


def nonfinite_findings(ev: Evaluator, given: Problem, first: First) -> list[Finding]:
    """One finding for each leaf with a derivative that is NaN or infinite."""
    bad, gradient, weights = first.nonfinite, None, first.columns.rows[-1]
    if not np.any(bad) and ev.problem.wide and ev.reverse is None:
        gradient = given_gradient(given, weights)
        bad = bad if gradient is None else ~np.isfinite(gradient)
    if not np.any(bad):
        return []
    if gradient is not None:
        cause = f"not finite in {given.inputs[0].dtype}, finite in float64"
    else:
        cause = ""
        for row in first.columns.rows:
            if np.any(~np.isfinite(ev.vjp(row))):
                cause = _cause(ev, row)
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


def _cause(ev: Evaluator, weights: np.ndarray) -> str:
    """Say where the gradient of weights · f became NaN or infinite."""
    with ev.problem.precision(), np.errstate(all="ignore"):

        def total(x: Any) -> Any:
            return jnp.sum(jnp.where(weights != 0, weights * ev.problem.call(x), 0))

        trap = _where_trap(total, ev.x)
        if trap is not None:
            place = f" ({trap})" if trap else ""
            return (
                f"the `where` trap{place}: the branch not taken has no finite derivative, and "
                "0 × inf is NaN; make its argument harmless with a second where"
            )
        culprit = _first_nonfinite(program_of(jax.grad(total), ev.x), ev.x)
    return f"not finite from {_described(culprit)}" if culprit else "not finite"


def value_cause(ev: Evaluator) -> str:
    """Say where f itself became NaN or infinite."""
    with ev.problem.precision(), np.errstate(all="ignore"):
        culprit = _first_nonfinite(program_of(ev.problem.call, ev.x), ev.x)
    return f", from {_described(culprit)}" if culprit else ""


def _first_nonfinite(program: Any, x: np.ndarray) -> Step | None:
    """The first equation that makes NaN of numbers, else the first that makes infinity."""
    infinite = None
    for step in walk(program, [x]):
        if any(map(_has_nan, step.outputs)) and not any(map(_has_nan, step.inputs)):
            return step
        bad = any(map(_not_finite, step.outputs)) and not any(map(_not_finite, step.inputs))
        if bad and infinite is None:
            infinite = step
    return infinite


def _described(step: Step) -> str:
    """An equation, its line, and the numbers that did it."""
    place = step.place
    operands = []
    bad = np.argwhere(np.ravel(_mask(step.outputs[0])))
    for value in step.inputs:
        flat = np.ravel(np.asarray(value))
        if flat.size == np.size(step.outputs[0]) and len(bad):
            operands.append(f"{flat[int(bad[0][0])]:.3g}")
        elif flat.size == 1:
            operands.append(f"{flat[0]:.3g}")
    name = step.equation.primitive.name
    numbers = f"({', '.join(operands)})" if operands else ""
    words = f"`{name}{numbers}`{' at ' + place if place else ''}"
    if name in ("mul", "div") and "inf" in numbers:
        words += ": an infinite slope, as of sqrt or norm at 0, meets a zero"
    return words


def _where_trap(total: Any, x: np.ndarray) -> str | None:
    """The line of a `where` whose branch not taken makes NaN of a zero cotangent, or None."""
    program = program_of(total, x)
    places: list[str] = []

    def branches(x: Any) -> list[Any]:
        found = []
        places.clear()
        for step in walk(program, [x], inside_rules=False):
            if step.equation.primitive.name == "select_n":
                cases = [c for c in step.inputs[1:] if _differentiable(c)]
                found += cases
                places.extend([step.place] * len(cases))
        return found

    chosen = _unused(program, x)
    try:
        values, pull = jax.vjp(branches, x)
    except Exception:  # a program without reverse mode has no trap of this kind
        return None
    zeros = [jnp.zeros_like(v) for v in values]
    if not zeros or not _has_nan(pull(zeros)[0]):
        return None
    for k, value in enumerate(values):
        only = jax.vjp(lambda x, k=k: branches(x)[k], x)[1](jnp.zeros_like(value))[0]
        if _has_nan(only) and chosen[k]:
            return places[k]
    return None


def _unused(program: Any, x: np.ndarray) -> list[bool]:
    """For each differentiable branch of each select, whether an entry of it is not taken."""
    unused = []
    for step in walk(program, [x], inside_rules=False):
        if step.equation.primitive.name == "select_n":
            which = np.asarray(step.inputs[0]).astype(int)
            for number, case in enumerate(step.inputs[1:]):
                if _differentiable(case):
                    unused.append(bool(np.any(which != number)))
    return unused


def _differentiable(value: Any) -> bool:
    return bool(jnp.issubdtype(jnp.asarray(value).dtype, jnp.floating)) or is_complex(
        jnp.asarray(value).dtype
    )


def _mask(value: Any) -> np.ndarray:
    array = np.asarray(value) if _numeric(value) else np.zeros(())
    return np.asarray(~np.isfinite(array))


def _numeric(value: Any) -> bool:
    dtype = getattr(value, "dtype", np.asarray(0.0).dtype)
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def _has_nan(value: Any) -> bool:
    return _numeric(value) and bool(np.any(np.isnan(np.asarray(value))))


def _not_finite(value: Any) -> bool:
    return _numeric(value) and bool(np.any(~np.isfinite(np.asarray(value))))
