"""Second-order methods for losses of a model's outputs, on all the data or on minibatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._checks import check_callable, check_count, check_decay, check_positive
from gradlab._errors import check_choice
from gradlab._tree import (
    add_scaled,
    inner,
    max_abs,
    num_params,
    working_dtype,
)
from gradlab._typing import Array, Count, Loss, Name, Number, Params
from gradlab.optimizers._damped_steps import (
    GaussNewtonState,
    conclude,
    initial_state,
    search,
)
from gradlab.optimizers._model_solve import (
    Product,
    by_products,
    in_output_space,
    num_outputs,
    product_at,
)
from gradlab.optimizers._protocol import bind

__all__ = ["GaussNewtonState", "NaturalGradientState", "gauss_newton_cg", "natural_gradient"]

if TYPE_CHECKING:
    Rate = float | Array | Callable[[Any], Any]
    Arguments = tuple[Any, ...]
else:  # checked where they come in
    Rate = Arguments = Any

SOLVERS = ("auto", "cg", "kernel")
# Outputs up to which a system of their number is solved: its factorisation, m³, is then
# within a second or so, and the Jacobian of a small network within a gigabyte.
MOST_OUTPUTS = 2048


class NaturalGradientState(NamedTuple):
    """State of the natural gradient.

    Attributes:
        count: Updates so far.
        direction: The last direction, before the learning rate; zero without momentum.
        calls: Evaluations made (losses, gradients, curvature products, Hessians).
    """

    count: Array  # type: ignore[assignment]  # the name optax's hosts look for
    direction: Params
    calls: Array


def natural_gradient(
    model: Loss,
    loss: Loss,
    *,
    learning_rate: Rate = 1.0,
    damping: Number = 1e-3,
    momentum: Number = 0.0,
    solver: Name = "auto",
    rows: bool = False,
    max_products: Count = 50,
    rtol: Number = 0.1,
    args: Arguments = (),
) -> optax.GradientTransformationExtraArgs:
    r"""Natural gradient: the gradient multiplied by the inverse of the damped Fisher matrix.

    For a loss $\ell(m(x))$ of a model's outputs the update is $-η φ$ with
    $(G + λ) φ = \nabla \ell$ and $G = J^T \nabla^2 \ell\, J$, the generalised Gauss-Newton
    matrix. Where ℓ is the negative logarithm of a likelihood in its natural parameters, mean
    squares, softmax or logistic cross-entropies, G is the Fisher matrix, the true one. λ is
    `damping` times the curvature $g^T G g / g^T g$ along the gradient, so units cancel.

    "cg" solves by conjugate gradients on products. "kernel" solves a system as large as the
    outputs, $φ = J^T (\nabla^2 \ell\, J J^T + λ)^{-1} \nabla_z \ell$, which is exact and cheap
    for few outputs, as on minibatches; with `momentum` μ it starts from the last direction,

    $$ φ_k = μ φ_{k-1} + (G + λ)^{-1} (g - μ G φ_{k-1}), $$

    which on changing batches remembers what earlier ones told (SPRING); both solvers do.

    Cost: "cg" two gradient equivalents a product, one more with momentum. "kernel" a reverse
    pass an output; with `rows` an output of one sample, and the system's factorisation.

    Args:
        model: Function `model(params, *args)` to outputs, any pytree.
        loss: Function `loss(outputs, *args)` to a real scalar, convex in the outputs.
        learning_rate: A number, a traced scalar or an optax schedule.
        damping: λ relative to the curvature along the gradient.
        momentum: μ, from 0 to below 1.
        solver: "cg", "kernel", or "auto": the kernel for up to 2,048 outputs, fewer than
            parameters, if `rows` is set or they are at most 64.
        rows: Whether a row of the outputs depends on the same row of `args` only, so that
            the Jacobian is made row by row: true of networks without normalisation over
            the batch.
        max_products: Largest number of products an update, for "cg".
        rtol: Residual to leave, relative to the gradient, for "cg".
        args: Further arguments of `model` and `loss`, where the host passes none.
            `gradlab.minimize` passes its own `args`, or the rows of the minibatch.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `NaturalGradientState`. Its host
        must minimise `loss(model(params, *args), *args)`; the kernel takes its gradient anew.

    Raises:
        TypeError: If `model` or `loss` is not a function.
        ValueError: If an option is out of range.

    References:
        Amari, S. (1998). Natural gradient works efficiently in learning.
        Martens, J. (2020). New insights and perspectives on the natural gradient method.
        Goldshlager, G., Abrahamsen, N. and Lin, L. (2024). A Kaczmarz-inspired approach to
        accelerate the optimization of neural network wavefunctions. (SPRING.)

    Examples:
        >>> import gradlab as gl
        >>> inputs = jnp.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
        >>> targets = jnp.array([1.0, 3.0, 5.0])
        >>> model = lambda w: inputs @ w
        >>> squares = lambda z: jnp.mean((z - targets) ** 2) / 2
        >>> method = natural_gradient(model, squares, damping=1e-9, rtol=1e-6)
        >>> result = gl.minimize(lambda w: squares(model(w)), jnp.zeros(2), method, max_steps=2)
        >>> print(result.x.round(3))
        [1. 2.]
    """
    check_callable("model", model, "a function model(params, *args)")
    check_callable("loss", loss, "a function loss(outputs, *args)")
    check_choice("solver", solver, SOLVERS)
    damping = check_positive("damping", damping)
    momentum = check_decay("momentum", momentum)
    budget = check_count("max_products", max_products, smallest=1)
    rtol = check_positive("rtol", rtol)
    own_args = args

    def direction(
        grad: Params, last: Params, params: Params, args: Any, extra: Any
    ) -> tuple[Params, Array]:
        at_work = bind(model, extra), bind(loss, extra)
        kernel = solver == "kernel"
        if solver == "auto":
            m = num_outputs(at_work[0], params, args)
            kernel = m < num_params(params) and m <= (MOST_OUTPUTS if rows else 64)
        if kernel:
            found, passes = in_output_space(
                *at_work, params, args, damping, (momentum, last), rows
            )
            return found, jnp.array([0, passes, 0, 0], jnp.int32)
        product = product_at(*at_work, params, args)
        return _by_products(product, grad, last, params, damping, momentum, budget, rtol)

    def init(params: Params) -> NaturalGradientState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return NaturalGradientState(jnp.zeros((), jnp.int32), zeros, jnp.zeros(4, jnp.int32))

    def update(updates, state, params=None, *, args=None, **extra):
        given = args if args else own_args
        found, calls = direction(updates, state.direction, params, given, extra)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        scaled = jax.tree.map(lambda d: (-rate * d).astype(d.dtype), found)
        new = NaturalGradientState(state.count + 1, found, state.calls + calls)
        return scaled, jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), new, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _unit(product: Product, grad: Params) -> Array:
    """Curvature along the gradient, which is scaled against over- and underflow."""
    size = max_abs(grad)
    dtype = size.dtype
    scaled = jax.tree.map(lambda g: g.astype(dtype) / jnp.where(size > 0, size, 1), grad)
    squared = inner(scaled, scaled)
    return inner(scaled, product(scaled)) / jnp.where(squared > 0, squared, 1)


def _by_products(
    product: Product,
    grad: Params,
    last: Params,
    params: Params,
    damping: Any,
    momentum: Any,
    budget: int,
    rtol: Any,
) -> tuple[Params, Array]:
    """Return the natural gradient by conjugate gradients, and the calls made."""
    dtype = working_dtype(params)
    grad = jax.tree.map(lambda g: g.astype(dtype), grad)
    shift = damping * _unit(product, grad)
    before = jax.tree.map(lambda d: momentum * d.astype(dtype), last)
    target = add_scaled(grad, -1.0, product(before))
    zeros = jax.tree.map(jnp.zeros_like, target)
    found = by_products(product, target, shift, zeros, budget, rtol)
    step = add_scaled(before, 1.0, found.step)
    none = jnp.zeros((), jnp.int32)
    calls = jnp.stack([none, none + 1, found.products + 2, none])
    return jax.tree.map(lambda d, p: d.astype(p.dtype), step, params), calls


def gauss_newton_cg(
    model: Loss,
    loss: Loss,
    *,
    damping: Number = 1.0,
    max_products: Count = 50,
    rtol: Number = 0.1,
    warm_start: Number = 0.95,
    args: Arguments = (),
) -> optax.GradientTransformationExtraArgs:
    r"""Gauss-Newton steps by conjugate gradients, with Martens' damping ("Hessian-free").

    Each update solves $(G + λ) p = -g$ with the generalised Gauss-Newton matrix of the loss
    of a model's outputs, starting from a part of the last step. The step is halved until
    the loss falls, on the same data that g and G are of. λ is relative to the curvature
    along the gradient; it shrinks by a third where the model foretold the loss well, grows by
    half where badly, and by four where the whole step was refused.

    As an optax transformation it comes last in a chain. A zero update means that no better
    point was found.

    Cost: a gradient for the linearisation and one at the point reached, a loss a trial, two
    gradient equivalents a product.

    Args:
        model: Function `model(params, *args)` to outputs, any pytree.
        loss: Function `loss(outputs, *args)` to a real scalar, convex in the outputs.
        damping: λ of the first step relative to the curvature along the gradient.
        max_products: Largest number of products an update.
        rtol: Residual to leave, relative to the gradient.
        warm_start: Part of the last step to start from; 0 starts from zero.
        args: Further arguments of `model` and `loss`, where the host passes none.
            `gradlab.minimize` passes its own `args`, or the rows of the minibatch.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `GaussNewtonState`. Its host must
        minimise `loss(model(params, *args), *args)`.

    Raises:
        TypeError: If `model` or `loss` is not a function.
        ValueError: If an option is out of range.

    References:
        Martens, J. (2010). Deep learning via Hessian-free optimization.
        Schraudolph, N. N. (2002). Fast curvature matrix-vector products for second-order
        gradient descent.

    Examples:
        >>> import gradlab as gl
        >>> times = jnp.arange(5.0)
        >>> model = lambda x: x[0] * jnp.exp(-x[1] * times)
        >>> targets = model(jnp.array([2.0, 0.5]))
        >>> squares = lambda z: jnp.sum((z - targets) ** 2)
        >>> method = gauss_newton_cg(model, squares)
        >>> result = gl.minimize(lambda x: squares(model(x)), jnp.ones(2), method)
        >>> print(result.success, result.x.round(3))
        True [2.  0.5]
    """
    check_callable("model", model, "a function model(params, *args)")
    check_callable("loss", loss, "a function loss(outputs, *args)")
    first_damping = check_positive("damping", damping)
    budget = check_count("max_products", max_products, smallest=1)
    rtol = check_positive("rtol", rtol)
    warm_start = check_positive("warm_start", warm_start)
    own_args = args

    def init(params: Params) -> GaussNewtonState:
        return initial_state(params, first_damping)

    def update(
        updates, state, params=None, *, value, grad, value_fn, args=None, noise=None, **extra
    ):
        del updates  # the step is judged by the loss, so it must come from its gradient
        given = args if args else own_args
        dtype = working_dtype(params)
        product = product_at(bind(model, extra), bind(loss, extra), params, given)
        unit = _unit(product, grad)
        slope = jax.tree.map(lambda g: -g.astype(dtype), grad)
        start = jax.tree.map(lambda d: warm_start * d.astype(dtype), state.direction)
        found = by_products(
            product, slope, state.damping.astype(dtype) * unit, start, budget, rtol
        )
        trial = search(bind(value_fn, extra), params, value, found, noise)
        return conclude(state, params, grad, value, found, trial, unit)

    return optax.GradientTransformationExtraArgs(init, update)
