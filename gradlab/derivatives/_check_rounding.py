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

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

from gradlab.derivatives._check_program import CALLS
from gradlab.derivatives._leaves import is_complex

__all__ = ["decimal_digits", "length", "rounding_spread"]

# In cancelling formulas the errors of neighbouring operations partly cancel too; measured on
# two dozen of them, the spread is too wide by this factor more.
_SHARED = 2.0
# A move by ±eps with probability 1/4 each has deviation 0.71 eps of the value; a rounding
# errs by 0.29 units in the last place, 0.21 eps of the value on average over a binade.
_TOO_WIDE = 0.71 / 0.21 * _SHARED
_SAMPLES = 16
# Arrays up to this size are moved by NumPy, equation by equation, since compiling the moves
# takes longer; but not in loops, which would be compiled again for each sample.
_SMALL = 2**15

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

    def run(seed: Any, xp: Any) -> Any:
        return _Randomly(seed, xp).run(program.jaxpr, program.consts, [x])[0]

    if _largest(program.jaxpr) > _SMALL or _loops(program.jaxpr):
        seeds = jnp.arange(1, samples + 1, dtype=jnp.uint32)
        values = np.asarray(jax.jit(lambda s: jax.lax.map(lambda k: run(k, jnp), s))(seeds))
    else:
        with np.errstate(all="ignore"):
            runs = [run(np.uint32(seed), np) for seed in range(1, samples + 1)]
            values = np.stack([np.asarray(value) for value in runs])
    with np.errstate(all="ignore"):
        spread = values.std(axis=0, ddof=1) / _TOO_WIDE
        return np.asarray(values.mean(axis=0)), np.asarray(spread)


class _Randomly:
    """One run: an interpreter of jaxprs that moves what it rounds, by xp, NumPy or JAX's."""

    def __init__(self, seed: Any, xp: Any):
        self.seed = seed
        self.xp = xp
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
            first, last, result = map(self.xp.asarray, (operands[0], operands[-1], results[0]))
            exact = _is_exact(name, first, last, result, params)
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
        value = self.xp.asarray(value)
        if exact is None:
            exact = _significant(value) <= jnp.finfo(value.dtype).nmant // 2
        salt = np.uint32((self.salt * 0x85EBCA6B) & 0xFFFFFFFF)
        return _moved(value, exact, self.seed, salt, self.xp)

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


def _is_exact(name: str, a: Any, b: Any, result: Any, params: Any) -> Any:
    """Which entries of a result needed no rounding: their bits, or the residual, tell."""
    if not jnp.issubdtype(result.dtype, jnp.floating):
        return None
    bits = jnp.finfo(result.dtype).nmant + 1
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
    pattern = _bits(value)
    one = pattern.dtype.type(1)
    leading = one << pattern.dtype.type(info.nmant)
    mantissa = (pattern & (leading - one)) | leading
    low = mantissa & (~mantissa + one)  # a power of two, whose exponent is told by a float
    exponent = _bits(low.astype(value.dtype)) >> pattern.dtype.type(info.nmant)
    bias = info.maxexp - 1
    return info.nmant + 1 + bias - exponent.astype(np.int32)


def _bits(value: Any) -> Any:
    """The bits of floats, as unsigned integers."""
    integer = np.dtype(f"uint{8 * value.dtype.itemsize}")
    if isinstance(value, jax.Array):
        return jax.lax.bitcast_convert_type(value, integer)
    return np.asarray(value).view(integer)


def _moved(value: Any, exact: Any, seed: Any, salt: Any, xp: Any) -> Any:
    """Move a real array."""
    draw = _hashed(_bits(value), seed, salt) >> 30  # 0, 1: stay; 2: up; 3: down
    sign = xp.where(draw == 2, 1, xp.where(draw == 3, -1, 0)).astype(value.dtype)
    moved = value + value * (sign * jnp.finfo(value.dtype).eps)
    return xp.where(exact | ~xp.isfinite(moved), value, moved)


def decimal_digits(error: Any, least: float) -> np.ndarray:
    """Decimal digits of a relative error: none where it is 1 or more, or unknown.

    Digits beyond those of `least` are luck.
    """
    known = np.where(np.isfinite(error), error, 1.0)
    return np.asarray(-np.log10(np.clip(known, least, 1.0)) + 0.0)


def length(jaxpr: Any) -> int:
    """Number of equations, calls entered."""
    return sum(1 for _ in _equations(jaxpr))


def _largest(jaxpr: Any) -> int:
    """Size of the largest result."""
    outputs = (v.aval for equation in _equations(jaxpr) for v in equation.outvars)
    return max((int(np.prod(getattr(aval, "shape", ()))) for aval in outputs), default=0)


def _loops(jaxpr: Any) -> bool:
    """Whether there is control flow."""
    return any(e.primitive.name in ("cond", "while", "scan") for e in _equations(jaxpr))


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations, those of calls for the calls themselves."""
    for equation in jaxpr.eqns:
        name = CALLS.get(equation.primitive.name)
        if name is None:
            yield equation
        else:
            inner = equation.params[name]
            yield from _equations(getattr(inner, "jaxpr", inner))


def _narrows(before: Any, after: Any) -> bool:
    """Whether a conversion rounds."""
    floating = jnp.issubdtype(after.dtype, jnp.floating)
    floating = floating and jnp.issubdtype(before.dtype, jnp.floating)
    return bool(floating and jnp.finfo(after.dtype).eps > jnp.finfo(before.dtype).eps)


def _hashed(bits: Any, seed: Any, salt: Any) -> Any:
    """Thirty-two well mixed bits of a number, a seed and the place in the program."""
    if bits.dtype.itemsize == 8:
        bits = bits ^ (bits >> 32)
    mixed = bits.astype(np.uint32) ^ (seed * np.uint32(0x9E3779B1))
    mixed = mixed ^ salt
    # The finaliser of MurmurHash3.
    mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35)
    return mixed ^ (mixed >> 16)
