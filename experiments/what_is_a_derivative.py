"""What is a derivative, and how is the same one had by symbols, automatically, by differences?

A secant turns into the tangent as its two points meet, with an error of f'' h / 2 until
rounding takes over. Velocity and acceleration are a position's first and second derivative.
In two variables the partial derivatives make the gradient, which is orthogonal to the level
lines and gives every directional derivative as a product. The chain rule multiplies along the
paths of a graph and adds over them. Then one function, nested ever more deeply, is
differentiated: the formula that symbols give, written out, doubles with every nesting and
more, where the program of an automatic derivative stays a few times the function's own. The
swell is of formulas as trees: with common parts named once, symbols do as programs do.

References:
    Griewank, A. and Walther, A. (2008). Evaluating Derivatives, 2nd ed., chapters 1 to 3.
    Baydin, A. et al. (2018). Automatic differentiation in machine learning: a survey. Journal
    of Machine Learning Research 18:153 (expression swell).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradlab as gl
from gradlab import runs

POINT = 1.0  # where the secants meet
STEPS = np.logspace(0, -15, 46)
DEPTHS, QUICK_DEPTHS = (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4)
NEAR = 0.3  # where the nested function is differentiated: it swings, and 0 is far
SYMBOLS, SHARED = "symbols", "symbols, parts shared"
AUTO, DIFFERENCES = "automatic", "central differences"
DIGITS = 30  # of the reference, by SymPy in as many digits
CALLS = 50  # of which the fastest counts: other programs only ever add to it
THROW = (20.0, 9.81)  # a stone's first velocity / (m/s), and gravity / (m/s²)


def cube(x: Any) -> Any:
    """Return x³ - 2 x: f' = 3 x² - 2 and f'' = 6 x."""
    return x**3 - 2 * x


def valley(x: Any) -> Any:
    """Return the function of two variables x² + 2 y² + x y."""
    return x[0] ** 2 + 2 * x[1] ** 2 + x[0] * x[1]


def nested(x: Any, depth: int, sin: Callable[[Any], Any]) -> Any:
    """Nest x → sin(x) (1 + x), which uses its argument twice, `depth` times."""
    for _ in range(depth):
        x = sin(x) * (1 + x)
    return x


