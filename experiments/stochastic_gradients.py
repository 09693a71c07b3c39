"""What does a gradient from a few rows cost in accuracy, and which method makes most of it?

Ridge regression on the diabetes data. The gradient of b rows out of N, without replacement, is
right on average, and off by sqrt(tr Σ (N - b) / (b (N - 1))), Σ being the covariance of the
rows' gradients: that is measured at the start. Then the loss is minimised by the gradient of
one row, of some and of all, for every number of passes with the best rate of a sweep: few rows
are cheap far from the minimum, and close to it their noise is what is left. Last, momentum,
Nesterov's acceleration, the adaptive methods and a falling rate, on the same minibatches.

References:
    Bottou, L., Curtis, F. and Nocedal, J. (2018). Optimization methods for large-scale
    machine learning. SIAM Review 60:223.
    Kingma, D. and Ba, J. (2015). Adam. Loshchilov, I. and Hutter, F. (2019). Decoupled weight
    decay. Duchi, J. et al. (2011). Adaptive subgradient methods. JMLR 12:2121.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

PLAIN = ("gd", "momentum", "nesterov", "gd, cosine")
ADAPTIVE = ("adagrad", "rmsprop", "adam", "adamw", "adam, cosine")
METHODS = PLAIN + ADAPTIVE
QUICK_METHODS = ("gd", "adam", "gd, cosine")
SIZES, QUICK_SIZES = (1, 8, 32, 128, 442), (1, 32, 442)  # rows of a batch; 442 are all
BATCH = 32
PASSES, QUICK_PASSES = 100, 20
SEEDS = 5
RATES = 10.0 ** np.arange(-3.75, 0.01, 0.25)
# Makes the condition number 25: without it no method comes close in so few passes, with all
# rows or one, and noise is not what is seen.
PENALTY = 0.3
DRAWS = 2000  # batches of which the spread of the gradient is taken
NEAR = 0.1  # of the gap at the start


def noise(
    *, sizes: Sequence[int] = SIZES, draws: int = DRAWS, seed: int = 0
) -> list[dict[str, float]]:
    """Measure how far gradients of batches are from that of all rows, at the start.

    Returns:
        Rows with the size, the root mean square distance relative to the gradient's length,
        and what theory says of it.
    """
    import jax
    from jax.flatten_util import ravel_pytree

    problem = gl.problems.get("linear", l2=PENALTY)
    params, count = problem.init(), len(problem.args[0])

    def gradient(index: Any) -> Any:
        return ravel_pytree(jax.grad(problem.loss)(params, *problem.rows(index)))[0]

    each = np.asarray(jax.vmap(lambda i: gradient(i[None]))(np.arange(count)))
    whole = each.mean(axis=0)
    spread = float(np.sum((each - whole[None]) ** 2)) / count
    random, length = np.random.default_rng(seed), np.linalg.norm(whole)
    rows = []
    for size in sizes:
        batches = random.permuted(np.tile(np.arange(count), (draws, 1)), axis=1)[:, :size]
        off = each[batches].mean(axis=1) - whole[None]
        theory = spread * (count - size) / (size * (count - 1))
        measured = float(np.mean(np.sum(off**2, axis=1)))
        rows.append(
            {
                "size": size,
                "error": float(np.sqrt(measured) / length),
                "theory": float(np.sqrt(theory) / length),
            }
        )
    return rows


def measure(
    *,
    methods: Sequence[str] = METHODS,
    sizes: Sequence[int] = SIZES,
    passes: int = PASSES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Minimise with gradient descent on batches of every size, and with every method.

    Returns:
        Rows with the method, size, best rate for all passes, least gap after every pass
        (the mean over the seeds, 1 at the start), and the number of rates that diverged.
    """
    pairs = [("gd", size) for size in sizes]
    pairs += [(method, BATCH) for method in methods if (method, BATCH) not in pairs]
    rows = []
    for method, size in pairs:
        print(f"{method}, {size} rows a batch ...", file=sys.stderr, flush=True)
        rows.append(_best(method, size, _swept(method, size, passes, seed)))
    return rows


