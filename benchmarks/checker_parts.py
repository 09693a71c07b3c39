"""What the cases of `checker.py` share: rules that may be wrong, noise, random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

jax.config.update("jax_enable_x64", True)  # before the first of the cases' arrays is made

f16, bf16, f32, f64 = jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64


class Case(NamedTuple):
    """A function at a point; for a fault, the leaf it is in and the order it shows at."""

    name: str
    f: Callable[..., Any]
    args: tuple[Any, ...]
    leaf: str = ""
    order: int = 1


def normal(*shape, seed=0, dtype=f64, scale=1.0):
    """Fixed random numbers."""
    values = np.random.default_rng(seed).normal(size=shape) * scale
    return jnp.asarray(values, dtype)


def jvp_rule(value, tangent):
    """Give a function a forward rule, right or wrong: tangent(primals, tangents)."""
    f = jax.custom_jvp(value)
    f.defjvp(lambda p, t: (f(*p), tangent(p, t)))
    return f


def vjp_rule(value, pull):
    """Give a function a reverse rule, right or wrong: pull(primals, cotangent)."""
    f = jax.custom_vjp(value)
    f.defvjp(lambda *x: (f(*x), x), pull)
    return f


def one_of(x, number, factor):
    """Ones, but for one entry."""
    return jnp.where(jnp.arange(x.size).reshape(x.shape) == number, factor, 1.0).astype(x.dtype)


cos_sign = jvp_rule(jnp.cos, lambda p, t: jnp.sin(p[0]) * t[0])


def staircase(x, size):
    """Deterministic noise of a given size, of zero derivative."""
    bits = jnp.floor(jnp.abs(lax.stop_gradient(x)) * 1e9 % 977.0)
    return size * jnp.sum(bits / 977.0 - 0.5)


def tree_100(p, faulty):
    """A hundred leaves, of which one has a wrong rule."""
    total = 0.0
    for k, name in enumerate(sorted(p)):
        total += jnp.sum((cos_sign if faulty and k == 61 else jnp.cos)(p[name])) * (1 + k)
    return total


def newton_sqrt(x):
    """Square root by a while loop."""

    def step(s):
        return s[0] + 1, 0.5 * (s[1] + x / s[1])

    return lax.while_loop(lambda s: s[0] < 12, step, (0, x))[1]
