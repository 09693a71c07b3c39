"""What kind of point an answer is: `Kind` and `Certificate`."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import jax
import numpy as np

from gradlab._typing import Array

__all__ = ["Certificate", "Kind"]


class Kind(enum.IntEnum):
    """What kind of point it is."""

    MINIMUM = 0
    AT_NOISE = 1
    SADDLE = 2
    MAXIMUM = 3
    FLAT = 4
    UNBOUNDED = 5
    NOT_STATIONARY = 6
    NOT_FINITE = 7
    NOT_EXAMINED = 8
    SLOPE = 9


_MEANINGS = {
    Kind.MINIMUM: "a local minimum: the gradient vanishes, no curvature is negative and no "
    "lower value was found around it",
    Kind.AT_NOISE: "a minimum as far as can be told: around it the loss changes by little more "
    "than its noise",
    Kind.SADDLE: "a saddle: the gradient vanishes, but directions lead up and down",
    Kind.MAXIMUM: "a maximum: the gradient vanishes, and nothing around is higher",
    Kind.FLAT: "flat: the loss does not change around the point",
    Kind.UNBOUNDED: "the loss is minus infinity at the point or next to it",
    Kind.NOT_STATIONARY: "not stationary: the model still promises a decrease",
    Kind.NOT_FINITE: "the loss or its gradient is not finite",
    Kind.NOT_EXAMINED: "not examined",
    Kind.SLOPE: "not stationary: along some variables the loss falls in a straight line",
}


class Certificate(NamedTuple):
    """What was found at a point and around it; a pytree.

    Attributes:
        kind: A `Kind`, as an integer.
        value: The loss there.
        grad_norm: Largest gradient entry.
        curvature: Smallest curvature found, an upper bound of the smallest eigenvalue; exact
            to rounding for n ≤ 256.
        stiffness: Largest absolute curvature found.
        decrement: Decrease that the quadratic model promises, ½ gᵀH⁻¹g; inf where it has no
            minimum.
        noise: Noise level of the loss.
        lowest: Lowest value met around the point, less the value there.
        nfev: Losses evaluated.
        nhvp: Hessian-vector products evaluated.
        distance: Length of the Newton step, in which that decrease lies; inf where it has no
            minimum.
    """

    kind: Array
    value: Array
    grad_norm: Array
    curvature: Array
    stiffness: Array
    decrement: Array
    noise: Array
    lowest: Array
    nfev: Array
    nhvp: Array
    distance: Array

    @property
    def is_minimum(self) -> Any:
        """Whether the point is a minimum as far as the arithmetic can tell."""
        return self.kind <= Kind.AT_NOISE

    @property
    def message(self) -> Any:
        """The kind and its meaning; an array of them for a batch."""
        if np.ndim(self.kind) == 0:
            return _message(int(self.kind))
        return np.vectorize(_message, otypes=[object])(np.asarray(self.kind))

    def __repr__(self) -> str:
        """Say what was found, and what of it is known; a batch says its shape."""
        if np.ndim(self.kind) or isinstance(self.kind, jax.core.Tracer):
            return f"Certificate(batch of shape {np.shape(self.kind)})"
        noise = "" if np.isnan(self.noise) else f" (noise {float(self.noise):.1e})"
        parts = [f"f={float(self.value):.6g}{noise}", f"|grad|={float(self.grad_norm):.3g}"]
        if not np.isnan(self.curvature):
            ends = f"{float(self.curvature):.3g} to {float(self.stiffness):.3g}"
            parts.append(f"curvature from {ends}")
        if not np.isnan(self.decrement):
            parts.append(f"still promised {float(self.decrement):.1e}")
        return f"Certificate({self.message}\n  {', '.join(parts)})"


def _message(kind: int) -> str:
    return f"{Kind(kind).name}: {_MEANINGS[Kind(kind)]}."
