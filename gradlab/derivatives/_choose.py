"""Choose among the candidates of a ladder, and say how far the choice may be off.

Error of a candidate = truncation + noise. Truncation is seen in the candidates next to it
(the same polynomial one rung lower, and one more term); noise is what the rungs *below* its
run show: there the polynomial is more than accurate enough, so whatever it misses is
noise, whether rounding, quantisation, aliasing or an inner solver.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gradlab.derivatives._ladder import Stack

__all__ = ["NOISE_WIDTH", "Choice", "choose"]

# Bars are this many noise levels wide: the residuals are few, and rounding errors of
# neighbouring samples are not independent.
NOISE_WIDTH = 3.0
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


class Choice(NamedTuple):
    """The chosen estimates at each point, shape (P, O), in units of the top rung.

    Attributes:
        value: The derivative.
        error: Truncation and noise together.
        top: Highest step of the chosen run.
        noisy: Share of the noise in `error`.
        roundings: Noise level over the rounding of the samples.
        level: Noise level of the samples.
        jumps: Whether jumps above the run, or within it, count in `error`.
        doubt: Error at the top step over the variation of the samples.
        following: The same candidate's derivative of the next order, 0 where it has none.
        local: Largest misfit below the run, in roundings of the sample where it shows.
        lowest: Lowest step of the chosen run.
    """

    value: Any
    error: Any
    top: Any
    noisy: Any
    roundings: Any
    level: Any
    jumps: Any
    doubt: Any
    following: Any
    local: Any
    lowest: Any


class Noise(NamedTuple):
    """What the rungs say of each candidate, shape (P, C).

    Attributes:
        level: Noise level of its samples.
        wrong: Whether its misfit is no noise at all.
        misfit: What it misses at each rung below its run, shape (P, C, J).
        variation: How far its samples vary.
        rounding: Rounding of its samples.
        local: Largest misfit in roundings of the sample where it shows.
    """

    level: Any
    wrong: Any
    misfit: Any
    variation: Any
    rounding: Any
    local: Any


def choose(
    stack: Stack,
    values: Any,
    size: Any,
    finite: Any,
    eps: float,
    blur: Any,
    given: Any,
    xp: Any,
) -> Choice:
    """Choose the candidate of least error for each order.

    `values` holds the parts of f at each rung, shape (P, S, J), `size` |f| there and
    `finite` which rungs may be used, both of shape (P, J); `blur` is the rounding of x in
    units of the top rung and `given` a known noise level, both of shape (P,).
    """
    values = xp.where(finite[:, None, :], values, 0)
    size = xp.where(finite, size, 0)
    noise = _noise(stack, values, size, eps, blur, given, xp)
    usable = ~xp.any(~finite[:, None, :] & stack.used[None], axis=2) & stack.seen[None]
    estimates = _estimates(stack.weights, values, xp)
    truncation = _truncation(estimates, stack, xp)
    noisy = NOISE_WIDTH * noise.level[:, None, :] * stack.norm[None]
    lower = xp.max(noise.misfit[:, None] * stack.scale[None, :, None, :], axis=3)
    extra = xp.where(noise.wrong[:, None, :], lower, 0)
    error = xp.hypot(truncation, noisy) + extra  # squares of float32 errors underflow
    error = xp.where(usable[:, None, :] & stack.known[None] & xp.isfinite(error), error, xp.inf)
    # Neighbours may agree to the last bit by accident: never less than a rounding.
    seen = xp.maximum(truncation, eps * abs(estimates))
    hidden = _hidden(stack, values, error, seen, noise.level, xp)
    following = abs(_estimates(stack.following, values, xp))
    return _pick(stack, estimates, error + hidden, (noisy, hidden, following), noise, xp)


def _estimates(weights: Any, values: Any, xp: Any) -> Any:
    """Apply weights of shape (S J, O C): (P, S, J) to (P, O, C)."""
    flat = values.reshape(values.shape[0], -1)
    return (flat @ weights[0]).reshape(values.shape[0], weights[1], -1)


def _noise(
    stack: Stack, values: Any, size: Any, eps: float, blur: Any, given: Any, xp: Any
) -> Noise:
    """Tell noise from misfit, for each candidate."""
    both = xp.concatenate([size[:, None, :], abs(values)], axis=1)
    inside = xp.max(xp.where(stack.used[None, None], both[:, :, None, :], 0), axis=3)
    largest, variation = inside[:, 0], xp.sum(inside[:, 1:], axis=1)
    misfit = 0
    for part, predict in enumerate(stack.predict):
        here = values[:, part]
        predicted = (here @ predict).reshape(-1, *stack.used.shape)
        misfit = xp.maximum(misfit, abs(predicted - here[:, None, :]))
    misfit = xp.where(stack.below[None], misfit, 0)
    level = xp.max(misfit, axis=2) * stack.few[None]
    wrong = (level > _NOISE_SHARE * variation) & (level > _NOISE_SIZE * largest)
    # f rounds its values and, on the way there, in effect, its argument. The latter shows
    # among the residuals, except at steps of few roundings of x, which are all alike.
    slope = abs(values[:, 0, -1]) / float(stack.nodes[-1])
    alike = xp.minimum(1, _FEW_ROUNDINGS * blur[:, None] / stack.lowest[None])
    floor = 0.5 * eps * largest + _BLUR * (blur * slope)[:, None] * alike
    level = xp.maximum(xp.maximum(level, floor), given[:, None])
    level = xp.maximum(level, _quantum(values, xp))
    local = xp.max(misfit / (eps * xp.where(size > 0, size, 1))[:, None, :], axis=2)
    return Noise(level, wrong, misfit, variation, eps * largest, local)


def _pick(
    stack: Stack, estimates: Any, error: Any, columns: tuple[Any, ...], noise: Noise, xp: Any
) -> Choice:
    """Read the chosen candidate of each row and order."""
    best = xp.argmin(error, axis=2)[:, :, None]
    value, least, noisy, hidden, following = (
        xp.take_along_axis(column, best, axis=2)[:, :, 0]
        for column in (estimates, error, *columns)
    )
    level, variation, rounding, local = (
        xp.take_along_axis(column[:, None, :] + 0 * error, best, axis=2)[:, :, 0]
        for column in (noise.level, noise.variation, noise.rounding, noise.local)
    )
    start = xp.asarray(stack.start)[best[:, :, 0]]
    scale = xp.asarray(stack.scale)[np.arange(len(stack.orders))[None], start]
    # Candidates that claim to be almost as good must agree with the chosen one.
    rivals = error <= _RIVALS * least[:, :, None]
    apart = xp.where(rivals, abs(estimates - value[:, :, None]), 0)
    bar = xp.maximum(least, xp.max(apart, axis=2))
    tiny = np.finfo(stack.nodes.dtype).tiny
    swing = xp.maximum(xp.maximum(variation, 64 * rounding), tiny)
    return Choice(
        value,
        bar,
        xp.asarray(stack.nodes)[start],
        noisy / xp.maximum(bar, tiny),
        level / xp.maximum(rounding, tiny),
        level,
        hidden > 0,
        bar / scale / swing,
        following,
        local,
        xp.asarray(stack.lowest)[best[:, :, 0]],
    )


def _truncation(estimates: Any, stack: Stack, xp: Any) -> Any:
    """Largest distance to the neighbouring candidates; infinite without the first."""
    total = 0 * estimates
    for k, (near, known) in enumerate(zip(stack.near, stack.near_known, strict=True)):
        apart = abs(estimates - estimates[:, :, near])
        total = xp.maximum(total, xp.where(known[None], apart, xp.inf if k == 0 else 0))
    return total


def _hidden(stack: Stack, values: Any, error: Any, truncation: Any, level: Any, xp: Any) -> Any:
    """Noise that shows only above a run, as the jumps of an iterative solver do.

    A truncation error shows on the next rung magnified by a known factor. Where the
    polynomial that should predict it best misses a rung by far more, and yet by little
    beside the variation of the function, there is a jump: noise for the runs that reach
    it, and its size over the step is what every derivative taken below it may lack.
    """
    missed = abs(_estimates(stack.beyond, values, xp))
    explained = _EXPLAINED * (
        truncation * stack.growth[None] + level[:, None, :] * stack.gain[None]
    )
    # The candidate that should predict a rung best speaks for it; but its own bound may be
    # small by accident, so any other that should see such a jump, and sees none, has a veto.
    bound = xp.where(xp.isfinite(error), explained, xp.inf)[:, :, stack.groups]
    bound = xp.where(stack.in_group[None, None], bound, xp.inf)
    misses = missed[:, :, stack.groups]
    best = xp.argmin(bound, axis=3)[..., None]
    size = xp.take_along_axis(misses, best, axis=3)
    veto = xp.any((bound < size) & (misses <= bound), axis=3)
    size = size[..., 0]
    swing = xp.sum(abs(values), axis=1)[:, None, :]
    jump = (size > xp.min(bound, axis=3)) & (size < _NOISE_SHARE * swing) & ~veto
    heard = xp.where(jump & np.any(stack.in_group, axis=1)[None, None], size, 0)
    slope = heard * stack.scale[None]
    higher = np.tri(len(stack.nodes), k=-1, dtype=bool)  # rungs above each rung
    highest = xp.max(xp.where(higher[None, None], slope[:, :, None, :], 0), axis=3)
    inside = xp.max(xp.where(stack.used[None, None], heard[:, :, None, :], 0), axis=3)
    return _JUMP_WIDTH * highest[:, :, stack.start] + NOISE_WIDTH * inside * stack.norm[None]


def _quantum(values: Any, xp: Any) -> Any:
    """Noise level of a function that is constant on small steps, shape (P, 1).

    Its even part is exactly zero on the lowest rungs and then rises to half a quantum at
    once. Smooth functions do so at their last rounding, which does no harm.
    """
    even = abs(values[:, -1])
    still = even[:, -1:] == 0
    least = xp.min(xp.where(even > 0, even, xp.inf), axis=1)[:, None]
    variation = xp.max(xp.maximum(even, abs(values[:, 0])), axis=1)[:, None]
    quantised = still & (least < _NOISE_SHARE * variation)
    return xp.where(quantised, 0.6 * least, 0)
