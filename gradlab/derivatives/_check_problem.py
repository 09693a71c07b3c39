"""Any function of any arguments as one of a flat real vector, in the most digits it accepts.

A complex leaf becomes two real ones, so that one set of checks serves real, holomorphic and
mixed functions. Leaves of low precision are widened to float64 where the function accepts
it: a derivative rule is the same program in any precision, but only there do differences
tell the truth from rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import leaf_name
from gradlab.derivatives._leaves import is_complex

__all__ = ["Leaf", "Problem", "build", "canonical", "widened"]


class Leaf(NamedTuple):
    """One real array: its name as the caller writes it, shape, and dtype as given."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    cut: slice

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.cut.stop - self.cut.start

    def place(self, flat: int) -> tuple[int, ...]:
        """Index within the leaf of an entry of the flat vector."""
        return tuple(int(i) for i in np.unravel_index(flat - self.cut.start, self.shape))


@dataclass(frozen=True, eq=False)
class Problem:
    """A function of a flat real vector.

    Attributes:
        call: From x, shape (n,), to the outputs, shape (m,); both in `dtype`.
        x: The point, shape (n,).
        inputs: The leaves of x.
        outputs: The leaves of the outputs.
        dtype: What x and the outputs are held in.
        eps: Spacing at 1 of the coarsest dtype anything is computed in.
        wide: Whether the leaves were widened.
        notes: What was left out, in words.
    """

    call: Callable[[Any], Any]
    x: np.ndarray
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    dtype: Any
    eps: float
    wide: bool
    notes: tuple[str, ...]

    def precision(self) -> AbstractContextManager[Any]:
        """Let JAX compute in float64 while the problem needs it."""
        return jax.enable_x64(self.dtype == np.float64)

    def leaf_of(self, flat: int) -> Leaf:
        """The input leaf that holds an entry of x."""
        return next(leaf for leaf in self.inputs if flat < leaf.cut.stop)

    def output_of(self, flat: int) -> Leaf:
        """The output leaf that holds an entry of the outputs."""
        return next(leaf for leaf in self.outputs if flat < leaf.cut.stop)


