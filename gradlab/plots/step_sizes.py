"""Step sizes: the error of a difference quotient against its step, the famous V."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradlab.plots._labels import label_lines
from gradlab.plots._style import Axes, Numbers, axes_for, draw_level, looks, plain

__all__ = ["plot_step_size_errors"]


def plot_step_size_errors(
    errors: Mapping[str, tuple[Numbers, Numbers]],
    *,
    optima: Mapping[str, Any] | None = None,
    noise_floor: float | int | None = None,
    relative: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the error of derivatives against the step they were taken with.

    Right of its lowest point a curve falls with the order of the formula, left of it the
    rounding of the function, divided by the step, takes over.

    Args:
        errors: By label, the steps and the errors there, both of shape (k,).
        optima: By label, the step that is predicted to be the best; marked on the curve.
        noise_floor: Level to draw as a line, such as the rounding of the result.
        relative: Whether the errors are relative to the derivative; for the axis's name.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If `errors` is empty, or steps and errors differ in shape.
    """
    curves = {label: _checked(label, *pair) for label, pair in errors.items()}
    if not curves:
        raise ValueError("`errors` must hold at least one curve, got none.")
    ax = axes_for(ax)
    ax.set_xscale("log")
    ax.set_yscale("log")
    positive = np.concatenate([e[e > 0] for _, e in curves.values()] + [np.empty(0)])
    least = float(positive.min()) if positive.size else 1.0
    floor = None
    if any(np.any(e == 0) for _, e in curves.values()):
        floor = 10.0 ** (np.floor(np.log10(least)) - 1.0)
    look, lines = looks(list(curves)), []
    for label, (steps, values) in curves.items():
        shown = values if floor is None else np.maximum(values, floor)
        (line,) = ax.plot(
            steps, shown, linewidth=1.8, markersize=5, label=plain(label), **look[label]
        )
        lines.append(line)
        if optima is not None and label in optima:
            _mark_optimum(ax, steps, shown, optima[label], look[label]["color"])
    if floor is not None:
        draw_level(ax, floor, "exact")
    if noise_floor is not None and noise_floor > 0:
        draw_level(ax, noise_floor, "rounding of the result", style="--")
    ax.set_xlabel("step")
    ax.set_ylabel("relative error" if relative else "absolute error")
    label_lines(ax, lines)
    return ax


def _checked(label: str, steps: Any, errors: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return one curve sorted by step, without entries that are not finite."""
    steps, errors = np.asarray(steps, dtype=float), np.abs(np.asarray(errors, dtype=float))
    if steps.ndim != 1 or steps.shape != errors.shape:
        raise ValueError(
            f"`errors[{label!r}]` must be a pair of equally long sequences, steps and errors, "
            f"got shapes {steps.shape} and {errors.shape}."
        )
    kept = np.isfinite(steps) & np.isfinite(errors) & (steps > 0)
    order = np.argsort(steps[kept], kind="stable")
    return steps[kept][order], errors[kept][order]


def _mark_optimum(
    ax: Axes, steps: np.ndarray, errors: np.ndarray, optimum: Any, color: str
) -> None:
    """Mark the predicted best step on its curve."""
    height = np.exp(np.interp(np.log(optimum), np.log(steps), np.log(errors)))
    ax.plot(
        optimum,
        height,
        marker="v",
        markersize=9,
        markerfacecolor="white",
        markeredgecolor=color,
        markeredgewidth=1.8,
        linestyle="none",
        zorder=4,
    )
