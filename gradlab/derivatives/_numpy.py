"""Calling the user's function at many points: compiled where JAX can trace it, else in Python.

An `Evaluator` runs one recipe, written once for both: `recipe(evaluate, ...)`, where
`evaluate` is either `Traced` (jax.lax.map over chunks) or `Concrete` (a Python loop over
NumPy arrays).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.derivatives._analytic import NOT_ANALYTIC, disagrees, first_not_analytic
from gradlab.derivatives._jaxpr import bytes_written
from gradlab.derivatives._leaves import is_complex

__all__ = ["Evaluator", "inside_a_transformation", "needs_numbers"]

# What tracing raises when a function needs the numbers themselves.
_UNTRACEABLE = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
)
# Memory for the points evaluated together, and their largest number: beyond about a hundred
# lanes a batched evaluation gains no more speed on a CPU or a GPU.
_CHUNK_BYTES = 2**28
_MAX_LANES = 128


@dataclass(frozen=True)
class Static:
    """Arguments split into arrays, which are traced, and the rest, which is not."""

    treedef: Any
    rest: tuple[tuple[int, Any], ...]

    @staticmethod
    def split(arguments: Any) -> tuple[Static, list[Any]]:
        """Return what stays static and the list of arrays."""
        leaves, treedef = jax.tree.flatten(arguments)
        rest = tuple((i, _Key(v)) for i, v in enumerate(leaves) if not _is_number(v))
        return Static(treedef, rest), [v for v in leaves if _is_number(v)]

    def join(self, arrays: list[Any]) -> Any:
        """Put the two back together."""
        leaves = list(arrays)
        for i, key in self.rest:
            leaves.insert(i, key.value)
        return jax.tree.unflatten(self.treedef, leaves)


class _Key:
    """A static argument: compared by value where it hashes, else by identity."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        try:
            return hash(self.value)
        except TypeError:
            return id(self.value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Key) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or (
            isinstance(self.value, bool | str | bytes) and self.value == other.value
        )


def _is_number(value: Any) -> bool:
    """Whether jit can trace it. A bool stays static: it is a switch far more often."""
    numbers = (jax.Array, np.ndarray, np.generic, int, float, complex)
    return isinstance(value, numbers) and not isinstance(value, bool | np.bool_ | np.str_)


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Run a recipe compiled, or in Python once f has turned out not to be traceable.

    Attributes:
        recipe: `recipe(evaluate, step, args, kwargs)`, pure but for its calls of
            `evaluate`.
        f: The user's function.
    """

    recipe: Callable[..., Any]
    f: Callable[..., Any]
    memory: dict[Any, Any] = field(default_factory=dict)

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        """The recipe under jit; the same object for all calls, so that its cache is used."""

        def run(static: Static, arrays: list[Any], step: Any) -> Any:
            args, kwargs = static.join(arrays)
            return self.recipe(Traced(self.f), step, args, kwargs)

        return jax.jit(run, static_argnums=0)

    @property
    def in_python(self) -> bool:
        """Whether f has turned out not to be traceable."""
        return "python" in self.memory

    def __call__(self, step: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Evaluate the recipe."""
        static, arrays = Static.split((args, kwargs))
        traced = any(isinstance(a, jax.core.Tracer) for a in arrays)
        if traced or not self.in_python:
            try:
                return self._compiled(static, arrays, step)
            except Exception as error:
                if not needs_numbers(error):
                    raise
                self.memory["python"] = inside_a_transformation(error)
                if traced:
                    raise TypeError(self.memory["python"]) from error
        args, kwargs = static.join([_to_numpy(a) for a in arrays])
        try:
            with jax.enable_x64(True):  # NumPy's own numbers are float64
                return self.recipe(Concrete(self.f, self.memory), step, args, kwargs)
        except _UNTRACEABLE as error:  # f closes over a traced value
            raise TypeError(self.memory["python"]) from error


def needs_numbers(error: Exception) -> bool:
    """Whether tracing failed because f needs concrete numbers, as NumPy code does."""
    if isinstance(error, _UNTRACEABLE):
        return True
    in_place = isinstance(error, TypeError) and "JAX arrays are immutable" in str(error)
    method = isinstance(error, AttributeError) and "Tracer" in str(error)
    return in_place or method


def _to_numpy(value: Any) -> Any:
    """Return a JAX array of numbers as a NumPy array, anything else as it is."""
    if isinstance(value, jax.Array) and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return np.asarray(value)
    return value


def inside_a_transformation(error: Exception) -> str:
    """Say what f did with a traced value, and what to do."""
    if isinstance(error, jax.errors.ConcretizationTypeError):
        return (
            "`f` decides in Python (`if`, `int()`, `float()`) on a traced value. Use jnp.where "
            "or jax.lax.cond; or differentiate it by `gradlab.finite` or `gradlab.adaptive`, "
            "outside jit, vmap and grad."
        )
    return (
        "`f` calls NumPy on a traced value. Write it with jax.numpy, or wrap it in "
        "jax.pure_callback; or differentiate it by `gradlab.finite` or `gradlab.adaptive`, "
        "outside jit, vmap and grad."
    )


