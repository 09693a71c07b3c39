"""Learning rates chosen by a short run with each of several, side by side."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import GradientOperator, Loss, Params
from gradlab.compare.run import Sweep
from gradlab.minimize import record
from gradlab.optimizers import Method
from gradlab.sharding import spread

__all__ = ["Setting", "tune"]

# Two candidates a decade: one of them is within a factor 1.8 of any rate, and five decades
# hold the usual ones for losses of ordinary scale.
RATES = 10.0 ** np.arange(-4.0, 1.01, 0.5)
# Where the best candidate is the outermost, the next decades are tried, up to so often:
# three times reach rates from 1e-20 to 1e17, hence losses scaled by as much.
EXTENSIONS = 3
SWEEP_STEPS = 100


class Setting(NamedTuple):
    """What all runs of one comparison on one problem share."""

    problem: str
    loss: Loss
    args: tuple[Any, ...]
    gtol: float | int | None
    shard: str | None = None
    batches: Any = None


def tune(
    setting: Setting,
    label: str,
    method: Method,
    start: Params,
    derivative: tuple[str, GradientOperator | None],
    *,
    steps: int = SWEEP_STEPS,
    rates: Sequence[float | int] | None = None,
) -> Sweep:
    """Try learning rates in short runs from one start, all of them in one compiled program.

    The winner is the rate whose run ends lowest; among those that end equally low up to
    the square root of the dtype's rounding, the one that was there first. A run that ends
    at or above its start, or without a finite loss, never wins. Unless `rates` are given,
    the range is extended while its outermost candidate is the best.

    Args:
        setting: Loss, arguments and tolerance of the comparison.
        label: What the method is called there.
        method: The method, which takes a learning rate.
        start: Where the short runs start.
        derivative: Name of the derivative operator, and the operator or None.
        steps: Steps allowed to each candidate.
        rates: The candidates; by default two a decade from 1e-4 to 10, and on from there.

    Returns:
        The `Sweep`.
    """
    began = time.perf_counter()
    lanes = _program(setting.loss, method, derivative[1], setting.gtol, steps, setting.batches)
    tried = np.empty(0)
    batch = RATES if rates is None else np.sort(np.asarray(rates, dtype=float))
    results: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in range(1 + (EXTENSIONS if rates is None else 0)):
        numbers = dict(method.hyperparams)
        del numbers["learning_rate"]
        tried_now, count = jnp.asarray(batch), len(batch)
        if setting.shard == "runs":
            tried_now, count = spread(np.asarray(batch))
        found = jax.device_get(lanes(tried_now, numbers, start, setting.args))
        results.append(tuple(column[:count] for column in found))
        tried = np.concatenate([tried, batch])
        histories, ends, costs = (np.concatenate(parts) for parts in zip(*results, strict=True))
        best = _best(histories, ends)
        following = _next_batch(tried, float(histories[0, 0]), ends, best)
        if following is None:
            break
        batch = following
    order = np.argsort(tried)
    return Sweep(
        setting.problem,
        label,
        derivative[0],
        rates=tried[order],
        losses=ends[order],
        start_loss=float(histories[0, 0]),
        chosen=None if best is None else float(tried[best]),
        steps=steps,
        cost=float(costs.sum()),
        seconds=time.perf_counter() - began,
    )


def _program(loss, method, grad, gtol, steps, batches) -> Callable[..., Any]:
    """Return the compiled sweep, from the cache where the loss can be looked up."""
    try:
        return _cached(loss, method, grad, gtol, steps, batches)
    except TypeError:  # an unhashable loss: compile for this call only
        return _cached.__wrapped__(loss, method, grad, gtol, steps, batches)


# As many programs as a comparison has first-order methods, on a few problems.
@functools.lru_cache(maxsize=32)
def _cached(loss, method, grad, gtol, steps, batches) -> Callable[..., Any]:
    """Compile the batch of short runs: rates to histories, last losses and costs."""

    def lane(rate, numbers, start, args):
        chosen = dataclasses.replace(method, hyperparams={**numbers, "learning_rate": rate})
        trace = record(
            loss, start, chosen, args=args, max_steps=steps, gtol=gtol, grad=grad,
            batches=batches,
        )  # fmt: skip
        return trace.loss, trace.loss[trace.num_rows - 1], trace.cost[-1]

    return jax.jit(jax.vmap(lane, in_axes=(0, None, None, None)))


def _best(histories: np.ndarray, ends: np.ndarray) -> int | None:
    """Return which lane wins, or None if none ended below its start."""
    start = float(histories[0, 0])
    good = np.isfinite(ends) & (ends < start)
    if not good.any():
        return None
    least = float(ends[good].min())
    near = least + float(np.sqrt(np.finfo(histories.dtype).eps)) * (start - least)
    rows = np.arange(histories.shape[1])
    arrival = np.where(histories <= near, rows, rows.size).min(axis=1)
    arrival[~(good & (ends <= near))] = rows.size + 1
    return int(np.argmin(arrival))


def _next_batch(
    tried: np.ndarray, start: float, ends: np.ndarray, best: int | None
) -> np.ndarray | None:
    """Return the next decades to try, or None if the best candidate has neighbours."""
    largest, smallest = tried.max(), tried.min()
    if best is None:
        # Steps too small to change the loss ask for larger rates, anything else for smaller.
        top = ends[np.argmax(tried)]
        rounding = 10 * float(np.finfo(ends.dtype).eps) * abs(start)
        upwards = bool(np.isfinite(top) and abs(top - start) <= rounding)
    elif tried[best] in (largest, smallest):
        upwards = bool(tried[best] == largest)
    else:
        return None
    factors = 10.0 ** (0.5 * np.arange(1, RATES.size + 1))
    return largest * factors if upwards else smallest / factors[::-1]
