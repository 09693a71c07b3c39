"""What keeps a network from learning its training data by heart?

A wide perceptron and a few of the digits, of which one in five has a wrong label: without any
help it knows every one of them in the end, and its loss on others rises while its own falls.
Against that: penalties on squares (L2) and on absolute values (L1) of the weights, dropout,
pictures moved by a pixel, and stopping when a third set of digits, which is neither trained
on nor judged by, is at its best. All start from the same parameters, with three seeds, and
take the same steps.

References:
    Krogh, A. and Hertz, J. (1992). A simple weight decay can improve generalization. NeurIPS.
    Tibshirani, R. (1996). Regression shrinkage and selection via the lasso. JRSS B 58.
    Srivastava, N. et al. (2014). Dropout. JMLR 15. Prechelt, L. (1998). Early stopping.
    Simard, P. et al. (2003). Best practices for convolutional neural networks. ICDAR
    (moved pictures).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

ROWS, WIDTH = 300, 128
WRONG = 0.2  # share of the training labels that are drawn anew
SEEDS = 3
STEPS, QUICK_STEPS = 3000, 600
RECORDS, QUICK_RECORDS = 60, 20
BATCH, LEARNING_RATE = 50, 3e-3
PLAIN, EARLY = "nothing", "early stopping"
NAMES = (PLAIN, "L2", "L1", "dropout", "moved pictures")
QUICK_NAMES = (PLAIN, "L2", "dropout")


class Remedy(NamedTuple):
    """What is done against overfitting.

    Attributes:
        loss: Function `loss(params, pixels, labels, key)`.
        vary: Function of a key and pixels to the pixels trained on.
    """

    loss: Callable[..., Any]
    vary: Callable[[Any, Any], Any] | None = None


def scores(params: Any, pixels: Any, keep: Any = None) -> Any:
    """Return the scores of the classes; `keep` multiplies the hidden units."""
    import jax.numpy as jnp

    from gradlab.problems.networks import layers

    hidden = jnp.maximum(layers.dense(params[0], pixels), 0)
    return layers.dense(params[1], hidden if keep is None else hidden * keep)


def remedies() -> dict[str, Remedy]:
    """Return the remedies by name, each with a strength that a few trials found good."""
    import jax
    import jax.numpy as jnp

    from gradlab.problems.networks import layers

    def plain(params: Any, pixels: Any, labels: Any, key: Any) -> Any:
        return layers.cross_entropy(scores(params, pixels), labels)

    def l2(params: Any, pixels: Any, labels: Any, key: Any) -> Any:
        return plain(params, pixels, labels, key) + layers.penalty(params, 1e-2)

    def l1(params: Any, pixels: Any, labels: Any, key: Any) -> Any:
        size = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(params))
        return plain(params, pixels, labels, key) + 2e-3 * size

    def dropout(params: Any, pixels: Any, labels: Any, key: Any) -> Any:
        # Half of the units, the others twice as loud: the mean stays what it is.
        keep = 2.0 * jax.random.bernoulli(key, 0.5, (len(pixels), WIDTH))
        return layers.cross_entropy(scores(params, pixels, keep), labels)

    return {
        PLAIN: Remedy(plain),
        "L2": Remedy(l2),
        "L1": Remedy(l1),
        "dropout": Remedy(dropout),
        "moved pictures": Remedy(plain, moved),
    }


def moved(key: Any, pixels: Any) -> Any:
    """Move every picture by up to one pixel in each direction, zeros coming in."""
    import jax
    import jax.numpy as jnp

    padded = jnp.pad(pixels.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    corners = jax.random.randint(key, (len(pixels), 2), 0, 3)
    cut = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, tuple(at), (8, 8)))
    return cut(padded, corners).reshape(pixels.shape)


def measure(
    *,
    names: Sequence[str] = NAMES,
    steps: int = STEPS,
    records: int = RECORDS,
    seeds: int = SEEDS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Train with every remedy, the first of which is none, and stop that one early.

    Returns:
        Rows with the loss and accuracy by seed and record: on the training data, on those
        that decide when to stop ("stop"), and on those that judge ("test").
    """
    import jax

    problem = with_wrong_labels(
        gl.problems.get("mlp", width=WIDTH, rows=ROWS, activation="relu", init="he", l2=0)
    )
    keys = jax.random.split(jax.random.key(seed), seeds)
    rows = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        history = _trained(problem, remedies()[name], keys, steps, records)
        rows.append(
            {"remedy": name, "steps": np.arange(records + 1) * (steps // records)} | history
        )
    plain = rows[0]
    best = np.argmin(plain["stop_loss"], axis=1)
    return [*rows, {**plain, "remedy": EARLY, "stopped": best}]


def with_wrong_labels(problem: gl.Problem) -> gl.Problem:
    """Replace a share of the training labels by other digits."""
    import jax.numpy as jnp

    pixels, labels, l2 = problem.args
    rng = np.random.default_rng(0)
    wrong = rng.random(len(labels)) < WRONG
    drawn = (np.asarray(labels) + rng.integers(1, 10, len(labels))) % 10
    noisy = np.where(wrong, drawn, labels).astype(np.int32)
    return dataclasses.replace(problem, args=(pixels, jnp.asarray(noisy), l2))


def _trained(problem: gl.Problem, remedy: Remedy, keys: Any, steps: int, records: int) -> Any:
    """Train with one remedy from every key."""
    import jax
    import jax.numpy as jnp
    import optax

    from gradlab.problems.networks import layers
    from gradlab.problems.networks.training import train

    pixels, labels = problem.held_out[:2]
    half = len(pixels) // 2
    sets = {
        "train": problem.args[:2],
        "stop": (pixels[:half], labels[:half]),
        "test": (pixels[half:], labels[half:]),
    }

    def vary(key: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        moving, dropping = jax.random.split(key)
        shown = args[0] if remedy.vary is None else remedy.vary(moving, args[0])
        return shown, args[1], dropping

    def told(params: Any) -> dict[str, Any]:
        found = {}
        for name, (x, y) in sets.items():
            s = scores(params, x)
            found[f"{name}_loss"] = layers.cross_entropy(s, y)
            found[f"{name}_accuracy"] = layers.accuracy(s, y)
        size = sum(jnp.sum(jnp.abs(leaf) > 1e-3) for leaf in jax.tree.leaves(params))
        return found | {"large": size / problem.num_params}

    def run(key: Any) -> Any:
        return train(
            problem, optax.adam(LEARNING_RATE), key, steps=steps, batch=BATCH, records=records,
            loss=remedy.loss, vary=vary, measure=told,
        ).history  # fmt: skip

    return {name: np.asarray(line) for name, line in jax.jit(jax.vmap(run))(keys).items()}


def at_end(row: dict[str, Any], name: str) -> np.ndarray:
    """Return a figure at the end of the training, or where it was stopped, one a seed."""
    history = row[name]
    ends = row.get("stopped", np.full(len(history), history.shape[1] - 1))
    return history[np.arange(len(history)), ends]


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the printed table: a row a remedy."""
    from gradlab.compare.table import Table

    shown = []
    for row in rows:
        accuracy = at_end(row, "test_accuracy")
        shown.append(
            {
                "remedy": row["remedy"],
                "train_loss": float(np.mean(at_end(row, "train_loss"))),
                "test_loss": float(np.mean(at_end(row, "test_loss"))),
                "least": float(np.mean(np.min(row["test_loss"], axis=1))),
                "accuracy": float(np.mean(accuracy)),
                "spread": float(np.ptp(accuracy)) / 2,
                "large": float(np.mean(at_end(row, "large"))),
                "steps": float(np.mean(row["steps"][row["stopped"]]))
                if "stopped" in row
                else float(row["steps"][-1]),
            }
        )
    formats = {
        "remedy": ("remedy", ""),
        "steps": ("steps", ",.0f"),
        "train_loss": ("training loss", ".2e"),
        "test_loss": ("test loss", ".3f"),
        "least": ("its least", ".3f"),
        "accuracy": ("test accuracy", ".3f"),
        "spread": ("±", ".3f"),
        "large": ("weights > 0.001", ".0%"),
    }
    return Table(tuple(shown), formats)


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say how far the plain training overfits, and which remedy helps most."""
    found = {row["remedy"]: row for row in table(rows)}
    plain = found[PLAIN]
    by_loss = sorted(found.values(), key=lambda row: row["test_loss"])
    best = max(found.values(), key=lambda row: row["accuracy"])
    risen = plain["test_loss"] / plain["least"] - 1
    order = ", ".join(f"{row['remedy']} {row['test_loss']:.3f}" for row in by_loss)
    return (
        f"Without help the training loss falls to {plain['train_loss']:.1e}, while the test "
        f"loss ends at {plain['test_loss']:.3f}, {risen:.0%} above the least on its way. Test "
        f"losses at the end, best first: {order}. The most accurate is {best['remedy']} with "
        f"{best['accuracy']:.3f}, against {plain['accuracy']:.3f} without help."
    )


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw training and test losses along the training.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.4, 4.4), layout="constrained")
    curves = [row for row in rows if "stopped" not in row]
    for name, log, ax in zip(("train", "test"), ("y", ""), axes, strict=True):
        lines = {
            row["remedy"]: (row["steps"][1:], np.mean(row[f"{name}_loss"], axis=0)[1:])
            for row in curves
        }
        gl.plots.plot_errors(
            lines, x_label="steps", y_label="cross-entropy / nats", ax=ax, log=log
        )
        data = "training data" if name == "train" else "test data"
        ax.set_title(
            f"{data}, mean of {len(rows[0]['test_loss'])} seeds", loc="left", fontsize=10.5
        )
    stopped = rows[-1]
    at = float(np.mean(stopped["steps"][stopped["stopped"]]))
    axes[1].axvline(at, color="#6b6b6b", linewidth=1.0, linestyle=":")
    axes[1].annotate(
        "stopped here", (at, 0.97), xycoords=("data", "axes fraction"), fontsize=9,
        color="#6b6b6b", xytext=(4, 0), textcoords="offset points", va="top",
    )  # fmt: skip
    return {"overfitting": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        steps, records = (QUICK_STEPS, QUICK_RECORDS) if options.quick else (STEPS, RECORDS)
        names = QUICK_NAMES if options.quick else NAMES
        rows = measure(names=names, steps=steps, records=records, seed=options.seed)
        shown = table(rows)
        print(run.report(shown, answer(rows)))
        shown.to_csv(run.path("remedies.csv"))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
