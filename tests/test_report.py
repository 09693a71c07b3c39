"""Finished runs are read, joined and shown without being run again."""

import base64
import html.parser
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

import gradlab as gl
from gradlab import report, runs, stored
from gradlab._json import read_json, to_json
from gradlab.cli import main

NAMES = ("newton", "lbfgs")


def bowl_with_a_name_(x):
    return jnp.sum(jnp.arange(1.0, 4.0) * (x - 1) ** 2)


@pytest.fixture(scope="module")
def comparison():
    def broken():
        raise RuntimeError("this method is <broken>")

    failing = gl.Method("failing", broken)
    methods = {**{name: name for name in NAMES}, "failing": failing}
    return gl.compare(bowl_with_a_name_, methods, starts=[jnp.zeros(3)], max_steps=30)


@pytest.fixture
def folder(comparison, tmp_path):
    with runs.record("demo", root=tmp_path) as run:
        run.save(comparison)
        run.save_figures({"gap-cost": gl.plot_convergence(comparison, x="cost").figure})
        run.summary["answer"] = "newton <first> & $x_1$"
    return run.folder


class Page(html.parser.HTMLParser):
    """The text and the images of a page."""

    def __init__(self, text):
        super().__init__()
        self.text, self.images, self.tags = "", [], set()
        self.feed(text)

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attributes)["src"])


def test_a_fault_in_one_method_leaves_the_others(comparison):
    rows = {row["method"]: row["status"] for row in comparison.table}
    assert rows["failing"].startswith("ERROR: ")
    assert all(not rows[name].startswith("ERROR") for name in NAMES)


def test_histories_survive_the_round_trip(comparison, folder):
    found = stored.read(folder)
    assert found.faults == ()
    assert found.comparison.methods == comparison.methods
    for before, after in zip(comparison.runs, found.comparison.runs, strict=True):
        assert (before.status, before.seed) == (after.status, after.seed)
        assert before.success == after.success
        if before.trace is None:
            assert after.trace is None
            assert after.error == before.error
            continue
        np.testing.assert_array_equal(before.trace.loss, after.trace.loss)
        np.testing.assert_array_equal(before.trace.seconds, after.trace.seconds)
        np.testing.assert_allclose(before.trace.cost, after.trace.cost, rtol=1e-15)
        assert (before.loss, before.grad_norm) == (after.loss, after.grad_norm)


def test_the_page_shows_the_run_and_loads_nothing(folder):
    page = Page(report.page([stored.read(folder)]))
    assert "newton <first> & $x_1$" in page.text
    assert "this method is <broken>" in page.text
    assert "CONVERGED_GRADIENT" in page.text
    assert "pip install jax==" in page.text
    assert page.images
    assert all(source.startswith("data:") for source in page.images)
    assert {"script", "broken", "first", "link"}.isdisjoint(page.tags)
    content = base64.b64decode(page.images[0].partition(",")[2])
    assert content == (folder / "gap-cost.svg").read_bytes()


def test_report_makes_the_page_of_a_folder(folder, capsys):
    assert main(["report", str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    assert "newton" in (folder / "report.html").read_text()


def test_folders_are_shown_together(comparison, folder, tmp_path, monkeypatch, capsys):
    with runs.record("demo", root=tmp_path) as second:
        second.save(comparison)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "demo-1", "demo-2"]) == 0
    page = Page((tmp_path / "report.html").read_text())
    assert "Together" in page.text
    assert len(page.images) == 3  # two overlays and the figure of the first folder


def test_runs_of_the_same_name_are_told_apart_by_folder(comparison, folder, tmp_path):
    with runs.record("demo", root=tmp_path) as second:
        second.save(comparison)
    joined = stored.overlay([stored.read(folder), stored.read(second.folder)])
    assert "newton (demo-1)" in joined.methods
    assert "newton (demo-2)" in joined.methods
    with runs.record("demo", root=tmp_path) as third:
        third.save(joined)
    again = stored.overlay(
        [stored.read(folder), stored.read(second.folder), stored.read(third.folder)]
    )
    assert len(again.runs) == 12