def secants() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the errors of secants, one- and two-sided, against their widths."""
    exact = 3 * POINT**2 - 2
    one = (cube(POINT + STEPS) - cube(POINT)) / STEPS
    two = (cube(POINT + STEPS) - cube(POINT - STEPS)) / (2 * STEPS)
    found = {"(f(x+h) - f(x)) / h": one, "(f(x+h) - f(x-h)) / 2h": two}
    return {name: (STEPS, abs(slope - exact)) for name, slope in found.items()}


def motion(num: int = 200) -> dict[str, np.ndarray]:
    """Differentiate the height of a stone thrown upwards, once and twice."""
    import jax
    import jax.numpy as jnp

    speed, gravity = THROW

    def height(t: Any) -> Any:
        return speed * t - gravity * t**2 / 2

    t = jnp.linspace(0, 2 * speed / gravity, num)
    velocity = jax.grad(height)
    return {
        "time / s": np.asarray(t),
        "height / m": np.asarray(height(t)),
        "velocity / (m/s)": np.asarray(jax.vmap(velocity)(t)),
        "acceleration / (m/s²)": np.asarray(jax.vmap(jax.grad(velocity))(t)),
    }


def directional(num: int = 73) -> dict[str, np.ndarray]:
    """Return the slope of `valley` in every direction, by its product with the gradient."""
    import jax
    import jax.numpy as jnp

    x = jnp.asarray([1.0, -0.5])
    angles = jnp.linspace(0, 2 * np.pi, num)
    ways = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    along = jax.vmap(lambda v: jax.jvp(valley, (x,), (v,))[1])(ways)
    gradient = jax.grad(valley)(x)
    found = {"angle": angles, "along": along, "product": ways @ gradient, "gradient": gradient}
    return {name: np.asarray(value) for name, value in found.items()} | {"x": np.asarray(x)}


def chain(x: float = 0.5, y: float = 2.0) -> dict[str, float]:
    """Differentiate z = u v with u = x y, v = sin x + y along the edges of its graph.

    Returns:
        The derivative along each edge, the sums over paths dz/dx and dz/dy, and jax.grad's.
    """
    import jax
    import jax.numpy as jnp

    u, v = x * y, math.sin(x) + y
    edges = {"u/x": y, "u/y": x, "v/x": math.cos(x), "v/y": 1.0, "z/u": v, "z/v": u}
    by_paths = {
        name: edges["z/u"] * edges[f"u/{name}"] + edges["z/v"] * edges[f"v/{name}"]
        for name in ("x", "y")
    }
    auto = jax.grad(lambda x, y: x * y * (jnp.sin(x) + y), (0, 1))(x, y)
    return edges | by_paths | {"grad x": float(auto[0]), "grad y": float(auto[1])}


def measure(*, depths: Sequence[int] = DEPTHS) -> list[dict[str, Any]]:
    """Differentiate the nested function in three ways at every depth.

    Returns:
        Rows with the way, depth, operations of the derivative and of the function, relative
        error, and microseconds of a call.

    Raises:
        ImportError: If SymPy is not installed.
    """
    try:
        import sympy
    except ImportError as error:
        raise ImportError(
            "derivatives by symbols come from SymPy, which is not installed: "
            'pip install "gradlab-jax[experiments]".'
        ) from error
    symbol = sympy.Symbol("x")
    rows = []
    for depth in depths:
        formula = nested(symbol, depth, sympy.sin)
        slope = sympy.diff(formula, symbol)
        exact = float(slope.subs(symbol, sympy.Float(NEAR, DIGITS)).evalf(DIGITS))
        own = int(sympy.count_ops(formula))
        about = {"depth": depth, "written": own}
        parts, ends = sympy.cse(slope)
        shared = sum(int(sympy.count_ops(part)) for part in [*(e for _, e in parts), *ends])
        counts = {SYMBOLS: int(sympy.count_ops(slope)), SHARED: shared}
        for way, operations in counts.items():
            written = sympy.lambdify(symbol, slope, "math", cse=way == SHARED)
            rows.append(about | _row(way, written, operations, exact))
        rows += [about | row for row in _numerical(depth, exact)]
    return rows


def _numerical(depth: int, exact: float) -> list[dict[str, Any]]:
    """Differentiate automatically, and by differences of calls."""
    import jax
    import jax.numpy as jnp

    def function(x: Any) -> Any:
        return nested(x, depth, jnp.sin)

    x = jnp.asarray(NEAR)
    program = jax.make_jaxpr(jax.grad(function))(x)
    one = len(jax.make_jaxpr(function)(x).eqns)
    differences = gl.finite.grad(function)
    calls = differences.num_evaluations(x)
    return [
        _row(AUTO, jax.jit(jax.grad(function)), len(program.eqns), exact),
        # And a difference and a quotient.
        _row(DIFFERENCES, jax.jit(differences), calls * one + 2, exact),
    ]


def _row(
    way: str, derivative: Callable[[Any], Any], operations: int, exact: float
) -> dict[str, Any]:
    """Judge one derivative."""
    import jax

    x = NEAR if way in (SYMBOLS, SHARED) else jax.numpy.asarray(NEAR)
    found, times = float(derivative(x)), []
    for _ in range(CALLS):
        started = time.perf_counter()
        jax.block_until_ready(derivative(x))
        times.append(time.perf_counter() - started)
    # A result equal to the reference is right to half a rounding.
    error = max(abs(found / exact - 1), float(np.finfo(float).eps) / 2)
    told = {"way": way, "operations": operations, "error": error}
    return told | {"microseconds": 1e6 * min(times)}


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return one row a depth and way."""
    from gradlab.compare import Table

    formats = {
        "depth": ("nested", "d"), "way": ("derivative by", ""),
        "written": ("operations of the formula", ",d"),
        "operations": ("operations of the derivative", ",d"),
        "error": ("relative error", ".1e"), "microseconds": ("µs a call", ",.1f"),
    }  # fmt: skip
    return Table(tuple(rows), formats)


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """Say how the formula swells, and how many digits each way has."""
    deepest = {row["way"]: row for row in rows}
    shallow = next(row for row in rows if row["way"] == SYMBOLS)
    worst = {way: max(row["error"] for row in rows if row["way"] == way) for way in deepest}
    digits = ", ".join(f"{way} {-math.log10(error):.1f}" for way, error in worst.items())
    swollen, program = deepest[SYMBOLS], deepest[AUTO]
    edges = chain()
    slopes = secants()
    best = ", ".join(f"{min(error):.0e} by {name}" for name, (_, error) in slopes.items())
    return (
        f"The derivative's formula grows from {shallow['operations']:,} operations to "
        f"{swollen['operations']:,} at {swollen['depth']} nestings, and with common parts "
        f"shared to {deepest[SHARED]['operations']:,}; the program of the automatic one to "
        f"{program['operations']:,}. Digits at worst: {digits}. The least "
        f"error of a secant's slope: {best}. Summed over the paths of the graph dz/dx is "
        f"{edges['x']:.6f}, and {edges['grad x']:.6f} by jax.grad."
    )


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw secants and their errors, the motion, the gradient field, and the swell.

    Returns:
        The figure, by the name of its file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(16.5, 8.4), layout="constrained")
    _draw_secants(axes[0, 0])
    slopes = secants()
    labels: dict[str, Any] = {"x_label": "h", "y_label": "error of the slope"}
    gl.plots.plot_errors(slopes, **labels, ax=axes[0, 1])
    axes[0, 1].set_title("secant to tangent, and rounding", loc="left", fontsize=10.5)
    moving = motion()
    t = moving.pop("time / s")
    lines = {name: (t, y) for name, y in moving.items()}
    gl.plots.plot_errors(lines, x_label="time / s", y_label="", log="", ax=axes[0, 2])
    axes[0, 2].set_title("a stone thrown upwards", loc="left", fontsize=10.5)
    _draw_field(axes[1, 0])
    found = directional()
    degrees = np.degrees(found["angle"])
    gl.plots.plot_errors(
        {"slope": (degrees, found["along"])},
        x_label="direction / degrees", y_label="directional derivative", log="", ax=axes[1, 1],
    )  # fmt: skip
    steepest = math.degrees(math.atan2(*found["gradient"][::-1])) % 360
    axes[1, 1].axvline(steepest, color="#D55E00", linewidth=1.4, linestyle="--")
    title = "from (1, -0.5): steepest along the gradient (dashed)"
    axes[1, 1].set_title(title, loc="left", fontsize=10.5)
    _draw_swell(axes[1, 2], rows)
    return {"what-is-a-derivative": figure}


