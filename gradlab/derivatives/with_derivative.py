"""Install a gradient operator as a function's derivative rule.

Whatever then asks JAX for the gradient, or for products with the Hessian, gets the
operator's answer, so no optimizer knows which one it is.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gradlab._typing import Array, GradientOperator, Loss, Params
from gradlab.derivatives._leaves import eps_of, flatten
from gradlab.derivatives._stencils import relative_length, relative_step

__all__ = ["WithDerivative", "with_derivative"]


@dataclass(frozen=True, eq=False)
class WithDerivative:
    """A loss whose derivative is an operator's: call it like the loss itself.

    Attributes:
        loss: The function called, with its derivative rule.
        gradient: The operator's gradient of the loss, or None for automatic
            differentiation.
    """

    loss: Loss
    gradient: Callable[..., Any] | None

    def __call__(self, params: Params, *args: Any) -> Any:
        """Evaluate the loss."""
        return self.loss(params, *args)

    def gradient_evaluations(self, params: Params) -> int:
        """Return how many evaluations of the loss one gradient takes; 0 for autodiff."""
        count = getattr(self.gradient, "num_evaluations", None)
        return 0 if count is None else int(count(params))

    def hvp_evaluations(self, params: Params) -> int:
        """Return how many evaluations of the loss one product H v takes; 0 for autodiff.

        The gradient at the point itself is not counted: it is shared by all products.
        """
        sides = 1 if _one_sided(self.gradient) else 2
        return sides * self.gradient_evaluations(params)

    def gradient_noise(self, dtype: Any) -> float:
        """Return the gradient's relative error for leaves of this dtype."""
        return _relative_noise(self.gradient, dtype)


def with_derivative(f: Loss, *, grad: GradientOperator) -> WithDerivative:
    r"""Build f with another gradient operator as its derivative rule.

    `jax.grad` of the result is `grad(f)`, $G$. A second derivative is the difference
    $H(x) v \approx (G(x + t v) - G(x - t v)) / 2t$, or one-sided for a one-sided $G$, with
    $t$ from the noise $\eta$ of $G$: the perturbation is $\eta^{1/(1+p)}$ of the scale of x,
    p = 2 or 1. The error is then about $\eta^{p/(1+p)}$ relative: eps^(4/9) for central
    differences of central differences, eps^(1/4) for forward of forward ones, eps^(2/3) for
    an exact $G$. Third derivatives raise.

    Args:
        f: Function (params, *args) to a real scalar. Derivatives in `args` are automatic.
        grad: Operator shaped like `jax.grad`: `jax.grad` itself, `finite.grad`, a partial of
            it, or any function from f to its gradient.

    Returns:
        A function with the values of f, fit for `jax.grad`, `jax.hessian`, `jax.linearize`
        in any order and under `jit` and `vmap`. `gradient_evaluations(params)` and
        `hvp_evaluations(params)` count evaluations of f.

    Raises:
        TypeError: If `grad` is not callable, or f is differentiated a third time.

    References:
        Moré, J. and Wild, S. (2012). Estimating derivatives of noisy simulations. TOMS 38:19
        (the step from the noise).

    Examples:
        >>> from gradlab.derivatives import finite
        >>> loss = with_derivative(lambda x: jnp.sum(x**3), grad=finite.grad)
        >>> print(jax.hessian(loss)(jnp.array([1.0, 2.0])).round(4) + 0.0)
        [[ 6.  0.]
         [ 0. 12.]]
    """
    if not callable(grad):
        raise TypeError(f"`grad` must be an operator like jax.grad, got {grad!r}.")
    if getattr(grad, "func", grad) is jax.grad:
        return WithDerivative(f, None)
    gradient = grad(f)
    return WithDerivative(_with_rule(f, gradient), gradient)


def _with_rule(f: Loss, gradient: Callable[..., Params]) -> Loss:
    """Return f with the rule df = gradient · dparams + ∂f/∂args · dargs."""
    loss = jax.custom_jvp(f)
    both = _value_and_gradient(f, gradient)

    def rule(primals: Any, tangents: Any) -> Any:
        dparams, dargs = tangents[0], tangents[1:]
        if not _any_moves(dparams):
            return loss(*primals), _along_args(f, primals, dargs)
        # Value and gradient in one function: the derivative of the value within a second
        # derivative then shares the gradient.
        value, slopes = both(*primals)
        return value, _slope(f, primals, value, slopes, tangents)

    loss.defjvp(rule, symbolic_zeros=True)
    return loss


def _value_and_gradient(f: Loss, gradient: Callable[..., Params]) -> Callable[..., Any]:
    """Return the function to (value, gradient), with differences as its own derivative."""

    @jax.custom_jvp
    def both(*args: Any) -> tuple[Any, Params]:
        return f(*args), gradient(*args)

    def rule(primals: Any, tangents: Any) -> Any:
        value, slopes = both(*primals)
        dparams, dargs = tangents[0], tangents[1:]
        change = jax.tree.map(jnp.zeros_like, slopes)
        if _any_moves(dparams):
            dparams = jax.tree.map(_instantiate, dparams, is_leaf=_is_symbolic)
            change = _product(gradient, primals, slopes, dparams)
        if _any_moves(dargs):
            change = jax.tree.map(jnp.add, change, _along_args(gradient, primals, dargs))
        slope = _slope(f, primals, value, slopes, tangents)
        return (value, slopes), (slope, change)

    both.defjvp(rule, symbolic_zeros=True)
    return both


