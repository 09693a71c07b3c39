"""Least squares: certified answers, SciPy's numbers, scaling laws, honest ends and counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.stats
from support import assert_close, slowly

import gradlab as gl
from gradlab.fit import student_quantile
from gradlab.least_squares import least_squares
from gradlab.optimizers._residuals import Residuals, sum_of_losses
from gradlab.optimizers.least_squares import levenberg_marquardt
from gradlab.optimizers.robust import corrected, robust_loss
from gradlab.result import Status

METHODS = ("levenberg_marquardt", "gauss_newton", "dogleg", "newton")
T = np.linspace(0.0, 3.0, 12)
NOISE = 0.05 * np.sin(7 * np.arange(12) ** 1.5)
TRUE = np.array([2.0, 1.3, 0.5])


def decay(b, t, y, scale=1.0):
    """Residuals of an exponential decay to a level."""
    return scale * (b[0] * jnp.exp(-b[1] * t) + b[2] - y)


def data(dtype=np.float64):
    y = TRUE[0] * np.exp(-TRUE[1] * T) + TRUE[2] + NOISE
    return jnp.asarray(T, dtype), jnp.asarray(y, dtype)


def scipy_fit(**options):
    t, y = (np.asarray(part) for part in data())
    return scipy.optimize.least_squares(
        lambda b: b[0] * np.exp(-b[1] * t) + b[2] - y,
        np.array([1.0, 1.0, 0.0]), xtol=1e-15, ftol=1e-15, gtol=1e-15, **options,
    )  # fmt: skip


START = jnp.array([1.0, 1.0, 0.0])


@pytest.fixture(scope="module")
def fitted():
    return least_squares(decay, START, args=(*data(), 1.0))


# --- answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "start"), [("misra1a", 1), ("misra1a", 2)])
def test_certified_parameters_and_standard_errors(name, start):
    problem = gl.problems.get(name, start=start)
    fit = least_squares(problem.residual, problem.init(), args=problem.args)
    assert fit.success
    certified = problem.certified
    np.testing.assert_allclose(fit.x, certified["parameters"], rtol=1e-10)
    np.testing.assert_allclose(fit.standard_errors, certified["standard_deviations"], rtol=1e-8)
    deviation = certified["residual_standard_deviation"]
    np.testing.assert_allclose(fit.residual_standard_deviation, deviation, rtol=1e-9)
    assert fit.degrees_of_freedom == certified["degrees_of_freedom"]
    np.testing.assert_allclose(fit.fun, certified["residual_sum_of_squares"], rtol=1e-9)


@pytest.mark.slow
def test_all_of_nist_to_ten_digits_within_the_budget():
    worst, residuals, jacobians = np.inf, 0, 0
    for name in gl.problems.names(tag="nist"):
        for start in (1, 2):
            problem = gl.problems.get(name, start=start)
            fit = least_squares(problem.residual, problem.init(), args=problem.args)
            certified = problem.certified["parameters"]
            error = np.max(np.abs(np.asarray(fit.x) - certified) / np.abs(certified))
            worst = min(worst, -np.log10(max(error, 1e-11)))
            residuals, jacobians = residuals + fit.nfev, jacobians + fit.njev
            assert fit.success, name
            # Lanczos1's data, rounded to float64, hold 3.4 digits (test_problems_nist).
            rtol = 1e-3 if name == "lanczos1" else 1e-6
            errors = problem.certified["standard_deviations"]
            np.testing.assert_allclose(fit.standard_errors, errors, rtol=rtol)
    assert worst >= 10
    assert residuals <= 2500
    assert jacobians <= 2000


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_scipys_answer(method, fitted):
    fit = (
        fitted
        if method == METHODS[0]
        else least_squares(decay, START, method, args=(*data(), 1.0))
    )
    assert fit.success
    assert_close(fit.x, scipy_fit().x, factor=1e8)  # SciPy's digits
    assert_close(fit.fun, 2 * scipy_fit().cost)
    assert_close(fit.fun, jnp.sum(fit.residuals**2))


def test_covariance_is_the_inverse_of_the_normal_matrix(fitted):
    J = np.asarray(fitted.jacobian)
    expected = fitted.fun / (12 - 3) * np.linalg.inv(J.T @ J)
    assert_close(fitted.covariance, expected, factor=1e5)
    assert_close(np.diag(fitted.correlation), np.ones(3))
    assert_close(fitted.jacobian, jax.jacobian(decay)(fitted.x, *data()), factor=10)


@pytest.mark.slow
def test_intervals_of_a_batch_are_those_of_its_fits():
    def fit(c):
        return least_squares(lambda p: p - jnp.arange(4.0) * c, jnp.array(0.0))

    low, high = jax.vmap(fit)(jnp.array([1.0, 2.0])).intervals()
    for i, c in enumerate((1.0, 2.0)):
        assert (low[i], high[i]) == pytest.approx(fit(c).intervals())
    with pytest.raises(TypeError, match="standard_errors"):
        jax.jit(lambda c: fit(c).intervals())(1.0)


def test_intervals_are_students(fitted):
    low, high = fitted.intervals(0.9)
    factor = scipy.stats.t.ppf(0.95, 9)
    assert_close(high - low, 2 * factor * fitted.standard_errors, factor=1e6)


@pytest.mark.parametrize("freedom", [1, 2, 9, 200, 501, 10**5, 10**8])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_the_quantile_of_student(level, freedom):
    expected = scipy.stats.t.ppf(0.5 + level / 2, freedom)
    assert student_quantile(level, freedom) == pytest.approx(expected, rel=1e-8)


def test_the_summary_names_every_parameter_and_the_end(fitted):
    text = fitted.summary()
    for word in ("x[0]", "x[2]", "std. error", "95 % interval", "9 degrees of freedom"):
        assert word in text
    assert "NOISE_FLOOR" in text or "CONVERGED" in text
    assert "Jacobians" in repr(fitted)


# --- laws ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scaling_the_residuals_takes_the_same_steps(scale, fitted):
    fit = least_squares(decay, START, args=(*data(), scale))
    # A last step at the noise may fall to either side.
    assert abs(int(fit.nit) - int(fitted.nit)) <= 1
    assert_close(fit.trace.loss[:5] / scale**2, fitted.trace.loss[:5], factor=1e4)
    assert_close(fit.x, fitted.x, factor=1e4)
    assert_close(fit.standard_errors, fitted.standard_errors, factor=1e5)


def stretched(b, t, y, stretch):
    return decay(b / stretch, t, y)


def test_scaling_a_parameter_takes_the_same_steps():
    unit, stretch = jnp.ones(3), jnp.array([1e4, 1.0, 1e-4])
    first = least_squares(stretched, TRUE + 1, args=(*data(), unit))
    second = least_squares(stretched, (TRUE + 1) * stretch, args=(*data(), stretch))
    assert abs(int(first.nit) - int(second.nit)) <= 1
    assert_close(second.trace.loss[:5], first.trace.loss[:5], factor=1e5)
    assert_close(second.x / stretch, first.x, factor=1e4)


def test_float32_stays_float32_and_reaches_its_digits(fitted):
    t, y = data(np.float32)
    fit = least_squares(decay, START.astype(np.float32), args=(t, y, np.float32(1)))
    assert fit.success
    assert fit.x.dtype == np.float32
    assert fit.fun.dtype == np.float32
    assert_close(fit.x, fitted.x, factor=50)


# --- forms --------------------------------------------------------------------------------


def test_trees_of_parameters_and_residuals(fitted):
    def tree_residual(p, t, y):
        r = decay(jnp.array([p["a"], p["k"], p["c"]]), t, y)
        return {"first": r[:5], "rest": r[5:].reshape(7, 1)}

    start = {"a": jnp.array(1.0), "k": jnp.array(1.0), "c": jnp.array(0.0)}
    fit = least_squares(tree_residual, start, args=data())
    assert_close(jnp.array([fit.x["a"], fit.x["k"], fit.x["c"]]), fitted.x, factor=1e4)
    assert set(fit.standard_errors) == {"a", "k", "c"}
    assert "x['k']" in fit.summary()


@pytest.mark.slow
def test_vmap_and_jit_agree_with_single_runs(fitted):
    t, y = data()
    starts = jnp.stack([START, START + 0.3])
    batch = jax.jit(jax.vmap(lambda x: least_squares(decay, x, args=(t, y, 1.0), trace=None)))
    fits = batch(starts)
    assert np.all(fits.success)
    for x in fits.x:
        assert_close(x, fitted.x, factor=1e4)
    assert fits.covariance.shape == (2, 3, 3)
    assert_close(fits.standard_errors[0], fitted.standard_errors, factor=1e5)
    assert_close(fits.degrees_of_freedom, np.array([9, 9]))


def test_it_is_an_optax_transformation():
    def rosenbrock(x):
        return jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])

    def half(x):  # a constant multiple of the sum of squares will do
        return 0.5 * jnp.sum(rosenbrock(x) ** 2)

    method, x = levenberg_marquardt(rosenbrock), jnp.array([-1.2, 1.0])
    state = method.init(x)
    value_and_grad = optax.value_and_grad_from_state(half)

    @jax.jit
    def step(x, state):
        value, grad = value_and_grad(x, state=state)
        updates, state = method.update(
            grad, state, x, value=value, grad=grad, value_fn=half, unknown=1
        )
        return optax.apply_updates(x, updates), state

    for _ in range(6):
        x, state = step(x, state)
        assert_close(state.value, half(x), factor=1e3)
        assert_close(state.grad, jax.grad(half)(x), scale=1.0, factor=1e4)
    for _ in range(12):
        x, state = step(x, state)
    assert_close(x, jnp.ones(2))


def test_a_run_goes_on_from_its_state(fitted):
    first = least_squares(decay, START, args=(*data(), 1.0), max_steps=3)
    assert first.status == Status.MAX_STEPS
    assert not first.success
    second = least_squares(decay, first.x, args=(*data(), 1.0), state=first.state)
    assert_close(second.x, fitted.x, factor=1e4)
    assert second.nit < fitted.nit


CALLS = []


def counted(b, t, y):
    jax.debug.callback(lambda: CALLS.append(1))
    return decay(b, t, y)


def test_counters_equal_the_calls_really_made():
    CALLS.clear()
    fit = least_squares(counted, START, args=data(), max_steps=4)
    jax.effects_barrier()
    # A forward pass belongs to each residual vector but that of the start, whose gradient
    # comes with it, to each Jacobian, second derivative and matrix of them.
    assert len(CALLS) == fit.nfev + fit.njev - 1 + fit.nhvp + fit.nhev


def test_second_derivatives_of_the_residuals_are_exact():
    t, y = data()
    at = Residuals(decay, jnp.asarray(TRUE), (t, y), None, "linear", None, None)
    x, v, w = jnp.asarray(TRUE), jnp.array([0.3, -0.2, 0.7]), jnp.cos(t)
    decayed = jnp.exp(-x[1] * t)
    bend = -2 * v[0] * v[1] * t * decayed + v[1] ** 2 * x[0] * t**2 * decayed
    assert_close(at.bend(x, v), bend)
    mixed, pure = -jnp.sum(w * t * decayed), x[0] * jnp.sum(w * t**2 * decayed)
    expected = jnp.array([[0.0, mixed, 0.0], [mixed, pure, 0.0], [0.0, 0.0, 0.0]])
    assert_close(at.curvature(x, w), expected)


def test_large_residuals_are_met_with_second_derivatives():
    """Gauss-Newton steps alone take some hundreds on Brown and Dennis' function."""
    problem = gl.problems.get("brown_dennis")
    fit = least_squares(problem.residual, problem.init(), args=problem.args)
    assert fit.success
    assert_close(fit.fun, 85822.20162635627)
    assert fit.nit < 40
    assert fit.nhev > 3


