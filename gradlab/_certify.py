"""`certify`: is a point a minimum, and what is it if not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gradlab._certify_kind import LENGTHS, Curvature, Facts, Side, any_of, kind_of
from gradlab._checks import check_callable, check_params, check_positive, scalar_loss
from gradlab._equal_programs import computed
from gradlab._tree import (
    add_scaled,
    after,
    inner,
    max_abs,
    norm,
    num_params,
    pseudo_random,
    working_dtype,
)
from gradlab._typing import Array, Loss, Number, Params
from gradlab.certificate import Certificate
from gradlab.derivatives._leaves import eps_of
from gradlab.derivatives.autodiff import value_grad_hvp
from gradlab.optimizers._noise_level import noise_level
from gradlab.optimizers._subproblem import rounding_of
from gradlab.optimizers._truncated_cg import truncated_cg
from gradlab.optimizers._trust_region import (
    FLOOR,
    NOISY,
    MatrixFreeState,
    initial_state,
)

__all__ = ["DENSE", "MOST_PRODUCTS", "certify", "examine", "lower_beside"]

Arguments: TypeAlias = tuple[Any, ...]

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
# Groups of variables looked along, beside the direction of least curvature.
DIRECTIONS = 8
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
    curvature, from the Hessian of up to 256 variables and by Lanczos' method on
    Hessian-vector products of more; and values around the point, along the direction of
    least curvature and with every eighth variable moved in proportion to its size. Nothing
    is compared with an absolute number.

    Args:
        loss: Function `loss(params, *args)` returning a real scalar, written for JAX.
        x: The point: any pytree of real floating leaves.
        args: Further arguments of `loss`.
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.
        length: Length that is typical of x, a tenth of which is the farthest looked;
            default its norm, or 1 if that is zero.

    Returns:
        A `Certificate`. It costs one gradient, 100 losses and n Hessian-vector products, of
        more than 256 variables at most 160. Those see a negative curvature of more than some
        thousandths of the largest.

    Raises:
        TypeError: If a leaf is not real and floating, or the loss returns no real scalar.

    References:
        Ruiz, D. (2001). A scaling algorithm to equilibrate both rows and columns norms in
        matrices. RAL-TR-2001-034.
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
    look = functools.partial(examine, lambda x: value(x, *args)[0])
    return computed(look, x, noise, norm(x) if length is None else length)


def examine(
    value_fn: Callable[[Params], Array],
    x: Params,
    noise: Any,
    length: Any,
    *,
    smooth: bool = True,
    bounded: bool = False,
) -> Certificate:
    """Examine a point, traced; without second derivatives unless the loss is `smooth`.

    `bounded` says that it goes on beyond bounds as it is on them.
    """
    dtype = working_dtype(x)
    if smooth:
        value, grad, hvp = value_grad_hvp(value_fn, x)
        seen = (_dense if num_params(x) <= DENSE else _krylov)(hvp, x, grad)
    else:
        value, grad = jax.value_and_grad(value_fn)(x)
        unknown, no = jnp.full((), jnp.nan, dtype), jnp.zeros((), bool)
        none = jnp.zeros((), jnp.int32)
        seen = Curvature(unknown, unknown, grad, unknown, unknown, no, no, none)
    value = value.astype(dtype)
    length = jnp.asarray(length, dtype)
    length = jnp.where(length > 0, length, 1)
    sides, doubt = _around(value_fn, x, value, grad, seen.direction, length)
    level = jnp.maximum(noise_level(value, value, noise), doubt)
    # Where nothing changes along the direction, as of a variable that does not matter at the
    # point, no gradient leads anywhere.
    loud = seen.loud & any_of(
        jnp.maximum(jnp.abs(side.changes[0]), jnp.abs(side.slopes[0])) > level for side in sides
    )
    seen = seen._replace(
        loud=loud,
        decrement=jnp.where(loud, jnp.inf, seen.decrement),
        distance=jnp.where(loud, jnp.inf, seen.distance),
    )
    kind = kind_of(Facts(value, grad, seen, level, sides, noise is not None, bounded))
    return Certificate(
        kind=kind,
        value=value,
        grad_norm=max_abs(grad).astype(dtype),
        curvature=seen.least,
        stiffness=seen.size,
        decrement=seen.decrement,
        noise=level,
        lowest=jnp.minimum(*(jnp.min(side.changes) for side in sides)),
        nfev=jnp.asarray(1 + (1 + DIRECTIONS) * (1 + 2 * len(LENGTHS)), jnp.int32),
        nhvp=jnp.asarray(seen.products, jnp.int32),
        distance=seen.distance,
    )


def lower_beside(value_fn: Callable[[Params], Array], x: Params, length: Any) -> Array:
    """Whether the loss is lower right beside a stationary point, as it is next to a jump.

    Three losses: all variables are moved at once, by a little of their own size, both ways.
    """
    length = jnp.asarray(length, working_dtype(x))
    d = _group(x, None, jnp.where(length > 0, length, 1))
    scales = LENGTHS[-1] * jnp.array([0, 1, -1], length.dtype)
    value, ahead, behind = jax.lax.map(lambda s: value_fn(add_scaled(x, s, d)), scales)
    return jnp.minimum(ahead, behind) < value - NOISY * noise_level(value, value, None)


def _dense(hvp: Callable[[Params], Params], x: Params, grad: Params) -> Curvature:
    """Decompose the Hessian, made of n products, with its rows scaled to one size.

    Neither the decrease that is promised nor the signs of curvatures depend on the units of
    the variables, but what rounding leaves of them does: units may differ by many orders of
    magnitude. A gradient component promises something where it is above what rounding the
    point makes of it, entry by entry.
    """
    dtype = working_dtype(x)
    point, unravel = ravel_pytree(x)
    n, g = point.size, ravel_pytree(grad)[0].astype(dtype)
    eye = jnp.eye(n, dtype=point.dtype)
    rows = jax.lax.map(lambda e: ravel_pytree(hvp(unravel(e)))[0].astype(dtype), eye)
    hessian = (rows + rows.T) / 2
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
    size = jnp.max(jnp.abs(curvatures))
    return least < -(jnp.finfo(size.dtype).eps ** 0.5) * size


def _krylov(hvp: Callable[[Params], Params], x: Params, grad: Params) -> Curvature:
    """See as much as a few dozen products show: extreme curvatures, and a model's minimum."""
    least, size, direction, steps = _lanczos(hvp, x)
    state = initial_state(x, MatrixFreeState)
    # As if the start's gradient had been 10⁶ times as large: solve to 10⁻³.
    told = state.model.at[3].set((1e6 * max_abs(grad)).astype(state.model.dtype))
    path, _ = truncated_cg(
        hvp, x, grad, state._replace(model=told), BUDGET, jnp.zeros((), bool)
    )
    no, bends = jnp.zeros((), bool), _bends(least, size)
    products = path.products + steps
    return Curvature(least, size, direction, path.decrement, path.length, no, bends, products)


