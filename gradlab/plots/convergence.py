"""Convergence: how fast each method goes down, against what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from gradlab._errors import check_choice
from gradlab.compare.comparison import Comparison
from gradlab.compare.run import Run
from gradlab.plots._labels import key_of, label_panels, legend_beside
from gradlab.plots._runs import Runs, as_comparison
from gradlab.plots._style import (
    Axes,
    axes_for,
    draw_level,
    line_styles,
    looks,
    plain,
    title,
)

__all__ = ["plot_convergence"]

_X_LABELS = {
    "cost": "cost / gradient evaluations",
    "steps": "steps",
    "time": "time / s (compilation excluded)",
}
_Y_LABELS = {"loss": "loss", "grad_norm": "largest gradient entry"}
# Ends further apart than this factor make a linear axis hide the fast methods.
_LINEAR_SPREAD = 20.0
_HEADROOM = 10.0  # how far above its start a diverging line is still followed
_BAND = (0.2, 0.8)  # quantiles between which the middle 60 % of the starts lie


class _Curve(NamedTuple):
    """One line: the median over starts, and the band around it."""

    runs: list[Run]
    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@overload
def plot_convergence(
    runs: Runs, x: str = ..., y: str = ..., *, ax: Axes | None = ...
) -> Axes: ...


@overload
def plot_convergence(
    runs: Runs, x: str = ..., y: str = ..., *, ax: Sequence[Axes] | np.ndarray
) -> list[Axes]: ...


def plot_convergence(
    runs: Runs,
    x: str = "cost",
    y: str = "gap",
    *,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
) -> Axes | list[Axes]:
    """Draw how far each run had come, against cost, steps or time.

    The gap is the loss minus the problem's minimum where that is known, and otherwise minus
    the best loss seen by any of the runs; the axis says which. Values that rounding hides
    (zero or negative gaps) lie on a dotted floor line instead of vanishing from the
    logarithmic axis, and a run that diverged ends in a cross. Runs that differ only in
    their start are drawn as their median and the band that holds the middle 60 %.

    Args:
        runs: A `Comparison` of one problem, a `Result`, a `Trace`, or a dict of the last two.
        x: "cost" in gradient equivalents (see `Trace.cost`), "steps" or "time".
        y: "gap", "loss" or "grad_norm".
        ax: Axes to draw on; by default those of a new figure. Several axes of one figure,
            such as `plt.subplots` returns, take a problem each, and those left over vanish.

    Returns:
        The axes; of several, a list of those drawn on.

    Raises:
        ValueError: If `x` or `y` is unknown, if there is no run with a history, or if the
            runs are of more problems than there are axes.
    """
    check_choice("x", x, _X_LABELS)
    check_choice("y", y, ("gap", *_Y_LABELS))
    comparison = as_comparison(runs)
    several = isinstance(ax, Sequence | np.ndarray)
    problems = comparison.problems if several else (_only_problem(comparison),)
    parts = [comparison.select(problem=problem) for problem in problems]
    if any(all(run.trace is None for run in part.runs) for part in parts):
        raise ValueError("`runs` must hold at least one run with a history, got none.")
    if isinstance(ax, Sequence | np.ndarray):
        panels = list(np.ravel(np.asarray(ax, dtype=object)))
    else:
        panels = [axes_for(ax)]
    if len(problems) > len(panels):
        raise ValueError(
            f"`ax` must hold axes for {len(problems)} problems, {list(problems)}, "
            f"got {len(panels)}."
        )
    drawn = list(zip(panels, problems, parts, strict=False))
    label_panels([(panel, _draw_problem(part, p, x, y, panel)) for panel, p, part in drawn])
    for panel in panels[len(problems) :]:
        panel.set_visible(False)
    return panels[: len(problems)] if several else panels[0]


def _draw_problem(comparison: Comparison, problem: str, x: str, y: str, ax: Axes) -> list[Any]:
    """Draw one problem's runs; return the lines that are still without a name."""
    shift, y_label = _reference(comparison, problem) if y == "gap" else (0.0, _Y_LABELS[y])
    curves = [_curve(label, group, x, y, shift) for label, group in comparison.groups.items()]
    curves = [curve for curve in curves if len(curve.x)]
    logarithmic = y != "loss" or all(np.all(curve.y > 0) for curve in curves)
    ax.set_xlabel(_X_LABELS[x])
    ax.set_ylabel(y_label)
    title(ax, problem + _failures(comparison))
    _scale_x(ax, curves)
    floor = None
    if logarithmic:
        curves, floor = _on_log_axis(curves, _rounding(comparison, shift))
        ax.set_yscale("log")
    look, styles = looks(comparison.methods), line_styles(comparison.derivatives)
    lines = [_draw(ax, curve, look, styles) for curve in curves]
    if floor is not None:
        draw_level(ax, *floor)
    if len(styles) == 1:
        return lines
    legend_beside(ax, key_of(look, styles))
    return []


def _only_problem(comparison: Comparison) -> str:
    """Return the one problem's name, or say how to choose one."""
    if len(comparison.problems) > 1:
        raise ValueError(
            f"`runs` are of {len(comparison.problems)} problems, {list(comparison.problems)}, "
            "whose losses do not compare. Choose one: runs.select(problem=...), or give `ax` "
            "axes for each."
        )
    return comparison.problems[0]


