"""The derivatives as they are used: under vmap and jit, and to how many digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_first import First
from gradlab.derivatives._check_problem import Problem
from gradlab.derivatives._check_report import Finding
from gradlab.derivatives._check_rounding import decimal_digits

__all__ = ["digit_notes", "given_gradient", "leaf_digits", "under_jit", "under_vmap"]

# The second point of a batch: each entry moved by this part of itself.
_APART = 2.0**-10
# Operations of a gradient beyond which its randomly rounded runs would take the longest part
# of a check; `certify_digits` takes that time.
_LONGEST = 150
# Autodiff and differences that share half of all digits, and this part of one more, leave
# no digits to look for.
_SHARED = 0.1


def under_jit(
    problem: Problem, f: Callable[..., Any], eager: list[Any], args: Any
) -> list[Finding]:
    """Compare the values of f inside and outside jit, in the dtypes given."""
    compiled = jax.tree.leaves(jax.jit(lambda: f(*args))())
    for a, b in zip(eager, compiled, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            continue
        wide = np.complex128 if jnp.issubdtype(a.dtype, jnp.complexfloating) else np.float64
        a, b = a.astype(wide), b.astype(wide)
        with np.errstate(all="ignore"):
            gap = np.where(np.isfinite(a) & np.isfinite(b), np.abs(a - b), 0)
        bar = np.sqrt(problem.eps) * np.max(np.abs(a), initial=0.0, where=np.isfinite(a))
        if np.any(gap > bar):
            i = int(np.argmax(gap))
            return [
                Finding(
                    "",
                    None,
                    "the value of f",
                    0,
                    "jit",
                    float(np.ravel(b)[i].real),
                    float(np.ravel(a)[i].real),
                    float(bar),
                    "f itself is another function inside jit",
                )
            ]
    return []


def under_vmap(ev: Evaluator, first: First) -> tuple[list[Finding], str]:
    """Compare values and gradients at two points, in a batch and one by one."""
    weights = first.columns.rows[-1]
    points = np.stack([ev.x, ev.x * (1 + _APART)])

    def both(x: Any) -> tuple[Any, Any]:
        total = lambda x: jnp.sum(jnp.where(weights != 0, weights * ev.problem.call(x), 0))  # noqa: E731
        if ev.reverse is None:
            return jax.value_and_grad(total)(x)
        if ev.forward is None:
            value, slope = jax.jvp(total, (x,), (first.lines[0].direction,))
            return value, slope[None]
        return total(x), jnp.zeros_like(x)

    with ev.problem.precision():
        try:
            values, gradients = map(np.asarray, jax.jit(jax.vmap(both))(points))
        except Exception as error:
            said = str(error).strip().partition("\n")[0]
            return [], f"vmap of f is not available: {said}"
    alone = [_alone(ev, first, x) for x in points]
    ev.calls += 2
    tolerance = ev.closeness
    for row, (value, gradient) in enumerate(alone):
        noise = ev.problem.eps * np.max(first.slopes.noise[:, -1])
        bar = (tolerance + noise) * max(
            abs(float(value)), float(np.abs(weights) @ np.abs(_finite(ev.value())))
        )
        if abs(values[row] - value) > bar:
            return [_finding("", None, values[row], value, bar, "the value of f")], ""
        told = _gradients(ev, first, gradients[row], gradient, tolerance)
        if told:
            return told, ""
    return [], ""


def _alone(ev: Evaluator, first: First, x: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient, or slope, of the last combination at one point."""
    weights = first.columns.rows[-1]

    def total(outputs: np.ndarray) -> Any:
        return np.sum(np.where(weights != 0, weights * outputs, 0))

    value = float(total(ev.value(x)))
    if ev.reverse is None:
        return value, ev.vjp(weights, x)
    if ev.forward is None:
        return value, np.array([total(ev.jvp(first.lines[0].direction, x))])
    return value, np.zeros_like(x)


