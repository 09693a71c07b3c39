"""What does `minimize` with its trace cost beside a bare loop around the same update?

Adam on the logistic regression of the breast cancer data in float64, the same number of
steps, both compiled beforehand. The bare loop keeps nothing but the parameters; `minimize`
records loss, gradient norm, step length and counts of every step, and tests for the end.

    python benchmarks/driver_overhead.py [--steps N] [--pairs N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import optax

import gradlab as gl

RATE = 1e-3  # slow enough that no stopping test holds within the steps


def bare_loop(problem: Any, num_steps: int) -> Callable[[], Any]:
    """Build a call of a `lax.while_loop` around value, gradient and Adam's update."""
    optimizer = optax.adam(RATE)

    @jax.jit
    def run(params: Any, args: Any) -> Any:
        def step(carry: Any) -> Any:
            k, params, state, _ = carry
            value, grad = jax.value_and_grad(problem.loss)(params, *args)
            updates, state = optimizer.update(grad, state, params)
            return k + 1, optax.apply_updates(params, updates), state, value

        value = problem.loss(params, *args)
        start = (0, params, optimizer.init(params), value)
        return jax.lax.while_loop(lambda carry: carry[0] < num_steps, step, start)[1]

    start = problem.init()
    return lambda: jax.block_until_ready(run(start, problem.args))


def driver(problem: Any, num_steps: int) -> Callable[[], Any]:
    """Build a call of `minimize` that takes exactly `num_steps` steps."""
    method = gl.optimizers.make("adam", learning_rate=RATE)
    start = problem.init()

    def run() -> Any:
        result = gl.minimize(
            problem.loss, start, method, args=problem.args, max_steps=num_steps, gtol=0.0
        )
        assert int(result.nit) == num_steps, result.message
        return result.x

    return run


def _seconds(call: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    """Measure pairs of runs in turn and print seconds a step and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=5000, help="steps a run (5000)")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of runs (9)")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    problem = gl.problems.get("logistic")
    bare, ours = bare_loop(problem, options.steps), driver(problem, options.steps)
    difference = jax.tree.map(lambda a, b: abs(a - b).max(), bare(), ours())
    assert max(jax.tree.leaves(difference)) < 1e-8, "the two loops end at different points"
    pairs = [(_seconds(bare), _seconds(ours)) for _ in range(options.pairs)]
    for name, times in zip(
        ("bare while_loop", "minimize"), zip(*pairs, strict=True), strict=True
    ):
        step = statistics.median(times) / options.steps
        print(f"{name:<16}{1e6 * step:8.2f} µs a step")
    ratios = sorted(ours / bare for bare, ours in pairs)
    print(
        f"ratio           {statistics.median(ratios):8.3f}, median of {len(ratios)} pairs "
        f"(from {ratios[0]:.3f} to {ratios[-1]:.3f})"
    )


if __name__ == "__main__":
    main()
