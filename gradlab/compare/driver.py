"""`compare`: the same losses, starts and budget for every method."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gradlab import _distributed, sharding
from gradlab._checks import check_count
from gradlab._errors import accepts_only_its_keywords, check_choice
from gradlab._session import OutOfTimeError
from gradlab._typing import GradientOperator, Loss, Params
from gradlab.compare.comparison import Comparison
from gradlab.compare.given import (
    checked_cost,
    checked_rates,
    described,
    labelled,
    operators_of,
    starts_of,
)
from gradlab.compare.kept import announce, kept_sweep, part, wanted_shard
from gradlab.compare.run import Run, Sweep, trimmed
from gradlab.compare.tuning import SWEEP_STEPS, Setting
from gradlab.compare.tuning import tune as choose_rate
from gradlab.minimize import minimize
from gradlab.optimizers.method import Method
from gradlab.result import Result, Status
from gradlab.trace import Trace

__all__ = ["compare"]

if TYPE_CHECKING:
    Rates: TypeAlias = bool | Sequence[float | int]
else:  # checked in the caller's words
    Rates = Any

# Steps of the run that tells what a step costs, where only a cost limits the runs.
_PILOT_STEPS = 8


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What every method of a comparison is subjected to."""

    setting: Setting
    operators: Mapping[str, GradientOperator | None]
    starts: Mapping[int, Params]
    max_steps: int | None
    max_cost: float | int | None
    options: Mapping[str, Any]
    tune: Rates
    tuning_steps: int


class _Outcome(NamedTuple):
    """What one method made of it."""

    runs: list[Run]
    sweep: Sweep | None
    fault: Exception | None


@accepts_only_its_keywords
def compare(
    problem: Any,
    methods: Any,
    *,
    starts: Any = None,
    seeds: Iterable[int] = (0,),
    args: tuple[Any, ...] = (),
    derivatives: Sequence[str] | Mapping[str, GradientOperator | None] = ("autodiff",),
    max_steps: int | None = None,
    max_cost: float | int | None = None,
    gtol: float | int | None = None,
    ftol: float | int | None = None,
    xtol: float | int | None = None,
    noise: float | int | None = None,
    max_seconds: float | int | None = None,
    tune: Rates = True,
    tuning_steps: int = SWEEP_STEPS,
    trace: str = "scalars",
    shard: str | None = None,
    batches: Any = None,
) -> Comparison:
    """Minimise one loss by several methods, from the same starts and under the same limits.

    A method whose learning rate was not given gets the best of a short sweep, made once
    from the first start with the first derivative operator; what the sweep cost is told
    beside the cost of the run, not hidden in it. A method that raises an error leaves the
    others alone: its fault stands in the table. Only if every method fails does the first
    error reach the caller.

    Args:
        problem: A `Problem` from `gradlab.problems`, or a function `loss(params, *args)`.
        methods: Names from `gradlab.methods()`, Methods from `gradlab.optimizers.make`,
            optax transformations: one, a list of them, or a dict that gives them labels.
        starts: Start or list of starts; a list always means several. By default a problem's
            own start for each seed.
        seeds: Seeds of the starts, of which a problem with one start takes the first; with
            `starts`, their numbers, 0, 1, … by default.
        args: Further arguments of a loss function; a `Problem` brings its own.
        derivatives: Derivative operators to drive each method with: "autodiff", "forward",
            "backward", "central" or "complex"; or a dict of operators shaped like
            `jax.grad`, by name (None: automatic).
        max_steps: Most steps of a run; default 1,000, or as many as `max_cost` allows.
        max_cost: Most gradient equivalents (see `Trace.cost`) of a run. History beyond it
            is cut off, and what the run found there does not count.
        gtol: Gradient test, as in `minimize`; likewise `ftol`, `xtol` and `noise`.
        ftol: Value test.
        xtol: Step test.
        noise: Absolute noise level of the loss.
        max_seconds: Stop a run after this long, compilation not counted.
        tune: Whether to choose learning rates, or the rates to choose among.
        tuning_steps: Steps of the short runs that choose them. A run much longer than that
            may be better served by a smaller rate than the one that starts best.
        trace: "scalars", or "params" to keep every iterate for `plot_trajectories`.
        shard: "data" spreads the rows of `args` over all devices (see
            `gradlab.sharding.data_parallel`), "runs" the candidates of each sweep.
        batches: `gradlab.minibatches(size, key=key)`, as in `minimize`: a step of a run is
            then one pass through the rows of the data.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If a name is unknown, two methods have the same label, a loss function
            has no starts, or a limit is out of range.
        TypeError: If a keyword is unknown or a method is none of the kinds above.

    Examples:
        >>> problem = gl.problems.get("rosenbrock")
        >>> comparison = gl.compare(problem, ["newton", "newton_cg"])
        >>> for row in comparison.table:
        ...     print(row["method"], row["status"], row["loss"] < 1e-12)
        newton CONVERGED_GRADIENT True
        newton_cg CONVERGED_GRADIENT True
    """
    name, loss, args, minimum = described(problem, args)
    by_label = labelled(methods)
    check_choice("trace", trace, ("params", "scalars"))
    options = {"ftol": ftol, "xtol": xtol, "noise": noise, "max_seconds": max_seconds}
    begin = starts_of(problem, starts, tuple(seeds))
    shard = wanted_shard(shard)
    loss, args, begin = _placed(shard, loss, args, begin)
    plan = _Plan(
        Setting(name, loss, args, gtol, shard, batches),
        operators_of(derivatives),
        begin,
        None if max_steps is None else check_count("max_steps", max_steps),
        checked_cost(max_cost),
        {**options, "trace": trace},
        checked_rates(tune),
        check_count("tuning_steps", tuning_steps, 1),
    )
    outcomes = [_outcome(plan, label, method) for label, method in by_label.items()]
    runs = tuple(run for outcome in outcomes for run in outcome.runs)
    faults = [outcome.fault for outcome in outcomes if outcome.fault is not None]
    faults = [fault for fault in faults if not isinstance(fault, OutOfTimeError)]
    if runs and faults and all(run.error is not None for run in runs):
        raise faults[0]
    sweeps = tuple(outcome.sweep for outcome in outcomes if outcome.sweep is not None)
    return Comparison(runs, {} if minimum is None else {name: minimum}, sweeps)


