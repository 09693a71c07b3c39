"""What `minimize` checks at the door, once, in the caller's words."""

from __future__ import annotations

import functools
import math
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import leaf_name
from gradlab._typing import Params

__all__ = [
    "check_args",
    "check_callable",
    "check_count",
    "check_decay",
    "check_params",
    "check_positive",
    "check_state",
    "scalar_loss",
    "warn_once",
]

_warned: set[str] = set()


def check_params(x0: Params, argument: str = "x0") -> Params:
    """Return `x0` as strongly typed real floating arrays, or raise naming the leaf."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(x0)
    if not leaves:
        raise ValueError(f"`{argument}` has no leaves: there is nothing to optimise.")
    checked = [_check_leaf(leaf_name(argument, p), x) for p, x in leaves]
    return jax.tree.unflatten(structure, checked)


def _check_leaf(name: str, leaf: Any) -> jax.Array:
    """Check one leaf and make it a strongly typed JAX array."""
    held = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    if held and leaf.is_deleted():
        raise ValueError(
            f"`{name}` is a deleted or donated buffer. Copy it before donating it, or "
            "build it anew."
        )
    dtype = getattr(leaf, "dtype", None) or _dtype_of(name, leaf)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"`{name}` must be real, got {dtype}. Optimise its real and imaginary parts as "
            "two leaves."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must be floating, got {dtype}. Cast it: jnp.asarray({name}, float)."
        )
    if np.size(leaf) == 0:
        raise ValueError(f"`{name}` is empty, shape {np.shape(leaf)}: nothing to optimise.")
    canonical = jax.dtypes.canonicalize_dtype(dtype)
    if canonical != dtype and hasattr(leaf, "dtype"):
        warn_once(
            "precision",
            f"`{name}` is {dtype}, but JAX runs without float64, so it is used as "
            f"{canonical}. For float64 call jax.config.update('jax_enable_x64', True) first.",
        )
    return jnp.asarray(leaf, canonical)


def _dtype_of(name: str, leaf: Any) -> Any:
    """Dtype of a Python leaf; strings and other objects are refused."""
    try:
        dtype = np.asarray(leaf).dtype
    except Exception:
        dtype = np.dtype(object)
    if dtype.kind not in "fciub":
        raise TypeError(
            f"`{name}` must be a floating array, got {type(leaf).__name__} {leaf!r:.60}. Keep "
            "settings out of the parameters: close over them, or pass numbers in `args`."
        )
    return dtype


def check_args(args: Any) -> None:
    """Raise unless the further arguments of a loss are a tuple of what JAX can trace."""
    if not isinstance(args, tuple):
        raise TypeError(f"`args` must be a tuple, got {type(args).__name__}. Write (data,).")
    for path, leaf in jax.tree_util.tree_flatten_with_path(args)[0]:
        if isinstance(leaf, jax.Array | jax.core.Tracer) or hasattr(leaf, "__jax_array__"):
            continue
        if np.asarray(leaf).dtype.kind not in "fciubV":  # V: bfloat16 and its like
            raise TypeError(
                f"`{leaf_name('args', path)}` must be an array or a number, for arguments are "
                f"traced, got {type(leaf).__name__} {leaf!r:.60}. Let the loss close over it "
                "instead: lambda params, *data: loss(params, it, *data)."
            )


def warn_once(topic: str, message: str) -> None:
    """Warn at the caller's line, once a process for each topic."""
    if topic not in _warned:
        _warned.add(topic)
        warnings.warn(message, UserWarning, stacklevel=_frames_of_ours())


def _frames_of_ours() -> int:
    """Count frames from the caller of this function to the first outside gradlab."""
    frame: types.FrameType | None = sys._getframe(1)
    count = 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("gradlab"):
        frame, count = frame.f_back, count + 1
    return count + 1


def check_count(argument: str, value: Any, smallest: int = 0) -> int:
    """Return a whole number that is at least `smallest`, or raise."""
    whole = not isinstance(value, bool) and isinstance(value, int | np.integer | float)
    if not whole or not math.isfinite(value) or value != math.floor(value) or value < smallest:
        raise ValueError(f"`{argument}` must be a whole number ≥ {smallest}, got {value!r}.")
    return int(value)


