"""How much memory does a Hessian take: whole, by chunks, sparse, or as products?

Two losses: of a tanh network, whose Hessian is full, and the energy of a field on a square
grid, in whose Hessian each row has five entries. `jax.hessian` differentiates along all
directions at once, `gradlab.hessian` along a few at a time, `gradlab.sparse.hessian` along
one for each colour of the pattern, `gradlab.hvp` along one. Memory is what the compiler
reports for the whole program, results included; of the sparse Hessian with its pattern. What
is never run may be larger than the machine.

References:
    Griewank, A. and Walther, A. (2008). Evaluating Derivatives, 2nd ed., chapters 3 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

WHOLE, CHUNKED, SPARSE, PRODUCT = "jax.hessian", "gradlab.hessian", "sparse.hessian", "hvp"
METHODS = (WHOLE, CHUNKED, PRODUCT, SPARSE)
NETWORK, GRID = "network", "grid"
# Widths of the network, n = width² + 12 width, and sides of the grid, n = side².
WIDTHS, QUICK_WIDTHS = (6, 12, 24, 50, 90), (6, 24)
SIDES, QUICK_SIDES = (5, 10, 22, 50, 100, 316), (5, 22)
ROWS = 256
# Entries of a full Hessian that a compiler is still asked about.
MOST = 1.2e8


def network(width: int, seed: int = 0) -> tuple[Callable[[Any], Any], Any]:
    """Return the mean squared error of a network with ten inputs, and its parameters."""
    import jax.numpy as jnp

    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return jnp.asarray(random.normal(size=shape) / np.sqrt(shape[0]))

    inputs, targets = normal(ROWS, 10) * np.sqrt(ROWS), normal(ROWS)
    x = jnp.concatenate([normal(10, width).ravel(), normal(width, width + 2).ravel()])

    def loss(x: Any) -> Any:
        first, rest = x[: 10 * width].reshape(10, width), x[10 * width :].reshape(width, -1)
        z = jnp.tanh(jnp.tanh(inputs @ first) @ rest[:, :width] + rest[None, :, width])
        return jnp.mean((z @ rest[:, width + 1] - targets) ** 2)

    return loss, x


def grid(side: int, seed: int = 0) -> tuple[Callable[[Any], Any], Any]:
    """Return the Ginzburg-Landau energy of a field on a grid, and a field."""
    import jax.numpy as jnp

    def energy(x: Any) -> Any:
        u = x.reshape(side, side)
        gradients = jnp.sum((u[1:] - u[:-1]) ** 2) + jnp.sum((u[:, 1:] - u[:, :-1]) ** 2)
        return gradients / 2 + jnp.sum((u**2 - 1) ** 2) / 4

    return energy, jnp.asarray(np.random.default_rng(seed).normal(size=side**2))


def measure(
    *,
    widths: Sequence[int] = WIDTHS,
    sides: Sequence[int] = SIDES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compile every Hessian at every size.

    Args:
        widths: Widths of the network.
        sides: Sides of the grid.
        seed: Seed of data, parameters and fields.

    Returns:
        Rows with the loss, the method, n, the bytes and these over those of the n × n
        Hessian; `compiled` is False where the bytes are only those of the result, because the
        method refuses or the program is not worth compiling.
    """
    rows = []
    for model, sizes, build in ((NETWORK, widths, network), (GRID, sides, grid)):
        for size in sizes:
            loss, x = build(size, seed)
            full = float(x.size**2 * x.dtype.itemsize)
            for method in METHODS:
                if method == SPARSE and model == NETWORK:
                    continue
                found, compiled = memory(method, loss, x)
                row = {"loss": model, "method": method, "n": x.size, "compiled": compiled}
                rows.append(row | {"bytes": found, "share": found / full})
    return rows


