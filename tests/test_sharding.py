"""Rows and runs spread over devices: the same counts, the same answers but for rounding."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from gradlab import _distributed, sharding
from gradlab._json import read_json
from gradlab.cli import main

ON_EIGHT = """
import functools, json, sys
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
from jax.sharding import NamedSharding, PartitionSpec as P
import gradlab as gl
from gradlab import _engine as engine, sharding
from gradlab._numbers import Problem
from gradlab.optimizers.method import as_method

rng = np.random.default_rng(0)
X = rng.normal(size=(512, 8))
Y = np.sign(X.sum(1) + rng.normal(size=512))
w = jnp.zeros(8)
told = {}

def loss(w, x, y):
    return jnp.mean(jnp.logaddexp(0, -y * (x @ w))) + 1e-3 * w @ w

def loop(method, x0, args):
    method = as_method(method)
    program = engine.Program(loss, method, None, False, 64, False)
    numbers = dict(method.hyperparams)
    problem = Problem(args, numbers, None, None, None, None, np.int32(50))
    carry = engine.begin(program, problem, x0)
    advance = functools.partial(engine.advance, program)
    return sharding.collectives(advance, problem, carry, np.int32(50))

def pair(method, x0, args, split=loss, data=(X, Y)):
    one = gl.minimize(loss, w, method, args=data, max_steps=25, gtol=1e-8)
    many = gl.minimize(split, x0, method, args=args, max_steps=25, gtol=1e-8)
    counts = [[int(r.nit), int(r.ngev), int(r.nhvp), int(r.status)] for r in (one, many)]
    away = float(np.max(np.abs(np.asarray(one.x) - np.asarray(many.x))))
    return {"counts": counts, "away": away, "spec": str(many.x.sharding.spec)}

split, args = sharding.data_parallel(loss, w, (X, Y))
told["same loss"] = split is loss
told["passes"] = {
    "loss": sharding.collectives(loss, w, *args),
    "gradient": sharding.collectives(jax.value_and_grad(loss), w, *args),
    "product": sharding.collectives(lambda w, *a: gl.hvp(loss, w, w, *a), w, *args),
    "Hessian": sharding.collectives(gl.hessian(loss), w, *args),
}
told["bytes"] = [
    sharding.exchanged_bytes(jax.value_and_grad(loss), w, *args),
    sharding.exchanged_bytes(lambda w, *a: gl.hvp(loss, w, w, *a), w, *args),
    sharding.exchanged_bytes(gl.hessian(loss), w, *args),
]
told["loops"] = {m: loop(m, w, args) for m in ("adam", "lbfgs", "newton_cg")}
told["runs"] = {m: pair(m, w, args) for m in ("adam", "lbfgs", "newton_cg")}

columns = NamedSharding(sharding.mesh(), P(None, "data"))
apart = jax.device_put(X, columns), sharding.replicate(Y)
spread = jax.device_put(w, NamedSharding(sharding.mesh(), P("data")))
told["spread loop"] = loop("newton_cg", spread, apart)
told["spread run"] = pair("newton_cg", spread, apart)

explicit = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
theirs = jax.device_put((X, Y), NamedSharding(explicit, P("rows")))
told["explicit"] = pair("adam", w, sharding.data_parallel(loss, w, theirs)[1])
try:
    gl.minimize(loss, w, "adam", args=theirs)
except Exception as error:
    told["explicit refused"] = str(error)

odd = X[:509], Y[:509]
split, args = sharding.data_parallel(loss, w, odd)
told["padded rows"] = args[1].shape[0]
told["padded"] = pair("newton_cg", w, args, split, odd)

def logs(w, x):  # a row of zeros would make it NaN
    return jnp.sum(jnp.log(jnp.sum(x**2, axis=1)) * w**2)

split, args = sharding.data_parallel(logs, jnp.ones(()), (X[:509],))
told["logs"] = [float(split(2.0, *args)), float(logs(2.0, X[:509]))]
try:
    sharding.data_parallel(lambda w, x: jnp.max(x @ w), w, (X[:509],))
