"""The two stages of sampling: find the length, then climb the ladder.

Everything here is written once for both array libraries: `xp` is `jax.numpy` for functions
that JAX can trace and `numpy` for those it cannot. Rows are the points (or the directions)
that are differentiated at; every row has its own ladder, all of one shape.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.derivatives import _choose, _ladder, _scan
from gradlab.derivatives._powers import exponent_of, scaled
from gradlab.derivatives._search import OCTAVES, Found, flat_rows, search

__all__ = [
    "MIN_NFEV",
    "Answer",
    "Plan",
    "climb",
    "in_chunks",
    "ladder_points",
    "make_plan",
    "normalised",
    "run",
    "run_with_ladder",
    "stack",
]

# Share of the evaluations spent on finding the length, and its limits.
_SCAN_SHARE = 0.22
_MIN_SCAN, _MAX_SCAN, _MIN_RUNGS = 7, 14, 8
MIN_NFEV = 1 + 2 * (_MIN_SCAN + _MIN_RUNGS)
# The slope that contradicts an answer is rounded as well.
_APART = 1.125
# Rows analysed together: their tables of estimates stay in the cache.
_ROWS = 128


@dataclass(frozen=True)
class Plan:
    """How many samples are taken, and for which orders."""

    orders: tuple[int, ...]
    scan: int
    rungs: int
    side: int = 0

    @property
    def nfev(self) -> int:
        """Evaluations for each row, without the one at the point itself."""
        return 2 * (self.scan + self.rungs)

    @property
    def nodes(self) -> np.ndarray:
        """Steps of the central ladder in units of its highest rung."""
        return _ladder.central_nodes(self.rungs, OCTAVES)

    @property
    def all_orders(self) -> tuple[int, ...]:
        """The orders asked for, and those that tell their sensitivity to x."""
        return tuple(sorted({*self.orders, *(o + 1 for o in self.orders)}))

    def table(self, kind: str) -> _ladder.Table:
        """Return the weights of all candidates."""
        most = max(self.orders)
        dense = self.rungs > 1.5 * OCTAVES
        extras = (0, 1, 2, 4) if dense else (0, 1, 2)
        terms: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8) if dense else (1, 2, 3, 4, 5, 6, 7, 8)
        nodes = self.nodes
        if kind == "one-sided":
            nodes = _ladder.one_sided_nodes(_ladder.central_nodes(self.rungs, self.rungs))
            nodes = nodes[: 2 * OCTAVES + 6]
        elif kind == "mixed":
            nodes = np.array(sorted(set(nodes) & set(self.table("one-sided").nodes))[::-1])
        if kind in ("one-sided", "mixed"):
            terms, extras = tuple(range(1, max(9, most + 4))), (0, 1, 2)
        return _ladder.table(tuple(nodes), kind, terms, extras, self.all_orders)


@functools.lru_cache(maxsize=64)
def stack(plan: Plan, kind: str, dtype: Any) -> _ladder.Stack:
    """Return all that a ladder needs: `kind` is "central", or a table's."""
    parts = ("odd", "even") if kind == "central" else (kind,)
    return _ladder.stacked([plan.table(part) for part in parts], plan.orders, np.dtype(dtype))


class Answer(NamedTuple):
    """What is known at each row, shape (P,), for one order."""

    value: Any
    error: Any
    step: Any
    noisy: Any
    roundings: Any
    level: Any
    jumps: Any
    doubt: Any
    smooth: Any
    kink: Any
    side: Any
    local: Any


def make_plan(orders: tuple[int, ...], max_nfev: int, side: int) -> Plan:
    """Divide the budget between the two stages."""
    pairs = (max_nfev - 1) // 2
    scan = int(np.clip(round(_SCAN_SHARE * 2 * pairs), _MIN_SCAN, _MAX_SCAN))
    scan = min(scan, pairs - _MIN_RUNGS)
    return Plan(orders, scan, pairs - scan, side)


def run(
    plan: Plan,
    x: Any,
    center: Any,
    evaluate: Callable[[Any], Any],
    eps: float,
    given: Any,
    xp: Any,
) -> dict[int, Answer]:
    """Differentiate at each row; see `run_with_ladder`."""
    return run_with_ladder(plan, x, center, evaluate, eps, given, xp)[0]


