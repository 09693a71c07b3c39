"""Is a loss without derivatives still trainable, as its parameters grow in number?

Without `jax.grad` a gradient is taken by central differences, two losses for each of n
parameters, or by SPSA, two losses for all of them at once: the slope along one random
direction Δ of signs, times Δ. That is right on average, but its square is about n times too
large, so that the rate must be n times smaller. On quadratics of n variables the losses
evaluated until one in a thousand of the start is left are counted; then softmax regression on
the digits, n = 650, is trained by each, with the best rate of a sweep. What
limits SPSA's rate is tr H where L limits descent's: less than n L where few directions curve.

References:
    Spall, J. (1992). Multivariate stochastic approximation using a simultaneous perturbation
    gradient approximation. IEEE Transactions on Automatic Control 37:332.
    Nesterov, Y. and Spokoiny, V. (2017). Random gradient-free minimization of convex
    functions. Foundations of Computational Mathematics 17:527.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

AUTO, DIFFERENCES, SPSA = "autodiff", "central differences", "SPSA"
SIZES, QUICK_SIZES = (1, 3, 10, 30, 100, 300, 1000), (10, 100)
CONDITION = 10.0
LEFT = 1e-3  # of the loss at the start
SEEDS = 8
# Where runs are given up; SPSA takes about tr H ln(1 / LEFT) / (2 μ) steps of them.
MOST_STEPS = 200_000
# A loss costs 1; a gradient by reverse mode with its value is taken to cost 3 of them.
REVERSE = 3
# Central differences are exact on quadratics; the width matters on the digits only.
WIDTH = 1e-4
DIGIT_STEPS, QUICK_DIGIT_STEPS, RECORDS = 20_000, 2000, 100
GOAL = 0.6  # nats, from ln 10 = 2.3; the losses until then are told
DIGIT_RATES = {AUTO: np.logspace(-1, 1.5, 6), SPSA: np.logspace(-3.5, -1, 6)}


def spsa(loss: Callable[[Any], Any], x: Any, key: Any, width: float = WIDTH) -> Any:
    """Return the SPSA gradient, shape (n,), from two losses.

    (f(x + c Δ) - f(x - c Δ)) / (2 c) Δ, with Δ of random signs, whose own inverse is itself.
    """
    import jax

    signs = jax.random.rademacher(key, x.shape, x.dtype)
    slope = (loss(x + width * signs) - loss(x - width * signs)) / (2 * width)
    return slope * signs


def cost(way: str, n: int) -> int:
    """Return the losses that one gradient costs."""
    return {AUTO: REVERSE, DIFFERENCES: 2 * n, SPSA: 2}[way]


def measure(*, sizes: Sequence[int] = SIZES, seed: int = 0) -> list[dict[str, Any]]:
    """Minimise quadratics of all sizes in all ways.

    The rate is the best for all of them: 2 / (L + μ) with a gradient, 1 / tr H with SPSA.

    Returns:
        Rows with the way, n, steps (least, median and most over seeds) and losses evaluated.
    """
    rows = []
    for n in sizes:
        scales = np.geomspace(1, CONDITION, n) if n > 1 else np.ones(1)
        for way in (AUTO, DIFFERENCES, SPSA):
            steps = np.sort(_steps(way, scales, seed))
            each = cost(way, n)
            rows.append(
                {
                    "way": way, "n": n, "steps": float(np.median(steps)),
                    "low": each * float(steps[0]), "high": each * float(steps[-1]),
                    "losses": each * float(np.median(steps)),
                }
            )  # fmt: skip
    return rows


def _steps(way: str, scales: np.ndarray, seed: int) -> np.ndarray:
    """Return the steps until little is left, one number a seed."""
    import jax
    import jax.numpy as jnp

    weights, n = jnp.asarray(scales), len(scales)

    def loss(x: Any) -> Any:
        return jnp.sum(weights * x**2) / 2

    differences = gl.finite.grad(loss, step=WIDTH)
    gradient = {
        AUTO: lambda x, key: jax.grad(loss)(x),
        DIFFERENCES: lambda x, key: differences(x),
        SPSA: lambda x, key: spsa(loss, x, key),
    }[way]
    rate = 1 / scales.sum() if way == SPSA else 2 / (scales[0] + scales[-1])
    start = jnp.linspace(1.0, 2.0, n)  # no vector of signs
    # Where one rate is exact, as for n = 1, a step would end at the minimum: so they do all.
    goal = LEFT * loss(start)

    def run(key: Any) -> Any:
        def going(carry: Any) -> Any:
            x, k = carry
            return (loss(x) > goal) & (k < MOST_STEPS)

        def step(carry: Any) -> Any:
            x, k = carry
            return x - rate * gradient(x, jax.random.fold_in(key, k)), k + 1

        return jax.lax.while_loop(going, step, (start, 0))[1]

    seeds = SEEDS if way == SPSA else 1  # the others draw nothing
    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(seed), seeds)))


def digits(*, steps: int = DIGIT_STEPS, seed: int = 0) -> dict[str, Any]:
    """Train softmax regression in all ways, each with its best rate.

    The steps of autodiff and of differences are the same up to rounding: those are taken
    once, and counted twice.

    Returns:
        By way, losses evaluated and training losses there; the chosen rates; n.
    """
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    problem = gl.problems.get("softmax", held_out=0.25)
    start, unravel = ravel_pytree(problem.init())

    def loss(x: Any) -> Any:
        return problem.loss(unravel(x), *problem.args)

    def run(way: str, length: int, rate: Any) -> Any:
        def step(x: Any, k: Any) -> tuple[Any, None]:
            key = jax.random.fold_in(jax.random.key(seed), k)
            gradient = spsa(loss, x, key) if way == SPSA else jax.grad(loss)(x)
            return x - rate * gradient, None

        def part(x: Any, ks: Any) -> tuple[Any, Any]:
            x, _ = jax.lax.scan(step, x, ks)
            return x, loss(x)

        ks = jnp.arange(length).reshape(RECORDS, -1)
        return jax.lax.scan(part, start, ks)[1]

    found, chosen = {}, {}
    # Gradient descent needs fewer steps, about 1 / (tr H / L) of them.
    for way, length in ((AUTO, steps // 20), (SPSA, steps)):
        rates = DIGIT_RATES[way]
        lanes = jax.jit(jax.vmap(lambda rate, w=way, k=length: run(w, k, rate)))
        losses = np.asarray(lanes(jnp.asarray(rates)), float)
        best = int(np.nanargmin(np.where(np.isfinite(losses[:, -1]), losses[:, -1], np.inf)))
        at = np.arange(1, RECORDS + 1) * (length // RECORDS)
        chosen[way] = float(rates[best])
        found[way] = (at * cost(way, start.size), losses[best])
        if way == AUTO:
            found[DIFFERENCES] = (at * cost(DIFFERENCES, start.size), losses[best])
    curvatures = np.linalg.eigvalsh(np.asarray(gl.hessian(loss)(start)))
    return {
        "lines": found, "rates": chosen, "n": start.size, "start": float(loss(start)),
        "effective": float(curvatures.sum() / curvatures[-1]),
    }  # fmt: skip


def losses_until(line: tuple[np.ndarray, np.ndarray], goal: float) -> float:
    """Return the losses evaluated until a training is at its goal, NaN where it is not."""
    at, values = line
    reached = np.flatnonzero(values <= goal)
    return float(at[reached[0]]) if reached.size else float("nan")


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return one row a number of variables and way."""
    from gradlab.compare import Table

    formats = {
        "n": ("n", ",d"), "way": ("gradient by", ""), "steps": ("steps", ",.0f"),
        "losses": ("losses evaluated", ",.0f"), "low": ("least", ",.0f"),
        "high": ("most", ",.0f"),
    }  # fmt: skip
    return Table(tuple(sorted(rows, key=lambda row: row["n"])), formats)


