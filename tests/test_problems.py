"""The table of problems, the classical functions and the regressions."""

import operator
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from jax.flatten_util import ravel_pytree
from support import assert_close

import gradlab.problems as problems
from gradlab.problems import data, registry

ANALYTIC = [
    ("square", {}),
    ("rosenbrock", {}),
    ("rosenbrock", {"n": 7}),
    ("beale", {}),
    ("himmelblau", {}),
    ("booth", {}),
    ("rastrigin", {}),
    ("rastrigin", {"n": 5}),
    ("styblinski_tang", {"n": 3}),
    ("quadratic", {}),
    ("quadratic", {"n": 6, "condition": 1e6}),
    ("monkey_saddle", {}),
    ("powell_singular", {}),
]
REGRESSION = [
    ("linear", {}),
    ("linear", {"l2": 0.1}),
    ("logistic", {}),
    ("softmax", {}),
]
WITHOUT_MINIMIZER = ["monkey_saddle", "logistic", "softmax"]
SUMS_OF_SQUARES = problems.names(tag="least_squares")
DTYPES = ["float32", "float64"]


def ident(value):
    return "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None


def every(cases):
    return pytest.mark.parametrize(("name", "options"), cases, ids=ident)


def largest(tree):
    return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("dtype", DTYPES)
@every(ANALYTIC + REGRESSION)
class TestBattery:
    def test_start_and_gradient_are_finite_and_keep_the_dtype(self, name, options, dtype):
        problem = problems.get(name, dtype=dtype, **options)
        start = problem.init()
        value, grad = jax.jit(jax.value_and_grad(problem.loss))(start, *problem.args)
        assert (value.shape, value.dtype) == ((), dtype)
        assert jnp.isfinite(value)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves((start, grad)))
        assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(grad))
        assert sum(leaf.size for leaf in jax.tree.leaves(start)) == problem.num_params

    def test_vmap_agrees_with_one_at_a_time(self, name, options, dtype):
        problem = problems.get(name, dtype=dtype, **options)
        starts = jax.vmap(problem.init)(jax.random.split(jax.random.key(1), 2))
        starts = jax.tree.map(
            lambda x: x * jnp.asarray([0.5, 1.25], dtype).reshape((2,) + (1,) * (x.ndim - 1)),
            starts,
        )
        together = jax.vmap(lambda x: problem.loss(x, *problem.args))(starts)
        for i in range(2):
            start = jax.tree.map(operator.itemgetter(i), starts)
            alone = problem.loss(start, *problem.args)
            assert_close(together[i], alone)


@pytest.mark.parametrize("dtype", DTYPES)
@every([case for case in ANALYTIC + REGRESSION if case[0] not in WITHOUT_MINIMIZER])
def test_minimizer_has_the_minimum_and_no_gradient(name, options, dtype):
    problem = problems.get(name, dtype=dtype, **options)
    start = problem.init()
    assert jax.tree.map(jnp.shape, problem.minimizer) == jax.tree.map(jnp.shape, start)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(problem.minimizer))
    value, grad = jax.value_and_grad(problem.loss)(problem.minimizer, *problem.args)
    value_scale = abs(problem.loss(start, *problem.args))
    grad_scale = largest(jax.grad(problem.loss)(start, *problem.args))
    assert_close(value, jnp.asarray(problem.minimum, dtype), scale=value_scale)
    assert largest(grad) <= 100 * jnp.finfo(dtype).eps * grad_scale


@pytest.mark.parametrize("dtype", DTYPES)
@every([case for case in ANALYTIC + REGRESSION if case[0] in SUMS_OF_SQUARES])
def test_loss_is_the_sum_of_the_squared_residuals_exactly(name, options, dtype):
    problem = problems.get(name, dtype=dtype, **options)
    residual = problem.residual(problem.init(), *problem.args)
    assert (residual.shape, residual.dtype) == ((problem.num_residuals,), dtype)
    assert jnp.sum(residual**2) == problem.loss(problem.init(), *problem.args)


def test_sums_of_squares_are_tagged():
    for name in {name for name, _ in ANALYTIC + REGRESSION}:
        assert (problems.get(name).residual is not None) == (name in SUMS_OF_SQUARES)


@every(ANALYTIC + REGRESSION)
def test_two_calls_share_the_loss_so_compiled_code_is_reused(name, options):
    first, second = problems.get(name, **options), problems.get(name, **options)
    assert first.loss is second.loss
    assert first.residual is second.residual


