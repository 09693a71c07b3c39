"""The limited memory of BFGS: pairs of a step and the change of the gradient along it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from gradlab._tree import working_dtype
from gradlab._typing import Array, Params

__all__ = ["Pairs", "apply_inverse", "no_pairs", "store"]


class Pairs(NamedTuple):
    """The last pairs, each divided by the largest entry of its step, in a ring.

    `vectors` is shaped like the parameters with two leading axes: (step or change, place).
    `products`, of the same two and a third axis, has the inner products of all with the
    change in the place of the third. The changes are in the `unit` of the first gradient
    since the last restart, and `stored` is the number of pairs stored since.
    """

    vectors: Params
    products: Array
    unit: Array
    stored: Array


def no_pairs(params: Params, kept: int) -> Pairs:
    """Build an empty memory."""
    dtype = working_dtype(params)
    vectors = jax.tree.map(lambda p: jnp.zeros((2, kept, *p.shape), p.dtype), params)
    products = jnp.zeros((2, kept, kept), dtype)
    return Pairs(vectors, products, jnp.ones((), dtype), jnp.zeros((), jnp.int32))


def store(pairs: Pairs, step: Params, change: Params, unit: Array, useful: Array) -> Pairs:
    """Put a pair, its change in this `unit`, in the oldest one's place, if it is `useful`."""
    slot = pairs.stored % pairs.products.shape[1]
    kept_unit = jnp.where(pairs.stored == 0, unit, pairs.unit)
    factor = unit / jnp.where(kept_unit > 0, kept_unit, 1)

    def put(rows: Array, s: Array, y: Array) -> Array:
        new = jnp.stack([s, factor * y]).astype(rows.dtype)
        return rows.at[:, slot].set(jnp.where(useful, new, rows[:, slot]))

    vectors = jax.tree.map(put, pairs.vectors, step, change)
    # Products with what is stored, rounded as it is, so that they belong to it.
    stored = jax.tree.map(lambda rows: rows[1, slot], vectors)
    column = _against(vectors, stored, pairs.products.dtype)
    column = jnp.where(useful, column, pairs.products[:, :, slot])
    products = pairs.products.at[:, :, slot].set(column)
    kept_unit = jnp.where(useful, kept_unit, pairs.unit)
    return Pairs(vectors, products, kept_unit, pairs.stored + useful)


def apply_inverse(pairs: Pairs) -> Callable[[Params], Params]:
    r"""Build the map from g to H g, H the BFGS inverse of the pairs begun at $\gamma I$.

    In the pairs' unit, and γ = sᵀy/yᵀy of the newest pair; without pairs it is g itself. The
    loop over the pairs from the newest is the triangular system $R \alpha = S^T g$,
    where R is the upper triangle of $S^T Y$; the one back is
    $R^T \delta = D \alpha - \gamma Y^T (g - Y \alpha)$ with R's diagonal D; and
    $H g = \gamma (g - Y \alpha) + S \delta$ (Byrd, Nocedal & Schnabel 1994). R is inverted
    here, once, so that a product is no more than two passes over the pairs.
    """
    dtype, kept = pairs.products.dtype, pairs.products.shape[1]
    order = (pairs.stored + jnp.arange(kept)) % kept  # from the oldest to the newest
    known = (order < pairs.stored).astype(dtype)
    sy, yy = pairs.products[:, order][:, :, order] * (known[:, None] * known[None])[None]
    upper = jnp.triu(sy) + jnp.diag(1 - known)
    yy = jnp.triu(yy) + jnp.triu(yy, 1).T
    # Barzilai and Borwein's length.
    gamma = jnp.where(yy[-1, -1] > 0, sy[-1, -1] / jnp.where(yy[-1, -1] > 0, yy[-1, -1], 1), 1)
    inverse = solve_triangular(upper, jnp.eye(kept, dtype=dtype))
    place = (jnp.arange(kept) - pairs.stored) % kept

    def apply(g: Params) -> Params:
        s_g, y_g = _against(pairs.vectors, g, dtype)[:, order] * known[None]
        alpha = jnp.sum(inverse * s_g[None], axis=1)
        right = jnp.diagonal(upper) * alpha - gamma * (y_g - jnp.sum(yy * alpha[None], axis=1))
        delta = jnp.sum(inverse * right[:, None], axis=0)
        weights = jnp.stack([delta, -gamma * alpha])[:, place]

        def combine(g: Array, rows: Array) -> Array:
            weighted = weights.reshape(2, kept, *(1,) * g.ndim) * rows.astype(dtype)
            return gamma * g + jnp.sum(weighted, axis=(0, 1))

        return jax.tree.map(combine, g, pairs.vectors)

    return apply


def _against(vectors: Params, vector: Params, dtype: Any) -> Array:
    """Inner products of every vector of the ring with one: shape (2, kept)."""

    def products(rows: Array, v: Array) -> Array:
        axes = tuple(range(2, rows.ndim))
        return jnp.sum(rows.astype(dtype) * v[None, None].astype(dtype), axis=axes)

    parts = jax.tree.leaves(jax.tree.map(products, vectors, vector))
    return functools.reduce(operator.add, parts)
