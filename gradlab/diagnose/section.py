"""One question of a diagnosis, with its answer or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gradlab import _html
from gradlab.compare.table import Table, cell

__all__ = ["Figure", "Section", "html_table"]


class Figure(NamedTuple):
    """A figure that is drawn when it is asked for.

    Attributes:
        name: Name of its file, without the suffix.
        caption: What it shows.
        draw: Function without arguments to the axes.
    """

    name: str
    caption: str
    draw: Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Section:
    """A question and its answer.

    Attributes:
        title: The question.
        answer: The answer, in a sentence or more; where `measured` is False, the reason.
        measured: Whether there is an answer.
        table: Figures behind it, or None.
        text: Further text whose columns are aligned, or "".
        data: The same for a program: numbers, names, lists and dicts of them.
        figures: Figures to draw.
    """

    title: str
    answer: str
    measured: bool = True
    table: Table | None = None
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()

    @classmethod
    def without(cls, title: str, reason: str) -> Section:
        """Return a section that says why nothing could be measured."""
        return cls(title, f"Not measured: {reason}", measured=False)

    def __str__(self) -> str:
        """Write the title underlined, the answer, the table and the text."""
        parts = [f"{self.title}\n{'-' * len(self.title)}", self.answer]
        parts += [str(self.table)] if self.table is not None else []
        parts += [self.text] if self.text else []
        return "\n".join(parts)

    def to_html(self, render: Callable[[Figure], bytes]) -> Iterator[str]:
        """Yield the parts of the page; `render` turns a figure into the bytes of an SVG."""
        yield _html.heading(self.title)
        yield (
            _html.paragraphs(self.answer, "answer")
            if self.measured
            else _html.notice(self.answer)
        )
        if self.table is not None:
            yield html_table(self.table)
        if self.text:
            yield _html.pre(self.text)
        for figure in self.figures:
            try:
                content = render(figure)
            except Exception as error:  # the numbers are there, and must reach the reader
                yield _html.notice(f"{figure.caption}: not drawn ({first_line(error)})")
            else:
                yield _html.image(content, "svg", figure.caption)


def html_table(table: Table) -> str:
    """Return a table of results as HTML: the columns that its text has."""
    formats = table.formats.items()
    rows = [[cell(row.get(name), style) for name, (_, style) in formats] for row in table]
    headings = [heading for heading, _ in table.formats.values()]
    return _html.table(headings, rows, [style != "" for _, style in table.formats.values()])


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
