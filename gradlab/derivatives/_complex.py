r"""Complex step on the ladders: sharper where f is analytic, and never taken on trust.

Where f is analytic and real on the real axis, $\operatorname{Im} f(t + ih)/h = f'(t)$ up to
$h^2 f'''/6$, without cancellation however small h. So the samples of one ladder, each moved
off the axis by a tiny h, hold two ladders: the real parts are f itself, and the imaginary
parts are f', of which the higher derivatives are one order less. The ladder of f' shows the
rounding of f', which the complex step by itself would hide, and the ladder of f says whether
the imaginary parts are a derivative at all: of |x| or of a rounded function they are not.

References:
    Squire, W. and Trapp, G. (1998). Using complex variables to estimate derivatives of real
    functions. SIAM Review 40:110.
    Lai, K.-L. and Crassidis, J. L. (2008). Extensions of the first and second complex-step
    derivative approximations. Journal of Computational and Applied Mathematics 219:276.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.derivatives import _drive
from gradlab.derivatives._analytic import first_not_analytic
from gradlab.derivatives._coordinates import Coordinates
from gradlab.derivatives._drive import Answer, Plan
from gradlab.derivatives._evaluate import along, is_traceable, pointwise_numpy, to_numpy
from gradlab.derivatives._leaves import is_complex
from gradlab.derivatives._powers import scaled
from gradlab.derivatives._search import search
from gradlab.derivatives._stencils import weights

__all__ = ["coordinate_lines", "jax_allows", "numpy_beside", "run"]

# The step off the axis, in units of the longest step along it: 2 to minus this share of the
# mantissa's bits. Its square, the truncation, is far below a rounding.
_OFF_AXIS = 1.5
# Real differences confirm the imaginary part when their bar is at most this share of it.
_POWER = 0.1
# Noise of f this many times that of f', each in roundings, is no rounding: what cancels in
# a formula cancels in its derivative.
_PIECES = 8.0
# Samples on each side that tell f'(x) once more: what four miss falls as h⁸. That is one
# draw of the noise, which is this small a share of its size by chance once in forty times.
_NEAREST, _BY_CHANCE = 4, 2.0**-5
# The bar of f'(x) itself, in noise levels of the ladder of f'.
_WIDTH = 3.0


@np.errstate(all="ignore")
def run(
    plan: Plan,
    x: Any,
    center: Any,
    evaluate: Callable[[Any], Any],
    evaluate_complex: Callable[[Any], Any],
    eps: float,
    given: Any,
    xp: Any,
    beside: Any = None,
    *,
    asked: bool,
) -> tuple[dict[int, Answer], Any]:
    """Differentiate at each row as `_drive.run` does, with one evaluation more.

    `evaluate_complex` takes complex points, shape (P, M), to complex values, (P, M, m), and
    `beside` is what `numpy_beside` gave, if it was called, and `asked` says that the caller
    wants the complex step and no other. Also returns where the imaginary
    parts contradict real differences, shape (P, m).
    """
    center = center.astype(xp.promote_types(center.dtype, np.float32))
    found = search(plan, x, center, evaluate, eps, xp)
    off = found.top - round(_OFF_AXIS * np.finfo(x.dtype).nmant)
    off = xp.clip(off, int(np.finfo(x.dtype).minexp) + 4, None)
    points = _drive.ladder_points(plan, x, found, xp)
    if beside is None:
        points = xp.concatenate([points, x[:, None]], axis=1)
    values = evaluate_complex(points + 1j * scaled(xp.ones_like(x), off, xp)[:, None])
    slope = scaled(values.imag.astype(center.dtype), -off[:, None, None], xp)
    real, slope, here, slope_here = values.real, slope, values.real[:, -1], slope[:, -1]
    if beside is None:
        real, slope = real[:, :-1], slope[:, :-1]
    else:
        here, slope_here = beside[0].real[:, None], beside[0].imag[:, None] / beside[1][:, None]
    here, slope_here, real = (v.astype(center.dtype) for v in (here, slope_here, real))

    wanted = sorted({1, 2, *plan.orders})
    by_real, _ = _drive.climb(
        _with_orders(plan, wanted), x, center, found, real, eps, given, xp
    )
    lowered = sorted({1, *(o - 1 for o in wanted if o > 1)})
    found = found._replace(parts=None)  # they are samples of f, not of f'
    by_slope, _ = _drive.climb(
        _with_orders(plan, lowered), x, slope_here, found, slope, eps, 0.0, xp
    )
    by_step = {1: _first_order(slope_here, by_slope[1], x, eps, xp)}
    by_step |= {o: by_slope[o - 1] for o in wanted if o > 1}
    agree, confirmed = _compare(by_step, by_real, xp)
    # Off the axis by nothing that counts, f must be what it is on it.
    apart = abs(here - center)
    same = apart <= _WIDTH * by_real[1].level + 8 * eps * abs(center)
    # Jumps have no slope: the imaginary part is the derivative of the pieces between them.
    noise = by_slope[1].roundings
    pieces = by_real[1].jumps | (by_real[1].roundings > _PIECES * xp.maximum(noise, 1))
    usable = agree & confirmed & same & ~by_real[1].kink & ~pieces
    contradicted = ~(agree & same) & xp.isfinite(center) & xp.isfinite(by_real[1].error)
    unexplained = _unexplained(plan, slope, slope_here, found.side, xp)
    exact = asked | (unexplained < _BY_CHANCE * by_real[1].error)
    answers = {
        o: _better(by_step[o], by_real[o], usable, exact & (o == 1), xp) for o in plan.orders
    }
    return answers, contradicted


def _with_orders(plan: Plan, orders: list[int]) -> Plan:
    return dataclasses.replace(plan, orders=tuple(orders))


def _first_order(slope: Any, ladder: Answer, x: Any, eps: float, xp: Any) -> Answer:
    """Let f'(x) be the imaginary part at x itself, with the noise that its ladder shows."""
    # Half a spacing of x, and as much for the rounding of what f makes of it first.
    spacing = abs(x)[:, None] * float(np.finfo(x.dtype).eps)
    noise = _WIDTH * xp.maximum(ladder.level, eps * abs(slope))
    error = noise + spacing * (
        abs(ladder.value) + xp.where(ladder.error < xp.inf, ladder.error, 0)
    )
    known = xp.isfinite(slope) & xp.isfinite(ladder.error)
    error = xp.where(known, xp.maximum(error, float(np.finfo(slope.dtype).tiny)), xp.inf)
    return ladder._replace(value=slope, error=error, noisy=noise / error)


