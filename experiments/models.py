"""How well does each model of the curriculum do on data it has never seen?

Every model is trained by the laboratory's own means, from three seeds, and judged on rows
that were kept from the training, beside the simplest rival that does without a model: the
commonest class, the mean, last year's number, the entropy of single characters and of pairs,
one probability a pixel, biases alone. Small models are trained by Newton's method on all of
the data, networks by Adam on minibatches, networks in physics by L-BFGS. The neighbours of
some words in the space of their vectors are printed, and digits drawn by the autoencoder.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

SEEDS = 3
RECORDS = 10
WORDS = ("class", "string", "is", "method", "value")


class Model(NamedTuple):
    """A model, how to train it, and what it has to beat.

    Attributes:
        problem: Name of the problem.
        options: Its options.
        metric: What is measured on held-out data.
        rival: Function of the problem to the name and the figure of the rival.
        goal: What held-out data should show, where more is asked for than to beat the rival.
        method: "adam" on minibatches, or a method of `minimize` on all data.
        learning_rate: Of Adam at its start; it falls to zero along a cosine.
        steps: Number of steps.
        batch: Rows in a batch.
    """

    problem: str
    options: dict[str, Any]
    metric: str
    rival: Callable[[gl.Problem], tuple[str, float]]
    goal: float | None = None
    method: str = "adam"
    learning_rate: float = 0.01
    steps: int = 1200
    batch: int = 64


def commonest(problem: gl.Problem) -> tuple[str, float]:
    """Return the share of the class that is most frequent in the training data."""
    train, test = (np.asarray(args[1]) for args in (problem.args, problem.held_out))
    classes, counts = np.unique(train, return_counts=True)
    return "commonest class", float(np.mean(test == classes[np.argmax(counts)]))


def mean_target(problem: gl.Problem) -> tuple[str, float]:
    """Return the error of telling the mean of the training data."""
    mean = np.mean(problem.args[1])
    return "the mean", float(np.sqrt(np.mean((np.asarray(problem.held_out[1]) - mean) ** 2)))


def last_year(problem: gl.Problem) -> tuple[str, float]:
    """Return the error of telling last year's number again."""
    past, following = (np.asarray(array) for array in problem.held_out[:2])
    return "last year's", float(np.sqrt(np.mean((following - past[:, -1]) ** 2)))


def pairs_of_characters(problem: gl.Problem) -> tuple[str, float]:
    """Return the entropy of a character given the one before."""
    from gradlab.problems.networks import language

    return "bigram entropy", language.entropies()["bigram"]


def single_pixels(problem: gl.Problem) -> tuple[str, float]:
    """Return the likelihood under one probability a pixel."""
    from gradlab.problems.networks import autoencoder

    train, test = (np.asarray(args[0]) for args in (problem.args, problem.held_out))
    return "one p a pixel", autoencoder.factorised_bound(train, test)


def more_frequent(problem: gl.Problem) -> tuple[str, float]:
    """Return how often the true neighbour is more frequent than the random word."""
    _, near, far = (np.asarray(array) for array in problem.held_out)
    counts = np.bincount(np.asarray(problem.args[1]), minlength=max(near.max(), far.max()) + 1)
    return "more frequent", float(np.mean(counts[near][:, None] > counts[far]))


def biases_alone(problem: gl.Problem) -> tuple[str, float]:
    """Return the error of the same model with every vector held at zero."""
    import jax
    import jax.numpy as jnp

    start = jax.tree.map(jnp.zeros_like, problem.init())
    biases = {name: leaf.ndim < 2 for name, leaf in start.items()}
    result = gl.minimize(
        problem.loss, start, "newton_cg", args=problem.args, trainable=biases, max_steps=100
    )
    return "biases alone", problem.evaluate(result.x)["rmse"]


def nothing(problem: gl.Problem) -> tuple[str, float]:
    """Return the relative error of zero."""
    return "zero", 1.0


