"""Run folders and the frame of an experiment: one folder a run, never shared.

An experiment does its work inside `experiment`, which parses its arguments with `parser`
and opens its folder with `record`, and ends with `console(main)`. The command line uses the
parts.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradlab import _cli_interrupt, _environment
from gradlab._cli_console import DTYPES, UsageError, console, parser, tell
from gradlab._cli_progress import progress_of
from gradlab._environment import SCHEMA
from gradlab._files import write_whole
from gradlab._json import to_json
from gradlab._session import Session, within

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "RunFolder",
    "UsageError",
    "claim",
    "console",
    "experiment",
    "parser",
    "record",
]

PARTS = "parts"  # the folder within a run's that keeps what it has finished
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class RunFolder:
    """A claimed run folder, and the summary that is kept in it.

    Attributes:
        folder: The folder, which nobody else writes to.
        summary: What `summary.json` holds; add to it before the run ends.
    """

    def __init__(self, folder: Path, summary: dict[str, Any]) -> None:
        self.folder = folder
        self.summary = summary

    def path(self, name: str) -> Path:
        """Return the path of the file `name` in this folder.

        Raises:
            ValueError: If `name` could leave the folder.
        """
        return self.folder / _checked_name(name)

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as strict JSON to the file `name`."""
        write_whole(self.path(name), to_json(value).encode())

    def save(self, comparison: Any) -> None:
        """Write a `Comparison`: its steps to `history.csv`, its table to the summary."""
        from gradlab import stored

        history = self.path("history.csv")
        comparison.to_csv(history)
        self.summary.update(
            compile_seconds=sum(
                run.compile_seconds for run in comparison.runs if run.trace is not None
            ),
            results=list(comparison.table),
            runs=[stored.facts(run) for run in comparison.runs],
            minima=dict(comparison.minima),
            checksums={history.name: stored.checksum(history.read_bytes())},
        )
        self.write_json("summary.json", self.summary)

    def report(self, table: Any, answer: str, *, results: Sequence[Any] | None = None) -> str:
        """Keep the table and the answer in the summary, and return both as text to print.

        Args:
            table: What is shown: a `Table`, or anything that prints as one.
            answer: The answer to the experiment's question, in sentences.
            results: Rows to keep; by default those of the table.
        """
        kept = list(table) if results is None else list(results)
        self.summary.update(answer=answer, results=kept)
        return f"{table}\n\n{answer}\n\nThe run's folder is {self.folder}"

    def save_figures(self, figures: Mapping[str, Any]) -> None:
        """Write each figure as PNG and SVG under its name, and close it."""
        from gradlab import plots

        for name, figure in figures.items():
            plots.save_figure(figure, self.path(name))
            if "matplotlib.pyplot" in sys.modules:
                sys.modules["matplotlib.pyplot"].close(figure)

    def finish(self, status: str, **details: Any) -> None:
        """Write the summary with how and when the run ended."""
        self.summary.update(status=status, end=_now(), **details)
        self.write_json("summary.json", self.summary)


