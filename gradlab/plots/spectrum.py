"""Spectra: the size and the sign of a Hessian's eigenvalues."""

from __future__ import annotations

import numpy as np

from gradlab.plots._labels import legend_beside
from gradlab.plots._style import BLUE, QUIET, VERMILLION, Axes, Numbers, axes_for

__all__ = ["plot_spectrum"]


def plot_spectrum(eigenvalues: Numbers, *, ax: Axes | None = None) -> Axes:
    r"""Draw the sizes of eigenvalues in decreasing order, with a mark that tells the sign.

    An eigenvalue no larger than $n\,\varepsilon\,\max_i |\lambda_i|$ cannot be told from
    zero, because rounding the matrix moves its eigenvalues by about as much; it is drawn
    grey, on that level.

    Args:
        eigenvalues: Real eigenvalues, shape (n,), in any order.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If `eigenvalues` is empty, not of shape (n,), complex, or not finite.

    Examples:
        >>> ax = plot_spectrum([100.0, 1.0, -0.5])
        >>> print(ax.get_yscale(), [text.get_text() for text in ax.get_legend().get_texts()])
        log ['positive: 2', 'negative: 1']
        >>> import matplotlib.pyplot as plt
        >>> plt.close(ax.figure)
    """
    values = np.asarray(eigenvalues)
    real = np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)
    if not real or values.ndim != 1 or not values.size or not np.all(np.isfinite(values)):
        raise ValueError(
            "`eigenvalues` must be real, finite and of shape (n,) with n ≥ 1, got "
            f"{values.dtype} of shape {values.shape}."
        )
    from matplotlib.ticker import MaxNLocator

    eps = np.finfo(values.dtype if values.dtype.kind == "f" else np.float64).eps
    values = values.astype(float)
    values = values[np.argsort(-np.abs(values), kind="stable")]
    level = len(values) * float(eps) * abs(values[0]) or 1.0  # 1 where all are exactly zero
    ax = axes_for(ax)
    ax.set_yscale("log")
    handles = []
    ranks, sizes = np.arange(1, len(values) + 1), np.maximum(np.abs(values), level)
    for name, chosen, marker, color in (
        ("positive", values > level, "o", BLUE),
        ("negative", values < -level, "v", VERMILLION),
        ("zero within rounding", np.abs(values) <= level, "s", QUIET),
    ):
        if np.any(chosen):
            face = "white" if name.startswith("zero") else color
            label = f"{name}: {np.sum(chosen)}"
            handles += ax.plot(
                ranks[chosen],
                sizes[chosen],
                color=color,
                marker=marker,
                markerfacecolor=face,
                markersize=5,
                linestyle="none",
                label=label,
            )
    ax.set_xlabel("rank")
    ax.set_ylabel("size of the eigenvalue")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    legend_beside(ax, handles)
    return ax
