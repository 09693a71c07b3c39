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

from gradlab._errors import check_choice
from gradlab._typing import Loss, Params, PyTree
from gradlab.derivatives._differences import (
    Problem,
    axis_count,
    axis_derivatives,
    check_elementwise,
    check_outputs,
    columns,
    combine,
    complex_hessian,
    polarised_hessian,
)
from gradlab.derivatives._leaves import (
    check_fits,
    check_params,
    check_scalar,
    eps_of,
    is_complex,
    same_structure,
    select_arguments,
    warn_if_narrowed,
)
from gradlab.derivatives._numpy import Evaluator
from gradlab.derivatives._stencils import Stencil, stencil, weights

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
        params, _ = select_arguments(args, self.argnums)
        check_params(params, self.argument, holomorphic=self.scheme != "complex", warn=False)
        derivative = self.evaluator(_match_step(self.step, params), args, kwargs)
        if not self.evaluator.in_python:
            warn_if_narrowed(params, self.argument)
        return derivative

    def num_evaluations(self, params: Params) -> int:
        """Return how many evaluations of f one derivative at `params` takes.

        The first time only, a function that JAX cannot trace is called twice more, to learn
        that and its output's dtype, and for the complex scheme twice again, to check it.
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
            complex params. It is compiled, so must be pure: new data go through args. A
            NumPy function is called on NumPy arrays, outside `jit`.
        scheme: "central", "forward", "backward" or "complex".
        step: Absolute step, a number or a pytree like the parameters. Default: eps^(1 / (1 +
            p)) for accuracy p, times the scale of the entry, rounded to a power of two, where
            eps is that of the coarser dtype of the entry and of f's output. The scale is the
            size of the entry where all of a leaf are alike, $M r^{p/(1+p)}$ for one that is
            r times the largest of its leaf, M; it is M for 0, and 1 in a leaf of zeros.
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
    rule = _rule(scheme, 1, accuracy)

    def recipe(evaluate: Any, step: Any, args: tuple[Any, ...], kwargs: Any) -> Params:
        problem = Problem.build(evaluate, step, args, kwargs, argnums)
        out = problem.output(rule)
        check_scalar(out, holomorphic=is_complex(problem.x.dtype) or rule is None)
        return problem.layout.unflatten(axis_derivatives(problem, rule, out))

    return Differences(
        Evaluator(recipe, f), argnums, scheme, accuracy, step, "params", axis_count(rule)
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
    rule = _rule(scheme, 1, accuracy)

    def recipe(evaluate: Any, step: Any, args: tuple[Any, ...], kwargs: Any) -> PyTree:
        problem = Problem.build(evaluate, step, args, kwargs, argnums)
        out = problem.output(rule)
        check_outputs(out, complex_in=is_complex(problem.x.dtype) or rule is None)
        rows = axis_derivatives(problem, rule, out)
        return jax.tree.map(lambda o, r: columns(problem.layout, o, r), out, rows)

    return Differences(
        Evaluator(recipe, f), argnums, scheme, accuracy, step, "params", axis_count(rule)
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

    $f^{(m)}(x) \approx h^{-m} \sum_j w_j f(x + o_j h)$, every entry of x with its own step.
    With the default step the error is about
    eps^(p / (m + p)) relative, for order m and accuracy p.

    Args:
        f: Function (x, *args) to an array of the shape of x, elementwise in x.
        order: Order m of the derivative.
        scheme: "central", "forward", "backward" or, for order 1, "complex".
        step: Absolute step, a number or an array like x. Default: eps^(1 / (m + p)) times
            |x|, rounded to a power of two; where |x| is below eps times the largest entry, a
            zero up to its rounding, times the largest entry, and 1 where all are 0.
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
    rule = _rule(scheme, order, accuracy)

    def recipe(evaluate: Any, step: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        problem = Problem.build(evaluate, step, args, kwargs, argnums, elementwise=True)
        out = problem.output(rule)
        check_elementwise(out, problem.layout)
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
        result = combine(evaluate.xp, rule, values, centre, divisor)
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
    about half the digits of f, and half of those where the entries of a leaf differ widely in
    size, for whether f changes on the scale of each is not known. The complex scheme takes
    central differences of the complex-step gradient.

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
    rule = stencil("central" if scheme == "complex" else scheme, 2, accuracy)

    def recipe(evaluate: Any, step: Any, args: tuple[Any, ...], kwargs: Any) -> PyTree:
        problem = Problem.build(evaluate, step, args, kwargs, argnums)
        check_fits(problem.layout.size, problem.x.dtype.itemsize)
        out = problem.output(None if scheme == "complex" else rule)
        complex_in = is_complex(problem.x.dtype) or scheme == "complex"
        check_scalar(out, holomorphic=complex_in, hint="`jacobian` of `grad`")
        if scheme == "complex":
            matrix = complex_hessian(problem, eps_of(out.dtype))
        else:
            matrix = polarised_hessian(problem, rule, eps_of(out.dtype))
        return problem.layout.blocks(matrix)

    def count(n: int) -> int:
        if scheme == "complex":
            return n * (n + 1)
        return n * (n + 1) // 2 * len(rule.moved) + 1

    return Differences(Evaluator(recipe, f), argnums, scheme, accuracy, step, "params", count)


def _rule(scheme: str, order: int, accuracy: int) -> Stencil | None:
    """Return the stencil; None stands for the complex step."""
    return None if scheme == "complex" else stencil(scheme, order, accuracy)


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
    if same_structure(step, 0.0):
        return jax.tree.map(lambda _: step, params)
    if not same_structure(step, params):
        raise ValueError(
            "`step` must be one number or a pytree like the parameters: got "
            f"{jax.tree.structure(step)} for {jax.tree.structure(params)}."
        )
    return step
