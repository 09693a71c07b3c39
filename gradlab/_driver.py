"""The compiled loop driven from Python: chunks, clock, callback, deadline."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from gradlab import _distributed, _session
from gradlab import _engine as engine
from gradlab._numbers import Counts, Problem
from gradlab._programs import Functions, compiled, forget, kind_of, prepare, traced
from gradlab._typing import Params
from gradlab.result import Status

__all__ = ["History", "Options", "Progress", "run"]

# One compiled call lasts about this long, so that Ctrl-C, a deadline or a progress bar is
# never further away; the cost of a call, 0.05 ms, is then nothing.
CHUNK_SECONDS = 0.15
# Most steps of the first call of a run like one before, whose steps may have been cheaper.
FIRST_STEPS = 256


class Progress(NamedTuple):
    """What a callback gets after each step.

    Attributes:
        step: Accepted steps so far.
        x: The point, shaped like `x0`.
        fun: The loss there.
        grad: The gradient there.
        seconds: Wall time so far without compilation.
    """

    step: int
    x: Params
    fun: float
    grad: Params
    seconds: float


@dataclass(frozen=True)
class Options:
    """How a run is driven; none of it changes the iterates."""

    loop: str = "auto"
    callback: Callable[[Progress], Any] | None = None
    max_seconds: float | None = None
    unpack: Callable[[Any], Params] = lambda x: x
    checkpoint: Any = None  # a Checkpoint; imported where there is one


@dataclass
class History:
    """Rows fetched so far, and the clock."""

    numbers: list[np.ndarray] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    params: list[Any] = field(default_factory=list)
    seconds: list[np.ndarray] = field(default_factory=list)
    compile_seconds: float = 0.0
    clock: float = 0.0
    begun: float = 0.0  # the clock when this process took over
    pace: float = 0.0  # seconds that a step of the last chunk took

    def fetch(self, rows: engine.Rows, step: int, elapsed: float) -> None:
        """Copy the rows up to `step`; time is spread evenly over a chunk's steps."""
        count = min(step - int(rows.first) + 1, rows.numbers.shape[0] - 1)
        ends = self.clock + elapsed * np.arange(1, count + 1) / max(count, 1)
        self.clock += elapsed
        if count > 0:
            self.numbers.append(np.asarray(rows.numbers)[:count])
            self.counts.append(np.asarray(rows.counts)[:count])
            self.seconds.append(ends)
            if rows.params is not None:
                self.params.append(jax.tree.map(lambda x: np.asarray(x)[:count], rows.params))

    def first(self, fetches: int, clock: float) -> dict[str, Any]:
        """Return the rows of the first so many fetches, joined, and the clock then."""
        lists = (self.numbers, self.counts, self.seconds)
        numbers, counts, seconds = (np.concatenate(parts[:fetches]) for parts in lists)
        past: dict[str, Any] = {"numbers": numbers, "counts": counts, "seconds": seconds}
        past["clock"] = np.asarray([clock, self.compile_seconds])
        parts = self.params[:fetches]
        past["params"] = jax.tree.map(lambda *x: np.concatenate(x), *parts) if parts else None
        return past

    @classmethod
    def of(cls, past: dict[str, Any]) -> History:
        """Go on from what `first` returned."""
        clock, compile_seconds = map(float, past["clock"])
        return cls(
            [past["numbers"]],
            [past["counts"]],
            [] if past["params"] is None else [past["params"]],
            [past["seconds"]],
            compile_seconds,
            clock,
            clock,
        )


def run(
    program: engine.Program, problem: Problem, x0: Params, state: Any, options: Options
) -> tuple[engine.Carry, History] | None:
    """Run to the end; None if the loss or the method turns out to close over traced values."""
    functions = compiled(program)
    started = time.perf_counter()
    kind = kind_of(problem, x0, state)
    if not prepare(functions, kind, problem, x0, state):
        forget(program)
        return None
    keeper: Any = None
    if options.checkpoint is not None:
        from gradlab._keeper import Keeper

        shapes, _ = traced(functions.begin, problem, x0, state)
        _, loop = traced(functions.loop(shapes), problem, shapes, np.int32(0))
        keeper = Keeper(options.checkpoint, loop, shapes, problem, x0, state)
    saved = keeper.restore() if keeper is not None else None
    if saved is not None:
        carry, history = saved[0], History.of(saved[1])
        carry = _going_on(carry, int(problem.max_steps))
    else:
        carry, history = functions.begin(problem, x0, state), History()
        if isinstance(carry.counts, jax.core.Tracer):
            return None
        history.fetch(carry.rows, 0, 0.0)
    step, status = _sync(carry)
    pace = functions.paces.get(kind)
    if status == Status.RUNNING and pace is None:
        # No steps: this only compiles, so that no chunk's clock contains compilation.
        carry = functions.loop(carry)(problem, carry, np.int32(step))
        step, status = _sync(carry)
    history.compile_seconds += time.perf_counter() - started
    try:
        carry, history = _loop(
            program, functions, problem, carry, history, options, keeper, pace
        )
        if history.pace > 0:
            functions.paces[kind] = history.pace
        return carry, history
    except BaseException:  # Ctrl-C, a peer that is lost, a fault in a callback
        if keeper is not None:
            with contextlib.suppress(Exception):  # the fault itself is what must be heard of
                keeper.save()
        raise
    finally:
        _report(None)


