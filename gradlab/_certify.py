"""`certify`: is a point a minimum, and what is it if not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gradlab._checks import check_callable, check_params, check_positive, scalar_loss
from gradlab._tree import add_scaled, inner, max_abs, norm, num_params, working_dtype
from gradlab._typing import Array, Loss, Number, Params
from gradlab.certificate import Certificate, Kind
from gradlab.derivatives.autodiff import value_grad_hvp
from gradlab.optimizers._truncated_cg import pseudo_random, truncated_cg
from gradlab.optimizers._trust_region import (
    NOISY,
    MatrixFreeState,
    initial_state,
    noise_level,
)

__all__ = ["certify", "examine"]

Arguments: TypeAlias = tuple[Any, ...]

# Steps of Lanczos: all of a small Krylov space; of a large one they see curvatures beyond a
# few percent of the largest (the error falls like exp(-4k √gap); Saad 2011, theorem 6.4).
STEPS = 30
# Numbers that the Krylov basis may take.
ROOM = 2**25
# Groups of variables looked along, beside the direction of least curvature.
DIRECTIONS = 8
# Lengths looked at, relative to the point's or each variable's own. A minimum may have lower
# values far away, so a direction leads down only if none of these is higher.
LENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# A stationary point promises less than this share of what the loss changes around it.
SLIGHT = 1e-6
# The same beside a saddle: values around say what it is before the gradient has vanished.
NEAR = 1e-3
# Variables below this share of the point's length have no size of their own: they may be on
# their way to zero.
OWN = 1e-2


def certify(
    loss: Loss,
    x: Params,
    *,
    args: Arguments = (),
    noise: Number | None = None,
    length: Number | None = None,
) -> Certificate:
    r"""Say whether a point is a minimum of a loss, and what it is if not.

    Looked at are the gradient with what it still promises, $\tfrac12 g^T H^{-1} g$; the least
    curvature, by Lanczos' method on Hessian-vector products; and values around the point,
    along the direction of least curvature and with every eighth variable moved in proportion
    to its size. Nothing is compared with an absolute number.

    Args:
        loss: Function `loss(params, *args)` returning a real scalar, written for JAX.
        x: The point: any pytree of real floating leaves.
        args: Further arguments of `loss`.
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.
        length: Length that is typical of x, a tenth of which is the farthest looked;
            default its norm, or 1 if that is zero.

    Returns:
        A `Certificate`. It costs one gradient, 91 losses and at most min(n, 30) +
        min(2n, 60) Hessian-vector products.

    Raises:
        TypeError: If a leaf is not real and floating, or the loss returns no real scalar.

    References:
        Conn, A., Gould, N. and Toint, P. (2000). Trust-Region Methods, section 5.2 (Lanczos).

    Examples:
        >>> import gradlab as gl
        >>> def loss(x):
        ...     return x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2
        >>> print(gl.certify(loss, jnp.zeros(2)).message)
        SADDLE: a saddle: the gradient vanishes, but directions lead up and down.
        >>> print(gl.certify(loss, jnp.array([1.0, 0.0])).is_minimum)
        True
    """
    check_callable("loss", loss, "a function loss(params, *args)")
    if not isinstance(args, tuple):
        raise TypeError(f"`args` must be a tuple, got {type(args).__name__}. Write (data,).")
    noise, length = check_positive("noise", noise), check_positive("length", length)
    value, x = scalar_loss(loss, False), check_params(x)
    look = jax.jit(partial(examine, lambda x: value(x, *args)[0]))
    return look(x, noise, norm(x) if length is None else length)


class _Spectrum(NamedTuple):
    """Least curvature and largest absolute one found, direction of the least, products."""

    least: Array
    size: Array
    direction: Params
    products: int


def examine(
    value_fn: Callable[[Params], Array],
    x: Params,
    noise: Any,
    length: Any,
    *,
    smooth: bool = True,
) -> Certificate:
    """Examine a point, traced; without second derivatives unless the loss is `smooth`."""
    dtype = working_dtype(x)
    if smooth:
        value, grad, hvp = value_grad_hvp(value_fn, x)
        spectrum = _lanczos(hvp, x)
        budget = min(2 * num_params(x), 2 * STEPS)
        state = initial_state(x, MatrixFreeState)
        # As if the start's gradient had been 10⁶ times as large: solve to 10⁻³.
        told = state.model.at[3].set((1e6 * max_abs(grad)).astype(state.model.dtype))
        path, _ = truncated_cg(
            hvp, x, grad, state._replace(model=told), budget, jnp.zeros((), bool)
        )
        decrement, products = path.decrement, path.products + spectrum.products
    else:
        value, grad = jax.value_and_grad(value_fn)(x)
        unknown = jnp.full((), jnp.nan, dtype)
        spectrum = _Spectrum(unknown, unknown, grad, 0)
        decrement, products = unknown, jnp.zeros((), jnp.int32)
    value = value.astype(dtype)
    level = noise_level(value, value, noise)
    length = jnp.asarray(length, dtype)
    length = jnp.where(length > 0, length, 1)
    changes, slopes = _around(value_fn, x, value, grad, spectrum.direction, length)
    facts = _Facts(value, grad, decrement, level, changes, slopes)
    return Certificate(
        kind=_kind(facts),
        value=value,
        grad_norm=max_abs(grad).astype(dtype),
        curvature=spectrum.least,
        stiffness=spectrum.size,
        decrement=decrement,
        noise=level,
        lowest=jnp.min(changes),
        nfev=jnp.asarray(1 + changes.size, jnp.int32),
        nhvp=jnp.asarray(products, jnp.int32),
    )


def _lanczos(hvp: Callable[[Params], Params], x: Params) -> _Spectrum:
    """Find the extreme curvatures by Lanczos' method with full reorthogonalisation."""
    dtype = working_dtype(x)
    n = num_params(x)
    steps = max(2, min(n, STEPS, ROOM // n))
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
    weights = jnp.where(used, vectors[:, 0], 0)
    direction = jax.tree.map(lambda rows: jnp.tensordot(weights, rows, axes=1), basis)
    return _Spectrum(values[0], jnp.max(jnp.abs(values)), direction, steps)


def _orthogonal(basis: Params, w: Params) -> Params:
    """Subtract from w its components along the basis."""
    parts = jax.vmap(lambda q: inner(q, w))(basis)
    return jax.tree.map(lambda v, rows: v - jnp.tensordot(parts, rows, axes=1), w, basis)


def _around(
    value_fn: Callable[[Params], Array],
    x: Params,
    value: Array,
    grad: Params,
    least: Params,
    length: Array,
) -> tuple[Array, Array]:
    """Return the changes of the loss around x, a row a direction, and what slopes explain."""
    dtype = value.dtype
    scales = jnp.array([s * t for s in (1, -1) for t in LENGTHS], dtype)

    def look(index: Array) -> tuple[Array, Array]:
        which, place = index // scales.size, index % scales.size
        group = _group(x, which - 1, length)
        d = jax.tree.map(lambda a, b: jnp.where(which == 0, length * a, b), least, group)
        change = value_fn(add_scaled(x, scales[place], d)).astype(dtype) - value
        return change, scales[place] * inner(grad, d)

    # One after the other: many at once would take the memory of as many losses.
    changes, slopes = jax.lax.map(look, jnp.arange((1 + DIRECTIONS) * scales.size))
    rows = (2 * (1 + DIRECTIONS), len(LENGTHS))
    return changes.reshape(rows), slopes.reshape(rows)


def _group(x: Params, which: Array, length: Array) -> Params:
    """Build a direction that moves every eighth variable, each by its own size.

    Variables may differ by many orders of magnitude; up to eight are moved one by one.
    """
    dtype = length.dtype
    drawn, leaves, first = pseudo_random(x, dtype, which), [], 0
    for r, v in zip(jax.tree.leaves(drawn), jax.tree.leaves(x), strict=True):
        mine = (first + jnp.arange(v.size).reshape(v.shape)) % DIRECTIONS == which % DIRECTIONS
        size = jnp.abs(v).astype(dtype)
        size = jnp.where(size >= OWN * length, size, length)
        leaves.append(jnp.where(mine, 2 * r * size, 0))
        first += v.size
    return jax.tree.unflatten(jax.tree.structure(x), leaves)


class _Facts(NamedTuple):
    """All that was found at the point."""

    value: Array
    grad: Params
    decrement: Array
    level: Array
    changes: Array
    slopes: Array


def _kind(facts: _Facts) -> Array:
    """Draw the conclusion."""
    value, level = facts.value, facts.level
    changes, slopes = facts.changes, facts.slopes
    spread = jnp.max(jnp.where(jnp.isfinite(changes), jnp.abs(changes), 0))
    # A direction leads down if nothing along it is higher, and at two lengths or more it is
    # lower by more than noise and the little that the slope explains.
    higher = ~(changes <= level)
    lower = changes < -level - 2 * jnp.abs(slopes)
    down = jnp.any(~jnp.any(higher, axis=1) & (jnp.sum(lower, axis=1) >= 2))
    promised = jnp.where(jnp.isfinite(facts.decrement), facts.decrement, jnp.inf)
    # Where the model has no minimum: the slope over the longest length looked at.
    sloping = jnp.max(jnp.abs(slopes[:, 0]))
    promised = jnp.minimum(promised, sloping)
    share = jnp.where(down, NEAR, SLIGHT)
    stationary = promised <= jnp.maximum(share * spread, NOISY * level)
    # Along some direction the loss may be a slope and nothing else, however far looked.
    slope, change = slopes[:, 0], changes[:, 0]
    straight = (jnp.abs(change - slope) <= 0.5 * jnp.abs(slope)) & (change < -NOISY * level)
    kind = jnp.where(spread <= NOISY * level, Kind.AT_NOISE, Kind.MINIMUM)
    top = jnp.where(jnp.any(changes > level), Kind.SADDLE, Kind.MAXIMUM)
    kind = jnp.where(down, top, kind)
    kind = jnp.where(stationary, kind, Kind.NOT_STATIONARY)
    kind = jnp.where(jnp.any(straight), Kind.SLOPE, kind)
    kind = jnp.where(jnp.all(jnp.abs(changes) <= level), Kind.FLAT, kind)
    bottomless = (value == -jnp.inf) | jnp.any(changes == -jnp.inf)
    kind = jnp.where(bottomless, Kind.UNBOUNDED, kind)
    finite = jnp.isfinite(max_abs(facts.grad)) & jnp.isfinite(value)
    finite |= value == -jnp.inf
    return jnp.where(finite, kind, Kind.NOT_FINITE).astype(jnp.int32)