def _compare(
    by_step: dict[int, Answer], by_real: dict[int, Answer], xp: Any
) -> tuple[Any, Any]:
    """Whether the two ways agree at the first two orders, and one of them is confirmed."""
    agree, confirmed = True, False
    for order in (1, 2):
        step, real = by_step[order], by_real[order]
        gap = abs(step.value - real.value)
        within = gap <= step.error + real.error
        agree = agree & (within | ~xp.isfinite(step.error))
        confirmed = confirmed | (within & (real.error <= _POWER * abs(step.value)))
    return agree & xp.isfinite(by_step[1].error), confirmed


def _unexplained(plan: Plan, slope: Any, here: Any, side: Any, xp: Any) -> Any:
    """How far f'(x) is from what its nearest samples on both sides say, shape (P, m)."""
    nearest = plan.nodes[-_NEAREST:]
    interpolated = weights([*nearest, *-nearest], 0)
    right, left = slope[:, : plan.rungs], slope[:, plan.rungs :]
    samples = xp.concatenate([right[:, -_NEAREST:], left[:, -_NEAREST:]], axis=1)
    said = xp.einsum("j,pjm->pm", xp.asarray(interpolated, samples.dtype), samples)
    return xp.where((side == 0)[:, None], abs(said - here), xp.inf)


def _better(step: Answer, real: Answer, usable: Any, exact: Any, xp: Any) -> Answer:
    """Take the answer of the smaller bar, where both are answers to one question.

    The imaginary part at the point itself has no truncation, only the bar that its ladder
    lends it: where it is `exact` it is taken in any case, with the other's bar if less.
    """
    gap = abs(step.value - real.value)
    chosen = usable & (gap <= step.error + real.error) & (exact | (step.error < real.error))
    least = xp.minimum(step.error, gap + real.error)
    step = step._replace(error=xp.where(exact, least, step.error))
    fields = (xp.where(chosen, a, b) for a, b in zip(step, real, strict=True))
    return Answer(*fields)


