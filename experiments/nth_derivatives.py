"""How should one take the n-th derivative: nested grad, a Taylor series, or differences?

The derivatives of exp(sin x) at 0.75 by `jax.grad` of `jax.grad` of …, by
`gradlab.nth_derivative` (one truncated Taylor series), by central differences at their
default step, and by adaptive differences. The reference is the exact recurrence in 50-digit
decimal arithmetic. Cost is the number of operations in the traced program, which unlike
seconds is the same on every machine (the compiler merges many of them, at the price of its
own time); seconds are in the table.
"""

from __future__ import annotations

import decimal
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

POINT = 0.75  # exact in every precision
NESTED, SERIES, DIFFERENCES, ADAPTIVE = (
    "nested jax.grad",
    "gradlab.nth_derivative",
    "central differences",
    "adaptive",
)
# Each nesting multiplies the program: the ninth takes ten seconds to compile. Adaptive
# differences know orders up to 8.
HIGHEST = {NESTED: 8, SERIES: 20, DIFFERENCES: 8, ADAPTIVE: 8}
QUICK = {NESTED: 4, SERIES: 8, DIFFERENCES: 4, ADAPTIVE: 4}
DIGITS = 50  # of the reference
REPEATS = 15  # the median of so many warm calls is steady on a shared machine


def function(x: Any) -> Any:
    """Return exp(sin x)."""
    import jax.numpy as jnp

    return jnp.exp(jnp.sin(x))


def exact(order: int) -> float:
    r"""Return the derivative at `POINT`, from decimal arithmetic.

    With $s_k$ the Taylor coefficients of the sine, those of the exponential of it obey
    $e_k = \frac1k \sum_{j=1}^k j s_j e_{k-j}$.
    """
    with decimal.localcontext(prec=DIGITS + 20):
        x = decimal.Decimal(POINT)
        sine, cosine = _sine(x, 1), _sine(x, 0)
        cycle = (sine, cosine, -sine, -cosine)
        s = [cycle[k % 4] / math.factorial(k) for k in range(order + 1)]
        e = [sine.exp()]
        for k in range(1, order + 1):
            e.append(sum((j * s[j] * e[k - j] for j in range(1, k + 1)), decimal.Decimal()) / k)
        return float(e[order] * math.factorial(order))


def _sine(x: decimal.Decimal, first: int) -> decimal.Decimal:
    """Sum the series of the sine (`first` = 1) or the cosine (0), 60 terms for x below 1."""
    terms = (
        (-1) ** k * x ** (2 * k + first) / math.factorial(2 * k + first) for k in range(60)
    )
    return sum(terms, decimal.Decimal())


def measure(*, highest: dict[str, int] | None = None) -> list[dict[str, Any]]:
    """Take every derivative by every method.

    Args:
        highest: Highest order for each method.

    Returns:
        Rows with the method, the order, the relative error, operations in the program,
        evaluations of the function (for differences) and seconds.
    """
    rows = []
    for method, most in (highest or HIGHEST).items():
        for order in range(1, most + 1):
            derivative, evaluations = _build(method, order)
            row = {"method": method, "order": order, "evaluations": evaluations}
            rows.append(row | _run(derivative, order) | {"operations": _cost(method, order)})
    return rows


def _build(method: str, order: int) -> tuple[Callable[[Any], Any], int | None]:
    """Return the derivative as a function, and its evaluations where these are counted."""
    import jax
    import jax.numpy as jnp

    if method == NESTED:
        return jax.jit(_nested(order)), None
    if method == SERIES:
        return jax.jit(gl.nth_derivative(function, order)), None
    x = jnp.asarray(POINT)
    if method == DIFFERENCES:
        operator = gl.finite.derivative(function, order=order)
        return operator, operator.num_evaluations(x)
    estimate = gl.adaptive.derivative(function, order=order)
    return lambda x: estimate(x).value, int(estimate(x).nfev)


def _nested(order: int) -> Callable[[Any], Any]:
    """Apply `jax.grad` so many times."""
    import jax

    derivative = function
    for _ in range(order):
        derivative = jax.grad(derivative)
    return derivative


