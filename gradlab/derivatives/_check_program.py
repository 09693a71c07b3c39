"""Read the program of a function: where it indexes, selects and stops, line by line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

from gradlab.derivatives._check_problem import Problem

__all__ = [
    "CALLS",
    "Step",
    "evaluated_twice",
    "frozen",
    "line_of",
    "out_of_range",
    "program_of",
    "stops",
    "walk",
]

# Equations that only group others, and where their program is.
_GROUPS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
}
_RULES = {
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
CALLS = {**_GROUPS, **_RULES}
_INDEXING = ("gather", "dynamic_slice", "dynamic_update_slice", "scatter")
_LIBRARIES = tuple(
    os.path.dirname(os.path.abspath(p)) + os.sep for p in (jax.__file__, np.__file__, __file__)
)


class Step(NamedTuple):
    """One equation, with the values that went in and came out, and its line."""

    equation: Any
    inputs: list[Any]
    outputs: list[Any]
    place: str


def program_of(function: Callable[..., Any], *args: Any) -> Any:
    """Trace a function once."""
    return jax.make_jaxpr(function)(*args)


def frozen(problem: Problem) -> Callable[[Any], Any]:
    """Trace the function once and for all: whatever it drew at random stays."""
    with problem.precision():
        call = jaxpr_as_fun(program_of(problem.call, problem.x))
    return lambda x: call(x)[0]


def evaluated_twice(f: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, str]:
    """Call f twice as Python does, outside jit; say so where the values differ."""
    one, two = (jax.tree.leaves(f(*args)) for _ in range(2))
    same = all(
        np.array_equal(a, b, equal_nan=_inexact(a)) for a, b in zip(one, two, strict=True)
    )
    if same:
        return one, ""
    return one, (
        "f returns different values when it is called twice with the same arguments: random "
        "numbers from Python or NumPy, or a state it keeps. jit and grad freeze what they see "
        "first; the derivative of one such frozen program was checked. Pass a JAX key instead."
    )


def _inexact(value: Any) -> bool:
    return bool(jnp.issubdtype(jnp.asarray(value).dtype, jnp.inexact))


def walk(program: Any, args: list[Any], *, inside_rules: bool = True) -> Iterator[Step]:
    """Evaluate a program equation by equation; calls are entered, loops are not."""
    yield from _walk(program.jaxpr, program.consts, args, inside_rules, "")


def _walk(jaxpr: Any, consts: Any, args: Any, inside_rules: bool, outer: str) -> Any:
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        inputs = [read(v) for v in equation.invars]
        inner, place = _inner(equation, inside_rules), line_of(equation) or outer
        if inner is None:
            primitive = equation.primitive
            outputs = primitive.bind(*inputs, **primitive.get_bind_params(equation.params))
            outputs = list(outputs) if primitive.multiple_results else [outputs]
            yield Step(equation, inputs, outputs, place)
        else:
            body, constants = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            outputs = yield from _walk(body, constants, inputs, inside_rules, place)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _inner(equation: Any, inside_rules: bool) -> Any:
    """The program of an equation that is a call."""
    name = equation.primitive.name
    if name in _GROUPS:
        return equation.params[_GROUPS[name]]
    if inside_rules and name in _RULES:
        return equation.params[_RULES[name]]
    return None


def line_of(equation: Any) -> str:
    """Say where in the user's code an equation comes from; "" where that is not known."""
    traceback = getattr(equation.source_info, "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        path = frame.file_name
        inside = os.path.abspath(path).startswith(_LIBRARIES) or path.startswith("<")
        if not inside and "contextlib" not in path and f"{os.sep}jaxlib{os.sep}" not in path:
            return f"{os.path.basename(path)}:{frame.line_num}"
    return ""


def stops(problem: Problem) -> list[str]:
    """Lines at which the program stops a gradient."""
    with problem.precision():
        program = program_of(problem.call, problem.x)
    found: list[str] = []
    _find(program.jaxpr, "stop_gradient", found)
    return found


def _find(jaxpr: Any, name: str, found: list[str]) -> None:
    """Collect the lines of all equations of one name, in nested programs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            found.append(line_of(equation))
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    _find(inner, name, found)


def out_of_range(problem: Problem) -> list[str]:
    """Say which indices lie outside their array at this point."""
    with problem.precision():
        program = program_of(problem.call, problem.x)
        if not _mentions(program.jaxpr):
            return []
        kept: list[Any] = []

        def indices(x: Any) -> list[Any]:
            steps = [
                s for s in walk(program, [x]) if s.equation.primitive.name.startswith(_INDEXING)
            ]
            kept[:] = [(s.equation, s.place) for s in steps]
            return [_indices_of(s) for s in steps]

        values = jax.jit(indices)(problem.x)
    notes = []
    for (equation, place), index in zip(kept, values, strict=True):
        note = _range_note(equation, place, np.asarray(index))
        if note and note not in notes:
            notes.append(note)
    return notes


def _mentions(jaxpr: Any) -> bool:
    found: list[str] = []
    for name in _INDEXING:
        _find(jaxpr, name, found)
    return bool(found)


def _indices_of(step: Step) -> Any:
    """Start indices of one equation, shape (..., dimensions indexed)."""
    name = step.equation.primitive.name
    if name == "dynamic_slice":
        return jnp.stack([jnp.asarray(i) for i in step.inputs[1:]])
    if name == "dynamic_update_slice":
        return jnp.stack([jnp.asarray(i) for i in step.inputs[2:]])
    return step.inputs[1]


def _range_note(equation: Any, place: str, index: np.ndarray) -> str:
    """Compare start indices with the last that fit."""
    name, params = equation.primitive.name, equation.params
    shape = equation.invars[0].aval.shape
    if name == "dynamic_slice":
        last = np.array(shape) - np.array(params["slice_sizes"])
    elif name == "dynamic_update_slice":
        last = np.array(shape) - np.array(equation.invars[1].aval.shape)
    elif name == "gather":
        numbers = params["dimension_numbers"]
        sizes = np.array(shape) - np.array(params["slice_sizes"])
        last = sizes[list(numbers.start_index_map)]
    else:
        numbers = params["dimension_numbers"]
        fixed = set(numbers.inserted_window_dims) | set(numbers.operand_batching_dims)
        updates = equation.invars[2].aval.shape
        window = iter(updates[d] for d in numbers.update_window_dims)
        sizes = np.array([1 if d in fixed else next(window) for d in range(len(shape))])
        last = (np.array(shape) - sizes)[list(numbers.scatter_dims_to_operand_dims)]
    if "CLIP" in str(params.get("mode", "")):  # asked for by name
        return ""
    flat = index.reshape(-1, len(last)).astype(np.int64)
    outside = np.any((flat < 0) | (flat > last), axis=1)
    if not outside.any():
        return ""
    bad = flat[int(np.argmax(outside))]
    what = "dropped" if name.startswith("scatter") else "clamped"
    return (
        f"an index lies outside its array{' (' + place + ')' if place else ''}: "
        f"{bad.tolist() if len(bad) > 1 else int(bad[0])} of shape {tuple(shape)}. JAX has "
        f"{what} it without a word; the derivative is that of the {what} program."
    )
