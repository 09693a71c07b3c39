"""The core that all dense Newton methods share: one eigendecomposition a step.

A method is an `Offer`: which step it proposes for a size of trust, in the eigenbasis of the
Hessian, and what its model promises. Search, acceptance and bookkeeping are common.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve

from gradlab._tree import after, norm, select, working_dtype
from gradlab._typing import Array, Number, Params
from gradlab.derivatives._leaves import eps_of
from gradlab.derivatives.autodiff import flat_hessian
from gradlab.optimizers import _trust_region as tr
from gradlab.optimizers._protocol import bind
from gradlab.optimizers._subproblem import (
    largest_curvature,
    rounding_of,
)

__all__ = ["Offered", "Spectrum", "dense_method", "predicted_by"]


class Spectrum(NamedTuple):
    """The quadratic model at a point, in the eigenbasis of its Hessian.

    Attributes:
        eigenvalues: Ascending.
        eigenvectors: One a column.
        grad: Gradient in this basis.
        followed: Eigenvalues as a step takes them, see `_without_flat`.
        whole: The Newton step, NaN unless H is positive definite whatever the variables' units.
        solve: From g to $H^{-1} g$, outside the eigenbasis; NaN as `whole`.
        natural: Length of a step with the units of x, where no region is known yet.
        rounding: From |x| to what rounding the point changes in each gradient entry,
            eps·|H||x|.
    """

    eigenvalues: Array
    eigenvectors: Array
    grad: Array
    followed: Array
    whole: Array
    solve: Callable[[Array], Array]
    natural: Array
    rounding: Callable[[Array], Array]


class Offered(NamedTuple):
    """A step offered for a size of trust.

    Attributes:
        step: In the eigenbasis.
        predicted: Reduction that the method's model promises.
        binding: Whether a larger size would give another step.
        size: The size, in the unit the search shrinks, where that given was infinite.
    """

    step: Array
    predicted: Array
    binding: Array
    size: Array


# Longest correction of a step, relative to it: beyond, the Taylor series says little. Transtrum
# and Sethna (2012) stop at 3/8; half was chosen on Moré, Garbow and Hillstrom's functions.
BEND = 0.5

# From a step p to ∇³f[p, p], both in the eigenbasis.
Force: TypeAlias = Callable[[Array], Array]
# From the spectrum and a size (a radius, the inverse of a weight, a length of step).
Offer: TypeAlias = Callable[[Spectrum, Array], Offered]
# From the spectrum and the size a search left behind, the size to begin the next one with.
FirstSize: TypeAlias = Callable[[Spectrum, Array], Array]


def dense_method(
    offer: Offer,
    first_size: FirstSize,
    noise: Number | None,
    *,
    bends: bool = False,
    always: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Build the optax transformation.

    Args:
        offer: The method's step.
        first_size: The size a search begins with.
        noise: Absolute noise level of the loss.
        bends: Whether steps follow the third derivative, see `_bent`.
        always: Take every step, good or bad.
    """
    default_noise = noise

    def update(
        updates,
        state,
        params=None,
        *,
        value,
        grad,
        value_fn,
        noise=None,
        **extra,
    ):
        del updates  # the step is judged by the loss, so it must come from its gradient
        noise = default_noise if noise is None else noise
        loss = bind(value_fn, extra)
        value, eps = tr.loss_value(value, params)
        flat_loss, x = _flattened(loss, params)
        spectrum = _decompose(flat_loss, x, ravel_pytree(grad)[0], params)
        model = _model(spectrum, first_size(spectrum, state.radius.astype(value.dtype)))
        force = _force(flat_loss, x, grad, spectrum) if bends else None
        propose = _propose(spectrum, offer, force, params)
        trial = tr.search(loss, params, value, grad, model, propose, noise, eps, always=always)
        moved = optax.apply_updates(params, trial.updates)
        reached = select(trial.accepted, (moved, trial.grad), (params, grad))
        remains = _what_remains(spectrum, *reached)
        calls = jnp.stack([0, 2 * trial.tries if bends else 0, 0, 1]).astype(jnp.int32)
        return tr.conclude(state, trial, value, grad, model, remains, calls)

    return optax.GradientTransformationExtraArgs(tr.initial_state, update)


def predicted_by(eigenvalues: Array, grad: Array, step: Array) -> Array:
    """Reduction that the quadratic model promises for a step."""
    return -jnp.sum(grad * step) - 0.5 * jnp.sum(eigenvalues * step**2)


def _flattened(
    loss: Callable[[Params], Array], params: Params
) -> tuple[Callable[[Array], Array], Array]:
    """Turn loss and parameters into those of a vector, in the working dtype."""
    dtype = working_dtype(params)
    flat, unravel = ravel_pytree(params)
    return lambda x: loss(unravel(x.astype(flat.dtype))).astype(dtype), flat.astype(dtype)


