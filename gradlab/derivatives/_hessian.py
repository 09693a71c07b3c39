"""Hessian entries from function values: the diagonal's ladders, then one for each pair.

Where f ends at one side of x, the even parts of a pair are not to be had; there the corner
f(h_i, h_j) - f(h_i, 0) - f(0, h_j) + f(0, 0) = H_ij h_i h_j + O(h³), on the sides where f
lives, climbs a ladder of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.derivatives import _choose, _drive, _scan
from gradlab.derivatives._powers import scaled

__all__ = ["coordinate_lines", "run"]

# A mixed part is a combination of three even parts, each with its own rounding.
_MIXED_NOISE = 3.0**0.5
# A corner, f(h_i, h_j) - f(h_i, 0) - f(0, h_j) + f(0, 0), of four values.
_CORNER_NOISE = 2.0


@np.errstate(all="ignore")
def run(
    plan: _drive.Plan,
    lines: Callable[[Any, Any, Any], Any],
    flat: Any,
    center: Any,
    eps: float,
    given: float,
    xp: Any,
) -> dict[int, _drive.Answer]:
    """Return the answer for order 2 with fields of shape (n, n)."""
    n = flat.size
    repeated = xp.repeat(center, n, axis=0)
    diagonal, samples = _drive.run_with_ladder(
        plan, flat, repeated, coordinate_lines(lines, flat, xp), eps, given, xp
    )
    answer = _drive.Answer(*(xp.diag(field[:, 0]) for field in diagonal[2]))
    if n == 1:
        return {2: answer}
    first, second = np.triu_indices(n, 1)
    top, side, along = samples
    nodes = xp.asarray(plan.nodes, dtype=flat.dtype)
    step = scaled(xp.ones_like(flat)[:, None] * nodes[None, :], top[:, None], xp)
    sign = xp.where(side < 0, -1, 1).astype(flat.dtype)[:, None]
    pairs = np.stack([first, second], axis=1)
    here = xp.stack([flat[first], flat[second]], axis=1)[:, None, :]
    move = xp.stack([(sign * step)[first], (sign * step)[second]], axis=2)
    values = lines(flat, pairs, xp.concatenate([here + move, here - move], axis=1))[..., 0]
    operands = (
        values.astype(along.dtype),
        along[first],
        along[second],
        side[first],
        side[second],
    )
    choose = functools.partial(_pair, plan, center[0, 0].astype(along.dtype), eps, given, xp)
    choice = _drive.in_chunks(choose, operands, xp)
    # The coefficient of t² is H_ij h_i h_j; the order 2 of a table is twice that.
    shift = -(top[first] + top[second]) - 1
    value = scaled(choice.value, shift, xp) * (sign[first] * sign[second])[:, 0]
    error = scaled(choice.error, shift, xp)
    reach = scaled(choice.top, xp.maximum(top[first], top[second]), xp)
    smooth = answer.smooth[first, first] & answer.smooth[second, second]
    broken = answer.kink[first, first] | answer.kink[second, second]
    error = xp.where(broken, xp.inf, error)
    quality = (choice.noisy, choice.roundings, choice.level, choice.jumps, choice.doubt)
    one_sided = abs(side[first]) + abs(side[second])
    off = _drive.Answer(value, error, reach, *quality, smooth, broken, one_sided, choice.local)
    return {2: _drive.Answer(*_filled(answer, off, first, second, xp))}


def _pair(
    plan: _drive.Plan,
    center: Any,
    eps: float,
    given: float,
    xp: Any,
    values: Any,
    first: Any,
    second: Any,
    side: Any,
    other: Any,
) -> _choose.Choice:
    """Choose the mixed coefficient of each pair, from samples of shape (pairs, 2 rungs).

    `values` are those along the diagonal of the pair, `first` and `second` those along its
    two coordinates, each on its `side`.
    """
    half = plan.rungs
    size = xp.maximum(abs(values), xp.maximum(abs(first), abs(second)))
    size = xp.maximum(xp.maximum(size[:, :half], size[:, half:]), abs(center))
    center = xp.broadcast_to(center, (len(values), 1))

    def chosen(kind: str, mixed: Any, size: Any, width: float) -> _choose.Choice:
        ladder = _drive.stack(plan, kind, mixed.dtype)
        noise = width * given
        found = _drive.normalised(
            ladder, mixed[:, None, :], width * size, eps, 0 * size[:, 0], noise, xp
        )
        return _choose.Choice(*(field[:, 0] for field in found))

    even = [
        _scan.split(v[:, :half], v[:, half:], center, xp).even for v in (values, first, second)
    ]
    both = chosen("even", even[0] - even[1] - even[2], size, _MIXED_NOISE)
    one_sided = (side != 0) | (other != 0)
    if xp is np and not np.any(one_sided):
        return both
    nodes = plan.table("mixed").nodes
    here = np.searchsorted(-plan.nodes, -nodes)
    there = np.searchsorted(-plan.table("one-sided").nodes, -nodes)

    def single(v: Any, side: Any) -> Any:
        """Samples on one side, the upper one where both were sampled."""
        return xp.where((side == 0)[:, None], v[:, here], v[:, there])

    corner = (values[:, here] - single(first, side)) - (single(second, other) - center)
    sizes = xp.maximum(abs(values[:, here]), xp.maximum(abs(single(first, side)), abs(center)))
    sizes = xp.maximum(sizes, abs(single(second, other)))
    alone = chosen("mixed", corner, sizes, _CORNER_NOISE)
    return jax.tree.map(lambda a, b: xp.where(one_sided, a, b), alone, both)


def coordinate_lines(
    lines: Callable[[Any, Any, Any], Any], flat: Any, xp: Any
) -> Callable[[Any], Any]:
    """Move each coordinate by itself: from (n, M) coordinates to (n, M, m) values."""
    index = xp.arange(flat.size)[:, None]
    return lambda points: lines(flat, index, points[..., None])


def _filled(answer: Any, off: Any, first: Any, second: Any, xp: Any) -> list[Any]:
    """Put the entries off the diagonal on both sides of it."""
    filled = []
    for matrix, entries in zip(answer, off, strict=True):
        entries = entries.astype(matrix.dtype)
        if xp is jnp:
            matrix = matrix.at[first, second].set(entries).at[second, first].set(entries)
        else:
            matrix = np.array(matrix)
            matrix[first, second] = matrix[second, first] = entries
        filled.append(matrix)
    return filled
