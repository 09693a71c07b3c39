"""What the sums of squares share: the loss made of a residual, and their sources."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gradlab._typing import Loss, Params

__all__ = ["MGH", "sum_of_squares"]

MGH = "Moré, Garbow & Hillstrom (1981), ACM TOMS 7(1):17-41"


@functools.cache  # the same residual gives the same loss object, so compiled code is reused
def sum_of_squares(residual: Callable[..., Any]) -> Loss:
    """Build the loss whose value is the sum of the squares of `residual`."""

    def loss(params: Params, *args: Any) -> Any:
        return jnp.sum(residual(params, *args) ** 2)

    loss.__name__ = loss.__qualname__ = f"sum_of_squares({residual.__name__})"
    return loss
