"""The family of methods under other units: of the loss, of its zero, of the variables."""

import jax.numpy as jnp
import numpy as np
import pytest

import gradlab as gl
from gradlab.optimizers import first_order

OWN = sorted(set(gl.methods()) - set(first_order.FACTORIES) - {"adahessian", "sophia"})
START = np.array([-2.0, 3.0, 0.5])
# Of the loss, and of all variables: powers of two round nothing, powers of ten every value.
UNITS = [(2.0**-30, 1.0), (2.0**30, 1.0), (1.0, 2.0**-13), (1.0, 2.0**13)]
UNITS += [(1e-9, 1.0), (1e9, 1.0), (1.0, 1e-4), (1.0, 1e4)]


def mixed(x, scale, level, unit):
    """Convex in part only, with mixed terms; its variables are in units of `unit`."""
    y = x / unit
    return level + scale * (jnp.sum(jnp.exp(y) - 2 * y) + (y[0] - y[1]) ** 4 - y[0] * y[2])


def run(method, scale=1.0, level=0.0, unit=1.0, **options):
    unit = jnp.asarray(unit)
    options = {"gtol": 1e-8, "trace": "params", "max_steps": 300, **options}
    return gl.minimize(
        mixed, jnp.asarray(unit * START), method, args=(scale, level, unit), **options
    )


@pytest.mark.parametrize("method", OWN)
def test_units_of_loss_and_variables_change_no_step(method):
    plain = run(method)
    assert plain.success
    for scale, unit in UNITS:
        other = run(method, scale=scale, unit=unit)
        assert (other.nit, other.nfev, other.nhvp) == (plain.nit, plain.nfev, plain.nhvp)
        # Rounding grows along a path on which no step forgives an error of the one before.
        np.testing.assert_allclose(other.trace.params / unit, plain.trace.params, rtol=1e-5)
        np.testing.assert_allclose(other.fun / scale, plain.fun, rtol=1e-9)


@pytest.mark.parametrize("method", OWN)
def test_a_constant_added_to_the_loss_changes_no_step_while_it_leaves_digits(method):
    # Beside 10⁴ float64 tells values apart to 10⁻¹²: a gradient of 10⁻⁴ is still far above.
    plain, raised = (run(method, level=level, gtol=1e-4) for level in (0.0, 1e4))
    assert plain.success
    assert raised.success
    assert raised.nit == plain.nit
    np.testing.assert_allclose(raised.trace.params, plain.trace.params, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["pure_newton", "damped_newton"])
def test_affine_invariant_methods_do_not_feel_the_units_of_single_variables(method):
    # The Hessian is positive definite on the whole way; damping knows the units of others.
    start = np.array([2.0, 3.0, 0.5])

    def single(unit):
        return gl.minimize(
            mixed, jnp.asarray(unit * start), method, args=(1.0, 0.0, jnp.asarray(unit)),
            trace="params", gtol=0.0, max_steps=6,
        )  # fmt: skip

    plain = single(np.ones(3))
    for unit in (np.array([1e-4, 1.0, 1.0]), np.array([1.0, 1.0, 1e4])):
        other = single(unit)
        assert other.nit == plain.nit
        np.testing.assert_allclose(other.trace.params / unit, plain.trace.params, rtol=1e-5)
