"""Derivatives of a problem along directions, from values alone, with bars.

Each direction is a line through x on which `adaptive` climbs its ladder: no step to choose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gradlab.derivatives import _drive

__all__ = ["Slopes", "along", "directions", "entry_scale"]

# Evaluations on each line: one derivative, or two of them from the same samples.
_NFEV = {1: 41, 2: 61}
# Entries are moved by this many times the largest of them, or of 1, at the most: far from
# where it is meant to be called a function may loop for ever, and its length says nothing.
_REACH = 8.0
# Where the bar is above this root of the spacing, as a part of the function's variation, a
# second ladder is climbed within a sixteenth of |x|; the better of the two counts.
_POOR, _SECOND_REACH = 0.5, 1 / 16
# A cancelling formula is smooth between two roundings of its parts, with a slope that means
# nothing. A ladder that ends below this part of |x| must agree with one that starts there.
_BENEATH = 2.0**-15
# A function that does not change at all within this part of the entries' size, sampled down
# from this many spacings at the least, is constant.
_NEAR, _SPACINGS = 2.0**-10, 2.0**20


class Slopes(NamedTuple):
    """Derivatives along P lines of K functions, each field of shape (P, K).

    Attributes:
        value: The derivative, by order.
        error: Its bar, by order.
        doubt: The bar's part of the function's variation, by order.
        flat: Whether f is exactly constant around the point, as between two steps.
        kink: Whether the slope jumps at the point itself.
        noise: Noise level of the samples over their rounding.
        step: Longest step used, by the first order.
        samples: For each line its steps and values, rising, shapes (M,) and (M, K).
    """

    value: dict[int, np.ndarray]
    error: dict[int, np.ndarray]
    doubt: dict[int, np.ndarray]
    flat: np.ndarray
    kink: np.ndarray
    noise: np.ndarray
    step: np.ndarray
    samples: list[tuple[np.ndarray, np.ndarray]]


def along(
    sample: Callable[[np.ndarray, np.ndarray], np.ndarray],
    lines: list[np.ndarray],
    x: np.ndarray,
    center: np.ndarray,
    eps: float,
    orders: tuple[int, ...] = (1,),
) -> Slopes:
    """Differentiate along each line.

    `sample(direction, steps)` gives values at x + t d, shape (M, K), and `center` those at
    x, shape (K,).
    """
    first = _climb(sample, lines, x, center, eps, orders, _REACH)
    tiny = np.flatnonzero(np.all(first.flat, axis=1) & (_sizes(lines) < eps))
    if len(tiny):
        # Entries of next to nothing, moved by as little, leave f as it is: move them by 1.
        sizes = _sizes(lines)[tiny]
        again = [lines[p] / size for p, size in zip(tiny, sizes, strict=True)]
        _replace(first, tiny, _climb(sample, again, x, center, eps, orders, _REACH), sizes)
    worst = np.max(np.stack([first.doubt[o] for o in orders]), axis=(0, 2))
    poor = np.flatnonzero(~(worst <= eps**_POOR))
    if len(poor):
        again = [lines[p] for p in poor]
        _improve(first, _climb(sample, again, x, center, eps, orders, _SECOND_REACH), poor)
    beneath = np.flatnonzero(np.any(first.step < _BENEATH, axis=1))
    if len(beneath) and eps < _BENEATH**2:
        again = [lines[p] for p in beneath]
        above = _climb(sample, again, x, center, eps, orders, _REACH, _BENEATH)
        _reconcile(first, above, beneath)
    return first


def _sizes(lines: list[np.ndarray]) -> np.ndarray:
    """Return powers of two: the largest entries of the directions."""
    return np.array([2.0 ** np.floor(np.log2(np.max(np.abs(d)) or 1.0)) for d in lines])


def _replace(slopes: Slopes, rows: np.ndarray, second: Slopes, sizes: np.ndarray) -> None:
    """Take all from the ladders of directions that were divided by `sizes`."""
    for order, value in slopes.value.items():
        back = sizes[:, None] ** order
        value[rows] = second.value[order] * back
        slopes.error[order][rows] = second.error[order] * back
        slopes.doubt[order][rows] = second.doubt[order]
    for mine, other in (
        (slopes.flat, second.flat),
        (slopes.kink, second.kink),
        (slopes.noise, second.noise),
        (slopes.step, second.step / sizes[:, None]),
    ):
        mine[rows] = other
    for row, (steps, values), size in zip(rows, second.samples, sizes, strict=True):
        slopes.samples[row] = (steps / size, values)


def _reconcile(slopes: Slopes, above: Slopes, rows: np.ndarray) -> None:
    """Widen the bars of slopes that two ladders contradict."""
    for order, error in slopes.error.items():
        with np.errstate(all="ignore"):
            gap = np.abs(slopes.value[order][rows] - above.value[order])
            apart = gap > error[rows] + above.error[order]
        error[rows] = np.where(apart, np.maximum(error[rows], gap), error[rows])
        slopes.doubt[order][rows] = np.where(apart, np.inf, slopes.doubt[order][rows])


def _improve(slopes: Slopes, second: Slopes, rows: np.ndarray) -> None:
    """Replace what a second ladder knows better."""
    for order, error in slopes.error.items():
        better = second.error[order] < error[rows]
        for mine, other in (
            (slopes.value[order], second.value[order]),
            (slopes.doubt[order], second.doubt[order]),
            (error, second.error[order]),
        ):
            mine[rows] = np.where(better, other, mine[rows])


def _climb(
    sample: Callable[[np.ndarray, np.ndarray], np.ndarray],
    lines: list[np.ndarray],
    x: np.ndarray,
    center: np.ndarray,
    eps: float,
    orders: tuple[int, ...],
    farthest: float,
    nearest: float = 0.0,
) -> Slopes:
    """Climb one ladder on each line, within `farthest` times the entries that are moved."""
    plan = _drive.make_plan(orders, _NFEV[max(orders)], 0)
    taken: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in lines]

    def evaluate(points: np.ndarray) -> np.ndarray:
        values = np.full((*points.shape, len(center)), np.nan, x.dtype)
        for p, direction in enumerate(lines):
            # The coordinate moved is 1 + t: x is as a rule known to its own roundings.
            steps = points[p] - 1
            moved = np.abs(x[direction != 0])
            reach = farthest * max(1.0, float(np.max(moved, initial=0.0)))
            near = np.abs(steps) * np.max(np.abs(direction)) <= reach
            near &= np.abs(steps) >= nearest
            values[p, near] = sample(direction, steps[near])
            taken[p].append((steps[near], values[p, near]))
        return values

    start = np.ones(len(lines), x.dtype)
    repeated = np.repeat(center[None].astype(x.dtype), len(lines), axis=0)
    with np.errstate(all="ignore"):
        answers = _drive.run(plan, start, repeated, evaluate, eps, 0.0, np)
    first = answers[orders[0]]
    samples = [_sorted(pieces) for pieces in taken]
    return Slopes(
        {o: np.array(answers[o].value) for o in orders},
        {o: np.where(np.isnan(answers[o].error), np.inf, answers[o].error) for o in orders},
        {o: np.array(answers[o].doubt) for o in orders},
        np.stack([_flat(steps, values, eps) for steps, values in samples]),
        np.array(first.kink),
        np.array(first.roundings),
        np.array(first.step),
        samples,
    )


def _flat(steps: np.ndarray, values: np.ndarray, eps: float) -> np.ndarray:
    """Whether all samples near the point, on both sides, are the same, shape (K,)."""
    near = np.abs(steps) <= _NEAR
    far = near & (np.abs(steps) >= _SPACINGS * eps)
    if not (np.any(steps[far] < 0) and np.any(steps[far] > 0)):
        return np.zeros(values.shape[1], bool)
    return np.asarray(np.all(values[near] == values[near][:1], axis=0))


def _sorted(pieces: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Join the samples of one line in rising order of the step."""
    steps = np.concatenate([s for s, _ in pieces])
    values = np.concatenate([v for _, v in pieces])
    order = np.argsort(steps, kind="stable")
    return steps[order], values[order]


def entry_scale(x: np.ndarray, *, relative: bool) -> np.ndarray:
    """How far the entries of one leaf are moved, as powers of two.

    Each entry by its own size (entries at zero by the leaf's median size), or all alike by
    the leaf's root mean square; a leaf of zeros by 1.
    """
    size = np.abs(x).astype(np.float64)
    if not np.any(size):
        return np.ones_like(size)
    if relative:
        size = np.where(size > 0, size, np.median(size[size > 0]))
    else:
        size = np.full_like(size, np.sqrt(np.mean(size**2)))
    return np.ldexp(1.0, np.clip(np.round(np.log2(size)), -900, 900).astype(int))


def directions(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw factors of random sign and one of four sizes.

    Signs alone would let two exchanged entries cancel half of the time. The few bits keep
    x + t d exact.
    """
    return rng.choice([-1.0, 1.0], size) * rng.choice([1.0, 1.25, 1.5, 1.75], size)