# --- robust losses, weights, bounds -------------------------------------------------------


def outliers():
    t, y = data()
    return t, y.at[3].add(4.0).at[8].add(-3.0)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "loss",
    ["cauchy", *(pytest.param(name, marks=SLOW) for name in ("huber", "soft_l1", "arctan"))],
)
def test_robust_losses_agree_with_scipy(loss):
    t, y = outliers()
    fit = least_squares(decay, jnp.asarray(TRUE), args=(t, y), loss=loss, loss_scale=0.1)
    expected = scipy.optimize.least_squares(
        lambda b: b[0] * np.exp(-b[1] * np.asarray(t)) + b[2] - np.asarray(y),
        TRUE, loss=loss, f_scale=0.1, xtol=1e-15, ftol=1e-15, gtol=1e-15,
    )  # fmt: skip
    assert fit.success
    assert fit.fun <= 2 * expected.cost * (1 + 1e-9)
    np.testing.assert_allclose(fit.x, expected.x, rtol=1e-5)


@pytest.mark.parametrize("loss", ["huber", "soft_l1", "cauchy", "arctan"])
def test_triggs_correction_has_gradient_and_hessian_of_the_loss(loss):
    A = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)))
    x, c = jnp.array([0.3, -1.0, 2.0]), 0.7

    def value(x):
        return sum_of_losses(A @ x - 0.2, robust_loss(loss, c))

    r = A @ x - 0.2
    to_r, to_j, _, raised = corrected(r, robust_loss(loss, c)(r))
    J = to_j[:, None] * A
    assert_close(2 * J.T @ (to_r * r), jax.grad(value)(x))
    assert_close(2 * (J.T @ J + A.T @ (raised[:, None] * A)), jax.hessian(value)(x))


