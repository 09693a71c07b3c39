"""Trajectories: the iterates of each run over the contours of a loss of two variables."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gradlab._typing import PyTree
from gradlab.compare.run import Run
from gradlab.plots._labels import key_of, legend_beside
from gradlab.plots._runs import Runs, as_comparison
from gradlab.plots._style import (
    INK,
    Axes,
    axes_for,
    line_styles,
    looks,
    title,
)
from gradlab.problems.registry import Problem

__all__ = ["plot_trajectories"]

Box = tuple[tuple[float, float], tuple[float, float]]

_GRID = 241  # points along each side: one every 2 pixels of the default figure
_NUM_LEVELS = 14
_FEW = 80  # up to so many iterates every one gets its dot
_FAR = 1e3  # box widths; beyond, drawing coordinates overflow and direction says enough


def plot_trajectories(
    runs: Runs, problem: Problem, *, box: Box | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the path of each run over the contours of a loss of two variables.

    The levels are spaced by the logarithm of the loss above its smallest value. A circle
    marks the start and a star the minimiser. A path that leaves the window is cut at its
    edge and comes back where it returns.

    Args:
        runs: Runs that recorded their iterates: `compare(..., trace="params")`, or Results
            and Traces of `minimize(..., trace="params")`.
        problem: The problem, for its loss, window and minimiser.
        box: Window `((xlo, xhi), (ylo, yhi))`; by default `problem.plot_box`.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the problem has not two variables, has no window, or a run did not
            record its iterates.
    """
    comparison = as_comparison(runs)
    box = _checked_box(problem, box)
    paths = [(run, _path(run)) for run in comparison.runs if run.trace is not None]
    ax = axes_for(ax, (6.8, 5.0))
    ax.grid(False)
    _draw_contours(ax, problem, box)
    look, styles = looks(comparison.methods), line_styles(comparison.derivatives)
    for run, path in paths:
        _draw_path(ax, path, box, look[run.method]["color"], styles[run.derivative])
    marks = _mark_ends(ax, problem, [path[0] for _, path in paths])
    ax.set(xlim=box[0], ylim=box[1], xlabel="$x_1$", ylabel="$x_2$")
    title(ax, problem.name)
    key = key_of(look, styles if len(styles) > 1 else {})
    legend_beside(ax, [*key, *marks])
    return ax


def _checked_box(problem: Problem, box: Box | None) -> Box:
    """Return the window, or say what is missing."""
    if problem.num_params != 2:
        raise ValueError(
            f"`problem` must have two variables, but {problem.name!r} has {problem.num_params}."
        )
    box = problem.plot_box if box is None else box
    if box is None:
        raise ValueError(
            f"`box` must be given: {problem.name!r} names no window. "
            "Pass box=((xlo, xhi), (ylo, yhi))."
        )
    return box


def _path(run: Run) -> np.ndarray:
    """Return a run's iterates up to the last finite one, shape (k + 1, 2)."""
    assert run.trace is not None
    if run.trace.params is None:
        raise ValueError(
            f"`runs` must have recorded their iterates, but {run.method!r} did not. "
            'Pass trace="params" to compare or minimize.'
        )
    path = _flat(run.trace.params, rows=len(run.trace.loss))
    finite = np.all(np.isfinite(path), axis=1)
    return path[: len(path) if finite.all() else int(np.argmin(finite))]


def _flat(params: PyTree, rows: int) -> np.ndarray:
    """Join the leaves of the iterates as columns."""
    leaves = [
        np.asarray(leaf, dtype=float).reshape(rows, -1) for leaf in jax.tree.leaves(params)
    ]
    return np.concatenate(leaves, axis=1)


def _draw_contours(ax: Axes, problem: Problem, box: Box) -> None:
    """Draw level lines at logarithmic distances above the smallest loss in the window."""
    x, y = (np.linspace(low, high, _GRID) for low, high in box)
    _, unravel = ravel_pytree(problem.init())
    points = jnp.stack([jnp.ravel(side) for side in np.meshgrid(x, y)], axis=1)
    losses = jax.vmap(lambda point: problem.loss(unravel(point), *problem.args))(points)
    heights = np.asarray(losses, dtype=float).reshape(_GRID, _GRID)
    finite = heights[np.isfinite(heights)]
    if not finite.size or np.ptp(finite) == 0:
        return
    least = finite.min() if problem.minimum is None else min(problem.minimum, finite.min())
    # Zero has no logarithm; a quantile, unlike the least gap, does not hang on one point.
    gaps = np.quantile(finite[finite > least] - least, [0.002, 0.995])
    if gaps[0] == gaps[1]:
        return
    levels = np.linspace(np.log10(gaps[0]), np.log10(gaps[1]), _NUM_LEVELS)
    with np.errstate(invalid="ignore", divide="ignore"):
        logarithms = np.log10(np.clip(heights - least, gaps[0] * 1e-3, None))
    logarithms = np.ma.masked_invalid(logarithms)
    ax.contourf(x, y, logarithms, levels=levels, cmap="Greys_r", alpha=0.28, extend="both")
    ax.contour(
        x, y, logarithms, levels=levels, colors="#9c9c9c", linewidths=0.5, linestyles="solid"
    )


def _draw_path(ax: Axes, path: np.ndarray, box: Box, color: str, style: Any) -> None:
    """Draw one path, its far points pulled in along their direction."""
    low, high = np.asarray(box, dtype=float).T
    centre, width = (low + high) / 2, high - low
    reach = np.max(np.abs(path - centre) / width, axis=1, keepdims=True)
    drawn = centre + (path - centre) / np.maximum(1.0, reach / _FAR)
    dots = len(path) <= _FEW
    ax.plot(
        drawn[:, 0],
        drawn[:, 1],
        color=color,
        linestyle=style,
        linewidth=1.6,
        marker="o" if dots else None,
        markersize=3.2,
        markeredgewidth=0.0,
    )


def _mark_ends(ax: Axes, problem: Problem, starts: list[np.ndarray]) -> list[Any]:
    """Mark where the runs start and where the minimiser is; return the marks."""
    ends: dict[str, Any] = {"markeredgecolor": INK, "linestyle": "none", "zorder": 5}
    marks = []
    if starts:
        points = np.unique(np.asarray(starts), axis=0)
        circle: dict[str, Any] = {"marker": "o", "markersize": 8, "markerfacecolor": "white"}
        marks += ax.plot(*points.T, markeredgewidth=1.4, label="start", **circle, **ends)
    if problem.minimizer is not None:
        target = _flat(problem.minimizer, rows=1)[0]
        star: dict[str, Any] = {"marker": "*", "markersize": 14, "markerfacecolor": "#F0E442"}
        marks += ax.plot(*target[:, None], label="minimiser", **star, **ends)
    return marks
