r"""Run a program with every rounding drawn at random, to see how many digits survive.

Each operation that rounds has its result moved by one unit in the last place up, down, or
not at all. Where runs part, digits are lost; their spread is that of the rounding error,
however the program cancels (stochastic arithmetic; Monte Carlo arithmetic). Sums and
products of many terms round inside, so their operands are moved instead. Results that end
in many zero bits are taken for exact and left alone.

References:
    Vignes, J. (2004). Discrete stochastic arithmetic for validating results of numerical
    software. Numerical Algorithms 37:377.
    Parker, D. S. (1997). Monte Carlo arithmetic. UCLA CSD-970002.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

from gradlab.derivatives._check_program import CALLS
from gradlab.derivatives._leaves import is_complex

__all__ = ["length", "rounding_spread"]

# In cancelling formulas the errors of neighbouring operations partly cancel too; measured on
# two dozen of them, the spread is too wide by this factor more.
_SHARED = 2.0
# A move by ±eps with probability 1/4 each has deviation 0.71 eps of the value; a rounding
# errs by 0.29 units in the last place, 0.21 eps of the value on average over a binade.
_TOO_WIDE = 0.71 / 0.21 * _SHARED
_SAMPLES = 16
# The equations of longer programs are run one by one, since compiling them together takes
# long; but not those with loops, which would be compiled again for each sample.
_COMPILED = 80

_ROUNDS = frozenset(
    """
    acos acosh add add_any asin asinh atan atan2 atanh cbrt cos cosh digamma div erf erf_inv
    erfc exp exp2 expm1 igamma igammac integer_pow lgamma log log1p logistic mul
    pow rsqrt sin sinh sqrt square sub tan tanh bessel_i0e bessel_i1e polygamma zeta
    """.split()  # noqa: SIM905 - a list of names, not of lines
)
_ADDS = frozenset(
    """
    cholesky conv_general_dilated cumlogsumexp cumprod cumsum dot_general eigh fft lu
    reduce_prod reduce_sum reduce_window_sum scatter-add scatter_add svd triangular_solve
    """.split()  # noqa: SIM905 - a list of names, not of lines
)


def rounding_spread(
    function: Callable[[Any], Any], x: Any, samples: int = _SAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the rounding deviation of each entry of function(x).

    `function` maps one array to one array.
    """
    program = jax.make_jaxpr(function)(x)

    def run(seed: Any) -> Any:
        return _Randomly(seed).run(program.jaxpr, program.consts, [x])[0]

    def some(seeds: Any) -> Any:
        return jax.lax.map(run, seeds)

    seeds = jnp.arange(1, samples + 1, dtype=jnp.uint32)
    if length(program.jaxpr) <= _COMPILED or _loops(program.jaxpr):
        values = np.asarray(jax.jit(some)(seeds))
    else:
        values = np.stack([np.asarray(run(seed)) for seed in seeds])
    with np.errstate(all="ignore"):
        spread = values.std(axis=0, ddof=1) / _TOO_WIDE
        return np.asarray(values.mean(axis=0)), np.asarray(spread)


