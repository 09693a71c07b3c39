"""Learning rates: what a short run with each candidate reached, and which was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradlab.compare.comparison import Comparison
from gradlab.compare.run import Sweep
from gradlab.plots._labels import label_lines
from gradlab.plots._style import Axes, axes_for, draw_level, looks, plain, title, write_note

__all__ = ["plot_learning_rates"]

_LEAST = 1e-16  # of the start's gap: what float64 can still tell from the reference
_ROW = 0.05  # height of a row of crosses, as a share of the decades below it
_SMALLEST_ROW = 1.3  # the same as a factor, where there are hardly any


def plot_learning_rates(runs: Comparison | Sequence[Sweep], *, ax: Axes | None = None) -> Axes:
    """Draw the loss left after a short run against the learning rate, a line per method.

    A ring marks the rate that was chosen. Rates whose run did not end below its start are
    crosses above the dotted line, a row per method. The loss is relative: 1 is the start,
    0 the problem's minimum or, where that is not known, the best loss seen.

    Args:
        runs: A `Comparison` that tuned its learning rates, or some of its `sweeps`.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If no learning rate was tuned, or the sweeps are of several problems.
    """
    sweeps = runs.sweeps if isinstance(runs, Comparison) else tuple(runs)
    problems = list(dict.fromkeys(sweep.problem for sweep in sweeps))
    if len(problems) != 1:
        raise ValueError(
            f"`runs` must hold the sweeps of one problem, got those of {problems}. "
            + ("Choose one: runs.select(problem=...)." if problems else "Nothing was tuned.")
        )
    ax = axes_for(ax)
    least, name = _reference(runs, sweeps, problems[0])
    methods = runs.methods if isinstance(runs, Comparison) else ()
    look = looks(list(dict.fromkeys([*methods, *(sweep.method for sweep in sweeps)])))
    with np.errstate(over="ignore"):  # of a rate that diverged
        left = [(s.losses - least) / (s.start_loss - least) for s in sweeps]
    floor = _floor(np.concatenate(left))
    left = [np.maximum(y, floor) for y in left]
    good = [
        float(np.min(y[~s.diverged], initial=1.0)) for y, s in zip(left, sweeps, strict=True)
    ]
    row = max(min(good) ** -_ROW, _SMALLEST_ROW)
    lines = [
        _draw(ax, sweep, y, row ** (rank + 1), look[sweep.method])
        for rank, (sweep, y) in enumerate(zip(sweeps, left, strict=True))
    ]
    ax.set_xscale("log")
    ax.set_yscale("log")
    top = row ** (len(sweeps) + 2)
    ax.set_ylim(top=top)
    if any(sweep.diverged.any() for sweep in sweeps):
        write_note(ax, "× diverged, or no better than the start", top, below=True)
    draw_level(ax, 1.0, "")
    if any(np.any(y == floor) for y in left):
        draw_level(ax, floor, name)
    ax.set_xlabel("learning rate")
    ax.set_ylabel(f"loss after {max(s.steps for s in sweeps)} steps\n1 = start, 0 = {name}")
    title(ax, problems[0])
    label_lines(ax, lines, gap=10.0)  # beyond the rings
    return ax


def _reference(runs: Any, sweeps: Sequence[Sweep], problem: str) -> tuple[float, str]:
    """Return the loss counted as 0, and what it is."""
    seen = [float(np.min(s.losses[~s.diverged], initial=s.start_loss)) for s in sweeps]
    if isinstance(runs, Comparison):
        if problem in runs.minima:
            return float(runs.minima[problem]), "minimum"
        seen.append(runs.best_loss(problem))
    return float(np.nanmin(seen)), "best seen"


def _floor(left: np.ndarray) -> float:
    """Return the height at which what is left counts as nothing: a decade below the rest."""
    rest = left[np.isfinite(left) & (left > _LEAST)]
    return max(_LEAST, 10.0 ** (np.floor(np.log10(rest.min(initial=1.0))) - 1.0))


def _draw(ax: Axes, sweep: Sweep, left: np.ndarray, row: float, style: dict[str, Any]) -> Any:
    """Draw one method's candidates: a line, its crosses, and the ring; return the line."""
    bad = sweep.diverged
    style = {**style, "marker": style["marker"] or "o", "markerfacecolor": style["color"]}
    (line,) = ax.plot(
        sweep.rates[~bad],
        left[~bad],
        linewidth=1.6,
        markersize=4.5,
        label=plain(sweep.method),
        **style,
    )
    ax.plot(
        sweep.rates[bad],
        np.full(bad.sum(), row),
        color=style["color"],
        marker="x",
        markersize=5.5,
        markeredgewidth=1.6,
        linestyle="none",
    )
    if sweep.chosen is not None:
        at = int(np.argmin(np.abs(np.log(sweep.rates / sweep.chosen))))
        ax.plot(
            sweep.rates[at],
            left[at],
            marker="o",
            markersize=12,
            markerfacecolor="none",
            markeredgecolor=style["color"],
            markeredgewidth=1.8,
            zorder=4,
        )
    return line
