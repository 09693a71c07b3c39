"""A run that is kept goes on bit for bit; a file that is not its own is refused."""

import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab as gl
from gradlab import _cli_progress, _driver, _session, runs
from gradlab import checkpoint as checkpoints
from gradlab._json import read_json, to_json
from gradlab.cli import main


def loss(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["w"]) + params["b"] - y) ** 2)


X = jnp.sin(jnp.arange(60.0)).reshape(20, 3)
Y = jnp.cos(jnp.arange(20.0))
START = {"w": jnp.ones(3), "b": jnp.zeros(())}


def noisy():
    """A stochastic method, its random key in its state."""
    noise = optax.add_noise(0.1, 0.55, key=jax.random.key(3))
    return optax.chain(noise, optax.adam(1e-2))


METHOD = noisy()


def run(steps, keep=None, method=METHOD, start=START, x=X, function=loss, **options):
    options = {"max_steps": steps, "gtol": 0.0, **options}
    return gl.minimize(function, start, method, args=(x, Y), checkpoint=keep, **options)


def assert_same(a, b):
    """Assert that two results are equal to the last bit, but for the clock."""
    for trace in (a.trace, b.trace):
        assert np.all(np.diff(trace.seconds) >= 0)
    clocks = {"seconds": None, "compile_seconds": None}
    a, b = (r._replace(trace=r.trace._replace(**clocks)) for r in (a, b))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


@pytest.fixture(scope="module")
def whole():
    return run(400)


def test_a_run_in_pieces_is_the_run_in_one(whole, tmp_path):
    for steps in (7, 30, 31, 400):
        pieces = run(steps, tmp_path / "run.npz")
        assert int(pieces.nit) == steps
    assert_same(pieces, whole)


def test_a_run_that_had_ended_is_not_run_again(whole, tmp_path, monkeypatch):
    run(400, tmp_path / "run.npz")
    monkeypatch.setattr(_driver, "_next_length", None)
    again = run(400, str(tmp_path / "run.npz"))
    assert_same(again, whole)


@pytest.mark.parametrize("method", ["newton", "optax_lbfgs"])
def test_every_kind_of_method_goes_on(method, tmp_path):
    keep = tmp_path / "run.npz"
    run(2, keep, method, gtol=None)
    assert_same(run(12, keep, method, gtol=None), run(12, None, method, gtol=None))


def test_minibatches_go_on_where_they_were(tmp_path):
    batches = gl.minibatches(6, key=jax.random.key(5))
    method = gl.make("adam", learning_rate=0.01)
    run(4, tmp_path / "run.npz", method, batches=batches)
    pieces = run(9, tmp_path / "run.npz", method, batches=batches)
    assert_same(pieces, run(9, None, method, batches=batches))
    other = gl.minibatches(6, key=jax.random.key(6))
    with pytest.raises(ValueError, match="another problem"):
        run(9, tmp_path / "run.npz", method, batches=other)


def test_iterates_and_callbacks_survive_too(tmp_path):
    seen = []
    options = {"trace": "params", "callback": lambda p: seen.append(p.step)}
    run(5, tmp_path / "run.npz", **options)
    pieces = run(9, tmp_path / "run.npz", **options)
    assert seen == list(range(1, 10))
    assert pieces.trace.params["w"].shape == (10, 3)
    assert_same(pieces, run(9, None, **options))


def test_float32_and_bfloat16_go_on(tmp_path):
    start = {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.zeros((), jnp.float32)}
    method = gl.make("adam", learning_rate=0.1)
    run(3, tmp_path / "run.npz", method, start)
    pieces = run(6, tmp_path / "run.npz", method, start)
    assert pieces.x["w"].dtype == jnp.bfloat16
    assert_same(pieces, run(6, None, method, start))


def test_a_run_stopped_by_time_goes_on(whole, tmp_path):
    keep = tmp_path / "run.npz"
    stopped = run(400, keep, max_seconds=0)
    assert gl.Status(int(stopped.status)) == gl.Status.OUT_OF_TIME
    assert_same(run(400, keep), whole)


