"""Damped solves with the Gauss-Newton matrix of a model: by products, or in output space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gradlab._tree import add_scaled, inner, max_abs, working_dtype
from gradlab._typing import Array, Params
from gradlab.derivatives.curvature import ggn_vp, hessian_vp

__all__ = [
    "Solution",
    "_in_working_dtype",
    "by_products",
    "in_output_space",
    "num_outputs",
    "product_at",
]

Product = Callable[[Params], Params]
EXACT = jax.lax.Precision.HIGHEST


class Solution(NamedTuple):
    """A step p with (G + λ) p ≈ b, and what is known of it.

    `slope` is bᵀp, `curvature` pᵀGp; `stiffest` is the largest curvature met along a
    direction, `softest` the least.
    """

    step: Params
    slope: Array
    curvature: Array
    stiffest: Array
    softest: Array
    products: Array


class _Iteration(NamedTuple):
    """One iteration of conjugate gradients; `scalars` are rᵀr, extreme curvatures, products."""

    step: Params
    residual: Params
    direction: Params
    scalars: Array


def _in_working_dtype(product: Product, params: Params) -> Product:
    """Let a product take and give vectors of the working dtype."""
    dtype = working_dtype(params)

    def apply(v: Params) -> Params:
        image = product(jax.tree.map(lambda u, p: u.astype(p.dtype), v, params))
        return jax.tree.map(lambda u: u.astype(dtype), image)

    return apply


def by_products(
    product: Product, target: Params, shift: Array, start: Params, budget: int, rtol: Any
) -> Solution:
    """Solve (G + λ) p = b by conjugate gradients from `start`, or from zero if that is worse.

    They end when the residual is below `rtol` times b, or after `budget` products. Vectors
    are divided by the largest entry of b, so that no product of two over- or underflows.
    """
    size = max_abs(target)
    size = jnp.where(size > 0, size, 1)
    b = jax.tree.map(lambda u: u.astype(size.dtype) / size, target)
    first, products = _start(product, b, shift, start, size)
    goal = rtol**2 * inner(b, b)

    def going(it: _Iteration) -> Array:
        rr, _, low, made = it.scalars
        return (rr > goal) & (made < budget) & (low > -jnp.inf)

    def iterate(it: _Iteration) -> _Iteration:
        rr, high, low, made = it.scalars
        d = it.direction
        image = add_scaled(product(d), shift, d)
        dd, curved = inner(d, d), inner(d, image)
        good = (curved > 0) & jnp.isfinite(curved)
        length = jnp.where(good, rr / jnp.where(good, curved, 1), 0)
        step, residual = add_scaled(it.step, length, d), add_scaled(it.residual, -length, image)
        following = inner(residual, residual)
        along = curved / dd - shift
        # A matrix that is not definite, or not finite, ends the solve with what there is.
        low = jnp.where(good, jnp.minimum(low, along), -jnp.inf)
        direction = add_scaled(residual, following / rr, d)
        scalars = jnp.stack([following, jnp.maximum(high, along), low, made + 1])
        return _Iteration(step, residual, direction, scalars)

    zero = jnp.zeros_like(size)
    scalars = jnp.stack([inner(first[1], first[1]), zero, zero + jnp.inf, zero])
    last = jax.lax.while_loop(going, iterate, _Iteration(*first, first[1], scalars))
    pp = inner(last.step, last.step)
    slope = inner(b, last.step)
    # pᵀ(G + λ)p = pᵀ(b − r).
    curvature = slope - inner(last.residual, last.step) - shift * pp
    _, high, low, made = last.scalars
    step = jax.tree.map(lambda p: size * p, last.step)
    return Solution(
        step, size**2 * slope, size**2 * curvature, high, low, made.astype(jnp.int32) + products
    )


def _start(
    product: Product, b: Params, shift: Array, start: Params, size: Array
) -> tuple[tuple[Params, Params], Array]:
    """Return the step to start from with its residual, and the products that took.

    From where the model is higher than at zero, it is zero.
    """
    zeros = jax.tree.map(jnp.zeros_like, b)
    given = max_abs(start) > 0

    def warm() -> tuple[Params, Params]:
        step = jax.tree.map(lambda p: p.astype(size.dtype) / size, start)
        image = add_scaled(product(step), shift, step)
        better = inner(step, image) < 2 * inner(b, step)
        residual = jax.tree.map(lambda u, v: jnp.where(better, u - v, u), b, image)
        return jax.tree.map(lambda p: jnp.where(better, p, 0), step), residual

    return jax.lax.cond(given, warm, lambda: (zeros, b)), given.astype(jnp.int32)


def num_outputs(model: Callable[..., Any], params: Params, args: tuple[Any, ...]) -> int:
    """Number of outputs of a model."""
    shapes = jax.eval_shape(model, params, *args)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def in_output_space(
    model: Callable[..., Any],
    loss: Callable[..., Array],
    params: Params,
    args: tuple[Any, ...],
    damping: Array | float,
    momentum: tuple[Array | float, Params],
    rows: bool,
) -> tuple[Params, int]:
    r"""Solve for the damped natural gradient by a system as large as the outputs.

    With u the loss's slopes at the outputs, H its Hessian there and K = JJᵀ,

    $$ (J^T H J + λ)^{-1} J^T u = J^T (H K + λ)^{-1} u. $$

    Returns the direction, with the momentum μ and the last direction φ of `natural_gradient`,
    and the reverse passes made.
    """
    flat, unravel = ravel_pytree(params)
    dtype = working_dtype(params)
    z, restore, jacobian, passes = _jacobian(model, params, args, rows)
    jacobian = jacobian.astype(dtype)

    def of_outputs(z: Array) -> Array:
        return loss(restore(z), *args)

    slopes = jax.grad(of_outputs)(z).astype(dtype)
    curve = hessian_vp(of_outputs, z)

    def curved(w: Array) -> Array:
        return curve(w.astype(z.dtype)).astype(dtype)

    kernel = jnp.matmul(jacobian, jacobian.T, precision=EXACT)
    moved = jnp.matmul(kernel, slopes, precision=EXACT)
    along = jnp.sum(slopes * moved)
    unit = jnp.sum(moved * curved(moved)) / jnp.where(along > 0, along, 1)
    product = jax.vmap(curved)(kernel).T  # K is symmetric: its rows are its columns
    # Below the rounding of the system, no damping is.
    least = len(z) * jnp.finfo(dtype).eps * jnp.trace(product)
    shift = damping * unit + least
    shift = jnp.where(shift > 0, shift, 1)
    mu, last = momentum
    before = ravel_pytree(last)[0].astype(dtype)
    target = slopes - mu * curved(jnp.matmul(jacobian, before, precision=EXACT))
    weights = jnp.linalg.solve(product + shift * jnp.eye(len(z), dtype=dtype), target)
    direction = mu * before + jnp.matmul(weights, jacobian, precision=EXACT)
    return unravel(direction.astype(flat.dtype)), passes


def check_rows(outputs: Any, args: tuple[Any, ...]) -> None:
    """Raise unless the outputs are an array of as many rows as every array of the data has."""
    if not isinstance(outputs, jax.Array) or outputs.ndim == 0:
        raise TypeError("`model` must return one array of outputs, with a row for each sample.")
    lengths = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(args) if jnp.ndim(leaf)}
    if lengths != {len(outputs)}:
        raise ValueError(
            "The rows of the model's outputs must come from the rows of `args`, but there are "
            f"{len(outputs)} rows of outputs and {sorted(lengths) or 'no'} of `args`. Pass "
            "the data in `args` rather than closing over them."
        )


def _jacobian(
    model: Callable[..., Any], params: Params, args: tuple[Any, ...], rows: bool
) -> tuple[Array, Callable[[Array], Any], Array, int]:
    """Return flat outputs, how to restore them, the Jacobian (m, n), and its reverse passes."""
    flat, unravel = ravel_pytree(params)
    outputs = model(params, *args)
    z, restore = ravel_pytree(outputs)
    if not rows:
        jacobian = jax.jacrev(lambda x: ravel_pytree(model(unravel(x), *args))[0])(flat)
        return z, restore, jacobian, z.size
    check_rows(outputs, args)
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, args)

    def one(*row: Any) -> Array:
        single = jax.tree.map(lambda leaf, axis: leaf if axis is None else leaf[None],
                              row, axes)  # fmt: skip
        return jax.jacrev(lambda x: jnp.ravel(model(unravel(x), *single)))(flat)

    jacobian = jax.vmap(one, axes)(*args).reshape(z.size, flat.size)
    return z, restore, jacobian, z.size // len(outputs)


def product_at(
    model: Callable[..., Any], loss: Callable[..., Array], params: Params, args: tuple[Any, ...]
) -> Product:
    """Return the product with the Gauss-Newton matrix, in the working dtype."""
    product = ggn_vp(lambda x: model(x, *args), lambda z: loss(z, *args), params)
    return _in_working_dtype(product, params)
