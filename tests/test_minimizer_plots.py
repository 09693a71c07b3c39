"""Orders, restarts, data profiles: what is computed from made runs, and what is drawn."""

import csv

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import gradlab as gl
from gradlab.compare import (
    Endings,
    Multistart,
    Profile,
    Table,
    convergence_order,
    grid,
    multistart,
)
from gradlab.compare.starts import _distinct, _nearest
from gradlab.plots import plot_basins, plot_convergence_order, plot_data_profile


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


class TestOrder:
    @pytest.mark.parametrize(("order", "constant"), [(1, 0.5), (1.5, 2.0), (2, 3.0), (3, 0.1)])
    def test_the_order_and_constant_of_a_made_sequence_are_found(self, order, constant):
        runs = []
        for start in (0.2, 0.1, 0.05):
            errors = [start]
            while errors[-1] > 1e-12 and len(errors) < 30:
                errors.append(constant * errors[-1] ** order)
            runs.append(errors)
        found = convergence_order(runs)
        assert found.order == pytest.approx(order, rel=1e-9)
        assert found.constant == pytest.approx(constant, rel=1e-6)

    def test_steps_outside_the_range_are_left_out(self):
        errors = [5.0, 0.1, 0.01, 0.001, 1e-20, 0.5, 0.0, np.nan]
        found = convergence_order([errors], floor=1e-10, within=1.0)
        assert found.pairs.tolist() == [[0.1, 0.01], [0.01, 0.001]]
        assert np.isnan(found.order)  # two steps are too few

    def test_no_runs_and_equal_errors_have_no_order(self):
        assert np.isnan(convergence_order([]).order)
        assert np.isnan(convergence_order([[1.0] * 5]).order)

    def test_an_empty_range_is_refused(self):
        with pytest.raises(ValueError, match="`floor` must be below `within`, got 1"):
            convergence_order([[1.0, 0.5]], floor=1.0, within=0.1)

    def test_lines_have_the_fitted_slope_and_their_names_tell_it(self):
        orders = {
            "slow": convergence_order([0.5 ** np.arange(2000.0) + 1e-300]),
            "fast": convergence_order([[0.1, 0.01, 1e-4, 1e-8]]),
        }
        ax = plot_convergence_order(orders)
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == ["slow, slope 1.00", "fast, slope 2.00"]
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert {"slope 1", "slope 2"} <= {text.get_text() for text in ax.texts}
        (line,) = [
            line
            for line in ax.lines
            if line.get_linestyle() == "-" and np.allclose(line.get_xdata(), [1e-4, 0.1])
        ]
        (x0, x1), (y0, y1) = np.log(line.get_data())
        assert (y1 - y0) / (x1 - x0) == pytest.approx(2)

    def test_thousands_of_steps_are_thinned_and_keep_their_ends(self):
        order = convergence_order([0.99 ** np.arange(2000.0)])
        ax = plot_convergence_order({"gd": order})
        dots = next(line for line in ax.lines if line.get_label().startswith("gd"))
        assert len(dots.get_xdata()) <= 60
        assert dots.get_xdata().max() == pytest.approx(1.0)

    def test_nothing_to_draw_is_told(self):
        with pytest.raises(ValueError, match="`orders` must hold at least one step"):
            plot_convergence_order({"gd": convergence_order([])})


def quartic(x):
    """Minima at ±1 in each coordinate, deeper at -1."""
    return jnp.sum((x**2 - 1) ** 2 + 0.1 * x)


class TestMultistart:
    def test_runs_are_sorted_into_minima_deepest_first(self):
        found = multistart(quartic, "newton", grid(((-2.0, 2.0), (-2.0, 2.0)), 4))
        assert found.minima.shape == (4, 2)
        assert np.all(np.diff(found.depths) >= 0)
        assert np.all(found.minima[0] < 0)
        reached = found.endings["newton"].reached
        np.testing.assert_allclose(
            found.endings["newton"].points, found.minima[reached], atol=1e-6
        )
        (row,) = found.table
        assert (row["starts"], row["any"]) == (16, 1.0)
        assert row["deepest"] == np.mean(reached == 0)

    def test_parameters_may_be_a_tree(self):
        starts = {"a": jnp.asarray([0.5, -0.5]), "b": jnp.asarray([[0.5], [-0.5]])}
        loss = lambda p: quartic(jnp.append(p["b"], p["a"]))  # noqa: E731
        found = multistart(loss, "newton", starts)
        assert found.starts.tolist() == [[0.5, 0.5], [-0.5, -0.5]]
        assert np.array_equal(np.sign(found.endings["newton"].points), np.sign(found.starts))

    def test_starts_that_coincide_have_one_minimum_for_every_method(self):
        def loss(x):
            return jnp.sum((x - 1) ** 2) + 0.1 * jnp.sum((x - 1) ** 4)

        for starts in (jnp.array([[3.0, -2.0]]), jnp.full((2, 2), 3.0)):
            found = multistart(loss, ["lbfgs", "newton", "newton_cg"], starts)
            assert found.minima.shape == (1, 2)
            assert [row["deepest"] for row in found.table] == [1.0] * 3

    def test_points_within_the_radius_are_one_and_the_deepest_stands_for_them(self):
        points = np.array([[0.0, 0.0], [0.05, 0.0], [1.0, 0.0], [np.nan, 0.0]])
        minima, depths = _distinct(points[:3], np.array([2.0, 1.0, 3.0]), 0.1)
        assert minima.tolist() == [[0.05, 0.0], [1.0, 0.0]]
        assert depths.tolist() == [1.0, 3.0]
        assert _nearest(points, minima, 0.1).tolist() == [0, 0, 1, -1]
        assert _nearest(points, minima[:0], 0.1).tolist() == [-1] * 4

    def test_a_grid_runs_along_the_first_coordinate_fastest(self):
        points = grid(((0.0, 2.0), (5.0, 7.0)), 3)
        assert points[:4].tolist() == [[0, 5], [1, 5], [2, 5], [0, 6]]


