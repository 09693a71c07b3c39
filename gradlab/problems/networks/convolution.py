"""A small convolutional network on the digits, pictures of 8 × 8 pixels.

Convolution 3 × 3, activation, mean over 2 × 2; the same again; an affine map to the scores.
The means keep it smooth where the activation is, so that second derivatives exist.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradlab._errors import check_choice
from gradlab._typing import AnyArray, Inexact, Params
from gradlab.problems import data
from gradlab.problems._types import Features, Rows
from gradlab.problems.networks import layers
from gradlab.problems.networks.perceptron import Classifier, classifier
from gradlab.problems.registry import Problem, check_size, register

__all__ = ["cnn", "convolve"]

Images = Inexact[AnyArray, "N h w _"]


def convolve(images: Images, kernel: Inexact[AnyArray, "k k c d"]) -> Images:
    r"""Convolve pictures with a kernel of odd size, zeros around them.

    $y_{n,i,j,d} = \sum_{a,b,c} x_{n,i+a-p,j+b-p,c} K_{a,b,c,d}$ with $p = (k-1)/2$: one
    product of matrices, once the k × k neighbours of each pixel stand in a row.

    Args:
        images: Pictures of c channels, shape (N, h, w, c).
        kernel: Weights of d outputs, shape (k, k, c, d).

    Returns:
        Pictures of d channels, shape (N, h, w, d).

    Examples:
        >>> ones = jnp.ones((1, 4, 4, 1))
        >>> print(convolve(ones, jnp.ones((3, 3, 1, 1)))[0, :, :, 0])
        [[4. 6. 6. 4.]
         [6. 9. 9. 6.]
         [6. 9. 9. 6.]
         [4. 6. 6. 4.]]
    """
    size, _, channels, outputs = kernel.shape
    _, height, width, _ = images.shape
    edge = (0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)
    padded = jnp.pad(images, edge)
    shifted = [
        padded[:, a : a + height, b : b + width] for a in range(size) for b in range(size)
    ]
    neighbours = jnp.concatenate(shifted, axis=-1)
    return neighbours @ kernel.reshape(size * size * channels, outputs)


def _halved(images: Images) -> Inexact[AnyArray, "N _ _ _"]:
    """Average over squares of 2 × 2 pixels."""
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // 2, 2, width // 2, 2, channels)
    return jnp.mean(squares, axis=(2, 4))


@functools.cache
def _functions(activation: str) -> Classifier:
    """Return the functions of networks with this activation."""
    check_choice("activation", activation, layers.ACTIVATIONS)
    function = layers.ACTIVATIONS[activation]

    def scores(params: dict[str, Any], pixels: Features) -> Rows:
        images = pixels.reshape(-1, 8, 8, 1)
        for layer in params["convolutions"]:
            images = convolve(images, layer["kernel"]) + layer["bias"][None, None, None, :]
            images = _halved(function(images))
        return layers.dense(params["dense"], images.reshape(len(pixels), -1))

    return classifier(scores)


@functools.cache
def _start(channels: int) -> Callable[..., Params]:
    """Build the start: as many channels after the first convolution, then twice as many."""
    shapes = (3, 3, 1, channels), (3, 3, channels, 2 * channels)
    return layers.start_from(
        {
            "convolutions": [
                {"bias": np.zeros(shape[-1]), "kernel": layers.weights(*shape, init="he")}
                for shape in shapes
            ],
            # twice halved, 8 × 8 pixels are 2 × 2
            "dense": layers.dense_weights(2 * 2 * 2 * channels, 10),
        }
    )


@register("cnn", tags=("network", "classification", "data", "random_start"))
def cnn(
    *,
    channels: int = 8,
    activation: str = "gelu",
    l2: float = 1e-4,
    rows: int | None = None,
    held_out: float = 0.25,
) -> Problem:
    """Build a convolutional network on the digits.

    Two convolutions, to `channels` and to twice as many, each followed by the activation and
    a mean over 2 × 2 pixels; then one affine layer. Mean cross-entropy and a ridge penalty.
    """
    channels = check_size("channels", channels, at_least=1)
    train, test = data.split(data.digits(), held_out, rows=rows)
    l2 = data.checked_penalty(l2)
    functions = _functions(activation)
    return Problem(
        name="cnn",
        loss=functions.loss,
        init=_start(channels),
        args=(*train, l2),
        held_out=(*test, l2) if test else (),
        row_args=2,
        predict=functions.predict,
        metrics=functions.metrics,
        description="Convolutional network, digits 8 × 8: 1,898 parameters, 1,348 rows.",
        source=data.DIGITS,
    )
