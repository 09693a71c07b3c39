"""Extreme eigenvalues with their vectors, and the condition number."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab._checks import check_positive
from gradlab._errors import check_choice
from gradlab._tree import norm
from gradlab._typing import Array, Count, Name, Number, Params, PyTree
from gradlab.derivatives._leaves import eps_of
from gradlab.derivatives.curvature._krylov import extended, restarted, started
from gradlab.derivatives.curvature._operator import (
    Operator,
    Product,
    columns,
    flat_operator,
)

__all__ = ["ConditionNumber", "Eigenpairs", "condition_number", "top_eigenpairs"]

WHICH = ("largest", "magnitude", "smallest")
# Vectors of the space beside those wanted: more converge in fewer products and take memory.
_BESIDE = 30
# Restarts at the most: each makes about as many products as there are vectors beside.
_MOST_RESTARTS = 60
# Up to this size all eigenvalues are computed, by n products and 10 n³ operations.
_DENSE = 1000


class Eigenpairs(NamedTuple):
    """Some eigenvalues and eigenvectors, a pytree.

    Attributes:
        values: Eigenvalues, shape (k,), the most extreme first.
        vectors: Eigenvectors of norm 1, shaped like x with an axis of length k before.
        errors: Bar of each value, shape (k,): the norm of A v − λ v, within which of the value
            there is an eigenvalue.
        num_products: Products with the matrix that were made.
    """

    values: Array
    vectors: PyTree
    errors: Array
    num_products: Array


class ConditionNumber(NamedTuple):
    """The largest absolute eigenvalue over the smallest, a pytree.

    Attributes:
        value: The condition number; infinite for a singular matrix.
        lower: Lower end of where it can be, as far as the eigenvalues found are the extreme
            ones.
        upper: Upper end; infinite where zero cannot be told from the smallest.
        largest: Largest absolute eigenvalue.
        smallest: Smallest absolute eigenvalue.
        num_products: Products with the matrix that were made.
    """

    value: Array
    lower: Array
    upper: Array
    largest: Array
    smallest: Array
    num_products: Array


def top_eigenpairs(
    product: Product,
    x: Params,
    *,
    num_pairs: Count = 1,
    which: Name = "magnitude",
    rtol: Number | None = None,
    key: Any = None,
) -> Eigenpairs:
    r"""Compute extreme eigenvalues and eigenvectors by Lanczos' method, restarted.

    A space of k + 30 vectors is filled by products, kept orthogonal to rounding, and shrunk
    to its best Ritz vectors until the residuals are below `rtol` of the largest eigenvalue,
    or 60 times. Each residual norm $\|A v - λ v\|$ bounds how far the value is from an
    eigenvalue; that no more extreme one was missed is likely, but not proven.

    Args:
        product: Function of v, shaped like x, to A v, as from `hessian_vp` or `ggn_vp`.
        x: What v is shaped like, n entries.
        num_pairs: How many pairs k, at most n.
        which: "magnitude" (largest absolute values), "largest" or "smallest" (signed).
        rtol: Residual to reach, relative to the largest absolute eigenvalue; by default
            eps^(2/3) of the dtype.
        key: Random key of the start; any gives the same pairs, to the tolerance.

    Returns:
        `Eigenpairs`. Memory is k + 31 vectors.

    Raises:
        TypeError: If `product` is not a function, or a leaf of x is not real floating.
        ValueError: If an option is out of range.

    References:
        Wu, K. and Simon, H. (2000). Thick-restart Lanczos method for large symmetric
        eigenvalue problems.
        Parlett, B. N. (1998). The Symmetric Eigenvalue Problem, chapters 4 and 13.

    Examples:
        >>> d = jnp.arange(-3.0, 7.0)
        >>> pairs = top_eigenpairs(lambda v: d * v, jnp.zeros(10), num_pairs=2)
        >>> print(pairs.values.round(4))
        [6. 5.]
    """
    operator = flat_operator(product, x)
    check_choice("which", which, WHICH)
    whole = isinstance(num_pairs, int) and not isinstance(num_pairs, bool)
    if not whole or not 1 <= num_pairs <= operator.n:
        raise ValueError(
            f"`num_pairs` must be a whole number from 1 to n = {operator.n}, got {num_pairs!r}."
        )
    check_positive("rtol", rtol, zero=False)
    if rtol is None:
        rtol = eps_of(operator.dtype) ** (2 / 3)
    key = jax.random.key(0) if key is None else key
    found = functools.partial(_restarting, num_pairs=num_pairs, which=which)
    values, vectors, errors, made = operator.compute(found, rtol, key)
    vectors = operator.layout.unflatten(vectors, (num_pairs,))
    return Eigenpairs(values, vectors, errors, made)


def condition_number(product: Product, x: Params, *, key: Any = None) -> ConditionNumber:
    r"""Compute the condition number $\max|λ| / \min|λ|$ of a symmetric matrix.

    Up to n = 1,000 from all eigenvalues, by n products. Beyond, from the extreme ones by
    `top_eigenpairs`: of A where it is definite; where it is not, the smallest absolute
    value from the top of $\max λ^2 - A^2$. The ends say what the residuals allow: small
    eigenvalues of an ill-conditioned matrix converge slowly, and then `upper` is large or
    infinite, and the condition number at least about `lower`.

    Args:
        product: Function of v, shaped like x, to A v, as from `hessian_vp` or `ggn_vp`.
        x: What v is shaped like, n entries.
        key: Random key of the start vectors.

    Returns:
        A `ConditionNumber`. Its ends allow for rounding, n eps of the largest eigenvalue.

    Raises:
        TypeError: If `product` is not a function, or a leaf of x is not real floating.

    References:
        Parlett, B. N. (1998). The Symmetric Eigenvalue Problem, chapter 13.

    Examples:
        >>> d = jnp.array([-4.0, 0.5, 1.0])
        >>> print(condition_number(lambda v: d * v, jnp.zeros(3)).value)
        8.0
    """
    operator = flat_operator(product, x)
    if operator.n <= _DENSE:
        return operator.compute(_condition_of_all)
    key = jax.random.key(0) if key is None else key
    rtol = eps_of(operator.dtype) ** (2 / 3)
    return operator.compute(_condition_of_extremes, rtol, key)


def _condition_of_all(operator: Operator) -> ConditionNumber:
    """Compute the condition number from all eigenvalues."""
    matrix = columns(operator, lambda i, column: column)
    sizes = jnp.abs(jnp.linalg.eigvalsh((matrix + matrix.T) / 2))
    zero, made = jnp.zeros((), operator.dtype), jnp.asarray(operator.n)
    return _ratio(operator, jnp.max(sizes), zero, jnp.min(sizes), zero, made)


def _condition_of_extremes(operator: Operator, rtol: Any, key: Array) -> ConditionNumber:
    """Compute the condition number from extreme eigenvalues and their bars."""
    one = functools.partial(_restarting, rtol=rtol, key=key, num_pairs=1)
    tops, _, errors, made = one(operator, which="magnitude")
    largest = jnp.abs(tops[0])
    sign = jnp.sign(tops[0])
    turned = operator._replace(apply=lambda v: sign * operator.apply(v))
    lows, _, low_errors, low_made = one(turned, which="smallest")
    shift = (largest + errors[0]) ** 2

    def folded(v: Array) -> Array:
        return shift * v - operator.apply(operator.apply(v))

    _, vectors, _, folded_made = one(operator._replace(apply=folded), which="largest")
    # Of the vector found: |λ| and its bar from A², whose residual is r: |λ² − ρ²| ≤ r.
    image = operator.apply(vectors[0])
    rho = norm(image)
    residual = norm(operator.apply(image) - rho**2 * vectors[0])
    bar = rho - jnp.sqrt(jnp.maximum(rho**2 - residual, 0))
    definite = lows[0] - low_errors[0] > 0
    smallest = jnp.where(definite, jnp.abs(lows[0]), rho)
    bar = jnp.where(definite, low_errors[0], bar)
    products = made + low_made + 2 * folded_made + 2
    return _ratio(operator, largest, errors[0], smallest, bar, products)


def _ratio(
    operator: Operator, largest: Array, above: Array, smallest: Array, bar: Array, made: Array
) -> ConditionNumber:
    """Put a condition number together from its eigenvalues and their bars."""
    rounding = operator.n * eps_of(operator.dtype) * largest
    bar = bar + rounding
    most, least = largest + above + rounding, jnp.maximum(smallest - bar, 0)
    value, upper = _over(largest, smallest), _over(most, least)
    lower = jnp.maximum(largest - rounding, 0) / jnp.maximum(smallest + bar, rounding)
    lower = jnp.where(largest > 0, jnp.maximum(lower, 1), 1)
    return ConditionNumber(value, jnp.minimum(lower, value), upper, largest, smallest, made)


def _over(a: Array, b: Array) -> Array:
    """Divide, to infinity where b is zero: of a singular matrix, the zero matrix too."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), jnp.inf)


