"""Which pixels, and which training digits, did the network go by?

A perceptron that reads digits, trained until its gradient is zero. Which pixels speak for
the digit it sees: by the gradient (saliency), by gradient × input, by the mean gradient under
noise (SmoothGrad), and by integrated gradients, whose sum has to be the difference of the
scores of the picture and of an empty one. Then which training digits a test digit's loss
rests on: influence functions foretell, by one linear system with the Hessian and products
with it alone, how the loss changes when a training digit is left out; and the network is
trained again without it, to see.

References:
    Simonyan, K. et al. (2014). Deep inside convolutional networks. ICLR workshop.
    Smilkov, D. et al. (2017). SmoothGrad.
    Sundararajan, M. et al. (2017). Axiomatic attribution for deep networks. ICML.
    Koh, P. W. and Liang, P. (2017). Understanding black-box predictions via influence
    functions. ICML.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

# Small enough to be trained to a zero gradient, ten times over; smooth; with a penalty, so
# that the minimum is strict.
OPTIONS = {"width": 16, "activation": "tanh", "l2": 3e-3, "rows": 500}
QUICK_OPTIONS = {"width": 8, "activation": "tanh", "l2": 1e-2, "rows": 200}
PICTURES = 6
METHODS = ("saliency", "gradient × input", "SmoothGrad", "integrated gradients")
LEFT_OUT, QUICK_LEFT_OUT = 24, 8
# Standard deviation of SmoothGrad's noise, in full brightness, and pictures it averages.
NOISE, NOISY = 0.15, 64
# Points of Gauss's rule along the straight way from the empty picture.
POINTS = (1, 2, 4, 8, 16, 32)


def score(params: Any, problem: gl.Problem, pixels: Any, label: Any) -> Any:
    """Return the score of a class for one picture, before the softmax."""
    assert problem.predict is not None
    return problem.predict(params, pixels[None])[0, label]


def integrated(slope: Callable[[Any], Any], pixels: Any, points: int) -> Any:
    r"""Return integrated gradients, $x_i \int_0^1 \partial_i s(t x)\,dt$, by Gauss's rule."""
    import jax
    import jax.numpy as jnp

    nodes, weights = np.polynomial.legendre.leggauss(points)
    along = jax.vmap(lambda t: slope(t * pixels))(jnp.asarray((nodes + 1) / 2))
    return pixels * jnp.einsum("t,td->d", jnp.asarray(weights / 2), along)


def measure(
    *,
    options: dict[str, Any] | None = None,
    left_out: int = LEFT_OUT,
    seed: int = 0,
) -> dict[str, Any]:
    """Train, explain some held-out pictures, and foretell and measure influences.

    Returns:
        The pictures with their attributions by method, what integrated gradients leave of
        completeness by number of points, and influences foretold and measured.
    """
    import jax

    problem = gl.problems.get("mlp", **(options or OPTIONS))
    print("training ...", file=sys.stderr, flush=True)
    everyone = np.ones(problem.num_rows)
    result = trained(problem, problem.init(jax.random.key(seed)), everyone)
    found: dict[str, Any] = {
        "accuracy": problem.evaluate(result.x)["accuracy"],
        "status": result.status.name if hasattr(result.status, "name") else int(result.status),
        "success": bool(result.success),
    }
    print("attributions ...", file=sys.stderr, flush=True)
    found |= attributions(problem, result.x, seed)
    print("influences ...", file=sys.stderr, flush=True)
    return found | influences(problem, result.x, left_out, seed)


def trained(problem: gl.Problem, start: Any, weights: Any) -> gl.Result:
    """Minimise until the gradient is as good as zero, some digits left out by their weight."""
    import jax.numpy as jnp

    args = (*problem.args, jnp.asarray(weights, problem.args[0].dtype))
    loss = _weighted(problem.predict)
    return gl.minimize(loss, start, "newton_cg", args=args, max_steps=400, gtol=1e-8)


@functools.cache  # one function of the loss, compiled once
def _weighted(predict: Callable[..., Any]) -> Callable[..., Any]:
    """Build the loss in which every training digit has a weight, usually 1."""

    def loss(params: Any, pixels: Any, labels: Any, l2: Any, weights: Any) -> Any:
        import jax
        import jax.numpy as jnp

        from gradlab.problems.networks import layers

        logs = jax.nn.log_softmax(predict(params, pixels), axis=1)
        misfits = -jnp.take_along_axis(logs, labels[:, None], axis=1)[:, 0]
        return jnp.sum(weights * misfits) / len(pixels) + layers.penalty(params, l2)

    return loss


