"""Curvature of a loss without its Hessian: products, diagonal, trace, spectrum, eigenpairs.

A product is a function of v, shaped like the parameters, to A v, of a symmetric A: the
Hessian (`hessian_vp`), the generalised Gauss-Newton matrix (`ggn_vp`) or the Fisher matrix
(`fisher_vp`). Every other function takes such a product. What is estimated from random
vectors comes with an interval that holds the truth in 95 % of the draws.

A tool is compiled, in a second or so, for each kind of product; one that differs from another
in numbers alone, as the Hessians of a loss at two points, shares its code and is traced only,
in a tenth of that. Along a run, make the product inside of one compiled function:

    @jax.jit
    def sharpness(params):
        return top_eigenpairs(hessian_vp(loss, params), params).values[0]

Other functions of the matrix are matfree's (extra `curvature`), which takes a product as its
`matvec`. The log-determinant of A + I, for one, by stochastic Lanczos quadrature:

    from matfree import decomp, funm, stochtrace

    def shifted(v):
        return jax.tree.map(jnp.add, v, product(v))

    integrand = funm.monte_carlo_funm_sym_logdet(decomp.tridiag_sym(20))
    sampler = stochtrace.sampler_signs(params, num=30)
    log_determinant = stochtrace.estimator_monte_carlo(integrand, sampler)(shifted, key)

Estimates here do not rest on it: its Lanczos process (0.6.3) goes on in the rounding errors
where the space closes, as it does for every matrix with few distinct eigenvalues, and its
leave-one-out estimators have a standard error that dependent terms make too small.
"""

from gradlab.derivatives.curvature._diagonal import diagonal, hessian_diagonal
from gradlab.derivatives.curvature._eigenpairs import (
    ConditionNumber,
    Eigenpairs,
    condition_number,
    top_eigenpairs,
)
from gradlab.derivatives.curvature._intervals import CurvatureEstimate
from gradlab.derivatives.curvature._products import (
    fisher_vp,
    ggn_vp,
    hessian_blocks,
    hessian_vp,
)
from gradlab.derivatives.curvature._spectrum import Spectrum, spectrum
from gradlab.derivatives.curvature._trace import hessian_trace, trace

__all__ = [
    "ConditionNumber",
    "CurvatureEstimate",
    "Eigenpairs",
    "Spectrum",
    "condition_number",
    "diagonal",
    "fisher_vp",
    "ggn_vp",
    "hessian_blocks",
    "hessian_diagonal",
    "hessian_trace",
    "hessian_vp",
    "spectrum",
    "top_eigenpairs",
    "trace",
]