@contextlib.contextmanager
def record(
    name: str,
    *,
    root: str | Path = "runs",
    dtype: str = "float64",
    seed: int = 0,
    script: str | Path = __file__,
    options: argparse.Namespace | None = None,
) -> Iterator[RunFolder]:
    """Claim a run folder and keep its `summary.json` true until the run has ended.

    Inside the `with` block JAX computes in `dtype`, and what `compare` runs is kept in the
    folder's `parts`. The summary is written when the run starts (`status` "running", so a
    killed run stays recognisable) and when it ends ("finished", "failed", "interrupted" or
    "out of time").

    Args:
        name: What ran; the folder is `<root>/<name>-<number>`.
        root: Folder that holds the run folders; made if need be.
        dtype: "float64" or "float32".
        seed: Seed the run was asked to use; recorded only.
        script: File whose repository's commit is recorded.
        options: What the parser returned; of it `resume`, the folder of an earlier run that
            goes on, `max_seconds`, and the arguments `given`, which are recorded.

    Yields:
        The `RunFolder`.

    Raises:
        UsageError: If the folder cannot be made or written to, or `resume` names none that
            can go on.
        ValueError: If `name` could leave `root`, or `dtype` is neither.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {DTYPES}, got {dtype!r}.")
    earlier = getattr(options, "resume", None)
    given = list(getattr(options, "given", []))
    if options is not None and getattr(options, "process_id", None):
        with _as_one_of_several(Path(earlier) if earlier else None, dtype, options) as run:
            yield run
        return
    if earlier:
        run = _reopened(Path(earlier), name, dtype, given)
    else:
        run = RunFolder(claim(root, name), {"schema": SCHEMA, "name": name})
        run.summary.update(start=_now(), command=shlex.join(sys.argv))
        if options is not None:
            run.summary["arguments"] = given
    import jax

    session = _session(run.folder, options)
    started = time.perf_counter()

    def unheard() -> None:
        run.finish("interrupted", seconds=time.perf_counter() - started)

    with (
        _locked(run.folder),
        jax.enable_x64(dtype == "float64"),
        within(session),
        _cli_interrupt.before_leaving(unheard),
    ):
        run.summary.update(status="running", dtype=dtype, seed=seed)
        run.summary.update(_environment.describe(script))
        with _refusals_as_usage_errors(run.folder):
            (run.folder / PARTS).mkdir(exist_ok=True)
            run.write_json("summary.json", run.summary)
        try:
            yield run
        except BaseException as error:
            if session.cut and isinstance(error, Exception):
                # What was cut short left the experiment without what it draws or tells.
                _ended(run, session, time.perf_counter() - started)
                return
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            told = f"{type(error).__name__}: {error}"
            with contextlib.suppress(OSError):  # the error itself is what must be heard of
                run.finish(status, error=told, seconds=time.perf_counter() - started)
            if status == "interrupted" and any((run.folder / PARTS).iterdir()):
                tell(f"Saved; go on with --resume {run.folder}")
            raise
        _ended(run, session, time.perf_counter() - started)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; the system lets go of it when this one ends."""
    if fcntl is None:
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{str(folder)!r} is in use by another process, which writes to it."
            ) from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(held)


@contextlib.contextmanager
def _as_one_of_several(
    earlier: Path | None, dtype: str, options: argparse.Namespace
) -> Iterator[RunFolder]:
    """Take part in a run whose folder another process writes."""
    import jax

    session = _session(earlier, options)
    session.progress = None
    with (
        tempfile.TemporaryDirectory() as nowhere,
        jax.enable_x64(dtype == "float64"),
        within(session),
    ):
        try:
            yield _Silent(Path(nowhere), {})
        except Exception:
            if not session.cut:  # else as in `record`, which all processes come to alike
                raise


class _Silent(RunFolder):
    """A folder that keeps nothing."""

    def write_json(self, name: str, value: Any) -> None:
        """Write nothing."""

    def save(self, comparison: Any) -> None:
        """Write nothing."""


def _session(folder: Path | None, options: argparse.Namespace | None) -> Session:
    """Build what the runs inside a folder are asked for."""
    session = Session(None if folder is None else folder / PARTS)
    session.shard = getattr(options, "shard", None)
    max_seconds = getattr(options, "max_seconds", None)
    if max_seconds is not None:
        session.deadline = time.monotonic() + max_seconds
    session.progress = progress_of(session)
    return session


def _ended(run: RunFolder, session: Session, seconds: float) -> None:
    """Write how a run ended by itself: with all it had to do, or because its time was up."""
    parts = run.folder / PARTS
    with contextlib.suppress(OSError):  # fails where there are parts, which are kept
        parts.rmdir()
    if not session.cut:
        run.finish("finished", seconds=seconds)
        return
    run.finish("out of time", seconds=seconds)
    tell(f"The time was up; go on with --resume {run.folder}")