def growth(rows: Sequence[dict[str, Any]], way: str) -> float:
    """Return the slope of log losses against log n, from n = 10 on."""
    pairs = [(r["n"], r["losses"]) for r in rows if r["way"] == way and r["n"] >= 10]
    n, losses = np.log(np.asarray(pairs)).T
    return float(np.polyfit(n, losses, 1)[0])


def answer(rows: Sequence[dict[str, Any]], trained: dict[str, Any]) -> str:
    """Say how the cost grows in each way, and what the digits took."""
    slopes = ", ".join(f"{way} n^{growth(rows, way):.2f}" for way in (AUTO, DIFFERENCES, SPSA))
    most = max(row["n"] for row in rows)
    last = {row["way"]: row["losses"] for row in rows if row["n"] == most}
    ratios = ", ".join(f"{way} {last[way] / last[AUTO]:,.0f}" for way in last if way != AUTO)
    told = ", ".join(
        f"{way} {losses_until(line, GOAL):,.0f}" for way, line in trained["lines"].items()
    )
    return (
        f"Losses evaluated grow as: {slopes}. With {most:,} variables, in units of "
        f"autodiff's: {ratios}. On the digits, n = {trained['n']}, a training loss of {GOAL} "
        f"takes: {told}; there tr H / L is {trained['effective']:.0f}, and SPSA's price is "
        "nearer to that than to n. A loss without derivatives is trainable, at that price."
    )


def draw(rows: Sequence[dict[str, Any]], trained: dict[str, Any]) -> dict[str, Any]:
    """Draw the losses evaluated against n, and the training of the digits.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.8, 4.5), layout="constrained")
    lines, ranges = {}, {}
    for way in (AUTO, DIFFERENCES, SPSA):
        here = [row for row in rows if row["way"] == way]
        n = [row["n"] for row in here]
        lines[way] = (n, [row["losses"] for row in here])
        ranges[way] = ([row["low"] for row in here], [row["high"] for row in here])
    gl.plots.plot_errors(
        lines, ranges=ranges, x_label="number of variables n",
        y_label=f"losses evaluated until {LEFT:g} is left", ax=axes[0],
    )  # fmt: skip
    axes[0].set_title(f"quadratics, κ = {CONDITION:g}", loc="left", fontsize=10.5)
    gl.plots.plot_errors(
        trained["lines"], x_label="losses evaluated", y_label="training loss / nats",
        log="xy", ax=axes[1],
    )  # fmt: skip
    axes[1].set_title(f"digits, softmax, n = {trained['n']}", loc="left", fontsize=10.5)
    return {"without-derivatives": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        rows = measure(sizes=QUICK_SIZES if options.quick else SIZES, seed=options.seed)
        steps = QUICK_DIGIT_STEPS if options.quick else DIGIT_STEPS
        trained = digits(steps=steps, seed=options.seed)
        shown = table(rows)
        shown.to_csv(run.path("losses.csv"))
        run.write_json("digits.json", trained)
        print(run.report(shown, answer(rows, trained)))
        run.save_figures(draw(rows, trained))


if __name__ == "__main__":
    runs.console(main)