def _restarting(
    operator: Operator, rtol: Any, key: Array, *, num_pairs: int, which: str
) -> tuple[Array, Array, Array, Array]:
    """Return values, vectors in rows, residuals and the number of products."""
    n, k = operator.n, num_pairs
    steps = min(n, k + _BESIDE)
    kept = min(k + _BESIDE // 3, steps - 1)  # a third of those beside speeds up the next
    first, second = jax.random.split(key)
    begun = started(jax.random.normal(first, (n,), operator.dtype), steps)
    krylov = extended(operator.apply, begun, 0, second)

    def ritz(krylov: Any) -> tuple[Array, Array, Array, Array]:
        values, vectors = jnp.linalg.eigh(krylov.matrix)
        order = jnp.argsort(_badness(which)(values))
        values, vectors = values[order], vectors[:, order]
        residuals = krylov.beta * jnp.abs(vectors[-1])
        return values, vectors, residuals, jnp.max(jnp.abs(values))

    def unfinished(state: Any) -> Array:
        krylov, restarts = state
        _, _, residuals, size = ritz(krylov)
        return jnp.any(residuals[:k] > rtol * size) & (restarts < _MOST_RESTARTS)

    def again(state: Any) -> Any:
        krylov, restarts = state
        values, vectors, _, _ = ritz(krylov)
        smaller = restarted(krylov, vectors[:, :kept].T, values[:kept])
        fresh = jax.random.fold_in(second, restarts)
        return extended(operator.apply, smaller, kept, fresh), restarts + 1

    krylov, restarts = jax.lax.while_loop(unfinished, again, (krylov, jnp.asarray(1)))
    values, vectors, _, _ = ritz(krylov)
    exact = jax.lax.Precision.HIGHEST
    found = jnp.matmul(vectors[:, :k].T, krylov.basis[:steps], precision=exact)
    found = found / jax.vmap(norm)(found)[:, None]
    # The residual itself, not its estimate, is what the bar promises.
    errors = jax.vmap(norm)(operator.images(found) - values[:k, None] * found)
    return values[:k], found, errors, steps + (restarts - 1) * (steps - kept) + k


def _badness(which: str) -> Callable[[Array], Array]:
    """Return what sorts the wanted values first."""
    return {
        "magnitude": lambda values: -jnp.abs(values),
        "largest": lambda values: -values,
        "smallest": lambda values: values,
    }[which]
