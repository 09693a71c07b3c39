"""Data and runs spread over all devices, on JAX's own runtime.

A loss that is a mean over N rows is minimised with the rows spread over the devices and the
parameters on each: the compiler gives every device its share of a pass through the data and
adds the results up, one all-reduce a pass. Nothing else changes: the same loss, method and
loop, the same counts, and answers that differ by rounding alone, since sums are taken in
another order.

    >>> import gradlab as gl
    >>> data = jnp.linspace(-1.0, 1.0, 60).reshape(20, 3), jnp.ones(20)
    >>> def loss(w, x, y):
    ...     return jnp.mean((x @ w - y) ** 2)
    >>> split, args = data_parallel(loss, jnp.zeros(3), data)
    >>> result = gl.minimize(split, jnp.zeros(3), "newton_cg", args=args)

Meshes always have axes of type Auto: with JAX's default, Explicit, losses that reshape or
slice their data are refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gradlab._checks import check_callable
from gradlab._distributed import LostPeerError, start
from gradlab._tree import max_abs, real_dtype
from gradlab._typing import Loss, Params, PyTree

SHARDS = ("data", "runs")  # what `compare` and the command line can spread

__all__ = [
    "SHARDS",
    "LostPeerError",
    "collectives",
    "data_parallel",
    "exchanged_bytes",
    "mesh",
    "replicate",
    "spread",
    "start",
]

# What a compiled program exchanges between devices.
_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
# A shape within such a line: its type with the number of bits, and its lengths.
_SHAPE = re.compile(r"[a-z]+(\d+)\w*\[([\d,]*)\]")
# Rounding that a sum over rows in another order may leave, in roundings of the loss.
_ROUNDINGS = 1e4
# Where a loss is tried for being a mean over rows, beside the point itself: this far from it.
_AWAY = 0.37


def mesh(axis: str = "data", devices: Sequence[Any] | None = None) -> Mesh:
    """Build a mesh of one axis over the devices.

    Args:
        axis: Its name.
        devices: The devices; by default all, of all processes.

    Returns:
        A `jax.sharding.Mesh` whose axis is of type Auto.

    Examples:
        >>> print(mesh().axis_names)
        ('data',)
    """
    chosen = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(chosen),), (axis,), axis_types=(AxisType.Auto,), devices=chosen)


def replicate(tree: PyTree, on: Mesh | None = None) -> PyTree:
    """Put a whole tree on every device.

    Args:
        tree: Any pytree of arrays; every process holds the same.
        on: The mesh; by default `mesh()`.

    Returns:
        The tree, its arrays replicated.

    Examples:
        >>> print(replicate(jnp.ones(3)).sharding.is_fully_replicated)
        True
    """
    where = NamedSharding(mesh() if on is None else on, PartitionSpec())
    return jax.tree.map(lambda leaf: _placed(leaf, where), tree)


def spread(tree: PyTree, on: Mesh | None = None) -> tuple[PyTree, int]:
    """Spread the leading axis of every array over the devices, for `jax.vmap` over it.

    Where it is not divisible, it is filled up with copies of the first entry.

    Args:
        tree: Pytree of arrays of the same leading length N.
        on: The mesh, of one axis; by default `mesh("runs")`.

    Returns:
        The tree, and N: what is computed of entries from N on is to be dropped.

    Raises:
        ValueError: If the leading lengths differ.

    Examples:
        >>> rates, number = spread(jnp.array([0.1, 0.2, 0.3]))
        >>> print(number, rates[:3])
        3 [0.1 0.2 0.3]
    """
    on = mesh("runs") if on is None else on
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(
            f"`tree` must have arrays of one leading length, got lengths {sorted(lengths)}."
        )
    ((number,),) = lengths
    where = NamedSharding(on, PartitionSpec(on.axis_names[0]))
    missing = -number % on.size
    return jax.tree.map(lambda leaf: _placed(_filled(leaf, missing), where), tree), number


def data_parallel(
    loss: Loss, params: Params, batch: tuple[Any, ...], *, on: Mesh | None = None
) -> tuple[Loss, tuple[Any, ...]]:
    r"""Spread the rows of a loss's data over the devices.

    Arrays with a leading axis of the common length N are spread along it, numbers and all
    else are on every device. Where N is not divisible by the number of devices D, rows are
    added: copies of the first, of weight 0. Zeros would not do, since 0 · NaN is NaN. The
    loss is then evaluated row by row, $\sum_i w_i \ell(\theta, x_i) / \sum_i w_i$, which
    is the same number for a mean (or without the denominator a sum) over rows; whether it
    is, is tried at `params` and at a point beside it.

    Args:
        loss: Function `loss(params, *batch)` to a real scalar.
        params: A point to try the loss at.
        batch: Its further arguments.
        on: The mesh, of one axis; by default `mesh()`.

    Returns:
        The loss and the arguments to minimise instead: `minimize(loss, x0, args=args)`. Rows
        that divide leave the loss as it is.

    Raises:
        ValueError: If there are no rows, the arrays' leading lengths differ, or rows must be
            added to a loss that is neither a mean nor a sum over rows.

    Examples:
        >>> loss = lambda w, x: jnp.mean((x - w) ** 2)
        >>> split, args = data_parallel(loss, 1.0, (jnp.ones(8),))
        >>> print(float(split(0.0, *args)))
        1.0
    """
    check_callable("loss", loss, "a function loss(params, *batch)")
    on = mesh() if on is None else on
    rows = _rows(batch)
    missing = -rows % on.size
    along = NamedSharding(on, PartitionSpec(on.axis_names[0]))
    everywhere = NamedSharding(on, PartitionSpec())

    def place(leaf: Any) -> Any:
        if np.ndim(leaf) == 0:
            return _placed(leaf, everywhere) if hasattr(leaf, "dtype") else leaf
        return _placed(_filled(leaf, missing), along)

    args = jax.tree.map(place, batch)
    if not missing:
        return loss, args
    split = _kind_of(loss, params, batch, rows)
    dtype = jnp.promote_types(real_dtype(params), jnp.float32)
    weights = np.concatenate([np.ones(rows, dtype), np.zeros(missing, dtype)])
    return split, (_placed(weights, along), *args)


@dataclass(frozen=True)
class _ByRows:
    """A loss as a weighted mean, or a sum, of itself over single rows."""

    loss: Loss
    mean: bool

    def __call__(self, params: Params, weights: Any, *batch: Any) -> Any:
        leaves, structure = jax.tree.flatten(batch)
        axes = [0 if jnp.ndim(leaf) else None for leaf in leaves]

        def one(weight: Any, *row: Any) -> Any:
            single = [r[None] if axis == 0 else r for r, axis in zip(row, axes, strict=True)]
            return weight * self.loss(params, *jax.tree.unflatten(structure, single))

        total = jnp.sum(jax.vmap(one, in_axes=(0, *axes))(weights, *leaves))
        return total / jnp.sum(weights) if self.mean else total


def collectives(function: Callable[..., Any], *args: Any) -> dict[str, int]:
    """Count what the compiled program exchanges between devices.

    Args:
        function: What is compiled, with `jax.jit`.
        *args: What it is compiled for, placed where they are.

    Returns:
        How often the program's text has each kind, by name: "all-reduce", "all-gather", …; a
        collective within a loop is counted once.

    Examples:
        >>> print(collectives(lambda x: 2 * x, jnp.ones(3)))
        {}
    """
    return dict(Counter(kind for _, kind in _exchanges(function, args)))


def exchanged_bytes(function: Callable[..., Any], *args: Any) -> int:
    """Add up the sizes of what the compiled program's collectives return on a device.

    A ring of D devices moves $2 (D - 1) / D$ times as much through each for an all-reduce.

    Args:
        function: What is compiled, with `jax.jit`.
        *args: What it is compiled for, placed where they are.

    Returns:
        Bytes; what is exchanged within a loop is counted once.

    Examples:
        >>> exchanged_bytes(lambda x: 2 * x, jnp.ones(3))
        0
    """
    total = 0
    for shapes, _ in _exchanges(function, args):
        for bits, lengths in _SHAPE.findall(shapes):
            sizes = [int(length) for length in lengths.split(",") if length]
            total += int(bits) // 8 * int(np.prod(sizes, dtype=np.int64))
    return total


def _exchanges(function: Callable[..., Any], args: tuple[Any, ...]) -> list[tuple[str, str]]:
    """Return shapes and kind of every collective in a compiled program."""
    text = jax.jit(function).lower(*args).compile().as_text() or ""
    return [(shapes, kind) for shapes, kind in _COLLECTIVE.findall(text)]


def _rows(batch: tuple[Any, ...]) -> int:
    """Return the number of rows of the data, checked."""
    lengths = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf)}
    if len(lengths) != 1:
        raise ValueError(
            "`batch` must hold arrays with one row for each sample, but their first axes have "
            f"lengths {sorted(lengths)}. Close over what is not data."
        )
    return int(lengths.pop())


def _filled(leaf: Any, missing: int) -> Any:
    """Add copies of the first entry."""
    if not missing:
        return leaf
    leaf = np.asarray(leaf)
    return np.concatenate([leaf, np.repeat(leaf[:1], missing, axis=0)])


def _placed(leaf: Any, where: NamedSharding) -> Any:
    """Place an array that every process holds whole; each takes what its devices need."""
    if isinstance(leaf, jax.Array) and where.is_fully_addressable:
        return jax.device_put(leaf, where)
    array = np.asarray(leaf)
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


def _kind_of(loss: Loss, params: Params, batch: tuple[Any, ...], rows: int) -> _ByRows:
    """Find out whether a loss is a mean or a sum over rows, or raise."""
    weights = np.ones(rows, jnp.promote_types(real_dtype(params), jnp.float32))

    def both(function: Any, x: Params, *args: Any) -> tuple[Any, Any]:
        return jax.value_and_grad(lambda x: function(x, *args))(x)

    params = jax.tree.map(jnp.asarray, params)
    beside = jax.tree.map(lambda x: x + _AWAY * (1 + jnp.abs(x)) * jnp.cos(_counted(x)), params)
    for mean in (True, False):
        split = _ByRows(loss, mean)
        if all(
            _alike(both(loss, x, *batch), both(split, x, weights, *batch))
            for x in (params, beside)
        ):
            return split
    raise ValueError(
        f"the {rows} rows of `batch` do not divide by the number of devices, and `loss` is "
        "neither a mean nor a sum over rows, so that rows of weight 0 would change it. Leave "
        "rows out, so that they divide, or use fewer devices."
    )


def _counted(leaf: Any) -> Any:
    """Number the entries of an array, as floats."""
    return jnp.arange(1.0, leaf.size + 1).reshape(leaf.shape).astype(leaf.dtype)


def _alike(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    """Whether values and gradients are equal but for the order of sums; NaN where both are."""
    for left, right in zip(a, b, strict=True):
        size = max_abs((left, right))
        eps = float(jnp.finfo(size.dtype).eps)
        difference = max_abs(jax.tree.map(lambda x, y: x - y, left, right))
        if not bool(difference <= _ROUNDINGS * eps * size):
            return False
    return True
