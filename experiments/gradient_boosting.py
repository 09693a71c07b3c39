"""What has gradient boosting to do with gradients, and what is gradient ascent?

They share a word and are often confused. Gradient ascent goes up a function of parameters:
x + r ∇f, which is gradient descent on -f, step by step; here it fits a normal distribution by
its likelihood. Gradient boosting is gradient descent on the predictions F themselves, one
number a row: the negative gradient of Σ (y - F)² / 2 is the residual y - F, a stump (a tree of
one split) is fitted to it by least squares, so that it is known off the data too, and a share
η of it is added. As the curvature is 1, no η above 2 converges. Stumps by hand, in NumPy, on
the diabetes data, beside scikit-learn's GradientBoostingRegressor.

References:
    Friedman, J. (2001). Greedy function approximation: a gradient boosting machine. Annals of
    Statistics 29:1189.
    Mason, L. et al. (1999). Boosting algorithms as gradient descent. NeurIPS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

RATES, QUICK_RATES = (0.03, 0.1, 0.3, 1.0, 1.9, 2.1), (0.1, 1.0, 2.1)  # shares η
STAGES, QUICK_STAGES = 300, 60
HELD_OUT = 0.25
MOST_DRAWN = 2.0  # of the variance; what diverges leaves the axes
ASCENT_RATE, ASCENT_STEPS = 0.2, 200
MASS = "body mass index"  # the third feature
MASS_COLUMN, SHOWN_STAGES = 2, (1, 10, 100)


class Stump(NamedTuple):
    """A tree of one split.

    Attributes:
        feature: Column that is asked for.
        threshold: Rows at or below it go left.
        left: What is said of them.
        right: What is said of the others.
    """

    feature: int
    threshold: float
    left: float
    right: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return what is said of rows, shape (N,)."""
        return np.where(features[:, self.feature] <= self.threshold, self.left, self.right)


def fit_stump(features: np.ndarray, targets: np.ndarray, order: np.ndarray) -> Stump:
    """Return the stump of least squares: it maximises Σ² / n of left plus right.

    Args:
        features: Shape (N, d).
        targets: Shape (N,).
        order: Rows in increasing order of each feature, shape (N, d).
    """
    count = len(targets)
    values = np.take_along_axis(features, order, axis=0)
    sums = np.cumsum(targets[order], axis=0)
    left = np.arange(1, count)[:, None]
    rest = sums[-1:] - sums[:-1]
    score = sums[:-1] ** 2 / left + rest**2 / (count - left)
    score[values[1:] <= values[:-1]] = -np.inf  # equal values cannot be told apart
    row, feature = np.unravel_index(np.argmax(score), score.shape)
    threshold = values[row, feature] / 2 + values[row + 1, feature] / 2
    means = sums[row, feature] / (row + 1), rest[row, feature] / (count - row - 1)
    return Stump(int(feature), float(threshold), float(means[0]), float(means[1]))


def boost(
    features: np.ndarray, targets: np.ndarray, rate: float, stages: int
) -> tuple[float, list[Stump]]:
    """Descend in function space: fit stumps to the residual, one after another.

    Returns:
        The mean, where it starts, and the stumps.
    """
    start = float(np.mean(targets))
    order = np.argsort(features, axis=0, kind="stable")
    predicted, stumps = np.full(len(targets), start), []
    for _ in range(stages):
        stump = fit_stump(features, targets - predicted, order)
        predicted = predicted + rate * stump(features)
        stumps.append(stump)
    return start, stumps


def staged(
    features: np.ndarray, start: float, stumps: Sequence[Stump], rate: float
) -> np.ndarray:
    """Return the predictions after every number of stumps, shape (stages + 1, N)."""
    said = [np.full(len(features), start), *(rate * stump(features) for stump in stumps)]
    return np.cumsum(said, axis=0)


def measure(*, rates: Sequence[float] = RATES, stages: int = STAGES) -> list[dict[str, Any]]:
    """Boost with every rate, by hand and by scikit-learn.

    Returns:
        Rows with the rate, the mean squared errors on training and held-out rows after every
        stump, and the largest difference between both predictions over all stages.
    """
    from sklearn.ensemble import GradientBoostingRegressor

    (x, y), (held_x, held_y) = rows_of_data()
    found = []
    for rate in rates:
        start, stumps = boost(x, y, rate, stages)
        train, test = (staged(part, start, stumps, rate) for part in (x, held_x))
        # Its criterion does not matter: all of them order stumps alike.
        model = GradientBoostingRegressor(
            learning_rate=rate, n_estimators=stages, max_depth=1, random_state=0
        ).fit(x, y)
        # On training rows: where two features divide them alike, either may be asked for,
        # and other rows are then told apart otherwise.
        theirs = np.stack(list(model.staged_predict(x)))
        errors = {
            "train": np.mean((train - y[None]) ** 2, axis=1),
            "test": np.mean((test - held_y[None]) ** 2, axis=1),
        }
        apart = float(np.max(abs(theirs - train[1:])) / np.max(abs(train)))
        found.append({"rate": rate, "apart": apart, **errors})
    return found


