"""Do the gradient by hand, by autodiff and by differences agree, and what does each cost?

A perceptron on the digits, one batch of them, wider and wider. The gradient is taken by the
four formulas of backpropagation written out, by automatic differentiation, and by central
differences of the loss, two losses a parameter: where these would take too long, their time
is foretold from that of one loss. Beside them stands a backward pass as it is copied from
tutorial to tutorial, which puts the activation where the slope of its argument belongs.

References:
    Rumelhart, D. E., Hinton, G. E. and Williams, R. J. (1986). Learning representations by
    back-propagating errors. Nature 323:533.
    Griewank, A. and Walther, A. (2008). Evaluating Derivatives, section 4.6: a gradient
    costs no more than about five losses, whatever the number of variables.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

WIDTHS = (4, 16, 64, 256, 1024)
QUICK_WIDTHS = (4, 32, 256)
ACTIVATIONS = ("sigmoid", "tanh", "relu", "gelu")
BATCH = 64
# More losses than this are foretold, not made.
MOST_LOSSES = 8000
HAND, AUTO, DIFFERENCES = "by hand", "autodiff", "central differences"
LOSS, COPIED = "one loss", "as widely copied"


def measure(*, widths: Sequence[int] = WIDTHS, seed: int = 0) -> list[dict[str, Any]]:
    """Take the gradient in every way, for every width and activation.

    Returns:
        Rows with the activation, width, number of parameters, and by way: the seconds, and
        the distance from autodiff's gradient relative to its length. Times are measured with
        one activation, tanh.
    """
    rows = []
    for activation in ACTIVATIONS:
        print(f"{activation} ...", file=sys.stderr, flush=True)
        for width in widths if activation == "tanh" else widths[:1]:
            rows.append(_measured(activation, width, seed))
    return rows


def _measured(activation: str, width: int, seed: int) -> dict[str, Any]:
    """Measure one network."""
    import jax
    from jax.flatten_util import ravel_pytree

    problem = gl.problems.get("mlp", width=width, depth=2, activation=activation, init="he")
    params = problem.init(jax.random.key(seed))
    pixels, labels, _ = problem.rows(slice(0, BATCH))
    options = {"activation": activation, "loss": "cross_entropy"}
    loss = functools.partial(gl.backprop.loss, x=pixels, y=labels, **options)
    # Trees, not vectors: to copy a large gradient into one would take longer than to make it.
    ways: dict[str, Callable[[Any], Any]] = {
        LOSS: jax.jit(loss),
        AUTO: jax.jit(jax.grad(loss)),
        HAND: jax.jit(lambda p: gl.backprop.gradients(p, pixels, labels, **options)),
    }
    n = sum(leaf.size for leaf in jax.tree.leaves(params))
    affordable = 2 * n <= MOST_LOSSES
    if affordable:
        ways[DIFFERENCES] = jax.jit(gl.finite.grad(loss))
    if activation == "sigmoid":
        ways[COPIED] = jax.jit(lambda p: copied_gradient(p, pixels, labels))
    seconds = {name: seconds_of(way, params) for name, way in ways.items()}
    found = {
        name: np.asarray(ravel_pytree(way(params))[0])
        for name, way in ways.items()
        if name != LOSS
    }
    exact = found[AUTO]
    row = {"activation": activation, "width": width, "parameters": n}
    return row | {
        "seconds": seconds,
        "foretold": None if affordable else 2 * n * seconds[LOSS],
        "errors": {
            name: float(np.linalg.norm(g - exact) / np.linalg.norm(exact))
            for name, g in found.items()
            if name != AUTO
        },
        "cosine": _cosine(found[COPIED], exact) if COPIED in found else None,
    }


def copied_gradient(params: list[Any], x: Any, y: Any) -> list[Any]:
    """Go backwards as widely copied: σ' is given a = σ(z), as if that were z.

    Many write `sigmoid_derivative(z) = sigmoid(z) * (1 - sigmoid(z))` and call it with the
    layer's output.
    """
    import jax
    import jax.numpy as jnp

    def slope(z: Any) -> Any:
        return jax.nn.sigmoid(z) * (1 - jax.nn.sigmoid(z))

    passed = gl.backprop.forward(params, x, activation="sigmoid")
    target = jax.nn.one_hot(y, passed.activations[-1].shape[1], dtype=x.dtype)
    delta = (jax.nn.softmax(passed.activations[-1]) - target) / len(x)
    gradient = []
    for k in reversed(range(len(params))):
        gradient.append({"bias": jnp.sum(delta, 0), "weights": passed.activations[k].T @ delta})
        delta = (delta @ params[k]["weights"].T) * slope(passed.activations[k])
    return gradient[::-1]


def seconds_of(function: Callable[[Any], Any], x: Any) -> float:
    """Return the shortest time of a compiled call: other programs only ever add to it."""
    import jax

    jax.block_until_ready(function(x))
    times: list[float] = []
    # Short calls are made often, since one in a few is interrupted; long ones three times.
    while len(times) < 3 or (len(times) < 100 and sum(times) < 0.3):
        started = time.perf_counter()
        jax.block_until_ready(function(x))
        times.append(time.perf_counter() - started)
    return min(times)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the printed table: a row a network."""
    from gradlab.compare.table import Table

    shown = [
        {
            "activation": row["activation"],
            "parameters": row["parameters"],
            "loss": 1e3 * row["seconds"][LOSS],
            **{
                f"{name} / loss": row["seconds"][name] / row["seconds"][LOSS]
                for name in (HAND, AUTO)
            },
            "differences / loss": _differences(row) / row["seconds"][LOSS],
            "foretold": "" if row["foretold"] is None else "foretold",
            "hand": row["errors"][HAND],
            "error": row["errors"].get(DIFFERENCES),
            "copied": row["errors"].get(COPIED),
        }
        for row in rows
    ]
    formats = {
        "activation": ("activation", ""),
        "parameters": ("parameters", ","),
        "loss": ("a loss, ms", ".3f"),
        f"{HAND} / loss": ("by hand / loss", ".1f"),
        f"{AUTO} / loss": ("autodiff / loss", ".1f"),
        "differences / loss": ("differences / loss", ".3g"),
        "foretold": ("", ""),
        "hand": ("hand − autodiff", ".1e"),
        "error": ("differences − autodiff", ".1e"),
        "copied": ("copied − autodiff", ".1e"),
    }
    return Table(tuple(shown), formats)


