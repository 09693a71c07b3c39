"""The dense trust-region subproblem, solved nearly exactly in the eigenbasis of H."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlab._typing import Array

__all__ = ["Subproblem", "is_positive_definite", "solve_subproblem"]


class Subproblem(NamedTuple):
    """Minimiser of the quadratic model in the region, in the eigenbasis of H."""

    step: Array
    predicted: Array
    on_boundary: Array


def solve_subproblem(eigenvalues: Array, grad: Array, radius: Array) -> Subproblem:
    r"""Solve $\min g^T p + \tfrac12 p^T H p$ with $\|p\| \le \Delta$, nearly exactly.

    In the eigenbasis $p_i = -g_i / (w_i + \lambda)$. With $\mu = \lambda + w_{\min}$ and
    $s_i = w_i - w_{\min} \ge 0$ the denominators $s_i + \mu$ have no cancellation, and the
    secular equation $1/\Delta = 1/\|p(\mu)\|$ is solved by safeguarded Newton steps (Moré &
    Sorensen 1983; Conn, Gould & Toint 2000, section 7.3). In the hard case g has no
    component along the lowest eigenvector; giving it one of eps·‖g‖, below the rounding of
    g itself, makes the equation solvable and the step reach the boundary along it.

    Args:
        eigenvalues: Of H, ascending, shape (n,).
        grad: Gradient in the eigenbasis, shape (n,).
        radius: Trust-region radius, positive; infinite only if H is positive definite.

    Returns:
        The step in the eigenbasis, the model's reduction, and whether the region binds.
    """
    lowest = eigenvalues[0]
    grad_norm = jnp.sqrt(jnp.sum(grad**2))
    eps = jnp.finfo(grad.dtype).eps
    positive = is_positive_definite(eigenvalues)
    floor = jnp.where(positive, 0, eps * jnp.where(grad_norm > 0, grad_norm, 1))
    first = jnp.where(grad[0] < 0, -1, 1) * jnp.maximum(jnp.abs(grad[0]), floor)
    g = grad.at[0].set(first.astype(grad.dtype))
    s = eigenvalues - lowest
    low = jnp.maximum(lowest, 0)
    high = jnp.maximum(low, jnp.sqrt(jnp.sum(g**2)) / radius)
    inside = positive & (_step_norm(s, g, low) <= radius)
    mu = jnp.where(inside, low, _secular_root(s, g, radius, low, high))
    p = _step(s, g, mu)
    p_norm = jnp.sqrt(jnp.sum(p**2))
    p = jnp.where(inside | (p_norm == 0), p, p * (radius / jnp.where(p_norm > 0, p_norm, 1)))
    predicted = -jnp.sum(p * (grad + 0.5 * eigenvalues * p))
    return Subproblem(p, predicted, ~inside)


def is_positive_definite(eigenvalues: Array) -> Array:
    """Whether the smallest eigenvalue is positive beyond the rounding n·eps·‖H‖ of `eigh`."""
    size = jnp.max(jnp.abs(eigenvalues))
    return eigenvalues[0] > eigenvalues.size * jnp.finfo(eigenvalues.dtype).eps * size


def _step(s: Array, g: Array, mu: Array) -> Array:
    """Step for the multiplier μ; a zero gradient entry moves nothing."""
    denominator = s + mu
    return jnp.where(g == 0, 0, -g / jnp.where(denominator == 0, 1, denominator))


def _step_norm(s: Array, g: Array, mu: Array) -> Array:
    """Length of the step; infinite where a needed denominator vanishes."""
    blocked = jnp.any((g != 0) & (s + mu == 0))
    p = _step(s, g, mu)
    return jnp.where(blocked, jnp.inf, jnp.sqrt(jnp.sum(p**2)))


def _secular_root(s: Array, g: Array, radius: Array, low: Array, high: Array) -> Array:
    """Find μ in [low, high] with ‖p(μ)‖ = radius to 1 part in 1,000.

    Newton's iteration on 1/‖p‖, convex and nearly linear in μ, converges from the left
    without safeguards; bisection (geometric where it can be) catches what rounding breaks.
    """

    def not_done(carry):
        mu, low, high, k = carry
        miss = jnp.abs(_step_norm(s, g, mu) - radius) > 1e-3 * radius
        return miss & (k < 60) & (low < high)

    def improve(carry):
        mu, low, high, k = carry
        length = _step_norm(s, g, mu)
        low = jnp.where(length > radius, mu, low)
        high = jnp.where(length > radius, high, mu)
        p = _step(s, g, mu)
        denominator = jnp.where(s + mu > 0, s + mu, 1)
        curvature = jnp.sum(p**2 / denominator)
        safe = jnp.where(curvature > 0, curvature, 1)
        newton = mu + (length**2 / safe) * (length - radius) / radius
        middle = jnp.where(low > 0, jnp.sqrt(low) * jnp.sqrt(high), 0.5 * (low + high))
        middle = jnp.where(low == 0, jnp.maximum(1e-3 * high, 0), middle)
        usable = (newton > low) & (newton < high) & jnp.isfinite(newton)
        return jnp.where(usable, newton, middle), low, high, k + 1

    start = jnp.where(low > 0, low, 0.5 * high)
    return jax.lax.while_loop(not_done, improve, (start, low, high, jnp.zeros((), jnp.int32)))[0]
