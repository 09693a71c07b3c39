"""Files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["being_written", "write_whole"]

_written: list[Path] = []


def write_whole(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one.

    The bytes go to a temporary file beside it, are forced to disk, and take the name in one
    step: a process killed in between leaves the old file, and a full disk leaves no stump.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    _written.append(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        _written.remove(path)


def being_written() -> bool:
    """Whether a file is being written at this moment, by some thread."""
    return bool(_written)