@pytest.mark.slow
def test_weights_act_as_repeated_observations():
    t, y = data()
    weights = np.ones(12)
    weights[[2, 7]] = [2.0, 0.0]
    fit = least_squares(decay, START, args=(t, y), weights=weights)
    keep = np.array([i for i in range(12) for _ in range(int(weights[i]))])
    expected = least_squares(decay, START, args=(t[keep], y[keep]))
    assert_close(fit.x, expected.x, factor=1e5)
    assert_close(fit.fun, expected.fun, factor=1e4)
    assert fit.degrees_of_freedom == 8


@pytest.mark.parametrize(
    "method", slowly("levenberg_marquardt", "newton", "gauss_newton", "dogleg")
)
def test_an_answer_on_its_bounds_is_a_success(method):
    t = jnp.linspace(0, 3, 15)
    y = 2 * jnp.exp(-0.8 * t) + 0.3
    fit = least_squares(
        lambda p: p[0] * jnp.exp(-p[1] * t) + p[2] - y,
        jnp.array([1.0, 1.0, 0.5]), method, bounds=(0.0, 1.8),
    )  # fmt: skip
    assert fit.success, fit
    assert fit.x[0] == 1.8
    for start in (1.0, 5.0):  # on the corner that is the answer, and outside
        fit = least_squares(
            lambda p: jnp.concatenate([p - 2, 0.1 * p]), jnp.full(2, start), method,
            bounds=(0.0, 1.0),
        )  # fmt: skip
        assert fit.success, fit
        assert_close(fit.x, jnp.ones(2))


