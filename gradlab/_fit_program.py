"""What a fit compiles: its loss with the derivatives of the residuals, and its method."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab import _engine as engine
from gradlab._numbers import Problem
from gradlab._programs import CACHE_SIZE
from gradlab._typing import Array, Params
from gradlab.optimizers._residuals import Residuals, flat_residuals
from gradlab.optimizers.least_squares import Setup, roots, transformation

__all__ = ["Factory", "FitProgram", "Objective", "count_residuals"]


@dataclass(frozen=True)
class Objective:
    """The loss that the run minimises: the sum of the residuals' losses."""

    residual: Callable[..., Any]
    loss: str
    operator: Callable[..., Any] | None

    def problem(self, params: Params, args: Any, weights: Any, scale: Any) -> Residuals:
        """Build the residuals at work."""
        return Residuals(
            self.residual, params, args, roots(weights), self.loss, scale, self.operator
        )

    def gradient_noise(self, dtype: Any) -> float:
        """Relative error of a gradient by differences, for parameters of this dtype."""
        noise = getattr(self.operator, "relative_noise", None)
        return 0.0 if noise is None else noise(dtype)

    def __call__(self, params: Params, args: Any, weights: Any, scale: Any) -> Array:
        """Evaluate the loss."""
        problem = self.problem(params, args, weights, scale)
        return _value(problem, problem.flat(params))


def _value(problem: Residuals, x: Array) -> Array:
    """Loss at a flat point, its derivative by the operator that was asked for."""
    if problem.exact:
        return problem.value(problem(x))

    @jax.custom_jvp
    def value(x: Array) -> Array:
        return problem.value(problem(x))

    @value.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (x,), (dx,) = primals, tangents
        r = problem(x)
        slopes = problem.losses(r).slope * r
        gradient = 2 * jnp.sum(problem.jacobian(x) * slopes[:, None], axis=0)
        return problem.value(r), jnp.sum(gradient * dx)

    return value(x)


@dataclass(frozen=True)
class Factory:
    """Builds the method's transformation around its residual function."""

    residual: Callable[..., Any]
    name: str
    loss: str
    operator: Callable[..., Any] | None

    def __call__(self, args: Any, weights: Any, bounds: Any, loss_scale: Any) -> Any:
        setup = Setup(args, weights, bounds, self.loss, loss_scale, self.operator)
        return transformation(self.residual, self.name, setup)


@dataclass(frozen=True)
class FitProgram(engine.Program):
    """The program of a fit: its derivatives are those of the residuals."""

    def difference_costs(self, params: Params) -> tuple[int, int] | None:
        """Residuals per Jacobian; None for autodiff."""
        operator = self.loss.operator  # type: ignore[attr-defined]  # an Objective
        if operator is None:
            return None
        each = operator.num_evaluations(params)
        return (each, 2 * each) if each else None

    def region(self, problem: Problem) -> Any:
        """Return the bounds."""
        return problem.hyperparams["bounds"]

    def _value(self) -> Any:
        return self.loss


# Residual functions whose output has been checked, with the shapes of their arguments. Small:
# it only spares repeated runs the tracing, which takes longer than a short run itself.
_checked: OrderedDict[Any, int] = OrderedDict()


def count_residuals(residual: Callable[..., Any], x0: Params, args: Any) -> int:
    """Trace the residuals, raise where they are none, and return how many there are."""
    leaves, structure = jax.tree.flatten((x0, args))
    kinds = tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
    try:
        key = residual, structure, kinds
        if key in _checked:
            return _checked[key]
    except TypeError:  # unhashable: trace it every time
        return jax.eval_shape(functools.partial(flat_residuals, residual), x0, *args).size
    size = jax.eval_shape(functools.partial(flat_residuals, residual), x0, *args).size
    _checked[key] = size
    if len(_checked) > CACHE_SIZE:
        _checked.popitem(last=False)
    return size
