"""Newton's method with the dense Hessian, and its globalisations, as optax transformations.

They share one core, `_dense`: what is here is which step each of them offers.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from gradlab._typing import Array, Number
from gradlab.optimizers._dense import Offered, dense_method, predicted_by
from gradlab.optimizers._quadratic import Spectrum
from gradlab.optimizers._subproblem import (
    is_positive_definite,
    largest_curvature,
    rounding_of,
    solve_cubic,
    solve_subproblem,
)

__all__ = [
    "cubic_newton",
    "damped_newton",
    "newton",
    "pure_newton",
    "regularized_newton",
    "saddle_free_newton",
]


def newton(*, noise: Number | None = None) -> optax.GradientTransformationExtraArgs:
    r"""Newton's method in a trust region with a nearly exact subproblem.

    Each update minimises the quadratic model $g^T p + \tfrac12 p^T H p$ over
    $\|p\| \le \Delta$, and tries shorter steps until one is acceptable, so one call is one
    accepted step. Where the Hessian is positive definite and the region holds the Newton
    step, Cholesky's factors give it; else one eigendecomposition does, whatever the radius.
    Indefinite and singular Hessians are fine: the step follows negative curvature to the
    boundary, also from a saddle. Above a few thousand variables the Hessian no longer fits:
    use `newton_cg`.

    The step is then bent by the third derivative along it, $c = -\tfrac12 (H + \lambda
    I)^{-1} \nabla^3 f[p, p]$ from two more gradients, at x ± p: it follows curved valleys
    further, and converges cubically.

    The region is infinite until a step fails, hence a quadratic is solved in one step and
    the first steps do not depend on the units of the parameters. Variables more than 1/eps
    times as stiff as others are measured in units of their own, so that rounding in the one
    does not hide the others.

    As an optax transformation it comes last in a chain, and its `update` needs `value`, `grad`
    and `value_fn`, as `optax.lbfgs` does. It goes by these alone: what links before it make of
    the gradient (weight decay, a mask, batches added up) belongs into the loss. A zero update
    means that no better point was found (`state.failed`); `state.decrement` says how much the
    model still promised, and `state.curvature` the least curvature: exact at the first step and
    wherever eigenvalues were needed, else by an inverse iteration a step, which errs by the
    square of an angle.

    Cost: one dense Hessian (2n gradient equivalents) an accepted step, one loss and three
    gradients a trial step.

    Args:
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `TrustRegionState`.

    References:
        Moré, J. J. and Sorensen, D. C. (1983). Computing a trust region step.
        Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, algorithm 4.3.
        Transtrum, M. and Sethna, J. (2012). Improvements to the Levenberg-Marquardt algorithm
        for nonlinear least-squares minimization.

    Examples:
        >>> import gradlab as gl
        >>> result = gl.minimize(lambda x: ((x - 3) ** 2).sum(), jnp.zeros(2), gl.newton())
        >>> print(result.x, result.nit)
        [3. 3.] 1
    """
    return dense_method(_within_region, _region, noise, bends=True, spares=True)


def cubic_newton(*, noise: Number | None = None) -> optax.GradientTransformationExtraArgs:
    r"""Newton's method with cubic regularisation (ARC).

    Each update minimises $g^T p + \tfrac12 p^T H p + \tfrac13 \sigma \|p\|^3$ nearly exactly
    and adapts $\sigma$ until the step is acceptable. Where the Hessian is Lipschitz with
    constant 2σ the model lies above the loss; it needs $O(\varepsilon^{-3/2})$ steps to a
    gradient of ε, the best rate known. σ is zero until a step fails: a quadratic takes one.

    Cost and protocol as `newton`, whose notes apply.

    Args:
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `TrustRegionState`, whose `radius`
        is 1/σ.

    References:
        Nesterov, Y. and Polyak, B. (2006). Cubic regularization of Newton method.
        Cartis, C., Gould, N. and Toint, P. (2011). Adaptive cubic regularisation methods.

    Examples:
        >>> import gradlab as gl
        >>> loss = lambda x: jnp.sum(x**4 / 4 - x**2 / 2)
        >>> result = gl.minimize(loss, jnp.array([0.1, -0.2]), gl.cubic_newton())
        >>> print(result.x.round(6))
        [ 1. -1.]
    """
    return dense_method(_cubic, _weight, noise)


def regularized_newton(*, noise: Number | None = None) -> optax.GradientTransformationExtraArgs:
    r"""Newton's method regularised by the square root of the gradient's norm.

    Each update takes $p = -(H + \sqrt{M \|g\|}\, I)^{-1} g$.

    For convex losses with a Lipschitz Hessian this converges globally at the rate 1/k² and
    quadratically in the end, with one linear system a step and no region to solve for. M is
    adapted: zero until a step fails. Where H is indefinite its smallest eigenvalue is added
    to the shift, as is usual, but the theory is of convex losses.

    Cost and protocol as `newton`, whose notes apply.

    Args:
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `TrustRegionState`, whose `radius`
        is 1/M.

    References:
        Mishchenko, K. (2023). Regularized Newton method with global O(1/k²) convergence.
        Doikov, N. and Nesterov, Y. (2023). Gradient regularization of Newton method with
        Bregman distances.

    Examples:
        >>> import gradlab as gl
        >>> loss = lambda x: jnp.sum(jnp.logaddexp(0, x) - 0.3 * x)
        >>> result = gl.minimize(loss, jnp.array([8.0]), gl.regularized_newton())
        >>> print(result.x.round(6))
        [-0.847298]
    """
    return dense_method(_gradient_regularized, _gradient_weight, noise)


def saddle_free_newton(*, noise: Number | None = None) -> optax.GradientTransformationExtraArgs:
    r"""Newton's method with the Hessian's absolute eigenvalues, which saddles repel.

    Each update minimises $g^T p + \tfrac12 p^T |H| p$ in a trust region.

    |H| has the Hessian's eigenvectors and the absolute values of its eigenvalues, so saddles
    repel. At a saddle itself the gradient is zero and it stays, and says so; `newton` leaves.

    Cost and protocol as `newton`, whose notes apply.

    Args:
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `TrustRegionState`.

    References:
        Dauphin, Y. et al. (2014). Identifying and attacking the saddle point problem.

    Examples:
        >>> import gradlab as gl
        >>> loss = lambda x: x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2
        >>> result = gl.minimize(loss, jnp.array([1e-3, 1.0]), gl.saddle_free_newton())
        >>> print(result.x.round(6) + 0.0)
        [1. 0.]
    """
    return dense_method(_saddle_free, _absolute_region, noise)


def damped_newton(*, noise: Number | None = None) -> optax.GradientTransformationExtraArgs:
    r"""Newton's method with a line search, its Hessian's eigenvalues made positive.

    The textbook's globalisation: positive eigenvalues stay, others count as $|\lambda|$, at
    least $\delta = \sqrt{eps}\, \|H\|$, and the step is shortened until the loss falls by
    $10^{-4}$ of what its slope promises (Armijo). Every step begins with the whole length.

    Cost and protocol as `newton`, whose notes apply.

    Args:
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `TrustRegionState`.

    References:
        Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, section 3.4.

    Examples:
        >>> import gradlab as gl
        >>> loss = lambda x: jnp.sum(jnp.logaddexp(0, x) - 0.3 * x)
        >>> result = gl.minimize(loss, jnp.array([8.0]), gl.damped_newton())
        >>> print(result.x.round(6))
        [-0.847298]
    """
    return dense_method(_along_modified, _whole, noise)


def pure_newton() -> optax.GradientTransformationExtraArgs:
    r"""Newton's method of the textbooks, every step taken as it comes.

    Each update is $p = -H^{-1} g$.

    Kept to be compared with: it finds saddles and maxima as gladly as minima (such an end is
    not called a success), and from far away it may diverge.

    Cost: one dense Hessian, one loss and one gradient a step.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `TrustRegionState`.

    Examples:
        >>> import gradlab as gl
        >>> result = gl.minimize(lambda x: jnp.sum(jnp.sqrt(1 + x**2)), 0.5, gl.pure_newton())
        >>> print(result.success, abs(result.x) < 1e-6)
        True True
        >>> print(gl.minimize(lambda x: jnp.sqrt(1 + x**2), 2.0, gl.pure_newton()).success)
        False
    """
    return dense_method(_pure, _whole, None, always=True)


def _region(spectrum: Spectrum, radius: Array) -> Array:
    """Make an infinite region finite where the model has no minimum."""
    bounded = jnp.isfinite(radius) | is_positive_definite(spectrum.followed)
    return jnp.where(bounded, radius, spectrum.natural)


def _within_region(spectrum: Spectrum, radius: Array) -> Offered:
    """Offer the model's minimiser within the region."""
    w, g = spectrum.followed, spectrum.grad
    p, binding = solve_subproblem(w, g, radius)
    return Offered(p, predicted_by(w, g, p), binding, _norm(p))