def _run(derivative: Callable[[Any], Any], order: int) -> dict[str, Any]:
    """Return the error, the seconds of the first call, and those of a warm one."""
    import jax
    import jax.numpy as jnp

    x = jnp.asarray(POINT)
    started = time.perf_counter()
    value = float(derivative(x))
    first = time.perf_counter() - started
    warm = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(derivative(x))
        warm.append(time.perf_counter() - started)
    reference = exact(order)
    # Half a rounding: the reference is rounded to float64 too.
    error = max(abs(value - reference) / abs(reference), 2.0**-53)
    return {"error": error, "first_seconds": first, "seconds": float(np.median(warm))}


def _cost(method: str, order: int) -> int:
    """Count the operations that one derivative executes.

    Those of the traced program, or for differences those of the function times the
    evaluations, without the few that combine them.
    """
    import jax
    import jax.numpy as jnp

    x = jnp.asarray(POINT)
    if method in (NESTED, SERIES):
        program = _nested(order) if method == NESTED else gl.nth_derivative(function, order)
        return operations(jax.make_jaxpr(program)(x))
    _, evaluations = _build(method, order)
    return (evaluations or 0) * operations(jax.make_jaxpr(function)(x))


def operations(program: Any) -> int:
    """Count the operations of a jaxpr and of those inside it."""
    program = getattr(program, "jaxpr", program)
    count = 0
    for equation in program.eqns:
        inner = [p for p in equation.params.values() if hasattr(p, "eqns")]
        inner += [p for p in equation.params.values() if hasattr(p, "jaxpr")]
        count += sum(map(operations, inner)) if inner else 1
    return count


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the rows as a table."""
    from gradlab.compare.table import Table

    shown = tuple(
        row
        | {"digits": digits(row), "first": 1e3 * row["first_seconds"]}
        | {"warm": 1e6 * row["seconds"]}
        for row in rows
    )
    formats = {
        "method": ("method", ""),
        "order": ("n", "d"),
        "digits": ("digits", ".1f"),
        "operations": ("operations", "d"),
        "evaluations": ("evaluations", "d"),
        "first": ("first call / ms", ".0f"),
        "warm": ("warm call / µs", ".0f"),
    }
    return Table(shown, formats)


def digits(row: dict[str, Any]) -> float:
    """Return the number of correct digits, none if the sign is wrong too."""
    return max(0.0, -math.log10(row["error"])) if math.isfinite(row["error"]) else 0.0


def growth(rows: Sequence[dict[str, Any]], method: str) -> float:
    """Return the factor by which the operations grow from the last order but one."""
    counts = [row["operations"] for row in rows if row["method"] == method]
    return counts[-1] / counts[-2]


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say which method is exact, which is cheap, and where differences end."""
    nested, series, central, adaptive = (
        [row for row in rows if row["method"] == method] for method in HIGHEST
    )
    ratio = nested[-1]["operations"] / series[len(nested) - 1]["operations"]
    first = nested[-1]["first_seconds"] / series[len(nested) - 1]["first_seconds"]
    return (
        f"The Taylor series keeps {min(map(digits, series)):.0f} digits up to order "
        f"{len(series)}, where one more order costs {growth(rows, SERIES):.2f} times as much. "
        f"Nested grad keeps as many, but each nesting makes a program "
        f"{growth(rows, NESTED):.1f} times as long: at order {len(nested)}, {ratio:.0f} times "
        f"the series' and {first:.0f} times as long to compile. Differences lose digits with "
        f"every order: {digits(central[-1]):.1f} are left at order {len(central)} with a fixed "
        f"step, {digits(adaptive[-1]):.1f} at order {len(adaptive)} with adaptive ones."
    )


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw cost and digits against the order.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13.0, 4.4), layout="constrained")
    panels = {
        "operations in the program": (left, "operations"),
        "correct digits": (right, None),
    }
    for y_label, (ax, column) in panels.items():
        lines = {
            method: (
                [r["order"] for r in rows if r["method"] == method],
                [r[column] if column else digits(r) for r in rows if r["method"] == method],
            )
            for method in HIGHEST
        }
        gl.plots.plot_errors(
            lines,
            x_label="order of the derivative",
            y_label=y_label,
            log="y" if column else "",
            ax=ax,
        )
        ax.xaxis.get_major_locator().set_params(integer=True)
    right.set_ylim(0, 17)
    return {"nth-derivatives": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        rows = measure(highest=QUICK if options.quick else HIGHEST)
        print(run.report(table(rows), answer(rows), results=rows))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