def attributions(problem: gl.Problem, params: Any, seed: int) -> dict[str, Any]:
    """Explain held-out pictures by every method."""
    import jax
    import jax.numpy as jnp

    pixels, labels = (array[:PICTURES] for array in problem.held_out[:2])
    noise = NOISE * jax.random.normal(jax.random.key(seed), (NOISY, pixels.shape[1]))

    def explained(x: Any, label: Any) -> dict[str, Any]:
        slope = jax.grad(lambda x: score(params, problem, x, label))
        gradient = slope(x)
        return {
            "saliency": jnp.abs(gradient),
            "gradient × input": gradient * x,
            "SmoothGrad": jnp.mean(jax.vmap(slope)(x[None, :] + noise), axis=0),
            "integrated gradients": integrated(slope, x, POINTS[-1]),
        }

    def incomplete(x: Any, label: Any, points: int) -> Any:
        difference = score(params, problem, x, label) - score(params, problem, 0 * x, label)
        slope = jax.grad(lambda x: score(params, problem, x, label))
        return jnp.abs(jnp.sum(integrated(slope, x, points)) / difference - 1)

    gaps = {
        points: float(
            jnp.max(jax.vmap(functools.partial(incomplete, points=points))(pixels, labels))
        )
        for points in POINTS
    }
    maps = jax.tree.map(np.asarray, jax.jit(jax.vmap(explained))(pixels, labels))
    naive = np.asarray(
        jax.vmap(lambda x, c: score(params, problem, x, c) - score(params, problem, 0 * x, c))(
            pixels, labels
        )
    )
    return {
        "pixels": np.asarray(pixels),
        "labels": np.asarray(labels),
        "maps": maps,
        "gaps": gaps,
        # What gradient × input leaves of the same difference.
        "product_gap": float(np.max(np.abs(maps["gradient × input"].sum(1) / naive - 1))),
    }


