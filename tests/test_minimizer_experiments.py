"""The experiments with minimisers measure what theory says, and leave their folders behind."""

import csv
import math

import numpy as np
import pytest
from support import load, quick_run

import gradlab as gl

# What each draws, and the table it writes.
FILES = {
    "convergence_order": ("convergence-order", "orders.csv"),
    "basins": ("basins", "basins.csv"),
    "saddles": ("saddles", "escapes.csv"),
    "conditioning": ("conditioning", "steps.csv"),
    "differences_newton": ("differences-newton", "stalls.csv"),
    "multistart": ("multistart", "shares.csv"),
    "profiles": ("profiles", "runs.csv"),
}


def test_the_fitted_orders_are_those_of_theory():
    """Newton's step doubles the digits; bent by the third derivative, it triples them."""
    module = load("experiments", "convergence_order")
    rows = module.measure(methods=("gd", "pure_newton", "newton"), quick=True)
    slopes = {row["method"]: row["order"].order for row in rows}
    assert slopes["gd"] == pytest.approx(1, abs=0.03)
    assert slopes["pure_newton"] == pytest.approx(2, abs=0.2)
    assert slopes["newton"] == pytest.approx(3, abs=0.6)
    assert module.gain(rows[0]) < 1
    assert "gd 1.00 (theory 1)" in module.answer(rows)


@pytest.mark.slow
def test_newtons_step_keeps_two_thirds_of_the_distance_to_a_singular_minimum():
    """Along the null space the gradient is x³: Newton's step is x / 3, the bent one 4 x / 9."""
    module = load("experiments", "convergence_order")
    singular = module.cases()[module.SINGULAR]
    module.cases = lambda quick: {module.SINGULAR: singular}
    for row in module.measure(methods=("pure_newton", "newton"), quick=True):
        assert row["order"].order == pytest.approx(1, abs=0.02)
        assert module.gain(row) == pytest.approx(module.SINGULAR_RATES[row["method"]], rel=0.01)


@pytest.fixture(scope="module")
def basins():
    module = load("experiments", "basins")
    names, methods = ("styblinski_tang",), ("gd", "pure_newton")
    (found,) = module.measure(names=names, methods=methods, resolution=21)
    return module, found


@pytest.mark.slow
def test_steepest_descent_stays_on_its_side_of_the_maximum_between_two_minima(basins):
    """The loss is a sum over coordinates, each with a maximum at 0.1567 between minima."""
    _, found = basins
    starts, ends = found.starts, found.endings["gd"]
    assert np.array_equal(ends.points > 0, starts > 0.156731)
    assert np.all(ends.reached >= 0)
    assert len(found.minima) == 4


@pytest.mark.slow
def test_newton_without_safeguard_follows_the_textbook_iteration(basins):
    """Coordinate by coordinate x − f'/f'' in NumPy ends at the same roots of the gradient."""
    _, found = basins
    x = found.starts.copy()
    for _ in range(100):
        x -= (4 * x**3 - 32 * x + 5) / (12 * x**2 - 32)
    ends = found.endings["pure_newton"]
    at_minima = np.all(12 * x**2 > 32, axis=1)
    assert np.array_equal(ends.reached >= 0, at_minima)
    np.testing.assert_allclose(ends.points[at_minima], x[at_minima], atol=1e-4)
    assert 0.3 < at_minima.mean() < 0.8


def test_the_basins_are_told_and_drawn(basins):
    module, found = basins
    rows = {row["method"]: row for row in module.table([found])}
    assert rows["gd"]["same"] == 1
    assert rows["pure_newton"]["same"] < rows["pure_newton"]["any"] < 1
    assert "of the starts on styblinski_tang" in module.answer([found])
    assert set(module.draw([found])) == {"basins"}


@pytest.fixture(scope="module")
def saddles():
    module = load("experiments", "saddles")
    settings = {"names": (module.WELL,), "distances": (0.0, 1e-6, 1e-3)}
    return module, module.measure(methods=("gd", "newton", "pure_newton"), **settings)


def test_only_a_method_with_negative_curvature_leaves_from_on_the_saddle(saddles):
    _, rows = saddles
    end = {row["method"]: row for row in rows if row["delta"] == 0}
    assert end["newton"]["status"] == "CONVERGED_GRADIENT"
    assert end["newton"]["steps"] <= 2
    for method in ("gd", "pure_newton"):
        assert math.isnan(end[method]["steps"])
        assert end[method]["status"] == "STATIONARY_NOT_MINIMUM"


def test_pure_newton_returns_to_the_saddle_and_newton_does_not(saddles):
    _, rows = saddles
    assert all(math.isnan(row["steps"]) for row in rows if row["method"] == "pure_newton")
    assert all(row["steps"] <= 3 for row in rows if row["method"] == "newton")


def test_gradient_descent_leaves_in_the_steps_that_growth_takes(saddles):
    module, rows = saddles
    case = module.cases()[module.WELL]
    near = [row for row in rows if row["method"] == "gd" and row["delta"] > 0]
    assert len(near) == 2
    for row in near:
        expected = module.predicted("gd", case, row["delta"])
        assert expected <= row["steps"] <= expected + 2


