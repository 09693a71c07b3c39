"""Every experiment answers --help at once, runs small, and leaves what it promises."""

import contextlib
import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import load

import gradlab as gl
from gradlab import _cli_names
from gradlab._json import read_json
from gradlab.cli import main
from gradlab.compare.run import Run

EXPERIMENTS = _cli_names.experiments()
COLUMNS = ["problem", "method", "derivative", "seed", "step"]
COLUMNS += ["cost", "seconds", "loss", "grad_norm"]


@pytest.fixture(scope="module")
def convergence():
    return load("experiments", "convergence")


def cut_down(methods, differenced, start):
    """Load the experiment with few methods, few steps, and the problems that start so."""
    module = load("experiments", "convergence")
    every_problem = module.problems
    module.problems = lambda: {
        name: problem for name, problem in every_problem().items() if name.startswith(start)
    }
    module.METHODS, module.DIFFERENCED, module.FIRST_ORDER = methods, differenced, ("gd",)
    module.STEPS = 60
    return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What a small run of the experiment printed, and its folder."""
    root, printed = tmp_path_factory.mktemp("runs"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        cut_down(("gd", "newton"), ("gd", "newton"), "Rosen").main(["--out", str(root)])
    return printed.getvalue(), root / "convergence-1"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_nothing_runs_at_import_and_the_three_parts_are_there(name):
    path = str(EXPERIMENTS[name].path)
    script = f"import runpy, sys; m = runpy.run_path({path!r}); print('jax' in sys.modules)\n"
    script += "print(*(callable(m[part]) for part in ('measure', 'draw', 'main')))"
    printed = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert printed.split() == ["False", "True", "True", "True"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_a_script_too(name):
    command = [sys.executable, str(EXPERIMENTS[name].path), "--help"]
    package = str(Path(gl.__file__).parent.parent)
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": package})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: gradlab run {name}")
    for option in ("--quick", "--out", "--dtype", "--seed"):
        assert option in done.stdout


def test_convergence_covers_what_it_promises(convergence):
    assert [p.num_params for p in convergence.problems().values()] == [31, 650, 2, 10]
    first_order, others = (
        ("gd", "momentum", "rmsprop", "adam"),
        ("optax_lbfgs", "newton", "newton_cg"),
    )
    assert list(convergence.METHODS) == [*first_order, *others]
    assert set(convergence.METHODS) <= set(gl.methods())
    assert set(convergence.DIFFERENCED) == {"gd", "optax_lbfgs", "newton"}


@pytest.mark.slow
def test_convergence_prints_a_table_and_an_answer(finished):
    printed, folder = finished
    for word in ("problem", "learning rate", "cost", "seconds", "final loss", "status"):
        assert word in printed
    assert read_json(folder / "summary.json")["answer"] in printed
    assert str(folder) in printed


@pytest.mark.slow
def test_convergence_runs_every_combination(finished):
    summary = read_json(finished[1] / "summary.json")
    assert summary["status"] == "finished"
    assert summary["compile_seconds"] > 0
    combinations = [(r["problem"], r["method"], r["derivative"]) for r in summary["results"]]
    assert sorted(combinations) == [
        (problem, method, derivative)
        for problem in ("Rosenbrock, n = 10", "Rosenbrock, n = 2")
        for method in ("gd", "newton")
        for derivative in ("autodiff", "central", "forward")
    ]


def test_convergence_draws_its_figures(finished):
    for name in ("gap-steps", "gap-cost", "gap-time", "differences", "trajectories"):
        png, svg = (finished[1] / f"{name}{suffix}" for suffix in (".png", ".svg"))
        assert png.read_bytes().startswith(b"\x89PNG")
        assert b"</svg>" in svg.read_bytes()[-20:]


def test_the_history_ends_where_the_table_says(finished):
    summary = read_json(finished[1] / "summary.json")
    check_history(finished[1] / "history.csv", summary["results"])


def check_history(path, results):
    """The history ends where the table says, row by row."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert list(rows[0]) == COLUMNS
    for result in results:
        keys = ("problem", "method", "derivative")
        run = [r for r in rows if all(r[k] == result[k] for k in keys)]
        assert [int(r["step"]) for r in run] == list(range(len(run)))
        assert len(run) == result["steps"] + 1
        assert float(run[-1]["cost"]) == pytest.approx(result["cost"], rel=1e-12)
        losses = [float(r["loss"]) for r in run]
        assert min(losses) == pytest.approx(result["loss"], rel=1e-9)
        costs = [float(r["cost"]) for r in run]
        assert costs == sorted(costs)


