"""Curvature at a point: the whole Hessian of few variables, products of many."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gradlab._certify_kind import Curvature
from gradlab._tree import after, inner, max_abs, norm, num_params, pseudo_random, working_dtype
from gradlab._typing import Array, Params
from gradlab.derivatives._leaves import eps_of
from gradlab.optimizers._subproblem import rounding_of
from gradlab.optimizers._truncated_cg import truncated_cg
from gradlab.optimizers._trust_region import FLOOR, MatrixFreeState, initial_state

__all__ = ["DENSE", "MOST_PRODUCTS", "Flat", "curvature"]

# Variables up to which the Hessian is made: its products cost less than most runs, and are
# the only proof that no curvature is negative.
DENSE = 256
# Steps of Lanczos beyond: they see a negative curvature of more than some thousandths of the
# largest (the error falls like exp(-4k √gap); Saad 2011, theorem 6.4).
STEPS = 100
# Products for the Newton step, beyond: to a thousandth at condition 200 (the error falls like
# exp(-2k/√κ); Nocedal & Wright 2006, eq. 5.36).
BUDGET = 60
MOST_PRODUCTS = STEPS + BUDGET
# Numbers that the Krylov basis may take.
ROOM = 2**25


class Flat(NamedTuple):
    """The directions along which there is next to no curvature.

    Whether there are any that `Curvature.direction` leaves out, and what turns any direction
    into one of them.
    """

    there: Array
    project: Callable[[Params], Params]


def curvature(
    hvp: Callable[[Params], Params], x: Params, grad: Params, sizes: Params, level: Array
) -> tuple[Curvature, Flat]:
    """Find what second derivatives say, by a number of products.

    Flat is what a loss of this noise level does not show when every variable moves by its
    own size.
    """
    if num_params(x) > DENSE:
        return _krylov(hvp, x, grad)
    dtype = working_dtype(x)
    point, unravel = ravel_pytree(x)
    eye = jnp.eye(point.size, dtype=point.dtype)
    rows = jax.lax.map(lambda e: ravel_pytree(hvp(unravel(e)))[0].astype(dtype), eye)
    hessian = (rows + rows.T) / 2
    seen = _dense(hessian, x, grad)
    # (The last known of the first decompositions.)
    return seen, _without_curvature(after(seen.distance, hessian), x, sizes, level)


def _dense(hessian: Array, x: Params, grad: Params) -> Curvature:
    """Decompose the Hessian with its rows scaled to one size.

    Neither the decrease that is promised nor the signs of curvatures depend on the units of
    the variables, but what rounding leaves of them does: units may differ by many orders of
    magnitude. A gradient component promises something where it is above what rounding the
    point makes of it, entry by entry.
    """
    dtype = working_dtype(x)
    point, unravel = ravel_pytree(x)
    n, g = point.size, ravel_pytree(grad)[0].astype(dtype)
    finite = jnp.isfinite(jnp.sum(jnp.abs(hessian)))
    hessian = jnp.where(finite, hessian, 0)
    plain = jnp.linalg.eigvalsh(hessian)
    d = _unit_rows(hessian)
    w, vectors = jnp.linalg.eigh(after(plain, hessian * d[None, :] * d[:, None]))
    lost = jax.tree.map(lambda v: eps_of(v.dtype) * jnp.abs(v).astype(dtype), x)
    rounding = d * (jnp.abs(hessian) @ ravel_pytree(lost)[0])
    rotated = jnp.matmul(d * g, vectors, precision=jax.lax.Precision.HIGHEST)
    floor = rounding @ jnp.abs(vectors)
    heard = jnp.abs(rotated) > FLOOR * floor
    # What no eigenvector hears by itself, for each adds the roundings of all entries, may
    # still be clear in one entry. Then it is heard wherever it is above a rounding.
    rest = jnp.matmul(
        vectors, jnp.where(heard, 0, rotated), precision=jax.lax.Precision.HIGHEST
    )
    clear = jnp.any(jnp.abs(rest) > FLOOR * rounding)
    heard |= clear & (jnp.abs(rotated) > floor)
    curved = w > rounding_of(w)
    step = jnp.where(curved & heard, rotated / jnp.where(curved, w, 1), 0)
    decrement = 0.5 * jnp.sum(rotated * step)
    lost = jnp.where(~curved & heard, rotated, 0)
    loud = jnp.any(lost != 0)
    bends = _bends(w[0], w)
    along = d * jnp.where(loud & ~bends, vectors @ lost, vectors[:, 0])
    along = along / norm(along)
    return Curvature(
        plain[0],
        jnp.max(jnp.abs(plain)),
        jax.tree.map(lambda v: v.astype(dtype), unravel(along.astype(point.dtype))),
        jnp.where(finite, decrement, jnp.nan),
        norm(d * (vectors @ step)),
        loud & finite,
        bends,
        jnp.asarray(n, jnp.int32),
    )


def _without_curvature(hessian: Array, x: Params, sizes: Params, level: Array) -> Flat:
    """Find where the Hessian has no curvature that the loss would show.

    What rounding leaves of a row of zeros must not be scaled to one.
    """
    dtype = hessian.dtype
    point, unravel = ravel_pytree(x)
    size = ravel_pytree(sizes)[0].astype(dtype)
    moved = hessian * size[None, :] * size[:, None]
    finite = jnp.all(jnp.isfinite(moved))
    shown = (jnp.max(jnp.abs(moved), axis=1) > level) & finite
    moved = jnp.where(shown[:, None] & shown[None, :], moved, 0)
    unit = _unit_rows(moved)
    curvatures, axes = jnp.linalg.eigh(moved * unit[None, :] * unit[:, None])
    flat = jnp.abs(curvatures) <= _half_digits(curvatures)
    matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def project(v: Params) -> Params:
        parts = matmul(ravel_pytree(v)[0].astype(dtype) / (size * unit), axes)
        vector = size * unit * matmul(axes, jnp.where(flat, parts, 0))
        return jax.tree.map(lambda v: v.astype(dtype), unravel(vector.astype(point.dtype)))

    return Flat((jnp.sum(flat) >= 2) & finite, project)


def _unit_rows(matrix: Array) -> Array:
    """Return d for which every row of d H d has one as its largest entry (Ruiz 2001).

    Each round halves the logarithm of what is left; eight take 1e±70 to within a factor two.
    """

    def nearer(_: Any, d: Array) -> Array:
        largest = jnp.max(jnp.abs(matrix * d[None, :] * d[:, None]), axis=1)
        return d / jnp.sqrt(jnp.where(largest > 0, largest, 1))

    return jax.lax.fori_loop(0, 8, nearer, jnp.ones(len(matrix), matrix.dtype))


def _bends(least: Array, curvatures: Array) -> Array:
    """Whether the least curvature is negative by more than half the digits of the largest."""
    return least < -_half_digits(curvatures)


def _half_digits(curvatures: Array) -> Array:
    """Half the digits of the largest curvature."""
    return jnp.finfo(curvatures.dtype).eps ** 0.5 * jnp.max(jnp.abs(curvatures))


def _krylov(hvp: Callable[[Params], Params], x: Params, grad: Params) -> tuple[Curvature, Flat]:
    """See as much as a few dozen products show: extreme curvatures, and a model's minimum."""
    values, vectors, basis = _lanczos(hvp, x)
    least, size = values[0], jnp.max(jnp.abs(values))
    even = jnp.abs(values) <= _half_digits(values)

    def project(v: Params) -> Params:
        parts = _parts(basis, v)
        return _without(basis, vectors @ jnp.where(even, 0, vectors.T @ parts), v)

    state = initial_state(x, MatrixFreeState)
    # As if the start's gradient had been 10⁶ times as large: solve to 10⁻³.
    told = state.model.at[3].set((1e6 * max_abs(grad)).astype(state.model.dtype))
    path, _ = truncated_cg(
        hvp, x, grad, state._replace(model=told), BUDGET, jnp.zeros((), bool)
    )
    no, bends = jnp.zeros((), bool), _bends(least, size)
    seen = Curvature(
        least,
        size,
        jax.tree.map(lambda rows: jnp.tensordot(vectors[:, 0], rows, axes=1), basis),
        path.decrement,
        path.length,
        no,
        bends,
        path.products + values.size,
    )
    return seen, Flat(even[0], project)


