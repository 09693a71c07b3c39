"""What bad input, faults and hard numerics get: an error in the caller's words, or a status."""

import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_close

import gradlab as gl
from gradlab.result import Status

SECOND_ORDER = ("newton", "newton_cg")


def bowl(x):
    return jnp.sum((x - 1) ** 2)


def rosenbrock(x, scale):
    return scale * ((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)


def quadratic(x, matrix, offset):
    return 0.5 * x @ (matrix @ x) + jnp.sum(x) + offset


def logistic(x, features):
    return jnp.mean(jax.nn.softplus(-(features @ x))) + 1e-2 * jnp.sum(x**2)


def barrier(x):
    return jnp.sum(x) - 0.1 * jnp.sum(jnp.log(x)) - 0.05 * jnp.sum(jnp.log(1 - x))


def few(loss, x0=None, method="gd", **options):
    return gl.minimize(loss, jnp.ones(2) if x0 is None else x0, method, max_steps=2, **options)


# --- the loss ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda x: x[:1], "must return a scalar, but returned shape (1,). Take a sum, or [0]"),
        (lambda x: x, "returned shape (2,). Take a mean or a sum; for a vector of residuals "
         "use gradlab.least_squares"),
        (lambda x: None, "must return a scalar, but returned None: is a `return` missing?"),
        (lambda x: 3, "`loss` must return a real floating scalar, but returned int 3"),
        (lambda x: jnp.sum(x).astype(int), "floating scalar, but returned int64 of shape ()"),
        (lambda x: True, "real floating scalar, but returned bool True"),
        (lambda x: jnp.sum(x) + 1j, "floating scalar, but returned complex128 of shape ()"),
        (lambda x: "low", "real floating scalar, but returned str 'low'"),
        (lambda x: (jnp.sum(x), {}), "returned a pair. If it is (value, aux), pass has_aux"),
    ],
)  # fmt: skip
def test_a_loss_that_is_no_real_scalar_is_refused_in_its_own_terms(loss, words):
    with pytest.raises(TypeError) as error:
        few(loss)
    assert words in str(error.value)


def test_has_aux_wants_a_pair_and_says_what_came():
    with pytest.raises(TypeError, match=r"has_aux=True `loss` must return a pair .* float64"):
        few(bowl, has_aux=True)
    with pytest.raises(TypeError, match=r"returned shape \(2,\)"):
        few(lambda x: (x, 1), has_aux=True)


@pytest.mark.parametrize("method", ["gd", "newton"])
def test_the_losss_own_exception_arrives_unwrapped(method):
    class Mine(Exception):
        pass

    mine = Mine("mine")

    def loss(x):
        raise mine

    with pytest.raises(Mine) as error:
        few(loss, method=method)
    assert error.value is mine


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: jnp.sum(x) if x[0] > 0 else -jnp.sum(x),
        lambda x: sum(x[i] for i in range(int(x[0]))),
    ],
    ids=["if", "int"],
)
def test_python_control_flow_on_traced_values_is_answered_with_the_way_out(loss):
    with pytest.raises(
        TypeError, match=r"`loss` uses a traced value.*jnp\.where or jax\.lax\.cond"
    ):
        few(loss)


@pytest.mark.parametrize(
    "loss", [lambda x: np.sum(np.asarray(x) ** 2), lambda x: np.sin(x).sum()]
)
def test_numpy_on_traced_values_is_answered_with_the_way_out(loss):
    with pytest.raises(
        TypeError, match=r"`loss` calls NumPy.*jnp in place of np.*gradlab\.finite"
    ):
        few(loss)


def test_a_loss_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match=r"`loss` must be a function.*got int"):
        few(3)


# --- the parameters ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x0", "kind", "words"),
    [
        ({"layer1": {"w": jnp.arange(3)}}, TypeError,
         "`x0['layer1']['w']` must be floating, got int64. Cast it: "
         "jnp.asarray(x0['layer1']['w'], float)"),
        ([1.0, np.array([True])], TypeError, "`x0[1]` must be floating, got bool. Cast it"),
        (3, TypeError, "`x0` must be floating, got int"),
        ({"z": 1j * jnp.ones(2)}, TypeError,
         "`x0['z']` must be real, got complex128. Optimise its real and imaginary parts"),
        ({"act": "relu"}, TypeError,
         "`x0['act']` must be a floating array, got str 'relu'. Keep settings out"),
        ({"f": object}, TypeError, "`x0['f']` must be a floating array, got type"),
        ({}, ValueError, "`x0` has no leaves"),
        (None, ValueError, "`x0` has no leaves"),
        ({"w": jnp.zeros((0, 3))}, ValueError, "`x0['w']` is empty, shape (0, 3)"),
    ],
)  # fmt: skip
def test_unusable_parameters_are_refused_naming_the_leaf(x0, kind, words):
    with pytest.raises(kind) as error:
        gl.minimize(lambda p: 0.0, x0, "gd")
    assert words in str(error.value)


