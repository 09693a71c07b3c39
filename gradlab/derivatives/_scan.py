"""Find a function's own length at a point, from a few widely spaced samples.

The length has nothing to do with the point: log changes over |x|, sin(50 x) over 1/50, and
both may be asked for at x = 1e-12. So the first samples span all lengths that the numbers
can hold. Between neighbouring levels of a smooth function the slope and the curvature
agree; they stop agreeing at the length of the function, and below the noise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gradlab.derivatives._powers import exponent_of, scaled

__all__ = [
    "Parts",
    "choose_top",
    "contradiction",
    "jump",
    "kink",
    "levels",
    "one_sided_parts",
    "split",
    "still",
]

# Below this disagreement two levels are seen as one smooth function, above the second as
# two: a step of an eighth, and of about two thirds, of the length of sin.
_GOOD, _DEPARTED = 2.0**-6, 2.0**-4
# A smallest disagreement above this is noise.
_NOISY = 2.0**-12
# A disagreement stands clear of rounding from this many roundings on.
_CLEAR = 2.0**10
# Where the disagreement has risen above the noise, of a smooth function it goes on rising as
# h², by 64 or more from level to level. If it rises by less than this, a part of f that is
# small beside the others has come to its own length.
_STILL = 4.0
# Two levels that agree with each other this much better than with the answer contradict it.
_AGREED = 0.5
# A stretch that varies by less than this many roundings of f may lie between two roundings
# of its parts, as a cancelling formula does; a larger one above it speaks for the function.
_BETWEEN, _LARGER = 2.0**14, 16.0
# Octaves above the last smooth level at most: the ladder must reach down to that level, and to
# five rungs below it, whatever comes above.
_LONGEST = 7
# Octaves added to a length of which noise leaves only a lower bound: half a scan's gap.
_UNKNOWN_LENGTH = 4
# A jump of the slope is read with an eighth of error: from this many roundings on.
_ABOVE_ROUNDING = 16.0
# The highest rung is this many octaves above the estimated length.
_HEADROOM = 1
# Two levels that vary by as much as this apart do so by the same amount.
_SAME = 2.0**-10
# Jumps below this share of what f varies by are noise, as in `_choose`.
_JUMP_SHARE = 1e-3
# Exponents searched: below |x| as far as its own roundings, and around 1.
_ABOVE, _BELOW_ZERO, _BELOW_SMALL = 36, 44, 36


class Parts(NamedTuple):
    """Samples at rising or falling steps h, as slope and curvature parts.

    Attributes:
        odd: f' h + …, in the units of f, shape (P, K).
        even: f'' h²/2 + ….
        size: Largest |f| among the samples used.
    """

    odd: Any
    even: Any
    size: Any


def levels(xp: Any, x: Any, count: int) -> Any:
    """Give the exponents of the scan's steps, shape (P, count), rising."""
    info = np.finfo(x.dtype)
    zero = x == 0
    exponent = xp.where(zero, 0, exponent_of(x, xp) - 1)
    below = min(_BELOW_SMALL, info.nmant)  # nothing smaller moves x
    low = xp.where(exponent < 0, exponent - below, exponent - info.nmant)
    low = xp.where(zero, -_BELOW_ZERO, low)
    low = xp.clip(low, int(info.minexp) + 4, None)
    high = xp.clip(xp.maximum(exponent, 0) + _ABOVE, None, int(info.maxexp) - 4)
    fraction = np.arange(count, dtype=x.dtype) / (count - 1)
    span = (high - low).astype(x.dtype)
    return low[:, None] + xp.round(span[:, None] * fraction[None, :]).astype(low.dtype)


def split(right: Any, left: Any, center: Any, xp: Any) -> Parts:
    """Split samples at x + h and x - h into parts, each shape (P, K)."""
    size = xp.maximum(xp.maximum(abs(right), abs(left)), abs(center))
    # Halves before sums: values near the largest number do not overflow.
    return Parts(right / 2 - left / 2, (right / 2 - center / 2) + (left / 2 - center / 2), size)


def one_sided_parts(values: Any, center: Any, exponents: Any, xp: Any) -> Parts:
    """Make parts from one side only: the parabola through neighbouring levels.

    With q the ratio of two steps and G = f - f(x): odd = (q² G₋ - G)/(q - 1) and
    even = G - odd. The lowest level has no neighbour.
    """
    gain = values - center
    below = xp.concatenate([gain[:, :1] * xp.nan, gain[:, :-1]], axis=1)
    ratio = scaled(xp.ones_like(gain[:, 1:]), exponents[:, 1:] - exponents[:, :-1], xp)
    ratio = xp.concatenate([2 * xp.ones_like(gain[:, :1]), ratio], axis=1)
    odd = (ratio * (ratio / (ratio - 1))) * below - gain / (ratio - 1)
    size = xp.maximum(xp.maximum(abs(values), abs(below + center)), abs(center))
    return Parts(odd, gain - odd, size)


