"""Quasi-Newton methods: curvature learnt from the gradients of the steps taken."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from gradlab._checks import check_count
from gradlab._tree import num_params, working_dtype
from gradlab._typing import Array, Count, Number, Params
from gradlab.optimizers._line_method import LineSearchState, Pair, line_search_method
from gradlab.optimizers._line_search import Point, SearchResult
from gradlab.optimizers._pairs import Pairs, apply_inverse, no_pairs, store

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

    As an optax transformation it comes last in a chain, and its `update` needs `value`, `grad`
    and `value_fn`, as `optax.lbfgs` does. It goes by these alone: what links before it make of
    the gradient (weight decay, a mask, batches added up) belongs into the loss. A zero update
    means that no better point was found (`state.failed`).

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

    As an optax transformation it comes last in a chain, and its `update` needs `value`, `grad`
    and `value_fn`, as `optax.lbfgs` does. It goes by these alone: what links before it make of
    the gradient (weight decay, a mask, batches added up) belongs into the loss. A zero update
    means that no better point was found (`state.failed`).

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
        pairs = state.memory
        product = apply_inverse(pairs)(point.grad)
        scale = point.unit / pairs.unit
        return jax.tree.map(lambda z: -scale * z, product), pairs.stored == 0

    def learn(pairs: Pairs, point: Point, found: SearchResult, pair: Pair) -> Pairs:
        del point
        stored = jnp.where(found.steepest, 0, pairs.stored)
        pairs = pairs._replace(stored=stored)
        return store(pairs, pair.step, pair.change, pair.unit, pair.useful)

    start = functools.partial(no_pairs, kept=kept)
    return line_search_method(start, propose, learn, noise, fading=FADING, has_model=True)
