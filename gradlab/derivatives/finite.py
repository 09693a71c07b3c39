"""Derivatives from function values on a fixed step, shaped like `jax.grad` and its kin.

All operators take a function and return a `Differences`: a function of the same arguments
that also knows its cost (`num_evaluations`) and its accuracy (`relative_noise`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import check_choice, leaf_name
from gradlab._typing import Array, Loss, Params, PyTree
from gradlab.derivatives import _stencils
from gradlab.derivatives._leaves import (
    Layout,
    check_fits,
    check_params,
    check_scalar,
    eps_of,
    flatten,
    is_complex,
)
from gradlab.derivatives._numpy import Evaluator
from gradlab.derivatives._stencils import Stencil, weights

__all__ = ["Differences", "derivative", "grad", "hessian", "jacobian", "weights"]

SCHEMES = ("forward", "backward", "central", "complex")


@dataclass(frozen=True, eq=False)
class Differences:
    """A derivative by differences: call it with the arguments of the function.

    Attributes:
        evaluator: Runs the recipe, compiled or in Python.
        argnums: Which arguments are differentiated.
        scheme: The scheme it was built with.
        accuracy: Order of the error in the step.
        step: The step given, or None for one that follows each entry's size.
        argument: What the caller calls the differentiated argument.
        count: Number of evaluations of f as a function of the number n of variables.
    """

    evaluator: Evaluator
    argnums: int | tuple[int, ...]
    scheme: str
    accuracy: int
    step: Any
    argument: str
    count: Callable[[int], int]

    def __call__(self, *args: Any, **kwargs: Any) -> PyTree:
        """Differentiate at the given arguments."""
        params, _ = _select(args, self.argnums)
        check_params(params, self.argument, holomorphic=self.scheme != "complex")
        return self.evaluator(_match_step(self.step, params), args, kwargs)

    def num_evaluations(self, params: Params) -> int:
        """Return how many evaluations of f one derivative at `params` takes.

        A function JAX cannot trace is called once more, with a traced argument and then to
        see its output's dtype, the first time only.
        """
        return self.count(sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params)))

    def relative_noise(self, dtype: Any) -> float:
        """Return the size of the error relative to the derivative: eps^(p / (1 + p)).

        This is what the natural step leaves for accuracy p; the complex step leaves eps.
        """
        eps = eps_of(dtype)
        if self.scheme == "complex":
            return eps
        return float(eps ** (self.accuracy / (1.0 + self.accuracy)))


def grad(
    f: Loss,
    *,
    scheme: str = "central",
    step: Any = None,
    accuracy: int = 2,
    argnums: int | tuple[int, ...] = 0,
) -> Differences:
    r"""Build the gradient of a scalar function by finite differences, like `jax.grad`.

    Entry i is $\sum_j w_j f(x + o_j h_i e_i) / h_i$, with an error of order `accuracy` in
    $h_i$; or, for `scheme="complex"`, $\operatorname{Im} f(x + i h_i e_i) / h_i$, exact to
    rounding where f is analytic. It fails where f is not smooth on the scale of the step,
    and has about two thirds of the digits of f (central, accuracy 2).

    Args:
        f: Function (params, *args) to a real scalar; to a complex one if holomorphic in
            complex params. A NumPy function is called on NumPy arrays, outside `jit`.
        scheme: "central", "forward", "backward" or "complex".
        step: Absolute step, a number or a pytree like the parameters. Default: eps^(1 / (1 +
            accuracy)) times the size of each entry, rounded to a power of two, where eps is
            that of the coarser dtype of the entry and of f's output. An entry counts at
            least eps^(1/4) times the largest of its leaf, and 1 in a leaf of zeros.
        accuracy: Order of the error in the step: even for "central", 2 for "complex".
        argnums: Which argument(s) to differentiate, as in `jax.grad`.

    Returns:
        A function of (params, *args) to the gradient, shaped like params. Its cost in
        evaluations of f, `num_evaluations(params)`, is n·accuracy for central, one more
        than that for forward and backward, n for complex.

    Raises:
        TypeError: If f does not return a scalar or a leaf is not floating.
        ValueError: If `step` is not positive, or `scheme` and `accuracy` do not fit.

    References:
        Fornberg, B. (1988). Mathematics of Computation 51:699 (weights).
        Squire, W. and Trapp, G. (1998). SIAM Review 40:110 (complex step).
        Gill, P., Murray, W. and Wright, M. (1981). Practical Optimization, 8.6 (steps).

    Examples:
        >>> print(grad(lambda x: jnp.sum(x**3))(jnp.array([1.0, 2.0])).round(6))
        [ 3. 12.]
    """
    _check_options(scheme, step, 1, accuracy)
    rule = None if scheme == "complex" else _stencils.stencil(scheme, 1, accuracy)

    def recipe(evaluate: Any, step: Any, args: tuple[Any, ...], kwargs: Any) -> Params:
        problem = _Problem.build(evaluate, step, args, kwargs, argnums)
        out = problem.output(rule)
        check_scalar(out, holomorphic=is_complex(problem.x.dtype) or rule is None)
        return problem.layout.unflatten(_axis_derivatives(problem, rule, out))

    return Differences(
        Evaluator(recipe, f), argnums, scheme, accuracy, step, "params", _axis_count(rule)
    )


def jacobian(
    f: Callable[..., PyTree],
    *,
    scheme: str = "central",
    step: Any = None,
    accuracy: int = 2,
    argnums: int | tuple[int, ...] = 0,
) -> Differences:
    r"""Build the Jacobian of a function with many outputs, like `jax.jacobian`.

    Column i is $\sum_j w_j f(x + o_j h_i e_i) / h_i$; steps, schemes and errors are those
    of `grad`, and so is the cost: it does not depend on the number of outputs.

    Args:
        f: Function (params, *args) to a pytree of floating arrays.
        scheme: "central", "forward", "backward" or "complex".
        step: Absolute step, a number or a pytree like the parameters (see `grad`).
        accuracy: Order of the error in the step (see `grad`).
        argnums: Which argument(s) to differentiate, as in `jax.jacobian`.

    Returns:
        A function of (params, *args) to a pytree like f's output whose leaves are pytrees
        like params, of shape output shape + parameter shape.

    Raises:
        TypeError: If an output or a leaf is not floating.
        ValueError: If `step` is not positive, or `scheme` and `accuracy` do not fit.

    References:
        Fornberg, B. (1988). Mathematics of Computation 51:699 (weights).

    Examples:
        >>> print(jacobian(lambda x: x**2)(jnp.array([1.0, 2.0])).round(6))
        [[2. 0.]
         [0. 4.]]
    """
    _check_options(scheme, step, 1, accuracy)
    rule = None if scheme == "complex" else _stencils.stencil(scheme, 1, accuracy)

    def recipe(evaluate: Any, step: Any, args: tuple[Any, ...], kwargs: Any) -> PyTree:
        problem = _Problem.build(evaluate, step, args, kwargs, argnums)
        out = problem.output(rule)
        _check_outputs(out, complex_in=is_complex(problem.x.dtype) or rule is None)
        rows = _axis_derivatives(problem, rule, out)
        return jax.tree.map(lambda o, r: _columns(problem.layout, o, r), out, rows)

    return Differences(
        Evaluator(recipe, f), argnums, scheme, accuracy, step, "params", _axis_count(rule)
    )


def derivative(
    f: Callable[..., Any],
    *,
    order: int = 1,
    scheme: str = "central",
    step: Any = None,
    accuracy: int = 2,
    argnums: int = 0,
) -> Differences:
    r"""Build the derivative of a function of one variable, elementwise over arrays.

    $f^{(m)}(x) \approx h^{-m} \sum_j w_j f(x + o_j h)$, every entry of x with its own step,
    independent of the other entries. With the default step the error is about
    eps^(p / (m + p)) relative, for order m and accuracy p.

    Args:
        f: Function (x, *args) to an array of the shape of x, elementwise in x.
        order: Order m of the derivative.
        scheme: "central", "forward", "backward" or, for order 1, "complex".
        step: Absolute step, a number or an array like x. Default: eps^(1 / (m + p)) times
            |x|, or times 1 where x is 0, rounded to a power of two.
        accuracy: Order p of the error in the step (see `grad`).
        argnums: Which argument to differentiate.

    Returns:
        A function of (x, *args) to the derivative, shaped like x. It evaluates f on whole
        arrays: `num_evaluations(x)` counts m + p evaluations or fewer, whatever the size.

    Raises:
        TypeError: If x is not floating, or f changes its shape.
        ValueError: If an option is not positive, or `scheme` and `accuracy` do not fit.

    References:
        Fornberg, B. (1988). Mathematics of Computation 51:699 (weights).

    Examples:
        >>> print(derivative(jnp.sin, order=2)(jnp.array([0.5, 1.0])).round(6))
        [-0.479426 -0.841471]
    """
    _check_options(scheme, step, order, accuracy)
    rule = None if scheme == "complex" else _stencils.stencil(scheme, order, accuracy)

    def recipe(evaluate: Any, step: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        problem = _Problem.build(evaluate, step, args, kwargs, argnums, shared_scale=False)
        out = problem.output(rule)
        _check_elementwise(out, problem.layout)
        if rule is None:
            h = evaluate.plan(problem.complex_steps)
            values = evaluate.many(problem.call_complex, (problem.x + 1j * h)[None])
            return (values[0].imag.ravel() / h).reshape(out.shape)
        points, divisor = evaluate.plan(lambda: problem.points(rule, eps_of(out.dtype)))
        values = evaluate.many(problem.call, points.T)
        values = values.reshape(len(rule.moved), problem.layout.size)
        centre = None
        if rule.has_centre:
            centre = evaluate.xp.asarray(evaluate.one(problem.call, problem.x)).ravel()
        result = _combine(evaluate.xp, rule, values, centre, divisor)
        return jnp.asarray(result, out.dtype).reshape(out.shape)

    def count(n: int) -> int:
        return 1 if rule is None else len(rule.moved) + rule.has_centre

    return Differences(Evaluator(recipe, f), argnums, scheme, accuracy, step, "x", count)


def hessian(
    f: Loss,
    *,
    scheme: str = "central",
    step: Any = None,
    accuracy: int = 2,
    argnums: int | tuple[int, ...] = 0,
) -> Differences:
    r"""Build the Hessian of a scalar function from its values, like `jax.hessian`.

    The diagonal is the second difference $S_i$ along each axis over $h_i^2$, the rest the
    polarisation $(S_{ij} - S_i - S_j) / (2 h_i h_j)$, where $S_{ij}$ runs along
    $h_i e_i + h_j e_j$: symmetric by construction, with an error of order `accuracy`, and
    about half the digits of f. The complex scheme takes central differences of the
    complex-step gradient.

    Args:
        f: Function (params, *args) to a real scalar.
        scheme: "central", "forward", "backward" or "complex".
        step: Absolute step, a number or a pytree like the parameters. Default: that of
            `grad` with eps^(1 / (2 + accuracy)).
        accuracy: Order of the error in the step (see `grad`).
        argnums: Which argument(s) to differentiate, as in `jax.hessian`.

    Returns:
        A function of (params, *args) to the Hessian: a pytree like params of pytrees like
        params, each block of shape leaf shape + leaf shape. For central and accuracy 2 it
        takes n² + n + 1 evaluations of f, for complex n² + n.

    Raises:
        TypeError: If f does not return a scalar or a leaf is not floating.
        ValueError: If `step` is not positive, or `scheme` and `accuracy` do not fit.

    References:
        Dennis, J. and Schnabel, R. (1983). Numerical Methods for Unconstrained
        Optimization, 5.6.

    Examples:
        >>> print(hessian(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 2.0])).round(4))
        [[4. 2.]
         [2. 0.]]
    """
    _check_options(scheme, step, 1 if scheme == "complex" else 2, accuracy)
    rule = _stencils.stencil("central" if scheme == "complex" else scheme, 2, accuracy)

    def recipe(evaluate: Any, step: Any, args: tuple[Any, ...], kwargs: Any) -> PyTree:
        problem = _Problem.build(evaluate, step, args, kwargs, argnums)
        check_fits(problem.layout.size, problem.x.dtype.itemsize)
        out = problem.output(None if scheme == "complex" else rule)
        complex_in = is_complex(problem.x.dtype) or scheme == "complex"
        check_scalar(out, holomorphic=complex_in, hint="`jacobian` of `grad`")
        if scheme == "complex":
            matrix = _complex_hessian(problem, eps_of(out.dtype))
        else:
            matrix = _polarised_hessian(problem, rule, eps_of(out.dtype))
        return problem.layout.blocks(matrix)

    def count(n: int) -> int:
        if scheme == "complex":
            return n * (n + 1)
        return n * (n + 1) // 2 * len(rule.moved) + 1

    return Differences(Evaluator(recipe, f), argnums, scheme, accuracy, step, "params", count)


# --- what the operators share ---------------------------------------------------------------


def _select(args: tuple[Any, ...], argnums: int | tuple[int, ...]) -> tuple[Params, Any]:
    """Return the differentiated arguments and how to put others in their place."""
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if any(not -len(args) <= k < len(args) for k in numbers):
        raise ValueError(
            f"`argnums` must name positional arguments, got {argnums!r} for {len(args)}."
        )

    def replace(params: Params) -> tuple[Any, ...]:
        new = list(args)
        values = (params,) if isinstance(argnums, int) else params
        for k, value in zip(numbers, values, strict=True):
            new[k] = value
        return tuple(new)

    params = args[argnums] if isinstance(argnums, int) else tuple(args[k] for k in numbers)
    return params, replace


@dataclass(frozen=True, eq=False)
class _Problem:
    """f as a function of one flat vector, at one point, with the caller's step.

    Attributes:
        evaluate: How f is called: `Traced` or `Concrete`.
        step: The caller's step as a pytree like the parameters, or None.
        x: The flat point, shape (n,).
        layout: Its leaves.
        restore: Takes a pytree of parameters to f's value there.
        shared_scale: Whether the entries of a leaf share one scale.
    """

    evaluate: Any
    step: Any
    x: Any
    layout: Layout
    restore: Callable[[Params], Any]
    shared_scale: bool

    @staticmethod
    def build(
        evaluate: Any,
        step: Any,
        args: tuple[Any, ...],
        kwargs: Any,
        argnums: int | tuple[int, ...],
        shared_scale: bool = True,
    ) -> _Problem:
        """Flatten the differentiated arguments."""
        params, replace = _select(args, argnums)
        x, layout = flatten(params)

        def restore(params: Params) -> Any:
            return evaluate.f(*replace(params), **kwargs)

        x = evaluate.plan(lambda: x)
        return _Problem(evaluate, step, x, layout, restore, shared_scale)

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
        for leaf in jax.tree.leaves(out):
            if not is_complex(getattr(leaf, "dtype", float)):
                raise TypeError(_NOT_ANALYTIC)
        return out

    def steps(self, rule: Stencil, out_eps: float) -> Array:
        """Return the step of each entry: the caller's, or the natural one."""
        if self.step is None:
            return _stencils.natural_steps(
                self.x,
                self.layout,
                out_eps,
                rule.order,
                rule.accuracy,
                shared=self.shared_scale,
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
        used = [w for o, w in zip(rule.offsets, rule.weights, strict=True) if o]
        divisor = displacement @ jnp.asarray(used, h.dtype) if rule.order == 1 else h
        return points, jnp.where(jnp.any(displacement == 0, axis=1), jnp.nan, divisor)

    def complex_steps(self, natural: bool = False) -> Array:
        """Return steps along the imaginary axis: eps² of the scale, as nothing cancels.

        The error of order h² is then eps⁴, and h is far from underflow.
        """
        if self.step is not None and not natural:
            return self._given_steps()
        scale = self.layout.map_leaves(
            lambda _, x: _stencils.leaf_scale(x, eps_of(x.dtype), self.shared_scale), self.x
        )
        return _stencils.power_of_two(scale * eps_of(scale.dtype) ** 2)

    def _given_steps(self) -> Array:
        """Return the caller's steps as a flat vector."""
        real = jnp.finfo(self.x.dtype).dtype
        leaves = [
            jnp.broadcast_to(jnp.asarray(s, real), shape).ravel()
            for s, shape in zip(jax.tree.leaves(self.step), self.layout.shapes, strict=True)
        ]
        return jnp.concatenate(leaves)


_NOT_ANALYTIC = (
    "scheme='complex' needs an analytic `f`: for complex `params` it returned real numbers. "
    "abs, real, conj, norm and the like are not analytic; use scheme='central'."
)


def _axis_derivatives(problem: _Problem, rule: Stencil | None, out: Any) -> Any:
    """Differentiate f along each axis: the output's leaves with a leading axis n."""
    evaluate, index = problem.evaluate, problem.evaluate.xp.arange(problem.layout.size)
    if rule is None:
        h = evaluate.plan(problem.complex_steps)
        points = (problem.x + 1j * h)[:, None]

        def divide(values: Any, h: Any) -> Any:
            return jax.tree.map(lambda v: v[0].imag / h, values)

        return evaluate.rows(problem.call_complex, divide, problem.x + 0j, (index, points, h))
    out_eps = max(eps_of(leaf.dtype) for leaf in jax.tree.leaves(out))
    points, divisor = evaluate.plan(lambda: problem.points(rule, out_eps))
    centre = evaluate.one(problem.call, problem.x) if rule.has_centre else None

    def finish(values: Any, divisor: Any) -> Any:
        return _combine(evaluate.xp, rule, values, centre, divisor)

    return evaluate.rows(problem.call, finish, problem.x, (index, points, divisor))


def _axis_count(rule: Stencil | None) -> Callable[[int], int]:
    """Return the evaluations of `_axis_derivatives` as a function of n."""
    return lambda n: n if rule is None else n * len(rule.moved) + rule.has_centre


def _polarised_hessian(problem: _Problem, rule: Stencil, out_eps: float) -> Array:
    """Return the dense Hessian, shape (n, n), from second differences along axes and pairs."""
    evaluate, n = problem.evaluate, problem.layout.size
    points, h = evaluate.plan(lambda: problem.points(rule, out_eps))
    centre = evaluate.one(problem.call, problem.x)
    rows, columns = np.triu_indices(n, 1)

    def second(values: Any) -> Any:
        return _combine(evaluate.xp, rule._replace(order=0), values, centre, 1.0)

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


def _complex_hessian(problem: _Problem, out_eps: float) -> Array:
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
        plus, minus = values.imag
        return (plus - minus) / h * 0.5 / divisor

    index = evaluate.xp.asarray(np.stack([rows, columns], axis=1))
    moves = (index, moved, h[columns], divisor[rows])
    upper = evaluate.rows(problem.call_complex, finish, problem.x + 0j, moves)
    matrix = jnp.zeros((n, n), upper.dtype)
    return matrix.at[rows, columns].set(upper).at[columns, rows].set(upper)


def _columns(layout: Layout, out: Any, rows: Array) -> PyTree:
    """Turn derivatives along the axes, shape (n, *out), into leaves of shape out + leaf."""
    last = jnp.moveaxis(rows, 0, -1).astype(out.dtype)
    pieces = [
        last[..., cut].reshape(out.shape + shape)
        for cut, shape in zip(layout.slices, layout.shapes, strict=True)
    ]
    return jax.tree.unflatten(layout.treedef, pieces)


def _check_outputs(out: Any, complex_in: bool) -> None:
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


def _check_elementwise(out: Any, layout: Layout) -> None:
    """Raise unless f keeps the shape of x."""
    shape = layout.shapes[0]
    if getattr(out, "shape", None) != shape:
        got = f"shape {out.shape}" if hasattr(out, "shape") else type(out).__name__
        raise TypeError(
            f"`f` must be elementwise: for x of shape {shape} it returned {got}. Use `grad` "
            "for a scalar function of many variables, `jacobian` for many outputs."
        )
    _check_outputs(out, complex_in=is_complex(layout.dtypes[0]))


def _combine(xp: Any, rule: Stencil, values: Any, centre: Any, divisor: Any) -> Any:
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


def _check_options(scheme: str, step: Any, order: Any, accuracy: Any) -> None:
    """Raise unless scheme, order, accuracy and step fit together."""
    check_choice("scheme", scheme, SCHEMES)
    for name, value in (("order", order), ("accuracy", accuracy)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
    if scheme == "central" and accuracy % 2:
        raise ValueError(
            f"`accuracy` of scheme='central' must be even, got {accuracy}: its error has even "
            f"powers of the step only, so {accuracy + 1} costs the same."
        )
    if scheme == "complex" and (order, accuracy) != (1, 2):
        raise ValueError(
            "scheme='complex' takes first derivatives, with an error of order 2 in a step "
            f"too small to matter: `order` must be 1 and `accuracy` 2, got {order} and "
            f"{accuracy}."
        )
    for leaf in jax.tree.leaves(step):
        if isinstance(leaf, jax.core.Tracer):
            continue
        if not np.all(np.isfinite(np.asarray(leaf)) & (np.asarray(leaf) > 0)):
            raise ValueError(f"`step` must be positive and finite, got {leaf}.")


def _match_step(step: Any, params: Params) -> Any:
    """Return `step` as a pytree like `params`, or None."""
    if step is None:
        return None
    if jax.tree.structure(step) == jax.tree.structure(0.0):
        return jax.tree.map(lambda _: step, params)
    if jax.tree.structure(step) != jax.tree.structure(params):
        raise ValueError(
            "`step` must be one number or a pytree like the parameters: got "
            f"{jax.tree.structure(step)} for {jax.tree.structure(params)}."
        )
    return step