def _first(mask: Any, otherwise: int, xp: Any) -> Any:
    """Index of the first True in each row, or `otherwise`."""
    return xp.where(xp.any(mask, axis=1), xp.argmax(mask, axis=1), otherwise)


def _at(values: Any, index: Any, xp: Any) -> Any:
    return xp.take_along_axis(values, index[:, None], axis=1)[:, 0]


def _disagreement(parts: Parts, exponents: Any, eps: float, xp: Any) -> tuple[Any, Any, Any]:
    """Compare each level with the one below.

    Returns the relative disagreement, where the odd or the even part alone leaves the
    ladder, and where a small part of f does.
    """
    down = exponents[:, :-1] - exponents[:, 1:]
    odd, even = parts.odd[:, :-1], parts.even[:, :-1]
    off_odd = abs(odd - scaled(parts.odd[:, 1:], down, xp))
    off_even = abs(even - scaled(parts.even[:, 1:], 2 * down, xp))
    total = abs(odd) + abs(even)
    both = off_odd + off_even
    relative = xp.where(total > 0, both / xp.where(total > 0, total, 1), xp.inf)
    # A part that is small beside the other can leave the ladder unseen: judge it alone,
    # where it stands clear of rounding and agreed with itself one level below.
    clear = _CLEAR * eps * parts.size[:, :-1]
    alone = both < 0  # nowhere yet
    for off, part in ((off_odd, odd), (off_even, even)):
        agreed = (off <= abs(part) / 4) & (part != 0)
        agreed = xp.concatenate([agreed[:, :1] & False, agreed[:, :-1]], axis=1)
        alone = alone | ((off > abs(part) / 4) & (off > clear) & agreed)
    bad = ~(xp.isfinite(relative))
    pad = xp.full_like(relative[:, :1], xp.inf)
    relative = xp.concatenate([pad, xp.where(bad, xp.inf, relative)], axis=1)
    alone = xp.concatenate([alone[:, :1] | True, alone | bad], axis=1)
    absolute = xp.concatenate([xp.zeros_like(both[:, :1]), xp.where(bad, 0, both)], axis=1)
    risen = (absolute > 16 * _lower_max(absolute, xp)) & (absolute > _CLEAR * eps * parts.size)
    after = xp.concatenate([relative[:, 1:], pad], axis=1)
    return relative, alone, risen & (after < _STILL * relative)


def choose_top(
    parts: Parts, exponents: Any, eps: float, order: int, xp: Any
) -> tuple[Any, Any]:
    """Choose the exponent of the ladder's highest rung, shape (P,), for the highest `order`.

    Also returns whether a smooth stretch was found at all.
    """
    count = exponents.shape[1]
    column = xp.arange(count)[None, :]
    relative, alone, small = _disagreement(parts, exponents, eps, xp)
    good = relative <= _GOOD
    none = good[:, :1] & False
    beside = xp.concatenate([good[:, 1:], none], axis=1) | xp.concatenate(
        [none, good[:, :-1]], axis=1
    )
    # Between levels that both stand clear of the noise, less agreement will do: a smooth
    # stretch that comes later is the function's average over its oscillations.
    clear = xp.concatenate([none, _clear(parts, xp)[:, :-1]], axis=1)
    strong = (good & (beside | (relative <= _GOOD**2))) | (clear & (relative <= _DEPARTED))
    best = xp.argmin(relative, axis=1)
    start = xp.where(xp.any(strong, axis=1), xp.argmax(strong, axis=1), best)
    smooth = _at(relative, start, xp) <= _DEPARTED
    after = column > start[:, None]
    departed = after & ((relative > _DEPARTED) | alone | small)
    depart = _first(departed, count, xp)
    # The length of a small part is read from its share of the disagreement.
    share = xp.where(
        _at(small, xp.clip(depart, None, count - 1), xp),
        _at(relative, xp.clip(depart, None, count - 1), xp),
        1,
    )
    length = _length_exponent(parts, relative, share, exponents, depart, xp)
    growth = _growth_exponent(parts, exponents, depart, order, xp)
    top = xp.minimum(length, growth) + _HEADROOM
    fallback = _variation_exponent(parts, exponents, xp)
    return xp.where(smooth, xp.round(top).astype(exponents.dtype), fallback), smooth


