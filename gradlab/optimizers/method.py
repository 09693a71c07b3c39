"""`Method`: a minimiser by name, whose hyper-parameters are data rather than code."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab._checks import check_count
from gradlab._errors import check_choice, nearest
from gradlab.optimizers import first_order
from gradlab.optimizers._recipe import recipe

__all__ = ["Method", "as_method", "check_learning_rate", "make", "methods"]

# Gradlab's own, which the package imports when asked for -> default learning rate.
_OWN: Mapping[str, float | None] = MappingProxyType(
    {
        "adahessian": 1e-1,
        "barzilai_borwein": None,
        "bfgs": None,
        "cubic_newton": None,
        "damped_newton": None,
        "lbfgs": None,
        "newton": None,
        "newton_cg": None,
        "nonlinear_cg": None,
        "pure_newton": None,
        "regularized_newton": None,
        "saddle_free_newton": None,
        "sophia": 1e-3,
    }
)


@dataclass(frozen=True)
class Method:
    """A minimiser and its hyper-parameters.

    Two methods with the same `key` share compiled code: `hyperparams` are passed to it as
    arguments, so a sweep over them, by `jax.vmap` or one at a time, compiles once.

    Attributes:
        name: Name it is listed under.
        factory: Builds the optax transformation from keyword arguments.
        static: Options that shape the compiled code (flags, sizes, schedules).
        hyperparams: Numbers it is run with, traced.
        tuned: Whether the caller chose the learning rate.
    """

    name: str
    factory: Callable[..., Any]
    static: tuple[tuple[str, Any], ...] = ()
    hyperparams: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)
    tuned: bool = field(default=False, compare=False)

    @property
    def label(self) -> str:
        """Name for tables and plots."""
        return self.name

    @property
    def takes_learning_rate(self) -> bool:
        """Whether it has a learning rate to choose."""
        return "learning_rate" in self.hyperparams

    @property
    def sees_leaves(self) -> bool:
        """Whether it may treat leaves apart, so that they cannot travel as one vector."""
        return isinstance(self.factory, _Given) or "mask" in dict(self.static)

    def build(self, hyperparams: dict[str, Any] | None = None) -> Any:
        """Build the optax transformation, with these hyper-parameters instead of its own."""
        numbers = dict(self.hyperparams if hyperparams is None else hyperparams)
        options = dict(self.static)
        schedule = options.pop("schedule", None)
        num_steps = options.pop("num_steps", None)
        if schedule is not None:
            numbers["learning_rate"] = first_order.learning_rate_schedule(
                schedule, numbers["learning_rate"], num_steps
            )
        return optax.with_extra_args_support(self.factory(**numbers, **options))


def methods() -> list[str]:
    """Names that `minimize` knows.

    Examples:
        >>> print([name for name in methods() if name.startswith("newton")])
        ['newton', 'newton_cg']
    """
    return sorted([*first_order.FACTORIES, *_OWN])


def make(name: str, **options: Any) -> Method:
    """Build a method from its name and options.

    Args:
        name: One of `methods()`.
        **options: What its factory takes: `learning_rate` for optax's first-order methods
            (a number, a traced scalar or an optax schedule), `momentum`, `b1`, …; also
            `schedule`, one of `schedules()`, with `num_steps`.

    Returns:
        A `Method`, to hand to `minimize` or `compare`.

    Raises:
        ValueError: If the name is unknown or the learning rate is not positive.
        TypeError: If the method has no such option.

    Examples:
        >>> print(make("adam", learning_rate=0.1).hyperparams)
        {'learning_rate': 0.1}
    """
    check_choice("method", name, methods())
    if name in _OWN:
        factory, rate = getattr(importlib.import_module("gradlab.optimizers"), name), _OWN[name]
    else:
        factory, rate = first_order.FACTORIES[name]
    _check_options(name, factory, options, rate)
    tuned = "learning_rate" in options
    if isinstance(options.get("learning_rate"), int):
        options["learning_rate"] = float(options["learning_rate"])
    if rate is not None:
        options.setdefault("learning_rate", rate)
    numbers = {k: v for k, v in options.items() if _is_number(v)}
    static = tuple(sorted((k, v) for k, v in options.items() if not _is_number(v)))
    if rate is not None or options.get("learning_rate") is not None:
        check_learning_rate(options["learning_rate"])
    return Method(name, factory, static, numbers, tuned)


@dataclass(frozen=True)
class _Given:
    """Stands for the factory of a transformation that was built by the caller.

    Those built alike are equal, so that `gl.newton()` or `optax.adam(0.1)`, written where it
    is used, compiles once.
    """

    transformation: Any = field(compare=False)
    recipe: Any = field(repr=False)

    def __call__(self) -> Any:
        return self.transformation


def as_method(method: Any) -> Method:
    """Turn what `minimize` accepts, a name, a `Method` or a transformation, into a `Method`.

    Raises:
        TypeError: If it is none of them.
        ValueError: If the name is unknown.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return make(method)
    if hasattr(method, "init") and hasattr(method, "update"):
        return Method("optax", _Given(method, recipe(method)))
    hint = " Call it: factory()." if callable(method) else ""
    raise TypeError(
        "`method` must be a name from gradlab.methods(), a gradlab.optimizers.Method or an "
        f"optax transformation, got {type(method).__name__}.{hint}"
    )


def check_learning_rate(rate: Any) -> None:
    """Raise unless a concrete learning rate is positive and finite."""
    if callable(rate) or isinstance(rate, jax.core.Tracer) or np.ndim(rate) > 0:
        return
    number = isinstance(rate, float | np.number | np.ndarray | jax.Array)
    if not (number and math.isfinite(rate) and rate > 0):
        raise ValueError(f"`learning_rate` must be positive and finite, got {rate!r}.")


def _check_options(name: str, factory: Callable[..., Any], options: dict, rate: Any) -> None:
    """Raise `TypeError` for an option the method does not have."""
    known = list(inspect.signature(factory).parameters)
    if rate is not None:
        known += ["schedule", "num_steps"]
    for option in options:
        if option not in known:
            raise TypeError(
                f"method {name!r} has no option {option!r}.{nearest(option, known)} "
                f"It has {sorted(known)}."
            )
    if "schedule" in options:
        check_choice("schedule", options["schedule"], first_order.schedules())
        if callable(options.get("learning_rate")):
            raise TypeError(
                "`schedule` takes a number as `learning_rate`, got a schedule; leave one out."
            )
    if ("schedule" in options) != ("num_steps" in options):
        raise TypeError("`schedule` and `num_steps` come together: a schedule has a length.")
    if "num_steps" in options:
        options["num_steps"] = check_count("num_steps", options["num_steps"], smallest=1)


def _is_number(value: Any) -> bool:
    """Whether an option is traced: floats and arrays are, flags, counts and names are not."""
    return isinstance(value, float | jax.Array) or (
        hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.inexact)
    )
