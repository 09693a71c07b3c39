r"""Recurrent networks: the next character of a text, the next year of a series.

A cell turns a state and an input into the next state; the same weights at every step.

- plain: $h_t = \tanh(x_t U + h_{t-1} W + b)$;
- LSTM, with gates $i, f, o = σ(·)$ and $g = \tanh(·)$ of $x_t U + h_{t-1} W + b$:
  $c_t = f ⊙ c_{t-1} + i ⊙ g$ and $h_t = o ⊙ \tanh c_t$.

References:
    Elman, J. L. (1990). Finding structure in time. Cognitive Science 14.
    Hochreiter, S. and Schmidhuber, J. (1997). Long short-term memory. Neural Computation 9.
    Gers, F. et al. (2000). Learning to forget. Neural Computation 12 (the gate f).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import check_choice
from gradlab._typing import AnyArray, Inexact, Params
from gradlab.problems import data
from gradlab.problems._least_squares import sum_of_squares
from gradlab.problems._types import Features, Number, Residuals, Targets, Value
from gradlab.problems.networks import layers
from gradlab.problems.networks.language import NextCharacter, next_character, windows
from gradlab.problems.registry import Problem, check_size, register
from gradlab.problems.text import ALPHABET

__all__ = ["lstm", "lstm_cell", "rnn", "rnn_cell", "run_cell", "sunspots"]

States = Inexact[AnyArray, "T N _"]


def rnn_cell(params: Params, state: tuple[Any], drive: Any) -> tuple[Any]:
    """Take one step of the plain cell; `drive` is $x_t U$, shape (N, d).

    Examples:
        >>> params = {"recurrent": jnp.eye(1), "bias": jnp.zeros(1)}
        >>> print(rnn_cell(params, (jnp.ones((1, 1)),), -jnp.ones((1, 1)))[0])
        [[0.]]
    """
    (hidden,) = state
    return (jnp.tanh(drive + hidden @ params["recurrent"] + params["bias"][None, :]),)


def lstm_cell(params: Params, state: tuple[Any, Any], drive: Any) -> tuple[Any, Any]:
    """Take one step of the LSTM; `drive` is $x_t U$, shape (N, 4 d), gates i, f, g, o."""
    hidden, memory = state
    total = drive + hidden @ params["recurrent"] + params["bias"][None, :]
    enter, keep, new, leave = jnp.split(total, 4, axis=1)
    memory = jax.nn.sigmoid(keep) * memory + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return jax.nn.sigmoid(leave) * jnp.tanh(memory), memory


# Name -> cell, number of arrays in its state, and of blocks in its weights.
_CELLS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "rnn": (rnn_cell, 1, 1),
    "lstm": (lstm_cell, 2, 4),
}


def run_cell(cell: str, params: Params, drives: States) -> States:
    """Run a cell from the state 0 and return its output after every step.

    Args:
        cell: "rnn" or "lstm".
        params: "recurrent", shape (d, blocks · d), and "bias", shape (blocks · d,).
        drives: Inputs times their weights, shape (T, N, blocks · d).

    Returns:
        The outputs $h_t$, shape (T, N, d).
    """
    step, arrays, _ = _CELLS[cell]
    still = jnp.zeros((drives.shape[1], len(params["recurrent"])), drives.dtype)

    def advance(state: Any, drive: Any) -> tuple[Any, Any]:
        state = step(params, state, drive)
        return state, state[0]

    return jax.lax.scan(advance, (still,) * arrays, drives)[1]


def _cell_weights(cell: str, inputs: int, width: int) -> dict[str, Any]:
    """Describe a cell; the LSTM's gate f starts open, with bias 1 (Gers et al.)."""
    blocks = _CELLS[cell][2]
    bias = np.zeros((blocks, width))
    if cell == "lstm":
        bias[1] = 1.0
    # The blocks are layers of their own, beside one another: the scale is that of one.
    scales = layers.weights(inputs, width).scale, layers.weights(width, width).scale
    return {
        "bias": bias.reshape(-1),
        "input": layers.Normal((inputs, blocks * width), scales[0]),
        "recurrent": layers.Normal((width, blocks * width), scales[1]),
    }


@functools.cache
def _text_functions(cell: str) -> NextCharacter:
    """Return the functions of a cell that reads characters."""

    def scores(params: Params, tokens: Any) -> Any:
        # A row of the weights a character: the product with its one-hot vector.
        drives = params["cell"]["input"][tokens.T]
        return layers.dense(params["readout"], run_cell(cell, params["cell"], drives)).swapaxes(
            0, 1
        )

    scores.__name__ = cell
    return next_character(scores)


