r"""A small Transformer that tells the next character.

Each block adds to its input, first what attention collects from earlier places,

$$ \mathrm{softmax}\!\left(\frac{Q K^T}{\sqrt k} + M\right) V, \qquad
   Q = x W_Q, \quad K = x W_K, \quad V = x W_V, $$

with M = −∞ at later places, then what a perceptron makes of each place alone; both read
their input normalised. The place itself is told by a learned vector.

References:
    Vaswani, A. et al. (2017). Attention is all you need. NeurIPS.
    Xiong, R. et al. (2020). On layer normalization in the Transformer architecture. ICML
    (normalised before, not after).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import AnyArray, Inexact, Params
from gradlab.problems import data
from gradlab.problems.networks import layers
from gradlab.problems.networks.language import next_character, windows
from gradlab.problems.registry import Problem, check_size, register
from gradlab.problems.text import ALPHABET

__all__ = ["attend", "transformer"]

Places = Inexact[AnyArray, "N T d"]
# Taken from the scores of later places; the exponential of it is zero in both precisions.
_NEVER = -1e9


def attend(layer: dict[str, Any], x: Places) -> Places:
    """Collect from this and earlier places, by several heads at once.

    Args:
        layer: "query", "key" and "value", shape (d, heads, k), and "output", shape
            (heads, k, d).
        x: Vectors at T places, shape (N, T, d).

    Returns:
        What is added to them, shape (N, T, d).

    Examples:
        >>> alike = {name: jnp.zeros((1, 1, 1)) for name in ("query", "key")}
        >>> layer = {**alike, "value": jnp.ones((1, 1, 1)), "output": jnp.ones((1, 1, 1))}
        >>> x = jnp.asarray([0.0, 2.0, 4.0])[None, :, None]
        >>> print(attend(layer, x)[0, :, 0])  # with equal scores, the mean so far
        [0. 1. 2.]
    """
    query, key, value = (
        jnp.einsum("ntd,dhk->nhtk", x, layer[name]) for name in ("query", "key", "value")
    )
    scores = jnp.einsum("nhtk,nhsk->nhts", query, key) / math.sqrt(query.shape[-1])
    earlier = jnp.tri(x.shape[1], dtype=bool)[None, None]
    weights = jax.nn.softmax(jnp.where(earlier, scores, _NEVER), axis=-1)
    collected = jnp.einsum("nhts,nhsk->nhtk", weights, value)
    return jnp.einsum("nhtk,hkd->ntd", collected, layer["output"])


def _block(layer: dict[str, Any], x: Places) -> Places:
    """Apply one block: attention, then a perceptron at each place."""
    x = x + attend(layer["attention"], layers.layer_norm(layer["norms"][0], x))
    hidden = layers.dense(layer["expand"], layers.layer_norm(layer["norms"][1], x))
    return x + layers.dense(layer["contract"], layers.ACTIVATIONS["gelu"](hidden))


def _scores(params: Params, tokens: Any) -> Any:
    """Return the scores of the next character at each place."""
    x = params["characters"][tokens] + params["places"][None, : tokens.shape[1]]
    for layer in params["blocks"]:
        x = _block(layer, x)
    return layers.dense(params["readout"], layers.layer_norm(params["norm"], x))


_scores.__name__ = "transformer"
_FUNCTIONS = next_character(_scores)


def _norm(width: int) -> dict[str, Any]:
    """Describe a normalisation that changes nothing else."""
    return {"scale": np.ones(width), "shift": np.zeros(width)}


def _block_weights(width: int, heads: int) -> dict[str, Any]:
    """Describe one block, its perceptron twice as wide."""
    # Seen as one matrix to, and one from, all heads together.
    scale, size = layers.weights(width, width).scale, width // heads
    into = layers.Normal((width, heads, size), scale)
    return {
        "attention": {
            "key": into,
            "output": layers.Normal((heads, size, width), scale),
            "query": into,
            "value": into,
        },
        "contract": layers.dense_weights(2 * width, width),
        "expand": layers.dense_weights(width, 2 * width),
        "norms": [_norm(width), _norm(width)],
    }


@functools.cache
def _start(width: int, heads: int, blocks: int, length: int) -> Callable[..., Params]:
    """Build the start of a Transformer of these sizes."""
    # Vectors of length about one; the first normalisation sees their sum.
    scale, symbols = 1 / math.sqrt(width), len(ALPHABET)
    return layers.start_from(
        {
            "blocks": [_block_weights(width, heads) for _ in range(blocks)],
            "characters": layers.Normal((symbols, width), scale),
            "norm": _norm(width),
            "places": layers.Normal((length, width), scale),
            "readout": layers.dense_weights(width, symbols),
        }
    )


@register("transformer", tags=("network", "sequence", "text", "data", "random_start"))
def transformer(
    *,
    width: int = 16,
    heads: int = 2,
    blocks: int = 1,
    length: int = 32,
    rows: int = 256,
    held_out: float = 0.2,
) -> Problem:
    """Build a Transformer that tells the next character of the text.

    `blocks` blocks of attention with `heads` heads over vectors of `width`, which is a
    multiple of `heads`. The loss is the mean cross-entropy in nats a character.
    """
    heads = check_size("heads", heads, at_least=1)
    width = check_size("width", width, at_least=heads, multiple_of=heads)
    blocks = check_size("blocks", blocks, at_least=1)
    train, test = windows(length, rows, held_out)
    return Problem(
        name="transformer",
        loss=_FUNCTIONS.loss,
        init=_start(width, heads, blocks, length),
        args=train,
        held_out=test,
        row_args=1,
        predict=_FUNCTIONS.predict,
        metrics=_FUNCTIONS.metrics,
        description="Transformer, next character: 4,024 parameters, 256 rows of 32.",
        source=data.TEXT,
    )
