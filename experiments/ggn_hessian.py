"""When is the Gauss-Newton matrix a good stand-in for the Hessian?

For a loss ℓ(m(x)) of a model's outputs the Hessian is the Gauss-Newton matrix G = Jᵀ ∇²ℓ J
plus the curvature of the model itself, weighted by the slopes of the loss. The second part
vanishes with these slopes: where a model fits, not where it cannot. A network is trained by
Levenberg-Marquardt steps on data without noise and with, and as a classifier of clean and of
partly wrong labels; on the way both matrices are compared: their distance, their smallest
eigenvalues, and the decrease that a step by either promises and gives.

References:
    Schraudolph, N. N. (2002). Fast curvature matrix-vector products for second-order gradient
    descent.
    Martens, J. (2020). New insights and perspectives on the natural gradient method.
    Papyan, V. (2019). Measurements of three-level hierarchical structure in the outliers in
    the spectrum of deepnet Hessians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

EXACT, NOISY = "regression, exact targets", "regression, noisy targets"
CLEAN, WRONG = "classes, right labels", "classes, one label in four wrong"
TASKS = (EXACT, NOISY, CLEAN, WRONG)
POINTS, WIDTH, CLASSES = 300, 5, 3
NOISE, SHARE = 0.5, 0.25  # standard deviation of the noise; share of wrong labels
STEPS, QUICK_STEPS = 120, 25
# Damping of the steps, relative to the largest eigenvalue of G, where the training starts; it
# falls by `SHRINK` with each step that lowers the loss, down to `LEAST`, and grows by ten
# times with one that does not.
DAMPING, SHRINK, LEAST = 0.1, 0.7, 1e-7


class Problem(NamedTuple):
    """A model of parameters to outputs, a loss of the outputs, and a start."""

    model: Callable[[Any], Any]
    loss: Callable[[Any], Any]
    start: Any


def problem(name: str, seed: int = 0) -> Problem:
    """Build one of `TASKS`."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    random = np.random.default_rng(seed)
    inputs = random.uniform(-1, 1, (POINTS, 2))
    outputs = CLASSES if name in (CLEAN, WRONG) else 1
    sizes = [(2, WIDTH), (WIDTH, WIDTH), (WIDTH, outputs)]
    params = [(random.normal(size=s) / np.sqrt(s[0]), np.zeros(s[1])) for s in sizes]
    flat, unflatten = ravel_pytree(jax.tree.map(jnp.asarray, params))
    waves = np.sin(3 * inputs[:, 0]) * np.cos(2 * inputs[:, 1])
    noise = random.normal(size=POINTS) * NOISE * (name == NOISY)
    labels = np.digitize(waves, [-0.25, 0.25])
    wrong = (random.uniform(size=POINTS) < SHARE) & (name == WRONG)
    labels = jnp.asarray(np.where(wrong, random.integers(0, CLASSES, POINTS), labels))
    rows, targets = jnp.asarray(inputs), jnp.asarray(waves + noise)

    def model(x: Any) -> Any:
        z = rows
        *hidden, (last, bias) = unflatten(x)
        for weights, shift in hidden:
            z = jnp.tanh(z @ weights + shift[None])
        return z @ last + bias[None]

    def squares(z: Any) -> Any:
        return jnp.mean((z[:, 0] - targets) ** 2) / 2

    def cross_entropy(z: Any) -> Any:
        chosen = jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], 1)
        return -jnp.mean(chosen)

    return Problem(model, cross_entropy if outputs == CLASSES else squares, flat)


def measure(*, steps: int = STEPS, seed: int = 0) -> list[dict[str, Any]]:
    """Train on each task, and compare the matrices after every step.

    Args:
        steps: Steps of Levenberg and Marquardt, accepted or not.
        seed: Seed of data and start.

    Returns:
        Rows with the task, the step, the loss, ‖H − G‖ / ‖H‖ in the Frobenius norm, the
        largest and the least eigenvalues of both, and the size of the gradient.
    """
    import jax
    import jax.numpy as jnp

    from gradlab.derivatives import curvature

    rows = []
    for name in TASKS:
        model, loss, x = problem(name, seed)

        def total(x: Any, model: Any = model, loss: Any = loss) -> Any:
            return loss(model(x))

        @jax.jit
        def matrices(x: Any, model: Any = model, loss: Any = loss, total: Any = total) -> Any:
            product = curvature.ggn_vp(model, loss, x)
            gauss_newton = jax.vmap(product)(jnp.eye(x.size, dtype=x.dtype))
            value, grad = jax.value_and_grad(total)(x)
            return value, grad, gl.hessian(total)(x), gauss_newton

        damping, value = DAMPING, np.inf
        found: Any = None
        for step in range(steps + 1):
            trial = matrices(x) if found is None else matrices(x - _step(found, damping))
            if found is None:
                found = trial
            elif trial[0] < value:
                x, found = x - _step(found, damping), trial
                damping = max(SHRINK * damping, LEAST)
            else:
                damping = min(10 * damping, 1.0)
            value = float(found[0])
            rows.append({"task": name, "step": step, "loss": value} | _compared(*found[1:]))
    return rows


