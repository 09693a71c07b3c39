"""The experiment `nist` and the benchmark of least squares measure what they say."""

import numpy as np
import pytest
from support import ROOT, load

import gradlab as gl

nist = load("experiments", "nist")


def test_digits_are_those_of_the_worst_parameter():
    certified = np.array([1.0, 2.0, -4.0])
    assert nist.digits(certified, certified) == 11
    assert nist.digits(certified * [1, 1, 1 + 1e-6], certified) == pytest.approx(6, abs=1e-4)
    assert nist.digits(np.array([np.nan, 2.0, -4.0]), certified) == 0


def test_the_default_has_ten_digits_where_scipy_is_beside_it():
    rows = nist.measure(names=("misra1a",), chosen=("levenberg_marquardt", "scipy trf"))
    ours, theirs = nist.table(rows).rows
    assert ours["10"] == ours["starts"] == 2
    assert ours["false"] == 0
    assert theirs["6"] == 2
    assert ours["residuals"] > 0
    assert "levenberg_marquardt: 2" in nist.answer(rows)
    figure = nist.draw(rows)["nist"]
    assert len(figure.axes) == 2


@pytest.mark.slow
def test_the_residual_form_finds_known_minima(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = load("benchmarks", "least_squares")
    from minimizers_cases import cases

    runs = benchmark.measure(("levenberg_marquardt",), cases(names=("rosenbrock", "beale")))
    assert sum(run.worth.is_global for run in runs) >= 4
    assert not any(run.is_false for run in runs)
    assert gl.Status[runs[0].answer.status] <= gl.Status.NOISE_FLOOR


def test_digits_of_the_fit_stand_beside_those_of_the_sum_of_squares(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    load("benchmarks", "least_squares").measure_digits(nist.OURS[:1], ("misra1a",))
    assert "levenberg_marquardt       2           2           2" in capsys.readouterr().out
