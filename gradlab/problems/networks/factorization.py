r"""Matrix factorisation of a table with missing entries, as recommenders do it.

$r_{ui} ≈ μ + b_u + c_i + p_u \cdot q_i$ over the entries that exist, and a ridge penalty.
No table of people's ratings ships with a package that can be relied on; the text has one of
the same kind. Its topics "rate" words: $1 + \log_2$ of the number of times they use them,
and a word that a topic does not use is a missing entry, not a zero.

References:
    Koren, Y., Bell, R. and Volinsky, C. (2009). Matrix factorization techniques for
    recommender systems. Computer 42(8), equation 5.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradlab._typing import Params
from gradlab.problems import data, text
from gradlab.problems._least_squares import sum_of_squares
from gradlab.problems._types import Labels, Number, Residuals, Targets, Value
from gradlab.problems.networks import layers
from gradlab.problems.registry import Problem, check_size, register

__all__ = ["recommender"]


def _rating(params: Params, rows: Labels, columns: Labels, *_: Any) -> Targets:
    rating = params["mean"] + params["rows"][rows] + params["columns"][columns]
    if "row_factors" in params:
        factors = params["row_factors"][rows] * params["column_factors"][columns]
        rating += jnp.sum(factors, axis=1)
    return rating


def _residual(
    params: Params, rows: Labels, columns: Labels, ratings: Targets, l2: Number
) -> Residuals:
    misfit = (_rating(params, rows, columns) - ratings) / math.sqrt(len(ratings))
    # The mean is no deviation from anything: it alone is not drawn to zero.
    drawn = [leaf.reshape(-1) for name, leaf in sorted(params.items()) if name != "mean"]
    return jnp.concatenate([misfit, jnp.sqrt(l2 / 2) * jnp.concatenate(drawn)])


def _rmse(params: Params, rows: Labels, columns: Labels, ratings: Targets, *_: Any) -> Value:
    return jnp.sqrt(jnp.mean((_rating(params, rows, columns) - ratings) ** 2))


@functools.cache
def _start(rows: int, columns: int, rank: int) -> Callable[..., Params]:
    """Build the start: no biases, and small factors, since 0 is a saddle."""
    biases = {"columns": np.zeros(columns), "mean": np.zeros(()), "rows": np.zeros(rows)}
    if rank == 0:
        return layers.start_from(biases)
    factors = {
        "column_factors": layers.Normal((columns, rank), 0.1),
        "row_factors": layers.Normal((rows, rank), 0.1),
    }
    return layers.start_from({**biases, **factors})


@register("recommender", tags=("network", "least_squares", "text", "data", "random_start"))
def recommender(
    *,
    topics: int = 60,
    words: int = 300,
    rank: int = 2,
    l2: float = 4e-3,
    rows: int = 4000,
    held_out: float = 0.2,
) -> Problem:
    """Build matrix factorisation with biases, on a table of topics and words.

    A rating is 1 + log2 of how often one of the `topics` longest topics uses one of the
    `words` most frequent words. `rank` 0 leaves the biases alone, the model to beat.
    """
    rank = check_size("rank", rank, at_least=0)
    row, column, counts = text.topic_words(topics, words)
    l2 = data.checked_penalty(l2)
    train, test = data.sample((row, column, 1 + np.log2(counts)), rows, held_out)
    return Problem(
        name="recommender",
        loss=sum_of_squares(_residual),
        residual=_residual,
        init=_start(topics, words, rank),
        args=(*train, l2),
        held_out=(*test, l2) if test else (),
        row_args=3,
        predict=_rating,
        metrics={"rmse": _rmse},
        description="Matrix factorisation, topics × words: 1,081 parameters, 4,000 rows.",
        source=data.TEXT,
    )
