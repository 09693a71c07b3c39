"""What a problem is, and the one table in which every problem has its name.

A builder makes its problem with plain NumPy in float64; `get` hands starts, data and
minimisers out in the dtype that is asked for. Losses are module-level functions of
`(params, *args)`, so two problems of the same name share compiled code.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import nearest
from gradlab._typing import Loss, Params, PyTree

__all__ = ["Problem", "check_size", "fixed_start", "get", "names", "register"]

Builder = TypeVar("Builder", bound=Callable[..., "Problem"])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Problem:
    """A loss, where to start, and what is known about the answer.

    Attributes:
        name: The name `get` knows it by.
        loss: Pure function `loss(params, *args)` to a scalar.
        init: Function of a random key to the starting parameters; the key may be left out,
            and is ignored where the start is fixed.
        description: What it is, in one line.
        source: The paper and page, or the origin and licence of the data.
        args: The data, passed to `loss` after the parameters.
        residual: Function `residual(params, *args)` to shape (m,) whose squares sum to the
            loss, or None where the loss is no sum of squares.
        minimum: The smallest value, or None where it is not known or does not exist.
        minimizer: Parameters at which the minimum is taken, or None where not known.
        local_minima: Greater values at which runs are known to end: other minima, and infima
            at infinity.
        tags: The groups it belongs to: "analytic", "regression", "2d", "mgh", "nist", ...
        plot_box: `((xlo, xhi), (ylo, yhi))`, the window of a contour plot in two variables.
        certified: Reference figures that come with a data set, or None.
        row_args: How many of the first `args` hold one row a sample, 0 where none do.
        held_out: Arguments like `args`, of the data that were kept from the training; empty
            where none were.
        predict: Function `predict(params, *args)` to what the model says of each row, or
            None.
        metrics: Functions `metric(params, *args)` to a scalar, by name: "accuracy", ...

    Examples:
        >>> problem = gl.problems.get("booth")
        >>> print(problem.loss(problem.init(), *problem.args))
        74.0
        >>> problem.minimum
        0.0
    """

    name: str
    loss: Loss
    init: Callable[..., Params]
    description: str
    source: str
    args: tuple[Any, ...] = ()
    residual: Callable[..., Any] | None = None
    minimum: float | None = None
    minimizer: Params | None = None
    local_minima: tuple[float, ...] = ()
    tags: tuple[str, ...] = ()
    plot_box: tuple[tuple[float, float], tuple[float, float]] | None = None
    certified: dict[str, Any] | None = None
    row_args: int = 0
    held_out: tuple[Any, ...] = ()
    predict: Callable[..., Any] | None = None
    metrics: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)

    @property
    def num_params(self) -> int:
        """Number of scalar parameters, n."""
        start = jax.eval_shape(lambda: self.init())
        return sum(leaf.size for leaf in jax.tree.leaves(start))

    @property
    def num_residuals(self) -> int | None:
        """Number of residuals, m, or None where the loss is no sum of squares."""
        if self.residual is None:
            return None
        residual = self.residual
        return int(jax.eval_shape(lambda: residual(self.init(), *self.args)).size)

    @property
    def num_rows(self) -> int | None:
        """Number of rows of data, N, or None where the data are not rows."""
        return len(self.args[0]) if self.row_args else None

    def rows(self, index: Any) -> tuple[Any, ...]:
        """Return `args` with only some of its rows: a batch, as `loss` takes it.

        Args:
            index: The rows' numbers, shape (B,), or a slice; it may be traced.

        Returns:
            The arguments.

        Raises:
            ValueError: If the data of this problem are not rows.
        """
        if not self.row_args:
            raise ValueError(f"the arguments of problem {self.name!r} hold no rows of data.")
        return tuple(
            arg[index] if place < self.row_args else arg for place, arg in enumerate(self.args)
        )

    def evaluate(self, params: Params) -> dict[str, float]:
        """Return every metric at `params`, on the held-out data where there are any.

        Args:
            params: Parameters, as `loss` takes them.

        Returns:
            Numbers by the name of the metric.

        Raises:
            ValueError: If the problem has no metrics.

        Examples:
            >>> problem = gl.problems.get("softmax", held_out=0.25)
            >>> print(f"{problem.evaluate(problem.init())['cross_entropy']:.3f}")
            2.303
        """
        if not self.metrics:
            raise ValueError(f"problem {self.name!r} has no metrics to evaluate.")
        args = self.held_out or self.args
        return {name: float(_jitted(f)(params, *args)) for name, f in self.metrics.items()}

    def __repr__(self) -> str:
        """Name the problem and its sizes, without its data."""
        sizes = f"num_params={self.num_params}"
        if self.residual is not None:
            sizes += f", num_residuals={self.num_residuals}"
        return f"Problem({self.name!r}, {sizes}, minimum={self.minimum})"


@functools.cache  # so that the same metric is compiled once
def _jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a metric."""
    return jax.jit(function)