def _step(found: Any, damping: float) -> Any:
    """Solve for the step with the damped Gauss-Newton matrix."""
    _, grad, _, gauss_newton = (np.asarray(part) for part in found)
    shift = damping * np.linalg.norm(gauss_newton, 2)
    return np.linalg.solve(gauss_newton + shift * np.eye(len(grad)), grad).astype(grad.dtype)


def _compared(grad: Any, hessian: Any, gauss_newton: Any) -> dict[str, float]:
    """Return distance and extreme eigenvalues."""
    h, g = (np.asarray(part, float) for part in (hessian, gauss_newton))
    values, others = np.linalg.eigvalsh(h), np.linalg.eigvalsh((g + g.T) / 2)
    largest = float(np.max(np.abs(values)))
    return {
        "distance": float(np.linalg.norm(h - g) / np.linalg.norm(h)),
        "high": float(values[-1]),
        "low": float(values[0]),
        "high_ggn": float(others[-1]),
        "low_ggn": float(others[0]),
        # Below the share that rounding leaves of the largest, a sign means nothing.
        "negative": float(np.sum(values < -1e-8 * largest)),
        "gradient": float(np.max(np.abs(np.asarray(grad)))),
        "n": float(len(h)),
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each task: the start against the end."""
    told = []
    for name in TASKS:
        here = [row for row in rows if row["task"] == name]
        first, last = here[0], here[-1]
        told.append(
            {
                "task": name,
                "n": int(first["n"]),
                "loss_start": first["loss"],
                "loss": last["loss"],
                "distance_start": first["distance"],
                "distance": last["distance"],
                "ratio": last["high_ggn"] / last["high"],
                "low": last["low"] / last["high"],
                "negative_start": int(first["negative"]),
                "negative": int(last["negative"]),
            }
        )
    return told


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the summary as a table."""
    from gradlab.compare.table import Table

    formats = {
        "task": ("task", ""),
        "n": ("n", "d"),
        "loss_start": ("loss, start", ".2g"),
        "loss": ("end", ".2g"),
        "distance_start": ("‖H−G‖/‖H‖, start", ".2g"),
        "distance": ("end", ".2g"),
        "ratio": ("λmax(G)/λmax(H), end", ".3f"),
        "low": ("λmin(H)/λmax(H), end", ".1e"),
        "negative_start": ("negative λ(H), start", "d"),
        "negative": ("end", "d"),
    }
    return Table(tuple(summary(rows)), formats)


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say where the two matrices agree."""
    found = {row["task"]: row for row in summary(rows)}
    told = "; ".join(
        f"{name}: {row['distance_start']:.2g} at the start, {row['distance']:.2g} at the end "
        f"(loss {row['loss']:.2g})"
        for name, row in found.items()
    )
    return (
        f"The distance ‖H − G‖ / ‖H‖ is, for {told}. It falls with the slopes of the loss at "
        "the outputs: to nothing where targets are met, no further than the noise lets it "
        "where they are not; of classes told apart the slopes and the curvature of the loss "
        f"vanish together. G has no negative eigenvalue; H has "
        f"{', '.join(str(row['negative_start']) for row in found.values())} at the starts and "
        f"{', '.join(str(row['negative']) for row in found.values())} at the ends."
    )


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw loss and distance against the steps, and one against the other.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(17.0, 4.6), layout="constrained")
    panels = (
        ("step", "loss", "steps tried", "loss", "y", "training"),
        ("step", "distance", "steps tried", "‖H − G‖ / ‖H‖", "y", "distance in training"),
        ("loss", "distance", "loss", "‖H − G‖ / ‖H‖", "xy", "distance against loss"),
    )
    for ax, (across, up, x_label, y_label, log, title) in zip(axes, panels, strict=True):
        lines = {}
        for name in TASKS:
            here = [row for row in rows if row["task"] == name]
            lines[name] = ([row[across] for row in here], [row[up] for row in here])
        gl.plots.plot_errors(lines, x_label=x_label, y_label=y_label, log=log, ax=ax)
        ax.set_title(title, loc="left", fontsize=10.5)
    axes[2].invert_xaxis()
    return {"ggn-hessian": figure}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        steps = QUICK_STEPS if options.quick else STEPS
        rows = measure(steps=steps, seed=options.seed)
        from gradlab.compare.table import Table

        Table(tuple(rows), {}).to_csv(run.path("steps.csv"))
        print(run.report(table(rows), answer(rows)))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
