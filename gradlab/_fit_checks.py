"""What `least_squares` refuses of its own arguments, and why."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._tree import num_params, working_dtype
from gradlab._typing import Params
from gradlab.derivatives._memory import _memory
from gradlab.optimizers.least_squares import BY_PRODUCTS

__all__ = ["check_bounds", "check_room", "check_weights", "refuse_matrix_options"]


def check_room(m: int, x0: Params) -> None:
    """Raise where the Jacobian and the factors do not fit into memory."""
    n, memory = num_params(x0), _memory(1)[0]
    # Jacobian, the one tried and its scaled copy; basis, whitening and Hessian likewise.
    needed = (3 * m * n + 6 * n * n) * working_dtype(x0).itemsize
    if needed > memory:
        raise ValueError(
            f"The Jacobian of {m} residuals by {n} parameters and its factors take "
            f"{needed / 1e9:.3g} GB, but there are {memory / 1e9:.3g} GB. Use "
            "method='levenberg_marquardt_cg', which makes none, or minimise the sum of squares "
            "with gradlab.minimize and method='newton_cg'."
        )


def refuse_matrix_options(bounds: Any, grad: Any) -> None:
    """Raise where a method by products is asked for what takes the Jacobian as a matrix."""
    for name, option in (("bounds", bounds), ("grad", grad)):
        if option is not None and option is not jax.grad:
            raise ValueError(
                f"`{name}` cannot be used with method={BY_PRODUCTS!r}, which has no Jacobian. "
                "Use 'levenberg_marquardt', or leave it out."
            )


def check_weights(weights: Any, residual: Any, x0: Params, args: Any, m: int) -> Any:
    """Return the weights as one vector of m entries, or raise."""
    if weights is None:
        return None
    leaves = [jnp.ravel(jnp.asarray(leaf, float)) for leaf in jax.tree.leaves(weights)]
    flat = jnp.concatenate(leaves) if leaves else jnp.zeros(0)
    if flat.size != m:
        out = jax.eval_shape(residual, x0, *args)
        shapes = [leaf.shape for leaf in jax.tree.leaves(out)]
        raise ValueError(
            f"`weights` must be shaped like the residuals, {shapes}: {m} numbers, got "
            f"{flat.size}."
        )
    if not isinstance(flat, jax.core.Tracer):
        numbers = np.asarray(flat)
        if not np.all(np.isfinite(numbers)) or np.any(numbers < 0):
            bad = int(np.argmax(~(np.isfinite(numbers) & (numbers >= 0))))
            raise ValueError(f"`weights` must be finite and ≥ 0, got {numbers[bad]} at {bad}.")
    dtype = jnp.result_type(*jax.tree.leaves(x0))
    return flat.astype(jnp.promote_types(dtype, jnp.float32))


def check_bounds(bounds: Any, x0: Params) -> Any:
    """Return lower and upper bounds shaped like x0, or raise."""
    if bounds is None:
        return None
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError("`bounds` must be a pair (lower, upper), each a number or like x0.")
    if any(side is None for side in bounds):
        raise ValueError("`bounds`: None is no bound; write -jnp.inf or jnp.inf where none is.")
    sides = tuple(_like(side, x0) for side in bounds)
    for low, high in zip(*(jax.tree.leaves(side) for side in sides), strict=True):
        known = not isinstance(low, jax.core.Tracer) and not isinstance(high, jax.core.Tracer)
        if known and not np.all(np.asarray(low) <= np.asarray(high)):
            raise ValueError("`bounds`: a lower bound exceeds its upper bound, or is NaN.")
        if known and np.any((np.asarray(low) == np.inf) | (np.asarray(high) == -np.inf)):
            raise ValueError(
                "`bounds` leave no finite value: a lower one is inf, or an upper -inf."
            )
    return sides


def _like(side: Any, x0: Params) -> Params:
    """Make one side of the bounds a tree like x0."""
    wanted: Any = jax.tree.structure(x0)
    if jax.tree.structure(side) != wanted:
        if np.ndim(side) != 0:
            raise ValueError(
                "each of `bounds` must be a number or a pytree like x0, got "
                f"{jax.tree.structure(side)} for {wanted}."
            )
        side = jax.tree.map(lambda x: side, x0)
    try:
        return jax.tree.map(
            lambda s, x: jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape), side, x0
        )
    except ValueError as error:
        raise ValueError(f"`bounds` do not have the shapes of x0: {error}") from error
