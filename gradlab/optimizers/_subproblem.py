"""The dense subproblems, solved nearly exactly in the eigenbasis of H."""

from __future__ import annotations

from collections.abc import Callable
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
    "solve_cubic",
    "solve_subproblem",
]

# Newton's iteration takes 3 to 6 steps; bisection alone would need some 50.
MAX_ITERATIONS = 60


class Subproblem(NamedTuple):
    """Minimiser of the model, in the eigenbasis of H, and whether its bound binds."""

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
    secular = _prepare(eigenvalues, grad)
    full = _step(secular, secular.low)
    inside = secular.positive & (jnp.sum(full**2) <= radius**2)
    high = jnp.maximum(secular.low, secular.norm / radius)

    def target(mu: Array) -> tuple[Array, Array]:
        return radius, jnp.zeros_like(mu)

    p = _step(secular, _root(secular, target, high, inside))
    length = jnp.sqrt(jnp.sum(p**2))
    on_boundary = p * (radius / jnp.where(length > 0, length, 1))
    return Subproblem(jnp.where(inside, full, on_boundary), ~inside)


def solve_cubic(eigenvalues: Array, grad: Array, sigma: Array) -> Subproblem:
    r"""Solve $\min g^T p + \tfrac12 p^T H p + \tfrac13 \sigma \|p\|^3$, nearly exactly.

    Its minimiser is $p(\lambda)$ as above with $\lambda = \sigma \|p\|$ (Cartis, Gould &
    Toint 2011, theorem 3.1): the same secular equation, its radius $\lambda / \sigma$.

    Args:
        eigenvalues: Of H, shape (n,).
        grad: Gradient in the eigenbasis, shape (n,).
        sigma: Weight, not negative; zero only if H is positive definite.

    Returns:
        The step in the eigenbasis, and whether the cubic term is there.
    """
    secular = _prepare(eigenvalues, grad)
    sigma = sigma * secular.unit
    free = secular.positive & (sigma == 0)
    # ‖p(μ)‖ ≤ ‖g‖/μ, which this is sure to bring down to λ/σ.
    high = secular.low + jnp.sqrt(sigma * secular.norm)

    def target(mu: Array) -> tuple[Array, Array]:
        multiplier = mu - secular.lowest
        radius = multiplier / jnp.where(free, 1, sigma)
        return radius, jnp.where(multiplier > 0, 1 / (radius * multiplier), 0)

    p = _step(secular, jnp.where(free, secular.low, _root(secular, target, high, free)))
    return Subproblem(p, ~free)


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


class _Secular(NamedTuple):
    """The equation's data: s, g, the bounds of μ, in units of the largest gradient entry."""

    s: Array
    g: Array
    lowest: Array
    low: Array
    norm: Array
    positive: Array
    unit: Array


def _prepare(eigenvalues: Array, grad: Array) -> _Secular:
    """Scale, so that no square over- or underflows, and make the hard case an easy one."""
    unit = jnp.max(jnp.abs(grad))
    unit = jnp.where(unit > 0, unit, 1)
    eigenvalues, grad = eigenvalues / unit, grad / unit
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
    low = jnp.maximum(lowest, 0)
    return _Secular(eigenvalues - lowest, g, lowest, low, norm + floor, positive, 1 / unit)


def _step(secular: _Secular, mu: Array) -> Array:
    """Step for the multiplier μ; a zero gradient entry moves nothing."""
    denominator = secular.s + mu
    return jnp.where(
        secular.g == 0, 0, -secular.g / jnp.where(denominator == 0, 1, denominator)
    )


def _root(
    secular: _Secular,
    target: Callable[[Array], tuple[Array, Array]],
    high: Array,
    solved: Array,
) -> Array:
    """Find μ between the lower bound and `high` with ‖p(μ)‖ = target(μ).

    `target` gives a radius r(μ) that does not fall, and -(1/r)'. Newton's iteration on
    1/‖p‖ - 1/r, concave and nearly linear in μ, converges from the left without safeguards;
    bisection (geometric where it can be) catches what rounding breaks.
    """
    s, g = secular.s, secular.g

    def not_done(carry: tuple[Array, Array]) -> Array:
        return carry[1] < MAX_ITERATIONS

    def improve(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        (mu, low, high), k = carry
        p = _step(secular, mu)
        length2 = jnp.sum(p**2)
        curvature = jnp.sum(p**2 / jnp.where(s + mu > 0, s + mu, 1))
        length = jnp.sqrt(length2)
        radius, fall = target(mu)
        # Half the digits; the step taken from here brings the others.
        done = jnp.abs(length - radius) <= np.sqrt(jnp.finfo(g.dtype).eps) * radius
        low = jnp.where(length > radius, mu, low)
        high = jnp.where(length > radius, high, mu)
        slope = curvature / length2 + length * fall
        newton = mu + (length - radius) / (radius * jnp.where(slope > 0, slope, 1))
        # Where the bracket still begins at zero, go down by decades.
        middle = jnp.where(low > 0, jnp.sqrt(low) * jnp.sqrt(high), 1e-3 * high)
        usable = (newton > low) & (newton < high)
        done |= low >= high
        mu = jnp.where(usable, newton, jnp.where(done, mu, middle))
        return jnp.stack([mu, low, high]), jnp.where(done, MAX_ITERATIONS, k + 1)

    start = jnp.where(secular.low > 0, secular.low, 0.5 * high)
    first = jnp.where(solved, MAX_ITERATIONS, 0)
    bracket = jnp.stack([start, secular.low, high])
    return jax.lax.while_loop(not_done, improve, (bracket, first))[0][0]
