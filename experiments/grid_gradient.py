"""What does numpy.gradient differentiate: a function, or the samples of one?

`numpy.gradient(f(x), x)` takes differences of neighbouring samples, and one-sided ones at
both ends. Its error is set by the grid, not by the arithmetic: of order spacing² inside,
spacing at the ends unless `edge_order=2`. `gradlab.finite.derivative` and `jax.grad` take the
function itself, choose their own points, and do not know of the grid. At a single point
`numpy.gradient` has nothing to subtract, and raises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

INTERVAL = (0.0, 3.0)
# The least grid shows one whole wave; the finest lets rounding overtake the samples' error.
FEWEST, MOST, QUICK_MOST = 13, 1 << 22, 1 << 16
SHOWN = 13  # samples in the figure's left panel
# Share of the spacing by which the uneven grid's samples are moved, at most.
UNEVEN = 0.3
# Half a rounding of float64: what the reference, a closed form in float64, is good for.
REFERENCE = 2.0**-53


class Errors(NamedTuple):
    """How far each derivative is off, by number of samples.

    Attributes:
        samples: Numbers of samples, shape (k,).
        errors: By name, the largest error over the samples relative to the largest
            derivative, shape (k,).
        one_point: What `numpy.gradient` answers to a single sample.
        two_points: What it answers to two samples: one number, twice.
        slopes: The derivative at these two.
    """

    samples: np.ndarray
    errors: dict[str, np.ndarray]
    one_point: str
    two_points: np.ndarray
    slopes: np.ndarray


def function(x: Any) -> Any:
    """Return sin(x²), whose waves get shorter and shorter."""
    import jax.numpy as jnp

    return jnp.sin(x**2)


def slope(x: Any) -> np.ndarray:
    """Return the derivative of `function`, in the precision of NumPy's float64."""
    x = np.asarray(x, dtype=float)
    return 2 * x * np.cos(x**2)


def measure(
    *, most: int = MOST, per_octave: int = 1, dtype: str = "float64", seed: int = 0
) -> Errors:
    """Differentiate on finer and finer grids.

    Args:
        most: Largest number of samples.
        per_octave: Grids for each doubling of it.
        dtype: Precision of the samples.
        seed: Seed of the uneven grid.

    Returns:
        The errors.
    """
    count = max(2, round(per_octave * math.log2(most / FEWEST)) + 1)
    samples = np.unique(np.geomspace(FEWEST, most, count).round().astype(int))
    rows = [_errors(_grid(n, dtype), seed) for n in samples.tolist()]
    pair = np.asarray([0.5, 1.5], dtype)
    two = np.gradient(_values(pair), pair)
    errors = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
    return Errors(samples, errors, _at_one_point(), np.asarray(two, float), slope(pair))


def _grid(n: int, dtype: str) -> np.ndarray:
    """Return n evenly spaced samples of the interval."""
    return np.linspace(*INTERVAL, n).astype(dtype)


def _values(x: np.ndarray) -> np.ndarray:
    """Return the function's values as NumPy's."""
    import jax.numpy as jnp

    return np.asarray(function(jnp.asarray(x)))


