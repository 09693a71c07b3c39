"""What do higher derivatives inside a loss cost: by nested autodiff, or by Taylor series?

A network u(x) is to solve an equation with u'' or u'''' in it, so its loss differentiates it
that often, and training differentiates the loss once more. First the gradient of the mean
square of the k-th derivative, for growing k: by reverse mode inside reverse mode, by forward
inside forward, and by one Taylor series (a jet). Nested, the work grows exponentially with k,
in a series like k². Then two equations solved by the laboratory's minimisers with each kind
of derivative: the same numbers, step by step, in other times.

References:
    Griewank, A. and Walther, A. (2008). Evaluating Derivatives, chapter 13.
    Bettencourt, J., Johnson, M. and Duvenaud, D. (2019). Taylor-mode automatic
    differentiation for higher-order derivatives in JAX.
    Raissi, M. et al. (2019). Physics-informed neural networks. J. Computational Physics 378.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

ORDERS, QUICK_ORDERS = (1, 2, 3, 4, 5, 6), (1, 2, 4)
EQUATIONS, QUICK_EQUATIONS = (2, 4), (2,)
STEPS, QUICK_STEPS = 400, 100
WIDTH, DEPTH, POINTS = 24, 2, 64
REVERSE, FORWARD, JET = "nested reverse", "nested forward", "Taylor series"
WAYS = (REVERSE, FORWARD, JET)


def derivatives(way: str, u: Callable[[Any], Any], x: Any, order: int) -> list[Any]:
    """Return u and its derivatives to this order at points x of shape (N, 1).

    The points do not see one another, so one direction, or the gradient of a sum,
    differentiates at all of them at once.
    """
    import jax.numpy as jnp

    ones = jnp.ones_like(x)
    if way == JET:
        series = gl.taylor(u, x, ones, order)
        return [series[k] * math.factorial(k) for k in range(order + 1)]
    found, function = [u(x)], u
    for _ in range(order):
        function = _slope(function, ones) if way == FORWARD else _gradient(function)
        found.append(function(x))
    return found


def _slope(function: Callable[[Any], Any], ones: Any) -> Callable[[Any], Any]:
    """Build the derivative of a function of points by forward mode."""
    import jax

    return lambda x: jax.jvp(function, (x,), (ones,))[1]


def _gradient(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Build the derivative of a function of points by reverse mode."""
    import jax
    import jax.numpy as jnp

    return lambda x: jax.grad(lambda x: jnp.sum(function(x)))(x)[:, 0]


def network(seed: int) -> tuple[Any, Any]:
    """Return the parameters of a network and the points."""
    import jax

    problem = gl.problems.get("poisson", width=WIDTH, depth=DEPTH, rows=POINTS)
    return problem.init(jax.random.key(seed)), problem.args[0]