@every([case for case in ANALYTIC if case[0] != "monkey_saddle"])
def test_no_nearby_point_is_lower_than_the_minimum(name, options):
    problem = problems.get(name, **options)
    shape = problem.minimizer.shape
    for seed in range(20):
        step = jax.random.normal(jax.random.key(seed), shape) * 10.0 ** -(seed % 4)
        value = problem.loss(problem.minimizer + step, *problem.args)
        assert value >= problem.minimum * (1 - 1e-15 * np.sign(problem.minimum))


@pytest.mark.parametrize("n", [2, 7])
def test_rosenbrock_agrees_with_scipy(n):
    problem = problems.get("rosenbrock", n=n)
    x = jnp.linspace(-1.5, 2.0, n)
    assert_close(problem.loss(x), jnp.asarray(scipy.optimize.rosen(np.asarray(x))))
    assert_close(
        jax.hessian(problem.loss)(x), jnp.asarray(scipy.optimize.rosen_hess(np.asarray(x)))
    )


def test_rosenbrock_starts_where_published():
    assert problems.get("rosenbrock", n=5).init().tolist() == [-1.2, 1.0, -1.2, 1.0, -1.2]


@pytest.mark.parametrize(
    ("name", "x", "y", "value"),
    [
        ("beale", 2.0, 3.0, 5.5**2 + 18.25**2 + 54.625**2),  # 1.5 + 4, 2.25 + 16, 2.625 + 52
        ("himmelblau", 2.0, 3.0, 32.0),  # (4 + 3 - 11)² + (2 + 9 - 7)²
        ("booth", 2.0, 3.0, 5.0),  # (2 + 6 - 7)² + (4 + 3 - 5)²
        ("monkey_saddle", 2.0, 3.0, -46.0),  # 8 - 54
    ],
)
def test_values_worked_by_hand(name, x, y, value):
    assert float(problems.get(name).loss(jnp.array([x, y]))) == value


def test_rastrigin_agrees_with_its_definition():
    x = np.array([0.3, -2.6, 4.1])
    expected = 30 + np.sum(x**2 - 10 * np.cos(2 * np.pi * x))
    assert_close(problems.get("rastrigin").loss(jnp.asarray(x)), jnp.asarray(expected))


def test_powell_singular_agrees_with_its_definition():
    a, b, c, d = x = np.array([0.3, -2.6, 4.1, 1.7])
    expected = (a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4
    assert_close(problems.get("powell_singular").loss(jnp.asarray(x)), jnp.asarray(expected))


@pytest.mark.parametrize(
    "x", [(3.0, 2.0), (-2.805118, 3.131312), (-3.77931, -3.283186), (3.584428, -1.848126)]
)
def test_himmelblau_has_four_minima(x):
    assert problems.get("himmelblau").loss(jnp.asarray(x)) < 1e-9


@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e10])
def test_quadratic_has_the_chosen_condition_number(n, condition):
    problem = problems.get("quadratic", n=n, condition=condition)
    hessian = jax.hessian(problem.loss)(problem.init(), *problem.args)
    eigenvalues = jnp.linalg.eigvalsh(hessian)
    expected = jnp.geomspace(1 / condition, 1.0, n) if n > 1 else jnp.ones(1)
    assert_close(eigenvalues, expected)


def test_random_starts_follow_the_key_and_stay_in_the_box():
    problem = problems.get("rastrigin", n=50)
    first, second = problem.init(jax.random.key(1)), problem.init(jax.random.key(2))
    assert not jnp.array_equal(first, second)
    assert jnp.array_equal(first, problem.init(jax.random.key(1)))
    assert jnp.max(jnp.abs(first)) <= 5.12 < 2 * jnp.max(jnp.abs(first))


def test_both_dtypes_start_at_the_same_point():
    single = problems.get("styblinski_tang", dtype="float32").init(jax.random.key(5))
    double = problems.get("styblinski_tang", dtype="float64").init(jax.random.key(5))
    assert jnp.array_equal(single, double.astype(jnp.float32))


def test_start_scale_multiplies_a_start_and_replaces_zeros():
    start = problems.get("rosenbrock").init()
    assert_close(problems.get("rosenbrock", start_scale=10.0).init(), 10 * start)
    assert problems.get("booth", start_scale=10.0).init().tolist() == [10.0, 10.0]
    assert problems.get("booth", start_scale=1.0).init().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_linear_minimizer_solves_the_normal_equations(l2):
    problem = problems.get("linear", l2=l2)
    features, targets = data.diabetes()
    matrix = np.column_stack([np.ones(len(targets)), features])
    gram = matrix.T @ matrix / len(targets) + l2 / 2 * np.eye(11)
    solution = scipy.linalg.solve(gram, matrix.T @ targets / len(targets), assume_a="pos")
    actual = jnp.concatenate([problem.minimizer["bias"][None], problem.minimizer["weights"]])
    condition = np.linalg.cond(gram)
    assert_close(actual, jnp.asarray(solution), factor=100 * condition)


