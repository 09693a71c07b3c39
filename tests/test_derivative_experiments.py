"""The derivative experiments measure what theory says, and leave their folders behind."""

import math

import numpy as np
import pytest
from support import load, quick_run

# What each draws.
FIGURES = {
    "step_size": "step-size",
    "work_precision": "work-precision",
    "noisy_losses": "noisy-losses",
    "grid_gradient": "grid-gradient",
    "gradient_cost": "gradient-cost",
    "nth_derivatives": "nth-derivatives",
}


@pytest.fixture(scope="module")
def curves():
    module = load("experiments", "step_size")
    return module, module.measure(dtypes=("float64",), per_decade=4)


def test_the_error_falls_with_the_order_of_the_formula(curves):
    module, measured = curves
    for curve in measured:
        assert module.falling_slope(curve) == pytest.approx(curve.accuracy, abs=0.15)


def test_the_predicted_step_is_best_within_a_factor(curves):
    _, measured = curves
    for curve in measured:
        if curve.formula != "complex step":
            assert 1 / 4 < curve.optimum / curve.steps[curve.best] < 4
            assert 1 / 6 < curve.floor / curve.errors[curve.best] < 6


def test_the_error_left_of_the_optimum_grows_as_one_over_the_step(curves):
    _, measured = curves
    for curve in measured[:3]:
        kept = (curve.steps > 1e-14) & (curve.steps < curve.optimum / 8)
        slope = np.polyfit(np.log(curve.steps[kept]), np.log(curve.errors[kept]), 1)[0]
        assert slope == pytest.approx(-1, abs=0.15)


def test_the_complex_step_cannot_be_too_short(curves):
    _, measured = curves
    complex_step = measured[-1]
    short = complex_step.errors[complex_step.steps < complex_step.optimum / 2]
    assert np.all(short < 4 * np.finfo(float).eps)


def test_both_references_of_step_size_agree_with_autodiff(curves):
    import jax

    module, _ = curves
    found = [float(jax.grad(module.function)(float(x))) for x in module.POINTS]
    np.testing.assert_allclose(module.slope(module.POINTS), found, rtol=1e-14)


def test_work_precision_finds_autodiff_exact_and_differences_at_two_thirds():
    module = load("experiments", "work_precision")
    rows = module.measure(accuracies=(1, 2), budgets=(50,))
    by_setting = {(r["function"], r["method"], r["setting"]): r for r in rows}
    smooth = "exp(sin x)"
    error = {key[1:]: row["error"] for key, row in by_setting.items() if key[0] == smooth}
    assert error["jax.grad", ""] < 1e-15
    assert error["complex step", ""] < 1e-15
    eps = np.finfo(float).eps
    assert eps / 10 < error["finite differences", "forward, accuracy 1"] ** 2 < 100 * eps
    assert eps / 30 < error["finite differences", "central, accuracy 2"] ** 1.5 < 100 * eps
    assert error["adaptive differences", "max_nfev=50"] < 1e-12
    assert all(row["evaluations"] <= 50 for row in rows)


def test_the_closed_forms_of_work_precision_are_the_derivatives():
    mpmath = pytest.importorskip("mpmath")
    smooth = {
        "exp(sin x)": lambda x: mpmath.exp(mpmath.sin(x)),
        "pole: 1 / (2 − x)": lambda x: 1 / (2 - x),
        "peak: 1 / (1 + 25 x²)": lambda x: 1 / (1 + 25 * x**2),
        "wave: sin(50 x)": lambda x: mpmath.sin(50 * x),
        "potential: x⁻¹² − x⁻⁶": lambda x: x**-12 - x**-6,
        "offset: 10⁴ + sin x": lambda x: 10**4 + mpmath.sin(x),
    }
    with mpmath.workdps(50):
        for case in load("experiments", "work_precision").cases():
            exact = float(mpmath.diff(smooth[case.name], mpmath.mpf(case.point)))
            assert case.derivative(np.asarray(case.point)) == pytest.approx(exact, rel=1e-13)


