"""The natural gradient with a Fisher matrix averaged over batches, for small networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from gradlab._checks import check_callable, check_count, check_decay, check_positive
from gradlab._tree import num_params, working_dtype
from gradlab._typing import Array, Count, Loss, Number, Params
from gradlab.derivatives._memory import _memory
from gradlab.derivatives.curvature import hessian_vp
from gradlab.optimizers._model_solve import check_rows
from gradlab.optimizers._protocol import bind

__all__ = ["AveragedState", "averaged_natural_gradient"]

if TYPE_CHECKING:
    Rate = float | Array | Callable[[Any], Any]
    Arguments = tuple[Any, ...]
    MaybeCount = int | None
else:  # checked where they come in
    Rate = Arguments = MaybeCount = Any

EXACT = jax.lax.Precision.HIGHEST


class AveragedState(NamedTuple):
    """State of the averaged natural gradient.

    Attributes:
        count: Updates so far.
        mean: Running mean of the gradients.
        matrix: Running mean of the Fisher matrices, shape (n, n).
        factor: Cholesky factor of it, corrected for its start and damped.
        calls: Evaluations made (losses, gradients, curvature products, Hessians).
    """

    count: Array  # type: ignore[assignment]  # the name optax's hosts look for
    mean: Params
    matrix: Array
    factor: Array
    calls: Array


def averaged_natural_gradient(
    model: Loss,
    loss: Loss,
    learning_rate: Rate,
    *,
    damping: Number = 0.3,
    momentum: Number = 0.9,
    decay: Number = 0.9,
    every: Count = 5,
    samples: MaybeCount = 1,
    share: Number = 0.003,
    ridge: Number = 0.0,
    args: Arguments = (),
    seed: Count = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Natural gradient with the Fisher matrix averaged over many batches, as a whole.

    One batch has too few rows to tell the curvature of a network. Every `every` updates its
    Fisher matrix enters a running mean, $F ← β F + (1 - β) \tfrac1N \sum_i J_i^T H_i J_i$,
    with the loss's Hessian $H_i$ at the outputs of row i, and the mean is factored. Steps
    are $-η (F + λ)^{-1} \bar g$ with the mean gradient $\bar g$, and shortened so far that
    the model's quadratic term, $\tfrac12 d^T (F + λ) d$, is at most half a share of the loss:
    a bound on how far the outputs move, which the decrease may exceed. λ is `damping` times
    the mean curvature tr F / n, so the units of the loss cancel.

    With `samples` each $H_i$ is replaced by that many random $v v^T$ of this mean, so a look
    costs as many reverse passes, whatever the number of outputs.

    Cost: beside the gradient, `samples` gradients every `every` updates; and of linear
    algebra, which is not counted, n³/3 operations a look and 2n² an update. Two matrices of
    n by n are kept: made for up to some thousand parameters.

    Args:
        model: Function `model(params, *args)` to an array of outputs with a row for each
            sample, which depends on the same row of `args` only.
        loss: Function `loss(outputs, *args)` to a real scalar: a mean or sum over rows of
            convex functions of their outputs.
        learning_rate: A number, a traced scalar or an optax schedule. 1 would be Newton's
            step; 0.03 to 0.1 suits small batches, falling to 0 at the end.
        damping: λ relative to the mean curvature.
        momentum: Decay of the mean of the gradients.
        decay: β, the decay of the mean of the matrices.
        every: Updates between two looks at the curvature.
        samples: Random vectors a row and look; None takes the whole of $H_i$, by as many
            reverse passes as a row has outputs.
        share: Largest $d^T (F + λ) d$ of a step d, as a part of the loss.
        ridge: Curvature of a penalty that is a part of the loss but not of `loss`: of
            $\tfrac a2 \|x\|^2$ it is a.
        args: Further arguments of `model` and `loss`, where the host passes none.
            `gradlab.minimize` passes its own `args`, or the rows of the minibatch.
        seed: Seed of the random vectors.

    Returns:
        An `optax.GradientTransformationExtraArgs` with an `AveragedState`.

    Raises:
        TypeError: If `model` or `loss` is not a function.
        ValueError: If an option is out of range, or the matrices do not fit into memory.

    References:
        Martens, J. and Grosse, R. (2015). Optimizing neural networks with Kronecker-factored
        approximate curvature. (The running mean, and steps bounded by the model.)
        Martens, J. (2020). New insights and perspectives on the natural gradient method.

    Examples:
        >>> import gradlab as gl
        >>> inputs = jnp.linspace(-1, 1, 60)[:, None]
        >>> model = lambda w, inputs, targets: inputs @ w
        >>> squares = lambda z, inputs, targets: jnp.mean((z - targets) ** 2) / 2
        >>> method = averaged_natural_gradient(model, squares, 0.5)
        >>> result = gl.minimize(
        ...     lambda w, *data: squares(model(w, *data), *data), jnp.zeros(1), method,
        ...     args=(inputs, 3 * inputs[:, 0]),
        ...     batches=gl.minibatches(20, key=jax.random.key(0)),
        ... )
        >>> print(result.x.round(2))
        [3.]
    """
    check_callable("model", model, "a function model(params, *args)")
    check_callable("loss", loss, "a function loss(outputs, *args)")
    damping = check_positive("damping", damping)
    momentum, decay = check_decay("momentum", momentum), check_decay("decay", decay)
    share = check_positive("share", share, zero=False)
    ridge = check_positive("ridge", ridge)
    every = check_count("every", every, smallest=1)
    samples = None if samples is None else check_count("samples", samples, smallest=1)
    seed = check_count("seed", seed)
    own_args = args

    def init(params: Params) -> AveragedState:
        n, dtype = num_params(params), working_dtype(params)
        _check_room(n, dtype)
        zeros = jax.tree.map(jnp.zeros_like, params)
        square = jnp.zeros((n, n), dtype)
        none = jnp.zeros(4, jnp.int32)
        return AveragedState(jnp.zeros((), jnp.int32), zeros, square, square, none)

    def update(updates, state, params=None, *, value, args=None, **extra):
        given = args if args else own_args
        at_work = bind(model, extra), bind(loss, extra)
        outputs = jax.eval_shape(at_work[0], params, *given)
        shape = jax.tree.leaves(outputs)[0].shape
        passes = samples or num_params(outputs) // (shape or (1,))[0]

        def look() -> tuple[Array, Array]:
            key = jax.random.fold_in(jax.random.key(seed), state.count)
            found = _fisher_root(*at_work, params, given, samples, key)
            fresh = jnp.matmul(found.T, found, precision=EXACT)
            matrix = decay * state.matrix + (1 - decay) * fresh
            seen = 1 - decay ** (state.count // every + 1)
            return matrix, _factor(matrix / seen, damping, ridge)

        looking = state.count % every == 0
        matrix, factor = jax.lax.cond(looking, look, lambda: (state.matrix, state.factor))
        mean = jax.tree.map(
            lambda m, g: (momentum * m + (1 - momentum) * g).astype(m.dtype),
            state.mean, updates,
        )  # fmt: skip
        count = state.count + 1
        flat, unravel = ravel_pytree(mean)
        slope = flat.astype(factor.dtype) / (1 - momentum**count)
        direction = jax.scipy.linalg.cho_solve((factor, True), slope)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        # Along the direction the quadratic term is ½ r² dᵀ(F + λ)d, and dᵀ(F + λ)d = dᵀg.
        foretold = jnp.sum(direction * slope)
        longest = jnp.sqrt(share * jnp.abs(value) / jnp.where(foretold > 0, foretold, 1))
        step = -jnp.minimum(rate, longest) * direction
        calls = state.calls + looking * jnp.array([0, passes, 0, 0], jnp.int32)
        new = AveragedState(count, mean, matrix, factor, calls)
        new = jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), new, state)
        return unravel(step.astype(flat.dtype)), new

    return optax.GradientTransformationExtraArgs(init, update)