@np.errstate(all="ignore")  # infinities are answers here, not accidents
def run_with_ladder(
    plan: Plan,
    x: Any,
    center: Any,
    evaluate: Callable[[Any], Any],
    eps: float,
    given: Any,
    xp: Any,
) -> tuple[dict[int, Answer], tuple[Any, Any, Any]]:
    """Differentiate at each row.

    Args:
        plan: The numbers of samples.
        x: The coordinate that is moved, shape (P,), in its own dtype.
        center: f there, shape (P, m).
        evaluate: From points, shape (P, M), to values, shape (P, M, m).
        eps: Spacing of the coarser of the dtypes of x and f.
        given: A known noise level, shape ().
        xp: `numpy` or `jax.numpy`.

    Returns:
        For each order an `Answer` whose fields have shape (P, m); and the exponent of the
        highest rung, the side and the values on the ladder, for the first output.
    """
    center = center.astype(xp.promote_types(center.dtype, np.float32))
    found = search(plan, x, center, evaluate, eps, xp)
    values = evaluate(ladder_points(plan, x, found, xp)).astype(center.dtype)
    return climb(plan, x, center, found, values, eps, given, xp)


@np.errstate(all="ignore")
def climb(
    plan: Plan, x: Any, center: Any, found: Found, values: Any, eps: float, given: Any, xp: Any
) -> tuple[dict[int, Answer], tuple[Any, Any, Any]]:
    """Analyse the values on the ladders, shape (P, M, m); returns as `run_with_ladder`."""
    work = center.dtype
    rows, outputs = center.shape
    top, side, smooth, kinked = found.top, found.side, found.smooth, found.kink
    flat_center = flat_rows(center[:, None, :], xp)[:, 0]
    ladder = (top, side, values[..., 0])
    top, side = xp.repeat(top, outputs), xp.repeat(side, outputs)
    # Half the spacing of x, at most: x is no better known, and f no better computed.
    spacing = xp.repeat(abs(x), outputs).astype(work) * (float(np.finfo(x.dtype).eps) / 2)
    blur = scaled(2 * spacing, -top, xp)
    choice = _analyse(plan, (flat_rows(values, xp), flat_center, blur, side), eps, given, xp)
    lowest = top + exponent_of(choice.lowest[:, 0], xp) - 1
    gap, level, hidden = _contradicted(plan, found, top, lowest, side, choice, eps, xp)
    answered = {}
    sign = xp.where(side < 0, -1, 1).astype(work)
    for k, order in enumerate(plan.orders):
        here = _choose.Choice(*(field[:, k] for field in choice))
        value = scaled(here.value, -top * order, xp) * sign**order
        error = scaled(here.error, -top * order, xp)
        next_up = scaled(here.following, -top * (order + 1), xp)
        error = error + xp.where(xp.isfinite(next_up), spacing * next_up, 0)
        # Factors of f are rounded too, the same way at every sample.
        error = error + float(np.finfo(work).eps) * abs(value)
        apart = math.factorial(order) * scaled(gap, -level * (order - 1), xp)
        contradicted = (apart > error) & (gap > scaled(choice.error[:, 0], -top, xp))
        error = xp.where(contradicted, xp.maximum(error, _APART * apart), error)
        error = error + math.factorial(order) * scaled(hidden, -lowest * order, xp)
        # What underflowed is not known to be zero, and what overflowed is not known.
        tiny = float(np.finfo(work).tiny)
        error = xp.where(xp.isfinite(value), xp.maximum(error, tiny), xp.inf)
        broken = kinked & (side == 0)
        error = xp.where(broken, xp.maximum(error, found.jump if order == 1 else xp.inf), error)
        fields = (
            value,
            error,
            scaled(here.top.astype(x.dtype), top, xp),
            xp.where(hidden > 0, 1, here.noisy),
            here.roundings,
            here.level,
            here.jumps,
            xp.where(contradicted, xp.inf, here.doubt),
            smooth,
            broken,
            side,
            xp.where(hidden > 0, xp.inf, here.local),
        )
        answered[order] = Answer(*(field.reshape(rows, outputs) for field in fields))
    return answered, ladder


def _contradicted(
    plan: Plan,
    found: Found,
    top: Any,
    lowest: Any,
    side: Any,
    choice: _choose.Choice,
    eps: float,
    xp: Any,
) -> tuple[Any, Any, Any]:
    """How far the scan contradicts a first derivative, at which exponent, and unseen noise.

    Zero where nothing is known.
    """
    if found.parts is None or plan.orders[0] != 1 or plan.side:
        zero = xp.zeros_like(choice.value[:, 0])
        return zero, 0 * top, zero
    slope = scaled(choice.value[:, 0], -top, xp)
    samples = found.parts, found.exponents
    gap, level = _scan.contradiction(*samples, top, lowest, slope, eps, xp)
    noise = _scan.still(*samples, lowest, slope, eps, xp)
    unseen = xp.where(choice.level[:, 0] < noise / 4, _choose.NOISE_WIDTH * noise, 0)
    return xp.where(side == 0, gap, 0), level, xp.where(side == 0, unseen, 0)