def test_ctrl_c_saves_the_run(whole, tmp_path):
    def interrupt(progress):
        if progress.step == 12:
            raise KeyboardInterrupt

    keep = gl.Checkpoint(tmp_path / "run.npz", every=1000)
    with pytest.raises(KeyboardInterrupt):
        run(400, keep, callback=interrupt)
    seen = []
    pieces = run(400, keep, callback=lambda p: seen.append(p.step))
    assert seen[0] == 13
    assert_same(pieces, whole)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"x": X + 1e-9}, "another problem"),
        ({"start": {"w": jnp.zeros(3), "b": jnp.zeros(())}}, "another problem"),
        ({"function": lambda p, x, y: 2 * loss(p, x, y)}, "another program"),
        ({"method": "newton"}, "another program"),
        ({"gtol": 1e-9}, "another problem"),
        ({"ftol": 1e-9}, "another pro"),
    ],
)
def test_another_runs_file_is_refused(change, told, tmp_path):
    keep = tmp_path / "run.npz"
    run(2, keep)
    before = keep.read_bytes()
    with pytest.raises(ValueError, match=rf"does not belong to this run: {told}"):
        run(2, keep, **change)
    assert keep.read_bytes() == before


def test_what_a_loss_closes_over_belongs_to_it(tmp_path):
    def closing_over(data):
        return lambda p, x, y: loss(p, x, y) + jnp.sum(data) * p["b"]

    keep, data = tmp_path / "run.npz", jnp.ones(5000)  # more than is printed in a program
    run(2, keep, function=closing_over(data))
    run(2, keep, function=closing_over(data + 0))
    with pytest.raises(ValueError, match="does not belong to this run: another program"):
        run(2, keep, function=closing_over(data.at[2500].set(2.0)))


def test_another_version_is_refused_by_its_number(tmp_path, monkeypatch):
    run(2, tmp_path / "run.npz")
    monkeypatch.setattr(gl, "__version__", "99.0")
    with pytest.raises(ValueError, match=r"gradlab 0\..* there, 99\.0 here"):
        run(2, tmp_path / "run.npz")


def test_a_newer_layout_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SCHEMA", 7)
    run(2, tmp_path / "run.npz")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"has schema 7, and this gradlab reads up to 1"):
        run(2, tmp_path / "run.npz")


def _flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


def _huge_header(content):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
    header = header.ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    return _rewritten(content, "numbers0000.npy", array)


def _pickled(content):
    target = io.BytesIO()
    np.save(target, np.array([print], dtype=object), allow_pickle=True)
    return _rewritten(content, "numbers0000.npy", target.getvalue())


def _bomb(content):
    return _rewritten(content, "numbers0000.npy", b"\0" * 10**7, zipfile.ZIP_DEFLATED)


def _rewritten(content, name, replacement, compression=zipfile.ZIP_STORED):
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.namelist():
            data = replacement if member == name else old.read(member)
            new.writestr(member, data, compression if member == name else 0)
    return target.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:100],
        lambda content: content[:-10],
        lambda content: b"",
        lambda content: b"not a file of ours",
        lambda content: _rewritten(content, "carry0000.npy", b""),
        _flipped,
        _huge_header,
        _pickled,
        _bomb,
    ],
)
def test_a_damaged_file_is_named_and_kept(damage, tmp_path):
    keep = tmp_path / "run.npz"
    run(3, keep)
    damaged = damage(keep.read_bytes())
    keep.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"run\.npz' is damaged"):
        run(3, keep)
    assert keep.read_bytes() == damaged