def _slope(f: Loss, primals: Any, value: Any, slopes: Params, tangents: Any) -> Array:
    """Return the derivative of the value along the tangents, given the gradient."""
    dparams, dargs = tangents[0], tangents[1:]
    slope = jnp.zeros_like(value)
    if _any_moves(dparams):
        slope += _inner(slopes, dparams).astype(value.dtype)
    return slope + _along_args(f, primals, dargs) if _any_moves(dargs) else slope


def _product(gradient: Callable[..., Params], primals: Any, at_x: Params, v: Params) -> Params:
    """Return H v as a function that JAX takes to be linear in v, and its own transpose.

    `jax.lax.custom_linear_solve` is the one public primitive with a transpose rule given by
    the caller and a batching rule: "solve" is the difference, which the symmetry of H makes
    its own transpose, and the system it would solve is never used.
    """
    x, *args = jax.tree.map(_no_third_derivative, primals)

    def solve(_: Any, v: Params) -> Params:
        return _difference(gradient, x, args, at_x, v)

    return jax.lax.custom_linear_solve(lambda v: v, v, solve, symmetric=True)


def _relative_noise(gradient: Any, dtype: Any) -> float:
    """Return what the operator says of its error, else the rounding."""
    return float(getattr(gradient, "relative_noise", eps_of)(dtype))


def _difference(
    gradient: Callable[..., Params], x: Params, args: Any, at_x: Params, v: Params
) -> Params:
    """Difference the gradient along v, with the step that suits its noise."""
    point, layout = flatten(x)
    direction = flatten(v)[0].astype(point.dtype)
    one_sided = _one_sided(gradient)
    coarsest = max(layout.dtypes, key=eps_of)
    noise = _relative_noise(gradient, coarsest)
    accuracy = 1 if one_sided else 2
    reach = relative_step(noise, 1, accuracy)
    length = relative_length(layout, point, direction, accuracy)
    unit = direction / jnp.where(length > 0, length, 1.0) * reach
    side = -1.0 if getattr(gradient, "scheme", "") == "backward" else 1.0
    ahead = flatten(gradient(layout.unflatten(point + side * unit), *args))[0]
    behind = at_x if one_sided else gradient(layout.unflatten(point - unit), *args)
    width = side if one_sided else 2.0
    change = (ahead - flatten(behind)[0]) / (width * reach)
    return layout.unflatten(change * length)


def _one_sided(gradient: Any) -> bool:
    """Whether the operator's own scheme looks to one side only."""
    return getattr(gradient, "scheme", "central") in ("forward", "backward")


@jax.custom_jvp
def _no_third_derivative(x: Any) -> Any:
    """Return x; refuse to be differentiated."""
    return x


@_no_third_derivative.defjvp
def _refuse(primals: Any, tangents: Any) -> Any:
    """Raise: the rule of `_product` knows no derivative in x."""
    raise TypeError(
        "`with_derivative` gives first and second derivatives: a third one would be a "
        "difference of differences of differences, with no digits left. Use "
        "finite.derivative(order=3), adaptive.derivative(order=3) or jax.grad."
    )


def _along_args(function: Callable[..., Any], primals: Any, dargs: Any) -> Any:
    """Differentiate a function along all arguments but the first, by autodiff."""
    leaves, treedef = jax.tree.flatten(primals[1:])
    tangents = jax.tree.leaves(dargs, is_leaf=_is_symbolic)
    moving = [i for i, t in enumerate(tangents) if not _is_symbolic(t)]

    def of_moving(*values: Any) -> Any:
        new = list(leaves)
        for i, value in zip(moving, values, strict=True):
            new[i] = value
        return function(primals[0], *jax.tree.unflatten(treedef, new))

    at = tuple(leaves[i] for i in moving)
    return jax.jvp(of_moving, at, tuple(tangents[i] for i in moving))[1]


def _is_symbolic(tangent: Any) -> bool:
    """Whether JAX knows this tangent to be zero."""
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _any_moves(tangents: Any) -> bool:
    """Whether any tangent is not known to be zero."""
    return any(not _is_symbolic(t) for t in jax.tree.leaves(tangents, is_leaf=_is_symbolic))


def _instantiate(tangent: Any) -> Any:
    """Turn a symbolic zero into zeros."""
    return jnp.zeros(tangent.shape, tangent.dtype) if _is_symbolic(tangent) else tangent


def _inner(a: Params, b: Params) -> Array:
    """Sum the products of two pytrees, where b may hold symbolic zeros."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b, is_leaf=_is_symbolic), strict=True)
    return functools.reduce(
        operator.add, [jnp.sum(u * v) for u, v in pairs if not _is_symbolic(v)]
    )
