"""Ctrl-C and SIGTERM end a program within a second, also while XLA compiles.

Python hears of a signal between two of its own instructions, and a compilation is one of
them for seconds. So a thread waits for the signal too. It lets the program save and leave by
itself; if the signal has not been heard in time, there is nothing new to save, and the thread
leaves the process at once, after what was registered to be said.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from gradlab import _files

__all__ = ["before_leaving", "code", "watched"]

# A chunk of a run lasts 0.15 s; what is not heard by then is deaf.
_HEARD = 0.7
# A program that has heard it leaves by itself in so long, or is left; but never in the middle
# of a file, unless the disk hangs.
_LEAVES, _WRITES = 1.5, 30.0
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # 128 and the signal's number, as shells do

_last_words: list[Callable[[], Any]] = []
_heard = threading.Event()
_received = signal.SIGINT


def code() -> int:
    """Return the exit code of the signal that was received last."""
    return _CODES[_received]


@contextlib.contextmanager
def before_leaving(action: Callable[[], Any]) -> Iterator[None]:
    """Have an action done if the process is left at once inside this block."""
    _last_words.append(action)
    try:
        yield
    finally:
        _last_words.remove(action)


def watched(prog: str) -> None:
    """Watch for signals from now on, in the main thread's stead where it is deaf.

    `prog` is the name the program speaks under.
    """
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in _CODES:
        signal.signal(number, _hear)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, prog), daemon=True).start()


def _hear(number: int, frame: Any) -> None:
    """Turn a signal into the exception that Ctrl-C is."""
    global _received
    _received = signal.Signals(number)
    _heard.set()
    raise KeyboardInterrupt


def _watch(reader: int, prog: str) -> None:
    """Wait for a signal, then for the program to leave; leave in its stead."""
    global _received
    while True:
        numbers = [n for n in os.read(reader, 64) if n in _CODES]
        if numbers:
            break
    started = time.monotonic()
    if _heard.wait(_HEARD):
        time.sleep(_LEAVES)
    while _files.being_written() and time.monotonic() - started < _WRITES:
        time.sleep(0.05)
    _received = signal.Signals(numbers[0])
    for action in reversed(_last_words):
        with contextlib.suppress(Exception):
            action()
    print(f"{prog}: interrupted", file=sys.stderr, flush=True)
    os._exit(_CODES[signal.Signals(numbers[0])])
