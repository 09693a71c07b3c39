"""How parameters travel through the loop: as they are, or as one vector if in many leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._tree import real_dtype
from gradlab._typing import AnyArray, Array, Params

__all__ = ["Layout", "OfVector"]

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

    def unpack(self, vector: AnyArray) -> Params:
        """Split a vector (leading axes allowed) into the tree again.

        Traced, by one `split`, whose transpose is one concatenation; slices would each be
        padded back. From Python by NumPy: a program of so many outputs compiles for long.
        """
        sizes = [math.prod(shape) for shape in self.shapes]
        if isinstance(vector, jax.core.Tracer):
            parts: Any = jax.lax.split(vector, sizes, axis=-1)
        else:
            parts = np.split(np.asarray(vector), np.cumsum(sizes)[:-1], axis=-1)
        leaves = [
            part.reshape((*vector.shape[:-1], *shape)).astype(dtype)
            for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True)
        ]
        tree = self.structure.unflatten(leaves)
        as_is = isinstance(vector, np.ndarray | jax.core.Tracer)
        return tree if as_is else jax.device_put(tree)

    def wrap(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """Make a loss of the tree one of the vector; equal losses stay equal."""
        return OfVector(loss, self)


@dataclass(frozen=True)
class OfVector:
    """A loss of a tree, called with a vector."""

    loss: Callable[..., Any]
    layout: Layout

    def __call__(self, vector: Array, *args: Any) -> Any:
        return self.loss(self.layout.unpack(vector), *args)
