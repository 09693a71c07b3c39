r"""How many digits of a derivative, as automatic differentiation computes it, are right.

Automatic differentiation makes no truncation error, but it rounds: the gradient of
$(1 - \cos x)/x^2$ at $10^{-3}$ has four right digits of sixteen, and nothing says so.

    >>> digits = certify_digits(lambda x: (1 - jnp.cos(x)) / x**2, jnp.asarray(1e-3))
    >>> 2 < digits.worst < 6
    True

References:
    Vignes, J. (2004). Discrete stochastic arithmetic for validating results of numerical
    software. Numerical Algorithms 37:377.
    Parker, D. S. (1997). Monte Carlo arithmetic. UCLA CSD-970002.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import Params, PyTree
from gradlab.derivatives._check_problem import Problem, build, canonical, widened
from gradlab.derivatives._check_rounding import decimal_digits, rounding_spread
from gradlab.derivatives._leaves import check_params, check_scalar
from gradlab.derivatives._numpy import inside_a_transformation, needs_numbers

__all__ = ["Digits", "certify_digits"]

# Largest Hessian whose entries are certified: it is computed once for each sample.
_MOST = 1024
# Samples that are held at once.
_HELD = 2**25


class Digits(NamedTuple):
    """Right decimal digits of derivatives, entry by entry.

    Attributes:
        grad: Digits of each entry of the gradient, shaped like x.
        hessian: Digits of each entry of the Hessian, shaped like `jax.hessian`'s; None
            unless asked for.
        worst: Digits of the gradient as a whole: of the error's length over its own.
        most: Digits the dtype can hold.
        method: "float64" where the same program in float64 told the error, "random
            rounding" where it was estimated.
    """

    grad: PyTree
    hessian: PyTree
    worst: float
    most: float
    method: str


def certify_digits(f: Callable[[Params], Any], x: Params, *, order: int = 1) -> Digits:
    r"""Count the right decimal digits of `jax.grad(f)(x)`, and of `jax.hessian(f)(x)`.

    The derivative is taken as compiled by `jax.jit`. One in low precision is compared with
    the same program in float64. One in float64 is computed 16 times with every rounding
    drawn at random; digits that part are lost. The digits are $-\log_{10}$ of the relative
    error, to within one: on 27 formulas of every kind never more than one too many, and in
    float64 too few by more than one in 1 % of the entries, where roundings happen to
    cancel (`benchmarks/certified_digits.py`). Errors of f itself (a solver's tolerance, a
    wrong derivative rule) are not seen: see `check_derivatives`.

    Args:
        f: From a pytree of real floating leaves to a real scalar, made of JAX operations.
        x: The point, taken as exact.
        order: 1, or 2 to certify the Hessian too.

    Returns:
        The digits. It costs 17 gradients (and Hessians), 2 in low precision.

    Raises:
        TypeError: If f does not return a real scalar, or a leaf is not real and floating.
        ValueError: If `order` is not 1 or 2, or the Hessian has more than 1024 rows.

    References:
        Vignes (2004); Parker (1997).

    Examples:
        >>> digits = certify_digits(lambda x: jnp.sum(jnp.exp(x)), jnp.ones(2))
        >>> bool(digits.worst > 14)
        True
    """
    if order not in (1, 2):
        raise ValueError(f"`order` must be 1 or 2, got {order!r}.")
    check_params(x, "x", holomorphic=False)
    (x,) = canonical((x,))
    _check_output(f, x)
    given = build(f, (x,), None, wide=False)
    if order == 2 and len(given.x) > _MOST:
        raise ValueError(
            f"`order=2` certifies every entry of the Hessian, and is for at most {_MOST} "
            f"variables, got {len(given.x)}. Use order=1."
        )
    wide = widened(f, (x,), None)
    reference = wide if wide is not None and given.eps > wide.eps else None
    # In the dtypes of x itself: flattened, XLA would keep more digits than they hold.
    gradient = [np.ravel(g) for g in jax.tree.leaves(jax.jit(jax.grad(f))(x))]
    value = np.concatenate([g.astype(given.dtype) for g in gradient])
    made = [_digits(given, reference, jax.grad, value)]
    if order == 2:
        made.append(_digits(given, reference, jax.hessian))
    whole, grad = made[0]
    blocks = _blocks(made[1][1], given, x) if order == 2 else None
    return Digits(
        _shaped(grad, given, x),
        blocks,
        whole,
        float(-np.log10(given.eps / 2)),
        "float64" if reference is not None else "random rounding",
    )


def _digits(
    given: Problem,
    reference: Problem | None,
    operator: Callable[..., Any],
    value: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """Digits of a derivative by norm, and entry by entry."""

    def derivative(problem: Problem) -> Callable[[Any], Any]:
        return operator(lambda v: problem.call(v)[0])  # type: ignore[no-any-return]

    if value is None:
        value = np.asarray(jax.jit(derivative(given))(given.x))
    if reference is not None:
        with reference.precision():
            truth = np.asarray(jax.jit(derivative(reference))(reference.x))
        error, size = np.abs(value.astype(truth.dtype) - truth), np.abs(truth)
    else:
        samples = int(np.clip(_HELD // value.size, 4, 16))
        error = rounding_spread(derivative(given), given.x, samples)[1]
        size = np.abs(value)
    least = given.eps / 2
    with np.errstate(all="ignore"):
        relative = np.where(error == 0, 0.0, error / size)
        top = np.max(size, initial=0.0)  # so that no square overflows
        whole = np.linalg.norm(error / top) / np.linalg.norm(size / top) if top else 0.0
    return float(decimal_digits(whole, least)), decimal_digits(relative, least)


def _check_output(f: Callable[[Params], Any], x: Params) -> None:
    """Raise unless f can be traced, and returns a real scalar."""
    try:
        output = jax.eval_shape(f, x)
    except Exception as error:
        if not needs_numbers(error):
            raise
        raise TypeError(inside_a_transformation(error)) from error
    check_scalar(output)


def _shaped(flat: np.ndarray, problem: Problem, x: Params) -> PyTree:
    """Give the last axis the structure of x."""
    leaves = [
        jnp.reshape(flat[..., leaf.cut], (*flat.shape[:-1], *leaf.shape))
        for leaf in problem.inputs
    ]
    return jax.tree.unflatten(jax.tree.structure(x), leaves)


def _blocks(matrix: np.ndarray, problem: Problem, x: Params) -> PyTree:
    """Give both axes the structure of x."""
    rows = []
    for leaf in problem.inputs:
        block = _shaped(matrix[leaf.cut], problem, x)
        shape = leaf.shape
        rows.append(jax.tree.map(lambda b, s=shape: jnp.reshape(b, s + b.shape[1:]), block))
    return jax.tree.unflatten(jax.tree.structure(x), rows)
