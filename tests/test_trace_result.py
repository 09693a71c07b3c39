"""What a run leaves behind: rows, clocks, counts, messages, and how it prints."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close

import gradlab as gl
from gradlab.result import Result, Status


def bowl(x):
    return 0.5 * (x[0] ** 2 + 3 * x[1] ** 2) + 1


RATE = 0.1
METHOD = gl.make("gd", learning_rate=RATE)
START = jnp.array([2.0, -1.0])


@pytest.fixture(scope="module")
def result():
    return gl.minimize(bowl, START, METHOD, max_steps=6, trace="params", gtol=0.0)


def test_each_row_describes_its_point_in_closed_form(result):
    k = np.arange(7)
    points = np.stack([2.0 * (1 - RATE) ** k, -((1 - 3 * RATE) ** k)], axis=1)
    grads = points * np.array([[1.0, 3.0]])
    trace = result.trace
    assert_close(trace.params, points)
    assert_close(trace.loss, 0.5 * np.sum(points * grads, axis=1) + 1)
    assert_close(trace.grad_norm, np.max(np.abs(grads), axis=1))
    lengths = RATE * np.linalg.norm(grads, axis=1)
    assert_close(trace.step_norm, np.concatenate([[0.0], lengths[:-1]]))
    np.testing.assert_array_equal(trace.steps, k)
    np.testing.assert_array_equal(trace.nfev, k + 1)
    np.testing.assert_array_equal(trace.ngev, k + 1)
    assert not np.any(trace.nhvp)
    assert not np.any(trace.nhev)


def test_sizes_and_clocks(result):
    trace = result.trace
    assert trace.num_rows == len(trace.loss) == 7
    assert trace.num_params == 2
    assert trace.compile_seconds > 0
    assert trace.seconds[0] == 0
    assert np.all(np.diff(trace.seconds) > 0)


def test_the_cost_in_gradients_is_a_third_one_two_and_two_n():
    zeros = np.zeros(2, np.int32)
    for name, price in {"nfev": 1 / 3, "ngev": 1, "nhvp": 2, "nhev": 2 * 5}.items():
        counts = dict.fromkeys(("nfev", "ngev", "nhvp", "nhev"), zeros) | {name: zeros + 3}
        trace = gl.Trace(
            loss=zeros, grad_norm=zeros, step_norm=zeros, seconds=zeros, **counts,
            num_rows=np.int32(2), num_params=np.int32(5), compile_seconds=np.float64(0),
        )  # fmt: skip
        assert_close(trace.cost, np.full(2, 3 * price))


def test_a_batch_of_traces_has_the_cost_of_each(result):
    batch = jax.tree.map(lambda x: np.stack([x, x]), result.trace)
    assert_close(batch.cost, np.stack([result.trace.cost] * 2))
    np.testing.assert_array_equal(batch.steps, result.trace.steps)
    results = jax.tree.map(lambda x: np.stack([x, x]), result)
    assert_close(results.cost, np.full(2, float(result.cost)))


def test_without_a_trace_the_result_is_the_same(result):
    bare = gl.minimize(bowl, START, METHOD, max_steps=6, trace=None, gtol=0.0)
    assert bare.trace is None
    assert_close(bare.x, result.x, factor=0)
    assert (bare.nfev, bare.ngev, bare.nit) == (result.nfev, result.ngev, result.nit)


def test_scalars_are_traced_without_the_iterates():
    trace = gl.minimize(bowl, START, METHOD, max_steps=3).trace
    assert trace.params is None
    assert trace.loss.shape == (4,)


def test_the_iterates_of_a_tree_are_a_tree_of_iterates():
    def loss(p):
        return bowl(jnp.concatenate([p["a"], p["b"][None]]))

    x0 = {"a": START[:1], "b": START[1], "none": None}
    trace = gl.minimize(loss, x0, METHOD, max_steps=3, trace="params").trace
    assert trace.params["a"].shape == (4, 1)
    assert trace.params["b"].shape == (4,)
    assert trace.params["none"] is None


def test_a_long_run_keeps_every_row_over_many_chunks():
    # More steps than a chunk holds, so rows are fetched several times.
    method = gl.make("gd", learning_rate=1e-4)
    result = gl.minimize(bowl, START, method, max_steps=10_000, gtol=0.0)
    k = np.arange(10_001)
    expected = 0.5 * (4 * (1 - 1e-4) ** (2 * k) + 3 * (1 - 3e-4) ** (2 * k)) + 1
    assert_close(result.trace.loss, expected, factor=1e5)
    np.testing.assert_array_equal(result.trace.nfev, k + 1)


def test_every_status_has_a_message_and_success_is_the_first_four():
    assert [s for s in Status if s <= Status.NOISE_FLOOR] == [
        Status.CONVERGED_GRADIENT, Status.CONVERGED_VALUE, Status.CONVERGED_STEP,
        Status.NOISE_FLOOR,
    ]  # fmt: skip
    empty = Result(*[None] * len(Result._fields))
    messages = set()
    for status in Status:
        one = empty._replace(status=np.int32(status))
        assert one.success == (status <= Status.NOISE_FLOOR)
        assert one.message.startswith(f"{status.name}: ")
        assert one.message.endswith(".")
        messages.add(one.message)
    assert len(messages) == len(Status)
    many = empty._replace(status=np.array([0, 4], np.int32))
    assert list(many.success) == [True, False]
    assert [m.split(":")[0] for m in many.message] == ["CONVERGED_GRADIENT", "MAX_STEPS"]


def test_a_result_prints_how_it_ended_and_what_it_cost(result):
    text = repr(result)
    assert "MAX_STEPS" in text
    assert "7 f, 7 g, 0 Hv, 0 H" in text
    assert "steps=6" in text
    run = jax.jit(jax.vmap(lambda x: gl.minimize(bowl, x, METHOD, max_steps=2)))
    batch = run(jnp.ones((3, 2)))
    assert repr(batch) == "Result(batch of shape (3,))"
    seen = []
    jax.jit(lambda x: seen.append(repr(gl.minimize(bowl, x, METHOD, max_steps=1))))(START)
    assert seen == ["Result(batch of shape ())"]


def test_results_are_pytrees_that_pickle_and_come_back(result):
    leaves, structure = jax.tree.flatten(result)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, Result)
    assert again.success == result.success
    stored = pickle.loads(pickle.dumps(result._replace(state=None)))
    assert_close(stored.x, result.x, factor=0)
    assert stored.message == result.message
