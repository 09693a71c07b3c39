"""Conditioning and spectrum of a loss at a point, sharp and flat directions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._tree import norm, num_params, working_dtype
from gradlab._typing import Loss, Params
from gradlab.derivatives.curvature import hessian_vp, spectrum, top_eigenpairs
from gradlab.diagnose.section import Figure, Section

__all__ = ["Curvature", "curvature"]

TITLE = "How is it curved: sharp or flat, well or badly conditioned?"
# Variables up to which all eigenvalues are computed, by n products.
_DENSE = 1000
# Probes and steps of Lanczos' quadrature beyond that, and what it may take at the most.
_PROBES, _STEPS, _SECONDS = 10, 40, 60.0
# Residuals of extreme eigenvalues over the largest: three digits are enough for a rate.
_RTOL = 1e-3
# An eigenvalue counts as sharp above this share of the largest.
_SHARP = 0.1


class Curvature(NamedTuple):
    """Eigenvalues of the Hessian, as far as they are known.

    Attributes:
        largest: The largest eigenvalue.
        smallest: The smallest, signed.
        condition: Largest over smallest absolute eigenvalue; beyond `exact` a lower bound.
        nonzero_condition: The same without those that are zero within rounding.
        negative: How many are negative beyond rounding, of those known.
        zero: How many cannot be told from zero.
        sharp: How many are above a tenth of the largest absolute one.
        trace: Their sum; estimated where not exact.
        exact: Whether all are known.
        values: All eigenvalues in increasing order, or those of Lanczos' quadrature.
        relative: Change of the loss over |f| when x moves by 1 % of its length along the
            sharpest direction.
    """

    largest: float
    smallest: float
    condition: float
    nonzero_condition: float
    negative: int
    zero: int
    sharp: int
    trace: float
    exact: bool
    values: np.ndarray
    relative: float


def curvature(
    loss: Loss, x: Params, batch: tuple[Any, ...], value: float, seconds: float, key: Any
) -> tuple[Section, Curvature]:
    """Measure the spectrum; `seconds` is the time of one product, if known."""
    n = num_params(x)
    eps = float(jnp.finfo(working_dtype(x)).eps)
    exact = n <= _DENSE
    if exact:
        probes, steps = -(-n // _STEPS), _STEPS  # as many products as entries: all of them
    else:
        share = 1.0 if np.isnan(seconds) else _SECONDS / (_PROBES * _STEPS * seconds)
        probes, steps = max(2, int(min(1.0, share) * _PROBES)), _STEPS

    @jax.jit
    def measure(x: Params, batch: Any, key: Any) -> Any:
        product = hessian_vp(loss, x, *batch)
        found = spectrum(product, x, key=key, num_probes=max(probes, 2), num_steps=steps)
        if exact:
            return found, None
        pairs = [
            top_eigenpairs(product, x, which=which, rtol=_RTOL, key=key)
            for which in ("largest", "smallest")
        ]
        return found, [(p.values[0], p.errors[0]) for p in pairs]

    found, ends = jax.device_get(measure(x, batch, key))
    if not np.all(np.isfinite(found.nodes)):
        raise ValueError("the Hessian is not finite at this point")
    size = float(norm(x)) or 1.0
    facts = _facts(found, ends, n, eps, size, value)
    return _section(facts, n, found), facts


def _facts(found: Any, ends: Any, n: int, eps: float, size: float, value: float) -> Curvature:
    """Read the facts off the eigenvalues."""
    values = np.sort(np.asarray(found.nodes, float).ravel())
    exact = ends is None
    if exact:
        trace = float(values.sum())
    else:
        values = np.sort(np.concatenate([values, [float(e[0]) for e in ends]]))
        trace = float(n * np.mean(np.sum(found.nodes * found.weights, axis=1)))
    largest, smallest = float(values[-1]), float(values[0])
    most = max(abs(largest), abs(smallest))
    level = n * eps * most  # rounding the matrix moves its eigenvalues by about as much
    sizes = np.abs(values)
    nonzero = sizes[sizes > level]
    least = float(sizes.min())
    change = 0.5 * largest * (0.01 * size) ** 2
    return Curvature(
        largest=largest,
        smallest=smallest,
        condition=most / least if least > level else np.inf,
        nonzero_condition=most / float(nonzero.min()) if nonzero.size else np.nan,
        negative=int(np.sum(values < -level)),
        zero=int(np.sum(sizes <= level)),
        sharp=int(np.sum(sizes > _SHARP * most)),
        trace=trace,
        exact=exact,
        values=values,
        relative=change / abs(value) if value else np.inf,
    )


def _section(facts: Curvature, n: int, found: Any) -> Section:
    """Say it in words, and draw the spectrum."""
    data = {k: v for k, v in facts._asdict().items() if k != "values"}
    data["eigenvalues" if facts.exact else "quadrature_nodes"] = facts.values
    if facts.exact:
        from gradlab.plots import plot_spectrum

        figure = Figure(
            "spectrum",
            "Sizes of the Hessian's eigenvalues, and their signs",
            lambda: plot_spectrum(facts.values),
        )
    else:
        figure = Figure(
            "spectrum",
            "Density of the Hessian's eigenvalues, with the interval of 95 % of the draws",
            lambda: _density(found),
        )
    return Section(TITLE, _told(facts, n), data=data, figures=(figure,))


def _told(facts: Curvature, n: int) -> str:
    """Say what the eigenvalues mean."""
    if max(abs(facts.largest), abs(facts.smallest)) == 0:
        return "The Hessian is zero: the loss is linear or constant around the point."
    how = "All eigenvalues were computed" if facts.exact else "By Lanczos' method"
    lines = [f"{how}: they reach from {facts.smallest:.4g} to {facts.largest:.4g}."]
    if not facts.exact:
        lines.append(
            f"The condition number is at least {facts.nonzero_condition:.2g}; smaller "
            "eigenvalues may lie between those seen."
        )
    elif np.isfinite(facts.condition):
        lines.append(f"The condition number is {facts.condition:.3g}.")
    else:
        lines.append(
            f"The Hessian is singular within rounding: {facts.zero} of {n} eigenvalues cannot "
            f"be told from zero; without them the condition number is "
            f"{facts.nonzero_condition:.3g}."
        )
    if facts.exact:
        lines.append(
            f"Sharp (above a tenth of the largest) in {facts.sharp} of {n} directions, curved "
            f"downwards in {facts.negative}, flat within rounding in {facts.zero}."
        )
    elif facts.negative:
        lines.append("Some directions are curved downwards.")
    if np.isfinite(facts.relative) and facts.largest > 0:
        lines.append(
            "A move along the sharpest direction by 1 % of the point's length (of 1, if that "
            f"is zero) changes the loss by {100 * facts.relative:.2g} % of its size, "
            "beside the slope."
        )
    return "\n".join(lines)


def _density(found: Any) -> Any:
    """Draw the density of the eigenvalues."""
    from gradlab.plots._style import BLUE, axes_for

    ax = axes_for(None)
    ax.plot(found.grid, found.density, color=BLUE, linewidth=1.6)
    ax.fill_between(found.grid, found.lower, found.upper, color=BLUE, alpha=0.2, linewidth=0)
    ax.set_yscale("log")
    ax.set_ylim(bottom=float(np.max(found.density)) * 1e-6)
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("share of eigenvalues per unit")
    return ax