def _decompose(
    loss: Callable[[Array], Array], x: Array, grad: Array, params: Params
) -> Spectrum:
    """Evaluate the Hessian and decompose it."""
    hessian = flat_hessian(loss, x)
    # A Hessian that is not finite (a kink, an overflow) leaves the gradient alone to go by.
    hessian = jnp.where(jnp.isfinite(jnp.sum(jnp.abs(hessian))), hessian, 0)
    eigenvalues, vectors = jnp.linalg.eigh(hessian)
    solve = _solver(after(eigenvalues, hessian))
    grad = grad.astype(x.dtype)
    rotated, whole = jnp.matmul(
        jnp.stack([grad, -solve(grad)]), vectors, precision=jax.lax.Precision.HIGHEST
    )
    followed, g = _without_flat(eigenvalues, rotated, known=jnp.isfinite(jnp.sum(whole)))
    natural = _natural_length(followed, g, x)
    eps = max(eps_of(leaf.dtype) for leaf in jax.tree.leaves(params))
    sizes = eps * jnp.abs(hessian)
    return Spectrum(
        eigenvalues, vectors, g, followed, whole, solve, natural, lambda size: sizes @ size
    )


def _solver(hessian: Array) -> Callable[[Array], Array]:
    """Build the map from g to H⁻¹g by Cholesky's factors of H with its diagonal scaled to 1.

    Variables whose units differ by many orders make an eigenvalue vanish in the rounding of
    the largest, though H is positive definite for any units: then these factors tell. The
    scaling is within a factor n of the best there is (van der Sluis 1969).
    """
    n, eps = len(hessian), jnp.finfo(hessian.dtype).eps
    diagonal = jnp.diagonal(hessian)
    d = jnp.where(diagonal > 0, diagonal, 1) ** -0.5
    factor = jnp.linalg.cholesky(hessian * d[:, None] * d[None])
    definite = jnp.min(jnp.diagonal(factor)) ** 2 > n * eps  # NaN compares false

    def solve(g: Array) -> Array:
        return jnp.where(definite, d * cho_solve((factor, True), d * g), jnp.nan)

    return solve


def _model(spectrum: Spectrum, size: Array) -> tr.Model:
    """Say what the search and the stopping tests need of the spectrum."""
    w = spectrum.eigenvalues
    return tr.Model(
        radius=size,
        curvature=w[0],
        start_norm=jnp.zeros((), w.dtype),
        stiffness=largest_curvature(w),
        # At rest, only negative curvature leads anywhere.
        possible=(jnp.max(jnp.abs(spectrum.grad)) > 0) | (w[0] < -rounding_of(w)),
    )


def _what_remains(spectrum: Spectrum, params: Params, grad: Params) -> tr.Remains:
    """Predict the decrease and the length of the Newton step from the point reached.

    By the Hessian of the point before, which in the end is as good. Along a direction whose
    curvature is lost in rounding a gradient at its own rounding promises nothing; a larger
    one its slope over the point's length, and then nobody knows how far. The rounding is that
    of each entry, for variables may differ by many orders. With negative curvature both are
    infinite.
    """
    w = spectrum.eigenvalues
    x, g = (ravel_pytree(tree)[0].astype(w.dtype) for tree in (params, grad))
    rotated = jnp.matmul(g, spectrum.eigenvectors, precision=jax.lax.Precision.HIGHEST)
    curved = w > rounding_of(w)
    rounding = spectrum.rounding(jnp.abs(x))
    floor = tr.FLOOR * (rounding @ jnp.abs(spectrum.eigenvectors))
    loud = ~curved & (jnp.abs(rotated) > floor)
    step = jnp.where(curved, rotated / jnp.where(curved, w, 1), 0)
    point = jnp.maximum(jnp.max(jnp.abs(x)), spectrum.natural)
    promised = jnp.where(loud, jnp.abs(rotated) * point, 0.5 * rotated * step)
    negative = w[0] < -rounding_of(w)
    decrement = jnp.where(negative, jnp.inf, jnp.sum(promised))
    length = jnp.sqrt(jnp.sum(step**2))
    length = jnp.where(negative | jnp.any(loud), jnp.inf, length)
    newton = spectrum.solve(g)
    known = jnp.isfinite(jnp.sum(newton))
    decrement = jnp.where(known, 0.5 * jnp.sum(g * newton), decrement)
    length = jnp.where(known, norm(newton), length)
    loudness = jnp.max(jnp.where(g == 0, 0, jnp.abs(g) / rounding))
    share = jnp.where(newton == 0, 0, jnp.abs(newton) / jnp.abs(x))
    return tr.Remains(decrement, length, loudness, jnp.where(known, jnp.max(share), 0))


