"""Newton directions without a globalisation, for optax chains that end in a line search."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from gradlab._checks import check_callable, check_count, check_positive
from gradlab._tree import add_scaled, inner, max_abs, num_params, working_dtype
from gradlab._typing import Array, Count, Loss, Number, Params
from gradlab.derivatives.autodiff import flat_hessian, value_grad_hvp
from gradlab.derivatives.curvature import ggn_vp
from gradlab.optimizers._protocol import bind

__all__ = ["DirectionState", "scale_by_ggn", "scale_by_newton", "scale_by_newton_cg"]

Product = Callable[[Params], Params]


class DirectionState(NamedTuple):
    """State of a direction.

    Attributes:
        largest: Largest norm of the updates so far, the scale of inexact solves.
        calls: Evaluations made (losses, gradients, Hessian-vector products, Hessians).
    """

    largest: Array
    calls: Array


def scale_by_newton(*, damping: Number = 0.0) -> optax.GradientTransformationExtraArgs:
    r"""Scale updates by the inverse of the Hessian's absolute value, $|H|^{-1} g$.

    $|H| = V |\Lambda| V^T$ has the eigenvalues' absolute values, so the negative of the
    result descends wherever the update is the gradient, at saddles too. Along directions
    of no curvature, and along all of them by `damping` parts of it, the largest curvature
    counts: $(|\Lambda| + \mathrm{damping} \max|\Lambda|)^{-1}$.

    As `optax.scale_by_lbfgs` it does not change the sign, and its `update` needs `value_fn`.
    The whole step is the one to try first:

        search = optax.scale_by_zoom_linesearch(20, initial_guess_strategy="one")
        optax.chain(scale_by_newton(), optax.scale(-1), search)

    Cost: a Hessian and its eigendecomposition an update, about 10n³.

    Args:
        damping: Part of the largest curvature to add to all of them; no unit.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `DirectionState`.

    Raises:
        ValueError: If `damping` is negative.

    References:
        Dauphin, Y. et al. (2014). Identifying and attacking the saddle point problem in
        high-dimensional non-convex optimization.

    Examples:
        >>> loss = lambda x: 2 * x[0] ** 2 - x[1] ** 2
        >>> x, direction = jnp.array([1.0, 1.0]), scale_by_newton()
        >>> updates, _ = direction.update(
        ...     jax.grad(loss)(x), direction.init(x), x, value_fn=loss
        ... )
        >>> print(updates)
        [ 1. -1.]
    """
    damping = check_positive("damping", damping)

    def update(updates, state, params=None, *, value_fn, **extra):
        loss, dtype = bind(value_fn, extra), working_dtype(params)
        flat, unravel = ravel_pytree(params)
        vector, back = ravel_pytree(updates)
        hessian = flat_hessian(
            lambda x: loss(unravel(x.astype(flat.dtype))).astype(dtype), flat.astype(dtype)
        )
        scaled = _absolute_solve(hessian, vector.astype(dtype), damping)
        state = _counted(state, updates, jnp.array([0, 0, 0, 1], jnp.int32))
        return back(scaled.astype(vector.dtype)), state

    return optax.GradientTransformationExtraArgs(_no_updates, update)


def scale_by_newton_cg(
    *, max_products: Count | None = None, damping: Number = 0.0
) -> optax.GradientTransformationExtraArgs:
    r"""Scale updates by the inverse Hessian, by truncated conjugate gradients.

    $H p = g$ is solved until the residual is below
    $\min(\tfrac12, \sqrt{\|g\| / \|g_0\|})\,\|g\|$ with the largest update so far for $g_0$,
    or until a direction of negative curvature is met: then p is what was found so far, or,
    of the first direction, the gradient divided by the size of its curvature. So the
    negative of the result descends where the update is the gradient.

    As `optax.scale_by_lbfgs` it does not change the sign; its `update` needs `value_fn`.

    Cost: one gradient an update (the linearisation) and two gradient equivalents a product.

    Args:
        max_products: Largest number of products an update; default 2n, at most 250.
        damping: What is added to the Hessian, as a part of its curvature along the update.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `DirectionState`.

    Raises:
        ValueError: If an option is out of range.

    References:
        Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, algorithm 7.1.

    Examples:
        >>> loss = lambda x: 2 * x[0] ** 2 + x[1] ** 2
        >>> x, direction = jnp.array([1.0, 1.0]), scale_by_newton_cg()
        >>> updates, _ = direction.update(
        ...     jax.grad(loss)(x), direction.init(x), x, value_fn=loss
        ... )
        >>> print(updates.round(2))  # the first residual is only to be halved
        [1.11 0.56]
    """
    damping = check_positive("damping", damping)
    most = _budget(max_products)

    def update(updates, state, params=None, *, value_fn, **extra):
        hvp = value_grad_hvp(bind(value_fn, extra), params)[2]
        return _solved(hvp, updates, state, params, most, damping)

    return optax.GradientTransformationExtraArgs(_no_updates, update)


def scale_by_ggn(
    model: Loss,
    loss: Loss,
    *,
    max_products: Count | None = None,
    damping: Number = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Scale updates by the inverse of the generalised Gauss-Newton matrix.

    For a loss $\ell(m(x))$ of a model's outputs it is $G = J^T \nabla^2 \ell\, J$ with the
    model's Jacobian J: the Hessian without the model's curvature, never indefinite where
    $\ell$ is convex. $G p = g$ is solved as in `scale_by_newton_cg`, each product by one
    forward and one reverse pass through the linearised model.

    As `optax.scale_by_lbfgs` it does not change the sign. Extra keywords of `update` reach
    `model` and `loss` by the names they give their parameters: a batch, targets.

    Cost: one pass of the model an update, about two gradient equivalents a product.

    Args:
        model: Function `model(params, ...)` to outputs, any pytree.
        loss: Function `loss(outputs, ...)` to a real scalar, convex in the outputs.
        max_products: Largest number of products an update; default 2n, at most 250.
        damping: What is added to G, as a part of its curvature along the update.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `DirectionState`.

    Raises:
        TypeError: If `model` or `loss` is not a function.
        ValueError: If an option is out of range.

    References:
        Schraudolph, N. N. (2002). Fast curvature matrix-vector products for second-order
        gradient descent.
        Martens, J. (2020). New insights and perspectives on the natural gradient method.

    Examples:
        >>> model = lambda x: jnp.array([x[0], x[0] * x[1]])
        >>> loss = lambda outputs: ((outputs - 1) ** 2).sum()
        >>> x, direction = jnp.array([2.0, 1.0]), scale_by_ggn(model, loss)
        >>> gradient = jax.grad(lambda x: loss(model(x)))(x)
        >>> updates, _ = direction.update(gradient, direction.init(x), x)
        >>> print(gradient @ updates > 0)
        True
    """
    check_callable("model", model, "a function model(params, ...)")
    check_callable("loss", loss, "a function loss(outputs, ...)")
    damping = check_positive("damping", damping)
    most = _budget(max_products)

    def update(updates, state, params=None, **extra):
        product = ggn_vp(bind(model, extra), bind(loss, extra), params)
        return _solved(product, updates, state, params, most, damping)

    return optax.GradientTransformationExtraArgs(_no_updates, update)


