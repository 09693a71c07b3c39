"""Which gradients vanish or explode with depth, and what keeps them alive?

A deep perceptron at its start, fed with digits: the derivative of the loss by what enters
each layer, for activations and rules of initialisation, with residual connections and with
normalisation. The theory of wide networks foretells the factor from layer to layer. Then a
recurrent network, the same question through time; and what clipping is worth when such a
network is trained with rates that are too large.

References:
    Glorot, X. and Bengio, Y. (2010); He, K. et al. (2015): the rules of initialisation.
    Schoenholz, S. et al. (2017). Deep information propagation. ICLR (the factor χ).
    Pascanu, R. et al. (2013). On the difficulty of training recurrent networks. ICML.
    He, K. et al. (2016). Deep residual learning. CVPR. Ba, J. et al. (2016). Layer
    normalization.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import gradlab as gl
from gradlab import runs

DEPTH, QUICK_DEPTH = 40, 20
WIDTH = 64
SAMPLES = 128
SEEDS = 5
STEPS_BACK = 40


class Net(NamedTuple):
    """A deep network: activation, rule of initialisation, and what is added to a layer."""

    activation: str
    init: str
    kind: str = "plain"  # or "residual" or "normalised"


NETS = {
    "sigmoid, Xavier": Net("sigmoid", "xavier"),
    "tanh, small": Net("tanh", "small"),
    "tanh, Xavier": Net("tanh", "xavier"),
    "tanh, naive": Net("tanh", "naive"),
    "ReLU, Xavier": Net("relu", "xavier"),
    "ReLU, He": Net("relu", "he"),
    "GELU, He": Net("gelu", "he"),
    "ReLU, Xavier, residual": Net("relu", "xavier", "residual"),
    "sigmoid, Xavier, residual": Net("sigmoid", "xavier", "residual"),
    "tanh, naive, normalised": Net("tanh", "naive", "normalised"),
    "ReLU, Xavier, normalised": Net("relu", "xavier", "normalised"),
}
QUICK_NETS = (
    "sigmoid, Xavier", "tanh, Xavier", "ReLU, Xavier", "ReLU, He", "ReLU, Xavier, residual"
)  # fmt: skip
# Cells by name, with the factor their recurrent weights (random rotations) are scaled by.
CELLS = {
    "rotation × 0.8": ("rnn", 0.8),
    "rotation × 1": ("rnn", 1.0),
    "rotation × 1.5": ("rnn", 1.5),
    "LSTM": ("lstm", 1.0),
}
RATES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def measure(
    *, depth: int = DEPTH, nets: Sequence[str] = tuple(NETS), seed: int = 0, steps: int = 200
) -> dict[str, Any]:
    """Measure all three parts.

    Returns:
        "depth": a row a network, with the norms by layer and the factors measured and
        foretold; "time": norms by steps back for every cell; "clipping": final losses by
        learning rate, without and with clipping.
    """
    rows = []
    for name in nets:
        print(f"{name} ...", file=sys.stderr, flush=True)
        norms = norms_by_layer(NETS[name], depth, seed)
        # The middle half: neither end sees the factor of a layer deep inside.
        inner = norms[depth // 4 : -(depth // 4)]
        with np.errstate(divide="ignore", invalid="ignore"):  # underflow, in float32
            factor = (inner[0] / inner[-1]) ** (1 / (len(inner) - 1))
        rows.append(
            {
                "network": name,
                "norms": norms,
                "factor": float(factor),
                "foretold": foretold(NETS[name], depth),
                "kept": float(norms[0] / norms[-1]),
            }
        )
    print("through time ...", file=sys.stderr, flush=True)
    through = {name: norms_by_time(*cell, seed=seed) for name, cell in CELLS.items()}
    print("clipping ...", file=sys.stderr, flush=True)
    return {"depth": rows, "time": through, "clipping": clipping(seed=seed, steps=steps)}


def norms_by_layer(net: Net, depth: int, seed: int) -> np.ndarray:
    """Return the norm of the loss's derivative by what enters each layer, shape (depth,).

    The derivative of the mean loss by each sample's pre-activations, as one matrix; the
    median over seeds.
    """
    import jax
    import jax.numpy as jnp

    from gradlab.problems.networks import layers

    problem = gl.problems.get("mlp", rows=SAMPLES)
    pixels, labels, _ = problem.args
    # Standardised, so that every rule starts from entries of variance 1.
    inputs = (pixels - jnp.mean(pixels)) / jnp.std(pixels)
    scale = layers.weights(WIDTH, WIDTH, init=net.init).scale
    layer = functools.partial(_layer, net)

    @jax.jit
    def norms(key: Any) -> Any:
        first, deep, last = jax.random.split(key, 3)
        weights = scale * jax.random.normal(deep, (depth, WIDTH, WIDTH))
        entry = jax.random.normal(first, (inputs.shape[1], WIDTH)) / math.sqrt(inputs.shape[1])
        readout = jax.random.normal(last, (WIDTH, 10)) / math.sqrt(WIDTH)

        def loss(taps: Any) -> Any:
            end = jax.lax.scan(layer, inputs @ entry, (weights, taps))[0]
            return layers.cross_entropy(end @ readout, labels)

        rates = jax.grad(loss)(jnp.zeros((depth, len(inputs), WIDTH)))
        return jnp.sqrt(jnp.sum(rates**2, axis=(1, 2)))

    keys = jax.random.split(jax.random.key(seed), SEEDS)
    return np.median(np.asarray(jax.vmap(norms)(keys)), axis=0)


def _layer(net: Net, x: Any, inputs: tuple[Any, Any]) -> tuple[Any, None]:
    """Apply one layer; what is added to its pre-activations is where derivatives are read."""
    import jax.numpy as jnp

    from gradlab.problems.networks import layers

    weights, tap = inputs
    z = x @ weights + tap
    if net.kind == "normalised":
        ones = {"scale": jnp.ones(WIDTH, x.dtype), "shift": jnp.zeros(WIDTH, x.dtype)}
        z = layers.layer_norm(ones, z)
    a = layers.ACTIVATIONS[net.activation](z)
    return (x + a if net.kind == "residual" else a), None


def foretold(net: Net, depth: int) -> float | None:
    r"""Return the factor of the gradient from layer to layer in an infinitely wide network.

    With weights of variance $s^2$ the pre-activations' variance follows
    $q' = s^2 d \, E[σ(\sqrt q z)^2]$, and squares of gradients are multiplied by
    $χ = s^2 d \, E[σ'(\sqrt q z)^2]$; z is normal. None where something is added to a layer.
    """
    import jax
    import jax.numpy as jnp

    from gradlab.problems.networks import layers

    if net.kind != "plain":
        return None
    # Dense enough for the narrow slope of a saturated tanh, and none at the kink of ReLU.
    nodes = np.linspace(-10.0, 10.0, 20_000)
    weights = np.exp(-(nodes**2) / 2)
    weights = weights / np.sum(weights)
    function = layers.ACTIVATIONS[net.activation]
    strength = layers.weights(WIDTH, WIDTH, init=net.init).scale ** 2 * WIDTH

    def through(variance: Any, _: None) -> tuple[Any, Any]:
        z = jnp.sqrt(variance) * nodes
        slopes = jax.vmap(jax.grad(function))(z)
        return strength * (weights @ function(z) ** 2), strength * (weights @ slopes**2)

    chi = jax.jit(lambda q: jax.lax.scan(through, q, None, length=depth)[1])(
        jnp.asarray(strength)
    )
    inner = np.asarray(chi)[depth // 4 : -(depth // 4)]
    return float(np.exp(np.mean(np.log(inner)) / 2))


def norms_by_time(cell: str, scale: float, *, seed: int) -> np.ndarray:
    """Return how large the derivative by the state k steps back is, relative to k = 0."""
    import jax
    import jax.numpy as jnp

    from gradlab.problems.networks import recurrent

    step = {"rnn": recurrent.rnn_cell, "lstm": recurrent.lstm_cell}[cell]
    blocks = 4 if cell == "lstm" else 1

    @jax.jit
    def norms(key: Any) -> Any:
        one, two, three = jax.random.split(key, 3)
        rotations = jax.random.orthogonal(one, WIDTH, (blocks,))
        bias = jnp.zeros((blocks, WIDTH))
        params = {
            "recurrent": scale * jnp.concatenate(list(rotations), axis=1),
            # The gate that keeps is open, the usual start of an LSTM.
            "bias": (bias.at[1].set(1.0) if cell == "lstm" else bias).reshape(-1),
        }
        # Small inputs: large ones saturate the cell whatever its weights.
        drives = 0.1 * jax.random.normal(two, (STEPS_BACK, 1, blocks * WIDTH))
        way = jax.random.normal(three, (WIDTH,))

        def loss(taps: Any) -> Any:
            def advance(state: Any, inputs: Any) -> Any:
                drive, tap = inputs
                state = step(params, jax.tree.map(jnp.add, state, tap), drive)
                return state, None

            still = (jnp.zeros((1, WIDTH)),) * (2 if cell == "lstm" else 1)
            return jax.lax.scan(advance, still, (drives, taps))[0][0][0] @ way

        arrays = 2 if cell == "lstm" else 1
        taps = (jnp.zeros((STEPS_BACK, 1, WIDTH)),) * arrays
        rates = jax.grad(loss)(taps)
        return jnp.sqrt(sum(jnp.sum(rate**2, axis=(1, 2)) for rate in rates))[::-1]

    found = np.asarray(jax.vmap(norms)(jax.random.split(jax.random.key(seed), SEEDS)))
    return np.median(found / found[:, :1], axis=0)


def clipping(*, seed: int, steps: int) -> dict[str, Any]:
    """Train a recurrent network with exploding weights, with and without clipping.

    Returns:
        The learning rates, and the loss after training at each, NaN where it diverged.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from gradlab.problems.networks.training import train

    problem = gl.problems.get("rnn", width=24, length=24, rows=128)
    start = problem.init()
    cell = {**start["cell"], "recurrent": 2.0 * start["cell"]["recurrent"]}
    wild = {**start, "cell": cell}
    wound_up = problem.__class__(**{**vars(problem), "init": lambda key=None: wild})

    def end(rate: Any, norm: Any) -> Any:
        optimizer = optax.chain(optax.clip_by_global_norm(norm), optax.sgd(rate))
        key = jax.random.key(seed)
        made = train(wound_up, optimizer, key, steps=steps, batch=32, records=1)
        return made.history["loss"][-1]

    rates = jnp.asarray(RATES)
    ends = jax.jit(jax.vmap(end))
    # Clipped to an infinite norm is not clipped.
    together = ends(jnp.tile(rates, 2), jnp.repeat(jnp.asarray([jnp.inf, 1.0]), len(RATES)))
    plain, clipped = np.split(np.asarray(together), 2)
    return {"rates": RATES, "plain": plain, "clipped": clipped}


def table(found: dict[str, Any]) -> Any:
    """Return the printed table: a row a network."""
    from gradlab.compare.table import Table

    formats = {
        "network": ("network", ""),
        "factor": ("factor a layer", ".3f"),
        "foretold": ("theory", ".3f"),
        "kept": ("first layer / last", ".1e"),
    }
    return Table(tuple(found["depth"]), formats)


def answer(found: dict[str, Any]) -> str:
    """Say which gradients die, which explode, what helps, and what clipping is worth."""
    rows, depth = found["depth"], len(found["depth"][0]["norms"])

    def named(kept: Callable[[float], bool]) -> str:
        return "; ".join(row["network"] for row in rows if kept(row["kept"])) or "none"

    plain = [row for row in rows if row["foretold"] and row["factor"] > 0]
    gaps = {r["network"]: math.expm1(abs(math.log(r["factor"] / r["foretold"]))) for r in plain}
    other = [name for name, gap in gaps.items() if gap > 0.1]
    near = max(gap for name, gap in gaps.items() if name not in other)
    but = f", but not with {'; '.join(other)}" if other else ""
    ends = {name: float(norms[-1]) for name, norms in found["time"].items()}
    times = ", ".join(f"{name} {end:.0e}" for name, end in ends.items())
    clipped = found["clipping"]
    rates = np.asarray(clipped["rates"])
    usable = {
        how: rates[np.nan_to_num(clipped[how], nan=np.inf) < _GUESSING]
        for how in ("plain", "clipped")
    }
    most = {
        how: f"{max(kept):g}" if len(kept) else "none of those tried"
        for how, kept in usable.items()
    }
    return (
        f"Through {depth} layers the gradient shrinks below a hundredth with: "
        f"{named(lambda k: k < 1e-2)}. It grows beyond a hundredfold with: "
        f"{named(lambda k: k > 1e2)}. It stays between with: "
        f"{named(lambda k: 1e-2 <= k <= 1e2)}. The factor a layer is that of wide networks to "
        f"{near:.0%}{but}. Through {STEPS_BACK - 1} steps of time it is "
        f"multiplied by: {times}. The largest learning rate that trains the wild recurrent "
        f"network to less than guessing is {most['plain']} without clipping and "
        f"{most['clipped']} with."
    )


# The loss of guessing one of 40 characters.
_GUESSING = math.log(40)


def draw(found: dict[str, Any]) -> dict[str, Any]:
    """Draw norms by layer, norms through time, and losses by rate.

    Returns:
        Figures by the name of their file.
    """
    import matplotlib.pyplot as plt

    rows = found["depth"]
    panels = {
        "activation and initialisation": [r for r in rows if r["network"].count(",") == 1],
        "what is added to a layer": [r for r in rows if r["network"].count(",") == 2],
    }
    panels = {name: kept for name, kept in panels.items() if kept}
    width = 6.4 * len(panels)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width, 4.6), layout="constrained", squeeze=False, sharey=True
    )
    for (name, kept), ax in zip(panels.items(), axes.flat, strict=True):
        layers = np.arange(1, len(kept[0]["norms"]) + 1)
        lines = {row["network"]: (layers, row["norms"]) for row in kept}
        gl.plots.plot_errors(
            lines, x_label="layer", y_label="‖∂ loss / ∂ pre-activations‖", log="y", ax=ax
        )
        ax.set_title(name, loc="left", fontsize=10.5)
    # What is further down is as good as nothing; a line may leave through the floor.
    axes[0, 0].set_ylim(bottom=max(axes[0, 0].get_ylim()[0], 1e-20))
    return {"vanishing-gradients": figure, "vanishing-recurrent": _recurrent(found)}


