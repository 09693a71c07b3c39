"""A table of results: rows to compute with, and an aligned text of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab._files import write_whole

__all__ = ["Table", "cell"]

_LONGEST_TEXT = 60  # characters of one cell: an error's message must not push rows off screen


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of named values; `str` aligns the columns in `formats`.

    Attributes:
        rows: One dict a row, with full-precision values; may hold more than is printed.
        formats: Printed columns in order, each with a heading and a format such as ".3g"
            (or "" for text).
    """

    rows: tuple[dict[str, Any], ...]
    formats: Mapping[str, tuple[str, str]]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def column(self, name: str) -> list[Any]:
        """Return the values of one column, a row each."""
        return [row[name] for row in self.rows]

    def to_csv(self, path: str | Path) -> None:
        """Write every value of every row, printed or not, as comma-separated values.

        Numbers are written so that reading them back gives the same bits; a value that is
        missing is an empty cell. The file is written whole or not at all.
        """
        names = dict.fromkeys(name for row in self.rows for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(path, text.getvalue().encode())

    def __str__(self) -> str:
        columns = [
            [heading, *(cell(row[name], style) for row in self.rows)]
            for name, (heading, style) in self.formats.items()
        ]
        numeric = [style != "" for _, style in self.formats.values()]
        padded = [_aligned(cells, right) for cells, right in zip(columns, numeric, strict=True)]
        lines = ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]
        rule = "─" * max(map(len, lines), default=0)
        return "\n".join([lines[0], rule, *lines[1:]]) if lines else "(no columns)"


def cell(value: Any, style: str) -> str:
    """Write one cell; a missing value is a dash."""
    if value is None:
        return "–"
    text = format(value, style) if style else " ".join(str(value).split())
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _aligned(cells: Sequence[str], right: bool) -> list[str]:
    """Pad the cells of a column to one width, numbers to the right."""
    width = max(map(len, cells))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in cells]