def check_positive(
    argument: str, value: Any, *, zero: bool = True, finite: bool = False
) -> Any:
    """Return a non-negative number (or a tracer, or None), or raise."""
    if value is None or isinstance(value, jax.core.Tracer):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    endless = finite and math.isinf(number)
    if math.isnan(number) or number < 0 or (number == 0 and not zero) or endless:
        rule = ("≥ 0" if zero else "> 0") + (" and finite" if finite else "")
        raise ValueError(f"`{argument}` must be a number {rule}, got {value!r}.")
    return number


def check_decay(argument: str, value: Any) -> Any:
    """Return the decay of a running mean, in [0, 1) (or a tracer), or raise."""
    value = check_positive(argument, value)
    if not isinstance(value, jax.core.Tracer) and value >= 1:
        raise ValueError(f"`{argument}` must be below 1, got {value!r}.")
    return value


def check_callable(argument: str, value: Any, kind: str = "a function") -> None:
    """Raise unless the value can be called."""
    if not callable(value):
        raise TypeError(
            f"`{argument}` must be {kind}, got {type(value).__name__} {value!r:.40}."
        )


def check_state(state: Any, init: Callable[[Params], Any], x0: Params) -> None:
    """Raise unless `state` looks like what the method makes for these parameters."""

    def outline(tree: Any) -> tuple[Any, ...]:
        return jax.tree.structure(tree), *map(jnp.shape, jax.tree.leaves(tree))

    if outline(state) != outline(jax.eval_shape(init, x0)):
        raise ValueError(
            "`state` must be `Result.state` of an earlier run of the same method on parameters "
            f"of the same shapes, got {type(state).__name__} of other structure."
        )


_TRACER_ERRORS = (
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
)


def scalar_loss(loss: Callable[..., Any], has_aux: bool = False) -> Callable[..., Any]:
    """Wrap `loss` so that it returns (value, aux), checked while it is traced."""

    @functools.wraps(loss, updated=())
    def checked(params: Params, *args: Any) -> tuple[jax.Array, Any]:
        try:
            out = loss(params, *args)
        except jax.errors.TracerArrayConversionError as error:
            raise TypeError(
                "`loss` calls NumPy (or float()) on a traced value. Write it with jnp in "
                "place of np. A loss that must stay NumPy can be differentiated by "
                "gradlab.finite and gradlab.adaptive, which call it on concrete arrays."
            ) from error
        except _TRACER_ERRORS as error:
            raise TypeError(
                "`loss` uses a traced value where Python needs a concrete one (an `if`, a "
                "`while` or an index). Use jnp.where or jax.lax.cond; pass what is not "
                "data by closing over it."
            ) from error
        if has_aux:
            if not isinstance(out, tuple) or len(out) != 2:
                raise TypeError(
                    "with has_aux=True `loss` must return a pair (value, aux), but returned "
                    f"{_describe(out)}."
                )
            return _check_scalar(out[0]), out[1]
        if isinstance(out, tuple) and len(out) == 2:
            raise TypeError(
                "`loss` must return a scalar, but returned a pair. If it is (value, aux), "
                "pass has_aux=True."
            )
        return _check_scalar(out), None

    return checked


def _check_scalar(value: Any) -> jax.Array:
    """Return the loss's value as a real scalar array, or raise saying what to do."""
    if value is None:
        raise TypeError(
            "`loss` must return a scalar, but returned None: is a `return` missing?"
        )
    kind = isinstance(value, float | jax.Array | np.ndarray | np.floating)
    if not kind or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise TypeError(
            f"`loss` must return a real floating scalar, but returned {_describe(value)}."
        )
    shape = jnp.shape(value)
    if shape == (1,):
        raise TypeError(
            "`loss` must return a scalar, but returned shape (1,). Take a sum, or [0]."
        )
    if shape:
        raise TypeError(
            f"`loss` must return a scalar, but returned shape {shape}. Take a mean or a sum; "
            "for a vector of residuals use gradlab.least_squares."
        )
    return jnp.asarray(value)


def _describe(value: Any) -> str:
    """Say what a value is, briefly."""
    if hasattr(value, "dtype"):
        return f"{value.dtype} of shape {jnp.shape(value)}"
    return f"{type(value).__name__} {value!r:.40}"
