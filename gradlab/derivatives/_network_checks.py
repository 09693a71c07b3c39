"""What the perceptron of `backprop` asks of its arguments, in the caller's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import Array, ArrayLike
from gradlab.derivatives._leaves import check_params

Layer = dict[str, Any]  # arrays: "weights", shape (d_in, d_out), and "bias", shape (d_out,)

__all__ = ["Layer", "checked_features", "checked_targets"]


def checked_features(params: Sequence[Layer], x: ArrayLike) -> Array:
    """Return x in the parameters' dtype, once every shape is known to fit the next."""
    check_params(params, holomorphic=False)
    check_params(x, "x", holomorphic=False)
    x = jnp.asarray(x)
    if x.ndim != 2:
        raise ValueError(
            f"`x` must have shape (N, d), one sample a row, got {x.shape}. A single sample "
            "is x[None, :]."
        )
    width, source = x.shape[1], "`x` has as many features"
    for k, layer in enumerate(params):
        if not isinstance(layer, dict) or set(layer) != {"weights", "bias"}:
            raise TypeError(f"`params[{k}]` must be a dict of 'weights' and 'bias'.")
        weights, bias = jnp.shape(layer["weights"]), jnp.shape(layer["bias"])
        if len(weights) != 2 or weights[0] != width:
            raise ValueError(
                f"`params[{k}]['weights']` must have shape ({width}, d_out), since {source}, "
                f"got {weights}."
            )
        if bias != weights[1:]:
            raise ValueError(
                f"`params[{k}]['bias']` must have shape {weights[1:]}, as its weights have "
                f"columns, got {bias}."
            )
        width, source = weights[1], f"`params[{k}]` has as many outputs"
    return x.astype(jnp.result_type(*jax.tree.leaves(params)))


def checked_targets(y: ArrayLike, prediction: Array, loss: str) -> Array:
    """Return y shaped like the prediction, labels as rows of zeros and a one."""
    y = jnp.asarray(y)
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise TypeError(f"`y` must be real, got {y.dtype}.")
    if loss == "cross_entropy" and jnp.issubdtype(y.dtype, jnp.integer) and y.ndim == 1:
        return _one_hot(y, prediction)
    if y.shape != prediction.shape:
        labels = f", or integer labels ({len(prediction)},)" if loss == "cross_entropy" else ""
        raise ValueError(
            f"`y` must have the shape of the prediction, {prediction.shape}{labels}, got "
            f"{y.dtype}{list(y.shape)}."
        )
    return y.astype(prediction.dtype)


def _one_hot(labels: Array, prediction: Array) -> Array:
    """Turn labels into rows of probabilities; a label out of range is a row of NaN."""
    num_samples, num_classes = prediction.shape
    if len(labels) != num_samples:
        raise ValueError(
            f"`y` must hold {num_samples} labels, one a row of `x`, got {len(labels)}."
        )
    if not isinstance(labels, jax.core.Tracer):
        seen = np.asarray(labels)
        wrong = seen[(seen < 0) | (seen >= num_classes)]
        if wrong.size:
            raise ValueError(
                f"`y` must hold labels from 0 to {num_classes - 1}, since the last layer has "
                f"{num_classes} outputs, got {wrong[0]}."
            )
    in_range = (labels >= 0) & (labels < num_classes)
    rows = jax.nn.one_hot(labels, num_classes, dtype=prediction.dtype)
    return jnp.where(in_range[:, None], rows, jnp.nan)
