"""The diagonal of a matrix known by its products."""

from __future__ import annotations

from typing import Any

import jax

from gradlab._typing import Array, Count, Loss, Name, Params
from gradlab.derivatives.curvature._intervals import CurvatureEstimate, exactly, interval
from gradlab.derivatives.curvature._leave_out import xdiag_terms
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

__all__ = ["diagonal", "hessian_diagonal"]

METHODS = ("exact", "hutchinson", "xdiag")


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
        method: "exact", "xdiag" or "hutchinson", as for `diagonal`.
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
    row, $(\sum_{j≠i} A_{ij}^2 / k)^{1/2}$. "xdiag" treats the part of A along the range Q of
    its large eigenvalues exactly,

    $$ A = QQ^T A + A QQ^T - QQ^T A QQ^T + (I - QQ^T) A (I - QQ^T), $$

    and estimates the diagonal of the last term; each of k vectors helps to find the range
    and, left out of it, is a draw for what remains. It makes 2k products, and pays where a
    few eigenvalues dominate; where they are alike "hutchinson" errs less. With fewer than
    ten products its intervals are wide, and hold in up to 99 % of the draws.

    Args:
        product: Function of v, shaped like x, to A v, as from `hessian_vp` or `ggn_vp`.
        x: What v is shaped like, n entries.
        key: Random key; not needed for "exact".
        method: "exact", "xdiag" or "hutchinson".
        num_products: Products to make, 6 or more, unless "exact", for "xdiag" an even number of
            them; with n or more it is exact.

    Returns:
        A `CurvatureEstimate` of pytrees shaped like x, each entry with its own interval.

    Raises:
        TypeError: If `product` is not a function, or a leaf of x is not real floating.
        ValueError: If a `key` is needed and missing, or an option is out of range.

    References:
        Bekas, C., Kokiopoulou, E. and Saad, Y. (2007). An estimator for the diagonal of a
        matrix.
        Epperly, E. N., Tropp, J. A. and Webber, R. J. (2024). XTrace: making the most of
        every sample in stochastic trace estimation.

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
        return exactly(back(operator.compute(_all_of_it)), operator.n)
    key = checked_key(key, method)
    count = budget if method == "hutchinson" else budget // 2

    def estimate(operator: Operator, key: Array) -> tuple[Array, Array, Array]:
        signs = jax.random.rademacher(key, (count, operator.n), operator.dtype)
        if method == "hutchinson":
            return interval(signs * operator.images(signs))
        return interval(*xdiag_terms(operator, signs))

    value, lower, upper = (back(end) for end in operator.compute(estimate, key))
    made = budget if method == "hutchinson" else 2 * count
    return CurvatureEstimate(value, lower, upper, made)


def _all_of_it(operator: Operator) -> Array:
    return columns(operator, lambda i, column: column[i])