def test_a_deleted_buffer_is_refused_naming_the_leaf():
    gone = jnp.ones(2) * 2
    gone.delete()
    with pytest.raises(ValueError, match=r"`x0\['w'\]` is a deleted or donated buffer"):
        few(lambda p: bowl(p["w"]), {"w": gone})


def test_none_leaves_python_floats_and_lists_are_parameters():
    def loss(p):
        return (p["a"] - 1) ** 2 + sum(jnp.sum(v**2) for v in p["b"])

    result = gl.minimize(loss, {"a": 3.0, "b": [1.0, np.ones(2)], "c": None}, "newton")
    assert result.success
    assert result.x["c"] is None
    assert_close(result.x, {"a": 1.0, "b": [0.0, np.zeros(2)], "c": None}, scale=1.0)


@pytest.mark.parametrize("method", ["newton", "newton_cg", "lbfgs", "gd"])
def test_leaves_of_mixed_precision_keep_it_and_are_minimised(method):
    def loss(p):
        wide = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(p)]
        return sum(jnp.sum((w - 1) ** 2 + 0.1 * w**4) for w in wide)

    x0 = {
        "a": jnp.zeros(2, jnp.float16),
        "b": jnp.zeros(2, jnp.bfloat16),
        "c": jnp.zeros((), jnp.float32),
        "d": jnp.zeros(3, jnp.float64),
    }
    chosen = gl.make("gd", learning_rate=0.2) if method == "gd" else method
    result = gl.minimize(loss, x0, chosen, max_steps=60)
    assert jax.tree.map(lambda x: x.dtype, result.x) == jax.tree.map(lambda x: x.dtype, x0)
    root = 0.86883672  # of 2 (w - 1) + 0.4 w³
    factors = {"a": 4, "b": 4, "c": 1e4, "d": 4e12}  # the coarse leaves spoil the fine ones
    for name, leaf in result.x.items():
        assert_close(leaf, np.full(leaf.shape, root), factor=factors[name])


@pytest.mark.parametrize("method", SECOND_ORDER)
def test_leaves_of_mixed_precision_end_in_a_success(method):
    def loss(p):
        return sum(jnp.sum((leaf.astype(jnp.float32) - 1.1) ** 2) + 1 for leaf in p)

    x0 = [jnp.zeros(2, jnp.bfloat16), jnp.zeros(2, jnp.float64)]
    result = gl.minimize(loss, x0, method)
    assert result.success, result.message


@pytest.mark.slow
def test_ten_thousand_leaves_run_in_bounded_time_and_come_back_as_they_were():
    x0 = [jnp.full((), float(i % 7)) for i in range(10_000)]

    def loss(p):
        return jnp.sum((jnp.stack(p) - 1) ** 2)

    started = time.process_time()
    result = gl.minimize(loss, x0, gl.make("gd", learning_rate=0.4), max_steps=50)
    assert time.process_time() - started < 200
    assert result.success
    assert len(result.x) == 10_000
    assert_close(result.x[3], 1.0, factor=1e9)


def test_many_leaves_do_not_change_what_a_transformation_sees(monkeypatch):
    # optax.lamb scales each leaf by its own norm, so leaves packed together would differ
    monkeypatch.setattr("gradlab._layout.MANY_LEAVES", 2)
    x0 = [jnp.array([1.0 + i, 2.0]) for i in range(4)]
    transformation = optax.lamb(0.1)

    def loss(p):
        return jnp.sum((jnp.stack(p) - 1) ** 2)

    @jax.jit
    def step(params, state):
        updates, state = transformation.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = x0, transformation.init(x0)
    for _ in range(3):
        params, state = step(params, state)
    result = gl.minimize(loss, x0, transformation, max_steps=3, trace="params")
    assert_close([leaf[-1] for leaf in result.trace.params], params)