def _weight(spectrum: Spectrum, size: Array) -> Array:
    """Make an infinite 1/σ finite where the model needs a cubic term to have a minimum."""
    w, length = spectrum.followed, spectrum.natural
    steepness = largest_curvature(w) + _norm(spectrum.grad) / length
    natural = length / jnp.where(steepness > 0, steepness, 1)
    return jnp.where(jnp.isfinite(size) | is_positive_definite(w), size, natural)


def _cubic(spectrum: Spectrum, size: Array) -> Offered:
    """Offer the minimiser of the cubic model of weight σ = 1/size."""
    w, g = spectrum.followed, spectrum.grad
    sigma = 1 / size
    p = solve_cubic(w, g, sigma).step
    length = _norm(p)
    # Of no weight, the one whose term would be as large as the slope.
    slope = jnp.abs(jnp.sum(g * p))
    known = jnp.where(jnp.isinf(size), length**3 / jnp.where(slope > 0, slope, 1), size)
    predicted = predicted_by(w, g, p) - sigma * length**3 / 3
    return Offered(p, predicted, jnp.ones((), bool), known)


def _gradient_weight(spectrum: Spectrum, size: Array) -> Array:
    """Make an infinite 1/M finite where H is not positive: the shift ‖g‖ over a length."""
    norm = _norm(spectrum.grad)
    natural = spectrum.natural**2 / jnp.where(norm > 0, norm, 1)
    bounded = jnp.isfinite(size) | is_positive_definite(spectrum.followed)
    return jnp.where(bounded, size, natural)