def test_compare_overlays_finished_runs(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", str(folder), "--x", "steps", "--out", str(out)]) == 0
    assert {p.name for p in (out / "compare-1").iterdir()} == {
        "gap-steps.png",
        "gap-steps.svg",
        "history.csv",
        "summary.json",
    }
    assert "newton" in capsys.readouterr().out


def test_compare_takes_a_loss_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_loss_.py").write_text(
        "import jax.numpy as jnp\n"
        "def _loss_(w, x): return jnp.sum((x @ w - 1) ** 2)\n"
        "params = jnp.zeros(2)\ndata = jnp.array([[1.0, 2.0], [3.0, 5.0]])\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["own_loss_:_loss_", "--at", "own_loss_:params", "--data", "own_loss_:data"]
    assert main(["compare", *arguments, "--methods", "newton", "--x", "cost"]) == 0
    assert "CONVERGED_GRADIENT" in capsys.readouterr().out
    svg = (tmp_path / "runs/compare-1/gap-cost.svg").read_text()
    assert svg.rstrip().endswith("</svg>")


def test_a_history_cut_inside_a_number_is_refused_and_the_rest_shown(folder, capsys):
    path = folder / "history.csv"
    path.write_bytes(path.read_bytes()[:-3])
    assert main(["report", str(folder)]) == 1
    assert "history.csv' is damaged" in capsys.readouterr().err
    page = Page((folder / "report.html").read_text())
    assert "history.csv' is damaged" in page.text
    assert page.images


def test_a_history_that_was_changed_is_refused(folder):
    path = folder / "history.csv"
    whole = path.read_bytes()
    place = whole.rindex(b"e-") - 3  # a digit of the last number: still a whole file
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    (fault,) = stored.read(folder).faults
    assert "its checksum is not the one in summary.json" in fault


def test_a_history_without_a_checksum_is_still_read_with_care(folder):
    """Of a summary written before checksums were kept."""
    summary = read_json(folder / "summary.json")
    del summary["checksums"]
    (folder / "summary.json").write_text(to_json(summary))
    path = folder / "history.csv"
    whole = path.read_bytes()
    assert stored.read(folder).faults == ()
    for damaged in (
        whole[:-3],
        whole.replace(b"step,", b"stp,"),
        whole.replace(b",0.", b",x."),
    ):
        path.write_bytes(damaged)
        (fault,) = stored.read(folder).faults
        assert re.search(r"history\.csv' is damaged", fault)


def test_a_damaged_summary_is_named_and_the_figures_still_shown(folder, capsys):
    (folder / "summary.json").write_text('{"schema": 1')
    assert main(["report", str(folder)]) == 1
    assert "summary.json' is damaged" in capsys.readouterr().err
    assert Page((folder / "report.html").read_text()).images


def test_a_damaged_figure_is_named(folder):
    path = folder / "gap-cost.svg"
    path.write_bytes(path.read_bytes()[:500])
    assert "gap-cost.svg is damaged" in Page(report.page([stored.read(folder)])).text


def test_a_newer_layout_is_refused(folder, capsys):
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "schema": 99}))
    for command in ("report", "compare"):
        assert main([command, str(folder)]) == 2
        assert "has schema 99, and this gradlab reads up to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["report"], "name a run folder, for example"),
        (["report", "nowhere"], "there is no folder 'nowhere'"),
        (["report", "."], "is no run folder: it has no summary.json"),
        (["compare", "."], "is no run folder: it has no summary.json"),
        (["compare", ".", "math:sin"], "'math:sin' is no run folder"),
        (["compare", "nowhere"], "'nowhere' is neither a run folder nor the one MODULE:LOSS"),
        (["compare", "math:sin"], "--at is missing"),
        (["compare", "math:sin", "--problem", "square"], "not both"),
        (["compare", ".", "--x", "tim"], "Did you mean 'time'?"),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    with pytest.raises(RuntimeError), runs.record("demo", root=tmp_path) as run:
        raise RuntimeError("the disk is <full>")
    text = Page(report.page([stored.read(run.folder)])).text
    assert "This run failed. RuntimeError: the disk is <full>" in text
    assert f"--resume {run.folder}" in text