def _errors(x: np.ndarray, seed: int) -> dict[str, float]:
    """Return the largest relative errors on one grid."""
    import jax
    import jax.numpy as jnp

    shift = np.random.default_rng(seed).uniform(-UNEVEN, UNEVEN, len(x))
    shift[[0, -1]] = 0
    uneven = (x + shift * (x[1] - x[0])).astype(x.dtype)
    even, other = np.gradient(_values(x), x), np.gradient(_values(uneven), uneven)
    better = np.gradient(_values(x), x, edge_order=2)
    # The points are taken from the grid, so that all answer for the same places; a thousand
    # of them are enough for those that do not depend on it.
    few = x[:: max(1, len(x) // 1000)]
    points = jnp.asarray(few)
    differences = gl.finite.derivative(function)(points)
    exact = jax.vmap(jax.grad(function))(points)
    ends = [0, -1]
    return {
        "numpy.gradient, ends": _largest(even[ends], x[ends]),
        "numpy.gradient, ends, edge_order=2": _largest(better[ends], x[ends]),
        "numpy.gradient inside, uneven grid": _largest(other[1:-1], uneven[1:-1]),
        "numpy.gradient inside": _largest(even[1:-1], x[1:-1]),
        "gradlab.finite.derivative": _largest(differences, few),
        "jax.grad": _largest(exact, few),
    }


def _largest(found: Any, x: np.ndarray) -> float:
    """Return the largest error relative to the largest derivative on the interval."""
    error = np.max(abs(np.asarray(found, float) - slope(x))) / abs(slope(INTERVAL[1]))
    return float(max(error, REFERENCE))


def _at_one_point() -> str:
    """Return what `numpy.gradient` says of one sample."""
    x = np.asarray([0.5])
    try:
        return str(np.gradient(np.sin(x**2), x))
    except (ValueError, IndexError) as error:
        return f"{type(error).__name__}: {error}"


def order(result: Errors, name: str) -> float:
    """Return the power of the spacing that an error follows, before rounding shows."""
    errors = result.errors[name]
    kept = (result.samples > 100) & (result.samples < 20_000) & (errors > 1e-9)
    spacing = np.ptp(INTERVAL) / (result.samples[kept] - 1)
    return float(np.polyfit(np.log(spacing), np.log(errors[kept]), 1)[0])


def table(result: Errors) -> Any:
    """Return the errors on coarse, middling and fine grids, and the orders."""
    from gradlab.compare.table import Table

    rows = [
        {
            "derivative": name,
            "order": order(result, name) if name.startswith("numpy") else None,
            "coarse": float(errors[0]),
            "best": float(errors.min()),
            "samples": int(result.samples[errors.argmin()]),
            "fine": float(errors[-1]),
        }
        for name, errors in result.errors.items()
    ]
    formats = {
        "derivative": ("derivative", ""),
        "order": ("order in the spacing", ".2f"),
        "coarse": (f"error, {result.samples[0]} samples", ".1e"),
        "best": ("least error", ".1e"),
        "samples": ("with samples", "d"),
        "fine": (f"error, {result.samples[-1]} samples", ".1e"),
    }
    return Table(tuple(rows), formats)


def answer(result: Errors) -> str:
    """Say what `numpy.gradient` is, and what it is not."""
    inside = result.errors["numpy.gradient inside"]
    function_error = result.errors["gradlab.finite.derivative"].max()
    reached = np.flatnonzero(inside <= function_error)
    when = f"from {result.samples[reached[0]]} samples on" if len(reached) else "on no grid"
    return (
        "It differentiates samples: its error falls with order "
        f"{order(result, 'numpy.gradient inside'):.1f} of their spacing inside and "
        f"{order(result, 'numpy.gradient, ends'):.1f} at the ends, and is as small as that of "
        f"differences of the function ({function_error:.0e}) {when}. Of two samples it "
        f"makes {result.two_points[0]:.2f} twice, where the derivative is "
        f"{result.slopes[0]:.2f} and {result.slopes[1]:.2f}; of one sample, "
        f"{result.one_point}"
    )


def draw(result: Errors) -> dict[str, Any]:
    """Draw the derivative on a coarse grid, and the errors against the number of samples.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13.0, 4.4), layout="constrained", width_ratios=(1, 1.35)
    )
    x = _grid(SHOWN, "float64")
    gl.plots.plot_samples(x, np.gradient(np.sin(x**2), x), slope, ax=left)
    left.set_ylabel("derivative of sin(x²)")
    left.set_title(f"numpy.gradient of {SHOWN} samples", loc="left", fontsize=10.5)
    lines = {name: (result.samples, errors) for name, errors in result.errors.items()}
    gl.plots.plot_errors(
        lines,
        x_label="number of samples",
        y_label="largest error / largest derivative",
        ax=right,
    )
    return {"grid-gradient": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        most = QUICK_MOST if options.quick else MOST
        result = measure(most=most, dtype=options.dtype, seed=options.seed)
        run.write_json("errors.json", result._asdict())
        print(run.report(table(result), answer(result)))
        run.save_figures(draw(result))


if __name__ == "__main__":
    runs.console(main)
