"""Derivatives from function values: digits, honesty and cost beside three other libraries.

Does the error bar contain the truth, and how many digits does a budget of evaluations buy?
Prints one table per question. `--points` chooses the set: what the method was developed on
("suite", and "heldout", whose figures were looked at as well), or points drawn afterwards
("fresh", by `--seed`).

    python benchmarks/adaptive_derivatives.py [--points fresh] [--dtype float32] [--no-peers]

Columns: median, 10th percentile and least digits; share of answers below two digits; share
of bars that contain the truth; median of bar over error; confident lies (off by more than
1 % while claiming 0.01 %); answers without a finite value or bar, which count no digits
but are not held against the coverage; evaluations of f a point. Derivatives that the dtype
cannot hold are left out. Definitions: `derivative_suite`. "gradlab" takes the complex step
where f allows it and real differences confirm it; "gradlab real" never does, as its peers.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

jax.config.update("jax_enable_x64", True)

import derivative_suite as suite  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from gradlab.derivatives import adaptive  # noqa: E402


class Row(NamedTuple):
    """One answer."""

    kind: str
    order: int
    digits: float
    error: float
    bar: float
    value: float
    truth: float
    nfev: int


class Counted:
    """A function that counts the points it is evaluated at, in the chosen precision."""

    def __init__(self, function: Callable[[Any], Any], dtype: str):
        self.function, self.dtype, self.count = function, dtype, 0

    def __call__(self, x: Any) -> Any:
        """Evaluate, rounded to the dtype; the input is float64 as a user's would be."""
        if isinstance(x, jax.core.Tracer):
            raise jax.errors.TracerArrayConversionError(x)
        self.count += np.size(x)
        wide = np.result_type(self.dtype, np.complex64) if np.iscomplexobj(x) else self.dtype
        return self.function(np.asarray(x, wide))


def gradlab(budget: int, scheme: str = "auto") -> Callable[..., list[tuple[float, float]]]:
    """Differentiate with gradlab, all orders from one set of samples."""

    def method(f: Counted, x: float, orders: tuple[int, ...]) -> list[tuple[float, float]]:
        g = adaptive.derivative(f, order=orders, max_nfev=budget, scheme=scheme)
        e = g(np.dtype(f.dtype).type(x))
        return [(float(v), float(b)) for v, b in zip(e.value, e.error, strict=True)]

    return method


def numdifftools(f: Counted, x: float, orders: tuple[int, ...]) -> list[tuple[float, float]]:
    """Differentiate with numdifftools, each order by itself."""
    import numdifftools as nd

    out = []
    for n in orders:
        r = nd.Derivative(f, n=n, full_output=True)(x)
        out.append((float(r.estimate), float(np.max(r.error_estimate))))
    return out


def scipy(f: Counted, x: float, orders: tuple[int, ...]) -> list[tuple[float, float]]:
    """Differentiate with scipy.differentiate, which knows the first order only."""
    from scipy.differentiate import derivative

    r = derivative(f, x)
    return [(float(r.df), float(r.error))]


def jacobi(f: Counted, x: float, orders: tuple[int, ...]) -> list[tuple[float, float]]:
    """Differentiate with jacobi, which knows the first order only."""
    from jacobi import jacobi as library

    value, error = library(lambda v: f(v), x)
    return [(float(np.squeeze(value)), float(np.squeeze(error)))]


def measure(method: Any, orders: tuple[int, ...], dtype: str, points: Any) -> list[Row]:
    """Run one method over the suite; what a library raises ends the benchmark."""
    rows = []
    for function, x in suite.cases(dtype, *points):
        f = Counted(function.numpy, dtype)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            answers = method(f, x, orders)
        for order, (value, bar) in zip(orders, answers, strict=True):
            if not _representable(suite.truth(function, x, order), dtype):
                continue
            rows.append(_row(function, x, order, value, bar, dtype, f.count))
    return rows


