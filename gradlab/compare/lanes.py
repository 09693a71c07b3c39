"""Settings × starts × problems in one compiled program, and successive halving of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab import sharding
from gradlab._checks import check_count
from gradlab._errors import accepts_only_its_keywords
from gradlab._typing import Count, Number, Params
from gradlab.compare.given import described, starts_of
from gradlab.compare.kept import wanted_shard
from gradlab.compare.table import Table
from gradlab.minimize import minimize
from gradlab.optimizers.method import Method, make
from gradlab.result import Status

__all__ = ["Swept", "sweep"]

# Each round of halving keeps one in three, as Jamieson and Talwalkar (2016) and Hyperband do.
_KEPT = 3
# The least that a first round of halving may take: first-order methods show their rate then.
_FIRST = 10


@dataclass(frozen=True, eq=False)
class Swept:
    """What `sweep` found.

    Attributes:
        table: A row for each run: problem, seed, the settings, loss, steps, cost, status, and
            the round it was dropped in, or the last.
        best: The settings whose mean place by loss, over starts and problems, is the first;
            None if none of the runs ended with a finite loss.
        cost: Gradient equivalents of all runs of all rounds.
        rounds: For each round, the settings it ran and the steps it allowed.
    """

    table: Table
    best: dict[str, float] | None
    cost: float
    rounds: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return str(self.table)


@accepts_only_its_keywords
def sweep(
    problems: Any,
    method: Any,
    settings: Mapping[str, Any],
    *,
    starts: Any = None,
    seeds: Iterable[int] = (0,),
    args: tuple[Any, ...] = (),
    max_steps: Count = 300,
    gtol: Number | None = None,
    halving: bool = False,
    shard: str | None = None,
    batches: Any = None,
) -> Swept:
    r"""Run one method with every combination of settings, from every start, on every problem.

    All runs are lanes of one program, compiled once: a lane that diverges freezes, and leaves
    the others alone. With `halving` a first round gives every setting a share of the steps;
    the best third, by its mean place among all on each problem, runs again with three times
    as many, and so on until `max_steps`. A round is compiled once, for its number of lanes.

    Args:
        problems: A `Problem`, several of them with one loss and data of the same shapes, or a
            function `loss(params, *args)`.
        method: Name or `Method`, whose other options are its own.
        settings: Values to try of each numerical option, as `learning_rate` or `b1`.
        starts: Start or list of starts of a loss function.
        seeds: Seeds of the starts; with `starts`, their numbers.
        args: Further arguments of a loss function.
        max_steps: Most steps of a run.
        gtol: Gradient test, as in `minimize`.
        halving: Whether to drop settings on the way.
        shard: "runs" spreads the settings over all devices.
        batches: `gradlab.minibatches(size, key=key)`, as in `minimize`: every run sees the
            same batches, and a step is one pass through the rows of the data.

    Returns:
        A `Swept`.

    Raises:
        ValueError: If a setting is no option of the method, or no number; if the problems
            have different losses or shapes.
        TypeError: If `problems` or `method` is none of the kinds above.

    References:
        Jamieson, K. and Talwalkar, A. (2016). Non-stochastic best arm identification and
        hyperparameter optimization. AISTATS.

    Examples:
        >>> rates = {"learning_rate": [1e-3, 1e-2, 1e-1, 1e3]}
        >>> found = sweep(gl.problems.get("booth"), "gd", rates, max_steps=50)
        >>> print(found.best, len(found.table))
        {'learning_rate': 0.1} 4
    """
    method = method if isinstance(method, Method) else make(method)
    names, values = _checked(method, settings)
    chosen = list(problems) if isinstance(problems, list | tuple) else [problems]
    cases = [_case(p, starts, tuple(seeds), args) for p in chosen]
    if any(case.loss is not cases[0].loss for case in cases):
        raise ValueError("`problems` must have one loss, to be lanes of one program.")
    steps = check_count("max_steps", max_steps, smallest=1)
    lanes = _Lanes(cases, method, names, gtol, wanted_shard(shard), batches)
    return _rounds(lanes, values, steps, halving)


@dataclass(frozen=True, eq=False)
class _Case:
    """A problem with its starts."""

    name: str
    loss: Any
    args: tuple[Any, ...]
    starts: dict[int, Params]


def _case(problem: Any, starts: Any, seeds: tuple[int, ...], args: tuple[Any, ...]) -> _Case:
    """Describe one problem."""
    name, loss, args, _ = described(problem, args)
    return _Case(name, loss, args, starts_of(problem, starts, seeds))


def _checked(method: Method, settings: Any) -> tuple[list[str], np.ndarray]:
    """Return the names of the settings, and their combinations, shape (k, number)."""
    if not isinstance(settings, Mapping) or not settings:
        raise ValueError(
            "`settings` must name options and their values, as {'learning_rate': [0.01, "
            f"0.1]}}, got {settings!r:.60}."
        )
    columns = []
    for name, values in settings.items():
        column = np.atleast_1d(np.asarray(values))
        numbers = column.dtype.kind in "fiu" and column.ndim == 1 and column.size
        if not numbers or not np.all(column > 0):
            raise ValueError(
                f"`settings[{name!r}]` must be positive numbers, got {values!r:.60}."
            )
        make(method.name, **{**dict(method.static), name: float(column[0])})  # an option of it?
        columns.append(column.astype(float))
    return list(settings), np.asarray(list(itertools.product(*columns)), float)


class _Lanes:
    """All runs of one round, as one compiled program."""

    def __init__(
        self,
        cases: Sequence[_Case],
        method: Method,
        names: list[str],
        gtol: Any,
        shard: Any,
        batches: Any,
    ) -> None:
        self.cases, self.method, self.names, self.gtol = cases, method, names, gtol
        self.shard, self.batches = shard, batches
        try:
            self.args = jax.tree.map(lambda *x: jnp.stack(x), *(case.args for case in cases))
            self.starts = _stacked([_stacked(list(c.starts.values())) for c in cases])
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"`problems` must have data and starts of the same shapes: {error}"
            ) from error

    def run(self, values: np.ndarray, steps: int) -> tuple[np.ndarray, ...]:
        """Run all settings; losses, steps, costs, statuses, (k, problems, seeds)."""
        loss, method, gtol = self.cases[0].loss, self.method, self.gtol

        def lane(numbers: Any, start: Params, args: Any) -> tuple[Any, ...]:
            options = {**dict(method.static), **method.hyperparams}
            options.update(zip(self.names, numbers, strict=True))
            one = make(method.name, **options)
            result = minimize(
                loss, start, one, args=args, max_steps=steps, gtol=gtol, trace=None,
                batches=self.batches,
            )  # fmt: skip
            return result.fun, result.nit, result.cost, result.status

        over_seeds = jax.vmap(lane, in_axes=(None, 0, None))
        over_problems = jax.vmap(over_seeds, in_axes=(None, 0, 0))
        program = jax.jit(jax.vmap(over_problems, in_axes=(0, None, None)))
        given, count = jnp.asarray(values), len(values)
        if self.shard == "runs":
            given, count = sharding.spread(values)
        found = jax.device_get(program(given, self.starts, self.args))
        return tuple(np.asarray(column)[:count] for column in found)


def _stacked(trees: Sequence[Any]) -> Any:
    """Stack equal trees, leaf by leaf."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *trees)


