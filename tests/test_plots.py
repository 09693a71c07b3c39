"""Figures: what is on the axes, what no axis may drop, files, imports."""

import dataclasses
import subprocess
import sys
import xml.etree.ElementTree as ET

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text

from gradlab.compare import Comparison, Run, Sweep
from gradlab.plots import (
    plot_convergence,
    plot_learning_rates,
    plot_performance_profile,
    plot_spectrum,
    plot_step_size_errors,
    plot_trajectories,
    save_figure,
)
from gradlab.plots._labels import _spread
from gradlab.problems import Problem
from gradlab.result import Result, Status
from gradlab.trace import Trace

STEPS = np.arange(200)


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def made_run(method, loss, *, status=Status.MAX_STEPS, params=None, problem="bowl", **fields):
    loss = np.asarray(loss, fields.pop("dtype", np.float64))
    rows, k = len(loss), np.arange(len(loss))
    zeros = np.zeros(rows, np.int32)
    trace = Trace(
        loss=loss,
        grad_norm=np.sqrt(np.abs(loss)),
        step_norm=np.ones(rows),
        nfev=k + 1,
        ngev=k + 1,
        nhvp=zeros,
        nhev=zeros,
        seconds=1e-3 * k,
        num_rows=np.asarray(rows),
        num_params=np.asarray(2),
        compile_seconds=np.asarray(0.5),
        params=params,
    )
    counts = [np.asarray(0)] * 5
    result = Result(
        np.zeros(2), loss[-1], np.zeros(2), None, np.asarray(int(status)), *counts, trace, None
    )
    return Run(problem, method, result=result, trace=trace, **fields)


def data_lines(ax):
    """The lines that were drawn for runs: those with a label of their own."""
    return [line for line in ax.lines if not line.get_label().startswith("_child")]


def line_of(ax, label):
    (line,) = [line for line in data_lines(ax) if line.get_label() == label]
    return line


def words(ax):
    """Everything written on a figure, apart from the ticks."""
    legend = ax.get_legend()
    entries = [] if legend is None else [text.get_text() for text in legend.get_texts()]
    return [text.get_text() for text in ax.texts] + entries


TWO = Comparison(
    (
        made_run("gd", 10 * 0.99**STEPS),
        made_run("newton", [10.0, 1.0, 1e-4, 1e-12], status=Status.CONVERGED_GRADIENT),
    ),
    {"bowl": 0.0},
)


