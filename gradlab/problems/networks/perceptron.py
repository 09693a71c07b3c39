r"""The multilayer perceptron on the digits.

$a_0 = x$, $a_l = σ(a_{l-1} W_l + b_l)$, and the scores of the ten classes are affine in the
last $a_l$. The parameters are the list of layers that `gradlab.backprop` takes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from gradlab._errors import check_choice
from gradlab._typing import Params, Scalar
from gradlab.problems import data
from gradlab.problems._types import Features, Labels, Number, Rows, Value
from gradlab.problems.networks import layers
from gradlab.problems.registry import Problem, check_size, register

__all__ = ["Classifier", "classifier", "mlp", "start"]


class Classifier(NamedTuple):
    """The functions of a classifier, all of `(params, features, labels, l2)`."""

    loss: Callable[..., Any]
    predict: Callable[..., Any]
    accuracy: Callable[..., Any]
    cross_entropy: Callable[..., Any]

    @property
    def metrics(self) -> dict[str, Callable[..., Any]]:
        """What is measured on held-out data."""
        return {"accuracy": self.accuracy, "cross_entropy": self.cross_entropy}


def classifier(scores: Callable[[Params, Features], Any]) -> Classifier:
    """Build the functions of the classifier with these scores of the classes.

    Args:
        scores: Function of the parameters and the features, shape (N, d), to (N, classes).

    Returns:
        Its loss, cross-entropy with a ridge penalty, and the rest.
    """

    def predict(params: Params, features: Features, *_: Any) -> Rows:
        return scores(params, features)

    def cross_entropy(params: Params, features: Features, labels: Labels, *_: Any) -> Value:
        return layers.cross_entropy(scores(params, features), labels)

    def loss(params: Params, features: Features, labels: Labels, l2: Number) -> Value:
        return cross_entropy(params, features, labels) + layers.penalty(params, l2)

    def accuracy(params: Params, features: Features, labels: Labels, *_: Any) -> Scalar:
        return layers.accuracy(scores(params, features), labels)

    loss.__name__ = loss.__qualname__ = f"loss_of_{scores.__name__}"
    return Classifier(loss, predict, accuracy, cross_entropy)


@functools.cache  # the same options give the same functions, so compiled code is reused
def _functions(activation: str) -> Classifier:
    """Return the functions of perceptrons with this activation."""
    check_choice("activation", activation, layers.ACTIVATIONS)
    function = layers.ACTIVATIONS[activation]

    def scores(params: list[Any], features: Rows) -> Rows:
        for layer in params[:-1]:
            features = function(layers.dense(layer, features))
        return layers.dense(params[-1], features)

    return classifier(scores)


@functools.cache
def start(sizes: tuple[int, ...], init: str = "xavier") -> Callable[..., Params]:
    """Build the start of a perceptron of these widths, from the features to the outputs."""
    check_choice("init", init, layers.INITIALIZATIONS)
    pairs = itertools.pairwise(sizes)
    return layers.start_from([layers.dense_weights(a, b, init=init) for a, b in pairs])


@register("mlp", tags=("network", "classification", "data", "random_start"))
def mlp(
    *,
    width: int = 32,
    depth: int = 1,
    activation: str = "tanh",
    init: str = "xavier",
    l2: float = 1e-4,
    rows: int | None = None,
    held_out: float = 0.25,
) -> Problem:
    """Build a multilayer perceptron on the digits.

    `depth` hidden layers of `width` units; `activation` "sigmoid", "tanh", "relu" or "gelu";
    weights drawn by the rule `init`, "xavier", "he", "lecun", "naive" (variance 1) or
    "small" (standard deviation 0.01). Mean cross-entropy and a ridge penalty on everything.
    """
    width, depth = (
        check_size("width", width, at_least=1),
        check_size("depth", depth, at_least=0),
    )
    pixels, labels = data.digits()
    train, test = data.split((pixels, labels), held_out, rows=rows)
    l2 = data.checked_penalty(l2)
    functions = _functions(activation)
    return Problem(
        name="mlp",
        loss=functions.loss,
        init=start((pixels.shape[1], *[width] * depth, 10), init),
        args=(*train, l2),
        held_out=(*test, l2) if test else (),
        row_args=2,
        predict=functions.predict,
        metrics=functions.metrics,
        description="Multilayer perceptron, digits: 2,410 parameters, 1,348 rows.",
        source=data.DIGITS,
    )
