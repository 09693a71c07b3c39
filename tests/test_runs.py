"""Run folders are never shared, never half written, and say what happened."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab import _environment, _files, runs
from gradlab._cli_console import guarded
from gradlab._json import read_json, to_json
from gradlab.result import Status


def _claim_many(root, count):
    return [str(runs.claim(root, "job")) for _ in range(count)]


def test_run_folders_are_numbered_upwards(tmp_path):
    names = [runs.claim(tmp_path, "job").name for _ in range(3)]
    assert names == ["job-1", "job-2", "job-3"]


def test_a_number_is_not_used_again_below_the_largest(tmp_path):
    (tmp_path / "job-7").mkdir()
    (tmp_path / "job-x").mkdir()
    (tmp_path / "other-9").mkdir()
    assert runs.claim(tmp_path, "job").name == "job-8"


def test_processes_that_claim_at_once_get_different_folders(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        claimed = pool.starmap(_claim_many, [(tmp_path, 40)] * 2)
    folders = [folder for part in claimed for folder in part]
    assert len(set(folders)) == 80


def test_a_folder_taken_after_the_look_is_not_shared(tmp_path, monkeypatch):
    """Another process makes job-1 between our look at the folder and our mkdir."""
    (tmp_path / "job-1").mkdir()
    monkeypatch.setattr(runs.Path, "iterdir", lambda self: iter(()))
    assert runs.claim(tmp_path, "job").name == "job-2"


@pytest.mark.parametrize("name", ["", ".", "..", "../evil", "/etc/x", "a/b", "a b", "a\n", "ü"])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"must consist of letters, digits"):
        runs.claim(tmp_path, name)
    with pytest.raises(ValueError, match=r"must consist of letters, digits"):
        runs.RunFolder(tmp_path, {}).path(name)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_a_file_is_told_before_the_run(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    told = r"cannot write to .*: it is not a folder"
    with pytest.raises(runs.UsageError, match=told), runs.record("job", root=file):
        pytest.fail("the run started")


def test_an_output_folder_that_cannot_be_made_is_told_before_the_run():
    told, nowhere = r"cannot write to '/proc/.*--out", "/proc/nowhere"
    with pytest.raises(runs.UsageError, match=told), runs.record("job", root=nowhere):
        pytest.fail("the run started")


def test_the_summary_says_what_ran_where(tmp_path):
    with runs.record("job", root=tmp_path, dtype="float32", seed=3) as run:
        assert jnp.ones(()).dtype == jnp.float32
        assert read_json(run.path("summary.json"))["status"] == "running"
    summary = read_json(run.path("summary.json"))
    assert summary["status"] == "finished"
    assert summary["versions"]["gradlab"] == gradlab.__version__
    assert set(summary["versions"]) == {"gradlab", "jax", "jaxlib", "optax", "numpy", "python"}
    assert summary["dtype"] == "float32"
    assert summary["x64"] is False
    assert summary["seed"] == 3
    assert summary["device"]["count"] >= 1
    assert summary["matmul_precision"] == "default"
    assert summary["seconds"] > 0
    assert summary["start"] <= summary["end"]
    assert {"platform", "git", "command", "schema"} <= set(summary)


@pytest.mark.parametrize(
    ("raised", "status"), [(RuntimeError, "failed"), (KeyboardInterrupt, "interrupted")]
)
def test_a_run_that_breaks_off_says_so_and_still_raises(tmp_path, raised, status):
    with pytest.raises(raised), runs.record("job", root=tmp_path) as run:
        raise raised("why")
    summary = read_json(run.path("summary.json"))
    assert summary["status"] == status
    assert summary["error"] == f"{raised.__name__}: why"


def test_the_dtype_holds_inside_the_run_only(tmp_path):
    assert jnp.ones(()).dtype == jnp.float64
    with runs.record("job", root=tmp_path, dtype="float32"):
        assert jnp.ones(()).dtype == jnp.float32
    assert jnp.ones(()).dtype == jnp.float64


def test_a_kill_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    run = runs.RunFolder(tmp_path, {})
    run.write_json("data.json", {"generation": 1})

    def killed(*_):
        raise KeyboardInterrupt

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(_files.os, function, killed)
            with pytest.raises(KeyboardInterrupt):
                run.write_json("data.json", {"generation": 2})
        assert read_json(run.path("data.json")) == {"generation": 1}
        assert [p.name for p in tmp_path.iterdir()] == ["data.json"]


def test_a_process_killed_while_writing_leaves_a_whole_file(tmp_path):
    """SIGKILL at random moments of a process that rewrites one file over and over."""
    script = (
        "import sys; from pathlib import Path; from gradlab.runs import RunFolder\n"
        "run = RunFolder(Path(sys.argv[1]), {})\n"
        "for k in range(10**6):\n"
        "    run.write_json('data.json', {'k': k, 'filler': [k] * 20000})\n"
        "    print(k, flush=True)\n"
    )
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
        )
        try:
            process.stdout.readline()
            process.stdout.readline()
        finally:
            process.kill()
            process.communicate()
        data = read_json(tmp_path / "data.json")
        assert set(data["filler"]) == {data["k"]}


def test_numbers_that_are_not_finite_survive_the_round_trip(tmp_path):
    value = {"a": [math.nan, math.inf, -math.inf, 0.1], "b": None, "c": True}
    run = runs.RunFolder(tmp_path, {})
    run.write_json("data.json", value)
    text = run.path("data.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = read_json(run.path("data.json"))
    assert math.isnan(back["a"][0])
    assert back["a"][1:] == [math.inf, -math.inf, 0.1]
    assert (back["b"], back["c"]) == (None, True)


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_arrays_and_scalars_become_numbers(make):
    value = {"x": make([1.5, math.nan]), "n": make(3), "t": (make(True), Status.STUCK)}
    assert json.loads(to_json(value)) == {"x": [1.5, "NaN"], "n": 3, "t": [True, 5]}


def test_what_json_cannot_hold_is_named():
    with pytest.raises(TypeError, match=r"value\['a'\]\[1\] is of type complex"):
        to_json({"a": [1, 1j]})
    with pytest.raises(TypeError, match=r"A key of value is 3"):
        to_json({3: "three"})


@pytest.mark.parametrize("text", ['{"a": 1', "NaN", "", '{"a": Infinity}'])
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"data\.json.* is damaged or not JSON"):
        read_json(path)


def _git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_that_of_the_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("1")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "commit", "-qm", "none", "--allow-empty")
    assert _environment.git_state(script) is None  # not tracked: the commit is not its own
    _git(tmp_path, "add", "script.py")
    _git(tmp_path, "commit", "-qm", "one")
    state = _environment.git_state(script)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    script.write_text("2")
    assert _environment.git_state(script)["dirty"] is True


def test_a_machine_without_git_is_fine(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _environment.git_state(__file__) is None


def test_a_missing_extra_takes_one_line(capsys):
    def main():
        raise ImportError('needs scikit-learn: pip install "gradlab-jax[experiments]".')

    assert guarded(main, "gradlab") == 2
    assert capsys.readouterr().err == (
        'gradlab: error: needs scikit-learn: pip install "gradlab-jax[experiments]".\n'
    )


def test_a_fault_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0, "gradlab")
    with pytest.raises(ImportError):
        guarded(lambda: __import__("no_such_module"), "gradlab")


SLEEPING = """
        print('started', flush=True)
        time.sleep(60)
"""
# A call that hears no signal, as a long compilation.
DEAF = """
        import hashlib
        print('started', flush=True)
        hashlib.pbkdf2_hmac('sha256', b'long', b'winded', 10**8)
"""
# Leaving by sys.exit while XLA compiles crashes the interpreter, after seconds.
COMPILING = """
        import jax, jax.numpy as jnp
        def f(x):
            for k in range(150):
                x = jnp.linalg.eigh(x @ x.T + k)[1] if k % 10 == 0 else jnp.sin(x @ x) + k
            return x
        lowered = jax.jit(f).lower(jnp.ones((8, 8)))
        print('started', flush=True)
        lowered.compile()
        time.sleep(60)
"""


@pytest.mark.parametrize("work", [SLEEPING, DEAF, COMPILING])
def test_ctrl_c_ends_a_program_with_130_and_no_traceback(tmp_path, work):
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom gradlab import runs\n"
        "def main():\n    with runs.record('job', root='runs'):" + work + "runs.console(main)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "started\n"
        time.sleep(0.5)  # until the compiler is at work
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == "script.py: interrupted\n"
    assert read_json(tmp_path / "runs/job-1/summary.json")["status"] == "interrupted"
