"""Products with the Hessian, the generalised Gauss-Newton and the Fisher matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab._errors import check_choice
from gradlab._typing import Array, Loss, Name, Params, PyTree
from gradlab.derivatives._checks import in_callers_words
from gradlab.derivatives._leaves import check_params, check_scalar, flatten
from gradlab.derivatives.autodiff import flat_hessian, linearized, value_grad_hvp

__all__ = ["fisher_vp", "ggn_vp", "hessian_blocks", "hessian_vp"]

Product = Callable[[Params], Params]


def hessian_vp(f: Loss, x: Params, *args: Any) -> Product:
    """Return the product with the Hessian of f at x, from one linearisation.

    Args:
        f: Function (x, *args) to a real scalar.
        x: Any pytree of real floating leaves.
        *args: Further arguments of f.

    Returns:
        A function of v, shaped like x, to H v; each call costs about two gradients.

    Raises:
        TypeError: If f does not return a real scalar or a leaf of x is not real floating.

    Examples:
        >>> print(hessian_vp(lambda x: jnp.sum(x**3), jnp.arange(3.0))(jnp.ones(3)))
        [ 0.  6. 12.]
    """
    return value_grad_hvp(f, x, *args)[2]


def ggn_vp(model: Loss, loss: Loss, x: Params) -> Product:
    r"""Return the product with the generalised Gauss-Newton matrix of a loss of a model.

    For $\ell(m(x))$ it is $G = J^T \nabla^2\ell\, J$ with the model's Jacobian J: the Hessian
    without the model's own curvature, $H = G + \sum_i ∂_i\ell\, \nabla^2 m_i$. It is
    positive semidefinite where $\ell$ is convex, and equal to the Hessian where the model is
    linear or fits exactly.

    Args:
        model: Function of x to outputs, any pytree.
        loss: Function of the outputs to a real scalar.
        x: Any pytree of real floating leaves.

    Returns:
        A function of v, shaped like x, to G v; each call costs one forward and one reverse
        pass through the linearised model.

    Raises:
        TypeError: If the loss does not return a real scalar or a leaf of x is not real
            floating.

    References:
        Schraudolph, N. N. (2002). Fast curvature matrix-vector products for second-order
        gradient descent.
        Martens, J. (2020). New insights and perspectives on the natural gradient method.

    Examples:
        >>> model = lambda x: jnp.array([x[0], x[0] * x[1]])
        >>> product = ggn_vp(model, lambda z: 0.5 * jnp.sum(z**2), jnp.array([1.0, 2.0]))
        >>> print(product(jnp.array([1.0, 0.0])))
        [5. 2.]
    """
    outputs, push, pull = _model(model, x)
    check_scalar(jax.eval_shape(loss, outputs))
    curve = hessian_vp(loss, outputs)
    return lambda v: pull(curve(push(v)))


def fisher_vp(model: Loss, loss: Any, x: Params, *, kind: Name = "true") -> Product:
    r"""Return the product with the Fisher matrix of a probabilistic model, a mean over N rows.

    "true": $F = \frac1N \sum_i J_i^T\, \mathrm{Cov}_{y ∼ p(y|z_i)}[\nabla_z \log p]\, J_i$,
    the expectation over targets that the model itself draws; the data's own play no part.
    For these likelihoods it is the Gauss-Newton matrix of their mean negative logarithm.

    "empirical": $\frac1N \sum_i g_i g_i^T$ from the gradients of the N losses with the data's
    own targets. It is not the Fisher matrix, nor close to the Hessian away from a good fit.

    Args:
        model: Function of x to outputs, an array with a row for each of N samples.
        loss: For "true" the likelihood: "gaussian" (outputs are means, unit variance),
            "categorical" (logits along the last axis), "bernoulli" (logits) or "poisson"
            (logarithms of rates). For "empirical" a function of the outputs to N losses,
            shape (N,).
        x: Any pytree of real floating leaves.
        kind: "true" or "empirical".

    Returns:
        A function of v, shaped like x, to F v.

    Raises:
        TypeError: If a leaf of x is not real floating, or `loss` is not what `kind` needs.
        ValueError: If `kind` or the likelihood is unknown, or the losses have another shape.

    References:
        Martens, J. (2020). New insights and perspectives on the natural gradient method.
        Kunstner, F., Balles, L. and Hennig, P. (2019). Limitations of the empirical Fisher
        approximation for natural gradient descent.

    Examples:
        >>> inputs = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> product = fisher_vp(lambda x: inputs @ x, "bernoulli", jnp.zeros(2))
        >>> print(product(jnp.array([1.0, 0.0])))
        [0.25  0.125]
    """
    check_choice("kind", kind, ("empirical", "true"))
    if kind == "true":
        return _true_fisher(model, loss, x)
    if not callable(loss):
        raise TypeError(
            "kind='empirical' needs `loss`, a function of the outputs to N losses, got "
            f"{loss!r:.40}."
        )
    losses, push, pull = _model(lambda x: loss(model(x)), x)
    if jnp.ndim(losses) != 1:
        raise ValueError(
            "With kind='empirical' `loss` must return one loss for each sample, shape (N,), "
            f"got shape {jnp.shape(losses)}. Leave out the mean or sum over samples."
        )
    return lambda v: pull(push(v) / losses.shape[0])


def hessian_blocks(f: Loss, x: Params, *args: Any) -> PyTree:
    """Return the blocks of the Hessian on its diagonal, one for each leaf: layer by layer.

    Args:
        f: Function (x, *args) to a real scalar.
        x: Any pytree of real floating leaves.
        *args: Further arguments of f.

    Returns:
        A pytree structured like x; the block of a leaf of shape s has shape s + s. It costs
        one product for each entry of x.

    Raises:
        TypeError: If f does not return a real scalar or a leaf of x is not real floating.
        ValueError: If a block is larger than the memory of this machine.

    Examples:
        >>> blocks = hessian_blocks(lambda p: p["a"] ** 3 * p["b"], {"a": 1.0, "b": 2.0})
        >>> print(blocks["a"], blocks["b"])
        12.0 0.0
    """
    check_params(x, "x", holomorphic=False)
    x = jax.tree.map(jnp.asarray, x)
    check_scalar(jax.eval_shape(f, x, *args))
    leaves, structure = jax.tree.flatten(x)

    def block(index: int) -> Array:
        flat, layout = flatten(leaves[index])

        def of_leaf(flat: Array) -> Any:
            changed = [*leaves[:index], layout.unflatten(flat), *leaves[index + 1 :]]
            return f(jax.tree.unflatten(structure, changed), *args)

        return layout.blocks(flat_hessian(of_leaf, flat))

    return jax.tree.unflatten(structure, [block(i) for i in range(len(leaves))])


def _model(model: Loss, x: Params) -> tuple[Any, Product, Product]:
    """Return the outputs at x, v ↦ J v and w ↦ Jᵀ w, linearised once."""
    check_params(x, "x", holomorphic=False)
    x = jax.tree.map(jnp.asarray, x)
    with in_callers_words():
        linear = linearized(model, x)
    if linear is not None:
        outputs, push = linear
        transposed = jax.linear_transpose(push, x)
        return outputs, push, lambda w: transposed(w)[0]
    outputs, pull = jax.vjp(model, x)  # a custom_vjp: J v is the transpose of w ↦ Jᵀ w
    push_back = jax.vjp(pull, jax.tree.map(jnp.zeros_like, outputs))[1]
    return outputs, lambda v: push_back((v,))[0], lambda w: pull(w)[0]


def _true_fisher(model: Loss, likelihood: Any, x: Params) -> Product:
    """Return the product for one of the known likelihoods."""
    if not isinstance(likelihood, str):
        raise TypeError(
            f"kind='true' needs `loss` to be one of {sorted(_LIKELIHOODS)}, got "
            f"{likelihood!r:.40}. Where the loss is a negative log-likelihood in its natural "
            "parameters, the Fisher matrix is that of `ggn_vp`."
        )
    check_choice("loss", likelihood, _LIKELIHOODS)
    z, push, pull = _model(model, x)
    if not isinstance(z, jax.Array) or z.ndim == 0:
        raise TypeError("`model` must return one array, with a row for each sample.")
    covariance = _LIKELIHOODS[likelihood]
    return lambda v: pull(covariance(z, push(v)) / z.shape[0])


def _categorical(z: Array, t: Array) -> Array:
    """Multiply by diag(p) − ppᵀ, the covariance of the scores of a categorical variable."""
    p = jax.nn.softmax(z, axis=-1)
    return p * (t - jnp.sum(p * t, axis=-1, keepdims=True))


def _bernoulli(z: Array, t: Array) -> Array:
    """Multiply by the variance p (1 − p)."""
    return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) * t


_LIKELIHOODS: dict[str, Callable[[Array, Array], Array]] = {
    "gaussian": lambda z, t: t,
    "categorical": _categorical,
    "bernoulli": _bernoulli,
    "poisson": lambda z, t: jnp.exp(z) * t,
}
