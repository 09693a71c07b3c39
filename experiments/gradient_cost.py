"""What does a gradient cost as the parameters grow in number: n losses, or a few?

A loss of up to 100,000 parameters, the starting angles of swinging pendulums, is
differentiated by reverse mode (`jax.grad`), by forward mode one parameter at a time, by
forward and central differences and by the complex step. Costs are in units of one loss:
counted, in evaluations or in operations of the traced program, and measured, as the ratio of
median warm times in the same run. What takes n evaluations is measured as far as patience
goes, then counted on. Forward mode is faster than counted: its directions share the loss's
own values, which the compiler computes once.

References:
    Baur, W. and Strassen, V. (1983). Theoretical Computer Science 22:317 (cheap gradients).
    Griewank, A. and Walther, A. (2008). Evaluating Derivatives, 2nd ed., section 3.3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

REVERSE, FORWARD_MODE = "reverse mode (jax.grad)", "forward mode, one by one"
FORWARD, CENTRAL, COMPLEX = "forward differences", "central differences", "complex step"
METHODS = (REVERSE, FORWARD_MODE, FORWARD, CENTRAL, COMPLEX)
SIZES, QUICK_SIZES = (10, 100, 1000, 10_000, 100_000), (10, 100, 1000)
# A gradient by differences of 3000 parameters takes some seconds, and one of 1e5 an hour.
MOST_MEASURED, QUICK_MEASURED = 1000, 100
CALLS, SECONDS = 25, 1.0  # warm calls of which the median counts; fewer if they take long
# The gradients, so taken, are told from wrong ones by this relative error: generous for
# forward differences in float32, which have three digits.
AGREE = 0.05
SWINGS, STEP = 6, 0.1


def loss(x: Any) -> Any:
    """Let pendulums swing from the angles x, and return how far neighbours are apart.

    Their steps are those of the symplectic Euler method; `SWINGS` of them are work enough
    for the time of a loss to be more than that of calling it.
    """
    import jax.numpy as jnp

    angle, speed = x, jnp.zeros_like(x)
    for _ in range(SWINGS):
        speed = speed - STEP * jnp.sin(angle)
        angle = angle + STEP * speed
    return jnp.sum((angle[1:] - angle[:-1]) ** 2)


def gradients() -> dict[str, Callable[[Any], Any]]:
    """Return the gradient operators, applied to the loss and compiled, by name."""
    import jax
    import jax.numpy as jnp

    def one_by_one(x: Any) -> Any:
        def entry(i: Any) -> Any:
            return jax.jvp(loss, (x,), (jnp.zeros_like(x).at[i].set(1),))[1]

        return jax.lax.map(entry, jnp.arange(x.size))

    return {
        REVERSE: jax.jit(jax.grad(loss)),
        FORWARD_MODE: jax.jit(one_by_one),
        FORWARD: gl.finite.grad(loss, scheme="forward", accuracy=1),
        CENTRAL: gl.finite.grad(loss, scheme="central"),
        COMPLEX: gl.finite.grad(loss, scheme="complex"),
    }


def measure(
    *, sizes: Sequence[int] = SIZES, most_measured: int = MOST_MEASURED, seed: int = 0
) -> list[dict[str, Any]]:
    """Count and time every gradient at every size.

    Args:
        sizes: Numbers of parameters.
        most_measured: Largest of them at which methods of n evaluations are timed.
        seed: Seed of the point.

    Returns:
        Rows with the method, n, the counted cost and the timed one, both in losses (the
        latter None where only counted), and the seconds behind it.
    """
    import jax
    import jax.numpy as jnp

    operators, compiled = gradients(), jax.jit(loss)
    rows = []
    for n in sizes:
        x = jnp.asarray(np.random.default_rng(seed).uniform(0.5, 1.5, n))
        reference = np.asarray(operators[REVERSE](x))
        unit = warm_seconds(compiled, x)
        for method, gradient in operators.items():
            row = {"method": method, "n": n, "counted": counted(method, gradient, x)}
            row |= {"loss_seconds": unit, "seconds": None, "ratio": None}
            if method == REVERSE or n <= most_measured:
                _check(method, np.asarray(gradient(x)), reference)
                row["seconds"] = warm_seconds(gradient, x)
                row["ratio"] = row["seconds"] / unit
            rows.append(row)
    return rows


def _check(method: str, found: np.ndarray, reference: np.ndarray) -> None:
    """Raise unless a gradient is one: a wrong one may cost anything."""
    error = float(np.max(abs(found - reference)) / np.max(abs(reference)))
    if not error < AGREE:
        raise ArithmeticError(f"{method} differs from reverse mode by {error:.1e}.")


def warm_seconds(function: Callable[[Any], Any], x: Any) -> float:
    """Return the median time of a call after the first."""
    import jax

    jax.block_until_ready(function(x))
    times: list[float] = []
    while len(times) < CALLS and (len(times) < 3 or sum(times) < SECONDS):
        started = time.perf_counter()
        jax.block_until_ready(function(x))
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def counted(method: str, gradient: Any, x: Any) -> float:
    """Return the cost of a gradient in losses, counted and not timed.

    Evaluations for differences; for reverse mode the operations of its program over those
    of the loss; for forward mode n times those of one directional derivative.
    """
    import jax

    if method not in (REVERSE, FORWARD_MODE):
        return float(gradient.num_evaluations(x))
    unit = operations(jax.make_jaxpr(loss)(x))
    if method == REVERSE:
        return operations(jax.make_jaxpr(jax.grad(loss))(x)) / unit
    along = jax.make_jaxpr(lambda x, v: jax.jvp(loss, (x,), (v,))[1])(x, x)
    return float(x.size * operations(along) / unit)


def operations(program: Any) -> int:
    """Count the numbers that a jaxpr computes, those inside it included."""
    program = getattr(program, "jaxpr", program)
    count = 0
    for equation in program.eqns:
        values = equation.params.values()
        inner = [p for p in values if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        written = sum(math.prod(v.aval.shape) for v in equation.outvars)
        count += sum(map(operations, inner)) if inner else written
    return count


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the rows as a table."""
    from gradlab.compare.table import Table

    formats = {
        "method": ("gradient by", ""),
        "n": ("n", ",d"),
        "counted": ("counted / losses", ".3g"),
        "ratio": ("measured / losses", ".3g"),
        "milliseconds": ("measured / ms", ".3g"),
    }
    return Table(tuple(r | {"milliseconds": _milliseconds(r)} for r in rows), formats)


