"""Performance profiles: which method is best, how often, and by how much."""

from __future__ import annotations

import numpy as np

from gradlab.compare.comparison import Comparison
from gradlab.compare.profile import Profile
from gradlab.plots._labels import label_lines
from gradlab.plots._style import Axes, axes_for, looks, plain, title

__all__ = ["plot_performance_profile"]

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
    look, lines = looks(profile.methods), []
    for method in profile.methods:
        factors, shares = profile.curve(method)
        (line,) = ax.plot(
            np.append(factors, end),
            np.append(shares, shares[-1]),
            drawstyle="steps-post",
            linewidth=1.8,
            markersize=5,
            label=plain(method),
            clip_on=False,
            **look[method],
        )
        lines.append(line)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda factor, _: f"{factor:g}")
    ax.set(xlim=(1.0, end), ylim=(-0.02, 1.02))
    ax.set_xlabel(f"{_NOUNS[profile.measure]} relative to the best method")
    ax.set_ylabel("share of problems solved")
    title(ax, f"{_count(profile)}, solved to {profile.tolerance:g} of the decrease")
    label_lines(ax, lines)
    return ax


def _count(profile: Profile) -> str:
    """Say over how many problems and starts the shares are taken."""
    starts = len(profile.problems)
    problems = len({key[0] if isinstance(key, tuple) else key for key in profile.problems})
    text = f"{problems} problem{'s' * (problems != 1)}"
    return text if starts == problems else f"{text} from {starts} starts"
