"""The driver between Python and the compiled loop: nothing compiles twice."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab as gl
from gradlab import _driver, _programs


@pytest.mark.parametrize("method", gl.methods())
def test_chunks_and_later_runs_compile_nothing_anew(method):
    traces = []

    def loss(x):
        traces.append(1)
        return jnp.sum((x - jnp.arange(3.0)) ** 4)

    result = gl.minimize(loss, jnp.ones(3), method, max_steps=40)
    # The start, the loop (three times in newton: its model, its bends, its trials), the
    # gradient at a best point that is not the last; and for a success its certificate.
    # A carry that changed type between calls would make it more.
    assert len(traces) <= (5 + 4 * result.success)
    traces.clear()
    again = gl.minimize(loss, jnp.zeros(3), method, max_steps=30)
    assert len(traces) <= 1 + 4 * (again.success and not result.success)
    assert result.nit <= 40
    assert again.nit <= 30


def looks(monkeypatch, *args, **options):
    """Times that Python looks where a run stands, and its result."""
    made = []
    sync = _driver._sync
    monkeypatch.setattr(_driver, "_sync", lambda carry: (made.append(1), sync(carry))[1])
    result = gl.minimize(*args, **options)
    monkeypatch.undo()
    return len(made), result


def test_a_run_like_one_before_knows_how_long_a_step_takes(monkeypatch):
    rosenbrock, x0 = gl.problems.get("rosenbrock").loss, jnp.array([-1.2, 1.0])

    def loss(x):
        return rosenbrock(x)

    first, before = looks(monkeypatch, loss, x0, "newton_cg")
    assert first >= 3 + 2  # no steps, then one, then at most sixteen
    functions = _programs.compiled(next(reversed(_programs._cache)))
    ((kind, pace),) = functions.paces.items()
    assert pace > 0
    functions.paces[kind] = 1e-5  # as on a machine that is not busy
    again, after = looks(monkeypatch, loss, x0, "newton_cg")
    # Begun, and one call of the loop: a short run takes no more.
    assert again == 3
    np.testing.assert_array_equal(after.x, before.x)
    np.testing.assert_array_equal(after.trace.loss, before.trace.loss)
    steps = []
    gl.minimize(loss, x0, "newton_cg", callback=lambda now: steps.append(now.step))
    assert sorted(set(steps)) == list(range(1, steps[-1] + 1))  # the last may fail once


def test_the_first_call_of_a_known_run_is_cut_at_the_deadline(monkeypatch):
    def loss(x):
        return jnp.sum(x**2)

    options = {"method": gl.make("gd", learning_rate=1e-9), "max_steps": 3000, "gtol": 0.0}
    gl.minimize(loss, jnp.ones(2), **options)
    program = next(reversed(_programs._cache))
    functions = _programs.compiled(program)
    (kind,) = functions.paces
    lengths = []
    first = _driver._first_length
    monkeypatch.setattr(
        _driver, "_first_length", lambda *a: (lengths.append(first(*a)), lengths[-1])[1]
    )
    for pace, deadline, expected in [
        (1e-3, None, 150), (1e-6, None, 256), (1.0, None, 1), (1e-3, 0.02, 20)
    ]:  # fmt: skip
        functions.paces[kind] = pace
        gl.minimize(loss, jnp.ones(2), max_seconds=deadline, **options)
        assert lengths.pop() == expected


def test_methods_on_one_loss_share_its_examination():
    traces = []

    def loss(x):
        traces.append(1)
        return jnp.sum((x - jnp.arange(3.0)) ** 4)

    counts = []
    for method in ("gd", "momentum"):
        traces.clear()
        assert gl.minimize(loss, jnp.ones(3), method, max_steps=2000, gtol=1e-3).success
        counts.append(len(traces))
    assert counts[1] < counts[0]


def test_a_loss_that_cannot_be_looked_up_is_minimised_all_the_same():
    class Unhashable:
        __hash__ = None

        def __call__(self, x):
            return jnp.sum((x - 1) ** 2)

    loss = Unhashable()
    assert gl.minimize(loss, jnp.zeros(2), "newton").success
    assert gl.minimize(loss, jnp.zeros(2), "lbfgs").success


@pytest.mark.slow
def test_a_method_may_close_over_traced_values():
    def loss(x):
        return jnp.sum(x**2)

    def end(rate):
        return gl.minimize(loss, jnp.ones(2), optax.sgd(rate), max_steps=5).x

    # x - rate · 2x, five times.
    rates = np.array([0.1, 0.2, 0.4])
    np.testing.assert_allclose(jax.vmap(end)(rates)[:, 0], (1 - 2 * rates) ** 5)


def test_within_a_trace_nothing_need_be_traced():
    def loss(x):
        return jnp.sum((x - 3.0) ** 2)

    def end(shift):
        return gl.minimize(loss, jnp.ones(2), "newton").x + shift

    gl.minimize(loss, jnp.ones(2), "newton")  # its code is in the cache now
    np.testing.assert_allclose(jax.jit(end)(1.0), 4.0)
    np.testing.assert_allclose(jax.vmap(end)(jnp.ones(2)), 4.0)


def test_a_run_in_a_fresh_process_compiles_three_programs_and_nothing_beside():
    # An operation outside them costs 15 ms of a run that is over in half a second.
    script = """
import jax, numpy as np, gradlab as gl
names = []
def listen(event, *_, **more):
    if "backend_compile" in event:
        names.append(more["fun_name"])

jax.monitoring.register_event_duration_secs_listener(listen)
gl.minimize(lambda x: ((x - 2) ** 4).sum() + (x**2).sum(), np.zeros(3, np.float32))
print(*sorted(names))
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True).split() == [
        "jit(advance)",
        "jit(begin)",
        "jit(glance)",
    ]