def classifier(**options):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(fit_intercept=False, tol=1e-8, max_iter=10_000, **options)


def with_ones(features):
    return np.column_stack([np.ones(len(features)), features])


@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_logistic_minimum_is_that_of_scikit_learn(l2):
    problem = problems.get("logistic", l2=l2)
    features, signs = data.breast_cancer()
    model = classifier(C=1 / (l2 * len(signs)), solver="newton-cholesky")
    coefficients = model.fit(with_ones(features), signs).coef_[0]
    params = {"bias": jnp.asarray(coefficients[0]), "weights": jnp.asarray(coefficients[1:])}
    value, grad = jax.value_and_grad(problem.loss)(params, *problem.args)
    assert largest(grad) < 1e-9
    if l2 == 1e-3:
        assert_close(value, jnp.asarray(problem.minimum))
    else:
        assert problem.minimum is None


def test_softmax_minimum_is_that_of_scikit_learn():
    problem = problems.get("softmax")
    pixels, labels = data.digits()
    model = classifier(C=1 / (1e-3 * len(labels)), solver="lbfgs")
    coefficients = model.fit(with_ones(pixels), labels).coef_
    bias, weights = coefficients[:, 0], coefficients[:, 1:].T
    params = {"bias": jnp.asarray(bias), "weights": jnp.asarray(weights)}
    value, grad = jax.value_and_grad(problem.loss)(params, *problem.args)
    assert largest(grad) < 1e-5
    assert problem.minimum <= value <= problem.minimum * (1 + 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["logistic", "softmax"])
def test_classification_losses_survive_huge_parameters(name, dtype):
    problem = problems.get(name, dtype=dtype, l2=0.0)
    flat, unflatten = ravel_pytree(problem.init())
    params = unflatten(jnp.linspace(-1e6, 1e6, flat.size, dtype=dtype))
    value, grad = jax.value_and_grad(problem.loss)(params, *problem.args)
    assert jnp.isfinite(value + largest(grad))


def test_data_sets_are_standardised_cached_and_read_only():
    features, targets = data.diabetes()
    assert (features.shape, targets.shape) == ((442, 10), (442,))
    assert_close(features.std(axis=0), np.ones(10))
    assert np.all(np.abs(features.mean(axis=0)) < 1e-14)
    assert data.diabetes()[0] is features
    with pytest.raises(ValueError, match="read-only"):
        features[0, 0] = 1.0
    features, signs = data.breast_cancer()
    assert (features.shape, set(signs)) == ((569, 30), {-1.0, 1.0})
    pixels, labels = data.digits()
    assert (pixels.shape, pixels.min(), pixels.max()) == ((1797, 64), 0.0, 1.0)
    assert sorted(set(labels)) == list(range(10))
    assert labels.dtype == np.int32


def test_integer_labels_stay_integers():
    assert problems.get("softmax", dtype="float32").args[1].dtype == jnp.int32


def test_loss_constants_hold_no_data():
    problem = problems.get("logistic")
    jaxpr = jax.make_jaxpr(problem.loss)(problem.init(), *problem.args)
    assert sum(np.size(constant) for constant in jaxpr.consts) == 0


def test_names_are_sorted_and_filtered_by_tag():
    assert problems.names() == sorted(problems.names())
    assert problems.names(tag="regression") == ["linear", "logistic", "softmax"]
    assert set(problems.names(tag="2d")) >= {"beale", "booth", "himmelblau", "rosenbrock"}
    assert problems.get("beale").tags[0] == "analytic"


def test_plot_boxes_hold_start_and_minimizer():
    for name in problems.names(tag="2d"):
        problem = problems.get(name)
        low, high = np.array(problem.plot_box).T
        points = [problem.init()] + ([] if problem.minimizer is None else [problem.minimizer])
        assert all(np.all(low <= x) and np.all(x <= high) for x in np.asarray(points))


def test_repr_shows_sizes_not_data():
    text = repr(problems.get("logistic"))
    assert text.startswith("Problem('logistic', num_params=31, minimum=0.0598")
    assert len(text) < 80
    assert "num_residuals=442" in repr(problems.get("linear"))


