"""The comparison: tables, files and profiles from made histories; runs of real methods."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.compare import Comparison, Run, Sweep, compare
from gradlab.compare.tuning import _best, _next_batch
from gradlab.minimize import minimize
from gradlab.optimizers import make
from gradlab.problems import Problem
from gradlab.result import Result, Status
from gradlab.trace import Trace

CURVATURES = np.array([1.0, 3.0, 10.0])  # 1/L = 0.1, the best fixed rate 2/(1 + L) = 0.18


def made_trace(loss, *, nhvp=0, dtype=np.float64, params=None):
    """A history whose row k has paid k + 1 losses and gradients and k * nhvp products."""
    loss = np.asarray(loss, dtype)
    k = np.arange(len(loss))
    zeros = np.zeros(len(loss), np.int32)
    return Trace(
        loss=loss,
        grad_norm=(2 * np.abs(loss)).astype(dtype),
        step_norm=np.ones(len(loss), dtype),
        nfev=k + 1,
        ngev=k + 1,
        nhvp=k * nhvp,
        nhev=zeros,
        seconds=0.5 * k,
        num_rows=np.asarray(len(loss)),
        num_params=np.asarray(2),
        compile_seconds=np.asarray(0.25),
        params=params,
    )


def made_run(method, loss, *, status=Status.CONVERGED_GRADIENT, problem="bowl", **fields):
    trace = made_trace(loss, **{k: fields.pop(k) for k in ("nhvp", "dtype") if k in fields})
    best = float(np.nanmin(np.where(np.isfinite(trace.loss), trace.loss, np.nan)))
    result = Result(
        x=np.zeros(2),
        fun=np.asarray(best),
        grad={"w": np.array([0.5, -2.0]), "b": np.array([1.0])},
        aux=None,
        status=np.asarray(int(status)),
        nit=np.asarray(len(loss) - 1),
        nfev=trace.nfev[-1],
        ngev=trace.ngev[-1],
        nhev=trace.nhev[-1],
        nhvp=trace.nhvp[-1],
        trace=trace,
        state=None,
    )
    return Run(problem, method, result=result, trace=trace, **fields)


def quadratic(x):
    return 0.5 * jnp.sum(jnp.asarray(CURVATURES, x.dtype) * x**2)


def scaled_quadratic(x, scale):
    return scale * quadratic(x)


START = jnp.array([1.0, -2.0, 3.0])


class TestTable:
    def test_a_row_holds_what_the_run_paid_and_reached(self):
        row = Comparison((made_run("newton", [4.0, 1.0, 0.0], nhvp=3),)).table[0]
        assert (row["steps"], row["cost"], row["seconds"]) == (2.0, 4.0 + 2 * 2 * 3, 1.0)
        assert (row["loss"], row["grad_norm"]) == (0.0, 2.0)
        assert (row["status"], row["solved"], row["runs"]) == ("CONVERGED_GRADIENT", 1, 1)
        assert row["learning_rate"] is None
        assert row["tuning_cost"] is None

    def test_rows_are_medians_over_the_starts_and_count_the_solved(self):
        runs = [
            made_run("gd", [4.0, 1.0], seed=0),
            made_run("gd", [4.0, 2.0, 1.0, 0.25], seed=1),
            made_run("gd", [4.0, 3.0, 3.0], seed=2, status=Status.MAX_STEPS),
        ]
        row = Comparison(tuple(runs)).table[0]
        assert (row["runs"], row["solved"], row["steps"], row["loss"]) == (3, 2, 2.0, 1.0)
        assert row["status"] == "2× CONVERGED_GRADIENT, 1× MAX_STEPS"

    def test_text_is_aligned_and_shows_every_row(self):
        sweep = Sweep("bowl", "gd", "autodiff", np.ones(1), np.ones(1), 2.0, 0.1, 5, 70.0, 1.0)
        runs = (
            made_run("gd", [4.0, 1.0], learning_rate=0.1, status=Status.MAX_STEPS),
            made_run("newton", [4.0, 0.0]),
        )
        lines = str(Comparison(runs, sweeps=(sweep,)).table).splitlines()
        assert lines[0].split("  ")[0] == "method"
        assert set(lines[1]) == {"─"}
        assert lines[2].split() == [
            "gd", "autodiff", "0.1", "1", "2.7", "70.0", "0.5", "1.0000e+00", "2.0e+00",
            "MAX_STEPS",
        ]  # fmt: skip
        assert lines[3].split()[:4] == ["newton", "autodiff", "–", "1"]
        assert (
            lines[2].index("MAX_STEPS")
            == lines[3].index("CONVERGED")
            == lines[0].index("status")
        )

    def test_columns_that_say_nothing_are_not_printed(self):
        heading = str(Comparison((made_run("gd", [1.0, 0.0]),))).splitlines()[0]
        assert not {"problem", "runs", "solved", "tuning"} & set(heading.split())
        two = Comparison(
            (made_run("gd", [1.0, 0.0]), made_run("gd", [1.0, 0.0], problem="other"))
        )
        assert "problem" in str(two).splitlines()[0].split()

    def test_a_fault_is_a_row_of_dashes_with_its_message(self):
        runs = (made_run("gd", [1.0, 0.5]), Run("bowl", "broken", error="KeyError: 'w'\nmore"))
        table = Comparison(runs).table
        assert table[1]["status"] == "ERROR: KeyError: 'w'\nmore"
        assert table[1]["loss"] is None
        assert str(table).splitlines()[3].startswith("broken")
        assert "ERROR: KeyError: 'w' more" in str(table)

    def test_a_diverged_run_reports_the_best_point_it_saw(self):
        run = made_run("gd", [4.0, 3.0, 9.0, np.nan], status=Status.NONFINITE_LOSS)
        assert run.diverged
        assert not run.success
        assert run.loss == 3.0

    def test_a_run_out_of_budget_is_no_success_and_reports_its_cut_history(self):
        whole = made_run("gd", [4.0, 3.0, 0.0])
        cut = dataclasses.replace(whole, trace=made_trace([4.0, 3.0]), out_of_budget=True)
        assert (cut.status, cut.success, cut.loss, cut.grad_norm) == (
            "MAX_COST",
            False,
            3.0,
            6.0,
        )


class TestComparison:
    def test_two_runs_of_the_same_name_are_refused(self):
        with pytest.raises(ValueError, match=r"problem 'bowl', method 'gd'.*different labels"):
            Comparison((made_run("gd", [1.0, 0.0]), made_run("gd", [1.0, 0.5])))

    def test_merging_keeps_every_run_minimum_and_sweep(self):
        sweep = Sweep("a", "gd", "autodiff", np.ones(1), np.ones(1), 2.0, 0.1, 5, 7.0, 1.0)
        first = Comparison((made_run("gd", [1.0, 0.0], problem="a"),), {"a": 0.0}, (sweep,))
        second = Comparison((made_run("gd", [1.0, 0.5], problem="b"),), {"b": -1.0})
        for joined in (first + second, Comparison.merge([first, second])):
            assert joined.problems == ("a", "b")
            assert joined.minima == {"a": 0.0, "b": -1.0}
            assert joined.sweeps == (sweep,)
        with pytest.raises(ValueError, match="Two runs"):
            first + first

    def test_select_keeps_one_problem_and_answers_a_wrong_name(self):
        runs = [made_run(m, [1.0, 0.0], problem=p) for p in "ab" for m in ("gd", "newton")]
        both = Comparison(tuple(runs))
        assert both.select(problem="a").problems == ("a",)
        assert both.select(problem="a", method="gd").methods == ("gd",)
        with pytest.raises(ValueError, match=r"`method` must be one of.*'newton'"):
            both.select(method="newto")

    def test_labels_say_what_tells_runs_apart_and_no_more(self):
        plain = Comparison((made_run("gd", [1.0]), made_run("newton", [1.0])))
        assert list(plain.traces) == ["gd", "newton"]
        runs = [made_run("gd", [1.0], derivative=d, seed=s) for d in ("autodiff", "central")
                for s in (0, 1)]  # fmt: skip
        assert list(Comparison(tuple(runs)).traces) == [
            "gd, autodiff, seed 0",
            "gd, autodiff, seed 1",
            "gd, central, seed 0",
            "gd, central, seed 1",
        ]

    def test_best_loss_is_the_smallest_finite_one(self):
        runs = (made_run("gd", [1.0, np.nan, -np.inf, 0.5]), made_run("newton", [1.0, 0.75]))
        assert Comparison(runs).best_loss("bowl") == 0.5
        assert np.isnan(Comparison((Run("bowl", "x", error="E"),)).best_loss("bowl"))


class TestCsv:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_reading_back_gives_the_same_bits(self, tmp_path, dtype):
        loss = np.array([1 / 3, np.pi * 1e-20, -0.0, np.inf, np.nan], dtype)
        run = made_run('gd, "fast"', loss, seed=3, dtype=dtype)
        Comparison((run,)).to_csv(tmp_path / "history.csv")
        with open(tmp_path / "history.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == [
            "problem", "method", "derivative", "seed", "step", "cost", "seconds", "loss",
            "grad_norm",
        ]  # fmt: skip
        read = np.array([float(row["loss"]) for row in rows]).astype(dtype)
        assert read.tobytes() == loss.tobytes() or np.array_equal(read, loss, equal_nan=True)
        np.testing.assert_array_equal([float(r["cost"]) for r in rows], run.trace.cost)
        assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4]
        assert {(row["method"], row["seed"]) for row in rows} == {('gd, "fast"', "3")}

    def test_runs_without_history_leave_no_rows(self, tmp_path):
        Comparison((Run("bowl", "x", error="E"),)).to_csv(tmp_path / "h.csv")
        assert len((tmp_path / "h.csv").read_text().splitlines()) == 1

    def test_a_failed_write_keeps_the_old_file_and_leaves_no_stump(self, tmp_path, monkeypatch):
        path = tmp_path / "h.csv"
        path.write_text("old")

        def no_space(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", no_space)
        with pytest.raises(OSError, match="No space"):
            Comparison((made_run("gd", [1.0]),)).to_csv(path)
        assert [file.name for file in tmp_path.iterdir()] == ["h.csv"]
        assert path.read_text() == "old"


class TestProfile:
    # Row k has cost 4/3 (k + 1); with tolerance 0.1 the target on "a" is 1.0, on "b" 2.0.
    RUNS = (
        made_run("fast", [10.0, 1.0, 0.0], problem="a"),
        made_run("slow", [10.0, 5.0, 2.0, 0.5], problem="a"),
        made_run("fast", [11.0, 9.0, 2.05], problem="b"),
        made_run("slow", [11.0, 1.0, np.nan], problem="b"),
    )

    def test_agrees_with_a_profile_computed_by_hand(self):
        profile = Comparison(self.RUNS).profile(0.1)
        assert profile.methods == ("fast", "slow")
        assert profile.problems == (("a", 0), ("b", 0))
        np.testing.assert_allclose(profile.costs, [[8 / 3, np.inf], [16 / 3, 8 / 3]])
        np.testing.assert_allclose(profile.ratios, [[1, np.inf], [2, 1]])
        assert [profile.share("fast", factor) for factor in (1, 2, 1e9)] == [0.5, 0.5, 0.5]
        assert [profile.share("slow", factor) for factor in (1, 1.9, 2)] == [0.5, 0.5, 1.0]
        factors, shares = profile.curve("slow")
        np.testing.assert_allclose(factors, [1, 2])
        np.testing.assert_allclose(shares, [0.5, 1])

    def test_counts_steps_or_seconds_where_asked(self):
        comparison = Comparison(self.RUNS)
        np.testing.assert_array_equal(
            comparison.profile(0.1, measure="steps").costs, [[1, np.inf], [3, 1]]
        )
        np.testing.assert_array_equal(
            comparison.profile(0.1, measure="seconds").costs, [[0.5, np.inf], [1.5, 0.5]]
        )

    def test_a_fault_solves_nothing(self):
        runs = (*self.RUNS, Run("a", "broken", error="E"), Run("b", "broken", error="E"))
        assert Comparison(runs).profile(0.1).share("broken", 1e300) == 0.0

    def test_a_problem_solved_at_its_start_costs_everyone_the_start(self):
        runs = (made_run("a", [1.0, 1.0]), made_run("b", [1.0]))
        np.testing.assert_array_equal(Comparison(runs).profile().ratios, [[1.0], [1.0]])

    def test_bad_arguments_are_answered(self):
        with pytest.raises(ValueError, match="`tolerance` must lie between 0 and 1"):
            Comparison(self.RUNS).profile(2.0)
        with pytest.raises(ValueError, match=r"`measure` must be one of.*'cost'"):
            Comparison(self.RUNS).profile(measure="costs")


class TestTuning:
    def test_a_lane_that_diverged_never_wins(self):
        histories = np.array([[4.0, 3.0, 2.0], [4.0, 0.1, np.nan], [4.0, 0.1, 5.0]])
        assert _best(histories, histories[:, -1]) == 0
        assert _best(histories[1:], histories[1:, -1]) is None

    def test_of_equally_low_ends_the_first_to_arrive_wins(self):
        histories = np.array([[4.0, 2.0, 1e-12], [4.0, 1e-10, 1e-11], [4.0, 3.0, 0.0]])
        assert _best(histories, histories[:, -1]) == 1

    def test_the_range_grows_where_its_end_is_the_best(self):
        tried = np.array([0.1, 1.0])
        ends = np.array([2.0, 3.0])
        assert _next_batch(tried, 4.0, ends, 0).max() < 0.1
        assert _next_batch(tried, 4.0, ends, 1).min() > 1.0
        assert _next_batch(tried, 4.0, np.array([np.nan, np.nan]), None).max() < 0.1
        assert _next_batch(tried, 4.0, np.array([4.0, 4.0]), None).min() > 1.0
        assert _next_batch(np.array([0.1, 1.0, 10.0]), 4.0, np.ones(3), 1) is None

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_gradient_descent_gets_a_rate_near_one_over_the_largest_curvature(self, dtype):
        comparison = compare(quadratic, "gd", starts=START.astype(dtype), max_steps=60)
        (sweep,) = comparison.sweeps
        assert 0.1 / 1.8 <= sweep.chosen <= 0.2
        assert comparison.runs[0].learning_rate == sweep.chosen
        assert comparison.runs[0].result.x.dtype == dtype
        np.testing.assert_array_equal(sweep.diverged, sweep.rates > 0.2)
        row = comparison.table[0]
        assert row["tuning_cost"] == sweep.cost > 11 * row["cost"] / 4
        # No candidate does better in as many steps: each is run on its own.
        for rate in sweep.rates:
            method = make("gd", learning_rate=float(rate))
            alone = minimize(quadratic, START.astype(dtype), method, max_steps=60).trace.loss
            assert comparison.runs[0].loss <= alone[-1] * (1 + 1e-3) or not alone[-1] < 1e-9

    def test_scaling_the_loss_scales_the_rate(self):
        chosen = [
            compare(
                scaled_quadratic, "gd", starts=START, args=(scale,), max_steps=30
            ).sweeps[0].chosen
            for scale in (1.0, 1e-12, 1e12)
        ]  # fmt: skip
        np.testing.assert_allclose(np.array(chosen) * [1.0, 1e-12, 1e12], chosen[0], rtol=1e-9)

    def test_only_rates_that_nobody_chose_are_tuned(self):
        comparison = compare(
            quadratic,
            {
                "mine": make("gd", learning_rate=0.05),
                "newton": "newton",
                "adam": optax.adam(0.1),
            },
            starts=START,
            max_steps=5,
        )
        assert comparison.sweeps == ()
        assert [run.learning_rate for run in comparison.runs] == [0.05, None, None]

    def test_rates_to_choose_among_can_be_given_or_tuning_left_out(self):
        given = compare(quadratic, "gd", starts=START, max_steps=5, tune=[0.01, 0.02])
        assert given.sweeps[0].rates.tolist() == [0.01, 0.02]
        assert given.sweeps[0].chosen == 0.02
        untuned = compare(quadratic, "gd", starts=START, max_steps=5, tune=False)
        assert untuned.sweeps == ()
        assert untuned.runs[0].learning_rate == make("gd").hyperparams["learning_rate"]


class TestBudget:
    def test_histories_end_within_the_budget_and_would_not_with_another_step(self):
        start = jnp.array([-1.2, 1.0])

        def rosenbrock(x):
            return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

        free = minimize(rosenbrock, start, "newton").trace
        methods = ["newton", make("gd", learning_rate=1e-3)]
        comparison = compare(rosenbrock, methods, starts=start, max_cost=70.0)
        for run in comparison.runs:
            assert run.status == "MAX_COST"
            assert run.cost <= 70.0
            assert run.trace.num_rows == len(run.trace.loss)
        newton, gd = comparison.runs
        rows = len(newton.trace.loss)
        np.testing.assert_array_equal(newton.trace.loss, free.loss[:rows])
        assert free.cost[rows] > 70.0
        assert gd.cost > 70.0 - 4 / 3

    def test_a_run_that_ends_before_the_budget_is_whole(self):
        comparison = compare(quadratic, "newton", starts=START, max_cost=1e4)
        assert comparison.runs[0].success
        assert comparison.runs[0].trace.loss[-1] == comparison.runs[0].loss

    def test_the_step_limit_still_holds(self):
        comparison = compare(
            quadratic, "gd", starts=START, max_cost=1e4, max_steps=9, tune=False
        )
        assert comparison.runs[0].steps == 9
        assert comparison.runs[0].status == "MAX_STEPS"

    @pytest.mark.parametrize("budget", [0.0, -1.0, np.nan, np.inf])
    def test_an_impossible_budget_is_refused(self, budget):
        with pytest.raises(ValueError, match="`max_cost` must be"):
            compare(quadratic, "gd", starts=START, max_cost=budget)


class TestFaults:
    @staticmethod
    def broken():
        def update(updates, state, params=None, **extra):
            raise RuntimeError("the method is broken")

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    def test_a_fault_in_one_method_leaves_the_others(self):
        methods = {"broken": self.broken(), "newton": "newton"}
        comparison = compare(quadratic, methods, starts=START)
        broken, newton = comparison.table
        assert broken["status"] == "ERROR: RuntimeError: the method is broken"
        assert newton["status"] == "CONVERGED_GRADIENT"
        assert list(comparison.traces) == ["newton"]

    def test_a_fault_of_every_method_is_raised(self):
        with pytest.raises(RuntimeError, match="the method is broken"):
            compare(quadratic, {"broken": self.broken()}, starts=START)

    def test_a_fault_while_tuning_is_a_row_too(self):
        method = dataclasses.replace(make("gd"), factory=lambda learning_rate: self.broken())
        comparison = compare(quadratic, {"broken": method, "newton": "newton"}, starts=START)
        assert comparison.runs[0].error == "RuntimeError: the method is broken"
        assert comparison.runs[1].success


class TestRuns:
    def test_differences_drive_the_same_method_to_the_same_point(self):
        comparison = compare(
            quadratic, "newton", starts=START, derivatives=("autodiff", "central")
        )
        assert comparison.derivatives == ("autodiff", "central")
        for run in comparison.runs:
            assert run.success
            np.testing.assert_allclose(run.result.x, 0.0, atol=1e-5)
        assert comparison.runs[1].result.ngev == 0

    def test_all_operators_of_a_method_share_one_learning_rate(self):
        comparison = compare(
            quadratic, "gd", starts=START, derivatives=("autodiff", "forward"), max_steps=20
        )
        assert len(comparison.sweeps) == 1
        assert len({run.learning_rate for run in comparison.runs}) == 1
        assert [row["tuning_cost"] for row in comparison.table] == [
            comparison.sweeps[0].cost
        ] * 2

    def test_every_start_is_a_run(self):
        starts = [START, 2 * START, -START]
        comparison = compare(quadratic, "newton", starts=starts)
        assert [run.seed for run in comparison.runs] == [0, 1, 2]
        assert [run.trace.loss[0] for run in comparison.runs] == [quadratic(s) for s in starts]
        named = compare(quadratic, "newton", starts=starts, seeds=(5, 6, 7))
        assert [run.seed for run in named.runs] == [5, 6, 7]

    @pytest.mark.parametrize("rates", [[], 0.1, 0, ["a"], [[0.1]], [-1.0, 0.1], [np.nan, 0.1]])
    def test_rates_that_cannot_be_tuned_among_are_refused(self, rates):
        with pytest.raises(ValueError, match="`tune` must be True, False or positive learning"):
            compare(quadratic, "gd", starts=START, tune=rates)

    def test_a_problem_starts_where_its_seeds_say(self):
        def init(key):
            return jax.random.normal(key, (3,))

        problem = Problem("mine", quadratic, init, "A bowl.", "Here.", minimum=0.0)
        comparison = compare(problem, "newton", seeds=range(2))
        assert comparison.minima == {"mine": 0.0}
        fixed = Problem("fixed", quadratic, lambda key: START, "A bowl.", "Here.")
        with pytest.warns(UserWarning, match="one start, whatever the seed: it is run with"):
            once = compare(fixed, "newton", seeds=range(3))
        assert [run.seed for run in once.runs] == [0]
        for seed, run in enumerate(comparison.runs):
            assert run.trace.loss[0] == quadratic(init(jax.random.key(seed)))
        own = compare(problem, "newton", starts=START)
        assert own.runs[0].trace.loss[0] == quadratic(START)

    def test_parameters_may_be_any_tree_and_iterates_are_kept_where_asked(self):
        def loss(params, target):
            return jnp.sum((params["w"] - target) ** 2) + params["b"] ** 2

        start = {"w": jnp.zeros(2), "b": jnp.array(1.0)}
        comparison = compare(
            loss, "newton", starts=start, args=(jnp.array([1.0, 2.0]),), trace="params"
        )
        run = comparison.runs[0]
        np.testing.assert_allclose(run.result.x["w"], [1.0, 2.0], rtol=1e-6)
        assert run.trace.params["w"].shape == (len(run.trace.loss), 2)
        assert comparison.problems == ("loss",)

    def test_times_leave_compilation_out(self):
        run = compare(quadratic, "newton", starts=START).runs[0]
        assert run.seconds < run.compile_seconds or run.compile_seconds < 0.1
        assert np.all(np.diff(run.trace.seconds) >= 0)


class TestArguments:
    def test_two_methods_of_one_label_are_refused(self):
        with pytest.raises(ValueError, match=r"two are called 'gd'.*dict"):
            compare(quadratic, ["gd", make("gd", learning_rate=0.1)], starts=START)

    def test_an_unknown_method_is_answered_with_the_nearest(self):
        with pytest.raises(ValueError, match="Did you mean 'newton"):
            compare(quadratic, ["newtn"], starts=START)

    def test_no_method_or_operator_is_refused(self):
        with pytest.raises(ValueError, match="`methods` must name at least one"):
            compare(quadratic, [], starts=START)
        with pytest.raises(ValueError, match="`derivatives` must name at least one"):
            compare(quadratic, "gd", starts=START, derivatives=())

    def test_optax_transformations_are_named_after_what_they_do(self):
        comparison = compare(
            quadratic, [optax.adam(0.1), optax.sgd(0.1)], starts=START, max_steps=1
        )
        assert comparison.methods == ("optax scale_by_adam", "optax")

    def test_an_unknown_operator_is_answered_with_the_nearest(self):
        with pytest.raises(ValueError, match=r"`derivatives`.*Did you mean 'central'"):
            compare(quadratic, "gd", starts=START, derivatives=("centrl",))

    def test_operators_may_be_given_by_name(self):
        comparison = compare(
            quadratic, "newton", starts=START, derivatives={"plain": None, "jax": jax.grad}
        )
        assert comparison.derivatives == ("plain", "jax")

    def test_a_loss_without_starts_is_refused(self):
        with pytest.raises(ValueError, match="`starts` must be given with a loss function"):
            compare(quadratic, "gd")

    def test_a_list_of_numbers_as_starts_is_ambiguous(self):
        with pytest.raises(ValueError, match="one start or several"):
            compare(quadratic, "gd", starts=[1.0, 2.0, 3.0])

    def test_seeds_and_starts_must_match(self):
        with pytest.raises(ValueError, match="3 seeds for 2 starts"):
            compare(quadratic, "gd", starts=[START, START], seeds=(1, 2, 3))

    def test_a_name_is_no_problem(self):
        with pytest.raises(TypeError, match=r"`problem` must be.*gl\.problems\.get"):
            compare("rosenbrock", "gd")

    def test_a_problem_brings_its_own_arguments(self):
        problem = Problem("mine", quadratic, lambda key=None: START, "A bowl.", "Here.")
        with pytest.raises(ValueError, match="'mine' brings its own"):
            compare(problem, "gd", args=(1.0,))

    def test_an_unknown_keyword_is_answered_with_the_nearest(self):
        with pytest.raises(TypeError, match="Did you mean 'max_cost'"):
            compare(quadratic, "gd", starts=START, maxcost=3)
