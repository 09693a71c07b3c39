"""Robust losses for least squares: what replaces the square of a residual.

With s = r² the loss of a residual is ρ(s); all have ρ(0) = 0 and ρ'(0) = 1, so small residuals
are squared as usual.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from gradlab._errors import check_choice
from gradlab._typing import Array

__all__ = ["LOSSES", "Robust", "corrected", "robust_loss"]

# Curvature of the loss along a residual, relative to its slope: ρ' + 2sρ'' is negative for
# outliers of some losses, and a step needs it positive. A hundredth lets outliers move by at
# most ten times what their slope alone would.
LEAST_CURVATURE = 1e-2


class Robust(NamedTuple):
    """The loss ρ(s) of s = r² and its first two derivatives."""

    value: Array
    slope: Array
    bend: Array


def _linear(s: Array) -> Robust:
    return Robust(s, jnp.ones_like(s), jnp.zeros_like(s))


def _huber(s: Array) -> Robust:
    """Square up to 1, then 2√s - 1."""
    far = s > 1
    root = jnp.sqrt(jnp.where(far, s, 1))
    return Robust(jnp.where(far, 2 * root - 1, s), 1 / root, jnp.where(far, -0.5 / root**3, 0))


def _soft_l1(s: Array) -> Robust:
    """2(√(1 + s) - 1), written without cancellation."""
    root = jnp.sqrt(1 + s)
    return Robust(2 * s / (root + 1), 1 / root, -0.5 / root**3)


def _cauchy(s: Array) -> Robust:
    """log(1 + s)."""
    return Robust(jnp.log1p(s), 1 / (1 + s), -1 / (1 + s) ** 2)


def _arctan(s: Array) -> Robust:
    """arctan(s)."""
    slope = 1 / (1 + s**2)
    return Robust(jnp.arctan(s), slope, -2 * s * slope**2)


LOSSES: dict[str, Callable[[Array], Robust]] = {
    "linear": _linear,
    "huber": _huber,
    "soft_l1": _soft_l1,
    "cauchy": _cauchy,
    "arctan": _arctan,
}


def robust_loss(name: str, scale: Array | float | None) -> Callable[[Array], Robust]:
    r"""Build a function of residuals to their losses $c^2 \rho(r^2 / c^2)$, c the scale.

    Args:
        name: One of `LOSSES`.
        scale: Residual size c beyond which residuals count as outliers; None is 1.

    Returns:
        A function of an array of residuals to value, slope and bend, all by s = r².
    """
    check_choice("loss", name, LOSSES)
    rho = LOSSES[name]

    def of(residuals: Array) -> Robust:
        if name == "linear":
            return rho(residuals**2)
        c2 = jnp.asarray(1.0 if scale is None else scale, residuals.dtype) ** 2
        value, slope, bend = rho(residuals**2 / c2)
        return Robust(c2 * value, slope, bend / c2)

    return of


def corrected(residuals: Array, loss: Robust) -> tuple[Array, Array, Array, Array]:
    r"""Make a robust problem a plain one: factors of residuals and of rows of the Jacobian.

    $\hat r = r \sqrt{\rho'} / \beta$ and $\hat J = \sqrt{\rho'} \beta J$ with
    $\beta^2 = 1 + 2 s \rho'' / \rho'$ have the gradient and, but for the residuals' own
    curvature, the Hessian of the robust loss (Triggs et al. 2000, section 4.3; written for
    one residual at a time). Where β² is not positive enough it is raised.

    Args:
        residuals: The plain residuals.
        loss: Their losses.

    Returns:
        Factor of r, factor of J, ρ', and the part of ρ' + 2sρ'' that was raised away.
    """
    s = residuals**2
    usable = loss.slope > 0
    ratio = loss.bend / jnp.where(usable, loss.slope, 1)
    exact = 1 + 2 * s * ratio
    squared = jnp.maximum(exact, LEAST_CURVATURE)
    root, beta = jnp.sqrt(loss.slope), jnp.sqrt(squared)
    return root / beta, root * beta, loss.slope, loss.slope * (exact - squared)
