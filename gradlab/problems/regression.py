r"""Regression losses on real data: linear, logistic, softmax.

All three are a mean over the N samples plus a ridge penalty on all the parameters, weights
and bias alike, $\frac12 \lambda \|\theta\|^2$. With λ > 0 each is strictly convex: there is
one minimiser. The parameters are `{"bias": ..., "weights": ...}` and start at zero.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import Params
from gradlab.problems import data
from gradlab.problems._least_squares import sum_of_squares
from gradlab.problems._types import Features, Labels, Number, Residuals, Targets, Value
from gradlab.problems.registry import Problem, fixed_start, register

__all__ = ["linear", "logistic", "softmax"]

_DEFAULT_L2 = 1e-3
# the minima at that penalty, by Newton's method in float64 until the gradient is below 1e-16
_LOGISTIC_MINIMUM = 0.05982947188180511
_SOFTMAX_MINIMUM = 0.2639258232950729


def _penalty(params: Params, l2: Number) -> Value:
    """Return half of `l2` times the sum of the squares of all parameters."""
    return l2 / 2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def _check_l2(l2: float) -> None:
    """Raise unless the penalty is a possible one."""
    if not 0 <= l2 < math.inf:
        raise ValueError(f"`l2` must be zero or positive and finite, got {l2}.")


def _linear_residual(params: Params, features: Features, targets: Targets) -> Residuals:
    misfit = features @ params["weights"] + params["bias"] - targets
    return misfit / math.sqrt(targets.size)


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


@register("linear", tags=("regression", "convex", "least_squares", "data"))
def linear(*, l2: float = 0.0) -> Problem:
    r"""Build linear least squares on the diabetes data: 442 samples, 10 features and a bias.

    $\frac1N \|X w + b - y\|^2 + \frac12 \lambda (\|w\|^2 + b^2)$, a sum of squares exactly:
    the residual is $(X w + b - y) / \sqrt N$, followed by $\sqrt{\lambda / 2}\,(b, w)$ where
    λ is not zero. Features and targets are standardised. The minimiser is the closed form,
    by an orthogonal factorisation in float64.
    """
    _check_l2(l2)
    features, targets = data.diabetes()
    num_samples, num_features = features.shape
    matrix = np.column_stack([np.ones(num_samples), features]) / math.sqrt(num_samples)
    matrix = np.vstack([matrix, math.sqrt(l2 / 2) * np.eye(num_features + 1)])
    right = np.concatenate([targets / math.sqrt(num_samples), np.zeros(num_features + 1)])
    solution = np.linalg.lstsq(matrix, right, rcond=None)[0]
    return Problem(
        name="linear",
        loss=sum_of_squares(_ridge_residual if l2 else _linear_residual),
        residual=_ridge_residual if l2 else _linear_residual,
        args=(features, targets, np.float64(l2)) if l2 else (features, targets),
        init=fixed_start({"bias": np.zeros(()), "weights": np.zeros(num_features)}),
        minimum=float(np.sum((matrix @ solution - right) ** 2)),
        minimizer={"bias": solution[0], "weights": solution[1:]},
        description="Linear least squares, diabetes data (442 × 10).",
        source="Efron et al. (2004), Annals of Statistics 32:407-499; through scikit-learn.",
    )


def _logistic_loss(
    params: Params,
    features: Features,
    signs: Targets,
    l2: Number,
) -> Value:
    margins = signs * (features @ params["weights"] + params["bias"])
    # log(1 + exp(-margin)) without overflow at either end
    return jnp.mean(jax.nn.softplus(-margins)) + _penalty(params, l2)


@register("logistic", tags=("regression", "convex", "data"))
def logistic(*, l2: float = _DEFAULT_L2) -> Problem:
    r"""Build logistic regression on the breast cancer data: 569 samples, 30 features and bias.

    $\frac1N \sum_i \log(1 + e^{-s_i (w^\top x_i + b)}) + \frac12 \lambda (\|w\|^2 + b^2)$
    with signs s of ±1 and standardised features. Weights and bias are regularised alike.
    With λ = 0 the minimum is far away: the two classes are almost separable.
    """
    _check_l2(l2)
    features, signs = data.breast_cancer()
    return Problem(
        name="logistic",
        loss=_logistic_loss,
        args=(features, signs, np.float64(l2)),
        init=fixed_start({"bias": np.zeros(()), "weights": np.zeros(features.shape[1])}),
        minimum=_LOGISTIC_MINIMUM if l2 == _DEFAULT_L2 else None,
        description="Logistic regression, breast cancer data (569 × 30).",
        source="Wolberg et al. (1993), UCI repository, CC BY 4.0; through scikit-learn.",
    )


def _softmax_loss(
    params: Params,
    features: Features,
    labels: Labels,
    l2: Number,
) -> Value:
    scores = features @ params["weights"] + params["bias"][None, :]
    log_probabilities = jax.nn.log_softmax(scores, axis=1)
    chosen = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)
    return -jnp.mean(chosen) + _penalty(params, l2)


@register("softmax", tags=("regression", "convex", "data"))
def softmax(*, l2: float = _DEFAULT_L2) -> Problem:
    r"""Build softmax regression on the digits: 1797 pictures, 64 pixels, 10 classes, n = 650.

    Mean cross-entropy of $\mathrm{softmax}(x^\top W + b)$ with W of shape (64, 10), plus
    $\frac12 \lambda (\|W\|^2 + \|b\|^2)$ on weights and biases alike. The penalty makes the
    minimiser unique: without it, one number added to all biases changes nothing.
    """
    _check_l2(l2)
    pixels, labels = data.digits()
    classes = 10
    start = {"bias": np.zeros(classes), "weights": np.zeros((pixels.shape[1], classes))}
    return Problem(
        name="softmax",
        loss=_softmax_loss,
        args=(pixels, labels, np.float64(l2)),
        init=fixed_start(start),
        minimum=_SOFTMAX_MINIMUM if l2 == _DEFAULT_L2 else None,
        description="Softmax regression, handwritten digits (1797 × 64, 10 classes).",
        source="Alpaydin & Kaynak (1998), UCI repository, CC BY 4.0; through scikit-learn.",
    )