def _milliseconds(row: dict[str, Any]) -> float | None:
    """Return the time of a gradient, if it was measured."""
    return None if row["seconds"] is None else 1e3 * row["seconds"]


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say how each mode's cost grows, and what the largest gradient would take."""
    reverse = [row for row in rows if row["method"] == REVERSE]
    central = [row for row in rows if row["method"] == CENTRAL]
    last = max((row for row in central if row["ratio"]), key=lambda row: row["n"])
    largest = central[-1]
    seconds = largest["counted"] * largest["loss_seconds"]
    counts = [row["counted"] for row in reverse]
    return (
        f"Reverse mode costs {min(counts):.1f} to {max(counts):.1f} losses by count, from "
        f"{reverse[0]['n']:,} to {reverse[-1]['n']:,} parameters, and "
        f"{min(r['ratio'] for r in reverse):.1f} to {max(r['ratio'] for r in reverse):.1f} by "
        f"the clock. Central differences take {last['counted']:,.0f} evaluations for "
        f"{last['n']:,} parameters, measured at {last['ratio']:,.0f} losses; for "
        f"{largest['n']:,} they would take "
        f"{seconds:,.3g} s, against {reverse[-1]['seconds']:.2g} s."
    )


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw the costs against the number of parameters, measured solid and counted dashed.

    Returns:
        The figure, by the name of its file.
    """
    lines, counts = {}, {}
    for method in METHODS:
        here = [row for row in rows if row["method"] == method]
        timed = [row for row in here if row["ratio"] is not None]
        lines[method] = ([r["n"] for r in timed], [r["ratio"] for r in timed])
        counts[method] = ([r["n"] for r in here], [r["counted"] for r in here])
    ax = gl.plots.plot_errors(
        lines,
        counted=counts,
        x_label="number of parameters",
        y_label="cost of a gradient / cost of the loss",
    )
    ax.set_title("solid: measured, dashed: counted", loc="left", fontsize=10.5)
    return {"gradient-cost": ax.figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        sizes = QUICK_SIZES if options.quick else SIZES
        most = QUICK_MEASURED if options.quick else MOST_MEASURED
        rows = measure(sizes=sizes, most_measured=most, seed=options.seed)
        print(run.report(table(rows), answer(rows), results=rows))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
