r"""Vectors of words, from the words they stand beside.

Skip-gram with negative sampling takes each pair of neighbours (c, o) and K words drawn at
random, and minimises

$$ -\ln σ(u_o \cdot v_c) - \sum_{k=1}^K \ln σ(-u_{n_k} \cdot v_c). $$

GloVe fits the logarithm of the number of times $X_{ij}$ that two words are neighbours,

$$ \sum_{X_{ij} > 0} f(X_{ij})
   \left(w_i \cdot \tilde w_j + b_i + \tilde b_j - \ln X_{ij}\right)^2, \qquad
   f(X) = \min(1, (X / x_{max})^{3/4}). $$

References:
    Mikolov, T. et al. (2013). Distributed representations of words and phrases and their
    compositionality. NeurIPS.
    Pennington, J. et al. (2014). GloVe: global vectors for word representation. EMNLP.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import AnyArray, Inexact, Int, Params
from gradlab.problems import data, text
from gradlab.problems._least_squares import sum_of_squares
from gradlab.problems._types import Labels, Number, Residuals, Targets, Value
from gradlab.problems.networks import layers
from gradlab.problems.registry import Problem, check_size, register

__all__ = ["glove", "nearest_words", "skip_gram"]

# Words that stand within this distance are neighbours.
_WINDOW = 4
# The exponent with which frequencies are flattened (Mikolov et al., section 2.2).
_FLATTENED = 0.75


def _attraction(params: Params, centers: Labels, contexts: Any) -> Any:
    r"""Return $u \cdot v$ of each row's centre with each of its contexts, shape (N, K)."""
    chosen = params["contexts"][contexts]
    return jnp.einsum("nd,nkd->nk", params["centers"][centers], chosen)


def _skip_gram_loss(
    params: Params, centers: Labels, neighbours: Labels, negatives: Int[AnyArray, "N K"]
) -> Value:
    near = _attraction(params, centers, neighbours[:, None])
    far = _attraction(params, centers, negatives)
    # -ln σ(x) = softplus(-x)
    return (jnp.sum(jax.nn.softplus(-near)) + jnp.sum(jax.nn.softplus(far))) / len(centers)


def _preference(
    params: Params, centers: Labels, neighbours: Labels, negatives: Int[AnyArray, "N K"]
) -> Value:
    """Return how often the true neighbour attracts more than a random word, as a share."""
    near = _attraction(params, centers, neighbours[:, None])
    return jnp.mean(near > _attraction(params, centers, negatives), dtype=near.dtype)


def _vectors(words: int, width: int, length: float = 1.0) -> dict[str, Any]:
    """Describe two vectors of about this length for each word."""
    drawn = layers.Normal((words, width), length / math.sqrt(width))
    return {"centers": drawn, "contexts": drawn}


@functools.cache
def _skip_gram_start(words: int, width: int) -> Callable[..., Params]:
    """Build the start of skip-gram."""
    return layers.start_from(_vectors(words, width))


@register("skip_gram", tags=("network", "embedding", "text", "data", "random_start"))
def skip_gram(
    *,
    words: int = 100,
    width: int = 8,
    negatives: int = 5,
    rows: int = 4000,
    held_out: float = 0.2,
) -> Problem:
    """Build skip-gram with negative sampling on the text.

    Pairs of the `words` most frequent words that stand within four words of each other, and
    `negatives` words with each, drawn once by their frequency to the power 3/4: so the loss
    is a function, not a random variable.
    """
    width = check_size("width", width, at_least=1)
    negatives = check_size("negatives", negatives, at_least=1)
    centers, neighbours = text.cooccurrences(words, _WINDOW)
    frequency = np.bincount(neighbours, minlength=words) ** _FLATTENED
    rng = np.random.default_rng(2)
    drawn = rng.choice(words, (len(centers), negatives), p=frequency / frequency.sum())
    arrays = (centers, neighbours, drawn.astype(np.int32))
    train, test = data.sample(arrays, rows, held_out)
    return Problem(
        name="skip_gram",
        loss=_skip_gram_loss,
        init=_skip_gram_start(words, width),
        args=train,
        held_out=test,
        row_args=3,
        predict=_attraction,
        metrics={"loss": _skip_gram_loss, "preference": _preference},
        description="Skip-gram with negative sampling: 1,600 parameters, 4,000 rows.",
        source=data.TEXT,
    )


