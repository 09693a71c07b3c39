r"""The noise level of a function, from differences of a few close values.

ECnoise (Moré and Wild 2011): the k-th differences of equally spaced values lose all that is
smooth, while independent noise of standard deviation σ stays in them with variance
σ² (2k)!/(k!)². Where three successive orders give the same σ, and the differences change
sign, that is the noise. The right spacing is not known beforehand, so several are tried:
too narrow and values repeat, too wide and the function itself is left.

    >>> estimate = estimate_noise(lambda x: jnp.exp(x) * 1e3, jnp.asarray(0.3))
    >>> bool(1e-14 < estimate.noise < 1e-12)
    True

References:
    Moré, J. J. and Wild, S. M. (2011). Estimating computational noise. SIAM J. Sci.
    Comput. 33:1292. doi 10.1137/100786125.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._typing import AnyArray, Params
from gradlab.derivatives._coordinates import Coordinates, on_lines
from gradlab.derivatives._leaves import check_scalar
from gradlab.derivatives._powers import exponent_of, scaled

__all__ = ["NoiseEstimate", "NoiseStatus", "estimate_noise"]

# Values in one row, and rows: 8 values give three successive difference orders twice.
_VALUES, _SPACINGS = 8, 8
# The widest spacing, and the narrowest in roundings of x.
_WIDEST, _NARROWEST = 2.0**-6, 4.0
# Three estimates of one noise level differ by less than this (Moré and Wild, section 4).
_AGREE = 4.0
_HIGHEST_ORDER = 6


class NoiseStatus(enum.IntEnum):
    """How sure a noise level is."""

    MEASURED = 0
    BOUND = 1
    NONFINITE = 2


class NoiseEstimate(NamedTuple):
    """The noise of a function near a point.

    Attributes:
        noise: Standard deviation of the noise, absolute, shape ().
        status: A `NoiseStatus`: `MEASURED`; `BOUND` where no spacing was decisive and the
            rounding of the value is returned; `NONFINITE` where the function is.
        step: Distance of neighbouring points, relative to the direction, shape ().
        nfev: Evaluations of f, shape ().
    """

    noise: AnyArray
    status: AnyArray
    step: AnyArray
    nfev: AnyArray


def estimate_noise(
    f: Callable[[Params], Any], x: Params, direction: Params | None = None
) -> NoiseEstimate:
    r"""Estimate the absolute noise level of a scalar function near x.

    $\sigma_k^2 = \frac{(k!)^2}{(2k)!} \operatorname{mean}_i (\Delta^k f_i)^2$ on 8 rows of 8
    values along `direction`, from 4 roundings of x apart to 1/64 of it; the narrowest
    decisive row tells, averaged with the rows that agree with it. It measures what varies
    from point to point: an error that is the same at all of them stays unseen, and an
    iterative solver's is seen only where neighbouring points take different numbers of
    iterations.

    Args:
        f: From a pytree of real floating leaves to a scalar. A JAX or a NumPy function.
        x: The point.
        direction: What one unit of the step moves; the same structure as x. By default
            each entry moves by half to all of its own size (zeros by that of the largest
            entry, or by 1), some up and some down.

    Returns:
        A `NoiseEstimate`. Costs 65 evaluations of f.

    Raises:
        TypeError: If f does not return a real scalar or a leaf is not real and floating.
        ValueError: If `direction` has another structure than x.

    References:
        Moré and Wild (2011).

    Examples:
        >>> rough = estimate_noise(lambda x: jnp.round(x * 1e6) / 1e6, jnp.asarray(0.3))
        >>> bool(1e-7 < rough.noise < 1e-6)
        True
    """
    expected: Any = jax.tree.structure(x)
    if direction is not None and expected != jax.tree.structure(direction):
        raise ValueError(
            f"`direction` must have the structure of `x`, {expected}, got "
            f"{jax.tree.structure(direction)}."
        )

    def analyse(xp: Any, layout: Coordinates, call: Any, lines: Any, flat: Any) -> Any:
        center = call(flat)[0]
        if direction is None:
            move = _default_direction(flat, xp)
        else:
            move = layout.flatten(jax.tree.leaves(direction), xp)
        steps = _steps(min(float(jnp.finfo(d).eps) for d in layout.dtypes), flat.dtype)
        offsets = (steps[:, None] * (np.arange(_VALUES) + 1.0)).ravel().astype(flat.dtype)
        points = flat[None, :] + xp.asarray(offsets)[:, None] * move[None, :]
        index = np.arange(layout.size)[None, :]
        values = lines(flat, xp.asarray(index), points[None])[0, :, 0]
        return _ecnoise(values.reshape(_SPACINGS, _VALUES), center, steps, xp)

    (noise, status, step), _, _ = on_lines(f, analyse, check_scalar)(x)
    xp: Any = np if isinstance(noise, np.generic | np.ndarray) else jnp
    nfev = xp.asarray(1 + _SPACINGS * _VALUES, dtype=np.int32)
    return NoiseEstimate(noise, status, step, nfev)


def _steps(eps: float, dtype: Any) -> np.ndarray:
    """Spacings relative to the direction, geometric, powers of two."""
    low, high = math.log2(_NARROWEST * eps), math.log2(_WIDEST)
    return (2.0 ** np.round(np.linspace(low, high, _SPACINGS))).astype(dtype)


def _default_direction(flat: Any, xp: Any) -> Any:
    """Move each entry by a share of its size, the shares and signs scattered but fixed."""
    # Fractional parts of multiples of the golden ratio: evenly scattered in (0, 1).
    golden = np.arange(1, flat.size + 1) * 0.6180339887498949 % 1.0
    share = np.where(np.arange(flat.size) % 3 == 1, -1.0, 1.0) * (0.5 + golden / 2)
    largest = xp.max(abs(flat))
    fallback = xp.where(largest > 0, largest, 1)
    size = xp.where(flat != 0, abs(flat), fallback)
    return size * xp.asarray(share.astype(flat.dtype))


@functools.cache
def _gamma(k: int) -> float:
    """(k!)²/(2k)!: what makes the mean square of k-th differences the variance."""
    return math.factorial(k) ** 2 / math.factorial(2 * k)


def _levels(values: Any, xp: Any) -> tuple[Any, Any]:
    """Noise by each difference order, and whether the differences change sign."""
    levels, changes = [], []
    for k in range(1, _HIGHEST_ORDER + 1):
        values = values[:, 1:] - values[:, :-1]
        levels.append(xp.sqrt(_gamma(k) * xp.mean(values**2, axis=1)))
        changes.append((xp.min(values, axis=1) < 0) & (xp.max(values, axis=1) > 0))
    return xp.stack(levels, axis=1), xp.stack(changes, axis=1)


@np.errstate(all="ignore")  # a row that left the domain is not decisive, and no accident
def _ecnoise(values: Any, center: Any, steps: np.ndarray, xp: Any) -> tuple[Any, Any, Any]:
    """Read the noise from rows of equally spaced values, shape (rows, values)."""
    eps = float(jnp.finfo(values.dtype).eps)
    work = xp.promote_types(values.dtype, np.float32)
    values, center = values.astype(work), center.astype(work)
    # Scaled by a power of two, so that squares neither over- nor underflow.
    size = xp.where(xp.isfinite(center) & (center != 0), abs(center), 1)
    scale = scaled(xp.ones_like(size), exponent_of(size, xp), xp)
    levels, changes = _levels(values / scale, xp)
    three = xp.stack([levels[:, k : k + _HIGHEST_ORDER - 2] for k in range(3)])
    alike = xp.max(three, axis=0) <= _AGREE * xp.min(three, axis=0)
    good = alike & changes[:, : _HIGHEST_ORDER - 2] & (three[0] > 0)
    repeated = xp.sum(values[:, 1:] == values[:, :-1], axis=1)
    decisive = xp.any(good, axis=1) & (repeated < _VALUES // 2)
    order = xp.argmax(good, axis=1)
    level = xp.take_along_axis(levels, order[:, None], axis=1)[:, 0]
    found = xp.any(decisive)
    first = level[xp.argmax(decisive)]
    together = decisive & (level <= _AGREE * first) & (first <= _AGREE * level)
    squares = xp.sum(xp.where(together, level, 0) ** 2)
    mean = xp.sqrt(squares / xp.maximum(xp.sum(together), 1))
    finite = xp.isfinite(center)
    noise = xp.where(found, mean * scale, eps * abs(center))
    noise = xp.where(finite, noise, xp.nan)
    status = xp.where(found, int(NoiseStatus.MEASURED), int(NoiseStatus.BOUND))
    status = xp.where(finite, status, int(NoiseStatus.NONFINITE)).astype(np.int32)
    return noise, status, xp.asarray(steps)[xp.argmax(decisive)]