@dataclass(frozen=True, eq=False)
class Traced:
    """Evaluate a JAX function at many points, in chunks of bounded memory."""

    f: Callable[..., Any]
    xp = jnp

    def output(self, call: Callable[[Any], Any], x: Any) -> Any:
        """Return the shapes and dtypes f returns at x, without evaluating it."""
        return jax.eval_shape(call, x)

    def plan(self, planner: Callable[[], Any]) -> Any:
        """Compute what does not involve f."""
        return planner()

    def one(self, call: Callable[[Any], Any], x: Any) -> Any:
        """Evaluate f once."""
        return call(x)

    def many(self, call: Callable[[Any], Any], points: Any) -> Any:
        """Evaluate f at each row of `points`."""
        try:
            return jax.vmap(call)(points)
        except NotImplementedError:
            return jax.lax.map(call, points)

    def rows(
        self, call: Callable[[Any], Any], finish: Callable[..., Any], x: Any, moves: Any
    ) -> Any:
        """Return `finish(values, *extra)` for each row of `moves` = (index, points, *extra).

        Row j evaluates f at copies of x whose entries `index[j]` hold `points[j, k]`.
        """

        def row(move: Any, over_points: Callable[..., Any]) -> Any:
            index, points, *extra = move
            return finish(over_points(lambda p: call(x.at[index].set(p)), points), *extra)

        written = bytes_written(jax.make_jaxpr(call)(x).jaxpr) + x.size * x.dtype.itemsize
        per_row = written * moves[1].shape[1]
        lanes = int(np.clip(_CHUNK_BYTES // per_row, 1, _MAX_LANES))
        try:
            return jax.lax.map(
                lambda move: row(move, lambda g, points: jax.vmap(g)(points)),
                moves,
                batch_size=lanes,
            )
        except NotImplementedError:  # a callback, say, that cannot be batched
            return jax.lax.map(lambda move: row(move, jax.lax.map), moves)

    def check_analytic(self, call: Callable[[Any], Any], x: Any, out: Any) -> None:
        """Raise unless f is analytic, as far as its jaxpr tells."""
        _check_complex(out)
        culprit = first_not_analytic(jax.make_jaxpr(call)(x))
        if culprit:
            raise TypeError(NOT_ANALYTIC.format(reason=f"it takes `{culprit}` of them"))

    def check_against_differences(self, call: Any, x: Any, derivatives: Any) -> None:
        """Do nothing: the jaxpr has told."""


@dataclass(frozen=True, eq=False)
class Concrete:
    """Evaluate a NumPy function at many points, one call after the other."""

    f: Callable[..., Any]
    memory: dict[Any, Any]
    xp = np

    def output(self, call: Callable[[Any], Any], x: Any) -> Any:
        """Return what f returned last time; the first time, by calling it once."""
        key = (x.shape, x.dtype)
        if key not in self.memory:
            self.memory[key] = jax.tree.map(_abstract, call(np.asarray(x)))
        return self.memory[key]

    def plan(self, planner: Callable[[], Any]) -> Any:
        """Compute what does not involve f, with JAX, as NumPy arrays."""
        return jax.tree.map(np.asarray, planner())

    def one(self, call: Callable[[Any], Any], x: Any) -> Any:
        """Evaluate f once."""
        return call(np.asarray(x))

    def many(self, call: Callable[[Any], Any], points: Any) -> Any:
        """Evaluate f at each row of `points`."""
        return np.stack([np.asarray(call(point)) for point in points])

    def rows(
        self, call: Callable[[Any], Any], finish: Callable[..., Any], x: Any, moves: Any
    ) -> Any:
        """Do as `Traced.rows` does, in a Python loop."""
        out = []
        for index, points, *extra in zip(*moves, strict=True):
            values = []
            for point in points:
                moved = np.array(x)
                moved[index] = point
                values.append(call(moved))
            stacked = jax.tree.map(lambda *v: np.stack([np.asarray(e) for e in v]), *values)
            out.append(finish(stacked, *extra))
        return jax.tree.map(lambda *v: jnp.stack([jnp.asarray(e) for e in v]), *out)

    def check_analytic(self, call: Callable[[Any], Any], x: Any, out: Any) -> None:
        """Raise if f returns real numbers for complex ones."""
        _check_complex(out)

    def check_against_differences(self, call: Any, x: Any, derivatives: Any) -> None:
        """Raise if the first complex-step derivative contradicts a central difference."""
        if self.memory.get("analytic"):
            return
        reach = float(np.sqrt(np.finfo(x.dtype).eps))
        direction = np.where(x == 0, 1, np.abs(x)).astype(x.dtype)
        plus, minus = (call(x + s * reach * direction) for s in (1, -1))
        for d, p, m in zip(*map(jax.tree.leaves, (derivatives, plus, minus)), strict=True):
            if disagrees(np.asarray(d), direction, np.asarray(p), np.asarray(m), 2 * reach):
                reason = "central differences contradict it"
                raise TypeError(NOT_ANALYTIC.format(reason=reason))
        self.memory["analytic"] = True


def _check_complex(out: Any) -> None:
    """Raise unless every output is complex."""
    for leaf in jax.tree.leaves(out):
        if not is_complex(getattr(leaf, "dtype", float)):
            reason = "for complex `params` it returned real numbers"
            raise TypeError(NOT_ANALYTIC.format(reason=reason))


def _abstract(value: Any) -> Any:
    """Return shape and dtype of one output; anything else as it is, for the checks to see."""
    number = np.isscalar(value) and not isinstance(value, bool | str | bytes)
    if not number and not hasattr(value, "shape"):
        return value
    return jax.ShapeDtypeStruct(np.shape(value), np.asarray(value).dtype)
