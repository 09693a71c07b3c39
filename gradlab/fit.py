"""`Fit`: the outcome of a least-squares run, with what a statistician asks of it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import leaf_name
from gradlab._typing import Array, Params
from gradlab.certificate import Certificate
from gradlab.result import Result
from gradlab.trace import Trace

__all__ = ["Fit", "student_quantile"]


class Fit(NamedTuple):
    """Outcome of `least_squares`: a pytree, batched under `vmap`.

    The fields up to `certificate` are those of a `Result`.

    Attributes:
        x: The answer, shaped like `x0`.
        fun: Sum of the squares of the residuals, weighted; of their losses if robust.
        grad: Its gradient; entries that push against a bound are zero.
        aux: Auxiliary output of the residual function at `x`, where `has_aux`; else None.
        status: A `Status`, as an integer.
        nit: Accepted steps.
        nfev: Residual vectors evaluated.
        ngev: Jacobians evaluated, and the gradient at the start. A Jacobian taken by
            differences is counted in `nfev`.
        nhev: Matrices Σ rᵢ∇²rᵢ evaluated.
        nhvp: Second derivatives of the residuals along a step evaluated.
        trace: The `Trace`, or None; its counts are these.
        state: The method's final state; pass it as `state=` to go on.
        certificate: A `Certificate`: what kind of point a success is.
        residuals: Weighted residuals at `x` as one vector, shape (m,).
        jacobian: Their Jacobian as a matrix, shape (m, n), the columns of parameters that a
            bound holds zero, the rows of outliers of a robust loss corrected. None from a
            method that makes none; then there is no covariance either.
        observations: Residuals of positive weight.
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
    certificate: Certificate
    residuals: Array
    jacobian: Array | None
    observations: Any

    @property
    def success(self) -> Any:
        """Whether a stopping test was met. True is only ever said of a finite answer."""
        return self.as_result().success

    @property
    def message(self) -> Any:
        """The status and its meaning; also the first residual that is not finite."""
        told = self.as_result().message
        bad = _first_bad_row(self.residuals)
        if bad is None or np.ndim(self.status):
            return told
        return f"{told} The first residual that is not finite at x is number {bad}."

    @property
    def njev(self) -> Any:
        """Jacobians evaluated, and the gradient at the start: `ngev`."""
        return self.ngev

    @property
    def cost(self) -> Any:
        """Total cost in gradient equivalents.

        One residual vector = 1/3, a Jacobian 2/3 for each column or 1 for each row, as it
        was taken, a second derivative along a step = 1, a matrix of second derivatives = 2n.
        """
        if self.jacobian is None:  # gradients and products, as `minimize` counts them
            return self.nfev / 3 + 1.0 * self.ngev + 2.0 * self.nhvp
        m, n = np.shape(self.jacobian)[-2:]
        each = 2 * n / 3 if n <= m else float(m)
        return self.nfev / 3 + each * self.ngev + 1.0 * self.nhvp + 2.0 * n * self.nhev

    @property
    def rank(self) -> Any:
        """Rank of the Jacobian, its columns scaled to length one."""
        return _factors(self.jacobian)[3]

    @property
    def degrees_of_freedom(self) -> Any:
        """Observations less the rank of the Jacobian."""
        return self.observations - self.rank

    @property
    def residual_standard_deviation(self) -> Any:
        """√(fun / degrees of freedom); NaN without degrees of freedom."""
        freedom = self.degrees_of_freedom
        xp = _namespace(self.jacobian, self.fun)
        variance = self.fun / xp.where(freedom > 0, freedom, 1)
        return xp.where(freedom > 0, xp.sqrt(variance), np.nan)

    @property
    def covariance(self) -> Any:
        r"""Covariance $s^2 (J^T J)^{-1}$ of the parameters as one vector, shape (n, n).

        By the factors of J, never JᵀJ. Parameters that the data do not determine have
        infinite variance. With weights, those are taken to be proportional to 1/σ². With a
        robust loss it is an approximation.
        """
        xp = _namespace(self.jacobian, self.fun)
        scale, values, vectors, _ = _factors(self.jacobian)
        keep = values > 0
        inverse = xp.where(keep, 1 / xp.where(keep, values, 1), 0)
        root = vectors * inverse[..., None, :] / scale[..., :, None]
        spread = self.residual_standard_deviation
        covariance = spread[..., None, None] ** 2 * (root @ xp.swapaxes(root, -1, -2))
        hidden = xp.sum(xp.where(keep[..., None, :], 0, vectors**2), axis=-1)
        undetermined = hidden > 1e3 * xp.finfo(values.dtype).eps
        diagonal = xp.eye(values.shape[-1], dtype=bool)
        return xp.where(diagonal & undetermined[..., :, None], np.inf, covariance)

    @property
    def standard_errors(self) -> Params:
        """Standard errors of the parameters, shaped like `x`."""
        xp = _namespace(self.jacobian, self.fun)
        variances = xp.diagonal(self.covariance, axis1=-2, axis2=-1)
        return _cut(xp.sqrt(variances), self.x)

    @property
    def correlation(self) -> Any:
        """Correlation of the parameters as one vector, shape (n, n)."""
        xp = _namespace(self.jacobian)
        covariance = self.covariance
        root = xp.sqrt(xp.diagonal(covariance, axis1=-2, axis2=-1))
        return covariance / (root[..., :, None] * root[..., None, :])

    def intervals(self, level: float = 0.95) -> tuple[Params, Params]:
        """Confidence intervals of the parameters by Student's t: lower and upper ends.

        Args:
            level: Confidence level, between 0 and 1.

        Returns:
            Two pytrees shaped like `x`.

        Raises:
            ValueError: If the level is not between 0 and 1.
            TypeError: Within a trace.
        """
        freedom = self.degrees_of_freedom
        if isinstance(freedom, jax.core.Tracer):
            raise TypeError(
                "intervals need a fit with numbers in it: return the fit from your `jit` or "
                "`vmap` and ask there, or take `standard_errors`, which can be traced."
            )
        factor = np.array([student_quantile(level, int(each)) for each in np.ravel(freedom)])
        factor = factor.reshape(np.shape(freedom))

        def half(x: Any, e: Any) -> Any:
            return factor.reshape(factor.shape + (1,) * (np.ndim(x) - factor.ndim)) * e

        errors = self.standard_errors
        low = jax.tree.map(lambda x, e: np.asarray(x) - half(x, e), self.x, errors)
        high = jax.tree.map(lambda x, e: np.asarray(x) + half(x, e), self.x, errors)
        return low, high

    def as_result(self) -> Result:
        """The fields that every run has, as a `Result`."""
        fields: Any = self[: len(Result._fields)]
        return Result(*fields)

    def summary(self, level: float = 0.95) -> str:
        """Print the fit as a table: estimate, standard error, t value, interval.

        Args:
            level: Confidence level of the intervals.

        Returns:
            Lines of text.
        """
        if np.ndim(self.status):
            raise ValueError(
                "a batch has no summary: take one fit, jax.tree.map(lambda a: a[0], fit)."
            )
        return _summary(self, level)

    def __repr__(self) -> str:
        """Say how the run ended; a batch says how its runs did."""
        if np.ndim(self.status) or isinstance(self.status, jax.core.Tracer):
            return f"Fit(batch of shape {np.shape(self.status)})"
        return (
            f"Fit({self.message}\n"
            f"  fun={float(self.fun):.6g}, residuals={np.shape(self.residuals)[-1]}, "
            f"parameters={sum(np.size(leaf) for leaf in jax.tree.leaves(self.x))}, "
            f"steps={self.nit}\n"
            f"  evaluations: {self.nfev} residuals, {self.ngev} Jacobians, {self.nhvp} second "
            f"derivatives along a step, {self.nhev} matrices of them)"
        )


