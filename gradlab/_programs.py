"""The compiled functions of a program: made once, side by side, and kept."""

from __future__ import annotations

import functools
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab import _certify
from gradlab import _engine as engine
from gradlab._bounds import within
from gradlab._layout import OfVector
from gradlab._numbers import Problem
from gradlab._tree import any_tracer, norm
from gradlab._typing import Params

__all__ = [
    "CACHE_SIZE",
    "Functions",
    "compiled",
    "forget",
    "inline",
    "kind_of",
    "prepare",
    "traced",
]

# Programs kept compiled. Each holds its loss and what the loss closes over.
CACHE_SIZE = 64


class Functions(NamedTuple):
    """The functions of one program, the kinds of arguments they are compiled for, and paces.

    Methods that search along their step themselves have an `advance` of their own: large
    code that compiles for long and takes few steps; all others take many cheap ones. A pace
    is what a step took last, in seconds, for a kind that was run before.
    """

    begin: Any
    advance: Any
    advance_searching: Any
    examine: Callable[..., Any]
    glance: Callable[..., Any]
    gradient: Callable[..., Params]
    aux: Callable[..., Any]
    compiled_for: set[Any]
    paces: dict[Any, float]

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
    _cache[program] = built._replace(
        examine=same.examine, glance=same.glance, gradient=same.gradient, aux=same.aux
    )
    if len(_cache) > CACHE_SIZE:
        _cache.popitem(last=False)
    return _cache[program]


def inline(program: engine.Program) -> Functions:
    """Build the functions of a program, to be traced."""

    def advance(problem, carry, until):
        return engine.advance(program, problem, engine.rewind(carry), until)

    def around(args, x, region):
        value_fn = program.value_fn(args)
        return value_fn if region is None else within(value_fn, x, region)

    def examine(args, x, noise, largest, region=None):
        # With thousands of leaves each copy of the loss compiles for a minute.
        smooth = not isinstance(program.loss, OfVector)
        smooth = smooth and program.has_second_derivatives(args, x)
        length = jnp.maximum(norm(x), largest)
        value_fn, bounded = around(args, x, region), region is not None
        return _certify.examine(value_fn, x, noise, length, smooth=smooth, bounded=bounded)

    def glance(args, x, largest, region=None):
        length = jnp.maximum(norm(x), largest)
        return _certify.lower_beside(around(args, x, region), x, length)

    def gradient(args, x):
        return jax.grad(program.value_fn(args))(x)

    return Functions(
        functools.partial(engine.begin, program),
        advance,
        advance,
        examine,
        glance,
        gradient,
        functools.partial(engine.auxiliary, program),
        set(),
        {},
    )


def _compile(program: engine.Program) -> Functions:
    """Build the functions of a program, each compiled when first called."""
    plain = inline(program)
    quickly = functools.partial(jax.jit, compiler_options=_quickly())
    return plain._replace(
        # The first one called may turn out to stand in somebody's trace; JAX refuses options
        # there.
        begin=jax.jit(plain.begin),
        advance=jax.jit(plain.advance),
        advance_searching=quickly(plain.advance_searching),
        examine=quickly(plain.examine),
        glance=quickly(plain.glance),
        gradient=quickly(plain.gradient),
        aux=quickly(plain.aux),
    )


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


def forget(program: engine.Program) -> None:
    """Drop a program from the cache."""
    _cache.pop(program, None)


def kind_of(problem: Problem, x0: Params, state: Any) -> Any:
    """What of the arguments a program is compiled for: structure, shapes, dtypes."""
    leaves, structure = jax.tree.flatten((problem, x0, state))
    kinds = tuple((np.shape(x), getattr(x, "dtype", type(x))) for x in leaves)
    return structure, kinds


def prepare(functions: Functions, kind: Any, problem: Problem, x0: Params, state: Any) -> bool:
    """Compile the start beside the loop; False where they close over traced values.

    Most of a short run's time is compiling. Both are traced here, so that the loss never
    runs in another thread; later calls find traces and compiled code in JAX's own caches.
    """
    if kind in functions.compiled_for:
        return True
    carry, program = traced(functions.begin, problem, x0, state)
    if any_tracer(program.consts):
        return False
    begin, advance = functions.begin.lower(problem, x0, state), functions.loop(carry)
    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(begin.compile)
        _, program = traced(advance, problem, carry, np.int32(0))
        if any_tracer(program.consts):
            return False
        advance.lower(problem, carry, np.int32(0)).compile()
        compiling.result()
    functions.compiled_for.add(kind)
    return True


def traced(function: Any, *args: Any) -> tuple[Any, Any]:
    """Trace a compiled function, once in all: the shape of its result, and its program."""
    # Compiler options are refused within a trace; the trace itself is shared.
    plain = jax.jit(function.__wrapped__)
    program, shape = jax.make_jaxpr(plain, return_shape=True)(*args)
    return shape, program
