"""Does second order pay on minibatches, at equal cost?

A perceptron of one hidden layer learns the digits. Every method gets as many gradient
equivalents as Adam, whose batch size, schedule and learning rate are tuned by sweeps: a
minibatch gradient counts by its share of the rows, a curvature product twice that, a loss a
third. When does each first reach the loss on all rows that Adam ends at?

References:
    Schmidt, R. M., Schneider, F. and Hennig, P. (2021). Descending through a crowded valley:
    benchmarking deep learning optimizers.
    Martens, J. and Grosse, R. (2015). Optimizing neural networks with Kronecker-factored
    approximate curvature.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

ADAM, ADAHESSIAN, SOPHIA = "Adam", "AdaHessian", "Sophia"
AVERAGED, KERNEL, CG = "averaged natural gradient", "kernel natural gradient", "GGN-CG"
# One loss with its gradient, in gradient equivalents.
BOTH = 4 / 3


class Size(NamedTuple):
    """How large the experiment is."""

    width: int
    rows: int | None
    passes: int  # of Adam, which sets the budget
    batches: tuple[int, ...]
    schedules: tuple[str | None, ...]
    seeds: int
    rates: tuple[float, ...]
    averaged_rates: tuple[float, ...]
    methods: tuple[str, ...]


FULL = Size(
    16, None, 40, (32, 128), (None, "cosine"), 3, tuple(10.0 ** np.arange(-2.5, -0.9, 0.25)),
    (0.03, 0.05), (ADAM, ADAHESSIAN, SOPHIA, AVERAGED, KERNEL, CG),
)  # fmt: skip
QUICK = Size(6, 240, 8, (30,), ("cosine",), 2, (0.01, 0.03), (0.05,), (ADAM, AVERAGED))


class Training(NamedTuple):
    """One method's runs.

    Attributes:
        name: The method.
        setting: What its sweep chose.
        losses: Loss on all rows at each record, shape (seeds, records).
        costs: Cost until there in gradient equivalents, without that of the records.
        sweep: Learning rates and the mean loss that each ended at.
        seconds: Wall time of the runs, compilation and sweep included.
    """

    name: str
    setting: str
    losses: np.ndarray
    costs: np.ndarray
    sweep: tuple[np.ndarray, np.ndarray] | None
    seconds: float


class Task(NamedTuple):
    """The network's loss on rows, its parts, its data and its starts."""

    loss: Callable[..., Any]
    model: Callable[..., Any]
    outputs_loss: Callable[..., Any]
    args: tuple[Any, ...]
    starts: Any
    rows: int


def task(size: Size, seed: int = 0) -> Task:
    """Build the network in float32, with one start a seed."""
    import jax
    import jax.numpy as jnp

    from gradlab.problems.networks import layers

    problem = gl.problems.get("mlp", width=size.width, rows=size.rows)
    inputs, labels, ridge = problem.args
    args = jnp.asarray(inputs, jnp.float32), jnp.asarray(labels), jnp.float32(ridge)
    keys = jax.random.split(jax.random.key(seed), size.seeds)

    def model(params: Any, inputs: Any, labels: Any, ridge: Any) -> Any:
        return problem.predict(params, inputs)

    def outputs_loss(scores: Any, inputs: Any, labels: Any, ridge: Any) -> Any:
        return layers.cross_entropy(scores, labels)

    starts = [problem.init(key) for key in keys]
    return Task(problem.loss, model, outputs_loss, args, starts, len(inputs))