def _recurrent(found: dict[str, Any]) -> Any:
    """Draw the norms through time and the losses with and without clipping."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12.4, 4.4), layout="constrained")
    back = np.arange(STEPS_BACK)
    gl.plots.plot_errors(
        {name: (back, norms) for name, norms in found["time"].items()},
        x_label="steps back in time",
        y_label="‖∂ output / ∂ state‖, relative",
        log="y",
        ax=left,
    )
    left.set_title("recurrent networks through time", loc="left", fontsize=10.5)
    clipped = found["clipping"]
    gl.plots.plot_errors(
        {
            "without clipping": (clipped["rates"], clipped["plain"]),
            "clipped to norm 1": (clipped["rates"], clipped["clipped"]),
        },
        x_label="learning rate of SGD",
        y_label="loss after training / nats",
        ax=right,
    )
    right.axhline(_GUESSING, color="#6b6b6b", linewidth=1.0, linestyle=":")
    right.annotate("guessing", (RATES[0], _GUESSING), fontsize=8, va="bottom", color="#6b6b6b")
    right.set_title("a line ends where training diverges", loc="left", fontsize=10.5)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        settings: dict[str, Any] = {"seed": options.seed}
        if options.quick:
            settings |= {"depth": QUICK_DEPTH, "nets": QUICK_NETS, "steps": 60}
        found = measure(**settings)
        kept = [{**row, "norms": row["norms"].tolist()} for row in found["depth"]]
        print(run.report(table(found), answer(found), results=kept))
        table(found).to_csv(run.path("factors.csv"))
        run.save_figures(draw(found))


if __name__ == "__main__":
    runs.console(main)
