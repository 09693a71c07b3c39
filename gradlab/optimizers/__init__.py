"""Minimisers as optax transformations, and their names.

Each is imported when first used: a run needs one.
"""

from typing import TYPE_CHECKING

from gradlab._lazy import make_lazy
from gradlab.optimizers.first_order import learning_rate_schedule, schedules
from gradlab.optimizers.method import Method, make, methods

if TYPE_CHECKING:
    from gradlab.optimizers.averaged import averaged_natural_gradient
    from gradlab.optimizers.diagonal import adahessian, sophia
    from gradlab.optimizers.directions import scale_by_ggn, scale_by_newton, scale_by_newton_cg
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
    from gradlab.optimizers.stochastic import gauss_newton_cg, natural_gradient

# Module -> the names it defines.
_NAMES = {
    "averaged": ("averaged_natural_gradient",),
    "diagonal": ("adahessian", "sophia"),
    "directions": ("scale_by_ggn", "scale_by_newton", "scale_by_newton_cg"),
    "minibatches": ("Minibatches", "minibatches"),
    "newton": (
        "cubic_newton",
        "damped_newton",
        "newton",
        "pure_newton",
        "regularized_newton",
        "saddle_free_newton",
    ),
    "newton_cg": ("newton_cg",),
    "nonlinear_cg": ("barzilai_borwein", "nonlinear_cg"),
    "quasi_newton": ("bfgs", "lbfgs"),
    "stochastic": ("gauss_newton_cg", "natural_gradient"),
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

make_lazy(
    __name__,
    {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names},
)
