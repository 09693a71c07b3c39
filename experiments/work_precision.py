"""How many digits of a derivative does each evaluation of the function buy?

Six functions of one variable, each near one point: a smooth one, one with a pole nearby, a
narrow peak, a fast wave, a steep potential, and one with a large constant on top. Finite
differences of accuracy 1 to 8 at their default step, adaptive differences with budgets from
31 to 99 evaluations, the complex step and `jax.grad`, against closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

DIFFERENCES, ADAPTIVE, COMPLEX, AUTODIFF = (
    "finite differences",
    "adaptive differences",
    "complex step",
    "jax.grad",
)
METHODS = (DIFFERENCES, ADAPTIVE, COMPLEX, AUTODIFF)
ACCURACIES, QUICK_ACCURACIES = (1, 2, 4, 6, 8), (1, 2, 4)
BUDGETS, QUICK_BUDGETS = (31, 35, 50, 70, 99), (35, 50)
# Points about each function's own, moved by up to a percent: at one point luck decides.
NUM_POINTS, SPREAD = 15, 0.01
# gradlab counts a gradient as three losses: the value, and a backward pass of about twice
# its cost (Griewank and Walther, 2008, section 3.3, bound it by 4 in all).
GRADIENT = 3
# No answer in float64 is better than half a rounding, and so is no reference.
REFERENCE = 2.0**-53


class Case(NamedTuple):
    """A function, its derivative written by hand, and where.

    Attributes:
        name: What the table calls it.
        function: From JAX arrays, elementwise.
        derivative: From NumPy arrays, elementwise.
        point: Where it is differentiated.
    """

    name: str
    function: Callable[[Any], Any]
    derivative: Callable[[np.ndarray], np.ndarray]
    point: float


def cases() -> list[Case]:
    """Return the six functions."""
    import jax.numpy as jnp

    return [
        Case(
            "exp(sin x)",
            lambda x: jnp.exp(jnp.sin(x)),
            lambda x: np.cos(x) * np.exp(np.sin(x)),
            0.7,
        ),
        Case("pole: 1 / (2 − x)", lambda x: 1 / (2 - x), lambda x: (2 - x) ** -2.0, 1.5),
        Case(
            "peak: 1 / (1 + 25 x²)",
            lambda x: 1 / (1 + 25 * x**2),
            lambda x: -50 * x / (1 + 25 * x**2) ** 2,
            0.3,
        ),
        Case("wave: sin(50 x)", lambda x: jnp.sin(50 * x), lambda x: 50 * np.cos(50 * x), 0.75),
        Case(
            "potential: x⁻¹² − x⁻⁶",
            lambda x: x**-12 - x**-6,
            lambda x: -12 * x**-13.0 + 6 * x**-7.0,
            1.05,
        ),
        Case("offset: 10⁴ + sin x", lambda x: 1e4 + jnp.sin(x), np.cos, 0.7),
    ]


def measure(
    *,
    accuracies: Sequence[int] = ACCURACIES,
    budgets: Sequence[int] = BUDGETS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Differentiate every function by every method.

    Args:
        accuracies: Of the finite differences.
        budgets: Most evaluations of the adaptive ones.
        seed: Seed of the points.

    Returns:
        Rows with the function, the method, its setting, evaluations a derivative, and the
        median and the worst relative error over the points.
    """
    import jax.numpy as jnp

    moves = np.random.default_rng(seed).uniform(1 - SPREAD, 1 + SPREAD, NUM_POINTS)
    rows = []
    for case in cases():
        x = jnp.asarray(case.point * moves)
        exact = case.derivative(np.asarray(x, dtype=float))
        for method, setting, (found, evaluations) in _answers(case, x, accuracies, budgets):
            errors = abs(np.asarray(found, dtype=float) - exact) / abs(exact)
            row = {"function": case.name, "method": method, "setting": setting}
            row |= {"evaluations": evaluations, "error": max(np.median(errors), REFERENCE)}
            rows.append(row | {"worst": max(errors.max(), REFERENCE)})
    return rows


