"""Does every first-order method train at the edge of its own stability?

On a quadratic of curvature λ a method with a fixed step η diverges where λ exceeds a
threshold: 2/η for gradient descent, (2 + 2β)/η for the heavy ball, less by 1 + 2β for
Nesterov's. Adam divides by a diagonal P; of P⁻¹H the threshold is (2 + 2β₁)/((1 - β₁) η). A
tanh network fits a Chebyshev polynomial with every method and several steps; the largest
eigenvalue is recorded on the way, over the method's own threshold. (What happens to the rest
of the spectrum, `hessian_spectrum` shows.)

References:
    Cohen, J. M. et al. (2021). Gradient descent on neural networks typically occurs at the
    edge of stability.
    Cohen, J. M. et al. (2022). Adaptive gradient methods at the edge of stability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

WIDTH, DEGREE, POINTS = 24, 4, 20
STEPS, QUICK_STEPS, RECORDS = 4000, 600, 40
MOMENTUM = 0.9
# The sharpness is wanted to three digits; residuals of this size give many more.
RTOL = 1e-4


class Rule(NamedTuple):
    """A method: how it is built, its steps, and its threshold times η.

    `adaptive` methods are judged by the curvature that their diagonal leaves.
    """

    build: Callable[[Any], Any]
    rates: tuple[float, ...]
    threshold: float
    adaptive: bool


class Descent(NamedTuple):
    """One training.

    Attributes:
        method: Name of the method.
        rate: Its step η.
        threshold: Largest curvature that is stable.
        steps: Steps made at each record, shape (r,).
        losses: The loss there.
        sharpness: The largest eigenvalue there, of P⁻¹H for adaptive methods.
        rises: Share of the steps since the record before that raised the loss.
    """

    method: str
    rate: float
    threshold: float
    steps: np.ndarray
    losses: np.ndarray
    sharpness: np.ndarray
    rises: np.ndarray


def rules() -> dict[str, Rule]:
    """Return the methods by name."""
    import optax

    def heavy_ball(rate: Any) -> Any:
        return optax.sgd(rate, momentum=MOMENTUM)

    def nesterov(rate: Any) -> Any:
        return optax.sgd(rate, momentum=MOMENTUM, nesterov=True)

    both = 2 + 2 * MOMENTUM
    return {
        "gradient descent": Rule(optax.sgd, (0.2, 0.1, 0.05), 2.0, False),
        "heavy ball": Rule(heavy_ball, (0.2, 0.1, 0.05), both, False),
        "Nesterov": Rule(nesterov, (0.06, 0.04, 0.025), both / (1 + 2 * MOMENTUM), False),
        "Adam": Rule(optax.adam, (0.004, 0.002, 0.001), both / (1 - MOMENTUM), True),
    }


def task(seed: int = 0) -> tuple[Callable[[Any], Any], Any]:
    """Return the loss of the network, half the mean squared error, and its start."""
    import jax
    import jax.numpy as jnp

    inputs = jnp.linspace(-1, 1, POINTS)[:, None]
    targets = jnp.cos(DEGREE * jnp.arccos(inputs))
    start = gl.backprop.init(jax.random.key(seed), (1, WIDTH, WIDTH, 1))

    def loss(params: Any) -> Any:
        return gl.backprop.loss(params, inputs, targets)

    return loss, start


def measure(
    *, steps: int = STEPS, only: dict[str, int] | None = None, seed: int = 0
) -> list[Descent]:
    """Train with every method and step, and measure the largest eigenvalue on the way.

    Args:
        steps: Steps of each training.
        only: Methods to take, with how many of their steps; by default all of them.
        seed: Seed of the start.

    Returns:
        The trainings.
    """
    known = rules()
    chosen = {name: len(rule.rates) for name, rule in known.items()} if only is None else only
    found = []
    for name, count in chosen.items():
        for rate in known[name].rates[:count]:
            found.append(_train(name, known[name], rate, steps, seed))
    return found


def _train(name: str, rule: Rule, rate: float, steps: int, seed: int) -> Descent:
    """Train once."""
    import jax
    import jax.numpy as jnp
    import optax

    from gradlab.derivatives import curvature

    loss, params = task(seed)
    method, stride = rule.build(rate), max(steps // RECORDS, 1)
    state = method.init(params)

    @jax.jit
    def advance(params: Any, state: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            value, grad = jax.value_and_grad(loss)(params)
            updates, state = method.update(grad, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, state), None, length=stride)

    @jax.jit
    def sharpness(params: Any, state: Any) -> Any:
        product = curvature.hessian_vp(loss, params)
        scale = _scale(state) if rule.adaptive else None

        def scaled(v: Any) -> Any:
            if scale is None:
                return product(v)
            inner = product(jax.tree.map(jnp.multiply, scale, v))
            return jax.tree.map(jnp.multiply, scale, inner)

        return curvature.top_eigenpairs(scaled, params, which="largest", rtol=RTOL).values[0]

    history = []
    for record in range(RECORDS + 1):
        # Before its first step Adam's diagonal is nothing: its curvature is not defined.
        defined = record > 0 or not rule.adaptive
        sharp = float(sharpness(params, state)) if defined else np.nan
        here = float(loss(params))
        (params, state), values = advance(params, state)
        rises = float(np.mean(np.diff(np.asarray(values)) > 0)) if stride > 1 else 0.0
        history.append((record * stride, here, sharp, rises))
    columns = [np.asarray(column) for column in zip(*history, strict=True)]
    return Descent(name, rate, rule.threshold / rate, *columns)


def _scale(state: Any) -> Any:
    """Return P^(-1/2) of Adam's state, P the diagonal that it divides the mean gradient by."""
    import jax
    import jax.numpy as jnp
    import optax

    nu, count = optax.tree.get(state, "nu"), optax.tree.get(state, "count")
    seen, eps = 1 - 0.999**count, 1e-8  # optax's defaults
    return jax.tree.map(lambda v: (jnp.sqrt(v / seen) + eps) ** -0.5, nu)


