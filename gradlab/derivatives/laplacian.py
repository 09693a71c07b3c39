"""The Laplacian, in one forward pass."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab._equal_programs import computed
from gradlab._typing import Array, Params, PyTree
from gradlab.derivatives._checks import checked_count, checked_values, in_callers_words
from gradlab.derivatives._leaves import check_params
from gradlab.derivatives._propagate import applied, interpret, series_carry

__all__ = ["laplacian"]

# Directions carried at once unless `chunk_size` says otherwise: each chunk evaluates f once
# more, which is below one part in a hundred of its work from here on.
_DIRECTIONS = 128


def laplacian(f: Callable[..., Any], *, chunk_size: int | None = None) -> Callable[..., PyTree]:
    r"""Build the Laplacian of f, the trace of its Hessian, without forming the Hessian.

    $\Delta f(x) = \sum_i \partial^2 f / \partial x_i^2$ by the forward Laplacian: one pass
    through f carries the value u, its derivatives $\partial_i u$ along `chunk_size` entries
    of x and the sum of its second derivatives, by

    $$ \Delta φ(u) = φ'(u)\,\Delta u + \sum_i φ''(u)[\partial_i u, \partial_i u]. $$

    The cost is between n + 1 evaluations of f (matrix products) and about 2n (elementwise
    functions): counted for a tanh network of three layers, 1.1n, where the trace of the
    Hessian takes 2.1n. There is no reverse pass, so f may contain `lax.while_loop`. Memory
    is that of `chunk_size` evaluations of f side by side.

    Args:
        f: Function of x and further arguments, to a floating array or a pytree of them;
            each entry gets its own Laplacian.
        chunk_size: How many entries of x are differentiated by at a time; smaller saves
            memory. By default at most 128.

    Returns:
        A function of x, a pytree of real floating arrays, and of the further arguments of
        f, which stay fixed, to the Laplacian, shaped like f(x).

    Raises:
        TypeError: If a leaf of x is not a real floating array, or one of f(x) not floating.
        ValueError: If `chunk_size` is not positive, or x is empty.

    References:
        Li, R. et al. (2024). A computational framework for neural network-based variational
        Monte Carlo with forward Laplacian. Nature Machine Intelligence 6, 209.

    Examples:
        >>> print(laplacian(lambda x: jnp.sum(x**3))(jnp.array([1.0, 2.0])))
        18.0
    """
    if chunk_size is not None and checked_count("chunk_size", chunk_size) == 0:
        raise ValueError("`chunk_size` must be at least 1, got 0.")

    def laplacian_of_f(x: Params, *args: Any, **kwargs: Any) -> PyTree:
        check_params(x, "x", holomorphic=False)
        structure = jax.tree.structure(x)
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(x)]
        tree: Any = None

        def on_leaves(*leaves: Array) -> list[Array]:
            nonlocal tree
            x = jax.tree.unflatten(structure, leaves)
            values, tree = checked_values(f(x, *args, **kwargs))
            return values

        with in_callers_words():
            program = jax.make_jaxpr(on_leaves)(*leaves)
        return jax.tree.unflatten(tree, _in_chunks(program, leaves, chunk_size or _DIRECTIONS))

    return laplacian_of_f


def _in_chunks(program: Any, leaves: list[Array], chunk_size: int) -> list[Array]:
    """Sum the second derivatives over chunks of directions of equal size."""
    n = sum(leaf.size for leaf in leaves)
    num_chunks = math.ceil(n / chunk_size)
    size = math.ceil(n / num_chunks)

    def part(first: Array | int) -> list[Array]:
        directions = _unit_directions(leaves, first + jnp.arange(size))
        inputs = [[u, d] for u, d in zip(leaves, directions, strict=True)]
        results = interpret(program, inputs, _carry)
        return [y[2] if len(y) > 2 else jnp.zeros_like(y[0]) for y in results]

    if num_chunks == 1:
        return part(0)
    parts = computed(functools.partial(jax.lax.map, part), size * jnp.arange(num_chunks))
    return [jnp.sum(part, axis=0) for part in parts]


def _unit_directions(leaves: list[Array], entries: Array) -> list[Array]:
    """Return unit vectors along these entries of the flat x, zero beyond its end."""
    directions, offset = [], 0
    for leaf in leaves:
        rows = jax.nn.one_hot(entries - offset, leaf.size, dtype=leaf.dtype)
        directions.append(rows.reshape(entries.size, *leaf.shape))
        offset += leaf.size
    return directions


def _carry(equation: Any, inputs: list[list[Array]]) -> list[list[Array]]:
    """Carry [value, derivatives along each direction, Laplacian] through one equation.

    The sum of the second derivatives enters every result linearly, so it is carried once,
    not once a direction. A list without it has a Laplacian of zero.
    """
    moving = [i for i, u in enumerate(inputs) if len(u) > 1]

    def along(directions: list[Array]) -> list[list[Array]]:
        lines = [u[:1] for u in inputs]
        for i, d in zip(moving, directions, strict=True):
            lines[i] = [inputs[i][0], d]
        return [y[1:] for y in series_carry(2)(equation, lines)]

    rows = jax.vmap(along)([inputs[i][1] for i in moving])
    results = [[y] for y in applied(equation)(*(u[0] for u in inputs))]
    for result, row in zip(results, rows, strict=True):
        result += row[:1] + [2 * jnp.sum(second, axis=0) for second in row[1:]]
    bent = [[u[0], *u[2:]] for u in inputs]
    if any(len(u) > 1 for u in bent):
        for result, carried in zip(results, series_carry(1)(equation, bent), strict=True):
            if len(result) > 1 and len(carried) > 1:
                result[2:] = [_sum(result[2:] + carried[1:])]
    return results


def _sum(terms: list[Array]) -> Array:
    return functools.reduce(operator.add, terms)