def _lanczos(hvp: Callable[[Params], Params], x: Params) -> tuple[Array, Array, Params, int]:
    """Find the extreme curvatures by Lanczos' method with full reorthogonalisation.

    Returns the least, the largest absolute one, the direction of the least, and the number
    of products.
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
    weights = jnp.where(used, vectors[:, 0], 0)
    direction = jax.tree.map(lambda rows: jnp.tensordot(weights, rows, axes=1), basis)
    return values[0], jnp.max(jnp.abs(values)), direction, steps


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
) -> tuple[tuple[Side, Side], Array]:
    """Return how the loss changes around x, ahead and behind, and how well it is known there.

    Changes are from the value that stands among them: the same loss, compiled in another
    place, may be rounded otherwise, and what it differs by is noise. Where the loss cancels
    to next to nothing that is far more than 4·eps·|f|.
    """
    dtype = value.dtype
    scales = jnp.array([0, *(s * t for s in (1, -1) for t in LENGTHS)], dtype)

    def look(which: Array) -> tuple[Array, Array, Array, Array]:
        group = _group(x, which - 1, length)
        d = jax.tree.map(lambda a, b: jnp.where(which == 0, length * a, b), least, group)

        def at(scale: Array) -> Array:
            return value_fn(add_scaled(x, scale, d)).astype(dtype) - value

        doubt, *others = jnp.split(jax.lax.map(at, scales), [1, 1 + len(LENGTHS)])
        ahead, behind = (side - doubt for side in others)
        return ahead, behind, inner(grad, d), jnp.abs(doubt[0])

    # One after the other: many at once would take the memory of as many losses. In two parts:
    # XLA runs a program with any array of more than 512 bytes in several threads, which takes
    # longer than the whole run of a small problem.
    ahead, behind, slopes, doubts = jax.lax.map(look, jnp.arange(1 + DIRECTIONS))
    slopes = slopes[:, None] * scales[None, 1 : 1 + len(LENGTHS)]
    doubt = jnp.max(jnp.where(jnp.isfinite(doubts), doubts, 0))
    return (Side(ahead, slopes), Side(behind, -slopes)), doubt


def _group(x: Params, which: Array | None, length: Array) -> Params:
    """Build a direction that moves every eighth variable, or all, each by its own size.

    Variables may differ by many orders of magnitude; up to eight are moved one by one. Where
    there are fewer, the groups left over move all of them.
    """
    dtype = length.dtype
    drawn, leaves, first = pseudo_random(x, dtype, 0 if which is None else which), [], 0
    for r, v in zip(jax.tree.leaves(drawn), jax.tree.leaves(x), strict=True):
        places = first + jnp.arange(v.size).reshape(v.shape)
        group = 0 if which is None else which % DIRECTIONS
        every = True if which is None else group >= num_params(x)
        mine = every | (places % DIRECTIONS == group)
        size = jnp.abs(v).astype(dtype)
        size = jnp.where(size >= OWN * length, size, length)
        leaves.append(jnp.where(mine, 2 * r * size, 0))
        first += v.size
    return jax.tree.unflatten(jax.tree.structure(x), leaves)