def canonical(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make arrays of the floating leaves, in the dtypes JAX computes in."""

    def leaf(value: Any) -> Any:
        if isinstance(value, jax.core.Tracer):
            raise TypeError(
                "`args` must be concrete: the derivatives of f are checked at a point, outside "
                "jit, grad and vmap."
            )
        return jnp.asarray(value) if _is_variable(value) else value

    return jax.tree.map(leaf, args)


def widened(f: Callable[..., Any], args: tuple[Any, ...], argnums: Any) -> Problem | None:
    """State the problem in float64, or return None where f does not accept it."""
    with jax.enable_x64(True):
        try:
            problem = build(f, args, argnums, wide=True)
            jax.eval_shape(_any_derivative(problem), problem.x)
        except Exception:  # whatever f says to float64: it is asked in its own dtype then
            return None
    return problem


def _any_derivative(problem: Problem) -> Callable[[Any], Any]:
    """Reverse mode, or forward mode where that is refused: rules may insist on a dtype."""

    def derivative(x: Any) -> Any:
        try:
            return jax.grad(lambda x: jnp.sum(problem.call(x)))(x)
        except Exception:
            return jax.jvp(problem.call, (x,), (x,))

    return derivative


def build(f: Callable[..., Any], args: tuple[Any, ...], argnums: Any, *, wide: bool) -> Problem:
    """Flatten the arguments, and f with them."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(args)
    chosen = _chosen(args, argnums)
    names, notes = _argument_names(f, len(args)), []
    values = [value for _, value in leaves]
    variables: list[tuple[int, Leaf, Any]] = []
    pieces, start = [], 0
    for position, (path, value) in enumerate(leaves):
        name = leaf_name(names[path[0].idx], path[1:])
        if path[0].idx not in chosen:
            if wide and _is_variable(value):
                values[position] = jnp.asarray(
                    value, jnp.promote_types(value.dtype, np.float64)
                )
            continue
        if not _is_variable(value):
            if hasattr(value, "dtype") or isinstance(value, int):
                kind = getattr(value, "dtype", type(value).__name__)
                notes.append(f"{name} is {kind}, not floating: it is held fixed.")
            continue
        array = np.asarray(value)
        for part in ("real", "imag") if is_complex(array.dtype) else ("",):
            piece = np.real(array) if part == "real" else np.imag(array) if part else array
            leaf = Leaf(
                f"{name}.{part}" if part else name,
                array.shape,
                array.dtype,
                slice(start, start + array.size),
            )
            start += array.size
            pieces.append(np.ravel(piece))
            variables.append((position, leaf, part))
    if start == 0:
        raise TypeError(
            "`args` hold nothing to differentiate: no argument has a floating leaf with an "
            "entry in it."
        )
    given = [leaf.dtype for _, leaf, _ in variables]
    dtype = np.dtype(np.float64 if wide else _real(jnp.result_type(np.float32, *given)))

    def flat(vector: Any) -> Any:
        returned = f(*_restored(vector, variables, values, treedef, wide))
        kept = [v for _, v in _floating(returned)]
        parts = [p for v in kept for p in ((v.real, v.imag) if is_complex(v.dtype) else (v,))]
        return jnp.concatenate([jnp.ravel(p).astype(dtype) for p in parts])

    x = np.concatenate(pieces).astype(dtype)
    abstract = jax.eval_shape(
        lambda v: f(*_restored(v, variables, values, treedef, wide)),
        jax.ShapeDtypeStruct(x.shape, dtype),
    )
    outputs, more = _output_leaves(abstract)
    computed = [np.float64 if wide else _real(d) for d in given]
    eps = max(float(jnp.finfo(d).eps) for d in (*computed, *(o.dtype for o in outputs)))
    inputs = tuple(leaf for _, leaf, _ in variables)
    return Problem(flat, x, inputs, outputs, dtype, eps, wide, tuple(notes + more))


def _restored(
    vector: Any, variables: list[Any], values: list[Any], treedef: Any, wide: bool
) -> Any:
    """Put the entries of the flat vector back into the arguments."""
    leaves, parts = list(values), {}
    for position, leaf, part in variables:
        piece = jnp.reshape(vector[leaf.cut], leaf.shape)
        if part:
            parts[position, part] = piece
        if part == "imag":
            joined = jax.lax.complex(parts[position, "real"], piece)
            leaves[position] = joined if wide else joined.astype(leaf.dtype)
        elif not part:
            leaves[position] = piece if wide else piece.astype(leaf.dtype)
    return jax.tree.unflatten(treedef, leaves)


def _floating(returned: Any) -> list[tuple[Any, Any]]:
    """The floating leaves that f returned."""
    pairs = jax.tree_util.tree_leaves_with_path(returned)
    arrays = [(path, jnp.asarray(v)) for path, v in pairs if _is_array(v)]
    return [(path, v) for path, v in arrays if jnp.issubdtype(v.dtype, jnp.inexact)]


def _output_leaves(abstract: Any) -> tuple[tuple[Leaf, ...], list[str]]:
    """Describe what f returns, and say what of it has no derivative."""
    leaves, notes, start = [], [], 0
    for path, value in jax.tree_util.tree_leaves_with_path(abstract):
        name = leaf_name("f(x)", path)
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            notes.append(f"{name} is {value.dtype}: it has no derivative and is left out.")
            continue
        size = int(np.prod(value.shape))
        for part in (".real", ".imag") if is_complex(value.dtype) else ("",):
            cut = slice(start, start + size)
            leaves.append(Leaf(name + part, value.shape, _real(value.dtype), cut))
            start += size
    if start == 0:
        raise TypeError(
            f"`f` must return a floating array, or a pytree with one, but returned {abstract}."
        )
    return tuple(leaves), notes


def _chosen(args: tuple[Any, ...], argnums: Any) -> set[int]:
    """Check which arguments are differentiated; all by default."""
    if argnums is None:
        return set(range(len(args)))
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not numbers or any(not -len(args) <= k < len(args) for k in numbers):
        raise ValueError(
            f"`argnums` must name positional arguments, got {argnums!r} for {len(args)}."
        )
    return {k % len(args) for k in numbers}


def _argument_names(f: Callable[..., Any], count: int) -> list[str]:
    """Names of the positional parameters of f, as its author wrote them."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return [named[i] if i < len(named) else f"args[{i}]" for i in range(count)]


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic | float | complex | int)


def _is_variable(value: Any) -> bool:
    """Whether a leaf can vary smoothly."""
    if not _is_array(value) or isinstance(value, bool | int):
        return False
    return bool(jnp.issubdtype(jnp.asarray(value).dtype, jnp.inexact))


def _real(dtype: Any) -> Any:
    """The dtype of the real part."""
    return jnp.finfo(dtype).dtype
