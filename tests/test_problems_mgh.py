"""The test functions of Moré, Garbow and Hillstrom, against the paper and against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from numpy import abs, arctan, cos, exp, log, pi, prod, sin, sqrt
from support import assert_close

import gradlab.problems as problems

MGH = problems.names(tag="mgh")

# name, options, and the minima as the paper prints them (page 20 and on): a run from the
# published start must end at one of them
PUBLISHED = [
    ("rosenbrock", {}, ["0"]),
    ("freudenstein_roth", {}, ["0", "48.9842"]),
    ("powell_badly_scaled", {}, ["0"]),
    ("brown_badly_scaled", {}, ["0"]),
    ("beale", {}, ["0"]),
    ("jennrich_sampson", {}, ["124.362"]),
    ("helical_valley", {}, ["0"]),
    ("bard", {}, ["8.21487e-3", "17.4286"]),
    ("gaussian", {}, ["1.12793e-8"]),
    ("meyer", {}, ["87.9458"]),
    ("gulf", {}, ["0"]),
    ("box_3d", {}, ["0"]),
    ("powell_singular", {}, ["0"]),
    ("wood", {}, ["0"]),
    ("kowalik_osborne", {}, ["3.07505e-4", "1.02734e-3"]),
    ("brown_dennis", {}, ["85822.2"]),
    ("osborne_1", {}, ["5.46489e-5"]),
    ("biggs_exp6", {}, ["0", "5.65565e-3"]),
    ("osborne_2", {}, ["4.01377e-2"]),
    ("watson", {"n": 6}, ["2.28767e-3"]),
    ("watson", {"n": 9}, ["1.39976e-6"]),
    ("watson", {"n": 12}, ["4.72238e-10"]),
    ("extended_rosenbrock", {}, ["0"]),
    ("extended_powell_singular", {}, ["0"]),
    ("penalty_1", {"n": 4}, ["2.24997e-5"]),
    ("penalty_1", {"n": 10}, ["7.08765e-5"]),
    ("penalty_2", {"n": 4}, ["9.37629e-6"]),
    ("penalty_2", {"n": 10}, ["2.93660e-4"]),
    ("variably_dimensioned", {}, ["0"]),
    ("trigonometric", {}, ["0", "2.79506e-5"]),  # the second is in later lists, not the paper
    ("brown_almost_linear", {}, ["0", "1"]),
    ("discrete_boundary_value", {}, ["0"]),
    ("discrete_integral", {}, ["0"]),
    ("broyden_tridiagonal", {}, ["0"]),
    ("broyden_banded", {}, ["0"]),
    ("linear_full_rank", {}, ["10"]),
    ("linear_rank_1", {}, ["4.63414"]),  # m (m - 1) / (2 (2 m + 1)) with m = 20
    ("linear_rank_1_zeros", {}, ["6.13513"]),  # (m² + 3 m - 6) / (2 (2 m - 3))
    ("chebyquad", {"n": 7}, ["0"]),
    ("chebyquad", {"n": 8}, ["3.51687e-3"]),
    ("chebyquad", {"n": 9}, ["0"]),
    ("chebyquad", {"n": 10}, ["6.50395e-3"]),
]


def span(n, first=1):
    """The indices of the paper, first to n."""
    return range(first, n + 1)


def watson(x):
    n, rows = len(x) - 1, []
    for t in [i / 29 for i in span(29)]:
        slope = sum((j - 1) * x[j] * t ** (j - 2) for j in span(n, 2))
        rows.append(slope - sum(x[j] * t ** (j - 1) for j in span(n)) ** 2 - 1)
    return [*rows, x[1], x[2] - x[1] ** 2 - 1]


def penalty_2(x):
    n, a = len(x) - 1, sqrt(1e-5)
    y = [None, *(exp(i / 10) + exp((i - 1) / 10) for i in span(2 * n))]
    return [
        x[1] - 0.2,
        *(a * (exp(x[i] / 10) + exp(x[i - 1] / 10) - y[i]) for i in span(n, 2)),
        *(a * (exp(x[i - n + 1] / 10) - exp(-1 / 10)) for i in span(2 * n - 1, n + 1)),
        sum((n - j + 1) * x[j] ** 2 for j in span(n)) - 1,
    ]


def variably_dimensioned(x):
    n = len(x) - 1
    moment = sum(j * (x[j] - 1) for j in span(n))
    return [*(x[i] - 1 for i in span(n)), moment, moment**2]


def trigonometric(x):
    n = len(x) - 1
    total = sum(cos(x[1:]))
    return [n - total + i * (1 - cos(x[i])) - sin(x[i]) for i in span(n)]


def discrete_boundary_value(x):
    n = len(x) - 1
    h = 1 / (n + 1)
    x = [0, *x[1:], 0]
    return [
        2 * x[i] - x[i - 1] - x[i + 1] + h**2 * (x[i] + i * h + 1) ** 3 / 2 for i in span(n)
    ]


def discrete_integral(x):
    n = len(x) - 1
    h = 1 / (n + 1)
    t = [j * h for j in range(n + 1)]
    return [
        x[i]
        + h
        * (
            (1 - t[i]) * sum(t[j] * (x[j] + t[j] + 1) ** 3 for j in span(i))
            + t[i] * sum((1 - t[j]) * (x[j] + t[j] + 1) ** 3 for j in span(n, i + 1))
        )
        / 2
        for i in span(n)
    ]


def broyden_tridiagonal(x):
    n = len(x) - 1
    x = [0, *x[1:], 0]
    return [(3 - 2 * x[i]) * x[i] - x[i - 1] - 2 * x[i + 1] + 1 for i in span(n)]


def broyden_banded(x):
    n = len(x) - 1
    rows = []
    for i in span(n):
        band = [j for j in span(min(n, i + 1), max(1, i - 5)) if j != i]
        rows.append(x[i] * (2 + 5 * x[i] ** 2) + 1 - sum(x[j] * (1 + x[j]) for j in band))
    return rows


def chebyquad(x, m=None):
    n = len(x) - 1
    rows = []
    for i in span(m or n):
        mean = np.polynomial.Chebyshev.basis(i)(2 * x[1:] - 1).mean()
        rows.append(mean + (1 / (i**2 - 1) if i % 2 == 0 else 0))
    return rows


def helical_valley(x):
    angle = arctan(x[2] / x[1]) / (2 * pi) + (0.5 if x[1] < 0 else 0)
    return [10 * (x[3] - 10 * angle), 10 * (sqrt(x[1] ** 2 + x[2] ** 2) - 1), x[3]]


def gulf(x):
    t = [i / 100 for i in span(99)]
    return [exp(-(abs(25 + (-50 * log(s)) ** (2 / 3) - x[2]) ** x[3]) / x[1]) - s for s in t]


def box_3d(x):
    t = [i / 10 for i in span(10)]
    return [exp(-s * x[1]) - exp(-s * x[2]) - x[3] * (exp(-s) - exp(-10 * s)) for s in t]


def brown_dennis(x):
    t = [i / 5 for i in span(20)]
    return [(x[1] + s * x[2] - exp(s)) ** 2 + (x[3] + x[4] * sin(s) - cos(s)) ** 2 for s in t]


def biggs_exp6(x):
    rows = []
    for t in [i / 10 for i in span(13)]:
        y = exp(-t) - 5 * exp(-10 * t) + 3 * exp(-4 * t)
        rows.append(x[3] * exp(-t * x[1]) - x[4] * exp(-t * x[2]) + x[6] * exp(-t * x[5]) - y)
    return rows


def wood(x):
    return [
        10 * (x[2] - x[1] ** 2),
        1 - x[1],
        sqrt(90) * (x[4] - x[3] ** 2),
        1 - x[3],
        sqrt(10) * (x[2] + x[4] - 2),
        (x[2] - x[4]) / sqrt(10),
    ]


def extended_powell(x):
    rows = []
    for i in range(1, len(x), 4):
        a, b, c, d = x[i : i + 4]
        rows += [a + 10 * b, sqrt(5) * (c - d), (b - 2 * c) ** 2, sqrt(10) * (a - d) ** 2]
    return rows


def extended_rosenbrock(x):
    rows = []
    for i in range(1, len(x), 2):
        rows += [10 * (x[i + 1] - x[i] ** 2), 1 - x[i]]
    return rows


def linear_full_rank(x, m=20):
    n, total = len(x) - 1, 2 / 20 * sum(x[1:])
    return [(x[i] if i <= n else 0) - total - 1 for i in span(m)]


def linear_rank_1_zeros(x, m=20):
    inner = sum(j * x[j] for j in span(len(x) - 2, 2))
    return [-1, *((i - 1) * inner - 1 for i in span(m - 1, 2)), -1]


# the formulas as the paper prints them, indices from 1; x[0] is not used
PAPER = {
    "freudenstein_roth": lambda x: [
        -13 + x[1] + ((5 - x[2]) * x[2] - 2) * x[2],
        -29 + x[1] + ((x[2] + 1) * x[2] - 14) * x[2],
    ],
    "powell_badly_scaled": lambda x: [
        1e4 * x[1] * x[2] - 1,
        exp(-x[1]) + exp(-x[2]) - 1.0001,
    ],
    "brown_badly_scaled": lambda x: [x[1] - 1e6, x[2] - 2e-6, x[1] * x[2] - 2],
    "jennrich_sampson": lambda x: [
        2 + 2 * i - (exp(i * x[1]) + exp(i * x[2])) for i in span(10)
    ],
    "helical_valley": helical_valley,
    "gulf": gulf,
    "box_3d": box_3d,
    "wood": wood,
    "brown_dennis": brown_dennis,
    "biggs_exp6": biggs_exp6,
    "watson": watson,
    "extended_rosenbrock": extended_rosenbrock,
    "extended_powell_singular": extended_powell,
    "penalty_1": lambda x: [*(sqrt(1e-5) * (x[1:] - 1)), sum(x[1:] ** 2) - 1 / 4],
    "penalty_2": penalty_2,
    "variably_dimensioned": variably_dimensioned,
    "trigonometric": trigonometric,
    "brown_almost_linear": lambda x: [
        *(x[1:-1] + sum(x[1:]) - len(x)),
        prod(x[1:]) - 1,
    ],
    "discrete_boundary_value": discrete_boundary_value,
    "discrete_integral": discrete_integral,
    "broyden_tridiagonal": broyden_tridiagonal,
    "broyden_banded": broyden_banded,
    "linear_full_rank": linear_full_rank,
    "linear_rank_1": lambda x: [
        i * sum(j * x[j] for j in span(len(x) - 1)) - 1 for i in span(20)
    ],
    "linear_rank_1_zeros": linear_rank_1_zeros,
    "chebyquad": chebyquad,
}


def ident(value):
    return "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None


def flat_functions(problem):
    """The residual and its Jacobian as NumPy functions of x."""
    residual = jax.jit(lambda x: problem.residual(x, *problem.args))
    jacobian = jax.jit(jax.jacfwd(lambda x: problem.residual(x, *problem.args)))
    return lambda x: np.asarray(residual(x)), lambda x: np.asarray(jacobian(x))


def test_all_35_functions_are_there():
    assert len(MGH) == 35
    assert {name for name, _, _ in PUBLISHED} == set(MGH)


@pytest.mark.parametrize(("name", "options", "published"), PUBLISHED, ids=ident)
def test_scipy_ends_at_a_published_minimum(name, options, published):
    problem = problems.get(name, **options)
    residual, jacobian = flat_functions(problem)
    run = scipy.optimize.least_squares(
        residual,
        np.asarray(problem.init()),
        jac=jacobian,
        x_scale="jac",
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
        max_nfev=2000,
    )
    value = 2 * run.cost
    start = float(problem.loss(problem.init(), *problem.args))
    assert any(agrees(value, text, 1e-18 * start) for text in published), value
    known = [problem.minimum, *problem.local_minima]
    assert any(abs(value - f) <= 1e-9 * f + 1e-18 * start for f in known), (value, known)
    assert value >= problem.minimum * (1 - 1e-9)


def agrees(value, text, zero):
    """Whether a value agrees with a printed number but for one unit of its last digit."""
    mantissa, _, exponent = text.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return value <= zero if text == "0" else abs(value - float(text)) <= unit


@pytest.mark.parametrize("name", sorted(PAPER))
def test_residual_agrees_with_the_formula_as_printed(name):
    problem = problems.get(name)
    x = np.asarray(problem.init()) + np.linspace(-0.3, 0.2, problem.num_params)
    expected = np.array(PAPER[name](np.concatenate([[np.nan], x])))
    actual = problem.residual(jnp.asarray(x), *problem.args)
    assert_close(actual, jnp.asarray(expected))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_smallest_sizes_agree_with_the_formula(n):
    x = np.array([0.3, -0.6, 1.1])[:n]
    for name in ("broyden_banded", "broyden_tridiagonal", "discrete_integral", "trigonometric"):
        expected = np.array(PAPER[name](np.concatenate([[np.nan], x])))
        assert_close(problems.get(name, n=n).residual(jnp.asarray(x)), jnp.asarray(expected))


def test_chebyquad_takes_more_polynomials_than_nodes():
    x = np.array([np.nan, 0.1, 0.4, 0.8])
    problem = problems.get("chebyquad", n=3, m=7)
    assert problem.num_residuals == 7
    expected = jnp.asarray(chebyquad(x, 7))
    assert_close(problem.residual(jnp.asarray(x[1:]), *problem.args), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MGH)
def test_start_is_finite_to_second_order_and_keeps_the_dtype(name, dtype):
    problem = problems.get(name, dtype=dtype)
    start = problem.init()

    @jax.jit
    def everything(x, *args):
        value, grad = jax.value_and_grad(problem.loss)(x, *args)
        curvature = jax.jvp(lambda x: jax.grad(problem.loss)(x, *args), (x,), (grad,))[1]
        return value, grad, curvature, problem.residual(x, *args)

    value, grad, curvature, residual = everything(start, *problem.args)
    for array in (start, value, grad, residual, curvature):
        assert array.dtype == dtype
        assert jnp.all(jnp.isfinite(array))
    assert residual.shape == (problem.num_residuals,)
    loss = problem.loss(start, *problem.args)
    assert jnp.sum(problem.residual(start, *problem.args) ** 2) == loss


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in MGH] + [("penalty_1", {"n": 1}), ("penalty_1", {"n": 50})],
    ids=ident,
)
def test_minimizer_has_the_minimum_and_no_gradient(name, options):
    problem = problems.get(name, **options)
    if problem.minimizer is None:
        assert "variable" in problem.tags
        return
    residual, jacobian = flat_functions(problem)
    x, start = np.asarray(problem.minimizer), np.asarray(problem.init())
    eps = np.finfo(np.float64).eps
    scale = np.max(abs(residual(start)))
    assert abs(np.sum(residual(x) ** 2) - problem.minimum) <= 100 * eps * scale**2
    bound = 100 * eps * scale * np.sum(abs(jacobian(x)), axis=0)
    # the digits of the minimiser itself, rounded: the gradient moves by the Hessian times them
    bound += 2 * eps * abs(jacobian(x).T @ jacobian(x)) @ abs(x)
    assert np.all(abs(jacobian(x).T @ residual(x)) <= bound)


def test_biggs_stationary_point_in_the_paper_is_a_saddle():
    problem = problems.get("biggs_exp6")
    residual, jacobian = flat_functions(problem)
    embed = np.array([0, 1, 2, 3, 0, 2])  # x1 = x5 and x3 = x6, as at the start
    run = scipy.optimize.least_squares(
        lambda y: residual(y[embed]),
        np.asarray(problem.init())[:4],
        jac=lambda y: jacobian(y[embed]) @ np.eye(4)[embed],
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    assert agrees(2 * run.cost, "5.65565e-3", 0.0)
    x = jnp.asarray(run.x[embed])
    gradient = jax.grad(problem.loss)(x, *problem.args)
    eigenvalues = np.linalg.eigvalsh(jax.hessian(problem.loss)(x, *problem.args))
    assert np.max(abs(gradient)) < 1e-7
    assert eigenvalues[0] < -1e-6 * eigenvalues[-1]


def test_chebyquad_of_ten_nodes_has_a_lower_minimum_than_the_published():
    problem = problems.get("chebyquad", n=10)
    residual, jacobian = flat_functions(problem)
    start = [0.03, 0.16, 0.2, 0.38, 0.39, 0.53, 0.64, 0.71, 0.83, 0.93]
    run = scipy.optimize.least_squares(residual, start, jac=jacobian, xtol=1e-15, ftol=1e-15)
    assert abs(2 * run.cost - problem.minimum) < 1e-9 * problem.minimum


def test_helical_valley_jumps_only_where_published():
    loss = problems.get("helical_valley").loss
    for x, y in [(-1.0, 0.0), (0.0, 1.0)]:  # continuous there
        sides = [loss(jnp.array([x + d, y - d, 0.5])) for d in (-1e-9, 1e-9)]
        assert_close(sides[0], sides[1], factor=1e9)
    assert loss(jnp.array([-1e-9, -1.0, 0.5])) > 5 * loss(jnp.array([1e-9, -1.0, 0.5]))
    assert loss(jnp.array([-1.0, -0.0, 0.0])) == loss(jnp.array([-1.0, 0.0, 0.0]))


def test_zero_starts_are_replaced_when_scaled():
    assert problems.get("watson").init().tolist() == [0.0] * 6
    assert problems.get("watson", start_scale=10).init().tolist() == [10.0] * 6
    assert problems.get("box_3d", start_scale=10).init().tolist() == [0.0, 100.0, 200.0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("extended_rosenbrock", {"n": 5}, "`n` must be at least 2 and a multiple of 2, got 5"),
        ("extended_powell_singular", {"n": 6}, "`n` must be at least 4 and a multiple of 4"),
        ("watson", {"n": 32}, "`n` must be at most 31, got 32"),
        ("gulf", {"m": 101}, "`m` must be at most 100, got 101"),
        ("linear_full_rank", {"n": 5, "m": 4}, "`m` must be at least 5, got 4"),
        ("chebyquad", {"n": 5, "m": 4}, "`m` must be at least 5, got 4"),
        ("linear_rank_1_zeros", {"n": 2}, "`n` must be at least 3, got 2"),
    ],
)
def test_impossible_sizes_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        problems.get(name, **options)


def test_chebyquad_m_must_be_an_integer():
    with pytest.raises(TypeError, match=r"`m` must be an integer, got 2\.5"):
        problems.get("chebyquad", m=2.5)
