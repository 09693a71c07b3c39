"""Approximations of the inverse Hessian that shorten conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gradlab._checks import check_callable
from gradlab._errors import check_choice
from gradlab._tree import inner, max_abs, pseudo_random, where, working_dtype
from gradlab._typing import Array, Params
from gradlab.optimizers._pairs import apply_inverse, no_pairs, store

__all__ = ["Preconditioner", "preconditioner_of"]

Apply: TypeAlias = Callable[[Params], Params]
Product: TypeAlias = Callable[[Params], Params]

# Pairs of a direction and its product that are kept. On Moré, Garbow and Hillstrom's functions
# 5 save as many products as 20; Morales and Nocedal (2000) find 4 to 8 best.
KEPT = 8
# Part of the diagonal's running mean square that one step forgets.
FORGOTTEN = 0.1


class Preconditioner(NamedTuple):
    """What is kept from step to step, and how it is used and learnt.

    Attributes:
        start: Builds the memory for parameters.
        look: From memory, product and parameters to the memory that serves this step.
        looks: Products that takes.
        inverse: From memory to the map from a residual to about H⁻¹ times it, up to a
            factor.
        learn: From memory, direction, product with it, the unit of that product and whether
            its curvature is positive, to the next memory.
    """

    start: Callable[[Params], Any]
    look: Callable[[Any, Product, Params], Any]
    looks: int
    inverse: Callable[[Any], Apply]
    learn: Callable[[Any, Params, Params, Array, Array], Any]


def preconditioner_of(choice: Any) -> Preconditioner | None:
    """Return the preconditioner of this name, or of the caller's own function.

    Raises:
        TypeError: If it is neither a name, a function nor None.
        ValueError: If there is none of this name.
    """
    if choice is None:
        return None
    if isinstance(choice, str):
        check_choice("preconditioner", choice, _BY_NAME)
        return _BY_NAME[choice]
    check_callable("preconditioner", choice, "a name, None, or a function of a residual")
    return Preconditioner(_nothing, _as_it_is, 0, lambda memory: choice, _learn_nothing)


def _nothing(params: Params) -> tuple[()]:
    del params
    return ()


def _as_it_is(memory: Any, product: Product, params: Params) -> Any:
    del product, params
    return memory


def _learn_nothing(memory: Any, *pair: Any) -> Any:
    del pair
    return memory


def _learn_pair(
    memory: Any, direction: Params, image: Params, unit: Array, positive: Array
) -> Any:
    size = max_abs(direction)
    size = where(size > 0, size, 1)
    step, change = (jax.tree.map(lambda u: u / size, tree) for tree in (direction, image))
    return store(memory, step, change, unit, positive & jnp.isfinite(inner(change, change)))


class Diagonal(NamedTuple):
    """Running mean of the squared estimates of the Hessian's diagonal, and their number."""

    square: Params
    looks: Array


def _no_diagonal(params: Params) -> Diagonal:
    dtype = working_dtype(params)
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, dtype), params)
    return Diagonal(zeros, jnp.zeros((), jnp.int32))


def _look_at_diagonal(memory: Diagonal, product: Product, params: Params) -> Diagonal:
    """Estimate |diag H| by one product with made-up signs (Hutchinson)."""
    dtype = working_dtype(params)
    made_up = pseudo_random(params, dtype, memory.looks)
    signs = jax.tree.map(lambda u, p: jnp.where(u < 0, -1, 1).astype(p.dtype), made_up, params)
    found = jax.tree.map(lambda s, hs: s * hs.astype(dtype), signs, product(signs))
    usable = jnp.isfinite(inner(found, found))
    first = memory.looks == 0
    kept = where(first, 0, 1 - FORGOTTEN)
    square = jax.tree.map(
        lambda v, d: where(usable, kept * v + (1 - kept) * d**2, v), memory.square, found
    )
    return Diagonal(square, memory.looks + usable)


def _inverse_diagonal(memory: Diagonal) -> Apply:
    """Divide by the diagonal; entries lost in the rounding of the largest count as that."""
    largest = jnp.sqrt(max_abs(memory.square))
    floor = jnp.finfo(largest.dtype).eps * largest

    def entry(r: Array, square: Array) -> Array:
        size = jnp.sqrt(square)
        size = jnp.where(size > floor, size, largest)
        return r * (largest / jnp.where(size > 0, size, 1))

    return lambda residual: jax.tree.map(entry, residual, memory.square)


_BY_NAME = {
    "diagonal": Preconditioner(
        _no_diagonal, _look_at_diagonal, 1, _inverse_diagonal, _learn_nothing
    ),
    "lbfgs": Preconditioner(
        lambda params: no_pairs(params, KEPT), _as_it_is, 0, apply_inverse, _learn_pair
    ),
}