def test_newton_does_not_feel_the_condition_number_and_gradient_descent_does():
    module = load("experiments", "conditioning")
    settings = {"dtypes": ("float64",), "conditions": (1.0, 1e2, 1e8)}
    rows = module.measure(methods=("gd", "newton"), names=(module.BOWL,), **settings)
    steps = {(row["method"], row["kappa"]): row["steps"] for row in rows}
    assert [steps["newton", kappa] for kappa in settings["conditions"]] == [1, 1, 1]
    bound = 1e2 * math.log(1 / module.TOLERANCE) / 2
    assert 0.7 * bound < steps["gd", 1e2] <= bound
    assert math.isnan(steps["gd", 1e8])
    assert module.spread(rows, "newton", "float64") == 1
    assert module.spread(rows, "gd", "float64") == math.inf


def test_pure_newton_takes_the_same_steps_on_the_valleys_whatever_the_scale():
    module = load("experiments", "conditioning")
    settings = {"dtypes": ("float64",), "conditions": (1.0, 1e4, 1e8)}
    rows = module.measure(methods=("pure_newton",), names=(module.VALLEY,), **settings)
    assert len({row["steps"] for row in rows}) == 1


def test_the_linear_map_has_the_condition_number_asked_for():
    matrix = load("experiments", "conditioning").linear_map(1e6)
    assert np.linalg.cond(matrix.T @ matrix) == pytest.approx(1e6, rel=1e-6)


@pytest.fixture(scope="module")
def stalls():
    module = load("experiments", "differences_newton")
    settings = {"methods": ("newton",), "schemes": ("forward",), "dtypes": ("float64",)}
    return module, module.measure(per_decade=1, **settings)


@pytest.mark.slow
def test_newton_with_differences_stalls_where_their_error_is_predicted(stalls):
    _, rows = stalls
    exact, *differenced = rows
    assert exact["error"] < 1e-12
    middle = [row for row in differenced if 1e-8 < row["step"] < 1e-4]
    assert len(middle) >= 3
    for row in middle:  # truncation alone, without luck
        assert row["error"] == pytest.approx(row["predicted"], rel=0.25)
    for row in differenced[:-2]:  # the longest leave the valley
        assert row["error"] < 5 * row["predicted"]
    best = min(row["error"] for row in differenced)
    floor = min(row["predicted"] for row in differenced)
    assert floor / 100 < best < 3 * floor


def test_the_predicted_error_is_that_of_the_formula_at_the_minimum(stalls):
    """At (1, 1): f_xx = 802, f_xxx = 2400; along the other axis 200 and 0."""
    module, _ = stalls
    eps = np.finfo(float).eps
    assert module.predict("forward", 1e-3, "float64") == pytest.approx(0.401, rel=1e-9)
    central = 400e-6 + eps / 2e-3
    assert module.predict("central", 1e-3, "float64") == pytest.approx(central, rel=1e-9)


def test_steepest_descent_finds_the_deepest_minimum_from_its_share_of_the_box():
    module = load("experiments", "multistart")
    (row,) = module.measure(methods=("gd",), names=module.PROBLEMS[1:], num_starts=400)
    # The maximum between the minima is the middle root of 4 x³ − 32 x + 5.
    middle = np.sort(np.roots([4, 0, -32, 5]).real)[1]
    assert row["theory"] == pytest.approx(((middle + 5) / 10) ** 4, rel=1e-3)
    assert abs(row["deepest"] - row["theory"]) < 3 * math.sqrt(row["theory"] / 400)
    assert row["any"] == 1


def test_methods_that_find_the_deepest_as_often_are_told_together():
    rows = [
        {"problem": "bowl", "method": method, "deepest": share, "total": total}
        for method, share, total in (
            ("gd", 0.5, 3.0),
            ("newton", 0.5, 2.0),
            ("lbfgs", 0.4, 4.0),
        )
    ]
    told = load("experiments", "multistart").answer(rows)
    assert "restarts of newton find" in told
    assert "gd and newton find it from most starts, 50.0%" in told


@pytest.mark.parametrize(("found", "count"), [(0, 50), (3, 300), (30, 30)])
def test_the_interval_is_wilsons(found, count):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(found, count).proportion_ci(method="wilson")
    low, high = load("experiments", "multistart").interval(found / count, count)
    np.testing.assert_allclose([low, high], expected, atol=2e-5)


def test_restarts_of_a_method_that_finds_one_in_ten_cost_44_runs():
    module = load("experiments", "multistart")
    assert module.total_cost(0.1, 2.0) == pytest.approx(2 * math.log(0.01) / math.log(0.9))
    assert module.total_cost(1.0, 7.0) == 7
    assert module.total_cost(0.0, 1.0) == math.inf


def test_profiles_count_every_problem_of_the_set():
    module = load("experiments", "profiles")
    assert module.problems() == tuple(gl.problems.names(tag="mgh"))
    assert set(module.QUICK_PROBLEMS) <= set(module.problems())
    comparison = module.measure(names=("rosenbrock", "box_3d"), methods=("newton",))
    (row,) = module.table(comparison)
    assert (row["solved"], row["best"], row["converged"]) == (1, 1, 2)
    profile = comparison.profile(module.TOLERANCES[0])
    assert profile.sizes.tolist() == [2, 3]
    np.testing.assert_allclose(profile.budgets, 3 * profile.costs / [3, 4])
    assert "newton solves 100%" in module.answer(comparison)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_quick_run_writes_its_folder(name, tmp_path, capsys):
    folder, summary = quick_run(name, tmp_path, capsys)
    figure, table = FILES[name]
    assert summary["results"]
    assert list(csv.DictReader((folder / table).read_text().splitlines()))
    assert (folder / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / f"{figure}.svg").exists()
