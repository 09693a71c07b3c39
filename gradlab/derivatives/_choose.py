"""Choose among the candidates of a ladder, and say how far the choice may be off.

Error of a candidate = truncation + noise. Truncation is seen in the candidates next to it
(the same polynomial one rung lower, and one more term); noise is what the rungs *below* its
run show: there the polynomial is more than accurate enough, so whatever it misses is
noise, whether rounding, quantisation, aliasing or an inner solver.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gradlab.derivatives._ladder import Table

__all__ = ["Choice", "Samples", "choose"]

# Bars are this many noise levels wide: the residuals are few, and rounding errors of
# neighbouring samples are not independent.
_NOISE_WIDTH = 3.0
# Rungs a run must have below it, to see the noise with.
_MIN_BELOW = 3
# Noise level over the largest residual, and how much more the largest of few may hide: with
# r rungs below a run, level = _LEVEL (1 + _FEW / r) × largest.
_LEVEL, _FEW = 0.55, 3.0
# A misfit above this share of the function's variation is no noise but a wrong model,
# unless it is tiny beside the function itself.
_NOISE_SHARE, _NOISE_SIZE = 1e-3, 1e-7
# Share of the spacing of x by which f may round its argument, and the number of spacings
# beyond which those roundings differ from sample to sample.
_BLUR, _FEW_ROUNDINGS = 0.25, 64.0
# Candidates whose error is within this factor of the least must agree with the chosen one:
# a truncation that looks small by accident does not do so twice.
_RIVALS = 2.0
# The jumps that hide above a run are seen once, and may be larger the next time.
_JUMP_WIDTH = 2.0
# A polynomial may miss the rung above its run by this many times the expected truncation.
_EXPLAINED = 16.0


class Samples(NamedTuple):
    """A table and the part of the function it is applied to, shape (P, J)."""

    table: Table
    values: Any


class Choice(NamedTuple):
    """The chosen estimate of one order at each point, in units of the top rung.

    Attributes:
        value: Shape (P,).
        error: Truncation and noise together.
        top: Highest step of the chosen run.
        noisy: Share of the noise in `error`.
        roundings: Noise level over the rounding of the samples.
        doubt: Error at the top step over the variation of the samples.
        following: The same candidate's derivative of the next order, 0 where it has none.
    """

    value: Any
    error: Any
    top: Any
    noisy: Any
    roundings: Any
    doubt: Any
    following: Any


def _residuals(sample: Samples, xp: Any) -> Any:
    """What each candidate's polynomial misses at each rung, shape (P, C, J)."""
    count, rungs = sample.table.used.shape
    # Laid out in NumPy, so that a compiler has no large constant to transpose.
    flat = np.ascontiguousarray(sample.table.predict.reshape(-1, rungs).T)
    predicted = _times(sample.values, flat, xp).reshape(-1, count, rungs)
    return abs(predicted - sample.values[:, None, :])


def _times(values: Any, constant: np.ndarray, xp: Any) -> Any:
    """Multiply by a constant matrix in the values' dtype."""
    return values @ xp.asarray(constant.astype(values.dtype))


def _noise(
    samples: list[Samples], size: Any, eps: float, blur: Any, given: Any, xp: Any
) -> Any:
    """Noise level of each candidate's samples, and whether its misfit is no noise at all."""
    table = samples[0].table
    used, below = xp.asarray(table.used), xp.asarray(table.below)
    largest = xp.max(xp.where(used[None], size[:, None, :], 0), axis=2)
    variation = 0 * largest
    misfit = 0 * largest[:, :, None]
    for sample in samples:
        inside = xp.where(used[None], abs(sample.values)[:, None, :], 0)
        variation = variation + xp.max(inside, axis=2)
        missed = _residuals(sample, xp)
        misfit = xp.maximum(misfit, xp.where(below[None], missed, 0))
    few = _LEVEL * (1 + _FEW / np.maximum(table.below.sum(axis=1), 1))
    level = xp.max(misfit, axis=2) * xp.asarray(few, dtype=size.dtype)[None]
    wrong = (level > _NOISE_SHARE * variation) & (level > _NOISE_SIZE * largest)
    # f rounds its values and, on the way there, in effect, its argument. The latter shows
    # among the residuals, except at steps of few roundings of x, which are all alike.
    slope = abs(samples[0].values[:, -1]) / float(table.nodes[-1])
    lowest = xp.asarray(np.where(table.used, table.nodes, 1).min(axis=1), dtype=size.dtype)
    alike = xp.minimum(1, _FEW_ROUNDINGS * blur[:, None] / lowest[None])
    floor = 0.5 * eps * largest + _BLUR * (blur * slope)[:, None] * alike
    level = xp.maximum(xp.maximum(level, floor), given[:, None])
    level = xp.maximum(level, _quantum(samples, xp))
    return level, wrong, misfit, variation, largest


