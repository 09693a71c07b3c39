"""What `minimizers.py` minimises, and how it judges an answer.

The 35 functions of Moré, Garbow and Hillstrom in 40 sizes, each from 1, 10 and 100 times
its published start. One of the 120 starts is left out, because the loss overflows there
(Jennrich and Sampson, 100 times). Answers are judged in float64, whatever dtype found them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradlab as gl

__all__ = ["SCALES", "Answer", "Case", "Judgement", "best_values", "cases", "judge"]

SCALES = (1.0, 10.0, 100.0)
# Beside the size that each function has in the problem set; these are of the paper too.
MORE_SIZES = (
    ("watson", 9),
    ("watson", 12),
    ("penalty_1", 4),
    ("penalty_2", 4),
    ("chebyquad", 10),
)
# A value counts as the best one when it is this close to it: relative where the best
# exceeds 1 in size, absolute elsewhere. A float32 point cannot be told better than some
# tens of eps.
VALUE_BAR = {"float64": 1e-8, "float32": 1e-5}
# A point is stationary when no entry of the gradient exceeds this times max(1, |f|).
GRADIENT_BAR = 1e-6
# A stationary point that is not global is a saddle when the Hessian has an eigenvalue below
# minus this times its norm.
CURVATURE_BAR = {"float64": 1e-6, "float32": 1e-5}
# In float32 a point is stationary too when every entry of the gradient is within this
# many times what the rounding of the gradient and of the point's coordinates changes.
FLOOR = 10.0


class Answer(NamedTuple):
    """What a solver says at its end.

    `calls` are the losses, gradients, Hessian-vector products and Hessians it evaluated.
    """

    x: Any
    success: bool
    status: str
    calls: tuple[int, int, int, int]


class Judgement(NamedTuple):
    """What an answer is worth."""

    value: float
    grad: float
    is_global: bool
    is_stationary: bool
    is_saddle: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A function of one size, in the dtype of the solvers, and its starts by their scale."""

    name: str
    problem: Any
    starts: dict[float, Any]
    dtype: str

    @functools.cached_property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The compiled loss, gradient, Hessian and product, for peers that call them."""
        loss, args = self.problem.loss, self.problem.args
        grad = jax.grad(loss)
        return {
            "loss": jax.jit(lambda x: loss(x, *args)),
            "value_and_grad": jax.jit(lambda x: jax.value_and_grad(loss)(x, *args)),
            "grad": jax.jit(lambda x: grad(x, *args)),
            "hessian": jax.jit(lambda x: jax.hessian(loss)(x, *args)),
            "hvp": jax.jit(lambda x, v: jax.jvp(lambda y: grad(y, *args), (x,), (v,))[1]),
        }

    @functools.cached_property
    def _reference(self) -> Callable[..., Any]:
        """Compiled function of a point to value, gradient and Hessian, in float64."""
        exact = _problem(self.problem.name, self.problem.num_params, "float64", 1.0)

        def reference(x: Any) -> Any:
            value, grad = jax.value_and_grad(exact.loss)(x, *exact.args)
            return value, grad, jax.hessian(exact.loss)(x, *exact.args)

        return jax.jit(reference)

    def reference(self, x: Any) -> tuple[float, np.ndarray, np.ndarray]:
        """Evaluate value, gradient and Hessian at a point, in float64."""
        value, grad, hessian = self._reference(jnp.asarray(x, jnp.float64))
        return float(value), np.asarray(grad), np.asarray(hessian)


def cases(
    dtype: str = "float64",
    scales: Sequence[float] = SCALES,
    names: Sequence[str] | None = None,
) -> list[Case]:
    """Build the cases, with the starts at which the loss is finite in float64.

    Args:
        dtype: "float64" or "float32".
        scales: Factors of the published starts.
        names: Only these functions, with all their sizes, or single cases ("watson 9").

    Returns:
        The cases, functions in alphabetical order.
    """
    sizes = [(name, None) for name in gl.problems.names(tag="mgh")] + list(MORE_SIZES)
    found = []
    for name, size in sorted(sizes, key=lambda entry: (entry[0], entry[1] or 0)):
        problem = _problem(name, size, dtype, 1.0)
        label = f"{name} {problem.num_params}"
        if names is None or name in names or label in names:
            case = Case(label, problem, {}, dtype)
            for scale in scales:
                start = _problem(name, size, dtype, scale).init()
                if _is_finite_in_float64(name, size, start):
                    case.starts[scale] = start
            found.append(case)
    return found


def _problem(name: str, size: int | None, dtype: str, scale: float) -> Any:
    """Get a function by its name, of its usual size where none is given."""
    variable = "variable" in gl.problems.get(name, dtype=dtype).tags
    options = {"n": size} if variable and size is not None else {}
    return gl.problems.get(name, dtype=dtype, start_scale=scale, **options)


def _is_finite_in_float64(name: str, size: int | None, start: Any) -> bool:
    """Whether the loss can be evaluated there, float64 given."""
    exact = _problem(name, size, "float64", 1.0)
    return bool(np.isfinite(exact.loss(jnp.asarray(start, jnp.float64), *exact.args)))


def best_values(found: list[Case], answers: dict[tuple[str, str, float], Answer]) -> Any:
    """Return the least value of each case: the known minimum, or what anyone found.

    Args:
        found: The cases.
        answers: By solver, case and scale.

    Returns:
        The values by the cases' names.
    """
    best = {}
    for case in found:
        known = case.problem.minimum
        values = [np.inf if known is None else known]
        for (_, name, _), answer in answers.items():
            if name == case.name and np.all(np.isfinite(answer.x)):
                values.append(case.reference(answer.x)[0])
        best[case.name] = float(np.nanmin(values))
    return best


def judge(case: Case, x: Any, best: float) -> Judgement:
    """Judge a point in float64: is it the best, is it stationary, is it a saddle?"""
    value, grad, hessian = case.reference(x)
    if not (np.isfinite(value) and np.all(np.isfinite(grad)) and np.all(np.isfinite(hessian))):
        return Judgement(value, np.nan, False, False, False)
    size = float(np.max(np.abs(grad)))
    is_global = value - best <= VALUE_BAR[case.dtype] * max(1.0, abs(best))
    flat = size <= GRADIENT_BAR * max(1.0, abs(value)) or _at_floor(case, x, grad, hessian)
    curvatures = np.linalg.eigvalsh(hessian)
    falls = curvatures[0] < -CURVATURE_BAR[case.dtype] * np.max(np.abs(curvatures))
    is_saddle = bool(flat and falls and not is_global)
    return Judgement(value, size, bool(is_global), bool(is_global or flat), is_saddle)


def _at_floor(case: Case, x: Any, grad: np.ndarray, hessian: np.ndarray) -> bool:
    """Whether the gradient of a float32 answer is what float32's rounding leaves of it.

    The float32 gradient errs by what is measured against float64, and rounding the
    coordinates changes it by up to eps |H| |x|, entry by entry.
    """
    if case.dtype == "float64":
        return False
    rounded = jnp.asarray(x, jnp.float32)
    error = np.abs(np.asarray(case.functions["grad"](rounded), np.float64) - grad)
    spread = np.finfo(np.float32).eps * np.abs(hessian) @ np.abs(np.asarray(x, np.float64))
    return bool(np.all(np.abs(grad) <= FLOOR * (error + spread)))
