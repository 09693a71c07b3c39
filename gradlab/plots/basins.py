"""Basins of attraction: which minimum a method reaches from each start, and how fast."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradlab._errors import check_choice
from gradlab.compare.starts import Multistart
from gradlab.plots._style import INK, PALETTE, Axes, axes_for, figure_of, title

__all__ = ["plot_basins"]

# A basin's colour is mixed with white down to this share where the runs are shortest, and
# kept whole where they are longest.
_PALEST = 0.3
_NOWHERE = (0.25, 0.25, 0.25)  # starts that reached no minimum
# Steps and depths beyond this quantile are drawn alike, so that a few do not pale the rest.
_MOST = 0.98


def plot_basins(runs: Multistart, method: str, *, ax: Axes | None = None) -> Axes:
    """Colour each start of a grid by the minimum the method reached from it.

    Up to six minima have a colour each, the deepest blue, which is the darker the more steps
    the run took (on a logarithmic scale, the same for all methods of `runs`). More minima
    are coloured by their depth, told by a bar. Dark grey points reached no minimum.

    Args:
        runs: What `multistart` returned for starts on a `grid` in two variables.
        method: Label of the method.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the method is unknown, or the starts are no grid in two variables.
    """
    check_choice("method", method, runs.endings)
    x, y = _sides(runs.starts)
    ends = runs.endings[method]
    few = len(runs.minima) <= len(PALETTE)
    scale = None if few else _scale(runs)
    colors = _palette(len(runs.minima)) if scale is None else scale.to_rgba(runs.depths)[:, :3]
    colors = np.concatenate([colors, [_NOWHERE]])  # the last row is what -1 chooses
    share = np.where(ends.reached >= 0, _darkness(runs, method) if few else 1.0, 1.0)[:, None]
    image = (1 - share) + share * colors[ends.reached]
    ax = axes_for(ax, (5.2, 4.6))
    ax.grid(False)
    half = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    extent = (x[0] - half[0], x[-1] + half[0], y[0] - half[1], y[-1] + half[1])
    ax.imshow(
        image.reshape(len(y), len(x), 3),
        origin="lower",
        extent=extent,
        aspect="auto",
        interpolation="nearest",
    )
    shown = runs.minima if few else runs.minima[:1]
    star: dict[str, Any] = {"linestyle": "none", "markeredgecolor": INK, "clip_on": True}
    ax.plot(*shown.T, marker="*", markersize=11, markerfacecolor="white", **star)
    ax.set(xlim=extent[:2], ylim=extent[2:], xlabel="$x_1$", ylabel="$x_2$")
    title(ax, f"{runs.problem}: {method}")
    if scale is not None:
        figure_of(ax).colorbar(scale, ax=ax, label="loss at the minimum reached")
    return ax


def _sides(starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of the columns and rows of the grid."""
    if starts.ndim == 2 and starts.shape[1] == 2:
        x, y = np.unique(starts[:, 0]), np.unique(starts[:, 1])
        columns, rows = np.meshgrid(x, y)
        wanted = np.column_stack([columns.ravel(), rows.ravel()])
        if len(x) > 1 and len(y) > 1 and np.array_equal(wanted, starts):
            return x, y
    raise ValueError(
        "`runs` must have started from a grid in two variables. Pass "
        "starts=gradlab.compare.grid(box, resolution) to multistart."
    )


def _palette(count: int) -> np.ndarray:
    """Return the colours of a few minima, shape (count, 3)."""
    from matplotlib.colors import to_rgb

    return np.asarray([to_rgb(color) for color in PALETTE[:count]]).reshape(count, 3)


def _scale(runs: Multistart) -> Any:
    """Return the scale of colours from the deepest minimum to nearly the highest reached."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    every = np.concatenate([ends.reached[ends.reached >= 0] for ends in runs.endings.values()])
    high = float(np.quantile(runs.depths[every], _MOST))
    return ScalarMappable(Normalize(float(runs.depths[0]), high), "viridis")


def _darkness(runs: Multistart, method: str) -> np.ndarray:
    """Return the share of colour of each start, from the logarithm of its steps."""
    every = np.concatenate([ends.steps[ends.reached >= 0] for ends in runs.endings.values()])
    if not every.size:
        return np.ones(len(runs.starts))
    longest = max(2.0, float(np.quantile(every, _MOST)))
    steps = np.clip(runs.endings[method].steps, 1, longest)
    return _PALEST + (1 - _PALEST) * np.log(steps) / np.log(longest)