def choose(
    samples: list[Samples],
    size: Any,
    finite: Any,
    eps: float,
    blur: Any,
    given: Any,
    orders: tuple[int, ...],
    xp: Any,
) -> dict[int, Choice]:
    """Choose the candidate of least error for each order.

    `size` holds |f| at each rung, `finite` which rungs may be used, both of shape (P, J);
    `blur` is the rounding of x in units of the top rung and `given` a known noise level,
    both of shape (P,).
    """
    samples = [Samples(t, xp.where(finite, v, 0)) for t, v in samples]
    size = xp.where(finite, size, 0)
    table = samples[0].table
    nodes = xp.asarray(table.nodes, dtype=size.dtype)
    noise, wrong, misfit, variation, largest = _noise(samples, size, eps, blur, given, xp)
    usable = ~xp.any(~finite[:, None, :] & xp.asarray(table.used)[None], axis=2)
    usable = usable & (table.below.sum(axis=1) >= _MIN_BELOW)[None]
    swing = sum(abs(values) for _, values in samples)
    result = {}
    for sample in samples:
        for order, weights in sample.table.weights.items():
            if order not in orders:
                continue
            estimates = _times(sample.values, np.ascontiguousarray(weights.T), xp)
            truncation = _truncation(estimates, sample.table, order, xp)
            noisy = (
                _NOISE_WIDTH
                * noise
                * xp.asarray(np.sqrt((weights**2).sum(axis=1))[None], dtype=size.dtype)
            )
            lower = xp.max(misfit / (nodes**order)[None, None], axis=2)
            extra = xp.where(wrong, lower, 0)
            error = xp.sqrt(truncation**2 + noisy**2) + extra
            ok = usable & xp.asarray(sample.table.has_order[order])[None]
            error = xp.where(ok & xp.isfinite(error), error, xp.inf)
            # Neighbours may agree to the last bit by accident: never less than a rounding.
            seen = xp.maximum(truncation, eps * abs(estimates))
            error = error + _hidden(sample, swing, error, seen, noise, order, nodes, xp)
            result[order] = _pick(
                xp.argmin(error, axis=1)[:, None],
                table,
                nodes,
                order,
                (estimates, error, noisy, noise, eps * largest, variation),
                _next_order(samples, order, xp),
                xp,
            )
    return result


def _next_order(samples: list[Samples], order: int, xp: Any) -> Any:
    """Estimate the next derivative by every candidate, shape (P, C)."""
    for table, values in samples:
        if order + 1 in table.weights:
            weights = np.ascontiguousarray(table.weights[order + 1].T)
            return abs(_times(values, weights, xp))
    count = len(samples[0].table.terms)
    return 0 * xp.repeat(samples[0].values[:, :1], count, axis=1)


def _pick(
    best: Any,
    table: Table,
    nodes: Any,
    order: int,
    columns: tuple[Any, ...],
    following: Any,
    xp: Any,
) -> Choice:
    """Read the chosen column of each row."""
    picked = [xp.take_along_axis(column, best, axis=1)[:, 0] for column in columns]
    value, error, noisy, noise, rounding, variation = picked
    top = nodes[np.argmax(table.used, axis=1)][best[:, 0]]
    # Candidates that claim to be almost as good must agree with the chosen one.
    rivals = columns[1] <= _RIVALS * error[:, None]
    apart = abs(columns[0] - value[:, None])
    error = xp.maximum(error, xp.max(xp.where(rivals, apart, 0), axis=1))
    tiny = np.finfo(nodes.dtype).tiny
    return Choice(
        value,
        error,
        top,
        noisy / xp.maximum(error, tiny),
        noise / xp.maximum(rounding, tiny),
        error * top**order / xp.maximum(xp.maximum(variation, 64 * rounding), tiny),
        xp.take_along_axis(following, best, axis=1)[:, 0],
    )


