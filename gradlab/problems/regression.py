r"""Regression losses on real data: linear, logistic, softmax.

All three are a mean over the N samples plus a ridge penalty on all the parameters, weights
and bias alike, $\frac12 \lambda \|\theta\|^2$. With λ > 0 each is strictly convex: there is
one minimiser. The parameters are `{"bias": ..., "weights": ...}` and start at zero. With
`held_out`, a share of the rows is kept from the training for `Problem.evaluate`.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import check_choice
from gradlab._typing import Params
from gradlab.problems import data
from gradlab.problems._least_squares import sum_of_squares
from gradlab.problems._types import Features, Labels, Number, Residuals, Rows, Targets, Value
from gradlab.problems.registry import Problem, fixed_start, register

__all__ = ["linear", "logistic", "softmax"]

_DEFAULT_L2 = 1e-3
# the minima at that penalty, by Newton's method in float64 until the gradient is below 1e-16
_LOGISTIC_MINIMUM = 0.05982947188180511
_SOFTMAX_MINIMUM = 0.2639258232950729


def _penalty(params: Params, l2: Number) -> Value:
    """Return half of `l2` times the sum of the squares of all parameters."""
    return l2 / 2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def _linear_prediction(params: Params, features: Features, *_: Any) -> Targets:
    return features @ params["weights"] + params["bias"]


def _linear_residual(params: Params, features: Features, targets: Targets) -> Residuals:
    return (_linear_prediction(params, features) - targets) / math.sqrt(targets.size)


def _ridge_residual(
    params: Params,
    features: Features,
    targets: Targets,
    l2: Number,
) -> Residuals:
    flat = jnp.concatenate([params["bias"][None], params["weights"]])
    return jnp.concatenate(
        [_linear_residual(params, features, targets), jnp.sqrt(l2 / 2) * flat]
    )


def _rmse(params: Params, features: Features, targets: Targets, *_: Any) -> Value:
    return jnp.sqrt(jnp.mean((_linear_prediction(params, features) - targets) ** 2))


@register("linear", tags=("regression", "convex", "least_squares", "data"))
def linear(*, l2: float = 0.0, held_out: float = 0.0) -> Problem:
    r"""Build linear least squares on the diabetes data: 442 samples, 10 features and a bias.

    $\frac1N \|X w + b - y\|^2 + \frac12 \lambda (\|w\|^2 + b^2)$, a sum of squares exactly:
    the residual is $(X w + b - y) / \sqrt N$, followed by $\sqrt{\lambda / 2}\,(b, w)$ where
    λ is not zero. Features and targets are standardised. The minimiser is the closed form,
    by an orthogonal factorisation in float64.
    """
    extra = (data.checked_penalty(l2),) if l2 else ()
    train, test = data.split(data.diabetes(), held_out)
    features, targets = train
    num_samples, num_features = features.shape
    matrix = np.column_stack([np.ones(num_samples), features]) / math.sqrt(num_samples)
    matrix = np.vstack([matrix, math.sqrt(l2 / 2) * np.eye(num_features + 1)])
    right = np.concatenate([targets / math.sqrt(num_samples), np.zeros(num_features + 1)])
    solution = np.linalg.lstsq(matrix, right, rcond=None)[0]
    return Problem(
        name="linear",
        loss=sum_of_squares(_ridge_residual if l2 else _linear_residual),
        residual=_ridge_residual if l2 else _linear_residual,
        args=(*train, *extra),
        held_out=(*test, *extra) if test else (),
        row_args=2,
        predict=_linear_prediction,
        metrics={"rmse": _rmse},
        init=fixed_start({"bias": np.zeros(()), "weights": np.zeros(num_features)}),
        minimum=float(np.sum((matrix @ solution - right) ** 2)),
        minimizer={"bias": solution[0], "weights": solution[1:]},
        description="Linear least squares, diabetes: 11 parameters, 442 rows.",
        source=data.DIABETES,
    )


def _margins(params: Params, features: Features, *_: Any) -> Targets:
    return features @ params["weights"] + params["bias"]


def _logistic_cross_entropy(
    params: Params, features: Features, signs: Targets, *_: Any
) -> Value:
    # log(1 + exp(-margin)) without overflow at either end
    return jnp.mean(jax.nn.softplus(-signs * _margins(params, features)))


def _logistic_loss(
    params: Params,
    features: Features,
    signs: Targets,
    l2: Number,
) -> Value:
    return _logistic_cross_entropy(params, features, signs) + _penalty(params, l2)


def _sign_accuracy(params: Params, features: Features, signs: Targets, *_: Any) -> Value:
    return jnp.mean(signs * _margins(params, features) > 0, dtype=signs.dtype)


@register("logistic", tags=("regression", "convex", "data"))
def logistic(*, l2: float = _DEFAULT_L2, held_out: float = 0.0) -> Problem:
    r"""Build logistic regression on the breast cancer data: 569 samples, 30 features and bias.

    $\frac1N \sum_i \log(1 + e^{-s_i (w^\top x_i + b)}) + \frac12 \lambda (\|w\|^2 + b^2)$
    with signs s of ±1 and standardised features. Weights and bias are regularised alike.
    With λ = 0 the minimum is far away: the two classes are almost separable.
    """
    l2 = data.checked_penalty(l2)
    train, test = data.split(data.breast_cancer(), held_out)
    return Problem(
        name="logistic",
        loss=_logistic_loss,
        args=(*train, l2),
        held_out=(*test, l2) if test else (),
        row_args=2,
        predict=_margins,
        metrics={"accuracy": _sign_accuracy, "cross_entropy": _logistic_cross_entropy},
        init=fixed_start({"bias": np.zeros(()), "weights": np.zeros(train[0].shape[1])}),
        minimum=_LOGISTIC_MINIMUM if l2 == _DEFAULT_L2 and not test else None,
        description="Logistic regression, breast cancer: 31 parameters, 569 rows.",
        source=data.BREAST_CANCER,
    )


def _scores(params: Params, features: Features, *_: Any) -> Rows:
    return features @ params["weights"] + params["bias"][None, :]


def _softmax_cross_entropy(
    params: Params, features: Features, labels: Labels, *_: Any
) -> Value:
    log_probabilities = jax.nn.log_softmax(_scores(params, features), axis=1)
    return -jnp.mean(jnp.take_along_axis(log_probabilities, labels[:, None], axis=1))


def _softmax_loss(
    params: Params,
    features: Features,
    labels: Labels,
    l2: Number,
) -> Value:
    return _softmax_cross_entropy(params, features, labels) + _penalty(params, l2)


def _accuracy(params: Params, features: Features, labels: Labels, *_: Any) -> Value:
    scores = _scores(params, features)
    return jnp.mean(jnp.argmax(scores, axis=1) == labels, dtype=scores.dtype)


@register("softmax", tags=("regression", "convex", "data"))
def softmax(
    *, dataset: str = "digits", l2: float = _DEFAULT_L2, held_out: float = 0.0
) -> Problem:
    r"""Build softmax regression on the digits: 1797 pictures, 64 pixels, 10 classes, n = 650.

    Mean cross-entropy of $\mathrm{softmax}(x^\top W + b)$ with W of shape (64, 10), plus
    $\frac12 \lambda (\|W\|^2 + \|b\|^2)$ on weights and biases alike. The penalty makes the
    minimiser unique: without it, one number added to all biases changes nothing.
    `dataset` "wine" takes 178 wines, 13 measurements and 3 growers instead, n = 42.
    """
    loaders = {"digits": data.digits, "wine": data.wine}
    check_choice("dataset", dataset, loaders)
    l2 = data.checked_penalty(l2)
    features, labels = loaders[dataset]()
    train, test = data.split((features, labels), held_out)
    classes = int(labels.max()) + 1
    start = {"bias": np.zeros(classes), "weights": np.zeros((features.shape[1], classes))}
    digits = dataset == "digits"
    known = digits and l2 == _DEFAULT_L2 and not test
    return Problem(
        name="softmax",
        loss=_softmax_loss,
        args=(*train, l2),
        held_out=(*test, l2) if test else (),
        row_args=2,
        predict=_scores,
        metrics={"accuracy": _accuracy, "cross_entropy": _softmax_cross_entropy},
        init=fixed_start(start),
        minimum=_SOFTMAX_MINIMUM if known else None,
        description="Softmax regression, digits (or wine): 650 parameters, 1,797 rows.",
        source=data.DIGITS if digits else data.WINE,
    )
