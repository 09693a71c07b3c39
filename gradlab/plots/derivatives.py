"""Derivatives compared: errors and costs as lines, derivatives of samples, error bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gradlab.plots._labels import label_lines, legend_beside
from gradlab.plots._style import (
    BLUE,
    FAINT,
    INK,
    Axes,
    Numbers,
    axes_for,
    darker,
    draw_level,
    looks,
    plain,
)

__all__ = ["plot_error_ranges", "plot_errors", "plot_samples"]


def plot_errors(
    lines: Mapping[str, tuple[Numbers, Numbers]],
    *,
    x_label: str,
    y_label: str,
    counted: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    ranges: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    log: str = "xy",
    ax: Axes | None = None,
) -> Axes:
    """Draw one named line for each method: errors, digits or costs, on logarithmic axes.

    Args:
        lines: By label, the horizontal and the vertical values, both of shape (k,); what is
            not finite is left out, and a zero is drawn on a floor line named "zero".
        x_label: What the horizontal axis measures, and its unit.
        y_label: What the vertical axis measures, and its unit.
        counted: By label, values that were counted or extrapolated and not measured; dashed,
            in the colour of the line with that label.
        ranges: By label, the lowest and the highest values at each point, both of shape
            (k,), drawn as thin bars behind the line.
        log: Which axes are logarithmic: "xy", "x", "y" or "".
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If `lines` is empty, or the values of a line differ in shape.

    Examples:
        >>> ax = plot_errors({"a": ([1, 10], [1e-2, 1e-4])}, x_label="steps", y_label="error")
        >>> print(ax.get_yscale(), len(ax.lines))
        log 1
    """
    drawn = {name: _checked(name, *pair) for name, pair in lines.items()}
    if not drawn:
        raise ValueError("`lines` must hold at least one line, got none.")
    ax = axes_for(ax)
    ax.set_xscale("log" if "x" in log else "linear")
    ax.set_yscale("log" if "y" in log else "linear")
    floor = _floor([y for _, y in drawn.values()]) if "y" in log else None
    look, named = looks(list(drawn)), []
    for name, (x, y) in drawn.items():
        shown = y if floor is None else np.maximum(y, floor)
        style = look[name]
        if len(x) < 12:
            style = style | {"marker": style.get("marker") or "o"}
        (line,) = ax.plot(x, shown, linewidth=1.8, markersize=5, label=plain(name), **style)
        named.append(line)
        if ranges is not None and name in ranges:
            low, high = (np.asarray(bound, dtype=float) for bound in ranges[name])
            ax.vlines(x, low, high, color=look[name]["color"], linewidth=1.2, alpha=0.5)
    for name, pair in (counted or {}).items():
        x, y = _checked(name, *pair)
        color = look[name]["color"] if name in look else INK
        ax.plot(x, y, linewidth=1.4, linestyle=(0, (2, 2)), color=color, zorder=1.5)
    if floor is not None:
        draw_level(ax, floor, "zero")
    ax.set_xlabel(plain(x_label))
    ax.set_ylabel(plain(y_label))
    label_lines(ax, named)
    return ax


def _checked(name: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return one line without what is not finite."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"`lines[{name!r}]` must be a pair of equally long sequences, got shapes "
            f"{x.shape} and {y.shape}."
        )
    kept = np.isfinite(x) & np.isfinite(y)
    return x[kept], y[kept]


def _floor(values: list[np.ndarray]) -> float | None:
    """Return a height below everything for zeros, if there are any."""
    every = np.concatenate([*values, np.empty(0)])
    positive = every[every > 0]
    if positive.size == every.size:
        return None
    least = float(positive.min()) if positive.size else 1.0
    return float(10.0 ** (np.floor(np.log10(least)) - 1.0))


def plot_samples(
    x: Numbers,
    derivatives: Numbers,
    exact: Callable[[np.ndarray], Any],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw derivatives at samples over the exact derivative, with the gaps between.

    Args:
        x: Samples, increasing, shape (n,).
        derivatives: Their derivatives, shape (n,).
        exact: The derivative as a function of an array.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Examples:
        >>> import numpy as np
        >>> x = np.linspace(0.0, 1.0, 5)
        >>> ax = plot_samples(x, np.gradient(x**2, x), lambda x: 2 * x)
        >>> print(len(ax.lines))
        2
    """
    ax = axes_for(ax)
    x, derivatives = np.asarray(x, dtype=float), np.asarray(derivatives, dtype=float)
    # 400 points look smooth at the width of any figure.
    fine = np.linspace(x[0], x[-1], 400)
    ax.plot(fine, exact(fine), color=INK, linewidth=1.4, label="exact")
    ax.vlines(x, exact(x), derivatives, color=BLUE, linewidth=1.2)
    ax.plot(x, derivatives, "o", color=BLUE, markersize=6, label="from samples")
    ax.set_xlabel("x")
    ax.legend(frameon=False, fontsize=9, labelcolor=[darker(INK), darker(BLUE)])
    return ax


def plot_error_ranges(
    groups: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    x_label: str,
    bars: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one row a group, and in it the median and the worst error of every method.

    Args:
        groups: By the name of a group, then of a method: a typical and a worst error, both
            positive. A name of a group may have several lines.
        x_label: What the errors are.
        bars: By group, an error that was announced beforehand; drawn as an upright stroke
            on the row of the group's last method.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If `groups` is empty.

    Examples:
        >>> ax = plot_error_ranges({"float32": {"central": (1e-5, 1e-4)}}, x_label="error")
        >>> print(ax.get_xscale())
        log
    """
    if not groups:
        raise ValueError("`groups` must hold at least one group, got none.")
    methods = list(dict.fromkeys(name for row in groups.values() for name in row))
    ax = axes_for(ax, (7.6, 0.9 + 0.85 * len(groups)))
    ax.set_xscale("log")
    look = looks(methods)
    named: dict[str, Any] = {}
    for place, (group, row) in enumerate(groups.items()):
        for rank, name in enumerate(row):
            # The methods of a group share four fifths of its row, from above.
            y = place + 0.8 * ((rank + 0.5) / len(row) - 0.5)
            low, high = row[name]
            color = look[name]["color"]
            ax.hlines(y, low, high, color=color, linewidth=1.8)
            (dot,) = ax.plot(low, y, "o", color=color, markersize=6, label=plain(name))
            named.setdefault(name, dot)
        if bars is not None and group in bars:
            (stroke,) = ax.plot(
                bars[group],
                y,
                "|",
                color=INK,
                markersize=11,
                markeredgewidth=2,
                label="its bar",
            )
            named["its bar"] = stroke
    ax.set_yticks(range(len(groups)), list(map(_lines_of, groups)))
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.grid(False, axis="y")
    for edge in range(1, len(groups)):
        ax.axhline(edge - 0.5, color=FAINT, linewidth=0.8)
    ax.set_xlabel(plain(x_label))
    legend_beside(ax, list(named.values()))
    return ax


def _lines_of(name: str) -> str:
    """Return a name so that matplotlib draws it as it is, in its own lines."""
    return "\n".join(map(plain, name.split("\n")))
