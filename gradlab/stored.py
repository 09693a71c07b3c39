"""Run folders read back: what ran, how it ended, and the histories, with nothing run again.

A folder is trusted no further than its own words go: text and numbers are read, never code;
a file that is damaged, changed or of a newer layout is refused by its name.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gradlab._environment import SCHEMA
from gradlab._json import read_json
from gradlab.compare.comparison import CSV_COLUMNS, Comparison
from gradlab.compare.run import Run
from gradlab.result import Result, Status
from gradlab.trace import Trace

__all__ = ["Stored", "checksum", "facts", "overlay", "read", "read_summary"]

# Bytes of a history that is read: some ten million steps.
_LARGEST = 2**30
_TEXTS = ("problem", "method", "derivative")


@dataclass(frozen=True, eq=False)
class Stored:
    """A run folder as it was found.

    Attributes:
        folder: Where it is.
        summary: What `summary.json` holds; empty if that cannot be read.
        comparison: The runs of `history.csv`, or None if there is none or it is damaged.
        figures: The figures there, as SVG or else as PNG.
        faults: What could not be read and why, a sentence each.
    """

    folder: Path
    summary: Mapping[str, Any]
    comparison: Comparison | None
    figures: tuple[Path, ...]
    faults: tuple[str, ...] = ()


def read(folder: str | Path) -> Stored:
    """Read a run folder; what is damaged becomes a fault, and the rest is still read.

    Args:
        folder: A folder that `runs.record` made.

    Returns:
        What it holds.

    Raises:
        ValueError: If it is no run folder, or its layout is newer than this gradlab knows.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {str(folder)!r}.")
    faults: list[str] = []

    def attempt(what: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return what()
        except NewerSchemaError:
            raise
        except (ValueError, OSError) as error:
            faults.append(str(error))
            return otherwise

    summary = attempt(lambda: read_summary(folder), {})
    history = folder / "history.csv"
    comparison = None
    if history.exists():
        comparison = attempt(lambda: _comparison(history, summary), None)
    return Stored(folder, summary, comparison, _figures(folder), tuple(faults))


class NewerSchemaError(ValueError):
    """A file was written by a newer gradlab."""


def read_summary(folder: str | Path) -> dict[str, Any]:
    """Read `summary.json`, or raise `ValueError` naming it."""
    path = Path(folder) / "summary.json"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} is no run folder: it has no summary.json.")
    summary = read_json(path)
    if not isinstance(summary, dict) or not isinstance(summary.get("schema"), int):
        raise ValueError(f"{str(path)!r} is not a run's summary: it names no schema.")
    if summary["schema"] > SCHEMA:
        raise NewerSchemaError(
            f"{str(path)!r} has schema {summary['schema']}, and this gradlab reads up to "
            f"{SCHEMA}. Upgrade gradlab to read it."
        )
    return summary


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def facts(run: Run) -> dict[str, Any]:
    """Return what a history does not tell of a run, for the summary."""
    return {
        "problem": run.problem,
        "method": run.method,
        "derivative": run.derivative,
        "seed": run.seed,
        "learning_rate": run.learning_rate,
        "status": run.status,
        "loss": run.loss,
        "grad_norm": run.grad_norm,
        "compile_seconds": run.compile_seconds,
        "error": run.error,
    }


def overlay(folders: Sequence[Stored]) -> Comparison:
    """Join the runs of several folders; runs of the same name are told apart by folder.

    Raises:
        ValueError: If none of them holds a history.
    """
    found = [(s, s.comparison) for s in folders if s.comparison is not None]
    if not found:
        told = ", ".join(str(s.folder) for s in folders)
        why = " ".join(fault for s in folders for fault in s.faults)
        raise ValueError(f"there is no history to draw in {told}. {why}".rstrip())
    names = _short_names([s.folder for s, _ in found])
    keys = [_names(comparison) for _, comparison in found]
    clashing = {
        key for i, mine in enumerate(keys) for other in keys[:i] for key in mine & other
    }
    methods = {key[1] for key in clashing}
    parts: list[Comparison] = []
    for suffixed in (methods, {method for mine in keys for _, method, _, _ in mine}):
        parts = []
        for name, (_, comparison) in zip(names, found, strict=True):
            labels = {m: f"{m} ({name})" for m in suffixed}
            runs = [replace(r, method=labels.get(r.method, r.method)) for r in comparison.runs]
            parts.append(Comparison(tuple(runs), comparison.minima))
        if len(set().union(*(_names(c) for c in parts))) == sum(len(c.runs) for c in parts):
            break
    return Comparison.merge(parts)


