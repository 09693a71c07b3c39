"""How large may the learning rate be, which one is best, and when must it fall?

Gradient descent multiplies the distance to the minimum by 1 - r λ along a direction of
curvature λ. On x², where λ = 2, a rate of 0.1 / λ is slow, 1 / λ is there in one step, 1.9 / λ
jumps from side to side, and beyond 2 / λ it diverges. With several curvatures the largest, L,
sets the limit 2 / L and the smallest the pace, so that a loss takes about κ steps. The limit
is measured from a sweep of rates, all of them lanes of one compiled program, and compared with
2 / L. With noise in the gradient a constant rate ends at a floor r σ² / (L (2 - r L)), and
rates that fall go below it.

References:
    Nesterov, Y. (2004). Introductory Lectures on Convex Optimization, section 1.2.3.
    Robbins, H. and Monro, S. (1951). A stochastic approximation method. Annals of
    Mathematical Statistics 22:400 (rates that fall).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

SQUARE, BOWL, DIABETES = "x²", "bowl, κ = 100", "least squares, diabetes"
# The rates shown, in units of 1 / L.
MULTIPLES = (0.1, 1.0, 1.9, 2.0, 2.1)
NUM_RATES = 64  # lanes of one program
LOWEST, HIGHEST = 1e-4, 1e1  # of the first sweep; the second divides the gap that is left
STEPS, SHOWN_STEPS = 500, 50
NEAR = 0.1  # of the distance at the start
NOISE, NOISY_RATE, NOISY_STEPS, NOISY_RUNS = 1.0, 0.2, 1000, 200
TUNED = ("gd", "momentum", "adam")
INVERSE, CONSTANT = "1 / k", "constant"


class Case(NamedTuple):
    """A quadratic loss.

    Attributes:
        loss: The loss.
        start: Where it starts, shape (n,).
        curvature: Largest eigenvalue of the Hessian, L.
        hessian: The Hessian, the same everywhere.
        stiffest: The eigenvector of L.
        least: Minimum of the loss.
    """

    loss: Callable[[Any], Any]
    start: Any
    curvature: float
    hessian: np.ndarray
    stiffest: np.ndarray
    least: float


class Found(NamedTuple):
    """What was measured of one loss.

    Attributes:
        rows: One a shown rate: `behaviour`, factor along the stiffest direction, steps.
        path: Iterates along the stiffest direction, from 1, one line a shown rate.
        rates, ends: The first sweep: rates, and the gap after 50 steps over that at the start.
        diverged: Which of them ended with a longer gradient than they started with.
        limit, theory: Where divergence begins, as measured, and 2 / L.
    """

    rows: list[dict[str, Any]]
    path: np.ndarray
    rates: np.ndarray
    ends: np.ndarray
    diverged: np.ndarray
    limit: float
    theory: float


def cases() -> dict[str, Case]:
    """Return the losses by name."""
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    scales = np.geomspace(1, 100, 10)
    problem = gl.problems.get("linear")
    zero, unravel = ravel_pytree(problem.init())
    losses = {
        SQUARE: (lambda x: jnp.sum(x**2), jnp.ones(1)),
        BOWL: (lambda x: jnp.sum(scales * x**2) / 2, jnp.ones(10)),
        DIABETES: (lambda x: problem.loss(unravel(x), *problem.args), zero),
    }
    found = {}
    for name, (loss, start) in losses.items():
        hessian = np.asarray(gl.hessian(loss)(start), float)
        values, vectors = np.linalg.eigh(hessian)
        least = float(problem.minimum or 0) if name == DIABETES else 0.0
        found[name] = Case(loss, start, float(values[-1]), hessian, vectors[:, -1], least)
    return found


def measure(*, names: Sequence[str] = (SQUARE, BOWL, DIABETES)) -> dict[str, Found]:
    """Run gradient descent with every rate on every loss, all rates of a loss at once."""
    known = cases()
    return {name: _measured(name, known[name]) for name in names}


def _measured(name: str, case: Case) -> Found:
    """Sweep the rates of one loss twice, the second time between the last two."""
    import jax
    import jax.numpy as jnp

    def lane(rate: Any) -> Any:
        method = gl.make("gd", learning_rate=rate)
        return gl.minimize(case.loss, case.start, method, max_steps=STEPS, gtol=0.0).trace

    lanes = jax.jit(jax.vmap(lane))
    coarse = np.geomspace(LOWEST, HIGHEST, NUM_RATES)
    first = jax.device_get(lanes(jnp.asarray(coarse)))
    at = int(np.argmax(_diverged(first)))
    fine = np.geomspace(coarse[at - 1], coarse[at], NUM_RATES)
    wild = _diverged(jax.device_get(lanes(jnp.asarray(fine))))
    edge = int(np.argmax(wild))
    with np.errstate(over="ignore"):  # of rates that diverge, which are not drawn
        gaps = (_filled(first.loss) - case.least) / (first.loss[:, :1] - case.least)
    rates = np.asarray(MULTIPLES) / case.curvature
    points = np.stack([_points(case, rate) for rate in rates])
    return Found(
        rows=[_row(name, case, *pair) for pair in zip(rates, points, strict=True)],
        path=points @ case.stiffest / (points[:, :1] @ case.stiffest),
        rates=coarse,
        ends=np.maximum(gaps[:, SHOWN_STEPS], np.finfo(gaps.dtype).eps),
        diverged=_diverged(first),
        limit=float(np.sqrt(fine[edge - 1] * fine[edge])) if edge else float(fine[0]),
        theory=2 / case.curvature,
    )


def _diverged(trace: Any) -> np.ndarray:
    """Tell the lanes whose gradient is longer at the end, or no number."""
    end = _filled(trace.grad_norm)[:, -1]
    return ~(np.isfinite(end) & (end < trace.grad_norm[:, 0]))


def _filled(lines: np.ndarray) -> np.ndarray:
    """Let every lane stay where it ended, for rows that were not made."""
    lines = np.array(lines, float)
    for k in range(1, lines.shape[1]):
        lines[:, k] = np.where(np.isnan(lines[:, k]), lines[:, k - 1], lines[:, k])
    return lines


def _points(case: Case, rate: float) -> np.ndarray:
    """Return the distances from the minimum, shape (steps + 1, n), in NumPy.

    The gradient is linear, H (x - x*), and so the distance is g in the inverse of H.
    """
    import jax

    gradient = jax.jit(jax.grad(case.loss))
    x, lines = np.asarray(case.start, float), []
    for _ in range(SHOWN_STEPS + 1):
        g = np.asarray(gradient(x), float)
        lines.append(np.linalg.solve(case.hessian, g))
        x = x - rate * g
    return np.stack(lines)


def _row(name: str, case: Case, rate: float, points: np.ndarray) -> dict[str, Any]:
    """Describe one run."""
    factor = float((points[1] @ case.stiffest) / (points[0] @ case.stiffest))
    distances = np.linalg.norm(points, axis=1)
    reached = np.flatnonzero(distances <= NEAR * distances[0])
    return {
        "loss": name, "rate": rate, "multiple": rate * case.curvature, "factor": factor,
        "behaviour": behaviour(factor), "steps": int(reached[0]) if reached.size else None,
        "left": float(distances[-1] / distances[0]),
    }  # fmt: skip


def behaviour(factor: float) -> str:
    """Name what a run does whose distance is multiplied by `factor` at every step."""
    if abs(abs(factor) - 1) < 1e-3:
        return "the limit"
    if factor < -1:
        return "divergent"
    return "slow" if factor > 0.5 else "right" if factor >= -0.5 else "oscillating"


def decayed(*, runs_each: int = NOISY_RUNS, seed: int = 0) -> dict[str, np.ndarray]:
    """Minimise x² with noise in the gradient; mean loss after every step, by schedule."""
    import jax
    import jax.numpy as jnp

    from gradlab.optimizers.first_order import learning_rate_schedule

    k = jnp.arange(NOISY_STEPS)
    rates = {
        name: jax.vmap(learning_rate_schedule(name, NOISY_RATE, NOISY_STEPS))(k)
        for name in (CONSTANT, "cosine", "exponential")
    }
    # The rate of a mean of k values, 1 / (L k), once that is below the constant one.
    rates[INVERSE] = jnp.minimum(NOISY_RATE, 0.5 / (k + 1))

    def run(rates: Any, key: Any) -> Any:
        def step(x: Any, pair: Any) -> Any:
            rate, noise = pair
            x = x - rate * (2 * x + NOISE * noise)
            return x, x**2

        noises = jax.random.normal(key, rates.shape)
        return jax.lax.scan(step, jnp.asarray(3.0), (rates, noises))[1]

    keys = jax.random.split(jax.random.key(seed), runs_each)
    lanes = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
    lines = lanes(jnp.stack(list(rates.values())), keys)
    return dict(zip(rates, np.mean(lines, axis=1), strict=True))


def floor(rate: float, curvature: float = 2.0, noise: float = NOISE) -> float:
    """Return the mean of x² at which a constant rate ends: r σ² / (L (2 - r L))."""
    return rate * noise**2 / (curvature * (2 - rate * curvature))


def table(found: Mapping[str, Found]) -> Any:
    """Return one row a loss and rate."""
    from gradlab.compare import Table

    formats = {
        "loss": ("loss", ""), "rate": ("rate", ".4g"), "multiple": ("rate × L", ".1f"),
        "factor": ("factor of a step", ".3f"), "behaviour": ("behaviour", ""),
        "steps": ("steps to a tenth", "d"),
        "left": (f"left after {SHOWN_STEPS}", ".1e"),
    }  # fmt: skip
    return Table(tuple(row for one in found.values() for row in one.rows), formats)


def answer(found: Mapping[str, Found], noisy: Mapping[str, np.ndarray]) -> str:
    """Say where divergence begins, which rate was best, and what decay is good for."""
    limits = ", ".join(
        f"{name} {one.limit:.4g} (2/L = {one.theory:.4g}, {one.limit / one.theory - 1:+.1%})"
        for name, one in found.items()
    )
    best = ", ".join(f"{name} {_lowest(one)}" for name, one in found.items())
    last = {name: float(np.mean(line[-NOISY_STEPS // 20 :])) for name, line in noisy.items()}
    falls = [f"{name} {last[name]:.1e}" for name in last if name != CONSTANT]
    return (
        f"Gradient descent diverges from these rates on: {limits}. Lowest of the "
        f"rates swept after {SHOWN_STEPS} steps: {best}. With noise in the gradient a constant "
        f"rate stays at {last[CONSTANT]:.1e} (theory {floor(NOISY_RATE):.1e}), "
        f"rates that fall reach {', '.join(falls)}."
    )


def _lowest(found: Found) -> str:
    """Name the rate of the sweep with the lowest end, or those that all end in rounding."""
    rates, ends = found.rates[~found.diverged], found.ends[~found.diverged]
    ties = rates[ends == ends.min()]
    if len(ties) == 1:
        return f"{ties[0]:.2g}"
    return f"{ties[0]:.2g} to {ties[-1]:.2g} (all to rounding)"


def draw(
    found: Mapping[str, Found], noisy: Mapping[str, np.ndarray], tuned: Any
) -> dict[str, Any]:
    """Draw paths, the U-curve with the limits, the tuning of methods, and the schedules.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12.8, 8.4), layout="constrained")
    one = next(iter(found.values()))
    names = [f"{row['multiple']:g}/L: {row['behaviour']}" for row in one.rows]
    shown = 16
    paths = {n: (np.arange(shown), p[:shown]) for n, p in zip(names, one.path, strict=True)}
    gl.plots.plot_errors(paths, x_label="step", y_label="x", log="", ax=axes[0, 0])
    axes[0, 0].set_title("gradient descent on x² from 1", loc="left", fontsize=10.5)
    _draw_sweeps(axes[0, 1], found)
    gl.plot_learning_rates(tuned, ax=axes[1, 0])
    axes[1, 0].set_title(f"{DIABETES}: a rate for each method", loc="left", fontsize=10.5)
    lines = {n: (np.arange(1, len(y) + 1), y) for n, y in noisy.items()}
    gl.plots.plot_errors(lines, x_label="step", y_label="mean of x²", ax=axes[1, 1])
    axes[1, 1].axhline(floor(NOISY_RATE), color="#6b6b6b", linewidth=1.2, linestyle=":")
    text = f"x², noisy gradient, {NOISY_RUNS} runs   (dotted: floor of the constant rate)"
    axes[1, 1].set_title(text, loc="left", fontsize=10.5)
    return {"learning-rates": figure}