class TestErrors:
    def test_unknown_name_answers_with_the_nearest(self):
        with pytest.raises(ValueError, match=r"got 'rosenbrok'\. Did you mean 'rosenbrock'\?"):
            problems.get("rosenbrok")

    def test_unknown_option_answers_with_the_nearest_and_the_list(self):
        message = (
            r"'quadratic' has no option 'conditon'. Did you mean 'condition'\? "
            r"Its options: \['n', 'condition', 'start_scale', 'dtype'\]"
        )
        with pytest.raises(TypeError, match=message):
            problems.get("quadratic", conditon=3.0)

    def test_unknown_tag_answers_with_the_nearest(self):
        with pytest.raises(ValueError, match="Did you mean 'analytic'"):
            problems.names(tag="analytical")

    @pytest.mark.parametrize("dtype", ["int32", "float16", "complex128", "single-ish", 3])
    def test_other_dtypes_are_refused(self, dtype):
        with pytest.raises(TypeError, match="`dtype` must be 'float32' or 'float64', got"):
            problems.get("booth", dtype=dtype)

    @pytest.mark.parametrize("n", [1, 0, -3])
    def test_too_small_n_is_refused(self, n):
        with pytest.raises(ValueError, match=f"`n` must be at least 2, got {n}"):
            problems.get("rosenbrock", n=n)

    @pytest.mark.parametrize("n", [2.0, "2", None])
    def test_n_that_is_no_integer_is_refused(self, n):
        with pytest.raises(TypeError, match="`n` must be an integer, got"):
            problems.get("rosenbrock", n=n)

    def test_option_that_is_no_number_is_refused(self):
        with pytest.raises(TypeError, match="`condition` must be a number, got None"):
            problems.get("quadratic", condition=None)

    def test_numpy_numbers_are_welcome(self):
        problem = problems.get(
            "quadratic", n=np.int64(3), condition=np.float32(10), start_scale=2
        )
        assert problem.init().tolist() == [2.0, 2.0, 2.0]

    @pytest.mark.parametrize("condition", [0.5, -1.0, np.inf, np.nan])
    def test_impossible_condition_numbers_are_refused(self, condition):
        with pytest.raises(ValueError, match="`condition` must be at least 1 and finite"):
            problems.get("quadratic", condition=condition)

    @pytest.mark.parametrize("l2", [-1.0, np.inf, np.nan])
    @pytest.mark.parametrize("name", ["linear", "logistic", "softmax"])
    def test_impossible_penalties_are_refused(self, name, l2):
        with pytest.raises(ValueError, match="`l2` must be zero or positive and finite"):
            problems.get(name, l2=l2)

    @pytest.mark.parametrize("scale", [0.0, np.nan, np.inf])
    def test_impossible_start_scales_are_refused(self, scale):
        with pytest.raises(ValueError, match="`start_scale` must be finite and not zero"):
            problems.get("booth", start_scale=scale)

    def test_float64_without_x64_names_the_switch(self):
        jax.config.update("jax_enable_x64", False)
        try:
            with pytest.raises(ValueError, match="jax_enable_x64"):
                problems.get("booth", dtype="float64")
            assert problems.get("booth").init().dtype == jnp.float32
        finally:
            jax.config.update("jax_enable_x64", True)

    def test_missing_scikit_learn_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn", None)
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        data.breast_cancer.cache_clear()
        with pytest.raises(ImportError, match=r'pip install "gradlab-jax\[experiments\]"'):
            problems.get("logistic")


class TestRegister:
    @pytest.fixture(autouse=True)
    def table(self, monkeypatch):
        monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))

    def problem(self):
        return problems.Problem(
            "mine", lambda x: jnp.sum(x**2), registry.fixed_start(np.ones(2)), "d", "s"
        )

    def test_registered_problem_is_found_under_its_tag_and_cast(self):
        problems.register("mine", tags=("own",))(lambda: self.problem())
        assert problems.names(tag="own") == ["mine"]
        assert problems.get("mine", dtype="float32").init().dtype == jnp.float32
        assert problems.get("mine").tags == ("own",)

    def test_taken_name_is_refused(self):
        with pytest.raises(ValueError, match="'booth' is registered"):
            problems.register("booth")(lambda: self.problem())

    def test_a_cell_run_twice_replaces_its_own_problem(self):
        for _ in range(2):

            @problems.register("mine")
            def mine():
                return self.problem()

        assert problems.get("mine").name == "mine"

    def test_builders_with_required_parameters_are_refused(self):
        with pytest.raises(TypeError, match="'mine' takes `n`"):
            problems.register("mine")(lambda n: self.problem())
        with pytest.raises(TypeError, match="'mine' takes `dtype`"):
            problems.register("mine")(lambda dtype=None: self.problem())


def test_import_loads_no_optional_package():
    code = (
        "import sys; import gradlab.problems as p; p.get('rosenbrock'); "
        "print([m for m in ('sklearn', 'pandas', 'matplotlib.pyplot') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