def _truncation(estimates: Any, table: Table, order: int, xp: Any) -> Any:
    """Largest distance to the neighbouring candidates; infinite without the first."""
    total = 0 * estimates
    for k in range(table.neighbours.shape[1]):
        near = table.neighbours[:, k]
        known = (near >= 0) & table.has_order[order][near]
        apart = abs(estimates - estimates[:, near])
        total = xp.maximum(total, xp.where(known[None], apart, xp.inf if k == 0 else 0))
    return total


def _hidden(
    sample: Samples,
    swing: Any,
    error: Any,
    truncation: Any,
    noise: Any,
    order: int,
    nodes: Any,
    xp: Any,
) -> Any:
    """Noise that shows only above a run, as the jumps of an iterative solver do.

    A truncation error shows on the next rung magnified by a known factor. Where the
    polynomial that should predict it best misses a rung by far more, and yet by little
    beside the variation of the function, there is a jump: noise for the runs that reach
    it, and its size over the step is what every derivative taken below it may lack.
    """
    table, values = sample.table, sample.values
    has = table.above.any(axis=1)
    index = np.where(has, np.argmax(table.above, axis=1), 0)
    rows = table.predict[np.arange(len(index)), index]
    gain = xp.asarray(1 + np.sqrt((rows**2).sum(axis=1)), dtype=nodes.dtype)
    missed = abs(_times(values, np.ascontiguousarray(rows.T), xp) - values[:, index])
    reach = xp.asarray(table.growth[order], dtype=nodes.dtype)
    explained = _EXPLAINED * (truncation * reach[None] + noise * gain[None])
    # The candidate that should predict a rung best speaks for it; but its own bound may be
    # small by accident, so any other that should see such a jump, and sees none, has a veto.
    groups, known = _by_rung(table)
    bound = xp.where(xp.isfinite(error), explained, xp.inf)[:, groups]
    bound = xp.where(known[None], bound, xp.inf)
    misses = missed[:, groups]
    best = xp.argmin(bound, axis=2)[:, :, None]
    size = xp.take_along_axis(misses, best, axis=2)
    veto = xp.any((bound < size) & (misses <= bound), axis=2)
    size = size[:, :, 0]
    jump = (size > xp.min(bound, axis=2)) & (size < _NOISE_SHARE * swing) & ~veto
    heard = xp.where(jump & np.any(known, axis=1)[None], size, 0)
    start = np.argmax(table.used, axis=1)
    higher = np.arange(len(table.nodes))[None, :] < start[:, None]
    slope = heard / (nodes**order)[None]
    beyond = xp.max(xp.where(higher[None], slope[:, None, :], 0), axis=2)
    inside = xp.max(xp.where(table.used[None], heard[:, None, :], 0), axis=2)
    norm = np.sqrt((table.weights[order] ** 2).sum(axis=1))
    return (
        _JUMP_WIDTH * beyond + _NOISE_WIDTH * inside * xp.asarray(norm, dtype=nodes.dtype)[None]
    )


def _by_rung(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the candidates whose run ends just below each rung, padded, and a mask."""
    usable = table.above & (table.below.sum(axis=1) >= _MIN_BELOW)[:, None]
    lists = [np.flatnonzero(column) for column in usable.T]
    width = max(1, *(len(found) for found in lists))
    groups = np.zeros((len(lists), width), int)
    known = np.zeros((len(lists), width), bool)
    for j, found in enumerate(lists):
        groups[j, : len(found)], known[j, : len(found)] = found, True
    return groups, known


def _quantum(samples: list[Samples], xp: Any) -> Any:
    """Noise level of a function that is constant on small steps, shape (P,).

    Its even part is exactly zero on the lowest rungs and then rises to half a quantum at
    once. Smooth functions do so at their last rounding, which does no harm.
    """
    values = samples[-1].values
    even = abs(values)
    still = even[:, -1:] == 0
    least = xp.min(xp.where(even > 0, even, xp.inf), axis=1)[:, None]
    variation = xp.max(xp.maximum(even, abs(samples[0].values)), axis=1)[:, None]
    quantised = still & (least < _NOISE_SHARE * variation)
    return xp.where(quantised, 0.6 * least, 0)
