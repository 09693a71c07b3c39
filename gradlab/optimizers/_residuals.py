"""Residuals as a function of a flat vector, with every derivative that least squares uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gradlab._tree import working_dtype
from gradlab._typing import Array, Params
from gradlab.derivatives.autodiff import flat_hessian
from gradlab.optimizers.robust import Robust, corrected, robust_loss

__all__ = ["Residuals", "flat_residuals", "sum_of_losses"]

_TRACER_ERRORS = (
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
)


def flat_residuals(residual: Callable[..., Any], params: Params, *args: Any) -> Array:
    """Evaluate residuals, any pytree of real arrays, as one vector of the working dtype."""
    try:
        out = residual(params, *args)
    except _TRACER_ERRORS as error:
        raise TypeError(
            "`residual` uses a traced value where Python or NumPy needs a concrete one. Write "
            "it with jnp in place of np, and with jnp.where in place of `if`; pass what is "
            "not data by closing over it."
        ) from error
    leaves = jax.tree.leaves(out)
    if not leaves:
        raise TypeError(
            "`residual` must return an array of residuals, but returned None or an empty "
            "tree: is a `return` missing?"
        )
    for leaf in leaves:
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
            told = getattr(leaf, "dtype", None) or type(leaf).__name__
            raise TypeError(
                f"`residual` must return real floating arrays, but returned {told}."
            )
    if len(leaves) == 1 and jnp.shape(leaves[0]) == ():
        raise TypeError(
            "`residual` must return a vector of residuals, but returned a scalar. Return "
            "them before they are squared and summed; for a scalar loss use gradlab.minimize."
        )
    dtype = jnp.promote_types(jnp.result_type(*leaves), working_dtype(params))
    flat = [jnp.ravel(leaf).astype(dtype) for leaf in leaves]
    vector = flat[0] if len(flat) == 1 else jnp.concatenate(flat)
    if vector.size == 0:
        raise ValueError("`residual` returned no residuals: there is nothing to fit.")
    return vector


def sum_of_losses(residuals: Array, loss: Callable[[Array], Robust]) -> Array:
    """Sum of the residuals' losses; of their squares where the loss is linear."""
    return jnp.sum(loss(residuals).value)


@dataclass(frozen=True, eq=False)
class Residuals:
    """A residual function at work: flat in, flat out, weighted, with its derivatives.

    `roots` are the square roots of the weights. `jacobian_rule` builds the Jacobian of a
    function by another operator than automatic differentiation.
    """

    function: Callable[..., Any]
    params: Params
    args: tuple[Any, ...]
    roots: Array | None
    loss_name: str
    loss_scale: Any
    jacobian_rule: Callable[..., Any] | None

    @property
    def exact(self) -> bool:
        """Whether second derivatives are to be had."""
        return self.jacobian_rule is None

    def tree(self, x: Array) -> Params:
        """Cut a flat vector into parameters, of which it uses shapes and dtypes alone.

        Their values may belong to a trace that is over, where a rule for derivatives runs.
        """
        leaves, structure = jax.tree.flatten(self.params)
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = jnp.split(x.astype(jnp.result_type(*leaves)), ends[:-1])
        cut = [p.reshape(v.shape).astype(v.dtype) for p, v in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(structure, cut)

    def flat(self, params: Params) -> Array:
        """Parameters as one vector of the working dtype."""
        return ravel_pytree(params)[0].astype(working_dtype(params))

    def __call__(self, x: Array) -> Array:
        """Residuals, shape (m,), each times the root of its weight."""
        return self.weighted(flat_residuals(self.function, self.tree(x), *self.args))

    def weighted(self, residuals: Array) -> Array:
        """Multiply by the roots of the weights; a residual of no weight may be NaN."""
        if self.roots is None:
            return residuals
        return jnp.where(self.roots == 0, 0, residuals * self.roots)

    def losses(self, residuals: Array) -> Robust:
        """Loss of each residual with its derivatives."""
        return robust_loss(self.loss_name, self.loss_scale)(residuals)

    @property
    def is_linear(self) -> bool:
        """Whether the loss of a residual is its square."""
        return self.loss_name == "linear"

    def corrected(self, residuals: Array) -> tuple[Array, Array, Array, Array]:
        """Factors of r and of J, slopes, and what was raised; ones where they do nothing."""
        if self.is_linear:
            one = jnp.ones(1, residuals.dtype)
            return one, one, one, jnp.zeros(1, residuals.dtype)
        return corrected(residuals, self.losses(residuals))

    def value(self, residuals: Array) -> Array:
        """Sum of the losses; of squares as a product: one kernel where a sum is three."""
        if self.is_linear:
            return jnp.matmul(residuals, residuals, precision=jax.lax.Precision.HIGHEST)
        return sum_of_losses(residuals, self.losses)

    def jacobian(self, x: Array) -> Array:
        """Jacobian, shape (m, n): forward where n ≤ m and the code allows it, else reverse."""
        if self.jacobian_rule is not None:
            return self.jacobian_rule(self)(x)
        m = jax.eval_shape(self, x).size
        if x.size <= m and self._goes_forward(x):
            return jax.jacfwd(self)(x)
        return jax.jacrev(self)(x)

    def bend(self, x: Array, v: Array) -> Array:
        """Second derivative of the residuals along v, exact: about three evaluations."""

        def slope(y: Array) -> Array:
            return jax.jvp(self, (y,), (v,))[1]

        return jax.jvp(slope, (x,), (v,))[1]

    def bends(self, x: Array) -> bool:
        """Whether `bend` can be had."""
        return self.exact and self._goes_forward(x)

    def curvature(self, x: Array, multipliers: Array) -> Array:
        """Σ λᵢ ∇²rᵢ for constant multipliers λ, shape (n, n)."""
        return flat_hessian(lambda y: jnp.sum(multipliers * self(y)), x)

    def _goes_forward(self, x: Array) -> bool:
        """Whether forward mode passes through; a `custom_vjp` stops it."""
        try:
            jax.eval_shape(lambda y: jax.jvp(self, (y,), (y,)), x)
        except TypeError:
            return False
        return True
