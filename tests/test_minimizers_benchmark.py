"""The benchmarks of the minimisers judge rightly, and run."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close, load

bench = load("benchmarks", "minimizers")
parts = sys.modules["minimizers_cases"]
solvers = sys.modules["minimizers_solvers"]
batched = load("benchmarks", "batched")
large = load("benchmarks", "large_newton_cg")


def one_case(name, dtype="float64", scales=(1.0,)):
    (case,) = parts.cases(dtype, scales, [name])
    return case


def pretend(monkeypatch, x, success, status="SAID"):
    """Let every solver give the same answer."""
    answer = parts.Answer(np.asarray(x, float), success, status, (3, 2, 1, 0))
    monkeypatch.setattr(bench, "solver", lambda name: lambda case: lambda x0: answer)


@pytest.mark.slow
def test_the_set_has_40_functions_and_119_finite_starts():
    found = parts.cases()
    assert len(found) == len({case.name for case in found}) == 40
    assert sum(len(case.starts) for case in found) == 119
    assert len({case.problem.name for case in found}) == 35


def test_a_minimizer_is_global_and_a_start_is_nothing():
    case = one_case("beale")
    best = parts.judge(case, case.problem.minimizer, 0.0)
    assert best.is_global
    assert best.is_stationary
    assert not best.is_saddle
    start = parts.judge(case, case.starts[1.0], 0.0)
    assert not start.is_global
    assert not start.is_stationary


def test_a_stationary_point_with_negative_curvature_is_a_saddle():
    # at (0, 1) all of Beale's residuals are stationary in x, and in y because x is zero
    saddle = parts.judge(one_case("beale"), [0.0, 1.0], 0.0)
    assert saddle.is_stationary
    assert saddle.is_saddle
    assert not saddle.is_global
    assert saddle.value == pytest.approx(1.5**2 + 2.25**2 + 2.625**2)


def test_a_point_that_is_not_finite_is_nothing():
    judged = parts.judge(one_case("beale"), [np.nan, 1.0], 0.0)
    assert not (judged.is_global)
    assert not (judged.is_stationary)
    assert not (judged.is_saddle)


def test_a_large_minimum_is_compared_relatively():
    case = one_case("brown_dennis")
    minimum = case.problem.minimum
    near = parts.judge(case, case.problem.minimizer, minimum)
    far = parts.judge(case, case.problem.minimizer, minimum * (1 - 1e-6))
    assert near.is_global
    assert not far.is_global


def test_float32_is_allowed_what_its_rounding_leaves():
    case = one_case("meyer", "float32")
    rounded = np.asarray(case.problem.minimizer, np.float32)
    at_floor = parts.judge(case, rounded, case.problem.minimum)
    assert at_floor.grad > 1e-6 * at_floor.value  # float64 would not let it pass
    assert at_floor.is_stationary
    assert not parts.judge(case, rounded * np.float32(1.001), 0.0).is_stationary


def test_the_best_value_is_the_known_one_or_what_was_found():
    case = one_case("penalty_1 4")
    here = parts.Answer(np.asarray(case.starts[1.0]), True, "", (0, 0, 0, 0))
    lost = here._replace(x=np.full(4, np.nan))
    assert parts.best_values([case], {("a", case.name, 1.0): lost})[case.name] == (
        case.problem.minimum
    )
    unknown = type(case)(case.name, _without_minimum(case.problem), case.starts, case.dtype)
    found = parts.best_values([unknown], {("a", case.name, 1.0): here})
    assert found[case.name] == pytest.approx(case.reference(here.x)[0])


def _without_minimum(problem):
    import dataclasses

    return dataclasses.replace(problem, minimum=None)


@pytest.mark.parametrize(
    ("x", "success", "column"),
    [
        ([1.0, 1.0], True, "false"),
        ([0.0, 1.0], True, "saddle"),
        ([3.0, 0.5], False, "modest"),
        ([np.nan, 0.5], False, "nan"),
    ],
)
def test_what_is_said_is_compared_with_what_holds(monkeypatch, x, success, column):
    pretend(monkeypatch, x, success)
    row = bench.summary(bench.measure(["anyone"], [one_case("beale")]))
    columns = ("false", "saddle", "modest", "nan", "raised", "limit")
    assert {name: row[name] for name in columns} == {name: name == column for name in columns}
    assert row["median"] == (3, 2, 1, 0)


def test_an_exception_is_counted_and_no_end_of_the_run(monkeypatch):
    def broken(x0):
        raise RuntimeError("the solver broke")

    monkeypatch.setattr(bench, "solver", lambda name: lambda case: broken)
    row = bench.summary(bench.measure(["anyone"], [one_case("beale")]))
    assert row["raised"] == 1
    assert row["stationary"] == 0


@pytest.mark.parametrize("name", ["newton", "newton_cg", *solvers.PEERS])
def test_every_solver_minimises_beale_and_counts_its_calls(name):
    pytest.importorskip(name.split(" ")[0] if name in solvers.PEERS else "gradlab")
    case = one_case("beale")
    answer = solvers.solver(name)(case)(case.starts[1.0])
    assert answer.success
    np.testing.assert_allclose(answer.x, [3.0, 0.5], atol=1e-4)
    assert answer.calls[0] > 1
    assert (answer.calls[3] > 0) == (name in ("newton", "scipy trust-exact"))


def test_a_misspelt_method_is_told_the_nearest():
    with pytest.raises(ValueError, match="newton_cg"):
        solvers.solver("newton_gc")


def test_main_prints_the_tables_and_the_failures(capsys):
    arguments = ["--problems", "freudenstein_roth", "--starts", "1", "--methods", "newton"]
    bench.main(arguments)
    printed = capsys.readouterr().out
    assert "published start x 1" in printed
    # its local minimum of 48.98 attracts Newton's method, too
    assert "not-global" in printed
    assert "FALSE" not in printed


@pytest.mark.slow
def test_a_batch_is_solved_and_the_loop_is_a_sample():
    family = batched.families(8)[1]  # the one whose problems have data of their own
    figures = batched.measure(family, ["newton_cg"], 2, 1)
    assert all(rate > 0 for rate, _ in figures.values())
    assert figures["gradlab newton_cg"][1] == 1
    assert figures["scipy L-BFGS-B, loop"][1] == 1


def test_the_sparse_loss_is_the_dense_one():
    data = large.build(30, 20, "float64")
    rows = np.zeros((20, 30))
    for row, columns, values in zip(rows, data.columns, data.values, strict=True):
        np.add.at(row, np.asarray(columns), np.asarray(values))
    x = np.linspace(-1, 1, 30)
    margins = np.asarray(data.labels) * (rows @ x)
    dense = np.mean(np.log1p(np.exp(-margins))) + large.RIDGE / 2 * x @ x
    assert_close(large.logistic(jnp.asarray(x), data), dense)
    gradient, product = large.product_over_gradient(jnp.asarray(x), data, repeats=1)
    assert gradient > 0
    assert np.isfinite(product)


def test_the_large_step_runs_small(capsys):
    large.main(["--params", "200", "--rows", "50"])
    assert "product over gradient" in capsys.readouterr().out
    assert jax.config.jax_enable_x64


@pytest.mark.slow
def test_warm_times_are_measured_where_both_solve(capsys):
    pytest.importorskip("optimistix")
    arguments = ["--problems", "beale", "--starts", "1", "--methods", "newton", "--time"]
    bench.main(arguments)
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[:2] == ["newton", "1"]
    assert all(float(number) > 0 for number in last[2:])