def measure(
    *,
    orders: Sequence[int] = ORDERS,
    equations: Sequence[int] = EQUATIONS,
    steps: int = STEPS,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the cost of derivatives, and solve the equations.

    Returns:
        "costs": rows with the way, order, seconds, equations of the program, seconds to
        compile, and the distance from the series; "solved": rows with the way, the order of
        the equation, seconds a step, steps and the error of the solution.
    """
    params, points = network(seed)
    costs = []
    for order in orders:
        print(f"derivative {order} ...", file=sys.stderr, flush=True)
        made = {way: _cost(way, order, params, points) for way in WAYS}
        exact = made[JET]["gradient"]
        for way, row in made.items():
            gradient = row.pop("gradient")
            apart = np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
            costs.append({"way": way, "order": order, **row, "apart": float(apart)})
    solved = []
    for order in equations:
        print(f"equation of order {order} ...", file=sys.stderr, flush=True)
        solved += [_solved(way, order, params, points, steps) for way in (REVERSE, JET)]
    return {"costs": costs, "solved": solved}


def _cost(way: str, order: int, params: Any, points: Any) -> dict[str, Any]:
    """Time the gradient of the mean square of one derivative."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    from gradlab.problems.networks import physics

    def loss(params: Any) -> Any:
        u = functools.partial(physics.network, params)
        return jnp.mean(derivatives(way, u, points, order)[order] ** 2)

    gradient = jax.jit(jax.grad(loss))
    size = len(jax.make_jaxpr(jax.grad(loss))(params).eqns)
    started = time.perf_counter()
    compiled = gradient.lower(params).compile()
    compiling = time.perf_counter() - started
    flat = np.asarray(ravel_pytree(compiled(params))[0])
    seconds = _seconds_of(compiled, params)
    return {"seconds": seconds, "size": size, "compiling": compiling, "gradient": flat}


def _seconds_of(function: Callable[[Any], Any], x: Any) -> float:
    """Return the shortest time of a call: other programs only ever add to it."""
    import jax

    times: list[float] = []
    while len(times) < 3 or (len(times) < 100 and sum(times) < 0.3):
        started = time.perf_counter()
        jax.block_until_ready(function(x))
        times.append(time.perf_counter() - started)
    return min(times)


def _solved(way: str, order: int, params: Any, points: Any, steps: int) -> dict[str, Any]:
    r"""Solve $(-1)^{k/2} u^{(k)} = π^k \sin πx$ with u and its even derivatives 0 at the ends.

    The solution is $\sin πx$ for every even order k. Derivatives are taken in units of
    $π^k$, which makes the terms of the loss of one size.
    """
    import jax.numpy as jnp

    from gradlab.problems.networks import physics

    sine = jnp.sin(math.pi * points[:, 0])
    ends = jnp.asarray([[0.0], [1.0]], points.dtype)

    def loss(params: Any) -> Any:
        u = functools.partial(physics.network, params)
        inside = derivatives(way, u, points, order)[order] / math.pi**order
        left = (-1) ** (order // 2) * inside - sine
        border = derivatives(way, u, ends, order - 2)[::2]
        return jnp.mean(left**2) + sum(
            jnp.sum((value / math.pi ** (2 * k)) ** 2) for k, value in enumerate(border)
        )

    # The noise level follows the loss; gradient tests of 0 let every run take all its steps.
    result = gl.minimize(loss, params, "lbfgs", max_steps=steps, gtol=0.0)
    error = physics.network(result.x, points) - sine
    trace = result.trace
    taken = int(result.nit)
    return {
        "way": way,
        "equation": order,
        "steps": taken,
        "seconds": float(np.asarray(trace.seconds)[taken]),
        "loss": float(result.fun),
        "error": float(jnp.linalg.norm(error) / jnp.linalg.norm(sine)),
        "first": np.asarray(trace.loss)[: min(taken, 10) + 1],
    }


def table(found: dict[str, Any]) -> Any:
    """Return the printed table: a row a way and order."""
    from gradlab.compare.table import Table

    rows = [{**row, "ms": 1e3 * row["seconds"]} for row in found["costs"]]
    formats = {
        "order": ("order", ""),
        "way": ("way", ""),
        "ms": ("gradient, ms", ".3f"),
        "size": ("operations", ",d"),
        "compiling": ("compiling, s", ".2f"),
        "apart": ("− series, relative", ".1e"),
    }
    return Table(tuple(rows), formats)


def solutions(found: dict[str, Any]) -> Any:
    """Return the second table: a row an equation and way."""
    from gradlab.compare.table import Table

    rows = [
        {**row, "ms": 1e3 * row["seconds"] / max(row["steps"], 1)} for row in found["solved"]
    ]
    formats = {
        "equation": ("order of the equation", ""),
        "way": ("way", ""),
        "steps": ("steps", ",d"),
        "ms": ("a step, ms", ".2f"),
        "loss": ("loss", ".1e"),
        "error": ("error of the solution", ".1e"),
    }
    return Table(tuple(rows), formats)


def growth(rows: Sequence[dict[str, Any]], way: str) -> float:
    """Return by what factor the operations grow with each order, between the last two."""
    sizes = {row["order"]: row["size"] for row in rows if row["way"] == way}
    (low, high) = sorted(sizes)[-2:]
    return float((sizes[high] / sizes[low]) ** (1 / (high - low)))


def answer(found: dict[str, Any]) -> str:
    """Say how the costs grow and what that means for the equations."""
    costs, solved = found["costs"], found["solved"]
    top = max(row["order"] for row in costs)
    last = {row["way"]: row for row in costs if row["order"] == top}
    apart = max(row["apart"] for row in costs)
    grown = ", ".join(f"{way} {growth(costs, way):.1f}" for way in WAYS)
    times = ", ".join(f"{way} {1e3 * last[way]['seconds']:.2g} ms" for way in WAYS)
    told = []
    for order in dict.fromkeys(row["equation"] for row in solved):
        nested, jet = (
            next(r for r in solved if (r["equation"], r["way"]) == (order, way))
            for way in (REVERSE, JET)
        )
        ratio = (nested["seconds"] / nested["steps"]) / (jet["seconds"] / jet["steps"])
        told.append(
            f"the equation of order {order} is solved to {jet['error']:.0e}, a step with "
            f"nested derivatives taking {ratio:.1f} times as long"
        )
    return (
        f"Operations of the gradient grow with each order by: {grown}. With derivative {top} "
        f"it takes: {times}. The ways differ by at most {apart:.0e} of the gradient. "
        f"By the series {'; '.join(told)}."
    )


def draw(found: dict[str, Any]) -> dict[str, Any]:
    """Draw time and size of the gradient against the order.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.4, 4.4), layout="constrained")
    panels = (
        ("seconds", 1e3, "time / ms", "gradient of the mean square of the k-th derivative"),
        ("size", 1.0, "operations in the program", "its size before compilation"),
    )
    for (name, scale, label, title), ax in zip(panels, axes, strict=True):
        lines = {}
        for way in WAYS:
            pairs = [(r["order"], scale * r[name]) for r in found["costs"] if r["way"] == way]
            lines[way] = tuple(zip(*pairs, strict=True))
        gl.plots.plot_errors(lines, x_label="order k", y_label=label, log="y", ax=ax)
        ax.set_title(title, loc="left", fontsize=10.5)
    return {"physics-informed": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        settings: dict[str, Any] = {"seed": options.seed}
        if options.quick:
            settings |= {"orders": QUICK_ORDERS, "equations": QUICK_EQUATIONS}
            settings["steps"] = QUICK_STEPS
        found = measure(**settings)
        both = f"{table(found)}\n\n{solutions(found)}"
        print(run.report(both, answer(found), results=found["costs"]))
        table(found).to_csv(run.path("costs.csv"))
        run.save_figures(draw(found))


if __name__ == "__main__":
    runs.console(main)
