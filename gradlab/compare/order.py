"""The order of convergence, read off the errors of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Order", "convergence_order"]

# Two parameters are fitted; with fewer steps than this luck decides.
_FEWEST = 3


class Order(NamedTuple):
    r"""How fast errors fall: $e_{k+1} \approx C e_k^p$.

    Attributes:
        order: The exponent p: 1 is linear convergence, 2 quadratic; NaN where too few steps
            lie in the range, or all at one error.
        constant: The factor C; the rate where p is 1.
        pairs: The errors $(e_k, e_{k+1})$ the fit is made of, shape (m, 2).
    """

    order: float
    constant: float
    pairs: np.ndarray


def convergence_order(
    errors: Sequence[Any], *, floor: float | int = 0.0, within: float | int = np.inf
) -> Order:
    r"""Fit the order of convergence p of $e_{k+1} = C e_k^p$ to the errors of several runs.

    A least-squares line through $(\log e_k, \log e_{k+1})$ over all steps of all runs that
    start within the region where the theory holds and end above rounding. A quadratically
    convergent run has three or four such steps, so give runs from several starts.

    Args:
        errors: One sequence $e_0, e_1, \dots$ a run: distances to the minimiser, gradient
            norms, or roots of the loss above its minimum.
        floor: Error below which rounding decides: steps that start or end there are left out.
        within: Largest error a step may start from.

    Returns:
        An `Order`.

    Raises:
        ValueError: If `floor` is not below `within`.

    References:
        Ortega, J. M. and Rheinboldt, W. C. (1970). Iterative Solution of Nonlinear Equations
        in Several Variables, chapter 9.

    Examples:
        >>> import numpy as np
        >>> runs = [start ** 2.0 ** np.arange(4) for start in (0.5, 0.3)]
        >>> print(round(convergence_order(runs).order, 6))
        2.0
    """
    if not floor < within:
        raise ValueError(f"`floor` must be below `within`, got {floor!r} and {within!r}.")
    every = [np.asarray(run, dtype=float) for run in errors]
    pairs = np.concatenate(
        [np.column_stack([run[:-1], run[1:]]) for run in every] or [np.empty((0, 2))]
    )
    kept = np.all(np.isfinite(pairs) & (pairs > 0), axis=1)
    kept &= (pairs[:, 0] <= within) & (pairs.min(axis=1) >= floor)
    pairs = pairs[kept]
    if len(pairs) < _FEWEST or np.ptp(pairs[:, 0]) == 0:
        return Order(np.nan, np.nan, pairs)
    before, after = np.log(pairs).T
    slope, shift = np.polyfit(before, after, 1)
    return Order(float(slope), float(np.exp(shift)), pairs)