def _draw_secants(ax: Any) -> None:
    """Draw the curve, three secants and the tangent."""
    x = np.linspace(-0.2, 2.2, 200)
    lines = {"f": (x, cube(x))}
    ends = np.asarray([POINT - 0.6, 2.2])
    for h in (1.0, 0.5):
        slope = (cube(POINT + h) - cube(POINT)) / h
        lines[f"h = {h:g}"] = (ends, cube(POINT) + slope * (ends - POINT))
    lines["tangent"] = (ends, cube(POINT) + (3 * POINT**2 - 2) * (ends - POINT))
    gl.plots.plot_errors(lines, x_label="x", y_label="x³ - 2 x", log="", ax=ax)
    ax.set_title("secants turn into the tangent", loc="left", fontsize=10.5)


def _draw_field(ax: Any) -> None:
    """Draw level lines of `valley`, and its gradients on a grid."""
    import jax
    import jax.numpy as jnp

    side = np.linspace(-2, 2, 9)
    points = np.stack(np.meshgrid(side, side), axis=-1)
    arrows = np.asarray(jax.vmap(jax.grad(valley))(jnp.asarray(points.reshape(-1, 2))))
    fine = np.linspace(-2.3, 2.3, 100)
    x, y = np.meshgrid(fine, fine)
    ax.contour(x, y, valley(np.stack([x, y])), 10, colors="#b0b0b0", linewidths=0.9)
    ax.quiver(*points.reshape(-1, 2).T, *arrows.T, color="#0072B2", width=0.004)
    ax.set(xlabel="x", ylabel="y", aspect="equal")
    ax.set_title("gradient field: orthogonal to level lines", loc="left", fontsize=10.5)


def _draw_swell(ax: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the operations of each derivative against the depth."""
    lines: dict[str, Any] = {}
    for way in (SYMBOLS, SHARED, AUTO, DIFFERENCES):
        here = [row for row in rows if row["way"] == way]
        lines[way] = ([row["depth"] for row in here], [row["operations"] for row in here])
    labels: dict[str, Any] = {"x_label": "nestings", "y_label": "operations of the derivative"}
    gl.plots.plot_errors(lines, **labels, log="y", ax=ax)
    ax.set_title("expression swell", loc="left", fontsize=10.5)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and the answer, and save all of it."""
    with runs.experiment(__file__, __doc__, argv) as (options, run):
        rows = measure(depths=QUICK_DEPTHS if options.quick else DEPTHS)
        shown = table(rows)
        shown.to_csv(run.path("derivatives.csv"))
        print(run.report(shown, answer(rows)))
        run.save_figures(draw(rows))


if __name__ == "__main__":
    runs.console(main)