@pytest.mark.parametrize("method", ["adam", "newton", "newton_cg"])
def test_leaves_that_travel_as_one_vector_take_the_same_steps(method, monkeypatch):
    x0 = {"w": jnp.array([[1.0, 2.0], [-1.0, 0.5]]), "b": [jnp.zeros(3), jnp.ones(())]}

    def loss(p):
        wide = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(p)])
        return jnp.sum((wide - 1) ** 2) + 0.1 * jnp.sum(wide**4)

    def run():
        seen = []
        result = gl.minimize(
            loss, x0, method, max_steps=4, gtol=1e-14, trace="params", callback=seen.append
        )
        return result, seen[-1]

    apart, _ = run()
    monkeypatch.setattr("gradlab._layout.MANY_LEAVES", 2)
    packed, last = run()
    assert_close(packed.x, apart.x)
    assert_close(packed.trace.params, apart.trace.params)
    assert_close(packed.grad, apart.grad, factor=1e4, scale=1.0)
    assert_close(last.x, apart.x)


def test_weak_types_and_numpy_arrays_do_not_compile_again():
    traces = []

    def loss(x):
        traces.append(1)
        return (x - 1) ** 2

    few(loss, 3.0)
    first = len(traces)
    for x0 in (4.0, jnp.asarray(2.0), np.float64(5.0), np.array(1.5), 3 * jnp.ones(())):
        few(loss, x0)
    assert len(traces) == first


def test_mismatched_shapes_show_the_callers_own_shape_error():
    with pytest.raises(TypeError) as error:
        few(lambda x, y: jnp.sum((x - y) ** 2), args=(jnp.ones(3),))
    first_line = str(error.value).splitlines()[0]
    assert "(2,)" in first_line
    assert "(3,)" in first_line


def test_float64_input_without_x64_is_used_as_float32_with_one_warning():
    code = """if True:
        import warnings
        import numpy as np
        import gradlab as gl
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                x0 = {"a": np.zeros(2), "b": np.zeros(2)}
                loss = lambda p: ((p["a"] - 1) ** 2 + p["b"] ** 2).sum()
                result = gl.minimize(loss, x0, "gd", max_steps=2)
        assert result.x["a"].dtype == np.float32
        [warning] = caught
        print(warning.filename)
        print(warning.message)
    """
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "JAX_ENABLE_X64": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout.splitlines()  # fmt: skip
    assert out[0] == "<string>"  # it points at the caller's line
    assert "is float64, but JAX runs without float64, so it is used as float32" in out[1]
    assert "jax_enable_x64" in out[1]


# --- the numbers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "x0"),
    [
        (bowl, [1.0, jnp.nan]),
        (bowl, [jnp.inf, 1.0]),
        (lambda x: bowl(x) / 0.0, [3.0, 1.0]),
        (lambda x: jnp.log(x[0]) + bowl(x), [-1.0, 1.0]),
    ],
    ids=["nan x0", "inf x0", "inf loss", "nan loss"],
)
@pytest.mark.parametrize("method", ["gd", "newton"])
def test_a_start_without_finite_loss_is_a_status(loss, x0, method):
    result = gl.minimize(loss, jnp.array(x0), method)
    assert result.status == Status.NONFINITE_START
    assert not result.success
    assert result.nit == 0
    assert_close(result.x, np.array(x0)) if np.all(np.isfinite(x0)) else None


def test_a_nan_gradient_of_a_finite_loss_names_the_where_trap():
    def loss(x):
        return jnp.where(x[0] > 5, jnp.sqrt(x[0] - 5), bowl(x))

    result = gl.minimize(loss, jnp.array([3.0, 3.0]), "gd")
    assert result.status == Status.NONFINITE_START
    assert result.fun == 8
    assert "jnp.where hiding a NaN in the branch not taken" in result.message


@pytest.mark.parametrize(
    "method",
    ["newton", "newton_cg", "lbfgs", gl.make("gd", learning_rate=0.15)],
    ids=["newton", "newton_cg", "lbfgs", "gd"],
)
def test_a_step_into_nan_is_shortened_and_the_run_goes_on(method):
    result = gl.minimize(barrier, jnp.array([0.999, 0.5]), method, max_steps=400, gtol=1e-6)
    assert result.success, result.message
    # 1 - 0.1/x + 0.05/(1 - x) = 0, times x (1 - x)
    root = np.roots([-1.0, 1.15, -0.1]).min()
    assert_close(result.x, np.full(2, root), factor=1e12)
    assert np.all(np.isfinite(result.trace.loss[1:]))


