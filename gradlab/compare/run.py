"""One run of a comparison, and the short runs that chose its learning rate."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.result import Result, Status
from gradlab.trace import Trace

__all__ = ["Run", "Sweep", "trimmed"]

_DIVERGED = {Status.NONFINITE_START.name, Status.NONFINITE_LOSS.name, Status.UNBOUNDED.name}


@dataclass(frozen=True, eq=False)
class Run:
    """One method from one start.

    Attributes:
        problem: Name of the problem.
        method: Label of the method.
        derivative: Name of the derivative operator, "autodiff" unless told otherwise.
        seed: Seed of the start, or its number where starts were given.
        learning_rate: The learning rate used, or None where the method has none or hides it.
        result: What `minimize` returned, or None after a fault.
        trace: History as NumPy arrays, cut at the budget; None after a fault.
        error: The fault as "TypeError: …", or None.
        out_of_budget: Whether the history was cut because `max_cost` was spent.
    """

    problem: str
    method: str
    derivative: str = "autodiff"
    seed: int = 0
    learning_rate: float | None = None
    result: Result | None = None
    trace: Trace | None = None
    error: str | None = None
    out_of_budget: bool = False

    @property
    def status(self) -> str:
        """Name of the `Status`, "MAX_COST" when the budget ended the run, or "ERROR: …"."""
        if self.error is not None:
            return f"ERROR: {self.error}"
        if self.out_of_budget:
            return "MAX_COST"
        return "" if self.result is None else Status(int(self.result.status)).name

    @property
    def success(self) -> bool:
        """Whether a stopping test was met within the budget."""
        return self.result is not None and not self.out_of_budget and bool(self.result.success)

    @property
    def diverged(self) -> bool:
        """Whether the run ended because the loss left the finite numbers."""
        return self.status in _DIVERGED

    @property
    def steps(self) -> float:
        """Accepted steps; NaN after a fault."""
        return np.nan if self.trace is None else float(len(self.trace.loss) - 1)

    @property
    def cost(self) -> float:
        """Cost in gradient equivalents (see `Trace.cost`); NaN after a fault."""
        return np.nan if self.trace is None else float(self.trace.cost[-1])

    @property
    def seconds(self) -> float:
        """Wall time without compilation; NaN after a fault."""
        return np.nan if self.trace is None else float(self.trace.seconds[-1])

    @property
    def compile_seconds(self) -> float:
        """Time spent tracing and compiling; NaN after a fault."""
        return np.nan if self.trace is None else float(self.trace.compile_seconds)

    @property
    def loss(self) -> float:
        """Loss of the answer: the best finite one of the history unless a test was met."""
        if self.result is not None and not self.out_of_budget:
            return float(self.result.fun)
        return np.nan if self.trace is None else float(self.trace.loss[self._best_row()])

    @property
    def grad_norm(self) -> float:
        r"""Largest absolute gradient entry $\|g\|_\infty$ at the answer."""
        if self.result is not None and not self.out_of_budget:
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self.result.grad)]
            return max((float(np.max(np.abs(leaf))) for leaf in leaves), default=np.nan)
        return np.nan if self.trace is None else float(self.trace.grad_norm[self._best_row()])

    def _best_row(self) -> int:
        """Return the row of the smallest finite loss, or 0."""
        assert self.trace is not None
        loss = np.asarray(self.trace.loss, dtype=float)
        return int(np.argmin(np.where(np.isfinite(loss), loss, np.inf)))


@dataclass(frozen=True, eq=False)
class Sweep:
    """The short runs by which a learning rate was chosen, one entry a candidate.

    Attributes:
        problem: Name of the problem.
        method: Label of the method.
        derivative: Name of the derivative operator the sweep used.
        rates: The candidates, increasing.
        losses: The loss after the short run; NaN or infinite where it diverged.
        start_loss: The loss all of them started from.
        chosen: The rate chosen, or None when every candidate diverged.
        steps: Steps allowed to each candidate.
        cost: Cost of the whole sweep in gradient equivalents.
        seconds: Wall time of the whole sweep, compilation included.
    """

    problem: str
    method: str
    derivative: str
    rates: np.ndarray
    losses: np.ndarray
    start_loss: float
    chosen: float | None
    steps: int
    cost: float
    seconds: float

    @property
    def diverged(self) -> np.ndarray:
        """Which candidates ended without a finite loss below the start's."""
        return ~(np.isfinite(self.losses) & (self.losses < self.start_loss))


def trimmed(trace: Trace | None, rows: int | None = None) -> Trace:
    """Return a history as NumPy arrays, its first `rows` rows or those that are filled."""
    assert trace is not None
    trace = jax.device_get(trace)
    rows = int(trace.num_rows) if rows is None else rows
    fixed = ("num_rows", "num_params", "compile_seconds")
    return Trace(
        **{
            name: value if name in fixed else jax.tree.map(lambda leaf: leaf[:rows], value)
            for name, value in trace._asdict().items()
        }
    )._replace(num_rows=jnp.asarray(rows))
