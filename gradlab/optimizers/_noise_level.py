"""The noise of a loss whose level nobody stated: what its rounding may come to."""

from __future__ import annotations

import jax.numpy as jnp

from gradlab._tree import where, working_dtype
from gradlab._typing import Array, Params

__all__ = ["loss_value", "noise_level"]


def noise_level(
    value: Array, new_value: Array, noise: Array | float | None, eps: float | None = None
) -> Array:
    """Noise of the loss: as given, else the bound 4·eps·|f| of its rounding.

    A measured float32 logistic loss or least squares errs by 0.25 to 0.33 eps·|f|; four
    leaves room for sums that are less kind. A loss that cancels needs `noise` measured.
    `eps` is the loss's own where it is computed in another dtype than the values given.
    """
    if noise is not None:
        return jnp.asarray(noise, value.dtype)
    eps = float(jnp.finfo(value.dtype).eps) if eps is None else eps
    size = jnp.maximum(jnp.abs(value), jnp.abs(new_value))
    return 4 * eps * where(jnp.isfinite(size), size, jnp.abs(value))


def loss_value(value: Array | float, params: Params) -> tuple[Array, float]:
    """Return the value in the working dtype, and the eps it was computed with.

    A loss may be computed in a coarser dtype than its parameters have.
    """
    working = working_dtype(params)
    eps = float(jnp.finfo(working).eps)
    if hasattr(value, "dtype"):
        eps = max(eps, float(jnp.finfo(value.dtype).eps))
    return jnp.asarray(value, working), eps