class TestConvergence:
    @pytest.mark.parametrize(
        ("x", "label"),
        [
            ("cost", "cost / gradient evaluations"),
            ("steps", "steps"),
            ("time", "time / s (compilation excluded)"),
        ],
    )
    def test_each_axis_is_labelled_and_the_lines_are_the_histories(self, x, label):
        ax = plot_convergence(TWO, x=x)
        assert ax.get_xlabel() == label
        assert ax.get_ylabel() == "loss − minimum"
        assert ax.get_yscale() == "log"
        assert len(data_lines(ax)) == 2
        trace = TWO.runs[1].trace
        along = {"cost": trace.cost, "steps": trace.steps, "time": trace.seconds}[x]
        np.testing.assert_array_equal(line_of(ax, "newton").get_xdata(), along)
        np.testing.assert_array_equal(line_of(ax, "newton").get_ydata(), trace.loss)

    def test_of_two_starts_the_line_is_the_median_that_tables_tell(self):
        two = Comparison(
            tuple(made_run("gd", losses, seed=k) for k, losses in enumerate(([8, 2], [4, 1])))
        )
        ax = plot_convergence(two, x="steps")
        np.testing.assert_allclose(line_of(ax, "gd").get_ydata(), [5.0, 0.5])  # above the best

    def test_several_axes_take_a_problem_each_and_the_rest_vanish(self):
        both = TWO + Comparison((made_run("gd", [3.0, 1.0], problem="bowl, flat"),))
        _, axes = plt.subplots(2, 2, layout="constrained")
        first, second = plot_convergence(both, x="steps", ax=axes)
        assert [ax.get_visible() for ax in axes.flat] == [True, True, False, False]
        assert (first, second) == tuple(axes.flat[:2])
        assert first.get_title("left") == "bowl"
        assert second.get_title("left") == "bowl, flat"
        assert {"gd", "newton"} <= set(words(first))
        assert "newton" not in words(second)
        with pytest.raises(ValueError, match=r"`ax` must hold axes for 2 problems.*got 1"):
            plot_convergence(both, ax=axes.flat[:1])
        there = plt.get_fignums()
        with pytest.raises(ValueError, match=r"2 problems.*do not compare.*give `ax` axes"):
            plot_convergence(both)
        assert plt.get_fignums() == there

    def test_ends_far_apart_make_the_horizontal_axis_logarithmic(self):
        assert plot_convergence(TWO, x="cost").get_xscale() == "log"
        assert plot_convergence(TWO, x="steps").get_xscale() == "symlog"
        alike = Comparison((made_run("a", [3.0, 1.0]), made_run("b", [3.0, 2.0, 1.0])))
        assert plot_convergence(alike, x="steps").get_xscale() == "linear"

    def test_an_unknown_minimum_is_replaced_by_the_best_loss_and_said_so(self):
        ax = plot_convergence(Comparison(TWO.runs))
        assert ax.get_ylabel() == "loss − best loss seen"
        np.testing.assert_allclose(line_of(ax, "gd").get_ydata()[0], 10.0 - 1e-12)

    def test_zero_lies_on_a_named_floor_below_everything_else(self):
        runs = (made_run("newton", [1.0, 1e-7, 0.0, 0.0]),)
        ax = plot_convergence(Comparison(runs, {"bowl": 0.0}))
        drawn = line_of(ax, "newton").get_ydata()
        np.testing.assert_allclose(drawn, [1.0, 1e-7, 1e-8, 1e-8])
        assert "zero" in words(ax)
        assert any(
            np.all(line.get_ydata() == drawn[-1])
            for line in ax.lines
            if line.get_label() != "newton"
        )
        assert ax.get_ylim()[0] < drawn[-1]

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_gaps_below_rounding_lie_on_the_rounding_floor(self, dtype):
        eps = float(np.finfo(dtype).eps)
        below = np.nextafter(dtype(4.0), dtype(0.0))
        runs = (made_run("newton", [8.0, 4.5, 4.0, below], dtype=dtype),)
        ax = plot_convergence(Comparison(runs, {"bowl": 4.0}))
        drawn = line_of(ax, "newton").get_ydata()
        assert len(drawn) == 4
        assert drawn[:2].tolist() == [4.0, 0.5]
        assert drawn[2] == drawn[3] >= 4 * eps
        assert {"zero", "rounding"} & set(words(ax))

    def test_the_floor_is_called_rounding_where_rounding_sets_it(self):
        runs = (made_run("newton", [8.0, 4.0 + 1e-14, 4.0]),)
        ax = plot_convergence(Comparison(runs, {"bowl": 4.0}))
        assert "rounding" in words(ax)
        assert line_of(ax, "newton").get_ydata()[-1] == 4.0 * np.finfo(float).eps

    def test_a_diverged_run_ends_in_a_cross_and_does_not_squash_the_rest(self):
        wild = made_run("wild", [10.0, 50.0, 1e9, 1e200, np.inf], status=Status.NONFINITE_LOSS)
        ax = plot_convergence(TWO + Comparison((wild,)))
        crosses = [line for line in ax.lines if line.get_marker() == "x"]
        assert len(crosses) == 1
        assert crosses[0].get_xdata() == line_of(ax, "wild").get_xdata()[-1]
        assert ax.get_ylim()[1] < 1e4
        assert not any(line.get_marker() == "x" for line in plot_convergence(TWO).lines)

    def test_a_negative_loss_is_drawn_on_a_linear_axis(self):
        runs = (made_run("gd", [1.0, -2.0, -3.0]),)
        assert plot_convergence(Comparison(runs), y="loss").get_yscale() == "linear"
        assert plot_convergence(TWO, y="loss").get_yscale() == "log"
        assert plot_convergence(TWO, y="grad_norm").get_ylabel() == "largest gradient entry"

    def test_labels_print_as_they_are(self):
        names = ["_hidden", "a_b", "$\\frac$", "cost $5", "two\nlines"]
        runs = tuple(made_run(name, 10 * 0.9**STEPS / (i + 1)) for i, name in enumerate(names))
        for made in (Comparison(runs), Comparison((*runs, made_run("newton", [1.0, 0.0])))):
            ax = plot_convergence(made)
            ax.figure.canvas.draw()
            shown = [text.replace("\u200b", "").replace("\\$", "$") for text in words(ax)]
            assert {"_hidden", "a_b", "$\\frac$", "cost $5", "two lines"} <= set(shown)
            assert not any(text.startswith("_") for text in words(ax))

    def test_every_line_is_named_exactly_once_and_no_names_overlap(self):
        runs = tuple(made_run(f"m{i}", 10 * (0.99 - 0.0001 * i) ** STEPS) for i in range(6))
        ax = plot_convergence(Comparison(runs, {"bowl": 0.0}))
        assert sorted(words(ax)) == [f"m{i}" for i in range(6)]
        ax.figure.canvas.draw()
        boxes = [Text.get_window_extent(text) for text in ax.texts]  # without the leader line
        for i, first in enumerate(boxes):
            assert not any(first.overlaps(second) for second in boxes[i + 1 :])

    def test_many_lines_in_little_room_get_a_legend(self):
        runs = tuple(made_run(f"m{i}", [3.0, 2.0, 1.0]) for i in range(40))
        ax = plot_convergence(Comparison(runs, {"bowl": 0.0}))
        assert len(ax.get_legend().get_texts()) == 40

    def test_derivatives_have_their_line_styles_and_methods_their_colours(self):
        runs = [
            made_run(method, 10 * 0.9**STEPS, derivative=derivative)
            for method in ("gd", "adam")
            for derivative in ("autodiff", "central")
        ]
        ax = plot_convergence(Comparison(tuple(runs)))
        lines = {line.get_label(): line for line in data_lines(ax)}
        gd, differences = lines["gd, autodiff"], lines["gd, central"]
        assert gd.get_color() == differences.get_color()
        assert gd.get_linestyle() != differences.get_linestyle()
        assert gd.get_color() != lines["adam, autodiff"].get_color()
        assert words(ax)[-4:] == ["gd", "adam", "autodiff", "central"]

    def test_more_methods_than_colours_are_told_apart_by_markers(self):
        runs = tuple(made_run(f"m{i}", [3.0, 2.0, 1.0 / (i + 1)]) for i in range(11))
        ax = plot_convergence(Comparison(runs))
        looks = {(line.get_color(), line.get_marker()) for line in data_lines(ax)}
        assert len(looks) == 11

    def test_several_starts_are_one_line_through_the_medians_and_a_band(self):
        runs = tuple(
            made_run("gd", [10.0 * f, 1.0 * f], seed=i) for i, f in enumerate([1, 2, 3, 4, 50])
        )
        ax = plot_convergence(Comparison(runs, {"bowl": 0.0}))
        np.testing.assert_array_equal(line_of(ax, "gd").get_ydata(), [30.0, 3.0])
        (band,) = ax.collections
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.min() <= 2.0
        assert heights.max() < 500

    def test_a_run_that_ended_keeps_its_last_value_in_the_median(self):
        runs = (
            made_run("gd", [8.0, 1.0], seed=0),
            made_run("gd", [8.0, 1.0], seed=1),
            made_run("gd", [8.0, 7.0, 6.0, 5.0], seed=2),
        )
        ax = plot_convergence(Comparison(runs, {"bowl": 0.0}), x="steps")
        np.testing.assert_array_equal(line_of(ax, "gd").get_ydata(), [8, 1, 1, 1])

    def test_faults_are_named_in_the_title(self):
        both = TWO + Comparison((Run("bowl", "broken", error="KeyError: 1"),))
        assert plot_convergence(both).get_title(loc="left") == "bowl (failed: broken)"

    def test_results_and_traces_can_be_drawn_without_a_comparison(self):
        result = TWO.runs[1].result
        assert len(data_lines(plot_convergence(result))) == 1
        ax = plot_convergence({"a": result, "b": TWO.runs[0].trace})
        assert [line.get_label() for line in data_lines(ax)] == ["a", "b"]

    def test_bad_arguments_are_answered(self):
        with pytest.raises(ValueError, match=r"`x` must be one of.*'cost'"):
            plot_convergence(TWO, x="costs")
        with pytest.raises(ValueError, match="`y` must be one of"):
            plot_convergence(TWO, y="error")
        other = Comparison((made_run("gd", [1.0], problem="valley"),))
        with pytest.raises(ValueError, match=r"2 problems.*select\(problem"):
            plot_convergence(TWO + other)
        with pytest.raises(ValueError, match="at least one run with a history"):
            plot_convergence(Comparison((Run("bowl", "broken", error="E"),)))

    def test_given_axes_are_drawn_on_and_nothing_else_is_opened(self):
        figure, (left, right) = plt.subplots(1, 2)
        assert plot_convergence(TWO, ax=left) is left
        assert plt.get_fignums() == [figure.number]
        assert not right.lines
        assert left.get_legend() is not None  # no layout engine makes room beside the axes


