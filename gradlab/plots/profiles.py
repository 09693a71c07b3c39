"""Performance and data profiles: which method is best, how often, and within what budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gradlab.compare.comparison import Comparison
from gradlab.compare.profile import Profile
from gradlab.plots._labels import label_lines
from gradlab.plots._style import Axes, axes_for, looks, plain, title

__all__ = ["plot_data_profile", "plot_performance_profile"]

_NOUNS = {"cost": "cost", "steps": "number of steps", "seconds": "time"}


def plot_performance_profile(
    runs: Comparison | Profile,
    *,
    tolerance: float = 1e-3,
    measure: str = "cost",
    ax: Axes | None = None,
) -> Axes:
    r"""Draw the share of problems each method solves within a factor of the best method.

    At factor 1 a line shows how often its method is the best; at its right end, how often
    it solves the problem at all. With more than two methods the order of the lines may
    change when one is left out, so read them in pairs (Gould & Scott 2016).

    Args:
        runs: A `Comparison` over many problems or starts, or its `Profile`.
        tolerance: Share of the possible decrease that may be left for a problem to count
            as solved; of no account if `runs` is a `Profile`.
        measure: "cost", "steps" or "seconds"; of no account if `runs` is a `Profile`.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If `measure` is unknown or `tolerance` not between 0 and 1.

    References:
        Dolan, E. D. & Moré, J. J. (2002). Benchmarking optimization software with
        performance profiles. Mathematical Programming 91, 201–213.
        Gould, N. & Scott, J. (2016). A note on performance profiles for benchmarking
        software. ACM Transactions on Mathematical Software 43, 15.
    """
    profile = runs
    if isinstance(profile, Comparison):
        profile = profile.profile(tolerance, measure=measure)
    ax = axes_for(ax)
    ratios = profile.ratios[np.isfinite(profile.ratios)]
    # A little beyond the last corner, so that the final shares can be seen; 2 at least.
    end = 1.15 * max(2.0, ratios.max(initial=1.0))
    lines = _draw(ax, profile, profile.curve, (1.0, end))
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda factor, _: f"{factor:g}")
    ax.set(xlim=(1.0, end), ylim=(-0.02, 1.02))
    ax.set_xlabel(f"{_NOUNS[profile.measure]} relative to the best method")
    ax.set_ylabel("share of problems solved")
    title(ax, f"{_count(profile)}, solved to {profile.tolerance:g} of the decrease")
    label_lines(ax, lines)
    return ax


def plot_data_profile(
    runs: Comparison | Profile, *, tolerance: float = 1e-3, ax: Axes | None = None
) -> Axes:
    r"""Draw the share of problems each method solves within a budget.

    The budget is in units of n + 1 losses, what a gradient by forward differences takes, so
    that problems of different sizes compare. Unlike a performance profile, a line does not
    depend on which other methods are there, as long as the least loss found does not.

    Args:
        runs: A `Comparison` over many problems or starts, or its `Profile` of cost.
        tolerance: Share of the possible decrease that may be left for a problem to count
            as solved; of no account if `runs` is a `Profile`.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If `tolerance` is not between 0 and 1, or a `Profile` is not of cost.

    References:
        Moré, J. J. & Wild, S. M. (2009). Benchmarking derivative-free optimization
        algorithms. SIAM Journal on Optimization 20, 172–191.
    """
    profile = runs.profile(tolerance) if isinstance(runs, Comparison) else runs
    ax = axes_for(ax)
    budgets = profile.budgets[np.isfinite(profile.budgets) & (profile.budgets > 0)]
    # A little beyond the first and the last corner, so that the shares there can be seen.
    window = budgets.min(initial=1.0) / 1.15, 1.15 * budgets.max(initial=2.0)
    lines = _draw(ax, profile, profile.data_curve, window)
    ax.set_xscale("log")
    ax.set(xlim=window, ylim=(-0.02, 1.02))
    ax.set_xlabel("budget / (n + 1) losses")
    ax.set_ylabel("share of problems solved")
    title(ax, f"{_count(profile)}, solved to {profile.tolerance:g} of the decrease")
    label_lines(ax, lines)
    return ax


def _draw(
    ax: Axes,
    profile: Profile,
    curve: Callable[[str], Any],
    window: tuple[float, float],
) -> list[Any]:
    """Draw the step function of every method across the window; return the lines."""
    look, lines = looks(profile.methods), []
    for method in profile.methods:
        places, shares = curve(method)
        (line,) = ax.plot(
            np.append(np.maximum(places, window[0]), window[1]),
            np.append(shares, shares[-1]),
            drawstyle="steps-post",
            linewidth=1.8,
            markersize=5,
            label=plain(method),
            clip_on=False,
            **look[method],
        )
        lines.append(line)
    return lines


def _count(profile: Profile) -> str:
    """Say over how many problems and starts the shares are taken."""
    starts = len(profile.problems)
    problems = len({key[0] if isinstance(key, tuple) else key for key in profile.problems})
    text = f"{problems} problem{'s' * (problems != 1)}"
    return text if starts == problems else f"{text} from {starts} starts"
