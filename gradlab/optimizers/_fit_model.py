"""The linear algebra of a fit: factors of its Jacobian, and its quadratic models.

The Jacobian is factored by QR with the residuals as a last column, and the triangle by SVD:
JᵀJ, which squares the condition number, is never formed for a Gauss-Newton step, and every
damping after that costs O(n²).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab._typing import Array

__all__ = [
    "Model",
    "across",
    "along",
    "ends_of",
    "exact_model",
    "factored",
    "norm",
    "norm_by_dot",
    "times",
    "whitening_of",
]


class Model(NamedTuple):
    """Half the loss's quadratic model: curvatures and slopes along the columns of a basis."""

    curvatures: Array
    slopes: Array
    basis: Array


def factored(jacobian: Array, r: Array) -> tuple[Array, Array, Array]:
    """Return singular values, right vectors as columns, and Uᵀr, padded to n."""
    m, n = jacobian.shape
    triangle = jnp.linalg.qr(jnp.concatenate([jacobian, r[:, None]], axis=1), mode="r")
    k = min(m, n)
    u, values, vt = _singular_values(triangle[:k, :n])
    turned = across(u, triangle[:k, n])
    pad = n - k
    return (
        jnp.pad(values, (0, pad)),
        jnp.pad(vt, ((0, pad), (0, 0))).T,
        jnp.pad(turned, (0, pad)),
    )


def _singular_values(matrix: Array) -> tuple[Array, Array, Array]:
    """Decompose a small matrix; on the CPU by QR iterations, faster there than JAX's choice."""

    def by_qr(matrix: Array) -> tuple[Array, Array, Array]:
        found: Any = jax.lax.linalg.svd(
            matrix, full_matrices=False, algorithm=jax.lax.linalg.SvdAlgorithm.QR
        )
        return tuple(found)

    def by_default(matrix: Array) -> tuple[Array, Array, Array]:
        return tuple(jnp.linalg.svd(matrix, full_matrices=False))

    return jax.lax.platform_dependent(matrix, cpu=by_qr, default=by_default)


def whitening_of(own: Array, vectors: Array, inverse: Array) -> tuple[Array, Array]:
    """Return W with H⁻¹ = WᵀW, and the least and largest curvature relative to JᵀJ.

    With J = UΣVᵀ the Hessian is VΣ(1 + Σ⁻¹VᵀSVΣ⁻¹)ΣVᵀ, S the residuals' own curvature. The
    middle is as well conditioned as Gauss-Newton converges fast, so nothing is squared.
    Directions of rank lost are left out.
    """
    middle = times(times(vectors.T, own), vectors) * inverse[:, None] * inverse[None, :]
    middle = middle + jnp.eye(inverse.size, dtype=own.dtype)
    relative, turn = jnp.linalg.eigh((middle + middle.T) / 2)
    root = jax.lax.rsqrt(jnp.where(relative > 0, relative, 1))
    whitening = root[:, None] * times(turn.T, inverse[:, None] * vectors.T)
    return whitening, jnp.stack([relative[0], relative[-1]])


def exact_model(own: Array, model: Model) -> Model:
    """Add the residuals' own curvature to a Gauss-Newton model."""
    basis = model.basis
    gauss_newton = times(basis * model.curvatures[None, :], basis.T)
    total = gauss_newton + own
    curvatures, vectors = jnp.linalg.eigh((total + total.T) / 2)
    return Model(curvatures, times(times(basis, model.slopes), vectors), vectors)


def ends_of(curvatures: Array) -> Array:
    """Least curvature and largest absolute one."""
    return jnp.stack([jnp.min(curvatures), jnp.max(jnp.abs(curvatures))])


def times(a: Array, b: Array) -> Array:
    """Matrix product in full precision."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def along(matrix: Array, v: Array) -> Array:
    """Small matrix times vector, as sums, which the compiler joins to what stands around."""
    return jnp.sum(matrix * v[None, :], axis=1)


def across(matrix: Array, v: Array) -> Array:
    """Likewise for the transposed matrix."""
    return jnp.sum(matrix * v[:, None], axis=0)


def norm_by_dot(v: Array) -> Array:
    """Euclidean length of a long vector: the compiler makes three kernels of a long sum."""
    return jnp.sqrt(times(v, v))


def norm(v: Array) -> Array:
    """Euclidean length of a vector."""
    return jnp.sqrt(jnp.sum(v**2))
