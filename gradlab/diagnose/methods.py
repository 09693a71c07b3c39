"""Five methods at equal cost on the loss, and what is recommended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._tree import num_params
from gradlab._typing import Loss, Params
from gradlab.certificate import Certificate
from gradlab.compare import Comparison, Sweep, compare
from gradlab.compare.table import Table
from gradlab.derivatives.check import CheckReport
from gradlab.derivatives.digits import Digits
from gradlab.diagnose.curvature import Curvature
from gradlab.diagnose.section import Figure, Section
from gradlab.result import Status

__all__ = ["Known", "advice", "comparison", "default_methods"]

TITLE = "Which method minimises it best?"
ADVICE = "What is recommended?"
FIRST_ORDER = ("gd", "adam")
SECOND_ORDER = ("newton", "newton_cg")
# Variables up to which a dense Hessian a step can pay.
_DENSE = 500
# Gradient equivalents for each method: a few hundred gradients, or twenty dense Hessians.
_COST, _HESSIANS = 400, 20
# Each method's time. A tenth of a minute keeps five of them below one.
_SECONDS = 10.0
# A loss that falls this many times as far below zero as it and its first step were large has
# no minimum that a method could be chosen for.
_OUT_OF_SIGHT = 1e12
# Reached means that a millionth of the possible decrease is left, as in the experiments.
_TOLERANCE = 1e-6
# A busy machine moves one timing by half of itself and a tenth of a second: nearer ones are
# ranked by cost, which repeats.
_TIMES, _TELLING = 1.5, 0.1
# Learning rates within this share of the best decrease are as good.
_AS_GOOD = 0.9
# Digits that a gradient should have where a stopping test is to be met.
_ENOUGH_DIGITS = 3.0


class Known(NamedTuple):
    """What the other sections found out; None where they could not."""

    check: CheckReport | None
    digits: Digits | None
    digits32: float | None
    curvature: Curvature | None
    certificate: Certificate | None
    comparison: Comparison | None
    finite: bool
    x: Params


def default_methods(n: int) -> tuple[str, ...]:
    """Return the five methods that fit a loss of n variables."""
    return (*FIRST_ORDER, "lbfgs", "newton_cg", "newton" if n <= _DENSE else "nonlinear_cg")


def comparison(
    loss: Loss,
    x: Params,
    batch: tuple[Any, ...],
    methods: Any,
    max_cost: float | None,
    name: str,
) -> tuple[Section, Comparison]:
    """Run the methods from the point until a test is met or the budget is spent."""
    n = num_params(x)
    chosen = default_methods(n) if methods is None else methods
    if max_cost is None:
        max_cost = max(_COST, 2 * n * _HESSIANS) if n <= _DENSE else _COST
    found = compare(
        loss, chosen, starts=[x], args=batch, max_cost=max_cost, max_seconds=_SECONDS
    )
    rows = tuple(_row(found, run) for run in found.runs)
    budget = f"{max_cost:g} gradient equivalents and {_SECONDS:g} seconds each"
    number = f"{len(rows)} methods" if len(rows) > 1 else "One method"
    told = [f"{number} from this point, {budget}; compilation is not counted."]
    solved = [row["method"] for row in rows if row["met"]]
    if solved:
        told.append(f"A stopping test was met by {', '.join(solved)}.")
    else:
        told.append("None met a stopping test: none of these answers is claimed a minimum.")
    return Section(
        TITLE,
        "\n".join(told),
        table=Table(rows, _FORMATS),
        data={"max_cost": max_cost, "tolerance": _TOLERANCE, "runs": list(rows)},
        figures=_figures(found),
    ), found


_FORMATS = {
    "method": ("method", ""),
    "learning_rate": ("learning rate", ".3g"),
    "loss": ("final loss", ".6e"),
    "cost_to_reach": ("cost to get there", ".1f"),
    "seconds_to_reach": ("seconds", ".2g"),
    "cost": ("cost in all", ".1f"),
    "compile_seconds": ("compiled in s", ".2f"),
    "tuning_cost": ("tuning cost", ".0f"),
    "status": ("status", ""),
}


def _row(found: Comparison, run: Any) -> dict[str, Any]:
    """Summarise one method: what it reached, and what it had paid when it was near."""
    row: dict[str, Any] = dict(found.select(method=run.method).table[0])
    row.update(met=run.success, cost_to_reach=None, seconds_to_reach=None)
    if run.trace is not None:
        best, start = found.best_loss(run.problem), float(run.trace.loss[0])
        reached = run.trace.loss <= best + _TOLERANCE * (start - best)
        if np.isfinite(start) and best < start and np.any(reached):
            first = int(np.argmax(reached))
            row["cost_to_reach"] = float(run.trace.cost[first])
            row["seconds_to_reach"] = float(run.trace.seconds[first])
    return row


def _figures(found: Comparison) -> tuple[Figure, ...]:
    """Draw the losses against cost and time, and the sweeps of the learning rates."""
    from gradlab.plots import plot_learning_rates

    if all(run.trace is None for run in found.runs):
        return ()
    names = {"cost": "counted cost", "time": "time without compilation"}
    figures = [
        Figure(f"gap-{x}", f"Loss above the best seen, against {told}", _drawer(found, x))
        for x, told in names.items()
    ]
    if any(np.any(np.isfinite(s.losses)) for s in found.sweeps):
        figures.append(
            Figure(
                "learning-rates",
                "Loss after a short run, against the learning rate",
                lambda: plot_learning_rates(found),
            )
        )
    return tuple(figures)


def _drawer(found: Comparison, x: str) -> Any:
    """Return the function that draws one figure."""
    from gradlab.plots import plot_convergence

    return lambda: plot_convergence(found, x=x)


def advice(known: Known) -> Section:
    """Draw the conclusions, each from what was measured, none where nothing was."""
    if not known.finite:
        told = "The loss or its gradient is not finite at this point: start elsewhere."
        return Section(ADVICE, told, data={"method": None})
    if known.check is not None and known.check.verdict == "wrong":
        told = (
            "First put the derivative right that the check names: every method below was led "
            "by it, and no recommendation can be built on it."
        )
        return Section(ADVICE, told, data={"method": None})
    method, told = _method(known)
    rates = _rates(known)
    precision, dtype = _precision(known)
    second = _second_order(known)
    lines = [told, *rates.values(), second, precision]
    data = {"method": method, "dtype": dtype, **_rate_numbers(known)}
    return Section(ADVICE, "\n".join(line for line in lines if line), data=data)


def _method(known: Known) -> tuple[str | None, str]:
    """Name the method that got there first, by time where time tells, else by cost."""
    if known.comparison is None:
        return None, "Method: no comparison could be made, so none is recommended."
    endless = _endless(known.comparison)
    if endless:
        return None, f"Method: none. {endless}"
    rows = [_row(known.comparison, run) for run in known.comparison.runs]
    there = [row for row in rows if row["cost_to_reach"] is not None]
    if not there:
        kind = None if known.certificate is None else known.certificate.message
        beside = f" The point itself: {kind}" if kind else ""
        return None, f"Method: none lowered the loss from this point.{beside}"
    fast = min(there, key=lambda row: row["seconds_to_reach"])
    cheap = min(there, key=lambda row: row["cost_to_reach"])
    provisional = (
        ""
        if any(row["met"] for row in there)
        else (" This is provisional: none of them met a stopping test within the budget.")
    )
    fast_told = f"in time ({fast['seconds_to_reach']:.2g} s)"
    cheap_told = f"by cost ({cheap['cost_to_reach']:.3g} gradients)"
    if cheap["method"] == fast["method"]:
        told = f"Method: {fast['method']}, first {fast_told} and {cheap_told}"
        return fast["method"], f"{told}.{provisional}"
    if cheap["seconds_to_reach"] > _TIMES * fast["seconds_to_reach"] + _TELLING:
        told = (
            f"Method: {fast['method']}, first {fast_told}; where one evaluation takes longer, "
            f"{cheap['method']}, first {cheap_told}"
        )
        return fast["method"], f"{told}.{provisional}"
    told = f"Method: {cheap['method']}, first {cheap_told}; by time they are too near to tell"
    return cheap["method"], f"{told}.{provisional}"


def _endless(found: Comparison) -> str:
    """Say that the loss has no lower bound, where runs fell out of sight."""
    traces = {run.method: run.trace for run in found.runs if run.trace and _is_endless(run)}
    if not traces:
        return ""
    names = ", ".join(traces)
    lowest = min(float(np.nanmin(trace.loss)) for trace in traces.values())
    return (
        f"The loss seems to have no lower bound: {names} followed it to {lowest:.3g}. There is "
        "no minimum to find before a penalty or a constraint bounds it."
    )


def _is_endless(run: Any) -> bool:
    """Whether a run found no bound, or fell out of all proportion to the loss at its start."""
    losses = run.trace.loss[np.isfinite(run.trace.loss)]
    if run.result.status == Status.UNBOUNDED or len(losses) < 2:
        return bool(run.result.status == Status.UNBOUNDED)
    size = np.abs(losses[0]) + np.abs(losses[1] - losses[0])
    return bool(losses.min() < -_OUT_OF_SIGHT * size)


def _second_order(known: Known) -> str:
    """Say whether second derivatives paid."""
    if known.comparison is None or _endless(known.comparison):
        return ""
    rows = [_row(known.comparison, run) for run in known.comparison.runs]
    prices: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        price = row["cost_to_reach"]
        prices[row["method"] in SECOND_ORDER].append(math.inf if price is None else price)
    if not prices[True] or not prices[False]:
        return ""
    second, first = min(prices[True]), min(prices[False])
    if math.isinf(second) and math.isinf(first):
        return ""
    if math.isinf(first):
        return "Second derivatives: they pay, the methods without them did not get there."
    if math.isinf(second):
        return "Second derivatives: they do not pay here, no method with them got there."
    ratio = first / second
    if ratio >= 1:
        return f"Second derivatives: they pay, {ratio:.2g} times less cost than without."
    return f"Second derivatives: they do not pay here, {1 / ratio:.2g} times the cost."


def _rate_numbers(known: Known) -> dict[str, Any]:
    """Collect learning rates: the stability limit of gradient descent, and good ones."""
    numbers: dict[str, Any] = {"stable_below": None, "learning_rates": {}}
    if known.curvature is not None and known.curvature.largest > 0:
        numbers["stable_below"] = 2 / known.curvature.largest
    for sweep in () if known.comparison is None else known.comparison.sweeps:
        if (found := _good_rates(sweep)) is not None:
            numbers["learning_rates"][sweep.method] = list(found)
    return numbers


def _rates(known: Known) -> Mapping[str, str]:
    """Say which learning rates are good, by the curvature and by the sweeps."""
    lines = {}
    numbers = _rate_numbers(known)
    limit = numbers["stable_below"]
    if limit is not None:
        lines["limit"] = (
            f"Learning rate of gradient descent: stable below 2/λ = {limit:.3g} by the largest "
            f"curvature λ at this point; half of it, {limit / 2:.3g}, is the usual choice."
        )
    elif known.curvature is not None:
        lines["limit"] = (
            "Learning rate of gradient descent: no direction is curved upwards at this point, "
            "so the curvature sets no limit."
        )
    swept = [
        f"{name} {low:.2g}" + (f" to {high:.2g}" if high > low else "")
        for name, (low, high) in numbers["learning_rates"].items()
    ]
    if swept:
        lines["swept"] = f"Good learning rates in a short sweep: {', '.join(swept)}."
    return lines


def _good_rates(sweep: Sweep) -> tuple[float, float] | None:
    """Return the range of rates around the chosen one that did almost as well."""
    if sweep.chosen is None:
        return None
    gains = sweep.start_loss - np.where(sweep.diverged, np.inf, sweep.losses)
    good = gains >= _AS_GOOD * np.max(gains)
    place = int(np.argmin(np.abs(sweep.rates - sweep.chosen)))
    low = high = place
    while low > 0 and good[low - 1]:
        low -= 1
    while high < len(good) - 1 and good[high + 1]:
        high += 1
    return float(sweep.rates[low]), float(sweep.rates[high])


def _precision(known: Known) -> tuple[str, str | None]:
    """Say which floating-point type is enough."""
    dtype = jnp.result_type(*jax.tree.leaves(known.x))
    has = known.digits.worst if known.digits is not None else None
    if dtype != jnp.float64:
        if has is None:
            return "", None
        if has < _ENOUGH_DIGITS:
            told = f"Precision: float64; in {dtype} the gradient has {has:.1f} digits."
            return told, "float64"
        return f"Precision: {dtype} gives the gradient {has:.1f} digits.", str(dtype)
    if known.digits32 is None:
        return "", None
    least = known.digits32
    if least < _ENOUGH_DIGITS:
        return (
            f"Precision: float64; in float32 the gradient would have {least:.1f} digits."
        ), "float64"
    told = f"Precision: float32 leaves the gradient {least:.1f} digits here"
    bad = known.curvature is not None and known.curvature.nonzero_condition > 1e7
    if bad:  # 1/eps of float32: it cannot tell the smallest curvature from zero
        return f"{told}, but cannot hold the condition number: float64.", "float64"
    told += ", enough for a method without second derivatives; float64 to converge further."
    return told, "float32"