def _loop(
    program: engine.Program,
    functions: Functions,
    problem: Problem,
    carry: engine.Carry,
    history: History,
    options: Options,
    keeper: Any,
    pace: float | None,
) -> tuple[engine.Carry, History]:
    """Take chunks of steps until the run ends or is asked to.

    `pace` is what a step took, in seconds, in a run like this one, if there was one.
    """
    step, status = _sync(carry)
    length = _first_length(options, pace)
    if keeper is not None:
        keeper.remember(carry, history, written=keeper.found)
    while status == Status.RUNNING:
        before = step
        until = np.int32(min(step + length, step + program.rows))
        started = time.perf_counter()
        carry = functions.loop(carry)(problem, carry, until)
        step, status = _sync(carry)
        elapsed = time.perf_counter() - started
        history.fetch(carry.rows, step, elapsed)
        _report((step, int(problem.max_steps), history.clock, carry))
        if keeper is not None:
            keeper.remember(carry, history)
            if status == Status.RUNNING and keeper.file.due:
                keeper.save()
        history.pace = elapsed / max(step - before, 1)
        spent = history.clock - history.begun
        stop = _asked_to_stop(carry, step, spent, options)
        length = _next_length(length, history.pace, spent, options)
        _distributed.alive()
        if _distributed.several():  # one process decides for all, by its own clock
            length, stop = _agreed(min(length, program.rows), stop)
        if stop is not None and status == Status.RUNNING:
            if keeper is not None:
                keeper.save()
            return engine.stopped(carry, stop), history
    if keeper is not None:
        keeper.save()
    return carry, history


def _agreed(length: int, stop: Status | None) -> tuple[int, Status | None]:
    """Return the decision of the first process."""
    told, end = map(int, _distributed.agreed(length, -1 if stop is None else stop))
    return told, None if end < 0 else Status(end)


def _going_on(carry: engine.Carry, max_steps: int) -> engine.Carry:
    """Let a run go on that had ended at a limit which is now farther away."""
    step, status = _sync(carry)
    if status == Status.MAX_STEPS and step < max_steps:
        return engine.stopped(carry, Status.RUNNING)
    return carry


def _report(where: tuple[int, int, float, engine.Carry] | None) -> None:
    """Tell the session, if one is open, how far a run has come, or that it has ended."""
    session = _session.current()
    if session is None or session.progress is None:
        return
    if where is None:
        session.progress(None)
        return
    step, most, clock, carry = where
    session.progress((step, most, clock, float(np.asarray(carry.numbers)[0])))


def _sync(carry: engine.Carry) -> tuple[int, int]:
    """Wait for the device and read where the run stands; NumPy's indexing is compiled."""
    counts = Counts.of(np.asarray(carry.counts))
    return int(counts.step), int(counts.status)


def _first_length(options: Options, pace: float | None) -> int:
    """Steps of the first chunk: one, to learn how long a step takes, unless that is known."""
    if options.loop == "single":
        return int(np.iinfo(np.int32).max // 2)
    # Several processes must agree on the length, and have not spoken yet.
    if pace is None or not _may_vary(options) or _distributed.several():
        return 1
    return min(_affordable(pace, 0.0, options), FIRST_STEPS)


def _next_length(length: int, pace: float, clock: float, options: Options) -> int:
    """Steps of the next chunk."""
    return min(_affordable(pace, clock, options), 16 * length) if _may_vary(options) else length


def _may_vary(options: Options) -> bool:
    """Whether a chunk may be of any length."""
    return options.loop == "auto" and options.callback is None


def _affordable(pace: float, clock: float, options: Options) -> int:
    """Steps, at least one, that last CHUNK_SECONDS or to the deadline."""
    target = min(CHUNK_SECONDS, max(_seconds_left(), 0.0))
    if options.max_seconds is not None:
        target = min(target, max(options.max_seconds - clock, 0.0))
    return max(int(target / max(pace, 1e-9)), 1)


def _asked_to_stop(
    carry: engine.Carry, step: int, clock: float, options: Options
) -> Status | None:
    """Let the callback and the deadline speak."""
    if options.callback is not None:
        progress = Progress(
            step,
            options.unpack(carry.params),
            float(carry.numbers[0]),
            options.unpack(carry.grad),
            clock,
        )
        try:
            answer = options.callback(progress)
            # Only a truth value stops: a callback may return anything else by accident.
            if isinstance(answer, bool | np.bool_ | jax.Array) and bool(answer):
                return Status.STOPPED_BY_CALLBACK
        except StopIteration:
            return Status.STOPPED_BY_CALLBACK
    if options.max_seconds is not None and clock >= options.max_seconds:
        return Status.OUT_OF_TIME
    session = _session.current()
    if session is not None and session.seconds_left() <= 0:
        session.cut = True
        return Status.OUT_OF_TIME
    return None


def _seconds_left() -> float:
    """Return the time that the session leaves, infinite where none is open."""
    session = _session.current()
    return float("inf") if session is None else session.seconds_left()
