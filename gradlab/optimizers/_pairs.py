"""The limited memory of BFGS: pairs of a step and the change of the gradient along it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab._tree import working_dtype
from gradlab._typing import Array, Params

__all__ = ["Pairs", "apply_inverse", "no_pairs", "store"]


class Pairs(NamedTuple):
    r"""The last pairs, each divided by the largest entry of its step, in a ring.

    `vectors` is shaped like the parameters with two leading axes: (step or change, place).
    `matrices` are, by place, the inverse of R, the upper triangle of $S^T Y$ in the order of
    time, and $Y^T Y$. The changes are in the `unit` of the first gradient since the last
    restart, and `stored` is the number of pairs stored since.
    """

    vectors: Params
    matrices: Array
    unit: Array
    stored: Array


def no_pairs(params: Params, kept: int) -> Pairs:
    """Build an empty memory."""
    dtype = working_dtype(params)
    vectors = jax.tree.map(lambda p: jnp.zeros((2, kept, *p.shape), p.dtype), params)
    matrices = jnp.zeros((2, kept, kept), dtype)
    return Pairs(vectors, matrices, jnp.ones((), dtype), jnp.zeros((), jnp.int32))


def store(pairs: Pairs, step: Params, change: Params, unit: Array, useful: Array) -> Pairs:
    r"""Put a pair, its change in this `unit`, in the oldest one's place, if it is `useful`.

    R grows by a column, $r = S^T y$ over $\rho = s^T y$, and so does its inverse: by
    $-R^{-1} r / \rho$ over $1 / \rho$. Without its oldest pair, its first row and column,
    a triangle's inverse is what is left of it.
    """
    kept = pairs.matrices.shape[1]
    place = jnp.arange(kept)
    slot = pairs.stored % kept
    kept_unit = jnp.where(pairs.stored == 0, unit, pairs.unit)
    factor = unit / jnp.where(kept_unit > 0, kept_unit, 1)

    def put(rows: Array, s: Array, y: Array) -> Array:
        new = jnp.stack([s, factor * y]).astype(rows.dtype)
        return rows.at[:, slot].set(jnp.where(useful, new, rows[:, slot]))

    vectors = jax.tree.map(put, pairs.vectors, step, change)
    # Products with what is stored, rounded as it is, so that they belong to it.
    stored = jax.tree.map(lambda rows: rows[1, slot], vectors)
    with_steps, with_changes = _against(vectors, stored, pairs.matrices.dtype)
    new, older = place == slot, (place < pairs.stored) & (place != slot)
    inverse, gram = pairs.matrices
    inverse = jnp.where(older[:, None] & older[None], inverse, 0)
    rho = with_steps[slot]
    column = -jnp.sum(inverse * jnp.where(older, with_steps, 0)[None], axis=1)
    column = jnp.where(new, 1, column) / jnp.where(rho == 0, 1, rho)
    inverse = jnp.where(new[None], column[:, None], inverse)
    gram = jnp.where(new[None], with_changes[:, None], gram)
    gram = jnp.where(new[:, None], with_changes[None], gram)
    matrices = jnp.where(useful, jnp.stack([inverse, gram]), pairs.matrices)
    kept_unit = jnp.where(useful, kept_unit, pairs.unit)
    return Pairs(vectors, matrices, kept_unit, pairs.stored + useful)


def apply_inverse(pairs: Pairs) -> Callable[[Params], Params]:
    r"""Build the map from g to H g, H the BFGS inverse of the pairs begun at $\gamma I$.

    In the pairs' unit, and γ = sᵀy/yᵀy of the newest pair; without pairs it is g itself. The
    loop over the pairs from the newest is the triangular system $R \alpha = S^T g$; the one
    back is $R^T \delta = D \alpha - \gamma Y^T (g - Y \alpha)$ with R's diagonal D; and
    $H g = \gamma (g - Y \alpha) + S \delta$ (Byrd, Nocedal & Schnabel 1994): two passes over
    the pairs.
    """
    dtype, kept = pairs.matrices.dtype, pairs.matrices.shape[1]
    inverse, gram = pairs.matrices
    # What is left from before a restart, until the next pair, is of no use.
    inverse = jnp.where(pairs.stored > 0, inverse, 0)
    reciprocal = jnp.diagonal(inverse)
    diagonal = jnp.where(reciprocal == 0, 0, 1 / jnp.where(reciprocal == 0, 1, reciprocal))
    newest = (pairs.stored - 1) % kept
    # Barzilai and Borwein's length.
    squares = gram[newest, newest]
    found = (pairs.stored > 0) & (squares > 0)
    gamma = jnp.where(found, diagonal[newest] / jnp.where(found, squares, 1), 1)

    def apply(g: Params) -> Params:
        s_g, y_g = _against(pairs.vectors, g, dtype)
        alpha = jnp.sum(inverse * s_g[None], axis=1)
        right = diagonal * alpha - gamma * (y_g - jnp.sum(gram * alpha[None], axis=1))
        delta = jnp.sum(inverse * right[:, None], axis=0)
        weights = jnp.stack([delta, -gamma * alpha])

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
