"""What does a call cost at another point, once the first has compiled?

Products and methods are made anew at every call, as users write them in loops. Seconds of
the first call and of the later ones (median), and the maps of memory that each later call
leaves behind: a process on Linux may have 65,530.

    python benchmarks/repeated_calls.py [--calls N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradlab as gl
from gradlab import curvature as cv

KEY = jax.random.key(0)
INPUTS = jax.random.normal(KEY, (64, 10))
TARGETS = jnp.sin(INPUTS[:, 0])


def predict(params: Any) -> Any:
    """Evaluate a network of 480 parameters."""
    return jnp.tanh(INPUTS @ params["in"]) @ params["out"]


def loss(params: Any) -> Any:
    """Mean squared error of the network."""
    return jnp.mean((predict(params) - TARGETS) ** 2)


def parameters(seed: int) -> Any:
    """Draw parameters."""
    first, second = jax.random.split(jax.random.key(seed))
    inner = jax.random.normal(first, (10, 40)) / 3
    return {"in": inner, "out": jax.random.normal(second, (40,)) / 6}


def _ggn(x: Any) -> Any:
    return cv.ggn_vp(predict, lambda z: jnp.mean((z - TARGETS) ** 2), x)


CALLS: dict[str, Callable[[Any], Any]] = {
    "hessian": lambda x: gl.hessian(loss)(x),
    "certify": lambda x: gl.certify(loss, x),
    "top_eigenpairs, Hessian": lambda x: cv.top_eigenpairs(cv.hessian_vp(loss, x), x),
    "top_eigenpairs, Gauss-Newton": lambda x: cv.top_eigenpairs(_ggn(x), x),
    "trace": lambda x: cv.trace(cv.hessian_vp(loss, x), x, key=KEY),
    "diagonal": lambda x: cv.diagonal(cv.hessian_vp(loss, x), x),
    "spectrum": lambda x: cv.spectrum(cv.hessian_vp(loss, x), x, key=KEY),
    "minimize, gl.newton_cg()": lambda x: gl.minimize(loss, x, gl.newton_cg(), max_steps=5),
    "minimize, optax.adam(0.01)": lambda x: gl.minimize(loss, x, optax.adam(0.01), max_steps=5),
}


def maps() -> int:
    """Count the maps of memory of this process."""
    table = Path("/proc/self/maps")
    return len(table.read_text().splitlines()) if table.exists() else 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=6, help="later calls")
    calls = parser.parse_args().calls
    print(f"{'':30}{'first':>9}{'later':>9}{'maps a later call':>20}")
    for name, call in CALLS.items():
        seconds, before = [], 0
        for seed in range(calls + 1):
            x = jax.block_until_ready(parameters(seed))
            start = time.perf_counter()
            jax.block_until_ready(call(x))
            seconds.append(time.perf_counter() - start)
            if seed == 0:
                before = maps()
        left = (maps() - before) / calls
        later = statistics.median(seconds[1:])
        print(f"{name:30}{seconds[0]:>8.2f}s{later:>8.3f}s{left:>20.1f}")


if __name__ == "__main__":
    main()
