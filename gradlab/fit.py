"""`Fit`: the outcome of a least-squares run, with what a statistician asks of it."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._errors import leaf_name
from gradlab._typing import Array, Params
from gradlab.certificate import Certificate
from gradlab.result import Result
from gradlab.trace import Trace

__all__ = ["Fit", "rank_tolerance", "student_quantile"]


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
        infinite variance, and a covariance of NaN among themselves. With weights, those are
        taken to be proportional to 1/σ². With a robust loss it is an approximation.
        """
        xp = _namespace(self.jacobian, self.fun)
        inverse, undetermined = _inverse(self.jacobian)
        spread = self.residual_standard_deviation
        covariance = spread[..., None, None] ** 2 * inverse
        diagonal = xp.eye(inverse.shape[-1], dtype=bool)
        return xp.where(undetermined, xp.where(diagonal, np.inf, np.nan), covariance)

    @property
    def standard_errors(self) -> Params:
        """Standard errors of the parameters, shaped like `x`."""
        xp = _namespace(self.jacobian, self.fun)
        variances = xp.diagonal(self.covariance, axis1=-2, axis2=-1)
        return _cut(xp.sqrt(variances), self.x)

    @property
    def correlation(self) -> Any:
        """Correlation of the parameters as one vector, shape (n, n).

        NaN between two that the data do not determine, and 0 of one with the others.
        """
        xp = _namespace(self.jacobian)
        inverse, undetermined = _inverse(self.jacobian)
        variances = xp.diagonal(inverse, axis1=-2, axis2=-1)
        root = xp.sqrt(xp.where(variances > 0, variances, 1))
        correlation = inverse / root[..., :, None] / root[..., None, :]
        alone = xp.diagonal(undetermined, axis1=-2, axis2=-1)
        one_of_two = alone[..., :, None] ^ alone[..., None, :]
        correlation = xp.where(one_of_two, 0, xp.where(undetermined, np.nan, correlation))
        return xp.where(xp.eye(inverse.shape[-1], dtype=bool), 1, correlation)

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


def rank_tolerance(num_params: int, eps: Any) -> Any:
    """Share of the largest singular value below which another may be rounding: 8 n eps.

    The factors of a Jacobian whose last column is the sum of the others, scaled to length
    one, leave 0.1 to 3 eps: with 2 to 12 columns and 100 to 5 million rows in float32. The
    rule of thumb max(m, n) eps would take a tenth of the digits from a million data.
    """
    return 8 * num_params * eps


def student_quantile(level: float, freedom: int) -> float:
    """Return t with |T| ≤ t of probability `level`, T of Student's distribution.

    In Python's floats, whatever JAX computes in: by bisection on the finite sums that its
    probability is for whole degrees of freedom; for many, by a series about the normal
    quantile. Infinite without degrees of freedom.

    References:
        Abramowitz, M. and Stegun, I. (1964). Handbook of Mathematical Functions, 26.7.3,
        26.7.4 and 26.7.5.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level!r}.")
    if freedom < 1:
        return math.inf
    if freedom > _MANY:
        return _near_normal(NormalDist().inv_cdf((1 + level) / 2), freedom)
    # The angle atan(t/√ν): the probability rises with it, from 0 to 1.
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


# Degrees of freedom beyond which four terms of the series leave 1e-8 of the quantile.
_MANY = 500


def _student(angle: float, freedom: int) -> float:
    """Probability that |T| ≤ t, by the angle atan(t/√ν)."""
    odd = freedom % 2
    square = math.cos(angle) ** 2
    term = math.sin(angle) * (math.cos(angle) if odd else 1.0)
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom, 2):
        term *= square * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + total) if odd else total


def _near_normal(z: float, freedom: int) -> float:
    """Student's quantile from the normal one."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (k + 1) for k, term in enumerate(terms))


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
    largest = xp.max(xp.abs(jacobian), axis=-2, keepdims=True)
    sound = (largest > 0) & xp.isfinite(largest)
    scaled = xp.where(sound, jacobian, 0) / xp.where(sound, largest, 1)
    norms = xp.sqrt(xp.sum(scaled**2, axis=-2, keepdims=True))
    scaled = scaled / xp.where(sound, norms, 1)
    scale = xp.where(sound, largest * norms, 1)[..., 0, :]
    if m < n:
        scaled = xp.concatenate(
            [scaled, xp.zeros((*scaled.shape[:-2], n - m, n), scaled.dtype)], -2
        )
    _, values, vt = xp.linalg.svd(scaled, full_matrices=False)
    eps = np.finfo(values.dtype).eps
    keep = values > rank_tolerance(n, eps) * xp.max(values, axis=-1, keepdims=True)
    return scale, xp.where(keep, values, 0), xp.swapaxes(vt, -1, -2), xp.sum(keep, axis=-1)


def _inverse(jacobian: Any) -> tuple[Any, Any]:
    """(JᵀJ)⁻¹ as far as the rank goes, and which pairs of parameters the data leave open."""
    xp = _namespace(jacobian)
    scale, values, vectors, _ = _factors(jacobian)
    keep = values > 0
    inverse = xp.where(keep, 1 / xp.where(keep, values, 1), 0)
    root = vectors * inverse[..., None, :] / scale[..., :, None]
    hidden = xp.sum(xp.where(keep[..., None, :], 0, vectors**2), axis=-1)
    free = hidden > 1e3 * xp.finfo(values.dtype).eps
    return root @ xp.swapaxes(root, -1, -2), free[..., :, None] & free[..., None, :]


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
