"""What does a Newton-CG step cost on a sparse logistic regression of 10⁶ parameters?

20,000 rows of 50 non-zeros each, gathered by their column numbers, some columns far more
frequent than others, as words are; labels from a linear truth, with a ridge penalty.
Printed: the time of one Hessian-vector product over that of one gradient, the time and the
products of each Newton-CG step, and the peak memory of the process.

    python benchmarks/large_newton_cg.py [--params N] [--rows N] [--steps N]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradlab as gl

__all__ = ["Data", "build", "logistic", "main", "product_over_gradient"]

NONZEROS = 50
RIDGE = 1e-4


class Data(NamedTuple):
    """Sparse rows: column numbers and values, shape (rows, non-zeros), and labels ±1."""

    columns: Any
    values: Any
    labels: Any


def build(num_params: int, num_rows: int, dtype: str = "float32") -> Data:
    """Draw the rows, and labels that a linear model explains in part.

    The column of rank r is drawn with a probability about r^(-2/3).
    """
    random = np.random.default_rng(0)
    columns = (num_params * random.random((num_rows, NONZEROS)) ** 3).astype(np.int32)
    values = random.normal(size=(num_rows, NONZEROS)) / np.sqrt(NONZEROS)
    truth = random.normal(size=num_params)
    margins = 3 * np.sum(values * truth[columns], axis=1)
    labels = np.sign(margins + random.logistic(size=num_rows))
    return Data(jnp.asarray(columns), jnp.asarray(values, dtype), jnp.asarray(labels, dtype))


def logistic(x: Any, data: Data) -> Any:
    """Mean logistic loss of the margins y aᵀx, and a ridge penalty."""
    margins = data.labels * jnp.sum(data.values * x[data.columns], axis=1)
    return jnp.mean(jnp.logaddexp(0, -margins)) + RIDGE / 2 * jnp.sum(x**2)


def product_over_gradient(x: Any, data: Data, repeats: int = 7) -> tuple[float, float]:
    """Time a gradient and a Hessian-vector product, as a step of Newton-CG makes them.

    The product is one of many after one linearisation, so it is timed as the difference
    between loops of one and of eleven products, each on the one before.

    Args:
        x: The point.
        data: The rows.
        repeats: Runs of each; the median counts.

    Returns:
        Seconds of one gradient, and of one product.
    """

    def products(number: int) -> Callable[..., Any]:
        @jax.jit
        def run(x: Any, data: Data) -> Any:
            _, grad, hvp = gl.value_grad_hvp(lambda x: logistic(x, data), x)
            return jax.lax.fori_loop(0, number, lambda _, v: hvp(v), grad)

        return run

    @jax.jit
    def gradients(x: Any, data: Data) -> Any:
        def step(_: Any, v: Any) -> Any:
            return jax.grad(logistic)(v, data)

        return jax.lax.fori_loop(0, 10, step, x)

    one, eleven = (_median_seconds(products(n), (x, data), repeats) for n in (1, 11))
    return _median_seconds(gradients, (x, data), repeats) / 10, (eleven - one) / 10


def _median_seconds(call: Callable[..., Any], inputs: tuple[Any, ...], repeats: int) -> float:
    """Time a call, compiled beforehand."""
    jax.block_until_ready(call(*inputs))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call(*inputs))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _peak_bytes() -> int:
    """Peak memory of this process: Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--params", type=int, default=10**6, help="parameters (10**6)")
    parser.add_argument("--rows", type=int, default=2 * 10**4, help="rows (2*10**4)")
    parser.add_argument("--steps", type=int, default=20, help="most Newton-CG steps (20)")
    options = parser.parse_args(argv)
    data = build(options.params, options.rows)
    x0 = jnp.zeros(options.params, jnp.float32)
    print(f"peak memory before             {_peak_bytes() / 2**20:8.0f} MiB")
    gradient, product = product_over_gradient(x0, data)
    print(f"one gradient                   {1e3 * gradient:8.2f} ms")
    print(f"one Hessian-vector product     {1e3 * product:8.2f} ms")
    print(f"product over gradient          {product / gradient:8.2f}")
    result = gl.minimize(
        logistic, x0, "newton_cg", args=(data,), max_steps=options.steps, loop="host"
    )
    rows = int(result.trace.num_rows)
    print(f"{result.message}\n{'step':>5}{'loss':>12}{'gradient':>12}{'products':>9}{'s':>8}")
    seconds = np.asarray(result.trace.seconds[:rows], float)
    for k in range(rows):
        made = result.trace.nhvp[k] - (result.trace.nhvp[k - 1] if k else 0)
        spent = seconds[k] - (seconds[k - 1] if k else 0)
        print(
            f"{k:5d}{result.trace.loss[k]:12.6g}{result.trace.grad_norm[k]:12.3g}"
            f"{made:9d}{spent:8.3f}"
        )
    print(f"peak memory                    {_peak_bytes() / 2**20:8.0f} MiB")


if __name__ == "__main__":
    main()
