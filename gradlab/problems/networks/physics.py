r"""Networks trained to solve a differential equation: higher derivatives inside the loss.

The network u has no data but the equation. Its loss is the mean square of what is left of
the equation at points inside, and of the error at points where the solution is known.

- Poisson: $-u'' = f$ on (0, 1), zero at both ends, with the solution
  $u = \sin πx + \tfrac12 \sin 3πx$;
- Burgers: $u_t + u u_x = ν u_{xx}$ on $(0, 1) × (-1, 1)$, with the travelling front
  $u = c - a \tanh(a (x - c t) / 2ν)$ given at t = 0 and at both ends.

References:
    Lagaris, I. E. et al. (1998). Artificial neural networks for solving ordinary and partial
    differential equations. IEEE Transactions on Neural Networks 9.
    Raissi, M. et al. (2019). Physics-informed neural networks. J. Computational Physics 378.
    Whitham, G. B. (1974). Linear and Nonlinear Waves, section 4.2 (the front).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import Params
from gradlab.problems import data
from gradlab.problems._least_squares import sum_of_squares
from gradlab.problems._types import (
    Features,
    Known,
    KnownValues,
    Number,
    Residuals,
    Targets,
    Value,
)
from gradlab.problems.networks import layers, perceptron
from gradlab.problems.registry import Problem, check_size, register

__all__ = ["burgers", "network", "poisson"]

# Speed and half height of Burgers' front.
_SPEED, _HALF = 0.5, 0.5


def network(params: Params, points: Features, *_: Any) -> Targets:
    """Return u at points of shape (N, d): a perceptron with tanh, shape (N,)."""
    for layer in params[:-1]:
        points = jnp.tanh(layers.dense(layer, points))
    return layers.dense(params[-1], points)[:, 0]


def _along(axis: int, points: Features) -> Features:
    """Return the direction of one coordinate at every point."""
    return jnp.zeros_like(points).at[:, axis].set(1)


def _derivatives(
    u: Callable[[Any], Any], points: Features, axis: int
) -> tuple[Targets, Targets, Targets]:
    """Return u, and its first and second derivative along a coordinate, forward twice.

    The points do not see one another, so one direction moves all of them at once.
    """
    way = _along(axis, points)
    slope = functools.partial(_value_and_slope, u, way)
    (value, first), (_, second) = jax.jvp(slope, (points,), (way,))
    return value, first, second


def _value_and_slope(u: Callable[[Any], Any], way: Features, points: Features) -> Any:
    """Return u and its derivative along `way`."""
    return jax.jvp(u, (points,), (way,))


def _poisson_residual(
    params: Params, points: Features, forcing: Targets, ends: Known
) -> Residuals:
    def u(points: Any) -> Any:
        return network(params, points)

    second = _derivatives(u, points, 0)[2]
    # In units of π², the size of u'' beside u: so both parts of the loss are of one size.
    inside = (second + forcing) / (math.pi**2 * math.sqrt(len(points)))
    return jnp.concatenate([inside, u(ends)])


def poisson_solution(points: Features) -> Targets:
    """Return the solution of Poisson's equation at points of shape (N, 1)."""
    x = math.pi * points[:, 0]
    return jnp.sin(x) + jnp.sin(3 * x) / 2


def _poisson_error(params: Params, points: Features, *_: Any) -> Value:
    return _relative(network(params, points), poisson_solution(points))


def _relative(found: Targets, exact: Targets) -> Value:
    """Return the error relative to the solution, in the mean square."""
    return jnp.sqrt(jnp.sum((found - exact) ** 2) / jnp.sum(exact**2))


def _poisson_data(count: int, first: float) -> tuple[np.ndarray, np.ndarray]:
    """Return equally spaced points of the unit interval and the forcing there."""
    x = first + np.arange(count) / count
    forcing = np.pi**2 * (np.sin(np.pi * x) + 4.5 * np.sin(3 * np.pi * x))
    return x[:, None], forcing


