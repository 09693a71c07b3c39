"""Least squares without a Jacobian, derivatives of its answers, and more bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from support import assert_close, follow, slowly

import gradlab as gl
from gradlab.least_squares import least_squares
from gradlab.result import Status

RNG = np.random.default_rng(1)
MATRIX = jnp.asarray(RNG.normal(size=(30, 4)))
TARGETS = jnp.asarray(RNG.normal(size=30))
TIMES = jnp.linspace(0, 4, 25)
NOISY = 3 * jnp.exp(-0.7 * TIMES) + 0.5 + 0.05 * jnp.asarray(RNG.normal(size=25))


def linear(x, matrix=MATRIX, targets=TARGETS):
    return matrix @ x - targets


def decay(b, targets=NOISY):
    return b[0] * jnp.exp(-b[1] * TIMES) + b[2] - targets


def solved(method="levenberg_marquardt_cg", **options):
    return least_squares(decay, jnp.array([1.0, 1.0, 0.0]), method, **options)


# --- by products --------------------------------------------------------------------------


@pytest.mark.slow
def test_by_products_the_answer_is_that_of_the_dense_method():
    fit, dense = solved(), solved("levenberg_marquardt")
    assert fit.success, fit.message
    np.testing.assert_allclose(fit.x, dense.x, rtol=1e-7)
    assert_close(fit.residuals, decay(fit.x))
    assert fit.jacobian is None
    assert fit.observations == 25
    assert "parameters=3" in repr(fit)


@pytest.mark.parametrize("loss", slowly("huber", "soft_l1", "cauchy", "arctan"))
def test_robust_losses_and_weights_go_by_products_too(loss):
    weights = np.linspace(0.5, 2, 25)
    options = {"loss": loss, "loss_scale": 0.05, "weights": weights}
    fit, dense = solved(**options), solved("levenberg_marquardt", **options)
    assert fit.success, fit.message
    np.testing.assert_allclose(fit.fun, dense.fun, rtol=1e-9)


def test_a_linear_problem_takes_few_steps_and_only_products():
    fit = least_squares(linear, jnp.zeros(4), "levenberg_marquardt_cg")
    best = np.linalg.lstsq(np.asarray(MATRIX), np.asarray(TARGETS))[0]
    np.testing.assert_allclose(fit.x, best, rtol=1e-6)
    assert fit.nit <= 6
    assert fit.nhev == 0
    assert 0 < fit.nhvp < 60
    assert fit.cost == pytest.approx(float(fit.nfev / 3 + fit.ngev + 2.0 * fit.nhvp))


@pytest.mark.slow
def test_a_hundred_thousand_parameters_are_fitted_without_a_matrix():
    n = 100_000
    truth = jnp.sin(jnp.arange(n) * 0.01)

    def residual(x):  # a nonlinear chain: its Jacobian would take 160 GB
        fitted = x + 0.1 * x**3 - truth
        smooth = 0.1 * (x[1:] - x[:-1])
        return jnp.concatenate([fitted, smooth])

    fit = least_squares(residual, jnp.zeros(n), "levenberg_marquardt_cg")
    assert fit.success, fit.message
    start = jnp.sum(residual(jnp.zeros(n)) ** 2)
    assert fit.fun < 1e-2 * start


def test_what_needs_the_jacobian_says_so():
    fit = solved()
    for name in ("covariance", "standard_errors", "rank"):
        with pytest.raises(ValueError, match="need the Jacobian, which method"):
            getattr(fit, name)
    with pytest.raises(ValueError, match="`bounds` cannot be used with method="):
        solved(bounds=(0.0, 10.0))
    with pytest.raises(ValueError, match="`grad` cannot be used with method="):
        solved(grad=gl.finite.grad)


def test_it_is_an_optax_transformation_whose_loss_falls():
    def loss(b):
        return jnp.sum(decay(b) ** 2)

    method = gl.levenberg_marquardt_cg(decay)
    points, states = follow(method, loss, jnp.array([1.0, 1.0, 0.0]), 6)
    losses = [float(loss(x)) for x in points]
    assert losses == sorted(losses, reverse=True)
    assert_close(states[-1].value, loss(points[-1]))
    assert_close(states[-1].grad, jax.grad(loss)(points[-1]), scale=1.0)


def test_scaling_the_residuals_takes_the_same_steps_by_products():
    plain = solved(max_steps=4)
    for scale in (1e-8, 1e8):
        other = least_squares(
            lambda b, s=scale: s * decay(b), jnp.array([1.0, 1.0, 0.0]),
            "levenberg_marquardt_cg", max_steps=4,
        )  # fmt: skip
        np.testing.assert_allclose(other.x, plain.x, rtol=1e-9)


def test_float32_and_vmap_by_products():
    def run(targets):
        return least_squares(
            decay, jnp.array([1.0, 1.0, 0.0], jnp.float32), "levenberg_marquardt_cg",
            args=(targets,), max_steps=60,
        )  # fmt: skip

    targets = jnp.stack([NOISY, 2 * NOISY]).astype(jnp.float32)
    both = jax.jit(jax.vmap(run))(targets)
    assert both.x.dtype == jnp.float32
    assert both.success.all()
    np.testing.assert_allclose(both.x[1], both.x[0] * np.array([2, 1, 2]), rtol=2e-2)


# --- derivatives of answers -----------------------------------------------------------------


@pytest.mark.parametrize("method", ["levenberg_marquardt", "levenberg_marquardt_cg"])
@pytest.mark.slow
def test_a_linear_answers_derivative_is_the_pseudo_inverse(method):
    def answer(targets):
        return least_squares(linear, jnp.zeros(4), method, args=(MATRIX, targets)).x

    exact = np.linalg.pinv(np.asarray(MATRIX))
    for jacobian in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(jacobian(answer)(TARGETS), exact, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_a_nonlinear_answers_derivative_agrees_with_differences():
    def answer(shift):
        fit = least_squares(decay, jnp.array([1.0, 1.0, 0.0]), args=(NOISY + shift * TIMES,))
        return fit.x @ jnp.array([1.0, 2.0, 3.0])

    step = 1e-4  # central differences: errors of 1e-8 from the step, 1e-10 from rounding
    low, high = jax.jit(jax.vmap(answer))(0.01 + step * jnp.array([-1.0, 1.0]))
    expected = (high - low) / (2 * step)
    assert abs(jax.jit(jax.grad(answer))(0.01) - expected) <= 1e-6 * abs(expected)


@pytest.mark.slow
def test_the_least_losss_derivative_is_the_partial_one_and_weights_count():
    def least(weights):
        fit = least_squares(linear, jnp.zeros(4), args=(MATRIX, TARGETS), weights=weights)
        return fit.fun

    x = np.linalg.lstsq(np.asarray(MATRIX), np.asarray(TARGETS))[0]
    residuals = np.asarray(MATRIX) @ x - np.asarray(TARGETS)
    assert_close(jax.grad(least)(jnp.ones(30)), residuals**2, factor=1e5)


def test_a_parameter_held_by_a_bound_does_not_move():
    free = np.linalg.lstsq(np.asarray(MATRIX), np.asarray(TARGETS))[0]
    upper = jnp.asarray(np.where(np.arange(4) == 2, free - 0.1, np.inf))

    def answer(targets):
        return least_squares(
            linear, jnp.zeros(4) - 1, args=(MATRIX, targets), bounds=(-10.0, upper)
        ).x

    jacobian = jax.jacrev(answer)(TARGETS)
    others = np.array([0, 1, 3])
    assert np.all(jacobian[2] == 0)
    np.testing.assert_allclose(
        jacobian[others], np.linalg.pinv(np.asarray(MATRIX)[:, others]), rtol=1e-7, atol=1e-12
    )
    inside = scipy.optimize.lsq_linear(MATRIX, TARGETS, (-10.0, np.asarray(upper))).x
    np.testing.assert_allclose(answer(TARGETS), inside, rtol=1e-6)


@pytest.mark.slow
def test_the_derivative_of_no_success_is_nan():
    def answer(targets):
        return jnp.sum(least_squares(decay, jnp.ones(3), args=(targets,), max_steps=1).x)

    assert np.all(np.isnan(jax.grad(answer)(NOISY)))


# --- bad input ------------------------------------------------------------------------------


def test_residuals_of_shapes_that_do_not_fit_are_the_callers_own_error():
    with pytest.raises((TypeError, ValueError), match=r"incompatible shapes|broadcast"):
        least_squares(lambda x, y: x[:3] - y, jnp.ones(4), args=(jnp.ones(5),))
    with pytest.raises(ValueError, match="must be shaped like the residuals"):
        least_squares(linear, jnp.zeros(4), weights=np.ones(29))
    with pytest.raises(ValueError, match="returned no residuals"):
        least_squares(lambda x: x[:0], jnp.ones(3))


@pytest.mark.parametrize("method", ["levenberg_marquardt", "levenberg_marquardt_cg"])
def test_fewer_residuals_than_parameters_find_a_solution(method):
    fit = least_squares(lambda x: jnp.array([x @ x - 4.0, x[0] - x[1]]), jnp.ones(5), method)
    assert fit.success, fit.message
    np.testing.assert_allclose(fit.residuals, 0, atol=1e-7)


@pytest.mark.parametrize("method", ["levenberg_marquardt_cg", "gauss_newton", "dogleg"])
def test_a_rank_deficient_jacobian_is_no_obstacle_to_any_method(method):
    doubled = jnp.concatenate([MATRIX, MATRIX[:, :1]], axis=1)
    fit = least_squares(linear, jnp.zeros(5), method, args=(doubled, TARGETS))
    best = np.linalg.lstsq(np.asarray(MATRIX), np.asarray(TARGETS))[0]
    assert fit.success, fit.message
    np.testing.assert_allclose(fit.x[0] + fit.x[4], best[0], rtol=1e-5)


@pytest.mark.parametrize("method", ["levenberg_marquardt_cg", "gauss_newton", "newton"])
def test_the_first_row_that_is_nan_is_named_by_every_method(method):
    bad = TARGETS.at[jnp.array([7, 12])].set(np.nan)
    fit = least_squares(linear, jnp.zeros(4), method, args=(MATRIX, bad))
    assert fit.status == Status.NONFINITE_START
    assert "number 7" in fit.message


def test_a_scalar_residual_is_sent_to_minimize():
    for method in ("levenberg_marquardt", "levenberg_marquardt_cg"):
        with pytest.raises(TypeError, match=r"returned a scalar.*use gradlab.minimize"):
            least_squares(lambda x: jnp.sum(x**2), jnp.ones(3), method)


def test_estimators_without_a_key_say_which_and_how():
    product = gl.curvature.hessian_vp(lambda x: jnp.sum(x**4), jnp.ones(50))
    for estimate in (
        lambda: gl.curvature.trace(product, jnp.ones(50), num_products=10),
        lambda: gl.curvature.diagonal(
            product, jnp.ones(50), method="hutchinson", num_products=10
        ),
    ):
        with pytest.raises(ValueError, match=r"draws random vectors and needs a `key`"):
            estimate()


def test_more_probes_than_dimensions_are_exact_without_a_key():
    x = jnp.arange(1.0, 6.0)
    found = gl.curvature.hessian_trace(lambda x: jnp.sum(x**3), x, num_products=10)
    assert found.lower == found.upper
    assert_close(found.value, 6 * jnp.sum(x))


@pytest.mark.parametrize("scale", [1e-13, 1e-6, 1e6, 1e13])
def test_the_units_of_the_residuals_do_not_matter_in_float32(scale):
    t = jnp.linspace(0, 3, 30, dtype=jnp.float32)
    y = 2 * jnp.exp(-0.8 * t) + 0.3 + 0.05 * jnp.sin(50 * t)

    def residual(p, c):
        return c * (p[0] * jnp.exp(-p[1] * t) + p[2] - y)

    start = jnp.array([1, 1, 0], jnp.float32)
    fits = [
        gl.least_squares(residual, start, "levenberg_marquardt_cg", args=(jnp.float32(c),))
        for c in (1.0, scale)
    ]
    assert fits[1].success, fits[1]
    np.testing.assert_allclose(fits[1].x, fits[0].x, rtol=1e-2)
