"""What a dense Hessian takes: the room there is, and the chunk of columns that fits."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np

from gradlab.derivatives._jaxpr import bodies

__all__ = ["checked_bytes", "columns_together", "peak_bytes", "room_for_hessian"]

# Columns of a Hessian computed together: from 8 on the products are as fast as they get on a
# CPU (measured, networks of 660 and 3080 parameters), beyond 32 they only take more memory.
_MOST, _FEWEST = 32, 8
# Share of the n × n result that the intermediates of a chunk may take.
_SHARE = 0.25


def peak_bytes(jaxpr: Any) -> int:
    """Bound the bytes of intermediates alive at once, evaluated in order and unfused."""
    last_use: dict[Any, int] = {}
    for index, equation in enumerate(jaxpr.eqns):
        last_use |= {v: index for v in equation.invars if not hasattr(v, "val")}
    kept = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    made: set[Any] = set()
    alive = peak = 0
    for index, equation in enumerate(jaxpr.eqns):
        inner = max((peak_bytes(body) for body in bodies(equation)), default=0)
        made |= set(equation.outvars)
        alive += sum(_bytes(v.aval) for v in equation.outvars)
        peak = max(peak, alive + inner)
        used = {v for v in equation.invars if not hasattr(v, "val")} | set(equation.outvars)
        over = {v for v in used & made - kept if last_use.get(v, index) <= index}
        alive -= sum(_bytes(v.aval) for v in over)
        made -= over
    return peak


def columns_together(n: int, itemsize: int, column_bytes: int, max_bytes: int) -> int:
    """Choose how many columns to compute together, a divisor of n if one is near.

    As many as take a quarter of the result, but 8 at least and 32 at most, and never more
    than fit into what `max_bytes` leaves.
    """
    result = n * n * itemsize
    fair = int(_SHARE * result / max(column_bytes, 1))
    room = int((max_bytes - 2 * result) / max(column_bytes, 1))
    target = max(1, min(n, _MOST, max(fair, _FEWEST), room))
    # Without a remainder XLA has one loop body to compile instead of two.
    near = (c for c in range(target, target // 2, -1) if n % c == 0)
    return next(near, target)


def checked_bytes(max_bytes: Any) -> int | None:
    """Return `max_bytes` as a whole number, or raise."""
    if max_bytes is None:
        return None
    number = isinstance(max_bytes, int | float | np.integer | np.floating)
    if isinstance(max_bytes, bool) or not number or not 0 < max_bytes < float("inf"):
        raise ValueError(f"`max_bytes` must be a positive number, got {max_bytes!r}.")
    return int(max_bytes)


def room_for_hessian(n: int, itemsize: int, max_bytes: int | None, devices: int = 1) -> int:
    """Return the bytes there are, or raise if the Hessian and its transpose take more."""
    memory, owner = _memory(devices)
    if max_bytes is not None and max_bytes < memory:
        memory, owner = max_bytes, "`max_bytes` is"
    needed = 2 * n * n * itemsize
    if needed > memory:
        raise ValueError(
            f"The dense Hessian of {n} variables takes {needed / 2e9:.3g} GB, and as much "
            f"again while it is made symmetric, but {owner} {memory / 1e9:.3g} GB. Use "
            "products H v instead, `hvp`, or method='newton_cg' in `minimize`; where most "
            "entries are zero, `sparse.hessian`."
        )
    return int(memory)


def _memory(devices: int) -> tuple[float, str]:
    """Return the bytes of memory of the devices that compute, and whose they are."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and stats.get("bytes_limit"):
        return devices * stats["bytes_limit"], "the memory of the device is"
    try:
        pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not told on this system
        return float("inf"), ""
    return float(np.prod(pages, dtype=float)), "this machine has"


def _bytes(aval: Any) -> int:
    """Size of one abstract array; 0 for tokens and keys."""
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return int(np.prod(getattr(aval, "shape", (0,)))) * int(itemsize)
