"""Newton's method without the Hessian matrix: truncated conjugate gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from gradlab._tree import max_abs, num_params, pseudo_random, where
from gradlab._typing import Array, Number, Params
from gradlab.derivatives._leaves import eps_of
from gradlab.derivatives.autodiff import value_grad_hvp
from gradlab.optimizers import _trust_region as tr
from gradlab.optimizers._noise_level import loss_value
from gradlab.optimizers._preconditioner import preconditioner_of
from gradlab.optimizers._protocol import bind
from gradlab.optimizers._truncated_cg import Path, truncated_cg

__all__ = ["newton_cg"]


if TYPE_CHECKING:
    Conditioner = str | Callable[[Params], Params] | None
else:  # checked where it comes in
    Conditioner = Any


def newton_cg(
    *,
    preconditioner: Conditioner = None,
    max_products: int | None = None,
    noise: Number | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Newton's method by conjugate gradients in a trust region (Steihaug–Toint).

    Each update minimises the quadratic model by conjugate gradients on Hessian-vector
    products, until the residual is below $\eta\,\|g\|$ with
    $\eta = \min(\tfrac12, \sqrt{\|g\| / \|g_0\|})$, a product adds to the model's decrease
    less than $\eta / 2$ times the mean of all so far, the region's boundary is met, or a
    direction of negative curvature is: that one is followed to the boundary, on the side
    where the model is lower. A step that does not reduce the loss is shortened without new
    products (Nocedal & Yuan 1998). No matrix and no flat copy of the parameters is made.

    As an optax transformation it comes last in a chain, and its `update` needs `value`, `grad`
    and `value_fn`, as `optax.lbfgs` does. It goes by these alone: what links before it make of
    the gradient (weight decay, a mask, batches added up) belongs into the loss. A zero update
    means that no better point was found (`state.failed`); `state.decrement` says how much the
    model still promised. With `at_rest=True` an update takes the point for stationary and looks
    for negative curvature only, along a direction the gradient knows nothing of: conjugate
    gradients cannot leave the space that the gradient spans, so by themselves they take a
    saddle reached along its valley for a minimum. Where the last step has met positive
    curvature in as many directions as there are variables, there is nothing to look for.

    A preconditioner is an approximation of the inverse Hessian that leaves fewer products to
    be made. `"lbfgs"` is BFGS's, from the last 8 pairs of a direction and the product with
    it, those of earlier steps included; it takes no product of its own. `"diagonal"` divides
    by the running root mean square of Hutchinson's estimates of the Hessian's diagonal, for
    one more product a step: for variables whose units differ. Either costs time beside the
    products, so it pays where these are dear. The region stays round.

    Cost: one gradient (the linearisation) an accepted step, two gradient equivalents a
    product, one loss and one gradient a trial step. With `"lbfgs"`, 18 vectors are kept, and
    each product takes four passes over them.

    Args:
        preconditioner: `"lbfgs"`, `"diagonal"`, or a function from a residual, shaped like
            the parameters, to about $H^{-1}$ times it: linear, symmetric, positive definite;
            a factor does not matter. Default none.
        max_products: Largest number of products a step; default 2n, at most 250.
        noise: Absolute noise level of the loss; default the rounding bound 4·eps·|f|.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `TrustRegionState`.

    Raises:
        TypeError: If `preconditioner` is neither a name nor a function.
        ValueError: If there is no preconditioner of this name.

    References:
        Steihaug, T. (1983). The conjugate gradient method and trust regions.
        Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, algorithm 7.2.
        Nash, S. G. and Sofer, A. (1990). Assessing a search direction within a truncated-Newton
        method. Operations Research Letters 9.
        Nocedal, J. and Yuan, Y. (1998). Combining trust region and line search techniques.
        Morales, J. L. and Nocedal, J. (2000). Automatic preconditioning by limited memory
        quasi-Newton updating.

    Examples:
        >>> import gradlab as gl
        >>> result = gl.minimize(lambda x: ((x - 3) ** 2).sum(), jnp.zeros(2), gl.newton_cg())
        >>> print(result.x, result.nit)
        [3. 3.] 1
    """
    default_noise = noise
    conditioned = preconditioner_of(preconditioner)

    def update(
        updates,
        state,
        params=None,
        *,
        value,
        grad,
        value_fn,
        noise=None,
        at_rest=False,
        active=True,
        **extra,
    ):
        del updates  # the step is judged by the loss, so it must come from its gradient
        noise = default_noise if noise is None else noise
        loss = bind(value_fn, extra)
        value, eps = loss_value(value, params)
        budget = max_products or min(2 * num_params(params), 250)
        hvp = value_grad_hvp(loss, params)[2]
        path, model = truncated_cg(
            hvp, params, grad, state, budget, at_rest, conditioned, active
        )
        propose = _propose(path, params)
        start = tr.Trial.start(params, grad, model.radius).begin(model.radius, path.possible)
        trial = tr.search(start, loss, params, value, propose, noise, eps, active=active)
        calls = jnp.stack([0, 1, path.products, 0]).astype(jnp.int32)
        remains = _what_remains(path, model, params, grad, trial)
        if at_rest is not False:
            resolved = model.curvature > jnp.finfo(value.dtype).eps ** 0.5 * model.stiffness
            lost = jnp.asarray(at_rest) & ~resolved & active
            heard = jax.lax.cond(
                lost, lambda: _loudness(hvp, params, grad), lambda: remains.loudness
            )
            remains = remains._replace(loudness=heard)
            calls = calls + lost * jnp.array([0, 0, 1, 0], jnp.int32)
        return tr.conclude(state, trial, value, grad, model, remains, calls, path.memory)

    def init(params: Params) -> tr.TrustRegionState:
        state = tr.initial_state(params, tr.MatrixFreeState)
        return (
            state if conditioned is None else state._replace(memory=conditioned.start(params))
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _propose(path: Path, params: Params) -> Callable[[Array], tr.Proposal]:
    """Build the map from a radius to the step cut to it; its model costs no product."""

    def propose(radius: Array) -> tr.Proposal:
        whole = (radius >= path.length) | (path.length == 0)
        tau = where(whole, 1, radius / where(whole, 1, path.length))
        slope = tau * path.slope
        updates = jax.tree.map(lambda u, p: (tau * u).astype(p.dtype), path.step, params)
        predicted = -slope - 0.5 * tau**2 * path.curvature
        binding = ~(whole & path.interior)
        return tr.Proposal(updates, tau * path.length, slope, predicted, binding)

    return propose


def _what_remains(
    path: Path, model: tr.Model, params: Params, grad: Params, trial: tr.Trial
) -> tr.Remains:
    """Predict the decrease and the length of the step from the point reached.

    They shrink as the gradient has, its square and itself, if the last step was to the
    minimum of the model, and as good as that said.
    """
    size = max_abs(grad)
    fell = trial.grad_max / size
    as_told = path.interior & (jnp.abs(trial.ratio - 1) <= 1 - tr.GOOD)
    decrement = where(as_told, path.decrement * fell**2, path.decrement)
    length = where(as_told, path.length * fell, jnp.inf)
    eps = max(eps_of(leaf.dtype) for leaf in jax.tree.leaves(params))
    own = eps * model.stiffness * max_abs(params)
    loudness = where(trial.accepted, trial.grad_max, size) / own
    # With a residual left after n - 1 products, the gradient had a part along every
    # eigenvector, if the condition was not so large that rounding has left it.
    surveyed = as_told & path.spanned
    surveyed &= model.curvature > jnp.finfo(size.dtype).eps ** 0.5 * model.stiffness
    return tr.Remains(decrement, length, loudness, surveyed=surveyed)


def _loudness(hvp: Callable[[Params], Params], params: Params, grad: Params) -> Array:
    """Compare each gradient entry with what rounding the point makes of it, by one product.

    Rounding moves each variable by its own eps, some up and some down; entries, like
    variables, may differ by many orders of magnitude.
    """
    dtype = max_abs(grad).dtype
    rounded = jax.tree.map(
        lambda r, p: (2 * r).astype(p.dtype) * p, pseudo_random(params, dtype), params
    )

    def of_leaf(g: Array, change: Array) -> Array:
        change = eps_of(g.dtype) * jnp.abs(change).astype(dtype)
        ratio = jnp.abs(g).astype(dtype) / where(change > 0, change, 1)
        return jnp.max(where(g == 0, 0, where(change > 0, ratio, jnp.inf)), initial=0)

    leaves = jax.tree.leaves(jax.tree.map(of_leaf, grad, hvp(rounded)))
    return functools.reduce(jnp.maximum, leaves)