def test_a_full_disk_is_told_leaves_no_stump_and_costs_no_run(whole, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gradlab._files.os.fsync", full)
    with pytest.warns(UserWarning, match="cannot be kept: .*No space left on device"):
        assert_same(run(400, tmp_path / "run.npz"), whole)
    assert list(tmp_path.iterdir()) == []


def test_on_a_full_disk_the_result_is_still_printed(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gradlab.runs.RunFolder.save", full)
    code = main(["compare", "--problem", "square", "--methods", "newton"])
    printed = capsys.readouterr()
    assert code == 2
    assert "CONVERGED_GRADIENT" in printed.out
    assert printed.err == "gradlab: error: [Errno 28] No space left on device\n"
    assert _summary(tmp_path / "runs" / "compare-1")["status"] == "failed"


def test_inside_a_transformation_there_is_nothing_to_keep(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint cannot be used inside jax.jit"):
        jax.jit(lambda x: run(3, tmp_path / "run.npz", x=x).x)(X)


def test_every_must_be_positive():
    with pytest.raises(ValueError, match=r"`every` must be a positive number"):
        gl.Checkpoint("run.npz", every=0)


KILLED = """
import sys
from pathlib import Path
import jax
import numpy as np
jax.config.update("jax_enable_x64", True)
import gradlab as gl
sys.path.insert(0, sys.argv[1])
import test_resume as t
folder = Path(sys.argv[2])
keep = gl.Checkpoint(folder / "run.npz", every=0.02)
print("started", flush=True)
result = t.run(int(sys.argv[3]), keep)
trace = {k: np.asarray(v) for k, v in result.trace._asdict().items() if v is not None}
for name in ("seconds", "compile_seconds"):
    del trace[name]
np.savez(folder / "end.npz", **result.x, **trace, status=np.asarray(result.status))
"""


def _killed_and_resumed(folder, steps, kills, seed):
    """Run in processes that are killed at random moments, and return how often and the end."""
    rng = np.random.default_rng(seed)
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(Path(__file__).parent),
        str(folder),
        str(steps),
    ]
    done = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ)
        try:
            assert process.stdout.readline() == b"started\n"
            if done < kills:
                time.sleep(rng.uniform(0.0, 2.0))
                if process.poll() is None:
                    process.kill()
                    done += 1
            process.wait(timeout=120)
        finally:
            process.kill()
            process.stdout.close()
        if (folder / "end.npz").exists():
            return done, (folder / "end.npz").read_bytes()
        assert process.returncode == -signal.SIGKILL


def _survives(tmp_path, steps, kills):
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    done, end = _killed_and_resumed(tmp_path / "killed", steps, kills, seed=kills)
    none, expected = _killed_and_resumed(tmp_path / "whole", steps, 0, seed=0)
    assert (none, done) == (0, kills)
    assert end == expected


@pytest.mark.slow
def test_a_run_killed_twice_ends_where_it_would_have(tmp_path):
    _survives(tmp_path, 300_000, 2)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_where_it_would_have(tmp_path):
    _survives(tmp_path, 2_000_000, 20)


# The command line


LONG = ["--methods", "adam", "--max-steps", "1000000000", "--problem", "rosenbrock:n=200"]
PROGRAM = [sys.executable, "-m", "gradlab"]


def _environment(tmp_path):
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}


def _summary(folder):
    return read_json(folder / "summary.json")


def _wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_a_signal_saves_within_a_second(number, code, tmp_path):
    folder = tmp_path / "runs" / "compare-1"
    command = [*PROGRAM, "compare", "--no-tune", *LONG]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=_environment(tmp_path), **pipes)
    try:
        _wait_for(lambda: (folder / "summary.json").exists())
        time.sleep(6)  # until it runs, or compiles
        start = time.monotonic()
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
        took = time.monotonic() - start
    finally:
        process.kill()
    assert process.returncode == code
    assert took < 3  # a second on a machine that does nothing else
    assert _summary(folder)["status"] == "interrupted"
    assert "interrupted" in told


