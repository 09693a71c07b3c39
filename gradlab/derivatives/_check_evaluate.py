"""The compiled pieces of a check: values and derivatives of one problem, one at a time.

Nothing here is mapped by `vmap`: a rule that is wrong only under `vmap` must not reach the
numbers it is judged by. Points are visited by loops inside compiled code instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.derivatives._check_problem import Problem
from gradlab.derivatives._check_rounding import length, rounding_spread

__all__ = ["Evaluator"]

# Longest line of samples: two sides of a scan or a ladder.
_SAMPLES = 64
# Leaves of which each is summed by itself; a program of more takes long to compile.
_SLICES = 16


class Evaluator:
    """Values, products and lines of samples of one problem, compiled when first used.

    Attributes:
        problem: What is evaluated.
        calls: Evaluations of f so far, gradients and products counted as one each.
        closeness: Relative difference below which nothing is called wrong: half of all
            digits, or what the noise of f suggests.
        forward, reverse: Why a mode is not available, or None.
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        self.calls = 0
        self.closeness = float(np.sqrt(problem.eps))
        self._spreads: dict[bytes, np.ndarray] = {}
        # A custom_vjp refuses forward mode only when the program is lowered.
        self.forward = self._lacks(lambda x: self._jvp.lower(x, x))
        self.reverse = self._lacks(
            lambda x: jax.eval_shape(jax.grad(lambda x: problem.call(x)[0]), x)
        )

    @property
    def x(self) -> np.ndarray:
        """The point."""
        return self.problem.x

    def _lacks(self, function: Callable[[Any], Any]) -> str | None:
        """Why JAX cannot trace a derivative: the first line of what it says."""
        with self.problem.precision():
            try:
                function(self.problem.x)
            except (TypeError, ValueError, NotImplementedError) as error:
                return str(error).strip().partition("\n")[0]
        return None

    def lacks_second(self) -> str | None:
        """Why JAX cannot differentiate twice, or None."""
        weights = np.ones(self.problem.outputs[-1].cut.stop, self.problem.dtype)
        if self.reverse is None:
            return self._lacks(lambda x: self._hvp.lower(x, weights, x))
        return self._lacks(lambda x: self._curvature.lower(x, weights, x, x))

    def _run(self, function: Callable[..., Any], *args: Any, count: int = 1) -> np.ndarray:
        self.calls += count
        with self.problem.precision():
            return np.asarray(function(*args))

    def value(self, at: np.ndarray | None = None) -> np.ndarray:
        """f(x), shape (m,), at the point or another."""
        return self._run(self._value, self.x if at is None else at)

    def jvp(self, direction: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
        """J d, shape (m,), at the point or another."""
        return self._run(self._jvp, self.x if at is None else at, direction)

    def vjp(self, weights: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
        """Gradient of weights · f, shape (n,), at the point or another."""
        return self._run(self._vjp, self.x if at is None else at, weights)

    def hvp(self, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Product of the Hessian of weights · f with d, shape (n,)."""
        return self._run(self._hvp, self.x, weights, direction)

    def curvature(self, weights: np.ndarray, direction: np.ndarray, probe: np.ndarray) -> float:
        """The product probe · H d by forward mode alone."""
        return float(self._run(self._curvature, self.x, weights, direction, probe))

    def gradient_spread(self, weights: np.ndarray) -> np.ndarray:
        """Rounding deviation of each entry of the gradient of weights · f, shape (n,)."""
        key = weights.tobytes()
        if key not in self._spreads:
            with self.problem.precision():
                gradient = jax.grad(self._weighted(weights))
                self._spreads[key] = rounding_spread(gradient, self.x)[1]
        return self._spreads[key]

    def gradient_length(self) -> int:
        """Number of operations in the gradient's program."""
        with self.problem.precision():
            ones = np.ones(self.problem.outputs[-1].cut.stop, self.problem.dtype)
            return length(jax.make_jaxpr(jax.grad(self._weighted(ones)))(self.x).jaxpr)

    def slope_spread(self, weights: np.ndarray, direction: np.ndarray) -> float:
        """Rounding deviation of weights · J d, by forward mode."""
        with self.problem.precision():
            slope = lambda x: jax.jvp(self._weighted(weights), (x,), (direction,))[1]  # noqa: E731
            return float(rounding_spread(slope, self.x)[1])

    def curvature_spread(
        self, weights: np.ndarray, direction: np.ndarray, probe: np.ndarray
    ) -> float:
        """Rounding deviation of probe · H d."""

        def second(x: Any) -> Any:
            if self.reverse is not None:
                return self._second(x, weights, direction, probe)
            return jnp.sum(probe * self._product(x, weights, direction))

        with self.problem.precision():
            return float(rounding_spread(second, self.x)[1])

    def line(self, direction: np.ndarray, steps: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Combinations rows · f at x + t d for each step t, shape (M, K)."""
        return self._along(self._line, direction, steps, rows)

    def probes(self, direction: np.ndarray, steps: np.ndarray, *rest: Any) -> np.ndarray:
        """Sums over each input leaf of probe × gradient of weights · f along a line."""
        return self._along(self._probes, direction, steps, *rest)

    def picked(self, direction: np.ndarray, steps: np.ndarray, *rest: Any) -> np.ndarray:
        """Chosen entries of the gradient of weights · f along a line."""
        return self._along(self._picked, direction, steps, *rest)

    def pushed(self, direction: np.ndarray, steps: np.ndarray, *rest: Any) -> np.ndarray:
        """Slope of weights · f along a probe, by forward mode, at points of a line."""
        return self._along(self._pushed, direction, steps, *rest)

    def _along(
        self, function: Callable[..., Any], direction: np.ndarray, steps: np.ndarray, *rest: Any
    ) -> np.ndarray:
        count = len(steps)
        padded = np.zeros(_SAMPLES, self.problem.dtype)
        padded[:count] = steps
        return self._run(function, self.x, direction, padded, count, *rest, count=count)[:count]

    @functools.cached_property
    def _value(self) -> Callable[..., Any]:
        return jax.jit(self.problem.call)

    @functools.cached_property
    def _jvp(self) -> Any:
        return jax.jit(lambda x, d: jax.jvp(self.problem.call, (x,), (d,))[1])

    def _weighted(self, weights: Any) -> Callable[[Any], Any]:
        return lambda x: jnp.sum(weights * self.problem.call(x))

    @functools.cached_property
    def _vjp(self) -> Callable[..., Any]:
        return jax.jit(lambda x, u: jax.grad(self._weighted(u))(x))

    @functools.cached_property
    def _hvp(self) -> Any:
        return jax.jit(self._product)

    def _product(self, x: Any, u: Any, d: Any) -> Any:
        """H d, forward over reverse where there is a forward mode."""
        gradient = jax.grad(self._weighted(u))
        if self.forward is None:
            return jax.jvp(gradient, (x,), (d,))[1]
        return jax.vjp(gradient, x)[1](d)[0]

    @functools.cached_property
    def _curvature(self) -> Any:
        return jax.jit(self._second)

    def _second(self, x: Any, u: Any, d: Any, v: Any) -> Any:
        """The product v · H d, forward over forward."""
        slope = lambda x: jax.jvp(self._weighted(u), (x,), (v,))[1]  # noqa: E731
        return jax.jvp(slope, (x,), (d,))[1]

    @functools.cached_property
    def _line(self) -> Callable[..., Any]:
        return self._looped(lambda x, rows: jnp.sum(rows * self.problem.call(x)[None], axis=1))

    @functools.cached_property
    def _probes(self) -> Callable[..., Any]:
        cuts = [leaf.cut for leaf in self.problem.inputs]
        owner = np.repeat(np.arange(len(cuts)), [leaf.size for leaf in self.problem.inputs])

        def sums(x: Any, weights: Any, probe: Any) -> Any:
            products = probe * jax.grad(self._weighted(weights))(x)
            if len(cuts) > _SLICES:
                return jax.ops.segment_sum(products, owner, len(cuts))
            return jnp.stack([jnp.sum(products[cut]) for cut in cuts])

        return self._looped(sums)

    @functools.cached_property
    def _picked(self) -> Callable[..., Any]:
        return self._looped(lambda x, u, index: jax.grad(self._weighted(u))(x)[index])

    @functools.cached_property
    def _pushed(self) -> Callable[..., Any]:
        return self._looped(lambda x, u, v: jax.jvp(self._weighted(u), (x,), (v,))[1][None])

    def _looped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a function of x for the first `count` points of a line."""

        def run(x: Any, direction: Any, steps: Any, count: Any, *rest: Any) -> Any:
            shape = jax.eval_shape(function, x, *rest)

            def body(i: Any, out: Any) -> Any:
                return out.at[i].set(function(x + steps[i] * direction, *rest))

            start = jnp.full((_SAMPLES, *shape.shape), jnp.nan, shape.dtype)
            return jax.lax.fori_loop(0, count, body, start)

        return jax.jit(run)
