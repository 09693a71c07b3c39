"""How many small problems a second does a batch solve, beside optimistix and a SciPy loop?

4,096 starts of Rosenbrock's function of ten variables, normal around the published start
with a standard deviation of 0.5 in each variable, and 4,096 logistic regressions of 100
samples with 10 features, each with data of its own, started from zero. gradlab's methods
and optimistix's BFGS run under `jax.vmap`, compiled; SciPy's L-BFGS-B runs in a loop on a
sample, with compiled exact gradients. A problem counts as solved when its gradient is
below 1e-6 of that at its start (of Rosenbrock's second minimum near (-1, 1, ..., 1) too).

    python benchmarks/batched.py [--size N] [--methods NAME ...] [--loop N] [--repeats N]
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradlab as gl

__all__ = ["Family", "families", "main", "measure"]

SMALL_GRADIENT = 1e-6
SPREAD = 0.5
MAX_STEPS = 500
TOLERANCE = 1e-8  # of optimistix, relative and absolute


class Family(NamedTuple):
    """Problems that differ in their starts and data: `args` has a leading batch axis."""

    name: str
    loss: Callable[..., Any]
    starts: Any
    args: tuple[Any, ...]


def families(size: int) -> list[Family]:
    """Build the two families, from fixed random numbers."""
    random = np.random.default_rng(0)
    rosenbrock = gl.problems.get("rosenbrock", n=10)
    starts = np.asarray(rosenbrock.init()) + SPREAD * random.normal(size=(size, 10))
    features = random.normal(size=(size, 100, 10))
    weights = random.normal(size=(size, 10, 1))
    noisy = (features @ weights)[..., 0] + random.logistic(size=(size, 100))
    labels = np.sign(noisy)
    return [
        Family("Rosenbrock, n = 10", rosenbrock.loss, jnp.asarray(starts), ()),
        Family(
            "logistic, 100 x 10",
            _logistic,
            jnp.zeros((size, 10)),
            (jnp.asarray(features), jnp.asarray(labels)),
        ),
    ]


def _logistic(x: Any, features: Any, labels: Any) -> Any:
    """Mean logistic loss with a small ridge, so that separable data have a minimum."""
    margins = labels * (features @ x)
    return jnp.mean(jnp.logaddexp(0.0, -margins)) + 5e-4 * jnp.sum(x**2)


def _gradlab(family: Family, method: str) -> Callable[..., Any]:
    """A method under `vmap`, compiled: starts and data to answers."""

    def solve(x0: Any, *args: Any) -> Any:
        result = gl.minimize(
            family.loss, x0, method, args=args, trace=None, max_steps=MAX_STEPS
        )
        return result.x

    return jax.jit(jax.vmap(solve))


def _optimistix(family: Family) -> Callable[..., Any]:
    """Its BFGS under `vmap`, compiled."""
    import optimistix

    search = optimistix.BFGS(rtol=TOLERANCE, atol=TOLERANCE)

    def solve(x0: Any, *args: Any) -> Any:
        return optimistix.minimise(
            lambda x, data: family.loss(x, *data),
            search,
            x0,
            args,
            max_steps=MAX_STEPS,
            throw=False,
        ).value

    return jax.jit(jax.vmap(solve))


def _scipy(family: Family) -> Callable[..., Any]:
    """A loop of SciPy's L-BFGS-B over compiled values and gradients."""
    import scipy.optimize

    value_and_grad = jax.jit(jax.value_and_grad(family.loss))

    def solve(starts: Any, *args: Any) -> Any:
        answers = []
        for k, x0 in enumerate(np.asarray(starts)):
            own = tuple(leaf[k] for leaf in args)

            def both(x: Any, own: Any = own) -> Any:
                value, grad = value_and_grad(x, *own)
                return float(value), np.asarray(grad)

            found = scipy.optimize.minimize(
                both, x0, jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": TOLERANCE}
            )
            answers.append(found.x)
        return np.stack(answers)

    return solve


def measure(
    family: Family, methods: list[str], loop: int, repeats: int
) -> dict[str, tuple[float, float]]:
    """Solve the family by every solver: solves a second, and the share solved.

    Args:
        family: The problems.
        methods: Of gradlab.
        loop: Number of problems in SciPy's loop.
        repeats: Calls of each, of which the fastest counts.

    Returns:
        Solves a second and share solved, by solver.
    """
    size = len(family.starts)
    solvers = [(f"gradlab {name}", _gradlab(family, name), size) for name in methods]
    if importlib.util.find_spec("optimistix"):
        solvers.append(("optimistix BFGS", _optimistix(family), size))
    if importlib.util.find_spec("scipy") and loop:
        solvers.append(("scipy L-BFGS-B, loop", _scipy(family), min(loop, size)))
    grads = jax.jit(jax.vmap(jax.grad(family.loss)))
    figures = {}
    for name, solve, number in solvers:
        problems = (family.starts[:number], *(leaf[:number] for leaf in family.args))
        answers = jnp.asarray(solve(*problems))  # compiles
        seconds = min(_seconds(solve, problems) for _ in range(repeats))
        left = jnp.max(jnp.abs(grads(answers, *problems[1:])), axis=1)
        first = jnp.max(jnp.abs(grads(*problems)), axis=1)
        figures[name] = (number / seconds, float(jnp.mean(left <= SMALL_GRADIENT * first)))
    return figures


def _seconds(solve: Callable[..., Any], problems: tuple[Any, ...]) -> float:
    """Time one call."""
    start = time.perf_counter()
    jax.block_until_ready(solve(*problems))
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    """Measure both families and print solves a second, shares and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=4096, help="problems a batch (4096)")
    parser.add_argument("--methods", nargs="+", default=["newton_cg", "newton"])
    parser.add_argument("--loop", type=int, default=50, help="problems in SciPy's loop (50)")
    parser.add_argument("--repeats", type=int, default=3, help="calls, the fastest counts (3)")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    for family in families(options.size):
        figures = measure(family, options.methods, options.loop, options.repeats)
        peer = figures.get("optimistix BFGS", (np.nan, 0.0))[0]
        print(f"\n{family.name}, {options.size} problems")
        print(f"{'solver':<24}{'solves/s':>10}{'solved':>9}{'x optimistix':>14}")
        for name, (rate, share) in figures.items():
            print(f"{name:<24}{rate:10.0f}{100 * share:8.1f}%{rate / peer:14.2f}")


if __name__ == "__main__":
    main()