def made(minima, depths, reached, resolution):
    """Runs of one method on a grid over the unit square."""
    starts = grid(((0.0, 1.0), (0.0, 1.0)), resolution)
    ones = np.ones(len(starts))
    ends = Endings(starts, ones, ones.astype(int), 3 * ones, ones, np.asarray(reached))
    minima = np.asarray(minima, dtype=float)
    return Multistart("made", starts, minima, np.asarray(depths, dtype=float), {"m": ends})


class TestBasins:
    def test_each_start_has_the_colour_of_its_minimum_and_none_is_grey(self):
        runs = made([[0.0, 0.0], [1.0, 1.0]], [0.0, 1.0], [0, 1, -1, 0], 2)
        ax = plot_basins(runs, "m")
        image = ax.images[0].get_array()
        assert image.shape == (2, 2, 3)
        assert np.array_equal(image[0, 0], image[1, 1])
        assert not np.array_equal(image[0, 0], image[0, 1])
        np.testing.assert_allclose(image[1, 0], 0.25)
        assert ax.images[0].origin == "lower"
        assert ax.get_title(loc="left") == "made: m"
        (stars,) = ax.lines
        assert len(stars.get_xdata()) == 2

    def test_many_minima_are_coloured_by_their_depth_with_a_bar(self):
        minima = np.column_stack([np.linspace(0, 1, 9)] * 2)
        ax = plot_basins(made(minima, np.arange(9.0), np.arange(9), 3), "m")
        labels = [other.get_ylabel() for other in ax.figure.axes]
        assert "loss at the minimum reached" in labels
        assert len(ax.lines[0].get_xdata()) == 1

    def test_starts_off_a_grid_are_refused(self):
        runs = made([[0.0, 0.0]], [0.0], [0, 0, 0, 0], 2)
        moved = Multistart("m", runs.starts[::-1], runs.minima, runs.depths, runs.endings)
        with pytest.raises(ValueError, match="`runs` must have started from a grid"):
            plot_basins(moved, "m")

    def test_an_unknown_method_is_told(self):
        runs = made([[0.0, 0.0]], [0.0], [0, 0, 0, 0], 2)
        with pytest.raises(ValueError, match="`method` must be one of"):
            plot_basins(runs, "newton")


class TestDataProfile:
    costs = np.array([[2.0, 8.0], [1.0, np.inf]])
    profile = Profile(("a", "b"), ("p", "q"), costs, 1e-3, "cost", np.array([2.0, 5.0]))

    def test_budgets_are_in_losses_over_the_number_of_variables_and_one(self):
        np.testing.assert_array_equal(self.profile.budgets, [[2, 4], [1, np.inf]])
        places, shares = self.profile.data_curve("a")
        assert places.tolist() == [0, 2, 4]
        assert shares.tolist() == [0, 0.5, 1]

    def test_lines_end_at_the_share_solved_and_stay_in_the_window(self):
        ax = plot_data_profile(self.profile)
        lines = {line.get_label(): line for line in ax.lines}
        assert lines["a"].get_ydata()[-1] == 1
        assert lines["b"].get_ydata()[-1] == 0.5
        for line in lines.values():
            assert line.get_xdata().min() >= ax.get_xlim()[0]
        assert ax.get_xscale() == "log"

    def test_only_cost_has_budgets(self):
        steps = Profile(("a",), ("p",), self.costs[:1, :1], 1e-3, "steps", np.array([2.0]))
        with pytest.raises(ValueError, match="this profile counts steps"):
            plot_data_profile(steps)

    def test_a_comparison_knows_the_sizes(self):
        comparison = gl.compare(gl.problems.get("booth"), "newton")
        assert comparison.profile().sizes.tolist() == [2.0]
        assert plot_data_profile(comparison).get_ylabel() == "share of problems solved"


def test_a_table_is_written_with_every_value_and_missing_ones_empty(tmp_path):
    rows = ({"a": 1 / 3, "b": "x, y"}, {"a": None, "c": 2})
    Table(rows, {"a": ("a", ".1f")}).to_csv(tmp_path / "t.csv")
    read = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [float(read[0]["a"]), read[0]["b"], read[0]["c"]] == [1 / 3, "x, y", ""]
    assert [read[1]["a"], read[1]["b"], read[1]["c"]] == ["", "", "2"]
