"""Functions made anew at every call, compiled once for all that come to the same program."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from gradlab._tree import any_tracer

__all__ = ["CACHE_SIZE", "computed"]

# Programs kept compiled, those used last; each holds 50 to 800 of the 65,530 maps of memory
# that Linux allows a process.
CACHE_SIZE = 32
# Python functions that a program calls back have a number in its text, whichever they are.
_BY_INDEX = ("callback", "host_transfer")

_cache: OrderedDict[Any, Any] = OrderedDict()


def computed(function: Callable[..., Any], *operands: Any) -> Any:
    """Return `function(*operands)`, by a compiled program that equal functions share.

    JAX knows a function by its identity: one that closes over others, such as a product
    with the Hessian at a point, is compiled anew whenever it is made anew, and the code of
    its loops is kept. Here it is traced every time, and compiled where no program as the
    same text, but for the arrays it closes over, was before. Programs that call Python back
    share none.

    Where somebody else is tracing, the function is called as it is.
    """
    config: Any = jax.config
    leaves = jax.tree.leaves(operands)
    if any_tracer(leaves) or config.jax_disable_jit:
        return function(*operands)
    traced, shape = jax.make_jaxpr(function, return_shape=True)(*operands)
    arrays = traced.consts
    if any_tracer(arrays):
        return function(*operands)

    def call(arrays: list[Any], leaves: list[Any]) -> list[Any]:
        return jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, arrays))(*leaves)

    lowered = jax.jit(call).lower(arrays, leaves)
    text = lowered.as_text()
    kinds = tuple((jax.typeof(v), getattr(v, "sharding", None)) for v in [*arrays, *leaves])
    key = text, kinds, config.jax_default_device
    compiled = _cache.pop(key, None) or lowered.compile()
    if not any(word in text for word in _BY_INDEX):
        _cache[key] = compiled
    while len(_cache) > CACHE_SIZE:
        _cache.popitem(last=False)
    return jax.tree.unflatten(jax.tree.structure(shape), compiled(arrays, leaves))
