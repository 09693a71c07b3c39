"""The core that all dense Newton methods share: at most one eigendecomposition a step.

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

from gradlab._tree import any_lane, norm, num_params, select, working_dtype
from gradlab._typing import Array, Number, Params
from gradlab.optimizers import _trust_region as tr
from gradlab.optimizers._noise_level import loss_value
from gradlab.optimizers._protocol import bind
from gradlab.optimizers._quadratic import (
    Quadratic,
    Spectrum,
    decomposed,
    nothing_known,
    product,
    quadratic_at,
    remains_and_extremes,
    spectrum_of,
)
from gradlab.optimizers._subproblem import rounding_of

__all__ = ["Offered", "dense_method", "predicted_by"]


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


# Variables up to which the eigenvalues cost less than asking whether they are needed: measured
# on chains of 2 to 200, one at a time; in a batch they are worth sparing before.
FEW = 8
# Longest correction of a step, relative to it: beyond, the Taylor series says little. Transtrum
# and Sethna (2012) stop at 3/8; half was chosen on Moré, Garbow and Hillstrom's functions.
BEND = 0.5

# From a step p to ∇³f[p, p].
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
    spares: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Build the optax transformation.

    Args:
        offer: The method's step.
        first_size: The size a search begins with.
        noise: Absolute noise level of the loss.
        bends: Whether steps follow the third derivative, see `_bent`.
        always: Take every step, good or bad.
        spares: Whether it takes the whole Newton step where H is positive definite and the
            size holds it; eigenvalues are then left out, unless variables are few.
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
        active=True,
        **extra,
    ):
        del updates  # the step is judged by the loss, so it must come from its gradient
        noise = default_noise if noise is None else noise
        loss = bind(value_fn, extra)
        value, eps = loss_value(value, params)
        flat_loss, x = _flattened(loss, params)
        quadratic = quadratic_at(flat_loss, x, ravel_pytree(grad)[0], params)
        force = _force(flat_loss, x, quadratic) if bends else None
        method = _Method(offer, first_size, force, spares)
        search = functools.partial(
            tr.search, loss=loss, params=params, value=value, noise=noise, eps=eps,
            always=always, active=active,
        )  # fmt: skip
        x = quadratic.units * x
        radius = state.radius.astype(value.dtype)
        start = tr.Trial.start(params, grad, radius)
        # The first step's eigenvalues begin what the later ones follow.
        first = state.count == 0
        found = _search(method, quadratic, x, params, start, search, first, active)
        trial = found.trial
        moved = optax.apply_updates(params, trial.updates)
        reached = select(trial.accepted, (moved, trial.grad), (params, grad))
        seen = state.memory.astype(x.dtype)
        remains, extremes = remains_and_extremes(
            quadratic, found.spectrum, seen, *reached, always_known=method.decomposes(x.size)
        )
        zero = jnp.zeros_like(radius)
        model = tr.Model(found.begun, extremes.least, zero, extremes.most)
        calls = jnp.stack([0, 2 * trial.tries if bends else 0, 0, 1]).astype(jnp.int32)
        memory = extremes.directions.astype(state.memory.dtype)
        return tr.conclude(state, trial, value, grad, model, remains, calls, memory)

    def init(params: Params) -> tr.TrustRegionState:
        dtype = working_dtype(params)
        return tr.initial_state(params)._replace(
            memory=jnp.zeros((2, num_params(params)), dtype)
        )

    return optax.GradientTransformationExtraArgs(init, update)


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


class _Method(NamedTuple):
    """What is offered, for which size at first, how it is bent, what is spared."""

    offer: Offer
    first_size: FirstSize
    force: Force | None
    spares: bool

    def decomposes(self, num_params: int) -> bool:
        """Whether it does so at every step."""
        return num_params <= FEW or not self.spares


def _holds(method: _Method, quadratic: Quadratic, size: Array) -> Array:
    """Whether a method that spares takes the whole Newton step within this size."""
    if not method.spares:
        return jnp.zeros((), bool)
    # NaN, where H is not positive definite, compares false.
    return norm(quadratic.whole) <= size


class _Found(NamedTuple):
    """Where a search is: its last trial, what it knows of H, the size it began with."""

    trial: tr.Trial
    spectrum: Spectrum
    begun: Array


def _search(
    method: _Method,
    quadratic: Quadratic,
    x: Array,
    params: Params,
    start: tr.Trial,
    search: Callable[..., tr.Trial],
    first: Array,
    active: Array | bool,
) -> _Found:
    """Search in at most two rounds: with the Newton step as it is, then by eigenvalues."""

    def with_spectrum(found: _Found, spectrum: Spectrum) -> _Found:
        trial = found.trial
        new = trial.tries == 0
        whole = _holds(method, quadratic, trial.radius)
        size = jnp.where(whole, trial.radius, method.first_size(spectrum, trial.radius))
        size = jnp.where(new, size, trial.radius)
        w = spectrum.eigenvalues
        # At rest, only negative curvature leads anywhere.
        leads = (jnp.max(jnp.abs(quadratic.grad)) > 0) | (w[0] < -rounding_of(w))
        propose = functools.partial(_propose, method, quadratic, spectrum, params)
        trial = search(trial.begin(size, leads), propose=propose, once=~spectrum.known)
        return _Found(trial, spectrum, jnp.where(new, size, found.begun))

    nothing = _Found(start, nothing_known(quadratic), start.radius)
    if method.decomposes(x.size):
        return with_spectrum(nothing, spectrum_of(quadratic, x))

    def unfinished(found: _Found) -> Array:
        return found.trial.unfinished & active

    def go_round(found: _Found) -> _Found:
        whole = _holds(method, quadratic, found.trial.radius)
        waits = whole & ((found.trial.tries > 0) | ~first)
        # A batch does it for all or for none, so do all: some may need it later in the search.
        needed = any_lane(~waits & active)
        return with_spectrum(found, decomposed(quadratic, x, found.spectrum, needed))

    return jax.lax.while_loop(unfinished, go_round, nothing)


def _propose(
    method: _Method,
    quadratic: Quadratic,
    spectrum: Spectrum,
    params: Params,
    size: Array,
) -> tr.Proposal:
    """Propose a step for a size: the whole Newton step, or what the method offers."""
    whole = _holds(method, quadratic, size)
    offered = method.offer(spectrum, size)
    p = jnp.where(whole, quadratic.whole, product(spectrum.eigenvectors, offered.step))
    slope = jnp.sum(quadratic.grad * p)
    predicted = jnp.where(whole, -0.5 * slope, offered.predicted)
    length = jnp.where(whole, norm(p), offered.size)
    if method.force is not None:
        force = method.force(p)
        p, predicted = _bent(quadratic, spectrum, offered.step, p, predicted, force, whole)
        slope = jnp.sum(quadratic.grad * p)
    flat, unravel = ravel_pytree(params)
    updates = unravel((p / quadratic.units).astype(flat.dtype))
    return tr.Proposal(updates, length, slope, predicted, offered.binding & ~whole)


def _force(loss: Callable[[Array], Array], x: Array, quadratic: Quadratic) -> Force:
    r"""Build the map from p to $\nabla f(x+p) - 2 \nabla f(x) + \nabla f(x-p)$.

    That is $\nabla^3 f[p, p] + O(\|p\|^4)$, and errs by no more than the gradients do, as
    the Newton step does already. What rounding alone makes of it is set to zero.
    """
    g, units = quadratic.grad, quadratic.units
    # One after the other, so that the program holds the loss once.
    gradients = functools.partial(jax.lax.map, jax.grad(loss))

    def force(step: Array) -> Array:
        away = step / units
        there, back = gradients(jnp.stack([x + away, x - away])) / units[None]
        second = (there - g) + (back - g)
        floor = tr.FLOOR * quadratic.rounding(jnp.abs(units * x) + jnp.abs(step))
        return jnp.where(jnp.abs(second) > floor, second, 0)

    return force


def _bent(
    quadratic: Quadratic,
    spectrum: Spectrum,
    inner: Array,
    p: Array,
    predicted: Array,
    force: Array,
    whole: Array,
) -> tuple[Array, Array]:
    r"""Bend a step p along the valley by $c = -\tfrac12 (H + \lambda I)^{-1} \nabla^3 f[p, p]$.

    λ is the multiplier that p itself solves, $(H + \lambda I) p = -g$. Without it, p + c is
    Chebyshev's method, which converges cubically; in least squares c is known as geodesic
    acceleration (Transtrum & Sethna 2012). Longer than half of p it is cut to that, and
    where the cubic Taylor model promises much less for p + c, p stays. `inner` is p in the
    eigenbasis; a `whole` p needs none, for there λ = 0 and Hc is half the force.
    """
    w, vectors = spectrum.followed, spectrum.eigenvectors
    residual = spectrum.grad + w * inner
    squares = jnp.sum(inner**2)
    multiplier = -jnp.sum(inner * residual) / jnp.where(squares > 0, squares, 1)
    shifted = w + jnp.maximum(multiplier, 0)
    c = jnp.where(shifted > rounding_of(w), -0.5 * product(force, vectors) / shifted, 0)
    columns = product(vectors, jnp.stack([c, w * c, residual], axis=1))
    c, image, residual = jnp.where(
        whole, jnp.stack([quadratic.solve(-0.5 * force), -0.5 * force, 0 * force]), columns.T
    )
    longest, length = BEND * norm(p), norm(c)
    share = jnp.where(length > longest, longest / jnp.where(length > 0, length, 1), 1)
    c, image = share * c, share * image
    gained = -jnp.sum(residual * c) - 0.5 * jnp.sum(force * c + image * c)
    bent = predicted - jnp.sum(force * p) / 6 + gained
    # A NaN, where a gradient is not finite, compares false.
    better = bent > tr.POOR * predicted
    return jnp.where(better, p + c, p), jnp.where(better, bent, predicted)
