"""Hessian entries from function values: the diagonal's ladders, then one for each pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradlab.derivatives import _choose, _drive, _scan
from gradlab.derivatives._powers import scaled

__all__ = ["coordinate_lines", "run"]

# A mixed part is a combination of three even parts, each with its own rounding.
_MIXED_NOISE = 3.0**0.5


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
    top, even, size = samples
    nodes = xp.asarray(plan.nodes, dtype=flat.dtype)
    step = scaled(xp.ones_like(flat)[:, None] * nodes[None, :], top[:, None], xp)
    pairs = np.stack([first, second], axis=1)
    here = xp.stack([flat[first], flat[second]], axis=1)[:, None, :]
    move = xp.stack([step[first], step[second]], axis=2)
    values = lines(flat, pairs, xp.concatenate([here + move, here - move], axis=1))[..., 0]
    values = values.astype(xp.promote_types(values.dtype, np.float32))
    parts = _scan.split(values[:, : plan.rungs], values[:, plan.rungs :], center[:1, :1], xp)
    mixed = parts.even - even[first] - even[second]
    largest = xp.maximum(parts.size, xp.maximum(size[first], size[second]))

    ladder = _drive.stack(plan, "even", mixed.dtype)

    def choose(mixed: Any, size: Any) -> _choose.Choice:
        noise = _MIXED_NOISE * given
        parts = mixed[:, None, :]
        return _drive.normalised(ladder, parts, size, eps, 0 * size[:, 0], noise, xp)

    choice = _drive.in_chunks(choose, (mixed, _MIXED_NOISE * largest), xp)
    choice = _choose.Choice(*(field[:, 0] for field in choice))
    # The coefficient of t² is H_ij h_i h_j; the order 2 of a table is twice that.
    shift = -(top[first] + top[second]) - 1
    value, error = scaled(choice.value, shift, xp), scaled(choice.error, shift, xp)
    reach = scaled(choice.top, xp.maximum(top[first], top[second]), xp)
    smooth = answer.smooth[first, first] & answer.smooth[second, second]
    broken = answer.kink[first, first] | answer.kink[second, second]
    one_sided = (answer.side[first, first] != 0) | (answer.side[second, second] != 0)
    error = xp.where(broken | one_sided, xp.inf, error)
    quality = (choice.noisy, choice.roundings, choice.level, choice.jumps, choice.doubt)
    off = _drive.Answer(value, error, reach, *quality, smooth, broken, 0 * shift)
    return {2: _drive.Answer(*_filled(answer, off, first, second, xp))}


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
