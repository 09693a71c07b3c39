"""Is a function analytic? The complex step is silently wrong where it is not.

`abs` of a complex number is real: what passes through it loses its imaginary part, and with
it the derivative. JAX functions are read as a jaxpr; NumPy functions are held against one
central difference.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from gradlab.derivatives._jaxpr import bodies
from gradlab.derivatives._leaves import is_complex

__all__ = ["NOT_ANALYTIC", "disagrees", "first_not_analytic"]

NOT_ANALYTIC = (
    "scheme='complex' needs an analytic `f`, but {reason}. abs, real, conj, norm, vdot and the "
    "like are not analytic: write x @ x for vdot(x, x), or use scheme='central'."
)
# What has no complex derivative. `sign` is z / |z|.
_NOT_ANALYTIC = frozenset(
    {"abs", "real", "imag", "conj", "sign", "cholesky", "eigh", "svd", "qr"}
)
_LOOPS = frozenset({"while", "scan"})
_CLEAN, _ANALYTIC, _BROKEN = 0, 1, 2  # constant in x; analytic in x; not


def first_not_analytic(closed_jaxpr: Any) -> str | None:
    """Return a primitive that keeps the outputs from being analytic in the inputs, or None."""
    culprits: list[str] = []
    jaxpr = closed_jaxpr.jaxpr
    marks = _walk(jaxpr, [_ANALYTIC] * len(jaxpr.invars), culprits)
    return culprits[0] if _BROKEN in marks and culprits else None


def _walk(jaxpr: Any, marks: list[int], culprits: list[str]) -> list[int]:
    """Mark the outputs of a jaxpr, given marks of its inputs."""
    known = dict(zip(jaxpr.invars, marks, strict=True))

    def mark(v: Any) -> int:
        return known.get(v, _CLEAN) if not hasattr(v, "val") else _CLEAN

    for equation in jaxpr.eqns:
        given = [mark(v) for v in equation.invars]
        results = _results(equation, given, culprits)
        known.update(zip(equation.outvars, results, strict=True))
    return [mark(v) for v in jaxpr.outvars]


def _results(equation: Any, given: list[int], culprits: list[str]) -> list[int]:
    """Mark the outputs of one equation."""
    count, name = len(equation.outvars), equation.primitive.name
    worst = max(given, default=_CLEAN)
    if worst == _CLEAN or name == "stop_gradient":
        return [_CLEAN] * count
    inner = list(bodies(equation))
    if inner:
        exact = name not in _LOOPS  # a loop's outputs come back as inputs
        return _through(inner, given, exact, culprits, [_CLEAN] * count)
    complex_in = any(
        m == _ANALYTIC and is_complex(_dtype(v))
        for m, v in zip(given, equation.invars, strict=True)
    )
    if name in _NOT_ANALYTIC and complex_in:
        culprits.append(name)
        worst = _BROKEN
    # A comparison is constant wherever f has a derivative.
    return [
        worst if jnp.issubdtype(_dtype(v), jnp.inexact) else _CLEAN for v in equation.outvars
    ]


def _through(
    inner: list[Any], given: list[int], exact: bool, culprits: list[str], results: list[int]
) -> list[int]:
    """Mark the outputs of an equation with bodies: one by one for a call, else by the worst."""
    for body in inner:
        call = exact and len(body.invars) == len(given) and len(body.outvars) == len(results)
        marks = given if call else [max(given)] * len(body.invars)
        inside = _walk(body, marks, culprits)
        if not call:
            inside = [max(inside, default=_CLEAN)] * len(results)
        results = [max(a, b) for a, b in zip(results, inside, strict=True)]
    return results


def _dtype(v: Any) -> Any:
    """Return the dtype of a variable; bool for what has none, such as a token."""
    return getattr(v.aval, "dtype", jnp.bool_)


def disagrees(derivatives: Any, direction: Any, plus: Any, minus: Any, width: float) -> bool:
    """Whether derivatives along the axes, shape (n, *out), contradict a difference of f.

    The difference (plus - minus) / width is that along `direction`, shape (n,). A part of a
    thousand of the sum of all terms is far above its error, unless f has a kink or varies on
    a scale as small as the step, and below what a term lost to `abs` makes.
    """
    terms = derivatives * np.reshape(direction, (-1,) + (1,) * (np.ndim(derivatives) - 1))
    eps = float(np.finfo(terms.dtype).eps)
    noise = 100 * eps * np.max(np.abs(plus) + np.abs(minus)) / width
    error = np.abs(np.sum(terms, axis=0) - (plus - minus) / width)
    return bool(np.any(error > 1e-3 * np.sum(np.abs(terms), axis=0) + noise))