def _without_flat(eigenvalues: Array, grad: Array, *, known: Array) -> tuple[Array, Array]:
    """Leave directions alone along which neither curvature nor gradient says anything.

    Unless H is `known` to be positive definite.

    A loss that does not depend on some combination of its variables has an eigenvalue and
    a gradient entry of rounding there; the step of least length does not move along it.
    """
    tolerance = rounding_of(eigenvalues)
    flat = jnp.abs(eigenvalues) <= tolerance
    largest = jnp.max(jnp.abs(grad))
    noise = eigenvalues.size * jnp.finfo(grad.dtype).eps * largest
    # All or none: with one direction to follow, the region is needed anyway.
    silent = jnp.all(jnp.where(flat, jnp.abs(grad) <= noise, True)) & (largest > 0)
    leave = flat & silent & ~known
    size = largest_curvature(eigenvalues)
    return jnp.where(leave, size, eigenvalues), jnp.where(leave, 0, grad)


def _natural_length(eigenvalues: Array, grad: Array, x: Array) -> Array:
    """Length of the step |H|⁻¹g, which has the units of x whatever those of the loss.

    Curvatures under 1e-3 of the largest count as that: a nearly flat direction says
    little about how far the model holds. Without any curvature, the point's own length.
    """
    size = largest_curvature(eigenvalues)
    floored = jnp.maximum(jnp.abs(eigenvalues), 1e-3 * size)
    length = jnp.sqrt(jnp.sum((grad / jnp.where(floored > 0, floored, 1)) ** 2))
    own = jnp.sqrt(jnp.sum(x**2))
    return jnp.where((size > 0) & (length > 0), length, jnp.where(own > 0, own, 1))


def _propose(
    spectrum: Spectrum, offer: Offer, force: Force | None, params: Params
) -> Callable[[Array], tr.Proposal]:
    """Build the map from a size to the step the method offers for it."""
    flat, unravel = ravel_pytree(params)

    def propose(size: Array) -> tr.Proposal:
        offered = offer(spectrum, size)
        if force is not None:
            offered = _bent(spectrum, offered, force(offered.step))
        p = offered.step
        step = jnp.matmul(spectrum.eigenvectors, p, precision=jax.lax.Precision.HIGHEST)
        slope = jnp.sum(spectrum.grad * p)
        return tr.Proposal(
            unravel(step.astype(flat.dtype)),
            offered.size,
            slope,
            offered.predicted,
            offered.binding,
        )

    return propose


def _force(loss: Callable[[Array], Array], x: Array, grad: Params, spectrum: Spectrum) -> Force:
    r"""Build the map from p to $\nabla f(x+p) - 2 \nabla f(x) + \nabla f(x-p)$.

    That is $\nabla^3 f[p, p] + O(\|p\|^4)$, and errs by no more than the gradients do, as
    the Newton step does already. What rounding alone makes of it is set to zero.
    """
    highest = jax.lax.Precision.HIGHEST
    g = ravel_pytree(grad)[0].astype(x.dtype)
    # One after the other, so that the program holds the loss once.
    gradients = functools.partial(jax.lax.map, jax.grad(loss))

    def force(p: Array) -> Array:
        step = jnp.matmul(spectrum.eigenvectors, p, precision=highest)
        there, back = gradients(jnp.stack([x + step, x - step]))
        second = (there - g) + (back - g)
        floor = tr.FLOOR * spectrum.rounding(jnp.abs(x) + jnp.abs(step))
        second = jnp.where(jnp.abs(second) > floor, second, 0)
        return jnp.matmul(second, spectrum.eigenvectors, precision=highest)

    return force


def _bent(spectrum: Spectrum, offered: Offered, force: Array) -> Offered:
    r"""Bend a step p along the valley by $c = -\tfrac12 (H + \lambda I)^{-1} \nabla^3 f[p, p]$.

    λ is the multiplier that p itself solves, $(H + \lambda I) p = -g$. Without it, p + c is
    Chebyshev's method, which converges cubically; in least squares c is known as geodesic
    acceleration (Transtrum & Sethna 2012). Longer than half of p it is cut to that, and
    where the cubic Taylor model promises much less for p + c, p stays.
    """
    w, g, p = spectrum.followed, spectrum.grad, offered.step
    residual = g + w * p
    length2 = jnp.sum(p**2)
    multiplier = -jnp.sum(p * residual) / jnp.where(length2 > 0, length2, 1)
    shifted = w + jnp.maximum(multiplier, 0)
    c = jnp.where(shifted > rounding_of(w), -0.5 * force / shifted, 0)
    longest = BEND * jnp.sqrt(length2)
    length = jnp.sqrt(jnp.sum(c**2))
    c = jnp.where(length > longest, c * (longest / jnp.where(length > 0, length, 1)), c)
    gained = -jnp.sum(residual * c) - 0.5 * jnp.sum(force * c + w * c**2)
    predicted = offered.predicted - jnp.sum(force * p) / 6 + gained
    # A NaN, where a gradient is not finite, compares false.
    better = predicted > tr.POOR * offered.predicted
    return offered._replace(
        step=jnp.where(better, p + c, p),
        predicted=jnp.where(better, predicted, offered.predicted),
    )