class _Entry(NamedTuple):
    """What the table holds for a name."""

    build: Callable[..., Problem]
    tags: tuple[str, ...]
    defaults: dict[str, Any]


_TABLE: dict[str, _Entry] = {}


def register(name: str, *, tags: tuple[str, ...] = ()) -> Callable[[Builder], Builder]:
    """Build a decorator that enters a builder of problems in the table.

    The builder takes its options as keywords with defaults and returns a `Problem` made with
    NumPy in float64; `get` converts every floating array in it to the wanted dtype. It also
    converts each option to the kind of its default, int or float, or says that it is none;
    the default None is for an int that the builder works out.

    A builder defined anew, as a notebook does when a cell is run again, replaces itself.

    Args:
        name: The name for `get`, not yet taken.
        tags: The groups that `names(tag=...)` lists it in.

    Returns:
        A decorator, which returns the builder unchanged.

    Raises:
        ValueError: If the name is taken by another builder.
        TypeError: If the builder has a parameter without default, or one called `dtype`.

    Examples:
        >>> from gradlab.problems.registry import fixed_start
        >>> def bowl_loss(x):
        ...     return jnp.sum(x**4)
        >>> @gl.problems.register("bowl", tags=("mine",))
        ... def bowl(*, n: int = 3) -> gl.problems.Problem:
        ...     start = fixed_start(np.ones(n))
        ...     return gl.problems.Problem("bowl", bowl_loss, start, "A bowl.", "Here.")
        >>> gl.problems.names(tag="mine")
        ['bowl']
        >>> print(gl.problems.get("bowl", n=2).init())
        [1. 1.]
    """

    def enter(build: Builder) -> Builder:
        if name in _TABLE and _identity(_TABLE[name].build) != _identity(build):
            raise ValueError(f"`name` must be free, but a problem {name!r} is registered.")
        parameters = inspect.signature(build).parameters
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty or key == "dtype":
                raise TypeError(
                    f"a builder of problems takes only options with defaults, and no `dtype`, "
                    f"which is an option of `get`; {name!r} takes `{key}`."
                )
        defaults = {key: parameter.default for key, parameter in parameters.items()}
        _TABLE[name] = _Entry(build, tuple(tags), defaults)
        return build

    return enter


def get(name: str, *, dtype: Any = None, **options: Any) -> Problem:
    """Return the problem of that name.

    Two calls return the same `loss` and `residual` functions, so that what was compiled for
    one is used by the other.

    Args:
        name: One of `names()`.
        dtype: Of the start, the data and the minimiser: "float32" or "float64". The default
            is JAX's: float32, or float64 where `jax_enable_x64` is on.
        **options: Those of the problem, such as `n`, the number of variables.

    Returns:
        The problem.

    Raises:
        ValueError: If the name, or the value of an option, is not one of those possible.
        TypeError: If the problem has no such option, or its value is of the wrong kind.
        ImportError: If the data set needs a package that is not installed.

    Examples:
        >>> gl.problems.get("rosenbrock", n=4)
        Problem('rosenbrock', num_params=4, num_residuals=6, minimum=0.0)
    """
    if name not in _TABLE:
        raise ValueError(
            f"`name` must be one of gradlab.problems.names(), got {name!r}."
            f"{nearest(name, _TABLE)}"
        )
    entry = _TABLE[name]
    known = [*entry.defaults, "dtype"]
    for key in options:
        if key not in known:
            raise TypeError(
                f"problem {name!r} has no option {key!r}.{nearest(key, known)} "
                f"Its options: {known}."
            )
    dtype = _float_dtype(dtype)
    problem = entry.build(
        **{key: _as_default(key, value, entry.defaults[key]) for key, value in options.items()}
    )
    build_start = problem.init
    return dataclasses.replace(
        problem,
        init=lambda key=None: _cast(build_start(key), dtype),
        args=_cast(problem.args, dtype),
        held_out=_cast(problem.held_out, dtype),
        minimizer=_cast(problem.minimizer, dtype),
        tags=entry.tags,
    )


