"""Vector operations on pytrees of parameters, in at least float32.

Sums of products are written as sums, never as `dot`: an accelerator may run a float32
`dot` with ten bits (TF32), and Newton's method lives on the lost ones.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import Array, PyTree

__all__ = [
    "add_scaled",
    "after",
    "all_finite",
    "any_lane",
    "any_tracer",
    "inner",
    "max_abs",
    "moved",
    "norm",
    "num_params",
    "packed",
    "packed_by_position",
    "pseudo_random",
    "real_dtype",
    "select",
    "stacked",
    "where",
    "working_dtype",
]

# 2³² over the golden ratio, made odd: multiples of it are spread evenly (Knuth).
GOLDEN = np.uint32(2654435769)


def real_dtype(tree: PyTree) -> Any:
    """Dtype of the whole tree: what its leaves promote to."""
    return jnp.result_type(*jax.tree.leaves(tree))


def working_dtype(tree: PyTree) -> Any:
    """Dtype of linear algebra on the tree: its own, but at least float32."""
    return jnp.promote_types(real_dtype(tree), jnp.float32)


def any_tracer(tree: PyTree) -> bool:
    """Whether a leaf is what somebody is tracing."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def num_params(tree: PyTree) -> int:
    """Number n of variables."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def inner(a: PyTree, b: PyTree) -> Array:
    """Inner product of two real pytrees, accumulated in the working dtype."""
    dtype = working_dtype((a, b))
    products = jax.tree.map(lambda u, v: jnp.sum(u.astype(dtype) * v.astype(dtype)), a, b)
    return functools.reduce(operator.add, jax.tree.leaves(products))


def norm(a: PyTree) -> Array:
    """Euclidean norm, scaled by the largest entry so that no square over- or underflows."""
    scale = max_abs(a)
    dtype = scale.dtype
    safe = where((scale > 0) & jnp.isfinite(scale), scale, 1)
    squares = [jnp.sum((leaf.astype(dtype) / safe) ** 2) for leaf in jax.tree.leaves(a)]
    return safe * jnp.sqrt(functools.reduce(operator.add, squares))


def max_abs(a: PyTree) -> Array:
    """Largest absolute entry; NaN if any entry is NaN."""
    dtype = working_dtype(a)
    largest = [jnp.max(jnp.abs(leaf.astype(dtype))) for leaf in jax.tree.leaves(a) if leaf.size]
    return functools.reduce(jnp.maximum, largest)


def add_scaled(a: PyTree, scale: Array | float, b: PyTree) -> PyTree:
    """Return a + scale·b, each leaf in a's dtype."""
    return jax.tree.map(lambda u, v: (u + scale * v).astype(u.dtype), a, b)


def where(condition: Array, new: Any, old: Any) -> Array:
    """Like `jnp.where`, for arrays of one shape or numbers, and a condition of theirs or ().

    `jnp.where` is a compiled function of its own. A step asks a hundred such questions, mostly
    of scalars; tracing and lowering a call for each is a twentieth of a short run.
    """
    if not hasattr(new, "dtype"):
        new = np.full(np.shape(old), new, getattr(old, "dtype", None))
    if not hasattr(old, "dtype"):
        old = np.full(np.shape(new), old, new.dtype)
    if new.dtype != old.dtype:
        dtype = jnp.promote_types(new.dtype, old.dtype)
        new, old = (jax.lax.convert_element_type(x, dtype) for x in (new, old))
    return jax.lax.select(condition, new, old)


def select(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    """Return `new` where the scalar condition holds, else `old`."""
    return jax.tree.map(lambda n, o: where(condition, n, o), new, old)


def after(known: Array, matrix: Array) -> Array:
    """Return `matrix` for a decomposition that begins when that of the entries `known` ends.

    XLA runs side by side what does not depend on each other, and a batch of decompositions
    on the CPU stands in a thread of the pool whose threads it waits for: with jaxlib 0.10 two
    such batches on two cores wait for ever. Where `known` is NaN so is the result.
    """
    return jnp.where(jnp.isnan(jnp.sum(known)), jnp.nan, matrix)


@jax.custom_batching.custom_vmap
def any_lane(flag: Array) -> Array:
    """Return the flag; under `vmap`, whether any lane has it."""
    return flag


@any_lane.def_vmap
def any_lane_batched(axis_size: int, in_batched: list[bool], flag: Array):
    return any_lane(jnp.any(flag) if in_batched[0] else flag), False


def all_finite(a: PyTree) -> Array:
    """Whether every entry of the tree is finite."""
    return jnp.isfinite(max_abs(a))


def moved(a: PyTree, b: PyTree) -> Array:
    """Whether any entry differs."""
    changed = [jnp.any(u != v) for u, v in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
    return functools.reduce(operator.or_, changed)


def stacked(scalars: Sequence[Any], dtype: Any) -> Array:
    """Stack numbers and flags in one elementwise operation: XLA fuses no long stack."""
    vector = jnp.zeros(len(scalars), dtype)
    for is_place, scalar in zip(np.eye(len(scalars), dtype=bool), scalars, strict=True):
        entry = jnp.broadcast_to(jnp.asarray(scalar).astype(dtype), vector.shape)
        vector = jax.lax.select(is_place, entry, vector)
    return vector


def packed(*scalars: Array) -> Array:
    """Compute scalars in one kernel, as a vector.

    Left to itself the compiler makes a kernel of each, and repeats their common parts in
    every kernel that uses them; compiling those is most of a short run's time.
    """
    dtype = jnp.result_type(*(s for s in scalars if jnp.issubdtype(s.dtype, jnp.floating)))
    return jax.lax.optimization_barrier(jnp.stack([s.astype(dtype) for s in scalars]))


def packed_by_position(*scalars: Array) -> Array:
    """Compute scalars in one kernel, as a vector, within a loop.

    A stack of many is compiled to a kernel for each. Selected by position they stay
    together; the comparison, which never holds, keeps the positions from being computed
    outside of a loop, one by one.
    """
    dtype = jnp.result_type(*(s for s in scalars if jnp.issubdtype(s.dtype, jnp.floating)))
    first = scalars[0].astype(dtype)
    position = jax.lax.iota(jnp.int32, len(scalars)) + (first < -jnp.inf)
    vector = jnp.full(len(scalars), first)
    for k, scalar in enumerate(scalars[1:], 1):
        vector = jnp.where(position == k, scalar.astype(dtype), vector)
    return jax.lax.optimization_barrier(vector)


def pseudo_random(tree: PyTree, dtype: Any, which: Array | int = 0) -> PyTree:
    """Build a fixed direction without symmetry, another one for every `which`.

    Its entries, uniform between -1/2 and 1/2, are the index of each mixed by multiplying and
    shifting its bits (the finaliser of Appleby's MurmurHash3): a few operations an entry,
    where a proper random generator takes a program of its own.
    """
    leaves, structure = jax.tree.flatten(tree)
    made, first = [], 1
    for leaf in leaves:
        bits = jnp.arange(first, first + leaf.size, dtype=jnp.uint32)
        # Odd multiples of 2³²/φ keep the sequences of different directions apart.
        bits = (bits + jnp.asarray(which, jnp.uint32) * np.uint32(0x9E3779B9)) * GOLDEN
        bits = (bits ^ (bits >> 16)) * np.uint32(0x85EBCA6B)
        bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
        uniform = (bits ^ (bits >> 16)).astype(dtype) / 2.0**32 - 0.5
        made.append(uniform.reshape(leaf.shape))
        first += leaf.size
    return jax.tree.unflatten(structure, made)