class TestTrajectories:
    @staticmethod
    def problem(**fields):
        def loss(x):
            return (x[0] - 1) ** 2 + 10 * (x[1] + 1) ** 2

        made = Problem(
            "bowl", loss, lambda key=None: jnp.zeros(2), "A bowl.", "Here.", minimum=0.0,
            minimizer=jnp.array([1.0, -1.0]), plot_box=((-2.0, 2.0), (-3.0, 3.0)),
        )  # fmt: skip
        return dataclasses.replace(made, **fields)

    @staticmethod
    def run(path, method="gd", **fields):
        path = np.asarray(path, float)
        return made_run(method, np.ones(len(path)), params=path, **fields)

    def test_paths_start_and_minimiser_are_drawn_over_contours(self):
        path = [[-1.0, 2.0], [0.0, 0.0], [1.0, -1.0]]
        ax = plot_trajectories(Comparison((self.run(path),)), self.problem())
        assert (ax.get_xlim(), ax.get_ylim()) == ((-2.0, 2.0), (-3.0, 3.0))
        np.testing.assert_array_equal(ax.lines[0].get_xydata(), path)
        np.testing.assert_array_equal(line_of(ax, "start").get_xydata(), [[-1.0, 2.0]])
        np.testing.assert_array_equal(line_of(ax, "minimiser").get_xydata(), [[1.0, -1.0]])
        assert words(ax) == ["gd", "start", "minimiser"]
        assert len(ax.collections) >= 2

    def test_levels_are_logarithmic_above_the_minimum(self):
        ax = plot_trajectories(Comparison((self.run([[0.0, 0.0]]),)), self.problem())
        spacing = np.diff(ax.collections[0].levels)
        np.testing.assert_allclose(spacing, spacing[0])

    def test_far_and_non_finite_iterates_are_clipped(self):
        path = [[0.0, 0.0], [1.0, 1.0], [1e200, 1e200], [np.nan, 0.0], [0.0, 0.0]]
        ax = plot_trajectories(Comparison((self.run(path),)), self.problem())
        drawn = ax.lines[0].get_xydata()
        assert len(drawn) == 3
        assert np.all(np.abs(drawn) < 1e5)
        np.testing.assert_allclose(drawn[2, 0], drawn[2, 1])  # the direction is kept
        ax.figure.canvas.draw()

    def test_parameters_may_be_a_tree_of_two_numbers(self):
        def loss(p):
            return p["a"] ** 2 + p["b"] ** 2

        start = {"a": jnp.array(1.0), "b": jnp.array(0.5)}
        problem = self.problem(loss=loss, init=lambda key=None: start, minimizer=None)
        tree = {"a": np.array([1.0, 0.0]), "b": np.array([0.5, 0.0])}
        ax = plot_trajectories(made_run("gd", [1.25, 0.0], params=tree).trace, problem)
        np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1.0, 0.5], [0.0, 0.0]])

    def test_bad_arguments_are_answered(self):
        runs = Comparison((self.run([[0.0, 0.0]]),))
        with pytest.raises(ValueError, match="must have two variables, but 'bowl' has 3"):
            plot_trajectories(runs, self.problem(init=lambda key=None: jnp.zeros(3)))
        with pytest.raises(ValueError, match="`box` must be given"):
            plot_trajectories(runs, self.problem(plot_box=None))
        with pytest.raises(ValueError, match=r"'gd' did not.*trace=.params."):
            plot_trajectories(TWO, self.problem())