def names(tag: str | None = None) -> list[str]:
    """List the registered problems in alphabetical order.

    Args:
        tag: Only those of this group, such as "2d" or "mgh".

    Returns:
        The names.

    Raises:
        ValueError: If no problem has that tag.

    Examples:
        >>> gl.problems.names(tag="regression")
        ['linear', 'logistic', 'softmax']
    """
    if tag is None:
        return sorted(_TABLE)
    tags = {t for entry in _TABLE.values() for t in entry.tags}
    if tag not in tags:
        raise ValueError(
            f"`tag` must be one of {sorted(tags)}, got {tag!r}.{nearest(tag, tags)}"
        )
    return sorted(name for name, entry in _TABLE.items() if tag in entry.tags)


def fixed_start(start: PyTree, scale: float = 1.0) -> Callable[..., Params]:
    """Build an `init` that ignores its key and returns `scale` times a published start.

    Where the published start is all zeros, every entry becomes `scale` unless `scale` is 1:
    the convention of the MINPACK test driver.

    Args:
        start: The published start: numbers, or a dict of real NumPy arrays.
        scale: Factor, finite and not zero.

    Returns:
        Function of an optional random key to the start.

    Raises:
        ValueError: If `scale` is zero or not finite.
    """
    if not np.isfinite(scale) or scale == 0:
        raise ValueError(f"`start_scale` must be finite and not zero, got {scale}.")
    start = start if isinstance(start, dict) else np.asarray(start, np.float64)
    if scale != 1.0:
        zero = not any(np.any(leaf) for leaf in jax.tree.leaves(start))
        start = jax.tree.map(lambda x: np.full(x.shape, scale) if zero else scale * x, start)
    return lambda key=None: start


def check_size(argument: str, size: int, *, at_least: int, multiple_of: int = 1) -> int:
    """Return `size`; raise in the caller's terms unless it is a possible one."""
    if size < at_least or size % multiple_of:
        multiple = f" and a multiple of {multiple_of}" if multiple_of > 1 else ""
        raise ValueError(f"`{argument}` must be at least {at_least}{multiple}, got {size}.")
    return size


def _as_default(option: str, value: Any, default: Any) -> Any:
    """Convert the value of an option to the kind of its default; None stands for an int."""
    if value is default or not isinstance(default, int | float | None):
        return value
    try:
        return float(value) if isinstance(default, float) else operator.index(value)
    except (TypeError, ValueError):
        kind = "a number" if isinstance(default, float) else "an integer"
        raise TypeError(f"`{option}` must be {kind}, got {value!r}.") from None


def _identity(build: Callable[..., Problem]) -> tuple[str, str]:
    """Say where a builder is defined."""
    return build.__module__, build.__qualname__


def _float_dtype(dtype: Any) -> np.dtype[Any]:
    """Turn the `dtype` argument into float32 or float64."""
    if dtype is None:
        return jnp.zeros(()).dtype
    try:
        chosen = jnp.dtype(dtype)
    except TypeError:
        chosen = None
    if chosen not in (np.float32, np.float64):
        raise TypeError(f"`dtype` must be 'float32' or 'float64', got {dtype!r}.")
    if chosen == np.float64 and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise ValueError(
            "`dtype` must be 'float32' while JAX holds no float64; "
            'call jax.config.update("jax_enable_x64", True) first.'
        )
    return chosen


def _cast(tree: PyTree, dtype: np.dtype[Any]) -> PyTree:
    """Convert the leaves to JAX arrays, floating ones to `dtype`."""

    def convert(leaf: Any) -> jax.Array:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype) if floating else jnp.asarray(leaf)

    return jax.tree.map(convert, tree)