@pytest.mark.slow
def test_time_ends_a_comparison_and_resume_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ["compare", "--problem", "rosenbrock", "--methods", "newton,adam"]
    settings = ["--max-steps", "20", "--x", "cost"]
    assert main([*short, *settings, "--max-seconds", "1e-9"]) == 0
    printed = capsys.readouterr()
    assert "OutOfTimeError" in printed.out
    assert "go on with --resume runs/compare-1" in printed.err
    folder = tmp_path / "runs" / "compare-1"
    assert _summary(folder)["status"] == "out of time"
    assert main(["compare", "--resume", "runs/compare-1"]) == 0
    once = _summary(folder)
    assert once["status"] == "finished"
    assert len(once["resumed"]) == 1
    history = (folder / "history.csv").read_bytes()
    parts = {path: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()}
    monkeypatch.setattr(_driver, "_next_length", None)  # nothing may run any more
    assert main(["compare", "--resume", "runs/compare-1"]) == 0
    assert (folder / "history.csv").read_bytes() == history
    assert {path: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()} == parts
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["compare-1"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--resume", "nowhere"], "there is no summary.json of a run that can go on"),
        (["--resume", "other", "--problem", "square"], "a run of name 'other', not 'compare'"),
        (
            ["--resume", "single", "--problem", "square"],
            "a run of dtype 'float32', not 'float64'",
        ),
        (["--resume", "newer", "--problem", "square"], "has schema 99"),
        (
            ["--resume", "wood", "--problem", "square"],
            "asked for by `--problem wood --methods bfgs`. Go on with --resume alone",
        ),
    ],
)
def test_what_cannot_go_on_is_told_in_one_line(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, summary in {
        "other": {"schema": 1, "name": "other", "dtype": "float64"},
        "single": {"schema": 1, "name": "compare", "dtype": "float32"},
        "newer": {"schema": 99, "name": "compare", "dtype": "float64"},
        "wood": {
            "schema": 1,
            "name": "compare",
            "dtype": "float64",
            "arguments": ["--problem", "wood", "--methods", "bfgs"],
        },
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(to_json(summary))
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_folder_in_use_is_not_shared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with runs.record("compare", root="runs") as first:
        code = main(["compare", "--problem", "square", "--resume", str(first.folder)])
    assert code == 2
    assert "runs/compare-1' is in use by another process" in capsys.readouterr().err
    assert _summary(first.folder)["status"] == "finished"


def test_a_part_of_another_problem_is_refused(tmp_path):
    session = _session.Session(tmp_path)
    with _session.within(session):
        gl.compare(loss, "newton", starts=[START], args=(X, Y), max_steps=3)
    with (
        _session.within(_session.Session(tmp_path)),
        pytest.raises(ValueError, match="does not belong to this run: another problem"),
    ):
        gl.compare(loss, "newton", starts=[START], args=(X + 1, Y), max_steps=3)


def test_of_equal_parts_each_has_its_own_file(tmp_path):
    session = _session.Session(tmp_path)
    first, second = session.part("a", "b"), session.part("a", "b")
    assert first != second
    assert [first, second] == [_session.Session(tmp_path).part("a", "b"), second]
    assert session.part("../../etc", "/x").parent == tmp_path


def test_a_sweep_is_kept_and_made_again_where_damaged(tmp_path):
    def table(x=X):
        with _session.within(_session.Session(tmp_path)):
            found = gl.compare(loss, "adam", starts=[START], args=(x, Y), max_steps=3)
        return found.sweeps[0]

    made = table()
    kept = table()
    assert kept.chosen == made.chosen
    assert kept.seconds == made.seconds
    np.testing.assert_array_equal(kept.losses, made.losses)
    (path,) = tmp_path.glob("sweep*.json")
    path.write_text(path.read_text()[:50])
    assert table().chosen == made.chosen
    for run_file in tmp_path.glob("*.npz"):
        run_file.unlink()
    assert not np.array_equal(table(X + 1).losses, made.losses)  # of other data, made anew


def test_progress_is_plain_lines_where_there_is_no_terminal(monkeypatch, capsys):
    session = _session.Session(label="adam on bowl")
    show = _cli_progress.progress_of(session)
    monkeypatch.setattr(_cli_progress, "_EVERY", 0.0)
    show((0, 1000, 0.0, 2.0))
    show((500, 1000, 2.0, 1.0))
    show(None)
    told = capsys.readouterr().err.splitlines()
    assert told[1] == (
        "adam on bowl: step 500 of at most 1000, loss 1, 250 steps/s, at most 2 s left"
    )
    assert "\x1b" not in "".join(told)


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    bars = []

    class Bar:
        n = 0

        def __init__(self, **options):
            bars.append(self)
            self.options, self.closed = options, False

        def set_postfix_str(self, text, refresh):
            self.text = text

        def update(self, count):
            self.n += count

        def close(self):
            self.closed = True

    show = _cli_progress._Bar(_session.Session(label="adam"), Bar)
    monkeypatch.setattr(_cli_progress, "_PATIENCE", -1.0)
    show((5, 100, 1.0, 2.0))
    show((9, 100, 2.0, 1.0))
    show(None)
    (bar,) = bars
    assert (bar.n, bar.closed, bar.text) == (9, True, "loss 1")
    assert bar.options["desc"] == "adam"
