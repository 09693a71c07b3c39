"""Lanczos' method with full reorthogonalisation, and restarts that keep the best vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlab._tree import norm
from gradlab._typing import Array

__all__ = ["Krylov", "extended", "lanczos", "restarted", "started"]


class Krylov(NamedTuple):
    """A basis of a Krylov space, and the matrix in it.

    Attributes:
        basis: Orthonormal rows q_0 ... q_m, shape (m + 1, n); those not made yet are zero.
        matrix: qᵢᵀ A qⱼ, shape (m, m).
        beta: Length of what A adds to the last vector beyond the space: 0 where it is closed.
        size: Bound of the matrix's largest entries so far, the scale of rounding.
    """

    basis: Array
    matrix: Array
    beta: Array
    size: Array


def started(start: Array, num_steps: int) -> Krylov:
    """Begin with one vector, normalised."""
    m, dtype = num_steps, start.dtype
    basis = jnp.zeros((m + 1, start.size), dtype).at[0].set(start / norm(start))
    zero = jnp.zeros((), dtype)
    return Krylov(basis, jnp.zeros((m, m), dtype), zero, zero)


def extended(
    apply: Callable[[Array], Array], krylov: Krylov, first: int | Array, key: Array
) -> Krylov:
    """Take steps `first` to the last.

    Inner products with the whole basis are taken twice, so that it stays orthogonal to
    rounding. Where the space is closed under A, a random vector goes on in a new one: so
    multiple eigenvalues are found as often as they are there.
    """
    steps, n = len(krylov.matrix), krylov.basis.shape[1]
    eps = jnp.finfo(krylov.basis.dtype).eps

    def step(j: Array, state: Krylov) -> Krylov:
        basis, matrix, _, size = state
        w = apply(basis[j])
        w, parts = _orthogonal(basis, w)
        w, more = _orthogonal(basis, w)
        parts = (parts + more)[:steps]
        beta = norm(w)
        size = jnp.maximum(size, jnp.max(jnp.abs(parts)) + beta)
        alive = (beta > n * eps * size) & (j + 1 < n)

        def fresh() -> Array:
            v = jax.random.normal(jax.random.fold_in(key, j), w.shape, w.dtype)
            v = _orthogonal(basis, _orthogonal(basis, v)[0])[0]
            length = norm(v)
            return jnp.where(length > 0, v / jnp.where(length > 0, length, 1), 0)

        following = jax.lax.cond(alive, lambda: w / jnp.where(alive, beta, 1), fresh)
        matrix = matrix.at[j].set(parts).at[:, j].set(parts)
        basis = basis.at[j + 1].set(following)
        return Krylov(basis, matrix, jnp.where(alive, beta, 0), size)

    return jax.lax.fori_loop(first, steps, step, krylov)


def restarted(krylov: Krylov, kept: Array, values: Array) -> Krylov:
    """Shrink the space to some of its Ritz vectors and the vector that came last.

    Args:
        krylov: The full space.
        kept: Coordinates of the Ritz vectors, in rows, shape (p, m).
        values: Their Ritz values, shape (p,).

    References:
        Wu, K. and Simon, H. (2000). Thick-restart Lanczos method for large symmetric
        eigenvalue problems.
    """
    p, m = kept.shape
    exact = jax.lax.Precision.HIGHEST
    basis = jnp.zeros_like(krylov.basis)
    basis = basis.at[:p].set(jnp.matmul(kept, krylov.basis[:m], precision=exact))
    basis = basis.at[p].set(krylov.basis[m])
    matrix = jnp.zeros_like(krylov.matrix).at[:p, :p].set(jnp.diag(values))
    return krylov._replace(basis=basis, matrix=matrix)


def lanczos(
    apply: Callable[[Array], Array], start: Array, num_steps: int
) -> tuple[Array, Array]:
    """Return Gauss quadrature of a start vector: nodes and weights, shape (num_steps,).

    Weights add up to 1; vᵀ g(A) v / vᵀv is the sum of weights times g(nodes), exactly for
    polynomials g of degree below twice the steps.

    References:
        Golub, G. H. and Meurant, G. (2010). Matrices, Moments and Quadrature.
    """
    # A closed space ends the quadrature: what comes after has no weight.
    krylov = extended(apply, started(start, num_steps), 0, jax.random.key(0))
    nodes, vectors = jnp.linalg.eigh(krylov.matrix)
    return nodes, vectors[0] ** 2


def _orthogonal(basis: Array, w: Array) -> tuple[Array, Array]:
    """Subtract from w its components along the basis, and return them."""
    exact = jax.lax.Precision.HIGHEST
    parts = jnp.matmul(basis, w, precision=exact)
    return w - jnp.matmul(parts, basis, precision=exact), parts
