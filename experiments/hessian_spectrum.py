"""How does the Hessian's spectrum change while gradient descent trains a network?

A tanh network of 2,209 parameters fits the Chebyshev polynomial T₄ at 20 points, by gradient
descent with a fixed step η. The largest eigenvalue of the Hessian, the sharpness, grows until
it reaches 2/η, above which a step on a quadratic would diverge, and then stays there while
the loss goes on falling, though no longer at every step: the edge of stability. The density
of all eigenvalues, by stochastic Lanczos quadrature, is compared between start and end.

References:
    Cohen, J. M. et al. (2021). Gradient descent on neural networks typically occurs at the
    edge of stability. (The task is that of their appendix on Chebyshev polynomials.)
    Ghorbani, B., Krishnan, S. and Xiao, Y. (2019). An investigation into neural net
    optimization via Hessian eigenvalue density.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

WIDTH, DEPTH, DEGREE, POINTS = 32, 3, 4, 20
# The steps are η = 2 / these; the middle one's spectrum is drawn.
EDGES = (10.0, 20.0, 40.0)
SHOWN = 1
STEPS, QUICK_STEPS = 6000, 1600
RECORDS = 40  # how often the sharpness is computed
# The sharpness is wanted to three digits; residuals of this size give many more.
RTOL = 1e-4
PROBES, LANCZOS_STEPS = 10, 60
# Eigenvalues below this share of the largest are counted as bulk.
BULK = 0.02
# A density below this share of its peak is the tail of the smoothing.
TAIL = 1e-6


class Descent(NamedTuple):
    """One run of gradient descent.

    Attributes:
        edge: 2/η.
        steps: Steps made at each record, shape (r,).
        losses: The loss there.
        sharpness: The largest eigenvalue of the Hessian there.
        rises: Share of the steps since the record before that raised the loss.
        spectra: The `Spectrum` at the start, in the middle and at the end.
    """

    edge: float
    steps: np.ndarray
    losses: np.ndarray
    sharpness: np.ndarray
    rises: np.ndarray
    spectra: dict[str, Any]


def task(seed: int = 0) -> tuple[Callable[[Any], Any], Any]:
    """Return the loss of the network, half the mean squared error, and its start."""
    import jax
    import jax.numpy as jnp

    random = np.random.default_rng(seed)
    inputs = jnp.linspace(-1, 1, POINTS)
    targets = jnp.cos(DEGREE * jnp.arccos(inputs))
    sizes = [1, *[WIDTH] * DEPTH, 1]
    params = [
        (jnp.asarray(random.normal(size=(a, b)) / np.sqrt(a)), jnp.zeros(b))
        for a, b in itertools.pairwise(sizes)
    ]

    def loss(params: Any) -> Any:
        z = inputs[:, None]
        for weights, shift in params[:-1]:
            z = jnp.tanh(z @ weights + shift[None])
        outputs = z @ params[-1][0] + params[-1][1][None]
        return jnp.mean((outputs[:, 0] - targets) ** 2) / 2

    return loss, jax.tree.map(jnp.asarray, params)


def measure(
    *, steps: int = STEPS, edges: Sequence[float] = EDGES, seed: int = 0
) -> list[Descent]:
    """Train with each step size, and look at the Hessian on the way.

    Args:
        steps: Steps of gradient descent.
        edges: The values of 2/η.
        seed: Seed of the start and of the random vectors.

    Returns:
        The runs.
    """
    import jax
    import jax.numpy as jnp

    from gradlab.derivatives import curvature

    loss, start = task(seed)
    stride = steps // RECORDS

    @jax.jit
    def advance(params: Any, rate: Any) -> Any:
        def step(params: Any, _: Any) -> Any:
            value, grad = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - rate * g, params, grad), value

        return jax.lax.scan(step, params, None, length=stride)

    @jax.jit
    def sharpness(params: Any) -> Any:
        product = curvature.hessian_vp(loss, params)
        return curvature.top_eigenpairs(product, params, which="largest", rtol=RTOL).values[0]

    @jax.jit
    def density(params: Any) -> Any:
        product = curvature.hessian_vp(loss, params)
        return curvature.spectrum(
            product,
            params,
            key=jax.random.key(seed),
            num_probes=PROBES,
            num_steps=LANCZOS_STEPS,
        )

    found = []
    for k, edge in enumerate(edges):
        params, history = start, []
        points = {"start": start}
        for record in range(RECORDS + 1):
            here = float(sharpness(params)), float(loss(params))
            following, values = advance(params, jnp.asarray(2 / edge))
            rises = float(np.mean(np.diff(np.asarray(values)) > 0))
            history.append((record * stride, *here, rises))
            points |= {"halfway": params} if record == RECORDS // 2 else {}
            points["end"] = params
            params = following
        spectra = {name: density(p) for name, p in points.items()} if k == SHOWN else {}
        columns = (np.asarray(column) for column in zip(*history, strict=True))
        at, sharp, losses, rises_ = columns
        found.append(Descent(edge, at, losses, sharp, rises_, spectra))
    return found


def settled(run: Descent) -> tuple[float, float]:
    """Return mean and spread of the sharpness over 2/η in the last third of the run."""
    last = run.sharpness[-len(run.sharpness) // 3 :] / run.edge
    return float(np.mean(last)), float(np.std(last))


def table(found: Sequence[Descent]) -> Any:
    """Return the runs as a table."""
    from gradlab.compare.table import Table

    rows = []
    for run in found:
        mean, spread = settled(run)
        late = run.rises[-len(run.rises) // 3 :]
        rows.append(
            {
                "rate": 2 / run.edge,
                "edge": run.edge,
                "first": float(run.sharpness[0]),
                "settled": mean,
                "spread": spread,
                "rises": float(np.mean(late)),
                "start": float(run.losses[0]),
                "end": float(run.losses[-1]),
            }
        )
    formats = {
        "rate": ("η", ".3g"),
        "edge": ("2/η", ".3g"),
        "first": ("sharpness, start", ".3g"),
        "settled": ("late sharpness / (2/η)", ".3f"),
        "spread": ("±", ".3f"),
        "rises": ("late steps uphill", ".0%"),
        "start": ("loss, start", ".2g"),
        "end": ("loss, end", ".2g"),
    }
    return Table(tuple(rows), formats)


def records(found: Sequence[Descent]) -> Any:
    """Return every record as a row, for the CSV file."""
    from gradlab.compare.table import Table

    names = ("edge", "step", "loss", "sharpness", "rises")
    rows = [
        dict(zip(names, (run.edge, *map(float, values)), strict=True))
        for run in found
        for values in zip(run.steps, run.losses, run.sharpness, run.rises, strict=True)
    ]
    return Table(tuple(rows), {})


def bulk(spectrum: Any) -> tuple[float, float, float]:
    """Return the largest and the least eigenvalue seen, and the share of those near zero."""
    nodes, weights = np.asarray(spectrum.nodes), np.asarray(spectrum.weights)
    seen = weights > 1e-12  # of no weight: rounding
    high, low = nodes[seen].max(), nodes[seen].min()
    near = np.abs(nodes) < BULK * high
    return float(high), float(low), float(np.sum(weights[near]) / len(weights))


def answer(found: Sequence[Descent]) -> str:
    """Say where the sharpness settles, and what the spectrum looks like."""
    told = ", ".join(
        f"{settled(run)[0]:.2f} of 2/η = {run.edge:g} (loss {run.losses[-1]:.1e})"
        for run in found
    )
    spectra = found[min(SHOWN, len(found) - 1)].spectra
    kept = {name: bulk(s) for name, s in spectra.items()}
    shares = "; ".join(
        f"{name} from {low:.2g} to {high:.3g} ({share:.1%} within {BULK:.0%} of the largest)"
        for name, (high, low, share) in kept.items()
    )
    return (
        f"In the last third of the steps the sharpness is {told} on average, while the loss "
        f"goes on falling. The eigenvalues reach, at the {shares} of zero."
    )


def draw(found: Sequence[Descent]) -> dict[str, Any]:
    """Draw the sharpness with 2/η, the loss, and the densities at three times.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(16.0, 4.6), layout="constrained")
    names = {run.edge: f"η = 2/{run.edge:g}" for run in found}
    lines = {names[run.edge]: (run.steps, run.sharpness) for run in found}
    levels = {
        names[run.edge]: (run.steps[[0, -1]], np.asarray([run.edge, run.edge])) for run in found
    }
    gl.plots.plot_errors(
        lines,
        counted=levels,
        x_label="step",
        y_label="largest eigenvalue of the Hessian",
        log="",
        ax=axes[0],
    )
    axes[0].set_ylim(bottom=0)
    axes[0].set_title("sharpness; dashed: 2/η", loc="left", fontsize=10.5)
    gl.plots.plot_errors(
        {names[run.edge]: (run.steps, run.losses) for run in found},
        x_label="step",
        y_label="loss",
        log="y",
        ax=axes[1],
    )
    axes[1].set_title("half the mean squared error", loc="left", fontsize=10.5)
    shown = found[min(SHOWN, len(found) - 1)]
    densities, bars = {}, {}
    for name in ("start", "end"):
        spectrum = shown.spectra[name]
        grid, density, low, high = (
            np.asarray(part)
            for part in (spectrum.grid, spectrum.density, spectrum.lower, spectrum.upper)
        )
        floor = TAIL * density.max()
        densities[name] = (grid, np.maximum(density, floor))
        some = np.where((density > floor) & (np.arange(len(grid)) % 4 == 0), 1.0, np.nan)
        bars[name] = (np.maximum(low, floor) * some, high * some)
    gl.plots.plot_errors(
        densities,
        ranges=bars,
        x_label="eigenvalue",
        y_label="density of eigenvalues",
        log="y",
        ax=axes[2],
    )
    title = f"spectrum, {names[shown.edge]}; bars: 95 % intervals"
    axes[2].set_title(title, loc="left", fontsize=10.5)
    return {"hessian-spectrum": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        steps = QUICK_STEPS if options.quick else STEPS
        found = measure(steps=steps, seed=options.seed)
        records(found).to_csv(run.path("records.csv"))
        print(run.report(table(found), answer(found)))
        run.save_figures(draw(found))


if __name__ == "__main__":
    runs.console(main)
