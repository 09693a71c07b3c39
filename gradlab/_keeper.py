"""A run in its checkpoint: what it belongs to, and the last place where a chunk has ended."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

from gradlab import _engine as engine
from gradlab import _fingerprint
from gradlab._numbers import Problem
from gradlab._typing import Params
from gradlab.checkpoint import Checkpoint

__all__ = ["Keeper"]


class Keeper:
    """Keeps a run in its checkpoint, always at a point where a chunk has ended."""

    def __init__(
        self,
        file: Checkpoint,
        loop: Any,
        shapes: engine.Carry,
        problem: Problem,
        x0: Params,
        state: Any,
    ) -> None:
        """Take the traced loop and the shapes of what it carries."""
        self.file = file
        self.kept: tuple[engine.Carry, Any, int, float] | None = None
        self.written = self.found = False
        self.shapes: Any = shapes
        limit = np.zeros((), np.int32)  # a run may be given more steps later
        inputs = (problem._replace(max_steps=limit), x0, state)
        self.signature = {
            "versions": _fingerprint.environment(),
            "problem": _fingerprint.of_values(inputs),
            "program": _fingerprint.of_traced(loop),
        }

    def restore(self) -> tuple[engine.Carry, dict[str, Any]] | None:
        """Return the run as it was kept, or None if it is new."""
        rows = self.shapes.rows
        past = {
            "numbers": _Like(rows.numbers.dtype),
            "counts": _Like(rows.counts.dtype),
            "seconds": _Like(np.dtype(float)),
            "clock": _Like(np.dtype(float)),
            "params": jax.tree.map(lambda x: _Like(x.dtype), rows.params),
        }
        slim: Any = self.shapes._replace(rows=rows.first)
        found = self.file.read(self.signature, slim, past)
        if found is None:
            return None
        self.found = True
        carry, past = found
        empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), rows)
        return carry._replace(rows=empty._replace(first=carry.rows)), past

    def remember(self, carry: engine.Carry, history: Any, *, written: bool = False) -> None:
        """Note where the run stands, and whether the file says so already."""
        self.kept = (carry, history, len(history.numbers), history.clock)
        self.written = written

    def save(self) -> None:
        """Write what was remembered last."""
        if self.kept is None or self.written:
            return
        carry: Any
        carry, history, fetches, clock = self.kept
        # The rows are in the history already, and their buffer is large.
        slim = carry._replace(rows=carry.rows.first)
        try:
            self.file.write(self.signature, slim, history.first(fetches, clock))
        except OSError as error:  # a full disk must not cost the run itself
            warnings.warn(
                f"The run goes on, but cannot be kept: {error}.", UserWarning, stacklevel=2
            )
            return
        self.written = True


class _Like:
    """A leaf of which only the type is known."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
