"""How long does a fresh process take from its first import to a printed minimum?

Rosenbrock's function of ten variables in float64, gradlab's default method beside BFGS of
optimistix and of jaxopt. Each run is a process of its own, the libraries take turns, and
the time runs from the first import to the printed loss, compilation included.

    python benchmarks/cold_start.py [--runs N]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys

_LOSS = """
import time
start = time.perf_counter()
{imports}
import jax.numpy as jnp

def loss(x, *_):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

x0 = jnp.tile(jnp.array([-1.2, 1.0]), 5)
{solve}
print(float(loss(x)), time.perf_counter() - start)
"""

PROGRAMS = {
    "gradlab": _LOSS.format(
        imports="import gradlab as gl",
        solve="x = gl.minimize(loss, x0).x",
    ),
    "gradlab, lbfgs": _LOSS.format(
        imports="import gradlab as gl",
        solve="x = gl.minimize(loss, x0, 'lbfgs').x",
    ),
    "optimistix": _LOSS.format(
        imports="import optimistix",
        solve="x = optimistix.minimise(loss, optimistix.BFGS(rtol=1e-8, atol=1e-8), x0,"
        " max_steps=1000).value",
    ),
    "jaxopt": _LOSS.format(
        imports="import jaxopt",
        solve="x = jaxopt.BFGS(loss, tol=1e-8, maxiter=1000).run(x0).params",
    ),
}


def measure(num_runs: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of every run and the last loss found, by program."""
    present = [name for name in PROGRAMS if importlib.util.find_spec(name.split(",")[0])]
    for name in PROGRAMS:
        if name not in present:
            print(f"{name} is not installed and is left out")
    seconds: dict[str, list[float]] = {name: [] for name in present}
    losses = {}
    for k in range(num_runs):
        # Every other round runs backwards, so that no program always follows the same one.
        for name in present[:: 1 if k % 2 == 0 else -1]:
            losses[name], spent = _run(PROGRAMS[name])
            seconds[name].append(spent)
    return seconds, losses


def _run(program: str) -> tuple[float, float]:
    """Run a program in a fresh process; return the loss and the seconds it prints."""
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a program failed:\n{program}\n{done.stderr}")
    loss, seconds = map(float, done.stdout.split()[-2:])
    return loss, seconds


def main(argv: list[str] | None = None) -> None:
    """Measure and print medians, spreads and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="processes a program (5)")
    seconds, losses = measure(parser.parse_args(argv).runs)
    ours = statistics.median(seconds["gradlab"])
    print(f"{'program':<16}{'median s':>9}{'least s':>9}{'most s':>9}{'ratio':>7}{'loss':>10}")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(
            f"{name:<16}{middle:9.2f}{min(values):9.2f}{max(values):9.2f}"
            f"{middle / ours:7.2f}{losses[name]:10.1e}"
        )
    print("ratio: median over the median of gradlab's default method")


if __name__ == "__main__":
    main()
