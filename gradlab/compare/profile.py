"""Profiles: how often a method is within a factor of the best one, or within a budget."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from gradlab._errors import check_choice
from gradlab.trace import Trace

__all__ = ["Profile", "performance_profile"]

MEASURES = ("cost", "steps", "seconds")


@dataclass(frozen=True, eq=False)
class Profile:
    r"""Costs to solve each problem, and the profile $\rho_s(\alpha)$ they make.

    $\rho_s(\alpha)$ is the share of problems that method s solves at no more than $\alpha$
    times the cost of the method that was best there.

    Attributes:
        methods: Labels of the methods, one a row.
        problems: The problems, one a column: (name, seed).
        costs: Cost to solve, shape (methods, problems); infinite where not solved.
        tolerance: Share of the possible decrease that may be left.
        measure: What the costs count: "cost", "steps" or "seconds".
        sizes: Number n of variables of each problem; NaN where no run tells.

    References:
        Dolan, E. D. & Moré, J. J. (2002). Benchmarking optimization software with
        performance profiles. Mathematical Programming 91, 201–213.
        Moré, J. J. & Wild, S. M. (2009). Benchmarking derivative-free optimization
        algorithms. SIAM Journal on Optimization 20, 172–191 (`budgets`).
    """

    methods: tuple[str, ...]
    problems: tuple[Hashable, ...]
    costs: np.ndarray
    tolerance: float
    measure: str
    sizes: np.ndarray | None = None

    @property
    def ratios(self) -> np.ndarray:
        """Cost over the best method's cost on that problem, infinite where not solved."""
        best = self.costs.min(axis=0, keepdims=True, initial=np.inf)
        ratios = np.full(self.costs.shape, np.inf)
        solved = np.isfinite(self.costs)
        # A best cost of 0 (solved at the start) makes its owners 1 and leaves others behind.
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = np.where(self.costs == best, 1.0, self.costs / best)
        ratios[solved] = quotient[solved]
        return ratios

    @property
    def budgets(self) -> np.ndarray:
        r"""Cost to solve in units of n + 1 losses, as in data profiles; shape as `costs`.

        A cost of c gradient equivalents is as dear as 3c losses. A gradient by differences
        takes n + 1 of them, so that problems of different sizes compare.

        Raises:
            ValueError: If the profile does not count cost, or the sizes are not known.
        """
        if self.measure != "cost" or self.sizes is None:
            raise ValueError(
                "`budgets` are of cost on problems of known size, but this profile counts "
                f'{self.measure}. Pass measure="cost" to Comparison.profile.'
            )
        return 3 * self.costs / (self.sizes + 1)

    def share(self, method: str, factor: float | int) -> float:
        """Return the share of problems that `method` solves within `factor` of the best."""
        check_choice("method", method, self.methods)
        row = self.ratios[self.methods.index(method)]
        return float(np.mean(row <= factor))

    def curve(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the corners of the step function: factors and shares from there on."""
        check_choice("method", method, self.methods)
        return _corners(self.ratios[self.methods.index(method)], 1.0)

    def data_curve(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the corners of the data profile: budgets (see `budgets`) and shares."""
        check_choice("method", method, self.methods)
        return _corners(self.budgets[self.methods.index(method)], 0.0)


def _corners(row: np.ndarray, first: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where the share of entries up to there grows, and the shares."""
    places = np.unique(np.concatenate([[first], row[np.isfinite(row)]]))
    return places, np.asarray([np.mean(row <= place) for place in places])


def performance_profile(
    histories: Mapping[str, Mapping[Hashable, Trace | None]], *, tolerance: float, measure: str
) -> Profile:
    """Build the profile of histories given by method and problem."""
    check_choice("measure", measure, MEASURES)
    if not 0.0 < tolerance < 1.0:
        raise ValueError(f"`tolerance` must lie between 0 and 1, got {tolerance!r}.")
    problems = tuple(dict.fromkeys(key for runs in histories.values() for key in runs))
    costs = np.full((len(histories), len(problems)), np.inf)
    for column, problem in enumerate(problems):
        traces = [runs.get(problem) for runs in histories.values()]
        costs[:, column] = _costs_to_solve(traces, tolerance, measure)
    sizes = np.asarray([_size(runs.get(p) for runs in histories.values()) for p in problems])
    return Profile(tuple(histories), problems, costs, tolerance, measure, sizes)


def _size(traces: Iterable[Trace | None]) -> float:
    """Return the number of variables of a problem; NaN where every run failed."""
    return next((float(t.num_params) for t in traces if t is not None), np.nan)


def _costs_to_solve(traces, tolerance: float, measure: str) -> list[float]:
    """Return what each history of one problem paid to come close enough to the best."""
    losses = [None if t is None else np.asarray(t.loss, dtype=float) for t in traces]
    finite = [loss[np.isfinite(loss)] for loss in losses if loss is not None]
    finite = [loss for loss in finite if loss.size]
    if not finite:
        return [np.inf] * len(losses)
    least = min(loss.min() for loss in finite)
    start = max(loss[0] for loss in finite)
    target = least + tolerance * (start - least)
    return [
        np.inf if loss is None else _first(loss <= target, getattr(trace, measure))
        for trace, loss in zip(traces, losses, strict=True)
    ]


def _first(reached: np.ndarray, costs: np.ndarray) -> float:
    """Return the cost at the first row that reached the target; infinite if none did."""
    rows = np.flatnonzero(reached)
    return float(np.asarray(costs)[rows[0]]) if rows.size else np.inf