def test_bounds_hold_and_agree_with_scipy():
    t, y = data()
    box = (jnp.array([0.0, 0.0, 0.7]), jnp.array([1.7, 5.0, np.inf]))
    fit = least_squares(decay, START, args=(t, y), bounds=box, trace="params")
    expected = scipy_fit_within(box)
    seen = np.asarray(fit.trace.params)
    assert np.all(seen >= np.asarray(box[0]))
    assert np.all(seen <= np.asarray(box[1]))
    assert fit.success
    np.testing.assert_allclose(fit.x, expected.x, rtol=1e-6, atol=1e-7)
    assert fit.grad[0] == fit.grad[2] == 0
    assert fit.fun <= 2 * expected.cost * (1 + 1e-9)


def scipy_fit_within(box):
    t, y = (np.asarray(part) for part in data())
    return scipy.optimize.least_squares(
        lambda b: b[0] * np.exp(-b[1] * t) + b[2] - y,
        np.array([1.0, 1.0, 0.8]), bounds=tuple(np.asarray(side) for side in box),
        xtol=1e-15, ftol=1e-15, gtol=1e-15,
    )  # fmt: skip


def test_differences_take_the_jacobian(fitted):
    fit = least_squares(decay, START, args=(*data(), 1.0), grad=gl.finite.grad)
    assert fit.success
    np.testing.assert_allclose(fit.x, fitted.x, rtol=1e-7)
    assert fit.njev == 0
    assert fit.nfev > 6 * fit.nit