def settled(run: Descent) -> tuple[float, float]:
    """Return mean and spread of the sharpness over its threshold in the last half."""
    last = run.sharpness[len(run.sharpness) // 2 :] / run.threshold
    return float(np.mean(last)), float(np.std(last))


def table(found: Sequence[Descent]) -> Any:
    """Return the trainings as a table."""
    from gradlab.compare.table import Table

    rows = []
    for run in found:
        mean, spread = settled(run)
        rows.append(
            {
                "method": run.method,
                "rate": run.rate,
                "threshold": run.threshold,
                "first": float(run.sharpness[~np.isnan(run.sharpness)][0]),
                "settled": mean,
                "spread": spread,
                "rises": float(np.mean(run.rises[len(run.rises) // 2 :])),
                "start": float(run.losses[0]),
                "end": float(run.losses[-1]),
            }
        )
    formats = {
        "method": ("method", ""),
        "rate": ("η", ".3g"),
        "threshold": ("threshold", ".3g"),
        "first": ("sharpness, first", ".3g"),
        "settled": ("late sharpness / threshold", ".3f"),
        "spread": ("±", ".3f"),
        "rises": ("late steps uphill", ".0%"),
        "start": ("loss, start", ".2g"),
        "end": ("loss, end", ".2g"),
    }
    return Table(tuple(rows), formats)


def records(found: Sequence[Descent]) -> Any:
    """Return every record as a row, for the CSV file."""
    from gradlab.compare.table import Table

    names = ("method", "rate", "threshold", "step", "loss", "sharpness", "rises")
    rows = [
        dict(zip(names, (run.method, run.rate, run.threshold, *map(float, at)), strict=True))
        for run in found
        for at in zip(run.steps, run.losses, run.sharpness, run.rises, strict=True)
    ]
    return Table(tuple(rows), {})


def answer(found: Sequence[Descent]) -> str:
    """Say which methods end at their edge."""
    told = []
    for name in dict.fromkeys(run.method for run in found):
        ratios = [settled(run)[0] for run in found if run.method == name]
        low, high = min(ratios), max(ratios)
        told.append(
            f"{name} at {low:.2f} to {high:.2f}" if low < high else f"{name} at {low:.2f}"
        )
    near = [run for run in found if abs(settled(run)[0] - 1) < 0.15]
    beyond = [run for run in found if settled(run)[0] > 1.15]
    rest = len(found) - len(near) - len(beyond)
    return (
        f"Late in training the sharpness is, over the method's own threshold: "
        f"{'; '.join(told)}. {len(near)} of {len(found)} trainings ended within 15 % of their "
        f"edge, {rest} stayed below it, {len(beyond)} lived beyond."
    )


def draw(found: Sequence[Descent]) -> dict[str, Any]:
    """Draw for each method the sharpness over its threshold.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(run.method for run in found))
    figure, axes = plt.subplots(
        1, len(names), figsize=(4.2 * len(names), 4.2), layout="constrained", sharey=True,
        squeeze=False,
    )  # fmt: skip
    for name, ax in zip(names, axes[0], strict=True):
        lines = {
            f"η = {run.rate:g}": (run.steps, run.sharpness / run.threshold)
            for run in found
            if run.method == name
        }
        gl.plots.plot_errors(
            lines,
            x_label="step",
            y_label="largest eigenvalue / threshold" if name == names[0] else "",
            log="",
            ax=ax,
        )
        ax.axhline(1, color="0.5", linewidth=0.9, linestyle=":")
        ax.set_ylim(0, 1.6)
        ax.set_title(name, loc="left", fontsize=10.5)
    return {"edge-of-stability": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        steps = QUICK_STEPS if options.quick else STEPS
        only = {"heavy ball": 1, "Adam": 1} if options.quick else None
        found = measure(steps=steps, only=only, seed=options.seed)
        records(found).to_csv(run.path("records.csv"))
        print(run.report(table(found), answer(found)))
        run.save_figures(draw(found))


if __name__ == "__main__":
    runs.console(main)