def _length_exponent(
    parts: Parts, relative: Any, share: Any, exponents: Any, depart: Any, xp: Any
) -> Any:
    """Read the length from the last smooth level: disagreement ≈ (h/length)²/6.

    Where that disagreement is large and yet smaller than the one before, it is noise, and
    the length lies anywhere between what it reads and the next level: where the function
    no longer grows with the step.
    """
    count = exponents.shape[1]
    previous = xp.clip(depart - 1, 0, None)
    shared = _at(relative, previous, xp) / share
    disagreement = xp.clip(shared, np.finfo(relative.dtype).tiny, None)
    before = _at(relative, xp.clip(previous - 1, 0, None), xp) / share
    here = _at(exponents, previous, xp).astype(relative.dtype)
    there = _at(exponents, xp.clip(depart, None, count - 1), xp).astype(relative.dtype)
    read = xp.clip(here - 0.5 * xp.log2(6 * disagreement), here, there)
    noisy = (disagreement > _NOISY) & (disagreement < before)
    reach = here + _reach(parts, exponents, previous, xp)
    read = xp.where(noisy, xp.minimum(there, xp.maximum(read, reach)), read)
    return xp.minimum(read, here + _LONGEST)


def _reach(parts: Parts, exponents: Any, level: Any, xp: Any) -> Any:
    """Octaves above a level over which the function goes on growing with the step.

    A bounded function stops at its length. One that grows faster than the square of the step
    does not say where; then the length is taken to lie half a gap higher.
    """
    after = xp.clip(level + 1, None, exponents.shape[1] - 1)
    gap = (_at(exponents, after, xp) - _at(exponents, level, xp)).astype(parts.odd.dtype)
    varied = _varied(parts, xp)
    tiny = np.finfo(varied.dtype).tiny
    low, high = (xp.maximum(_at(varied, k, xp), tiny) for k in (level, after))
    octaves = xp.log2(high) - xp.log2(low)
    return xp.where(octaves > 2 * gap + 1, _UNKNOWN_LENGTH, xp.clip(octaves, 0, gap))


def _growth_exponent(parts: Parts, exponents: Any, depart: Any, order: int, xp: Any) -> Any:
    """Give the smallest step beyond which rounding of the growing |f| costs digits.

    A derivative from samples as large as F has rounding noise eps F/h^k, of the first or, for
    all others, of the second order; where that has reached its least value, larger steps gain
    nothing, and lose what the function does near the point.
    """
    column = xp.arange(exponents.shape[1])[None, :]
    tiny = np.finfo(parts.size.dtype).tiny
    cost = xp.log2(xp.maximum(parts.size, tiny)) - min(order, 2) * exponents
    usable = xp.isfinite(cost) & (column <= depart[:, None]) & (parts.size > 0)
    cost = xp.where(usable, cost, xp.inf)
    cheap = cost <= xp.min(cost, axis=1)[:, None] + 3
    first = xp.argmax(cheap, axis=1)
    limit = _at(exponents, first, xp).astype(cost.dtype) + 2
    # Cheap from the first usable step on: f grows from zero, and no step costs digits.
    return xp.where(first == xp.argmax(usable, axis=1), xp.inf, limit)


def _variation_exponent(parts: Parts, exponents: Any, xp: Any) -> Any:
    """Fall back, where noise hides every smooth stretch, on the first clear variation."""
    count = exponents.shape[1]
    middle = _first(exponents >= 0, count - 1, xp)
    clear, varied = _clear(parts, xp), _varied(parts, xp)
    # Noise may be small at the lowest level by chance, but then it does not go on rising.
    rising = xp.concatenate([varied[:, 1:] > 4 * varied[:, :-1], clear[:, :1] & False], axis=1)
    last = count - 1 - xp.argmax(clear[:, ::-1], axis=1)
    last = xp.where(xp.any(clear, axis=1), last, middle)
    level = _first(clear & rising, count, xp)
    level = xp.where(level < count, level, last)
    top = _at(exponents, level, xp) + _reach(parts, exponents, level, xp) + _HEADROOM
    return xp.round(top).astype(exponents.dtype)


def _varied(parts: Parts, xp: Any) -> Any:
    varied = abs(parts.odd) + abs(parts.even)
    return xp.where(xp.isfinite(varied), varied, 0)


def _clear(parts: Parts, xp: Any) -> Any:
    """Tell the levels whose variation is 16 times everything below: noise is level."""
    varied = _varied(parts, xp)
    lower = _lower_max(varied, xp)
    return (varied > 16 * lower) & (lower > 0)


def _lower_max(values: Any, xp: Any) -> Any:
    """Largest value at all lower levels, 0 at the lowest."""
    before = np.tri(values.shape[1], k=-1, dtype=bool)[None]
    return xp.max(xp.where(before, values[:, None, :], 0), axis=2)


