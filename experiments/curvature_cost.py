"""What does curvature cost: f, its gradient, a Hessian-vector product, the whole Hessian?

The loss of tanh networks of up to 100,000 parameters, and of a recurrent one, is
differentiated in every mode that `gradlab.hvp` has, by the products that
`gradlab.value_grad_hvp` makes after one linearisation, and as a whole by `gradlab.hessian`.
Times are the fastest of warm calls, over that of the loss in the same run, the programs
taking turns; operations are those that the compiler counts for the compiled program. The
Hessian takes n products: it is measured as far as patience goes.

References:
    Pearlmutter, B. A. (1994). Fast exact multiplication by the Hessian.
    Griewank, A. and Walther, A. (2008). Evaluating Derivatives, 2nd ed., sections 3.4, 4.6.
    Dagréou, M. et al. (2024). How to compute Hessian-vector products? (ICLR blog post.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

GRADIENT, MANY, HESSIAN = "gradient", "one of many products", "Hessian"
NETWORK, RECURRENT = "network", "recurrent network"
MODES = {
    "forward over reverse": "forward_over_reverse",
    "reverse over forward": "reverse_over_forward",
    "reverse over reverse": "reverse_over_reverse",
    "two gradients (finite)": "finite",
}
WIDTHS, QUICK_WIDTHS = (4, 12, 32, 100, 215), (8,)
MOST_HESSIAN = 2500  # parameters up to which the whole Hessian is timed
ROWS = 256
LENGTH = 100  # steps of the recurrent network
CALLS, SECONDS = 25, 0.5  # warm calls of which the fastest counts; fewer if they take long
# Products in one loop, so that a call of the compiled program is no part of their time.
LOOP = 10
# Products of central differences have about two thirds of the digits.
AGREE = 1e-3


def network(width: int, seed: int = 0) -> tuple[Callable[[Any], Any], Any]:
    """Return the mean squared error of a tanh network from its flat parameters, and those."""
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return jnp.asarray(random.normal(size=shape) / np.sqrt(shape[0]))

    inputs, targets = normal(ROWS, width) * np.sqrt(ROWS), normal(ROWS)
    layers = [(normal(width, width), jnp.zeros(width)) for _ in range(2)]
    x, unflatten = ravel_pytree((layers, normal(width)))

    def loss(x: Any) -> Any:
        layers, last = unflatten(x)
        z = inputs
        for weights, shift in layers:
            z = jnp.tanh(z @ weights + shift[None])
        return jnp.mean((z @ last - targets) ** 2)

    return loss, x


def recurrent(width: int, seed: int = 0) -> tuple[Callable[[Any], Any], Any]:
    """Return the mean square of a recurrent network's last state, and its flat matrix."""
    import jax
    import jax.numpy as jnp

    random = np.random.default_rng(seed)
    inputs = jnp.asarray(random.normal(size=(LENGTH, 32, width)))
    x = jnp.asarray(random.normal(size=width**2) / np.sqrt(width))

    def loss(x: Any) -> Any:
        matrix = x.reshape(width, width)

        def step(state: Any, now: Any) -> tuple[Any, None]:
            return jnp.tanh(state @ matrix + now), None

        start = jnp.zeros(inputs.shape[1:])
        return jnp.mean(jax.lax.scan(step, start, inputs)[0] ** 2)

    return loss, x


def measure(*, widths: Sequence[int] = WIDTHS, seed: int = 0) -> list[dict[str, Any]]:
    """Time and count every derivative at every size.

    Args:
        widths: Widths of the network; n = 2 width² + 3 width.
        seed: Seed of data and parameters.

    Returns:
        Rows with the loss, what was computed, n, its time and its operations, both
        over those of the loss, and the temporary memory of the program in bytes.
    """
    import jax
    import jax.numpy as jnp

    rows = []
    cases = [(NETWORK, *network(width, seed)) for width in widths]
    cases.append((RECURRENT, *recurrent(widths[min(3, len(widths) - 1)], seed)))
    for model, loss, x in cases:
        v = jnp.cos(jnp.arange(x.size, dtype=x.dtype))
        programs: dict[str, Callable[[Any, Any], Any]] = {
            "loss": lambda x, v, loss=loss: loss(x),
            GRADIENT: lambda x, v, loss=loss: jax.grad(loss)(x),
        }
        for name, mode in MODES.items():
            programs[name] = lambda x, v, loss=loss, mode=mode: gl.hvp(loss, x, v, mode=mode)
        if x.size <= MOST_HESSIAN and model == NETWORK:
            programs[HESSIAN] = lambda x, v, loss=loss: gl.hessian(loss)(x)
        costs = costs_of(programs, loss, x, v)
        unit = costs.pop("loss")
        products = {n: program(x, v) for n, program in programs.items() if n in MODES}
        _check(products)
        for name, found in costs.items():
            row = {"model": model, "what": name, "n": x.size, "seconds": found["seconds"]}
            row |= {"time": found["seconds"] / unit["seconds"], "bytes": found["bytes"]}
            counted = found["operations"]
            row["operations"] = counted / unit["operations"] if counted else None
            rows.append(row | {"loss_seconds": unit["seconds"]})
    return rows