except ValueError as error:
    told["refused"] = str(error)

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **more: compiled.append(more) if "backend_compile" in event else None
)
rates = np.logspace(-3, 0, 61)
from gradlab.compare import tuning
setting = tuning.Setting("loss", loss, (X, Y), None, "runs")
method = gl.make("adam")
start = jnp.asarray(w)
before = len(compiled)
sweep = tuning.tune(setting, "adam", method, start, ("autodiff", None), steps=9, rates=rates)
told["compiled"] = [more.get("fun_name") for more in compiled[before:]].count("jit(lane)")
setting = setting._replace(shard=None)
plain = tuning.tune(setting, "adam", method, start, ("autodiff", None), steps=9, rates=rates)
told["sweep"] = [len(sweep.losses), float(np.max(np.abs(sweep.losses - plain.losses)))]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def on_eight():
    known = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    command = [sys.executable, "-W", "ignore", "-c", ON_EIGHT]
    done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", ["loss", "gradient", "product", "Hessian"])
@pytest.mark.slow
def test_a_pass_through_the_data_is_one_all_reduce(on_eight, what):
    assert on_eight["passes"][what] == {"all-reduce": 1}


@pytest.mark.slow
def test_what_is_exchanged_is_what_the_guide_says(on_eight):
    """Numbers of 8 bytes: n + 1 for a gradient, n for a product, n² for a Hessian; n = 8."""
    assert on_eight["bytes"] == [8 * 9, 8 * 8, 8 * 8 * 8]


@pytest.mark.parametrize(("method", "passes"), [("adam", 1), ("lbfgs", 1), ("newton_cg", 3)])
@pytest.mark.slow
def test_a_methods_loop_exchanges_nothing_but_its_passes(on_eight, method, passes):
    """L-BFGS and Adam evaluate a gradient, Newton-CG a gradient and a product.

    Newton-CG stands another product in the program, for what rounding makes of a gradient;
    it is evaluated at rest only.
    """
    assert on_eight["loops"][method] == {"all-reduce": passes}


@pytest.mark.parametrize("method", ["adam", "lbfgs", "newton_cg"])
@pytest.mark.slow
def test_eight_devices_count_the_same_and_differ_by_rounding(on_eight, method):
    run = on_eight["runs"][method]
    assert run["counts"][0] == run["counts"][1]
    assert run["away"] <= 1e-12


@pytest.mark.slow
def test_rows_that_divide_leave_the_loss_as_it_is(on_eight):
    assert on_eight["same loss"]


@pytest.mark.slow
def test_rows_that_do_not_divide_are_filled_up_at_weight_zero(on_eight):
    assert on_eight["padded rows"] == 512
    assert on_eight["padded"]["counts"][0] == on_eight["padded"]["counts"][1]
    assert on_eight["padded"]["away"] <= 1e-12
    value, expected = on_eight["logs"]
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_a_loss_that_rows_of_weight_zero_would_change_is_refused(on_eight):
    assert "neither a mean nor a sum over rows" in on_eight["refused"]


@pytest.mark.slow
def test_data_on_an_explicit_mesh_is_placed_anew_or_refused_by_jax(on_eight):
    assert on_eight["explicit"]["away"] <= 1e-12
    assert "out_sharding" in on_eight["explicit refused"]


@pytest.mark.slow
def test_parameters_that_are_spread_stay_so(on_eight):
    assert set(on_eight["spread loop"]) == {"all-reduce"}
    assert "data" in on_eight["spread run"]["spec"]
    assert on_eight["spread run"]["counts"][0] == on_eight["spread run"]["counts"][1]
    assert on_eight["spread run"]["away"] <= 1e-12


