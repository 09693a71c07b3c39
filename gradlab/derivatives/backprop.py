r"""The gradient of a multilayer perceptron, by hand: the chain rule, layer by layer.

The network turns N rows of features into predictions through L layers,

$$ a_0 = x, \qquad z_l = a_{l-1} W_l + b_l, \qquad a_l = σ(z_l), \qquad l = 1, …, L, $$

with one activation σ in the hidden layers and another, by default the identity, in the
last. A loss compares $a_L$ with the targets y. With $δ_l = \partial\,loss / \partial z_l$
the chain rule reads, from the last layer to the first,

$$ δ_L = \frac{\partial\,loss}{\partial a_L} ⊙ σ'(z_L), \qquad
   δ_{l-1} = (δ_l W_l^T) ⊙ σ'(z_{l-1}), $$
$$ \frac{\partial\,loss}{\partial W_l} = a_{l-1}^T δ_l, \qquad
   \frac{\partial\,loss}{\partial b_l} = \text{sum of the rows of } δ_l. $$

That is all of backpropagation; `gradients` is these four formulas and `jax.grad` agrees
with it to rounding. `rules` is the table of elementary rules they rest on.

References:
    Rumelhart, D. E., Hinton, G. E., and Williams, R. J. (1986). Learning representations by
    back-propagating errors. Nature 323, 533.
    Goodfellow, I., Bengio, Y., and Courville, A. (2016). Deep Learning, algorithms 6.3, 6.4.

Examples:
    >>> params = init(jax.random.key(0), (2, 3, 1))
    >>> x, y = jnp.ones((4, 2)), jnp.zeros((4, 1))
    >>> by_hand = gradients(params, x, y)
    >>> by_jax = jax.grad(loss)(params, x, y)
    >>> print(jax.tree.map(jnp.allclose, by_hand, by_jax)[0]["weights"])
    True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab._errors import check_choice
from gradlab._typing import Array, ArrayLike, PRNGKeyArray, Scalar
from gradlab.derivatives._checks import checked_count
from gradlab.derivatives._network_checks import Layer, checked_features, checked_targets
from gradlab.derivatives.rules import elementary_rules

rules = elementary_rules

__all__ = ["ForwardPass", "forward", "gradients", "init", "loss", "rules"]


class ForwardPass(NamedTuple):
    """All intermediate values, which the way back needs again.

    Attributes:
        preactivations: $z_1, …, z_L$, shapes (N, d_l).
        activations: $a_0, …, a_L$; the first is x, the last the prediction.
    """

    preactivations: list[Array]
    activations: list[Array]


@dataclass(frozen=True, eq=False)
class _Activation:
    """A function of z, and its derivative as a function of z and of a = σ(z)."""

    function: Callable[[Array], Array]
    derivative: Callable[[Array, Array], Array]


@dataclass(frozen=True, eq=False)
class _Loss:
    """A function of the prediction and the targets, and its derivative by the prediction."""

    function: Callable[[Array, Array], Array]
    derivative: Callable[[Array, Array], Array]


def _below(z: Array) -> Array:
    """Probability that a normal number is below z."""
    return jax.lax.erfc(-z / math.sqrt(2)) / 2


def _density(z: Array) -> Array:
    """Density of a normal number at z."""
    return jnp.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


# Each derivative uses whichever of z and a = σ(z) makes it shortest.
_ACTIVATIONS = {
    "identity": _Activation(lambda z: z, lambda z, a: jnp.ones_like(z)),
    "gelu": _Activation(lambda z: z * _below(z), lambda z, a: _below(z) + z * _density(z)),
    "sigmoid": _Activation(jax.nn.sigmoid, lambda z, a: a * (1 - a)),
    "tanh": _Activation(jnp.tanh, lambda z, a: 1 - a**2),
    # The kink at z = 0 is given the slope 0, as JAX gives it.
    "relu": _Activation(jax.nn.relu, lambda z, a: (z > 0).astype(z.dtype)),
}


def init(key: PRNGKeyArray, sizes: Sequence[int], *, dtype: Any = None) -> list[Layer]:
    r"""Draw the parameters of a network: weights $W_{ij} \sim N(0, 1/d_{in})$, biases zero.

    With that variance a layer keeps the size of what passes through it (LeCun's rule).

    Args:
        key: Random key.
        sizes: Width of each layer, the number of features first: (d_0, …, d_L).
        dtype: Floating dtype; by default JAX's own.

    Returns:
        One dict a layer: "weights", shape (d_in, d_out), and "bias", shape (d_out,).

    Raises:
        TypeError: If a width is not an integer.
        ValueError: If there are fewer than two widths, or one is zero or negative.

    References:
        LeCun, Y., Bottou, L., Orr, G., and Müller, K.-R. (1998). Efficient backprop.
    """
    widths = [checked_count("sizes", size) for size in sizes]
    if len(widths) < 2 or 0 in widths:
        raise ValueError(
            "`sizes` must hold two or more positive widths, features first and outputs last, "
            f"got {tuple(sizes)}."
        )
    dtype = jnp.zeros((), dtype or float).dtype
    keys = jax.random.split(key, len(widths) - 1)
    return [
        {
            "weights": jax.random.normal(key, (d_in, d_out), dtype) / math.sqrt(d_in),
            "bias": jnp.zeros(d_out, dtype),
        }
        for key, d_in, d_out in zip(keys, widths[:-1], widths[1:], strict=True)
    ]


def forward(
    params: Sequence[Layer],
    x: ArrayLike,
    *,
    activation: str = "tanh",
    output_activation: str = "identity",
) -> ForwardPass:
    r"""Run the network and keep every intermediate value.

    $z_l = a_{l-1} W_l + b_l$ and $a_l = σ(z_l)$, from $a_0 = x$.

    Args:
        params: One dict a layer, as `init` draws them.
        x: Features, shape (N, d_0).
        activation: σ of the hidden layers: "identity", "sigmoid", "tanh", "relu" or "gelu",
            which is z times the probability that a normal number is below z.
        output_activation: σ of the last layer.

    Returns:
        All $z_l$ and $a_l$; the prediction is `activations[-1]`, shape (N, d_L).

    Raises:
        TypeError: If x or a parameter is not a floating array.
        ValueError: If an activation is unknown or the shapes do not fit.
    """
    functions = _activations(params, activation, output_activation)
    a = checked_features(params, x)
    preactivations, activations = [], [a]
    for layer, sigma in zip(params, functions, strict=True):
        z = a @ layer["weights"] + layer["bias"][None, :]
        a = sigma.function(z)
        preactivations.append(z)
        activations.append(a)
    return ForwardPass(preactivations, activations)


def loss(
    params: Sequence[Layer],
    x: ArrayLike,
    y: ArrayLike,
    *,
    activation: str = "tanh",
    output_activation: str = "identity",
    loss: str = "squared_error",
) -> Scalar:
    r"""Loss of the network, averaged over the N samples.

    With the prediction p, shape (N, d_L), and the mean over its N rows,

    - "squared_error": mean of $\tfrac12 \sum_j (p_j - y_j)^2$;
    - "cross_entropy": mean of $-\sum_j y_j \ln \mathrm{softmax}(p)_j$, computed as a
      log-sum-exp, which neither overflows nor takes the logarithm of 0.

    Args:
        params: One dict a layer, as `init` draws them.
        x: Features, shape (N, d_0).
        y: Targets, shape (N, d_L); for "cross_entropy" a row of probabilities a sample, or
            integer labels from 0 to d_L - 1, shape (N,).
        activation: σ of the hidden layers.
        output_activation: σ of the last layer; leave it the identity for "cross_entropy",
            which applies the softmax itself.
        loss: "squared_error" or "cross_entropy".

    Returns:
        The loss, a scalar.

    Raises:
        TypeError: If x, y or a parameter has the wrong kind of dtype.
        ValueError: If a name is unknown, the shapes do not fit, or a label is out of range.
            Labels that are traced cannot be looked at: one out of range makes the loss NaN.
    """
    check_choice("loss", loss, _LOSSES)
    p = forward(params, x, activation=activation, output_activation=output_activation)
    prediction = p.activations[-1]
    return _LOSSES[loss].function(prediction, checked_targets(y, prediction, loss))


def gradients(
    params: Sequence[Layer],
    x: ArrayLike,
    y: ArrayLike,
    *,
    activation: str = "tanh",
    output_activation: str = "identity",
    loss: str = "squared_error",
) -> list[Layer]:
    """Gradient of `loss` with respect to every parameter, by hand.

    The four formulas at the head of this module. The cost is about that of two forward
    passes, whatever the number of parameters.

    Args:
        params: One dict a layer, as `init` draws them.
        x: Features, shape (N, d_0).
        y: Targets, as `loss` takes them.
        activation: σ of the hidden layers.
        output_activation: σ of the last layer.
        loss: "squared_error" or "cross_entropy".

    Returns:
        The gradient, shaped like `params`.

    Raises:
        TypeError: As `loss` does.
        ValueError: As `loss` does.
    """
    check_choice("loss", loss, _LOSSES)
    functions = _activations(params, activation, output_activation)
    z, a = forward(params, x, activation=activation, output_activation=output_activation)
    y = checked_targets(y, a[-1], loss)

    gradient = []
    rate = _LOSSES[loss].derivative(a[-1], y)  # ∂loss/∂a of the layer at hand
    for k in reversed(range(len(params))):
        # ∂loss/∂z = ∂loss/∂a · σ'(z). The mistake of many tutorials stands here: they
        # multiply by the output a = σ(z) itself, or put a, not z, into the formula of σ'.
        # Such a network may still learn something, but not by its gradient.
        delta = rate * functions[k].derivative(z[k], a[k + 1])
        gradient.append({"weights": a[k].T @ delta, "bias": delta.sum(axis=0)})
        rate = delta @ params[k]["weights"].T
    return gradient[::-1]


def _half_squared_error(p: Array, y: Array) -> Array:
    return jnp.sum((p - y) ** 2) / (2 * len(p))


def _half_squared_error_rate(p: Array, y: Array) -> Array:
    return (p - y) / len(p)


def _cross_entropy(p: Array, y: Array) -> Array:
    log_softmax = p - jax.nn.logsumexp(p, axis=1, keepdims=True)
    return -jnp.sum(y * log_softmax) / len(p)


def _cross_entropy_rate(p: Array, y: Array) -> Array:
    # softmax(p) - y where a row of y sums to one, as probabilities do.
    return (jax.nn.softmax(p, axis=1) * y.sum(axis=1, keepdims=True) - y) / len(p)


_LOSSES = {
    "squared_error": _Loss(_half_squared_error, _half_squared_error_rate),
    "cross_entropy": _Loss(_cross_entropy, _cross_entropy_rate),
}


def _activations(
    params: Sequence[Layer], activation: str, output_activation: str
) -> list[_Activation]:
    """Return the activation of each layer."""
    check_choice("activation", activation, _ACTIVATIONS)
    check_choice("output_activation", output_activation, _ACTIVATIONS)
    hidden = [_ACTIVATIONS[activation]] * (len(params) - 1)
    return [*hidden, _ACTIVATIONS[output_activation]]
