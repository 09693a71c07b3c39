"""Which lines are tried, and which combinations of the outputs are watched on them."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from gradlab.derivatives._check_differences import directions, entry_scale
from gradlab.derivatives._check_problem import Leaf, Problem

__all__ = ["Columns", "Line", "make_columns", "make_lines", "unit"]

# Outputs up to this many are watched one by one; of more, random combinations.
_SINGLE = 32
_COMBINATIONS = 3
# Output leaves and input leaves beyond these are taken together in groups.
_OUTPUT_GROUPS, _INPUT_GROUPS = 8, 24
# Few leaves are tried along three lines each, many along two.
_FEW_LEAVES = 6
_BALANCE = 2.0**40  # most one leaf is scaled down beside its group


class Columns(NamedTuple):
    """Combinations of outputs: rows of weights, shape (K, m), and the output of each.

    `names[k]` is "" for the only output of a scalar function, None for a combination.
    """

    rows: np.ndarray
    names: list[str | None]


class Line(NamedTuple):
    """A direction that moves the leaves of one group."""

    direction: np.ndarray
    group: int


def make_columns(problem: Problem, center: np.ndarray, rng: np.random.Generator) -> Columns:
    """Choose the combinations; outputs that are not finite at x have weight zero."""
    m = len(center)
    finite = np.isfinite(center)
    names = [output_name(problem, i) for i in range(m)] if m <= _SINGLE else []
    if m == 1:
        return Columns(np.ones((1, 1), center.dtype) * finite, [problem_name(problem)])
    rows = [np.eye(m)[i] for i in range(m) if m <= _SINGLE]
    several = len(problem.outputs) <= _OUTPUT_GROUPS and m > _SINGLE
    cuts = [o.cut for o in problem.outputs if o.size] if several else [slice(0, m)]
    labels: list[str | None] = list(names)
    for cut in cuts:
        for _ in range(_COMBINATIONS if m > _SINGLE else 1):
            row = np.zeros(m)
            size = np.where(finite[cut], center[cut], 0)
            row[cut] = directions(rng, len(size)) / _output_scale(size)
            rows.append(row)
            labels.append(None)
    return Columns((np.array(rows) * finite).astype(center.dtype), labels)


def _output_scale(y: np.ndarray) -> np.ndarray:
    """Sizes of outputs: their own, but none below a thousandth of the leaf's typical one."""
    uniform = entry_scale(y, relative=False)
    return np.asarray(np.maximum(entry_scale(y, relative=True), uniform * 2.0**-10))


def problem_name(problem: Problem) -> str:
    """Name of the only output; "" where f returns nothing else."""
    name = problem.outputs[0].name
    return "" if name == "f(x)" else name


def output_name(problem: Problem, flat: int) -> str:
    """Name an output as the caller would: f(x)['a'][3]."""
    from gradlab.derivatives._check_report import bracketed

    leaf = problem.output_of(flat)
    return leaf.name + bracketed(leaf.place(flat))


def make_lines(
    problem: Problem, gradient: np.ndarray | None, rng: np.random.Generator
) -> tuple[list[Line], list[list[Leaf]]]:
    """Draw lines, and return them with the groups of leaves they move.

    Within a group the leaves are scaled so that each contributes the same to the slope:
    none is drowned by another.
    """
    leaves = [leaf for leaf in problem.inputs if leaf.size]
    count = min(len(leaves), _INPUT_GROUPS)
    bounds = np.linspace(0, len(leaves), count + 1).astype(int)
    groups = [leaves[a:b] for a, b in itertools.pairwise(bounds)]
    kinds = (True, False, True) if count <= _FEW_LEAVES else (True, False)
    lines = []
    for number, group in enumerate(groups):
        for relative in kinds:
            direction = np.zeros_like(problem.x)
            for leaf in group:
                scale = entry_scale(problem.x[leaf.cut], relative=relative)
                direction[leaf.cut] = directions(rng, leaf.size) * scale
            if len(group) > 1 and gradient is not None:
                _balance(direction, group, gradient)
            lines.append(Line(direction, number))
    return lines, groups


def _balance(direction: np.ndarray, group: list[Leaf], gradient: np.ndarray) -> None:
    """Scale down the leaves that would drown the others, by powers of two."""
    sizes = np.array([np.sum(np.abs(direction[g.cut] * gradient[g.cut])) for g in group])
    seen = sizes[(sizes > 0) & np.isfinite(sizes)]
    if not len(seen):
        return
    least = max(float(seen.min()), float(seen.max()) / _BALANCE)
    for leaf, size in zip(group, sizes, strict=True):
        if np.isfinite(size) and size > least:
            direction[leaf.cut] *= 2.0 ** -np.round(np.log2(size / least))


def unit(x: np.ndarray, leaf: Leaf, index: int) -> np.ndarray:
    """A direction along one entry, of its natural scale."""
    line = np.zeros_like(x)
    line[index] = entry_scale(x[leaf.cut], relative=True)[index - leaf.cut.start]
    return line