def memory(method: str, loss: Callable[[Any], Any], x: Any) -> tuple[float, bool]:
    """Return the bytes of a compiled Hessian, or of its result where it is not compiled."""
    import jax

    from gradlab.derivatives import sparse

    full = float(x.size**2 * x.dtype.itemsize)
    if method in (WHOLE, CHUNKED) and full > MOST * x.dtype.itemsize:
        return full, False
    extra = 0
    if method == SPARSE:
        found = sparse.hessian(loss, x)
        program: Callable[..., Any] = found.values
        # Row, column, colour, place and kind of each entry.
        extra = found.nnz * (4 * 4 + 1)
    elif method == PRODUCT:

        def program(x: Any) -> Any:
            return gl.hvp(loss, x, x)

    else:
        program = {WHOLE: jax.hessian, CHUNKED: gl.hessian}[method](loss)
    analysis = jax.jit(program).lower(x).compile().memory_analysis()
    return float(analysis.temp_size_in_bytes + analysis.output_size_in_bytes + extra), True


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the rows as a table."""
    from gradlab.compare.table import Table

    formats = {
        "loss": ("loss", ""),
        "method": ("method", ""),
        "n": ("n", ",d"),
        "megabytes": ("memory / MB", ",.3g"),
        "share": ("memory / n × n result", ".3g"),
        "how": ("", ""),
    }
    shown = [
        row
        | {
            "megabytes": row["bytes"] / 1e6,
            "how": "compiled" if row["compiled"] else "result alone",
        }
        for row in rows
    ]
    return Table(tuple(shown), formats)


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say what each method takes at the largest sizes."""
    at = {(row["loss"], row["method"], row["n"]): row for row in rows}
    full = [row for row in rows if row["loss"] == NETWORK and row["compiled"]]
    n = max(row["n"] for row in full if row["method"] == WHOLE)
    whole, chunked = at[NETWORK, WHOLE, n], at[NETWORK, CHUNKED, n]
    m = max(row["n"] for row in rows if row["loss"] == GRID)
    few, dense = at[GRID, SPARSE, m], at[GRID, CHUNKED, m]
    k = max(
        r["n"] for r in rows if r["loss"] == GRID and r["compiled"] and r["method"] == WHOLE
    )
    return (
        f"For the network of {n:,} parameters jax.hessian takes {whole['share']:.1f} times the "
        f"memory of its result, gradlab.hessian {chunked['share']:.2f} times (result, and its "
        f"transpose while it is made symmetric): {whole['bytes'] / 1e6:,.0f} and "
        f"{chunked['bytes'] / 1e6:,.0f} MB. On the grid of {m:,} points the sparse Hessian "
        f"takes {few['bytes'] / 1e6:,.3g} MB, where the full one would take "
        f"{dense['bytes'] / 1e6:,.0f} MB for its result alone. Of {k:,} points the full one "
        f"takes {at[GRID, WHOLE, k]['share']:.1f} times the result by jax.hessian, which the "
        f"compiler fuses into one loop, and {at[GRID, CHUNKED, k]['share']:.1f} by "
        "gradlab.hessian."
    )


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw the memory against the number of variables, a panel for each loss.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13.0, 4.6), layout="constrained")
    titles = {NETWORK: "network: a full Hessian", GRID: "square grid: five entries a row"}
    for ax, model in zip(axes, (NETWORK, GRID), strict=True):
        lines, counted = {}, {}
        for method in METHODS:
            here = [r for r in rows if (r["loss"], r["method"]) == (model, method)]
            real = [r for r in here if r["compiled"]]
            if real:
                lines[method] = ([r["n"] for r in real], [r["bytes"] for r in real])
        sizes = sorted({r["n"] for r in rows if r["loss"] == model})
        item = next(r["bytes"] / r["share"] / r["n"] ** 2 for r in rows)
        counted["n × n"] = (sizes, [item * n**2 for n in sizes])
        gl.plots.plot_errors(
            lines,
            counted=counted,
            x_label="number of variables",
            y_label="memory / bytes",
            ax=ax,
        )
        title = f"{titles[model]}; dashed: n × n numbers"
        ax.set_title(title, loc="left", fontsize=10.5)
    return {"hessian-memory": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        widths = QUICK_WIDTHS if options.quick else WIDTHS
        sides = QUICK_SIDES if options.quick else SIDES
        rows = measure(widths=widths, sides=sides, seed=options.seed)
        shown = table(rows)
        shown.to_csv(run.path("memory.csv"))
        print(run.report(shown, answer(rows), results=rows))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