def influences(problem: gl.Problem, params: Any, count: int, seed: int) -> dict[str, Any]:
    """Foretell and measure what leaving out a training digit does to a test digit's loss."""
    import jax
    import jax.numpy as jnp

    # The test digit of largest loss: the others rest on nobody in particular.
    held, truth = problem.held_out[:2]
    of_one = functools.partial(loss_of_one, problem)
    losses = jax.jit(jax.vmap(of_one, (None, 0, 0)))(params, held, truth)
    chosen = int(jnp.argmax(losses))
    test = held[chosen], truth[chosen]
    changes, error = (np.asarray(part) for part in foretold_changes(problem, params, test))
    order = np.argsort(-np.abs(changes))
    # Half of them the most influential, half at random.
    others = np.random.default_rng(seed).permutation(order[count // 2 :])[: count - count // 2]
    rows = np.concatenate([order[: count // 2], others])
    measured = []
    for row in rows:
        weights = np.ones(problem.num_rows)
        weights[row] = 0.0
        again = trained(problem, params, weights)
        measured.append(float(of_one(again.x, *test) - losses[chosen]))
    return {
        "foretold": changes[rows],
        "measured": np.asarray(measured),
        "cg_error": float(error),
        "test": (np.asarray(test[0]), int(test[1]), float(losses[chosen])),
        "helpful": _examples(problem, order[changes[order] > 0][:5]),
        "harmful": _examples(problem, order[changes[order] < 0][:5]),
    }


def loss_of_one(problem: gl.Problem, params: Any, pixels: Any, label: Any) -> Any:
    """Return one digit's loss, without the penalty."""
    return problem.loss(params, pixels[None], label[None], 0.0 * problem.args[2])


def foretold_changes(problem: gl.Problem, params: Any, test: tuple[Any, Any]) -> Any:
    r"""Return the change of a test digit's loss on leaving out each training digit.

    At the minimum, $\Delta\,loss = \frac1N\,\nabla loss_{test}^T H^{-1} \nabla loss_i$: one
    system for the test digit, by conjugate gradients with products of the Hessian, and one
    directional derivative for each training digit.

    Returns:
        The changes, shape (N,), and the relative residual of the system.
    """
    import jax
    import jax.numpy as jnp

    pixels, labels, _ = problem.args
    of_one = functools.partial(loss_of_one, problem)

    @jax.jit
    def solved(params: Any) -> tuple[Any, Any]:
        def product(v: Any) -> Any:
            return gl.hvp(lambda p: problem.loss(p, *problem.args), params, v)

        right = jax.grad(of_one)(params, *test)
        solution, _ = jax.scipy.sparse.linalg.cg(product, right, tol=1e-8, maxiter=1000)
        left = jax.tree.map(jnp.subtract, product(solution), right)

        def along(x: Any, y: Any) -> Any:
            return jax.jvp(lambda p: of_one(p, x, y), (params,), (solution,))[1]

        changes = jax.vmap(along)(pixels, labels) / len(pixels)
        return changes, _norm(left) / _norm(right)

    return solved(params)


def _norm(tree: Any) -> Any:
    """Return the length of a tree as one vector."""
    import optax

    return optax.tree.norm(tree)


def _examples(problem: gl.Problem, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures and labels of training rows."""
    return np.asarray(problem.args[0])[rows], np.asarray(problem.args[1])[rows]


def table(found: dict[str, Any]) -> Any:
    """Return the printed table: completeness by the number of points."""
    from gradlab.compare.table import Table

    rows = [{"points": points, "gap": gap} for points, gap in found["gaps"].items()]
    formats = {"points": ("points", ""), "gap": ("sum / difference of scores − 1", ".1e")}
    return Table(tuple(rows), formats)


def correlation(found: dict[str, Any]) -> float:
    """Return the correlation of foretold and measured changes of the loss."""
    return float(np.corrcoef(found["foretold"], found["measured"])[0, 1])


def answer(found: dict[str, Any]) -> str:
    """Say how complete the attributions are and how well influences are foretold."""
    needed = [points for points, gap in found["gaps"].items() if gap <= 1e-3]
    with_points = f"with {needed[0]} gradients" if needed else "with none of these numbers"
    foretold, measured = found["foretold"], found["measured"]
    slope = float(foretold @ measured / (foretold @ foretold))
    return (
        f"Integrated gradients sum to the difference of the scores to 1e-3 {with_points}, and "
        f"to {found['gaps'][POINTS[-1]]:.0e} with {POINTS[-1]}; gradient × input misses it by "
        f"up to {found['product_gap']:.0%}. Influence functions, from one linear system "
        f"(residual {found['cg_error']:.0e}), foretell the change of the test loss on leaving "
        f"out {len(measured)} digits with correlation {correlation(found):.3f}; trained again, "
        f"the change is {slope:.2f} times the foretold one. Held-out accuracy of the network: "
        f"{found['accuracy']:.3f}."
    )


def draw(found: dict[str, Any]) -> dict[str, Any]:
    """Draw the attributions, and the influences foretold against those measured.

    Returns:
        Figures by the name of their file.
    """
    import matplotlib.pyplot as plt

    maps = {"picture": found["pixels"], **{name: found["maps"][name] for name in METHODS}}
    figure, axes = plt.subplots(
        len(maps),
        PICTURES,
        figsize=(1.35 * PICTURES + 2, 1.35 * len(maps)),
        layout="constrained",
    )
    for (name, rows), line in zip(maps.items(), axes, strict=True):
        for values, ax in zip(rows, line, strict=True):
            _picture(ax, values, signed=name not in ("picture", "saliency"))
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    figure.suptitle(
        "red speaks for the digit, blue against it", fontsize=10, x=0.99, ha="right"
    )
    return {"attributions": figure, "influences": _influences(found)}


def _picture(ax: Any, values: np.ndarray, *, signed: bool) -> None:
    """Draw 8 × 8 values, in grey, or in blue and red where they have signs."""
    most = float(np.max(np.abs(values)))
    colors = {"cmap": "RdBu_r", "vmin": -most, "vmax": most} if signed else {"cmap": "gray"}
    ax.imshow(values.reshape(8, 8), **colors)
    ax.set_xticks([])
    ax.set_yticks([])


def _influences(found: dict[str, Any]) -> Any:
    """Draw the scatter, the test digit, and the training digits it rests on."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11.5, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    ax = left.subplots()
    foretold, measured = 1e3 * found["foretold"], 1e3 * found["measured"]
    ends = np.array([min(foretold.min(), measured.min()), max(foretold.max(), measured.max())])
    ax.plot(ends, ends, color="#6b6b6b", linewidth=1.0, zorder=1)
    ax.plot(foretold, measured, "o", color="#0072B2", markersize=5)
    ax.set_xlabel("change of the test loss foretold / 10⁻³")
    ax.set_ylabel("trained again without it / 10⁻³")
    ax.grid(True, color="#e4e4e4")
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.set_title(f"correlation {correlation(found):.3f}", loc="left", fontsize=10.5)
    axes = right.subplots(3, 5)
    picture, label, loss = found["test"]
    _picture(axes[0, 0], picture, signed=False)
    axes[0, 0].set_title(f"test: a {label}, loss {loss:.2f}", fontsize=10, loc="left")
    for ax in axes[0, 1:]:
        ax.set_visible(False)
    for line, name in zip(axes[1:], ("helpful", "harmful"), strict=True):
        for ax in line:
            ax.set_axis_off()
        for ax, values, digit in zip(line, *found[name], strict=False):
            ax.set_axis_on()
            _picture(ax, values, signed=False)
            ax.set_title(str(digit), fontsize=10)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        settings: dict[str, Any] = {"seed": options.seed}
        if options.quick:
            settings |= {"options": QUICK_OPTIONS, "left_out": QUICK_LEFT_OUT}
        found = measure(**settings)
        kept = [
            {"foretold": float(a), "measured": float(b)}
            for a, b in zip(found["foretold"], found["measured"], strict=True)
        ]
        print(run.report(table(found), answer(found), results=kept))
        table(found).to_csv(run.path("completeness.csv"))
        run.save_figures(draw(found))


if __name__ == "__main__":
    runs.console(main)
