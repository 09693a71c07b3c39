"""`Estimate`: a derivative with its bar, and the statuses it can have."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import PyTree
from gradlab.derivatives._drive import Answer

__all__ = ["DerivativeStatus", "Estimate", "judge"]

# Noise this many times the rounding of f is worth a word.
_NOTABLE_NOISE = 64.0
# An error above this share of the derivative, and of the function's variation over the
# step, leaves it open what the derivative is.
_DOUBT = 0.1


class DerivativeStatus(enum.IntEnum):
    """How an estimate was come by. Values up to `NOISY` are answers."""

    CONVERGED = 0
    ONE_SIDED = 1
    NOISY = 2
    UNRESOLVED = 3
    NOT_DIFFERENTIABLE = 4
    NONFINITE = 5
    NOT_ANALYTIC = 6


_MESSAGES = {
    DerivativeStatus.CONVERGED: "extrapolations from several steps agree",
    DerivativeStatus.ONE_SIDED: "taken from one side, because you asked for it or because "
    "the function is not finite on the other",
    DerivativeStatus.NOISY: "limited by noise in the function well above its rounding: the "
    "bar covers it",
    DerivativeStatus.UNRESOLVED: "no step was found at which the function looks smooth and "
    "stands clear of its noise: rely on the bar, not on the value",
    DerivativeStatus.NOT_DIFFERENTIABLE: "the function or its slope jumps at this point: the "
    "value is the mean of the two slopes and the bar reaches both, infinite where f jumps",
    DerivativeStatus.NONFINITE: "the function itself is NaN or infinite here",
    DerivativeStatus.NOT_ANALYTIC: "the complex step contradicts real differences, so the "
    "function is not analytic here: value and bar are those of real differences",
}


class Estimate(NamedTuple):
    r"""A derivative from function values alone, and how far it may be off.

    The promise is $|\text{value} - \text{truth}| \le \text{error}$.

    Attributes:
        value: The derivative, in the structure of the exact one.
        error: Bar of each entry, in the same structure; infinite where nothing is known.
        step: Longest step used for each entry.
        nfev: Evaluations of f: at each point for `derivative`, in total for the others.
        status: A `DerivativeStatus` of each entry, as integers.
    """

    value: PyTree
    error: PyTree
    step: PyTree
    nfev: Any
    status: PyTree

    @property
    def ok(self) -> Any:
        """Whether every entry is an answer (converged, one-sided or noisy)."""
        statuses = [np.asarray(s) for s in jax.tree.leaves(self.status)]
        return all(bool(np.all(s <= DerivativeStatus.NOISY)) for s in statuses)

    @property
    def message(self) -> str:
        """The gravest status of all entries and its meaning, as a sentence."""
        worst = max(
            (int(np.max(np.asarray(s), initial=0)) for s in jax.tree.leaves(self.status)),
            default=0,
        )
        status = DerivativeStatus(worst)
        return f"{status.name}: {_MESSAGES[status]}."


def judge(
    answer: Answer, center: Any, nfev: int, shape: tuple[int, ...], refuted: Any = None
) -> Estimate:
    """Give one order's answer a status, and its fields a shape.

    `center` is f(x); `refuted` says where a complex step that was asked for is none.
    """
    xp = np if isinstance(answer.value, np.ndarray) else jnp
    status = DerivativeStatus
    value, error = answer.value, answer.error
    finite = xp.isfinite(center) & xp.ones_like(value, dtype=bool)
    noisy = (answer.noisy > 0.25) & (answer.local > _NOTABLE_NOISE)
    doubtful = (answer.doubt > _DOUBT) & (error > _DOUBT * abs(value))
    code = xp.where(noisy, int(status.NOISY), int(status.CONVERGED))
    code = xp.where(answer.side != 0, int(status.ONE_SIDED), code)
    code = xp.where(~xp.isfinite(error) | doubtful, int(status.UNRESOLVED), code)
    code = xp.where(answer.kink, int(status.NOT_DIFFERENTIABLE), code)
    if refuted is not None:
        code = xp.where(refuted, int(status.NOT_ANALYTIC), code)
    code = xp.where(finite, code, int(status.NONFINITE)).astype(np.int32)
    value = xp.where(finite, value, xp.nan)
    error = xp.where(finite & ~xp.isnan(error), error, xp.inf)
    fields = (value, error, answer.step, xp.full(value.shape, nfev, np.int32), code)
    return Estimate(*(field.reshape(shape) for field in fields))
