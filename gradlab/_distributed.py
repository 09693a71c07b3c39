"""Several processes as one run: started with short timeouts, ended without waiting.

JAX's runtime is not fault tolerant: when one process is gone, the others must end too. What
gradlab adds is that they end within seconds, after saving, with an exit code that tells the
one that failed from those that lost it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from typing import NoReturn

__all__ = [
    "FAILED",
    "LOST",
    "LostPeerError",
    "agreed",
    "alive",
    "leave",
    "lost",
    "several",
    "start",
    "watch_for_stalls",
]

FAILED, LOST = 2, 3  # exit codes: an error of this process's own; another process is gone
# Seconds to wait for all processes to arrive, and for a sign of life of each.
ARRIVAL, HEARTBEAT = 60, 10
# Words in errors of a collective whose other end is gone.
_GONE = ("gloo", "connection", "socket", "nccl", "peer", "coordination", "heartbeat", "barrier")

_started = False
_last_sign = time.monotonic()


class LostPeerError(RuntimeError):
    """Another process of this run is gone."""

    for_the_terminal = True


def start(
    coordinator: str,
    num_processes: int,
    process_id: int,
    *,
    arrival_seconds: int = ARRIVAL,
    heartbeat_seconds: int = HEARTBEAT,
) -> None:
    """Join this process to the others of one run, before any other use of JAX.

    Args:
        coordinator: "HOST:PORT" of process 0, the same for all; the port must be free there.
        num_processes: How many there are.
        process_id: Which one this is, from 0.
        arrival_seconds: How long to wait for the others.
        heartbeat_seconds: How long a process may give no sign of life.

    Raises:
        ValueError: If an argument is out of range.
        LostPeerError: If the port is taken, or the others do not come.
    """
    global _started
    host, colon, port = coordinator.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"`coordinator` must be HOST:PORT, got {coordinator!r}.")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f"`process_id` must be from 0 to {num_processes - 1}, got {process_id} of "
            f"{num_processes} processes."
        )
    import jax

    _reachable(host, int(port), process_id, arrival_seconds)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=arrival_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
            shutdown_timeout_seconds=heartbeat_seconds,
        )
    except jax.errors.JaxRuntimeError as error:
        raise LostPeerError(
            f"process {process_id} of {num_processes} could not join {coordinator}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    _started = True


def several() -> bool:
    """Whether this process is one of several of one run."""
    if not _started:
        return False
    import jax

    return jax.process_count() > 1


def _reachable(host: str, port: int, process_id: int, seconds: int) -> None:
    """Wait until the coordinator answers: the runtime's own wait ends in an abort."""
    import socket

    if process_id == 0:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                raise LostPeerError(f"port {port} cannot be used: {error.strerror}.") from error
        return
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise LostPeerError(
                    f"nobody answers at {host}:{port} after {seconds:g} seconds: is process 0 "
                    "running there?"
                ) from error
            time.sleep(0.1)


def agreed(*numbers: float) -> tuple[float, ...]:
    """Return the numbers of process 0, so that all processes decide alike."""
    if not several():
        return numbers
    import numpy as np
    from jax.experimental import multihost_utils

    told = multihost_utils.broadcast_one_to_all(np.asarray(numbers, np.float32))
    return tuple(float(number) for number in np.asarray(told))


def lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    if isinstance(error, LostPeerError):
        return True
    told = f"{type(error).__name__} {error}".lower()
    return several() and "runtimeerror" in told and any(word in told for word in _GONE)


def alive() -> None:
    """Note that a chunk of the run has ended."""
    global _last_sign
    _last_sign = time.monotonic()


def watch_for_stalls(seconds: float) -> None:
    """End the process if no chunk of a run ends for so long: another one stalls."""
    alive()

    def watch() -> None:
        while time.monotonic() - _last_sign < seconds:
            time.sleep(min(1.0, seconds / 4))
        _leave(f"no step has ended for {seconds:g} seconds: another process stalls.", LOST)

    threading.Thread(target=watch, daemon=True).start()


def leave(error: BaseException) -> NoReturn:
    """End this process because of an error, without waiting for the others."""
    if lost(error):
        _leave(f"another process is gone ({str(error).splitlines()[0][:200]})", LOST)
    traceback.print_exception(error)
    _leave("this process failed; the others will end too.", FAILED)


def _leave(told: str, code: int) -> NoReturn:
    """Say why and leave at once; a usual exit would wait for the others."""
    sys.stdout.flush()
    sys.stderr.write(f"gradlab: {told}\n")
    sys.stderr.flush()
    os._exit(code)
