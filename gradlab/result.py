"""How a run ended: `Status`, its messages, and `Result`."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import jax
import numpy as np

from gradlab._typing import Array, Params
from gradlab.certificate import Certificate
from gradlab.trace import Trace

__all__ = ["Result", "Status"]


class Status(enum.IntEnum):
    """Why a run stopped. Values up to `NOISE_FLOOR` are successes."""

    CONVERGED_GRADIENT = 0
    CONVERGED_VALUE = 1
    CONVERGED_STEP = 2
    NOISE_FLOOR = 3
    MAX_STEPS = 4
    STUCK = 5
    NONFINITE_START = 6
    NONFINITE_LOSS = 7
    UNBOUNDED = 8
    FLAT = 9
    STATIONARY_NOT_MINIMUM = 10
    STOPPED_BY_CALLBACK = 11
    OUT_OF_TIME = 12
    RUNNING = 13


_MESSAGES = {
    Status.CONVERGED_GRADIENT: "the gradient test stopped it: the largest gradient entry fell "
    "below gtol times its value at the start",
    Status.CONVERGED_VALUE: "the value test stopped it: the loss changed by less than ftol "
    "times its size",
    Status.CONVERGED_STEP: "the step test stopped it: the step was shorter than xtol times "
    "the point's length",
    Status.NOISE_FLOOR: "the noise test stopped it: what is left to gain lies below the "
    "rounding noise of the loss",
    Status.MAX_STEPS: "the step limit max_steps was reached before any stopping test held",
    Status.STUCK: "no acceptable step could be found although the gradient is not small: the "
    "derivative may be wrong, or the loss not smooth here",
    Status.NONFINITE_START: "the start is not usable: x0, the loss or its gradient there is "
    "NaN or infinite. A NaN gradient of a finite loss is usually jnp.where hiding a NaN in "
    "the branch not taken: make that branch finite too",
    Status.NONFINITE_LOSS: "the run diverged: the loss or its gradient became NaN or infinite "
    "and shortening the step did not help. The best finite point is returned; try a smaller "
    "learning rate",
    Status.UNBOUNDED: "the loss has no lower bound along the path taken",
    Status.FLAT: "the loss does not change around the point: a plateau, on which nothing tells "
    "where it falls",
    Status.STATIONARY_NOT_MINIMUM: "a stopping test held, but lower values lie next to the "
    "point: a saddle, a maximum or a slope",
    Status.STOPPED_BY_CALLBACK: "the callback asked to stop",
    Status.OUT_OF_TIME: "max_seconds passed before any stopping test held",
    Status.RUNNING: "still running",
}


class Result(NamedTuple):
    """Outcome of `minimize`: a pytree, batched under `vmap`.

    Attributes:
        x: The answer, shaped like `x0`. On success the point that passed the test named by
            `status`; otherwise the best finite point seen.
        fun: The loss at `x`.
        grad: The gradient at `x`, shaped like `x`.
        aux: The loss's auxiliary output at `x`, where `has_aux`; else None.
        status: A `Status`, as an integer.
        nit: Accepted steps.
        nfev: Losses evaluated.
        ngev: Gradients evaluated by automatic differentiation; one taken by differences is
            counted in `nfev`.
        nhev: Dense Hessians evaluated.
        nhvp: Hessian-vector products evaluated.
        trace: The `Trace`, or None.
        state: The optimizer's final state; pass it as `state=` to go on.
        certificate: A `Certificate`: what kind of point a success is, and the evaluations
            that finding out took, which are counted nowhere else; None if nobody looked.
    """

    x: Params
    fun: Array
    grad: Params
    aux: Any
    status: Array
    nit: Array
    nfev: Array
    ngev: Array
    nhev: Array
    nhvp: Array
    trace: Trace | None
    state: Any
    certificate: Certificate | None = None

    @property
    def success(self) -> Any:
        """Whether a stopping test was met. True is only ever said of a finite answer."""
        return self.status <= Status.NOISE_FLOOR

    @property
    def message(self) -> Any:
        """The status and its meaning, as a sentence; an array of them for a batch."""
        if np.ndim(self.status) == 0:
            return _message(int(self.status))
        return np.vectorize(_message, otypes=[object])(np.asarray(self.status))

    @property
    def cost(self) -> Any:
        """Total cost in gradient equivalents, weighted as in `Trace.cost`."""
        batch = np.shape(self.status)
        n = sum(leaf.size for leaf in jax.tree.leaves(self.x)) // max(int(np.prod(batch)), 1)
        return self.nfev / 3 + self.ngev + 2.0 * self.nhvp + 2.0 * n * self.nhev

    def __repr__(self) -> str:
        """Say how the run ended; a batch says how its runs did."""
        if np.ndim(self.status) or isinstance(self.status, jax.core.Tracer):
            return f"Result(batch of shape {np.shape(self.status)})"
        seen, beside = self.certificate, ""
        if seen is not None and int(seen.nfev):
            beside = f"; {seen.nfev} f, {seen.nhvp} Hv to certify it"
        return (
            f"Result({self.message}\n"
            f"  fun={float(self.fun):.6g}, |grad|={_largest(self.grad):.3g}, steps={self.nit}, "
            f"cost={float(self.cost):.6g} gradients\n"
            f"  evaluations: {self.nfev} f, {self.ngev} g, {self.nhvp} Hv, "
            f"{self.nhev} H{beside})"
        )


def _largest(tree: Any) -> float:
    """Largest absolute entry, for printing."""
    return max(float(np.max(np.abs(np.asarray(x, float)))) for x in jax.tree.leaves(tree))


def _message(status: int) -> str:
    return f"{Status(status).name}: {_MESSAGES[Status(status)]}."
