"""The parts of a comparison that a session keeps, so that none is run twice."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gradlab import _distributed, _fingerprint, _session
from gradlab._errors import check_choice
from gradlab._files import write_whole
from gradlab._json import read_json, to_json
from gradlab.compare.run import Sweep
from gradlab.optimizers.method import Method
from gradlab.sharding import SHARDS

__all__ = ["announce", "kept_sweep", "part", "wanted_shard"]

_ARRAYS = ("rates", "losses")


def part(*names: object) -> Path | None:
    """Return the file of a part, or None outside of a session that keeps parts."""
    session = _session.current()
    return None if session is None else session.part(*names)


def wanted_shard(shard: str | None) -> str | None:
    """Return what is to be spread over the devices: as told, or as the session has it."""
    session = _session.current()
    if shard is None and session is not None:
        shard = session.shard
    if shard is not None:
        check_choice("shard", shard, SHARDS)
    return shard


def announce(label: str) -> None:
    """Tell the session what comes next; raise if its time is up."""
    session = _session.current()
    if session is None:
        return
    session.label = label
    (left,) = _distributed.agreed(session.seconds_left())
    if left <= 0:
        session.cut = True
        raise _session.OutOfTimeError("the time was up before it began")


def kept_sweep(
    problem: str,
    label: str,
    method: Method,
    loss: Callable[..., Any],
    inputs: tuple[Any, ...],
    settings: Any,
    make: Callable[[], Sweep],
) -> Sweep:
    """Return the sweep that a session has kept, or make and keep it.

    `inputs` are the start and the loss's further arguments, `settings` whatever else the
    sweep depends on.
    """
    path = part("sweep", problem, label)
    if path is None:
        return make()
    path = path.with_suffix(".json")
    signature = {
        "versions": _fingerprint.environment(),
        "program": _fingerprint.of_program(jax.grad(loss), *inputs),
        "inputs": _fingerprint.of_values(inputs),
        "method": _fingerprint.of_values((repr(method), settings)),
    }
    try:
        found = read_json(path)
    except (OSError, ValueError):  # none, or damaged: it is soon made again
        found = None
    if isinstance(found, dict) and found.get("signature") == signature:
        told = found["sweep"]
        return Sweep(**{**told, **{name: np.asarray(told[name], float) for name in _ARRAYS}})
    sweep = make()
    told = {field.name: getattr(sweep, field.name) for field in dataclasses.fields(sweep)}
    with contextlib.suppress(OSError):  # a full disk must not cost the comparison
        write_whole(path, to_json({"signature": signature, "sweep": told}).encode())
    return sweep
