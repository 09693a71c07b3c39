r"""What the networks share: initial weights, activations, layers, cross-entropy.

Parameters are dictionaries and lists of arrays; layers are functions of them. Starts are
described by a tree of the same shape, and drawn in float32 whatever the dtype, so that both
precisions start at the same point.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import check_choice
from gradlab._typing import AnyArray, Inexact, Int, Params, PRNGKeyArray, Scalar
from gradlab.problems._types import Number, Value

__all__ = [
    "ACTIVATIONS",
    "INITIALIZATIONS",
    "Normal",
    "accuracy",
    "cross_entropy",
    "dense",
    "dense_weights",
    "layer_norm",
    "penalty",
    "start_from",
    "weights",
]

Hidden = Inexact[AnyArray, "... _"]  # last axis of any width
Labels = Int[AnyArray, "..."]

ACTIVATIONS: MappingProxyType[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "gelu": functools.partial(jax.nn.gelu, approximate=False),
        "relu": jax.nn.relu,
        "sigmoid": jax.nn.sigmoid,
        "tanh": jnp.tanh,
    }
)

# Name -> standard deviation of a weight, of the numbers of inputs and outputs of its layer.
INITIALIZATIONS: MappingProxyType[str, Callable[[int, int], float]] = MappingProxyType(
    {
        "naive": lambda fan_in, fan_out: 1.0,
        "small": lambda fan_in, fan_out: 0.01,
        "lecun": lambda fan_in, fan_out: math.sqrt(1 / fan_in),
        "xavier": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
        "he": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    }
)


@dataclasses.dataclass(frozen=True)
class Normal:
    """Stands, in the description of a start, for an array of normal numbers of mean 0.

    Attributes:
        shape: Its shape.
        scale: Their standard deviation.
    """

    shape: tuple[int, ...]
    scale: float


def weights(*shape: int, init: str = "xavier") -> Normal:
    r"""Describe the initial weights of a layer.

    The last axis of the shape are the outputs, all others together the inputs. Standard
    deviations: "lecun" $\sqrt{1/d_{in}}$, "xavier" $\sqrt{2/(d_{in} + d_{out})}$, "he"
    $\sqrt{2/d_{in}}$; "naive" 1 and "small" 0.01, whatever the width.

    Args:
        *shape: Shape of the weights.
        init: Name of the rule.

    Raises:
        ValueError: If there is no such rule.

    References:
        Glorot, X. and Bengio, Y. (2010). Understanding the difficulty of training deep
        feedforward neural networks. AISTATS.
        He, K. et al. (2015). Delving deep into rectifiers. ICCV.

    Examples:
        >>> print(weights(8, 2, init="he").scale)
        0.5
    """
    check_choice("init", init, INITIALIZATIONS)
    return Normal(shape, INITIALIZATIONS[init](math.prod(shape[:-1]), shape[-1]))


def dense_weights(fan_in: int, fan_out: int, *, init: str = "xavier") -> dict[str, Any]:
    """Describe a dense layer: "weights", shape (fan_in, fan_out), and a "bias" of zeros."""
    return {"bias": np.zeros(fan_out), "weights": weights(fan_in, fan_out, init=init)}


def start_from(description: Params) -> Callable[..., Params]:
    """Build the `init` of a problem from a description of its start.

    All normal numbers are drawn at once, since every draw takes long to compile.

    Args:
        description: Tree of arrays, taken as they are, and of `Normal`.

    Returns:
        Function of a random key, 0 where it is left out, to the parameters in float32.
    """
    leaves, structure = jax.tree.flatten(description)
    sizes = [math.prod(leaf.shape) if isinstance(leaf, Normal) else 0 for leaf in leaves]

    @jax.jit
    def draw(key: PRNGKeyArray) -> Params:
        numbers, place, drawn = jax.random.normal(key, (sum(sizes),), jnp.float32), 0, []
        for leaf, size in zip(leaves, sizes, strict=True):
            if isinstance(leaf, Normal):
                own = numbers[place : place + size].reshape(leaf.shape)
                drawn.append(leaf.scale * own)
            else:
                drawn.append(jnp.asarray(leaf, jnp.float32))
            place += size
        return jax.tree.unflatten(structure, drawn)

    return lambda key=None: draw(jax.random.key(0) if key is None else key)


def dense(layer: dict[str, Any], x: Hidden) -> Hidden:
    """Apply $x W + b$ along the last axis.

    Examples:
        >>> print(dense({"weights": 2 * jnp.eye(2), "bias": jnp.ones(2)}, jnp.arange(2.0)))
        [1. 3.]
    """
    return x @ layer["weights"] + layer["bias"].reshape((1,) * (x.ndim - 1) + (-1,))


def layer_norm(layer: dict[str, Any], x: Hidden) -> Hidden:
    r"""Normalise along the last axis: $γ (x - \bar x) / \sqrt{\mathrm{var}(x) + ε} + β$."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    # The usual addend; it bounds the derivative where all entries are equal.
    spread = jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
    place = (1,) * (x.ndim - 1) + (-1,)
    return layer["scale"].reshape(place) * centred / spread + layer["shift"].reshape(place)


def cross_entropy(scores: Inexact[AnyArray, "... c"], labels: Labels) -> Value:
    """Return the mean of minus the log-probability of the label, in nats.

    Args:
        scores: Scores before the softmax, one of c along the last axis.
        labels: The right one, from 0 to c - 1.

    Examples:
        >>> print(cross_entropy(jnp.zeros((3, 8)), jnp.arange(3)).round(4))
        2.0794
    """
    log_probabilities = jax.nn.log_softmax(scores, axis=-1)
    return -jnp.mean(jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1))


def accuracy(scores: Inexact[AnyArray, "... c"], labels: Labels) -> Scalar:
    """Return the share of the rows whose largest score is that of the label.

    Examples:
        >>> print(accuracy(jnp.eye(4), jnp.asarray([0, 1, 2, 2])))
        0.75
    """
    return jnp.mean(jnp.argmax(scores, axis=-1) == labels, dtype=scores.dtype)


def penalty(params: Params, l2: Number | float) -> Value:
    """Return half of `l2` times the sum of the squares of all parameters."""
    squares = jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)])
    return l2 / 2 * jnp.sum(squares)