def _gradient_regularized(spectrum: Spectrum, size: Array) -> Offered:
    """Offer the step of the shift √(M‖g‖), beyond the most negative eigenvalue."""
    w, g = spectrum.followed, spectrum.grad
    norm = _norm(g)
    shifted = w + jnp.sqrt(norm / size) + jnp.maximum(0, -jnp.min(w))
    p = jnp.where(g == 0, 0, -g / jnp.where(shifted > 0, shifted, 1))
    # Of no shift, the one that would be as large as the curvature along the step.
    length2 = jnp.sum(p**2)
    shift = jnp.abs(jnp.sum(g * p)) / jnp.where(length2 > 0, length2, 1)
    known = jnp.where(jnp.isinf(size), norm / jnp.where(shift > 0, shift, 1) ** 2, size)
    return Offered(p, predicted_by(w, g, p), jnp.ones((), bool), known)


def _absolute_region(spectrum: Spectrum, radius: Array) -> Array:
    """Make an infinite region finite where there is no curvature of either sign."""
    bounded = jnp.isfinite(radius) | jnp.all(_absolute(spectrum) > 0)
    return jnp.where(bounded, radius, spectrum.natural)


def _saddle_free(spectrum: Spectrum, radius: Array) -> Offered:
    """Offer the minimiser of the model with |H| within the region."""
    g = spectrum.grad
    p, binding = solve_subproblem(_absolute(spectrum), g, radius)
    return Offered(p, predicted_by(spectrum.followed, g, p), binding, _norm(p))


def _absolute(spectrum: Spectrum) -> Array:
    """Absolute eigenvalues, at least their rounding."""
    w = spectrum.followed
    return jnp.maximum(jnp.abs(w), 2 * rounding_of(w))


def _whole(spectrum: Spectrum, size: Array) -> Array:
    """Begin with the whole step, whatever the last one took."""
    del spectrum
    return jnp.ones_like(size)


def _along_modified(spectrum: Spectrum, fraction: Array) -> Offered:
    """Offer a fraction of the step with positive curvatures; its slope is the promise."""
    w, g = spectrum.followed, spectrum.grad
    size = largest_curvature(w)
    # Without curvature: steepest descent over the point's own length.
    least = jnp.finfo(w.dtype).eps ** 0.5 * size
    norm = _norm(g)
    flat = norm / spectrum.natural
    # Positive curvatures stay what they are, for a change of variables must not matter.
    floored = jnp.where(w > rounding_of(w), w, jnp.maximum(jnp.abs(w), least))
    curvature = jnp.where(size > 0, floored, flat)
    p = -fraction * g / jnp.where(curvature > 0, curvature, 1)
    return Offered(p, -jnp.sum(g * p), fraction < 1, fraction)


def _pure(spectrum: Spectrum, size: Array) -> Offered:
    """Offer the stationary point of the model."""
    w, g = spectrum.followed, spectrum.grad
    p = jnp.where(g == 0, 0, -g / w)
    return Offered(p, predicted_by(w, g, p), jnp.zeros((), bool), size)


def _norm(v: Array) -> Array:
    return jnp.sqrt(jnp.sum(v**2))