def _lanczos(hvp: Callable[[Params], Params], x: Params) -> tuple[Array, Array, Params]:
    """Find the extreme curvatures by Lanczos' method with full reorthogonalisation.

    Returns curvatures in ascending order, one for each product taken, the coefficients of
    their directions, a column each, and the basis that these refer to.
    """
    dtype = working_dtype(x)
    n = num_params(x)
    steps = min(STEPS, max(2, ROOM // n))
    start = pseudo_random(x, dtype)
    first = jax.tree.map(lambda v: v / norm(start), start)
    basis = jax.tree.map(lambda v: jnp.zeros((steps, *v.shape), dtype), first)
    eps = jnp.finfo(dtype).eps

    def expand(carry: Any, i: Array) -> Any:
        basis, q, size = carry
        basis = jax.tree.map(lambda rows, v: rows.at[i].set(v), basis, q)
        w = hvp(jax.tree.map(lambda v, p: v.astype(p.dtype), q, x))
        w = jax.tree.map(lambda v: v.astype(dtype), w)
        alpha = inner(q, w)
        w = _orthogonal(basis, _orthogonal(basis, w))
        beta = norm(w)
        size = jnp.maximum(size, jnp.abs(alpha) + beta)
        # What is left is rounding: the space is invariant, and the rest of T stays empty.
        alive = beta > n * eps * size
        q = jax.tree.map(lambda v: jnp.where(alive, v / jnp.where(alive, beta, 1), 0), w)
        return (basis, q, size), (alpha, jnp.where(alive, beta, 0), inner(q, q) > 0)

    zero = jnp.zeros((), dtype)
    (basis, _, _), (alpha, beta, alive) = jax.lax.scan(
        expand, (basis, first, zero), jnp.arange(steps)
    )
    # Rows after the end repeat the first entry, which changes no extreme.
    used = jnp.concatenate([jnp.ones(1, bool), alive[:-1]])
    alpha = jnp.where(used, alpha, alpha[0])
    matrix = jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1)
    matrix = jnp.where(jnp.all(jnp.isfinite(matrix)), matrix, 0)
    values, vectors = jnp.linalg.eigh(matrix)
    return values, jnp.where(used[:, None], vectors, 0), basis


def _orthogonal(basis: Params, w: Params) -> Params:
    """Subtract from w its components along the basis."""
    return _without(basis, _parts(basis, w), w)


def _parts(basis: Params, w: Params) -> Array:
    """Components of w along the basis."""
    return jax.vmap(lambda q: inner(q, w))(basis)


def _without(basis: Params, parts: Array, w: Params) -> Params:
    """Subtract from w so much of each row of the basis."""
    return jax.tree.map(lambda v, rows: v - jnp.tensordot(parts, rows, axes=1), w, basis)