def jax_allows(f: Callable[..., Any], abstract: Any, scheme: str) -> bool:
    """Whether a JAX function has a complex step, as far as its program tells."""
    if scheme == "real":
        return False
    return _allowed(_refusal_by_jax(f, jax.tree.map(_complex_shape, abstract)), scheme)


def numpy_beside(f: Callable[..., Any], x: np.ndarray, scheme: str) -> Any:
    """Evaluate a NumPy function beside each point, shape (P,): values, and how far beside.

    None where it does not take complex numbers or is not to be asked.
    """
    if scheme == "real" or x.size == 0:
        return None
    values, refusal = _tried(pointwise_numpy(f), _beside(x))
    return (values, _off(x)) if _allowed(refusal, scheme) else None


def coordinate_lines(f: Callable[..., Any], scheme: str) -> Callable[..., Any]:
    """Build the evaluator of f along coordinates of a pytree, off the real axis.

    The result takes (layout, flat, xp) to a function from complex coordinates, shape
    (n, M), to values, shape (n, M, m); or to None where there is no complex step.
    """

    @functools.cache
    def compiled(layout: Coordinates) -> Any:
        """Return f's lines traced, compiled for NumPy, or None."""
        if not is_traceable(f, layout.abstract()):
            return None
        if not jax_allows(f, layout.abstract(), scheme):
            return ()
        traced = functools.partial(along, layout.as_complex().vector_function(f, jnp), jnp)
        return traced, to_numpy(jax.jit(traced))

    def beside(layout: Coordinates, flat: Any, xp: Any) -> Any:
        if scheme == "real":
            return None
        known = compiled(layout)
        if known is None:
            point = jax.tree.map(_beside, layout.unflatten(flat))
            if not _allowed(_tried(f, point)[1], scheme):
                return None
            known = [functools.partial(along, layout.as_complex().vector_function(f, np), np)]
        if not known:
            return None
        lines = known[0] if xp is jnp else known[-1]
        index = xp.arange(flat.size)[:, None]
        return lambda points: lines(flat.astype(points.dtype), index, points[..., None])

    return beside


def _allowed(refusal: str | None, scheme: str) -> bool:
    if refusal and scheme == "complex":
        raise TypeError(
            f"scheme='complex' needs an analytic `f`, but {refusal}. abs, real, conj, norm, "
            "floor and the like are not analytic: write x @ x for norm(x)**2, or use "
            "scheme='real', or 'auto' to take the complex step only where it is one."
        )
    return refusal is None


def _complex_shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, np.result_type(leaf.dtype, np.complex64))


def _off(x: Any) -> np.ndarray:
    """Distance from the real axis by less than a rounding of what is seen on it."""
    return np.asarray(np.finfo(x.dtype).eps ** 2 * np.where(x == 0, 1, abs(x)), x.dtype)


def _beside(x: Any) -> np.ndarray:
    return np.asarray(x + 1j * _off(x))


def _refusal_by_jax(f: Callable[..., Any], abstract: Any) -> str | None:
    """Say why a JAX function has no complex step, from its program; None if it has one."""
    try:
        program = jax.make_jaxpr(lambda v: f(v))(abstract)
    except Exception as error:  # whatever f raises, it does not take complex numbers
        return f"for complex input it raised {type(error).__name__}: {_first_line(error)}"
    if not all(is_complex(v.aval.dtype) for v in program.jaxpr.outvars):
        return "for complex input it returned real numbers"
    culprit = first_not_analytic(program)
    return f"it takes `{culprit}` of its complex argument" if culprit else None


def _tried(f: Callable[..., Any], point: Any) -> tuple[Any, str | None]:
    """Call a NumPy function at a complex point: its output, and why that will not do."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error")  # NumPy warns where it drops the imaginary part
        try:
            output = f(point)
        except Exception as error:  # likewise
            reason = f"for complex input it raised {type(error).__name__}: {_first_line(error)}"
            return None, reason
    if not all(np.iscomplexobj(leaf) for leaf in jax.tree.leaves(output)):
        return None, "for complex input it returned real numbers"
    return output, None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