def _rounds(lanes: _Lanes, values: np.ndarray, most: int, halving: bool) -> Swept:
    """Run the rounds and collect a row for each run."""
    left = np.arange(len(values))
    rows: dict[int, list[dict[str, Any]]] = {}
    rounds, cost = [], 0.0
    for number, steps in enumerate(_steps(len(values), most, halving), 1):
        found = lanes.run(values[left], steps)
        cost += float(np.sum(found[2]))
        rounds.append((len(left), steps))
        for place, which in enumerate(left):
            rows[int(which)] = list(_rows(lanes, values[which], found, place, number))
        scores = _scores(found)
        if steps < most:
            order = np.argsort(scores, kind="stable")
            order = order[: max(1, math.ceil(len(left) / _KEPT))]
            left = left[np.sort(order)]
            scores = scores[np.sort(order)]
    best = values[left[int(np.argmin(scores))]]
    kept = [row for which in sorted(rows) for row in rows[which]]
    formats = {
        "problem": ("problem", ""),
        "seed": ("seed", "d"),
        **{name: (name.replace("_", " "), ".3g") for name in lanes.names},
        "loss": ("final loss", ".4e"),
        "steps": ("steps", "d"),
        "cost": ("cost", ".1f"),
        "round": ("round", "d"),
        "status": ("status", ""),
    }
    named = dict(zip(lanes.names, map(float, best), strict=True))
    chosen = named if np.any(np.isfinite(found[0])) else None
    return Swept(Table(tuple(kept), formats), chosen, cost, tuple(rounds))


def _steps(number: int, most: int, halving: bool) -> list[int]:
    """Return the steps of each round, three times as many in each."""
    if not halving:
        return [most]
    rounds = math.ceil(math.log(max(number, 2), _KEPT))
    steps = [most // _KEPT**k for k in range(rounds, 0, -1)]
    return [*(s for s in steps if s >= min(_FIRST, most)), most]


def _scores(found: tuple[np.ndarray, ...]) -> np.ndarray:
    """Rank settings: the mean over problems and seeds of their place in each, the least best.

    Places instead of losses, since losses of different problems do not compare.
    """
    losses = np.where(np.isfinite(found[0]), found[0], np.inf)
    flat = losses.reshape(len(losses), -1)
    better = (flat[:, None, :] > flat[None, :, :]).sum(axis=1)
    return np.mean(better, axis=1)


def _rows(
    lanes: _Lanes, values: np.ndarray, found: tuple[np.ndarray, ...], place: int, number: int
) -> Iterable[dict[str, Any]]:
    """Yield the rows of one setting."""
    losses, steps, costs, statuses = (column[place] for column in found)
    for p, case in enumerate(lanes.cases):
        for s, seed in enumerate(case.starts):
            yield {
                "problem": case.name,
                "seed": seed,
                **dict(zip(lanes.names, map(float, values), strict=True)),
                "loss": float(losses[p, s]),
                "steps": int(steps[p, s]),
                "cost": float(costs[p, s]),
                "round": number,
                "status": Status(int(statuses[p, s])).name,
            }
