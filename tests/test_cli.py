"""The command line answers at once, in words that say what to write instead."""

import inspect
import os
import subprocess
import sys

import pytest

import gradlab
from gradlab import _cli_names, problems
from gradlab.cli import main
from gradlab.optimizers import methods

START = [sys.executable, "-m", "gradlab"]


def run(capsys, *arguments):
    """Return the exit code and what was printed on either stream."""
    code = main(arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_list_tells_what_the_library_really_has():
    assert list(_cli_names.methods()) == methods()
    assert set(_cli_names.problems()) == set(_shipped_problems())


def _shipped_problems():
    """Names of the problems of the package, without those that other tests registered."""
    code = "import gradlab.problems as p; print(*p.names())"
    return subprocess.check_output([sys.executable, "-c", code], text=True).split()


def test_seeds_are_refused_with_a_loss_of_ones_own(capsys):
    arguments = ("compare", "gradlab:certify", "--at", "gradlab:certify", "--seeds", "2")
    code, _, told = run(capsys, *arguments)
    assert code == 2
    assert "--seeds is for --problem" in told


def test_the_options_of_a_problem_are_those_of_the_library():
    for name, entry in _cli_names.problems().items():
        build = problems.registry._TABLE[name].build
        assert entry.options == tuple(inspect.signature(build).parameters), name


def test_every_experiment_is_listed_with_its_question():
    assert all(entry.summary.endswith("?") for entry in _cli_names.experiments().values())


def test_every_name_comes_with_a_caption():
    for table in (_cli_names.problems(), _cli_names.methods(), _cli_names.experiments()):
        assert all(entry.summary for entry in table.values())


@pytest.mark.parametrize("kind", ["experiments", "problems", "methods"])
def test_list_prints_one_kind(capsys, kind):
    code, out, _ = run(capsys, "list", kind)
    known = getattr(_cli_names, kind)()
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(known)


def test_list_prints_all_kinds(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    for line in ("experiments:", "  convergence", "problems:", "  rosenbrock", "methods:"):
        assert f"\n{line}" in f"\n{out}"


def test_version(capsys):
    assert run(capsys, "--version")[:2] == (0, gradlab.__version__ + "\n")


def test_no_command_shows_the_help_and_fails(capsys):
    code, out, _ = run(capsys)
    assert code == 2
    for command in ("list", "run", "compare"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lst"], "unknown command 'lst'. Did you mean 'list'?"),
        (["--versoin"], "unknown option '--versoin'. Did you mean '--version'?"),
        (["list", "problem"], "unknown kind 'problem'. Did you mean 'problems'?"),
        (["list", "problems", "more"], "unknown argument 'more'."),
        (
            ["run", "convergense"],
            "unknown experiment 'convergense'. Did you mean 'convergence'?",
        ),
        (["run"], "name the experiment first: back"),
        (["run", "--quick", "convergence"], "name the experiment first: back"),
        (["run", "convergence", "--qick"], "unknown option '--qick'. Did you mean '--quick'?"),
        (["run", "convergence", "--dtype", "float46"], "Did you mean 'float64'?"),
        (
            ["run", "convergence", "--seed", "-1"],
            "must be a whole number, at least 0, got '-1'",
        ),
        (
            ["compare", "--problm", "square"],
            "unknown option '--problm'. Did you mean '--problem'?",
        ),
        (["compare"], "--problem is missing, for example: gradlab compare --problem"),
        (["compare", "--problem", "rosenbrok"], "Did you mean 'rosenbrock'?"),
        (
            ["compare", "--problem", "rosenbrock:m=3"],
            "unknown option 'm'. Known: n, start_scale.",
        ),
        (["compare", "--problem", "square:n=3"], "'square' has no options, got 'n=3'."),
        (["compare", "--problem", "square", "--methods", "adm"], "Did you mean 'adam'?"),
        (["compare", "--problem", "square", "--derivatives", "foward"], "mean 'forward'?"),
        (["compare", "--problem", "square", "--max-steps", "0"], "at least 1, got '0'"),
        (
            ["compare", "--problem", "square", "--max-cost", "nan"],
            "a positive number, got 'nan'",
        ),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(capsys, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert told in err
    assert err.startswith("gradlab")
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["list"], 0),
        (["run", "--help"], 0),
        (["run", "convergence", "--help"], 0),
        (["compare", "--help"], 0),
        (["run", "convergnce"], 2),
        (["run", "convergence", "--qick"], 2),
        (["compare", "--problem", "rosenbrok"], 2),
    ],
)
def test_an_answer_needs_no_jax(arguments, code):
    """A process that imported JAX would take ten times as long."""
    script = (
        "import sys; from gradlab.cli import main\n"
        f"code = main({arguments!r})\n"
        "heavy = {'jax', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == code, done.stderr


def test_help_comes_in_half_a_second():
    def seconds():  # of the processor, which a busy machine does not lengthen much
        def spent():
            return os.times().children_user + os.times().children_system

        start = spent()
        subprocess.run([*START, "--help"], check=True, capture_output=True)
        return spent() - start

    assert min(seconds() for _ in range(3)) < 0.5


def test_output_that_is_no_terminal_has_no_control_codes():
    done = subprocess.run([*START, "--help"], check=True, capture_output=True)
    assert b"\x1b" not in done.stdout
    assert b"\r" not in done.stdout


def test_a_reader_that_leaves_early_is_no_error():
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*START, "list"], **pipe) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_an_output_folder_that_is_a_file_is_told_at_once(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    for command in (["run", "convergence", "--quick"], ["compare", "--problem", "square"]):
        code, out, err = run(capsys, *command, "--out", str(file))
        assert code == 2
        assert "it is not a folder. Choose another folder with --out." in err
        assert out == ""
    assert file.read_text() == "kept"


def test_all_experiments_run_and_one_that_fails_leaves_the_others(
    tmp_path, monkeypatch, capsys
):
    scripts = {
        "first": "raise ValueError('broken')",
        "second": "import pathlib; pathlib.Path('done').write_text(' '.join(argv))",
    }
    known = {}
    for name, body in scripts.items():
        path = tmp_path / f"{name}.py"
        path.write_text(f"def main(argv):\n    {body}\n")
        known[name] = _cli_names.Entry(name, "Why?", path)
    monkeypatch.setattr(_cli_names, "experiments", lambda: known)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "run", "all", "--quick")
    assert code == 1
    assert (tmp_path / "done").read_text() == "--quick"
    assert "ValueError: broken" in err
    listed = out.splitlines()[-2:]
    assert [line.split()[0] for line in listed] == ["first", "second"]
    assert [line.split()[-1] for line in listed] == ["failed", "finished"]