SHARED = {"held_out": 0.25}
LETTERS: dict[str, Any] = {"rows": 3000, "held_out": 0.2}
MODELS = {
    "linear (ridge)": Model(
        "linear", SHARED | {"l2": 0.1}, "rmse", mean_target, method="newton", steps=20
    ),
    "logistic": Model(
        "logistic", SHARED | {"l2": 1e-2}, "accuracy", commonest, 0.96, method="newton",
        steps=30,
    ),
    "softmax, wine": Model(
        "softmax", SHARED | {"dataset": "wine", "l2": 1e-2}, "accuracy", commonest,
        method="newton", steps=30,
    ),
    "softmax, digits": Model(
        "softmax", SHARED | {"l2": 1e-4}, "accuracy", commonest, 0.95, learning_rate=0.05
    ),
    "perceptron": Model(
        "mlp", {"width": 64, "activation": "gelu", "init": "he"}, "accuracy", commonest, 0.97
    ),
    "convolutional": Model("cnn", {"channels": 16}, "accuracy", commonest, 0.98),
    "recurrent": Model(
        "rnn", LETTERS | {"width": 64}, "cross_entropy", pairs_of_characters, steps=800
    ),
    "LSTM": Model(
        "lstm", LETTERS | {"width": 48}, "cross_entropy", pairs_of_characters,
        learning_rate=0.02, steps=800,
    ),
    "Transformer": Model(
        "transformer", LETTERS | {"width": 32, "heads": 4}, "cross_entropy",
        pairs_of_characters, steps=800,
    ),
    "LSTM, sunspots": Model("sunspots", {}, "rmse", last_year, steps=800),
    "skip-gram": Model(
        "skip_gram", {"words": 300, "width": 16, "rows": 60_000}, "preference",
        more_frequent, learning_rate=0.02, steps=2500, batch=256,
    ),
    "GloVe": Model(
        "glove", {"words": 300, "width": 8, "rows": 16_000, "l2": 3e-4}, "rmse",
        biases_alone, steps=2000, batch=256,
    ),
    "autoencoder": Model(
        "vae", {"width": 64, "latent": 6}, "elbo", single_pixels, learning_rate=0.005,
        steps=2000,
    ),
    "recommender": Model("recommender", {}, "rmse", biases_alone, steps=1500, batch=256),
    "physics, Poisson": Model(
        "poisson", {}, "relative_error", nothing, method="lbfgs", steps=500
    ),
    "physics, Burgers": Model(
        "burgers", {}, "relative_error", nothing, method="lbfgs", steps=500
    ),
}  # fmt: skip
# One of each kind; a character model is small enough to compile and run in seconds.
QUICK = {
    "softmax, digits": MODELS["softmax, digits"]._replace(steps=400),
    "perceptron": MODELS["perceptron"]._replace(steps=600),
    "recurrent": MODELS["recurrent"]._replace(
        options={"rows": 1000, "width": 32}, learning_rate=0.02, steps=300
    ),
    "skip-gram": MODELS["skip-gram"]._replace(
        options={"words": 100, "width": 8, "rows": 10_000}, steps=600
    ),
    "autoencoder": MODELS["autoencoder"]._replace(steps=800),
}


def measure(
    *, models: Mapping[str, Model] = MODELS, seeds: int = SEEDS, seed: int = 0
) -> list[dict[str, Any]]:
    """Train every model from every seed.

    Returns:
        Rows with the sizes, the held-out figures at the end and along the way (one a seed),
        the rival's, whether more is better, and the trained parameters of the first seed.
    """
    import jax

    rows = []
    for name, model in models.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        started = time.perf_counter()
        problem = gl.problems.get(model.problem, **model.options)
        train = _minibatches if model.method == "adam" else _whole
        keys = jax.random.split(jax.random.key(seed), seeds)
        params, steps, history = train(problem, model, keys)
        rival, reached = model.rival(problem)
        rows.append(
            {
                "model": name,
                "problem": model.problem,
                "parameters": problem.num_params,
                "rows": problem.num_rows,
                "held_out": len(problem.held_out[0]),
                "metric": model.metric,
                "more": model.metric in ("accuracy", "preference", "elbo"),
                "mean": float(np.mean(history[:, -1])),
                "least": float(np.min(history[:, -1])),
                "most": float(np.max(history[:, -1])),
                "rival": rival,
                "to_beat": reached,
                "goal": model.goal,
                "seconds": time.perf_counter() - started,
                "steps": steps,
                "history": history,
                "params": params,
            }
        )
    return rows