def kink(parts: Parts, exponents: Any, eps: float, xp: Any) -> Any:
    """Tell where the slope jumps at the point itself, shape (P,).

    The even part of a smooth function falls as h², noise not at all, a jump of the slope
    as h: at three levels in a row, and at all below that stand clear of rounding.
    """
    shift = exponents[:, 1:] - exponents[:, :-1]
    low, high = abs(parts.even[:, :-1]), abs(parts.even[:, 1:])
    expected = scaled(low, shift, xp)
    clear = low > _ABOVE_ROUNDING * eps * parts.size[:, :-1]
    linear = abs(high - expected) <= expected / 8
    # The lowest clear pair and the next one; the level below must be unclear for its
    # smallness alone, not because the function is straight there.
    first = xp.argmax(clear, axis=1)
    second = xp.clip(first + 1, None, clear.shape[1] - 1)
    both = clear & linear
    before = xp.clip(first - 1, 0, None)
    shrunk = scaled(_at(low, first, xp), -_at(shift, before, xp), xp)
    hidden = shrunk <= 2 * _ABOVE_ROUNDING * eps * _at(parts.size, before, xp)
    hidden = hidden | (first == 0)
    return _at(both, first, xp) & _at(both, second, xp) & (second > first) & hidden


def jump(parts: Parts, exponents: Any, top: Any, eps: float, xp: Any) -> Any:
    """Tell where f itself jumps at the point, shape (P,).

    It then varies by the same amount at the two smallest steps, many octaves apart, which
    noise does not. A jump that is little beside how f varies up to the ladder's top is one of
    the many of a rounded function, and noise.
    """
    varied = abs(parts.odd) + abs(parts.even)
    inside = xp.isfinite(varied) & (exponents <= top[:, None])
    swing = xp.max(xp.where(inside, varied, 0), axis=1)
    varied = varied[:, :2]
    size = xp.max(parts.size[:, :2], axis=1)
    same = xp.maximum(_SAME * varied[:, 0], 4 * eps * size)
    clear = xp.isfinite(size) & (varied[:, 0] > 4 * _ABOVE_ROUNDING * eps * size)
    clear = clear & (varied[:, 0] > _JUMP_SHARE * swing)
    return clear & (abs(varied[:, 1] - varied[:, 0]) <= same)


def contradiction(
    parts: Parts, exponents: Any, top: Any, lowest: Any, slope: Any, eps: float, xp: Any
) -> tuple[Any, Any]:
    """Tell how far smooth levels outside the chosen run contradict its slope, shape (P,).

    Below its `lowest` exponent, a part of f so small beside the others that the scan passed
    over it; noise does not agree with itself from level to level. Above the ladder, the
    function itself, if that stands between two roundings. Also returns the exponent of the
    level.
    """
    levels = scaled(parts.odd, -exponents, xp)
    varied = abs(parts.odd) + abs(parts.even)
    moved = (parts.odd != 0) & xp.isfinite(varied)
    gap = xp.where(moved, abs(levels - slope[:, None]), 0)
    apart = abs(levels[:, 1:] - levels[:, :-1])
    pair = (apart <= _AGREED * gap[:, 1:]) & moved[:, 1:] & moved[:, :-1]
    rounding = 8 * eps * scaled(parts.size, -exponents, xp)
    below = exponents < lowest[:, None]
    found = pair & below[:, 1:] & (gap > rounding)[:, 1:]
    here = exponents <= top[:, None]
    low = xp.max(xp.where(here & moved, varied, 0), axis=1)[:, None]
    size = xp.max(xp.where(here & moved, parts.size, 0), axis=1)[:, None]
    unclear = (low <= _BETWEEN * eps * size) & (varied[:, 1:] > _LARGER * low)
    found = found | (pair & unclear & (exponents[:, :-1] > top[:, None]))
    gaps = xp.where(found, gap[:, 1:], 0)
    level = xp.argmax(gaps, axis=1)
    return _at(gaps, level, xp), _at(exponents[:, 1:], level, xp)


def still(parts: Parts, exponents: Any, lowest: Any, slope: Any, eps: float, xp: Any) -> Any:
    """Give the noise level of a function that does not move where its slope says so, (P,).

    A rounded function is constant on small steps. Half its quantum is slope times step
    somewhere between the last level that does not move f and the next one.
    """
    known = xp.isfinite(parts.odd) & xp.isfinite(parts.even)
    rests = (parts.odd == 0) & (parts.even == 0) & known & (exponents < lowest[:, None])
    expected = scaled(xp.zeros_like(parts.odd) + abs(slope)[:, None], exponents, xp)
    rests = rests & (expected > _CLEAR * eps * parts.size)
    gap = exponents[:, 1:] - exponents[:, :-1]
    gap = xp.concatenate([gap, gap[:, -1:]], axis=1)
    between = xp.exp2(0.5 * gap - 1).astype(expected.dtype) * expected
    return xp.max(xp.where(rests, between, 0), axis=1)
