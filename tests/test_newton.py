"""Newton's method with the dense Hessian: its subproblem against oracles, hard landscapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from support import assert_close, slowly

import gradlab as gl
from gradlab.optimizers import _trust_region
from gradlab.optimizers._subproblem import solve_subproblem
from gradlab.result import Status

DTYPE = pytest.mark.parametrize("dtype", [np.float32, np.float64])
solve = jax.jit(solve_subproblem)


def model(w, g, p):
    w, g, p = (np.asarray(v, np.float64) for v in (w, g, p))
    return g @ p + 0.5 * p @ (w * p)


def least_model(w, g, radius):
    """Smallest value of gᵀp + ½pᵀdiag(w)p with ‖p‖ ≤ radius, by the textbook conditions.

    Moré & Sorensen (1983): (W + λ)p = −g, W + λ ⪰ 0, λ ≥ 0, λ(radius − ‖p‖) = 0.
    """
    unit = max(np.max(np.abs(w)), np.max(np.abs(g)))
    w, g = np.asarray(w, np.float64) / unit, np.asarray(g, np.float64) / unit

    def p(shift):
        return np.divide(-g, w + shift, out=np.zeros_like(g), where=g != 0)

    if w.min() > 0 and np.linalg.norm(p(0.0)) <= radius:
        return unit * model(w, g, p(0.0))
    lowest = max(0.0, -w.min())
    bottom = np.isclose(w, w.min(), rtol=1e-14, atol=0)
    if w.min() <= 0 and np.all(g[bottom] == 0):  # the hard case, if the step is too short
        rest = np.where(
            bottom, 0, np.divide(-g, w + lowest, out=np.zeros_like(g), where=~bottom)
        )
        room = radius**2 - rest @ rest
        if room >= 0:
            along = np.zeros_like(g)
            along[np.argmin(w)] = np.sqrt(room)
            return unit * model(w, g, rest + along)
    high = lowest + np.linalg.norm(g) / radius + 1.0
    start = lowest + 1e-15 * max(lowest, 1.0) if w.min() <= 0 else 0.0
    shift = brentq(lambda s: 1 / np.linalg.norm(p(s)) - 1 / radius, start, high, xtol=1e-15)
    return unit * model(w, g, p(shift))


CASES = {
    "positive definite": ([0.5, 2.0, 10.0], [1.0, -2.0, 3.0]),
    "ill conditioned": ([1e-6, 1.0, 1e3], [1e-3, 1.0, -5.0]),
    "indefinite": ([-3.0, 0.1, 2.0], [1.0, 1.0, -1.0]),
    "negative definite": ([-5.0, -2.0, -1.0], [0.3, -0.1, 0.2]),
    "singular": ([0.0, 1.0, 4.0], [1.0, 1.0, 1.0]),
    "singular, consistent": ([0.0, 1.0, 4.0], [0.0, 1.0, 1.0]),
    "hard": ([-2.0, 1.0, 3.0], [0.0, 0.5, -0.3]),
    "hard, double": ([-2.0, -2.0, 3.0], [0.0, 0.0, -0.3]),
    "nearly hard": ([-2.0, 1.0, 3.0], [1e-7, 0.5, -0.3]),
    "no gradient, indefinite": ([-2.0, 1.0, 3.0], [0.0, 0.0, 0.0]),
    "no curvature": ([0.0, 0.0, 0.0], [1.0, 2.0, -2.0]),
    "tiny": ([-2e-20, 1e-20, 3e-20], [1e-20, 5e-21, -3e-21]),
    "huge": ([-2e20, 1e20, 3e20], [1e20, 5e19, -3e19]),
}


@DTYPE
@pytest.mark.parametrize("radius", [0.01, 0.7, 50.0])
@pytest.mark.parametrize("name", CASES)
def test_the_subproblem_is_solved_to_the_global_minimum(name, radius, dtype):
    w, g = (np.asarray(v, dtype) for v in CASES[name])
    sub = solve(w, g, dtype(radius))
    length = np.linalg.norm(np.asarray(sub.step, np.float64))
    assert length <= radius * (1 + 10 * np.finfo(dtype).eps)
    least = least_model(w, g, radius)
    assert least <= 0
    # The best value to half the digits: a step off by δ loses no more than δ² or so.
    assert model(w, g, sub.step) <= least * (1 - 10 * np.sqrt(np.finfo(dtype).eps))
    if bool(sub.binding):
        assert_close(np.asarray(length), np.asarray(radius, dtype), factor=100)


@DTYPE
def test_random_subproblems_are_solved_to_the_global_minimum(dtype):
    rng = np.random.default_rng(5)
    for trial in range(60):
        n = 6
        w = np.sort(rng.normal(size=n) * 10 ** rng.uniform(-2, 2)).astype(dtype)
        g = rng.normal(size=n).astype(dtype)
        if trial % 3 == 0:
            w = np.abs(w)[np.argsort(np.abs(w))]
        if trial % 5 == 0:
            g[0] = 0
        radius = dtype(10 ** rng.uniform(-2, 2))
        sub = solve(w, g, radius)
        least = least_model(w, g, float(radius))
        assert model(w, g, sub.step) <= least * (1 - 10 * np.sqrt(np.finfo(dtype).eps)), trial
        assert np.linalg.norm(sub.step) <= radius * (1 + 1e-5), trial


@DTYPE
def test_without_a_region_the_step_is_newtons(dtype):
    w, g = np.array([0.5, 2.0, 10.0], dtype), np.array([1.0, -2.0, 3.0], dtype)
    sub = solve(w, g, dtype(np.inf))
    assert not sub.binding
    assert_close(sub.step, -g / w)


# --- the method -------------------------------------------------------------------------


def random_quadratic(n=6):
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    matrix = (basis * np.logspace(-2, 2, n)) @ basis.T
    return jnp.asarray(0.5 * (matrix + matrix.T)), jnp.asarray(rng.normal(size=n))


def quadratic(x, matrix, right):
    return 0.5 * x @ (matrix @ x) - right @ x


def test_a_quadratic_is_solved_in_one_step_wherever_it_starts():
    matrix, right = random_quadratic()
    solution = np.linalg.solve(matrix, right)
    for start in (np.zeros(6), np.full(6, 1e4)):
        result = gl.minimize(quadratic, start, "newton", args=(matrix, right))
        assert (result.nit, result.nhev) == (1, 1)
        assert result.success
        assert_close(result.x, solution, factor=1e6, scale=max(1.0, start[0] / 1e2))


@pytest.mark.parametrize(
    ("name", "scale"),
    slowly(("wood", 100), ("box_3d", 100), ("freudenstein_roth", 10), ("osborne_1", 100)),
)
def test_float32_far_away_ends_with_six_digits_of_every_variable(name, scale):
    """The gradient at the start is 1e10 times the last: being small beside it says nothing.

    The error of the point is the least relative change of its entries that explains the
    gradient, in float64.
    """
    problem = gl.problems.get(name)
    single = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), problem.args)
    start = scale * jnp.asarray(problem.init(), jnp.float32)
    result = gl.minimize(problem.loss, start, "newton", args=single)
    assert result.success
    x = jnp.asarray(result.x, jnp.float64)
    g, h = jax.grad(problem.loss)(x, *problem.args), jax.hessian(problem.loss)(x, *problem.args)
    assert np.all(np.abs(g) <= 5e-6 * np.abs(h) @ np.abs(x) + 1e-30)  # float32's denormals


def test_the_rate_is_quadratic():
    def loss(x):
        return jnp.sum(jnp.cosh(x - 1)) + 0.5 * jnp.sum(x[1:] * x[:-1])

    result = gl.minimize(loss, jnp.zeros(4), "newton", gtol=1e-13, trace="params")
    errors = np.linalg.norm(result.trace.params - np.asarray(result.x)[None], axis=1)
    errors = errors[(errors < 0.1) & (errors > 1e-7)]
    slopes = np.diff(np.log(errors[-3:])) if len(errors) > 2 else np.diff(np.log(errors))
    assert len(errors) >= 2
    # log e₊ ≥ 2 log e + constant; cosh is even at second order, so it may be even faster
    assert np.log(errors[-1]) < 1.7 * np.log(errors[-2])
    assert np.all(slopes < 0)


def test_the_steps_do_not_depend_on_a_rotation_of_the_variables():
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    start = jnp.array([0.5, -1.0, 2.0])

    def loss(x):
        return jnp.sum(jnp.exp(x) - 2 * x) + x[0] * x[1] ** 2

    def rotated(y):
        return loss(jnp.asarray(rotation) @ y)

    straight = gl.minimize(loss, start, "newton", max_steps=5, trace="params")
    turned = gl.minimize(rotated, rotation.T @ start, "newton", max_steps=5, trace="params")
    assert_close(
        turned.trace.params @ rotation.T, np.asarray(straight.trace.params), factor=1e5
    )


def double_well(x):
    return jnp.sum(0.25 * x**4 - 0.5 * x**2)


LANDSCAPES = {
    # loss, start, minimum
    "saddle": (lambda x: 0.25 * x[0] ** 4 - 0.5 * x[0] ** 2 + x[1] ** 2, [0.0, 0.0], -0.25),
    "near a saddle": (
        lambda x: 0.25 * x[0] ** 4 - 0.5 * x[0] ** 2 + x[1] ** 2, [1e-9, 1.0], -0.25),
    "maximum": (double_well, [0.0, 0.0], -0.5),
    "singular valley": (
        lambda x: (x[0] + x[1] - 1) ** 2 + (x[0] + x[1] - 1) ** 4, [3.0, 5.0], 0.0),
    "quartic": (lambda x: jnp.sum((x - 1) ** 4), [3.0, -2.0], 0.0),
    "away from a monkey saddle": (
        lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2 + jnp.sum(x**2) ** 2, [1e-3, 1e-3],
        -27 / 256),
}  # fmt: skip


@pytest.mark.parametrize("method", ["newton", "newton_cg"])
@pytest.mark.parametrize("name", LANDSCAPES)
def test_hard_starts_end_at_the_minimum(name, method):
    loss, start, minimum = LANDSCAPES[name]
    result = gl.minimize(loss, jnp.array(start), method)
    assert result.success, result.message
    assert result.nit > 0
    assert abs(result.fun - minimum) <= 1e-8


@pytest.mark.parametrize("method", ["newton", "newton_cg"])
def test_a_monkey_saddle_and_a_start_at_a_minimum_are_told_apart(method):
    def monkey(x):
        return x[0] ** 3 - 3 * x[0] * x[1] ** 2

    stationary = gl.minimize(monkey, jnp.zeros(2), method)
    assert stationary.status == Status.STATIONARY_NOT_MINIMUM, stationary.message
    assert not stationary.success
    settled = gl.minimize(lambda x: jnp.sum((x - 1) ** 2) + x[0] * 0, jnp.ones(2), method)
    assert settled.status == Status.CONVERGED_GRADIENT
    assert settled.nit == 0


def test_a_singular_least_squares_problem_is_a_success_at_any_tolerance():
    def loss(x):
        return (x[0] + 2 * x[1] - 3) ** 2 + 0.7

    for gtol in (1e-6, 0.0):
        result = gl.minimize(loss, jnp.array([5.0, -1.0]), "newton", gtol=gtol)
        assert result.success, result.message
        assert_close(result.fun, 0.7)


def test_a_kink_is_never_called_a_minimum_of_another_value():
    result = gl.minimize(lambda x: jnp.sum(jnp.abs(x)), jnp.array([1.0, -2.5]), "newton")
    assert (not result.success) or result.fun < 1e-6


def uphill():
    """A bowl whose gradient is given with the wrong sign."""
    wrong = jax.custom_jvp(lambda x: jnp.sum((x - 1) ** 2))
    wrong.defjvp(lambda p, t: (wrong(p[0]), -2 * jnp.sum((p[0] - 1) * t[0])))
    return wrong


@pytest.mark.parametrize("method", ["newton", "newton_cg"])
def test_no_step_raises_the_loss_above_its_noise_even_with_a_wrong_derivative(method):
    result = gl.minimize(uphill(), jnp.array([3.0, 4.0]), method, max_steps=30)
    loss = result.trace.loss
    assert not result.success
    assert np.all(np.diff(loss) <= 4 * np.finfo(float).eps * np.abs(loss[1:]))


def test_a_wrong_derivative_is_stuck_and_no_success():
    result = gl.minimize(uphill(), jnp.array([3.0, 4.0]), "newton")
    assert result.status == Status.STUCK
    assert not result.success
    assert "the derivative may be wrong" in result.message
    assert_close(result.x, np.array([3.0, 4.0]))


def mixed(x, scale, unit):
    y = x / unit
    return scale * (jnp.sum(jnp.exp(y) - 2 * y) + (y[0] - y[1]) ** 4 - y[0] * y[1])


@pytest.mark.parametrize("method", ["newton", "newton_cg"])
def test_the_iterates_do_not_depend_on_the_units_of_loss_or_parameters(method):
    start = jnp.array([-2.0, 3.0])

    def run(scale, unit):
        return gl.minimize(
            mixed, unit * start, method, args=(scale, unit), trace="params", gtol=1e-9
        )

    plain = run(1.0, 1.0)
    assert plain.success
    for scale, unit in ((1e-9, 1.0), (1e9, 1.0), (1.0, 1e6), (1.0, 1e-6)):
        scaled = run(scale, unit)
        assert scaled.nit == plain.nit
        assert scaled.nfev == plain.nfev
        assert_close(scaled.trace.params / unit, plain.trace.params, factor=1e6)
        assert_close(scaled.fun / scale, plain.fun)


@pytest.mark.parametrize("name", ["variably_dimensioned", "broyden_tridiagonal"])
def test_a_far_start_lowers_no_demand_on_a_minimum_in_float32(name):
    # The gradient falls by 10⁵ and more while the point is still far away.
    problem = gl.problems.get(name, dtype=jnp.float32)
    result = gl.minimize(problem.loss, 100 * problem.init(), "newton", args=problem.args)
    assert result.success, result.message
    assert result.fun - problem.minimum <= 1e-9


@pytest.mark.parametrize(("dtype", "spread"), [(jnp.float64, 1e10), (jnp.float32, 1e5)])
def test_variables_of_very_different_units_are_all_brought_to_their_digits(dtype, spread):
    # Curvatures differ by the square of that: the least eigenvalue is lost in the rounding of
    # the largest, though H with its diagonal scaled to one is well conditioned.
    coupling = jnp.array([[1.0, 0.3, 0.2], [0.3, 1.0, 0.4], [0.2, 0.4, 1.5]], dtype)
    unit = jnp.array([1 / spread, 1.0, spread], dtype)
    answer = jnp.array([1.0, -2.0, 3.0], dtype)

    def loss(x):
        y = x / unit - answer
        return 0.5 * y @ coupling @ y + 0.1 * jnp.sum(y**4) + 1

    result = gl.minimize(loss, unit * jnp.array([2.0, 0.0, 2.0], dtype), "newton")
    assert result.success
    assert result.nit <= 8
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(result.x / unit, answer, rtol=0, atol=eps**0.6)


def test_a_gradient_that_is_silent_beside_the_largest_still_has_its_slope():
    # Only the softest of three variables is off, by one of its units of 10¹⁰: along it the
    # gradient is 10⁻²⁰ of the others. Of a quadratic the model says all.
    coupling = jnp.array([[1.0, 0.3, 0.2], [0.3, 1.0, 0.4], [0.2, 0.4, 1.5]])
    unit = jnp.array([1e-10, 1.0, 1e10])

    def loss(x):
        y = x / unit - 1
        return 0.5 * y @ coupling @ y

    result = gl.minimize(loss, unit * jnp.array([1.0, 1.0, 2.0]), "newton", max_steps=1)
    assert_close(result.state.ratio, 1.0, factor=1e6)
    np.testing.assert_allclose(result.x / unit, 1, rtol=1e-8)


@pytest.mark.parametrize(("name", "start"), [("roszman1", 2), ("mgh10", 2), ("bennett5", 1)])
def test_newton_goes_on_until_the_least_known_variable_has_its_digits(name, start):
    # Certified by NIST to eleven digits; the loss alone cannot tell these variables to eight.
    problem = gl.problems.get(name, start=start)
    result = gl.minimize(problem.loss, problem.init(), "newton", args=problem.args)
    assert result.success
    np.testing.assert_allclose(result.x, problem.certified["parameters"], rtol=1e-8)


@pytest.mark.parametrize(("name", "start"), [("thurber", 2), ("mgh09", 1), ("hahn1", 2)])
def test_a_sum_of_squares_that_errs_more_than_its_own_rounding_is_followed_to_ten_digits(
    name, start
):
    # Residuals are differences of data and model: the loss errs by 4 to 16 times the bound
    # 4 eps |f|, and its last Newton steps seem to rise.
    problem = gl.problems.get(name, start=start)
    result = gl.minimize(problem.loss, problem.init(), gl.newton(), args=problem.args)
    assert result.success
    np.testing.assert_allclose(result.x, problem.certified["parameters"], rtol=1e-10)


def test_a_rise_within_what_slopes_judge_is_taken_only_where_the_gradient_halves():
    eps, value = 2.0**-52, jnp.asarray(1.0)
    level = 4 * eps
    step = _trust_region.Proposal({}, *map(jnp.asarray, (1e-8, -2e-14, 1e-14, False)))

    def taken(rise, gradient):
        accepted, _, _ = _trust_region._judge(
            value, value + rise, jnp.asarray(0.0), jnp.asarray(gradient), jnp.asarray(0.5),
            step, jnp.asarray(1.0), None, eps,
        )  # fmt: skip
        return bool(accepted)

    assert taken(0.5 * level, 0.9)
    assert taken(100 * level, 0.4)
    assert not taken(100 * level, 0.6)
    assert not taken(1500 * level, 0.4)


# --- what is spared ---------------------------------------------------------------------


def chain(x):
    return jnp.sum(jnp.log(jnp.cosh(3 * x))) + jnp.sum((x[1:] - x[:-1]) ** 2) + 0.1 * x @ x


@pytest.mark.parametrize("n", [5, 30])
@pytest.mark.slow
def test_the_least_curvature_is_known_to_digits_with_and_without_eigenvalues(n):
    result = gl.minimize(chain, jnp.linspace(-1, 1.3, n), "newton")
    assert result.success
    exact = np.linalg.eigvalsh(jax.hessian(chain)(result.x))
    # By inverse and by power iteration from the first step's eigenvectors.
    np.testing.assert_allclose(result.certificate.curvature, exact[0], rtol=0.05)
    np.testing.assert_allclose(result.certificate.stiffness, exact[-1], rtol=0.05)


@pytest.mark.slow
def test_a_convex_run_decomposes_once():
    calls, eigh = [], jnp.linalg.eigh

    def counted(matrix):
        jax.debug.callback(lambda: calls.append(1))
        return eigh(matrix)

    def loss(x):
        return jnp.sum(jnp.cosh(x) + 0.3 * x) + 0.1 * (x @ x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jnp.linalg, "eigh", counted)
        result = gl.minimize(loss, jnp.linspace(-1.0, 1.0, 20), gl.newton(), trace=None)
        jax.effects_barrier()
    assert result.success
    assert result.nit >= 3
    assert len(calls) == 1


@pytest.mark.parametrize("stiffness", [1e5, 1e10, 1e18])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ["newton", "cubic_newton", "regularized_newton"])
def test_no_variable_is_lost_in_the_rounding_of_a_stiff_one(name, dtype, stiffness):
    # A curved valley with a saddle in it: the Newton step along it is in no eigenvector of a
    # Hessian whose largest curvature is up to 1e36 times the others.
    def loss(x):
        across, y, z = x
        return 0.5 * (stiffness * across + y * z) ** 2 + (y**2 - 1) ** 2 + (z - y) ** 2

    start = jnp.array([-0.02 / stiffness, 0.1, 0.2], dtype)
    result = gl.minimize(loss, start, name, max_steps=500)
    assert result.success
    assert_close(jnp.abs(result.x[1:]), jnp.ones(2, dtype), factor=1e5)
    assert_close(stiffness * result.x[0], -result.x[1] * result.x[2], factor=1e5)