def _reopened(folder: Path, name: str, dtype: str, given: list[str]) -> RunFolder:
    """Open the folder of an earlier run to go on with that very run: it is written over."""
    from gradlab import stored

    try:
        summary = stored.read_summary(folder)
    except ValueError as error:
        raise UsageError(f"--resume {folder}: {error}") from error
    for what, expected in (("name", name), ("dtype", dtype)):
        if summary.get(what) != expected:
            raise UsageError(
                f"--resume {folder}: that is a run of {what} {summary.get(what)!r}, not "
                f"{expected!r}."
            )
    asked = summary.get("arguments", given)
    if _settings(asked) != _settings(given):
        raise UsageError(
            f"--resume {folder}: that run was asked for by `{shlex.join(asked)}`. Go on with "
            f"--resume alone, or leave it out for a new run by `{shlex.join(given)}`."
        )
    summary.setdefault("resumed", []).append(_now())
    for word in ("error", "end"):
        summary.pop(word, None)
    return RunFolder(folder, summary)


def _settings(arguments: Sequence[str]) -> list[list[str]]:
    """What of the arguments says what is run, in any order: not where, nor on what devices."""
    settings: list[list[str]] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            settings.append([name, value] if equals else [name])
        elif settings:
            settings[-1].append(argument)
    return sorted(each for each in settings if each[0] not in ("--out", "--shard"))


@contextlib.contextmanager
def experiment(
    script: str | Path, question: str | None, argv: Sequence[str] | None = None
) -> Iterator[tuple[argparse.Namespace, RunFolder]]:
    """Parse an experiment's arguments, and record its run in a folder named after its file.

    Args:
        script: The experiment's `__file__`.
        question: Its docstring, which `--help` shows.
        argv: The arguments; by default those of the process.

    Yields:
        The parsed options (`quick`, `out`, `dtype`, `seed`, …) and the `RunFolder`.

    Raises:
        UsageError: If the folder cannot be made or written to.
    """
    name = Path(script).stem
    options = parser(name, question).parse_args(argv)
    with record(
        name,
        root=options.out,
        dtype=options.dtype,
        seed=options.seed,
        script=script,
        options=options,
    ) as run:
        yield options, run


def claim(root: str | Path, name: str) -> Path:
    """Make and return the folder `<root>/<name>-<number>`, which is nobody else's.

    `mkdir` either makes the folder or fails, so two processes that ask at once get two
    folders. The number is one more than the largest there.

    Args:
        root: Folder that holds the run folders; made if need be.
        name: Letters, digits, dots, underscores and dashes.

    Returns:
        The new folder.

    Raises:
        UsageError: If `root` is a file, or no folder can be made in it.
        ValueError: If `name` holds any other character, or is "." or "..".
    """
    root = Path(root)
    pattern = re.compile(re.escape(_checked_name(name)) + r"-(\d+)")
    with _refusals_as_usage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        taken = [int(m[1]) for p in root.iterdir() if (m := pattern.fullmatch(p.name))]
        for number in itertools.count(max(taken, default=0) + 1):
            folder = root / f"{name}-{number}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    raise AssertionError("itertools.count does not end")


def _checked_name(name: str) -> str:
    """Return `name`, or refuse one that could leave the folder it is meant for."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError(
            "A name of a run or of its file must consist of letters, digits, '.', '_' and "
            f"'-', got {name!r}."
        )
    return name


@contextlib.contextmanager
def _refusals_as_usage_errors(folder: Path) -> Iterator[None]:
    """Turn the system's refusal to write to `folder` into a `UsageError`."""
    try:
        yield
    except OSError as error:
        reason = "it is not a folder" if folder.is_file() else error.strerror or str(error)
        raise UsageError(
            f"cannot write to {str(folder)!r}: {reason}. Choose another folder with --out."
        ) from error


def _now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
