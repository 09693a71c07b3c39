"""A diagnosis measures what it says, and recommends nothing on a wrong gradient."""

import dataclasses
import html.parser
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab as gl
from gradlab.cli import main
from gradlab.diagnose import costs, curvature, methods
from gradlab.diagnose.driver import _Work

SCALES = jnp.array([1.0, 4.0, 100.0])


def bowl(x, shift):
    """A quadratic of condition number 100, eigenvalues 2, 8 and 200."""
    return jnp.sum(SCALES * (x - shift) ** 2)


@jax.custom_jvp
def lying_square(x):
    return x**2


lying_square.defjvp(lambda p, t: (lying_square(*p), -2 * p[0] * t[0]))


def lying(x):
    return jnp.sum(lying_square(x))


@pytest.fixture(scope="module")
def found():
    chosen = {"gd": gl.make("gd", learning_rate=0.005), "newton": "newton"}
    return gl.diagnose(bowl, jnp.array([1.0, 2.0, 3.0]), jnp.ones(3), methods=chosen)


@pytest.fixture(scope="module")
def wrong():
    return gl.diagnose(lying, jnp.array([1.0, 2.0]), methods=["newton"])


class Links(html.parser.HTMLParser):
    """Collects what a page would load, and checks that its tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.open, self.tags = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_gradient_is_judged_by_the_checker(found, wrong):
    assert found.check.verdict == "right"
    assert wrong.check.verdict == "wrong"
    assert wrong.sections["gradient"].data["findings"][0]["cause"] == "the sign is wrong"


def test_on_a_wrong_gradient_nothing_is_recommended(wrong):
    assert wrong.method is None
    assert wrong.sections["advice"].answer.startswith("First put the derivative right")
    assert str(wrong).index("First put the derivative right") < str(wrong).index("Which method")


def test_the_spectrum_is_that_of_the_quadratic(found):
    np.testing.assert_allclose(found.curvature.values, [2.0, 8.0, 200.0], rtol=1e-12)
    assert found.curvature.condition == pytest.approx(100.0)
    assert found.curvature.trace == pytest.approx(210.0)
    assert (found.curvature.sharp, found.curvature.negative, found.curvature.zero) == (1, 0, 0)
    assert found.sections["advice"].data["stable_below"] == pytest.approx(2 / 200)


def test_the_method_recommended_is_one_that_got_there(found):
    runs = {run.method: run for run in found.comparison.runs}
    assert runs["newton"].success
    assert found.method == "newton"
    assert "they pay" in found.sections["advice"].answer


def test_costs_are_measured_for_every_derivative(found):
    assert set(found.costs) == {"loss", "gradient", "product", "Hessian"}
    assert all(cost.seconds > 0 for cost in found.costs.values())


def test_a_cost_is_the_time_of_one_evaluation(monkeypatch):
    """Within the loop of the measurement nothing is left out: 64 products cost 64 times one.

    In time of the processor, which does not pass faster where the machine is busy.
    """
    monkeypatch.setattr(costs.time, "perf_counter", time.process_time)
    a = jnp.ones((120, 120))

    def products(count):
        def loss(x):
            return jnp.sum(jax.lax.fori_loop(0, count, lambda _, y: jnp.tanh(a @ y), x))

        return costs._measured("loss", loss, jnp.ones(120), ()).seconds

    assert 16 < products(64) / products(1) < 256


def test_what_cannot_be_measured_says_why():
    @jax.custom_vjp
    def no_second(x):
        return jnp.sum(x**2)

    def backward(x, g):
        return (jax.pure_callback(lambda x, g: 2 * x * g, x, x, g),)

    no_second.defvjp(lambda x: (no_second(x), x), backward)
    work = _work(no_second, jnp.ones(2))
    given = (no_second, jnp.ones(2), (), 2.0, float("nan"), jax.random.key(0))
    work.measured("curvature", "How is it curved?", curvature.curvature, *given)
    section = work.sections["curvature"]
    assert not section.measured
    assert section.answer.startswith("Not measured: ")
    assert "callback" in section.answer


def _work(loss, x):
    return _Work(loss, x, (), 2.0, 1.0, 0, None)


def test_a_point_that_is_not_finite_gets_no_recommendation():
    known = methods.Known(None, None, None, None, None, None, False, jnp.zeros(2))
    section = methods.advice(known)
    assert section.data["method"] is None
    assert "not finite" in section.answer


def test_no_decrease_is_no_recommendation():
    """At a minimum every method stays where it is."""
    result = gl.minimize(bowl, jnp.ones(3), "newton", args=(jnp.ones(3),))
    run = gl.compare(bowl, ["newton"], starts=[jnp.ones(3)], args=(jnp.ones(3),))
    known = methods.Known(None, None, None, None, result.certificate, run, True, jnp.ones(3))
    method, told = methods._method(known)
    assert method is None
    assert "none lowered the loss" in told


@pytest.mark.parametrize("start", [[0.0, 0.0], [1.0, 1e-3]])
def test_no_method_is_recommended_for_a_loss_without_a_bound(start):
    def endless(x):
        return x[0] ** 2 - x[1] ** 2 + 100

    runs = gl.compare(endless, ["lbfgs", "newton"], starts=[jnp.array(start)], max_cost=400)
    known = methods.Known(None, None, None, None, None, runs, True, jnp.array(start))
    method, told = methods._method(known)
    assert method is None
    assert "no lower bound" in told
    assert "newton" in told
    assert methods._second_order(known) == ""


@pytest.mark.parametrize(
    ("seconds", "best", "said"),
    [
        ({"gd": 1e-6, "newton": 9e-2}, "newton", "too near to tell"),
        ({"gd": 10.0, "newton": 14.0}, "newton", "too near to tell"),
        ({"gd": 1.0, "newton": 2.0}, "gd", "where one evaluation takes longer, newton"),
        ({"gd": 2.0, "newton": 1.0}, "newton", "in time (1 s) and by cost (5 gradients)"),
    ],
)
def test_time_decides_only_where_it_tells(found, monkeypatch, seconds, best, said):
    """Of two timings that a busy machine could swap, the recommendation must not hang."""

    def row(_, run):
        cost = {"gd": 100.0, "newton": 5.0}[run.method]
        return {"method": run.method, "met": True} | {
            "seconds_to_reach": seconds[run.method],
            "cost_to_reach": cost,
        }

    monkeypatch.setattr(methods, "_row", row)
    parts = dict.fromkeys(methods.Known._fields) | {"comparison": found.comparison}
    method, told = methods._method(methods.Known(**parts))
    assert method == best
    assert said in told


def test_large_losses_are_curved_by_lanczos(monkeypatch):
    monkeypatch.setattr(curvature, "_DENSE", 2)
    scales = jnp.linspace(1.0, 50.0, 60)
    section, facts = curvature.curvature(
        lambda x: jnp.sum(scales * x**2), jnp.ones(60), (), 1.0, float("nan"), jax.random.key(0)
    )
    assert not facts.exact
    assert facts.largest == pytest.approx(100.0, rel=1e-3)
    assert facts.smallest == pytest.approx(2.0, rel=0.2)
    assert "at least" in section.answer
    assert section.figures[0].draw().get_xlabel() == "eigenvalue"


def test_text_json_and_page_say_the_same(found, tmp_path):
    data = json.loads(found.to_json(tmp_path / "d.json"))
    text = str(found)
    page = found.to_html(tmp_path / "d.html")
    assert (tmp_path / "d.html").read_text() == page
    assert json.loads((tmp_path / "d.json").read_text()) == data
    for section in data["sections"].values():
        assert section["answer"] in text
        assert section["title"] in page
    assert data["sections"]["curvature"]["eigenvalues"][-1] == pytest.approx(200.0)


def test_the_page_needs_no_network_and_runs_nothing(found):
    page = Links(found.to_html())
    assert page.sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert "script" not in page.tags
    assert "link" not in page.tags


def test_a_loss_with_an_awkward_name_is_shown_as_it_is(found):
    strange = dataclasses.replace(found, name="<b>&_loss_$x$", sections={})
    assert "&lt;b&gt;&amp;_loss_$x$" in strange.to_html()


def test_what_is_no_loss_is_refused_at_the_door():
    with pytest.raises(TypeError, match=r"must return a scalar"):
        gl.diagnose(lambda x: x, jnp.ones(2))
    with pytest.raises(TypeError, match=r"`params` must be floating"):
        gl.diagnose(bowl, jnp.ones(2, int))


@pytest.mark.slow
def test_the_command_writes_page_text_and_numbers(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_own_loss.py").write_text(
        "import jax.numpy as jnp\n"
        "def loss(w, x, y): return jnp.mean((x @ w - y) ** 2)\n"
        "params = jnp.zeros(2)\n"
        "def batch(): return jnp.array([[1., 2.], [3., 4.], [5., 7.]]), jnp.ones(3)\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["my_own_loss:loss", "--at", "my_own_loss:params", "--methods", "newton"]
    try:
        code = main(["diagnose", *arguments, "--data", "my_own_loss:batch"])
        printed = capsys.readouterr().out
        kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/parts/*")}
        assert main(["diagnose", "--resume=runs/diagnose-1"]) == 0
    finally:
        sys.modules.pop("my_own_loss", None)
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/parts/*")}
    printed = f"{printed}\n{capsys.readouterr().out}"
    folder = tmp_path / "runs" / "diagnose-1"
    assert code == 0
    assert "The first and second derivatives are right." in printed
    names = {"report.html", "diagnosis.json", "diagnosis.txt", "history.csv", "summary.json"}
    assert {*names, "parts"} == {path.name for path in folder.iterdir()}
    assert (folder / "diagnosis.txt").read_text() in printed
    Links((folder / "report.html").read_text())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the following arguments are required: MODULE:LOSS"),
        (["a:b"], "--at is missing, for example"),
        (["nowhere:f", "--at", "nowhere:x"], "there is no module 'nowhere'"),
        (["math:sn", "--at", "math:pi"], "math has no 'sn'. Did you mean 'sin'?"),
        (["math:pi", "--at", "math:pi"], "math:pi must be a function"),
        (["math:sin", "--at", "math:pi", "--methods", "nwton"], "Did you mean 'newton'?"),
    ],
)
def test_a_wrong_word_is_answered_before_a_folder_is_made(
    arguments, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["diagnose", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_five_methods_are_compared_by_default():
    def valley(x):
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    found = gl.diagnose(valley, jnp.array([-1.2, 1.0, 0.5]))
    assert found.comparison.methods == ("gd", "adam", "lbfgs", "newton_cg", "newton")
    assert found.method in ("lbfgs", "newton_cg", "newton")
    rows = {row["method"]: row for row in found.sections["methods"].data["runs"]}
    assert all(row["cost"] <= 400 for row in rows.values())
    assert found.sections["advice"].data["learning_rates"].keys() == {"gd", "adam"}
    drawn = Links(found.to_html()).sources
    assert len(drawn) == 5  # check, spectrum, gaps against cost and time, learning rates
