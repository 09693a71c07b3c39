"""The diagonal of a matrix known by its products."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gradlab._typing import Array, Count, Loss, Name, Params
from gradlab.derivatives.curvature._intervals import CurvatureEstimate, exactly, interval
from gradlab.derivatives.curvature._operator import (
    Operator,
    Product,
    checked_budget,
    checked_key,
    checked_method,
    columns,
    flat_operator,
)
from gradlab.derivatives.curvature._products import hessian_vp
from gradlab.derivatives.curvature._trace import complement, range_of

__all__ = ["diagonal", "hessian_diagonal"]

METHODS = ("diag++", "exact", "hutchinson")


def hessian_diagonal(
    f: Loss,
    x: Params,
    *args: Any,
    key: Any = None,
    method: Name = "exact",
    num_products: Count = 30,
) -> CurvatureEstimate:
    """Compute or estimate the diagonal of the Hessian of f at x: `diagonal` of its products.

    Args:
        f: Function (x, *args) to a real scalar.
        x: Any pytree of real floating leaves, n entries.
        *args: Further arguments of f.
        key: Random key; not needed for "exact".
        method: "exact", "diag++" or "hutchinson", as for `diagonal`.
        num_products: Products to make, unless "exact".

    Returns:
        A `CurvatureEstimate` of pytrees shaped like x.

    Raises:
        TypeError: If f does not return a real scalar or a leaf of x is not real floating.
        ValueError: If a `key` is needed and missing, or an option is out of range.

    Examples:
        >>> print(hessian_diagonal(lambda x: jnp.sum(x**3), jnp.arange(3.0)).value)
        [ 0.  6. 12.]
    """
    product = hessian_vp(f, x, *args)
    return diagonal(product, x, key=key, method=method, num_products=num_products)


def diagonal(
    product: Product,
    x: Params,
    *,
    key: Any = None,
    method: Name = "exact",
    num_products: Count = 30,
) -> CurvatureEstimate:
    r"""Compute the diagonal of a symmetric matrix, or estimate it from random products.

    "exact" makes n products, a few at a time. "hutchinson" takes the mean of $v ∘ A v$ over
    vectors v of random signs: the error of an entry is that of the other entries of its
    row, $(\sum_{j≠i} A_{ij}^2 / k)^{1/2}$. "diag++" spends two thirds of the products on the
    part of A along the range Q of its large eigenvalues, which it treats exactly,

    $$ A = QQ^T A + A QQ^T - QQ^T A QQ^T + (I - QQ^T) A (I - QQ^T), $$

    and estimates the diagonal of the last term.

    Args:
        product: Function of v, shaped like x, to A v, as from `hessian_vp` or `ggn_vp`.
        x: What v is shaped like, n entries.
        key: Random key; not needed for "exact".
        method: "exact", "diag++" or "hutchinson".
        num_products: Products to make, 6 or more, unless "exact"; with n or more it is exact.

    Returns:
        A `CurvatureEstimate` of pytrees shaped like x, each entry with its own interval.

    Raises:
        TypeError: If `product` is not a function, or a leaf of x is not real floating.
        ValueError: If a `key` is needed and missing, or an option is out of range.

    References:
        Bekas, C., Kokiopoulou, E. and Saad, Y. (2007). An estimator for the diagonal of a
        matrix.
        Baston, R. A. and Nakatsukasa, Y. (2022). Stochastic diagonal estimation: probabilistic
        bounds and an improved algorithm.

    Examples:
        >>> A = jnp.array([[2.0, 1.0], [1.0, 3.0]])
        >>> print(diagonal(lambda v: A @ v, jnp.zeros(2)).value)
        [2. 3.]
    """
    operator = flat_operator(product, x)
    budget = checked_budget(num_products, 6)
    method = checked_method(method, METHODS, operator.n, budget)
    back = operator.layout.unflatten
    if method == "exact":
        return exactly(back(columns(operator, lambda i, column: column[i])), operator.n)
    key = checked_key(key, method)
    if method == "hutchinson":
        samples = _sign_samples(operator, key, budget, None)
    else:
        first, second = jax.random.split(key)
        basis = range_of(operator, first, budget // 3)
        known = _along(basis, operator.images(basis))
        rest = _sign_samples(operator, second, budget - 2 * len(basis), basis)
        samples = known[None] + rest
    value, lower, upper = (back(part) for part in interval(samples))
    return CurvatureEstimate(value, lower, upper, budget)


def _along(basis: Array, images: Array) -> Array:
    """Return the diagonal of QQᵀA + AQQᵀ − QQᵀAQQᵀ, for Qᵀ and QᵀA in rows."""
    exact = jax.lax.Precision.HIGHEST
    middle = jnp.matmul(images, basis.T, precision=exact)
    inner = jnp.matmul(middle, basis, precision=exact)
    return jnp.sum(basis * (2 * images - inner), axis=0)


def _sign_samples(operator: Operator, key: Array, number: int, basis: Array | None) -> Array:
    """Return v ∘ PAP v for random signs v, P the projector off the basis."""
    signs = jax.random.rademacher(key, (number, operator.n), operator.dtype)
    if basis is None:
        return signs * operator.images(signs)
    return signs * complement(basis, operator.images(complement(basis, signs)))
