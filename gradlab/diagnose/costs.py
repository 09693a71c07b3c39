"""What the loss and its derivatives cost on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._tree import num_params
from gradlab._typing import Loss, Params
from gradlab.compare.table import Table
from gradlab.derivatives.autodiff import hessian, hvp
from gradlab.diagnose.section import Section, first_line

__all__ = ["Cost", "costs"]

TITLE = "What does a derivative cost?"
# A measurement lasts about this long and is made so often; the least is told, because
# whatever else runs on the machine only adds to it.
_SECONDS, _REPEATS = 0.05, 3
# Calls in one measurement: enough for the shortest loss, and few enough to count in int32.
_MOST_CALLS = 100_000
# Variables up to which the dense Hessian is timed: beyond, it is n products.
_DENSE = 1000


class Cost(NamedTuple):
    """What one evaluation takes.

    Attributes:
        what: "loss", "gradient", "Hessian-vector product" or "Hessian".
        seconds: Wall time of one evaluation within a compiled loop; NaN if not measured.
        compile_seconds: Time to trace and compile it.
        bytes: Memory for intermediate results; -1 where the compiler does not tell.
        reason: Why it could not be measured, or "".
    """

    what: str
    seconds: float
    compile_seconds: float
    bytes: int
    reason: str = ""


def costs(loss: Loss, x: Params, batch: tuple[Any, ...]) -> tuple[Section, dict[str, Cost]]:
    """Measure the loss, gradient, product and Hessian, each in a compiled loop of its own."""
    n = num_params(x)
    measured = {
        "loss": _measured("loss", lambda x, *b: loss(x, *b), x, batch),
        "gradient": _measured("gradient", jax.grad(loss), x, batch),
        "product": _measured(
            "Hessian-vector product", lambda x, *b: hvp(loss, x, x, *b), x, batch
        ),
    }
    if n <= _DENSE:
        measured["Hessian"] = _measured("Hessian", hessian(loss), x, batch)
    base = measured["loss"].seconds
    rows = tuple(
        {
            **cost._asdict(),
            "ratio": cost.seconds / base,
            "counted": {"loss": 1.0, "gradient": 3.0, "product": 6.0, "Hessian": 6.0 * n}[name],
        }
        for name, cost in measured.items()
    )
    for row in rows:
        row["shown"] = None if np.isnan(row["seconds"]) else f"{1e6 * row['seconds']:.3g} µs"
        row["memory"] = None if row["bytes"] < 0 else _size(row["bytes"])
    data = {name: {**c._asdict(), "losses": c.seconds / base} for name, c in measured.items()}
    return Section(TITLE, _told(measured, n), table=Table(rows, _FORMATS), data=data), measured


_FORMATS = {
    "what": ("evaluation", ""),
    "shown": ("time", ""),
    "ratio": ("in losses", ".2f"),
    "counted": ("counted as", ".0f"),
    "memory": ("memory", ""),
    "compile_seconds": ("compiled in s", ".2f"),
    "reason": ("", ""),
}


def _told(measured: dict[str, Cost], n: int) -> str:
    """Say the ratios in a sentence."""
    base = measured["loss"].seconds
    parts = [
        f"{ratio:.3g} for a {cost.what}"
        for cost in list(measured.values())[1:]
        if not np.isnan(ratio := cost.seconds / base)
    ]
    told = f"One loss takes {1e6 * base:.3g} µs on this machine; in losses: {', '.join(parts)}."
    if "Hessian" not in measured:
        told += f" A Hessian of {n} variables is {n} products, and was not timed."
    return told


def _measured(what: str, function: Callable[..., Any], x: Params, batch: Any) -> Cost:
    """Time one function of (x, *batch), or say why it cannot be."""
    started = time.perf_counter()
    try:
        compiled = jax.jit(_repeated(function)).lower(x, batch, np.int32(1)).compile()
        compile_seconds = time.perf_counter() - started
        once = _timed(compiled, x, batch, 1)
        count = int(np.clip(_SECONDS / max(once, 1e-9), 1, _MOST_CALLS))
        # What is slow has been measured well enough by the first call.
        repeats = _REPEATS if once < 10 * _SECONDS else 0
        times = [_timed(compiled, x, batch, count) / count for _ in range(repeats)]
    except Exception as error:  # JAX raises errors of many types here, and the loss its own
        return Cost(what, np.nan, time.perf_counter() - started, -1, first_line(error))
    try:
        analysis: Any = compiled.memory_analysis()
        memory = int(analysis.temp_size_in_bytes)
    except Exception:  # not every backend tells
        memory = -1
    return Cost(what, min([*times, *([] if times else [once])]), compile_seconds, memory)


def _repeated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Evaluate a function so many times, each at a point that depends on the one before.

    Within one compiled loop, since calling a program takes longer than a small loss.
    """

    def program(x: Params, batch: Any, count: Any) -> Params:
        def body(_: Any, point: Params) -> Params:
            leaves = jax.tree.leaves(function(point, *batch))
            seen = jnp.sum(jnp.stack([jnp.max(leaf).astype(jnp.float32) for leaf in leaves]))
            # Zero times it: no compiler may drop that, for it could be NaN.
            return jax.tree.map(lambda p: p + (0 * seen).astype(p.dtype), point)

        return jax.lax.fori_loop(0, count, body, x)

    return program


def _timed(compiled: Any, x: Params, batch: Any, count: int) -> float:
    """Return the wall time of one call."""
    started = time.perf_counter()
    jax.block_until_ready(compiled(x, batch, np.int32(count)))
    return time.perf_counter() - started


def _size(count: int) -> str:
    """Write a number of bytes."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"
