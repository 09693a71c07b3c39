"""What do float32, rounding and an inner solver's tolerance do to each derivative operator?

One loss in five guises: exact in float64, in float32, printed with six decimals, with
noise of 1e-7 on it, and with Kepler's equation inside, solved to 1e-5 by an iteration that
stops when it may. Each is differentiated at random points by autodiff, differences, the
complex step, and adaptive differences, whose bar is held against the truth; the noise of
each is measured by `gradlab.estimate_noise`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

AUTODIFF, ADAPTIVE = "autodiff", "adaptive"
DECIMALS = 6
# A wave so short that neighbouring numbers of either precision fall anywhere on it.
NOISE, FREQUENCY = 1e-7, 1e16
TOLERANCE = 1e-5
MOST_STEPS = 100  # a start so large that its own rounding exceeds the tolerance never ends
ECCENTRICITY = 0.6
NUM_POINTS, QUICK_POINTS = 40, 8
# The derivative is written by hand in float64, and good to half a rounding.
REFERENCE = 2.0**-53
Function = Callable[[Any], Any]


class Loss(NamedTuple):
    """A loss with noise, and the smooth one it stands for.

    Attributes:
        name: What tables and figure call it.
        function: From a JAX number.
        smooth: The same without noise, from a NumPy number.
        slope: The derivative of `smooth`.
        dtype: Precision it is called in.
    """

    name: str
    function: Function
    smooth: Function
    slope: Function
    dtype: str


def losses(dtype: str = "float64") -> list[Loss]:
    """Return the five losses; without the one in float64 where that is not wanted."""
    import jax.numpy as jnp

    def plain(x: Any) -> Any:
        return 2 + jnp.sin(3 * x)

    def rounded(x: Any) -> Any:
        return jnp.round(plain(x), DECIMALS)

    def shaken(x: Any) -> Any:
        return plain(x) + NOISE * jnp.sin(FREQUENCY * x)

    smooth, slope = (lambda x: 2 + np.sin(3 * x)), (lambda x: 3 * np.cos(3 * x))
    kepler, kepler_slope = (lambda x: np.cos(_anomaly(x))), _kepler_slope
    every = [
        Loss("exact, float64", plain, smooth, slope, "float64"),
        Loss("exact, float32", plain, smooth, slope, "float32"),
        Loss(f"rounded to {DECIMALS} decimals", rounded, smooth, slope, dtype),
        Loss(f"noise of {NOISE:g}", shaken, smooth, slope, dtype),
        Loss(f"inner solver, to {TOLERANCE:g}", solved, kepler, kepler_slope, dtype),
    ]
    return every if dtype == "float64" else every[1:]


def solved(x: Any) -> Any:
    """Return cos E of Kepler's equation E − e sin E = x, by iterating E ← x + e sin E."""
    import jax
    import jax.numpy as jnp

    def unfinished(state: tuple[Any, Any, Any]) -> Any:
        before, now, count = state
        return (abs(now - before) > TOLERANCE) & (count < MOST_STEPS)

    def step(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        _, now, count = state
        return now, x + ECCENTRICITY * jnp.sin(now), count + 1

    start = (x, x + ECCENTRICITY * jnp.sin(x), 0)
    return jnp.cos(jax.lax.while_loop(unfinished, step, start)[1])


def _anomaly(x: Any) -> Any:
    """Solve Kepler's equation to rounding, by Newton's method."""
    anomaly = np.asarray(x, dtype=float)
    for _ in range(30):  # converges quadratically; 30 are far more than enough
        miss = anomaly - ECCENTRICITY * np.sin(anomaly) - x
        anomaly = anomaly - miss / (1 - ECCENTRICITY * np.cos(anomaly))
    return anomaly


def _kepler_slope(x: Any) -> Any:
    """Return the derivative of cos E(x) by the implicit function theorem."""
    anomaly = _anomaly(x)
    return -np.sin(anomaly) / (1 - ECCENTRICITY * np.cos(anomaly))


def operators() -> dict[str, Callable[[Function], Function]]:
    """Return the derivative operators that need no error bar, by name."""
    import jax

    # Forward mode, because a loop that stops when it may has no reverse mode in JAX.
    return {
        AUTODIFF: lambda f: jax.jit(jax.jacfwd(f)),
        "complex step": lambda f: gl.finite.grad(f, scheme="complex"),
        "forward": lambda f: gl.finite.grad(f, scheme="forward", accuracy=1),
        "central": lambda f: gl.finite.grad(f),
    }


def measure(
    *, dtype: str = "float64", num_points: int = NUM_POINTS, seed: int = 0
) -> list[dict[str, Any]]:
    """Differentiate each loss by each operator at random points.

    Args:
        dtype: Precision of the losses that are not about it.
        num_points: How many points.
        seed: Seed of the points.

    Returns:
        Rows with the loss, its noise as measured and in truth, the operator, the median and
        the worst relative error (None where the operator refuses the loss), and for
        adaptive differences the median relative bar and the share of the points where it
        holds the truth.
    """
    rows = []
    points = np.random.default_rng(seed).uniform(0.6, 0.95, num_points)
    for loss in losses(dtype):
        x = points.astype(loss.dtype)
        about = {"loss": loss.name} | _noise(loss, x)
        exact = np.asarray(loss.slope(x.astype(float)))
        # Relative to the median derivative, so that no point near a zero of it decides.
        scale = float(np.median(abs(exact)))
        for name, operator in operators().items():
            try:
                found = _at_each(operator(loss.function), x)
            except TypeError as error:  # the complex step refuses what is not analytic
                refused = {"error": None, "worst": None, "refused": str(error)}
                rows.append(about | {"operator": name} | refused)
            else:
                rows.append(about | {"operator": name} | _errors(found, exact, scale))
        value, bar = _adaptive(loss, x)
        held = abs(value - exact) <= bar
        row = about | {"operator": ADAPTIVE} | _errors(value, exact, scale)
        rows.append(row | {"bar": float(np.median(bar)) / scale, "held": float(held.mean())})
    return rows


def _noise(loss: Loss, x: np.ndarray) -> dict[str, float]:
    """Return the noise as measured, and the spread of the loss about the smooth one."""
    import jax.numpy as jnp

    levels = [
        float(gl.estimate_noise(loss.function, jnp.asarray(point)).noise) for point in x[:8]
    ]
    values = np.asarray([float(loss.function(jnp.asarray(point))) for point in x])
    truth = np.std(values - loss.smooth(x.astype(float)))
    # Both may round alike: a rounding of the value is then what is known of the noise.
    truth = max(float(truth), REFERENCE * float(np.mean(abs(values))))
    return {"noise": float(np.median(levels)), "true_noise": truth}


def _at_each(operator: Function, x: np.ndarray) -> np.ndarray:
    """Apply a derivative at every point."""
    import jax.numpy as jnp

    return np.asarray([float(operator(jnp.asarray(point))) for point in x])


def _adaptive(loss: Loss, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the adaptive derivatives and their bars."""
    import jax.numpy as jnp

    estimate = gl.adaptive.derivative(loss.function)(jnp.asarray(x))
    return np.asarray(estimate.value, float), np.asarray(estimate.error, float)


def _errors(found: np.ndarray, exact: np.ndarray, scale: float) -> dict[str, float]:
    """Return the median and the worst error relative to `scale`."""
    errors = np.maximum(abs(found - exact) / scale, REFERENCE)
    return {"error": float(np.median(errors)), "worst": float(errors.max())}


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the rows as a table."""
    from gradlab.compare.table import Table

    formats = {
        "loss": ("loss", ""),
        "true_noise": ("noise", ".0e"),
        "noise": ("as estimated", ".0e"),
        "operator": ("operator", ""),
        "error": ("median error", ".1e"),
        "worst": ("worst error", ".1e"),
        "bar": ("bar", ".1e"),
        "held": ("bar holds", ".0%"),
    }
    return Table(tuple({"bar": None, "held": None} | row for row in rows), formats)


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say which operator stands noise, and whether the bar can be trusted."""
    worst: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["error"] is not None:
            so_far = worst.setdefault(row["operator"], row)
            worst[row["operator"]] = max(so_far, row, key=lambda r: r["error"])
    refused = [row["loss"] for row in rows if row["error"] is None]
    told = ", ".join(f"{n} {r['error']:.0e} ({r['loss']})" for n, r in worst.items())
    held = [row for row in rows if row["operator"] == ADAPTIVE]
    least = min(held, key=lambda row: row["held"])
    # A standard deviation from a few values is known to a factor of a few at best.
    missed = [r["loss"] for r in held if not 0.1 < r["noise"] / r["true_noise"] < 10]
    told_noise = f"but for {', '.join(missed)}, whose error varies smoothly" if missed else ""
    return (
        f"Median relative error of each operator on its worst loss: {told}."
        + (f" The complex step refuses {', '.join(refused)}: not analytic." if refused else "")
        + f" The bar of adaptive differences holds the truth at {least['held']:.0%} of the "
        f"points or more (least: {least['loss']}); estimate_noise is right within a factor of "
        f"10 {told_noise or 'everywhere'}."
    )


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw median and worst errors of every operator on every loss, and the bars.

    Returns:
        The figure, by the name of its file.
    """
    groups: dict[str, dict[str, tuple[float, float]]] = {}
    bars = {}
    for row in rows:
        if row["error"] is None:
            continue
        name = f"{row['loss']}\nnoise {row['true_noise']:.0e}"
        groups.setdefault(name, {})[row["operator"]] = (row["error"], row["worst"])
        if row["operator"] == ADAPTIVE:
            bars[name] = row["bar"]
    ax = gl.plots.plot_error_ranges(
        groups, bars=bars, x_label="relative error: median to worst"
    )
    return {"noisy-losses": ax.figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        count = QUICK_POINTS if options.quick else NUM_POINTS
        rows = measure(dtype=options.dtype, num_points=count, seed=options.seed)
        print(run.report(table(rows), answer(rows), results=rows))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
