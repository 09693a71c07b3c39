"""`minimize`: one loop for every method, recorded, interruptible, honest about its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
import optax

from gradlab import _driver as driver
from gradlab import _engine as engine
from gradlab._checks import (
    check_args,
    check_callable,
    check_count,
    check_params,
    check_positive,
    check_state,
)
from gradlab._driver import Progress
from gradlab._errors import accepts_only_its_keywords, check_choice
from gradlab._implicit import with_implicit_derivative
from gradlab._layout import Layout
from gradlab._numbers import Problem
from gradlab._outcome import outcome, trace_of
from gradlab._trainable import Part
from gradlab._tree import real_dtype
from gradlab._typing import Count, GradientOperator, Loss, Name, Number, Params
from gradlab.optimizers._protocol import takes_args
from gradlab.optimizers.method import Method, as_method
from gradlab.optimizers.minibatches import Minibatches, OnMinibatches
from gradlab.result import Result
from gradlab.trace import Trace

__all__ = ["Progress", "minimize"]

if TYPE_CHECKING:
    from gradlab.checkpoint import Checkpoint

    MethodLike: TypeAlias = str | Method | optax.GradientTransformation
    Arguments: TypeAlias = tuple[Any, ...]
    Callback: TypeAlias = Callable[[Progress], Any]
    Keep: TypeAlias = str | Path | Checkpoint
else:  # checked below, in the caller's words
    MethodLike = Arguments = Callback = Keep = Any

DEFAULT_STEPS = 1000
# Steps are counted in int32, and chunks are added to the count.
MOST_STEPS = 2**30
# History rows kept on the device between two fetches: a chunk of 0.15 s has seldom more
# steps. Fixed, so that a run with other `max_steps` does not compile anew.
CHUNK_ROWS = 4096
# Bytes of iterates kept there, where they are recorded.
CHUNK_BYTES = 2**26
_TESTS = ("gtol", "ftol", "xtol", "noise")


@accepts_only_its_keywords
def minimize(
    loss: Loss,
    x0: Params,
    method: MethodLike = "newton_cg",
    *,
    args: Arguments = (),
    max_steps: Count | None = None,
    gtol: Number | None = None,
    ftol: Number | None = None,
    xtol: Number | None = None,
    grad: GradientOperator | None = None,
    noise: Number | None = None,
    has_aux: bool = False,
    trace: Name | None = "scalars",
    loop: Name = "auto",
    callback: Callback | None = None,
    max_seconds: Number | None = None,
    state: Any = None,
    trainable: Any = None,
    checkpoint: Keep | None = None,
    batches: Any = None,
) -> Result:
    r"""Minimise a loss over a pytree of parameters, and keep the history.

    Every method runs through the same compiled loop, so their histories compare. The run
    stops when $\|g\|_\infty \le \mathrm{gtol}\,\|g_0\|_\infty$, or at the other tests asked
    for, or where rounding hides all further progress; `Result.status` says which. No
    tolerance is absolute, so scaling the loss changes nothing.

    Called from Python the loop runs in compiled chunks of about 0.15 s; under `jax.jit` or
    `jax.vmap` it is one loop. The iterates are the same.

    The answer's `x` and `fun` can be differentiated with respect to `args`, in forward and
    reverse mode, as often as the loss: $dx/d\theta = -H^{-1} \partial_\theta \nabla f$, by one
    linear system with the Hessian, dense up to 512 parameters and beyond by conjugate
    gradients. The derivative of a run that was no success is NaN, and so it is where these do
    not converge; every other field, and the start, has derivative zero.

    Args:
        loss: Function `loss(params, *args)` returning a real scalar, written for JAX.
        x0: Start: any pytree of real floating leaves; `None` leaves are kept.
        method: A name from `gradlab.methods()`, a `Method` from `gradlab.optimizers.make`,
            or any optax transformation.
        args: Further arguments of `loss`. They are traced: new data never recompile.
        max_steps: Most steps to take; default 1,000.
        gtol: Gradient test, relative to the gradient at the start; default √eps of the
            dtype, 1.5e-8 in float64 and 3.5e-4 in float32, and eps^(2/3), 3.7e-11 and
            2.4e-5, for methods that know curvature.
        ftol: Stop when a step changes the loss by at most `ftol` times its size; off by
            default.
        xtol: Stop when a step is at most `xtol` times as long as the point; off by default.
        grad: Gradient operator shaped like `jax.grad`, which is the default;
            `gradlab.finite.grad` drives the same method by differences.
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.
        has_aux: Whether `loss` returns `(value, aux)`.
        trace: "scalars" (default), "params" to keep every iterate too, or None.
        loop: "auto"; "host" takes one compiled step at a time (exact times of each step);
            "single" makes it one uninterruptible call.
        callback: Called with a `Progress` after each step (implies the host loop); stops
            the run by returning True or raising `StopIteration`.
        max_seconds: Stop after this long, compilation not counted.
        state: `Result.state` of an earlier run of the same method, to go on from.
        trainable: Tree of booleans shaped like `x0` or its upper part, or a function from
            `x0` to one: leaves marked False are held fixed, and have gradient zero.
        checkpoint: File that keeps the run, a path or a `Checkpoint`: written every ten
            seconds, at the end and on Ctrl-C. If it is there, the run goes on from it and
            takes the steps that it would have taken, bit for bit; a run that had ended is
            not run again, but for more `max_steps`.
        batches: `gradlab.minibatches(size, key=key)`: the method sees that many rows of
            `args` at a time, and a recorded step is one pass through them.

    Returns:
        A `Result`: a pytree with the answer, why it stopped, counts and the trace.

    Raises:
        TypeError: If a leaf is not floating, the loss does not return a real scalar, or a
            keyword is unknown.
        ValueError: If an option has a value outside its range.

    Examples:
        >>> def loss(x):
        ...     return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> result = minimize(loss, jnp.array([-1.2, 1.0]), "newton")
        >>> print(result.success, result.x.round(6))
        True [1. 1.]
    """
    check_callable("loss", loss, "a function loss(params, *args)")
    chosen = as_method(method)
    _check_options(args, loop, trace)
    if batches is not None and not isinstance(batches, Minibatches):
        raise TypeError(
            f"`batches` must be gradlab.minibatches(size, key=key), got {batches!r:.40}."
        )
    if trainable is not None:
        _refuse_model(chosen)
        part = Part.of(check_params(x0), trainable)
        trained, fixed = part.split(check_params(x0))
        told = _of_part(callback, part, fixed)
        of_part, data = part.wrap(loss), (fixed, *args)
        if batches is not None:  # what is held has no rows
            of_part, data = _holding(of_part, fixed), args
        result = minimize(
            of_part, trained, chosen, args=data, max_steps=max_steps,
            gtol=gtol, ftol=ftol, xtol=xtol, grad=grad, noise=noise, has_aux=has_aux,
            trace=trace, loop=loop, callback=told, max_seconds=max_seconds, state=state,
            checkpoint=checkpoint,
            batches=batches,
        )  # fmt: skip
        return part.complete(result, fixed)
    for name, option, kind in (
        ("grad", grad, "an operator like jax.grad"),
        ("callback", callback, "a function of a Progress"),
    ):
        if option is not None:
            check_callable(name, option, kind)
    deadline = check_positive("max_seconds", max_seconds)
    steps = DEFAULT_STEPS if max_steps is None else check_count("max_steps", max_steps)
    tests = {"gtol": gtol, "ftol": ftol, "xtol": xtol, "noise": noise}
    program, problem, start, unpack = _set_up(
        loss, x0, chosen, args, tests, grad=grad, has_aux=has_aux, steps=steps, trace=trace,
        batches=batches,
    )  # fmt: skip
    if state is not None:
        check_state(state, program.method.build(problem.hyperparams).init, start)
    options = driver.Options(loop, callback, deadline, unpack, _kept_in(checkpoint))
    finished = None
    if not _any_traced((start, problem, state)):
        finished = driver.run(program, problem, start, state, options)
    if finished is None:
        _refuse_host_options(loop, callback, deadline, checkpoint)
        return _within_trace(program, problem, start, state, steps, trace, unpack)
    carry, history = finished
    return outcome(program, problem, carry, history, trace is not None, unpack)


def record(
    loss: Loss,
    x0: Params,
    method: Method,
    *,
    args: Arguments,
    max_steps: int,
    gtol: Number | None,
    grad: GradientOperator | None,
    batches: Minibatches | None,
) -> Trace:
    """Return a run's trace alone, inside somebody's trace: its end is not examined."""
    program, problem, start, _ = _set_up(
        loss, x0, method, args, {"gtol": gtol}, grad=grad, has_aux=False, steps=max_steps,
        trace="scalars", batches=batches,
    )  # fmt: skip
    return trace_of(program, _run_traced(program, problem, start, None, max_steps, "scalars"))


def _set_up(
    loss: Loss,
    x0: Params,
    method: Method,
    args: Arguments,
    tests: dict[str, Number | None],
    *,
    grad: GradientOperator | None,
    has_aux: bool,
    steps: int,
    trace: str | None,
    batches: Minibatches | None,
) -> tuple[engine.Program, Problem, Params, Callable[[Any], Params]]:
    """Return what to run, where it starts, and how its parameters become the caller's."""
    x0 = check_params(x0)
    layout = None if method.sees_leaves else Layout.of(x0)
    problem = Problem(
        args=args,
        hyperparams=_in_dtype(method.hyperparams, real_dtype(x0)),
        max_steps=np.asarray(min(steps, MOST_STEPS), np.int32),
        **{name: check_positive(name, tests.get(name)) for name in _TESTS},
    )
    program = engine.Program(
        loss if layout is None else layout.wrap(loss),
        method,
        grad,
        has_aux,
        _chunk_rows(x0, trace),
        trace == "params",
    )
    if batches is not None:
        program, problem = _on_batches(program, problem, batches)
    if layout is None:
        return program, problem, x0, lambda x: x
    return program, problem, layout.pack(x0), layout.unpack