@pytest.mark.slow
def test_both_precisions_are_honoured(finished, tmp_path):
    module = cut_down(("gd",), ("gd",), "Rosenbrock, n = 2")
    module.main(["--out", str(tmp_path), "--dtype", "float32", "--seed", "3"])
    single = read_json(tmp_path / "convergence-1/summary.json")
    double = read_json(finished[1] / "summary.json")
    assert (single["dtype"], double["dtype"]) == ("float32", "float64")
    assert (single["seed"], double["seed"]) == (3, 0)
    losses = [summary["results"][0]["loss"] for summary in (single, double)]
    assert [float(np.float32(loss)) == loss for loss in losses] == [True, False]


def test_the_answer_names_the_first_to_arrive(convergence):
    """Three made-up histories: one wins by steps, one by cost, one by time; one never."""

    def run(method, steps, cost, seconds, end=0.0):
        length = steps + 1
        trace = gl.Trace(
            loss=np.linspace(1.0, end, length),
            grad_norm=np.ones(length),
            step_norm=np.ones(length),
            nfev=np.zeros(length, int),
            ngev=np.linspace(0, cost, length),
            nhvp=np.zeros(length, int),
            nhev=np.zeros(length, int),
            seconds=np.linspace(0, seconds, length),
            num_rows=np.asarray(length),
            num_params=np.asarray(1),
            compile_seconds=np.asarray(0.0),
        )
        return Run("bowl", method, trace=trace)

    made = [
        run("a", 2, 90, 9),
        run("b", 9, 3, 9),
        run("c", 9, 90, 0.1),
        run("d", 1, 1, 0.01, 0.5),
        Run("bowl", "e", error="ValueError: a fault"),
    ]
    told = convergence.answer(gl.Comparison(tuple(made)))
    assert "counted in steps, a once" in told
    assert "counted in gradient equivalents, b once" in told
    assert "counted in time, c once" in told


def test_the_answer_tells_of_other_stationary_points(finished):
    """From the usual start Newton's method ends in the local minimum of 3.99 for n = 10."""
    assert (
        "Converged to another stationary point: newton on Rosenbrock, n = 10 (loss 3.99)."
    ) in finished[0]


def test_differences_cost_what_their_formula_says(finished):
    """n + 1 losses for a forward gradient, 2n for a central one, and one for the value."""
    results = read_json(finished[1] / "summary.json")["results"]
    rows = [r for r in results if (r["problem"], r["method"]) == ("Rosenbrock, n = 10", "gd")]
    per_step = {row["derivative"]: row["cost"] / (row["steps"] + 1) for row in rows}
    assert per_step["autodiff"] == pytest.approx(1 + 1 / 3)
    assert per_step["forward"] == pytest.approx((11 + 1) / 3)
    assert per_step["central"] == pytest.approx((20 + 1) / 3)


@pytest.mark.slow
def test_the_command_line_runs_the_whole_experiment(tmp_path, capsys):
    assert main(["run", "convergence", "--quick", "--out", str(tmp_path)]) == 0
    summary = read_json(tmp_path / "convergence-1/summary.json")
    module = load("experiments", "convergence")
    assert len(summary["results"]) == 4 * len(module.QUICK_METHODS) + 2 * 2
    by_name = {(r["problem"], r["method"]): r for r in summary["results"]}
    for problem in module.problems():
        for method in ("optax_lbfgs", "newton_cg"):
            assert by_name[problem, method]["status"].startswith("CONVERGED"), (problem, method)
    assert summary["answer"] in capsys.readouterr().out