class TestProfile:
    def test_lines_are_the_profile_on_a_logarithmic_axis(self):
        runs = [
            made_run("fast", [10.0, 0.0], problem="a"),
            made_run("slow", [10.0, 5.0, 5.0, 0.0], problem="a"),
            made_run("fast", [10.0, 9.0], problem="b"),
            made_run("slow", [10.0, 0.0], problem="b"),
        ]
        ax = plot_performance_profile(Comparison(tuple(runs)))
        assert ax.get_xscale() == "log"
        assert ax.get_xlabel() == "cost relative to the best method"
        assert ax.get_title(loc="left") == "2 problems, solved to 0.001 of the decrease"
        slow = line_of(ax, "slow")
        np.testing.assert_allclose(slow.get_ydata(), [0.5, 1.0, 1.0])
        np.testing.assert_allclose(slow.get_xdata()[:2], [1.0, 2.0])
        np.testing.assert_allclose(line_of(ax, "fast").get_ydata(), [0.5, 0.5])

    def test_starts_are_counted_apart_from_problems(self):
        runs = [made_run(m, [10.0, 0.0], seed=s) for m in "ab" for s in range(3)]
        ax = plot_performance_profile(Comparison(tuple(runs)), measure="seconds")
        assert ax.get_title(loc="left").startswith("1 problem from 3 starts")
        assert ax.get_xlabel() == "time relative to the best method"