# --- bad input ----------------------------------------------------------------------------


def test_fewer_residuals_than_parameters_take_the_shortest_way():
    fit = least_squares(lambda x: jnp.array([jnp.sum(x) - 3.0]), jnp.zeros(3))
    assert fit.success
    assert_close(fit.x, jnp.ones(3), factor=1e6)
    assert np.all(np.isinf(fit.standard_errors))


def test_a_jacobian_without_full_rank_is_no_obstacle(fitted):
    def doubled(b, t, y):
        return decay(jnp.array([b[0] + b[3], b[1], b[2]]), t, y)

    fit = least_squares(doubled, jnp.array([0.5, 1.0, 0.0, 0.5]), args=data())
    assert fit.success
    assert fit.rank == 3
    assert_close(fit.x[0] + fit.x[3], fitted.x[0], factor=1e4)
    errors = np.asarray(fit.standard_errors)
    assert np.all(np.isinf(errors[[0, 3]]))
    assert np.all(np.isfinite(errors[[1, 2]]))


def test_a_nan_row_is_named():
    t, y = data()
    fit = least_squares(decay, START, args=(t, y.at[5].set(np.nan), 1.0))
    assert fit.status == Status.NONFINITE_START
    assert not fit.success
    assert "number 5" in fit.message


def test_a_saddle_is_no_answer():
    fit = least_squares(lambda x: jnp.array([x[0] ** 2 - 1.0, x[1]]), jnp.zeros(2))
    assert not fit.success


def test_a_jacobian_beyond_memory_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match="newton_cg"):
        least_squares(lambda x: jnp.broadcast_to(x[0], (10**11,)), jnp.ones(100))


@pytest.mark.parametrize(
    ("residual", "options", "error", "words"),
    [
        (lambda x: jnp.sum(x**2), {}, TypeError, "gradlab.minimize"),
        (lambda x: None, {}, TypeError, "return"),
        (lambda x: x.astype(int), {}, TypeError, "real floating"),
        (lambda x: np.sin(x), {}, TypeError, "jnp"),
        (lambda x: x, {"method": "levenberg"}, ValueError, "levenberg_marquardt"),
        (lambda x: x, {"loss": "hubert"}, ValueError, "huber"),
        (lambda x: x, {"weights": np.ones(2)}, ValueError, "3 numbers"),
        (lambda x: x, {"weights": -np.ones(3)}, ValueError, "≥ 0"),
        (lambda x: x, {"bounds": (1.0, 0.0)}, ValueError, "exceeds"),
        (lambda x: x, {"bounds": 1.0}, ValueError, "pair"),
        (lambda x: x, {"loss_scale": 0.0}, ValueError, "> 0"),
        (lambda x: x, {"weigths": 1}, TypeError, "weights"),
        (3.0, {}, TypeError, "residual"),
    ],
)  # fmt: skip
def test_bad_input_is_answered_in_the_callers_words(residual, options, error, words):
    with pytest.raises(error, match=words):
        least_squares(residual, jnp.ones(3), **options)


# --- many data, float32 -------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_rank_does_not_depend_on_the_number_of_data(method):
    # Columns of condition 86: a rule of max(m, n) eps would drop two of the four directions.
    rng, m = np.random.default_rng(0), 200_000
    powers = np.vander(np.linspace(0, 1, m), 4, increasing=True).astype(np.float32)
    y = (powers @ np.arange(1.0, 5.0) + 0.1 * rng.standard_normal(m)).astype(np.float32)

    def residual(b, powers, y):
        return powers @ b - y

    x0 = jnp.zeros(4, jnp.float32)
    fit = least_squares(residual, x0, method, args=(jnp.asarray(powers), jnp.asarray(y)))
    exact, (squares,), rank, _ = np.linalg.lstsq(powers.astype(float), y.astype(float))
    inverse = np.linalg.inv(powers.T.astype(float) @ powers)
    errors = np.sqrt(np.diag(inverse) * squares / (m - 4))
    assert fit.success
    assert fit.rank == rank == 4
    np.testing.assert_array_less(np.abs(fit.x - exact), 0.01 * errors)
    np.testing.assert_allclose(fit.standard_errors, errors, rtol=1e-3)