def _kept_in(checkpoint: Keep | None) -> Any:
    """Make a path a `Checkpoint`; the module is not loaded for runs that keep nothing."""
    if checkpoint is None:
        return None
    from gradlab.checkpoint import Checkpoint

    return checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)


def _check_options(args: Any, loop: Any, trace: Any) -> None:
    """Check the options that are names and the tuple of arguments."""
    check_choice("loop", loop, ("auto", "host", "single"))
    if trace is not None:
        check_choice("trace", trace, ("params", "scalars"))
    check_args(args)


def _refuse_host_options(
    loop: str, callback: Any, max_seconds: Any, checkpoint: Any = None
) -> None:
    """Raise where a run inside `jit` or `vmap` is asked to come back to Python."""
    wanted = [
        ("loop='host'", loop == "host"),
        ("callback", callback),
        ("max_seconds", max_seconds is not None),
        ("checkpoint", checkpoint is not None),
    ]
    for name, asked in wanted:
        if asked:
            raise ValueError(
                f"{name} cannot be used inside jax.jit or jax.vmap, where a run is one "
                "compiled loop. Call minimize from Python, or leave it out."
            )


def _in_dtype(hyperparams: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Give arrays among the hyper-parameters the parameters' dtype; numbers adapt anyway."""
    return {
        name: value.astype(dtype) if hasattr(value, "astype") else value
        for name, value in hyperparams.items()
    }


def _any_traced(tree: Any) -> bool:
    """Whether any leaf is a tracer: we are inside somebody's jit, vmap or grad."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _chunk_rows(x0: Params, trace: str | None) -> int:
    """History rows to keep on the device between two fetches."""
    if trace != "params":  # without a trace the same, to share the compiled code
        return CHUNK_ROWS
    bytes_each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(x0))
    return int(np.clip(CHUNK_BYTES // bytes_each, 2, CHUNK_ROWS))


def _on_batches(
    program: engine.Program, problem: Problem, batches: Minibatches
) -> tuple[engine.Program, Problem]:
    """Let one update of the method be a pass through the rows of `args`."""
    batches.rows(problem.args)
    numbers = {
        "hyperparams": problem.hyperparams, "args": problem.args, "key": batches.key
    }  # fmt: skip
    passes = OnMinibatches(program.method, program, batches.size, batches.steps)
    method = Method(program.method.name, passes, (), numbers)
    return dataclasses.replace(program, method=method), problem._replace(hyperparams=numbers)


def _holding(loss: Callable[..., Any], fixed: list[Any]) -> Callable[..., Any]:
    """Close a loss over the leaves held fixed."""
    return lambda trained, *args: loss(trained, fixed, *args)


def _refuse_model(method: Method) -> None:
    """Raise where a method built with a model would be handed a part of its parameters."""
    if takes_args(method.build()):
        raise ValueError(
            "`trainable` cannot be used with a method that was built with its model or "
            "residuals: they take all of the parameters. Close the model over the leaves to "
            "hold."
        )


def _of_part(callback: Any, part: Part, fixed: list[Any]) -> Any:
    """Make a callback of the whole tree one of the leaves trained."""
    if callback is None:
        return None
    still = [np.zeros_like(leaf) for leaf in fixed]

    def told(progress: Progress) -> Any:
        x, grad = part.merge(progress.x, fixed), part.merge(progress.grad, still)
        return callback(progress._replace(x=x, grad=grad))

    return told


def _run_traced(
    program: engine.Program,
    problem: Problem,
    start: Params,
    state: Any,
    steps: int,
    trace: str | None,
) -> engine.Carry:
    """Run as one loop inside somebody's trace, with room for every step's row."""
    program = dataclasses.replace(program, rows=steps + 1 if trace else 1)
    carry = engine.begin(program, problem, start, state)
    return engine.advance(program, problem, carry, problem.max_steps)


def _within_trace(
    program: engine.Program,
    problem: Problem,
    start: Params,
    state: Any,
    steps: int,
    trace: str | None,
    unpack: Callable[[Any], Params],
) -> Result:
    """Run inside somebody's trace; the answer's derivative is the minimum's, not the loop's."""
    loss, closed_over = jax.closure_convert(program.loss, start, *problem.args)
    if closed_over:  # what is traced there is data, and may be what one differentiates by
        program = dataclasses.replace(program, loss=loss)
        problem = problem._replace(args=(*problem.args, *closed_over))
    held, start, state = jax.lax.stop_gradient((problem, start, state))
    carry = _run_traced(program, held, start, state, steps, trace)
    result = outcome(program, held, carry, None, trace is not None, lambda x: x)
    x, fun = with_implicit_derivative(
        program.loss_of, result.x, result.fun, result.success, problem.args
    )
    recorded = result.trace
    if recorded is not None and recorded.params is not None:
        recorded = recorded._replace(params=unpack(recorded.params))
    return result._replace(x=unpack(x), fun=fun, grad=unpack(result.grad), trace=recorded)
