"""Quasi-Newton methods: curvature learnt from the gradients of the steps taken."""

from __future__ import annotations

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from gradlab._checks import check_count
from gradlab._tree import num_params, working_dtype
from gradlab._typing import Array, Count, Number, Params
from gradlab.optimizers._line_method import LineSearchState, Pair, line_search_method
from gradlab.optimizers._line_search import Point, SearchResult

__all__ = ["bfgs", "lbfgs"]

# Part of the decrement told before that still counts. What H has not learnt yet it does not
# promise; a hundredth of it is believed after seven steps.
FADING = 0.5


def bfgs(*, noise: Number | None = None) -> optax.GradientTransformationExtraArgs:
    r"""BFGS with an approximate-Wolfe line search (Hager–Zhang).

    The direction is $-H g$. After each step, with $s = x^+ - x$, $y = g^+ - g$ and
    $\rho = 1 / s^T y$,

    $$H^+ = (I - \rho s y^T) H (I - \rho y s^T) + \rho s s^T,$$

    begun at $(s^T y / y^T y) I$ of the first step. A step is left out whose $s^T y$ is not
    above the rounding of the gradients. Where no step along the direction is acceptable,
    H is forgotten and the gradient is followed instead.

    As an optax transformation it comes last in a chain, and its `update` needs `value`,
    `grad` and `value_fn`, as `optax.lbfgs` does. A zero update means that no better point
    was found (`state.failed`).

    Cost: one loss and one gradient a trial step, most often one trial a step; beside them
    about 5n² multiplications, and n² numbers kept.

    Args:
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `LineSearchState`.

    References:
        Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, algorithm 6.1.
        Hager, W. W. and Zhang, H. (2005). A new conjugate gradient method with guaranteed
        descent and an efficient line search.

    Examples:
        >>> import gradlab as gl
        >>> loss = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> result = gl.minimize(loss, jnp.array([-1.2, 1.0]), gl.optimizers.bfgs())
        >>> print(result.success, result.x.round(4))
        True [1. 1.]
    """

    def start(params: Params) -> Inverse:
        dtype = working_dtype(params)
        identity = jnp.eye(num_params(params), dtype=dtype)
        return Inverse(identity, jnp.ones((), dtype), jnp.zeros((), bool))

    def propose(state: LineSearchState, point: Point) -> tuple[Params, Array]:
        inverse = state.memory
        flat, unravel = ravel_pytree(point.grad)
        product = _times(inverse.matrix, flat)
        return unravel(-(point.unit / inverse.unit) * product), ~inverse.learnt

    def learn(inverse: Inverse, point: Point, found: SearchResult, pair: Pair) -> Inverse:
        del point
        return _learn(inverse._replace(learnt=inverse.learnt & ~found.steepest), pair)

    return line_search_method(start, propose, learn, noise, fading=FADING, has_model=True)


class Inverse(NamedTuple):
    """Inverse Hessian, times the `unit` of gradients; whether it has `learnt` anything."""

    matrix: Array
    unit: Array
    learnt: Array


def _times(matrix: Array, vector: Array) -> Array:
    """Multiply as a sum of products: never with the ten bits of an accelerator's TF32."""
    return jnp.sum(matrix * vector[None], axis=1)


def _learn(inverse: Inverse, pair: Pair) -> Inverse:
    """Apply the BFGS formula, expanded so that it costs one product with the matrix."""
    matrix, unit, learnt = inverse
    unit = jnp.where(learnt, unit, pair.unit)
    factor = pair.unit / jnp.where(unit > 0, unit, 1)
    s, y = ravel_pytree(pair.step)[0], factor * ravel_pytree(pair.change)[0]
    sy, yy = factor * pair.sy, factor**2 * pair.yy
    sy, yy = jnp.where(pair.useful, sy, 1), jnp.where(pair.useful, yy, 1)
    identity = jnp.eye(s.size, dtype=matrix.dtype)
    matrix = jnp.where(learnt, matrix, sy / yy * identity)
    hy = _times(matrix, y)
    bend = (1 + jnp.sum(y * hy) / sy) / sy
    cross = s[:, None] * hy[None]
    new = matrix - (cross + cross.T) / sy + bend * s[:, None] * s[None]
    matrix = jnp.where(pair.useful, new, inverse.matrix)
    unit = jnp.where(pair.useful, unit, inverse.unit)
    return Inverse(matrix, unit, learnt | pair.useful)