def student_quantile(level: float, freedom: int) -> float:
    """Return t with |T| ≤ t of probability `level`, T of Student's distribution.

    By bisection on the incomplete beta function; infinite without degrees of freedom.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level!r}.")
    if freedom < 1:
        return math.inf

    def outside(t: float) -> float:
        x = freedom / (freedom + t * t)
        return float(jax.scipy.special.betainc(freedom / 2, 0.5, x))

    low, high = 0.0, 1.0
    while outside(high) > 1 - level and high < 1e9:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if outside(middle) > 1 - level else (low, middle)
    return (low + high) / 2


def _namespace(*arrays: Any) -> Any:
    """NumPy for concrete arrays, where it compiles nothing; jnp if any is traced."""
    return jnp if any(isinstance(array, jax.core.Tracer) for array in arrays) else np


def _factors(jacobian: Any) -> tuple[Any, Any, Any, Any]:
    """Column scale, singular values (lost ones zero), right vectors as columns, rank."""
    if jacobian is None:
        raise ValueError(
            "rank, covariance and standard errors need the Jacobian, which method "
            "'levenberg_marquardt_cg' never makes. Fit with 'levenberg_marquardt' from this "
            "answer if it fits into memory."
        )
    xp = _namespace(jacobian)
    jacobian = jacobian if xp is jnp else np.asarray(jacobian)
    m, n = jacobian.shape[-2:]
    norms = xp.sqrt(xp.sum(jacobian**2, axis=-2))
    scale = xp.where((norms > 0) & xp.isfinite(norms), norms, 1)
    scaled = jacobian / scale[..., None, :]
    scaled = xp.where(xp.isfinite(scaled), scaled, 0)
    if m < n:
        scaled = xp.concatenate(
            [scaled, xp.zeros((*scaled.shape[:-2], n - m, n), scaled.dtype)], -2
        )
    _, values, vt = xp.linalg.svd(scaled, full_matrices=False)
    eps = np.finfo(values.dtype).eps
    keep = values > max(m, n) * eps * xp.max(values, axis=-1, keepdims=True)
    return scale, xp.where(keep, values, 0), xp.swapaxes(vt, -1, -2), xp.sum(keep, axis=-1)


def _cut(vector: Any, like: Params) -> Params:
    """Cut a vector, batch axes allowed, into a tree's shapes."""
    leaves, structure = jax.tree.flatten(like)
    batch = np.ndim(vector) - 1
    shapes = [np.shape(leaf)[batch:] for leaf in leaves]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    starts = [0, *ends[:-1]]
    parts = [
        vector[..., a:b].reshape((*np.shape(vector)[:-1], *shape))
        for a, b, shape in zip(starts, ends, shapes, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def _first_bad_row(residuals: Any) -> int | None:
    """Number of the first residual that is not finite."""
    if isinstance(residuals, jax.core.Tracer):
        return None
    bad = ~np.isfinite(np.asarray(residuals))
    return int(np.argmax(bad)) if np.any(bad) else None


def _names(x: Params) -> list[str]:
    """Name each entry of the parameters as the caller would write it."""
    names = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(x)[0]:
        name = leaf_name("x", path)
        if np.ndim(leaf) == 0:
            names.append(name)
        names += [f"{name}[{', '.join(map(str, i))}]" for i in np.ndindex(np.shape(leaf)) if i]
    return names


def _summary(fit: Fit, level: float) -> str:
    """Lay out the table of a fit."""
    factor = student_quantile(level, int(fit.degrees_of_freedom))
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(fit.x)])
    errors = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(fit.standard_errors)])
    percent = f"{100 * level:g} %"
    names = _names(fit.x)
    wide = max(len("parameter"), *map(len, names))
    lines = [
        f"{'parameter':<{wide}} {'estimate':>15} {'std. error':>12} {'t value':>10}   "
        f"{percent} interval"
    ]
    for name, value, error in zip(names, values, errors, strict=True):
        t = f"{value / error:.4g}" if error > 0 else "-"
        low, high = value - factor * error, value + factor * error
        lines.append(
            f"{name:<{wide}} {value:>15.8g} {error:>12.5g} {t:>10}   [{low:.6g}, {high:.6g}]"
        )
    lines += [
        f"residual standard deviation {float(fit.residual_standard_deviation):.6g} on "
        f"{int(fit.degrees_of_freedom)} degrees of freedom; loss {float(fit.fun):.8g}",
        str(fit.message),
    ]
    return "\n".join(lines)