@pytest.fixture(scope="module")
def noisy():
    return load("experiments", "noisy_losses").measure(num_points=8)


@pytest.mark.slow
def test_the_bar_holds_the_truth_whatever_the_noise(noisy):
    adaptive = [row for row in noisy if row["operator"] == "adaptive"]
    assert len(adaptive) == 5
    assert min(row["held"] for row in adaptive) >= 0.8


@pytest.mark.slow
def test_autodiff_of_a_rounded_loss_is_zero_and_of_noise_is_wild(noisy):
    autodiff = {row["loss"]: row for row in noisy if row["operator"] == "autodiff"}
    assert autodiff["exact, float64"]["error"] < 1e-15
    assert autodiff["rounded to 6 decimals"]["worst"] > 0.5
    assert autodiff["noise of 1e-07"]["error"] > 1e3


def test_the_noise_of_rounding_to_six_decimals_is_measured(noisy):
    row = next(r for r in noisy if r["loss"].startswith("rounded"))
    uniform = 1e-6 / math.sqrt(12)  # of an error spread evenly over one unit
    assert row["noise"] == pytest.approx(uniform, rel=0.7)


@pytest.mark.slow
def test_numpy_gradient_is_second_order_inside_and_first_at_the_ends():
    module = load("experiments", "grid_gradient")
    result = module.measure(most=1 << 14)
    names = ("numpy.gradient inside", "numpy.gradient, ends, edge_order=2")
    for name in names:
        assert module.order(result, name) == pytest.approx(2, abs=0.15)
    assert module.order(result, "numpy.gradient, ends") == pytest.approx(1, abs=0.15)
    for name in ("gradlab.finite.derivative", "jax.grad"):
        assert np.ptp(np.log10(result.errors[name])) < 1
    assert "Error" in result.one_point
    assert result.two_points[0] == result.two_points[1]


def test_a_gradient_costs_n_losses_by_differences_and_a_few_by_reverse_mode():
    module = load("experiments", "gradient_cost")
    rows = module.measure(sizes=(10, 40, 1000), most_measured=10)
    counted = {(r["method"], r["n"]): r["counted"] for r in rows}
    for n in (10, 40, 1000):
        assert counted[module.CENTRAL, n] == 2 * n
        assert counted[module.FORWARD, n] == n + 1
        assert counted[module.COMPLEX, n] == n
        assert 1 < counted[module.REVERSE, n] < 4
    assert counted[module.REVERSE, 1000] == pytest.approx(counted[module.REVERSE, 10], rel=0.2)
    assert [r["ratio"] is None for r in rows if r["n"] == 40] == [False, *4 * [True]]


def test_a_taylor_series_keeps_its_digits_and_nesting_multiplies_the_program():
    module = load("experiments", "nth_derivatives")
    highest = {
        module.NESTED: 4,
        module.SERIES: 14,
        module.DIFFERENCES: 3,
        module.ADAPTIVE: 1,
    }
    rows = module.measure(highest=highest)
    of = {m: [r for r in rows if r["method"] == m] for m in highest}
    assert min(map(module.digits, of[module.SERIES])) >= 12
    assert module.growth(rows, module.NESTED) > 2
    assert module.growth(rows, module.SERIES) < 1.25
    lost = [module.digits(row) for row in of[module.DIFFERENCES]]
    assert lost[0] > 9 > lost[2] > 4


def test_the_reference_of_high_derivatives_is_exact():
    mpmath = pytest.importorskip("mpmath")
    module = load("experiments", "nth_derivatives")
    with mpmath.workdps(60):
        series = mpmath.taylor(lambda x: mpmath.exp(mpmath.sin(x)), module.POINT, 9)
        exact = [float(c * mpmath.factorial(k)) for k, c in enumerate(series)]
    assert [module.exact(k) for k in range(10)] == pytest.approx(exact, rel=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_quick_run_writes_its_folder(name, tmp_path, capsys):
    folder, summary = quick_run(name, tmp_path, capsys)
    assert summary["results"]
    assert (folder / f"{FIGURES[name]}.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / f"{FIGURES[name]}.svg").exists()
