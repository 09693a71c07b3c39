"""The arithmetic of `finite`: f along a flat vector, differences along axes and pairs.

Nothing here knows whether f is compiled or called in Python: `evaluate` is one of the two
evaluators of `_numpy`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import leaf_name
from gradlab._typing import Array, Params, PyTree
from gradlab.derivatives import _stencils
from gradlab.derivatives._leaves import (
    Layout,
    eps_of,
    flatten,
    is_complex,
    select_arguments,
)
from gradlab.derivatives._stencils import Stencil

__all__ = [
    "Problem",
    "axis_count",
    "axis_derivatives",
    "check_elementwise",
    "check_outputs",
    "columns",
    "combine",
    "complex_hessian",
    "polarised_hessian",
]


@dataclass(frozen=True, eq=False)
class Problem:
    """f as a function of one flat vector, at one point, with the caller's step.

    Attributes:
        evaluate: How f is called: `Traced` or `Concrete`.
        step: The caller's step as a pytree like the parameters, or None.
        x: The flat point, shape (n,).
        layout: Its leaves.
        restore: Takes a pytree of parameters to f's value there.
        elementwise: Whether f is, so that each entry of x is a point of its own.
    """

    evaluate: Any
    step: Any
    x: Any
    layout: Layout
    restore: Callable[[Params], Any]
    elementwise: bool

    @staticmethod
    def build(
        evaluate: Any,
        step: Any,
        args: tuple[Any, ...],
        kwargs: Any,
        argnums: int | tuple[int, ...],
        elementwise: bool = False,
    ) -> Problem:
        """Flatten the differentiated arguments."""
        params, replace = select_arguments(args, argnums)
        x, layout = flatten(params)

        def restore(params: Params) -> Any:
            return evaluate.f(*replace(params), **kwargs)

        x = evaluate.plan(lambda: x)
        return Problem(evaluate, step, x, layout, restore, elementwise)

    def call(self, x: Any) -> Any:
        """Evaluate f at a flat point."""
        return self.restore(self.layout.unflatten(x))

    def call_complex(self, x: Any) -> Any:
        """Evaluate f at a flat complex point."""
        return self.restore(self.layout.as_complex().unflatten(x))

    def output(self, rule: Stencil | None) -> Any:
        """Return shapes and dtypes of f's output; for complex input where there is no rule."""
        if rule is not None:
            return self.evaluate.output(self.call, self.x)
        out = self.evaluate.output(self.call_complex, self.x + 0j)
        self.evaluate.check_analytic(self.call_complex, self.x + 0j, out)
        return out

    def steps(self, rule: Stencil, out_eps: float) -> Array:
        """Return the step of each entry: the caller's, or the natural one."""
        if self.step is None:
            return _stencils.natural_steps(
                self.x, self.layout, out_eps, rule.order, rule.accuracy, self.elementwise
            )
        return self._given_steps()

    def points(self, rule: Stencil, out_eps: float) -> tuple[Array, Array]:
        """Return x_i + o_j h_i, shape (n, k), and the divisor of each row, shape (n,).

        The divisor of a first derivative is the sum of w_j times the displacement as
        rounded, so that a linear function is differentiated exactly however x + h was
        rounded. Where x + h is x itself the divisor is NaN, and so is the derivative.
        """
        h = self.steps(rule, out_eps)
        offsets = jnp.asarray(rule.moved, h.dtype)
        points = self.layout.map_leaves(
            lambda dtype, x, h: _stencils.round_to(
                x[:, None] + h[:, None] * offsets[None], dtype
            ),
            self.x,
            h,
        )
        displacement = jnp.real(points - self.x[:, None])
        divisor = h
        if rule.order == 1:  # a sum, not a product of matrices: TF32 would round it
            used = [w for o, w in zip(rule.offsets, rule.weights, strict=True) if o]
            divisor = jnp.sum(displacement * jnp.asarray(used, h.dtype)[None], axis=1)
        return points, jnp.where(jnp.any(displacement == 0, axis=1), jnp.nan, divisor)

    def complex_steps(self, natural: bool = False) -> Array:
        """Return steps along the imaginary axis: eps² of the scale, as nothing cancels.

        The error of order h² is then eps⁴, and h is far from underflow.
        """
        if self.step is not None and not natural:
            return self._given_steps()
        scale = self.layout.map_leaves(
            lambda _, x: _stencils.leaf_scale(x, eps_of(x.dtype), 0.5), self.x
        )
        h = _stencils.power_of_two(scale * eps_of(scale.dtype) ** 2)
        return jnp.maximum(h, _stencils.smallest_step(h.dtype))

    def _given_steps(self) -> Array:
        """Return the caller's steps as a flat vector."""
        real = jnp.finfo(self.x.dtype).dtype
        leaves = [
            jnp.broadcast_to(jnp.asarray(s, real), shape).ravel()
            for s, shape in zip(jax.tree.leaves(self.step), self.layout.shapes, strict=True)
        ]
        return jnp.concatenate(leaves)


