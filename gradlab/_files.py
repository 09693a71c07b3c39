"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["being_written", "write_whole", "writing"]

_busy: list[None] = []


def write_whole(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one.

    The bytes go to a temporary file beside it, are forced to disk, and take the name in one
    step: a process killed in between leaves the old file, and a full disk leaves no stump.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing():
        _write(path, temporary, content)


def _write(path: Path, temporary: Path, content: bytes) -> None:
    """Write to the temporary file, and give it the name."""
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Mark what is done inside as the writing of a file, which should not be broken off."""
    _busy.append(None)
    try:
        yield
    finally:
        _busy.pop()


def being_written() -> bool:
    """Whether a file is being written at this moment, by some thread."""
    return bool(_busy)
