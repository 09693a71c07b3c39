"""The two stages of sampling: find the length, then climb the ladder.

Everything here is written once for both array libraries: `xp` is `jax.numpy` for functions
that JAX can trace and `numpy` for those it cannot. Rows are the points (or the directions)
that are differentiated at; every row has its own ladder, all of one shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.derivatives import _choose, _ladder, _scan
from gradlab.derivatives._powers import exponent_of, scaled
from gradlab.derivatives._search import OCTAVES, flat_rows, search

__all__ = [
    "MIN_NFEV",
    "Answer",
    "Plan",
    "in_chunks",
    "make_plan",
    "normalised",
    "run",
    "run_with_ladder",
]

# Share of the evaluations spent on finding the length, and its limits.
_SCAN_SHARE = 0.22
_MIN_SCAN, _MAX_SCAN, _MIN_RUNGS = 7, 14, 8
MIN_NFEV = 1 + 2 * (_MIN_SCAN + _MIN_RUNGS)
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
            terms, extras = tuple(range(1, max(9, most + 4))), (0, 1, 2)
        return _ladder.table(tuple(nodes), kind, terms, extras, self.all_orders)


class Answer(NamedTuple):
    """What is known at each row, shape (P,), for one order."""

    value: Any
    error: Any
    step: Any
    noisy: Any
    roundings: Any
    doubt: Any
    smooth: Any
    kink: Any
    side: Any


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
        highest rung, the even parts and the sizes on the ladder, for the first output.
    """
    work = xp.promote_types(center.dtype, np.float32)
    rows, outputs = center.shape
    found = search(plan, x, center.astype(work), evaluate, eps, xp)
    top, side, smooth, kinked = found.top, found.side, found.smooth, found.kink
    flat_center = flat_rows(center.astype(work)[:, None, :], xp)[:, 0]
    second = evaluate(_ladder_points(plan, x, top, side, xp)).astype(work)
    half = plan.rungs
    parts = _scan.split(
        second[:, :half, 0], second[:, half:, 0], center[:, :1].astype(work), xp
    )
    ladder = (top, parts.even, parts.size)
    top, side = xp.repeat(top, outputs), xp.repeat(side, outputs)
    # Half the spacing of x, at most: x is no better known, and f no better computed.
    spacing = xp.repeat(abs(x), outputs).astype(work) * (float(np.finfo(x.dtype).eps) / 2)
    blur = scaled(2 * spacing, -top, xp)
    answers = _analyse(plan, (flat_rows(second, xp), flat_center, blur, side), eps, given, xp)
    answered = {}
    sign = xp.where(side < 0, -1, 1).astype(work)
    for order in plan.orders:
        choice = answers[order]
        value = scaled(choice.value, -top * order, xp) * sign**order
        error = scaled(choice.error, -top * order, xp)
        next_up = scaled(choice.following, -top * (order + 1), xp)
        error = error + xp.where(xp.isfinite(next_up), spacing * next_up, 0)
        # Factors of f are rounded too, the same way at every sample.
        error = error + float(np.finfo(work).eps) * abs(value)
        # What underflowed is not known to be zero, and what overflowed is not known.
        tiny = float(np.finfo(work).tiny)
        error = xp.where(xp.isfinite(value), xp.maximum(error, tiny), xp.inf)
        broken = kinked & (side == 0)
        error = xp.where(broken, xp.maximum(error, found.jump if order == 1 else xp.inf), error)
        fields = (
            value,
            error,
            scaled(choice.top.astype(x.dtype), top, xp),
            choice.noisy,
            choice.roundings,
            choice.doubt,
            smooth,
            broken,
            side,
        )
        answered[order] = Answer(*(field.reshape(rows, outputs) for field in fields))
    return answered, ladder


def _ladder_points(plan: Plan, x: Any, top: Any, side: Any, xp: Any) -> Any:
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
) -> dict[int, _choose.Choice]:
    """Choose estimates row by row, in chunks, with the table that fits the side.

    `samples` are the values, f(x), the rounding of x in units of the top rung and the side.
    """

    def central(values: Any, center: Any, blur: Any) -> Any:
        half = plan.rungs
        parts = _scan.split(values[:, :half], values[:, half:], center[:, None], xp)
        samples = [
            _choose.Samples(plan.table("odd"), parts.odd),
            _choose.Samples(plan.table("even"), parts.even),
        ]
        return normalised(samples, parts.size, eps, blur, given * 0.75, plan.orders, xp)

    def alone(values: Any, center: Any, blur: Any) -> Any:
        table = plan.table("one-sided")
        values = values[:, : len(table.nodes)]
        gain = values - center[:, None]
        size = xp.maximum(abs(values), abs(center)[:, None])
        samples = [_choose.Samples(table, gain)]
        return normalised(samples, size, eps, blur, given * 1.5, plan.orders, xp)

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
        return jax.tree.map(lambda a, b: xp.where(side == 0, a, b), both, other)

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
    samples: list[Any],
    size: Any,
    eps: float,
    blur: Any,
    given: Any,
    orders: tuple[int, ...],
    xp: Any,
) -> dict[int, _choose.Choice]:
    """Scale the values by a power of two, so that nothing over- or underflows on the way."""
    finite = xp.isfinite(size)
    for _, values in samples:
        finite = finite & xp.isfinite(values)
    largest = xp.max(xp.where(finite, size, 0), axis=1)
    exponent = xp.where(largest > 0, exponent_of(largest, xp), 0)
    down = -exponent[:, None]
    lowered = [_choose.Samples(t, scaled(v, down, xp)) for t, v in samples]
    noise = scaled(xp.zeros_like(largest) + given, -exponent, xp)
    result = _choose.choose(
        lowered, scaled(size, down, xp), finite, eps, blur, noise, orders, xp
    )
    return {
        order: c._replace(
            value=scaled(c.value, exponent, xp),
            error=scaled(c.error, exponent, xp),
            following=scaled(c.following, exponent, xp),
        )
        for order, c in result.items()
    }