def _gradients(
    ev: Evaluator, first: First, batched: np.ndarray, alone: np.ndarray, tolerance: float
) -> list[Finding]:
    """Compare two gradients of the last combination along every line."""
    if len(alone) != len(ev.x):
        bar = tolerance * abs(alone[0]) + 2 * first.slopes.error[1][0, -1]
        gap = abs(batched[0] - alone[0])
        return [_finding("", None, batched[0], alone[0], bar, "")] if gap > bar else []
    batched, alone = _finite(batched), _finite(alone)
    for p, line in enumerate(first.lines):
        bar = first.slopes.error[1][p, -1]
        bar = tolerance * (np.abs(alone) @ np.abs(line.direction)) + (
            2 * bar if bar < np.inf else 0
        )
        terms = (batched - alone) * line.direction
        if np.sum(np.abs(terms)) > bar * np.sqrt(np.count_nonzero(terms) or 1):
            i = int(np.argmax(np.abs(terms)))
            leaf = ev.problem.leaf_of(i)
            error = bar / abs(line.direction[i])
            return [_finding(leaf.name, leaf.place(i), batched[i], alone[i], error, "")]
    return []


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 0)


def _finding(leaf: str, index: Any, batched: Any, alone: Any, bar: Any, output: str) -> Finding:
    numbers = float(batched), float(alone), float(bar)
    words = "only under vmap" + (": f itself is another function there" if output else "")
    return Finding(leaf, index, output, 0 if output else 1, "vmap", *numbers, words)


def given_gradient(given: Problem, weights: np.ndarray) -> np.ndarray | None:
    """The gradient of weights · f in the dtypes that were given, or None."""

    def total(x: Any) -> Any:
        y = given.call(x)
        w = jnp.asarray(weights, y.dtype)
        return jnp.sum(jnp.where(w != 0, w * y, 0))

    try:
        return np.asarray(jax.jit(jax.grad(total))(given.x))
    except Exception:  # no reverse mode in this precision
        return None


def leaf_digits(ev: Evaluator, given: Problem, first: First) -> dict[str, float]:
    """Right decimal digits of the gradient of the last combination, leaf by leaf, by norm.

    In a low precision the gradient is held against the one in float64. In float64 there are
    as many as autodiff and differences share; where those are few, the spread of randomly
    rounded runs tells.
    """
    assert first.gradients is not None
    weights, gradient = first.columns.rows[-1], first.gradients[-1]
    least = _least(given)
    if ev.problem.wide and given.eps > ev.problem.eps:
        computed = given_gradient(given, weights)
        if computed is None:
            return {}
        error = np.abs(computed.astype(np.float64) - gradient)
    elif max(first.agreement) <= _SHARED * np.sqrt(given.eps):
        groups = zip(first.groups, first.agreement, strict=True)
        return {
            g.name: float(decimal_digits(part, least)) for group, part in groups for g in group
        }
    elif ev.gradient_length() <= _LONGEST:
        error = ev.gradient_spread(weights)
    else:
        return {}
    digits = {}
    for leaf in ev.problem.inputs:
        top = float(np.max(np.abs(gradient[leaf.cut]), initial=0.0))
        if top > 0:
            lengths = [np.linalg.norm(part[leaf.cut] / top) for part in (error, gradient)]
            digits[leaf.name] = float(decimal_digits(lengths[0] / lengths[1], least))
    return digits


def _least(given: Problem) -> float:
    """Half the spacing of the dtype of a problem: the smallest error worth a digit."""
    return max(given.eps, float(np.finfo(np.float64).eps)) / 2


def digit_notes(digits: dict[str, float], given: Problem) -> list[str]:
    """Report the leaves that have lost half of their digits."""
    most = float(-np.log10(_least(given)))
    return [
        f"the gradient of {leaf.name} has lost digits to rounding: {digits[leaf.name]:.1f} of "
        f"{most:.1f} are right."
        for leaf in given.inputs
        if digits.get(leaf.name, most) < most / 2
    ]
