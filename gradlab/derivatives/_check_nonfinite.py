"""Find the equation in which a derivative became NaN or infinite, and name the trap."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_program import Step, program_of, walk
from gradlab.derivatives._leaves import is_complex

__all__ = ["nonfinite_cause", "value_cause"]


def nonfinite_cause(ev: Evaluator, weights: np.ndarray) -> str:
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