def _names(comparison: Comparison) -> set[tuple[str, str, str, int]]:
    """Return what tells the runs of a comparison apart."""
    return {(r.problem, r.method, r.derivative, r.seed) for r in comparison.runs}


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Return folder names, with as many of their parents as tell them apart."""
    paths = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{folder} #{i}" for i, folder in enumerate(folders, 1)]


def _figures(folder: Path) -> tuple[Path, ...]:
    """Return the figures of a folder, one file each."""
    chosen = {path.stem: path for path in sorted(folder.glob("*.png"))}
    chosen |= {path.stem: path for path in sorted(folder.glob("*.svg"))}
    return tuple(chosen[name] for name in sorted(chosen))


def _comparison(path: Path, summary: Mapping[str, Any]) -> Comparison:
    """Rebuild the runs of a folder from its history and its summary."""
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{str(path)!r} is larger than any history that gradlab reads.")
    content = path.read_bytes()
    expected = summary.get("checksums", {}).get(path.name)
    if expected is not None and checksum(content) != expected:
        raise ValueError(
            f"{str(path)!r} is damaged or was changed: its checksum is not the one in "
            "summary.json."
        )
    histories = _histories(path, content)
    told = {_key(entry): entry for entry in summary.get("runs", [])}
    runs = [
        _run(key, histories.get(key), told.get(key, {}))
        for key in dict.fromkeys([*told, *histories])
    ]
    return Comparison(tuple(runs), dict(summary.get("minima", {})))


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
    """Return what names a run."""
    problem, method, derivative = (str(row[name]) for name in _TEXTS)
    return problem, method, derivative, int(row["seed"])


def _histories(path: Path, content: bytes) -> dict[Any, list[list[float]]]:
    """Read the rows of every run: cost, seconds, loss, gradient norm."""
    try:
        text = content.decode("utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if tuple(reader.fieldnames or ()) != CSV_COLUMNS:
            raise ValueError(f"its columns are not {', '.join(CSV_COLUMNS)}")
        if not text.endswith("\n"):
            raise ValueError("its last line is cut off")
        histories: dict[Any, list[list[float]]] = {}
        for row in reader:
            numbers = histories.setdefault(_key(row), [])
            if int(row["step"]) != len(numbers):
                raise ValueError(f"step {row['step']} stands where {len(numbers)} should")
            numbers.append([float(row[n]) for n in ("cost", "seconds", "loss", "grad_norm")])
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}.") from error
    return histories


def _run(key: Any, rows: list[list[float]] | None, told: Mapping[str, Any]) -> Run:
    """Rebuild one run: its history, and of its result what tables and figures ask for."""
    problem, method, derivative, seed = key
    rate, error = told.get("learning_rate"), told.get("error")
    status = str(told.get("status", ""))
    trace = None
    if rows:
        cost, seconds, loss, grad_norm = np.asarray(rows, float).T
        zeros: Any = np.zeros(len(rows), np.int32)
        unknown: Any = np.full(len(rows), np.nan)
        compiling: Any = np.asarray(told.get("compile_seconds", np.nan), float)
        trace = Trace(
            loss=loss,
            grad_norm=grad_norm,
            step_norm=unknown,
            nfev=3 * cost,  # the file holds the sum, of which a loss is a third
            ngev=zeros,
            nhvp=zeros,
            nhev=zeros,
            seconds=seconds,
            num_rows=np.asarray(len(rows)),
            num_params=np.asarray(0),
            compile_seconds=compiling,
        )
    result: Any = None
    if status in Status.__members__:
        result = _result(Status[status], told, trace)
    return Run(
        problem, method, derivative, seed, rate, result, trace, error, status == "MAX_COST"
    )


def _result(status: Status, told: Mapping[str, Any], trace: Trace | None) -> Result:
    """Return a result that knows its end, its loss and the size of its gradient."""
    none: Any = np.zeros((), np.int32)
    return Result(
        x=None,
        fun=np.asarray(told.get("loss", np.nan), float),  # type: ignore[arg-type]
        grad=np.asarray([told.get("grad_norm", np.nan)], float),
        aux=None,
        status=np.asarray(int(status), np.int32),  # type: ignore[arg-type]
        nit=none,
        nfev=none,
        ngev=none,
        nhev=none,
        nhvp=none,
        trace=trace,
        state=None,
    )
