"""What `compare`, `sweep` and `multistart` are given, checked and in one form."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab._checks import check_args, check_positive, warn_once
from gradlab._errors import check_choice
from gradlab._typing import GradientOperator, Loss, Params
from gradlab.derivatives import finite
from gradlab.optimizers.method import Method, as_method
from gradlab.problems import Problem

__all__ = [
    "checked_cost",
    "checked_rates",
    "described",
    "labelled",
    "operators_of",
    "starts_of",
]


def described(
    problem: Any, args: tuple[Any, ...]
) -> tuple[str, Loss, tuple[Any, ...], float | None]:
    """Return the name, loss, arguments and known minimum of what is to be minimised."""
    if isinstance(problem, Problem):
        if args:
            raise ValueError(
                f"`args` go with a loss function; the problem {problem.name!r} brings its own. "
                "Pass problem.loss with starts to use others."
            )
        return problem.name, problem.loss, problem.args, problem.minimum
    if not callable(problem):
        hint = " Pass gl.problems.get(name)." if isinstance(problem, str) else ""
        raise TypeError(
            "`problem` must be a gradlab problem or a function loss(params, *args), got "
            f"{type(problem).__name__}.{hint}"
        )
    check_args(args)
    name = getattr(problem, "__name__", type(problem).__name__)
    return "loss" if name == "<lambda>" else name, problem, args, None


def labelled(methods: Any) -> dict[str, Method]:
    """Return the methods by label."""
    if isinstance(methods, Mapping):
        return {str(label): as_method(method) for label, method in methods.items()}
    if isinstance(methods, str | Method | optax.GradientTransformation):
        methods = [methods]
    by_label: dict[str, Method] = {}
    for given in methods:
        method = as_method(given)
        label = method.label if isinstance(given, str | Method) else _label_of(given)
        if label in by_label:
            raise ValueError(
                f"`methods` must have different labels, but two are called {label!r}. Pass a "
                f"dict: {{'first': ..., 'second': ...}}."
            )
        by_label[label] = method
    if not by_label:
        raise ValueError("`methods` must name at least one method, got none.")
    return by_label


def _label_of(transformation: optax.GradientTransformation) -> str:
    """Name an optax transformation after the first link of its chain that has a state."""
    try:
        state = jax.eval_shape(transformation.init, jnp.zeros(1))
    except Exception:  # it wants other parameters; the label is only a label
        return "optax"
    nodes = jax.tree.leaves(state, is_leaf=lambda node: hasattr(node, "_fields"))
    names = [type(node).__name__.removesuffix("State") for node in nodes]
    names = [name for name in names if name not in ("Empty", "ShapeDtypeStruct")]
    words = re.sub(r"(?<!^)(?=[A-Z])", "_", names[0]).lower() if names else ""
    return f"optax {words}".strip()


def operators_of(derivatives: Any) -> dict[str, GradientOperator | None]:
    """Return the derivative operators by name; None stands for automatic differentiation."""
    if isinstance(derivatives, Mapping):
        operators = dict(derivatives)
    else:
        names = [derivatives] if isinstance(derivatives, str) else list(derivatives)
        for name in names:
            check_choice("derivatives", name, ("autodiff", *finite.SCHEMES))
        operators = {name: _operator(name) for name in names}
    if not operators:
        raise ValueError("`derivatives` must name at least one operator, got none.")
    return operators


@functools.cache  # the same operator every time, so that compiled code is found again
def _operator(name: str) -> GradientOperator | None:
    """Return the derivative operator of that name."""
    return None if name == "autodiff" else functools.partial(finite.grad, scheme=name)


def starts_of(problem: Any, starts: Any, seeds: tuple[int, ...]) -> dict[int, Params]:
    """Return the starts by seed."""
    if starts is None:
        if not isinstance(problem, Problem):
            raise ValueError("`starts` must be given with a loss function, got None.")
        begin = {int(seed): problem.init(jax.random.key(seed)) for seed in seeds}
        return _once_if_fixed(problem.name, begin)
    points = starts if isinstance(starts, list) else [starts]
    if all(isinstance(point, int | float) for point in points) and len(points) != 1:
        raise ValueError(
            "`starts` is a list of plain numbers, which could be one start or several. Pass "
            "jnp.array([...]) for one, or [jnp.array(...), jnp.array(...)] for several."
        )
    numbers = range(len(points)) if seeds == (0,) else seeds
    if len(numbers) != len(points):
        raise ValueError(
            f"`seeds` must number the starts, but there are {len(numbers)} seeds for "
            f"{len(points)} starts."
        )
    return {int(number): point for number, point in zip(numbers, points, strict=True)}


def _once_if_fixed(name: str, begin: dict[int, Params]) -> dict[int, Params]:
    """Return the starts, only the first of them where the problem has but one."""
    first, *others = (jax.tree.leaves(start) for start in begin.values())
    same = all(
        np.array_equal(a, b) for other in others for a, b in zip(first, other, strict=True)
    )
    if not others or not same:
        return begin
    kept = next(iter(begin))
    warn_once(
        f"seeds of {name}",
        f"The problem {name!r} has one start, whatever the seed: it is run with seed {kept} "
        f"alone, not {len(begin)} times. Pass `starts` to start elsewhere.",
    )
    return {kept: begin[kept]}


def checked_cost(max_cost: float | int | None) -> float | int | None:
    """Return the budget, or raise unless it is a positive finite number."""
    cost = check_positive("max_cost", max_cost, zero=False)
    if cost == math.inf:
        raise ValueError("`max_cost` must be finite, got inf. Leave it out for no limit.")
    return cost


def checked_rates(tune: Any) -> Any:
    """Return whether to tune, or the rates to choose among, or raise."""
    if isinstance(tune, bool | np.bool_):
        return bool(tune)
    try:
        rates = np.asarray(tune, float)
    except (TypeError, ValueError):
        rates = np.zeros(0)
    if rates.ndim != 1 or not rates.size or not np.all((rates > 0) & np.isfinite(rates)):
        raise ValueError(
            "`tune` must be True, False or positive learning rates to choose among, as "
            f"[0.01, 0.1], got {tune!r:.60}."
        )
    return tune