def _check_room(n: int, dtype: Any) -> None:
    """Raise where the matrices do not fit into memory."""
    needed, memory = 4 * n * n * jnp.dtype(dtype).itemsize, _memory(1)[0]
    if needed > memory:
        raise ValueError(
            f"The Fisher matrix of {n} parameters and its factors take {needed / 1e9:.3g} GB, "
            f"but there are {memory / 1e9:.3g} GB. Use gradlab.natural_gradient or "
            "gradlab.gauss_newton_cg, which need none."
        )


def _factor(matrix: Array, damping: Any, ridge: Any) -> Array:
    """Factor the damped matrix; its rounding is damped in any case."""
    n, eps = len(matrix), jnp.finfo(matrix.dtype).eps
    trace = jnp.trace(matrix)
    shift = damping * trace / n + ridge + n * eps * trace
    shift = jnp.where(shift > 0, shift, 1)
    return jnp.linalg.cholesky(matrix + shift * jnp.eye(n, dtype=matrix.dtype))


def _fisher_root(
    model: Callable[..., Any],
    loss: Callable[..., Array],
    params: Params,
    args: tuple[Any, ...],
    samples: int | None,
    key: Array,
) -> Array:
    """Return a matrix A of n columns with AᵀA the Fisher matrix, or random of that mean."""
    flat, unravel = ravel_pytree(params)
    outputs = model(params, *args)
    check_rows(outputs, args)
    dtype = working_dtype(params)
    roots = _loss_roots(lambda z: loss(z.reshape(outputs.shape), *args), outputs, dtype)
    if samples is not None:
        count, width = roots.shape[0], roots.shape[2]
        drawn = jax.random.rademacher(key, (count, samples, width), dtype)
        roots = jnp.matmul(drawn, roots, precision=EXACT) / samples**0.5
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, args)

    def of_row(vectors: Array, *row: Any) -> Array:
        single = jax.tree.map(
            lambda leaf, axis: leaf if axis is None else leaf[None], row, axes
        )
        z, pull = jax.vjp(lambda x: jnp.ravel(model(unravel(x), *single)), flat)
        return jax.vmap(lambda v: pull(v.astype(z.dtype))[0])(vectors)

    pulled = jax.vmap(of_row, (0, *axes))(roots, *args)
    return pulled.reshape(-1, flat.size).astype(dtype)


def _loss_roots(loss: Callable[[Array], Array], outputs: Array, dtype: Any) -> Array:
    """Return S_i with S_iᵀS_i = H_i, the loss's Hessian at a row's outputs, for all rows."""
    count = outputs.shape[0]
    z = outputs.reshape(count, -1)
    curve = hessian_vp(loss, z)
    width = z.shape[1]

    def column(k: Array) -> Array:  # the k-th column of every row's block at once
        return curve(jnp.zeros_like(z).at[:, k].set(1))

    blocks = jnp.moveaxis(jax.vmap(column)(jnp.arange(width)), 0, -1).astype(dtype)
    values, vectors = jnp.linalg.eigh((blocks + jnp.swapaxes(blocks, 1, 2)) / 2)
    return jnp.sqrt(jnp.maximum(values, 0))[:, :, None] * jnp.swapaxes(vectors, 1, 2)