def test_a_step_into_nan_does_not_enter_a_methods_memory():
    # Adam's first step, of 0.6 in each variable, leaves the domain.
    method = gl.make("adam", learning_rate=0.6, schedule="exponential", num_steps=300)
    result = gl.minimize(barrier, jnp.array([0.9, 0.5]), method, max_steps=400, gtol=1e-3)
    assert result.success, result.message
    assert result.nfev > result.nit + 1  # it was shortened
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result.state))


@pytest.mark.parametrize("method", SECOND_ORDER)
def test_the_overflow_of_a_trial_step_is_shortened_too(method):
    result = gl.minimize(
        lambda x: jnp.sum(jnp.exp(x) - 2 * x), jnp.array([-20.0, 4.0], jnp.float32), method,
        gtol=1e-6,
    )  # fmt: skip
    assert result.success
    assert_close(result.x, np.full(2, np.log(2.0), np.float32), factor=1e3)


def test_far_too_large_a_learning_rate_has_diverged_and_the_best_point_is_kept():
    result = gl.minimize(
        lambda x: rosenbrock(x, 1.0), jnp.array([-1.2, 1.0]), gl.make("gd", learning_rate=1e3)
    )
    assert result.status == Status.NONFINITE_LOSS
    assert not result.success
    assert "diverged" in result.message
    assert "smaller learning rate" in result.message
    assert_close(result.fun, 24.2)
    assert_close(result.x, np.array([-1.2, 1.0]))


