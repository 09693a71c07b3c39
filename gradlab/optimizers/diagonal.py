"""Methods that divide by an estimate of the Hessian's diagonal: AdaHessian and Sophia."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from gradlab._checks import check_count, check_decay, check_positive
from gradlab._tree import num_params
from gradlab._typing import Array, Count, Number, Params
from gradlab.derivatives.autodiff import value_grad_hvp
from gradlab.optimizers._protocol import bind

__all__ = ["AdaHessianState", "SophiaState", "adahessian", "sophia"]

if TYPE_CHECKING:
    Rate = float | Array | Callable[[Any], Any]
    Axes = tuple[int, ...]
else:  # checked where they come in
    Rate = Axes = Any


class AdaHessianState(NamedTuple):
    """State of AdaHessian.

    Attributes:
        count: Updates so far.
        mean: Running mean of the gradients.
        square: Running mean of the squared estimates of the diagonal.
        calls: Evaluations made (losses, gradients, Hessian-vector products, Hessians).
    """

    count: Array  # type: ignore[assignment]  # the name optax's hosts look for
    mean: Params
    square: Params
    calls: Array


class SophiaState(NamedTuple):
    """State of Sophia: optax's own, and the evaluations it made."""

    inner: Any
    calls: Array


def adahessian(
    learning_rate: Rate,
    *,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-4,
    every: Count = 1,
    spatial_axes: Axes = (),
    seed: Count = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaHessian: Adam with the Hessian's diagonal in place of the gradient.

    Steps are $-η\, \bar m / (\sqrt{\bar v} + ε s)$ with the running means of gradients, m, and
    of squares of Hutchinson's estimates $D = u ∘ H u$, v, for one vector u of random signs an
    update; both corrected for their start. s is the root mean square of $\sqrt{\bar v}$, so
    that the units of the loss cancel, and a rate of 1 is Newton's step where H is diagonal.

    Cost: a Hessian-vector product every `every` updates.

    Args:
        learning_rate: A number, a traced scalar or an optax schedule; 0.1 is usual.
        b1: Decay of the mean of the gradients.
        b2: Decay of the mean of the squared diagonals.
        eps: Least denominator, as a part of the root mean square of all of them.
        every: Updates between two looks at the Hessian.
        spatial_axes: Axes over which the size of the diagonal is averaged, in leaves that
            have more axes than these: (0, 1) for convolutions whose kernels are
            (height, width, in, out), (0,) for all weights of one neuron.
        seed: Seed of the random vectors.

    Returns:
        An `optax.GradientTransformationExtraArgs`, a chain that begins with an
        `AdaHessianState`. Its `update` needs `value_fn`, the loss on the same data as the
        gradient.

    Raises:
        ValueError: If an option is out of range.

    References:
        Yao, Z. et al. (2021). AdaHessian: an adaptive second order optimizer for machine
        learning.

    Examples:
        >>> import gradlab as gl
        >>> curvatures = jnp.array([1.0, 100.0])
        >>> loss = lambda x: 0.5 * jnp.sum(curvatures * (x - 1) ** 2)
        >>> result = gl.minimize(loss, jnp.zeros(2), adahessian(0.1), max_steps=300)
        >>> print(result.x.round(3))
        [1. 1.]
    """
    b1, b2 = check_decay("b1", b1), check_decay("b2", b2)
    eps = check_positive("eps", eps)
    every = check_count("every", every, smallest=1)
    seed = check_count("seed", seed)
    axes = tuple(check_count("spatial_axes", axis) for axis in spatial_axes)
    direction = _scale_by_adahessian(b1, b2, eps, every, axes, seed)
    return optax.chain(direction, optax.scale_by_learning_rate(learning_rate))


def _scale_by_adahessian(
    b1: Any, b2: Any, eps: Any, every: int, axes: tuple[int, ...], seed: int
) -> optax.GradientTransformationExtraArgs:
    """Build the direction, without learning rate and sign."""

    def init(params: Params) -> AdaHessianState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdaHessianState(jnp.zeros((), jnp.int32), zeros, zeros, jnp.zeros(4, jnp.int32))

    def update(updates, state, params=None, *, value_fn, **extra):
        loss = bind(value_fn, extra)

        def look(square: Params) -> Params:
            key = jax.random.fold_in(jax.random.key(seed), state.count)
            found = _averaged(_hutchinson(loss, params, key), axes)
            return jax.tree.map(lambda v, d: (b2 * v + (1 - b2) * d**2).astype(v.dtype),
                                square, found)  # fmt: skip

        looking = state.count % every == 0
        square = jax.lax.cond(looking, look, lambda square: square, state.square)
        mean = jax.tree.map(
            lambda m, g: (b1 * m + (1 - b1) * g).astype(m.dtype), state.mean, updates
        )
        count = state.count + 1
        looks = state.count // every + 1
        scaled = _divided(mean, square, 1 - b1**count, 1 - b2**looks, eps)
        calls = state.calls + looking * jnp.array([0, 0, 1, 0], jnp.int32)
        return scaled, AdaHessianState(count, mean, square, calls)

    return optax.GradientTransformationExtraArgs(init, update)


def _hutchinson(loss: Callable[[Params], Array], params: Params, key: Array) -> Params:
    """Estimate the diagonal of the Hessian by one product with random signs."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)
    ]
    signs = jax.tree.unflatten(structure, drawn)
    image = value_grad_hvp(loss, params)[2](signs)
    return jax.tree.map(operator.mul, signs, image)


