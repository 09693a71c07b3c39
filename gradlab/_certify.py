"""`certify`: is a point a minimum, and what is it if not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._certify_curvature import Flat, curvature
from gradlab._certify_kind import (
    FLAT_LENGTHS,
    LENGTHS,
    Curvature,
    Facts,
    Side,
    any_of,
    kind_of,
)
from gradlab._checks import check_callable, check_params, check_positive, scalar_loss
from gradlab._equal_programs import computed
from gradlab._tree import (
    add_scaled,
    inner,
    max_abs,
    norm,
    num_params,
    pseudo_random,
    working_dtype,
)
from gradlab._typing import Array, Loss, Number, Params
from gradlab.certificate import Certificate
from gradlab.derivatives.autodiff import value_grad_hvp
from gradlab.optimizers._noise_level import noise_level
from gradlab.optimizers._trust_region import NOISY

__all__ = ["certify", "examine", "lower_beside"]

Arguments: TypeAlias = tuple[Any, ...]

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
    least curvature and with every eighth variable moved in proportion to its size, and
    where directions have no curvature, as at the zeros of a deep network, along eight of
    them too. Nothing is compared with an absolute number.

    Args:
        loss: Function `loss(params, *args)` returning a real scalar, written for JAX.
        x: The point: any pytree of real floating leaves.
        args: Further arguments of `loss`.
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.
        length: Length that is typical of x, a tenth of which is the farthest looked, along
            directions without curvature all of it; default its norm, or 1 if that is zero.

    Returns:
        A `Certificate`. It costs one gradient, 100 losses (188 with directions that have no
        curvature) and n Hessian-vector products, of more than 256 variables at most 160.
        Those see a negative curvature of more than some thousandths of the largest.

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
    length = jnp.asarray(length, dtype)
    length = jnp.where(length > 0, length, 1)
    if smooth:
        value, grad, hvp = value_grad_hvp(value_fn, x)
        level = noise_level(value.astype(dtype), value.astype(dtype), noise)
        seen, flat = curvature(hvp, x, grad, _sizes(x, length), level)
    else:
        value, grad = jax.value_and_grad(value_fn)(x)
        unknown, no = jnp.full((), jnp.nan, dtype), jnp.zeros((), bool)
        none = jnp.zeros((), jnp.int32)
        seen = Curvature(unknown, unknown, grad, unknown, unknown, no, no, none)
        flat = Flat(no, lambda v: v)
    value = value.astype(dtype)
    sides, even, doubt = _around(value_fn, x, value, grad, seen.direction, flat, length)
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
    lowest = jnp.minimum(*(jnp.min(side.changes) for side in sides))
    kind = kind_of(Facts(value, grad, seen, level, sides, even, noise is not None, bounded))
    return Certificate(
        kind=kind,
        value=value,
        grad_norm=max_abs(grad).astype(dtype),
        curvature=seen.least,
        stiffness=seen.size,
        decrement=seen.decrement,
        noise=level,
        lowest=jnp.where(flat.there, jnp.minimum(lowest, jnp.min(jnp.stack(even))), lowest),
        nfev=1 + _directions(flat) * np.int32(1 + 2 * len(LENGTHS)),
        nhvp=jnp.asarray(seen.products, jnp.int32),
        distance=seen.distance,
    )


def lower_beside(value_fn: Callable[[Params], Array], x: Params, length: Any) -> Array:
    """Whether the loss is lower right beside a stationary point, as it is next to a jump.

    Three losses: all variables are moved at once, by a little of their own size, both ways.
    """
    length = jnp.asarray(length, working_dtype(x))
    d = _sized(x, 0, jnp.where(length > 0, length, 1))
    scales = LENGTHS[-1] * jnp.array([0, 1, -1], length.dtype)
    value, ahead, behind = jax.lax.map(lambda s: value_fn(add_scaled(x, s, d)), scales)
    return jnp.minimum(ahead, behind) < value - NOISY * noise_level(value, value, None)


def _directions(flat: Flat) -> Array:
    """Count the directions to look along."""
    return jnp.where(flat.there, 1 + 2 * DIRECTIONS, 1 + DIRECTIONS).astype(jnp.int32)


def _around(
    value_fn: Callable[[Params], Array],
    x: Params,
    value: Array,
    grad: Params,
    least: Params,
    flat: Flat,
    length: Array,
) -> tuple[tuple[Side, Side], tuple[Array, Array], Array]:
    """Return how the loss changes around x, ahead and behind, and how well it is known there.

    First along the direction of least curvature and groups of variables, then, without what
    slopes explain, along directions without curvature.

    Changes are from the value that stands among them: the same loss, compiled in another
    place, may be rounded otherwise, and what it differs by is noise. Where the loss cancels
    to next to nothing that is far more than 4·eps·|f|.
    """
    dtype = value.dtype
    lengths = jnp.array([LENGTHS, FLAT_LENGTHS], dtype)

    def look(which: Array, found: Any) -> Any:
        sides, even, doubt = found
        beyond = which - (1 + DIRECTIONS)
        d = jax.lax.cond(
            beyond < 0,
            lambda: jax.tree.map(
                lambda v, w: jnp.where(which == 0, length * v, w),
                least,
                _group(x, which - 1, length),
            ),
            lambda: flat.project(_sized(x, which, length)),
        )
        reach = lengths[(beyond >= 0).astype(jnp.int32)]
        scales = jnp.concatenate([jnp.zeros(1, dtype), reach, -reach])

        def at(scale: Array) -> Array:
            return value_fn(add_scaled(x, scale, d)).astype(dtype) - value

        own, *others = jnp.split(jax.lax.map(at, scales), [1, 1 + len(LENGTHS)])
        changes = [side - own for side in others]
        slope = inner(grad, d)
        # Rows after the last are dropped.
        sides = tuple(
            Side(
                side.changes.at[which].set(new, mode="drop"),
                side.slopes.at[which].set(sign * slope * reach, mode="drop"),
            )
            for side, new, sign in zip(sides, changes, (1, -1), strict=True)
        )
        row = jnp.where(beyond < 0, DIRECTIONS, beyond)
        even = tuple(
            rows.at[row].set(new, mode="drop") for rows, new in zip(even, changes, strict=True)
        )
        own = jnp.abs(own[0])
        return sides, even, jnp.maximum(doubt, jnp.where(jnp.isfinite(own), own, 0))

    # One after the other: many at once would take the memory of as many losses. In small
    # parts: XLA runs a program with any array of more than 512 bytes in several threads,
    # which takes longer than the whole run of a small problem.
    none = jnp.zeros((1 + DIRECTIONS, len(LENGTHS)), dtype)
    sides, rows = (Side(none, none),) * 2, (none[:DIRECTIONS],) * 2
    start = sides, rows, jnp.zeros((), dtype)
    found: Any = jax.lax.fori_loop(0, _directions(flat), look, start)
    return found


def _group(x: Params, which: Array, length: Array) -> Params:
    """Build a direction that moves every eighth variable, each by its own size.

    Variables may differ by many orders of magnitude; up to eight are moved one by one. Where
    there are fewer, the groups left over move all of them.
    """
    leaves, first = [], 0
    moved = _sized(x, which, length)
    for v in jax.tree.leaves(moved):
        places = first + jnp.arange(v.size).reshape(v.shape)
        group = which % DIRECTIONS
        mine = (group >= num_params(x)) | (places % DIRECTIONS == group)
        leaves.append(jnp.where(mine, v, 0))
        first += v.size
    return jax.tree.unflatten(jax.tree.structure(x), leaves)


def _sized(x: Params, which: Array | int, length: Array) -> Params:
    """Build a direction that moves every variable by up to its own size."""
    drawn = pseudo_random(x, length.dtype, which)
    return jax.tree.map(lambda r, size: 2 * r * size, drawn, _sizes(x, length))


def _sizes(x: Params, length: Array) -> Params:
    """Sizes of the variables, of those next to zero the typical length."""

    def size(v: Array) -> Array:
        own = jnp.abs(v).astype(length.dtype)
        return jnp.where(own >= OWN * length, own, length)

    return jax.tree.map(size, x)
