"""How parameters travel through the loop: as they are, or as one vector if in many leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gradlab._tree import real_dtype
from gradlab._typing import Array, Params

__all__ = ["Layout"]

# Every leaf is an array of its own in the compiled program, some ten times over. Beyond this
# many, compiling takes longer than most runs; one vector compiles as fast as one leaf.
MANY_LEAVES = 256


@dataclass(frozen=True)
class Layout:
    """Tree structure, shapes and dtypes of parameters that travel as one vector."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, params: Params) -> Layout | None:
        """Return the layout of a tree of many leaves, or None for one that stays a tree."""
        leaves, structure = jax.tree.flatten(params)
        if len(leaves) <= MANY_LEAVES:
            return None
        return cls(structure, tuple(x.shape for x in leaves), tuple(x.dtype for x in leaves))

    def pack(self, params: Params) -> Array:
        """Concatenate the leaves into one vector of their common dtype."""
        dtype = real_dtype(params)
        return jnp.concatenate([x.ravel().astype(dtype) for x in jax.tree.leaves(params)])

    def unpack(self, vector: Array) -> Params:
        """Split a vector (leading axes allowed) into the tree again."""
        leaves, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            size = 1
            for length in shape:
                size *= length
            part = vector[..., start : start + size]
            leaves.append(part.reshape(*vector.shape[:-1], *shape).astype(dtype))
            start += size
        return self.structure.unflatten(leaves)

    def wrap(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """Make a loss of the tree one of the vector; equal losses stay equal."""
        return _OfVector(loss, self)


@dataclass(frozen=True)
class _OfVector:
    """A loss of a tree, called with a vector."""

    loss: Callable[..., Any]
    layout: Layout

    def __call__(self, vector: Array, *args: Any) -> Any:
        return self.loss(self.layout.unpack(vector), *args)