def _budget(max_products: Count | None) -> int | None:
    """Check the number of products."""
    if max_products is None:
        return None
    return check_count("max_products", max_products, smallest=1)


def _no_updates(params: Params) -> DirectionState:
    """Build the state before the first update."""
    return DirectionState(jnp.zeros((), working_dtype(params)), jnp.zeros(4, jnp.int32))


def _counted(state: DirectionState, updates: Params, calls: Array) -> DirectionState:
    """Add to the counts, and keep the largest update."""
    size = max_abs(updates).astype(state.largest.dtype)
    return DirectionState(jnp.maximum(state.largest, size), state.calls + calls)


def _absolute_solve(hessian: Array, vector: Array, damping: float) -> Array:
    """Solve with the absolute value of a symmetric matrix, made definite."""
    eigenvalues, basis = jnp.linalg.eigh(hessian)
    size = jnp.abs(eigenvalues)
    largest = jnp.max(size)
    largest = jnp.where(largest > 0, largest, 1)
    flat = size <= size.size * jnp.finfo(size.dtype).eps * largest
    size = jnp.where(flat, largest, size) + damping * largest
    exact = jax.lax.Precision.HIGHEST
    rotated = jnp.matmul(vector, basis, precision=exact)
    return jnp.matmul(basis, rotated / size, precision=exact)