@pytest.mark.parametrize(("m", "n"), [(50, 3), (20_000, 3), (20_000, 8)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_column_that_is_the_sum_of_the_others_is_still_seen(m, n, dtype):
    columns = np.random.default_rng(1).uniform(0, 1, (m, n)).astype(dtype)
    columns[:, -1] = columns[:, :-1].sum(axis=1)

    def residual(b, columns):
        return columns @ b - columns[:, 0]

    fit = least_squares(residual, jnp.ones(n, dtype), args=(jnp.asarray(columns),))
    assert fit.rank == n - 1
    assert np.all(np.isinf(fit.standard_errors))


def test_what_the_data_leave_open_has_no_correlation():
    t = jnp.linspace(0.0, 1.0, 9)

    def residual(b):
        return (b[0] + 2 * b[1]) * t + b[2] - jnp.sin(5 * t)

    fit = least_squares(residual, jnp.zeros(3))
    nan, inf = np.nan, np.inf
    np.testing.assert_array_equal(fit.correlation, [[1, nan, 0], [nan, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(np.diag(fit.covariance)[:2], [inf, inf])
    assert np.isnan(fit.covariance[0, 1])
    known = least_squares(lambda b: b[0] * t + b[1] - jnp.sin(5 * t), jnp.zeros(2))
    assert_close(known.correlation[0, 0], 1.0)
    assert_close(fit.standard_errors[2], known.standard_errors[1], factor=1e6)


def test_a_perfect_fit_still_has_correlations():
    t = jnp.linspace(0.0, 1.0, 9)
    fit = least_squares(lambda b: b[0] * t + b[1] - t, jnp.array([1.0, 0.0]))
    assert fit.fun == 0
    design = np.stack([t, np.ones(9)], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    expected = inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert_close(fit.correlation[0, 1], expected, factor=100)


@pytest.mark.parametrize("operator", [gl.finite.jacobian, gl.finite.grad])
@pytest.mark.parametrize("loss", ["linear", "huber"])
def test_differences_serve_parameters_of_any_structure(operator, loss):
    t, y = data()

    def by_name(b):
        return decay((b["height"], b["rate"], b["level"][0, 0]), t, y)

    start = {"height": 1.0, "rate": 1.0, "level": jnp.zeros((1, 1))}
    fit = least_squares(by_name, start, loss=loss, grad=operator)
    flat = least_squares(lambda b: decay(b, t, y), START, loss=loss)
    assert fit.success
    got = [fit.x["height"], fit.x["rate"], fit.x["level"][0, 0]]
    np.testing.assert_allclose(got, flat.x, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS[:3])
@pytest.mark.parametrize("power", [9, 12])
def test_nearly_collinear_columns_solved_to_their_noise_are_a_success(method, power):
    t = np.linspace(0, 1, 10)
    y = 2 * t + 1 + 0.1 * np.random.default_rng(0).standard_normal(10)
    columns = np.stack([t, t * (1 + 10.0**-power * t)], axis=1)
    fit = least_squares(lambda b: columns @ b - y, jnp.zeros(2), method)
    exact = np.linalg.lstsq(columns, y)[0]
    assert fit.status == Status.NOISE_FLOOR
    least = np.sum((columns @ exact - y) ** 2)
    assert fit.fun <= least * (1 + 1e-3)


def test_a_datum_of_no_weight_may_be_missing():
    t, y = data()
    weights = jnp.ones(12).at[jnp.array([2, 7])].set(0)
    fit = least_squares(
        decay, START, args=(t, y.at[2].set(jnp.nan).at[7].set(jnp.inf)), weights=weights
    )
    kept = np.delete(np.arange(12), [2, 7])
    without = least_squares(decay, START, args=(t[kept], y[kept]))
    assert fit.success
    assert fit.degrees_of_freedom == without.degrees_of_freedom
    np.testing.assert_allclose(fit.x, without.x, rtol=1e-8)
    np.testing.assert_allclose(fit.standard_errors, without.standard_errors, rtol=1e-8)
