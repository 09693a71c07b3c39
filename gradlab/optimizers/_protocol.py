"""The optax protocol: what a transformation is handed, and what its state tells its host."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import optax

from gradlab._typing import Array, Params

__all__ = [
    "bind",
    "calls_made",
    "follows_curvature",
    "last_link",
    "looks_at_rest",
    "takes_args",
    "value_and_grad_in",
    "vouches",
]


def bind(value_fn: Callable[..., Any], extra: dict[str, Any]) -> Callable[..., Any]:
    """Bind the extra keywords that `value_fn` names: data for the loss, say a batch.

    optax's contract is that a transformation ignores the keywords it does not need.
    """
    if not extra:
        return value_fn
    parameters = inspect.signature(value_fn).parameters.values()
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return functools.partial(value_fn, **extra)
    wanted = {p.name: extra[p.name] for p in parameters if p.name in extra}
    return functools.partial(value_fn, **wanted) if wanted else value_fn


def last_link(state: Any) -> Any:
    """Return the state of the last link of a chain: the one that decides the step."""
    while True:
        if isinstance(state, optax.InjectStatefulHyperparamsState):
            state = state.inner_state
        elif type(state) is tuple and state:
            state = state[-1]
        else:
            return state


def follows_curvature(state: Any) -> bool:
    """Whether the method is one of gradlab's, which knows curvature and counts its calls.

    Beside `value` and `grad` its state tells `failed`, `calls`, and of the point reached
    `decrement`, `remaining`, `curvature`, `stiffness`, as `TrustRegionState` does.
    """
    kind = type(last_link(state))  # whose properties compute nothing when looked for
    return all(hasattr(kind, name) for name in ("failed", "decrement", "calls"))


def looks_at_rest(state: Any) -> bool:
    """Whether its `update` takes `at_rest`, to look for negative curvature."""
    return getattr(last_link(state), "looks_at_rest", False)


def heeds_idleness(state: Any) -> bool:
    """Whether its `update` takes `active`, to search for nobody whose run has ended.

    A batch goes on until its last member is done, and what the others would do by then is
    thrown away; loops that only they keep turning are time lost for all.
    """
    return getattr(last_link(state), "heeds_idleness", False)


def vouches(state: Any) -> bool:
    """Whether the method knows enough of the Hessian to say what its answer is."""
    return getattr(last_link(state), "vouches", False)


def value_and_grad_in(state: Any) -> tuple[Array, Params] | None:
    """Return value and gradient that the last link found at the point it leads to, or None.

    Of a link that is not last, they would belong to another point.
    """
    last = last_link(state)
    value, grad = getattr(last, "value", None), getattr(last, "grad", None)
    return None if value is None or grad is None else (value, grad)


def takes_args(method: Any) -> bool:
    """Whether its `update` takes the loss's further arguments as `args`.

    Methods that know the loss as a function of a model need them; optax's line searches
    refuse every keyword they do not know, so only those that ask are handed them.
    """
    return "args" in inspect.signature(method.update).parameters


def calls_made(old: Any, new: Any) -> Array:
    """Evaluations that an update made itself: losses, gradients, products, Hessians."""
    made = jnp.zeros(4, jnp.int32)
    for before, after in zip(_links(old), _links(new), strict=True):
        made = made + _made(before, after)
    return made


def _links(state: Any) -> Iterator[Any]:
    """Go through the states of a chain's links."""
    if isinstance(state, optax.InjectStatefulHyperparamsState):
        yield from _links(state.inner_state)
    elif type(state) is tuple:
        for link in state:
            yield from _links(link)
    else:
        yield state


def _made(old: Any, new: Any) -> Array | int:
    """Evaluations that one link made."""
    if hasattr(new, "calls"):
        return new.calls - old.calls
    if isinstance(new, optax.ScaleByZoomLinesearchState):
        made = jnp.asarray(new.info.num_linesearch_steps, jnp.int32)
        return made * jnp.array([1, 1, 0, 0], jnp.int32)
    if isinstance(new, optax.ScaleByBacktrackingLinesearchState):
        made = jnp.asarray(new.info.num_linesearch_steps, jnp.int32)
        gradients = jnp.array([0, new.grad is not None, 0, 0], jnp.int32)
        return made * jnp.array([1, 0, 0, 0], jnp.int32) + gradients
    return 0