def axis_derivatives(problem: Problem, rule: Stencil | None, out: Any) -> Any:
    """Differentiate f along each axis: the output's leaves with a leading axis n."""
    evaluate, index = problem.evaluate, problem.evaluate.xp.arange(problem.layout.size)
    if rule is None:
        h = evaluate.plan(problem.complex_steps)
        points = (problem.x + 1j * h)[:, None]

        def divide(values: Any, h: Any) -> Any:
            return jax.tree.map(lambda v: v[0].imag / h, values)

        rows = evaluate.rows(problem.call_complex, divide, problem.x + 0j, (index, points, h))
        evaluate.check_against_differences(problem.call, problem.x, rows)
        return rows
    out_eps = max(eps_of(leaf.dtype) for leaf in jax.tree.leaves(out))
    points, divisor = evaluate.plan(lambda: problem.points(rule, out_eps))
    centre = evaluate.one(problem.call, problem.x) if rule.has_centre else None

    def finish(values: Any, divisor: Any) -> Any:
        return combine(evaluate.xp, rule, values, centre, divisor)

    return evaluate.rows(problem.call, finish, problem.x, (index, points, divisor))


def axis_count(rule: Stencil | None) -> Callable[[int], int]:
    """Return the evaluations of `axis_derivatives` as a function of n."""
    return lambda n: n if rule is None else n * len(rule.moved) + rule.has_centre


def polarised_hessian(problem: Problem, rule: Stencil, out_eps: float) -> Array:
    """Return the dense Hessian, shape (n, n), from second differences along axes and pairs."""
    evaluate, n = problem.evaluate, problem.layout.size
    points, h = evaluate.plan(lambda: problem.points(rule, out_eps))
    centre = evaluate.one(problem.call, problem.x)
    rows, columns = np.triu_indices(n, 1)

    def second(values: Any) -> Any:
        return combine(evaluate.xp, rule._replace(order=0), values, centre, 1.0)

    index = evaluate.xp.arange(n)[:, None]
    axes = evaluate.rows(problem.call, second, problem.x, (index, points[:, :, None]))
    matrix = jnp.diag(axes / h / h)
    if n == 1:
        return matrix
    index = evaluate.xp.stack([evaluate.xp.asarray(rows), evaluate.xp.asarray(columns)], axis=1)
    both = evaluate.xp.stack([points[rows], points[columns]], axis=2)
    pairs = evaluate.rows(problem.call, second, problem.x, (index, both))
    mixed = (pairs - axes[rows] - axes[columns]) / (2 * h[rows]) / h[columns]
    return matrix.at[rows, columns].set(mixed).at[columns, rows].set(mixed)