@functools.cache
def _start(cell: str, inputs: int, width: int, outputs: int) -> Callable[..., Params]:
    """Build the start of a cell and of what reads its output."""
    return layers.start_from(
        {
            "cell": _cell_weights(cell, inputs, width),
            "readout": layers.dense_weights(width, outputs),
        }
    )


def _reader(cell: str, width: int, length: int, rows: int, held_out: float) -> dict[str, Any]:
    """Return what the two problems of characters have in common."""
    functions = _text_functions(cell)
    train, test = windows(length, rows, held_out)
    symbols = len(ALPHABET)
    return {
        "name": cell,
        "loss": functions.loss,
        "init": _start(cell, symbols, check_size("width", width, at_least=1), symbols),
        "args": train,
        "held_out": test,
        "row_args": 1,
        "predict": functions.predict,
        "metrics": functions.metrics,
    }


@register("rnn", tags=("network", "sequence", "text", "data", "random_start"))
def rnn(
    *, width: int = 32, length: int = 32, rows: int = 256, held_out: float = 0.2
) -> Problem:
    """Build a plain recurrent network that tells the next character of the text.

    Windows of `length` characters, each followed by its next; the state starts at zero in
    each. The loss is the mean cross-entropy in nats a character.
    """
    return Problem(
        **_reader("rnn", width, length, rows, held_out),
        description="Recurrent network, next character: 3,656 parameters, 256 rows of 32.",
        source=data.TEXT,
    )


@register("lstm", tags=("network", "sequence", "text", "data", "random_start"))
def lstm(
    *, width: int = 24, length: int = 32, rows: int = 256, held_out: float = 0.2
) -> Problem:
    """Build a network with long short-term memory that tells the next character of the text.

    As "rnn", with the LSTM's cell of `width` units.
    """
    return Problem(
        **_reader("lstm", width, length, rows, held_out),
        description="LSTM, next character: 7,240 parameters, 256 rows of 32.",
        source=data.TEXT,
    )


@functools.cache
def _series_functions(cell: str) -> dict[str, Callable[..., Any]]:
    """Return the functions of a cell that reads a series."""
    check_choice("cell", cell, _CELLS)

    def predict(params: Params, past: Features, *_: Any) -> Targets:
        drives = past.T[:, :, None] * params["cell"]["input"][None]
        last = run_cell(cell, params["cell"], drives)[-1]
        return layers.dense(params["readout"], last)[:, 0]

    def residual(params: Params, past: Features, following: Targets, l2: Number) -> Residuals:
        misfit = (predict(params, past) - following) / math.sqrt(following.size)
        flat = [leaf.reshape(-1) for leaf in jax.tree.leaves(params)]
        return jnp.concatenate([misfit, jnp.sqrt(l2 / 2) * jnp.concatenate(flat)])

    def rmse(params: Params, past: Features, following: Targets, *_: Any) -> Value:
        return jnp.sqrt(jnp.mean((predict(params, past) - following) ** 2))

    residual.__name__ = f"{cell}_of_a_series"
    return {"predict": predict, "residual": residual, "rmse": rmse}


@register("sunspots", tags=("network", "sequence", "least_squares", "data", "random_start"))
def sunspots(
    *,
    cell: str = "lstm",
    width: int = 8,
    length: int = 22,
    l2: float = 1e-3,
    held_out: float = 0.25,
) -> Problem:
    """Build a recurrent network that tells next year's sunspots from those of 22 years.

    The yearly series of 309 years in windows of `length`, standardised by its first years;
    the last years are held out, not years in between. `cell` is "lstm" or "rnn". The loss
    is the mean square of the error, and a ridge penalty.
    """
    length = check_size("length", length, at_least=1)
    series = data.sunspots()
    data.check_share(held_out)
    if length > len(series) // 2:
        raise ValueError(f"`length` must be at most {len(series) // 2}, got {length}.")
    l2 = data.checked_penalty(l2)
    functions = _series_functions(cell)
    count = len(series) - length
    kept = count - round(held_out * count)
    seen = series[: kept + length]
    series = (series - seen.mean()) / seen.std()
    past = np.lib.stride_tricks.sliding_window_view(series, length)[:count].copy()
    following = series[length:]
    return Problem(
        name="sunspots",
        loss=sum_of_squares(functions["residual"]),
        residual=functions["residual"],
        init=_start(cell, 1, check_size("width", width, at_least=1), 1),
        args=(past[:kept], following[:kept], l2),
        held_out=(past[kept:], following[kept:], l2) if kept < count else (),
        row_args=2,
        predict=functions["predict"],
        metrics={"rmse": functions["rmse"]},
        description="LSTM, next year's sunspots: 329 parameters, 215 rows of 22 years.",
        source=data.SUNSPOTS,
    )
