"""Powers of two in either library: scaling by them is exact, and cheap to compile.

`jnp.ldexp` and `jnp.frexp` treat every special case in some hundred operations each; the
exponents met here stay so far inside the range of the dtype that a few suffice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["exponent_of", "scaled"]


def _layout(dtype: Any) -> tuple[Any, int, int]:
    """Integer of the same size, mantissa bits and exponent bias."""
    info = jnp.finfo(dtype)
    integer = {32: jnp.int32, 64: jnp.int64}[info.bits]
    return integer, info.nmant, info.maxexp - 1


def exponent_of(x: Any, xp: Any) -> Any:
    """Return e with 2^(e - 1) <= |x| < 2^e; anything where x is 0 or not finite."""
    if xp is np:
        return np.frexp(x)[1]
    integer, mantissa, bias = _layout(x.dtype)
    bits = jax.lax.bitcast_convert_type(abs(x), integer)
    return (bits >> mantissa).astype(jnp.int32) - (bias - 1)


def scaled(x: Any, exponent: Any, xp: Any) -> Any:
    """Return x 2^exponent, exact unless the result under- or overflows."""
    if xp is np:
        return np.ldexp(x, exponent)
    # In two halves: either is a normal number where x 2^exponent may still be one.
    half = exponent // 2
    return x * _power(half, x.dtype) * _power(exponent - half, x.dtype)


def _power(exponent: Any, dtype: Any) -> Any:
    integer, mantissa, bias = _layout(dtype)
    biased = jnp.clip(exponent + bias, 1, 2 * bias).astype(integer)
    return jax.lax.bitcast_convert_type(biased << mantissa, dtype)
