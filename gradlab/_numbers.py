"""What a run is given and what it carries from step to step: numbers, and how many calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gradlab._tree import stacked
from gradlab._typing import AnyArray, Array

__all__ = ["Counts", "Numbers", "Precision", "Problem", "row"]


def _entries(packed: AnyArray) -> Sequence[Any]:
    """Return the entries of a vector, in one operation if it is traced."""
    return tuple(packed) if isinstance(packed, np.ndarray) else jnp.unstack(packed)


class Problem(NamedTuple):
    """The traced inputs of a run.

    `gtol` None means the dtype's own; the other tests are off where they are None.
    """

    args: tuple[Any, ...]
    hyperparams: dict[str, Any]
    gtol: Array | float | None
    ftol: Array | float | None
    xtol: Array | float | None
    noise: Array | float | None
    max_steps: AnyArray


class Numbers(NamedTuple):
    """Real numbers of a run, packed in one vector between iterations.

    `largest_size` is the largest norm of the points so far, kept for methods that know
    curvature; `unit` says how large the loss is at the start: |f| or ‖g‖·‖x‖.
    """

    value: Array
    grad_norm: Array
    best_value: Array
    best_grad_norm: Array
    start_value: Array
    reference: Array
    last_value: Array
    size: Array
    largest_size: Array
    unit: Array

    @classmethod
    def of(cls, packed: AnyArray) -> Numbers:
        """Unpack."""
        return cls(*_entries(packed))

    def pack(self) -> Array:
        """Stack into a vector."""
        return stacked(self, jnp.result_type(*self))

    @property
    def finite(self) -> Array:
        """Whether loss and gradient are finite at the point."""
        return jnp.isfinite(self.value) & jnp.isfinite(self.grad_norm)


class Precision(NamedTuple):
    """Relative rounding errors of a run, known when it is compiled.

    Of the loss, of its gradient (more than rounding where it is taken by differences), and of
    the parameters.
    """

    loss: float
    grad: float
    params: float


class Counts(NamedTuple):
    """Whole numbers of a run, packed in one vector between iterations.

    `pending` is the success that stands once a look at the point at rest has confirmed it,
    -1 for none, or, where no step was found, that success s as -2 - s;
    `calls` counts evaluations: losses, gradients, Hessian-vector products, Hessians.
    """

    step: Array
    status: Array
    since_best: Array
    shortenings: Array
    pending: Array
    calls: Array

    @classmethod
    def of(cls, packed: AnyArray) -> Counts:
        """Unpack."""
        parts: Any = (*_entries(packed[:5]), packed[5:])
        return cls(*parts)

    def pack(self) -> Array:
        """Stack into a vector."""
        return jnp.concatenate([jnp.stack(self[:5]).astype(jnp.int32), self.calls])


def row(numbers: Numbers, length: Array) -> Array:
    """The history row of a point: loss, gradient norm, length of the step to it."""
    return jnp.stack([numbers.value, numbers.grad_norm, length])
