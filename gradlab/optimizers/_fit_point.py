"""A point of a least-squares run: Jacobian, its factors, what they promise, what is noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._tree import stacked
from gradlab._typing import Array
from gradlab.fit import rank_tolerance
from gradlab.optimizers._fit_model import (
    Model,
    across,
    along,
    ends_of,
    exact_model,
    factored,
    norm,
    norm_by_dot,
    times,
    whitening_of,
)
from gradlab.optimizers._residuals import Residuals

__all__ = [
    "CLOSE",
    "FINISHED",
    "Box",
    "Point",
    "arrive",
    "blank_point",
    "inside",
]

# Running maximum of the column norms (Moré 1978), which forgets: after ten steps a tenth. A
# far start may have columns a thousand times those of the answer, and would rule for ever.
FORGETTING = 0.8
# The last Newton steps begin when a Gauss-Newton step promises less than this many times the
# noise of the loss: five digits of the loss are left, in which one or two steps converge.
NEAR = 1e5
# Noise of the loss in units of ‖r‖ δ, with δ the rounding noise of the residuals.
NOISE = 4.0
# A last Newton step must halve the gradient, and a fit is finished at 1 noise of the
# residuals, or within 10 where no step gets nearer.
FINISHED, CLOSE = 1.0, 10.0


class Box(NamedTuple):
    """Lower and upper bounds of the flat parameters."""

    lower: Array
    upper: Array


class Point(NamedTuple):
    """What is known at a point. Vectors of n and matrices of n by n live in scaled space.

    Attributes:
        residuals: Weighted residuals, shape (m,).
        jacobian: Corrected Jacobian, unscaled, blocked columns zero, shape (m, n).
        vectors: Rows: scale D, half gradient Ĵᵀr̂ unscaled, largest size of each parameter so
            far; curvatures and gradient in the basis of the model, last Newton step.
        matrices: The model's basis, one vector a column, and the whitening map W with
            H⁻¹ = WᵀW of the last Newton steps.
        numbers: See the properties; flags are 0 or 1.
    """

    residuals: Array
    jacobian: Array
    vectors: Array
    matrices: Array
    numbers: Array

    @property
    def scale(self) -> Array:
        """Scale D of the parameters."""
        return self.vectors[0]

    @property
    def unit(self) -> Array:
        """Scale D of the parameters, one where there is none."""
        return jnp.where(self.scale > 0, self.scale, 1)

    @property
    def gradient(self) -> Array:
        """Half the gradient of the loss."""
        return self.vectors[1]

    @property
    def span(self) -> Array:
        """Largest size that each parameter has had."""
        return self.vectors[2]

    @property
    def curvatures(self) -> Array:
        """Curvatures of the model in its basis."""
        return self.vectors[3]

    @property
    def slopes(self) -> Array:
        """Half gradient in the model's basis."""
        return self.vectors[4]

    @property
    def last_step(self) -> Array:
        """Newton step of the finish, scaled."""
        return self.vectors[5]

    @property
    def basis(self) -> Array:
        """Basis of the model."""
        return self.matrices[0]

    @property
    def whitening(self) -> Array:
        """Map W of the finish."""
        return self.matrices[1]

    @property
    def value(self) -> Array:
        """Loss."""
        return self.numbers[..., 0]

    @property
    def promise(self) -> Array:
        """Reduction of the loss that a Gauss-Newton step promises."""
        return self.numbers[..., 1]

    @property
    def noise(self) -> Array:
        """Rounding noise δ of the residuals, as a norm."""
        return self.numbers[..., 2]

    @property
    def length(self) -> Array:
        """Length of the Gauss-Newton step over that of the span, both scaled."""
        return self.numbers[..., 3]

    @property
    def level(self) -> Array:
        """Noise of the loss."""
        return self.numbers[..., 4]

    @property
    def finite(self) -> Array:
        """Whether residuals and Jacobian are finite."""
        return self.numbers[..., 5] != 0

    @property
    def near(self) -> Array:
        """Whether the last Newton steps are on."""
        return self.numbers[..., 6] != 0

    @property
    def left(self) -> Array:
        """Length of the gradient in the metric of the point before."""
        return self.numbers[..., 7]

    @property
    def lowest(self) -> Array:
        """Least curvature, relative to that of the Gauss-Newton model where known."""
        return self.numbers[..., 8]

    @property
    def highest(self) -> Array:
        """Largest curvature in the same units."""
        return self.numbers[..., 9]

    @property
    def steepness(self) -> Array:
        """Length of the gradient in the point's own metric, that of the finish."""
        return self.numbers[..., 10]

    @property
    def second(self) -> Array:
        """Whether the model has the residuals' own curvature."""
        return self.numbers[..., 11] != 0

    @property
    def sharp(self) -> Array:
        """Whether W and the last Newton step are to be had."""
        return self.numbers[..., 12] != 0

    @property
    def least(self) -> Array:
        """Least curvature of the model."""
        return self.numbers[..., 13]

    @property
    def largest(self) -> Array:
        """Largest absolute curvature of the model."""
        return self.numbers[..., 14]

    @property
    def looked(self) -> Array:
        """Whether second derivatives were made here."""
        return self.numbers[..., 15] != 0


