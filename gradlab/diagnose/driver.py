"""`diagnose`: every measurement in turn, each allowed to fail alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab._certify import certify
from gradlab._checks import check_callable, check_params, check_positive, scalar_loss
from gradlab._tree import max_abs, num_params
from gradlab._typing import Loss, Params
from gradlab.derivatives.check import check_derivatives
from gradlab.derivatives.digits import Digits, certify_digits
from gradlab.derivatives.noise import NoiseStatus, estimate_noise
from gradlab.diagnose import costs, curvature, methods
from gradlab.diagnose.diagnosis import Diagnosis
from gradlab.diagnose.section import Figure, Section, first_line

__all__ = ["diagnose"]


def diagnose(
    loss: Loss,
    params: Params,
    *batch: Any,
    methods: Any = None,
    max_cost: float | int | None = None,
    seed: int = 0,
    report: Callable[[str], Any] | None = None,
) -> Diagnosis:
    r"""Measure what there is to know about a loss at a point, and recommend how to minimise it.

    Is the gradient right, how many digits does it have, how noisy is the loss, what do its
    derivatives cost, how is it curved, what kind of point is this, and which of five methods
    gets down first at equal cost? Each answer is measured. What cannot be measured says why
    and leaves the others alone; where the gradient is wrong, nothing is recommended.

    Args:
        loss: Function `loss(params, *batch)` returning a real scalar, written for JAX.
        params: The point: any pytree of real floating leaves, n entries.
        *batch: Further arguments of `loss`.
        methods: What to compare, as in `compare`; by default gradient descent, Adam, L-BFGS,
            Newton-CG and, up to 500 variables, Newton's method.
        max_cost: Budget of each method in gradient equivalents; by default 400, or 20 dense
            Hessians if that is more.
        seed: Seed of the random directions.
        report: Called with the question that is measured next.

    Returns:
        A `Diagnosis`: `str()` of it is the report; `.to_html(path)`, `.to_json(path)`. It
        takes some hundred evaluations beside n products up to n = 1,000 (400 beyond), the
        comparison, and the time to compile it all, half a minute on two cores.

    Raises:
        TypeError: If `loss` does not return a real scalar or a leaf is not real floating.

    Examples:
        >>> def loss(x):
        ...     return jnp.sum(jnp.array([1.0, 100.0]) * x**2)
        >>> found = diagnose(loss, jnp.ones(2), methods=["newton"])
        >>> print(found.check.verdict, round(found.curvature.condition), found.method)
        right 100 newton
    """
    check_callable("loss", loss, "a function loss(params, *batch)")
    x = check_params(params, "params")
    checked = scalar_loss(loss)
    check_positive("max_cost", max_cost, zero=False)

    def start(x: Params, batch: tuple[Any, ...]) -> Any:
        value, grad = jax.value_and_grad(lambda x: checked(x, *batch)[0])(x)
        return value, max_abs(grad)

    value, slope = map(float, jax.device_get(jax.jit(start)(x, batch)))
    return _Work(loss, x, batch, value, slope, seed, report).diagnosis(methods, max_cost)


class _Work:
    """The measurements of one diagnosis, and what they have found so far."""

    def __init__(
        self,
        loss: Loss,
        x: Params,
        batch: tuple[Any, ...],
        value: float,
        slope: float,
        seed: int,
        report: Any,
    ) -> None:
        self.loss, self.x, self.batch = loss, x, batch
        self.value, self.seed, self.report = value, seed, report
        self.finite = math.isfinite(value) and math.isfinite(slope)
        self.name = getattr(loss, "__name__", type(loss).__name__).replace("<lambda>", "loss")
        self.sections: dict[str, Section] = {}

    def at_point(self, x: Params) -> Any:
        """Evaluate the loss of the parameters alone."""
        return self.loss(x, *self.batch)

    def measured(
        self, key: str, title: str, measure: Callable[..., Any], *arguments: Any
    ) -> Any:
        """Make a section; return what it found, or None where it could not be measured."""
        if self.report is not None:
            self.report(title)
        try:
            self.sections[key], found = measure(*arguments)
        except Exception as error:  # the loss's own, and the many types that JAX raises
            self.sections[key] = Section.without(title, first_line(error))
            return None
        return found

    def diagnosis(self, chosen: Any, max_cost: float | None) -> Diagnosis:
        """Measure everything."""
        key = jax.random.key(self.seed)
        check = self.measured("gradient", _GRADIENT, self.gradient)
        digits = self.measured("digits", _DIGITS, self.digits)
        noise = self.measured("noise", _NOISE, self.noise)
        spent = self.measured("costs", costs.TITLE, costs.costs, self.loss, self.x, self.batch)
        product = math.nan if spent is None else spent["product"].seconds
        given = (self.loss, self.x, self.batch)
        curved = self.measured(
            "curvature", curvature.TITLE, curvature.curvature, *given, self.value, product, key
        )
        point = self.measured("point", _POINT, self.point)
        compared = self.measured(
            "methods", methods.TITLE, methods.comparison, *given, chosen, max_cost, self.name
        )
        known = methods.Known(
            check,
            None if digits is None else digits[0],
            None if digits is None else digits[1],
            curved,
            point,
            compared,
            self.finite,
            self.x,
        )
        self.measured("advice", methods.ADVICE, lambda: (methods.advice(known), True))
        ordered = {name: self.sections[name] for name in ("advice", *self.sections)}
        dtype = str(jnp.result_type(*jax.tree.leaves(self.x)))
        return Diagnosis(
            name=self.name,
            num_params=num_params(self.x),
            dtype=dtype,
            value=self.value,
            sections=ordered,
            check=check,
            digits=None if digits is None else digits[0],
            noise=noise,
            costs=spent,
            curvature=curved,
            certificate=point,
            comparison=compared,
        )

    def gradient(self) -> tuple[Section, Any]:
        """Check the derivatives of the loss against its values."""
        report = check_derivatives(self.loss, self.x, *self.batch, argnums=0, seed=self.seed)
        told, _, table = str(report).partition("\n")
        told = told.removeprefix("check_derivatives: ")
        told = told[:1].upper() + told[1:]
        figures: tuple[Figure, ...] = ()
        if report.remainders:
            from gradlab.plots import plot_check

            figures = (
                Figure(
                    "check", "Taylor remainders against the step", lambda: plot_check(report)
                ),
            )
        found = [
            {
                "where": f.where, "order": f.order, "check": f.check, "autodiff": f.autodiff,
                "difference": f.difference, "bar": f.bar, "cause": f.cause,
            }
            for f in report.findings
        ]  # fmt: skip
        data = {"verdict": report.verdict, "findings": found, "notes": list(report.notes)}
        return Section(_GRADIENT, told, text=table, data=data, figures=figures), report

    def digits(self) -> tuple[Section, tuple[Digits, float | None]]:
        """Count the right digits of the gradient, in its precision and in float32."""
        if not self.finite:
            raise ValueError("the gradient is not finite at this point")
        found = certify_digits(self.at_point, self.x)
        leaves = [np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(found.grad)]
        entries = np.concatenate(leaves)
        dtype = str(jnp.result_type(*jax.tree.leaves(self.x)))
        told = (
            f"Rounding leaves the gradient as it is written {found.worst:.1f} of the "
            f"{found.most:.1f} digits that {dtype} can hold, its entries "
            f"{entries.min():.1f} to {entries.max():.1f} ({found.method})."
        )
        single = None
        if dtype == "float64":
            single = _single_digits(self.loss, self.x, self.batch)
        if single is not None:
            told += f"\nIn float32 it would be left {single:.1f}."
        data = {
            "worst": found.worst, "most": found.most, "float32": single,
            "least_entry": float(entries.min()), "method": found.method,
        }  # fmt: skip
        return Section(_DIGITS, told, data=data), (found, single)

    def noise(self) -> tuple[Section, Any]:
        """Measure the noise level of the loss."""
        found = jax.device_get(estimate_noise(self.at_point, self.x))
        status = NoiseStatus(int(found.status))
        if status == NoiseStatus.NONFINITE:
            raise ValueError("the loss is not finite here or next to the point")
        level = float(found.noise)
        kind = {
            NoiseStatus.MEASURED: "measured",
            NoiseStatus.BOUND: "no spacing was decisive: the rounding of the value",
        }[status]
        relative = f", {level / abs(self.value):.1e} of its size" if self.value else ""
        told = f"Values of the loss are uncertain by {level:.1e}{relative} ({kind})."
        data = {"noise": level, "status": status.name, "nfev": int(found.nfev)}
        return Section(_NOISE, told, data=data), found

    def point(self) -> tuple[Section, Any]:
        """Say what kind of point it is."""
        found = jax.device_get(certify(self.loss, self.x, args=self.batch))
        told = found.message
        told += (
            f"\nLoss {float(found.value):.8g}, largest gradient entry "
            f"{float(found.grad_norm):.3g}, curvature found from {float(found.curvature):.3g} "
            f"to {float(found.stiffness):.3g}."
        )
        if np.isfinite(found.decrement):
            told += f"\nThe quadratic model promises a decrease of {found.decrement:.2e}."
        data = {"message": found.message, **found._asdict()}
        return Section(_POINT, told, data=data), found


_GRADIENT = "Is the gradient right?"
_DIGITS = "How many digits does the gradient have?"
_NOISE = "How noisy is the loss?"
_POINT = "What kind of point is this?"


def _single_digits(loss: Loss, x: Params, batch: tuple[Any, ...]) -> float | None:
    """Digits of the gradient when everything is in float32; None where it does not run."""

    def single(leaf: Any) -> Any:
        held = getattr(leaf, "dtype", None)
        wide = held is not None and held == np.float64
        return jnp.asarray(leaf, jnp.float32) if wide else leaf

    x, batch = jax.tree.map(single, (x, batch))
    try:
        return float(certify_digits(lambda x: loss(x, *batch), x).worst)
    except Exception:  # a loss that insists on float64
        return None
