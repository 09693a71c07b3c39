"""What a program asks of every run inside it: to show progress, to be kept, to end in time.

A library call is in no session. The command line opens one around an experiment, so that no
experiment has to hand these through.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["OutOfTimeError", "Session", "current", "within"]


class OutOfTimeError(Exception):
    """The time of the session was up before this could begin."""


@dataclass
class Session:
    """The wishes of a program.

    Attributes:
        folder: Where the parts of a run are kept, or None.
        deadline: When `time.monotonic` passes this, every run ends.
        progress: Called between chunks with the step, the most steps, the seconds so far and
            the loss; with None when a run has ended.
        shard: "data", "runs" or None: what is spread over all devices.
        label: What is being run, for the progress.
        cut: Whether the deadline has ended something early.
    """

    folder: Path | None = None
    deadline: float | None = None
    progress: Callable[[tuple[int, int, float, float] | None], None] | None = None
    shard: str | None = None
    label: str = ""
    cut: bool = False
    _seen: Counter[str] = field(default_factory=Counter)

    def part(self, *names: object) -> Path | None:
        """Return the file that keeps the part of this name; of equal ones, each its own."""
        if self.folder is None:
            return None
        key = "\n".join(map(str, names))
        self._seen[key] += 1
        readable = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", str(name))[:24] for name in names)
        digest = hashlib.sha256(f"{key}\n{self._seen[key]}".encode()).hexdigest()[:12]
        return self.folder / f"{readable.lstrip('.')}-{digest}.npz"

    def seconds_left(self) -> float:
        """Return the time left, infinite without a deadline."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()


_current: ContextVar[Session | None] = ContextVar("gradlab_session", default=None)


def current() -> Session | None:
    """Return the session that is open, if any."""
    return _current.get()


@contextlib.contextmanager
def within(session: Session | None) -> Iterator[Session | None]:
    """Open a session for what is called inside."""
    token = _current.set(session)
    try:
        yield session
    finally:
        _current.reset(token)
