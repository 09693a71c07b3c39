"""Parameters between bounds: which of them a bound holds, and the loss as it is within."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab._typing import Array, Params

__all__ = ["free", "within"]


def free(x: Params, grad: Params, bounds: Any) -> Params:
    """One for each parameter that no bound holds against the gradient, else nothing."""

    def one(x: Array, g: Array, low: Array, high: Array) -> Array:
        held = ((x <= low) & (g > 0)) | ((x >= high) & (g < 0)) | (low == high)
        return jnp.where(held, 0, 1).astype(x.dtype)

    return jax.tree.map(one, x, grad, *bounds)


def within(value_fn: Callable[[Params], Array], x: Params, bounds: Any) -> Callable[..., Array]:
    """Build the loss around x as the bounds allow: beyond them it is what it is on them.

    It has no derivative by the parameters that a bound holds; inwards it rises all the same.
    """
    moves = free(x, jax.grad(value_fn)(x), bounds)

    def allowed(y: Params) -> Array:
        held = jax.lax.stop_gradient(y)
        y = jax.tree.map(lambda y, h, m: jnp.where(m > 0, y, h), y, held, moves)
        return value_fn(jax.tree.map(jnp.clip, y, *bounds))

    return allowed