def blank_point(m: int, n: int, dtype: Any) -> Point:
    """Build the point before any was reached."""
    numbers = np.array([np.inf] * 5 + [0] * 3 + [np.inf] * 2 + [0] * 6, dtype)
    return Point(
        jnp.zeros(m, dtype), jnp.zeros((m, n), dtype), jnp.zeros((6, n), dtype),
        jnp.zeros((2, n, n), dtype), jnp.asarray(numbers),
    )  # fmt: skip


def inside(box: Box | None, x: Array, step: Array) -> Array:
    """Shorten a step, entry by entry, so that x + step lies within the bounds, rounded."""
    if box is None:
        return step
    step = jnp.clip(x + step, box.lower, box.upper) - x
    up, down = jnp.full_like(x, jnp.inf), jnp.full_like(x, -jnp.inf)
    step = jnp.where(x + step < box.lower, jnp.nextafter(step, up), step)
    return jnp.where(x + step > box.upper, jnp.nextafter(step, down), step)


def _pushed_out(box: Box, x: Array, gradient: Array) -> Array:
    """Which parameters the gradient holds at a bound, or at a rounding's distance from it."""
    eps = 4 * jnp.finfo(x.dtype).eps
    down = (x - box.lower <= eps * jnp.abs(x)) & (gradient > 0)
    return down | ((box.upper - x <= eps * jnp.abs(x)) & (gradient < 0))


