"""From a function's products to a verified pattern and its compiled evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from gradlab._errors import check_choice
from gradlab._typing import Array, Params
from gradlab.derivatives._leaves import Layout, eps_of, flatten
from gradlab.derivatives.sparse._detect import find_pattern
from gradlab.derivatives.sparse._operator import Products, SparseDerivative, build
from gradlab.derivatives.sparse._pattern import given_pattern
from gradlab.derivatives.sparse._plan import Plan

__all__ = ["Task"]

FORMATS = ("bcoo", "csr")
# Vectors probed with in one compiled call.
_TOGETHER = 8
# Sizes of the moves, relative to each entry of x and to their mean size, to points where what
# happens to vanish at x does not. The smaller ones serve where f ends close by.
_MOVES = (0.1, 1e-3, 1e-5)
# Points looked at, x first; and how often a pattern that misses entries there is completed.
_POINTS, _TRIES = 3, 4
Pattern = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Task:
    """A matrix known by its products, and how to colour and to certify its pattern.

    Attributes:
        products: Function of x and further arguments to the products at x: "forward" from
            (n,) to (m,), "reverse" from (m,) to (n,), or one of them.
        plan: Function of a pattern to the products that an evaluation makes.
        certify: Function to asdex's pattern.
        shape: Rows m and columns n.
        kinds: Which products there are.
        symmetric: Whether the matrix is its own transpose.
    """

    products: Products
    plan: Callable[[np.ndarray, np.ndarray], Plan]
    certify: Callable[[], Any]
    shape: tuple[int, int]
    kinds: tuple[str, ...]
    symmetric: bool

    def compiled(
        self, x: Params, args: tuple[Any, ...], pattern: Any, format: str
    ) -> SparseDerivative:
        """Find the pattern unless it is given, and build the evaluation."""
        check_choice("format", format, FORMATS)
        flat, layout = flatten(x)
        if isinstance(flat, jax.core.Tracer):
            raise TypeError(
                "A sparse pattern is found from numbers: build the function outside `jit` and "
                "`vmap`, and call it inside."
            )
        probe = _Probe(self, layout, args)
        points = list(probe.points(np.asarray(flat)))
        if pattern is not None:
            rows, columns = self._completed(given_pattern(pattern, self.shape))
        else:
            rows, columns = self._union([probe.find(point) for point in points[:2]])
        for _ in range(_TRIES):
            plan = self.plan(rows, columns)
            compute = build(self.products, plan, rows, columns, self.shape)
            missed = [p for p in points if bool(compute(layout.unflatten(p), args)[1])]
            if not missed:
                break
            if pattern is not None:
                raise ValueError(
                    "`pattern` misses entries: products with the matrix at x, or close to it, "
                    "differ from those with the derivative."
                )
            rows, columns = self._union([(rows, columns), probe.find(missed[0])])
        else:
            raise ValueError(
                "The pattern could not be confirmed: products with the matrix still differ "
                "from those with the derivative. Is f smooth and deterministic near x?"
            )
        return SparseDerivative(
            rows=rows.astype(np.int32),
            columns=columns.astype(np.int32),
            shape=self.shape,
            num_products=plan.num_products,
            num_probes=probe.made,
            colors=plan.colors,
            _format=format,
            _layout=layout,
            _compute=compute,
            _certify=lambda: self._is_certified(rows, columns),
        )

    def _union(self, patterns: list[Pattern]) -> Pattern:
        """Merge patterns, sorted by rows; complete the mirror images of symmetric ones."""
        rows, columns = (np.concatenate(parts) for parts in zip(*patterns, strict=True))
        return self._completed((rows, columns))

    def _completed(self, pattern: Pattern) -> Pattern:
        """Sort a pattern by rows, each entry once, with its mirror image if symmetric."""
        rows, columns = pattern
        if self.symmetric:
            rows, columns = np.append(rows, columns), np.append(columns, rows)
        keys = np.unique(rows.astype(np.int64) * self.shape[1] + columns)
        return keys // self.shape[1], keys % self.shape[1]

    def _is_certified(self, rows: np.ndarray, columns: np.ndarray) -> bool:
        """Whether asdex sees no entry that is missing here."""
        try:
            proven = self.certify()
        except ImportError as error:
            raise ImportError(
                "`certify` needs asdex: pip install 'gradlab-jax[sparse]'. Its newest release "
                f"does not run on every JAX; here it says: {error}."
            ) from error
        except Exception:  # what asdex cannot read it says in many ways
            return False
        n = self.shape[1]
        theirs = np.asarray(proven.rows).astype(np.int64) * n + np.asarray(proven.cols)
        return bool(np.all(np.isin(theirs, rows * n + columns)))


class _Probe:
    """Products at points of the caller's choice, in NumPy and in float64, and their count."""

    def __init__(self, task: Task, layout: Layout, args: tuple[Any, ...]):
        """Compile one call of a few products, for each kind."""
        self.task, self.args, self.made = task, args, 0
        self.layout = layout
        self.random = np.random.default_rng(0)  # any will do; the same gives the same answer

        def several(kind: str) -> Callable[..., Array]:
            def call(flat: Array, args: Any, vectors: Array) -> Array:
                product = task.products(layout.unflatten(flat), args)[kind]
                return jax.lax.map(product, vectors, batch_size=_TOGETHER)

            return jax.jit(call)

        self.calls = {kind: several(kind) for kind in task.kinds}

    def points(self, flat: np.ndarray) -> Iterator[np.ndarray]:
        """Yield x and points close to it, where the products are finite."""
        if not self._is_finite(flat):
            raise ValueError(
                "The derivative is not finite at `x`, so its pattern cannot be found there."
            )
        yield flat
        size = np.mean(np.abs(flat)) or 1.0
        for _ in range(_POINTS - 1):
            for move in _MOVES:
                away = self.random.uniform(-move, move, flat.shape) * (np.abs(flat) + size)
                point = (flat + away).astype(flat.dtype)
                if self._is_finite(point):
                    yield point
                    break

    def find(self, flat: np.ndarray) -> Pattern:
        """Find the pattern at one point."""
        m, n = self.task.shape
        eps, kinds = eps_of(flat.dtype), self.task.kinds
        if "forward" not in kinds:
            columns, rows, made = find_pattern(
                self._products("reverse", flat), None, (n, m), eps, self.random
            )
        else:
            transposed = self._products("reverse", flat) if "reverse" in kinds else None
            rows, columns, made = find_pattern(
                self._products("forward", flat), transposed, (m, n), eps, self.random
            )
        self.made += made
        return rows, columns

    def _products(self, kind: str, flat: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function of vectors to their images, a compiled call for a few."""
        call = self.calls[kind]

        def images(vectors: np.ndarray) -> np.ndarray:
            parts = []
            for first in range(0, len(vectors), _TOGETHER):
                few = np.zeros((_TOGETHER, vectors.shape[1]), flat.dtype)
                chosen = vectors[first : first + _TOGETHER]
                few[: len(chosen)] = chosen
                parts.append(np.asarray(call(flat, self.args, few), float)[: len(chosen)])
            return np.concatenate(parts)

        return images

    def _is_finite(self, flat: np.ndarray) -> bool:
        """Whether a product at the point is finite."""
        kind = self.task.kinds[0]
        length = self.task.shape[1 if kind == "forward" else 0]
        return bool(np.all(np.isfinite(self._products(kind, flat)(np.ones((1, length))))))
