"""One HTML page from run folders, with nothing run again.

>>> import tempfile
>>> from gradlab import runs
>>> with tempfile.TemporaryDirectory() as root:
...     with runs.record("demo", root=root) as run:
...         run.summary["answer"] = "It <works>."
...     text = page([stored.read(run.folder)])
>>> "It &lt;works&gt;." in text
True
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradlab import _html, stored
from gradlab.compare.table import cell
from gradlab.stored import Stored

__all__ = ["environment", "page"]

# Of a table of results only so many rows are shown; summary.json has all.
_MOST_ROWS = 200
# An SVG beyond this many bytes is a scatter of thousands of points: the PNG is smaller.
_LARGE_SVG = 2**20
_FORMATS = {
    "problem": "",
    "method": "",
    "derivative": "",
    "learning_rate": ".3g",
    "runs": "d",
    "solved": "d",
    "steps": ".0f",
    "cost": ".1f",
    "seconds": ".3g",
    "compile_seconds": ".2f",
    "loss": ".4e",
    "grad_norm": ".1e",
    "status": "",
}


def page(folders: Sequence[Stored]) -> str:
    """Return one self-contained page of one or several run folders.

    Several begin with an overview, and their histories on the same problem are drawn
    together.
    """
    several = len(folders) > 1
    title = f"{len(folders)} runs" if several else str(folders[0].folder.name)
    parts: list[str] = []
    if several:
        parts += [_overview(folders), *_together(folders)]
    for found in folders:
        parts += _of_folder(found, several)
    return _html.page(title, parts)


def environment(summary: Mapping[str, Any]) -> str:
    """Return what a run ran on, and how to repeat it, as part of a page."""
    versions = dict(summary.get("versions", {}))
    python = versions.pop("python", None)
    device = dict(summary.get("device", {}))
    pins = [f"{name}=={v}" for name, v in versions.items() if name != "gradlab"]
    git = summary.get("git")
    commit = None if not git else git["commit"] + (" and changes" if git.get("dirty") else "")
    pairs = [
        ("command", summary.get("command")),
        ("versions", ", ".join(f"{n} {v}" for n, v in versions.items()) or None),
        ("Python", python),
        ("platform", summary.get("platform")),
        ("device", ", ".join(f"{v}" for v in device.values()) or None),
        ("dtype", summary.get("dtype")),
        ("seed", summary.get("seed")),
        ("commit", commit),
        ("started, ended", f"{summary.get('start', '?')}, {summary.get('end', '?')}"),
        ("seconds", cell(summary.get("seconds"), ".1f")),
        ("of these compiling", cell(summary.get("compile_seconds"), ".1f")),
        *dict(summary.get("environment", {})).items(),
    ]
    told = _html.definitions((name, v) for name, v in pairs if v not in (None, "", "–"))
    repeat = ""
    if pins and summary.get("command"):
        repeat = _html.pre(f"pip install {shlex.join(pins)}\n{summary['command']}")
    return _html.heading("What it ran on, and how to repeat it", 3) + told + repeat


def _overview(folders: Sequence[Stored]) -> str:
    """Return a table of the folders."""
    rows = [
        (
            found.folder.name,
            str(found.summary.get("status", "not readable")),
            str(found.summary.get("start", "–")),
            cell(found.summary.get("seconds"), ".1f"),
            str(found.summary.get("command", "–")),
        )
        for found in folders
    ]
    headings = ("folder", "status", "started", "seconds", "command")
    return _html.table(headings, rows, (False, False, False, True, False))


def _together(folders: Sequence[Stored]) -> Iterator[str]:
    """Yield figures of the problems that several folders have histories of."""
    held = [f.comparison.problems for f in folders if f.comparison is not None]
    names = dict.fromkeys(name for problems in held for name in problems)
    shared = [name for name in names if sum(name in problems for problems in held) > 1]
    if not shared:
        return
    from gradlab.plots import plot_convergence, svg_of

    joined = stored.overlay(folders)
    yield _html.heading("Together")
    for name in shared:
        for x in ("cost", "time"):
            caption = f"{name}: all histories, against {x}"
            try:
                ax = plot_convergence(joined.select(problem=name), x=x)
                yield _html.image(svg_of(ax.figure.figure), "svg", caption)
            except ValueError as error:  # nothing finite to draw, for example
                yield _html.notice(f"{caption}: not drawn. {error}")


def _of_folder(found: Stored, several: bool) -> Iterator[str]:
    """Yield the parts of one folder."""
    summary = found.summary
    if several:
        yield _html.heading(found.folder.name)
    status = summary.get("status")
    if status != "finished":
        yield _html.notice(_unfinished(found))
    for fault in found.faults:
        yield _html.notice(fault)
    if summary.get("answer"):
        yield _html.paragraphs(str(summary["answer"]), "answer")
    results = [row for row in summary.get("results", []) if isinstance(row, dict)]
    if results:
        yield _results(results)
    for path in found.figures:
        yield _embedded(path)
    if summary:
        yield environment(summary)


def _unfinished(found: Stored) -> str:
    """Say how a run ended that did not finish."""
    status, error = found.summary.get("status"), found.summary.get("error")
    told = {
        "running": "This run is still going on, or was killed.",
        "failed": "This run failed.",
        "interrupted": "This run was interrupted.",
        "out of time": "The time of this run was up before it had finished.",
    }.get(str(status), "How this run ended is not known.")
    beside = f" {error}" if error else ""
    return f"{told}{beside} Its command with `--resume {found.folder}` goes on with it."


def _results(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of results: the usual columns, or whatever the rows hold."""
    names = [name for name in _FORMATS if any(name in row for row in rows)]
    if "method" not in names:
        names = list(dict.fromkeys(n for row in rows for n in row))
    cells = [[_shown(row.get(name), _FORMATS.get(name)) for name in names] for row in rows]
    numeric = [all(isinstance(r.get(n), int | float | None) for r in rows) for n in names]
    told = _html.table([n.replace("_", " ") for n in names], cells[:_MOST_ROWS], numeric)
    left = len(cells) - _MOST_ROWS
    return told + (_html.paragraphs(f"and {left} more in summary.json") if left > 0 else "")


def _shown(value: Any, style: str | None) -> str:
    """Write a value that may be of any kind JSON has."""
    if isinstance(value, int | float) and not isinstance(value, bool) and style != "":
        return cell(value, style if style not in (None, "d") else ".6g")
    return cell(value, "") if value is None else " ".join(str(value).split())


def _embedded(path: Path) -> str:
    """Return a figure of the folder, its bytes within the page."""
    caption = path.stem
    try:
        other = path.with_suffix(".png")
        if path.suffix == ".svg" and path.stat().st_size > _LARGE_SVG and other.is_file():
            path = other
        content = path.read_bytes()
    except OSError as error:
        return _html.notice(f"{path} cannot be read: {error}")
    ended = content.rstrip().endswith(b"</svg>") or b"IEND" in content[-16:]
    if not ended:
        return _html.notice(f"{path} is damaged: the file does not end as a figure does.")
    return _html.image(content, path.suffix[1:], caption)