def rows_of_data() -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Return the training and the held-out rows of the diabetes data.

    Features are rounded to float32, as scikit-learn's trees do.
    """
    from gradlab.problems import data

    features, targets = data.diabetes()
    return data.split((features.astype(np.float32).astype(float), targets), HELD_OUT)


def ascended() -> dict[str, np.ndarray]:
    """Fit mean and log standard deviation by ascent on ℓ, and by descent on -ℓ.

    Returns:
        Both paths, shape (steps + 1, 2), the closed form, and the heights ℓ on the way.
    """
    import jax
    import jax.numpy as jnp

    (_, y), _ = rows_of_data()

    def likelihood(x: Any) -> Any:
        """Return the mean log density of a normal distribution, but for a constant."""
        return jnp.mean(-(((y + 1 - x[0]) / jnp.exp(x[1])) ** 2) / 2 - x[1])

    start, slope = jnp.asarray([-0.5, 0.7]), jax.grad(likelihood)

    def up(x: Any, _: None) -> tuple[Any, Any]:
        following = x + ASCENT_RATE * slope(x)
        return following, following

    path = jax.lax.scan(up, start, None, length=ASCENT_STEPS)[1]
    method = gl.make("gd", learning_rate=ASCENT_RATE)
    down = gl.minimize(
        lambda x: -likelihood(x), start, method,
        max_steps=ASCENT_STEPS, gtol=0.0, trace="params",
    )  # fmt: skip
    assert down.trace is not None
    path = jnp.concatenate([start[None], path])
    return {
        "up": np.asarray(path),
        "down": np.asarray(down.trace.params),
        "exact": np.asarray([np.mean(y) + 1, np.log(np.std(y))]),
        "height": np.asarray(jax.vmap(likelihood)(path)),
    }


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return one row a rate."""
    from gradlab.compare import Table

    shown = [
        {
            "rate": row["rate"],
            "train": float(row["train"][-1]),
            "test": float(row["test"][-1]),
            "least": float(np.min(row["test"])),
            "at": int(np.argmin(row["test"])),
            "apart": row["apart"],
        }
        for row in rows
    ]
    formats = {
        "rate": ("η", ".2f"), "train": ("training error", ".3g"),
        "test": ("held-out error", ".3g"), "least": ("its least", ".3f"),
        "at": ("after stumps", "d"), "apart": ("by hand − scikit-learn", ".0e"),
    }  # fmt: skip
    return Table(tuple(shown), formats)


def answer(rows: Sequence[dict[str, Any]], ascent: Mapping[str, np.ndarray]) -> str:
    """Say how both are one, how near by hand is to scikit-learn, and which share is best."""
    best = min(table(rows), key=lambda row: row["least"])
    apart = max(row["apart"] for row in rows)
    wild = [f"{row['rate']:g}" for row in rows if row["train"][-1] > row["train"][0]]
    shared = min(len(ascent["up"]), len(ascent["down"]))
    paths = float(np.max(abs(ascent["up"][:shared] - ascent["down"][:shared])))
    end = float(np.max(abs(ascent["up"][-1] - ascent["exact"])))
    return (
        f"Ascent on f and descent on -f take the same {shared - 1} steps, up to {paths:.0e}, "
        f"and end {end:.0e} from the closed form. Stumps by hand predict what "
        f"GradientBoostingRegressor does for training rows, up to {apart:.0e} of the largest. "
        f"The least held-out error, {best['least']:.3f} of a variance of 1, is that of "
        f"η = {best['rate']:g} after {best['at']} stumps. The training error grows with "
        f"η = {', '.join(wild) or 'none'}: gradient descent's limit 2 / L, with L = 1."
    )


def draw(rows: Sequence[dict[str, Any]], ascent: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Draw the ascent, errors by the number of stumps, and a function as it grows.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12.8, 8.6), layout="constrained")
    axes = axes.ravel()
    height = ascent["height"][:60]  # no more is seen of what follows
    step = np.arange(len(height))
    gl.plots.plot_errors(
        {"f": (step, height), "-f": (step, -height)},
        x_label="step", y_label="mean log-likelihood f, and -f", log="", ax=axes[0],
    )  # fmt: skip
    axes[0].set_title("ascent on f is descent on -f", loc="left", fontsize=10.5)
    for ax, part in zip(axes[1:3], ("train", "test"), strict=True):
        lines = {
            f"η = {row['rate']:g}": (
                np.arange(1, len(row[part])),
                np.where(row[part][1:] < MOST_DRAWN, row[part][1:], np.nan),
            )
            for row in rows
        }
        labels: dict[str, Any] = {
            "x_label": "stumps",
            "y_label": "mean squared error / variance",
        }
        gl.plots.plot_errors(lines, **labels, ax=ax)
        name = "training rows" if part == "train" else "held-out rows"
        ax.set_title(name, loc="left", fontsize=10.5)
    _draw_function(axes[3])
    return {"gradient-boosting": figure}


def _draw_function(ax: Any) -> None:
    """Draw a boosted function of one feature after some numbers of stumps, and the rows."""
    (x, y), _ = rows_of_data()
    x, rate = x[:, [MASS_COLUMN]], 0.1
    start, stumps = boost(x, y, rate, max(SHOWN_STAGES))
    fine = np.linspace(x.min(), x.max(), 600)[:, None]
    said = staged(fine, start, stumps, rate)
    ax.plot(x[:, 0], y, ".", color="#b0b0b0", markersize=3, zorder=1)
    lines = {f"{k} stump{'s' * (k > 1)}": (fine[:, 0], said[k]) for k in SHOWN_STAGES}
    labels: dict[str, Any] = {
        "x_label": f"{MASS}, standardised",
        "y_label": "progression, standardised",
    }
    gl.plots.plot_errors(lines, **labels, log="", ax=ax)
    ax.set_title(f"one feature, η = {rate:g}", loc="left", fontsize=10.5)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        settings: dict[str, Any] = {}
        if options.quick:
            settings = {"rates": QUICK_RATES, "stages": QUICK_STAGES}
        rows, ascent = measure(**settings), ascended()
        shown = table(rows)
        shown.to_csv(run.path("rates.csv"))
        print(run.report(shown, answer(rows, ascent)))
        run.save_figures(draw(rows, ascent))


if __name__ == "__main__":
    runs.console(main)