def lbfgs(
    *, memory: Count = 20, noise: Number | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Limited-memory BFGS with an approximate-Wolfe line search (Hager–Zhang).

    The direction is $-H g$, where H is the BFGS inverse Hessian of the last `memory` pairs
    $s = x^+ - x$, $y = g^+ - g$, begun at $(s^T y / y^T y) I$. A pair is left out whose
    $s^T y$ is not above the rounding of the gradients. Where no step along the direction is
    acceptable, the pairs are forgotten and the gradient is followed instead. No flat copy
    of the parameters is made.

    As an optax transformation it comes last in a chain, and its `update` needs `value`,
    `grad` and `value_fn`, as `optax.lbfgs` does. A zero update means that no better point
    was found (`state.failed`).

    Cost: one loss and one gradient a trial step, most often one trial a step; beside them
    about 6·memory·n multiplications, and 2·memory·n numbers kept.

    Args:
        memory: Number of pairs kept, at least 1. Between 3 and 20 are usual (Nocedal &
            Wright, section 7.2); badly conditioned losses gain by as many as variables.
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `LineSearchState`.

    Raises:
        ValueError: If `memory` is not a positive whole number.

    References:
        Nocedal, J. (1980). Updating quasi-Newton matrices with limited storage.
        Byrd, R. H., Nocedal, J. and Schnabel, R. B. (1994). Representations of
        quasi-Newton matrices and their use in limited memory methods.
        Hager, W. W. and Zhang, H. (2006). Algorithm 851: CG_DESCENT.

    Examples:
        >>> import gradlab as gl
        >>> loss = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> result = gl.minimize(loss, jnp.array([-1.2, 1.0]), gl.optimizers.lbfgs())
        >>> print(result.success, result.x.round(4))
        True [1. 1.]
    """
    kept = check_count("memory", memory, smallest=1)

    def propose(state: LineSearchState, point: Point) -> tuple[Params, Array]:
        return _two_loops(state.memory, point), state.memory.stored == 0

    def learn(pairs: Pairs, point: Point, found: SearchResult, pair: Pair) -> Pairs:
        del point
        stored = jnp.where(found.steepest, 0, pairs.stored)
        return _store(pairs._replace(stored=stored), pair)

    start = functools.partial(_no_pairs, kept=kept)
    return line_search_method(start, propose, learn, noise, fading=FADING, has_model=True)


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


def _no_pairs(params: Params, kept: int) -> Pairs:
    """Build an empty memory."""
    dtype = working_dtype(params)
    vectors = jax.tree.map(lambda p: jnp.zeros((2, kept, *p.shape), p.dtype), params)
    products = jnp.zeros((2, kept, kept), dtype)
    return Pairs(vectors, products, jnp.ones((), dtype), jnp.zeros((), jnp.int32))


def _against(vectors: Params, vector: Params, dtype: Any) -> Array:
    """Inner products of every vector of the ring with one: shape (2, kept)."""

    def products(rows: Array, v: Array) -> Array:
        axes = tuple(range(2, rows.ndim))
        return jnp.sum(rows.astype(dtype) * v[None, None].astype(dtype), axis=axes)

    parts = jax.tree.leaves(jax.tree.map(products, vectors, vector))
    return functools.reduce(operator.add, parts)


def _two_loops(pairs: Pairs, point: Point) -> Params:
    r"""Return the direction -H g, with inner products taken all at once.

    The loop over the pairs from the newest is the triangular system $R \alpha = S^T g$,
    where R is the upper triangle of $S^T Y$; the one back is
    $R^T \delta = D \alpha - \gamma Y^T (g - Y \alpha)$ with R's diagonal D; and
    $H g = \gamma (g - Y \alpha) + S \delta$ (Byrd, Nocedal & Schnabel 1994).
    """
    dtype, kept = pairs.products.dtype, pairs.products.shape[1]
    order = (pairs.stored + jnp.arange(kept)) % kept  # from the oldest to the newest
    known = (order < pairs.stored).astype(dtype)
    sy, yy = pairs.products[:, order][:, :, order] * (known[:, None] * known[None])[None]
    upper = jnp.triu(sy) + jnp.diag(1 - known)
    yy = jnp.triu(yy) + jnp.triu(yy, 1).T
    # Barzilai and Borwein's length, of the newest pair; without pairs the gradient itself.
    gamma = jnp.where(yy[-1, -1] > 0, sy[-1, -1] / jnp.where(yy[-1, -1] > 0, yy[-1, -1], 1), 1)
    s_g, y_g = _against(pairs.vectors, point.grad, dtype)[:, order] * known[None]
    alpha = solve_triangular(upper, s_g)
    right = jnp.diagonal(upper) * alpha - gamma * (y_g - jnp.sum(yy * alpha[None], axis=1))
    delta = solve_triangular(upper, right, trans=1)
    place = (jnp.arange(kept) - pairs.stored) % kept
    weights = jnp.stack([delta, -gamma * alpha])[:, place]
    scale = point.unit / pairs.unit

    def combine(g: Array, rows: Array) -> Array:
        weighted = weights.reshape(2, kept, *(1,) * g.ndim) * rows.astype(dtype)
        return -scale * (gamma * g + jnp.sum(weighted, axis=(0, 1)))

    return jax.tree.map(combine, point.grad, pairs.vectors)


def _store(pairs: Pairs, pair: Pair) -> Pairs:
    """Put a pair in the oldest one's place, unless it says nothing."""
    slot = pairs.stored % pairs.products.shape[1]
    unit = jnp.where(pairs.stored == 0, pair.unit, pairs.unit)
    factor = pair.unit / jnp.where(unit > 0, unit, 1)

    def put(rows: Array, s: Array, y: Array) -> Array:
        new = jnp.stack([s, factor * y]).astype(rows.dtype)
        return rows.at[:, slot].set(jnp.where(pair.useful, new, rows[:, slot]))

    vectors = jax.tree.map(put, pairs.vectors, pair.step, pair.change)
    # Products with what is stored, rounded as it is, so that R and D belong to it.
    change = jax.tree.map(lambda rows: rows[1, slot], vectors)
    column = _against(vectors, change, pairs.products.dtype)
    column = jnp.where(pair.useful, column, pairs.products[:, :, slot])
    products = pairs.products.at[:, :, slot].set(column)
    unit = jnp.where(pair.useful, unit, pairs.unit)
    return Pairs(vectors, products, unit, pairs.stored + pair.useful)