def arrive(
    problem: Residuals,
    box: Box | None,
    x: Array,
    residuals: Array,
    value: Array,
    before: Point,
    second: Array,
    finish: Array,
    least_noise: Array,
    *,
    finishing: bool,
) -> Point:
    """Evaluate the Jacobian at x and all that follows from it.

    `value` is the loss there, `before` the point that the step came from, `finish` whether by
    a last Newton step, which may have finished the run; then its second derivatives will do.
    `second` asks for the residuals' own curvature; `finishing` says whether the method has
    last Newton steps.
    """
    eps = jnp.finfo(residuals.dtype).eps
    plain = _jacobian(problem, x, jnp.isfinite(value))
    to_r, to_j, slopes, raised = problem.corrected(residuals)
    r, jacobian = to_r * residuals, to_j[:, None] * plain
    size = jnp.sqrt(value) if problem.is_linear else norm(residuals)
    columns, gradient = jnp.sqrt(jnp.sum(jacobian**2, axis=0)), times(r, jacobian)
    usable = jnp.isfinite(size + jnp.sum(columns))
    free = usable
    if box is not None:
        outwards = _pushed_out(box, x, gradient)
        free = usable & ~outwards
    r, jacobian = jnp.where(usable, r, 0), jnp.where(free, jacobian, 0)
    columns, gradient = jnp.where(free, columns, 0), jnp.where(free, gradient, 0)
    scale = _next_scale(before, columns, x)
    unit = jnp.where(scale > 0, scale, 1)
    values, basis, turned = factored(jacobian / unit[None, :], r)
    keep = values > rank_tolerance(x.size, eps) * values[0]  # the largest comes first
    inverse = jnp.where(keep, 1 / jnp.where(keep, values, 1), 0)
    promise = jnp.sum(jnp.where(keep, turned, 0) ** 2)
    noise = eps * (size + norm_by_dot(times(jnp.abs(x), jnp.abs(jacobian).T)))
    span = jnp.maximum(before.span, jnp.abs(x))
    longest = norm(unit * span)
    length = norm(inverse * turned) / jnp.where(longest > 0, longest, 1)
    loud = size if problem.is_linear else jnp.sqrt(jnp.maximum(value, 0))
    level = jnp.maximum(NOISE * noise * (loud + noise), least_noise)
    near = before.near | (promise <= NEAR * level) if finishing else jnp.zeros((), bool)
    white = along(before.whitening, gradient / before.unit)
    left = norm(white)
    enough = finish & (left <= FINISHED * noise)
    # Newton's method squares what is left, and a step by the Hessian of the point before
    # leaves twice as much: where that is noise, second derivatives are not made again.
    again = finish & ~enough & ~second & (2 * left**2 <= FINISHED * noise * before.steepness)
    looked = (near | second) & ~enough & ~again
    model = Model(values**2, values * turned, basis)

    def with_curvature() -> _Told:
        own = problem.curvature(x, jnp.where(usable, slopes * residuals, 0))
        if not problem.is_linear:
            own = own + times((raised[:, None] * plain).T, plain)
        if box is not None:
            own = jnp.where(outwards[None, :] | outwards[:, None], 0, own)
        own = own / unit[None, :] / unit[:, None]
        own = jnp.where(jnp.isfinite(jnp.sum(jnp.abs(own))), own, 0)
        whitening, relative = whitening_of(own, basis, inverse)
        sharp = relative[0] > jnp.sqrt(eps)
        follow = second | ~sharp
        chosen = jax.lax.cond(follow, lambda: exact_model(own, model), lambda: model)
        # Where rank is lost the least curvature is nothing, whatever the others are; but a
        # bound takes rank away that nobody misses.
        whole = jnp.all(keep) | (box is not None)
        lowest = jnp.where(whole, relative[0], jnp.minimum(relative[0], 0))
        relative = jnp.stack([lowest, relative[1]])
        extremes = ends_of(chosen.curvatures)
        whitened = along(whitening, gradient / unit)
        told = [*jnp.where(near, relative, extremes), norm(whitened), follow, sharp & near]
        return _Told(
            jnp.stack([chosen.curvatures, chosen.slopes, -across(whitening, whitened)]),
            jnp.stack([chosen.basis, whitening]),
            stacked([*told, *extremes], r.dtype),
        )

    def without() -> _Told:
        extremes = jnp.stack([model.curvatures[-1], model.curvatures[0]])
        known = jnp.where(enough | again, before.numbers[8:10], extremes)
        whitening = jnp.where(again, before.whitening * (unit / before.unit)[None, :], 0)
        return _Told(
            jnp.stack([model.curvatures, model.slopes, -across(whitening, white)]),
            jnp.stack([basis, whitening]),
            stacked([*known, jnp.where(again, left, 0), 0, again, *extremes], r.dtype),
        )

    told = jax.lax.cond(looked, with_curvature, without) if problem.exact else without()
    finite = usable & jnp.isfinite(value)
    numbers = [value, promise, noise, length, level, finite, near, left, *told.numbers, looked]
    return Point(
        residuals,
        jacobian,
        jnp.concatenate([jnp.stack([scale, gradient, span]), told.vectors]),
        told.matrices,
        stacked(numbers, r.dtype),
    )


def _jacobian(problem: Residuals, x: Array, possible: Array) -> Array:
    """Evaluate the Jacobian, once: a branch of its own keeps the compiler from fusing it.

    Left to itself it evaluates it anew in every kernel that reads it.
    """
    shape = jax.eval_shape(problem.jacobian, x)
    return jax.lax.cond(
        possible, problem.jacobian, lambda _: jnp.zeros(shape.shape, shape.dtype), x
    )


class _Told(NamedTuple):
    """What depends on the residuals' own curvature: the ends of a `Point`'s fields."""

    vectors: Array
    matrices: Array
    numbers: Array


def _next_scale(before: Point, columns: Array, x: Array) -> Array:
    """Update the scale of the parameters; at a start, make all of them count alike.

    There a unit of scale is what a parameter's own size does to the residuals, at most: a
    column that is small by chance, as of a parameter with next to no effect so far out, would
    let the first steps throw its parameter away.
    """
    size = jnp.abs(x)
    alike = jnp.max(columns * size) / jnp.where(size > 0, size, 1)
    first = jnp.where(size > 0, jnp.maximum(alike, columns), columns)
    known = jnp.maximum(FORGETTING * before.scale, columns)
    return jnp.where(before.value < jnp.inf, known, first)