class TestLearningRates:
    RATES = np.array([1e-3, 1e-2, 1e-1, 1.0])

    def sweep(self, method="gd", losses=(5.0, 1.0, 20.0, np.nan), chosen=1e-2, **fields):
        values = {
            "problem": "bowl",
            "derivative": "autodiff",
            "start_loss": 10.0,
            "seconds": 1.0,
        }
        values |= {"method": method, "losses": np.array(losses), "chosen": chosen}
        values |= {"rates": self.RATES, "steps": 100, "cost": 500.0}
        return Sweep(**values | fields)

    def test_the_chosen_rate_has_a_ring_and_diverged_ones_crosses(self):
        ax = plot_learning_rates(Comparison((), {"bowl": 0.0}, (self.sweep(),)))
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert "100 steps" in ax.get_ylabel()
        assert "0 = minimum" in ax.get_ylabel()
        np.testing.assert_allclose(line_of(ax, "gd").get_ydata(), [0.5, 0.1])
        (ring,) = [line for line in ax.lines if line.get_markersize() == 12]
        assert ring.get_xdata()[0] == 1e-2
        (crosses,) = [line for line in ax.lines if line.get_marker() == "x"]
        np.testing.assert_array_equal(crosses.get_xdata(), [1e-1, 1.0])
        assert np.all(crosses.get_ydata() > 1.0)
        assert any("diverged" in text for text in words(ax))

    def test_nothing_chosen_leaves_no_ring(self):
        sweep = self.sweep(losses=[np.nan] * 4, chosen=None)
        ax = plot_learning_rates([sweep, self.sweep("adam")])
        assert len([line for line in ax.lines if line.get_markersize() == 12]) == 1
        ax.figure.canvas.draw()

    def test_bad_arguments_are_answered(self):
        with pytest.raises(ValueError, match="Nothing was tuned"):
            plot_learning_rates(TWO)
        with pytest.raises(ValueError, match="select"):
            plot_learning_rates([self.sweep(), self.sweep(problem="valley")])


class TestStepSizes:
    STEPS = 10.0 ** np.arange(-12, 0)

    def test_curves_are_drawn_on_logarithmic_axes_with_their_marks(self):
        errors = {"forward": (self.STEPS, self.STEPS + 1e-16 / self.STEPS)}
        ax = plot_step_size_errors(errors, optima={"forward": 1e-8}, noise_floor=1e-15)
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "relative error")
        np.testing.assert_array_equal(line_of(ax, "forward").get_xdata(), self.STEPS)
        (mark,) = [line for line in ax.lines if line.get_marker() == "v"]
        np.testing.assert_allclose(mark.get_xydata(), [[1e-8, 2e-8]])
        assert "rounding of the result" in words(ax)

    def test_exact_results_lie_on_a_floor(self):
        errors = {"complex": (self.STEPS, np.where(self.STEPS < 1e-8, 0.0, self.STEPS**2))}
        ax = plot_step_size_errors(errors)
        drawn = line_of(ax, "complex").get_ydata()
        assert len(drawn) == len(self.STEPS)
        np.testing.assert_allclose(drawn[0], 1e-17)
        assert "exact" in words(ax)

    def test_curves_are_sorted_and_cleaned(self):
        errors = {"a": ([1.0, 0.1, 0.01, 0.001], [1.0, -0.1, np.nan, np.inf])}
        line = line_of(plot_step_size_errors(errors, relative=False), "a")
        np.testing.assert_array_equal(line.get_xydata(), [[0.1, 0.1], [1.0, 1.0]])

    def test_bad_arguments_are_answered(self):
        with pytest.raises(ValueError, match="at least one curve"):
            plot_step_size_errors({})
        with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
            plot_step_size_errors({"a": ([1.0, 2.0], [1.0, 2.0, 3.0])})