def _minibatches(problem: gl.Problem, model: Model, keys: Any) -> tuple[Any, Any, Any]:
    """Train by Adam on minibatches, all seeds at once."""
    import jax
    import optax

    from gradlab.problems.networks.training import train

    rate = optax.cosine_decay_schedule(model.learning_rate, model.steps)
    metric = problem.metrics[model.metric]

    def run(key: Any) -> Any:
        return train(
            problem,
            optax.adam(rate),
            key,
            steps=model.steps,
            batch=model.batch,
            records=RECORDS,
            vary=_fresh_noise if model.problem == "vae" else None,
            measure=lambda params: {model.metric: metric(params, *problem.held_out)},
        )

    trained = jax.jit(jax.vmap(run))(keys)
    history = np.asarray(trained.history[model.metric])
    steps = np.arange(RECORDS + 1) * (model.steps // RECORDS)
    return jax.tree.map(lambda leaf: leaf[0], trained.params), steps, history


def _fresh_noise(key: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Draw the noise of an autoencoder anew for every batch."""
    import jax

    pixels, noise = args
    return pixels, jax.random.normal(key, noise.shape, noise.dtype)


def _whole(problem: gl.Problem, model: Model, keys: Any) -> tuple[Any, Any, Any]:
    """Train on all of the data by a method of `minimize`, one seed after the other."""
    import jax

    metric = problem.metrics[model.metric]
    held_out = jax.jit(jax.vmap(lambda params: metric(params, *problem.held_out)))
    first, lines = None, []
    for key in keys:
        result = gl.minimize(
            problem.loss,
            problem.init(key),
            model.method,
            args=problem.args,
            max_steps=model.steps,
            trace="params",
        )
        first = result.x if first is None else first
        lines.append(np.asarray(held_out(result.trace.params)))
    # Runs end when they have converged: the shorter ones stay where they are.
    longest = max(map(len, lines))
    padded = [np.pad(line, (0, longest - len(line)), mode="edge") for line in lines]
    return first, np.arange(longest), np.stack(padded)


def beats(row: Mapping[str, Any]) -> bool:
    """Whether every seed is better than the rival, and than the goal where there is one."""
    worst = row["least"] if row["more"] else row["most"]
    bars = [row["to_beat"], *([] if row["goal"] is None else [row["goal"]])]
    return all(worst > bar if row["more"] else worst < bar for bar in bars)


def table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return the printed table, a row a model."""
    from gradlab.compare.table import Table

    shown = [
        {
            **row,
            "spread": (row["most"] - row["least"]) / 2,
            "said": "yes" if beats(row) else "no",
        }
        for row in rows
    ]
    formats = {
        "model": ("model", ""),
        "parameters": ("parameters", ","),
        "rows": ("rows", ","),
        "held_out": ("held out", ","),
        "metric": ("metric", ""),
        "mean": ("mean", ".4f"),
        "spread": ("±", ".4f"),
        "goal": ("goal", ".2f"),
        "to_beat": ("rival", ".4f"),
        "rival": ("which is", ""),
        "said": ("beaten", ""),
        "seconds": ("seconds", ".1f"),
    }
    return Table(tuple(shown), formats)


def answer(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say how many models beat what they have to, and which do not."""
    failed = [row["model"] for row in rows if not beats(row)]
    better = [row for row in rows if row["goal"] is not None]
    goals = ", ".join(f"{r['model']} {r['mean']:.3f} (goal {r['goal']:g})" for r in better)
    told = f"{len(rows) - len(failed)} of {len(rows)} models beat their rival from every seed"
    told += f"; not {', '.join(failed)}" if failed else ""
    return f"{told}. Accuracy on held-out rows: {goals}."


def neighbours(rows: Sequence[Mapping[str, Any]]) -> str:
    """List the nearest neighbours of some words by the vectors of skip-gram and of GloVe."""
    from gradlab.problems import text
    from gradlab.problems.networks import embeddings

    lines = []
    for row in rows:
        if row["problem"] not in ("skip_gram", "glove"):
            continue
        vectors = np.asarray(row["params"]["centers"])
        known = text.vocabulary(len(vectors))
        for word in [word for word in WORDS if word in known]:
            found = embeddings.nearest_words(vectors, word, count=5)
            told = ", ".join(f"{near} {cosine:.2f}" for near, cosine in found)
            lines.append(f"  {row['model']:>9}  {word}: {told}")
    return "\n".join(["Nearest neighbours, with the cosine:", *lines]) if lines else ""


def draw(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Draw the held-out figures along the training, and what the autoencoder draws.

    Returns:
        Figures by the name of their file.
    """
    import matplotlib.pyplot as plt

    columns = 4 if len(rows) > 6 else min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(3.6 * columns, 2.7 * lines),
        layout="constrained",
        squeeze=False,
    )
    for row, ax in zip(rows, axes.flat, strict=False):
        _panel(row, ax)
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    figures = {"models": figure}
    drawn = [row for row in rows if row["problem"] == "vae"]
    return figures | ({"autoencoder": _pictures(drawn[0])} if drawn else {})


def _panel(row: Mapping[str, Any], ax: Any) -> None:
    """Draw one model: a line a seed, and the rival's height."""
    history = row["history"]
    quiet = "#6b6b6b"
    for line in history:
        ax.plot(row["steps"], line, color="#0072B2", linewidth=1.4, alpha=0.8)
    if row["metric"] == "relative_error":
        ax.set_yscale("log")
    ax.axhline(row["to_beat"], color="#D55E00", linewidth=1.2, linestyle="--")
    ax.annotate(
        row["rival"],
        (1.0, row["to_beat"]),
        xycoords=("axes fraction", "data"),
        xytext=(-2, -3 if row["more"] else 3),  # away from the lines
        textcoords="offset points",
        ha="right",
        va="top" if row["more"] else "bottom",
        fontsize=9.5,
        color="#9a4300",
    )
    ends = [row["to_beat"], *history[:, -1], np.median(history[:, len(history[0]) // 10])]
    if row["metric"] != "relative_error":  # the start may be far away from all of these
        low, high = min(ends), max(ends)
        ax.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.set_title(f"{row['model']}: {row['mean']:.3g}", loc="left", fontsize=11)
    ax.set_xlabel("steps", fontsize=10, color=quiet)
    ax.set_ylabel(row["metric"].replace("_", " "), fontsize=10, color=quiet)
    ax.tick_params(labelsize=9, colors=quiet)


def _pictures(row: Mapping[str, Any]) -> Any:
    """Draw held-out digits, their reconstructions, and digits from random numbers."""
    import matplotlib.pyplot as plt

    options = MODELS["autoencoder"].options
    problem = gl.problems.get("vae", **options)
    pixels = np.asarray(problem.held_out[0][:12])
    told = {
        "held out": pixels,
        "seen again": problem.predict(row["params"], pixels),
        "invented": _invented(row["params"], options["latent"]),
    }
    figure, axes = plt.subplots(3, 12, figsize=(9, 2.6), layout="constrained")
    for (name, pictures), line in zip(told.items(), axes, strict=True):
        for picture, ax in zip(np.asarray(pictures), line, strict=True):
            ax.imshow(picture.reshape(8, 8), cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    return figure


def _invented(params: Any, latent: int) -> Any:
    """Decode hidden numbers drawn from their prior."""
    from gradlab.problems.networks.autoencoder import decode

    return decode(params, np.random.default_rng(0).standard_normal((12, latent)))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        models = QUICK if options.quick else MODELS
        rows = measure(models=models, seed=options.seed)
        kept = [
            {key: value for key, value in row.items() if key not in ("params", "history")}
            | {"steps": int(row["steps"][-1])}
            for row in rows
        ]
        printed = run.report(table(rows), answer(rows), results=kept)
        found = neighbours(rows)
        run.summary["neighbours"] = found
        table(kept).to_csv(run.path("models.csv"))
        print(f"{printed}\n\n{found}")
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