def costs_of(
    programs: dict[str, Callable[[Any, Any], Any]], loss: Callable[[Any], Any], x: Any, v: Any
) -> dict[str, dict[str, Any]]:
    """Return time, operations and temporary memory of each compiled program."""
    import jax

    compiled = {name: jax.jit(p).lower(x, v).compile() for name, p in programs.items()}
    loops = {f"{MANY}, {k}": products(loss, k).lower(x, v).compile() for k in (1, 1 + LOOP)}
    seconds = warm_seconds(compiled | loops, x, v)
    costs = {}
    for name, program in compiled.items():
        counted = program.cost_analysis() or {}
        # Of a loop the compiler counts one round only, so that its operations say nothing.
        in_loop = "while" in program.as_text()
        costs[name] = {
            "seconds": seconds[name],
            "operations": None if in_loop else counted.get("flops"),
            "bytes": program.memory_analysis().temp_size_in_bytes,
        }
    few, many = (seconds[name] for name in loops)
    # Where the loop is too fast for the clock, the difference may be anything.
    each = (many - few) / LOOP if many > few else float("nan")
    return costs | {MANY: {"seconds": each, "operations": None, "bytes": None}}


def products(loss: Callable[[Any], Any], number: int) -> Any:
    """Return the program of a linearisation and that many products, each of the last."""
    import jax
    import jax.numpy as jnp

    def program(x: Any, v: Any) -> Any:
        hvp = gl.value_grad_hvp(loss, x)[2]

        def again(_: Any, v: Any) -> Any:
            v = hvp(v)
            return v / jnp.linalg.norm(v)

        return jax.lax.fori_loop(0, number, again, v)

    return jax.jit(program)


def warm_seconds(programs: dict[str, Any], x: Any, v: Any) -> dict[str, float]:
    """Return the fastest time of calls after the first, the programs taking turns."""
    import jax

    times: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        jax.block_until_ready(program(x, v))
    for _ in range(CALLS):
        for name, program in programs.items():
            spent = times[name]
            if len(spent) < 3 or sum(spent) < SECONDS:
                started = time.perf_counter()
                jax.block_until_ready(program(x, v))
                spent.append(time.perf_counter() - started)
    return {name: min(spent) for name, spent in times.items()}


def _check(products: dict[str, Any]) -> None:
    """Raise unless the modes agree: a wrong product may cost anything."""
    first, *others = (np.asarray(product, float) for product in products.values())
    for name, other in zip(list(products)[1:], others, strict=True):
        error = float(np.max(abs(other - first)) / np.max(abs(first)))
        if not error < AGREE:
            raise ArithmeticError(f"{name} differs by {error:.1e}.")


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the rows as a table."""
    from gradlab.compare.table import Table

    formats = {
        "model": ("loss of", ""),
        "what": ("what", ""),
        "n": ("n", ",d"),
        "time": ("time / losses", ".3g"),
        "operations": ("operations / losses", ".3g"),
        "milliseconds": ("time / ms", ".3g"),
        "kilobytes": ("temporary / kB", ",.0f"),
    }

    def scaled(value: float | None, factor: float) -> float | None:
        return None if value is None else factor * value

    shown = [
        row
        | {"milliseconds": scaled(row["seconds"], 1e3), "kilobytes": scaled(row["bytes"], 1e-3)}
        for row in rows
    ]
    return Table(tuple(shown), formats)


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say what each costs at the largest size, and how the Hessian grows."""
    networks = [row for row in rows if row["model"] == NETWORK]
    largest = max(row["n"] for row in networks)
    here = {row["what"]: row for row in networks if row["n"] == largest}
    loops = {row["what"]: row for row in rows if row["model"] == RECURRENT}
    through = ", ".join(
        f"{name} {loops[name]['time']:.1f} and {loops[name]['bytes'] / 1e6:.1f} MB"
        for name in MODES
    )
    modes = ", ".join(f"{name} {here[name]['time']:.1f}" for name in MODES)
    hessians = [row for row in rows if row["what"] == HESSIAN]
    per_column = ", ".join(f"{h['time'] / h['n']:.2f} (n = {h['n']:,})" for h in hessians)
    return (
        f"In units of the loss, at n = {largest:,} a gradient takes "
        f"{here[GRADIENT]['time']:.1f}, a Hessian-vector product: {modes}; one of many after "
        f"one linearisation {here[MANY]['time']:.1f}. The Hessian takes {per_column} for each "
        "of its columns. "
        f"Through {LENGTH} steps of a recurrent network: {through}."
    )


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw times over those of the loss against the number of parameters.

    Returns:
        The figure, by the name of its file.
    """
    lines = {}
    for name in (GRADIENT, *MODES, MANY, HESSIAN):
        here = [row for row in rows if row["what"] == name and row["model"] == NETWORK]
        lines[name] = ([r["n"] for r in here], [r["time"] for r in here])
    ax = gl.plots.plot_errors(
        lines, x_label="number of parameters", y_label="time / time of the loss"
    )
    ax.set_title("measured, fastest of warm calls", loc="left", fontsize=10.5)
    return {"curvature-cost": ax.figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        widths = QUICK_WIDTHS if options.quick else WIDTHS
        rows = measure(widths=widths, seed=options.seed)
        shown = table(rows)
        shown.to_csv(run.path("costs.csv"))
        print(run.report(shown, answer(rows), results=rows))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
