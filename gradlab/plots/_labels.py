"""Labels written at the ends of lines where they fit, and a legend where they do not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradlab.plots._style import INK, QUIET, SMALL, Axes, darker, figure_of, plain

__all__: list[str] = []

_GAP = 7.0  # points between a line's end, with its mark, and its label
_LINE_HEIGHT = 1.25  # in units of the font size
# Where a label may stand relative to the end of its line, best first: the direction it
# grows to, and its alignment.
_PLACES = (
    ((1.0, 0.0), ("left", "center")),
    ((0.7, 0.7), ("left", "bottom")),
    ((0.7, -0.7), ("left", "top")),
    ((0.0, 1.0), ("center", "bottom")),
    ((0.0, -1.0), ("center", "top")),
    ((-0.7, -0.7), ("right", "top")),
    ((-0.7, 0.7), ("right", "bottom")),
    ((-1.0, 0.0), ("right", "center")),
    ((-2.0, 1.5), ("right", "bottom")),
    ((2.0, 1.5), ("left", "bottom")),
    ((-2.0, -1.5), ("right", "top")),
    ((2.0, -1.5), ("left", "top")),
)


def label_lines(ax: Axes, lines: Sequence[Any], *, gap: float = _GAP) -> None:
    """Write each line's label at its end, or all of them in a legend beside the axes.

    Lines that reach the right edge are named in the margin, pushed apart where they would
    overlap; the others beside their last point, where no data is. If one does not fit, a
    legend names them all, in the order in which the lines end.
    """
    label_panels([(ax, lines)], gap=gap)


def label_panels(panels: Sequence[tuple[Axes, Sequence[Any]]], *, gap: float = _GAP) -> None:
    """Label the lines of several axes of one figure, which is laid out once for all."""
    kept = [(ax, [line for line in lines if len(line.get_xdata())]) for ax, lines in panels]
    kept = [(ax, lines) for ax, lines in kept if lines]
    if not kept:
        return
    figure = figure_of(kept[0][0])
    layout = figure.get_layout_engine()
    if layout is None:  # nothing makes room for labels
        for ax, lines in kept:
            _name_in_legend(ax, lines)
        return
    layout.execute(figure)
    margins = [_in_margin(ax, lines) for ax, lines in kept]
    if any(written and written[1] for written in margins):
        layout.execute(figure)
    for (ax, lines), written in zip(kept, margins, strict=True):
        named, texts = written or ([], [])
        inner = [line for line in lines if line not in named]
        if written is None or not _beside_ends(ax, inner, gap):
            for text in texts:
                text.remove()
            _name_in_legend(ax, lines)


def _name_in_legend(ax: Axes, lines: Sequence[Any]) -> None:
    """Name lines in a legend, in the order in which they end."""
    legend_beside(ax, sorted(lines, key=lambda line: -float(line.get_ydata()[-1])))


def _ends(ax: Axes, lines: Sequence[Any]) -> np.ndarray:
    """Return the last point of every line in pixels, shape (lines, 2), within the axes."""
    points = np.asarray([[line.get_xdata()[-1], line.get_ydata()[-1]] for line in lines])
    box = ax.get_window_extent()
    pixels = ax.transData.transform(points.astype(float))
    return np.clip(pixels, [box.x0, box.y0], [box.x1, box.y1])


def _in_margin(ax: Axes, lines: Sequence[Any]) -> tuple[list[Any], list[Any]] | None:
    """Name the lines that reach the right edge in the margin; None if there is no room."""
    box = ax.get_window_extent()
    ends = _ends(ax, lines)
    there = np.flatnonzero(ends[:, 0] >= box.x1 - 0.06 * box.width)
    there = there[np.argsort(ends[there, 1], kind="stable")]
    pixel = 72.0 / figure_of(ax).dpi  # points
    height = SMALL * _LINE_HEIGHT / pixel
    if len(there) * height > box.height:
        return None
    wanted = _spread(ends[there, 1], height)
    if len(there):
        wanted -= max(0.0, wanted[-1] - box.y1)
        wanted += max(0.0, box.y0 - wanted[0])
    texts = []
    for place, index in zip(wanted, there.tolist(), strict=True):
        line = lines[index]
        shift = (place - ends[index, 1]) * pixel
        texts.append(
            ax.annotate(
                line.get_label(),
                xy=(line.get_xdata()[-1], line.get_ydata()[-1]),
                xycoords="data",
                xytext=((box.x1 - ends[index, 0]) * pixel + 2 * _GAP, shift),
                textcoords="offset points",
                color=darker(line.get_color()),
                fontsize=SMALL,
                va="center",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": line.get_color(),
                    "linewidth": 0.7,
                    "shrinkA": 1,
                    "shrinkB": 2,
                    "relpos": (0.0, 0.5),
                },
            )
        )
    return [lines[i] for i in there.tolist()], texts


def _spread(centres: np.ndarray, height: float) -> np.ndarray:
    """Move sorted centres as little as possible so that neighbours are `height` apart.

    Least squares under p[i+1] − p[i] ≥ height is isotonic regression of c[i] − i·height,
    which pooling adjacent violators solves.
    """
    ranks = height * np.arange(len(centres))
    pools: list[tuple[float, int]] = []
    for value in centres - ranks:
        mean, size = float(value), 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    return ranks + np.repeat([mean for mean, _ in pools], [size for _, size in pools])


def _beside_ends(ax: Axes, inner: Sequence[Any], gap: float) -> bool:
    """Name lines beside their last points; False, with nothing drawn, if one does not fit."""
    taken: dict[Any, np.ndarray] = {line: _pixels(ax, line) for line in ax.lines}
    taken |= {text: _grid(text.get_window_extent()) for text in ax.texts}
    texts: list[Any] = []
    for line in sorted(inner, key=lambda line: -float(line.get_xdata()[-1])):
        text = _beside(ax, line, taken, gap)
        if text is None:
            for written in texts:
                written.remove()
            return False
        texts.append(text)
        taken[text] = _grid(text.get_window_extent())
    return True


def _beside(ax: Axes, line: Any, taken: dict[Any, np.ndarray], gap: float) -> Any | None:
    """Write one label at the first place that is free and not behind another line."""
    box = ax.get_window_extent()
    everything = np.concatenate(list(taken.values()))
    end = _ends(ax, [line])[0]
    # Other lines that end at the same point are no obstacle on the way to the label.
    parts = [points for artist, points in taken.items() if artist is not line]
    others = np.concatenate([*parts, np.empty((0, 2))])
    others = others[np.linalg.norm(others - end, axis=1) > gap]
    for (dx, dy), (ha, va) in _PLACES:
        shift = gap * np.asarray([dx, dy])
        way = end + np.linspace(0, 1, 8)[:, None] * shift * figure_of(ax).dpi / 72.0
        distances = np.linalg.norm(others[:, None] - way[None], axis=2)
        if np.min(distances, initial=np.inf) < 3.0:
            continue
        text = ax.annotate(
            line.get_label(),
            xy=(line.get_xdata()[-1], line.get_ydata()[-1]),
            xytext=tuple(shift),
            textcoords="offset points",
            color=darker(line.get_color()),
            fontsize=SMALL,
            ha=ha,
            va=va,
        )
        if _is_free(text.get_window_extent(), box, everything):
            return text
        text.remove()
    return None


def _is_free(room: Any, box: Any, taken: np.ndarray) -> bool:
    """Whether a label's rectangle lies in the axes' box and holds none of the points."""
    low, high = np.asarray([room.x0 - 2, room.y0 - 1]), np.asarray([room.x1 + 2, room.y1 + 1])
    inside = np.all(low > [box.x0, box.y0]) and np.all(high < [box.x1, box.y1])
    return bool(inside and not np.any(np.all((taken > low) & (taken < high), axis=1)))


def _pixels(ax: Axes, line: Any, spacing: float = 4.0) -> np.ndarray:
    """Return points along a line, at most `spacing` pixels apart, within the axes."""
    points = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
    box = ax.get_window_extent()
    points = np.clip(points, [box.x0, box.y0], [box.x1, box.y1])
    pieces = [points]
    for start, end in itertools.pairwise(points):
        count = int(np.max(np.abs(end - start)) // spacing)
        if count:
            pieces.append(start + np.linspace(0, 1, count + 1)[1:, None] * (end - start))
    return np.concatenate(pieces)


def _grid(room: Any) -> np.ndarray:
    """Return points that fill a rectangle, 4 pixels apart."""
    x, y = np.meshgrid(np.arange(room.x0, room.x1, 4.0), np.arange(room.y0, room.y1, 4.0))
    return np.column_stack([x.ravel(), y.ravel()])


def legend_beside(ax: Axes, handles: Sequence[Any]) -> None:
    """Name the artists in a legend beside the axes, or within where no room can be made."""
    outside = figure_of(ax).get_layout_engine() is not None
    place: dict[str, Any] = (
        {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if outside else {"loc": "best"}
    )
    ax.legend(
        handles=handles,
        fontsize=SMALL,
        frameon=not outside,
        labelcolor=INK,
        edgecolor=QUIET,
        borderaxespad=0.2,
        **place,
    )


def key_of(look: dict[str, dict[str, Any]], styles: dict[str, Any]) -> list[Any]:
    """Build a legend's entries: a colour for each method, a line style for each derivative."""
    from matplotlib.lines import Line2D

    methods = [
        Line2D([], [], linewidth=1.8, label=plain(method), **style)
        for method, style in look.items()
    ]
    derivatives = [
        Line2D([], [], linewidth=1.8, color=INK, linestyle=style, label=plain(name))
        for name, style in styles.items()
    ]
    return methods + derivatives