def train(
    task: Task, method: Any, batch: int, budget: float, per_record: float, key: Any, start: Any,
    steps: int | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Train until the budget is spent: losses and costs at the records, and at the start.

    `per_record` is the least that a recorded step costs; what the record itself costs, one
    loss and gradient of all rows, is no part of the training and taken off.
    """
    import jax.numpy as jnp

    records = max(int(budget / per_record + 1e-6), 1)
    result = gl.minimize(
        task.loss, start, method, args=task.args, max_steps=records, gtol=0.0,
        batches=gl.minibatches(batch, key=key, steps=steps),
    )  # fmt: skip
    trace = result.trace
    assert trace is not None
    return trace.loss, trace.cost - BOTH * jnp.arange(1, records + 2)


def _swept(
    name: str, task: Task, size: Size, budget: float, seed: int, options: dict[str, Any],
    per_pass: float, batches: Sequence[int], schedules: Sequence[str | None],
    scale: float = 1.0,
) -> Training:  # fmt: skip
    """Train with every rate, seed, batch size and schedule, and keep the best setting."""
    import jax
    import jax.numpy as jnp

    began, found = time.perf_counter(), []
    rates = scale * np.asarray(size.rates)
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *task.starts)
    keys = jax.random.split(jax.random.key(1000 + seed), size.seeds)
    for batch in batches:
        for schedule in schedules:
            made = int(budget / per_pass + 1e-6) * (task.rows // batch)
            shape = {} if schedule is None else {"schedule": schedule, "num_steps": made}

            def lane(rate, key, start, batch=batch, shape=shape):
                method = gl.make(name.lower(), learning_rate=rate, **options, **shape)
                return train(task, method, batch, budget, per_pass, key, start)

            over_seeds = jax.vmap(lane, (None, 0, 0))
            lanes = jax.jit(jax.vmap(over_seeds, (0, None, None)))
            losses, costs = jax.device_get(lanes(jnp.asarray(rates), keys, starts))
            ends = losses[:, :, -1].mean(axis=1)
            best = int(np.nanargmin(np.where(np.isfinite(ends), ends, np.inf)))
            told = f"rate {rates[best]:.2g}, batch {batch}, {schedule or 'constant'}"
            found.append((ends[best], told, losses[best], costs[best], ends))
    _, told, losses, costs, ends = min(found, key=lambda entry: entry[0])
    sweep = rates, ends
    return Training(name, told, losses, costs, sweep, time.perf_counter() - began)


def _averaged(task: Task, size: Size, budget: float, seed: int) -> Training:
    """Train by the averaged natural gradient with each of its rates, one at a time."""
    import jax
    import jax.numpy as jnp

    batch, every, samples = min(64, task.rows // 4), 5, 1
    began = time.perf_counter()
    per_pass = BOTH + samples / every
    total = int(budget / per_pass + 1e-6) * (task.rows // batch)

    @jax.jit
    def run(rate, key, start):
        def schedule(step):  # constant for a fifth, then linearly to nothing
            return rate * jnp.minimum(1, 1.25 * (1 - step / total))

        method = gl.averaged_natural_gradient(
            task.model, task.outputs_loss, schedule, every=every, samples=samples,
            ridge=float(task.args[2]),
        )  # fmt: skip
        return train(task, method, batch, budget, per_pass, key, start)

    found = []
    keys = jax.random.split(jax.random.key(2000 + seed), size.seeds)
    for rate in size.averaged_rates:
        pairs = [
            jax.device_get(run(rate, key, start))
            for key, start in zip(keys, task.starts, strict=True)
        ]
        found.append([np.stack(part) for part in zip(*pairs, strict=True)])
    ends = np.asarray([losses[:, -1].mean() for losses, _ in found])
    best = int(np.nanargmin(np.where(np.isfinite(ends), ends, np.inf)))
    told = f"rate {size.averaged_rates[best]:.2g}, batch {batch}, constant then linear"
    sweep = np.asarray(size.averaged_rates), ends
    return Training(AVERAGED, told, *found[best], sweep, time.perf_counter() - began)


def _single(
    name: str, method: Any, batch: int, per_record: float, steps: int | None, told: str,
    task: Task, size: Size, budget: float, seed: int,
) -> Training:  # fmt: skip
    """Train by one method without a sweep."""
    import jax

    began = time.perf_counter()
    keys = jax.random.split(jax.random.key(3000 + seed), size.seeds)

    @jax.jit
    def run(key, start):
        return train(task, method, batch, budget, per_record, key, start, steps)

    pairs = [
        jax.device_get(run(key, start)) for key, start in zip(keys, task.starts, strict=True)
    ]
    losses, costs = (np.stack(part) for part in zip(*pairs, strict=True))
    return Training(name, told, losses, costs, None, time.perf_counter() - began)


def measure(size: Size = FULL, *, seed: int = 0) -> list[Training]:
    """Train by every method at equal cost.

    Args:
        size: How large the experiment is.
        seed: Seed of starts and batches.

    Returns:
        The trainings, Adam's first.
    """
    built, budget = task(size, seed), BOTH * size.passes
    model = built.model, built.outputs_loss
    quarter, few = built.rows // 4, 32
    makers = {
        ADAM: lambda: _swept(
            ADAM, built, size, budget, seed, {}, BOTH, size.batches, size.schedules
        ),
        ADAHESSIAN: lambda: _swept(
            ADAHESSIAN, built, size, budget, seed, {"every": 10}, BOTH + 0.2,
            size.batches[:1], ("cosine",),
        ),
        SOPHIA: lambda: _swept(
            SOPHIA, built, size, budget, seed, {}, BOTH + 0.2, size.batches[:1], ("cosine",),
            0.1,  # its entries are clipped to one, Adam's are about as large
        ),
        AVERAGED: lambda: _averaged(built, size, budget, seed),
        KERNEL: lambda: _single(
            KERNEL,
            gl.natural_gradient(
                *model, learning_rate=0.1, damping=0.1, momentum=0.9, solver="kernel", rows=True
            ),
            few, (BOTH + 10) * few / built.rows * 10, 10,
            f"rate 0.1, batch {few}, momentum 0.9", built, size, budget, seed,
        ),
        CG: lambda: _single(
            CG, gl.gauss_newton_cg(*model, max_products=10), quarter,
            # At least: both, two gradients, one trial, the products of unit and start.
            (BOTH + 2 + 1 / 3 + 6) / 4, 1, f"batch {quarter}, 10 products", built, size,
            budget, seed,
        ),
    }  # fmt: skip
    return [makers[name]() for name in size.methods]


def arrivals(found: Sequence[Training]) -> dict[str, np.ndarray]:
    """Return for each method, seed by seed, the cost at Adam's last loss over Adam's cost.

    Infinite where the method never gets there within the budget.
    """
    adam = found[0]
    goals, budgets = adam.losses[:, -1], adam.costs[:, -1]
    told = {}
    for run in found:
        shares = []
        for losses, costs, goal, budget in zip(
            run.losses, run.costs, goals, budgets, strict=True
        ):
            there = (losses <= goal) & (costs <= budget * (1 + 1e-6))
            shares.append(costs[np.argmax(there)] / budget if there.any() else np.inf)
        told[run.name] = np.asarray(shares)
    return told


def at_budget(run: Training, adam: Training) -> np.ndarray:
    """Return each seed's last loss within Adam's cost."""
    ends = []
    for losses, costs, budget in zip(run.losses, run.costs, adam.costs[:, -1], strict=True):
        within = np.flatnonzero(costs <= budget * (1 + 1e-6))
        ends.append(losses[within[-1]])
    return np.asarray(ends)


def table(found: Sequence[Training]) -> Any:
    """Return the trainings as a table."""
    from gradlab.compare.table import Table

    shares = arrivals(found)
    rows = [
        {
            "method": run.name,
            "setting": run.setting,
            "start": float(run.losses[:, 0].mean()),
            "end": float(at_budget(run, found[0]).mean()),
            "share": float(np.median(shares[run.name])),
            "worst": float(np.max(shares[run.name])),
            "seconds": run.seconds,
        }
        for run in found
    ]
    formats = {
        "method": ("method", ""),
        "setting": ("setting", ""),
        "start": ("loss, start", ".3g"),
        "end": ("at Adam's cost", ".4g"),
        "share": ("cost at Adam's loss / Adam's", ".2f"),
        "worst": ("worst seed", ".2f"),
        "seconds": ("seconds in all", ".0f"),
    }
    return Table(tuple(rows), formats)


def records(found: Sequence[Training]) -> Any:
    """Return every record as a row, for the CSV file."""
    from gradlab.compare.table import Table

    rows = [
        {"method": run.name, "seed": seed, "cost": float(cost), "loss": float(loss)}
        for run in found
        for seed in range(len(run.losses))
        for cost, loss in zip(run.costs[seed], run.losses[seed], strict=True)
    ]
    return Table(tuple(rows), {})


def answer(found: Sequence[Training]) -> str:
    """Say whether second order paid, and by how much."""
    shares, adam = arrivals(found), found[0]
    others = [run for run in found if run.name != ADAM]
    best = min(others, key=lambda run: (np.max(shares[run.name]), at_budget(run, adam).mean()))
    told = ", ".join(
        f"{share:.0%}" if np.isfinite(share) else "more than all" for share in shares[best.name]
    )
    never = [run.name for run in others if not np.isfinite(shares[run.name]).all()]
    goal, end = adam.losses[:, -1].mean(), at_budget(best, adam).mean()
    return (
        f"Tuned Adam ({adam.setting}) ends at a loss of {goal:.4g} after "
        f"{adam.costs[:, -1].mean():.0f} gradient equivalents. The best of second order, "
        f"{best.name} ({best.setting}), reaches Adam's last loss at {told} of Adam's cost, "
        f"seed by seed, and ends at {end:.4g} for the same cost."
        + (f" Not in all seeds within Adam's cost: {', '.join(never)}." if never else "")
    )


def draw(found: Sequence[Training]) -> dict[str, Any]:
    """Draw the losses against the cost, and what the sweeps found.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13.0, 4.8), layout="constrained")
    budget = found[0].costs[:, -1].mean()
    lines, ranges = {}, {}
    for run in found:
        costs = run.costs.mean(axis=0)
        kept = costs <= budget * (1 + 1e-6)
        lines[run.name] = (costs[kept], np.median(run.losses, axis=0)[kept])
        ranges[run.name] = (run.losses.min(axis=0)[kept], run.losses.max(axis=0)[kept])
    goal = float(np.median(found[0].losses[:, -1]))
    gl.plots.plot_errors(
        lines,
        x_label="cost in gradient equivalents",
        y_label="loss on all rows",
        log="y",
        ax=axes[0],
    )
    axes[0].axhline(goal, color="0.5", linewidth=0.9, linestyle=":")
    axes[0].set_title("median of the seeds; dotted: Adam's last", loc="left", fontsize=10.5)
    sweeps = {run.name: run.sweep for run in found if run.sweep is not None}
    gl.plots.plot_errors(
        sweeps,
        x_label="learning rate",
        y_label="loss at the end",
        log="xy",
        ax=axes[1],
    )
    axes[1].set_title("the sweeps: mean over the seeds", loc="left", fontsize=10.5)
    return {"stochastic-second-order": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        found = measure(QUICK if options.quick else FULL, seed=options.seed)
        records(found).to_csv(run.path("records.csv"))
        print(run.report(table(found), answer(found)))
        run.save_figures(draw(found))


if __name__ == "__main__":
    runs.console(main)
