"""How is a hyper-parameter best chosen: grid, chance, halving, or by its own gradient?

Logistic regression on the breast cancer data, with a penalty exp(t) |w|² / 2 on the weights:
t is to make the loss on validation rows small, at the weights that minimise the loss on
training rows, w(t). A grid and random search try values; successive halving gives many of
them few steps each, and the best third three times as many; the hyper-gradient follows
dw/dt = -H^-1 ∂∇f/∂t through the minimiser, at the price of one linear system, and so can
choose one penalty a weight as well, where a grid of ten values each would be 10^31 runs. What
the choice is worth is told by test rows, which nobody chose by.

References:
    Bergstra, J. and Bengio, Y. (2012). Random search for hyper-parameter optimization. JMLR 13.
    Jamieson, K. and Talwalkar, A. (2016). Non-stochastic best arm identification. AISTATS.
    Bengio, Y. (2000). Gradient-based optimization of hyperparameters. Neural Computation 12.
    Pedregosa, F. (2016). Hyperparameter optimization with approximate gradient. ICML.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

LOW, HIGH = math.log(1e-5), math.log(10.0)  # of t
GRID, QUICK_GRID = 49, 13
DRAWS, SEEDS = 9, 20  # of random search, which is judged by its mean over the seeds
ARMS, QUICK_ARMS, KEPT = 27, 9, 3  # of halving
CUTS = (10, 30, 90)  # its steps, until one is left, which is run to its end
LANES = 27  # fits at once
METHOD, STEPS = "lbfgs", 400  # of the inner minimisation
START = 0.0  # of the hyper-gradient's t: a penalty of 1
OUTER_STEPS, QUICK_OUTER_STEPS = 10, 3
# Of the first hyper-gradient: a validation loss of 142 rows is not known more exactly.
OUTER_GTOL = 1e-2
FIGURES = ("validation", "test", "accuracy")
ONE, EACH = "hyper-gradient", "hyper-gradient, one a weight"


class Split(NamedTuple):
    """Rows to train on, to choose by and to judge by: features with a 1, and signs."""

    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    test: tuple[Any, Any]


@functools.cache
def rows_of_data() -> Split:
    """Return half of the rows, a quarter and a quarter."""
    from gradlab.problems import data

    (x, y), (held_x, held_y) = data.split(data.breast_cancer(), 0.5)
    with_one = [np.column_stack([np.ones(len(part)), part]) for part in (x, held_x)]
    held = with_one[1], held_y
    # In turns: the first rows of the data are harder than the last.
    return Split(
        (with_one[0], y),
        (held[0][::2], held[1][::2]),
        (held[0][1::2], held[1][1::2]),
    )


def cross_entropy(w: Any, rows: tuple[Any, Any]) -> Any:
    """Return the mean of log(1 + exp(-margin)) over rows."""
    import jax
    import jax.numpy as jnp

    return jnp.mean(jax.nn.softplus(-rows[1] * (rows[0] @ w)))


def training_loss(w: Any, t: Any) -> Any:
    """Return the loss on training rows with the penalty; t is a number, or one a weight."""
    import jax.numpy as jnp

    return cross_entropy(w, rows_of_data().train) + jnp.sum(jnp.exp(t) * w**2) / 2


def fitted(t: Any, trace: str | None = None) -> gl.Result:
    """Minimise the loss on training rows."""
    import jax.numpy as jnp

    start = jnp.zeros(rows_of_data().train[0].shape[1])
    return gl.minimize(training_loss, start, METHOD, args=(t,), max_steps=STEPS, trace=trace)


def validation_loss(s: Any, tie: Any) -> Any:
    """Return the loss on validation rows at the minimum on training rows, for t = tie s.

    With all entries of `tie` equal to 1 / n all weights have one penalty, the mean of s.
    """
    return cross_entropy(fitted(tie @ s).x, rows_of_data().validation)


@functools.cache
def _judge() -> Callable[[Any], Any]:
    """Build the compiled function from penalties, shape (LANES, n), to their figures."""
    import jax
    import jax.numpy as jnp

    def lane(t: Any) -> dict[str, Any]:
        result, split = fitted(t, "params"), rows_of_data()
        assert result.trace is not None
        right = split.test[1] * (split.test[0] @ result.x) > 0
        rows = jnp.minimum(jnp.asarray(CUTS), result.trace.num_rows - 1)
        early = jax.vmap(cross_entropy, (0, None))(result.trace.params[rows], split.validation)
        return {
            "validation": cross_entropy(result.x, split.validation),
            "test": cross_entropy(result.x, split.test),
            "accuracy": jnp.mean(right, dtype=result.x.dtype),
            "cost": result.cost,
            "early": early,
            "early_cost": result.trace.cost[rows],
        }

    return jax.jit(jax.vmap(lane))


def judged(t: Any) -> dict[str, np.ndarray]:
    """Fit with every t of k numbers, or of k rows with one a weight.

    Always `LANES` at once and one a weight, so that a single program serves them all.

    Returns:
        Losses, accuracy and cost, each shape (k,), and the loss on validation rows and the
        cost after each of `CUTS` steps, shape (k, cuts).
    """
    t, size = np.asarray(t, float), rows_of_data().train[0].shape[1]
    count = len(t)
    rows = np.broadcast_to(t.reshape(count, -1), (count, size))
    filled = np.concatenate([rows, np.repeat(rows[:1], -count % LANES, axis=0)])
    parts = [_judge()(part) for part in np.split(filled, len(filled) // LANES)]
    return {
        name: np.concatenate([np.asarray(part[name], float) for part in parts])[:count]
        for name in parts[0]
    }


def halved(t: np.ndarray) -> tuple[float, float]:
    """Choose by successive halving; the t that is left, and the cost in gradients.

    The first steps of a run are those of a longer one: all are run once and cut.
    """
    found, left, cost = judged(t), np.arange(len(t)), 0.0
    for place in range(len(CUTS)):
        if len(left) == 1:
            break
        cost += float(found["early_cost"][left, place].sum())
        order = np.argsort(found["early"][left, place], kind="stable")
        left = left[order[: math.ceil(len(left) / KEPT)]]
    return float(t[left[0]]), cost + float(found["cost"][left[0]])


def measure(
    *, grid: int = GRID, arms: int = ARMS, outer_steps: int = OUTER_STEPS, seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Choose the penalty in every way.

    Returns:
        Rows with the way, the numbers of hyper-parameters and fits, cost in gradients of the
        training loss, t, losses on validation and test rows, and test accuracy; and the
        grid's curve.
    """
    t = np.linspace(LOW, HIGH, grid)
    curve = {"t": t} | judged(t)
    at = int(np.argmin(curve["validation"]))
    rows = [_row("grid", 1, grid, curve["cost"].sum(), t[at])]
    random = np.random.default_rng(seed)
    draws = random.uniform(LOW, HIGH, (SEEDS, DRAWS))
    whole = judged(draws.ravel())
    found = {name: whole[name].reshape(draws.shape) for name in ("validation", "cost")}
    best = np.argmin(found["validation"], axis=1)
    # Of the seeds the one in the middle is shown.
    lowest = np.min(found["validation"], axis=1)
    middle = int(np.argsort(lowest)[SEEDS // 2])
    cost = found["cost"].sum(axis=1).mean()
    rows.append(_row("random", 1, DRAWS, cost, draws[middle, best[middle]]))
    chosen, cost = halved(random.uniform(LOW, HIGH, arms))
    rows.append(_row("halving", 1, arms, cost, chosen))
    print("hyper-gradients ...", file=sys.stderr, flush=True)
    size = rows_of_data().train[0].shape[1]
    one, row = _descended(
        ONE, np.full(size, START), np.full((size, size), 1 / size), outer_steps
    )
    _, many = _descended(EACH, one, np.eye(size), outer_steps)
    return [*rows, row | {"number": 1}, many], curve


def _descended(
    way: str, start: np.ndarray, tie: np.ndarray, steps: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Minimise the validation loss itself; where that ends, and its row."""
    import jax.numpy as jnp

    result = gl.minimize(
        validation_loss, jnp.asarray(start), METHOD, args=(jnp.asarray(tie),),
        max_steps=steps, gtol=OUTER_GTOL, trace="params",
    )  # fmt: skip
    assert result.trace is not None
    path, end = np.asarray(result.trace.params) @ tie.T, tie @ np.asarray(result.x)
    fits = int(result.ngev)
    # Every hyper-gradient solves with the Hessian: n products, of twice a gradient.
    cost = fits * (float(judged(path)["cost"].mean()) + 2 * len(start))
    return end, _row(way, len(start), fits, cost, end) | {"path": path}


def _row(way: str, number: int, fits: int, cost: Any, t: Any) -> dict[str, Any]:
    """Describe a choice, judged by a full fit."""
    t = np.asarray(t, float)
    whole = judged(t[None])
    found = {name: float(whole[name][0]) for name in FIGURES}
    about = {"way": way, "number": number, "fits": fits, "cost": float(cost)}
    return about | {"t": t, "penalty": float(np.exp(np.median(t)))} | found


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return one row a way."""
    from gradlab.compare import Table

    formats = {
        "way": ("chosen by", ""), "number": ("hyper-parameters", "d"), "fits": ("fits", "d"),
        "cost": ("cost / gradients", ",.0f"), "penalty": ("(median) penalty", ".2e"),
        "validation": ("validation loss", ".5f"), "test": ("test loss", ".5f"),
        "accuracy": ("test accuracy", ".3f"),
    }  # fmt: skip
    shown = [{k: v for k, v in row.items() if k not in ("t", "path")} for row in rows]
    return Table(tuple(shown), formats)


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say what each choice cost and reached, and what many hyper-parameters gain."""
    found = {row["way"]: row for row in rows}
    ways = ", ".join(
        f"{way} {row['validation']:.4f} for {row['cost']:,.0f} gradients"
        for way, row in found.items()
        if row["number"] == 1
    )
    one, many = found[ONE], found[EACH]
    gain = {k: 1 - many[k] / one[k] for k in ("validation", "test")}
    change = "falls" if gain["test"] > 0 else "rises"
    verdict = "the choice holds" if gain["test"] > 0 else "the validation rows were overfitted"
    return (
        f"With one penalty, validation losses: {ways}. The hyper-gradient then takes one "
        f"penalty for each of {many['number']} weights: the validation loss falls by "
        f"{gain['validation']:.0%}, and the test loss {change} by {abs(gain['test']):.0%}: "
        f"{verdict}."
    )


def draw(rows: Sequence[dict[str, Any]], curve: dict[str, np.ndarray]) -> dict[str, Any]:
    """Draw the losses against the penalty with every choice, and the losses against cost.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.8, 4.5), layout="constrained")
    penalty = np.exp(curve["t"])
    lines = {f"{part} rows": (penalty, curve[part]) for part in ("validation", "test")}
    labels: dict[str, Any] = {"x_label": "penalty exp(t)", "y_label": "cross-entropy / nats"}
    gl.plots.plot_errors(lines, **labels, log="x", ax=axes[0])
    path = np.exp(next(row["path"] for row in rows if row["way"] == ONE)[:, 0])
    heights = np.interp(np.log(path), curve["t"], curve["validation"])
    axes[0].plot(path, heights, "o", color="#D55E00", ms=7, mfc="none", mew=1.6, zorder=4)
    title = "every penalty of the grid   (rings: steps of the hyper-gradient)"
    axes[0].set_title(title, loc="left", fontsize=10.5)
    width = 0.38
    places = np.arange(len(rows))
    for shift, part, color in ((-0.5, "validation", "#0072B2"), (0.5, "test", "#D55E00")):
        heights = np.asarray([row[part] for row in rows])
        axes[1].barh(places + shift * width, heights, width, color=color, label=part)
    names = [f"{row['way']}\n{row['cost']:,.0f} gradients" for row in rows]
    axes[1].set_yticks(places, names, fontsize=9)
    axes[1].invert_yaxis()
    for side in ("top", "right"):
        axes[1].spines[side].set_visible(False)
    axes[1].set_xlabel("cross-entropy / nats")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right center",
                  frameon=False, fontsize=9)  # fmt: skip
    axes[1].set_title("what was chosen", loc="left", fontsize=10.5)
    return {"hyperparameters": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        settings: dict[str, Any] = {}
        if options.quick:
            settings = {
                "grid": QUICK_GRID,
                "arms": QUICK_ARMS,
                "outer_steps": QUICK_OUTER_STEPS,
            }
        rows, curve = measure(**settings, seed=options.seed)
        shown = table(rows)
        shown.to_csv(run.path("choices.csv"))
        run.write_json("grid.json", curve)
        print(run.report(shown, answer(rows)))
        run.save_figures(draw(rows, curve))


if __name__ == "__main__":
    runs.console(main)
