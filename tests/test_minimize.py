"""`minimize`: the same run in every loop, honest counts, resuming, callbacks, statuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_close, slowly

import gradlab as gl
from gradlab.result import Status

START = jnp.array([-1.2, 1.0])
CONVEX = {"gd": gl.make("gd", learning_rate=0.02), "adam": gl.make("adam", learning_rate=0.1)}
METHODS = {**CONVEX, "lbfgs": "lbfgs", "newton": "newton", "newton_cg": "newton_cg"}
SHORT = {"max_steps": 10, "gtol": 1e-14}
METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def valley(x, steepness):
    return (1 - x[0]) ** 2 + steepness * (x[1] - x[0] ** 2) ** 2 + 0.1 * x[0] ** 4


def bowl(x):
    return 0.5 * ((x[0] - 1) ** 2 + 4 * (x[1] - 1) ** 2) + 3


@functools.cache
def run_of(name, loop="auto", trace="params"):
    """A run of ten steps, made once for all tests that look at it."""
    return gl.minimize(
        valley,
        START,
        METHODS[name],
        args=(2.0,),
        max_steps=10,
        gtol=1e-14,
        loop=loop,
        trace=trace,
    )


def assert_same_run(a, b, factor=50.0):
    """Same answer, counts and history, to a few roundings; clocks aside."""
    for field in ("status", "nit", "nfev", "ngev", "nhev", "nhvp"):
        assert getattr(a, field) == getattr(b, field), field
    rows = int(a.nit) + 1
    assert_close(np.asarray(a.x), np.asarray(b.x), factor=factor)
    assert_close(np.asarray(a.fun), np.asarray(b.fun), factor=factor, scale=1.0)
    for name in ("loss", "grad_norm", "step_norm"):
        first, second = (np.asarray(getattr(r.trace, name))[:rows] for r in (a, b))
        assert_close(first, second, factor=factor)
    for name in ("nfev", "ngev", "nhvp", "nhev"):
        first, second = (np.asarray(getattr(r.trace, name))[:rows] for r in (a, b))
        np.testing.assert_array_equal(first, second)


# --- one run, however it is driven --------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_loop_makes_the_same_run_to_the_bit(name):
    reference = run_of(name)
    for loop in ("host", "single"):
        other = run_of(name, loop)
        np.testing.assert_array_equal(other.trace.params, reference.trace.params)
        assert_same_run(other, reference, factor=0.0)


@pytest.mark.parametrize("name", slowly(*METHODS, quick=("newton_cg",)))
def test_a_run_inside_jit_and_vmap_is_the_run_from_python(name):
    reference = run_of(name)

    def run(x, steepness):
        return gl.minimize(
            valley,
            x,
            METHODS[name],
            args=(steepness,),
            max_steps=10,
            gtol=1e-14,
            trace="params",
        )

    if name in ("gd", "newton"):
        assert_same_run(jax.jit(run)(START, 2.0), reference)
    starts = jnp.stack([START, jnp.array([0.5, 2.0]), START])
    batch = jax.jit(jax.vmap(run))(starts, jnp.array([2.0, 1.0, 2.0]))
    assert batch.trace.loss.shape == (3, 11)
    for lane in (0, 2):
        single = jax.tree.map(lambda leaf, lane=lane: leaf[lane], batch)
        assert_same_run(single, reference, factor=1e3)
    assert list(batch.success[::2]) == [bool(reference.success)] * 2
    assert batch.message.shape == (3,)


def test_under_jit_rows_beyond_the_last_step_hold_nothing_new():
    @jax.jit
    def run(x):
        return gl.minimize(bowl, x, "newton", max_steps=6, trace="params")

    result = run(jnp.zeros(2))
    filled = int(result.trace.num_rows)
    assert filled == result.nit + 1 < 7
    assert np.all(np.isfinite(result.trace.loss[:filled]))
    assert np.all(np.isnan(result.trace.loss[filled:]))
    assert np.all(np.asarray(result.trace.nfev[filled:]) == result.nfev)
    assert np.all(np.isnan(result.trace.seconds))


def test_minimising_inside_a_function_of_traced_data_works():
    @jax.jit
    def centre(c):
        return gl.minimize(lambda x: jnp.sum((x - c) ** 2), jnp.zeros(2), "newton").x

    assert_close(centre(jnp.array([2.0, 3.0])), np.array([2.0, 3.0]))


# --- compiling once -----------------------------------------------------------------------


def test_new_data_starts_limits_and_tolerances_never_trace_the_loss_again():
    traces = []

    def loss(x, c):
        traces.append(1)
        return jnp.sum((x - c) ** 2)

    gl.minimize(loss, jnp.zeros(2), "gd", args=(jnp.ones(2),), max_steps=3, gtol=1e-3)
    first = len(traces)
    for c, steps in ((2.0, 5), (3.0, 7)):
        data = jnp.array([c, c])
        result = gl.minimize(loss, data, "gd", args=(data + 1,), max_steps=steps, gtol=1e-5)
        assert result.nit == steps
    assert len(traces) == first


def test_a_sweep_over_learning_rates_traces_the_loss_once():
    traces = []

    def loss(x):
        traces.append(1)
        return jnp.sum((x - 1) ** 2)

    def run(rate):
        method = gl.make("adam", learning_rate=rate)
        return gl.minimize(loss, jnp.zeros(2), method, max_steps=4).fun

    alone = [run(rate) for rate in (0.1, 0.2, 0.4)]
    first = len(traces)
    assert run(0.1) == alone[0] != run(0.3)
    assert len(traces) == first
    together = jax.jit(jax.vmap(run))(jnp.array([0.1, 0.2, 0.4]))
    assert_close(together, np.array(alone))


def test_new_data_give_new_answers_although_the_code_is_shared():
    data = [np.array([1.0, 2.0]), np.array([-3.0, 0.5])]

    def loss(x, c):
        return jnp.sum((x - c) ** 2)

    for c in data:
        assert_close(gl.minimize(loss, jnp.zeros(2), "newton", args=(c,)).x, c)


# --- counts -------------------------------------------------------------------------------


CALLS = []


def counted(x):
    jax.debug.callback(lambda: CALLS.append(1))
    return valley(x, 50.0)


def backtracking(store_grad):
    search = optax.scale_by_backtracking_linesearch(15, store_grad=store_grad)
    return optax.chain(optax.sgd(1.0), search)


@pytest.mark.parametrize(
    "method",
    [
        gl.make("gd", learning_rate=1e-3),
        "adam",
        "lbfgs",
        gl.make("optax_lbfgs", linesearch=optax.scale_by_backtracking_linesearch(15)),
        backtracking(False),
        backtracking(True),
        "newton",
        "newton_cg",
        gl.make("newton_cg", preconditioner="lbfgs"),
        gl.make("newton_cg", preconditioner="diagonal"),
    ],
    ids=[
        "gd",
        "adam",
        "lbfgs",
        "optax_lbfgs+bt",
        "sgd+bt",
        "sgd+bt+grad",
        "newton",
        "newton_cg",
        "newton_cg+lbfgs",
        "newton_cg+diagonal",
    ],
)
def test_counters_equal_the_calls_really_made(method):
    CALLS.clear()
    result = gl.minimize(counted, START, method, max_steps=7, gtol=1e-13)
    jax.effects_barrier()
    # A forward pass belongs to each loss, to each Hessian, and to each gradient that comes
    # without a loss: those of newton_cg's linearisations.
    extra_gradients = max(int(result.ngev) - int(result.nfev), 0)
    assert len(CALLS) == result.nfev + result.nhev + extra_gradients
    last = {name: getattr(result.trace, name)[-1] for name in ("nfev", "ngev", "nhev", "nhvp")}
    if result.success or result.status == Status.MAX_STEPS:
        for name, count in last.items():
            assert 0 <= getattr(result, name) - count <= 1  # 1: the gradient at a best point
    for name in last:
        assert np.all(np.diff(getattr(result.trace, name)) >= 0)


def slow_python_loss(x):
    """A loss that only differences can differentiate, counting each single evaluation."""

    def on_host(x):
        CALLS.append(1)
        return np.asarray(valley(np.asarray(x), 50.0))

    shape = jax.ShapeDtypeStruct((), jnp.float64)
    return jax.pure_callback(on_host, shape, x, vmap_method="sequential")


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("gd", "forward"),
        ("lbfgs", "central"),
        ("newton", "forward"),
        ("newton", "central"),
        ("newton_cg", "forward"),
        ("newton_cg", "central"),
    ],
)
def test_gradients_by_differences_are_counted_as_the_losses_they_take(name, scheme):
    method = gl.make("gd", learning_rate=1e-3) if name == "gd" else name
    operator = functools.partial(gl.finite.grad, scheme=scheme)
    CALLS.clear()
    result = gl.minimize(
        slow_python_loss, START, method, max_steps=4, gtol=1e-13, grad=operator, loop="single"
    )
    jax.effects_barrier()
    assert (result.ngev, result.nhev, result.nhvp) == (0, 0, 0)
    exact = gl.minimize(lambda x: valley(x, 50.0), START, method, max_steps=4, gtol=1e-13)
    # Forward differences of forward differences keep a quarter of the digits.
    assert_close(result.x, exact.x, factor=1e14)
    # XLA drops what nobody reads: central differences need no loss, nor a gradient, at the
    # point where newton_cg linearises.
    unread = 4 * exact.nit if (name, scheme) == ("newton_cg", "central") else 0
    assert len(CALLS) == result.nfev - unread


def test_the_cost_weighs_what_was_counted():
    result = run_of("newton")
    cost = result.nfev / 3 + result.ngev + 2 * result.nhvp + 2 * 2 * result.nhev
    assert_close(np.asarray(result.cost), np.asarray(cost))
    assert_close(np.asarray(result.trace.cost[-1]), np.asarray(cost))


# --- the answer ---------------------------------------------------------------------------


@METHOD
def test_fun_and_grad_are_those_of_x(method):
    result = gl.minimize(valley, START, method, args=(2.0,), max_steps=10, gtol=1e-14)
    value, grad = jax.value_and_grad(valley)(result.x, 2.0)
    assert_close(result.fun, value, factor=4)
    assert_close(result.grad, grad, factor=1e3, scale=1.0)


def test_a_run_that_is_no_success_returns_the_best_point_it_saw():
    # Heavy momentum overshoots, so the last of these points is not the best.
    method = gl.make("momentum", learning_rate=0.2, momentum=0.95)
    result = gl.minimize(bowl, jnp.zeros(2), method, max_steps=6, trace="params")
    best = int(np.argmin(result.trace.loss))
    assert best < 6
    assert result.fun == result.trace.loss[best]
    np.testing.assert_array_equal(result.x, result.trace.params[best])
    assert_close(result.grad, jax.grad(bowl)(result.x))
    value_there = jax.jit(
        lambda x: gl.minimize(bowl, x, method, max_steps=6)
    )(jnp.zeros(2))  # fmt: skip
    assert_close(value_there.x, result.x)
    assert_close(value_there.grad, result.grad)


@pytest.mark.parametrize("method", ["gd", "newton"])
def test_the_auxiliary_output_is_that_of_the_answer(method):
    def loss(x, c):
        return jnp.sum((x - c) ** 2) + 1, {"doubled": 2 * x, "count": jnp.arange(2)}

    def run(c):
        return gl.minimize(loss, jnp.zeros(2), method, args=(c,), has_aux=True, max_steps=3)

    c = jnp.array([1.0, 2.0])
    result = run(c)
    assert_close(result.aux["doubled"], 2 * result.x)
    assert_close(jax.jit(run)(c).aux["doubled"], 2 * result.x)


@METHOD
def test_parameters_keep_structure_and_dtype(method):
    def loss(p):
        return jnp.sum((p["w"] - 1) ** 2) + (p["b"][0] - 2) ** 2

    for dtype in (jnp.float32, jnp.float64):
        x0 = {"w": jnp.zeros((2, 1), dtype), "b": (jnp.zeros((), dtype), None)}
        result = gl.minimize(loss, x0, method, max_steps=2)
        for tree in (result.x, result.grad):
            assert jax.tree.structure(tree) == jax.tree.structure(x0)
            assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(tree))
        assert result.fun.dtype == dtype
        assert result.trace.loss.dtype == dtype


# --- why it stopped -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"gtol": 1e-3}, Status.CONVERGED_GRADIENT, "the gradient test stopped it"),
        ({"gtol": 0.0, "ftol": 1e-3}, Status.CONVERGED_VALUE, "the value test stopped it"),
        ({"gtol": 0.0, "xtol": 1e-3}, Status.CONVERGED_STEP, "the step test stopped it"),
        ({"gtol": 0.0}, Status.NOISE_FLOOR, "the noise test stopped it"),
        (
            {"gtol": 0.0, "max_steps": 2},
            Status.MAX_STEPS,
            "the step limit max_steps was reached",
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_message_names_the_test_that_stopped_the_run(options, status, words):
    method = gl.make("gd", learning_rate=0.2)
    result = gl.minimize(bowl, jnp.zeros(2), method, **{"max_steps": 1000, **options})
    assert result.status == status, result.message
    assert words in result.message
    assert result.message.startswith(status.name)
    assert result.success == (status <= Status.NOISE_FLOOR)


def test_each_test_means_what_it_says():
    def run(**options):
        return gl.minimize(
            bowl, jnp.zeros(2), gl.make("gd", learning_rate=0.2), gtol=options.pop("gtol", 0.0),
            trace="params", max_steps=1000, **options,
        )  # fmt: skip

    norms = run(gtol=1e-3).trace.grad_norm
    assert norms[-1] <= 1e-3 * norms[0] < norms[-2]
    values = run(ftol=1e-3).trace.loss
    changes = np.abs(np.diff(values)) / values[1:]
    assert changes[-1] <= 1e-3
    assert np.all(changes[:-1] > 1e-3)
    trace = run(xtol=1e-3).trace
    lengths = trace.step_norm[1:] / np.linalg.norm(trace.params[1:], axis=1)
    assert lengths[-1] <= 1e-3
    assert np.all(lengths[:-1] > 1e-3)


@pytest.mark.parametrize("method", ["newton", "newton_cg"])
def test_a_large_constant_added_to_the_loss_hides_nothing_but_digits(method):
    result = gl.minimize(lambda x: valley(x, 2.0) + 1e6, START, method, gtol=1e-10)
    plain = gl.minimize(valley, START, method, args=(2.0,), gtol=1e-10)
    assert result.success, result.message
    assert result.nit <= plain.nit + 2
    assert_close(result.x, plain.x, factor=1e7)


def test_a_given_noise_ends_a_run_that_gains_nothing_above_it():
    # Gradient descent circles in a basin that is rough at the level of 1e-6.
    def rough(x):
        return bowl(x) + 1e-6 * jnp.sum(jnp.sin(3e3 * x))

    method = gl.make("gd", learning_rate=0.3)
    blind = gl.minimize(rough, jnp.zeros(2), method, gtol=0.0, max_steps=2000)
    told = gl.minimize(rough, jnp.zeros(2), method, gtol=0.0, max_steps=2000, noise=1e-5)
    assert told.status == Status.NOISE_FLOOR, told.message
    assert told.nit < 400
    assert not blind.success or blind.nit >= told.nit


@pytest.mark.parametrize("method", ["gd", "newton"])
@pytest.mark.parametrize(
    ("loss", "status"),
    [
        (lambda x: 0 * jnp.sum(x) + 1, Status.FLAT),
        (lambda x: jnp.sum(jnp.floor(x)), Status.FLAT),
        (lambda x: jnp.sum(x**2), Status.CONVERGED_GRADIENT),
    ],
    ids=["constant", "floor", "minimum"],
)
def test_a_start_of_zero_gradient_is_called_what_it_is(loss, status, method):
    x0 = jnp.zeros(2) if status == Status.CONVERGED_GRADIENT else jnp.full(2, 0.5)
    result = gl.minimize(loss, x0, method)
    assert result.status == status, result.message
    assert result.nit == 0


def test_gradient_descent_does_not_call_a_saddle_or_a_maximum_a_minimum():
    for loss in (lambda x: x[0] ** 2 - x[1] ** 2, lambda x: -jnp.sum(x**2)):
        result = gl.minimize(loss, jnp.zeros(2), "gd")
        assert result.status == Status.STATIONARY_NOT_MINIMUM
        assert not result.success


def test_a_loss_that_falls_to_minus_infinity_is_unbounded():
    result = gl.minimize(
        lambda x: -jnp.exp(x[0]), jnp.ones(1), gl.make("gd", learning_rate=1.0)
    )
    assert result.status in (Status.UNBOUNDED, Status.NONFINITE_LOSS)
    assert not result.success


# --- coming back to Python ----------------------------------------------------------------


def test_the_callback_sees_every_step_and_its_true_numbers():
    seen = []
    result = gl.minimize(
        lambda p: bowl(p["x"]), {"x": jnp.zeros(2)}, "gd", max_steps=5, callback=seen.append,
        trace="params",
    )  # fmt: skip
    assert [p.step for p in seen] == [1, 2, 3, 4, 5]
    assert_close([p.fun for p in seen], list(result.trace.loss[1:]))
    for k, progress in enumerate(seen, start=1):
        np.testing.assert_array_equal(progress.x["x"], result.trace.params["x"][k])
        assert_close(progress.grad["x"], jax.grad(bowl)(progress.x["x"]))
    assert np.all(np.diff([p.seconds for p in seen]) > 0)


@pytest.mark.parametrize(
    "answer", [lambda p: p.step == 3, lambda p: p.fun < np.inf and jnp.asarray(p.step) == 3]
)
def test_the_callback_stops_the_run_by_a_true_answer(answer):
    result = gl.minimize(bowl, jnp.zeros(2), "gd", callback=answer, max_steps=20)
    assert result.status == Status.STOPPED_BY_CALLBACK
    assert not result.success
    assert "callback" in result.message
    assert result.nit == 3


def test_the_callback_stops_the_run_by_stop_iteration():
    def callback(progress):
        if progress.step == 2:
            raise StopIteration

    result = gl.minimize(bowl, jnp.zeros(2), "gd", callback=callback)
    assert (result.status, result.nit) == (Status.STOPPED_BY_CALLBACK, 2)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_other_exceptions_of_the_callback_pass_through(error):
    def callback(progress):
        raise error

    with pytest.raises(error):
        gl.minimize(bowl, jnp.zeros(2), "gd", callback=callback)


def test_the_deadline_ends_a_run_and_says_so():
    result = gl.minimize(
        bowl, jnp.zeros(2), gl.make("gd", learning_rate=1e-9), max_seconds=0.3, max_steps=10**9,
        gtol=0.0,
    )  # fmt: skip
    assert result.status == Status.OUT_OF_TIME
    assert not result.success
    assert "max_seconds" in result.message
    assert 0.2 < result.trace.seconds[-1] < 5
    assert len(result.trace.loss) == result.nit + 1


def test_without_a_trace_a_run_takes_as_few_calls():
    # One chunk holds many steps; a run that came back at each would take seconds.
    method = gl.make("gd", learning_rate=1e-9)
    result = gl.minimize(bowl, jnp.zeros(2), method, max_steps=20_000, trace=None, gtol=0.0)
    assert result.trace is None
    timed = gl.minimize(bowl, jnp.zeros(2), method, max_steps=20_000, gtol=0.0)
    assert timed.nit == result.nit
    assert_close(timed.x, result.x)


# --- resuming -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "newton"])
def test_two_halves_are_the_whole_run(name):
    whole = run_of(name)

    def run(x, steps, state=None):
        return gl.minimize(
            valley, x, METHODS[name], args=(2.0,), max_steps=steps, gtol=1e-14, state=state
        )

    first = run(START, 4)
    second = run(first.x, 6, first.state)
    assert_close(first.x, whole.trace.params[4])
    assert_close(second.x, whole.x)
    assert_close(second.trace.loss, whole.trace.loss[4:])


def test_the_resumed_run_takes_the_state_and_not_a_fresh_start():
    fresh = gl.minimize(bowl, jnp.zeros(2), CONVEX["adam"], max_steps=3)
    moved = gl.minimize(bowl, fresh.x, CONVEX["adam"], max_steps=3, state=fresh.state)
    again = gl.minimize(bowl, fresh.x, CONVEX["adam"], max_steps=3)
    assert np.max(np.abs(moved.x - again.x)) > 1e-3


# --- the operators ------------------------------------------------------------------------


def test_a_loss_in_numpy_only_runs_by_differences_through_a_callback():
    result = gl.minimize(slow_python_loss, START, "lbfgs", grad=gl.finite.grad, max_steps=60)
    assert result.success
    assert_close(result.x, gl.minimize(valley, START, "newton", args=(50.0,)).x, factor=1e10)


def test_jax_grad_itself_is_the_default_operator():
    default, named = run_of("newton"), gl.minimize(
        valley, START, "newton", args=(2.0,), max_steps=10, gtol=1e-14, grad=jax.grad
    )  # fmt: skip
    assert_same_run(named, default, factor=0.0)


@pytest.mark.parametrize("method", ["lbfgs", "newton", "newton_cg"])
def test_the_linear_regression_is_the_closed_form(method):
    problem = gl.problems.get("linear")
    features, targets = map(np.asarray, problem.args)
    matrix = np.column_stack([np.ones(len(targets)), features])
    solution = np.linalg.lstsq(matrix, targets, rcond=None)[0]
    result = gl.minimize(problem.loss, problem.init(), method, args=problem.args, gtol=1e-12)
    assert result.success, result.message
    found = np.concatenate([np.atleast_1d(result.x["bias"]), result.x["weights"]])
    assert np.max(np.abs(found - solution)) <= 1e-10 * np.max(np.abs(solution))


@pytest.mark.parametrize("name", ["logistic", pytest.param("softmax", marks=pytest.mark.slow)])
def test_newton_solves_the_convex_regressions_in_at_most_twelve_steps(name):
    problem = gl.problems.get(name)
    result = gl.minimize(problem.loss, problem.init(), "newton", args=problem.args, gtol=1e-10)
    assert result.status == Status.CONVERGED_GRADIENT, result.message
    assert result.nit <= 12
    grad = jax.grad(problem.loss)(result.x, *problem.args)
    first = jax.grad(problem.loss)(problem.init(), *problem.args)
    largest = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(grad))
    start = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(first))
    assert largest <= 1e-10 * max(1.0, start)
    assert_close(result.fun, np.asarray(problem.minimum))


@pytest.mark.parametrize("loss_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("method", ["newton", "newton_cg", "cubic_newton", "lbfgs", "bfgs"])
def test_parameters_of_eight_bits_are_minimised_as_they_are(method, loss_dtype):
    def loss(p):
        return jnp.sum(jnp.cosh(p["w"].astype(loss_dtype) - 0.5))

    result = gl.minimize(loss, {"w": jnp.zeros((3, 2), jnp.bfloat16)}, method)
    assert result.success, result.message
    assert result.x["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(result.x["w"], float), 0.5, rtol=2**-8)