def _averaged(diagonal: Params, axes: tuple[int, ...]) -> Params:
    """Average the absolute diagonal over axes, where there are more of them."""
    if not axes:
        return diagonal

    def average(d: Array) -> Array:
        if d.ndim <= max(axes):
            return d
        return jnp.broadcast_to(jnp.mean(jnp.abs(d), axis=axes, keepdims=True), d.shape)

    return jax.tree.map(average, diagonal)


def _divided(mean: Params, square: Params, seen: Array, looked: Array, eps: Any) -> Params:
    """Divide the mean gradient by the root mean square of the diagonal."""
    sizes = jax.tree.map(lambda v: jnp.sqrt(v / looked), square)
    total = num_params(sizes)

    def typical(tree: Params) -> Array:
        squares = [jnp.sum(leaf**2) / total for leaf in jax.tree.leaves(tree)]
        return jnp.sqrt(functools.reduce(operator.add, squares))

    # Where nothing curves at all there is no scale but the gradient's own.
    size = typical(sizes)
    floor = jnp.where(size > 0, eps * size, typical(mean) / seen)

    def divide(m: Array, s: Array) -> Array:
        whole = s + floor
        return (m / seen / jnp.where(whole > 0, whole, 1)).astype(m.dtype)

    return jax.tree.map(divide, mean, sizes)


def sophia(
    learning_rate: Rate,
    *,
    b1: Number = 0.965,
    b2: Number = 0.99,
    eps: Number = 1e-8,
    weight_decay: Number = 1e-4,
    gamma: Number = 0.01,
    clip_threshold: Number = 1.0,
    update_interval: Count = 10,
    seed: Count = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Optax's Sophia, handed its objective by every host that passes `value_fn`.

    Steps are $-η\,\mathrm{clip}(m / \max(γ h, ε), ±1)$ with the running means of gradients, m,
    and of Hutchinson's estimates of the Hessian's diagonal, h. It is `optax.contrib.sophia`,
    which asks for the keyword `obj_fn`; without it `value_fn` serves.

    Cost: a Hessian-vector product every `update_interval` updates.

    Args:
        learning_rate: A number, a traced scalar or an optax schedule.
        b1: Decay of the mean of the gradients.
        b2: Decay of the mean of the diagonals.
        eps: Least denominator, in units of the loss's curvature.
        weight_decay: Rate at which parameters decay.
        gamma: Part of the diagonal to divide by: smaller ones clip more entries.
        clip_threshold: Where entries are clipped.
        update_interval: Updates between two looks at the Hessian.
        seed: Seed of the random vectors.

    Returns:
        An `optax.GradientTransformationExtraArgs` with a `SophiaState`.

    Raises:
        ValueError: If `update_interval` or `seed` is not a whole number in range.

    References:
        Liu, H. et al. (2023). Sophia: a scalable stochastic second-order optimizer for
        language model pre-training.

    Examples:
        >>> import gradlab as gl
        >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 100.0]) * (x - 1) ** 2)
        >>> result = gl.minimize(loss, jnp.zeros(2), sophia(0.01), max_steps=300)
        >>> print(result.x.round(2))
        [1. 1.]
    """
    interval = check_count("update_interval", update_interval, smallest=1)
    key = jax.random.key(check_count("seed", seed))
    inner = contrib.sophia(
        learning_rate, b1, b2, eps, weight_decay, None, gamma, clip_threshold, interval,
        contrib.hutchinson_estimator_diag_hessian(key),
    )  # fmt: skip

    def init(params: Params) -> SophiaState:
        return SophiaState(inner.init(params), jnp.zeros(4, jnp.int32))

    def update(updates, state, params=None, *, value_fn=None, obj_fn=None, **extra):
        objective = bind(value_fn, extra) if obj_fn is None else obj_fn
        looked = state.inner[0].count % interval == 0
        updates, new = inner.update(updates, state.inner, params, obj_fn=objective)
        calls = state.calls + looked * jnp.array([0, 0, 1, 0], jnp.int32)
        return updates, SophiaState(new, calls)

    return optax.GradientTransformationExtraArgs(init, update)
