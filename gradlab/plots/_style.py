"""What the figures share: colours, axes, labels that print as they are, files."""

from __future__ import annotations

import io
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab._files import write_whole
from gradlab._typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:  # matplotlib is imported when something is drawn, not before
    Axes = Figure = Any

__all__ = ["save_figure", "svg_of"]

Numbers = ArrayLike | Sequence[Any]  # an array, or a list of numbers

# Okabe & Ito (2008), "Color Universal Design": told apart by every kind of colour vision.
# Yellow is left out (too pale on white) and black kept for what is not a method.
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
# Once the colours are used up they come again, with the next marker on the line.
MARKERS = ("", "s", "^", "D", "v")
LINE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)), (0, (9, 3)))
INK, QUIET, FAINT = "#222222", "#6b6b6b", "#e4e4e4"
SMALL = 9  # points; the size of labels within the axes

_opened: weakref.WeakSet[Any] = weakref.WeakSet()


def axes_for(ax: Axes | None, size: tuple[float, float] = (6.8, 4.2)) -> Axes:
    """Return `ax`, or the axes of a new figure of `size` inches."""
    if ax is None:
        import matplotlib.pyplot as plt

        figure, ax = plt.subplots(figsize=size, layout="constrained")
        _opened.add(figure)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(QUIET)
    ax.tick_params(colors=QUIET, labelcolor=INK, labelsize=SMALL, which="both")
    ax.grid(True, which="major", color=FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def figure_of(ax: Axes) -> Figure:
    """Return the figure the axes belong to, also through nested subfigures."""
    return ax.figure.figure


def plain(label: object) -> str:
    """Return `label` so that matplotlib draws it as it is.

    A dollar sign would start mathematics, and a leading underscore would hide the entry
    from a legend: the first is escaped, the second follows a space of no width.
    """
    text = " ".join(str(label).split()).replace("$", r"\$")
    return "\u200b" + text if text.startswith("_") else text


def looks(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give every method its colour and marker, the same in every figure of a comparison."""
    return {
        method: {
            "color": PALETTE[i % len(PALETTE)],
            "marker": MARKERS[i // len(PALETTE) % len(MARKERS)],
            "markerfacecolor": "white",
        }
        for i, method in enumerate(methods)
    }


def line_styles(derivatives: Sequence[str]) -> dict[str, Any]:
    """Give every derivative operator its line style; the first is solid."""
    return {name: LINE_STYLES[i % len(LINE_STYLES)] for i, name in enumerate(derivatives)}


def darker(color: str) -> str:
    """Mix a colour with black, for thin strokes such as letters on white."""
    share = 0.72  # lifts the palest, sky blue, to the contrast of large print
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(share * part):02x}" for part in parts)


def title(ax: Axes, text: str) -> None:
    """Write a title flush with the left edge of the axes."""
    ax.set_title(plain(text), loc="left", fontsize=10.5, color=INK)


def draw_level(ax: Axes, level: float, name: str, *, style: str = ":") -> None:
    """Draw a horizontal line behind the data, and write its name above its left end.

    Call it after the data is drawn: a lone line has no range for a logarithmic axis.
    """
    ax.axhline(level, color=QUIET, linewidth=1.0, linestyle=style, zorder=1)
    write_note(ax, name, level)


def write_note(ax: Axes, note: str, level: float, *, below: bool = False) -> None:
    """Write small grey words at the left end of a height, above or below it."""
    ax.annotate(
        note,
        xy=(0.0, level),
        xycoords=("axes fraction", "data"),
        xytext=(4, -3 if below else 3),
        textcoords="offset points",
        va="top" if below else "bottom",
        fontsize=SMALL - 1,
        color=QUIET,
    )


def save_figure(figure: Figure, path: str | Path) -> tuple[Path, Path]:
    """Write a figure as `path`.png and `path`.svg, and close it if gradlab opened it.

    The bytes depend on nothing but the figure, so the same figure makes the same files
    (with one version of matplotlib and its fonts). Each file is written whole or not at all.

    Args:
        figure: The figure, such as `ax.figure`.
        path: Where, without the suffix.

    Returns:
        The two paths.

    Examples:
        >>> import pathlib, tempfile
        >>> from gradlab.plots import plot_spectrum
        >>> ax = plot_spectrum([1.0, 10.0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for path in save_figure(ax.figure, pathlib.Path(folder, "spectrum")):
        ...         print(path.name)
        spectrum.png
        spectrum.svg
    """
    png, svg = Path(f"{path}.png"), Path(f"{path}.svg")
    # The default level, 6, takes a third longer for a seventh of the bytes.
    packing = {"compress_level": 3}
    write_whole(png, _rendered(figure, format="png", dpi=200, pil_kwargs=packing))
    layout = figure.get_layout_engine()
    figure.set_layout_engine("none")  # everything has its place from the first file on
    try:
        write_whole(svg, svg_of(figure))
    finally:
        figure.set_layout_engine(layout)
    return png, svg


def svg_of(figure: Figure) -> bytes:
    """Return a figure as the bytes of an SVG file, and close it if gradlab opened it.

    The bytes depend on nothing but the figure.
    """
    import matplotlib

    # A fixed salt makes the ids inside an SVG depend on its contents alone.
    with matplotlib.rc_context({"svg.hashsalt": "gradlab"}):
        content = _rendered(figure, format="svg", metadata={"Date": None})
    if figure in _opened and "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)
    return content


def _rendered(figure: Figure, **options: Any) -> bytes:
    """Return the bytes of the figure's file."""
    content = io.BytesIO()
    figure.savefig(content, **options)
    return content.getvalue()
