"""Whatever a plot of runs is given, as a `Comparison`."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from gradlab.compare.comparison import Comparison
from gradlab.compare.run import Run, trimmed
from gradlab.result import Result
from gradlab.trace import Trace

__all__ = ["Runs", "as_comparison"]

Runs = Comparison | Mapping[str, Trace | Result] | Trace | Result


def as_comparison(runs: Runs) -> Comparison:
    """Return `runs` as a comparison: one result or trace, or several by label.

    Raises:
        TypeError: If `runs` is none of these, or a result has no trace.
    """
    if isinstance(runs, Comparison):
        return runs
    if isinstance(runs, Trace | Result):
        runs = {"run": runs}
    if not isinstance(runs, Mapping):
        raise TypeError(
            "`runs` must be a Comparison, a Result, a Trace, or a dict of Results or Traces "
            f"by label, got {type(runs).__name__}."
        )
    return Comparison(tuple(_as_run(label, entry) for label, entry in runs.items()))


def _as_run(label: str, entry: Trace | Result) -> Run:
    """Wrap one labelled result or trace."""
    result = entry if isinstance(entry, Result) else None
    trace = entry.trace if isinstance(entry, Result) else entry
    if not isinstance(trace, Trace):
        raise TypeError(
            f"`runs[{label!r}]` must be a Trace or a Result with one, got "
            f"{type(entry).__name__}."
        )
    if np.ndim(trace.loss) != 1:
        raise ValueError(
            f"`runs[{label!r}]` must be the history of one run, but its losses have shape "
            f"{np.shape(trace.loss)}. Take one lane: jax.tree.map(lambda leaf: leaf[0], trace)."
        )
    return Run("", str(label), result=jax.device_get(result), trace=trimmed(trace))