def _answers(case: Case, x: Any, accuracies: Sequence[int], budgets: Sequence[int]) -> Any:
    """Yield the method, its setting, and its derivatives with the evaluations of each."""
    import jax

    f = case.function
    for accuracy in accuracies:
        scheme = "forward" if accuracy == 1 else "central"
        operator = gl.finite.derivative(f, scheme=scheme, accuracy=accuracy)
        yield (
            DIFFERENCES,
            f"{scheme}, accuracy {accuracy}",
            (operator(x), operator.num_evaluations(x)),
        )
    for budget in budgets:
        estimate = gl.adaptive.derivative(f, max_nfev=budget)(x)
        used = int(np.max(np.asarray(estimate.nfev)))
        yield ADAPTIVE, f"max_nfev={budget}", (estimate.value, used)
    yield COMPLEX, "", (gl.finite.derivative(f, scheme="complex")(x), 1)
    yield AUTODIFF, "", (jax.vmap(jax.grad(f))(x), GRADIENT)


def digits(error: float) -> float:
    """Return correct digits, from none on."""
    return max(0.0, -math.log10(error)) if math.isfinite(error) else 0.0


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return one row a function, with the median digits of every method and setting."""
    from gradlab.compare.table import Table

    columns = {f"{r['method']}, {r['setting']}".rstrip(", "): None for r in rows}
    heads = {name: _heading(name) for name in columns}
    shown: dict[str, dict[str, Any]] = {}
    for r in rows:
        name = f"{r['method']}, {r['setting']}".rstrip(", ")
        shown.setdefault(r["function"], {"function": r["function"]})[name] = digits(r["error"])
    formats = {"function": ("digits (median)", "")}
    return Table(tuple(shown.values()), formats | {n: (h, ".1f") for n, h in heads.items()})


def _heading(name: str) -> str:
    """Shorten a column's name: `fd 4` for accuracy 4, `ad 50` for a budget of 50."""
    if name.startswith(DIFFERENCES):
        return f"fd {name.rpartition(' ')[2]}"
    return f"ad {name.rpartition('=')[2]}" if name.startswith(ADAPTIVE) else name


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return by method, in the order of evaluations, the digits over the functions.

    Each entry has the evaluations (most over the functions), the median digits, and the
    digits on the worst function.
    """
    lines: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        settings = dict.fromkeys(r["setting"] for r in rows if r["method"] == method)
        for setting in settings:
            here = [r for r in rows if (r["method"], r["setting"]) == (method, setting)]
            found = [digits(r["error"]) for r in here]
            entry = {"setting": setting, "evaluations": max(r["evaluations"] for r in here)}
            entry |= {
                "median": float(np.median(found)),
                "least": min(found),
                "most": max(found),
            }
            lines.setdefault(method, []).append(entry)
    return lines


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say what each method's best setting buys."""
    told = []
    for method, line in summary(rows).items():
        best = max(line, key=lambda entry: entry["median"])
        told.append(
            f"{method} {best['median']:.1f} digits ({best['least']:.1f} on the worst function) "
            f"for {best['evaluations']}"
        )
    return (
        f"In evaluations of the function: {'; '.join(told)}. A complex evaluation is dearer "
        "than a real one, and needs a function that is analytic and written for complex "
        "numbers."
    )


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw digits against evaluations: the median, and the range over the functions.

    Returns:
        The figure, by the name of its file.
    """
    lines = summary(rows)
    ax = gl.plots.plot_errors(
        {
            m: ([e["evaluations"] for e in line], [e["median"] for e in line])
            for m, line in lines.items()
        },
        ranges={
            m: ([e["least"] for e in line], [e["most"] for e in line])
            for m, line in lines.items()
        },
        x_label="evaluations of the function for one derivative",
        y_label="correct digits: median and range of six functions",
        log="x",
    )
    ax.set_ylim(0, 17)
    ax.set_xticks(ticks := [1, 2, 4, 8, 16, 32, 64], list(map(str, ticks)))
    ax.set_xticks([], minor=True)
    return {"work-precision": ax.figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        settings: dict[str, Any] = {"seed": options.seed}
        if options.quick:
            settings |= {"accuracies": QUICK_ACCURACIES, "budgets": QUICK_BUDGETS}
        rows = measure(**settings)
        print(run.report(table(rows), answer(rows), results=rows))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
