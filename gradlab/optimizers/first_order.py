"""First-order methods by name: optax's, with defaults, schedules and traced rates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import optax

from gradlab._checks import check_count
from gradlab._errors import check_choice
from gradlab._typing import Count

__all__ = ["FACTORIES", "learning_rate_schedule", "schedules"]


def _momentum(learning_rate: Any, momentum: Any = 0.9) -> optax.GradientTransformation:
    """Gradient descent with Polyak's heavy ball."""
    return optax.sgd(learning_rate, momentum=momentum)


def _nesterov(learning_rate: Any, momentum: Any = 0.9) -> optax.GradientTransformation:
    """Gradient descent with Nesterov's accelerated gradient."""
    return optax.sgd(learning_rate, momentum=momentum, nesterov=True)


def _gd(learning_rate: Any) -> optax.GradientTransformation:
    """Gradient descent."""
    return optax.sgd(learning_rate)


# Name -> (factory, default learning rate). The rates are the usual textbook ones; a rate has
# the units of x²/loss, so no default fits every loss: sweep it (`gradlab.compare` does).
FACTORIES: Mapping[str, tuple[Callable[..., Any], float | None]] = MappingProxyType(
    {
        "gd": (_gd, 1e-2),
        "momentum": (_momentum, 1e-2),
        "nesterov": (_nesterov, 1e-2),
        "adagrad": (optax.adagrad, 1e-1),
        "rmsprop": (optax.rmsprop, 1e-2),
        "adam": (optax.adam, 1e-2),
        "adamw": (optax.adamw, 1e-2),
        "nadam": (optax.nadam, 1e-2),
        "lion": (optax.lion, 1e-3),
        "optax_lbfgs": (optax.lbfgs, None),
    }
)


def _constant(progress: Any) -> Any:
    return jnp.ones_like(progress)


def _linear(progress: Any) -> Any:
    return 1 - progress


def _cosine(progress: Any) -> Any:
    return 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _exponential(progress: Any) -> Any:
    # Down to a thousandth, three decades, over the run.
    return jnp.exp(-jnp.log(1e3) * progress)


def _warmup_cosine(progress: Any) -> Any:
    # A tenth of the run to warm up, as is usual for Adam on Transformers.
    warm = 0.1
    return jnp.where(progress < warm, progress / warm, _cosine((progress - warm) / (1 - warm)))


_SHAPES = MappingProxyType(
    {
        "constant": _constant,
        "linear": _linear,
        "cosine": _cosine,
        "exponential": _exponential,
        "warmup_cosine": _warmup_cosine,
    }
)


def schedules() -> list[str]:
    """Names of the learning-rate schedules."""
    return sorted(_SHAPES)


def learning_rate_schedule(
    name: str, learning_rate: Any, num_steps: Count
) -> Callable[[Any], Any]:
    """Build a learning rate that changes over a run of `num_steps` steps.

    Args:
        name: One of `schedules()`. "exponential" falls to a thousandth; "warmup_cosine"
            rises over the first tenth of the run.
        learning_rate: Its largest value, a number or a traced scalar.
        num_steps: Steps after which it stays at its last value.

    Returns:
        A function from the step number to the learning rate, as optax takes it.

    Raises:
        ValueError: If the name is unknown or `num_steps` is not a positive integer.

    Examples:
        >>> rate = learning_rate_schedule("cosine", 0.1, num_steps=100)
        >>> print([f"{float(rate(k)):.2f}" for k in (0, 50, 100)])
        ['0.10', '0.05', '0.00']
    """
    check_choice("schedule", name, _SHAPES)
    num_steps = check_count("num_steps", num_steps, smallest=1)
    return functools.partial(_scheduled, _SHAPES[name], learning_rate, num_steps)


def _scheduled(shape: Callable[[Any], Any], peak: Any, num_steps: int, step: Any) -> Any:
    """Evaluate a schedule at a step."""
    return peak * shape(jnp.clip(jnp.asarray(step, float) / num_steps, 0, 1))