def _draw_sweeps(ax: Any, found: Mapping[str, Found]) -> None:
    """Draw what every rate left, crosses for those that diverged, and each limit."""
    lines = {
        name: (one.rates[~one.diverged], one.ends[~one.diverged]) for name, one in found.items()
    }
    gl.plots.plot_errors(
        lines, x_label="learning rate", y_label=f"gap left after {SHOWN_STEPS} steps", ax=ax
    )
    drawn = [line for line in ax.lines if len(line.get_xdata()) > 2]
    for rank, (one, line) in enumerate(zip(found.values(), drawn, strict=False)):
        bad = one.rates[one.diverged]
        ax.plot(bad, np.full(len(bad), 10.0 ** (rank + 1)), "x", color=line.get_color(), ms=5)
        ax.axvline(one.theory, color=line.get_color(), linewidth=1.2, linestyle=(0, (4, 2)))
    title = "every rate of a sweep   (dashed: 2/L, ×: diverged)"
    ax.set_title(title, loc="left", fontsize=10.5)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        found = measure(names=(SQUARE, BOWL) if options.quick else (SQUARE, BOWL, DIABETES))
        noisy = decayed(seed=options.seed)
        methods = TUNED[:1] if options.quick else TUNED
        tuned = gl.compare(gl.problems.get("linear"), list(methods), max_steps=SHOWN_STEPS)
        shown = table(found)
        shown.to_csv(run.path("rates.csv"))
        limits = {n: {"measured": f.limit, "theory": f.theory} for n, f in found.items()}
        run.write_json("limits.json", limits)
        print(run.report(shown, answer(found, noisy)))
        run.save_figures(draw(found, noisy, tuned))


if __name__ == "__main__":
    runs.console(main)
