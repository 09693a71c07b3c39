"""What does a sparse Hessian of 10⁵ variables take?

Band, arrow, plane (five-point Laplacian) and a chain in a `fori_loop`. Printed: the products
that an evaluation takes beside the fewest there can be, those that found the pattern, the
seconds of finding and compiling, of one evaluation, of one Hessian-vector product in the same
run, and the largest error of products with the matrix beside `gl.hvp`. `--asdex` does the
same with asdex (version 0.5 on jax 0.10), where it is installed.

    python benchmarks/sparse_hessian.py [--size N] [--float64] [--asdex]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.derivatives import sparse
from gradlab.derivatives.autodiff import hvp

__all__ = ["PROBLEMS", "main", "measure"]


def _band(x: Any) -> Any:
    """Couple each variable with the two next to it on either side."""
    return jnp.sum(jnp.sin(x[2:] * x[:-2] + x[1:-1]))


def _arrow(x: Any) -> Any:
    """Couple every variable with the first."""
    return jnp.sum(jnp.exp(-x[0] * x[1:] ** 2)) + x[0] ** 4


def _plane(x: Any) -> Any:
    """Couple neighbours in a rectangle, as near a square as the number allows."""
    rows = next(k for k in range(int(x.size**0.5), 0, -1) if x.size % k == 0)
    u = x.reshape(rows, -1)
    across = jnp.sum((u[1:] - u[:-1]) ** 2) + jnp.sum((u[:, 1:] - u[:, :-1]) ** 2)
    return across + jnp.sum(jnp.exp(u))


def _loop(x: Any) -> Any:
    """Couple neighbours in a loop of 300 steps, whatever the size."""
    x = x[:300]

    def step(i: Any, total: Any) -> Any:
        return total + jnp.sin(x[i] * x[i - 1])

    return jax.lax.fori_loop(1, x.size, step, jnp.zeros((), x.dtype)) + jnp.sum(x**3)


# The function, and the fewest colours of its pattern: of a band its width, of a star two, of
# the square grid five, of a path three.
PROBLEMS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "band of 5": (_band, 5),
    "arrow": (_arrow, 2),
    "plane": (_plane, 5),
    "loop of 300": (_loop, 3),
}


def measure(name: str, n: int, dtype: Any) -> dict[str, Any]:
    """Build, evaluate and check one sparse Hessian.

    Args:
        name: One of `PROBLEMS`.
        n: Number of variables.
        dtype: Precision.

    Returns:
        What `main` prints, by name.
    """
    f, fewest = PROBLEMS[name]
    n = 300 if f is _loop else n
    random = np.random.default_rng(0)
    x, y, v = (jnp.asarray(random.uniform(0.5, 1.5, n), dtype) for _ in range(3))
    started = time.perf_counter()
    hessian = sparse.hessian(f, x)
    jax.block_until_ready(hessian.values(x))
    found: dict[str, Any] = {"build": time.perf_counter() - started}
    product = jax.jit(lambda x, v: hvp(f, x, v))
    expected = product(y, v)
    error = jnp.max(jnp.abs(hessian(y) @ v - expected)) / jnp.max(jnp.abs(expected))
    found |= {"evaluation": _median(lambda: hessian.values(y))}
    found |= {"product": _median(lambda: product(y, v)), "error": float(error)}
    found |= {"colours": hessian.num_products, "fewest": fewest, "nnz": hessian.nnz}
    return found | {"n": n, "probes": hessian.num_probes}


def _with_asdex(name: str, n: int, dtype: Any) -> str:
    """Build the same with asdex, and say what it took."""
    import asdex

    f, _ = PROBLEMS[name]
    n = 300 if f is _loop else n
    x = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, n), dtype)
    started = time.perf_counter()
    coloring = asdex.hessian_coloring(f, x)
    hessian = jax.jit(asdex.hessian_from_coloring(f, coloring))
    jax.block_until_ready(hessian(x))
    seconds = time.perf_counter() - started
    evaluation = _median(lambda: hessian(x))
    return (
        f"{'  asdex':14}{n:>8}{'':9}{coloring.num_colors:9d}{'':15}{seconds:9.2f}"
        f"{1e3 * evaluation:12.2f}"
    )


def _median(call: Callable[[], Any], repeats: int = 7) -> float:
    """Time a call, compiled beforehand."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=10**5, help="variables (10**5)")
    parser.add_argument("--float64", action="store_true", help="in float64")
    parser.add_argument("--asdex", action="store_true", help="asdex beside it")
    options = parser.parse_args(argv)
    dtype = jnp.float64 if options.float64 else jnp.float32
    print(
        f"{'':14}{'n':>8}{'nnz':>9}{'products':>9}{'fewest':>7}{'probes':>8}{'build s':>9}"
        f"{'evaluate ms':>12}{'one Hv ms':>11}{'error':>9}"
    )
    with jax.enable_x64(options.float64):
        for name in PROBLEMS:
            r = measure(name, options.size, dtype)
            print(
                f"{name:14}{r['n']:8d}{r['nnz']:9d}{r['colours']:9d}{r['fewest']:7d}"
                f"{r['probes']:8d}{r['build']:9.2f}{1e3 * r['evaluation']:12.2f}"
                f"{1e3 * r['product']:11.2f}{r['error']:9.1e}"
            )
            if options.asdex:
                print(_with_asdex(name, options.size, dtype))


if __name__ == "__main__":
    main()
