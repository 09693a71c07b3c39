"""Checks: Taylor remainders against the step, beside the slopes they should have."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradlab._errors import nearest
from gradlab.derivatives._check_report import CheckReport, Remainder
from gradlab.plots._labels import label_lines
from gradlab.plots._style import BLUE, QUIET, VERMILLION, Axes, axes_for, draw_level, title

__all__ = ["plot_check"]

_COLOURS = {1: BLUE, 2: VERMILLION}
_NAMES = {1: "less the gradient", 2: "less the Hessian too"}
# The remainder less both may lie on that less the gradient: it is drawn within it.
_SIZES = {1: 6.0, 2: 3.5}
_GRAVITY = ("wrong", "cannot tell", "right", "not told")


def plot_check(report: CheckReport, *, leaf: str | None = None, ax: Axes | None = None) -> Axes:
    r"""Draw the Taylor remainders of a check against the step, along one direction.

    What is left of f(x + t d) - f(x) when the gradient's part is taken away falls as t² if
    the gradient is right and as t if it is not; less the Hessian's part too, as t³. Filled
    points are the steps that can be trusted: clear of rounding, and short. Dotted lines
    have the slope that is right.

    Args:
        report: What `check_derivatives` returned.
        leaf: Name of the leaf (or group of leaves) to draw; by default one of the gravest
            verdict, of these the one with most points to trust.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the report holds no remainders, or none of that name.

    Examples:
        >>> from gradlab.derivatives.check import check_derivatives
        >>> ax = plot_check(check_derivatives(lambda x: jnp.sum(jnp.exp(x)), jnp.ones(3)))
        >>> print(ax.get_xlabel(), ax.get_xscale())
        step log
        >>> import matplotlib.pyplot as plt
        >>> plt.close(ax.figure)
    """
    curve = _chosen(report, leaf)
    ax = axes_for(ax)
    ax.set_xscale("log")
    ax.set_yscale("log")
    lines = []
    for order, values in curve.remainders.items():
        shown = (values > 0) & (curve.steps > 0)
        slope = curve.slopes[order]
        found = "no slope" if np.isnan(slope) else f"slope {slope:.1f}"
        label = f"{_NAMES[order]}: {found} ({order + 1} if right)"
        lines += _draw(ax, curve, order, shown, label)
        _draw_expected(ax, curve, order)
    if curve.noise > 0:
        draw_level(ax, curve.noise, "noise of f", style="--")
    ax.set_xlabel("step")
    ax.set_ylabel("Taylor remainder")
    title(ax, f"{curve.leaf}: {_verdict(report, curve)}")
    label_lines(ax, lines)
    return ax


def _chosen(report: CheckReport, leaf: str | None) -> Remainder:
    """Pick the remainder of one leaf."""
    curves = {r.leaf: r for r in report.remainders}
    if not curves:
        raise ValueError("`report` holds no Taylor remainders: f was not finite here.")
    if leaf is None:

        def interest(curve: Remainder) -> tuple[int, int]:
            points = sum(int(np.sum(trusted)) for trusted in curve.trusted.values())
            return _GRAVITY.index(_verdict(report, curve)), -points

        return min(curves.values(), key=interest)
    if leaf not in curves:
        raise ValueError(
            f"`leaf` must be one of {sorted(curves)}, got {leaf!r}.{nearest(leaf, curves)}"
        )
    return curves[leaf]


def _verdict(report: CheckReport, curve: Remainder) -> str:
    """The gravest verdict of the leaves of one curve."""
    names = curve.leaf.split(", ")
    states = {v.verdict for v in report.leaves if v.leaf in names}
    return next((s for s in _GRAVITY if s in states), "not told")


def _draw(ax: Axes, curve: Remainder, order: int, shown: np.ndarray, label: str) -> list[Any]:
    """Draw one remainder: a thin line, points filled where they can be trusted."""
    color, trusted = _COLOURS[order], curve.trusted[order]
    lines = ax.plot(
        curve.steps[shown],
        curve.remainders[order][shown],
        color=color,
        linewidth=1.2,
        marker="o",
        markersize=_SIZES[order],
        markerfacecolor="white",
        label=label,
    )
    both = shown & trusted
    ax.plot(
        curve.steps[both],
        curve.remainders[order][both],
        color=color,
        marker="o",
        markersize=_SIZES[order],
        linestyle="none",
    )
    return list(lines)


def _draw_expected(ax: Axes, curve: Remainder, order: int) -> None:
    """Draw the slope that is right through the longest step that can be trusted."""
    chosen = np.flatnonzero(curve.trusted[order])
    if len(chosen) < 2:
        return
    first, last = curve.steps[chosen[0]], curve.steps[chosen[-1]]
    height = curve.remainders[order][chosen[-1]]
    if curve.noise > 0:  # no farther down than the rounding of f
        first = max(first, last * (curve.noise / height) ** (1 / (order + 1)))
    ends = np.array([first, last])
    ax.plot(
        ends,
        height * (ends / last) ** (order + 1),
        color=QUIET,
        linewidth=1.0,
        linestyle=":",
        zorder=1,
    )
