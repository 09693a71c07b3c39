"""The compiled loop driven from Python: chunks, clock, callback, deadline, code cache."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab import _certify, _distributed, _session
from gradlab import _engine as engine
from gradlab._layout import OfVector
from gradlab._numbers import Counts, Problem
from gradlab._tree import norm
from gradlab._typing import Params
from gradlab.result import Status

__all__ = ["History", "Options", "Progress", "compiled", "inline", "run"]

# One compiled call lasts about this long, so that Ctrl-C, a deadline or a progress bar is
# never further away; the cost of a call, 0.05 ms, is then nothing.
CHUNK_SECONDS = 0.15
# Programs kept compiled. Each holds its loss and what the loss closes over.
CACHE_SIZE = 64


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


class Functions(NamedTuple):
    """The functions of one program, and the kinds of arguments they are compiled for.

    Methods that search along their step themselves have an `advance` of their own: large
    code that compiles for long and takes few steps; all others take many cheap ones.
    """

    begin: Any
    advance: Any
    advance_searching: Any
    examine: Callable[..., Any]
    gradient: Callable[..., Params]
    aux: Callable[..., Any]
    compiled_for: set[Any]

    def loop(self, carry: engine.Carry) -> Any:
        """Return the loop for a carry."""
        return self.advance_searching if carry.anchor is None else self.advance


_cache: OrderedDict[engine.Program, Functions] = OrderedDict()


def compiled(program: engine.Program) -> Functions:
    """Return the compiled functions of a program, from the cache where an equal one is."""
    try:
        if program in _cache:
            _cache.move_to_end(program)
            return _cache[program]
    except TypeError:  # an unhashable loss: compile for this call only
        return _compile(program)
    # What asks for the loss alone serves every method.
    others = {known.of_loss: functions for known, functions in _cache.items()}
    built = _compile(program)
    same = others.get(program.of_loss, built)
    _cache[program] = built._replace(examine=same.examine, gradient=same.gradient, aux=same.aux)
    if len(_cache) > CACHE_SIZE:
        _cache.popitem(last=False)
    return _cache[program]


def inline(program: engine.Program) -> Functions:
    """Build the functions of a program, to be traced."""

    def advance(problem, carry, until):
        return engine.advance(program, problem, engine.rewind(carry), until)

    def examine(args, x, noise, largest):
        # With thousands of leaves each copy of the loss compiles for a minute.
        smooth = not isinstance(program.loss, OfVector)
        smooth = smooth and program.has_second_derivatives(args, x)
        length = jnp.maximum(norm(x), largest)
        return _certify.examine(program.value_fn(args), x, noise, length, smooth=smooth)

    def gradient(args, x):
        return jax.grad(program.value_fn(args))(x)

    return Functions(
        functools.partial(engine.begin, program),
        advance,
        advance,
        examine,
        gradient,
        functools.partial(engine.auxiliary, program),
        set(),
    )


def _compile(program: engine.Program) -> Functions:
    """Build the functions of a program, each compiled when first called."""
    plain = inline(program)
    *functions, compiled_for = plain
    quickly: list[Any] = [jax.jit(f, compiler_options=_quickly()) for f in functions]
    # The first one called may turn out to stand in somebody's trace; JAX refuses options there.
    begin, advance = jax.jit(plain.begin), jax.jit(plain.advance)
    return Functions(*[*quickly, compiled_for])._replace(begin=begin, advance=advance)


def _quickly() -> dict[str, bool | int]:
    """Compiler options for large programs on the CPU: no fusion emitters, few modules.

    With jaxlib 0.10 a run of `newton_cg` compiles in 0.4 s so and in 1.0 s with emitters;
    small solves take 0.9 to 1.3 times as long, but the many cheap operations of a first-order
    step half as long again. jaxlib 0.12 compiles as fast by itself and does not know the
    option. By default XLA cuts each program into up to 32 modules to compile side by side;
    one for each core takes a sixth less.
    """
    if jax.__version_info__ >= (0, 12) or jax.default_backend() != "cpu":
        return {}
    cores = min(os.cpu_count() or 1, 8)
    return {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": cores}


def run(
    program: engine.Program, problem: Problem, x0: Params, state: Any, options: Options
) -> tuple[engine.Carry, History] | None:
    """Run to the end; None if the loss or the method turns out to close over traced values."""
    functions = compiled(program)
    started = time.perf_counter()
    if not _compile_side_by_side(functions, problem, x0, state):
        _cache.pop(program, None)
        return None
    keeper: Any = None
    if options.checkpoint is not None:
        from gradlab._keeper import Keeper

        shapes, _ = _traced(functions.begin, problem, x0, state)
        _, loop = _traced(functions.loop(shapes), problem, shapes, np.int32(0))
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
    if status == Status.RUNNING:
        # No steps: this only compiles, so that no chunk's clock contains compilation.
        carry = functions.loop(carry)(problem, carry, np.int32(step))
        step, status = _sync(carry)
    history.compile_seconds += time.perf_counter() - started
    try:
        return _loop(program, functions, problem, carry, history, options, keeper)
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
) -> tuple[engine.Carry, History]:
    """Take chunks of steps until the run ends or is asked to."""
    step, status = _sync(carry)
    length = _first_length(options)
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
        spent = history.clock - history.begun
        stop = _asked_to_stop(carry, step, spent, options)
        length = _next_length(length, max(step - before, 1), elapsed, spent, options)
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


def _compile_side_by_side(
    functions: Functions, problem: Problem, x0: Params, state: Any
) -> bool:
    """Compile the start beside the loop; False where they close over traced values.

    Most of a short run's time is compiling. Both are traced here, so that the loss never
    runs in another thread; later calls find traces and compiled code in JAX's own caches.
    """
    leaves, structure = jax.tree.flatten((problem, x0, state))
    kind = (structure, tuple((np.shape(x), getattr(x, "dtype", type(x))) for x in leaves))
    if kind in functions.compiled_for:
        return True
    carry, traced = _traced(functions.begin, problem, x0, state)
    if _any_tracer(traced.consts):
        return False
    begin, advance = functions.begin.lower(problem, x0, state), functions.loop(carry)
    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(begin.compile)
        _, traced = _traced(advance, problem, carry, np.int32(0))
        if _any_tracer(traced.consts):
            return False
        advance.lower(problem, carry, np.int32(0)).compile()
        compiling.result()
    functions.compiled_for.add(kind)
    return True


def _any_tracer(values: list[Any]) -> bool:
    """Whether a program closes over what somebody else is tracing."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def _traced(function: Any, *args: Any) -> tuple[Any, Any]:
    """Trace a compiled function, once in all: the shape of its result, and its program."""
    # Compiler options are refused within a trace; the trace itself is shared.
    plain = jax.jit(function.__wrapped__)
    traced, shape = jax.make_jaxpr(plain, return_shape=True)(*args)
    return shape, traced


def _sync(carry: engine.Carry) -> tuple[int, int]:
    """Wait for the device and read where the run stands; NumPy's indexing is compiled."""
    counts = Counts.of(np.asarray(carry.counts))
    return int(counts.step), int(counts.status)


def _first_length(options: Options) -> int:
    """Steps of the first chunk: one, to learn how long a step takes."""
    return np.iinfo(np.int32).max // 2 if options.loop == "single" else 1


def _next_length(
    length: int, taken: int, elapsed: float, clock: float, options: Options
) -> int:
    """Steps of the next chunk, for it to last CHUNK_SECONDS or to the deadline."""
    if options.loop != "auto" or options.callback is not None:
        return length
    target = min(CHUNK_SECONDS, max(_seconds_left(), 0.0))
    if options.max_seconds is not None:
        target = min(target, max(options.max_seconds - clock, 0.0))
    ideal = target * taken / max(elapsed, 1e-9)
    return int(np.clip(ideal, 1, 16 * length))


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