def _failures(comparison: Comparison) -> str:
    """Name the lines that are missing because their runs raised an error."""
    failed = [
        label
        for label, runs in comparison.groups.items()
        if all(run.error is not None for run in runs)
    ]
    return f" (failed: {'; '.join(failed)})" if failed else ""


def _reference(comparison: Comparison, problem: str) -> tuple[float, str]:
    """Return the loss that gaps are measured from, and what to call them."""
    if problem in comparison.minima:
        return float(comparison.minima[problem]), "loss − minimum"
    return comparison.best_loss(problem), "loss − best loss seen"


def _rounding(comparison: Comparison, shift: float) -> float:
    """Return the size below which a gap to `shift` is only rounding."""
    eps = [
        np.finfo(np.asarray(run.trace.loss).dtype).eps
        for run in comparison.runs
        if run.trace is not None
    ]
    return float(max(eps) * abs(shift))


def _curve(label: str, runs: list[Run], x: str, y: str, shift: float) -> _Curve:
    """Read one line off the runs that share a label."""
    runs = [run for run in runs if run.trace is not None]
    histories = [_history(run, x, y, shift) for run in runs]
    histories = [h for h in histories if len(h[0])]
    if len(histories) == 1:
        return _Curve(runs, label, *histories[0])
    if not histories:
        return _Curve(runs, label, np.empty(0), np.empty(0))
    grid = np.unique(np.concatenate([h[0] for h in histories]))
    # A run that has ended keeps its last value: it would have stayed where it is.
    values = np.stack(
        [v[np.clip(np.searchsorted(g, grid, side="right") - 1, 0, None)] for g, v in histories]
    )
    low, high = np.quantile(values, _BAND, axis=0, method="inverted_cdf")
    return _Curve(runs, label, grid, np.median(values, axis=0), low, high)


def _history(run: Run, x: str, y: str, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Return one run's line up to the last finite value."""
    trace = run.trace
    assert trace is not None
    horizontal = trace.seconds if x == "time" else getattr(trace, x)
    vertical = np.asarray(trace.grad_norm if y == "grad_norm" else trace.loss, dtype=float)
    horizontal = np.asarray(horizontal, dtype=float)
    finite = np.isfinite(horizontal) & np.isfinite(vertical)
    return horizontal[finite], vertical[finite] - shift


def _scale_x(ax: Axes, curves: list[_Curve]) -> None:
    """Make the horizontal axis logarithmic when the runs end far apart."""
    ends = [curve.x[-1] for curve in curves if curve.x[-1] > 0]
    if not ends:
        return
    values = np.concatenate([curve.x for curve in curves])
    if max(ends) > _LINEAR_SPREAD * min(ends):
        if values.min() > 0:
            ax.set_xscale("log")
        else:  # step 0 and time 0 keep their place, left of the first power of ten
            ax.set_xscale("symlog", linthresh=float(values[values > 0].min()), linscale=0.4)
    ax.set_xlim(right=max(ends))  # the longest lines end where their names begin


def _on_log_axis(
    curves: list[_Curve], rounding: float
) -> tuple[list[_Curve], tuple[float, str] | None]:
    """Fit curves to a logarithmic axis; return them, and the floor where one is needed."""
    values = np.concatenate([v for c in curves for v in (c.y, c.low, c.high) if v is not None])
    shown = values[values > rounding]
    least = float(shown.min()) if shown.size else 1.0
    tame = [c.y.max() for c in curves if not any(run.diverged for run in c.runs)]
    ceiling = _HEADROOM * max([c.y[0] for c in curves] + tame + [least])
    floor = None
    if np.any(values <= rounding):
        decade = 10.0 ** (np.floor(np.log10(least)) - 1.0)
        floor = (rounding, "rounding") if rounding > decade else (decade, "zero")
    return [_clipped(curve, floor[0] if floor else None, ceiling) for curve in curves], floor


def _clipped(curve: _Curve, floor: float | None, ceiling: float) -> _Curve:
    """Lift a curve to the floor, and end it where it leaves through the ceiling for good."""
    bounds = (floor, ceiling)
    above = np.flatnonzero(curve.y <= ceiling)
    end = len(curve.y)
    if any(run.diverged for run in curve.runs) and above.size:
        end = min(end, int(above[-1]) + 2)
    low, high = (
        None if v is None else np.clip(v[:end], *bounds) for v in (curve.low, curve.high)
    )
    y = np.clip(curve.y[:end], *bounds)
    return curve._replace(x=curve.x[:end], y=y, low=low, high=high)


def _draw(ax: Axes, curve: _Curve, look: dict[str, Any], styles: dict[str, Any]) -> Any:
    """Draw line, band, and end point or cross; return the line."""
    style = look[curve.runs[0].method]
    (line,) = ax.plot(
        curve.x,
        curve.y,
        linestyle=styles[curve.runs[0].derivative],
        linewidth=1.8,
        markersize=5,
        markevery=max(1, len(curve.x) // 8),
        label=plain(curve.label),
        **style,
    )
    color = style["color"]
    if curve.low is not None and curve.high is not None:
        ax.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
    mark: dict[str, Any] = {"marker": "o", "markersize": 4.5}
    if any(run.diverged for run in curve.runs):
        mark = {"marker": "x", "markersize": 9, "markeredgewidth": 2.2}
    ends: dict[str, Any] = {"linestyle": "none", "zorder": 4, "clip_on": False}
    ax.plot(curve.x[-1:], curve.y[-1:], color=color, **mark, **ends)
    return line