@register("poisson", tags=("network", "physics", "least_squares", "random_start"))
def poisson(*, width: int = 16, depth: int = 2, rows: int = 64) -> Problem:
    """Build a network that solves Poisson's equation in one dimension.

    `depth` hidden layers of `width` tanh units; the equation is asked for at `rows` equally
    spaced points, and judged at points between them.
    """
    rows = check_size("rows", rows, at_least=1)
    width, depth = (
        check_size("width", width, at_least=1),
        check_size("depth", depth, at_least=1),
    )
    ends = np.array([[0.0], [1.0]])
    return Problem(
        name="poisson",
        loss=sum_of_squares(_poisson_residual),
        residual=_poisson_residual,
        init=perceptron.start((1, *[width] * depth, 1)),
        args=(*_poisson_data(rows, 0.5 / rows), ends),
        held_out=(*_poisson_data(4 * rows, 0.0), ends),
        row_args=2,
        predict=network,
        metrics={"relative_error": _poisson_error},
        description="Physics-informed network, Poisson: 321 parameters, 64 rows.",
        source=data.EXACT,
    )


def burgers_solution(points: Features, viscosity: Number) -> Targets:
    """Return the travelling front at points (t, x) of shape (N, 2)."""
    place = points[:, 1] - _SPEED * points[:, 0]
    return _SPEED - _HALF * jnp.tanh(_HALF * place / (2 * viscosity))


def _burgers_residual(
    params: Params, points: Features, known: Known, values: KnownValues, viscosity: Number
) -> Residuals:
    def u(points: Any) -> Any:
        return network(params, points)

    value, slope, second = _derivatives(u, points, 1)
    rate = jax.jvp(u, (points,), (_along(0, points),))[1]
    inside = (rate + value * slope - viscosity * second) / math.sqrt(len(points))
    return jnp.concatenate([inside, (u(known) - values) / math.sqrt(len(known))])


def _burgers_error(
    params: Params, points: Features, known: Known, values: KnownValues, viscosity: Number
) -> Value:
    return _relative(network(params, points), burgers_solution(points, viscosity))


def _grid(times: int, places: int) -> np.ndarray:
    """Return points (t, x) of a grid inside, shape (times · places, 2)."""
    t, x = (np.arange(times) + 0.5) / times, 2 * (np.arange(places) + 0.5) / places - 1
    return np.stack(np.meshgrid(t, x, indexing="ij"), axis=-1).reshape(-1, 2)


@register("burgers", tags=("network", "physics", "least_squares", "random_start"))
def burgers(
    *, width: int = 16, depth: int = 2, rows: int = 12, viscosity: float = 0.05
) -> Problem:
    """Build a network that solves Burgers' equation around a travelling front.

    The equation is asked for at `rows` × 2 `rows` points, the solution given at 2 `rows`
    points of the start and at `rows` of each end.
    """
    rows = check_size("rows", rows, at_least=1)
    width, depth = (
        check_size("width", width, at_least=1),
        check_size("depth", depth, at_least=1),
    )
    if not 0 < viscosity < math.inf:
        raise ValueError(f"`viscosity` must be positive and finite, got {viscosity}.")
    x, t = np.linspace(-1, 1, 2 * rows), np.linspace(0, 1, rows)
    sides = [np.column_stack([t, np.full(rows, side)]) for side in (-1.0, 1.0)]
    known = np.concatenate([np.column_stack([np.zeros(2 * rows), x]), *sides])
    place = known[:, 1] - _SPEED * known[:, 0]
    values = _SPEED - _HALF * np.tanh(_HALF * place / (2 * viscosity))
    shared = (known, values, np.float64(viscosity))
    return Problem(
        name="burgers",
        loss=sum_of_squares(_burgers_residual),
        residual=_burgers_residual,
        init=perceptron.start((2, *[width] * depth, 1)),
        args=(_grid(rows, 2 * rows), *shared),
        held_out=(_grid(3 * rows, 5 * rows), *shared),
        row_args=1,
        predict=network,
        metrics={"relative_error": _burgers_error},
        description="Physics-informed network, Burgers: 337 parameters, 288 rows.",
        source=data.EXACT,
    )