def test_a_run_that_only_climbs_returns_its_best_point():
    # |1 - 0.22·10| > 1: grows by 1.2 a step, finite to the end
    result = gl.minimize(
        lambda x: 5 * jnp.sum(x**2),
        jnp.ones(2),
        gl.make("gd", learning_rate=0.22),
        max_steps=20,
    )
    assert result.status == Status.MAX_STEPS
    assert result.fun == result.trace.loss.min() == 10
    assert_close(result.x, np.ones(2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", SECOND_ORDER)
def test_a_loss_times_any_constant_takes_the_same_steps(method, dtype):
    x0 = jnp.array([-1.2, 1.0], dtype)
    runs = [
        gl.minimize(rosenbrock, x0, method, args=(dtype(scale),), max_steps=12, trace="params")
        for scale in (1, 1e-12, 1e20)
    ]
    for run in runs[1:]:
        assert (run.nit, run.nfev, run.nhvp) == (runs[0].nit, runs[0].nfev, runs[0].nhvp)
        assert_close(run.trace.params, runs[0].trace.params, factor=1e5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", SECOND_ORDER)
def test_a_saddle_times_any_constant_takes_the_same_steps(method, dtype):
    def saddle(x, scale):
        return scale * (jnp.sum(x**4) / 4 - jnp.sum(x**2) / 2 + x[0] * x[1])

    x0 = jnp.array([0.1, 0.3], dtype)
    runs = [
        gl.minimize(saddle, x0, method, args=(dtype(scale),), max_steps=5, trace="params")
        for scale in (1, 1e-12, 1e20)
    ]
    for run in runs[1:]:
        assert_close(run.trace.params, runs[0].trace.params, factor=1e5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("method", "name"),
    [
        *((method, "quadratic") for method in ("newton", "newton_cg", "gd")),
        *((method, "logistic") for method in ("newton", "newton_cg", "lbfgs", "gd")),
    ],
)
def test_a_tolerance_the_dtype_cannot_hold_ends_at_the_noise(method, name, dtype):
    features = np.random.default_rng(0).normal(size=(50, 3)).astype(dtype)
    matrix = np.array([[3, 1, 0], [1, 2, 0.5], [0, 0.5, 1]], dtype)
    loss, args = {
        "quadratic": (quadratic, (matrix, dtype(7.1))),
        "logistic": (logistic, (features,)),
    }[name]
    chosen = gl.make("gd", learning_rate=0.5) if method == "gd" else method
    result = gl.minimize(
        loss, jnp.full(3, 0.3, dtype), chosen, args=args, gtol=1e-30, max_steps=20_000
    )
    # a gradient of exactly zero is the other honest end
    assert result.status in (Status.NOISE_FLOOR, Status.CONVERGED_GRADIENT), result.message
    if result.status == Status.NOISE_FLOOR:
        assert "the noise test stopped it" in result.message
    assert np.max(np.abs(result.grad)) <= 100 * np.finfo(dtype).eps


@pytest.mark.parametrize("method", ["newton", "newton_cg", "gd"])
def test_a_lane_that_goes_nan_leaves_the_others_bit_identical(method):
    def loss(x, c):
        return jnp.sum((x - 1) ** 2) + 0.1 * jnp.sum(x**4) + c * jnp.sqrt(x[0] - 0.2)

    @jax.jit
    @jax.vmap
    def run(x, c):
        return gl.minimize(loss, x, method, args=(c,), max_steps=20)

    starts = jnp.array([[2.0, 1.0], [0.5, 0.3], [3.0, -1.0]])
    healthy = run(starts, jnp.zeros(3))
    ill = run(starts.at[1, 1].set(jnp.nan), jnp.zeros(3))
    assert list(ill.status == Status.NONFINITE_START) == [False, True, False]
    for a, b in zip(jax.tree.leaves(healthy), jax.tree.leaves(ill), strict=True):
        np.testing.assert_array_equal(np.asarray(a)[[0, 2]], np.asarray(b)[[0, 2]])
    diverging = run(starts, jnp.array([0.0, 1e3, 0.0]))
    for a, b in zip(jax.tree.leaves(healthy), jax.tree.leaves(diverging), strict=True):
        np.testing.assert_array_equal(np.asarray(a)[[0, 2]], np.asarray(b)[[0, 2]])
    assert np.all(np.isfinite(diverging.fun))


# --- the arguments ----------------------------------------------------------------------


@pytest.mark.parametrize("rate", [-1, 0, 0.0, float("nan"), float("inf"), np.float32(-0.1)])
def test_a_learning_rate_must_be_positive_and_finite(rate):
    with pytest.raises(ValueError, match="`learning_rate` must be positive and finite, got"):
        gl.make("adam", learning_rate=rate)


@pytest.mark.parametrize("rate", ["fast", None])
def test_a_learning_rate_is_a_number_or_a_schedule(rate):
    with pytest.raises(ValueError, match="`learning_rate` must be"):
        gl.make("adam", learning_rate=rate)


def test_no_steps_return_the_start_with_its_true_loss():
    result = gl.minimize(lambda x: rosenbrock(x, 1.0), jnp.array([-1.2, 1.0]), max_steps=0)
    assert result.status == Status.MAX_STEPS
    assert not result.success
    assert (result.nit, result.nfev, result.ngev) == (0, 1, 1)
    assert_close(result.x, np.array([-1.2, 1.0]))
    assert_close(result.fun, 24.2)
    assert_close(result.grad, np.array([-215.6, -88.0]))
    assert result.trace.loss.shape == (1,)


@pytest.mark.parametrize("steps", [-1, 1.5, "3", True, float("nan"), float("inf")])
def test_max_steps_must_be_a_whole_number(steps):
    with pytest.raises(ValueError, match="`max_steps` must be a whole number ≥ 0, got"):
        gl.minimize(bowl, jnp.ones(2), "gd", max_steps=steps)


def test_max_steps_has_no_upper_limit():
    assert gl.minimize(bowl, jnp.zeros(2), "newton", max_steps=10**12).nit == 1


@pytest.mark.parametrize("value", [-1, float("nan"), "tight", np.ones(2)])
@pytest.mark.parametrize("argument", ["gtol", "ftol", "xtol", "noise", "max_seconds"])
def test_tolerances_must_be_numbers_not_negative(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be a number ≥ 0, got"):
        few(bowl, **{argument: value})


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"`method` must be one of .* got 'adm'.*mean 'adam'\?"
    ):
        few(bowl, method="adm")


def test_a_factory_that_was_not_called_is_answered_with_the_call():
    with pytest.raises(TypeError, match=r"`method` must be a name .*got function\. Call it"):
        few(bowl, method=optax.adam)
    with pytest.raises(TypeError, match=r"`method` must be a name .*got int"):
        few(bowl, method=3)


def test_an_unknown_keyword_is_answered_with_the_nearest():
    with pytest.raises(
        TypeError, match=r"minimize\(\) got an unknown keyword 'gtoll'.*'gtol'\?"
    ):
        few(bowl, gtoll=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loop": "atuo"}, "`loop` must be one of ['auto', 'host', 'single'], got 'atuo'. "
         "Did you mean 'auto'?"),
        ({"trace": "param"}, "`trace` must be one of ['params', 'scalars'], got 'param'. "
         "Did you mean 'params'?"),
    ],
)  # fmt: skip
def test_unknown_choices_are_answered_with_the_nearest(options, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        few(bowl, **options)
    assert words in str(error.value)


def test_arguments_come_in_a_tuple():
    with pytest.raises(TypeError, match=r"`args` must be a tuple, got .*Write \(data,\)"):
        few(bowl, args=jnp.ones(2))


def test_operators_callbacks_and_states_are_checked_before_the_run():
    with pytest.raises(
        TypeError, match=r"`grad` must be an operator like jax\.grad, got int 3"
    ):
        few(bowl, grad=3)
    with pytest.raises(TypeError, match=r"`callback` must be a function.*got int"):
        few(bowl, callback=3)
    other = gl.minimize(bowl, jnp.zeros(2), "gd", max_steps=1).state
    with pytest.raises(ValueError, match=r"`state` must be .*of the same method"):
        few(bowl, method="adam", state=other)


@pytest.mark.parametrize(
    "options", [{"callback": print}, {"max_seconds": 1.0}, {"loop": "host"}], ids=str
)
def test_inside_jit_nothing_can_come_back_to_python(options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=f"{name}.* cannot be used inside jax.jit"):
        jax.jit(lambda x: gl.minimize(bowl, x, "gd", **options).x)(jnp.ones(2))


@pytest.mark.parametrize("method", ["newton_cg", "newton"])
def test_numbers_near_the_largest_of_float32_end_a_run_without_a_warning(method):
    # Sizes and gradients that can be held, though their squares and products cannot.
    def loss(x):
        return 1e-10 * jnp.sum((x / 1e10) ** 2 + jnp.abs(x) ** 3 * 1e-20)

    result = gl.minimize(loss, jnp.full(3, 1e19, jnp.float32), method, max_steps=60)
    assert not np.isnan(result.fun)


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (("mean",), "args[0]"),
        ((1.0, {"kind": "mean"}), "args[1]['kind']"),
        ((np.array(["a", "b"]),), "args[0]"),
        (([jnp.sin],), "args[0][0]"),
    ],
)
def test_arguments_that_cannot_be_traced_are_named(args, name):
    def loss(x, *_):
        return jnp.sum(x**2)

    calls = (
        lambda: gl.minimize(loss, jnp.ones(2), args=args),
        lambda: gl.least_squares(lambda x, *_: x, jnp.ones(2), args=args),
        lambda: gl.compare(loss, "gd", starts=[jnp.ones(2)], args=args),
        lambda: gl.multistart(loss, ["gd"], starts=[jnp.ones(2)], args=args),
    )
    for call in calls:
        with pytest.raises(TypeError) as told:
            call()
        assert str(told.value).startswith(f"`{name}` must be an array or a number")
        assert "close over it" in str(told.value)
    numbers = (
        1,
        2.0,
        True,
        np.float32(1),
        np.ones(2),
        jax.random.key(0),
        None,
        jnp.bfloat16(1),
    )
    assert gl.minimize(loss, jnp.ones(2), args=(*numbers, np.ones(2, jnp.bfloat16))).success


def test_words_in_the_auxiliary_output_are_named():
    def loss(x):
        return jnp.sum(x**2), {"size": x, "said": "hello"}

    with pytest.raises(TypeError, match=r"`aux\['said'\]` must be an array or a number"):
        gl.minimize(loss, jnp.ones(2), has_aux=True)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"bounds": (None, 1.0)}, "None is no bound"),
        ({"bounds": (0.0, None)}, "None is no bound"),
        ({"bounds": (np.inf, np.inf)}, "no finite value"),
        ({"loss": "huber", "loss_scale": np.inf}, "> 0 and finite"),
    ],
)
def test_bounds_and_scales_without_a_finite_value_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        gl.least_squares(lambda x: x - 1, jnp.ones(2), **options)
