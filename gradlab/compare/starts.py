"""Many starts at once: which minimum each run ends in, how often, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from gradlab import sharding
from gradlab._errors import accepts_only_its_keywords
from gradlab._typing import Count, Number, Params
from gradlab.compare.given import described, labelled
from gradlab.compare.kept import wanted_shard
from gradlab.compare.table import Table
from gradlab.minimize import minimize
from gradlab.optimizers.method import Method
from gradlab.result import Status

__all__ = ["Endings", "Multistart", "grid", "multistart"]

# Ends closer than this share of the extent of the starts, or of the way to the ends, are one
# minimum: far more than the stopping tests leave, far less than minima lie apart.
_SAME = 1e-3


class Endings(NamedTuple):
    """Where the runs of one method ended, one entry a start.

    Attributes:
        points: End points, flat, shape (N, n).
        loss: Loss there, shape (N,).
        status: `Status` of each run, shape (N,).
        steps: Accepted steps, shape (N,).
        cost: Gradient equivalents, shape (N,).
        reached: Number of the minimum the run ended at, shape (N,); -1 at none.
    """

    points: np.ndarray
    loss: np.ndarray
    status: np.ndarray
    steps: np.ndarray
    cost: np.ndarray
    reached: np.ndarray


@dataclass(frozen=True, eq=False)
class Multistart:
    """What `multistart` found.

    Attributes:
        problem: Name of the problem.
        starts: The starts, flat, shape (N, n).
        minima: Distinct minima that any method found, deepest first, shape (k, n).
        depths: The loss at each, shape (k,).
        endings: By method, where its runs ended.
    """

    problem: str
    starts: np.ndarray
    minima: np.ndarray
    depths: np.ndarray
    endings: Mapping[str, Endings]

    @property
    def table(self) -> Table:
        """One row a method: shares of the starts, medians of steps, means of costs.

        `deepest` is the share that reached the deepest minimum found, `any` the share that
        reached any; `cost` is the mean over all runs, since a restart pays for failures too.
        """
        formats = {
            "method": ("method", ""),
            "deepest": ("deepest minimum", ".1%"),
            "any": ("any minimum", ".1%"),
            "steps": ("median steps", ".0f"),
            "cost": ("mean cost", ".1f"),
        }
        return Table(tuple(self._row(name) for name in self.endings), formats)

    def _row(self, method: str) -> dict[str, Any]:
        """Summarise the runs of one method."""
        ends = self.endings[method]
        return {
            "problem": self.problem,
            "method": method,
            "starts": len(ends.loss),
            "deepest": float(np.mean(ends.reached == 0)),
            "any": float(np.mean(ends.reached >= 0)),
            "steps": float(np.median(ends.steps)),
            "cost": float(np.mean(ends.cost)),
        }


@accepts_only_its_keywords
def multistart(
    problem: Any,
    methods: Any,
    starts: Params,
    *,
    args: tuple[Any, ...] = (),
    max_steps: Count = 300,
    gtol: Number | None = None,
    tolerance: Number = _SAME,
    shard: str | None = None,
) -> Multistart:
    """Minimise from many starts at once, by `jax.vmap`, and sort the ends into minima.

    A minimum is where a run of any method ended with success; ends closer than `tolerance`
    are the same one. Each method compiles once. All its runs go on until the last has ended,
    so a method with a few slow runs takes long, but is not charged for that.

    Args:
        problem: A `Problem` from `gradlab.problems`, or a function `loss(params, *args)`.
        methods: As in `compare`. Learning rates are not tuned: give them.
        starts: Parameters with a leading axis of N starts on every leaf.
        args: Further arguments of a loss function; a `Problem` brings its own.
        max_steps: Most steps of a run.
        gtol: Gradient test, as in `minimize`.
        tolerance: Distance of ends that are one minimum, relative to the extent of the starts
            or, where it is longer, to the median way from a start to its minimum.
        shard: "runs" spreads the starts over all devices, "data" the rows of `args`.

    Returns:
        A `Multistart`.

    Raises:
        ValueError: If a name is unknown or two methods have the same label.
        TypeError: If `problem` or a method is none of the kinds above.

    Examples:
        >>> starts = grid(((-5.0, 5.0), (-5.0, 5.0)), 6)
        >>> found = multistart(gl.problems.get("himmelblau"), "newton", starts)
        >>> print(found.minima.shape, found.depths.max() < 1e-12)
        (4, 2) True
    """
    name, loss, args, _ = described(problem, args)
    by_label = labelled(methods)
    shard = wanted_shard(shard)
    if shard == "data":
        first = jax.tree.map(lambda leaf: leaf[0], starts)
        loss, args = sharding.data_parallel(loss, first, args)
    found = {
        m: _run(loss, starts, method, args, max_steps, gtol, shard)
        for m, method in by_label.items()
    }
    flat = _flat(starts)
    good = {m: ends.status <= Status.NOISE_FLOOR for m, ends in found.items()}
    extent = np.max(np.ptp(flat, axis=0), initial=0.0)
    moved = [np.linalg.norm(e.points - flat, axis=1)[good[m]] for m, e in found.items()]
    way = np.concatenate([*moved, np.zeros(0)])
    radius = float(tolerance) * float(max(extent, np.median(way) if len(way) else 0.0))
    points = np.concatenate([ends.points[good[m]] for m, ends in found.items()])
    losses = np.concatenate([ends.loss[good[m]] for m, ends in found.items()])
    minima, depths = _distinct(points, losses, radius)
    endings = {
        m: e._replace(reached=_nearest(e.points, minima, radius)) for m, e in found.items()
    }
    return Multistart(name, flat, minima, depths, endings)


def grid(box: tuple[tuple[float, float], ...], resolution: Count) -> np.ndarray:
    """Return the points of a regular grid over a box, shape (resolution**n, n).

    The first coordinate varies fastest, as the columns of an image do.

    Examples:
        >>> print(grid(((0.0, 1.0), (0.0, 1.0)), 2).tolist())
        [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    """
    sides = [np.linspace(low, high, resolution) for low, high in reversed(box)]
    return np.stack([np.ravel(side) for side in np.meshgrid(*sides, indexing="ij")[::-1]], 1)


def _run(
    loss: Any,
    starts: Params,
    method: Method,
    args: Any,
    max_steps: Any,
    gtol: Any,
    shard: str | None,
) -> Endings:
    """Run one method from all starts in one compiled call."""

    def single(x0: Params) -> tuple[Any, ...]:
        options = {"args": args, "max_steps": max_steps, "gtol": gtol, "trace": None}
        result = minimize(loss, x0, method, **options)
        return result.x, result.fun, result.status, result.nit, result.cost

    starts = jax.tree.map(jax.numpy.asarray, starts)
    count = len(jax.tree.leaves(starts)[0])
    if shard == "runs":
        starts, count = sharding.spread(starts)
    ended = jax.device_get(jax.jit(jax.vmap(single))(starts))
    x, fun, status, steps, cost = jax.tree.map(lambda leaf: leaf[:count], ended)
    nowhere = np.full(len(fun), -1)
    return Endings(_flat(x), np.asarray(fun, float), status, steps, cost, nowhere)


def _flat(params: Params) -> np.ndarray:
    """Join the leaves of a batch of parameters as columns, shape (N, n)."""
    leaves = [np.asarray(leaf, dtype=float) for leaf in jax.tree.leaves(params)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _distinct(
    points: np.ndarray, losses: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return one point and its loss of each group of points that lie within `radius`.

    The deepest point that is left stands for all near it, until none is left.
    """
    order = np.argsort(losses, kind="stable")
    points, losses = points[order], losses[order]
    minima, depths = [], []
    while len(points):
        minima.append(points[0])
        depths.append(losses[0])
        far = np.linalg.norm(points - points[0], axis=1) > radius
        points, losses = points[far], losses[far]
    n = points.shape[1]
    return np.asarray(minima, float).reshape(-1, n), np.asarray(depths, float)


def _nearest(points: np.ndarray, minima: np.ndarray, radius: float) -> np.ndarray:
    """Return the number of the minimum within `radius` of each point, or -1."""
    if not len(minima):
        return np.full(len(points), -1)
    distances = np.linalg.norm(points[:, None] - minima[None], axis=2)
    distances = np.where(np.isfinite(distances), distances, np.inf)
    nearest = np.argmin(distances, axis=1)
    return np.where(distances[np.arange(len(points)), nearest] <= radius, nearest, -1)
