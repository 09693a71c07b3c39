"""First stage of sampling: find where the ladder of each point begins, and on which side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gradlab.derivatives import _scan
from gradlab.derivatives._powers import exponent_of, scaled

__all__ = ["OCTAVES", "Found", "flat_rows", "search"]

# Powers of two from the highest rung of a ladder to the lowest: the doubt about the length
# (half a gap of the scan), the length of a good run (5 or 6), and rungs below it where the
# noise shows.
OCTAVES = 13
# One-sided ladders are used where they reach beyond the central one by this many gaps of
# the scan: a length is not known any better.
_ONE_SIDED_GAIN = 2
# Outputs of longer lengths may raise a shared ladder by this many octaves.
_SHARED_OCTAVES = 2
# A jump of the slope is read with up to an eighth of error (see `_scan.kink`).
_KINK_WIDTH = 1.125


class Found(NamedTuple):
    """What the scans tell.

    Attributes:
        top: Exponent of the ladder's highest rung at each row, shape (P,).
        side: Side of the samples, 0 for both, shape (P,).
        smooth: Whether a smooth stretch was seen, for each output, shape (P m,).
        kink: Whether f or its slope jumps at the point, shape (P m,).
        jump: Half the jump of the slope, infinite where f jumps, shape (P m,).
        parts: Central samples of the scan, fields of shape (P m, K), or None.
        exponents: Their steps, shape (P m, K).
    """

    top: Any
    side: Any
    smooth: Any
    kink: Any
    jump: Any
    parts: Any
    exponents: Any


def flat_rows(values: Any, xp: Any) -> Any:
    """Make one row of each output: (P, M, m) to (P m, M)."""
    return xp.moveaxis(values, 2, 1).reshape(-1, values.shape[1])


def search(
    plan: Any,
    x: Any,
    center: Any,
    evaluate: Callable[[Any], Any],
    eps: float,
    xp: Any,
) -> Found:
    """Find where to put the ladder of each row; the arguments are those of `run`."""
    outputs = center.shape[1]
    middle = flat_rows(center[:, None, :], xp)[:, 0]

    exponents = _scan.levels(xp, x, plan.scan)
    values = evaluate(_points(x, exponents, plan.side, xp)).astype(center.dtype)
    near, far = xp.split(flat_rows(values, xp), 2, axis=1)
    repeated = xp.repeat(exponents, outputs, axis=0)
    top, smooth, kink, side = _read(near, far, middle, repeated, plan, eps, xp)
    constant = ~xp.any(abs(near - middle[:, None]) > 0, axis=1)
    top, side = _shared(top, constant, side, outputs, x, xp)
    parts = _scan.split(near, far, middle[:, None], xp)
    jumps = _scan.jump(parts, repeated, xp.repeat(top, outputs), eps, xp)
    jump = xp.where(jumps, xp.inf, _half_jump(near, far, middle, repeated, xp))
    return Found(top, side, smooth, kink | jumps, jump, parts, repeated)


def _points(x: Any, exponents: Any, side: int, xp: Any) -> Any:
    """Two points for each level: on both sides, or at the step and twice the step."""
    step = scaled(xp.ones_like(x)[:, None], exponents, xp)
    x = x[:, None]
    if side:
        return xp.concatenate([x + side * step, x + 2 * side * step], axis=1)
    return xp.concatenate([x + step, x - step], axis=1)


def _read(
    right: Any, left: Any, center: Any, exponents: Any, plan: Any, eps: float, xp: Any
) -> tuple[Any, Any, Any, Any]:
    """Return the highest rung, whether a smooth stretch was seen, a kink, and the side."""
    center, side, order = center[:, None], plan.side, max(plan.orders)
    if side:
        near, far = right - center, left - center
        size = xp.maximum(xp.maximum(abs(right), abs(left)), abs(center))
        parts = _scan.Parts(2 * near - far / 2, far / 2 - near, size)
        top, smooth = _scan.choose_top(parts, exponents, eps, order, xp)
        return top, smooth, smooth & False, xp.full_like(top, side)
    views = (
        _scan.split(right, left, center, xp),
        _scan.one_sided_parts(right, center, exponents, xp),
        _scan.one_sided_parts(left, center, exponents, xp),
    )
    stacked = _scan.Parts(*(xp.concatenate(parts) for parts in zip(*views, strict=True)))
    tops, seen = _scan.choose_top(stacked, xp.concatenate([exponents] * 3), eps, order, xp)
    (top, *reaches), (smooth, *clear) = xp.split(tops, 3), xp.split(seen, 3)
    kinked = _scan.kink(views[0], exponents, eps, xp)
    chosen = xp.zeros_like(top)
    # Only where the other side ends is what limits the central ladder.
    gap = exponents[:, 1] - exponents[:, 0]
    near = exponents <= (top + 1 + gap)[:, None]
    for sign, mine, other, reach, good in zip(
        (1, -1), (right, left), (left, right), reaches, clear, strict=True
    ):
        ends = ~xp.isfinite(other) & xp.isfinite(mine)
        hopeless = ~xp.any(xp.isfinite(views[0].odd), axis=1)
        longer = good & (~smooth | (reach > top + _ONE_SIDED_GAIN * gap))
        better = (xp.any(ends & near, axis=1) & longer) | (xp.any(ends, axis=1) & hopeless)
        better = better & (chosen == 0)
        top, chosen = xp.where(better, reach, top), xp.where(better, sign, chosen)
        smooth = smooth | better
    return top, smooth, kinked & (chosen == 0), chosen


def _shared(top: Any, constant: Any, side: Any, outputs: int, x: Any, xp: Any) -> Any:
    """Give all outputs of a row one ladder: the one of the shortest length, or near it.

    Outputs that this coordinate does not move have no length and no say. The lowest rung
    must still move x.
    """
    info = np.finfo(x.dtype)
    rounding = xp.where(x == 0, int(info.minexp), exponent_of(x, xp) - 1 - info.nmant)
    lowest = xp.repeat(xp.maximum(rounding, int(info.minexp) + 4) + OCTAVES, outputs)
    top = xp.clip(top, lowest, int(info.maxexp) - 3)
    top, constant = top.reshape(-1, outputs), constant.reshape(-1, outputs)
    still = xp.all(constant, axis=1)
    low = xp.min(xp.where(constant & ~still[:, None], int(info.maxexp), top), axis=1)
    high = xp.max(xp.where(constant & ~still[:, None], int(info.minexp), top), axis=1)
    return xp.minimum(low + _SHARED_OCTAVES, high), side.reshape(-1, outputs)[:, 0]


def _half_jump(right: Any, left: Any, center: Any, exponents: Any, xp: Any) -> Any:
    """Half the jump of the slope, with an eighth to spare: |even part|/h at small steps."""
    parts = _scan.split(right, left, center[:, None], xp)
    slope = scaled(abs(parts.even), -exponents, xp)
    shift = exponents[:, 1:] - exponents[:, :-1]
    low, high = abs(parts.even[:, :-1]), abs(parts.even[:, 1:])
    expected = scaled(low, shift, xp)
    linear = (abs(high - expected) <= expected / 8) & (low > 0)
    return _KINK_WIDTH * xp.max(xp.where(linear, slope[:, 1:], 0), axis=1)
