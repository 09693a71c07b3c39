"""What a comparison leaves: its runs, and the table, file and profile made from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gradlab._errors import check_choice
from gradlab._files import write_whole
from gradlab.compare.profile import Profile, performance_profile
from gradlab.compare.run import Run, Sweep
from gradlab.compare.table import Table
from gradlab.trace import Trace

__all__ = ["Comparison"]

CSV_COLUMNS = (
    "problem",
    "method",
    "derivative",
    "seed",
    "step",
    "cost",
    "seconds",
    "loss",
    "grad_norm",
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs of several methods, and what is read off them.

    `compare` makes one; `+` and `merge` join those of several problems.

    Attributes:
        runs: Every run, also those that ended in a fault.
        minima: The smallest loss there is, for the problems where it is known.
        sweeps: How the learning rates were chosen.
    """

    runs: tuple[Run, ...]
    minima: Mapping[str, float] = field(default_factory=dict)
    sweeps: tuple[Sweep, ...] = ()

    def __post_init__(self) -> None:
        seen = set()
        for run in self.runs:
            key = (run.problem, run.method, run.derivative, run.seed)
            if key in seen:
                raise ValueError(
                    f"Two runs are both called problem {key[0]!r}, method {key[1]!r}, "
                    f"derivative {key[2]!r}, seed {key[3]}. Give them different labels."
                )
            seen.add(key)

    @classmethod
    def merge(cls, comparisons: Sequence[Comparison]) -> Comparison:
        """Join the runs of several comparisons, of different problems for example.

        Raises:
            ValueError: If two runs have the same problem, method, derivative and seed.
        """
        return cls(
            tuple(run for c in comparisons for run in c.runs),
            {name: value for c in comparisons for name, value in c.minima.items()},
            tuple(sweep for c in comparisons for sweep in c.sweeps),
        )

    def __add__(self, other: Comparison) -> Comparison:
        return self.merge([self, other])

    def __str__(self) -> str:
        return str(self.table)

    def select(
        self,
        *,
        problem: str | None = None,
        method: str | None = None,
        derivative: str | None = None,
    ) -> Comparison:
        """Return the part that belongs to one problem, method or derivative operator.

        Raises:
            ValueError: If there is no such problem, method or derivative here.
        """
        wanted = {"problem": problem, "method": method, "derivative": derivative}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        for name, value in wanted.items():
            check_choice(name, value, {getattr(run, name) for run in self.runs})

        def belongs(entry: Run | Sweep) -> bool:
            return all(getattr(entry, name) == value for name, value in wanted.items())

        # A sweep serves every derivative operator, so it stays whichever is selected.
        kept = {name: value for name, value in wanted.items() if name != "derivative"}
        sweeps = [s for s in self.sweeps if all(getattr(s, k) == v for k, v in kept.items())]
        return replace(self, runs=tuple(filter(belongs, self.runs)), sweeps=tuple(sweeps))

    @property
    def problems(self) -> tuple[str, ...]:
        """Names of the problems, in order."""
        return tuple(dict.fromkeys(run.problem for run in self.runs))

    @property
    def methods(self) -> tuple[str, ...]:
        """Labels of the methods, in order."""
        return tuple(dict.fromkeys(run.method for run in self.runs))

    @property
    def derivatives(self) -> tuple[str, ...]:
        """Names of the derivative operators, in order."""
        return tuple(dict.fromkeys(run.derivative for run in self.runs))

    @property
    def groups(self) -> dict[str, list[Run]]:
        """Runs that differ only in their start, by a label that says what they share."""
        return self._grouped(with_problem=len(self.problems) > 1)

    @property
    def traces(self) -> dict[str, Trace]:
        """The history of every run without a fault, by a label that says what it is of."""
        grouped = self.groups.items()
        return {
            label if len(runs) == 1 else f"{label}, seed {run.seed}": run.trace
            for label, runs in grouped
            for run in runs
            if run.trace is not None
        }

    def best_loss(self, problem: str) -> float:
        """Return the smallest finite loss any run of `problem` saw; NaN if none did."""
        losses = [
            np.asarray(run.trace.loss, dtype=float)
            for run in self.runs
            if run.problem == problem and run.trace is not None
        ]
        seen = np.concatenate([loss[np.isfinite(loss)] for loss in losses] or [np.empty(0)])
        return float(seen.min()) if seen.size else float("nan")

    def history_rows(self) -> Iterator[dict[str, Any]]:
        """Yield one dict a step of every run, with the columns of `to_csv`."""
        for run in self.runs:
            if run.trace is None:
                continue
            trace = run.trace
            columns = (trace.cost, trace.seconds, trace.loss, trace.grad_norm)
            named = (run.problem, run.method, run.derivative, run.seed)
            rows = zip(*(np.asarray(c).tolist() for c in columns), strict=True)
            for step, numbers in enumerate(rows):
                yield dict(zip(CSV_COLUMNS, (*named, step, *numbers), strict=True))

    def to_csv(self, path: str | Path) -> None:
        """Write every step of every run as comma-separated values.

        Numbers are written so that reading them back gives the same bits; what is not a
        number is written as "nan". The file is written whole or not at all.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history_rows())
        write_whole(path, text.getvalue().encode())

    @property
    def table(self) -> Table:
        """One row a problem, method and derivative: medians over the starts.

        The rows hold `problem`, `method`, `derivative`, `learning_rate`, `runs`, `solved`
        (how many met a stopping test), `steps`, `cost`, `tuning_cost` (gradient
        equivalents), `seconds` (without compilation), `compile_seconds`, `loss`,
        `grad_norm` and `status`.
        """
        return Table(
            tuple(self._table_row(runs) for runs in self.groups.values()), self._formats()
        )

    def profile(self, tolerance: float = 1e-3, *, measure: str = "cost") -> Profile:
        r"""Return the performance profile over all problems and starts.

        A start counts as solved once the loss is at most $f_L + \tau (f_0 - f_L)$, with
        $f_0$ the loss at the start, $f_L$ the least loss any method reached from it and
        $\tau$ the tolerance.

        Args:
            tolerance: Share $\tau$ of the possible decrease that may be left.
            measure: "cost", "steps" or "seconds".

        Raises:
            ValueError: If `measure` is unknown or `tolerance` is not between 0 and 1.
        """
        histories: dict[str, dict[Hashable, Trace | None]] = {
            label: {(run.problem, run.seed): run.trace for run in runs}
            for label, runs in self._grouped(with_problem=False).items()
        }
        return performance_profile(histories, tolerance=tolerance, measure=measure)

    def _grouped(self, *, with_problem: bool) -> dict[str, list[Run]]:
        """Collect runs under a label that names what tells them from the others."""
        grouped: dict[str, list[Run]] = {}
        for run in self.runs:
            label = run.method
            if len(self.derivatives) > 1:
                label += f", {run.derivative}"
            if with_problem:
                label += f" on {run.problem}"
            grouped.setdefault(label, []).append(run)
        return grouped

    def _table_row(self, runs: Sequence[Run]) -> dict[str, Any]:
        """Summarise runs that differ only in their start."""
        first = runs[0]
        sweeps = [
            s for s in self.sweeps if (s.problem, s.method) == (first.problem, first.method)
        ]
        statuses = dict.fromkeys(run.status for run in runs)
        counts = {name: sum(run.status == name for run in runs) for name in statuses}
        status = next(iter(counts))
        if len(counts) > 1:
            status = ", ".join(f"{count}× {name}" for name, count in counts.items())
        return {
            "problem": first.problem,
            "method": first.method,
            "derivative": first.derivative,
            "learning_rate": first.learning_rate,
            "runs": len(runs),
            "solved": sum(run.success for run in runs),
            "steps": _median(run.steps for run in runs),
            "cost": _median(run.cost for run in runs),
            "tuning_cost": sum(s.cost for s in sweeps) if sweeps else None,
            "seconds": _median(run.seconds for run in runs),
            "compile_seconds": _median(run.compile_seconds for run in runs),
            "loss": _median(run.loss for run in runs),
            "grad_norm": _median(run.grad_norm for run in runs),
            "status": status,
        }

    def _formats(self) -> dict[str, tuple[str, str]]:
        """Choose the printed columns: those in which rows can differ."""
        formats = {
            "problem": ("problem", ""),
            "method": ("method", ""),
            "derivative": ("derivative", ""),
            "learning_rate": ("learning rate", ".3g"),
            "runs": ("runs", "d"),
            "solved": ("solved", "d"),
            "steps": ("steps", ".0f"),
            "cost": ("cost", ".1f"),
            "tuning_cost": ("tuning cost", ".1f"),
            "seconds": ("seconds", ".3g"),
            "loss": ("final loss", ".4e"),
            "grad_norm": ("gradient norm", ".1e"),
            "status": ("status", ""),
        }
        if len(self.problems) <= 1:
            del formats["problem"]
        if all(len(runs) == 1 for runs in self.groups.values()):
            del formats["runs"], formats["solved"]
        if not self.sweeps:
            del formats["tuning_cost"]
        return formats


def _median(values: Iterable[float]) -> float | None:
    """Median of the values that are numbers; None when none is."""
    numbers = np.asarray(list(values), dtype=float)
    numbers = numbers[~np.isnan(numbers)]
    return float(np.median(numbers)) if numbers.size else None