def ladder_points(plan: Plan, x: Any, found: Found, xp: Any) -> Any:
    """Give the points of each row's ladder, shape (P, M)."""
    top, side = found.top, found.side

    def steps(nodes: np.ndarray) -> Any:
        return scaled(xp.asarray(nodes, dtype=x.dtype)[None, :], top[:, None], xp)

    x, side = x[:, None], side[:, None]
    central = steps(plan.nodes)
    central = xp.concatenate([x + central, x - central], axis=1)
    alone = steps(_padded_one_sided(plan)) * xp.where(side < 0, -1, 1).astype(x.dtype)
    if plan.side:
        return x + alone
    return xp.where(side == 0, central, x + alone)


def _padded_one_sided(plan: Plan) -> np.ndarray:
    """As many one-sided nodes as the ladder has samples; what the table leaves repeats."""
    nodes = plan.table("one-sided").nodes
    return np.concatenate([nodes, np.full(2 * plan.rungs - len(nodes), nodes[-1])])


def _analyse(
    plan: Plan, samples: tuple[Any, ...], eps: float, given: Any, xp: Any
) -> _choose.Choice:
    """Choose estimates row by row, in chunks, with the table that fits the side.

    `samples` are the values, f(x), the rounding of x in units of the top rung and the side.
    """
    dtype = samples[0].dtype

    def central(values: Any, center: Any, blur: Any) -> Any:
        half = plan.rungs
        parts = _scan.split(values[:, :half], values[:, half:], center[:, None], xp)
        both = xp.stack([parts.odd, parts.even], axis=1)
        ladder = stack(plan, "central", dtype)
        return normalised(ladder, both, parts.size, eps, blur, given * 0.75, xp)

    def alone(values: Any, center: Any, blur: Any) -> Any:
        ladder = stack(plan, "one-sided", dtype)
        values = values[:, : len(ladder.nodes)]
        gain = values - center[:, None]
        size = xp.maximum(abs(values), abs(center)[:, None])
        return normalised(ladder, gain[:, None, :], size, eps, blur, given * 1.5, xp)

    def nothing(*operands: Any) -> Any:
        shapes = jax.eval_shape(alone, *operands)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def chunk(values: Any, center: Any, blur: Any, side: Any) -> Any:
        operands = (values, center, blur)
        if plan.side:
            return alone(*operands)
        both = central(*operands)
        if xp is jnp:
            other = jax.lax.cond(jnp.any(side != 0), alone, nothing, *operands)
        elif np.any(side):
            other = alone(*operands)
        else:
            return both
        return jax.tree.map(lambda a, b: xp.where((side == 0)[:, None], a, b), both, other)

    return in_chunks(chunk, samples, xp)


def in_chunks(function: Callable[..., Any], operands: tuple[Any, ...], xp: Any) -> Any:
    """Apply a function of rows to a few rows at a time."""
    rows = operands[0].shape[0]
    if rows <= _ROWS:
        return function(*operands)
    if xp is np:
        cuts = [slice(i, i + _ROWS) for i in range(0, rows, _ROWS)]
        pieces = [function(*(o[c] for o in operands)) for c in cuts]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
    # Whole chunks by one loop, so that `function` sees many rows, and then the rest.
    whole = rows // _ROWS * _ROWS
    cut = [o[:whole].reshape(-1, _ROWS, *o.shape[1:]) for o in operands]
    done = jax.lax.map(lambda chunk: function(*chunk), tuple(cut))
    done = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), done)
    if whole == rows:
        return done
    rest = function(*(o[whole:] for o in operands))
    return jax.tree.map(lambda a, b: xp.concatenate([a, b]), done, rest)


def normalised(
    ladder: _ladder.Stack, values: Any, size: Any, eps: float, blur: Any, given: Any, xp: Any
) -> _choose.Choice:
    """Scale the values by a power of two, so that nothing over- or underflows on the way."""
    finite = xp.isfinite(size) & xp.all(xp.isfinite(values), axis=1)
    largest = xp.max(xp.where(finite, size, 0), axis=1)
    exponent = xp.where(largest > 0, exponent_of(largest, xp), 0)
    down = -exponent[:, None]
    noise = scaled(xp.zeros_like(largest) + given, -exponent, xp)
    choice = _choose.choose(
        ladder,
        scaled(values, down[:, None], xp),
        scaled(size, down, xp),
        finite,
        eps,
        blur,
        noise,
        xp,
    )
    back = exponent[:, None]
    return choice._replace(
        value=scaled(choice.value, back, xp),
        error=scaled(choice.error, back, xp),
        following=scaled(choice.following, back, xp),
        level=scaled(choice.level, back, xp),
    )