def _swept(method: str, size: int, passes: int, seed: int) -> np.ndarray:
    """Run with every rate and seed in one program; gaps, shape (rates, seeds, passes + 1)."""
    import jax
    import jax.numpy as jnp
    import optax

    problem = gl.problems.get("linear", l2=PENALTY)
    count = len(problem.args[0])
    name, _, schedule = method.partition(", ")
    options: dict[str, Any] = {}
    if schedule:
        steps = passes * (count // size)
        options = {"schedule": schedule, "num_steps": steps}

    def lane(rate: Any, key: Any) -> Any:
        optimizer = gl.make(name, learning_rate=rate, **options).build()

        def step(carry: tuple[Any, Any], rows: Any) -> Any:
            params, state = carry
            gradient = jax.grad(problem.loss)(params, *problem.rows(rows))
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        def one_pass(carry: tuple[Any, Any], key: Any) -> Any:
            order = jax.random.permutation(key, count)[: count // size * size]
            carry, _ = jax.lax.scan(step, carry, order.reshape(-1, size))
            return carry, problem.loss(carry[0], *problem.args)

        start = problem.init()
        ends = jax.lax.scan(
            one_pass, (start, optimizer.init(start)), jax.random.split(key, passes)
        )[1]
        return jnp.concatenate([problem.loss(start, *problem.args)[None], ends])

    keys = jax.random.split(jax.random.key(seed), SEEDS)
    lanes = jax.jit(jax.vmap(jax.vmap(lane, (None, 0)), (0, None)))
    losses = np.asarray(lanes(jnp.asarray(RATES), keys), float)
    least = float(problem.minimum or 0)
    with np.errstate(over="ignore"):  # of rates that diverge
        return (losses - least) / (losses[..., :1] - least)


def _best(method: str, size: int, gaps: np.ndarray) -> dict[str, Any]:
    """Take for every number of passes the best rate by the mean over the seeds.

    A rate that diverges for one seed cannot win.
    """
    means = np.where(np.isfinite(gaps), gaps, np.inf).mean(axis=1)
    at, line = int(np.argmin(means[:, -1])), means.min(axis=0)
    reached = np.flatnonzero(line <= NEAR)
    return {
        "method": method, "size": size, "rate": float(RATES[at]), "gaps": line,
        "first": float(line[1]), "near": int(reached[0]) if reached.size else None,
        "end": float(line[-1]), "diverged": int(np.sum(~np.all(gaps[..., -1] < 1, axis=1))),
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return one row a method and size."""
    from gradlab.compare import Table

    formats = {
        "method": ("method", ""), "size": ("rows a batch", "d"),
        "rate": ("best rate in the end", ".1e"),
        "diverged": (f"diverged of {len(RATES)}", "d"),
        "first": ("least gap after 1 pass", ".1e"), "near": ("passes to a tenth", "d"),
        "end": ("gap at the end", ".1e"),
    }  # fmt: skip
    shown = [{k: v for k, v in row.items() if k != "gaps"} for row in rows]
    return Table(tuple(shown), formats)


def answer(noises: Sequence[dict[str, float]], rows: Sequence[dict[str, Any]]) -> str:
    """Say what noise costs, which size is first and which last, and rank the methods."""
    off = max(abs(n["error"] / n["theory"] - 1) for n in noises if n["theory"])
    by_size = [row for row in rows if row["method"] == "gd"]
    first = min(by_size, key=lambda row: row["first"])
    last = min(by_size, key=lambda row: row["end"])
    ranked = sorted((r for r in rows if r["size"] == BATCH), key=lambda row: row["end"])
    order = ", ".join(f"{row['method']} {row['end']:.1e}" for row in ranked)
    passes = len(rows[0]["gaps"]) - 1
    return (
        f"The gradient of one row is off by {noises[0]['error']:.1f} times its length; over "
        f"all sizes theory foretells it to {off:.1%}. After one pass the least gap is that of "
        f"{first['size']} rows a batch, {first['first']:.1e}; after {passes} that of "
        f"{last['size']}, {last['end']:.1e}. Methods on {BATCH} rows, best end first: {order}."
    )


def draw(
    noises: Sequence[Mapping[str, float]], rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Draw the noise against the rows, and the gaps against passes by size and by method.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12.8, 8.6), layout="constrained")
    axes = axes.ravel()
    kept = [n for n in noises if n["theory"]]
    size = [n["size"] for n in kept]
    gl.plots.plot_errors(
        {"measured": (size, [n["error"] for n in kept])},
        counted={"measured": (size, [n["theory"] for n in kept])},
        x_label="rows a batch", y_label="error of the gradient / its length", ax=axes[0],
    )  # fmt: skip
    axes[0].set_title("noise   (dashed: theory; 0 with all rows)", loc="left", fontsize=10.5)
    panels = {
        "gradient descent by rows a batch, best rate for each number of passes": [
            (f"{row['size']}", row) for row in rows if row["method"] == "gd"
        ],
        f"constant, momentum, falling; {BATCH} rows a batch": _named(rows, PLAIN),
        f"adaptive; {BATCH} rows a batch": _named(rows, ADAPTIVE),
    }
    axes[3].sharey(axes[2])
    for ax, (title, chosen) in zip(axes[1:], panels.items(), strict=True):
        lines = {
            label: (np.arange(1, len(row["gaps"])), row["gaps"][1:]) for label, row in chosen
        }
        labels: dict[str, Any] = {
            "x_label": "passes through the data",
            "y_label": "gap / gap at the start",
        }
        gl.plots.plot_errors(lines, **labels, ax=ax)
        ax.set_title(title, loc="left", fontsize=10.5)
    return {"stochastic-gradients": figure}


def _named(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the runs of some methods, by name."""
    return [(r["method"], r) for r in rows if r["size"] == BATCH and r["method"] in names]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        settings: dict[str, Any] = {}
        if options.quick:
            settings = {"methods": QUICK_METHODS, "sizes": QUICK_SIZES, "passes": QUICK_PASSES}
        rows = measure(**settings, seed=options.seed)
        sizes = QUICK_SIZES if options.quick else SIZES
        noises = noise(sizes=sizes, seed=options.seed)
        shown = table(rows)
        shown.to_csv(run.path("methods.csv"))
        run.write_json("noise.json", noises)
        print(run.report(shown, answer(noises, rows)))
        run.save_figures(draw(noises, rows))


if __name__ == "__main__":
    runs.console(main)
