"""The density of eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab._checks import check_count, check_positive
from gradlab._typing import Array, Count, Number, Params
from gradlab.derivatives.curvature._intervals import interval
from gradlab.derivatives.curvature._krylov import lanczos
from gradlab.derivatives.curvature._operator import (
    Operator,
    Product,
    checked_key,
    columns,
    flat_operator,
)
from gradlab.derivatives.curvature._trace import on_sphere

__all__ = ["Spectrum", "spectrum"]

# The grid reaches this many widths beyond the eigenvalues: there the density is 4e-4 of a
# peak's.
_BEYOND = 4.0


class Spectrum(NamedTuple):
    """The density of the eigenvalues, smoothed, a pytree.

    Attributes:
        grid: Where the density is given, shape (g,).
        density: The share of eigenvalues in a unit of their axis, shape (g,): its integral is
            1, and its product with n counts eigenvalues.
        lower: Lower end of the interval that holds the smoothed density in 95 % of the draws.
        upper: Upper end.
        width: Standard deviation of the normal distribution that smooths each eigenvalue.
        nodes: Eigenvalues as the quadrature sees them, shape (probes, steps); all of them,
            shape (1, n), where they were computed.
        weights: The share of the eigenvalues that each stands for, summing to 1 in a row.
        num_products: Products with the matrix that were made.
    """

    grid: Array
    density: Array
    lower: Array
    upper: Array
    width: Array
    nodes: Array
    weights: Array
    num_products: int


def spectrum(
    product: Product,
    x: Params,
    *,
    key: Any = None,
    num_probes: Count = 10,
    num_steps: Count = 40,
    num_points: Count = 400,
    width: Number | None = None,
) -> Spectrum:
    r"""Estimate the density of the eigenvalues of a symmetric matrix.

    $\frac1n \sum_i φ_σ(t - λ_i) = \frac1n \mathrm{tr}\, φ_σ(t I - A)$ with a normal density
    φ of width σ, the trace by Hutchinson's mean over random v, and each
    $v^T φ_σ(t I - A) v$ by Lanczos' quadrature. With σ no less than the range of the
    eigenvalues over the steps the error of the quadrature is far below that of the mean.

    Where that would take n products or more, all eigenvalues are computed instead, and the
    ends of the interval are the density itself.

    Args:
        product: Function of v, shaped like x, to A v, as from `hessian_vp` or `ggn_vp`.
        x: What v is shaped like, n entries.
        key: Random key; not needed where all eigenvalues are computed.
        num_probes: Random vectors, 2 or more.
        num_steps: Steps of Lanczos' method with each, 2 or more.
        num_points: Points of the grid, 2 or more.
        width: The width σ, in units of the eigenvalues; by default their range over
            `num_steps`.

    Returns:
        A `Spectrum`. The memory is that of num_steps + 1 vectors.

    Raises:
        TypeError: If `product` is not a function, or a leaf of x is not real floating.
        ValueError: If a `key` is needed and missing, or an option is out of range.

    References:
        Ubaru, S., Chen, J. and Saad, Y. (2017). Fast estimation of tr(f(A)) via stochastic
        Lanczos quadrature.
        Ghorbani, B., Krishnan, S. and Xiao, Y. (2019). An investigation into neural net
        optimization via Hessian eigenvalue density.

    Examples:
        >>> d = jnp.append(jnp.ones(299), 5.0)
        >>> key = jax.random.key(0)
        >>> found = spectrum(lambda v: d * v, jnp.zeros(300), key=key, num_steps=9)
        >>> print(found.nodes.max().round(3), found.num_products)
        5.0 90
    """
    operator = flat_operator(product, x)
    probes = check_count("num_probes", num_probes, smallest=2)
    steps = min(check_count("num_steps", num_steps, smallest=2), operator.n)
    points = check_count("num_points", num_points, smallest=2)
    check_positive("width", width, zero=False)
    exact = probes * steps >= operator.n
    key = None if exact else checked_key(key, "spectrum")
    sigma = None if width is None else jnp.asarray(width, operator.dtype)

    def estimate(operator: Operator, key: Any, sigma: Any) -> Spectrum:
        nodes, weights = _all(operator) if exact else _rules(operator, key, probes, steps)
        sigma, grid, samples = _densities(nodes, weights, sigma, num_steps, points)
        ends = (samples[0],) * 3 if exact else _ends(samples)
        return Spectrum(grid, *ends, sigma, nodes, weights, 0)

    made = operator.n if exact else probes * steps
    return operator.compute(estimate, key, sigma)._replace(num_products=made)


def _all(operator: Operator) -> tuple[Array, Array]:
    """Return all eigenvalues, with equal weights."""
    matrix = columns(operator, lambda i, column: column)
    nodes = jnp.linalg.eigvalsh((matrix + matrix.T) / 2)[None]
    return nodes, jnp.full_like(nodes, 1 / operator.n)


def _rules(operator: Operator, key: Array, probes: int, steps: int) -> tuple[Array, Array]:
    """Return the nodes and weights of Lanczos' quadrature from random vectors."""
    vectors = on_sphere(key, probes, operator)
    return jax.lax.map(lambda v: lanczos(operator.apply, v, steps), vectors)


def _densities(
    nodes: Array, weights: Array, sigma: Array | None, num_steps: int, num_points: int
) -> tuple[Array, Array, Array]:
    """Return the width, the grid, and each rule's density there."""
    low, high = jnp.min(nodes), jnp.max(nodes)
    scale = jnp.maximum(jnp.abs(low), jnp.abs(high))
    # A multiple of the identity has no range, and the zero matrix no size either.
    extent = jnp.maximum(high - low, jnp.finfo(nodes.dtype).eps ** 0.5 * scale)
    extent = jnp.where(extent > 0, extent, 1)
    sigma = extent / num_steps if sigma is None else sigma
    grid = jnp.linspace(low - _BEYOND * sigma, high + _BEYOND * sigma, num_points)
    samples = jax.lax.map(lambda rule: _smoothed(grid, sigma, *rule), (nodes, weights))
    return sigma, grid, samples


def _ends(samples: Array) -> tuple[Array, Array, Array]:
    """Return the mean density and the ends of its interval."""
    mean, lower, upper = interval(samples)
    return mean, jnp.maximum(lower, 0), upper


def _smoothed(grid: Array, width: Array, nodes: Array, weights: Array) -> Array:
    """Return the density of one rule: a normal density about each node."""
    away = (grid[:, None] - nodes[None]) / width
    return jnp.sum(weights[None] * jax.scipy.stats.norm.pdf(away), axis=1) / width
