"""gradlab: a numerical differentiation laboratory on JAX.

Derivatives that know how right they are, Newton methods as optax transformations, and
comparisons of minimisers on the same axes. Names are imported when first used, so that
`gradlab --help` answers before JAX is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradlab._lazy import make_lazy

__version__ = "0.1.0"

# Public name -> module that defines it.
_HOMES = {
    "Certificate": "gradlab.certificate",
    "Checkpoint": "gradlab.checkpoint",
    "CheckReport": "gradlab.derivatives.check",
    "Comparison": "gradlab.compare",
    "Diagnosis": "gradlab.diagnose",
    "DerivativeStatus": "gradlab.derivatives.adaptive",
    "Estimate": "gradlab.derivatives.adaptive",
    "Fit": "gradlab.fit",
    "Kind": "gradlab.certificate",
    "Method": "gradlab.optimizers",
    "NoiseEstimate": "gradlab.derivatives.noise",
    "NoiseStatus": "gradlab.derivatives.noise",
    "Problem": "gradlab.problems",
    "Progress": "gradlab.minimize",
    "Result": "gradlab.result",
    "Status": "gradlab.result",
    "Trace": "gradlab.trace",
    "adahessian": "gradlab.optimizers",
    "assert_derivatives": "gradlab.derivatives.check",
    "averaged_natural_gradient": "gradlab.optimizers",
    "barzilai_borwein": "gradlab.optimizers",
    "bfgs": "gradlab.optimizers",
    "certify": "gradlab._certify",
    "certify_digits": "gradlab.derivatives.digits",
    "check_derivatives": "gradlab.derivatives.check",
    "compare": "gradlab.compare",
    "convergence_order": "gradlab.compare",
    "cubic_newton": "gradlab.optimizers",
    "damped_newton": "gradlab.optimizers",
    "dogleg": "gradlab.optimizers.least_squares",
    "diagnose": "gradlab.diagnose",
    "estimate_noise": "gradlab.derivatives.noise",
    "gauss_newton": "gradlab.optimizers.least_squares",
    "gauss_newton_cg": "gradlab.optimizers",
    "hessian": "gradlab.derivatives.autodiff",
    "hvp": "gradlab.derivatives.autodiff",
    "laplacian": "gradlab.derivatives.laplacian",
    "lbfgs": "gradlab.optimizers",
    "least_squares": "gradlab.least_squares",
    "levenberg_marquardt": "gradlab.optimizers.least_squares",
    "levenberg_marquardt_cg": "gradlab.optimizers.least_squares",
    "make": "gradlab.optimizers",
    "methods": "gradlab.optimizers",
    "minibatches": "gradlab.optimizers",
    "minimize": "gradlab.minimize",
    "mixed_partial": "gradlab.derivatives.taylor",
    "multistart": "gradlab.compare",
    "natural_gradient": "gradlab.optimizers",
    "newton": "gradlab.optimizers",
    "newton_cg": "gradlab.optimizers",
    "nonlinear_cg": "gradlab.optimizers",
    "nth_derivative": "gradlab.derivatives.taylor",
    "plot_basins": "gradlab.plots",
    "plot_check": "gradlab.plots",
    "plot_convergence": "gradlab.plots",
    "plot_convergence_order": "gradlab.plots",
    "plot_data_profile": "gradlab.plots",
    "plot_error_ranges": "gradlab.plots",
    "plot_errors": "gradlab.plots",
    "plot_learning_rates": "gradlab.plots",
    "plot_performance_profile": "gradlab.plots",
    "plot_samples": "gradlab.plots",
    "plot_spectrum": "gradlab.plots",
    "plot_step_size_errors": "gradlab.plots",
    "plot_trajectories": "gradlab.plots",
    "pure_newton": "gradlab.optimizers",
    "regularized_newton": "gradlab.optimizers",
    "saddle_free_newton": "gradlab.optimizers",
    "save_figure": "gradlab.plots",
    "scale_by_ggn": "gradlab.optimizers",
    "scale_by_newton": "gradlab.optimizers",
    "scale_by_newton_cg": "gradlab.optimizers",
    "sophia": "gradlab.optimizers",
    "sweep": "gradlab.compare",
    "taylor": "gradlab.derivatives.taylor",
    "value_grad_hvp": "gradlab.derivatives.autodiff",
    "with_derivative": "gradlab.derivatives.with_derivative",
}

# Public modules and where they live.
_MODULES = {
    "adaptive": "gradlab.derivatives.adaptive",
    "backprop": "gradlab.derivatives.backprop",
    "curvature": "gradlab.derivatives.curvature",
    "finite": "gradlab.derivatives.finite",
    "optimizers": "gradlab.optimizers",
    "plots": "gradlab.plots",
    "problems": "gradlab.problems",
    "sharding": "gradlab.sharding",
    "sparse": "gradlab.derivatives.sparse",
}

__all__ = sorted([*_HOMES, *_MODULES])

make_lazy(__name__, {**_HOMES, **_MODULES})

if TYPE_CHECKING:
    from gradlab import optimizers, plots, problems, sharding
    from gradlab._certify import certify
    from gradlab.certificate import Certificate, Kind
    from gradlab.checkpoint import Checkpoint
    from gradlab.compare import Comparison, compare, convergence_order, multistart, sweep
    from gradlab.derivatives import adaptive, backprop, curvature, finite, sparse
    from gradlab.derivatives.adaptive import DerivativeStatus, Estimate
    from gradlab.derivatives.autodiff import hessian, hvp, value_grad_hvp
    from gradlab.derivatives.check import CheckReport, assert_derivatives, check_derivatives
    from gradlab.derivatives.digits import certify_digits
    from gradlab.derivatives.laplacian import laplacian
    from gradlab.derivatives.noise import NoiseEstimate, NoiseStatus, estimate_noise
    from gradlab.derivatives.taylor import mixed_partial, nth_derivative, taylor
    from gradlab.derivatives.with_derivative import with_derivative
    from gradlab.diagnose import Diagnosis, diagnose
    from gradlab.fit import Fit
    from gradlab.least_squares import least_squares
    from gradlab.minimize import Progress, minimize
    from gradlab.optimizers import (
        Method,
        adahessian,
        averaged_natural_gradient,
        barzilai_borwein,
        bfgs,
        cubic_newton,
        damped_newton,
        gauss_newton_cg,
        lbfgs,
        make,
        methods,
        minibatches,
        natural_gradient,
        newton,
        newton_cg,
        nonlinear_cg,
        pure_newton,
        regularized_newton,
        saddle_free_newton,
        scale_by_ggn,
        scale_by_newton,
        scale_by_newton_cg,
        sophia,
    )
    from gradlab.optimizers.least_squares import (
        dogleg,
        gauss_newton,
        levenberg_marquardt,
        levenberg_marquardt_cg,
    )
    from gradlab.plots import (
        plot_basins,
        plot_check,
        plot_convergence,
        plot_convergence_order,
        plot_data_profile,
        plot_error_ranges,
        plot_errors,
        plot_learning_rates,
        plot_performance_profile,
        plot_samples,
        plot_spectrum,
        plot_step_size_errors,
        plot_trajectories,
        save_figure,
    )
    from gradlab.problems import Problem
    from gradlab.result import Result, Status
    from gradlab.trace import Trace
