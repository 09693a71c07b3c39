"""The 27 nonlinear regressions of NIST's Statistical Reference Datasets, answers certified.

NIST computed the parameters, their standard deviations and the residual sum of squares with
128-bit arithmetic and certifies eleven digits of them. Each problem has two starts, the first
far from the answer, the second near. `names(tag="nist")` lists them all;
"nist_lower", "nist_average" and "nist_higher" are NIST's three levels of difficulty.

The data files are the published ones, unchanged; as a work of the United States government
they are in the public domain.

References:
    National Institute of Standards and Technology. Statistical Reference Datasets (StRD),
    Nonlinear Regression. https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from gradlab.problems._least_squares import sum_of_squares
from gradlab.problems._types import Point, Predictors, Residuals
from gradlab.problems.nist import models
from gradlab.problems.nist.reader import Dataset, read
from gradlab.problems.registry import Problem, fixed_start, register

__all__ = ["Dataset", "read"]

_Model = Callable[[Point, Predictors], Residuals]

# dataset: model, level of difficulty
_TABLE: dict[str, tuple[_Model, str]] = {
    "Bennett5": (models.bennett5, "higher"),
    "BoxBOD": (models.saturation, "higher"),
    "Chwirut1": (models.chwirut, "lower"),
    "Chwirut2": (models.chwirut, "lower"),
    "DanWood": (models.power, "lower"),
    "ENSO": (models.three_cycles, "average"),
    "Eckerle4": (models.eckerle4, "higher"),
    "Gauss1": (models.two_peaks, "lower"),
    "Gauss2": (models.two_peaks, "lower"),
    "Gauss3": (models.two_peaks, "average"),
    "Hahn1": (models.cubic_over_cubic, "average"),
    "Kirby2": (models.quadratic_over_quadratic, "average"),
    "Lanczos1": (models.three_exponentials, "average"),
    "Lanczos2": (models.three_exponentials, "average"),
    "Lanczos3": (models.three_exponentials, "lower"),
    "MGH09": (models.mgh09, "higher"),
    "MGH10": (models.mgh10, "higher"),
    "MGH17": (models.two_exponentials, "average"),
    "Misra1a": (models.saturation, "lower"),
    "Misra1b": (models.misra1b, "lower"),
    "Misra1c": (models.misra1c, "average"),
    "Misra1d": (models.misra1d, "average"),
    "Nelson": (models.nelson, "average"),
    "Rat42": (models.rat42, "higher"),
    "Rat43": (models.rat43, "higher"),
    "Roszman1": (models.roszman1, "average"),
    "Thurber": (models.cubic_over_cubic, "higher"),
}


@functools.cache  # the same model gives the same residual, so compiled code is reused
def _residual_of(model: _Model) -> Callable[..., Residuals]:
    """Build the residual, response minus model."""

    def residual(b: Point, x: Predictors, y: Residuals) -> Residuals:
        return y - model(b, x)

    residual.__name__ = residual.__qualname__ = f"residual({model.__name__})"
    return residual


def _build(dataset: str, model: _Model, start: int) -> Problem:
    """Make the problem of one data file."""
    if start not in (1, 2):
        raise ValueError(f"`start` must be 1 (far) or 2 (near), got {start}.")
    data = read(dataset)
    # Nelson's model is of the logarithm of the response
    response = np.log(data.response) if dataset == "Nelson" else data.response
    residual = _residual_of(model)
    return Problem(
        name=dataset.lower(),
        loss=sum_of_squares(residual),
        residual=residual,
        args=(data.predictors, response),
        init=fixed_start(data.starts[start - 1]),
        minimum=data.certified["residual_sum_of_squares"],
        minimizer=data.certified["parameters"],
        certified=dict(data.certified),
        description=data.description,
        source=f"{data.reference} NIST StRD, public domain.",
    )


def _enter(dataset: str, model: _Model, level: str) -> None:
    """Register the builder of one data set."""

    @register(dataset.lower(), tags=("nist", f"nist_{level}", "least_squares", "data"))
    def build(*, start: int = 1) -> Problem:
        return _build(dataset, model, start)


for _dataset, (_model, _level) in _TABLE.items():
    _enter(_dataset, _model, _level)