def _representable(truth: float, dtype: str) -> bool:
    info = np.finfo(dtype)
    return np.isnan(truth) or truth == 0 or float(info.tiny) <= abs(truth) <= float(info.max)


def _row(
    function: suite.Function, x: float, order: int, value: float, bar: float, dtype: str, n: int
) -> Row:
    exact = suite.truth(function, x, order)
    if np.isnan(exact):
        # At a kink: honest is a bar that reaches half the jump of the slope, here at least 1/2.
        return Row(
            function.kind, order, np.nan, 0.5, bar if order == 1 else np.nan, value, 0.0, n
        )
    correct = suite.digits(function, x, order, value, dtype)
    return Row(function.kind, order, correct, abs(value - exact), bar, value, exact, n)


def summary(name: str, rows: Iterable[Row], order: int) -> str:
    """One line of the table."""
    rows = [r for r in rows if r.order == order]
    judged = [r for r in rows if not np.isnan(r.digits)]
    d = np.array([r.digits for r in judged])
    barred = [r for r in rows if order == 1 or not np.isnan(r.digits)]
    answers = [r for r in barred if np.isfinite(r.value) and np.isfinite(r.bar)]
    honest = [r.error <= r.bar for r in answers]
    over = [r.bar / r.error for r in answers if r.error > 0]
    lies = sum(
        r.error > 0.01 * abs(r.truth) > 0 and r.bar <= 1e-4 * abs(r.value) < np.inf
        for r in judged
    )
    return (
        f"{name:14s} {order}  {np.median(d):6.2f} {np.percentile(d, 10):6.2f} {d.min():6.2f} "
        f"{100 * np.mean(d < 2):6.1f}% {100 * np.mean(honest):6.1f}% {np.median(over):9.1f} "
        f"{lies:4d} {len(barred) - len(answers):6d} {np.median([r.nfev for r in rows]):6.0f}"
    )


HEADER = "method     order  median    p10    min     <2d  covered  bar/error lies silent  evals"


def by_kind(results: dict[str, list[Row]]) -> None:
    """Print the median digits of the first derivative in each kind."""
    print("\nmedian digits of the first derivative by kind")
    print(f"{'kind':14s} " + " ".join(f"{name:>13s}" for name in results))
    for kind in suite.KINDS:
        cells = []
        for rows in results.values():
            d = [r.digits for r in rows if r.kind == kind and r.order == 1]
            cells.append("   (honesty)  " if np.all(np.isnan(d)) else f"{np.median(d):13.2f}")
        print(f"{kind:14s} " + " ".join(cells))