def _glove_misfit(params: Params, rows: Labels, columns: Labels, logs: Targets) -> Any:
    product = jnp.sum(params["centers"][rows] * params["contexts"][columns], axis=1)
    return product + params["rows"][rows] + params["columns"][columns] - logs


def _glove_residual(
    params: Params, rows: Labels, columns: Labels, logs: Targets, weights: Targets, l2: Number
) -> Residuals:
    misfit = jnp.sqrt(weights / len(rows)) * _glove_misfit(params, rows, columns, logs)
    vectors = [params[name].reshape(-1) for name in ("centers", "contexts")]
    return jnp.concatenate([misfit, jnp.sqrt(l2 / 2) * jnp.concatenate(vectors)])


def _glove_rmse(
    params: Params, rows: Labels, columns: Labels, logs: Targets, weights: Targets, *_: Any
) -> Value:
    misfit = _glove_misfit(params, rows, columns, logs)
    return jnp.sqrt(jnp.sum(weights * misfit**2) / jnp.sum(weights))


def _glove_prediction(params: Params, rows: Labels, columns: Labels, *_: Any) -> Any:
    return _glove_misfit(params, rows, columns, jnp.zeros(len(rows), params["rows"].dtype))


@functools.cache
def _glove_start(words: int, width: int) -> Callable[..., Params]:
    """Build the start of GloVe: vectors, and biases of zero."""
    biases = {"columns": np.zeros(words), "rows": np.zeros(words)}
    # Short ones: a product of long ones at random would be an error to unlearn.
    return layers.start_from({**_vectors(words, width, 0.2), **biases})


@register(
    "glove", tags=("network", "embedding", "least_squares", "text", "data", "random_start")
)
def glove(
    *,
    words: int = 100,
    width: int = 8,
    l2: float = 1e-3,
    rows: int = 4000,
    held_out: float = 0.1,
) -> Problem:
    """Build GloVe's weighted least squares on the logarithms of counts of the text.

    How often the `words` most frequent words stand within four words of each other; pairs
    that never do are no data. Counts of 20 and more have weight 1. A ridge penalty on the
    vectors, which the paper has no need of, keeps a text as short as this from being learnt
    by heart.
    """
    width = check_size("width", width, at_least=1)
    l2 = data.checked_penalty(l2)
    first, second = text.cooccurrences(words, _WINDOW)
    counts = np.bincount(first * words + second, minlength=words**2)
    seen = np.flatnonzero(counts)
    places = (seen // words).astype(np.int32), (seen % words).astype(np.int32)
    # The paper's x_max is 100, for a text ten thousand times as long.
    weights = np.minimum(1.0, counts[seen] / 20.0) ** _FLATTENED
    train, test = data.sample((*places, np.log(counts[seen]), weights), rows, held_out)
    return Problem(
        name="glove",
        loss=sum_of_squares(_glove_residual),
        residual=_glove_residual,
        init=_glove_start(words, width),
        args=(*train, l2),
        held_out=(*test, l2) if test else (),
        row_args=4,
        predict=_glove_prediction,
        metrics={"rmse": _glove_rmse},
        description="GloVe, counts of neighbouring words: 1,800 parameters, 4,000 rows.",
        source=data.TEXT,
    )


def nearest_words(
    vectors: Inexact[AnyArray, "n d"], word: str, *, count: int = 5
) -> list[tuple[str, float]]:
    """Return the words whose vectors point most nearly the same way, with the cosine.

    Args:
        vectors: Vectors of the most frequent words, as in `params["centers"]`, shape (n, d).
        word: The word.
        count: How many to return.

    Raises:
        ValueError: If the word is not among the n most frequent ones.

    Examples:
        >>> print(nearest_words(np.eye(3), "the", count=1)[0][1])
        0.0
    """
    words = text.vocabulary(len(vectors))
    if word not in words:
        raise ValueError(f"`word` must be among the {len(words)} most frequent, got {word!r}.")
    unit = np.asarray(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[words.index(word)]
    order = [int(i) for i in np.argsort(-cosines) if words[i] != word][:count]
    return [(words[i], float(cosines[i])) for i in order]
