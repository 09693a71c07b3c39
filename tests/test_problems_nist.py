"""NIST's nonlinear regressions: the certified figures are the oracle."""

import importlib.resources

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.optimize

import gradlab.problems as problems
from gradlab.problems.nist import read, reader

NIST = problems.names(tag="nist")
DATASETS = sorted(
    file.name.removesuffix(".dat")
    for file in (importlib.resources.files("gradlab.problems") / "nist").iterdir()
    if file.name.endswith(".dat")
)


def flat_functions(problem):
    """The residual and its Jacobian as NumPy functions of b."""
    residual = jax.jit(lambda b: problem.residual(b, *problem.args))
    jacobian = jax.jit(jax.jacfwd(lambda b: problem.residual(b, *problem.args)))
    return lambda b: np.asarray(residual(b)), lambda b: np.asarray(jacobian(b))


def half_unit(values):
    """Half a unit of the eleventh digit of certified numbers."""
    values = np.asarray(values)
    exponents = np.floor(np.log10(np.abs(values), where=values != 0, out=np.zeros_like(values)))
    return 0.5 * 10.0 ** (exponents - 10)


def test_all_27_files_are_problems():
    assert len(DATASETS) == 27
    assert sorted(name.lower() for name in DATASETS) == NIST


@pytest.mark.parametrize("dataset", DATASETS)
def test_certified_parameters_have_the_certified_sum_of_squares(dataset):
    problem = problems.get(dataset.lower())
    residual, jacobian = flat_functions(problem)
    b, certified = np.asarray(problem.minimizer), problem.minimum
    # What the certified digits leave open: at a minimum, only the square of what the
    # parameters' rounding does to the residuals; and the rounding of the residuals themselves.
    moved = np.abs(jacobian(b)) @ half_unit(b)
    rounded = 4 * np.finfo(np.float64).eps * np.abs(problem.args[1])
    slack = np.sum((moved + rounded) ** 2) + 2 * np.sum(rounded * np.abs(residual(b)))
    assert abs(np.sum(residual(b) ** 2) - certified) <= slack + half_unit(certified)
    if dataset != "Lanczos1":  # its residuals are 1e-13, below the certified digits
        assert slack < 1e-8 * certified


def test_float64_holds_three_digits_of_the_standard_deviations_of_lanczos1():
    # Its residuals are 1e-13 and its data of the order of 1: rounding these to float64 moves
    # the least sum of squares in its fourth digit, found here with sixty.
    problem = problems.get("lanczos1")
    x, y = (np.asarray(column).tolist() for column in problem.args)
    with mpmath.workdps(60):
        b = mpmath.matrix(np.asarray(problem.minimizer).tolist())
        for _ in range(3):
            terms = [[mpmath.exp(-b[k] * t) for k in (1, 3, 5)] for t in map(mpmath.mpf, x)]
            model = [mpmath.fdot((b[0], b[2], b[4]), row) for row in terms]
            r = mpmath.matrix([mpmath.mpf(a) - m for a, m in zip(y, model, strict=True)])
            rows = [
                [part for k in range(3) for part in (row[k], -b[2 * k] * t * row[k])]
                for row, t in zip(terms, map(mpmath.mpf, x), strict=True)
            ]
            jacobian = mpmath.matrix(rows)
            normal = jacobian.T * jacobian
            b += mpmath.lu_solve(normal, jacobian.T * r)
        least = mpmath.fdot(r, r)
        inverse = normal**-1
        exact = [mpmath.sqrt(least / (len(y) - 6) * inverse[k, k]) for k in range(6)]
    ratios = np.array(exact, float) / problem.certified["standard_deviations"]
    assert np.all(np.abs(ratios - 1) > 3e-4)
    assert np.all(np.abs(ratios - 1) < 6e-4)


@pytest.mark.parametrize("dataset", DATASETS)
def test_standard_deviations_follow_from_the_jacobian(dataset):
    problem = problems.get(dataset.lower())
    _, jacobian = flat_functions(problem)
    matrix = jacobian(np.asarray(problem.minimizer))
    scale = np.linalg.norm(matrix, axis=0)
    triangle = np.linalg.qr(matrix / scale)[1]
    inverse = np.linalg.inv(triangle)
    deviation = problem.certified["residual_standard_deviation"]
    actual = deviation * np.linalg.norm(inverse, axis=1) / scale
    expected = problem.certified["standard_deviations"]
    np.testing.assert_allclose(actual, expected, rtol=1e-7)


