r"""Derivatives of an answer with respect to the data it was found from.

At a minimum $\nabla f(x^*, \theta) = 0$ holds for every θ, so
$dx^*/d\theta = -H^{-1}\, \partial_\theta \nabla f$ (the implicit function theorem; Griewank &
Walther 2008, chapter 15). The iterations are not differentiated: neither their memory nor
their number matters, and reverse mode works through any method. The rule holds at the
answer of every θ, so it may be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gradlab._tree import norm
from gradlab._typing import Array, Params

__all__ = ["known", "with_implicit_derivative"]

# Up to so many parameters the Hessian is made and decomposed; beyond, conjugate gradients.
DENSE = 512


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def known(function: Callable[..., Array], value: Array, *args: Any) -> Array:
    """Return the value of `function(*args)`, at hand already, with its derivative."""
    del function, args
    return value


@known.defjvp
def _of_function(function: Callable[..., Array], primals: Any, tangents: Any) -> Any:
    dot = jax.jvp(function, primals[1:], tangents[1:])[1]
    return known(function, *primals), dot


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def with_implicit_derivative(
    loss: Callable[..., Array], x: Params, value: Array, success: Array, args: Any
) -> tuple[Params, Array]:
    """Return x and the loss there, both differentiable with respect to `args`.

    The derivative of a run that was no success is NaN.
    """
    del loss, success, args
    return x, value


@with_implicit_derivative.defjvp
def _derivative(loss: Callable[..., Array], primals: Any, tangents: Any) -> Any:
    # What hangs on the arguments through x hangs on them here too, for the next derivative.
    x, value = with_implicit_derivative(loss, *primals)
    success, args = primals[2:]
    grad = jax.grad(loss)
    moved = jax.jvp(lambda args: grad(x, *args), (args,), (tangents[3],))[1]
    # At a minimum x does not matter to first order.
    value_dot = jax.jvp(lambda args: loss(x, *args), (args,), (tangents[3],))[1]
    product = jax.linearize(lambda x: grad(x, *args), x)[1]
    flat, unravel = ravel_pytree(moved)
    step = jax.lax.custom_linear_solve(
        lambda v: ravel_pytree(product(unravel(v)))[0], -flat, _solve, symmetric=True
    )
    # A factor, for reverse mode would pass by a constant.
    known = jnp.where(success, 1, jnp.nan)
    x_dot = jax.tree.map(lambda v: v * known.astype(v.dtype), unravel(step))
    return (x, value), (x_dot, (value_dot * known).astype(value.dtype))


def _solve(product: Callable[[Array], Array], b: Array) -> Array:
    """Solve H v = b; along directions in which the loss is flat v is zero.

    Where conjugate gradients do not come to half the digits of b, v is NaN.
    """
    if b.size > DENSE:
        eps = float(jnp.finfo(b.dtype).eps)
        v = jax.scipy.sparse.linalg.cg(product, b, tol=eps)[0]
        solved = norm(product(v) - b) <= eps**0.5 * norm(b)
        return jnp.where(solved, v, jnp.nan)
    hessian = jax.lax.map(product, jnp.eye(b.size, dtype=b.dtype))
    values, vectors = jnp.linalg.eigh((hessian + hessian.T) / 2)
    rounding = b.size * jnp.finfo(b.dtype).eps * jnp.max(jnp.abs(values))
    solid = jnp.abs(values) > rounding
    parts = jnp.where(solid, (b @ vectors) / jnp.where(solid, values, 1), 0)
    return vectors @ parts
