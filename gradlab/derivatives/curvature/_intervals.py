"""Intervals of 95 % for means of a few random quadratic forms."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from gradlab._typing import Array, PyTree

__all__ = ["CurvatureEstimate", "exactly", "interval", "student"]

# Share of a normal distribution below the quantile used: 97.75 %, not 97.5, because the
# skewness that the interval corrects for is itself estimated. With it the intervals of six
# families of spectra, flat to one dominant eigenvalue, held the truth in 92 to 96 % of
# thousands of draws, from 4 to 60 samples.
_NORMAL = 2.0047
# Estimated skewness is trusted up to here, and in full from this many samples on.
_MOST_SKEWED, _MANY = 1.5, 10


class CurvatureEstimate(NamedTuple):
    """An estimate from random vectors, a pytree.

    Attributes:
        value: The estimate; exact where so many products were allowed.
        lower: Lower end of the interval that holds the truth in 95 % of the draws.
        upper: Upper end; equal to both where the value is exact, but for rounding.
        num_products: Products with the matrix that were made.
    """

    value: PyTree
    lower: PyTree
    upper: PyTree
    num_products: Any


def exactly(value: PyTree, num_products: int) -> CurvatureEstimate:
    """Return an estimate that is no estimate."""
    return CurvatureEstimate(value, value, value, num_products)


def largest_or_one(samples: Array, axis: int | None = None) -> Array:
    """Return the largest absolute value, or 1: a unit whose squares are numbers."""
    size = jnp.max(jnp.abs(samples), axis=axis)
    return jnp.where(size > 0, size, 1)


def interval(samples: Array, common: Array | float = 0.0) -> tuple[Array, Array, Array]:
    r"""Return mean and ends of the interval for means along the first axis, of length k ≥ 2.

    Samples that depend on each other come with the root of an estimate of the covariance of
    two of them, `common`; one below zero counts as zero, so that the interval is never
    shorter than of independent ones.

    Quadratic forms are skewed, like χ², and Student's interval then holds too seldom. Hall's
    transformation of $W = (\bar s - \mu) / \sigma$ removes the skewness γ,

    $$ \sqrt k (W + γ W^2/3 + γ^2 W^3/27 + γ/6k) \sim t_{k-1}, $$

    and is inverted in closed form.

    References:
        Hall, P. (1992). On the removal of skewness by transformation. Journal of the Royal
        Statistical Society B 54:221.
    """
    k = samples.shape[0]
    mean = jnp.mean(samples, axis=0)
    away = samples - mean[None]
    unit = largest_or_one(away, axis=0)
    away = away / unit[None]
    variance = jnp.mean(away**2, axis=0)
    spread = jnp.where(variance > 0, variance, 1)
    skewness = jnp.mean(away**3, axis=0) / spread**1.5
    if k > 2:
        skewness = skewness * (k**2 / ((k - 1) * (k - 2)))
    skewness = jnp.clip(skewness, -_MOST_SKEWED, _MOST_SKEWED) * min(1, k / _MANY)
    common = jnp.maximum(common, 0) / unit
    deviation = unit * jnp.sqrt(variance * (k / (k - 1)) + k * common**2)
    quantile = student(k - 1) / math.sqrt(k)
    ends = [mean - deviation * _untransformed(q, skewness, k) for q in (quantile, -quantile)]
    return mean, ends[0], ends[1]


def _untransformed(y: float, skewness: Array, k: int) -> Array:
    """Invert Hall's transformation: the W that it takes to y."""
    z = y - skewness / (6 * k)
    slight = jnp.abs(skewness) < 1e-3  # below, the closed form cancels
    safe = jnp.where(slight, 1, skewness)
    exact = 3 * (jnp.cbrt(1 + safe * z) - 1) / safe
    return jnp.where(slight, z - skewness * z**2 / 3, exact)


def student(dof: int) -> float:
    """Quantile of Student's distribution for the same probability as `_NORMAL`.

    Cornish and Fisher's expansion, good to 0.5 % from 3 degrees of freedom on; two below
    have closed forms.

    References:
        Abramowitz, M. and Stegun, I. (1964). Handbook of Mathematical Functions, 26.7.5.
    """
    z = _NORMAL
    p = 0.5 * (1 + math.erf(z / math.sqrt(2)))
    if dof == 1:
        return math.tan(math.pi * (p - 0.5))
    if dof == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / dof ** (i + 1) for i, term in enumerate(terms))