def _solved(
    product: Product,
    updates: Params,
    state: DirectionState,
    params: Params,
    most: int | None,
    damping: float,
) -> tuple[Params, DirectionState]:
    """Solve for the updates, count the products."""
    budget = most or min(2 * num_params(params), 250)
    size = max_abs(updates)
    dtype = size.dtype
    scale = jnp.where(size > 0, size, 1)
    vector = jax.tree.map(lambda u: u.astype(dtype) / scale, updates)

    def matrix(v: Params) -> Params:
        image = product(jax.tree.map(lambda u, p: u.astype(p.dtype), v, params))
        return jax.tree.map(lambda u: u.astype(dtype), image)

    largest = jnp.maximum(state.largest.astype(dtype), scale)
    forcing = jnp.minimum(0.25, size / largest)  # squared: min(1/2, √(‖g‖/‖g₀‖))²
    solution, products = _conjugate_gradients(matrix, vector, forcing, budget, damping)
    scaled = jax.tree.map(lambda s, u: (scale * s).astype(u.dtype), solution, updates)
    calls = jnp.stack([0, 1, products, 0]).astype(jnp.int32)
    return scaled, _counted(state, updates, calls)


class _Iteration(NamedTuple):
    """One iteration: `scalars` are rᵀr, the shift, whether it has ended, the products."""

    solution: Params
    residual: Params
    direction: Params
    scalars: Array


def _conjugate_gradients(
    matrix: Product, vector: Params, forcing: Array, budget: int, damping: float
) -> tuple[Params, Array]:
    """Solve with a matrix that is shifted by `damping` times its curvature along the vector."""
    start = inner(vector, vector)
    target = forcing * start

    def going(it: _Iteration) -> Array:
        _, _, ended, products = it.scalars
        return (ended == 0) & (products < budget)

    def iterate(it: _Iteration) -> _Iteration:
        rr, shift, _, products = it.scalars
        d = it.direction
        image = matrix(d)
        dd, curvature = inner(d, d), inner(d, image)
        first = products == 0
        shift = jnp.where(first, damping * jnp.abs(curvature) / dd, shift)
        curvature = curvature + shift * dd
        positive = curvature > 0
        # Without curvature along the first direction, the direction itself.
        size = jnp.where(curvature == 0, dd, jnp.abs(curvature))
        step = jnp.where(positive | first, rr / size, 0)
        solution = add_scaled(it.solution, step, d)
        shifted = jax.tree.map(lambda h, v: h + shift * v, image, d)
        residual = add_scaled(it.residual, -step, shifted)
        new = inner(residual, residual)
        ended = ~positive | (new <= target) | ~jnp.isfinite(new)
        direction = jax.tree.map(lambda r, v: r + new / rr * v, residual, d)
        scalars = jnp.stack([new, shift, ended.astype(new.dtype), products + 1])
        return _Iteration(solution, residual, direction, scalars)

    nothing = jnp.zeros_like(start)
    scalars = jnp.stack([start, nothing, (start == 0).astype(start.dtype), nothing])
    zeros = jax.tree.map(jnp.zeros_like, vector)
    last = jax.lax.while_loop(going, iterate, _Iteration(zeros, vector, vector, scalars))
    return last.solution, last.scalars[3]