class TestSpectrum:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_signs_and_zeros_are_told_apart(self, dtype):
        values = np.array([1e-3, -2.0, 100.0, 0.0], dtype)
        ax = plot_spectrum(values)
        assert ax.get_yscale() == "log"
        assert words(ax) == ["positive: 2", "negative: 1", "zero within rounding: 1"]
        np.testing.assert_allclose(
            line_of(ax, "positive: 2").get_xydata(), [[1, 100.0], [3, 1e-3]], rtol=1e-6
        )
        np.testing.assert_allclose(line_of(ax, "negative: 1").get_xydata(), [[2, 2.0]])
        level = line_of(ax, "zero within rounding: 1").get_ydata()[0]
        np.testing.assert_allclose(level, 4 * np.finfo(dtype).eps * 100, rtol=1e-6)

    def test_a_zero_matrix_can_be_drawn(self):
        assert words(plot_spectrum(jnp.zeros(3))) == ["zero within rounding: 3"]

    @pytest.mark.parametrize("values", [[], [[1.0]], [1.0, np.nan], [1j]])
    def test_what_is_no_spectrum_is_refused(self, values):
        with pytest.raises(ValueError, match="`eigenvalues` must be real, finite"):
            plot_spectrum(np.asarray(values))


class TestFiles:
    def test_the_same_figure_makes_the_same_bytes(self, tmp_path):
        for name in ("first", "second"):
            save_figure(plot_convergence(TWO).figure, tmp_path / name)
        for suffix in (".png", ".svg"):
            first = (tmp_path / f"first{suffix}").read_bytes()
            assert first == (tmp_path / f"second{suffix}").read_bytes()
        assert first.startswith(b"<?xml")
        ET.fromstring(first)
        assert b"<dc:date>" not in first

    def test_a_name_with_a_dot_keeps_it(self, tmp_path):
        paths = save_figure(plot_spectrum([1.0]).figure, tmp_path / "rate-0.1")
        assert [path.name for path in paths] == ["rate-0.1.png", "rate-0.1.svg"]

    def test_figures_we_opened_are_closed_and_others_left(self, tmp_path):
        figure, ax = plt.subplots()
        plot_spectrum([1.0, 2.0], ax=ax)
        save_figure(figure, tmp_path / "theirs")
        assert plt.get_fignums() == [figure.number]
        save_figure(plot_spectrum([1.0]).figure, tmp_path / "ours")
        assert plt.get_fignums() == [figure.number]

    def test_a_failed_write_leaves_no_stump(self, tmp_path, monkeypatch):
        def no_space(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", no_space)
        with pytest.raises(OSError, match="No space"):
            save_figure(plot_spectrum([1.0]).figure, tmp_path / "full")
        assert list(tmp_path.iterdir()) == []


def test_importing_the_plots_imports_no_matplotlib():
    code = (
        "import sys, gradlab.plots;"
        "print([m for m in sys.modules if m.startswith('matplotlib')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]", done.stdout


def test_labels_are_spread_as_little_as_possible():
    np.testing.assert_allclose(_spread(np.array([0.0, 10.0, 20.0]), 5.0), [0, 10, 20])
    np.testing.assert_allclose(_spread(np.array([0.0, 0.0]), 4.0), [-2, 2])
    np.testing.assert_allclose(_spread(np.array([0.0, 1.0, 30.0]), 5.0), [-2, 3, 30])
    spread = _spread(np.sort(np.random.default_rng(0).uniform(0, 50, 12)), 6.0)
    assert np.all(np.diff(spread) >= 6.0 - 1e-9)
