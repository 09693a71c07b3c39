"""The quadratic model at a point: Cholesky's factors of its Hessian, and its eigenbasis."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve

from gradlab._tree import after, norm, select
from gradlab._typing import Array, Params
from gradlab.derivatives._leaves import eps_of
from gradlab.derivatives.autodiff import flat_hessian
from gradlab.optimizers import _trust_region as tr
from gradlab.optimizers._subproblem import largest_curvature, rounding_of

__all__ = [
    "Extremes",
    "Quadratic",
    "Spectrum",
    "decomposed",
    "nothing_known",
    "product",
    "quadratic_at",
    "remains_and_extremes",
    "spectrum_of",
]


class Quadratic(NamedTuple):
    """The model g, H at a point, flat.

    Attributes:
        hessian: In the working dtype; zero where it is not finite.
        grad: Likewise.
        solve: From one or more columns g to $H^{-1} g$; NaN unless H is positive definite
            whatever the variables' units.
        whole: The Newton step, $-H^{-1} g$.
        rounding: From |x| to what rounding the point changes in each gradient entry,
            eps·|H||x|.
        units: What the variables are multiplied by in all of this, see `_units`.
    """

    hessian: Array
    grad: Array
    solve: Callable[[Array], Array]
    whole: Array
    rounding: Callable[[Array], Array]
    units: Array


class Spectrum(NamedTuple):
    """The same in the eigenbasis of the Hessian.

    Attributes:
        eigenvalues: Ascending.
        eigenvectors: One a column.
        grad: Gradient in this basis.
        followed: Eigenvalues as a step takes them, see `_without_flat`.
        natural: Length of a step with the units of x, where no region is known yet.
        known: Whether H has been decomposed; else all is zero.
    """

    eigenvalues: Array
    eigenvectors: Array
    grad: Array
    followed: Array
    natural: Array
    known: Array


class Extremes(NamedTuple):
    """Smallest and largest absolute curvature, and the directions they are along, in rows."""

    least: Array
    most: Array
    directions: Array


def product(matrix: Array, vector: Array) -> Array:
    """Multiply with the digits of the dtype, on an accelerator too."""
    return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def quadratic_at(
    loss: Callable[[Array], Array], x: Array, grad: Array, params: Params
) -> Quadratic:
    """Evaluate the Hessian, and try Cholesky's factors.

    They tell whether H is positive definite, and the Newton step, for a tenth of what the
    eigenvalues cost.
    """
    hessian = flat_hessian(loss, x)
    # A Hessian that is not finite (a kink, an overflow) leaves the gradient alone to go by.
    hessian = jnp.where(jnp.isfinite(jnp.sum(jnp.abs(hessian))), hessian, 0)
    units = _units(hessian, grad.astype(x.dtype))
    hessian = hessian / units[:, None] / units[None]
    grad = grad.astype(x.dtype) / units
    solve = _solver(hessian)
    eps = max(eps_of(leaf.dtype) for leaf in jax.tree.leaves(params))
    sizes = eps * jnp.abs(hessian)
    return Quadratic(hessian, grad, solve, -solve(grad), lambda size: sizes @ size, units)


def _units(hessian: Array, grad: Array) -> Array:
    r"""Return units of the variables in which none is lost in the rounding of another.

    A variable in which the loss is stiff, as across a valley of exponentials, may have more
    than 1/eps times the curvature of another, of which eigenvectors then say nothing. It
    moves by next to nothing, so its unit changes no region: it gets the one in which it is
    1/eps times as stiff as the softest, and all others keep theirs. Variables that promise
    next to nothing, by $g_i^2 / |H_{ii}|$, do not count as soft.

    Units are powers of two, which round nothing.
    """
    eps = jnp.finfo(hessian.dtype).eps
    curvature = jnp.abs(jnp.diagonal(hessian))
    gain = jnp.where(curvature > 0, grad**2 / jnp.where(curvature > 0, curvature, 1), 0)
    counts = gain > eps * jnp.max(gain)
    softest = jnp.min(jnp.where(counts, curvature, jnp.inf))
    ratio = eps * curvature / softest  # zero where none counts; NaN compares false
    return jnp.exp2(jnp.round(0.5 * jnp.log2(jnp.where(ratio > 1, ratio, 1))))


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
        column = d.reshape(n, *(1,) * (g.ndim - 1))
        return jnp.where(definite, column * cho_solve((factor, True), column * g), jnp.nan)

    return solve


def nothing_known(quadratic: Quadratic) -> Spectrum:
    """Build a spectrum that waits for its decomposition."""
    zeros, zero = jnp.zeros_like(quadratic.grad), jnp.zeros((), quadratic.grad.dtype)
    square = jnp.zeros_like(quadratic.hessian)
    return Spectrum(zeros, square, zeros, zeros, zero, jnp.zeros((), bool))


def decomposed(quadratic: Quadratic, x: Array, spectrum: Spectrum, needed: Array) -> Spectrum:
    """Decompose the Hessian where that is `needed` and not done yet.

    In a loop of one round at most: a batch goes through it if one of its members needs it,
    and a condition would have it decompose always.
    """

    def missing(spectrum: Spectrum) -> Array:
        return needed & ~spectrum.known

    def decompose(spectrum: Spectrum) -> Spectrum:
        # What does not depend on the round XLA would move out of the loop.
        again = after(spectrum.eigenvalues, quadratic.hessian)
        return spectrum_of(quadratic._replace(hessian=again), x)

    return jax.lax.while_loop(missing, decompose, spectrum)


def spectrum_of(quadratic: Quadratic, x: Array) -> Spectrum:
    """Decompose the Hessian."""
    definite = jnp.isfinite(jnp.sum(quadratic.whole))
    factored = jnp.where(definite, quadratic.whole, 0)
    eigenvalues, vectors = jnp.linalg.eigh(after(factored, quadratic.hessian))
    rotated = product(quadratic.grad, vectors)
    followed, g = _without_flat(eigenvalues, rotated, known=definite)
    natural = _natural_length(followed, g, x)
    return Spectrum(eigenvalues, vectors, g, followed, natural, jnp.ones((), bool))


def remains_and_extremes(
    quadratic: Quadratic,
    spectrum: Spectrum,
    seen: Array,
    params: Params,
    grad: Params,
    *,
    always_known: bool,
) -> tuple[tr.Remains, Extremes]:
    """Predict what is left at the point reached, by the Hessian of the point before.

    In the end that is as good. Where the eigenvalues are not known, H is positive definite,
    and the directions `seen` at the step before are turned towards those of least and of
    most curvature, by one solution and one product: Rayleigh's quotients err by the square
    of the angle left.
    """
    x, g = (ravel_pytree(tree)[0].astype(seen.dtype) for tree in (params, grad))
    x, g = quadratic.units * x, g / quadratic.units
    w, vectors = spectrum.eigenvalues, spectrum.eigenvectors
    if always_known:
        remains = _what_remains(quadratic, spectrum, quadratic.solve(g), x, g)
        return remains, Extremes(w[0], largest_curvature(w), seen)
    least, most = seen
    newton, solved = quadratic.solve(jnp.stack([g, least], axis=1)).T
    squares = jnp.sum(solved**2)
    image = product(quadratic.hessian, most)
    guess = Extremes(
        jnp.sum(solved * least) / jnp.where(squares > 0, squares, 1),
        norm(image),
        jnp.stack([_unit(solved), _unit(image)]),
    )
    largest = jnp.argmax(jnp.abs(w))
    ends = vectors[:, jnp.stack([0 * largest, largest])].T
    exact = Extremes(w[0], jnp.abs(w[largest]), ends)
    extremes = select(spectrum.known, exact, guess)
    return _what_remains(quadratic, spectrum, newton, x, g), extremes


def _unit(vector: Array) -> Array:
    length = norm(vector)
    return vector / jnp.where(length > 0, length, 1)


def _what_remains(
    quadratic: Quadratic, spectrum: Spectrum, newton: Array, x: Array, g: Array
) -> tr.Remains:
    """Predict the decrease and the length of the Newton step from the point reached.

    Along a direction whose curvature is lost in rounding a gradient at its own rounding
    promises nothing; a larger one its slope over the point's length, and then nobody knows
    how far. The rounding is that of each entry, for variables may differ by many orders.
    With negative curvature both are infinite.
    """
    w = spectrum.eigenvalues
    rotated = product(g, spectrum.eigenvectors)
    curved = w > rounding_of(w)
    rounding = quadratic.rounding(jnp.abs(x))
    floor = tr.FLOOR * (rounding @ jnp.abs(spectrum.eigenvectors))
    loud = ~curved & (jnp.abs(rotated) > floor)
    step = jnp.where(curved, rotated / jnp.where(curved, w, 1), 0)
    point = jnp.maximum(jnp.max(jnp.abs(x)), spectrum.natural)
    promised = jnp.where(loud, jnp.abs(rotated) * point, 0.5 * rotated * step)
    negative = w[0] < -rounding_of(w)
    decrement = jnp.where(negative, jnp.inf, jnp.sum(promised))
    length = jnp.sqrt(jnp.sum(step**2))
    length = jnp.where(negative | jnp.any(loud), jnp.inf, length)
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