def gradients(points: Any, peers: bool) -> None:
    """Print the table of gradients."""
    print("\ngradients of ten functions of 2 to 9 variables")
    print("method          median    p10    min  covered  bar/error  evals a component")
    methods = {"gradlab": _gradlab_gradient, "gradlab auto": _gradlab_auto_gradient}
    if peers:
        methods |= {"numdifftools": _nd_gradient, "scipy": _scipy_gradient, "jacobi": _jacobi}
    for name, method in methods.items():
        d, covered, over, evals = [], [], [], []
        for function in suite.MULTIVARIATE:
            for x in suite.vectors(function, *points):
                exact = np.array(suite.gradient_truth(function, x))
                calls = [0]

                def f(v: Any, function: Any = function, calls: Any = calls) -> Any:
                    if isinstance(v, jax.core.Tracer):
                        raise jax.errors.TracerArrayConversionError(v)
                    calls[0] += max(1, np.size(v) // len(x))  # noqa: B023
                    return function.numpy(v)

                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    value, bar = method(f, np.array(x))
                error = abs(value - exact)
                with np.errstate(all="ignore"):
                    d += list(np.clip(-np.log10(error / abs(exact)), 0, 15.95))
                covered += list(error <= bar)
                over += list((bar / np.where(error > 0, error, np.inf))[error > 0])
                evals.append(calls[0] / len(x))
        d = np.nan_to_num(d)
        print(
            f"{name:14s} {np.median(d):7.2f} {np.percentile(d, 10):6.2f} {d.min():6.2f} "
            f"{100 * np.mean(covered):7.1f}% {np.nanmedian(over):9.1f} {np.mean(evals):9.1f}"
        )


def _gradlab_gradient(f: Any, x: np.ndarray) -> tuple[Any, Any]:
    e = adaptive.grad(f)(x)
    return np.asarray(e.value), np.asarray(e.error)


def _gradlab_auto_gradient(f: Any, x: np.ndarray) -> tuple[Any, Any]:
    e = adaptive.grad(f, scheme="auto")(x)
    return np.asarray(e.value), np.asarray(e.error)


def _nd_gradient(f: Any, x: np.ndarray) -> tuple[Any, Any]:
    import numdifftools as nd

    r = nd.Gradient(f, full_output=True)(x)
    return r.estimate, np.ravel(r.error_estimate)


def _scipy_gradient(f: Any, x: np.ndarray) -> tuple[Any, Any]:
    from scipy.differentiate import jacobian

    r = jacobian(f, x)
    return r.df, r.error


def _jacobi(f: Any, x: np.ndarray) -> tuple[Any, Any]:
    from jacobi import jacobi as library

    return library(f, x)


def speed(n: int = 50, repeats: int = 20) -> None:
    """Print the time of one warm gradient of the chained Rosenbrock function."""
    import numdifftools as nd

    def f(x: Any) -> Any:
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    x = jnp.linspace(-1.0, 1.0, n)
    plain = adaptive.grad(f)
    inside = jax.jit(lambda x: plain(x)[:2])
    compiled = jax.jit(f)
    methods = {
        "gradlab, JAX f": lambda: jax.block_until_ready(plain(x).value),
        "gradlab, JAX f, in jit": lambda: jax.block_until_ready(inside(x)),
        "numdifftools, NumPy f": lambda: nd.Gradient(
            lambda v: np.sum(100 * (v[1:] - v[:-1] ** 2) ** 2 + (1 - v[:-1]) ** 2)
        )(np.asarray(x)),
        "numdifftools, JAX f": lambda: nd.Gradient(lambda v: float(f(jnp.asarray(v))))(x),
        "numdifftools, jitted f": lambda: nd.Gradient(lambda v: float(compiled(v)))(x),
    }
    print(f"\none warm gradient, n = {n}")
    for name, call in methods.items():
        call()
        times = []
        for _ in range(repeats if name.startswith("gradlab") else 3):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        print(f"{name:24s} {1e3 * np.median(times):10.2f} ms")


def main(argv: list[str] | None = None) -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", choices=["suite", "heldout", "fresh"], default="suite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args(argv)
    points = (options.points, options.seed)
    results = {
        "gradlab": measure(gradlab(50), (1,), options.dtype, points),
        "gradlab real": measure(gradlab(50, "real"), (1,), options.dtype, points),
    }
    if not options.no_peers:
        for name, peer in (
            ("numdifftools", numdifftools),
            ("scipy", scipy),
            ("jacobi", jacobi),
        ):
            results[name] = measure(peer, (1,), options.dtype, points)
    print(f"first derivative, {options.dtype}, {options.points} points")
    print(HEADER)
    for name, rows in results.items():
        print(summary(name, rows, 1))
    print(f"\norders 1 to 4, from one set of samples (numdifftools: each by itself)\n{HEADER}")
    for name, scheme in (("gradlab", "auto"), ("gradlab real", "real")):
        rows = measure(gradlab(100, scheme), (1, 2, 3, 4), options.dtype, points)
        for order in (1, 2, 3, 4):
            print(summary(name, rows, order))
    if not options.no_peers:
        for order in (1, 2, 3, 4):
            rows = measure(numdifftools, (order,), options.dtype, points)
            print(summary("numdifftools", rows, order))
    by_kind(results)
    if options.dtype == "float64":
        gradients(points, not options.no_peers)
        if not options.no_peers:
            speed()


if __name__ == "__main__":
    main()
