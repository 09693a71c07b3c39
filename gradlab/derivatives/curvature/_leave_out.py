"""XTrace and XDiag: every random vector serves the range found, and as a test of the others.

With test vectors ω₁ … ω_k and Q an orthonormal basis of the images A ω_j, the term tᵢ treats
A exactly along the basis Qᵢ of the images of the *other* vectors, and the rest by ωᵢ alone,
which that basis has not seen: so each term is unbiased.

The terms share vectors and are not independent. The variance of their mean is s²/k + C for
the spread s² of the terms and the covariance C of two of them, and C has an unbiased estimate
too: with t_{i∖j} the term i where ωⱼ is left out of its basis as well,

    C = E[(tᵢ − t_{i∖j}) (tⱼ − t_{j∖i})],

because tᵢ and t_{i∖j} both have the mean sought whatever ωⱼ is, and t_{i∖j} and t_{j∖i} are
independent given the other vectors. It takes no product more, only matrices of size k.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlab._tree import after
from gradlab._typing import Array
from gradlab.derivatives.curvature._intervals import largest_or_one
from gradlab.derivatives.curvature._operator import Operator

__all__ = ["xdiag_terms", "xtrace_terms"]

# Entries of the array of pairs that are held at a time, in `xdiag_terms`: 32 MB of float64.
_PAIRS_HELD = 2**22


class _Sketch(NamedTuple):
    """Test vectors, their images, and bases that leave out one or two of them.

    Attributes:
        vectors: Test vectors ω in rows, shape (k, n).
        images: A ω in rows.
        basis: Orthonormal basis Q of the images, in rows.
        basis_images: A Q in rows.
        factor: R with A Ω = Q R in columns, shape (k, k).
        inner: Qᵀ A Q, symmetric.
        one: sᵢ in rows: Q sᵢ is what the basis loses without ωᵢ.
        two: s_ij, shape (k, k, k): what it then loses without ωⱼ too; 0 for i = j.
        parts: Components along Q of ωᵢ projected on the basis of term i without ωⱼ, shape
            (k, k, k).
        captured: Whether the images span the range of A, to rounding: its rank is below k.
    """

    vectors: Array
    images: Array
    basis: Array
    basis_images: Array
    factor: Array
    inner: Array
    one: Array
    two: Array
    parts: Array
    captured: Array


def xtrace_terms(operator: Operator, vectors: Array) -> tuple[Array, Array]:
    """Return the terms of XTrace for vectors on the sphere, and what two have in common.

    What is left of ωᵢ beyond its basis is scaled to the length it has on average: a fixed
    length leaves less variance.
    """
    k, n = vectors.shape
    found = _sketch(operator, vectors)
    one, two, parts, inner = found.one, found.two, found.parts, found.inner
    lost = jnp.sum(one * _times(one, inner), axis=1)[:, None]
    lost = lost + jnp.sum(two * _times(two, inner), axis=2)
    known = jnp.trace(inner) - lost
    forms = jnp.sum(found.vectors * found.images, axis=1)[:, None]
    forms = forms - 2 * _exact("ijk,ki->ij", parts, found.factor)
    forms = forms + jnp.sum(parts * _times(parts, inner), axis=2)
    beyond = jnp.sum(vectors**2, axis=1)[:, None] - jnp.sum(parts**2, axis=2)
    dimensions = n - k + 2 - jnp.eye(k, dtype=vectors.dtype)
    left_out = known + dimensions / jnp.where(beyond > 0, beyond, 1) * forms
    left_out = jnp.where(found.captured, jnp.trace(inner), left_out)
    return _terms(left_out)


def xdiag_terms(operator: Operator, vectors: Array) -> tuple[Array, Array]:
    """Return the terms of XDiag for vectors of signs, shape (k, n), and the same, (n,).

    The part of A along Q is taken on both sides, A − (I − QQᵀ) A (I − QQᵀ), which leaves
    less to the test vectors than QQᵀA does.
    """
    k = len(vectors)
    found = _sketch(operator, vectors)
    one, two, parts, inner = found.one, found.two, found.parts, found.inner
    inner_one, inner_two = _times(one, inner), _times(two, inner)
    one_one = jnp.sum(one * inner_one, axis=1)[:, None]
    one_two = _exact("ik,ijk->ij", inner_one, two)
    two_two = jnp.sum(two * inner_two, axis=2)
    # Components along the basis of A times what is left of ωᵢ, without the directions lost.
    back = found.factor.T[:, None, :] - _times(parts, inner)
    back = back - _exact("ijk,ik->ij", back, one)[:, :, None] * one[:, None, :]
    back = back - jnp.sum(back * two, axis=2, keepdims=True) * two

    def entry(rows: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        signs, image, q, z = rows
        q_inner = _times(q, inner)
        q_one, q_two = _exact("ik,k->i", one, q)[:, None], _exact("ijk,k->ij", two, q)
        z_one, z_two = _exact("ik,k->i", one, z)[:, None], _exact("ijk,k->ij", two, z)
        h_one = _exact("ik,k->i", one, q_inner)[:, None]
        h_two = _exact("ijk,k->ij", two, q_inner)
        half = jnp.sum(q * z) - q_one * z_one - q_two * z_two
        both = jnp.sum(q * q_inner) - 2 * (q_one * h_one + q_two * h_two)
        both = both + q_one**2 * one_one + 2 * q_one * q_two * one_two + q_two**2 * two_two
        rest = image[:, None] - _exact("ijk,k->ij", parts, z) - _exact("ijk,k->ij", back, q)
        left_out = 2 * half - both + signs[:, None] * rest
        exact = 2 * jnp.sum(q * z) - jnp.sum(q * q_inner)
        return _terms(jnp.where(found.captured, exact, left_out))

    rows = (found.vectors.T, found.images.T, found.basis.T, found.basis_images.T)
    terms, common = jax.lax.map(
        entry, rows, batch_size=min(operator.n, max(1, _PAIRS_HELD // k**2))
    )
    return terms.T, common


def _terms(left_out: Array) -> tuple[Array, Array]:
    """Return the terms, from t_{i∖j} with tᵢ on the diagonal, and what they have in common.

    The latter is √C, or -√-C, so that no square over- or underflows.
    """
    k = len(left_out)
    terms = jnp.diag(left_out)
    shift = terms[:, None] - left_out
    unit = largest_or_one(shift)
    covariance = jnp.sum(shift / unit * (shift.T / unit)) / (k * (k - 1))
    return terms, unit * jnp.sign(covariance) * jnp.sqrt(jnp.abs(covariance))


def _sketch(operator: Operator, vectors: Array) -> _Sketch:
    """Make the 2k products, and factor what each term may know."""
    k = len(vectors)
    images = operator.images(vectors)
    columns, factor = jnp.linalg.qr(images.T)
    basis = columns.T
    basis_images = operator.images(basis)
    inner = _exact("in,jn->ij", basis, basis_images)
    inner = (inner + inner.T) / 2
    sizes = jnp.abs(jnp.diag(factor))
    rounding = operator.n * jnp.finfo(operator.dtype).eps * jnp.max(sizes)
    captured = jnp.min(sizes) <= rounding
    eye = jnp.eye(k, dtype=operator.dtype)
    scaled = after(columns, factor) / largest_or_one(factor)  # directions know no unit
    one, two = _directions_lost(jnp.where(captured, eye, scaled))
    along = _exact("in,jn->ij", vectors, basis)
    along = along - jnp.sum(along * one, axis=1, keepdims=True) * one
    parts = along[:, None, :] - _exact("ik,ijk->ij", along, two)[:, :, None] * two
    return _Sketch(
        vectors, images, basis, basis_images, factor, inner, one, two, parts, captured
    )


def _directions_lost(factor: Array) -> tuple[Array, Array]:
    """Return what the columns of a triangular factor no longer span without one, or two.

    Each column is left out by another factorisation, whose last vector is the direction; the
    second directions are rows of the inverse of what remains. Both are orthogonal to the
    columns that stay to rounding, however small the last columns are.
    """
    k = len(factor)
    others = jnp.array([[j for j in range(k) if j != i] for i in range(k)])

    def without(i: Array) -> tuple[Array, Array]:
        basis, rest = jnp.linalg.qr(factor[:, others[i]], mode="complete")
        eye = jnp.eye(k - 1, dtype=factor.dtype)
        second = jax.scipy.linalg.solve_triangular(after(basis, rest[:-1]), eye, trans="T")
        second = second / jnp.linalg.norm(second, axis=0, keepdims=True)
        rows = _exact("kl,lj->jk", basis[:, :-1], second)
        return basis[:, -1], jnp.zeros_like(factor).at[others[i]].set(rows)

    return jax.vmap(without)(jnp.arange(k))


def _times(rows: Array, matrix: Array) -> Array:
    """Multiply rows by a symmetric matrix."""
    return _exact("...k,kl->...l", rows, matrix)


def _exact(rule: str, a: Array, b: Array) -> Array:
    """Contract two arrays at the full precision of their dtype."""
    return jnp.einsum(rule, a, b, precision=jax.lax.Precision.HIGHEST)