def _differences(row: dict[str, Any]) -> float:
    """Return the seconds of a gradient by differences, measured or foretold."""
    return row["seconds"].get(DIFFERENCES, row["foretold"])


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say how well the ways agree, what they cost, and what the copied one is worth."""
    hand = max(row["errors"][HAND] for row in rows)
    apart = {
        row["activation"]: row["errors"][DIFFERENCES]
        for row in rows
        if DIFFERENCES in row["errors"]
    }
    smooth = max(error for name, error in apart.items() if name != "relu")
    timed = [row for row in rows if row["activation"] == "tanh"]
    ratios = {
        name: [row["seconds"][name] / row["seconds"][LOSS] for row in timed]
        for name in (HAND, AUTO)
    }
    largest = timed[-1]
    worst = _differences(largest) / largest["seconds"][AUTO]
    how = "it is foretold" if largest["foretold"] is not None else "measured"
    told = (
        f"By hand and by autodiff the gradients differ by at most {hand:.1e} of their length, "
        f"by central differences by at most {smooth:.1e} where the activation is smooth and "
        f"by {apart['relu']:.1e} with ReLU (a difference across a kink sees both slopes). From "
        f"{timed[0]['parameters']:,} to {largest['parameters']:,} parameters a gradient costs "
        f"{min(ratios[HAND]):.1f} to {max(ratios[HAND]):.1f} losses by hand and "
        f"{min(ratios[AUTO]):.1f} to {max(ratios[AUTO]):.1f} by autodiff; by differences "
        f"{worst:,.0f} times as much as by autodiff on the largest, {how}."
    )
    for row in rows:
        if COPIED in row["errors"]:
            angle = math.degrees(math.acos(min(1.0, max(-1.0, row["cosine"]))))
            told += (
                f" The backward pass as widely copied is off by {row['errors'][COPIED]:.0%} of "
                f"the gradient's length and {angle:.0f}° of its direction: no gradient."
            )
    return told


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw times and disagreements against the number of parameters.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    timed = [row for row in rows if row["activation"] == "tanh"]
    n = np.array([row["parameters"] for row in timed])
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.4, 4.4), layout="constrained")
    lines = {
        name: (n, [1e3 * row["seconds"].get(name, np.nan) for row in timed])
        for name in (HAND, AUTO, DIFFERENCES, LOSS)
    }
    counted = {
        DIFFERENCES: (n, [2e3 * row["parameters"] * row["seconds"][LOSS] for row in timed])
    }
    gl.plots.plot_errors(
        lines, counted=counted, x_label="parameters n", y_label="time / ms", ax=left
    )
    left.set_title("time of a gradient   (dashed: 2n losses)", loc="left", fontsize=10.5)
    errors = {
        name: (n, [row["errors"].get(name, np.nan) for row in timed])
        for name in (HAND, DIFFERENCES)
    }
    gl.plots.plot_errors(
        errors, x_label="parameters n", y_label="‖g − g autodiff‖ / ‖g autodiff‖", ax=right
    )
    right.set_title("disagreement with autodiff", loc="left", fontsize=10.5)
    return {"backpropagation": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        widths = QUICK_WIDTHS if options.quick else WIDTHS
        rows = measure(widths=widths, seed=options.seed)
        shown = table(rows)
        print(run.report(shown, answer(rows), results=rows))
        shown.to_csv(run.path("gradients.csv"))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
