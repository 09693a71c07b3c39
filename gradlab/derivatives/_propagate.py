r"""Carry truncated Taylor series through a JAX program, equation by equation.

Operations with a recurrence of their own are in `_series.RULES`. Every other operation φ,
a function with a `custom_jvp` rule included, is integrated from its first derivative:

$$ y = φ(u(t)), \qquad y'(t) = φ'(u)\,u', \qquad y_{k+1} = [t^k]\,y'(t) / (k+1), $$

where the program of φ'(u) u', which `jax.jvp` writes, is carried through to one order less.
So an operation needs nothing but the derivative rule it has anyway, and that rule, which
may be the user's, decides what its derivatives are. Nesting `jvp` around a whole function
doubles the work with every order; here only an operation whose derivative calls it more
than once can do so, and only by itself: the scaled Bessel functions, and x**y when both
move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from gradlab._typing import Array
from gradlab.derivatives._series import RULES, Apply, Series, is_inexact, padded

# Carries one equation: (equation, one list an operand) -> one list a result.
Carry = Callable[[Any, list[list[Array]]], list[list[Array]]]

__all__ = ["Carry", "applied", "interpret", "propagate", "series_carry"]


def propagate(
    function: Callable[..., list[Array]], inputs: list[Series], order: int
) -> list[Series]:
    """Carry series through `function`, from arrays to a list of arrays, up to t^order."""
    program = jax.make_jaxpr(function)(*(u[0] for u in inputs))
    return _carry_series(program, inputs, order)


def _carry_series(program: Any, inputs: list[Series], order: int) -> list[Series]:
    return interpret(program, [u[: order + 1] for u in inputs], series_carry(order))


def interpret(
    program: Any, inputs: list[list[Array]], carry: Carry, wanted: Sequence[bool] | None = None
) -> list[list[Array]]:
    """Run a program on lists whose first entry is the value; alone, it is a constant.

    Equations without a moving operand, or of which only the value matters (what a
    comparison or an index is made of), are evaluated as they are; `carry` does the others.

    Args:
        program: A closed jaxpr.
        inputs: One list an input of the program.
        carry: How one equation with a moving operand acts on lists.
        wanted: Which outputs are used; the others may be left empty.

    Returns:
        One list an output of the program.
    """
    jaxpr, constants = _opened(program)
    outputs = [v for i, v in enumerate(jaxpr.outvars) if wanted is None or wanted[i]]
    needed = _needed(jaxpr, outputs)
    known: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
    known.update((v, [jnp.asarray(c)]) for v, c in zip(jaxpr.constvars, constants, strict=True))

    def read(atom: Any) -> Any:
        if isinstance(atom, Literal):
            aval: Any = atom.aval
            return [jnp.asarray(atom.val, aval.dtype)]
        return known.get(atom, [])

    for equation in jaxpr.eqns:
        if not (equation.effects or any(v in needed for v in equation.outvars)):
            continue
        operands = [read(atom) for atom in equation.invars]
        moving = any(len(u) > 1 for u in operands) and _varies(equation, needed)
        inner = _inner_program(equation)
        if not moving:
            results = [[y] for y in applied(equation)(*(u[0] for u in operands))]
        elif inner is not None:
            used = [v in needed for v in equation.outvars]
            results = interpret(inner, operands, carry, used)
        else:
            results = carry(equation, operands)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _needed(jaxpr: Any, outputs: Sequence[Any]) -> dict[Any, bool]:
    """Map every variable in use to whether its derivatives are used, or its value alone."""
    needed = {v: True for v in outputs if not isinstance(v, Literal)}
    for equation in reversed(jaxpr.eqns):
        if equation.effects or any(v in needed for v in equation.outvars):
            varies = _varies(equation, needed)
            for v in equation.invars:
                if not isinstance(v, Literal):
                    needed[v] = needed.get(v, False) or varies
    return needed


def _varies(equation: Any, needed: Mapping[Any, bool]) -> bool:
    """Whether the derivatives of any result are used."""
    return any(needed.get(v, False) and is_inexact(v.aval) for v in equation.outvars)


def _opened(program: Any) -> tuple[Any, Sequence[Any]]:
    """Split a closed jaxpr; an open one, as `jax.checkpoint` holds, has no constants."""
    return getattr(program, "jaxpr", program), getattr(program, "consts", ())


def _inner_program(equation: Any) -> Any:
    """Return the program of an equation that only groups others, else None."""
    if equation.primitive.name in ("jit", "pjit", "checkpoint", "remat", "remat2"):
        return equation.params["jaxpr"]
    if equation.primitive.name in ("closed_call", "core_call"):
        return equation.params["call_jaxpr"]
    return None


def applied(equation: Any) -> Apply:
    """Turn one equation into a function of its operands."""
    primitive = equation.primitive

    def apply(*operands: Array) -> list[Array]:
        results = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
        results = results if primitive.multiple_results else [results]
        return [y if isinstance(y, jax.Array) else jnp.asarray(y) for y in results]

    return apply


def series_carry(order: int) -> Carry:
    """Build the rule that carries series up to t^order through any one equation."""

    def carry(equation: Any, inputs: list[Series]) -> list[Series]:
        name, params = equation.primitive.name, equation.params
        if name in _LOOPS:
            return _LOOPS[name](params, inputs, order)
        apply = applied(equation)
        if name == "custom_linear_solve":
            return _linear_solve(apply, inputs, order, params)
        if name in RULES:
            return RULES[name](apply, inputs, order, params)
        if name in _LOCALLY_LINEAR:
            return _by_linearization(apply, inputs)
        differentiate = _transposed_twice if name == "custom_vjp_call" else _pushed_forward
        return _by_derivative(apply, inputs, order, differentiate)

    return carry


def _by_derivative(
    apply: Apply, inputs: list[Series], order: int, differentiate: Callable[..., list[Array]]
) -> list[Series]:
    """Integrate φ(u(t)) from the series of φ'(u) u', which is needed to order - 1 only."""
    function, lines = _moving_part(apply, inputs)

    def rate(*arguments: Array) -> list[Array]:
        n = len(lines)
        return differentiate(function, arguments[:n], arguments[n:])

    rates = [[k * c for k, c in enumerate(u)][1:] for u in lines]
    series = propagate(rate, lines + rates, order - 1)
    return _joined(apply, inputs, [[c / (k + 1) for k, c in enumerate(dy)] for dy in series])


def _by_linearization(apply: Apply, inputs: list[Series]) -> list[Series]:
    """Push each coefficient through the derivative, which does not change along the line."""
    function, lines = _moving_part(apply, inputs)
    length = max(map(len, lines))
    _, push = jax.linearize(function, *(u[0] for u in lines))
    pushed = [push(*c) for c in zip(*(padded(u, length - 1) for u in lines), strict=True)][1:]
    return _joined(apply, inputs, [list(series) for series in zip(*pushed, strict=True)])


def _moving_part(
    apply: Apply, inputs: list[Series]
) -> tuple[Callable[..., list[Array]], list[Series]]:
    """Restrict an operation to its moving operands and its floating results."""
    moving = [i for i, u in enumerate(inputs) if len(u) > 1]

    def function(*moved: Array) -> list[Array]:
        operands = [u[0] for u in inputs]
        for i, u in zip(moving, moved, strict=True):
            operands[i] = u
        return [y for y in apply(*operands) if is_inexact(y)]

    return function, [inputs[i] for i in moving]


def _joined(apply: Apply, inputs: list[Series], higher: list[list[Array]]) -> list[Series]:
    """Put the values before the higher coefficients of the floating results."""
    rest = iter(higher)
    values = apply(*(u[0] for u in inputs))
    return [[y, *next(rest)] if is_inexact(y) else [y] for y in values]


def _pushed_forward(
    function: Callable[..., list[Array]], u: Sequence[Array], du: Sequence[Array]
) -> list[Array]:
    return jax.jvp(function, tuple(u), tuple(du))[1]


def _transposed_twice(
    function: Callable[..., list[Array]], u: Sequence[Array], du: Sequence[Array]
) -> list[Array]:
    """Push forward through a `custom_vjp` rule by transposing it: J = (Jᵀ)ᵀ."""
    values, pull_back = jax.vjp(function, *u)
    zeros = [jnp.zeros_like(y) for y in values]
    (pushed,) = jax.vjp(pull_back, zeros)[1](tuple(du))
    return pushed


def _linear_solve(
    apply: Apply, inputs: list[Series], order: int, params: Mapping[str, Any]
) -> list[Series]:
    """Solve A x = b, with A given as a program, for one coefficient of x after the other."""
    lengths = params["const_lengths"]
    constants, b = inputs[: lengths.matvec], inputs[sum(lengths) :]
    fixed = [u[0] for u in inputs[: sum(lengths)]]
    values = apply(*fixed, *(u[0] for u in b))
    x, auxiliary = [[y] for y in values[: len(b)]], [[y] for y in values[len(b) :]]
    for k in range(1, order + 1):
        known = _carry_series(params["jaxprs"].matvec, constants + x, k)
        rest = [padded(u, k)[k] - padded(w, k)[k] for u, w in zip(b, known, strict=True)]
        for u, c in zip(x, apply(*fixed, *rest), strict=False):
            u.append(c)
    return x + auxiliary


def _cond(params: Mapping[str, Any], inputs: list[Series], order: int) -> list[Series]:
    """Carry series through the branch taken; all branches return full length."""

    def branch(program: Any) -> Callable[[list[Series]], list[Series]]:
        return lambda operands: _full(_carry_series(program, operands, order), order)

    branches = [branch(program) for program in params["branches"]]
    return jax.lax.switch(inputs[0][0], branches, inputs[1:])


def _scan(params: Mapping[str, Any], inputs: list[Series], order: int) -> list[Series]:
    """Scan over series: the loop's state holds full length, since it must not change."""
    jaxpr, _ = _opened(params["jaxpr"])
    (_, state, sequences), (next_state, outputs) = _scan_layout(
        params, len(inputs), len(jaxpr.outvars)
    )

    def step(carried: list[Series], element: list[Series]) -> tuple[list[Series], list[Series]]:
        operands = list(inputs)
        for i, u in zip([*state, *sequences], [*carried, *element], strict=True):
            operands[i] = u
        results = _carry_series(params["jaxpr"], operands, order)
        return _full([results[i] for i in next_state], order), [results[i] for i in outputs]

    carried, stacked = jax.lax.scan(
        step,
        _full([inputs[i] for i in state], order),
        [inputs[i] for i in sequences],
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    results = dict(zip([*next_state, *outputs], [*carried, *stacked], strict=True))
    return [results[i] for i in range(len(results))]


def _scan_layout(
    params: Mapping[str, Any], num_inputs: int, num_outputs: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Say which operands are (constants, state, sequences), which results (state, outputs)."""
    if "ft_in" in params:  # JAX 0.12 keeps the groups as trees
        sizes = ((params["ft_in"], num_inputs), (params["ft_out"], num_outputs))
        places, results = ([list(g) for g in t.update(range(n)).unpack()] for t, n in sizes)
        return places, results
    n, m = params["num_consts"], params["num_carry"]
    places = [[*range(n)], [*range(n, n + m)], [*range(n + m, num_inputs)]]
    return places, [[*range(m)], [*range(m, num_outputs)]]


def _while(params: Mapping[str, Any], inputs: list[Series], order: int) -> list[Series]:
    """Loop over series; the condition sees the values alone."""
    n, m = params["cond_nconsts"], params["body_nconsts"]
    seen, constants, state = inputs[:n], inputs[n : n + m], inputs[n + m :]

    def goes_on(state: list[Series]) -> Array:
        return _carry_series(params["cond_jaxpr"], seen + state, 0)[0][0]

    def step(state: list[Series]) -> list[Series]:
        return _full(_carry_series(params["body_jaxpr"], constants + state, order), order)

    return jax.lax.while_loop(goes_on, step, _full(state, order))


def _full(inputs: list[Series], order: int) -> list[Series]:
    return [padded(u, order) for u in inputs]


_LOOPS = {"cond": _cond, "scan": _scan, "while": _while}

# Operations that choose or clip: linear in their operands until the choice changes.
_LOCALLY_LINEAR = frozenset(
    """
    clamp cummax cummin gather max min reduce_max reduce_min reduce_window_max
    reduce_window_min rem sort top_k
    """.split()  # noqa: SIM905 - a list of names, not of lines
)