def complex_hessian(problem: Problem, out_eps: float) -> Array:
    """Return the dense Hessian from central differences of complex-step derivatives."""
    evaluate, n = problem.evaluate, problem.layout.size
    rule = _stencils.stencil("central", 1, 2)
    h = evaluate.plan(lambda: problem.complex_steps(natural=True))
    points, divisor = evaluate.plan(lambda: problem.points(rule, out_eps))
    rows, columns = np.triu_indices(n)
    same = (rows == columns)[:, None]
    tilted = (problem.x + 1j * h)[columns][:, None]
    moved = evaluate.xp.stack(
        [
            points[rows] + 1j * (same * h[rows][:, None]),
            evaluate.xp.where(same, points[rows] + 1j * h[rows][:, None], tilted),
        ],
        axis=2,
    )

    def finish(values: Any, h: Any, divisor: Any) -> Any:
        minus, plus = values.imag
        return (plus - minus) / h * 0.5 / divisor

    index = evaluate.xp.asarray(np.stack([rows, columns], axis=1))
    moves = (index, moved, h[columns], divisor[rows])
    upper = evaluate.rows(problem.call_complex, finish, problem.x + 0j, moves)
    matrix = jnp.zeros((n, n), upper.dtype)
    return matrix.at[rows, columns].set(upper).at[columns, rows].set(upper)


def columns(layout: Layout, out: Any, rows: Array) -> PyTree:
    """Turn derivatives along the axes, shape (n, *out), into leaves of shape out + leaf."""
    dtype = out.dtype if is_complex(rows.dtype) else jnp.finfo(out.dtype).dtype
    last = jnp.moveaxis(rows, 0, -1).astype(dtype)
    pieces = [
        last[..., cut].reshape(out.shape + shape)
        for cut, shape in zip(layout.slices, layout.shapes, strict=True)
    ]
    return jax.tree.unflatten(layout.treedef, pieces)


def combine(xp: Any, rule: Stencil, values: Any, centre: Any, divisor: Any) -> Any:
    """Apply the weights to values of f, leading axis k, and divide by h^order."""

    def leaf(moved: Any, middle: Any = None) -> Any:
        wide = xp.asarray(moved).astype(jnp.promote_types(moved.dtype, jnp.float32))
        samples = [wide[k] for k in range(len(rule.moved))]
        if rule.has_centre:
            samples = [xp.asarray(middle).astype(wide.dtype), *samples]
        # The weights sum to 0, so one value may be subtracted from all: a constant has
        # derivative 0 exactly, and rounded weights cost nothing where f is large.
        total = sum(
            w * (s - samples[0]) for w, s in zip(rule.weights[1:], samples[1:], strict=True)
        )
        for _ in range(rule.order):  # h**order could underflow
            total = total / divisor
        return total

    return jax.tree.map(leaf, values) if centre is None else jax.tree.map(leaf, values, centre)


def check_outputs(out: Any, complex_in: bool) -> None:
    """Raise unless every output of a Jacobian's function is floating."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(out):
        name = leaf_name("f(params)", path)
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(f"`{name}` must be floating, got {dtype or type(leaf).__name__}.")
        if complex_in and not is_complex(dtype):
            raise TypeError(
                f"`{name}` is {dtype} for complex `params`: only holomorphic functions have a "
                "complex derivative."
            )
    if not jax.tree.leaves(out):
        raise TypeError("`f` must return arrays, but returned None. Is a `return` missing?")


def check_elementwise(out: Any, layout: Layout) -> None:
    """Raise unless f keeps the shape of x."""
    shape = layout.shapes[0]
    if getattr(out, "shape", None) != shape:
        got = f"shape {out.shape}" if hasattr(out, "shape") else type(out).__name__
        raise TypeError(
            f"`f` must be elementwise: for x of shape {shape} it returned {got}. Use `grad` "
            "for a scalar function of many variables, `jacobian` for many outputs."
        )
    check_outputs(out, complex_in=is_complex(layout.dtypes[0]))
