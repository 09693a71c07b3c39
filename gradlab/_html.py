"""Parts of one self-contained HTML page: everything escaped, figures inside, no network.

Figures are images of their own (`data:` addresses): nothing in them can run, and their
names cannot clash. The page's policy forbids whatever would be loaded from elsewhere.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["definitions", "escape", "image", "notice", "page", "paragraphs", "pre", "table"]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

# Widths in characters, so that the page is readable on a telephone and on paper.
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 2em auto; max-width: 60em;
  padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0; } h2 { font-size: 1.2em; margin: 2em 0 0.3em;
  border-bottom: 1px solid #ccc; }
h3 { font-size: 1em; margin: 1.5em 0 0.3em; }
p { margin: 0.4em 0; max-width: 48em; } .answer { font-weight: 600; } .quiet { color: #666; }
.notice { border-left: 4px solid #D55E00; padding: 0.1em 0.8em; background: #fdf3ec; }
table { border-collapse: collapse; margin: 0.6em 0; font-size: 0.88em; display: block;
  overflow-x: auto; }
th, td { text-align: left; padding: 0.15em 0.9em 0.15em 0; border-bottom: 1px solid #e4e4e4;
  white-space: nowrap; }
th { font-weight: 600; border-bottom: 1px solid #999; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { font-size: 0.8em; line-height: 1.35; overflow-x: auto; background: #f7f7f7;
  padding: 0.6em 0.8em; }
figure { margin: 1em 0; } img { max-width: 100%; height: auto; }
figcaption { font-size: 0.85em; color: #666; }
@media print { body { font-size: 10pt; margin: 0; max-width: none; }
  pre { white-space: pre-wrap; } h2, h3 { break-after: avoid; }
  figure, tr { break-inside: avoid; } table { display: table; } }
"""


def escape(text: object) -> str:
    """Return text so that a browser shows it as it is.

    Characters that HTML cannot hold, control codes, are replaced.
    """
    shown = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(text))
    return html.escape(shown, quote=True)


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page of parts made by the other functions here."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """Return a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraphs(text: str, kind: str = "") -> str:
    """Return a text, a paragraph a line, of a class of the style sheet."""
    mark = f' class="{kind}"' if kind else ""
    return "\n".join(f"<p{mark}>{escape(line)}</p>" for line in text.splitlines() if line)


def notice(text: str) -> str:
    """Return a text that must not be overlooked."""
    return f'<div class="notice">{paragraphs(text)}</div>'


def pre(text: str) -> str:
    """Return text whose columns are aligned by spaces."""
    return f"<pre>{escape(text)}</pre>"


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]
) -> str:
    """Return a table of cells that are text already; numeric columns are set to the right."""

    def cells(row: Sequence[str], tag: str) -> str:
        marks = [' class="number"' if right else "" for right in numeric]
        return "".join(
            f"<{tag}{mark}>{escape(cell)}</{tag}>"
            for mark, cell in zip(marks, row, strict=True)
        )

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return (
        f"<table>\n<thead><tr>{cells(headings, 'th')}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )


def definitions(pairs: Iterable[tuple[str, Any]]) -> str:
    """Return names beside their values."""
    rows = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in pairs
    )
    return f"<table>\n<tbody>\n{rows}\n</tbody>\n</table>"


def image(content: bytes, kind: str, caption: str) -> str:
    """Return a figure whose bytes are part of the page; `kind` is "svg" or "png"."""
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    data = base64.b64encode(content).decode()
    told = escape(caption)
    return (
        f'<figure><img alt="{told}" src="data:{mime};base64,{data}">'
        f"<figcaption>{told}</figcaption></figure>"
    )
