"""Orders of convergence: the error after a step against the error before it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradlab.compare.order import Order
from gradlab.plots._labels import legend_beside
from gradlab.plots._style import QUIET, SMALL, Axes, axes_for, looks, plain

__all__ = ["plot_convergence_order"]

# Dots of one method; a linearly convergent run has thousands of steps, all on one line.
_MOST_DOTS = 60
_DECADE = 10.0


def plot_convergence_order(orders: Mapping[str, Order], *, ax: Axes | None = None) -> Axes:
    r"""Draw the error after each step against the error before it, and the fitted lines.

    On logarithmic axes the slope is the order: linear convergence runs parallel to the grey
    line of slope 1, on which nothing is gained, quadratic convergence parallel to slope 2.

    Args:
        orders: By label, what `convergence_order` returned.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If there is no step to draw.
    """
    drawn = {name: order for name, order in orders.items() if len(order.pairs)}
    if not drawn:
        raise ValueError("`orders` must hold at least one step within the range, got none.")
    ax = axes_for(ax, (6.8, 4.6))
    every = np.concatenate([order.pairs for order in drawn.values()])
    ax.set(xscale="log", yscale="log")
    low, high = every.min() / _DECADE, every.max() * _DECADE
    ax.set(
        xlim=(every[:, 0].min() / 3, every[:, 0].max() * 3),
        ylim=(low, high),
    )
    _draw_guides(ax)
    look, handles = looks(list(orders)), []
    for name, order in drawn.items():
        x, y = _thinned(order.pairs).T
        style = look[name] | {"marker": look[name]["marker"] or "o"}
        label = plain(f"{name}, slope {order.order:.2f}")
        (dots,) = ax.plot(x, y, linestyle="none", markersize=4.5, label=label, **style)
        handles.append(dots)
        if np.isfinite(order.order):
            ends = np.asarray([order.pairs[:, 0].min(), order.pairs[:, 0].max()])
            ax.plot(
                ends,
                order.constant * ends**order.order,
                color=look[name]["color"],
                linewidth=1.4,
                zorder=1.9,
            )
    ax.set_xlabel("error before the step, $e_k$")
    ax.set_ylabel("error after it, $e_{k+1}$")
    legend_beside(ax, handles)
    return ax


def _draw_guides(ax: Axes) -> None:
    """Draw lines of slope 1 and 2 through the right end, named where they leave the axes."""
    (left, right), bottom = ax.get_xlim(), ax.get_ylim()[0]
    for slope in (1, 2):
        start = max(left, right * (bottom / right) ** (1 / slope))
        x = np.asarray([start, right])
        ax.plot(x, right * (x / right) ** slope, color=QUIET, linewidth=0.8, zorder=1)
        # No dots lie left of slope 1, and few right of the lower end of slope 2.
        share = 1 / 3 if slope == 1 else 0.1
        x_name = start ** (1 - share) * right**share
        ax.annotate(
            f"slope {slope}",
            (x_name, right * (x_name / right) ** slope),
            xytext=(-6, 6) if slope == 1 else (5, -2),
            textcoords="offset points",
            ha="right" if slope == 1 else "left",
            va="bottom" if slope == 1 else "top",
            fontsize=SMALL - 1,
            color=QUIET,
        )


def _thinned(pairs: np.ndarray) -> np.ndarray:
    """Return at most `_MOST_DOTS` pairs, spread evenly over the logarithm of the error."""
    if len(pairs) <= _MOST_DOTS:
        return pairs
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    wanted = np.geomspace(pairs[0, 0], pairs[-1, 0], _MOST_DOTS)
    return pairs[np.unique(np.searchsorted(pairs[:, 0], wanted).clip(0, len(pairs) - 1))]
