"""The dense trust-region subproblem, solved nearly exactly in the eigenbasis of H."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import Array

__all__ = [
    "Subproblem",
    "is_positive_definite",
    "largest_curvature",
    "rounding_of",
    "solve_subproblem",
]

# Newton's iteration takes 3 to 6 steps; bisection alone would need some 50.
MAX_ITERATIONS = 60


class Subproblem(NamedTuple):
    """Minimiser of the quadratic model in the region, in the eigenbasis of H."""

    step: Array
    binding: Array


def solve_subproblem(eigenvalues: Array, grad: Array, radius: Array) -> Subproblem:
    r"""Solve $\min g^T p + \tfrac12 p^T H p$ with $\|p\| \le \Delta$, nearly exactly.

    In the eigenbasis $p_i = -g_i / (w_i + \lambda)$. With $\mu = \lambda + w_{\min}$ and
    $s_i = w_i - w_{\min} \ge 0$ the denominators $s_i + \mu$ have no cancellation, and the
    secular equation $1/\Delta = 1/\|p(\mu)\|$ is solved by safeguarded Newton steps (Moré &
    Sorensen 1983; Conn, Gould & Toint 2000, section 7.3). In the hard case g has no
    component along the lowest eigenvector; giving it one of eps·‖g‖, below the rounding of
    g itself, makes the equation solvable and the step reach the boundary along it.

    Args:
        eigenvalues: Of H, shape (n,).
        grad: Gradient in the eigenbasis, shape (n,).
        radius: Trust-region radius, positive; infinite only if H is positive definite.

    Returns:
        The step in the eigenbasis, and whether the region binds.
    """
    # In units of the largest gradient entry, no square over- or underflows.
    largest = jnp.max(jnp.abs(grad))
    largest = jnp.where(largest > 0, largest, 1)
    eigenvalues, grad = eigenvalues / largest, grad / largest
    bottom = jnp.argmin(eigenvalues)
    lowest = eigenvalues[bottom]
    norm = jnp.sqrt(jnp.sum(grad**2))
    eps = jnp.finfo(grad.dtype).eps
    positive = is_positive_definite(eigenvalues)
    # Of a zero gradient only the direction of the lowest eigenvector matters.
    floor = jnp.where(positive, 0, eps * jnp.where(norm > 0, norm, 1))
    along = grad[bottom]
    least = jnp.where(along < 0, -1, 1) * jnp.maximum(jnp.abs(along), floor)
    g = jnp.where(jnp.arange(grad.size) == bottom, least.astype(grad.dtype), grad)
    s = eigenvalues - lowest
    low = jnp.maximum(lowest, 0)
    high = jnp.maximum(low, (norm + floor) / radius)
    full = _step(s, g, low)
    inside = positive & (jnp.sum(full**2) <= radius**2)
    p = _step(s, g, _secular_root(s, g, radius, low, high, inside))
    length = jnp.sqrt(jnp.sum(p**2))
    on_boundary = p * (radius / jnp.where(length > 0, length, 1))
    return Subproblem(jnp.where(inside, full, on_boundary), ~inside)


def largest_curvature(eigenvalues: Array) -> Array:
    """Spectral norm of H."""
    return jnp.max(jnp.abs(eigenvalues))


def rounding_of(eigenvalues: Array) -> Array:
    """Bound n·eps·‖H‖ of the rounding of `eigh`: smaller eigenvalues count as zero."""
    eps = jnp.finfo(eigenvalues.dtype).eps
    return eigenvalues.size * eps * largest_curvature(eigenvalues)


def is_positive_definite(eigenvalues: Array) -> Array:
    """Whether the smallest eigenvalue is positive beyond the rounding of `eigh`."""
    return jnp.min(eigenvalues) > rounding_of(eigenvalues)


def _step(s: Array, g: Array, mu: Array) -> Array:
    """Step for the multiplier μ; a zero gradient entry moves nothing."""
    denominator = s + mu
    return jnp.where(g == 0, 0, -g / jnp.where(denominator == 0, 1, denominator))


def _secular_root(
    s: Array, g: Array, radius: Array, low: Array, high: Array, solved: Array
) -> Array:
    """Find μ in [low, high] with ‖p(μ)‖ = radius.

    Newton's iteration on 1/‖p‖, convex and nearly linear in μ, converges from the left
    without safeguards; bisection (geometric where it can be) catches what rounding breaks.
    """

    def not_done(carry: tuple[Array, Array]) -> Array:
        return carry[1] < MAX_ITERATIONS

    def improve(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        (mu, low, high), k = carry
        p = _step(s, g, mu)
        length2 = jnp.sum(p**2)
        curvature = jnp.sum(p**2 / jnp.where(s + mu > 0, s + mu, 1))
        length = jnp.sqrt(length2)
        # Half the digits; the step taken from here brings the others.
        done = jnp.abs(length - radius) <= np.sqrt(jnp.finfo(g.dtype).eps) * radius
        low = jnp.where(length > radius, mu, low)
        high = jnp.where(length > radius, high, mu)
        safe = jnp.where(curvature > 0, curvature, 1)
        newton = mu + (length2 / safe) * (length - radius) / radius
        # Where the bracket still begins at zero, go down by decades.
        middle = jnp.where(low > 0, jnp.sqrt(low) * jnp.sqrt(high), 1e-3 * high)
        usable = (newton > low) & (newton < high)
        done |= low >= high
        mu = jnp.where(usable, newton, jnp.where(done, mu, middle))
        return jnp.stack([mu, low, high]), jnp.where(done, MAX_ITERATIONS, k + 1)

    start = jnp.stack([jnp.where(low > 0, low, 0.5 * high), low, high])
    first = jnp.where(solved, MAX_ITERATIONS, 0)
    return jax.lax.while_loop(not_done, improve, (start, first))[0][0]
