"""Minimisers as optax transformations, and their names.

Those that are reached by no name in `methods()` are imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gradlab.optimizers.first_order import learning_rate_schedule, schedules
from gradlab.optimizers.method import Method, make, methods
from gradlab.optimizers.minibatches import Minibatches, minibatches
from gradlab.optimizers.newton import (
    cubic_newton,
    damped_newton,
    newton,
    pure_newton,
    regularized_newton,
    saddle_free_newton,
)
from gradlab.optimizers.newton_cg import newton_cg
from gradlab.optimizers.nonlinear_cg import barzilai_borwein, nonlinear_cg
from gradlab.optimizers.quasi_newton import bfgs, lbfgs

if TYPE_CHECKING:
    from gradlab.optimizers.averaged import averaged_natural_gradient
    from gradlab.optimizers.diagonal import adahessian, sophia
    from gradlab.optimizers.directions import scale_by_ggn, scale_by_newton, scale_by_newton_cg
    from gradlab.optimizers.stochastic import gauss_newton_cg, natural_gradient

_HOMES = {
    "adahessian": "diagonal",
    "averaged_natural_gradient": "averaged",
    "gauss_newton_cg": "stochastic",
    "natural_gradient": "stochastic",
    "scale_by_ggn": "directions",
    "scale_by_newton": "directions",
    "scale_by_newton_cg": "directions",
    "sophia": "diagonal",
}

__all__ = [
    "Method",
    "Minibatches",
    "adahessian",
    "averaged_natural_gradient",
    "barzilai_borwein",
    "bfgs",
    "cubic_newton",
    "damped_newton",
    "gauss_newton_cg",
    "lbfgs",
    "learning_rate_schedule",
    "make",
    "methods",
    "minibatches",
    "natural_gradient",
    "newton",
    "newton_cg",
    "nonlinear_cg",
    "pure_newton",
    "regularized_newton",
    "saddle_free_newton",
    "scale_by_ggn",
    "scale_by_newton",
    "scale_by_newton_cg",
    "schedules",
    "sophia",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
