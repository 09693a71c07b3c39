"""What does a dense Hessian take, in memory and time, beside `jax.hessian`?

Mean squared error of tanh networks with two hidden layers on 256 random rows, in float32.
Temporary memory is what the compiler reports for the whole program, over the n × n result;
the times are the fastest of a few runs that take turns, and their ratio counts.

    python benchmarks/hessian_memory.py [--large]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import gradlab as gl

__all__ = ["main", "measure", "network"]

# Inputs and width of a network: n = (inputs + 1) width + (width + 1) width + width.
SIZES, LARGE = ((10, 20), (34, 40)), (50, 70)
ROWS = 256


def network(inputs: int, width: int) -> tuple[Any, Any]:
    """Return the loss of a network from its flat parameters, and those parameters."""
    keys = jax.random.split(jax.random.key(0), 5)

    def normal(key: Any, *shape: int) -> Any:
        return jax.random.normal(key, shape, jnp.float32) / shape[0] ** 0.5

    rows, targets = ROWS**0.5 * normal(keys[0], ROWS, inputs), normal(keys[1], ROWS)
    layers = [
        (normal(keys[2], inputs, width), jnp.zeros(width, jnp.float32)),
        (normal(keys[3], width, width), jnp.zeros(width, jnp.float32)),
    ]
    x, unflatten = ravel_pytree((layers, normal(keys[4], width)))

    def loss(x: Any) -> Any:
        layers, last = unflatten(x)
        z = rows
        for weights, shift in layers:
            z = jnp.tanh(z @ weights + shift[None])
        return jnp.mean((z @ last - targets) ** 2)

    return loss, x


def measure(inputs: int, width: int, repeats: int = 4) -> dict[str, float]:
    """Compile both Hessians, and time them in turns.

    Args:
        inputs: Inputs of the network.
        width: Width of its layers.
        repeats: Runs of each.

    Returns:
        The number of parameters; of each Hessian the temporary memory over the result and
        the seconds; and the largest difference between them over the largest entry.
    """
    loss, x = network(inputs, width)
    functions = {"gradlab": gl.hessian(loss), "jax": jax.hessian(loss)}
    found: dict[str, Any] = {"n": x.size}
    compiled, results = {}, {}
    for name, function in functions.items():
        compiled[name] = jax.jit(function).lower(x).compile()
        memory = compiled[name].memory_analysis()
        found[f"{name} temporary"] = memory.temp_size_in_bytes / (x.size**2 * x.dtype.itemsize)
        results[name] = jax.block_until_ready(compiled[name](x))
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, call in compiled.items():
            started = time.perf_counter()
            jax.block_until_ready(call(x))
            seconds[name].append(time.perf_counter() - started)
    found |= {f"{name} seconds": min(times) for name, times in seconds.items()}
    error = jnp.max(jnp.abs(results["gradlab"] - results["jax"]))
    return found | {"difference": float(error / jnp.max(jnp.abs(results["jax"])))}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--large", action="store_true", help="a network of 8,610 too")
    options = parser.parse_args(argv)
    print(f"{'n':>6}{'temporary / result':>28}{'seconds':>20}{'time':>8}{'differ':>10}")
    print(f"{'':6}{'jax':>16}{'gradlab':>12}{'jax':>10}{'gradlab':>10}{'ratio':>8}")
    for inputs, width in (*SIZES, LARGE) if options.large else SIZES:
        r = measure(inputs, width, repeats=1 if (inputs, width) == LARGE else 4)
        print(
            f"{r['n']:6d}{r['jax temporary']:16.2f}{r['gradlab temporary']:12.2f}"
            f"{r['jax seconds']:10.3f}{r['gradlab seconds']:10.3f}"
            f"{r['gradlab seconds'] / r['jax seconds']:8.2f}{r['difference']:10.1e}"
        )


if __name__ == "__main__":
    main()