class _Randomly:
    """One run: an interpreter of jaxprs that moves what it rounds."""

    def __init__(self, seed: Any):
        self.seed = seed
        self.salt = 0

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Evaluate a program on arrays."""
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        known.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Any:
            if isinstance(atom, Literal):
                aval: Any = atom.aval
                return jnp.asarray(atom.val, aval.dtype)
            return known[atom]

        for equation in jaxpr.eqns:
            results = self.apply(equation, [read(v) for v in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def apply(self, equation: Any, operands: list[Any]) -> list[Any]:
        """Evaluate one equation."""
        name, params = equation.primitive.name, equation.params
        if name in CALLS:
            inner = params[CALLS[name]]
            body, constants = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            return self.run(body, constants, operands)
        if name in ("cond", "while", "scan"):
            return getattr(self, "_" + name)(equation, operands)
        if name in _ADDS:
            operands = [self.moved(v) for v in operands]
        primitive = equation.primitive
        results = primitive.bind(*operands, **primitive.get_bind_params(params))
        results = list(results) if primitive.multiple_results else [results]
        narrows = name == "convert_element_type" and _narrows(operands[0], results[0])
        if name in _ROUNDS or narrows:
            exact = _is_exact(name, operands, results[0], params)
            return [self.moved(v, exact) for v in results]
        return results

    def moved(self, value: Any, exact: Any = None) -> Any:
        """Move an array by one unit in the last place, up, down or not at all.

        `exact` tells which entries were not rounded; by default those of few bits.
        """
        dtype = value.dtype
        if is_complex(dtype):
            return jax.lax.complex(self.moved(value.real), self.moved(value.imag))
        if not jnp.issubdtype(dtype, jnp.floating):
            return value
        self.salt += 1
        if exact is None:
            exact = _significant(value) <= jnp.finfo(value.dtype).nmant // 2
        return _moved(value, exact, self.seed, np.uint32((self.salt * 0x85EBCA6B) & 0xFFFFFFFF))

    def _cond(self, equation: Any, operands: list[Any]) -> list[Any]:
        branches = [
            lambda *args, b=branch: tuple(self.run(b.jaxpr, b.consts, args))
            for branch in equation.params["branches"]
        ]
        return list(jax.lax.switch(operands[0], branches, *operands[1:]))

    def _while(self, equation: Any, operands: list[Any]) -> list[Any]:
        params = equation.params
        n, m = params["cond_nconsts"], params["body_nconsts"]
        seen, constants, state = operands[:n], operands[n : n + m], operands[n + m :]
        goes_on, body = params["cond_jaxpr"], params["body_jaxpr"]
        # The condition is run as it is: it decides, it does not round.
        plain = jaxpr_as_fun(goes_on)
        return list(
            jax.lax.while_loop(
                lambda s: plain(*seen, *s)[0],
                lambda s: self.run(body.jaxpr, body.consts, [*constants, *s]),
                list(state),
            )
        )

    def _scan(self, equation: Any, operands: list[Any]) -> list[Any]:
        params, body = equation.params, equation.params["jaxpr"]
        # What is stacked has an axis more outside than inside; JAX's own counts have moved.
        inner = getattr(body, "jaxpr", body)
        m = len(equation.outvars) - _stacked(equation.outvars, inner.outvars)
        n = len(equation.invars) - m - _stacked(equation.invars, inner.invars)
        constants, state, rows = operands[:n], operands[n : n + m], operands[n + m :]

        def step(state: Any, row: Any) -> tuple[Any, Any]:
            results = self.run(body.jaxpr, body.consts, [*constants, *state, *row])
            return results[:m], results[m:]

        state, stacked = jax.lax.scan(
            step, state, rows, length=params["length"], reverse=params["reverse"]
        )
        return [*state, *stacked]


def _stacked(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """Number of variables that are rows of an array inside a scan."""
    pairs = zip(outside, inside, strict=True)
    return sum(len(a.aval.shape) > len(b.aval.shape) for a, b in pairs)


def _is_exact(name: str, operands: list[Any], result: Any, params: Any) -> Any:
    """Which entries of a result needed no rounding: their bits, or the residual, tell."""
    if not jnp.issubdtype(result.dtype, jnp.floating):
        return None
    bits = jnp.finfo(result.dtype).nmant + 1
    a, b = operands[0], operands[-1]
    if name in ("add", "add_any", "sub"):
        b = -b if name == "sub" else b
        # Knuth's error of a sum is zero.
        part = result - a
        return (a - (result - part)) + (b - part) == 0
    if name == "mul":
        return _significant(a) + _significant(b) <= bits
    if name in ("square", "integer_pow"):
        power = 2 if name == "square" else params["y"]
        return (power * _significant(a) <= bits) & (power > 0)
    if name in ("div", "sqrt"):
        b = result if name == "sqrt" else b
        return (_significant(result) + _significant(b) <= bits) & (result * b == a)
    if name == "convert_element_type":
        return result.astype(a.dtype) == a
    return a == 0  # sin, exp and the like are exact at 0 alone, or nearly


def _significant(value: Any) -> Any:
    """Number of bits from the first to the last that is set."""
    info = jnp.finfo(value.dtype)
    integer = jnp.dtype(f"uint{info.bits}")
    pattern = jax.lax.bitcast_convert_type(value, integer)
    one = jnp.asarray(1, integer)
    mantissa = (pattern & ((one << info.nmant) - one)) | (one << info.nmant)
    low = mantissa & (~mantissa + one)
    trailing = jax.lax.population_count(low - one).astype(jnp.int32)
    return info.nmant + 1 - trailing


@jax.jit
def _moved(value: Any, exact: Any, seed: Any, salt: Any) -> Any:
    """Move a real array: one small program for each shape where nothing else is compiled."""
    info = jnp.finfo(value.dtype)
    bits = jax.lax.bitcast_convert_type(value, jnp.dtype(f"uint{info.bits}"))
    draw = _hashed(bits, seed, salt) >> 30  # 0, 1: stay; 2: up; 3: down
    sign = jnp.where(draw == 2, 1, jnp.where(draw == 3, -1, 0)).astype(value.dtype)
    moved = value + value * (sign * info.eps)
    return jnp.where(exact | ~jnp.isfinite(moved), value, moved)


def length(jaxpr: Any) -> int:
    """Number of equations, calls entered."""
    total = 0
    for equation in jaxpr.eqns:
        name = CALLS.get(equation.primitive.name)
        inner = equation.params[name] if name else None
        total += length(getattr(inner, "jaxpr", inner)) if name else 1
    return total


def _loops(jaxpr: Any) -> bool:
    """Whether there is control flow, calls entered."""
    for equation in jaxpr.eqns:
        name = CALLS.get(equation.primitive.name)
        inner = equation.params[name] if name else None
        if equation.primitive.name in ("cond", "while", "scan"):
            return True
        if name and _loops(getattr(inner, "jaxpr", inner)):
            return True
    return False


def _narrows(before: Any, after: Any) -> bool:
    """Whether a conversion rounds."""
    floating = jnp.issubdtype(after.dtype, jnp.floating)
    floating = floating and jnp.issubdtype(before.dtype, jnp.floating)
    return bool(floating and jnp.finfo(after.dtype).eps > jnp.finfo(before.dtype).eps)


def _hashed(bits: Any, seed: Any, salt: Any) -> Any:
    """Thirty-two well mixed bits of a number, a seed and the place in the program."""
    if bits.dtype == jnp.uint64:
        bits = bits ^ (bits >> 32)
    mixed = bits.astype(jnp.uint32) ^ (seed * jnp.uint32(0x9E3779B1))
    mixed = mixed ^ salt
    # The finaliser of MurmurHash3.
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return mixed ^ (mixed >> 16)