@pytest.mark.parametrize("dataset", DATASETS)
def test_figures_of_a_file_agree_with_each_other(dataset):
    data = read(dataset)
    certified = data.certified
    num_samples, num_parameters = len(data.response), len(certified["parameters"])
    freedom = certified["degrees_of_freedom"]
    assert freedom == num_samples - num_parameters
    variance = certified["residual_sum_of_squares"] / freedom
    np.testing.assert_allclose(
        np.sqrt(variance), certified["residual_standard_deviation"], rtol=1e-10
    )
    assert data.starts.shape == (2, num_parameters)
    assert len(data.predictors) == num_samples
    assert all(np.all(np.isfinite(array)) for array in data[:3])
    assert f"{num_parameters} parameters, {num_samples} observations" in data.description
    assert data.reference.endswith(".")


@pytest.mark.parametrize("dataset", DATASETS)
def test_tag_names_the_level_of_difficulty_of_the_file(dataset):
    problem = problems.get(dataset.lower())
    level = problem.tags[1].removeprefix("nist_")
    assert f", {level} level of difficulty." in problem.description


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("name", NIST)
def test_both_starts_have_finite_loss_and_gradient(name, start, dtype):
    problem = problems.get(name, start=start, dtype=dtype)
    b = problem.init()
    value, grad = jax.value_and_grad(problem.loss)(b, *problem.args)
    assert value.dtype == grad.dtype == b.dtype == dtype
    assert jnp.all(jnp.isfinite(grad))
    assert jnp.isfinite(value)
    assert value > problem.minimum


@pytest.mark.parametrize("name", NIST)
def test_scipy_reaches_the_certified_parameters_from_the_near_start(name):
    problem = problems.get(name, start=2)
    residual, jacobian = flat_functions(problem)
    run = scipy.optimize.least_squares(
        residual,
        np.asarray(problem.init()),
        jac=jacobian,
        method="lm",
        x_scale=np.abs(problem.init()),
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
        max_nfev=5000,
    )
    expected = problem.certified["parameters"]
    digits = -np.log10(np.max(np.abs(run.x / expected - 1)))
    assert digits > 6


@pytest.mark.parametrize(
    ("name", "b", "x", "expected"),
    [
        ("misra1a", [2.0, 0.5], 3.0, 2 * (1 - np.exp(-1.5))),
        ("misra1b", [2.0, 0.5], 3.0, 2 * (1 - (1 + 0.75) ** -2)),
        ("misra1c", [2.0, 0.5], 3.0, 2 * (1 - (1 + 3.0) ** -0.5)),
        ("misra1d", [2.0, 0.5], 3.0, 2 * 0.5 * 3 / (1 + 1.5)),
        ("rat42", [2.0, 0.5, 0.3], 3.0, 2 / (1 + np.exp(0.5 - 0.9))),
        ("rat43", [2.0, 0.5, 0.3, 1.7], 3.0, 2 / (1 + np.exp(0.5 - 0.9)) ** (1 / 1.7)),
        ("mgh09", [2.0, 0.5, 0.3, 1.7], 3.0, 2 * (9 + 1.5) / (9 + 0.9 + 1.7)),
    ],
)
def test_rearranged_models_equal_the_published_formulas(name, b, x, expected):
    residual = problems.get(name).residual
    actual = -residual(jnp.array(b), jnp.array([x]), jnp.zeros(1))[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-14)


def test_nelson_fits_the_logarithm_of_the_response():
    problem = problems.get("nelson")
    data = read("Nelson")
    assert data.predictors.shape == (128, 2)
    np.testing.assert_array_equal(problem.args[1], np.log(data.response))


def test_problems_of_one_model_share_compiled_code():
    assert problems.get("gauss1").loss is problems.get("gauss3", start=2).loss


def test_data_cannot_be_written_to():
    data = read("Misra1a")
    for array in (*data[:3], *list(data.certified.values())[:2]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0


def test_changing_the_certified_dict_changes_no_other_problem():
    problems.get("misra1a").certified.clear()
    assert problems.get("misra1a").certified["degrees_of_freedom"] == 12


def test_other_starts_are_refused():
    with pytest.raises(ValueError, match=r"`start` must be 1 \(far\) or 2 \(near\), got 3"):
        problems.get("misra1a", start=3)


def test_a_file_without_the_figures_says_which():
    text = (importlib.resources.files("gradlab.problems") / "nist/Misra1a.dat").read_text()
    with pytest.raises(ValueError, match="no 'Residual Sum of Squares'"):
        reader.parse(text.replace("Residual Sum of Squares", "Sum"))
    with pytest.raises(ValueError, match="where the section 'Starting' is"):
        reader.parse(text.replace("(lines", "(rows"))
