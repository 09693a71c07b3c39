"""How far a run has come: a bar on a terminal, and a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from gradlab._session import Session

__all__ = ["progress_of"]

# Where the output is no terminal: a line so often, for a log to stay readable.
_EVERY = 10.0
# A bar is shown for what takes longer than this.
_PATIENCE = 1.0

Place = tuple[int, int, float, float]


def progress_of(session: Session) -> Any:
    """Return what shows the progress of a session's runs on the standard error."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            return _Bar(session, tqdm)
    return _Lines(session)


class _Lines:
    """Writes a line every few seconds."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.last = time.monotonic()
        self.start: tuple[int, float] | None = None

    def __call__(self, place: Place | None) -> None:
        """Write where the run is, if it is time to."""
        if place is None:
            self.start = None
            return
        step, most, seconds, loss = place
        if self.start is None:
            self.start = (step, seconds)
        now = time.monotonic()
        if now - self.last < _EVERY:
            return
        self.last = now
        rate = (step - self.start[0]) / max(seconds - self.start[1], 1e-9)
        told = f"{self.session.label or 'run'}: step {step} of at most {most}, loss {loss:.6g}"
        if rate > 0:
            told += f", {rate:.3g} steps/s, at most {_span((most - step) / rate)} left"
        print(told, file=sys.stderr, flush=True)


class _Bar:
    """Draws a bar that disappears when the run has ended."""

    def __init__(self, session: Session, tqdm: Any) -> None:
        self.session, self.tqdm = session, tqdm
        self.bar: Any = None
        self.began = time.monotonic()

    def __call__(self, place: Place | None) -> None:
        """Move the bar, or take it away."""
        if place is None:
            if self.bar is not None:
                self.bar.close()
            self.bar, self.began = None, time.monotonic()
            return
        step, most, _, loss = place
        if self.bar is None and time.monotonic() - self.began > _PATIENCE:
            label = self.session.label or None
            self.bar = self.tqdm(
                total=most, initial=step, desc=label, leave=False, file=sys.stderr
            )
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            self.bar.update(step - self.bar.n)


def _span(seconds: float) -> str:
    """Write a length of time."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