def _placed(
    shard: str | None, loss: Loss, args: tuple[Any, ...], starts: dict[int, Params]
) -> tuple[Loss, tuple[Any, ...], dict[int, Params]]:
    """Put data and starts on the devices they are to be on."""
    together = _distributed.several()
    if shard == "data":
        loss, args = sharding.data_parallel(loss, next(iter(starts.values())), args)
    elif together:
        args = sharding.replicate(args)
    if together:
        starts = {seed: sharding.replicate(start) for seed, start in starts.items()}
    return loss, args, starts


def _outcome(plan: _Plan, label: str, method: Method) -> _Outcome:
    """Choose a method's learning rate and run it from every start with every operator.

    Whatever exception a method raises becomes its row in the table.
    """
    cases = list(itertools.product(plan.operators.items(), plan.starts.items()))
    blank = [Run(plan.setting.problem, label, name, seed) for (name, _), (seed, _) in cases]
    try:
        announce(f"learning rate of {label} on {plan.setting.problem}")
        method, sweep = _tuned(plan, label, method)
    except Exception as error:
        if _ends_all(error):
            raise
        return _Outcome([_failed(run, error) for run in blank], None, error)
    rate = method.hyperparams.get("learning_rate")
    rate = None if rate is None else float(rate)
    runs, fault = [], None
    for run, ((_, operator), (_, start)) in zip(blank, cases, strict=True):
        run = dataclasses.replace(run, learning_rate=rate)
        try:
            announce(f"{label} on {plan.setting.problem}")
            result, trace, cut = _limited(plan, method, operator, start, run)
        except Exception as error:
            if _ends_all(error):
                raise
            fault = fault or error
            runs.append(_failed(run, error))
        else:
            runs.append(dataclasses.replace(run, result=result, trace=trace, out_of_budget=cut))
    return _Outcome(runs, sweep, fault)


def _ends_all(error: Exception) -> bool:
    """Whether other processes may not have met an error, so that all must end."""
    return _distributed.several() and not isinstance(error, OutOfTimeError)


def _failed(run: Run, error: Exception) -> Run:
    """Enter a fault into a run."""
    return dataclasses.replace(run, error=f"{type(error).__name__}: {error}")


def _tuned(plan: _Plan, label: str, method: Method) -> tuple[Method, Sweep | None]:
    """Return the method with a chosen learning rate, where there is one to choose."""
    wanted = plan.tune is not False and plan.max_steps != 0
    if not wanted or method.tuned or not method.takes_learning_rate:
        return method, None
    start = next(iter(plan.starts.values()))
    operator = next(iter(plan.operators.items()))
    steps = min(plan.tuning_steps, plan.max_steps or plan.tuning_steps)
    rates = None if isinstance(plan.tune, bool) else plan.tune
    setting = plan.setting

    def make() -> Sweep:
        return choose_rate(setting, label, method, start, operator, steps=steps, rates=rates)

    settings = (operator[0], steps, rates, setting.gtol, setting.batches)
    inputs = (start, *setting.args)
    sweep = kept_sweep(setting.problem, label, method, setting.loss, inputs, settings, make)
    if sweep.chosen is None:
        return method, sweep
    numbers = {**method.hyperparams, "learning_rate": sweep.chosen}
    return dataclasses.replace(method, hyperparams=numbers), sweep


def _limited(
    plan: _Plan,
    method: Method,
    operator: GradientOperator | None,
    start: Params,
    blank: Run,
) -> tuple[Result, Trace, bool]:
    """Run within the budget; return the result, its history, and whether that was cut.

    What a step costs is only known afterwards. So a short pilot run tells, and the run is
    made again with as many steps as the budget then seems to allow, until it is spent.
    """
    setting = plan.setting
    names = (blank.problem, blank.method, blank.derivative, blank.seed)
    run = functools.partial(
        minimize,
        setting.loss,
        start,
        method,
        args=setting.args,
        gtol=setting.gtol,
        batches=setting.batches,
        grad=operator,
        **plan.options,
    )
    if plan.max_cost is None:
        kept = part(*names)
        result = jax.block_until_ready(run(max_steps=plan.max_steps, checkpoint=kept))
        return result, trimmed(result.trace), False
    # No step costs less than one loss, a third of a gradient.
    most = math.ceil(3 * plan.max_cost) if plan.max_steps is None else plan.max_steps
    steps, compile_seconds = min(_PILOT_STEPS, most), 0.0
    while True:
        result = run(max_steps=steps, checkpoint=part(*names, steps))
        trace = trimmed(result.trace)
        cost = float(trace.cost[-1])
        compile_seconds = max(compile_seconds, float(trace.compile_seconds))
        ended = int(result.status) != Status.MAX_STEPS or steps >= most
        if ended or cost > plan.max_cost:
            break
        predicted = math.floor(plan.max_cost * steps / cost) + 1
        steps = min(most, max(predicted, steps + steps // 2))
    trace = trace._replace(compile_seconds=jnp.asarray(compile_seconds))
    affordable = int(np.sum(np.asarray(trace.cost) <= plan.max_cost))
    cut = affordable < len(trace.loss)
    return result, trimmed(trace, max(1, affordable)), cut
