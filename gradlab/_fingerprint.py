"""What a computation is, in a short text: equal for equal programs in every process."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

__all__ = ["environment", "of_program", "of_traced", "of_values", "plain"]

# Addresses of Python objects are printed within some programs, and differ in every process.
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_PACKAGES = ("jax", "jaxlib", "optax", "numpy")


def of_program(function: Callable[..., Any], *args: Any) -> str:
    """Return a hash of what a function computes of such arguments, traced but not run."""
    return of_traced(jax.make_jaxpr(function)(*args))


def of_traced(closed: Any) -> str:
    """Return a hash of a traced program and of the values it closes over."""
    found = hashlib.sha256(_ADDRESS.sub("", str(closed.jaxpr)).encode())
    for constant in _constants(closed):
        found.update(_bytes(constant))
    return found.hexdigest()[:32]


def of_values(tree: Any) -> str:
    """Return a hash of the structure of a tree and of the bytes of its leaves."""
    leaves, structure = jax.tree.flatten(tree)
    found = hashlib.sha256(_ADDRESS.sub("", str(structure)).encode())
    for leaf in leaves:
        found.update(_bytes(leaf))
    return found.hexdigest()[:32]


def environment() -> dict[str, str]:
    """Return what decides the last bits of a computation, beside the program."""
    settings = jax.config.values
    return {
        "gradlab": sys.modules["gradlab"].__version__,
        **_versions(),
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "x64": str(bool(settings["jax_enable_x64"])),
        "matmul precision": str(settings["jax_default_matmul_precision"]),
    }


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def plain(leaf: Any) -> np.ndarray:
    """Return an array as NumPy holds it in a file: keys as their data, others as they are."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _bytes(leaf: Any) -> bytes:
    """Return what identifies a leaf: kind, shape, content."""
    if not hasattr(leaf, "dtype") and not isinstance(leaf, bool | int | float | complex):
        return _ADDRESS.sub("", repr(leaf)).encode()
    sharding = getattr(leaf, "sharding", None)
    if sharding is not None and not sharding.is_fully_replicated:
        # Its rows may lie in other processes: it is known by its shape.
        return f"{leaf.dtype} {leaf.shape} spread".encode()
    array = plain(leaf)
    content = np.ascontiguousarray(array).tobytes()
    return f"{getattr(leaf, 'dtype', array.dtype)} {array.shape} ".encode() + content


def _constants(closed: Any) -> Iterator[Any]:
    """Yield the constants of a program and of all programs within it."""
    yield from closed.consts
    for equation in closed.jaxpr.eqns:
        for value in equation.params.values():
            parts = value if isinstance(value, tuple | list) else (value,)
            for part in parts:
                if hasattr(part, "jaxpr") and hasattr(part, "consts"):
                    yield from _constants(part)
                elif hasattr(part, "eqns"):  # an open program has no constants of its own
                    yield from _constants(_Open(part))


class _Open:
    """An open program as a closed one without constants."""

    def __init__(self, jaxpr: Any) -> None:
        self.jaxpr, self.consts = jaxpr, ()