@pytest.mark.slow
def test_a_sweep_over_devices_compiles_once(on_eight):
    number, away = on_eight["sweep"]
    assert on_eight["compiled"] == 1
    assert number == 61
    assert away <= 1e-12


# Several processes

JOB = """
import os, signal, sys, time
import numpy as np
from gradlab import runs


def main():
    options = runs.parser("job", None).parse_args()
    import jax.numpy as jnp
    import gradlab as gl
    from gradlab import sharding
    event, mine = os.environ.get("EVENT", ""), options.process_id == 1

    def loss(w, x, y):
        return jnp.mean((jnp.tanh(x @ w) - y) ** 2)

    def callback(progress):
        if event and mine and progress.step == 5:
            if event == "raise":
                raise RuntimeError("the cause")
            if event == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if event == "stall":
                time.sleep(60)

    with runs.record("job", root=options.out, options=options) as run:
        x = np.sin(np.arange(120.0)).reshape(40, 3)
        data = x, np.cos(np.arange(40.0))
        start = np.ones(3)
        split, args = sharding.data_parallel(loss, start, data)
        keep = None
        if options.process_id == 0:
            keep = os.path.join(options.out, "kept.npz")
        elif os.path.exists(os.path.join(options.out, "kept.npz")):
            keep = os.path.join(options.out, "kept.npz")
        result = gl.minimize(
            split, sharding.replicate(start), "gd", args=args, max_steps=30, gtol=0.0,
            callback=callback if event else None, checkpoint=keep,
        )
        run.summary["x"] = np.asarray(result.x).tolist()
        run.summary["nit"] = int(result.nit)
        print("x", result.x)


if __name__ == "__main__":
    runs.console(main)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(folder, event="", *extra, program=("job.py",)):
    """Run the job as two processes of two devices; return exit codes, outputs and seconds."""
    (folder / "job.py").write_text(JOB)
    port = free_port()
    env = {
        **os.environ,
        "EVENT": event,
        "JAX_NUM_CPU_DEVICES": "2",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    start = time.monotonic()
    processes = []
    try:
        for number in range(2):
            joined = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2"]
            command = [sys.executable, *program, *joined, "--process-id", str(number), *extra]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            processes.append(subprocess.Popen(command, cwd=folder, env=env, **pipes))
        told = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], told, time.monotonic() - start


def test_two_processes_are_one_run_and_one_writes(tmp_path):
    codes, told, _ = together(tmp_path)
    assert codes == [0, 0], told
    assert "x [" in told[0][0]
    assert "x [" not in told[1][0]  # what Gloo says there is not ours
    assert [path.name for path in (tmp_path / "runs").glob("job*")] == ["job-1"]
    summary = read_json(tmp_path / "runs" / "job-1" / "summary.json")
    assert (summary["status"], summary["nit"]) == ("finished", 30)
    assert summary["device"]["count"] == 4


@pytest.mark.slow
def test_a_lost_peer_ends_the_run_after_saving_and_resume_picks_it_up(tmp_path):
    codes, told, _ = together(tmp_path, "kill")
    assert codes == [3, -signal.SIGKILL], told
    assert "another process is gone" in told[0][1]
    (tmp_path / "runs").mkdir(exist_ok=True)
    first = read_json(tmp_path / "runs" / "job-1" / "summary.json")
    assert first["status"] == "failed"
    assert (tmp_path / "runs" / "kept.npz").exists()
    codes, told, _ = together(tmp_path)
    assert codes == [0, 0], told
    resumed = read_json(tmp_path / "runs" / "job-2" / "summary.json")
    (tmp_path / "runs" / "kept.npz").unlink()
    codes, told, _ = together(tmp_path)
    whole = read_json(tmp_path / "runs" / "job-3" / "summary.json")
    assert (resumed["x"], resumed["nit"]) == (whole["x"], whole["nit"])


def test_a_peer_that_raises_ends_both_and_tells_the_cause(tmp_path):
    codes, told, _ = together(tmp_path, "raise")
    assert codes == [3, 2], told
    assert "RuntimeError: the cause" in told[1][1]
    assert "another process is gone" in told[0][1]


@pytest.mark.slow
def test_a_peer_that_stalls_meets_a_deadline(tmp_path):
    codes, told, seconds = together(tmp_path, "stall", "--stall-seconds", "12")
    assert codes[0] == 3, told
    # The one that waits, or the other, whose own step has not ended either.
    assert "another process stalls" in told[0][1] + told[1][1]
    assert seconds < 55


@pytest.mark.slow
def test_several_processes_run_out_of_time_alike_and_go_on(tmp_path):
    (tmp_path / "own.py").write_text(
        "import jax.numpy as jnp\nimport numpy as np\nparams = jnp.zeros(3)\n"
        "def data(): return np.sin(np.arange(111.)).reshape(37, 3), np.cos(np.arange(37.))\n"
        "def loss(w, x, y): return jnp.mean((jnp.tanh(x @ w) - y) ** 2)\n"
    )
    program = ("-m", "gradlab", "compare")
    what = ("own:loss", "--at", "own:params", "--data", "own:data", "--shard", "data")
    how = ("--methods", "newton_cg,adam", "--x", "cost", "--max-steps", "30")
    late = ("--max-seconds", "0.5")
    codes, told, _ = together(tmp_path, "", *what, *how, *late, program=program)
    assert codes == [0, 0], told
    assert read_json(tmp_path / "runs/compare-1/summary.json")["status"] == "out of time"
    resume = ("--resume", "runs/compare-1")
    codes, told, _ = together(tmp_path, "", *resume, program=program)
    assert codes == [0, 0], told
    summary = read_json(tmp_path / "runs/compare-1/summary.json")
    assert summary["status"] == "finished"
    assert [row["steps"] for row in summary["results"]][1] == 30


def test_a_coordinator_that_is_not_there_is_told():
    with pytest.raises(_distributed.LostPeerError, match=r"nobody answers at 127\.0\.0\.1"):
        sharding.start(f"127.0.0.1:{free_port()}", 2, 1, arrival_seconds=1)


def test_a_port_that_is_taken_is_told(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(_distributed.LostPeerError, match=rf"port {port} cannot be used"):
            sharding.start(f"127.0.0.1:{port}", 2, 0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--coordinator", "here", "--num-processes", "2", "--process-id", "0"], "HOST:PORT"),
        (["--coordinator", "h:1", "--num-processes", "2", "--process-id", "2"], "from 0 to 1"),
        (["--coordinator", "h:1"], "--num-processes and --process-id come together"),
        (["--shard", "row"], "unknown axis 'row'"),
        (["--shard", "data"], "`batch` must hold arrays with one row for each sample"),
    ],
)
def test_what_cannot_be_spread_is_told_in_one_line(
    arguments, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    problem = ["--problem", "rosenbrock", "--methods", "newton"]
    assert main(["compare", *problem, *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_one_device_is_a_mesh_too():
    batch = np.ones((7, 3)), np.float64(2.0)
    split, args = sharding.data_parallel(
        lambda w, x, c: jnp.mean(c * x @ w), jnp.ones(3), batch
    )
    assert float(split(jnp.ones(3), *args)) == 6.0
    tree, number = sharding.spread({"a": np.arange(3.0)})
    assert number == 3
    np.testing.assert_array_equal(tree["a"][:3], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="one leading length"):
        sharding.spread({"a": np.ones(3), "b": np.ones(4)})
    with pytest.raises(ValueError, match=r"lengths \[3, 4\]"):
        sharding.data_parallel(lambda w, a, b: w, 1.0, (np.ones(3), np.ones(4)))


def test_the_guides_example_runs():
    guide = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
    code = re.search(r"```python\n(.*?)```", guide, re.DOTALL).group(1)
    names = {}
    exec(compile(code, "scaling.md", "exec"), names)
    assert names["result"].success
